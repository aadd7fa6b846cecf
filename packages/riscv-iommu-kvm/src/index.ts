export { RiscvIommuKvm } from "./handoff.ts";
export type { HypIommu, RiscvIommuKvmOptions } from "./handoff.ts";
