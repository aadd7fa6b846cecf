import type { Device } from "@smmuv3/driver-core";
import type { IommuDomain } from "./domain.ts";
import type { IopfGroup } from "./iopf.ts";
import type { IommuInstance } from "./ops.ts";

/** Devices that the IOMMU cannot tell apart: they share one domain. */
export class IommuGroup {
  readonly id: number;
  readonly instance: IommuInstance;
  readonly devices: Device[] = [];
  /** Domain that the devices are attached to. */
  domain: IommuDomain | undefined = undefined;
  /** Domain of the kernel's DMA API. */
  defaultDomain: IommuDomain | undefined = undefined;
  /** Who took the group from the DMA API (VFIO, a hypervisor); `undefined` while drivers may bind. */
  owner: string | undefined = undefined;

  constructor(id: number, instance: IommuInstance) {
    this.id = id;
    this.instance = instance;
  }

  /** Place in sysfs. */
  get path(): string {
    return `kernel/iommu_groups/${this.id}`;
  }
}

/** The core's state of one device behind an IOMMU (`struct dev_iommu`). */
export interface DeviceIommu {
  readonly instance: IommuInstance;
  readonly ids: number[];
  /** Set once the device was probed. */
  group: IommuGroup | undefined;
  /** Domains attached by PASID. */
  readonly pasids: Map<number, IommuDomain>;
  /** Page requests that wait for an answer. */
  readonly iopf: Set<IopfGroup>;
  /** Firmware wants it to reach memory one to one at all times: it is never blocked by its users. */
  requireDirect: boolean;
  /** The IOMMU driver's own data. */
  drvdata: unknown;
}

/** State of `dev`; `undefined` when no IOMMU is in front of it. */
export function deviceIommu(dev: Device): DeviceIommu | undefined {
  return dev.iommu as DeviceIommu | undefined;
}
