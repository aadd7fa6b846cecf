import type { StartHypervisor } from "@smmuv3/arch-common";
import { pagingDriver } from "@smmuv3/pkvm-arm-smmu-v3";
import { iommus, paging, startHyp } from "@smmuv3/pkvm-hyp";
import { riscvIommuDriver } from "@smmuv3/pkvm-riscv-iommu";

/** EL2: owns the IOMMUs of both vendors; streams get the identity map, nothing, or a domain that EL2 keeps, by hypercall. */
export const startHypervisor: StartHypervisor = (cpu, firmware) => {
  startHyp(cpu, { firmware, iommus: iommus(pagingDriver(cpu), riscvIommuDriver()), modules: [paging] });
};
