import type { Translation } from "@smmuv3/arch-common";
import type { ArchitectureReport, Comparison } from "../compare.ts";
import type { Verdict } from "../features/feature.ts";
import type { FeatureRow } from "../features/matrix.ts";
import type { Benchmark } from "../lab/benchmark.ts";
import { HARDWARE } from "../lab/hardware.ts";
import { barChart, escapeText } from "./svg.ts";
import { CLASSES, flipLines, SECTIONS } from "./table.ts";

/** Everything that the page shows. */
export interface HtmlReport {
  readonly comparison: Comparison;
  readonly features: readonly FeatureRow[];
  readonly benchmark: Benchmark;
}

const STYLE = `
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0; --page: #fff; --bar: #2f6fb4; --good: #cfeecf; --mid: #fdf0c0; --bad: #f6d2cf; --none: #eceff2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b1; --line: #3d444d; --page: #12161c; --bar: #5b9fe3; --good: #1d4d2b; --mid: #57480f; --bad: #5e2723; --none: #242a32; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; } h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, li { max-width: 48rem; } .soft { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; margin: .5rem 0; }
th, td { border: 1px solid var(--line); padding: .25rem .5rem; text-align: right; vertical-align: top; overflow-wrap: break-word; }
th .soft { font-weight: 400; font-size: .92em; } .reasons th:first-child { min-width: 20rem; }
th:first-child, td:first-child, .text td { text-align: left; }
thead th { background: var(--none); min-width: 4.8rem; } tr.section th { background: var(--none); text-align: left; font-weight: 600; }
td.works { background: var(--good); } td.hidden { background: var(--mid); } td.absent { background: var(--bad); } td.na { background: var(--none); }
figure { margin: .8rem 0; } figcaption { font-weight: 600; font-size: .9rem; } svg { width: 100%; max-width: 34rem; height: auto; }
svg text { font-size: 13px; fill: var(--ink); } svg rect { fill: var(--bar); }
details { margin: .2rem 0; } summary { cursor: pointer; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 2rem; }
@media print { body { max-width: none; font-size: 11px; } .wide { overflow: visible; } table { font-size: 8.5px; } th, td { padding: 1px 3px; } thead th { min-width: 0; } tr, figure { break-inside: avoid; } details > * { display: block; } }
`;

const CLASS_ORDER: readonly Translation[] = ["strict", "fq", "identity"];
const WORDS: Readonly<Record<Verdict, string>> = { works: "yes", hidden: "hidden", absent: "no", "n/a": "n/a" };
const count = (value: number): string => value.toLocaleString("en-US", { maximumFractionDigits: 2 });
const cellText = (cell: number | string): string => escapeText(typeof cell === "number" ? count(cell) : cell);
const heading = ({ name, posted }: { readonly name: string; readonly posted: boolean }): string =>
  escapeText(name).replaceAll("/", "/<wbr>") + (posted ? "" : " *");

function table(head: readonly string[], rows: readonly string[], kind = ""): string {
  return [
    `<div class="wide"><table class="${kind}"><thead><tr>${head.map((cell) => `<th scope="col">${cell}</th>`).join("")}</tr></thead>`,
    `<tbody>${rows.join("\n")}</tbody></table></div>`,
  ].join("\n");
}

const row = (first: string, cells: readonly string[]): string => `<tr><th scope="row">${first}</th>${cells.join("")}</tr>`;

/** The tables of one translation class. */
function classTable(reports: readonly ArchitectureReport[]): string {
  const rows = SECTIONS.flatMap(({ title, rows: lines }) => [
    `<tr class="section"><th colspan="${reports.length + 1}">${escapeText(title)}</th></tr>`,
    ...lines.map(({ label, cell }) => row(escapeText(label), reports.map((report) => `<td>${cellText(cell(report))}</td>`))),
  ]);
  return table(["", ...reports.map(heading)], rows);
}

function classSection(translation: Translation, reports: readonly ArchitectureReport[]): string {
  const perCall = reports
    .filter(({ result }) => result.dmaOps > 0)
    .map(({ name, result, simulatedNs }) => ({ label: name, value: simulatedNs / result.dmaOps }));
  const chart = barChart("Simulated ns for each DMA API call", perCall.map((bar) => ({ ...bar, text: count(Math.round(bar.value)) })));
  return `<h2>${escapeText(CLASSES[translation])}</h2>\n${chart}\n${classTable(reports)}`;
}

function trustedBaseCharts(reports: readonly ArchitectureReport[]): string {
  const bars = reports.flatMap(({ name, trustedBase }) =>
    trustedBase === undefined ? [] : [{ label: name, value: Math.max(0, trustedBase.growth.lines), text: count(trustedBase.growth.lines) }],
  );
  const memory = reports.flatMap(({ name, result, trustedBase }) => {
    const kib = Math.round(result.memory.el2Bytes / 1024);
    return trustedBase === undefined ? [] : [{ label: name, value: kib, text: `${count(kib)} KiB` }];
  });
  return `<h2>What EL2 grows by</h2><div class="charts">${barChart("Lines of code", bars)}${barChart("Memory in use after boot", memory)}</div>`;
}

function featureSection(rows: readonly FeatureRow[]): string {
  const names = [...(rows[0]?.cells.keys() ?? [])];
  const lines = rows.map(({ feature, cells }) =>
    row(
      escapeText(feature.title),
      names.map((name) => {
        const { verdict, detail } = cells.get(name)!;
        return `<td class="${verdict === "n/a" ? "na" : verdict}" title="${escapeText(detail)}">${WORDS[verdict]}</td>`;
      }),
    ),
  );
  const evidence = rows.map(
    ({ feature, cells }) =>
      `<details><summary>${escapeText(feature.title)}</summary><ul>${[...cells].map(([name, { detail }]) => `<li><b>${escapeText(name)}</b>: ${escapeText(detail)}</li>`).join("")}</ul></details>`,
  );
  return [
    "<h2>Features</h2>",
    "<p>Each cell is a probe that ran on a booted machine. <b>hidden</b>: the hardware has it and the design withholds it; <b>no</b>: not built, or not working.</p>",
    table(["", ...names.map((name) => escapeText(name).replaceAll("/", "/<wbr>"))], lines),
    "<h3>Evidence</h3>",
    ...evidence,
  ].join("\n");
}

function argumentSection({ arguments: rows, architectures }: Comparison): string {
  if (rows.length === 0) return "";
  const lines = rows.map(({ id, title, metric, values, how }) =>
    row(
      `${id}. ${escapeText(metric)}<br><span class="soft">${escapeText(title)}; ${escapeText(how)}</span>`,
      architectures.map(({ name }) => `<td>${cellText(values[name] ?? "n/a")}</td>`),
    ),
  );
  return `<h2>What settles each argument</h2>\n${table(["", ...architectures.map(heading)], lines, "reasons")}`;
}

function benchmarkSection({ results, published, calibration, hardware, flips }: Benchmark): string {
  const times = (value: number | null): string => (value === null ? "n/a" : value.toFixed(2));
  const parts = published.map(({ case: name, mapRatio, unmapRatio, stockUs, pkvmUs }) => {
    const rows = CLASS_ORDER.flatMap((translation) => results.filter((one) => one.case === name && one.translation === translation))
      .map((one) => {
        const events = ["hypercalls.iommu", "traps.mmio", "commands"].map((key) => (one.map[key]?.total ?? 0) + (one.unmap[key]?.total ?? 0));
        const cells = [one.translation, ...events.map(count), count(Math.round(one.mapNs)), count(Math.round(one.unmapNs)), times(one.mapRatio), times(one.unmapRatio)];
        return row(escapeText(one.variant), cells.map((cell) => `<td>${cell}</td>`));
      });
    const known = (label: string, [map, unmap]: readonly [number, number], ratios: readonly [number, number]): string =>
      row(label, ["", "", "", "", count(map * 1000), count(unmap * 1000), ...ratios.map(times)].map((cell) => `<td>${cell}</td>`));
    rows.push(known("<i>published: stock driver</i>", stockUs, [1, 1]), known("<i>published: pKVM, v2</i>", pkvmUs, [mapRatio, unmapRatio]));
    const title = `${escapeText(name)}${name === calibration ? " (calibration)" : ""}`;
    const turns = flipLines(flips.filter((flip) => flip.case === name)).map((line) => `<li>${escapeText(line)}</li>`);
    return `<h3>${title}</h3>${table(["", "class", "hypercalls", "traps", "commands", "map ns", "unmap ns", "map ×", "unmap ×"], rows)}<ul>${turns.join("")}</ul>`;
  });
  return [
    "<h2>dma_map_benchmark</h2>",
    `<p>${escapeText(HARDWARE[hardware].title)}. The cost of a hypercall and the kernel's own work are taken from the calibration: from the stock driver's row, and from pKVM's map. Everything else is predicted. × is over the stock driver. Stores to page tables, waiting for the hardware and contention cost nothing.</p>`,
    ...parts,
  ].join("\n");
}

/** The whole report as one page that needs nothing else. */
export function htmlReport({ comparison, features, benchmark }: HtmlReport): string {
  const { architectures, workload, trace, ramBytes, streams, profile, hardware, doesNotProbe, flips } = comparison;
  const classes = [...new Set(architectures.map(({ result }) => result.status.translation))];
  const facts = [
    `${count(workload.maps)} maps, ${count(workload.unmaps)} unmaps, ${count(workload.attaches)} attaches of <code>${escapeText(trace)}</code>`,
    `${count(streams.length)} devices, ${count(ramBytes / 2 ** 20)} MiB of RAM, SMMU: ${escapeText(HARDWARE[hardware].title)}, caches: ${profile}`,
    ...doesNotProbe.map(({ name, reason }) => `${escapeText(name)}: ${escapeText(reason)}`),
  ];
  return [
    "<!doctype html>",
    '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
    `<title>SMMUv3 driver architectures on ${escapeText(trace)}</title><style>${STYLE}</style></head><body>`,
    "<h1>SMMUv3 driver architectures, compared</h1>",
    `<ul>${facts.map((line) => `<li>${line}</li>`).join("")}</ul>`,
    `<ul class="soft">${architectures.map((one) => `<li>${heading(one)}: ${escapeText(one.title)}</li>`).join("")}</ul>`,
    '<p class="soft">* reconstructed from a proposal; never posted as code</p>',
    ...classes.map((translation) => classSection(translation, architectures.filter(({ result }) => result.status.translation === translation))),
    `<ul>${flipLines(flips).map((line) => `<li>${escapeText(line)}</li>`).join("")}</ul>`,
    trustedBaseCharts(architectures),
    featureSection(features),
    argumentSection(comparison),
    benchmarkSection(benchmark),
    "</body></html>",
    "",
  ].join("\n");
}
