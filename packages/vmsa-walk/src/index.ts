export { attributesOf, combineAttributes, SH } from "./attributes.ts";
export { ADDRESS_BITS, GRANULE, GRANULES } from "./granule.ts";
export type { GranuleShape } from "./granule.ts";
export { Stage1Walker } from "./stage1.ts";
export { FAULT_CLASS, HALF, STAGE1 } from "./stage1-flags.ts";
export { STAGE2, Stage2Walker } from "./stage2.ts";
export { PERM, WALK } from "./status.ts";
export type { WalkStatus } from "./status.ts";
export type { WalkTrace, WalkUpdate } from "./tables.ts";
