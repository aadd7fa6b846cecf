import { DMA_DIRECTION } from "@smmuv3/arch-common";
import type { Translation } from "@smmuv3/arch-common";
import type { CounterReading, Counters } from "@smmuv3/platform";
import { Lab } from "../features/lab.ts";
import { simulatedTime } from "./costs.ts";
import type { CostTable } from "./costs.ts";
import { flips } from "./flips.ts";
import type { Flip } from "./flips.ts";
import { HARDWARE } from "./hardware.ts";
import type { HardwareName } from "./hardware.ts";
import { loadVariant } from "./variants.ts";
import type { Variant } from "./variants.ts";

/** Workloads that need no trace. */
export const WORKLOADS = ["dma_map_benchmark"] as const;
export type WorkloadName = (typeof WORKLOADS)[number];

type Counts = Readonly<Record<string, CounterReading>>;

/** One setting of the kernel's `dma_map_benchmark`. */
export interface BenchCase {
  readonly name: string;
  /** Bytes of a mapping. */
  readonly bytes: number;
  /** Threads: each has one mapping at a time; their calls take turns. */
  readonly threads: number;
}

const CASES: readonly BenchCase[] = [
  { name: "4K, 1 thread", bytes: 4096, threads: 1 },
  { name: "4K, 4 threads", bytes: 4096, threads: 4 },
  { name: "1M, 1 thread", bytes: 1 << 20, threads: 1 },
  { name: "1M, 4 threads", bytes: 1 << 20, threads: 4 },
];

/**
 * What the cover letter of the posted paravirtual series (v2) printed: us for a map and an unmap, of the stock driver and of pKVM, on
 * four cores without range invalidation.
 */
const PUBLISHED: Readonly<Record<string, { readonly stock: readonly [number, number]; readonly pkvm: readonly [number, number] }>> = {
  "4K, 1 thread": { stock: [0.1, 0.7], pkvm: [0.3, 1.3] },
  "4K, 4 threads": { stock: [0.1, 1.1], pkvm: [0.5, 3.3] },
  "1M, 1 thread": { stock: [0.8, 21.5], pkvm: [2.6, 27.3] },
  "1M, 4 threads": { stock: [1.1, 45.7], pkvm: [3.6, 46.2] },
};

/** The row from which the costs are taken; the others are predictions. */
export const CALIBRATION = "4K, 1 thread";
/** Designs that the published numbers are of. */
const STOCK = "native";
const PARAVIRTUAL = "three-driver/paging";
const ROUNDS = 32;
const NS = 1000;

/** Costs of a case for one design. */
export interface BenchResult {
  readonly variant: string;
  readonly translation: Translation;
  readonly case: string;
  /** Events of one map, and of one unmap: means. */
  readonly map: Counts;
  readonly unmap: Counts;
  readonly mapNs: number;
  readonly unmapNs: number;
  /** Over those of the stock driver; null where that was not measured. */
  readonly mapRatio: number | null;
  readonly unmapRatio: number | null;
}

export interface Benchmark {
  readonly workload: WorkloadName;
  readonly hardware: HardwareName;
  readonly calibration: string;
  /** The table that was given, and what calibration made of it. */
  readonly costs: CostTable;
  /** ns that a map and an unmap cost besides: the kernel's own work. */
  readonly own: { readonly mapNs: number; readonly unmapNs: number };
  readonly results: readonly BenchResult[];
  readonly published: readonly {
    readonly case: string;
    readonly mapRatio: number;
    readonly unmapRatio: number;
    readonly stockUs: readonly [number, number];
    readonly pkvmUs: readonly [number, number];
  }[];
  readonly flips: readonly (Flip & { readonly case: string })[];
  readonly doesNotProbe: readonly { readonly name: string; readonly reason: string }[];
}

interface Raw {
  readonly variant: string;
  readonly translation: Translation;
  readonly case: BenchCase;
  readonly map: Counts;
  readonly unmap: Counts;
}

/** Sums of what happened in `add`ed pieces of work, divided by their number. */
class Meter {
  readonly #counters: Counters;
  readonly #sum: Float64Array;
  #pieces = 0;

  constructor(counters: Counters) {
    this.#counters = counters;
    this.#sum = new Float64Array(counters.values.length);
  }

  add(work: () => void): void {
    const before = this.#counters.values.slice();
    work();
    const { values } = this.#counters;
    for (let i = 0; i < values.length; i++) this.#sum[i]! += values[i]! - before[i]!;
    this.#pieces++;
  }

  get mean(): Counts {
    const out: Record<string, CounterReading> = {};
    for (const name of this.#counters.names()) {
      const id = this.#counters.id(name);
      const at = (level: number): number => this.#sum[id + level]! / this.#pieces;
      const [el1, el2, device] = [at(0), at(1), at(2)];
      if (el1 + el2 + device > 0) out[name] = { el1, el2, device, total: el1 + el2 + device };
    }
    return out;
  }
}

/** Each thread maps its buffer and unmaps it again, over and over; the calls of the threads take turns. */
function runCase(lab: Lab, hardware: HardwareName, bench: BenchCase): Omit<Raw, "variant"> {
  const rig = lab.boot({ hardware: HARDWARE[hardware] });
  const { port } = rig;
  const { bidirectional } = DMA_DIRECTION;
  const buffers = Array.from({ length: bench.threads }, () => port.allocPages(bench.bytes));
  const map = new Meter(rig.board.counters);
  const unmap = new Meter(rig.board.counters);
  // Once without measuring: the first tables are made.
  for (let round = -1; round < ROUNDS; round++) {
    const dma: number[] = [];
    for (const [thread, pa] of buffers.entries()) {
      const work = (): void => void (dma[thread] = port.dmaMap(0, pa, bench.bytes, bidirectional));
      if (round < 0) work();
      else map.add(work);
    }
    for (const address of dma) {
      const work = (): void => void port.dmaUnmap(0, address, bench.bytes, bidirectional);
      if (round < 0) work();
      else unmap.add(work);
    }
  }
  return { translation: port.status.translation, case: bench, map: map.mean, unmap: unmap.mean };
}

const total = (counts: Counts, name: string): number => counts[name]?.total ?? 0;

/**
 * Costs that make the calibration row come out as published: the kernel's own work from the stock driver, a hypercall from what the
 * paravirtual one takes more. Everything else is the table's.
 */
function calibrate(raw: readonly Raw[], costs: CostTable): Pick<Benchmark, "costs" | "own"> {
  const of = (variant: string): Raw | undefined => raw.find((one) => one.variant === variant && one.case.name === CALIBRATION);
  const published = PUBLISHED[CALIBRATION]!;
  const stock = of(STOCK);
  const pkvm = of(PARAVIRTUAL);
  const perCall = stock === undefined || pkvm === undefined ? 0 : total(pkvm.map, "hypercalls.iommu");
  if (stock === undefined || pkvm === undefined || perCall === 0) return { costs, own: { mapNs: 0, unmapNs: 0 } };
  const mapNs = published.stock[0] * NS - simulatedTime(stock.map, costs);
  const unmapNs = published.stock[1] * NS - simulatedTime(stock.unmap, costs);
  const without = { ...costs, "hypercalls.iommu": 0 };
  const hypercall = (published.pkvm[0] * NS - mapNs - simulatedTime(pkvm.map, without)) / perCall;
  const factor = hypercall / costs["hypercalls.iommu"]!;
  const calibrated = { ...costs, "hypercalls.iommu": hypercall, "traps.mmio": costs["traps.mmio"]! * factor };
  return { costs: calibrated, own: { mapNs, unmapNs } };
}

export interface BenchmarkOptions {
  readonly workload: WorkloadName;
  readonly variants: readonly Variant[];
  readonly costs: CostTable;
  /** Default: without range invalidation, as the published numbers were taken. */
  readonly hardware?: HardwareName;
  readonly onProgress?: (variant: string, done: number, total: number) => void;
}

/** Runs the workload on each variant. */
export async function benchmark({ workload, variants, costs, hardware = "no-ril", onProgress }: BenchmarkOptions): Promise<Benchmark> {
  const raw: Raw[] = [];
  const doesNotProbe: { name: string; reason: string }[] = [];
  for (const variant of variants) {
    const lab = new Lab(await loadVariant(variant));
    const refusal = lab.bootWhole({ hardware: HARDWARE[hardware] });
    if ("verdict" in refusal) {
      doesNotProbe.push({ name: variant.name, reason: refusal.detail });
      continue;
    }
    for (const [done, bench] of CASES.entries()) {
      onProgress?.(variant.name, done, CASES.length);
      raw.push({ variant: variant.name, ...runCase(lab, hardware, bench) });
    }
  }
  const calibrated = calibrate(raw, costs);
  const { own } = calibrated;
  const time = (counts: Counts, base: number): number => base + simulatedTime(counts, calibrated.costs);
  const mapNs = (one: Raw): number => time(one.map, own.mapNs);
  const unmapNs = (one: Raw): number => time(one.unmap, own.unmapNs);
  const ratio = (one: Raw, of: (raw: Raw) => number): number | null => {
    const stock = raw.find((other) => other.variant === STOCK && other.case === one.case);
    return stock === undefined || of(stock) === 0 ? null : of(one) / of(stock);
  };
  return {
    ...{ workload, hardware, calibration: CALIBRATION, ...calibrated, doesNotProbe },
    results: raw.map((one) => ({
      variant: one.variant,
      translation: one.translation,
      case: one.case.name,
      map: one.map,
      unmap: one.unmap,
      mapNs: mapNs(one),
      unmapNs: unmapNs(one),
      mapRatio: ratio(one, mapNs),
      unmapRatio: ratio(one, unmapNs),
    })),
    published: CASES.map(({ name }) => {
      const { stock, pkvm } = PUBLISHED[name]!;
      return { case: name, mapRatio: pkvm[0] / stock[0], unmapRatio: pkvm[1] / stock[1], stockUs: stock, pkvmUs: pkvm };
    }),
    flips: CASES.flatMap((bench) =>
      flips(
        raw.filter((one) => one.case === bench).map((one) => ({ name: one.variant, translation: one.translation, counts: sum(one.map, one.unmap) })),
        calibrated.costs,
      ).map((flip) => ({ case: bench.name, ...flip })),
    ),
  };
}

function sum(a: Counts, b: Counts): Counts {
  const zero: CounterReading = { el1: 0, el2: 0, device: 0, total: 0 };
  return Object.fromEntries(
    [...new Set([...Object.keys(a), ...Object.keys(b)])].map((name) => {
      const [x, y] = [a[name] ?? zero, b[name] ?? zero];
      return [name, { el1: x.el1 + y.el1, el2: x.el2 + y.el2, device: x.device + y.device, total: x.total + y.total }];
    }),
  );
}
