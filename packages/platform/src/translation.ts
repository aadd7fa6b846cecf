/** Flags of a transaction presented to an IOMMU. */
export const ACCESS = {
  read: 0,
  write: 1,
  privileged: 2,
  instruction: 4,
  /** A SubstreamID is present. */
  ssidValid: 8,
} as const;

/** Results of {@link Translator.translate}. */
export const TRANSLATION = {
  ok: 0,
  /** Terminated with an abort. */
  abort: 1,
  /** Terminated, reads as zero, writes ignored. */
  raz: 2,
  /** Stalled: no answer until software resumes it. */
  stalled: 3,
} as const;

/**
 * What a DMA master needs of the IOMMU in front of it. Results of the last call stay in the fields: no allocation per
 * transaction.
 */
export interface Translator {
  /**
   * Translates one access that does not cross a 4K boundary.
   * @param sid StreamID
   * @param ssid SubstreamID, used with {@link ACCESS}.ssidValid
   * @param lo,hi the 64-bit input address
   * @param flags of {@link ACCESS}
   * @returns one of {@link TRANSLATION}
   */
  translate(sid: number, ssid: number, lo: number, hi: number, flags: number): number;
  /** Output address of the last translation that returned `ok`. */
  readonly paLo: number;
  readonly paHi: number;
}
