import { ERRNO } from "@smmuv3/platform";
import type { FirmwareNode } from "@smmuv3/platform";
import type { Device, Driver, KernelContext } from "@smmuv3/driver-core";
import { IommuDomain } from "@smmuv3/iommu-core";
import type { IommuCore, IommuInstance, IommuOps } from "@smmuv3/iommu-core";
import { hypercall, IOMMU_NO_PASID, IOMMU_STATE } from "@smmuv3/pkvm-abi";

export interface PkvmIommuOptions {
  /** EL2's number of the IOMMU. */
  readonly iommu: number;
  /** Firmware node of the physical IOMMU: clients name it, and it is where the instance is found. */
  readonly node: FirmwareNode;
}

/**
 * A driver for one faux device, which stands for one IOMMU that EL2 owns. It knows no hardware: every translation change is
 * one hypercall, and a device is a list of stream numbers from firmware.
 */
export function pkvmIommuDriver(ctx: KernelContext, core: IommuCore, options: PkvmIommuOptions): Driver {
  const { iommu, node } = options;

  const setState = (dev: Device, state: number): number => {
    const ids = core.fwspecOf(dev)?.ids ?? [];
    for (const id of ids) {
      const status = hypercall(ctx.cpu, "__pkvm_iommu_set_state", iommu, id, IOMMU_NO_PASID, state);
      if (status < 0) return status;
    }
    return 0;
  };
  const fixedDomain = (type: "identity" | "blocked", state: number): IommuDomain =>
    new IommuDomain({ type, ops: { attachDev: (_domain, dev) => setState(dev, state) } });

  const ops: IommuOps = {
    identityDomain: fixedDomain("identity", IOMMU_STATE.identity),
    blockedDomain: fixedDomain("blocked", IOMMU_STATE.blocking),
    ofXlate: () => 0,
    // EL2 refuses a stream that it does not have; asking for what every stream is in after take-over changes nothing.
    probeDevice: (dev) => setState(dev, IOMMU_STATE.blocking),
    releaseDevice: () => {},
    deviceGroup: (dev) => core.genericGroup(dev),
  };

  const registered = new Map<Device, IommuInstance>();
  return {
    name: "pkvm-iommu",
    bus: "faux",
    ids: [],
    probe(dev) {
      if (registered.size > 0) return -ERRNO.EBUSY;
      const instance: IommuInstance = { name: `pkvm-iommu.${iommu}`, ops, dev, node };
      registered.set(dev, instance);
      core.register(instance);
      return 0;
    },
    remove(dev) {
      const instance = registered.get(dev);
      if (instance !== undefined) core.unregister(instance);
      registered.delete(dev);
    },
  };
}
