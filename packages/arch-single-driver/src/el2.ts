import type { StartHypervisor } from "@smmuv3/arch-common";
import { identityDriver } from "@smmuv3/pkvm-arm-smmu-v3";
import { iommus, startHyp } from "@smmuv3/pkvm-hyp";

/** EL2: owns the SMMUs; the host's streams get the identity map or nothing, by hypercall. */
export const startHypervisor: StartHypervisor = (cpu, firmware) => {
  startHyp(cpu, { firmware, iommus: iommus(identityDriver(cpu)) });
};
