import { HostKernel } from "@smmuv3/arch-common";
import type { BootKernel } from "@smmuv3/arch-common";
import { ArmSmmuV3 } from "@smmuv3/arm-smmu-v3";
import { createPkvmImpl, PkvmBackend } from "@smmuv3/arm-smmu-v3-impl-pkvm";
import { ERRNO } from "@smmuv3/platform";

/**
 * EL1: the one driver binds the physical SMMU after EL2 came up and before the host is deprivileged; its pKVM implementation
 * hands the SMMU over in probe. Where there is no protection the driver uses the hardware itself.
 */
export const bootKernel: BootKernel = (cpu, firmware, options) => {
  const kernel = new HostKernel(cpu, firmware, options);
  const { core } = kernel.ctx;
  const pkvm = createPkvmImpl({ paging: options?.paging === true });
  let released = false;
  const driver = new ArmSmmuV3(kernel.ctx, kernel.iommu, {
    impl: { ...pkvm, probe: (smmu) => (released ? -ERRNO.ENODEV : (pkvm.probe?.(smmu) ?? -ERRNO.ENODEV)) },
  });
  kernel.addPkvm({
    iommu: true,
    handoffs: [
      {
        handoff: () => 0,
        ready: () => {},
        release() {
          released = true;
        },
      },
    ],
    accepted: () => driver.smmus.filter(({ backend }) => backend instanceof PkvmBackend).length,
  });
  core.initcall("device", "arm-smmu-v3", () => {
    for (const entry of driver.drivers) core.registerDriver(entry);
    return 0;
  });
  return kernel.start();
};
