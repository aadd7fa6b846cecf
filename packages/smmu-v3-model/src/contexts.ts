/** Streams resolved and ready for a TLB look-up: direct mapped, in front of the configuration caches. */
const COUNT = 4096;
const SHIFT = 4;

/** Words of a context. */
export const CONTEXT = {
  SID: 0,
  /** -1 without a SubstreamID. */
  SSID: 1,
  EPOCH: 2,
  /** Packed: `overrideIndex` [6:3], {@link USES} [9:8], TBI0 [10], TBI1 [11], kind [21:20] as in a TLB key. */
  SHAPE: 3,
  TAG: 4,
  HASH: 5,
  FLOOR: 6,
  GLOBAL_FLOOR: 7,
  FLOOR_EPOCH: 8,
  /** Flags of FAULTS. */
  FAULT_CONFIG: 9,
  /** -1 without stage 1. */
  CD_INDEX: 10,
  /** Bits of the high word of an input address that must be zero where no stage translates. */
  TOO_HIGH: 11,
  /** Word 2 of TLB entries for pages of 4K, but for the address; -1 where those are not looked for first. */
  PAGE_KEY: 12,
  /** Where the configuration caches have the STE and the CD, if they still do. */
  STE_AT: 13,
  CD_AT: 14,
} as const;


/** Stages in use, in the shape; neither where the stream bypasses. */
export const USES = { S1: 0x100, S2: 0x200 } as const;
/** Position of TBI0 in the shape. */
export const TBI_SHIFT = 10;

/** An empty table of contexts. */
export function emptyContexts(): Int32Array<ArrayBuffer> {
  return new Int32Array(COUNT << SHIFT).fill(-1);
}

/** Where the context of a stream is; `ssid` is -1 without one. */
export function contextAt(sid: number, ssid: number): number {
  return ((sid + Math.imul(ssid + 1, 0x9e3b)) & (COUNT - 1)) << SHIFT;
}

/** High word of an address whose tag TBI ignores: extended from bit 55, under which the TLB keeps it. */
export function untagged(hi: number, shape: number): number {
  return ((shape >>> (TBI_SHIFT + ((hi >>> 23) & 1))) & 1) !== 0 ? (hi << 8) >> 8 : hi;
}

/** Runs a transaction: `ssid` is -1 without one. Returns what `translate` has returned. */
export type Observer = (sid: number, ssid: number, lo: number, hi: number, translate: () => number) => number;
