import { BOOT_DMA_PROPERTY, ERRNO } from "@smmuv3/platform";
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

/** State of a stream whose device is attached to `domain`; a device without one is blocked. */
function stateOf(domain: IommuDomain | undefined): number {
  return domain?.type === "identity" ? IOMMU_STATE.identity : IOMMU_STATE.blocking;
}

/**
 * A driver for one faux device, which stands for one IOMMU that EL2 owns. It knows no hardware: every translation change is
 * one hypercall per stream, and a device is a list of stream numbers from firmware.
 */
export function pkvmIommuDriver(ctx: KernelContext, core: IommuCore, options: PkvmIommuOptions): Driver {
  const { iommu, node } = options;

  const setState = (dev: Device, state: number, old: number): number => {
    const ids = core.fwspecOf(dev)?.ids ?? [];
    const set = (id: number, to: number): number =>
      hypercall(ctx.cpu, "__pkvm_iommu_set_state", iommu, id, IOMMU_NO_PASID, to);
    for (let i = 0; i < ids.length; i++) {
      const status = set(ids[i]!, state);
      if (status === 0) continue;
      // The streams of a device change together or not at all.
      while (--i >= 0) set(ids[i]!, old);
      return status;
    }
    return 0;
  };
  const fixedDomain = (type: "identity" | "blocked"): IommuDomain =>
    new IommuDomain({
      type,
      ops: { attachDev: (domain, dev, old) => setState(dev, stateOf(domain), stateOf(old)) },
    });

  const ops: IommuOps = {
    identityDomain: fixedDomain("identity"),
    blockedDomain: fixedDomain("blocked"),
    ofXlate: () => 0,
    // Asks for the state that the streams have since the take-over: a stream that EL2 does not have, or has no memory for, is
    // refused here, and attaching a device cannot fail later. DMA that is active at boot is not interrupted.
    probeDevice(dev) {
      const bootDma = dev.node?.properties[BOOT_DMA_PROPERTY] !== undefined;
      const state = bootDma ? IOMMU_STATE.identity : IOMMU_STATE.blocking;
      return setState(dev, state, state);
    },
    releaseDevice: () => {},
    deviceGroup: (dev) => core.genericGroup(dev),
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
