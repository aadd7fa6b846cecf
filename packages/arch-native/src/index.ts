import type { Architecture } from "@smmuv3/arch-common";

export const architecture: Architecture = {
  name: "native",
  title: "the stock driver owns the SMMU; no hypervisor",
  posted: true,
  el1: ["arm-smmu-v3"],
  el2: [],
};
