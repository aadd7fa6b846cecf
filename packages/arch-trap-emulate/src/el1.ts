import { HostKernel } from "@smmuv3/arch-common";
import type { BootKernel } from "@smmuv3/arch-common";
import { registerArmSmmuV3 } from "@smmuv3/arm-smmu-v3";
import { createNesting, EMULATED_SMMU_ID } from "@smmuv3/arm-smmu-v3-nesting";

/**
 * EL1: the nesting driver claims the physical SMMU at subsys level and hands it to EL2; the unmodified driver binds the
 * auxiliary device that appears once the host is deprivileged, or the physical one if EL2 did not come up.
 */
export const bootKernel: BootKernel = (cpu, firmware, options) => {
  const kernel = new HostKernel(cpu, firmware, options);
  const nesting = createNesting(kernel.ctx);
  kernel.ctx.core.initcall("subsys", "smmuv3-nesting", () => {
    nesting.register();
    return 0;
  });
  kernel.addPkvm({
    iommu: true,
    handoffs: [nesting],
    accepted: () => nesting.accepted,
  });
  kernel.ctx.core.initcall("device", "arm-smmu-v3", () => {
    registerArmSmmuV3(kernel.ctx, kernel.iommu, { auxiliaryId: EMULATED_SMMU_ID });
    return 0;
  });
  return kernel.start();
};
