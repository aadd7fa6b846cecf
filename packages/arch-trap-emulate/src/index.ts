import type { Architecture } from "@smmuv3/arch-common";

export const architecture: Architecture = {
  name: "trap-emulate",
  title: "EL2 emulates an SMMU by traps; the unmodified driver runs on it",
  posted: true,
  el1: ["arm-smmu-v3-handoff", "arm-smmu-v3-nesting", "arm-smmu-v3"],
  el2: ["pkvm-hyp", "pkvm-arm-smmu-v3"],
};
