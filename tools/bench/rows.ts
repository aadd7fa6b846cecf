// Samples of benches and the table that is printed of them.
import { gateOf } from "./gates.ts";

/** ns per operation, bytes per operation, or how many times as much the largest case costs as the smallest. */
export type Unit = "ns" | "B" | "x";

export interface Figures {
  readonly minimum: number;
  readonly median: number;
  readonly samples: number;
}

/** One line of the table, and one element of `rows` in the JSON. */
export interface Row {
  readonly bench: string;
  readonly unit: Unit;
  readonly native: Figures | undefined;
  readonly js: Figures | undefined;
  /** Which figure is compared. */
  readonly by: "minimum" | "median";
  /** That figure of js by that of native. */
  readonly ratio: number | undefined;
  readonly gate: number | undefined;
  readonly goal: number | undefined;
  readonly verdict: "ok" | "over" | "-";
}

/** impl -> samples, by bench, in the order in which benches first appear. */
export type Samples = Map<string, Map<string, number[]>>;

/** Adds lines `impl<TAB>bench<TAB>figure`. Blank lines and lines that begin with `#` are skipped; throws on any other. */
export function collect(samples: Samples, text: string, source: string): void {
  for (const line of text.split("\n")) {
    if (line.trim() === "" || line.startsWith("#")) continue;
    const [impl, bench, figure, ...rest] = line.split("\t");
    const value = Number(figure);
    if (impl === undefined || bench === undefined || figure === undefined || rest.length > 0 || !Number.isFinite(value)) {
      throw new Error(`${source}: expected impl<TAB>bench<TAB>figure, got ${JSON.stringify(line.slice(0, 80))}`);
    }
    const impls = samples.get(bench) ?? new Map<string, number[]>();
    samples.set(bench, impls);
    impls.set(impl, [...(impls.get(impl) ?? []), value]);
  }
}

function figuresOf(values: readonly number[] | undefined): Figures | undefined {
  if (values === undefined) return undefined;
  const sorted = values.toSorted((a, b) => a - b);
  return { minimum: sorted[0]!, median: sorted[sorted.length >> 1]!, samples: sorted.length };
}

/**
 * Rows whose working set is about as large as the last-level cache: a minimum is the run in which it happened to stay there, which the
 * native baseline, with less of its own, has more often. Their medians are compared.
 */
const BY_MEDIAN = /^hw\.(xlat\.(nested|64kstr)|growth\.)/u;

function makeRow(bench: string, unit: Unit, native: Figures | undefined, js: Figures | undefined): Row {
  const limits = gateOf(bench);
  const by = BY_MEDIAN.test(bench) ? "median" : "minimum";
  const ratio = native === undefined || js === undefined ? undefined : js[by] / native[by];
  // Less than a hundredth of a byte per operation is the measurement.
  const measured = unit === "B" ? (js === undefined ? undefined : Math.round(js.minimum * 100) / 100) : ratio;
  const verdict = limits === undefined || measured === undefined ? "-" : measured > limits.gate ? "over" : "ok";
  return { bench, unit, native, js, by, ratio, gate: limits?.gate, goal: limits?.goal, verdict };
}

/** How many times as much `last` costs as `first`. */
function growthOf(samples: Samples, impl: string, first: string, last: string): Figures | undefined {
  const [from, to] = [figuresOf(samples.get(first)?.get(impl)), figuresOf(samples.get(last)?.get(impl))];
  if (from === undefined || to === undefined) return undefined;
  return { minimum: to.minimum / from.minimum, median: to.median / from.median, samples: Math.min(from.samples, to.samples) };
}

const GROWTH = [
  ["hw.growth.streams", "hw.growth.streams.1", "hw.growth.streams.64k"],
  ["hw.growth.bytes", "hw.growth.bytes.1G", "hw.growth.bytes.1T"],
] as const;

/** The rows of the samples, and those that are computed of several. */
export function rowsOf(samples: Samples): readonly Row[] {
  const rows = [...samples].map(([bench, impls]) => {
    const unit = bench.startsWith("hw.garbage.") ? "B" : "ns";
    return makeRow(bench, unit, figuresOf(impls.get("native")), figuresOf(impls.get("js")));
  });
  for (const [bench, first, last] of GROWTH) {
    const [native, js] = ["native", "js"].map((impl) => growthOf(samples, impl, first, last));
    if (js !== undefined) rows.push(makeRow(bench, "x", native, js));
  }
  return rows;
}

function figure(value: number | undefined, unit: Unit): string {
  if (value === undefined) return "-";
  const digits = unit === "B" ? value.toFixed(2) : value >= 1000 ? value.toFixed(0) : value >= 100 ? value.toFixed(1) : value.toFixed(2);
  return unit === "x" ? `${digits}x` : digits;
}

/** Lines of at most 80 columns: minima, ratio, gate and goal. */
export function renderRows(rows: readonly Row[]): readonly string[] {
  const line = (bench: string, cells: readonly string[]): string =>
    (bench.padEnd(28) + cells.map((cell, i) => cell.padStart([10, 10, 9, 9, 6, 8][i]!)).join("")).trimEnd();
  const limit = (value: number | undefined, unit: Unit): string =>
    value === undefined ? "" : unit === "B" ? `${value} B` : `${value.toFixed(2)}x`;
  return [
    line("minimum (~ median); ns", ["native", "js", "ratio", "gate", "", "goal"]),
    ...rows.map(({ bench, unit, native, js, by, ratio, gate, goal, verdict }) =>
      line(`${by === "median" ? "~ " : ""}${bench}${unit === "B" ? ", bytes" : ""}`, [
        figure(native?.[by], unit), figure(js?.[by], unit), ratio === undefined ? "-" : `${ratio.toFixed(2)}x`,
        limit(gate, unit), verdict === "-" ? "" : verdict, limit(goal, unit),
      ])),
  ];
}

/** Geometric means of the ratios, by the first part of the name. */
export function renderMeans(rows: readonly Row[]): readonly string[] {
  const groups = new Map<string, number[]>();
  for (const { bench, ratio, unit } of rows) {
    if (ratio === undefined || unit !== "ns") continue;
    const group = bench.split(".")[0]!;
    groups.set(group, [...(groups.get(group) ?? []), Math.log(ratio)]);
  }
  return [...groups].map(([group, logarithms]) => {
    const mean = Math.exp(logarithms.reduce((sum, value) => sum + value, 0) / logarithms.length);
    return `${group}: geometric mean of ${logarithms.length} ratios ${mean.toFixed(2)}x`;
  });
}
