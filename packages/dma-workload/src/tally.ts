/** Why a `map:` line belongs to no operation. */
export type SkippedReason =
  /** No `dma:*` event covers it: a map outside the DMA API (VFIO, a driver's own domain), or the event was lost. */
  | "noDmaEvent"
  /** The call it belongs to failed after it. */
  | "failedCall"
  /** The MSI doorbell, of a device that nothing in the recording tells. */
  | "doorbellUnattributed";

/** Why something else in the recording gives no operation. */
export type IgnoredReason =
  /** An `unmap:` line, and its event names a mapping that the recording does not have: made before it began. */
  | "unmapBeforeRecording"
  /** An `unmap:` line that no `dma:*` event accounts for. */
  | "unmapNoDmaEvent"
  /** An `unmap:` line that takes back what a failed call had mapped. */
  | "unmapFailedCall"
  /** An unmap event without `unmap:` line: of a device that is not translated, or the line was lost. */
  | "dmaUnmapNoLine"
  /** A map event without `map:` line: of a device that is not translated, or the line was lost. */
  | "dmaMapNoLine"
  /** The SMMU driver allocates its own tables and queues. */
  | "smmuDriver"
  /** An event that reports a failed call. */
  | "failedCall"
  /** Events of the DMA API or the IOMMU that map and unmap nothing: syncs, groups. */
  | "noMapping"
  /** Events of other subsystems. */
  | "otherEvent"
  | "comment"
  | "blank"
  /** Lines that are no event: stack traces, other formats. */
  | "notAnEvent"
  /** `CPU:n [LOST m EVENTS]`. */
  | "lostEventsNote"
  /** `[LINE TOO BIG]`, which the kernel prints in place of an event. */
  | "lineTooBig"
  /** A last line that does not end in a newline and does not parse. */
  | "cutLastLine";

/** Everything that is counted while a recording is read. */
export class Tally {
  /** `map:` lines that an operation has. */
  maps: number = 0;
  /** `unmap:` lines that an operation has. */
  unmaps: number = 0;
  attachOperations: number = 0;
  mapOperations: number = 0;
  unmapOperations: number = 0;
  /** Unmap operations made up because their mapping's IOVA was mapped again: the recording lost the real one. */
  impliedUnmaps: number = 0;
  /** Map operations that lack some of their `map:` lines. */
  incompleteMaps: number = 0;
  lostEvents: number = 0;
  entriesInBuffer: number = 0;
  entriesWritten: number = 0;
  readonly skipped: Partial<Record<SkippedReason, number>> = {};
  readonly ignored: Partial<Record<IgnoredReason, number>> = {};

  skip(reason: SkippedReason): void {
    this.skipped[reason] = (this.skipped[reason] ?? 0) + 1;
  }

  ignore(reason: IgnoredReason): void {
    this.ignored[reason] = (this.ignored[reason] ?? 0) + 1;
  }
}
