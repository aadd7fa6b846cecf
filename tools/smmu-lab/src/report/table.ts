import Table from "cli-table3";
import type { Translation } from "@smmuv3/arch-common";
import type { ArchitectureReport, Comparison } from "../compare.ts";
import type { Flip } from "../lab/flips.ts";
import { HARDWARE } from "../lab/hardware.ts";
import { wrap } from "./lines.ts";

const NOT_APPLICABLE = "n/a";
/** Columns of text that a table may take. */
const WIDTH = 80;
const LABEL_WIDTH = 27;
const WIDEST_COLUMN = 18;
const MIB = 2 ** 20;

/** Columns side by side at most: with more, numbers would not be told apart. */
const MOST_COLUMNS = 5;

/** A number is cut to its leading digits where the column is too narrow for all. */
export type Cell = number | string;

/** One row: a label and a cell for each architecture. */
export interface Row {
  readonly label: string;
  readonly cell: (report: ArchitectureReport) => Cell;
}

const count = (value: number): string => value.toLocaleString("en-US");
const compact = (value: number): string => value.toLocaleString("en-US", { notation: "compact", maximumFractionDigits: 1 });
const kib = (bytes: number): number => Math.round(bytes / 1024);

const replayCount = ({ result }: ArchitectureReport, name: string): number => result.counters.replay[name]?.total ?? 0;

function replayed(name: string): Row["cell"] {
  return (report) => replayCount(report, name);
}

function perCall(report: ArchitectureReport, value: number, digits: number): string {
  const { dmaOps } = report.result;
  const fixed = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return dmaOps === 0 ? NOT_APPLICABLE : (value / dmaOps).toLocaleString("en-US", fixed);
}

function countPerCall(name: string): Row["cell"] {
  return (report) => perCall(report, replayCount(report, name), 2);
}

function hitRate(report: ArchitectureReport): string {
  const hits = replayCount(report, "tlb.hits");
  const all = hits + replayCount(report, "tlb.misses");
  return all === 0 ? NOT_APPLICABLE : `${((100 * hits) / all).toFixed(1)} %`;
}

const isolation =
  (key: "pagesTaken" | "reachableBefore" | "dmaBlocked" | "dmaLeaked" | "donationsRefused"): Row["cell"] =>
  ({ result }) =>
    result.isolation?.[key] ?? NOT_APPLICABLE;

const growth =
  (key: "lines" | "statements" | "minifiedBytes"): Row["cell"] =>
  ({ trustedBase }) =>
    trustedBase?.growth[key] ?? NOT_APPLICABLE;

/** Counts of the faults that the harness provokes: after unmaps, and at pages that were taken. */
function provoked(name: string): Row["cell"] {
  return ({ result: { counters } }) => (counters.check[name]?.total ?? 0) + (counters.isolation[name]?.total ?? 0);
}

/** What is compared, section by section. */
export const SECTIONS: readonly { readonly title: string; readonly rows: readonly Row[] }[] = [
  {
    title: "COST OF THE REPLAY, WITHOUT BOOT AND CHECKS",
    rows: [
      { label: "DMA API calls", cell: ({ result }) => result.dmaOps },
      { label: "page-table maps", cell: replayed("dma.pgtableMaps") },
      { label: "page-table unmaps", cell: replayed("dma.pgtableUnmaps") },
      { label: "IOMMU hypercalls", cell: replayed("hypercalls.iommu") },
      { label: "MMIO traps to EL2", cell: replayed("traps.mmio") },
      { label: "MMIO accesses / call", cell: countPerCall("mmio") },
      { label: "SMMU commands / call", cell: countPerCall("commands") },
      { label: "walk reads / call", cell: countPerCall("walkReads") },
      { label: "TLB hit rate", cell: hitRate },
      { label: "simulated ns / call", cell: (report) => perCall(report, report.simulatedNs, 0) },
    ],
  },
  {
    title: "FAULT EVENTS THAT CHECKS AND PROBES CAUSE",
    rows: [
      { label: "event hypercalls", cell: provoked("hypercalls.events") },
      { label: "event-queue traps", cell: provoked("traps.events") },
    ],
  },
  {
    title: "DMA CHECKS",
    rows: [
      { label: "right data", cell: ({ result }) => result.dma.ok },
      {
        label: "refused after unmap",
        cell: ({ result }) => (result.status.translation === "strict" ? result.dma.faulted : NOT_APPLICABLE),
      },
      { label: "wrong", cell: ({ result }) => result.dma.wrong },
    ],
  },
  {
    title: "ISOLATION OF A PROTECTED VM",
    rows: [
      { label: "pages taken from host", cell: isolation("pagesTaken") },
      { label: "reachable just before", cell: isolation("reachableBefore") },
      { label: "DMA probes blocked", cell: isolation("dmaBlocked") },
      { label: "DMA probes leaked", cell: isolation("dmaLeaked") },
      { label: "refused while mapped", cell: isolation("donationsRefused") },
    ],
  },
  {
    title: "MEMORY IN USE AFTER BOOT, KiB",
    rows: [
      { label: "kernel (EL1)", cell: ({ result }) => kib(result.memory.el1Bytes) },
      {
        label: "hypervisor (EL2)",
        cell: ({ result, trustedBase }) => (trustedBase === undefined ? NOT_APPLICABLE : kib(result.memory.el2Bytes)),
      },
    ],
  },
  {
    title: "EL2 CODE THAT IOMMU SUPPORT ADDS",
    rows: [
      { label: "lines", cell: growth("lines") },
      { label: "statements", cell: growth("statements") },
      { label: "minified bytes", cell: growth("minifiedBytes") },
    ],
  },
];

/** What each translation class means. */
export const CLASSES: Readonly<Record<Translation, string>> = {
  strict: "strict: the host maps each DMA, and unmapping invalidates at once",
  fq: "fq: the host maps each DMA, and a flush queue invalidates later",
  identity: "identity: DMA addresses of the host are physical ones; it maps nothing",
};

const LEGEND = [
  "call            one call of the DMA API: a map or an unmap",
  "MMIO accesses   of the SMMU's registers, by the kernel and by EL2",
  "walk reads      translation-table descriptors that the SMMU fetches",
  "simulated ns    the counts times the cost table (--costs)",
  "DMA probes      reads and writes, by every device, of each taken page",
];

/** Breaks a name where it is too long for its column: at a hyphen or slash, else anywhere. */
function heading({ name, posted }: ArchitectureReport, width: number): string {
  const text = posted ? name : `${name} *`;
  if (text.length <= width) return text;
  const parts = text.split(/(?<=[-/])/);
  return parts.flatMap((part) => part.match(new RegExp(`.{1,${width}}`, "g")) ?? []).join("\n");
}

function table(reports: readonly ArchitectureReport[]): string {
  // A border on each side of every column; a blank on each side of a text.
  const column = Math.min(WIDEST_COLUMN, Math.floor((WIDTH - LABEL_WIDTH - 2 - reports.length) / reports.length));
  const width = column - 2;
  const show = (cell: Cell): string => {
    if (typeof cell === "string") return cell;
    const full = count(cell);
    return full.length <= width ? full : compact(cell);
  };
  const grid = new Table({
    head: ["", ...reports.map((report) => heading(report, width))],
    colWidths: [LABEL_WIDTH, ...reports.map(() => column)],
    colAligns: ["left", ...reports.map(() => "right" as const)],
    style: { head: [], border: [], compact: true },
  });
  for (const { title, rows } of SECTIONS) {
    grid.push([{ colSpan: reports.length + 1, content: title }]);
    for (const { label, cell } of rows) grid.push([`  ${label}`, ...reports.map((report) => show(cell(report)))]);
  }
  return grid.toString();
}

/** Reports in rows of nearly the same length. */
function inColumns(reports: readonly ArchitectureReport[]): (readonly ArchitectureReport[])[] {
  const length = Math.ceil(reports.length / Math.ceil(reports.length / MOST_COLUMNS));
  return Array.from({ length: Math.ceil(reports.length / length) }, (_, i) => reports.slice(i * length, (i + 1) * length));
}

/** How dear traps must be, or how cheap, for two designs to change places. */
export function flipLines(flips: readonly Flip[]): string[] {
  return flips.map(({ cheaper, other, ratio, now }) => {
    const side = ratio !== null && ratio < now ? "more" : "less";
    const where =
      ratio === null ? "whatever a trap costs" : `as long as a trap costs ${side} than ${ratio.toFixed(2)} hypercalls (now ${now.toFixed(2)})`;
    return `${cheaper} is cheaper than ${other} ${where}`;
  });
}

function fact(label: string, value: string): string {
  const room = WIDTH - 10;
  return `${label.padEnd(10)}${value.length <= room ? value : `${value.slice(0, room - 1)}…`}`;
}

function summary({ trace, workload, streams, ramBytes, profile, hardware }: Comparison): string[] {
  const skipped = Object.entries(workload.skipped);
  return [
    fact("trace", trace),
    fact("replayed", `${count(workload.maps)} maps, ${count(workload.unmaps)} unmaps, ${count(workload.attaches)} attaches`),
    ...(skipped.length === 0 ? [fact("skipped", "no map")] : []),
    ...skipped.map(([reason, maps], index) => fact(index === 0 ? "skipped" : "", `${count(maps)} maps: ${reason}`)),
    fact("machine", `${count(streams.length)} devices, ${count(ramBytes / MIB)} MiB of RAM, SMMU caches: ${profile}`),
    fact("SMMU", HARDWARE[hardware].title),
  ];
}

/** The comparison as text: one table for each translation class, within 80 columns. */
export function comparisonTables(comparison: Comparison): string {
  const { architectures } = comparison;
  const classes = [...new Set(architectures.map(({ result }) => result.status.translation))];
  return [
    ...summary(comparison),
    ...classes.flatMap((translation) => [
      "",
      CLASSES[translation],
      ...inColumns(architectures.filter(({ result }) => result.status.translation === translation)).map(table),
    ]),
    "",
    ...comparison.doesNotProbe.flatMap(({ name, reason }) => wrap(`${name}: `, reason)),
    ...flipLines(comparison.flips).flatMap((line) => wrap("", line)),
    "",
    ...LEGEND,
    ...(architectures.some(({ posted }) => !posted) ? ["*               reconstructed from a proposal; never posted as code"] : []),
  ].join("\n");
}
