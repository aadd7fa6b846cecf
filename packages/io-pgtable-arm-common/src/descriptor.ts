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

/**
 * MAIR for the attribute indices above: non-cacheable, write-back, device nGnRE, and inner non-cacheable with outer
 * write-back.
 */
export const MAIR_LO: number = 0xf404ff44 | 0;
export const MAIR_HI = 0;

/** Attributes of the low word; those of the high word lie in other bits, so that one word holds both. */
export const ATTR_LO = 0xffc;

/** Address bits of a descriptor's low word. With 64K granules, PA[51:48] lie in bits [15:12]; with others these PA bits are 0. */
export function encodeLo(paLo: number, paHi: number): number {
  return (paLo & ~0xfff) | ((paHi >>> 4) & 0xf000);
}

/** Address bits of a descriptor's high word. */
export function encodeHi(paHi: number): number {
  return paHi & 0xffff;
}
