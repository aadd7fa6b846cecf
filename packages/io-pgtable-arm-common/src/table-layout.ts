import type { TableFormat } from "./format.ts";
import type { Geometry } from "./geometry.ts";
import { levelShift } from "./geometry.ts";
import { DESC_TYPE } from "./descriptor.ts";

/** The last level holds leaves only. */
export const LAST_LEVEL = 3;

/** Index arithmetic of a {@link Geometry}, with shifts known at run time only. */
export class TableLayout {
  declare readonly startLevel: number;
  /** Descriptors of the first table, and of every other. */
  declare readonly rootEntries: number;
  declare readonly tableEntries: number;
  /** Bytes that one descriptor of each level covers. */
  declare readonly spans: readonly number[];
  /** Bits of a low word that hold PA[51:48]. */
  declare readonly foldMask: number;
  /** Entries that a run of each level is within. */
  declare private readonly runEntries: readonly number[];
  /** Bits [1:0] of a leaf of each level. */
  declare private readonly leafTypes: readonly number[];
  declare private readonly shifts: readonly number[];
  /** Leaf size of each level, 0 where there is none. */
  declare private readonly leafSizes: readonly number[];

  constructor(format: TableFormat, geometry: Geometry) {
    const { startLevel, pgsizeBitmap } = geometry;
    this.startLevel = startLevel;
    this.rootEntries = 2 ** geometry.pgdBits;
    this.tableEntries = 2 ** geometry.bitsPerLevel;
    this.shifts = [0, 1, 2, 3].map((level) => levelShift(geometry, level));
    this.spans = this.shifts.map((shift) => 2 ** shift);
    this.leafSizes = this.spans.map((span, level) =>
      level >= startLevel && Math.floor(pgsizeBitmap / span) % 2 === 1 ? span : 0,
    );
    this.runEntries = this.spans.map((span) => Math.max(1, Math.min(2 ** geometry.ias / span, this.tableEntries)));
    this.leafTypes = [DESC_TYPE.BLOCK, DESC_TYPE.BLOCK, DESC_TYPE.BLOCK, format.pageType];
    this.foldMask = geometry.pageShift === 16 ? 0xf000 : 0;
  }

  /** Level whose leaves have `pgsize` bytes, or -1. */
  levelOf(pgsize: number): number {
    if (pgsize <= 0) return -1;
    for (let level = LAST_LEVEL; level >= this.startLevel; level--) if (this.leafSizes[level] === pgsize) return level;
    return -1;
  }

  entriesOf(level: number): number {
    return level === this.startLevel ? this.rootEntries : this.tableEntries;
  }

  index(level: number, lo: number, hi: number): number {
    const shift = this.shifts[level]!;
    const index = shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32);
    return index & (this.entriesOf(level) - 1);
  }

  /** The bits of an address above those that the tables below `level` resolve. */
  keyOf(level: number, lo: number, hi: number): number {
    const shift = this.shifts[level]!;
    return shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32);
  }

  /** Bits of an address below the index of `level`, as words. */
  offsetLo(level: number): number {
    const shift = this.shifts[level]!;
    return shift < 32 ? (1 << shift) - 1 : -1;
  }

  offsetHi(level: number): number {
    const shift = this.shifts[level]!;
    return shift < 32 ? 0 : (1 << (shift - 32)) - 1;
  }

  /** A run ends with its table of one granule, also where tables are concatenated, and with the address space. */
  runLength(level: number, index: number, count: number): number {
    const entries = this.runEntries[level]!;
    return Math.min(count, entries - (index & (entries - 1)));
  }

  /** Bits [1:0] of a leaf of `level`. */
  leafType(level: number): number {
    return this.leafTypes[level]!;
  }

  isLeaf(lo: number, level: number): boolean {
    return (lo & DESC_TYPE.MASK) === this.leafTypes[level]!;
  }

  /** Whether the descriptor points to a table. */
  isTable(lo: number, level: number): boolean {
    return level < LAST_LEVEL && (lo & DESC_TYPE.MASK) === DESC_TYPE.TABLE;
  }

  /** Output address words of a descriptor. */
  addressLo(lo: number): number {
    return lo & ~(0xfff | this.foldMask);
  }

  addressHi(lo: number, hi: number): number {
    return (hi & 0xffff) | ((lo & this.foldMask) << 4);
  }
}
