import type { StartHypervisor } from "@smmuv3/arch-common";
import { emulationDriver } from "@smmuv3/pkvm-arm-smmu-v3";
import { iommus, startHyp } from "@smmuv3/pkvm-hyp";

/** EL2: owns the SMMUs; the host sees emulated ones, whose translation is nested on the identity map. */
export const startHypervisor: StartHypervisor = (cpu, firmware) => {
  startHyp(cpu, { firmware, iommus: iommus(emulationDriver(cpu)) });
};
