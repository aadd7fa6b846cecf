import type { Device } from "@smmuv3/driver-core";
import type { FirmwareNode } from "@smmuv3/platform";
import type { IommuDomain } from "./domain.ts";
import type { IommuGroup } from "./group.ts";
import type { PageRequest, PageResponse } from "./iopf.ts";
import type { Mm } from "./mm.ts";
import type { HwInfo, UserDataOut, Viommu } from "./viommu.ts";

/**
 * What a default domain does: translate for the DMA API, invalidating in each unmap ("dma", strict) or through a flush queue
 * ("dma-fq"), or pass through.
 */
export type DefaultDomainType = "dma" | "dma-fq" | "identity";

/** IOVAs that the DMA API must not hand out. */
export interface ReservedRegion {
  readonly start: number;
  /** Bytes. */
  readonly length: number;
  /** {@link PROT} of a `direct` region. */
  readonly prot: number;
  /**
   * `direct`: must always be mapped one to one (RMR); `direct-relaxable`: until its driver has taken over. `reserved`: never used. `msi`: untranslated doorbells. `sw-msi`: window where
   * software maps doorbells.
   */
  readonly type: "direct" | "direct-relaxable" | "reserved" | "msi" | "sw-msi";
}

/** Capabilities that {@link IommuOps.capable} may be asked for. */
export type IommuCapability =
  | "cache-coherency"
  | "enforce-cache-coherency"
  | "noexec"
  | "deferred-flush"
  | "dirty-tracking"
  | "pci-ats";

/** `struct iommu_ops`: what an IOMMU driver offers. */
export interface IommuOps {
  /** Accepts a StreamID of `dev` from firmware, before {@link probeDevice}; the core records it. 0 or a negative errno. */
  ofXlate(dev: Device, id: number): number;
  /** Sets up `dev` (its ids: `core.fwspecOf`, its state: `core.setDrvdata`). 0 or a negative errno. */
  probeDevice(dev: Device): number;
  /** Called after `dev` was moved to {@link releaseDomain} (or the blocked domain). Frees what probeDevice made. */
  releaseDevice(dev: Device): void;
  /** Group of `dev`: usually `core.genericGroup(dev)`; or a negative errno. */
  deviceGroup(dev: Device): IommuGroup | number;
  /** Static, shared by all devices, never fail to attach. */
  readonly identityDomain: IommuDomain;
  readonly blockedDomain: IommuDomain;
  /** Domain of a device that is going away; default: blocked. */
  readonly releaseDomain?: IommuDomain;
  /** New paging domain that `dev` can attach to, or a negative errno. */
  domainAllocPaging?(dev: Device): IommuDomain | number;
  /**
   * As {@link domainAllocPaging}, for what `flags` ({@link DOMAIN_FLAG}) say: -EOPNOTSUPP for what there is not. 0 asks for the
   * kind that {@link domainAllocPaging} gives.
   */
  domainAllocPagingFlags?(dev: Device, flags: number): IommuDomain | number;
  /** New domain over the tables of a process, for PASIDs of `dev`; or a negative errno. */
  domainAllocSva?(dev: Device, mm: Mm): IommuDomain | number;
  /** Answers a page request: `success` has the transaction tried again, the others end it. */
  pageResponse?(dev: Device, request: PageRequest, response: PageResponse): void;
  /** Demands a default domain type for `dev`. */
  defDomainType?(dev: Device): DefaultDomainType | undefined;
  getResvRegions?(dev: Device): readonly ReservedRegion[];
  capable?(dev: Device, capability: IommuCapability): boolean;
  /** What user space may know of the IOMMU of `dev`; `type` 0: the usual. Or -EOPNOTSUPP. */
  hwInfo?(dev: Device, type: number): HwInfo | number;
  /** Bytes of what the driver keeps for a vIOMMU of `type`; 0: it has none of that type for `dev`. Goes with {@link viommuInit}. */
  getViommuSize?(dev: Device, type: number): number;
  /** Sets up a vIOMMU, its `ops` above all. 0 or a negative errno. */
  viommuInit?(viommu: Viommu, data: UserDataOut | undefined): number;
}

/** A registered IOMMU. */
export interface IommuInstance {
  /** Name in `class/iommu`, e.g. `smmu3.0x9050000`. */
  readonly name: string;
  readonly ops: IommuOps;
  /** Device that sysfs shows it below. */
  readonly dev: Device;
  /** PASIDs that it has, from 0 on; no limit unless given. */
  readonly maxPasids?: number;
  /** The node that clients' `iommus` properties name. */
  readonly node: FirmwareNode;
}

/** Which streams of which IOMMU a device is behind. */
export interface Fwspec {
  readonly instance: IommuInstance;
  /** StreamIDs. */
  readonly ids: readonly number[];
}

/** A fault that a driver reports. */
export interface IommuFault {
  /** e.g. the event's name `F_TRANSLATION`. */
  readonly reason: string;
  readonly iova?: number;
  readonly sid?: number;
  readonly ssid?: number;
  readonly write?: boolean;
  /** The driver's own record. */
  readonly detail?: unknown;
}

/** A fault as it was recorded. */
export interface FaultReport {
  /** ns since reset. */
  readonly time: number;
  /** Device that caused it, when known. */
  readonly dev: Device | undefined;
  readonly fault: IommuFault;
}
