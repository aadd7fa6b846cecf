// Replays operation sequences that a kernel's own io-pgtable-arm.c went through, and lists every difference.
import { ARM_32_LPAE_S1, ARM_32_LPAE_S2, ARM_64_LPAE_S1, ARM_64_LPAE_S2, ARM_MALI_LPAE } from "@smmuv3/io-pgtable-arm-common";
import type { IoPgtable, IoPgtableConfig, TableFormat } from "@smmuv3/io-pgtable-arm-common";
import { Memory } from "@smmuv3/platform";

export type Invalidation =
  | [kind: "walk", iova: string, size: string, granule: string]
  | [kind: "page", iova: string, granule: string];

export interface MapOp {
  readonly op: "map";
  readonly iova: string;
  readonly pa: string;
  readonly size: string;
  readonly count: number;
  readonly prot: number;
  readonly tlb: Invalidation[];
  readonly ret: number;
  readonly mapped: string;
}

export interface UnmapOp {
  readonly op: "unmap";
  readonly iova: string;
  readonly size: string;
  readonly count: number;
  readonly tlb: Invalidation[];
  readonly ret: string;
}

export interface LookupOp {
  readonly op: "i2p";
  readonly iova: string;
  readonly ret: string;
}

export type Operation = MapOp | UnmapOp | LookupOp;
export type TreeRow = readonly [path: string, kind: "T" | "L", descriptor: string];

/** One line of a file. */
export interface Configuration {
  readonly fmt: string;
  readonly pgsizes: string;
  readonly ias: number;
  readonly oas: number;
  readonly coherent: number;
  readonly quirks: number;
  readonly tcr?: Record<string, number>;
  readonly mair?: string;
  readonly vtcr?: Record<string, number>;
  readonly start: number;
  readonly pgdBytes: number;
  readonly ops: readonly Operation[];
  readonly tree: readonly TreeRow[];
  readonly leaves: number;
  readonly tables: number;
}

/**
 * What Linux changed after 6.12, by name. A difference that none of these explains is an error.
 *
 * `concatenation`: first tables of stage 2 are concatenated in other cases, so the same leaves are one level higher or lower.
 * `split`: unmapping part of a block made a table of what is left. What follows works on other tables and is not compared.
 * `no access`: mapping without READ and WRITE did nothing and returned 0.
 */
export type Rule = "concatenation" | "split" | "no access";
export const RULES: readonly Rule[] = ["concatenation", "split", "no access"];

export interface Verdict {
  /** Differences that no rule explains. */
  readonly differences: readonly string[];
  /** Rules that explained one. */
  readonly used: readonly Rule[];
}

const FORMATS: Readonly<Record<string, TableFormat>> = {
  "64_S1": ARM_64_LPAE_S1,
  "64_S2": ARM_64_LPAE_S2,
  "32_S1": ARM_32_LPAE_S1,
  "32_S2": ARM_32_LPAE_S2,
  MALI: ARM_MALI_LPAE,
};
const RAM = 0x4000_0000;
const RAM_BYTES = 8 << 20;
const GARBAGE = 0x5a5a5a5a;
const ADDRESS = 0x0000_ffff_ffff_f000n;
const EINVAL = -22;

const hexOf = (value: number | bigint): string => `0x${BigInt.asUintN(64, BigInt(value)).toString(16)}`;
/** Signed, so that addresses of the upper half are exact. */
const toNumber = (hex: string): number => Number(BigInt.asIntN(64, BigInt(hex)));

/** How the tables under test are built. */
export type Build = (format: TableFormat, cfg: IoPgtableConfig) => IoPgtable;

/** Tables in RAM full of garbage, never reused, so that a stale pointer cannot go unnoticed. */
class Bench {
  readonly memory: Memory = Memory.allocate({ base: RAM, size: RAM_BYTES, shared: true });
  readonly live = new Map<number, number>();
  readonly table: IoPgtable;
  invalidations: Invalidation[] = [];
  #next = RAM;

  constructor(cfg: Configuration, build: Build) {
    this.memory.words.fill(GARBAGE);
    const format = FORMATS[cfg.fmt];
    if (format === undefined) throw new RangeError(`fmt must be one of ${Object.keys(FORMATS).join(", ")}, got ${cfg.fmt}`);
    this.table = build(format, {
      memory: this.memory,
      pgsizeBitmap: Number(cfg.pgsizes),
      ias: cfg.ias,
      oas: cfg.oas,
      coherentWalk: cfg.coherent === 1,
      quirks: cfg.quirks,
      tlb: {
        flushAll() {},
        flushWalk: (iova, size, granule) => {
          this.invalidations.push(["walk", hexOf(iova), hexOf(size), hexOf(granule)]);
        },
        addPage: (_gather, iova, granule) => {
          this.invalidations.push(["page", hexOf(iova), hexOf(granule)]);
        },
      },
      alloc: (bytes) => {
        const pa = Math.ceil(this.#next / bytes) * bytes;
        this.#next = pa + bytes;
        if (this.#next > RAM + RAM_BYTES) throw new RangeError(`RAM_BYTES must hold every table of a configuration, got ${RAM_BYTES}`);
        this.live.set(pa, bytes);
        return pa;
      },
      free: (pa, bytes) => {
        if (this.live.get(pa) !== bytes) throw new Error(`free of 0x${pa.toString(16)} (${bytes}), which is not allocated`);
        this.live.delete(pa);
        this.memory.fill(pa, bytes, GARBAGE);
      },
    });
  }

  /** The operation with this package's results. */
  run(op: Operation): Operation {
    const { table } = this;
    this.invalidations = [];
    const iova = toNumber(op.iova);
    switch (op.op) {
      case "map": {
        const ret = table.mapPages(iova, toNumber(op.pa), Number(op.size), op.count, op.prot);
        return { ...op, ret, mapped: hexOf(table.mapped), tlb: this.invalidations };
      }
      case "unmap": {
        const ret = hexOf(table.unmapPages(iova, Number(op.size), op.count, { queued: false }));
        return { ...op, ret, tlb: this.invalidations };
      }
      case "i2p":
        return { ...op, ret: hexOf(table.iovaToPhys(iova)) };
    }
  }

  /** Tables as the recording has them, read from memory and not through the code under test. */
  tree(): TreeRow[] {
    const entries = this.table.granule / 8;
    const pageType = this.table.fmt === "MALI" ? 1n : 3n;
    const rows: TreeRow[] = [];
    const visit = (table: number, count: number, level: number, path: string): void => {
      for (let i = 0; i < count; i++) {
        const lo = BigInt(this.memory.load32(table + i * 8) >>> 0);
        const descriptor = lo | (BigInt(this.memory.load32(table + i * 8 + 4) >>> 0) << 32n);
        if (descriptor === 0n) continue;
        const at = path === "" ? String(i) : `${path}.${i}`;
        if ((descriptor & 3n) === (level < 3 ? 1n : pageType)) rows.push([at, "L", hexOf(descriptor)]);
        else {
          rows.push([at, "T", hexOf(descriptor & ~ADDRESS)]);
          visit(Number(descriptor & ADDRESS), entries, level + 1, at);
        }
      }
    };
    visit(this.table.pgd, this.table.pgdBytes / 8, this.table.startLevel, "");
    return rows;
  }
}

/** Rows of tables that start at `start`, as if they started one level below: the first tables side by side. */
function concatenate(rows: readonly TreeRow[], entries: number): TreeRow[] {
  return rows
    .filter(([path]) => path.includes("."))
    .map(([path, kind, descriptor]) => {
      const [first, second, ...rest] = path.split(".");
      return [[String(Number(first) * entries + Number(second)), ...rest].join("."), kind, descriptor];
    });
}

/** Replays one configuration. */
export function replay(cfg: Configuration, build: Build, rules: readonly Rule[] = RULES): Verdict {
  const bench = new Bench(cfg, build);
  const { table } = bench;
  const differences: string[] = [];
  const used = new Set<Rule>();
  const excuse = (rule: Rule, applies: boolean): boolean => {
    if (!applies || !rules.includes(rule)) return false;
    used.add(rule);
    return true;
  };
  const same = (what: string, got: unknown, recorded: unknown): void => {
    const [a, b] = [JSON.stringify(got), JSON.stringify(recorded)];
    if (a !== b) differences.push(`${what}: got ${a}, recorded ${b}`);
  };

  const moved = cfg.vtcr !== undefined && Math.abs(table.startLevel - cfg.start) === 1;
  const concatenated = excuse("concatenation", moved);
  if (!concatenated) same("first table", [table.startLevel, table.pgdBytes], [cfg.start, cfg.pgdBytes]);
  if (cfg.tcr !== undefined) {
    same("TCR", table.tcr, cfg.tcr);
    // The recording sign-extends MAIR's low word.
    same("MAIR", hexOf(table.mair.lo), cfg.mair);
  }
  if (cfg.vtcr !== undefined) {
    same("VTCR", { ...table.vtcr, sl: 0 }, { ...cfg.vtcr, sl: 0 });
    if (!concatenated) same("VTCR.SL0", table.vtcr.sl, cfg.vtcr["sl"]);
  }

  let split = false;
  for (const [i, op] of cfg.ops.entries()) {
    const got = bench.run(op);
    if (JSON.stringify(got) === JSON.stringify(op)) continue;
    if (excuse("no access", op.op === "map" && (op.prot & 3) === 0 && op.ret === 0 && got.ret === EINVAL)) continue;
    split = excuse("split", op.op === "unmap" && op.ret !== "0x0" && got.ret === "0x0" && table.iovaToPhys(toNumber(op.iova)) !== 0);
    if (split) break;
    same(`operation ${i}`, got, op);
  }

  if (!split) {
    const entries = table.granule / 8;
    const tree = bench.tree();
    const shift = concatenated ? table.startLevel - cfg.start : 0;
    same("tree", shift < 0 ? concatenate(tree, entries) : tree, shift > 0 ? concatenate(cfg.tree, entries) : cfg.tree);
    same("leaves", tree.filter(([, kind]) => kind === "L").length, cfg.leaves);
    if (shift === 0) same("tables", tree.filter(([, kind]) => kind === "T").length, cfg.tables);
  }
  same("bytes of tables", table.tableBytes, [...bench.live.values()].reduce((sum, size) => sum + size, 0));
  table.free();
  same("after free", [table.tableBytes, bench.live.size], [0, 0]);
  return { differences, used: [...used] };
}
