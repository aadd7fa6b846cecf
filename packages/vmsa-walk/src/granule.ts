/** Translation granules, encoded as TG0 of VTCR_EL2 and as S2TG and TG0 of SMMUv3. */
export const GRANULE = { K4: 0, K64: 1, K16: 2 } as const;

/** What one granule fixes (Arm ARM, D8.2). Indexed by {@link GRANULE}. */
export interface GranuleShape {
  /** log2 of the page size. */
  readonly pageShift: number;
  /** Address bits resolved by one full table. */
  readonly stride: number;
  /** Lowest level that may hold a block; one level less where descriptors hold 52-bit addresses. */
  readonly blockLevel: number;
  /** Low word of a descriptor: address bits of a table pointer or page. */
  readonly addressMask: number;
}

export const GRANULES: readonly GranuleShape[] = [
  { pageShift: 12, stride: 9, blockLevel: 1, addressMask: ~0xfff },
  { pageShift: 16, stride: 13, blockLevel: 2, addressMask: ~0xffff },
  { pageShift: 14, stride: 11, blockLevel: 2, addressMask: ~0x3fff },
];

/** Address size in bits of the IPS / PS / OAS encodings 0..7. */
export const ADDRESS_BITS: readonly number[] = [32, 36, 40, 42, 44, 48, 52, 56];

/** Bits of an address that VMSAv8-64 can express at most. */
const LARGEST = 52;

/** Output size in bits of an IPS or PS encoding. */
export function outputBits(encoded: number): number {
  return Math.min(ADDRESS_BITS[encoded & 7]!, LARGEST);
}

/** Bits [63:bits] of a high word; zero where an address of `bits` (32..64) bits may have ones. */
export function aboveHi(bits: number): number {
  return bits >= 64 ? 0 : ~((1 << (bits - 32)) - 1);
}

/** `word` without its bits [31:0] below `bit` of a 64-bit address; for the high word pass `bit - 32`. */
export function alignWord(word: number, bit: number): number {
  if (bit <= 0) return word;
  return bit >= 32 ? 0 : word & ~((1 << bit) - 1);
}

/** Reverses the bytes of a word. */
export function swap(word: number): number {
  return (word << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24);
}

/**
 * Index into `Memory.words` of the descriptor at `hi:lo`, or -1 where its page is not readable. Takes the fields of a Memory
 * that the caller has already loaded: it is inlined into every level of a walk.
 */
export function locate(lo: number, hi: number, perm: Uint8Array, pages: number, basePage: number): number {
  const page = ((hi << 20) | (lo >>> 12)) - basePage;
  if (hi >>> 11 !== 0 || page >>> 0 >= pages || (perm[page]! & 1) === 0) return -1;
  return (page << 10) | ((lo & 0xfff) >>> 2);
}
