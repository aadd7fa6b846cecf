/**
 * One entry of a scatter-gather list. `pa` and `length` are the caller's; mapping writes the DMA segments to the leading
 * entries' `dmaAddress` and `dmaLength`, which may be fewer than the entries.
 */
export interface SgEntry {
  pa: number;
  /** Bytes. */
  length: number;
  dmaAddress: number;
  dmaLength: number;
}

/** An entry for `[pa, pa + length)`. */
export function sgEntry(pa: number, length: number): SgEntry {
  return { pa, length, dmaAddress: 0, dmaLength: 0 };
}
