import type { Memory } from "@smmuv3/platform";
import { CD_BYTES, getAddress, getField, L1CD, L1CD_BYTES, L1CD_WORDS, STE_S1FMT } from "@smmuv3/smmu-v3-defs";

/** log2 of the CDs in one second-level table of 64K. */
const SPLIT = 10;
/** CDs in one second-level table. */
export const CDTAB_L2_CDS: number = 1 << SPLIT;
/** Bytes of one second-level table, and its alignment. */
export const CDTAB_L2_BYTES: number = CDTAB_L2_CDS * CD_BYTES;

/** Shape of a table of Context Descriptors. */
export interface CdtabGeometry {
  /** STE.S1Fmt: linear, or two levels with 64K tables below. */
  readonly s1fmt: number;
  /** STE.S1CDMax: log2 of the CDs. */
  readonly s1cdmax: number;
  /** Level-1 descriptors, or CDs of a linear table. */
  readonly entries: number;
  /** Bytes of the table that STE.S1ContextPtr points to; its alignment too. */
  readonly bytes: number;
}

/**
 * Table for `ssidBits` SubstreamID bits: two levels where the SMMU has them and one table of 64K is not enough. Without two
 * levels a driver should ask for 10 bits at most, which is such a table.
 */
export function cdtabGeometry(ssidBits: number, twoLevel: boolean): CdtabGeometry {
  const cds = 2 ** ssidBits;
  if (!twoLevel || cds <= CDTAB_L2_CDS) return { s1fmt: STE_S1FMT.linear, s1cdmax: ssidBits, entries: cds, bytes: cds * CD_BYTES };
  const entries = cds / CDTAB_L2_CDS;
  return { s1fmt: STE_S1FMT.l2_64k, s1cdmax: ssidBits, entries, bytes: Math.max(entries * L1CD_BYTES, CD_BYTES) };
}

/** True when the table has a place for `ssid`. */
export function ssidInRange(geometry: CdtabGeometry, ssid: number): boolean {
  return ssid >= 0 && ssid < 2 ** geometry.s1cdmax;
}

/** Address of the level-1 descriptor that covers `ssid`. */
export function l1CdAddress(base: number, ssid: number): number {
  return base + (ssid >>> SPLIT) * L1CD_BYTES;
}

/**
 * Address of the CD of `ssid`, -1 when its second-level table does not exist.
 * @param base address in STE.S1ContextPtr; the table covers `ssid` ({@link ssidInRange})
 */
export function cdAddress(memory: Memory, geometry: CdtabGeometry, base: number, ssid: number): number {
  if (geometry.s1fmt === STE_S1FMT.linear) return base + ssid * CD_BYTES;
  const desc = new Int32Array(L1CD_WORDS);
  memory.read(l1CdAddress(base, ssid), desc);
  if (getField(desc, 0, L1CD.V) === 0) return -1;
  return getAddress(desc, 0, L1CD.L2Ptr) + (ssid & (CDTAB_L2_CDS - 1)) * CD_BYTES;
}
