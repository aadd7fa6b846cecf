import { errnoName } from "@smmuv3/platform";
import { decodeEvent } from "@smmuv3/arm-smmu-v3-common";
import type { SmmuEvent } from "@smmuv3/arm-smmu-v3-common";
import { EventChannel, SmmuHandoff } from "@smmuv3/arm-smmu-v3-handoff";
import type { ClaimedSmmu } from "@smmuv3/arm-smmu-v3-handoff";
import type { Device, Driver, KernelContext } from "@smmuv3/driver-core";

export interface SmmuKvmOptions {
  /** Driver of the faux device that stands for an SMMU at EL2; its package is none of ours. */
  readonly fauxDriver: (smmu: ClaimedSmmu) => Driver;
  /** Called for every event that the hardware reports. */
  readonly onEvent: (smmu: ClaimedSmmu, event: SmmuEvent) => void;
}

/** The untrusted half of the three-driver design. */
export interface SmmuKvm {
  readonly handoff: SmmuHandoff;
  /** Faux devices, one for each SMMU that EL2 accepted. */
  readonly fauxDevices: readonly Device[];
}

/**
 * Binds the physical SMMUs, hands them to EL2 and makes a faux device for each that EL2 accepted. It never registers with the
 * IOMMU core. Event queues live in host memory, shared with EL2, and are drained here; without one the SMMU works all the same.
 */
export function createSmmuKvm(ctx: KernelContext, options: SmmuKvmOptions): SmmuKvm {
  const fauxDevices: Device[] = [];
  const handoff = new SmmuHandoff(ctx, {
    name: "arm-smmu-v3-kvm",
    ready: (smmu) => {
      const channel = new EventChannel(ctx, "arm-smmu-v3-kvm", smmu, (record) => {
        options.onEvent(smmu, decodeEvent(record));
      });
      const status = channel.start();
      if (status < 0) ctx.log.warn(`arm-smmu-v3-kvm ${smmu.node.name}: no event queue: ${errnoName(status)}`);
      const name = `pkvm-iommu.${smmu.iommu}`;
      const faux = ctx.core.addFaux({ name, driver: options.fauxDriver(smmu), parent: smmu.dev });
      if (faux !== undefined) fauxDevices.push(faux);
    },
  });
  return { handoff, fauxDevices };
}
