import { HostKernel } from "@smmuv3/arch-common";
import type { BootKernel } from "@smmuv3/arch-common";
import { registerArmSmmuV3 } from "@smmuv3/arm-smmu-v3";
import { createSmmuKvm } from "@smmuv3/arm-smmu-v3-kvm";
import { pkvmIommuDriver, streamOwner } from "@smmuv3/pkvm-iommu";
import type { PkvmIommuOptions } from "@smmuv3/pkvm-iommu";
import { DomainIds } from "@smmuv3/pkvm-iommu-lib";
import type { PagingLimits } from "@smmuv3/pkvm-iommu-lib";
import type { Driver } from "@smmuv3/driver-core";
import { RiscvIommuKvm } from "@smmuv3/riscv-iommu-kvm";

/**
 * EL1: an untrusted half for each vendor claims its hardware and hands it to EL2; faux devices of both are bound by the same
 * paravirtual driver, which is told nothing of the vendor.
 */
export const bootKernel: BootKernel = (cpu, firmware, options) => {
  const kernel = new HostKernel(cpu, firmware, options);
  const ids = new DomainIds();
  const fauxDriver = ({ iommu, node, limits }: Pick<PkvmIommuOptions, "iommu" | "node"> & { limits: PagingLimits }): Driver =>
    pkvmIommuDriver(kernel.ctx, kernel.iommu, {
      iommu,
      node,
      paging: options?.paging === true ? { ids, limits } : undefined,
    });
  const smmu = createSmmuKvm(kernel.ctx, {
    fauxDriver,
    onEvent: ({ node }, event) => {
      kernel.iommu.reportFault(streamOwner(kernel.iommu, node.name, event.sid), event);
    },
  });
  const riscv = new RiscvIommuKvm(kernel.ctx, {
    fauxDriver,
    onFault: ({ node }, { cause, did, iotval }) => {
      const fault = { reason: `cause ${cause}`, sid: did, iova: iotval };
      kernel.iommu.reportFault(streamOwner(kernel.iommu, node.name, did), fault);
    },
  });
  kernel.ctx.core.initcall("subsys", "iommu-halves", () => {
    smmu.handoff.register();
    riscv.register();
    return 0;
  });
  kernel.addPkvm({
    iommu: true,
    handoffs: [smmu.handoff, riscv],
    accepted: () => smmu.handoff.accepted + riscv.accepted,
  });
  kernel.ctx.core.initcall("device", "arm-smmu-v3", () => {
    registerArmSmmuV3(kernel.ctx, kernel.iommu);
    return 0;
  });
  return kernel.start();
};
