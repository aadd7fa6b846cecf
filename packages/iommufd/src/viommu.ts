import type { Device } from "@smmuv3/driver-core";
import type { HwQueue, Vdevice, Viommu, ViommuHost } from "@smmuv3/iommu-core";
import { UAPI_ERRNO } from "./errno.ts";
import type { IommufdDevice } from "./device.ts";
import type { HwptPaging } from "./hwpt.ts";
import { IommufdObject } from "./objects.ts";
import type { ObjectTable } from "./objects.ts";
import type { Veventq } from "./veventq.ts";

/** The vIOMMU of one virtual machine at one physical IOMMU. */
export class ViommuObject extends IommufdObject {
  readonly kind = "viommu";
  readonly viommu: Viommu;
  readonly hwpt: HwptPaging;
  /** By the number that the virtual machine gives them. */
  readonly vdevices: Map<number, VdeviceObject> = new Map<number, VdeviceObject>();
  /** By type of events. */
  readonly veventqs: Map<number, Veventq> = new Map<number, Veventq>();

  constructor(viommu: Viommu, hwpt: HwptPaging) {
    super();
    this.viommu = viommu;
    this.hwpt = hwpt;
    hwpt.users++;
  }

  destroy(): void {
    this.viommu.ops.destroy?.(this.viommu);
    this.hwpt.users--;
  }
}

/** A device at a vIOMMU. */
export class VdeviceObject extends IommufdObject {
  readonly kind = "vdevice";
  readonly vdevice: Vdevice;
  readonly viommu: ViommuObject;
  readonly device: IommufdDevice;

  constructor(viommu: ViommuObject, device: IommufdDevice, virtId: number) {
    super();
    this.viommu = viommu;
    this.device = device;
    this.vdevice = { viommu: viommu.viommu, dev: device.dev, virtId, drvdata: undefined };
    viommu.vdevices.set(virtId, this);
    device.vdevice = this;
    viommu.users++;
  }

  destroy(): void {
    this.viommu.viommu.ops.vdeviceDestroy?.(this.vdevice);
    this.release();
  }

  /** Undoes the constructor. */
  release(): void {
    this.viommu.vdevices.delete(this.vdevice.virtId);
    this.device.vdevice = undefined;
    this.viommu.users--;
  }
}

/** A queue that hardware reads from the memory of a virtual machine. */
export class HwQueueObject extends IommufdObject {
  readonly kind = "hw-queue";
  readonly queue: HwQueue;
  readonly viommu: ViommuObject;
  readonly #iova: number;

  constructor(viommu: ViommuObject, queue: HwQueue, iova: number) {
    super();
    this.viommu = viommu;
    this.queue = queue;
    this.#iova = iova;
    viommu.users++;
  }

  destroy(): void {
    this.queue.viommu.ops.hwQueueDestroy?.(this.queue);
    this.release();
  }

  /** Undoes the constructor and the pin. */
  release(): void {
    this.viommu.hwpt.ioas.unpin(this.#iova, this.queue.length);
    this.viommu.users--;
  }
}

interface MmapRegion {
  readonly pa: number;
  readonly size: number;
  readonly owner: ViommuObject;
  mappings: number;
}

const MMAP_ALIGN = 0x1_0000;

/** What drivers of vIOMMUs ask of their file. */
export class ViommuServices implements ViommuHost {
  readonly #objects: ObjectTable;
  readonly #regions = new Map<number, MmapRegion>();
  #nextOffset = MMAP_ALIGN;
  /** It has no id yet: its driver is setting it up. */
  #pending: ViommuObject | undefined = undefined;

  constructor(objects: ObjectTable) {
    this.#objects = objects;
  }

  findDevice(viommu: Viommu, virtId: number): Device | undefined {
    return this.#of(viommu)?.vdevices.get(virtId)?.device.dev;
  }

  findVirtId(viommu: Viommu, dev: Device): number {
    for (const [virtId, { device }] of this.#of(viommu)?.vdevices ?? []) if (device.dev === dev) return virtId;
    return -UAPI_ERRNO.ENOENT;
  }

  reportEvent(viommu: Viommu, type: number, data: Int32Array): number {
    return this.#of(viommu)?.veventqs.get(type)?.report(data) ?? -UAPI_ERRNO.EOPNOTSUPP;
  }

  dependHwQueue(_queue: HwQueue, on: HwQueue): void {
    this.#queue(on).users++;
  }

  undependHwQueue(_queue: HwQueue, on: HwQueue): void {
    this.#queue(on).users--;
  }

  allocMmap(viommu: Viommu, pa: number, size: number): number {
    const owner = this.#pending?.viommu === viommu ? this.#pending : this.#of(viommu);
    if (owner === undefined) return -UAPI_ERRNO.ENOENT;
    const offset = this.#nextOffset;
    this.#nextOffset += Math.ceil(size / MMAP_ALIGN) * MMAP_ALIGN;
    this.#regions.set(offset, { pa, size, owner, mappings: 0 });
    return offset;
  }

  freeMmap(_viommu: Viommu, offset: number): void {
    this.#regions.delete(offset);
  }

  /** Maps a region whole: its physical address; -EINVAL for any other length, -ENXIO where there is none. */
  mmap(offset: number, length: number): number {
    const region = this.#regions.get(offset);
    if (region === undefined) return -UAPI_ERRNO.ENXIO;
    if (region.size !== length) return -UAPI_ERRNO.EINVAL;
    region.mappings++;
    region.owner.users++;
    return region.pa;
  }

  /** Undoes one {@link mmap}. 0 or -EINVAL. */
  munmap(offset: number): number {
    const region = this.#regions.get(offset);
    if (region === undefined || region.mappings === 0) return -UAPI_ERRNO.EINVAL;
    region.mappings--;
    region.owner.users--;
    return 0;
  }

  /** Calls `init` for a vIOMMU that has no id yet. */
  initialise(object: ViommuObject, init: () => number): number {
    this.#pending = object;
    const status = init();
    this.#pending = undefined;
    return status;
  }

  #of(viommu: Viommu): ViommuObject | undefined {
    for (const object of this.#objects.list()) if (object instanceof ViommuObject && object.viommu === viommu) return object;
    return undefined;
  }

  #queue(queue: HwQueue): HwQueueObject {
    const found = this.#objects.list().find((object) => object instanceof HwQueueObject && object.queue === queue);
    if (!(found instanceof HwQueueObject)) throw new RangeError(`iommufd: hardware queue ${queue.index} does not exist`);
    return found;
  }
}
