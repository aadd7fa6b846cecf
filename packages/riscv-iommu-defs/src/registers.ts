/** Register offsets in bytes, "Register layout". The registers fill one 4K page. */
export const RV_REG = {
  capabilities: 0,
  fctl: 8,
  ddtp: 16,
  cqb: 24,
  cqh: 32,
  cqt: 36,
  fqb: 40,
  fqh: 48,
  fqt: 52,
  cqcsr: 72,
  fqcsr: 76,
  ipsr: 84,
  icvec: 760,
} as const;

/** Bytes of the register space. */
export const RV_REGISTER_SPACE = 4096;

/** Bits of `capabilities`, low word. `pasShift`: PAS, in the high word. */
export const RV_CAP = {
  version10: 0x10,
  sv39: 0x200,
  sv48: 0x400,
  sv39x4: 0x20000,
  sv48x4: 0x40000,
  msiFlat: 0x400000,
  amoHwad: 0x1000000,
  ats: 0x2000000,
  /** IGS = WSI: wire-signalled interrupts only. */
  igsWsi: 0x10000000,
  /** PAS, bits [37:32]. */
  pasMask: 63,
} as const;

/** `fctl`. */
export const RV_FCTL = { be: 1, wsi: 2, gxl: 4 } as const;

/** `ddtp.iommu_mode`, bits [3:0]. */
export const RV_DDTP_MODE = { off: 0, bare: 1, level1: 2, level2: 3, level3: 4 } as const;
export const RV_DDTP_MODE_MASK = 15;

/** Bits of `cqcsr`; `error` are those that stop the queue until they are written with 1. */
export const RV_CQCSR = {
  cqen: 1,
  cie: 2,
  cqmf: 0x100,
  cmdTo: 0x200,
  cmdIll: 0x400,
  fenceWIp: 0x800,
  cqon: 0x10000,
  errors: 0x700,
  writeOneToClear: 0xf00,
} as const;

/** Bits of `fqcsr`. */
export const RV_FQCSR = { fqen: 1, fie: 2, fqmf: 0x100, fqof: 0x200, fqon: 0x10000, errors: 0x300 } as const;

/** Bits of `ipsr`. */
export const RV_IPSR = { cip: 1, fip: 2 } as const;
