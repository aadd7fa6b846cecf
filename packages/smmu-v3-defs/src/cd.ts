import { defineFields } from "./field.ts";
import type { Fields } from "./field.ts";

/** 64 bytes. */
export const CD_WORDS = 16;
export const CD_BYTES = 64;

/**
 * Context Descriptor, IHI 0070 5.4. Where SMMU_IDR5.D128 is 0, SKLx is HWUx62:HWUx61; where it is 1, HADx is DisCHx for
 * 128-bit descriptors.
 */
export const CD_SPEC = {
  T0SZ: [5, 0],
  TG0: [7, 6],
  IR0: [9, 8],
  OR0: [11, 10],
  SH0: [13, 12],
  EPD0: [14, 14],
  ENDI: [15, 15],
  T1SZ: [21, 16],
  TG1: [23, 22],
  IR1: [25, 24],
  OR1: [27, 26],
  SH1: [29, 28],
  EPD1: [30, 30],
  V: [31, 31],
  IPS: [34, 32],
  AFFD: [35, 35],
  WXN: [36, 36],
  UWXN: [37, 37],
  TBI0: [38, 38],
  TBI1: [39, 39],
  PAN: [40, 40],
  AA64: [41, 41],
  HD: [42, 42],
  HA: [43, 43],
  S: [44, 44],
  R: [45, 45],
  A: [46, 46],
  ASET: [47, 47],
  ASID: [63, 48],

  NSCFG0: [64, 64],
  HAD0: [65, 65],
  E0PD0: [66, 66],
  HAFT: [67, 67],
  TTB0: [119, 68, "address"],
  PnCH: [122, 122],
  EPAN: [123, 123],
  HWU059: [124, 124],
  HWU060: [125, 125],
  SKL0: [127, 126],

  NSCFG1: [128, 128],
  HAD1: [129, 129],
  E0PD1: [130, 130],
  AIE: [131, 131],
  TTB1: [183, 132, "address"],
  DS: [186, 186],
  PIE: [187, 187],
  HWU159: [188, 188],
  HWU160: [189, 189],
  SKL1: [191, 190],

  MAIR0: [223, 192],
  MAIR1: [255, 224],
  AMAIR0: [287, 256],
  AMAIR1: [319, 288],
  PARTID: [367, 352],
  PMG: [375, 368],

  /** PIIU0..PIIU15: PIIU p is bits [386+3p:384+3p]. */
  PIIU: [431, 384, "address"],
  /** PIIP0..PIIP15: PIIP p is bits [450+3p:448+3p]. */
  PIIP: [495, 448, "address"],
} as const;

export const CD: Fields<"CD", typeof CD_SPEC> = /* @__PURE__ */ defineFields("CD", CD_SPEC);

/** Level-1 Context Descriptor Table Descriptor, 5.3. */
export const L1CD_SPEC = { V: [0, 0], L2Ptr: [55, 12, "address"] } as const;
export const L1CD: Fields<"L1CD", typeof L1CD_SPEC> = /* @__PURE__ */ defineFields("L1CD", L1CD_SPEC);
export const L1CD_WORDS = 2;
export const L1CD_BYTES = 8;

/** CD.IPS, STE.S2PS, IDR5.OAS: bits of an address by encoding. */
export const ADDRESS_SIZES: readonly number[] = [32, 36, 40, 42, 44, 48, 52, 56];
