import type { Architecture } from "@smmuv3/arch-common";

export const architecture: Architecture = {
  name: "single-driver",
  title: "one driver with impl_ops; EL2 owns the SMMU, hypercalls set its state",
  posted: false,
  el1: ["arm-smmu-v3", "arm-smmu-v3-impl-pkvm", "arm-smmu-v3-handoff", "pkvm-iommu-lib"],
  el2: ["pkvm-hyp", "pkvm-arm-smmu-v3"],
};
