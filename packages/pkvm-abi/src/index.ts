export { HANDOFF_FIELDS, HANDOFF_FLAG, poolPages, readHandoff, writeHandoff } from "./handoff.ts";
export type { IommuHandoff } from "./handoff.ts";
export { abiHash } from "./hash.ts";
export {
  EVENT_QUEUE_OP,
  functionId,
  HYPERCALLS,
  hypercallName,
  IOMMU_NO_PASID,
  IOMMU_STATE,
} from "./hypercalls.ts";
export type { HypercallClass, HypercallDef, HypercallName } from "./hypercalls.ts";
export {
  frameArg,
  frameResult,
  hypercall,
  setFrame,
  SMCCC_NOT_SUPPORTED,
  SMCCC_SUCCESS,
} from "./marshal.ts";
