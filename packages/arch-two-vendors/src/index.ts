import type { Architecture } from "@smmuv3/arch-common";

export const architecture: Architecture = {
  name: "two-vendors",
  title: "three-driver with a second vendor: one paravirtual driver for an SMMUv3 and a RISC-V IOMMU",
  posted: false,
  el1: ["arm-smmu-v3-handoff", "arm-smmu-v3-kvm", "riscv-iommu-kvm", "pkvm-iommu", "pkvm-iommu-lib", "arm-smmu-v3"],
  el2: ["pkvm-hyp", "pkvm-arm-smmu-v3", "pkvm-riscv-iommu"],
};
