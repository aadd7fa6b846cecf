/** Low 32 bits of an address as int32. */
export function lo32(address: number): number {
  return address | 0;
}

/** Bits [63:32] of an address as int32. `address` is an integer in [0, 2^53]. */
export function hi32(address: number): number {
  return (address / 0x1_0000_0000) | 0;
}

/** The address `hi:lo` as a number; exact below 2^53. */
export function join(lo: number, hi: number): number {
  return (hi >>> 0) * 0x1_0000_0000 + (lo >>> 0);
}

/** `0x` form of a number. */
export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/** `0x` form of the 64-bit value `hi:lo`, exact. */
export function hex64(lo: number, hi: number): string {
  const high = (hi >>> 0).toString(16);
  const low = (lo >>> 0).toString(16);
  return hi === 0 ? `0x${low}` : `0x${high}${low.padStart(8, "0")}`;
}

/** Rounds `value` up to a multiple of `unit` (any positive integer). */
export function alignUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
