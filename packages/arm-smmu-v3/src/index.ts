export { ArmSmmuV3, registerArmSmmuV3 } from "./driver.ts";
export type { ArmSmmuV3Options } from "./driver.ts";
export { PagingDomain, SmmuDomain } from "./domain.ts";
export type { Attachment, DomainHost } from "./domain.ts";
export type { Backend, ImplOps, InterruptHandlers } from "./impl.ts";
export { NativeBackend } from "./native.ts";
export type { NestedAttach } from "./native.ts";
export type { KernelCpu, SmmuParamOptions, SmmuParams } from "./params.ts";
export { Master, SmmuDevice } from "./smmu.ts";
export type { RidState, SmmuQuirks } from "./smmu.ts";
export { Tegra241Impl } from "./tegra241.ts";
export type { Tegra241Options } from "./tegra241.ts";
export { SvaDomain } from "./sva-domain.ts";
export {
  HW_INFO_ARM_SMMUV3, HW_INFO_REPEAT_TLBI_CFGI, INVALIDATE_ARM_SMMUV3, VEVENTQ_ARM_SMMUV3, VIOMMU_ARM_SMMUV3,
} from "./iommufd.ts";
export { HWPT_DATA_ARM_SMMUV3, NestedDomain } from "./nested-domain.ts";
export { HW_INFO_TEGRA241, HW_QUEUE_TEGRA241, VEVENTQ_TEGRA241, VIOMMU_TEGRA241 } from "./tegra241-viommu.ts";
