export { clearCd, makeL1Cd, makeS1Cd } from "./cd.ts";
export type { Stage1 } from "./cd.ts";
export {
  atcInv,
  cfgiAll,
  cfgiCd,
  cfgiCdAll,
  cfgiSte,
  prefetchConfig,
  priResp,
  resume,
  sync,
  tlbiEl2All,
  tlbiEl2Asid,
  tlbiEl2Va,
  tlbiNhAll,
  tlbiNhAsid,
  tlbiNhVa,
  tlbiNhVaa,
  tlbiNsnhAll,
  tlbiS12Vmall,
  tlbiS2Ipa,
} from "./commands.ts";
export { writeEntry } from "./entry-writer.ts";
export type { EntryWrite } from "./entry-writer.ts";
export { EventQueue, eventQueuePointers, priQueuePointers, queuePointers } from "./event-queue.ts";
export type { EventQueueOptions, QueuePointers } from "./event-queue.ts";
export { decodeEvent } from "./events.ts";
export type { SmmuEvent } from "./events.ts";
export { probeFeatures } from "./features.ts";
export type { FeatureError, SmmuFeatures } from "./features.ts";
export { BATCH_COMMANDS, CommandBatch, CommandQueue, queueBase } from "./queue.ts";
export type { CommandQueueOptions, CommandSink, SyncMethod } from "./queue.ts";
export { RateLimit } from "./rate-limit.ts";
export { addStage2, makeAbortSte, makeBypassSte, makeCdtableSte, makeS2Ste, setStage2, vtcrBits } from "./ste.ts";
export type { CdTable, Stage2, SteOptions } from "./ste.ts";
export {
  l1StdAddress,
  makeL1Std,
  sidInRange,
  steAddress,
  strtabBase,
  strtabBaseCfg,
  strtabGeometry,
  STRTAB_L2_BYTES,
  STRTAB_L2_STES,
  STRTAB_SPLIT,
} from "./strtab.ts";
export type { StrtabGeometry } from "./strtab.ts";
export { planRange, planSingle } from "./tlbi-range.ts";
export type { TlbiEmit } from "./tlbi-range.ts";
export { cdUsed, steSafe, steUsed } from "./used.ts";
export type { SafeBits, UsedBits } from "./used.ts";
