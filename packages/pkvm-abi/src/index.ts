export { GUEST_CALL, PVIOMMU_OP, SMCCC_INVALID_PARAMETER } from "./guest.ts";
export { HANDOFF_FIELDS, HANDOFF_FLAG, poolPages, readHandoff, writeHandoff } from "./handoff.ts";
export type { IommuHandoff } from "./handoff.ts";
export { abiHash } from "./hash.ts";
export { functionId, HYPERCALLS, hypercallName } from "./hypercalls.ts";
export type { HypercallClass, HypercallDef, HypercallName } from "./hypercalls.ts";
export {
  ABI_PROT,
  EVENT_QUEUE_OP,
  HOST_DOMAINS,
  IOMMU_DOMAIN_TYPE,
  IOMMU_NO_PASID,
  IOMMU_STATE,
  SG_ENTRY,
} from "./iommu.ts";
export type { IommuDomainType } from "./iommu.ts";
export {
  frameArg,
  frameResult,
  hypercall,
  hypercallFrame,
  setFrame,
  SMCCC_NOT_SUPPORTED,
  SMCCC_SUCCESS,
} from "./marshal.ts";
export { POOL, REQUEST, TOPUP_MAX_ORDER } from "./requests.ts";
export type { HypRequest } from "./requests.ts";
export { frameRequest, hypercallWithTopup, topupPool } from "./topup.ts";
export type { TopupPages } from "./topup.ts";
