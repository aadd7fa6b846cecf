import type { Architecture } from "@smmuv3/arch-common";

export const architecture: Architecture = {
  name: "three-driver",
  title: "EL2 driver, untrusted half, paravirtual driver on a faux device",
  posted: false,
  el1: ["arm-smmu-v3-handoff", "arm-smmu-v3-kvm", "pkvm-iommu", "pkvm-iommu-lib", "arm-smmu-v3"],
  el2: ["pkvm-hyp", "pkvm-arm-smmu-v3"],
};
