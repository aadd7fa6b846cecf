import type { KernelContext } from "@smmuv3/driver-core";
import { SmmuHandoff } from "@smmuv3/arm-smmu-v3-handoff";

/** Id of the auxiliary devices; the SMMU driver's auxiliary entry is registered with it. */
export const EMULATED_SMMU_ID = "protected_kvm.smmu_v3_emu";

/**
 * The nesting driver of trap-and-emulate: hands the physical SMMU to EL2, which emulates one in its place, and makes an
 * auxiliary device below the physical one, to which the unmodified SMMU driver binds.
 */
export function createNesting(ctx: KernelContext): SmmuHandoff {
  return new SmmuHandoff(ctx, {
    name: "smmuv3-nesting",
    ready: (smmu) => {
      ctx.core.addDevice({
        name: `${EMULATED_SMMU_ID}.${smmu.iommu}`,
        bus: "auxiliary",
        id: EMULATED_SMMU_ID,
        parent: smmu.dev,
        // What the driver allocates for it is for the hardware below.
        dmaMaskBits: smmu.dev.dmaMaskBits,
      });
    },
  });
}
