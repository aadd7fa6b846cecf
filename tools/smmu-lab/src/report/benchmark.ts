import type { Translation } from "@smmuv3/arch-common";
import type { BenchResult, Benchmark } from "../lab/benchmark.ts";
import { HARDWARE } from "../lab/hardware.ts";
import { nest } from "./json.ts";
import { wrap } from "./lines.ts";
import { flipLines } from "./table.ts";

/** Version of the JSON report; keys are public. */
const SCHEMA_VERSION = 1;
const NAME = 22;
const COLUMN = 8;
const TRANSLATIONS: readonly (readonly [Translation, string])[] = [
  ["strict", "strict"],
  ["fq", "flush queue"],
  ["identity", "identity: nothing is mapped"],
];

const count = (value: number): string => (Number.isInteger(value) ? String(value) : value.toFixed(1));
const times = (value: number | null): string => (value === null ? "n/a" : value.toFixed(2));
const calls = ({ map, unmap }: BenchResult, name: string): string => count((map[name]?.total ?? 0) + (unmap[name]?.total ?? 0));
const line = (name: string, cells: readonly string[]): string => `${name.padEnd(NAME)}${cells.map((cell) => cell.padStart(COLUMN)).join("")}`.trimEnd();

function row(result: BenchResult): string {
  const { variant, mapNs, unmapNs, mapRatio, unmapRatio } = result;
  const counts = ["hypercalls.iommu", "traps.mmio", "commands"].map((name) => calls(result, name));
  return line(variant, [...counts, mapNs.toFixed(0), unmapNs.toFixed(0), times(mapRatio), times(unmapRatio)]);
}

/** The benchmark as text within 80 columns. */
export function benchmarkText(benchmark: Benchmark): string {
  const { workload, hardware, calibration, results, published } = benchmark;
  const heading = line("", ["hvcs", "traps", "cmds", "map ns", "unmap", "map x", "unmap x"]);
  return [
    `${workload}, ${HARDWARE[hardware].title}`,
    ...published.flatMap(({ case: name, mapRatio, unmapRatio, stockUs, pkvmUs }) => [
      "",
      `${name}${name === calibration ? " (calibration, of the stock driver and of pKVM's map)" : ""}`,
      heading,
      ...TRANSLATIONS.flatMap(([translation, title]) => {
        const rows = results.filter((one) => one.case === name && one.translation === translation);
        return rows.length === 0 ? [] : [` ${title}`, ...rows.map(row)];
      }),
      line(" published, pKVM v2", ["", "", "", (pkvmUs[0] * 1000).toFixed(0), (pkvmUs[1] * 1000).toFixed(0), times(mapRatio), times(unmapRatio)]),
      line(" published, stock", ["", "", "", (stockUs[0] * 1000).toFixed(0), (stockUs[1] * 1000).toFixed(0), times(1), times(1)]),
      ...flipLines(benchmark.flips.filter((flip) => flip.case === name)).flatMap((text) => wrap(" ", text)),
    ]),
    "",
    ...benchmark.doesNotProbe.flatMap(({ name, reason }) => wrap(`${name}: `, reason)),
    "hvcs, traps, cmds   of one map and one unmap",
    "x                   over the stock driver's; of counts times costs: stores to",
    "                    page tables, waiting and contention cost nothing",
  ].join("\n");
}

/** The benchmark as a JSON value; `schema/benchmark.schema.json` describes it. */
export function benchmarkJson(benchmark: Benchmark): unknown {
  return {
    schemaVersion: SCHEMA_VERSION,
    ...benchmark,
    results: benchmark.results.map(({ map, unmap, ...rest }) => ({ ...rest, map: nest(map), unmap: nest(unmap) })),
  };
}
