import type { FormatName } from "./config.ts";
import { IOMMU_PROT, IO_PGTABLE_QUIRK } from "./config.ts";
import { DESC } from "./descriptor.ts";

/**
 * One table format. Formats are objects that name no other, so that a program carries only those it uses; `ARM_64_LPAE_S1` and its
 * like are all there are.
 */
export interface TableFormat {
  readonly name: FormatName;
  readonly stage: 1 | 2;
  /** Quirks that are accepted; any other is refused. */
  readonly quirks: number;
  /** Page and block sizes, as a bit set: those of the hardware and not in here are not used. */
  readonly sizes: number;
  /** Address bits; more are refused. */
  readonly maxIas: number;
  readonly maxOas: number;
  /** Bits [1:0] of a leaf of the last level. */
  readonly pageType: number;
  /** All four levels are walked, whatever the IOVA has bits; the first table then has one entry, in memory of a whole granule. */
  readonly fourLevels: boolean;
  /** {@link readAndClearDirty} works. */
  readonly dirty: boolean;
  /** Leaf attributes of a combination of `IOMMU_PROT`, both words in one, without the type; READ or WRITE is there. */
  attributes(prot: number, quirks: number): number;
}

/** Combinations of {@link IOMMU_PROT}. */
export const PROT_COUNT = 64;

/** {@link TableFormat.attributes} of each combination; 0: no access. */
export function attributeTable(format: TableFormat, quirks: number): Int32Array {
  return Int32Array.from({ length: PROT_COUNT }, (_, prot) =>
    (prot & (IOMMU_PROT.READ | IOMMU_PROT.WRITE)) === 0 ? 0 : format.attributes(prot, quirks),
  );
}

/** AttrIndx values of `MAIR_LO`, stage 1. */
const S1_ATTR = { NC: 0, CACHE: 1, DEVICE: 2 } as const;
/** MemAttr values, stage 2. */
const S2_ATTR = { DEVICE: 0x1, NC: 0x5, FWB_WB: 0x6, WB: 0xf } as const;

/** AttrIndx of a leaf. */
export function attributeIndex(prot: number): number {
  if ((prot & IOMMU_PROT.MMIO) !== 0) return S1_ATTR.DEVICE << DESC.ATTR_SHIFT;
  return ((prot & IOMMU_PROT.CACHE) !== 0 ? S1_ATTR.CACHE : S1_ATTR.NC) << DESC.ATTR_SHIFT;
}

/** MemAttr of a leaf. */
export function memoryAttribute(prot: number, quirks: number): number {
  const cached = (quirks & IO_PGTABLE_QUIRK.ARM_S2FWB) !== 0 ? S2_ATTR.FWB_WB : S2_ATTR.WB;
  if ((prot & IOMMU_PROT.MMIO) !== 0) return S2_ATTR.DEVICE << DESC.ATTR_SHIFT;
  return ((prot & IOMMU_PROT.CACHE) !== 0 ? cached : S2_ATTR.NC) << DESC.ATTR_SHIFT;
}

/** AP and DBM of a leaf. A writable page starts dirty: DBM with AP[2] clear. */
export function stage1Access(prot: number, quirks: number): number {
  const user = (prot & IOMMU_PROT.PRIV) !== 0 ? 0 : DESC.S1_UNPRIVILEGED;
  if ((prot & IOMMU_PROT.WRITE) === 0) return user | DESC.S1_RDONLY;
  return user | ((quirks & IO_PGTABLE_QUIRK.ARM_HD) !== 0 ? DESC.S1_DBM_HI : 0);
}

/** S2AP of a leaf: read and write are independent. */
export function stage2Access(prot: number): number {
  return (
    ((prot & IOMMU_PROT.READ) !== 0 ? DESC.S2_READ : 0) | ((prot & IOMMU_PROT.WRITE) !== 0 ? DESC.S2_WRITE : 0)
  );
}

/** SH of a leaf. */
export function shareability(prot: number): number {
  return (prot & IOMMU_PROT.CACHE) !== 0 ? DESC.SH_INNER : DESC.SH_OUTER;
}

/** XN of a leaf. */
export function executeNever(prot: number): number {
  return (prot & IOMMU_PROT.NOEXEC) !== 0 ? DESC.XN_HI : 0;
}
