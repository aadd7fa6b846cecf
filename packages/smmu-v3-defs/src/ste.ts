import { defineFields } from "./field.ts";
import type { Fields } from "./field.ts";

/** 64 bytes. */
export const STE_WORDS = 16;
export const STE_BYTES = 64;

/** Stream Table Entry, IHI 0070 5.2. */
export const STE_SPEC = {
  V: [0, 0],
  Config: [3, 1],
  S1Fmt: [5, 4],
  S1ContextPtr: [55, 6, "address"],
  S1CDMax: [63, 59],

  S1DSS: [65, 64],
  S1CIR: [67, 66],
  S1COR: [69, 68],
  S1CSH: [71, 70],
  S2HWU59: [72, 72],
  S2HWU60: [73, 73],
  S2HWU61: [74, 74],
  S2HWU62: [75, 75],
  DRE: [76, 76],
  CONT: [80, 77],
  DCP: [81, 81],
  PPAR: [82, 82],
  MEV: [83, 83],
  S1PIE: [88, 88],
  S2FWB: [89, 89],
  S1MPAM: [90, 90],
  S1STALLD: [91, 91],
  EATS: [93, 92],
  STRW: [95, 94],
  MemAttr: [99, 96],
  MTCFG: [100, 100],
  ALLOCCFG: [104, 101],
  SHCFG: [109, 108],
  NSCFG: [111, 110],
  PRIVCFG: [113, 112],
  INSTCFG: [115, 114],

  S2VMID: [143, 128],
  S2T0SZ: [165, 160],
  S2SL0: [167, 166],
  S2IR0: [169, 168],
  S2OR0: [171, 170],
  S2SH0: [173, 172],
  S2TG: [175, 174],
  S2PS: [178, 176],
  S2AA64: [179, 179],
  S2ENDI: [180, 180],
  S2AFFD: [181, 181],
  S2PTW: [182, 182],
  S2HD: [183, 183],
  S2HA: [184, 184],
  S2S: [185, 185],
  S2R: [186, 186],
  S2HAFT: [187, 187],
  S2PIE: [188, 188],
  S2POE: [189, 189],
  DPT_VMATCH: [191, 190],

  S2NSW: [192, 192],
  S2NSA: [193, 193],
  S2SL0_2: [194, 194],
  S2DS: [195, 195],
  S2TTB: [247, 196, "address"],
  S2SKL: [254, 253],

  PARTID: [287, 272],
  S_S2T0SZ: [293, 288],
  S_S2SL0: [295, 294],
  S_S2TG: [303, 302],
  MECID: [319, 304],
  PMG: [327, 320],
  MPAM_NS: [328, 328],
  AssuredOnly: [329, 329],
  TL0: [330, 330],
  TL1: [331, 331],
  VMSPtr: [375, 332, "address"],

  S2SW: [384, 384],
  S2SA: [385, 385],
  S_S2SL0_2: [386, 386],
  S_S2TTB: [439, 388, "address"],
  S_S2SKL: [446, 445],

  /** S2POI0..S2POI15: S2POI p is bits [451+4p:448+4p]. */
  S2POI: [511, 448, "address"],
} as const;

export const STE: Fields<"STE", typeof STE_SPEC> = /* @__PURE__ */ defineFields("STE", STE_SPEC);

/**
 * S2T0SZ..S2PS lie side by side, in the layout of VTCR_EL2[18:0]; they are read and written as one value of word 5
 * (bits [178:160]).
 */
export const STE_VTCR_WORD = 5;
export const STE_VTCR_MASK = 0x7ffff;

/** STE.Config. Bit 0: stage 1, bit 1: stage 2, bit 2: not abort. */
export const STE_CONFIG = { abort: 0, bypass: 4, s1: 5, s2: 6, nested: 7 } as const;
/** STE.S1Fmt. */
export const STE_S1FMT = { linear: 0, l2_4k: 1, l2_64k: 2 } as const;
/** STE.S1DSS: what a transaction without SubstreamID does where substreams are in use. */
export const STE_S1DSS = { terminate: 0, bypass: 1, ssid0: 2 } as const;
/** STE.STRW for a Non-secure stream. */
export const STE_STRW = { nsEl1: 0, el2: 2 } as const;
/** STE.EATS. */
export const STE_EATS = { abort: 0, full: 1, s1chk: 2, dpt: 3 } as const;
/** STE.SHCFG. */
export const STE_SHCFG = { nonShareable: 0, incoming: 1, outer: 2, inner: 3 } as const;
/** STE.PRIVCFG and STE.INSTCFG: 0 and 1 use the incoming attribute. */
export const STE_PRIVCFG = { incoming: 0, unprivileged: 2, privileged: 3 } as const;
export const STE_INSTCFG = { incoming: 0, data: 2, instruction: 3 } as const;
/** S1CIR, S1COR. CR1.QUEUE_xC and CR1.TABLE_xC: 1 is Write-Back and 3 is reserved. */
export const CACHEABILITY = { nonCacheable: 0, writeBackReadAllocate: 1, writeThrough: 2, writeBack: 3 } as const;
export const SHAREABILITY = { nonShareable: 0, outer: 2, inner: 3 } as const;
/** STE.S2TG and CD.TG0. */
export const TG0 = { "4K": 0, "64K": 1, "16K": 2 } as const;
/** CD.TG1. */
export const TG1 = { "16K": 1, "4K": 2, "64K": 3 } as const;

/** Level-1 Stream Table Descriptor, 5.1. */
export const L1STD_SPEC = { Span: [4, 0], L2Ptr: [55, 6, "address"] } as const;
export const L1STD: Fields<"L1STD", typeof L1STD_SPEC> = /* @__PURE__ */ defineFields("L1STD", L1STD_SPEC);
export const L1STD_WORDS = 2;
export const L1STD_BYTES = 8;
