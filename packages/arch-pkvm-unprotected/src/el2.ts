import type { StartHypervisor } from "@smmuv3/arch-common";
import { startHyp } from "@smmuv3/pkvm-hyp";

/** EL2: page ownership and VMs; no IOMMU. */
export const startHypervisor: StartHypervisor = (cpu, firmware) => {
  startHyp(cpu, { firmware });
};
