import { HostKernel } from "@smmuv3/arch-common";
import type { BootKernel } from "@smmuv3/arch-common";
import { registerArmSmmuV3 } from "@smmuv3/arm-smmu-v3";

/** EL1: the stock driver binds the SMMU. */
export const bootKernel: BootKernel = (cpu, firmware, options) => {
  const kernel = new HostKernel(cpu, firmware, options);
  kernel.ctx.core.initcall("device", "arm-smmu-v3", () => {
    registerArmSmmuV3(kernel.ctx, kernel.iommu);
    return 0;
  });
  return kernel.start();
};
