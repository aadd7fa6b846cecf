import { HostKernel } from "@smmuv3/arch-common";
import type { BootKernel } from "@smmuv3/arch-common";
import { registerArmSmmuV3 } from "@smmuv3/arm-smmu-v3";
import { createSmmuKvm } from "@smmuv3/arm-smmu-v3-kvm";
import { pkvmIommuDriver, streamOwner } from "@smmuv3/pkvm-iommu";
import { DomainIds } from "@smmuv3/pkvm-iommu-lib";

/**
 * EL1: the untrusted half claims the physical SMMU at subsys level and hands it to EL2; the paravirtual driver binds the
 * faux device that appears once the host is deprivileged. The stock driver binds the hardware only if EL2 did not come up.
 */
export const bootKernel: BootKernel = (cpu, firmware, options) => {
  const kernel = new HostKernel(cpu, firmware, options);
  const ids = new DomainIds();
  const { handoff } = createSmmuKvm(kernel.ctx, {
    fauxDriver: ({ iommu, node, limits }) =>
      pkvmIommuDriver(kernel.ctx, kernel.iommu, {
        iommu,
        node,
        paging: options?.paging === true ? { ids, limits } : undefined,
      }),
    onEvent: ({ node }, event) => {
      kernel.iommu.reportFault(streamOwner(kernel.iommu, node.name, event.sid), event);
    },
  });
  kernel.ctx.core.initcall("subsys", "arm-smmu-v3-kvm", () => {
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
