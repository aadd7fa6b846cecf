import type { Architecture } from "@smmuv3/arch-common";

export const architecture: Architecture = {
  name: "pkvm-unprotected",
  title: "pKVM protects the CPU, the stock driver owns the SMMU: DMA is not isolated",
  posted: true,
  el1: ["arm-smmu-v3"],
  el2: ["pkvm-hyp"],
};
