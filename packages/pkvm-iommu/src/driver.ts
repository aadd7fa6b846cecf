import { ERRNO } from "@smmuv3/platform";
import type { FirmwareNode } from "@smmuv3/platform";
import type { Device, Driver, KernelContext } from "@smmuv3/driver-core";
import type { IommuCore, IommuInstance, IommuOps } from "@smmuv3/iommu-core";
import { PvIommu } from "@smmuv3/pkvm-iommu-lib";
import type { PvPaging } from "@smmuv3/pkvm-iommu-lib";

export interface PkvmIommuOptions {
  /** EL2's number of the IOMMU. */
  readonly iommu: number;
  /** Firmware node of the physical IOMMU: clients name it, and it is where the instance is found. */
  readonly node: FirmwareNode;
  /** Offer domains that translate; those that EL2 does not have are not there either. */
  readonly paging?: PvPaging | undefined;
}

/**
 * A driver for one faux device, which stands for one IOMMU that EL2 owns. It knows no hardware: every translation change is
 * one hypercall per stream, and a device is a list of stream numbers from firmware.
 */
export function pkvmIommuDriver(ctx: KernelContext, core: IommuCore, options: PkvmIommuOptions): Driver {
  const { iommu, node, paging } = options;
  const pv = new PvIommu(ctx, {
    iommu,
    idsOf: (dev) => {
      const fwspec = core.fwspecOf(dev);
      return fwspec?.instance.ops === ops ? fwspec.ids : [];
    },
    paging,
  });
  const ops: IommuOps = {
    identityDomain: pv.identityDomain,
    blockedDomain: pv.blockedDomain,
    ofXlate: () => 0,
    probeDevice: (dev) => pv.probe(dev),
    releaseDevice: () => {},
    deviceGroup: (dev) => core.genericGroup(dev),
    ...(paging === undefined
      ? {}
      : {
          domainAllocPaging: (dev: Device) => pv.allocPaging(dev),
          // An unmap is complete on return; what the flush queue defers is the reuse of IOVAs.
          capable: (_: Device, capability: string) => capability === "deferred-flush",
        }),
  };

  let instance: IommuInstance | undefined;
  return {
    name: "pkvm-iommu",
    bus: "faux",
    ids: [],
    probe(dev) {
      if (instance !== undefined) return -ERRNO.EBUSY;
      const registered: IommuInstance = { name: `pkvm-iommu.${iommu}`, ops, dev, node };
      const status = core.register(registered);
      if (status === 0) instance = registered;
      return status;
    },
    remove() {
      if (instance !== undefined) core.unregister(instance);
      instance = undefined;
    },
  };
}

/** The device behind the IOMMU at firmware node `iommu` that has the stream `id`: whose fault it was. */
export function streamOwner(core: IommuCore, iommu: string, id: number): Device | undefined {
  const instance = core.instanceOf(iommu);
  if (instance === undefined) return undefined;
  return core.devicesOf(instance).find((dev) => core.fwspecOf(dev)?.ids.includes(id));
}
