import { ERRNO } from "@smmuv3/platform";
import type { Device } from "@smmuv3/driver-core";
import { IommuDomain } from "@smmuv3/iommu-core";
import type { IommuCapability, IommuCore, IommuOps, ReservedRegion } from "@smmuv3/iommu-core";
import type { Backend } from "./impl.ts";
import { Master } from "./smmu.ts";
import type { SmmuDevice } from "./smmu.ts";

/** Where software maps MSI doorbells of devices that it gives away. */
const SW_MSI: ReservedRegion = { start: 0x0800_0000, length: 0x10_0000, prot: 0, type: "sw-msi" };

/** The domains that exist once for all SMMUs of a driver. */
export interface StaticDomains {
  readonly identity: IommuDomain;
  readonly blocked: IommuDomain;
}

export function createStaticDomains(iommu: IommuCore): StaticDomains {
  const domain = (type: "identity" | "blocked", attach: (backend: Backend, master: Master) => void): IommuDomain =>
    new IommuDomain({
      type,
      ops: {
        attachDev(_, dev) {
          const master = iommu.drvdataOf(dev) as Master;
          if (master.smmu.backend !== undefined) attach(master.smmu.backend, master);
          return 0;
        },
      },
    });
  return {
    identity: domain("identity", (backend, master) => {
      backend.attachIdentity(master);
    }),
    blocked: domain("blocked", (backend, master) => {
      backend.attachBlocked(master);
    }),
  };
}

/** Claims the streams of `dev`. A Master, or a negative errno with nothing claimed. */
function claimStreams(smmu: SmmuDevice, backend: Backend, dev: Device): Master | number {
  const ids = smmu.iommu.fwspecOf(dev)?.ids ?? [];
  if (ids.length === 0) return -ERRNO.ENODEV;
  const sids = [...new Set(ids)].sort((a, b) => a - b);
  for (const sid of sids) {
    const owner = smmu.masters.get(sid);
    if (owner !== undefined) {
      smmu.log("warn", `${dev.name}: stream ${sid} belongs to ${owner.dev.name}`);
      return -ERRNO.ENODEV;
    }
  }
  const master = new Master(smmu, dev, sids);
  const status = backend.addMaster(master);
  if (status < 0) return status;
  for (const sid of sids) smmu.masters.set(sid, master);
  return master;
}

/** `iommu_ops` of one SMMU. */
export function createOps(smmu: SmmuDevice, backend: Backend, domains: StaticDomains): IommuOps {
  const { iommu } = smmu;
  const capabilities: Readonly<Record<IommuCapability, boolean>> = {
    "cache-coherency": smmu.coherent,
    noexec: true,
    "deferred-flush": true,
    "dirty-tracking": false,
    "pci-ats": false,
  };
  return {
    identityDomain: domains.identity,
    blockedDomain: domains.blocked,
    ofXlate: () => 0,
    probeDevice(dev) {
      if (iommu.drvdataOf(dev) !== undefined) return -ERRNO.EBUSY;
      const master = claimStreams(smmu, backend, dev);
      if (typeof master === "number") return master;
      iommu.setDrvdata(dev, master);
      return 0;
    },
    releaseDevice(dev) {
      const master = iommu.drvdataOf(dev) as Master;
      for (const sid of master.sids) smmu.masters.delete(sid);
      backend.removeMaster?.(master);
    },
    deviceGroup: (dev) => iommu.genericGroup(dev),
    ...(backend.allocPaging === undefined ? {} : { domainAllocPaging: (dev: Device) => backend.allocPaging!(dev) }),
    getResvRegions: () => [SW_MSI],
    capable: (_, capability) => capabilities[capability],
  };
}
