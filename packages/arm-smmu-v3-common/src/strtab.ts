import type { Memory } from "@smmuv3/platform";
import {
  getAddress,
  getField,
  L1STD,
  L1STD_BYTES,
  L1STD_WORDS,
  place,
  REG,
  setAddress,
  setField,
  STE_BYTES,
  STRTAB_FMT,
} from "@smmuv3/smmu-v3-defs";

/** log2 of the STEs in one second-level table. */
export const STRTAB_SPLIT = 8;
/** STEs in one second-level table. */
export const STRTAB_L2_STES: number = 1 << STRTAB_SPLIT;
/** Bytes of one second-level table. */
export const STRTAB_L2_BYTES: number = STRTAB_L2_STES * STE_BYTES;
/** Span of a level-1 descriptor that points to a whole table: 2^(Span - 1) STEs (5.1). */
const FULL_SPAN = STRTAB_SPLIT + 1;
/** Level-1 descriptors that software is willing to allocate: 1 MiB. */
const MAX_L1 = 1 << 17;

/** Shape of a stream table. */
export interface StrtabGeometry {
  readonly twoLevel: boolean;
  /** log2 of the StreamIDs covered: STRTAB_BASE_CFG.LOG2SIZE. */
  readonly log2size: number;
  /** Level-1 descriptors, or STEs of a linear table. */
  readonly entries: number;
  /** Bytes of the table that STRTAB_BASE points to; its alignment too. */
  readonly bytes: number;
}

/** Table for `sidBits` StreamID bits; a two-level one covers at most 2^25. */
export function strtabGeometry(sidBits: number, twoLevel: boolean): StrtabGeometry {
  if (!twoLevel) {
    const stes = 2 ** sidBits;
    return { twoLevel, log2size: sidBits, entries: stes, bytes: stes * STE_BYTES };
  }
  const entries = Math.min(2 ** Math.max(sidBits - STRTAB_SPLIT, 0), MAX_L1);
  return { twoLevel, log2size: Math.log2(entries) + STRTAB_SPLIT, entries, bytes: entries * L1STD_BYTES };
}

/** STRTAB_BASE_CFG. */
export function strtabBaseCfg(geometry: StrtabGeometry): number {
  const { FMT, SPLIT, LOG2SIZE } = REG.STRTAB_BASE_CFG;
  return (
    place(FMT, geometry.twoLevel ? STRTAB_FMT.twoLevel : STRTAB_FMT.linear) |
    place(SPLIT, geometry.twoLevel ? STRTAB_SPLIT : 0) |
    place(LOG2SIZE, geometry.log2size)
  );
}

/** STRTAB_BASE for a table at `pa`, read-allocate. `value`: 2 words. */
export function strtabBase(value: Int32Array, pa: number): void {
  value.fill(0);
  setAddress(value, 0, REG.STRTAB_BASE.ADDR, pa);
  setField(value, 0, REG.STRTAB_BASE.RA, 1);
}

/** True when the table has a place for `sid`. */
export function sidInRange(geometry: StrtabGeometry, sid: number): boolean {
  return sid >= 0 && sid < 2 ** geometry.log2size;
}

/** Level-1 descriptor of a whole second-level table at `pa`. `desc`: 2 words. */
export function makeL1Std(desc: Int32Array, pa: number): void {
  desc.fill(0);
  setField(desc, 0, L1STD.Span, FULL_SPAN);
  setAddress(desc, 0, L1STD.L2Ptr, pa);
}

/** Address of the level-1 descriptor that covers `sid`. */
export function l1StdAddress(base: number, sid: number): number {
  return base + (sid >>> STRTAB_SPLIT) * L1STD_BYTES;
}

/**
 * Address of the STE of `sid`, -1 when its second-level table does not exist (or is out of the descriptor's span).
 * @param base address in STRTAB_BASE; the table covers `sid` ({@link sidInRange})
 */
export function steAddress(memory: Memory, geometry: StrtabGeometry, base: number, sid: number): number {
  if (!geometry.twoLevel) return base + sid * STE_BYTES;
  const desc = new Int32Array(L1STD_WORDS);
  memory.read(l1StdAddress(base, sid), desc);
  const span = getField(desc, 0, L1STD.Span);
  const index = sid & (STRTAB_L2_STES - 1);
  if (span === 0 || index >= 2 ** (span - 1)) return -1;
  return getAddress(desc, 0, L1STD.L2Ptr) + index * STE_BYTES;
}
