import { HostKernel } from "@smmuv3/arch-common";
import type { BootKernel } from "@smmuv3/arch-common";
import { registerArmSmmuV3 } from "@smmuv3/arm-smmu-v3";

/** EL1: pKVM for VMs; the stock driver binds the SMMU. */
export const bootKernel: BootKernel = (cpu, firmware, options) => {
  const kernel = new HostKernel(cpu, firmware, options);
  kernel.addPkvm({ iommu: false, handoffs: [], accepted: () => 0 });
  kernel.ctx.core.initcall("device", "arm-smmu-v3", () => {
    registerArmSmmuV3(kernel.ctx, kernel.iommu);
    return 0;
  });
  return kernel.start();
};
