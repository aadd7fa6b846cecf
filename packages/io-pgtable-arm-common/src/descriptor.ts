import type { IoPgtableFormat } from "./config.ts";
import { IO_PGTABLE_QUIRK, IOMMU_PROT } from "./config.ts";

/** Bits [1:0] of a descriptor. */
export const DESC_TYPE = {
  MASK: 3,
  INVALID: 0,
  BLOCK: 1,
  /** Levels 0 to 2. */
  TABLE: 3,
  /** Level 3. */
  PAGE: 3,
} as const;

/** Descriptor bits, DDI 0487 D8.3. `_HI` lie in the high word. */
export const DESC = {
  ATTR_SHIFT: 2,
  S1_NS: 0x20,
  S1_UNPRIVILEGED: 0x40,
  S1_RDONLY: 0x80,
  S2_READ: 0x40,
  S2_WRITE: 0x80,
  SH_OUTER: 0x200,
  SH_INNER: 0x300,
  AF: 0x400,
  S1_NG: 0x800,
  S1_DBM_HI: 0x8_0000,
  XN_HI: 0x60_0000,
  /** Software: the walker sees this table pointer. */
  SW_SYNC_HI: 0x80_0000,
  NSTABLE_HI: -0x8000_0000,
} as const;

/** AttrIndx values of {@link MAIR_LO}, stage 1. */
const S1_ATTR = { NC: 0, CACHE: 1, DEVICE: 2 } as const;
/** MemAttr values, stage 2. */
const S2_ATTR = { DEVICE: 0x1, NC: 0x5, FWB_WB: 0x6, WB: 0xf } as const;

/**
 * MAIR for the attribute indices above: non-cacheable, write-back, device nGnRE, and inner non-cacheable with outer
 * write-back.
 */
export const MAIR_LO: number = 0xf404ff44 | 0;
export const MAIR_HI = 0;

/** Combinations of {@link IOMMU_PROT}. */
export const PROT_COUNT = 64;

/** Attributes of the low word; those of the high word lie in other bits, so that one word holds both. */
export const ATTR_LO = 0xffc;

/** Leaf attributes of each prot, both words in one, without the type. 0: no access. */
export function leafAttributes(fmt: IoPgtableFormat, quirks: number): Int32Array {
  const table = new Int32Array(PROT_COUNT);
  const quirk = (bit: number, value: number): number => ((quirks & bit) !== 0 ? value : 0);
  for (let prot = 0; prot < PROT_COUNT; prot++) {
    const has = (bit: number): boolean => (prot & bit) !== 0;
    if (!has(IOMMU_PROT.READ | IOMMU_PROT.WRITE)) continue;
    let lo: number = DESC.AF | (has(IOMMU_PROT.CACHE) ? DESC.SH_INNER : DESC.SH_OUTER);
    let hi = has(IOMMU_PROT.NOEXEC) ? DESC.XN_HI : 0;
    if (fmt === "64_S1") {
      const attr = has(IOMMU_PROT.MMIO) ? S1_ATTR.DEVICE : has(IOMMU_PROT.CACHE) ? S1_ATTR.CACHE : S1_ATTR.NC;
      lo |= (attr << DESC.ATTR_SHIFT) | DESC.S1_NG | quirk(IO_PGTABLE_QUIRK.ARM_NS, DESC.S1_NS);
      if (!has(IOMMU_PROT.PRIV)) lo |= DESC.S1_UNPRIVILEGED;
      if (has(IOMMU_PROT.WRITE)) hi |= quirk(IO_PGTABLE_QUIRK.ARM_HD, DESC.S1_DBM_HI);
      else lo |= DESC.S1_RDONLY;
    } else {
      const cached = (quirks & IO_PGTABLE_QUIRK.ARM_S2FWB) !== 0 ? S2_ATTR.FWB_WB : S2_ATTR.WB;
      const attr = has(IOMMU_PROT.MMIO) ? S2_ATTR.DEVICE : has(IOMMU_PROT.CACHE) ? cached : S2_ATTR.NC;
      lo |= attr << DESC.ATTR_SHIFT;
      if (has(IOMMU_PROT.READ)) lo |= DESC.S2_READ;
      if (has(IOMMU_PROT.WRITE)) lo |= DESC.S2_WRITE;
    }
    table[prot] = lo | hi;
  }
  return table;
}

/** Address bits of a descriptor's low word. With 64K granules, PA[51:48] lie in bits [15:12]; with others these PA bits are 0. */
export function encodeLo(paLo: number, paHi: number): number {
  return (paLo & ~0xfff) | ((paHi >>> 4) & 0xf000);
}

/** Address bits of a descriptor's high word. */
export function encodeHi(paHi: number): number {
  return paHi & 0xffff;
}
