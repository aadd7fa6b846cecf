export type { RvProfile } from "./cache.ts";
export { RiscvIommu } from "./model.ts";
export type { RiscvIommuOptions } from "./model.ts";
