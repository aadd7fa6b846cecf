import { ERRNO } from "@smmuv3/platform";
import type { Device } from "@smmuv3/driver-core";
import { IommuDomain, PROT } from "@smmuv3/iommu-core";
import type {
  DomainOps, IommuCapability, IommuCore, IommuOps, Mm, PageRequest, PageResponse, ReservedRegion,
} from "@smmuv3/iommu-core";
import type { Backend, ImplOps } from "./impl.ts";
import { viommuOps } from "./iommufd.ts";
import { Master } from "./smmu.ts";
import type { SmmuDevice } from "./smmu.ts";

/** Where software maps MSI doorbells of devices that it gives away. */
const SW_MSI: ReservedRegion = { start: 0x0800_0000, length: 0x10_0000, prot: PROT.WRITE | PROT.NOEXEC | PROT.MMIO, type: "sw-msi" };

const HUAWEI = 0x19e5;
const HISILICON_PTT = 0xa12e;

/** How an answer ends the stall. */
const RESPONSES = { success: "retry", invalid: "abort", failure: "abort" } as const;

/** Memory that firmware wants `dev` to reach one to one. */
function rmrRegions(smmu: SmmuDevice, dev: Device): ReservedRegion[] {
  const ids = smmu.iommu.fwspecOf(dev)?.ids ?? [];
  return smmu.iommu.rmrsOf(smmu.node.name, ids).map(({ base, size, remapPermitted, privileged, attributes }) => ({
    start: base,
    length: size,
    prot:
      PROT.READ | PROT.WRITE |
      (privileged === true ? PROT.PRIV : 0) |
      (attributes === "device" ? PROT.MMIO : attributes === "write-back" ? PROT.CACHE : 0),
    type: remapPermitted === true ? "direct-relaxable" : "direct",
  }));
}

/** The domains that exist once for all SMMUs of a driver. */
export interface StaticDomains {
  readonly identity: IommuDomain;
  readonly blocked: IommuDomain;
}

export function createStaticDomains(iommu: IommuCore): StaticDomains {
  const domain = (
    type: "identity" | "blocked",
    attach: (backend: Backend, master: Master, old: IommuDomain | undefined) => number,
    pasids: Pick<DomainOps, "setDevPasid"> = {},
  ): IommuDomain =>
    new IommuDomain({
      type,
      ops: {
        attachDev(_, dev, old) {
          const master = iommu.drvdataOf(dev) as Master;
          const { backend } = master.smmu;
          return backend === undefined ? 0 : attach(backend, master, old);
        },
        ...pasids,
      },
    });
  return {
    identity: domain("identity", (backend, master, old) => backend.attachIdentity(master, old)),
    blocked: domain(
      "blocked",
      (backend, master) => {
        backend.attachBlocked(master);
        return 0;
      },
      {
        setDevPasid(_, dev, pasid) {
          const master = iommu.drvdataOf(dev) as Master;
          return master.smmu.backend?.blockPasid?.(master, pasid) ?? -ERRNO.EOPNOTSUPP;
        },
      },
    ),
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
export function createOps(smmu: SmmuDevice, backend: Backend, domains: StaticDomains, impl: ImplOps): IommuOps {
  const { iommu } = smmu;
  const masterOf = (dev: Device): Master | undefined => iommu.drvdataOf(dev) as Master | undefined;
  const capabilities: Readonly<Record<IommuCapability, (dev: Device) => boolean>> = {
    "cache-coherency": () => smmu.coherent,
    "enforce-cache-coherency": (dev) => masterOf(dev)?.canwbs === true,
    noexec: () => true,
    "deferred-flush": () => true,
    "dirty-tracking": () => backend.features?.hd === true && smmu.coherent,
    "pci-ats": (dev) => {
      const master = masterOf(dev);
      return master !== undefined && backend.atsSupported?.(master) === true;
    },
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
    ...(backend.allocPagingFlags === undefined
      ? {}
      : { domainAllocPagingFlags: (_: Device, flags: number) => backend.allocPagingFlags!(flags) }),
    ...(backend.allocSva === undefined ? {} : { domainAllocSva: (_: Device, mm: Mm) => backend.allocSva!(mm) }),
    ...(backend.resumeStall === undefined
      ? {}
      : {
          // The answer goes to the stream that asked; devices whose faults are served have one.
          pageResponse(dev: Device, { grpid, sid }: PageRequest, response: PageResponse) {
            const id = sid ?? masterOf(dev)?.sids[0];
            if (id !== undefined) backend.resumeStall!(id, grpid, RESPONSES[response]);
          },
        }),
    getResvRegions: (dev) => [SW_MSI, ...rmrRegions(smmu, dev)],
    // Its trace buffers are written with physical addresses.
    defDomainType: ({ pci }) => (pci?.vendor === HUAWEI && pci.device === HISILICON_PTT ? "identity" : undefined),
    capable: (dev, capability) => capabilities[capability](dev),
    ...viommuOps(smmu, backend, impl),
  };
}
