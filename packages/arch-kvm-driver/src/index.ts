import type { Architecture } from "@smmuv3/arch-common";

export const architecture: Architecture = {
  name: "kvm-driver",
  title: "a second SMMU driver in the kernel; hypercalls are a library",
  posted: true,
  el1: ["arm-smmu-v3-handoff", "arm-smmu-v3-kvm-driver", "pkvm-iommu-lib", "arm-smmu-v3"],
  el2: ["pkvm-hyp", "pkvm-arm-smmu-v3"],
};
