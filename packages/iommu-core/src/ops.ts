import type { Device } from "@smmuv3/driver-core";
import type { FirmwareNode } from "@smmuv3/platform";
import type { IommuDomain } from "./domain.ts";
import type { IommuGroup } from "./group.ts";

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
   * `direct`: must always be mapped one to one (RMR). `reserved`: never used. `msi`: untranslated doorbells. `sw-msi`: window where
   * software maps doorbells.
   */
  readonly type: "direct" | "reserved" | "msi" | "sw-msi";
}

/** Capabilities that {@link IommuOps.capable} may be asked for. */
export type IommuCapability = "cache-coherency" | "noexec" | "deferred-flush" | "dirty-tracking" | "pci-ats";

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
  /** Demands a default domain type for `dev`. */
  defDomainType?(dev: Device): DefaultDomainType | undefined;
  getResvRegions?(dev: Device): readonly ReservedRegion[];
  capable?(dev: Device, capability: IommuCapability): boolean;
}

/** A registered IOMMU. */
export interface IommuInstance {
  /** Name in `class/iommu`, e.g. `smmu3.0x9050000`. */
  readonly name: string;
  readonly ops: IommuOps;
  /** Device that sysfs shows it below. */
  readonly dev: Device;
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
