export { preferSecondary, repeatingSink, SelectingBatch, VCMDQ_GUEST_OPCODES } from "./batch.ts";
export type { BatchErrata, SelectQueue } from "./batch.ts";
export { clearCd, makeL1Cd, makeS1Cd, makeSvaCd } from "./cd.ts";
export type { CpuAddressSpace, Stage1, Sva } from "./cd.ts";
export { cdAddress, CDTAB_L2_BYTES, CDTAB_L2_CDS, cdtabGeometry, l1CdAddress, ssidInRange } from "./cdtab.ts";
export type { CdtabGeometry } from "./cdtab.ts";
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
export { ERRATA, featureMask, probeFeatures, supportsSva } from "./features.ts";
export type { CpuFeatures, Erratum, ErratumRow, FeatureError, SmmuFeatures, SystemFeatures } from "./features.ts";
export { Invalidator } from "./invalidate.ts";
export type { CommandCollector, InvalidatorOptions } from "./invalidate.ts";
export { INV, Invs, makeInvs, mergeInvs, purgeInvs, unrefInvs } from "./invs.ts";
export type { Inv, InvsAlloc, InvTag } from "./invs.ts";
export { checkVste, makeNestedSte, VSTE_WORDS } from "./nested.ts";
export type { Vste } from "./nested.ts";
export { BATCH_COMMANDS, CommandBatch, CommandQueue } from "./queue.ts";
export type { CommandQueueOptions } from "./queue.ts";
export { queueBase } from "./queue-ring.ts";
export type { CommandRing, CommandSink, RingOptions, SyncMethod } from "./queue-ring.ts";
export { RateLimit } from "./rate-limit.ts";
export { SharedCommandQueue, sharedQueueState } from "./shared-queue.ts";
export type { SharedQueueCounts, SharedQueueFlaws, SharedQueueOptions } from "./shared-queue.ts";
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
export { planRange, planRangeOver, planRangeSplit, planSingle } from "./tlbi-range.ts";
export type { TlbiEmit } from "./tlbi-range.ts";
export { cdUsed, steSafe, steUsed } from "./used.ts";
export type { SafeBits, UsedBits } from "./used.ts";
