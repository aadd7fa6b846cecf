import { HostKernel } from "@smmuv3/arch-common";
import type { BootKernel } from "@smmuv3/arch-common";
import { registerArmSmmuV3 } from "@smmuv3/arm-smmu-v3";
import { createKvmDriver } from "@smmuv3/arm-smmu-v3-kvm-driver";

/**
 * EL1: a driver of its own claims the physical SMMU first, hands it to EL2 and registers it with the IOMMU core once the host is
 * deprivileged. The stock driver binds the hardware only if EL2 did not come up.
 */
export const bootKernel: BootKernel = (cpu, firmware, options) => {
  const kernel = new HostKernel(cpu, firmware, options);
  const handoff = createKvmDriver(kernel.ctx, kernel.iommu);
  kernel.ctx.core.initcall("core", "kvm-arm-smmu-v3", () => {
    handoff.register();
    return 0;
  });
  kernel.addPkvm({
    iommu: true,
    handoffs: [handoff],
    accepted: () => handoff.accepted,
  });
  kernel.ctx.core.initcall("device", "arm-smmu-v3", () => {
    registerArmSmmuV3(kernel.ctx, kernel.iommu);
    return 0;
  });
  return kernel.start();
};
