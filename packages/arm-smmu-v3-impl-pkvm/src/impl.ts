import { ERRNO, errnoName } from "@smmuv3/platform";
import type { ImplOps } from "@smmuv3/arm-smmu-v3";
import { probeFeatures } from "@smmuv3/arm-smmu-v3-common";
import { giveToHyp } from "@smmuv3/arm-smmu-v3-handoff";
import { PkvmBackend } from "./backend.ts";

/**
 * pKVM as an implementation of arm-smmu-v3: the SMMU is given to EL2, which programs it on request. The kernel keeps probing,
 * StreamID ownership, interrupts and events; streams are identity mapped (below EL2's stage 2) or blocked. Without an EL2 the
 * driver uses the hardware itself.
 */
export function createPkvmImpl(): ImplOps {
  return {
    name: "pKVM",
    probe(smmu) {
      const features = probeFeatures(smmu.window);
      if ("error" in features) return -ERRNO.ENODEV;
      const reg = { base: smmu.mmioBase, size: smmu.mmioBytes };
      const id = giveToHyp(smmu.kernel, { reg, features, coherent: smmu.coherent });
      if (id >= 0) return new PkvmBackend(smmu, id, features.evtqLog2);
      if (id !== -ERRNO.ENOSYS) smmu.log("err", `handing the SMMU to EL2: ${errnoName(id)}`);
      return id;
    },
  };
}
