import { errnoName, hex } from "@smmuv3/platform";
import { decodeEvent } from "@smmuv3/arm-smmu-v3-common";
import { EventChannel, SmmuHandoff } from "@smmuv3/arm-smmu-v3-handoff";
import type { ClaimedSmmu } from "@smmuv3/arm-smmu-v3-handoff";
import type { KernelContext } from "@smmuv3/driver-core";
import type { IommuCore, IommuInstance, IommuOps, ReservedRegion } from "@smmuv3/iommu-core";
import { PvIommu } from "@smmuv3/pkvm-iommu-lib";

const NAME = "kvm-arm-smmu-v3";
/** Where software maps MSI doorbells of devices that it gives away. */
const SW_MSI: ReservedRegion = { start: 0x0800_0000, length: 0x10_0000, prot: 0, type: "sw-msi" };

/** `iommu_ops` of one SMMU: identity and blocked, by hypercall. */
function createOps(ctx: KernelContext, core: IommuCore, { iommu }: ClaimedSmmu): IommuOps {
  const pv = new PvIommu(ctx, { iommu, idsOf: (dev) => core.fwspecOf(dev)?.ids ?? [] });
  return {
    identityDomain: pv.identityDomain,
    blockedDomain: pv.blockedDomain,
    ofXlate: () => 0,
    probeDevice: (dev) => pv.probe(dev),
    releaseDevice: () => {},
    deviceGroup: (dev) => core.genericGroup(dev),
    defDomainType: () => "identity",
    getResvRegions: () => [SW_MSI],
  };
}

/** Reports the events of `smmu` as faults of the devices behind it. An SMMU without an event queue works all the same. */
function startEvents(ctx: KernelContext, core: IommuCore, smmu: ClaimedSmmu, instance: IommuInstance): void {
  const channel = new EventChannel(ctx, NAME, smmu, (record) => {
    const event = decodeEvent(record);
    const devices = core.devicesOf(instance);
    core.reportFault(devices.find((dev) => core.fwspecOf(dev)?.ids.includes(event.sid)), event);
  });
  const status = channel.start();
  if (status < 0) ctx.log.warn(`${NAME} ${smmu.node.name}: no event queue: ${errnoName(status)}`);
}

/**
 * A second SMMUv3 driver of the kernel. It binds the physical SMMUs, gives them to EL2, and registers each with the IOMMU core,
 * on the physical device, with operations of its own; the hypercalls are a library. Streams are identity mapped or blocked.
 */
export function createKvmDriver(ctx: KernelContext, core: IommuCore): SmmuHandoff {
  const instances = new Map<ClaimedSmmu, IommuInstance>();
  return new SmmuHandoff(ctx, {
    name: NAME,
    ready(smmu) {
      const { dev, node } = smmu;
      const name = `smmu3.${hex(node.reg[0]?.base ?? 0)}`;
      const instance: IommuInstance = { name, ops: createOps(ctx, core, smmu), dev, node };
      const status = core.register(instance);
      if (status < 0) {
        ctx.log.err(`${NAME} ${node.name}: ${errnoName(status)}`);
        return;
      }
      instances.set(smmu, instance);
      startEvents(ctx, core, smmu, instance);
    },
    gone(smmu) {
      const instance = instances.get(smmu);
      if (instance !== undefined) core.unregister(instance);
      instances.delete(smmu);
    },
  });
}
