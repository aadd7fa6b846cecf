import { ERRNO, errnoName } from "@smmuv3/platform";
import type { ImplOps } from "@smmuv3/arm-smmu-v3";
import { probeFeatures } from "@smmuv3/arm-smmu-v3-common";
import { giveToHyp, translationLimits } from "@smmuv3/arm-smmu-v3-handoff";
import { DomainIds } from "@smmuv3/pkvm-iommu-lib";
import { PkvmBackend } from "./backend.ts";

export interface PkvmImplOptions {
  /** Offer domains that translate; those that EL2 does not have are not there either. Default false. */
  readonly paging?: boolean;
}

/**
 * pKVM as an implementation of arm-smmu-v3: the SMMU is given to EL2, which programs it on request. The kernel keeps probing,
 * StreamID ownership, interrupts and events; streams are identity mapped (below EL2's stage 2), blocked, or translated by
 * domains that EL2 keeps. Without an EL2 the driver uses the hardware itself.
 */
export function createPkvmImpl(options: PkvmImplOptions = {}): ImplOps {
  const ids = new DomainIds();
  return {
    name: "pKVM",
    probe(smmu) {
      const features = probeFeatures(smmu.window);
      if ("error" in features) return -ERRNO.ENODEV;
      const reg = { base: smmu.mmioBase, size: smmu.mmioBytes };
      const id = giveToHyp(smmu.kernel, { reg, features, coherent: smmu.coherent });
      const paging = options.paging === true ? { ids, limits: translationLimits(features) } : undefined;
      if (id >= 0) return new PkvmBackend(smmu, id, features.evtqLog2, paging);
      if (id !== -ERRNO.ENOSYS) smmu.log("err", `handing the SMMU to EL2: ${errnoName(id)}`);
      return id;
    },
  };
}
