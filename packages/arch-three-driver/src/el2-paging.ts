import type { StartHypervisor } from "@smmuv3/arch-common";
import { pagingDriver } from "@smmuv3/pkvm-arm-smmu-v3";
import { iommus, paging, passthrough, power, startHyp } from "@smmuv3/pkvm-hyp";

/**
 * EL2: owns the SMMUs; the host's streams get the identity map, nothing, or a domain that EL2 keeps, by hypercall. Devices can be
 * given to protected VMs, which have domains of their own.
 */
export const startHypervisor: StartHypervisor = (cpu, firmware) => {
  startHyp(cpu, { firmware, iommus: iommus(pagingDriver(cpu)), modules: [paging, power, passthrough()] });
};
