export { DMA_DIRECTION, streamId } from "./operation.ts";
export type {
  AttachOperation,
  DmaApi,
  DmaDirection,
  MapOperation,
  Operation,
  Segment,
  UnmapOperation,
} from "./operation.ts";
export { TraceError } from "./error.ts";
export { DEFAULT_DOORBELLS } from "./doorbell.ts";
export type { Doorbell } from "./doorbell.ts";
export { readTrace, TraceReader } from "./reader.ts";
export type { TraceHeader, TraceOptions, TraceSummary } from "./reader.ts";
export type { IgnoredReason, SkippedReason } from "./tally.ts";
export type { Chunks } from "./source.ts";
export { extendTrace, synthesize } from "./synthetic.ts";
export type { ExtendOptions, SyntheticOptions } from "./synthetic.ts";
