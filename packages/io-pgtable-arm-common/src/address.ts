const WORD_SPAN = 0x1_0000_0000;

/** High word of an IOVA: an address of the upper half may be given as a negative number or as 2^64 - x. */
export function iovaHi32(iova: number): number {
  // Of a number that is not negative, truncating is enough, and cheaper.
  return iova >= 0 ? (iova / WORD_SPAN) | 0 : Math.floor(iova / WORD_SPAN) | 0;
}

/** The signed 64-bit value of a pair: exact for addresses of both halves. */
export function signedJoin(lo: number, hi: number): number {
  return hi * WORD_SPAN + (lo >>> 0);
}
