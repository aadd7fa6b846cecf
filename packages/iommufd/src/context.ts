import type { Device } from "@smmuv3/driver-core";
import type { IommuCore, IommuGroup, UserData } from "@smmuv3/iommu-core";
import { UAPI_ERRNO } from "./errno.ts";
import { DeviceGroup, IommufdDevice } from "./device.ts";
import { FileTable } from "./files.ts";
import { ObjectTable } from "./objects.ts";
import type { UserMemory } from "./user-memory.ts";
import { ViommuServices } from "./viommu.ts";

export interface IommufdOptions {
  /** A vIOMMU of type 0, which wraps a page table and does nothing else, can be made of every IOMMU; upstream it cannot. */
  readonly defaultViommu?: boolean;
}

/** What the requests of one file work on. */
export class Context {
  readonly core: IommuCore;
  readonly user: UserMemory;
  readonly options: IommufdOptions;
  readonly objects: ObjectTable = new ObjectTable();
  readonly files: FileTable = new FileTable();
  readonly services: ViommuServices = new ViommuServices(this.objects);
  readonly #groups = new Map<IommuGroup, DeviceGroup>();

  constructor(core: IommuCore, user: UserMemory, options: IommufdOptions) {
    this.core = core;
    this.user = user;
    this.options = options;
  }

  /** Devices of a group share. */
  groupOf(group: IommuGroup): DeviceGroup {
    const known = this.#groups.get(group);
    if (known !== undefined) return known;
    const shared = new DeviceGroup(group);
    this.#groups.set(group, shared);
    return shared;
  }

  forgetGroup(group: DeviceGroup): void {
    this.#groups.delete(group.group);
  }

  device(id: number): IommufdDevice | undefined {
    return this.objects.get(id, IommufdDevice);
  }

  /** Id of a device; 0 when it is not bound. */
  idOf(dev: Device): number {
    return this.objects.list().find((object) => object instanceof IommufdDevice && object.dev === dev)?.id ?? 0;
  }

  /** A request's data, or -EFAULT. */
  userData(type: number, address: number, length: number): UserData | number {
    const bytes = this.user.read(address, length);
    return typeof bytes === "number" ? bytes : { type, bytes };
  }
}

/** Status of members and flags that must be 0, or known. */
export function unsupported(flags: number, known: number, ...reserved: readonly number[]): number {
  return (flags & ~known) !== 0 || reserved.some((value) => value !== 0) ? -UAPI_ERRNO.EOPNOTSUPP : 0;
}
