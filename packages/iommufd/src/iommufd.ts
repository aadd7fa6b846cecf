import type { Device } from "@smmuv3/driver-core";
import type { IommuCore } from "@smmuv3/iommu-core";
import { Context } from "./context.ts";
import type { IommufdOptions } from "./context.ts";
import { IommufdDevice, RID } from "./device.ts";
import { UAPI_ERRNO } from "./errno.ts";
import type { EventFile } from "./files.ts";
import { Hwpt, HwptPaging } from "./hwpt.ts";
import {
  faultQueueAlloc, getHwInfo, hwptAlloc, hwptGetDirtyBitmap, hwptInvalidate, hwptSetDirtyTracking, makePaging,
} from "./hwpt-requests.ts";
import { Ioas } from "./ioas.ts";
import { ioasAlloc, ioasAllowIovas, ioasCopy, ioasIovaRanges, ioasMap, ioasUnmap } from "./ioas-requests.ts";
import { decodeRequest, encodeRequest, requestOf, storeRequest } from "./uapi.ts";
import type { RequestArgs, RequestName } from "./uapi.ts";
import type { UserMemory } from "./user-memory.ts";
import { hwQueueAlloc, vdeviceAlloc, veventqAlloc, viommuAlloc } from "./viommu-requests.ts";

type Handlers = { readonly [N in RequestName]: (ctx: Context, args: RequestArgs<N>) => number };

const HANDLERS: Handlers = {
  DESTROY: (ctx, { id }) => ctx.objects.destroy(id),
  IOAS_ALLOC: ioasAlloc,
  IOAS_ALLOW_IOVAS: ioasAllowIovas,
  IOAS_COPY: ioasCopy,
  IOAS_IOVA_RANGES: ioasIovaRanges,
  IOAS_MAP: ioasMap,
  IOAS_UNMAP: ioasUnmap,
  HWPT_ALLOC: hwptAlloc,
  GET_HW_INFO: getHwInfo,
  HWPT_SET_DIRTY_TRACKING: hwptSetDirtyTracking,
  HWPT_GET_DIRTY_BITMAP: hwptGetDirtyBitmap,
  HWPT_INVALIDATE: hwptInvalidate,
  FAULT_QUEUE_ALLOC: faultQueueAlloc,
  VIOMMU_ALLOC: viommuAlloc,
  VDEVICE_ALLOC: vdeviceAlloc,
  VEVENTQ_ALLOC: veventqAlloc,
  HW_QUEUE_ALLOC: hwQueueAlloc,
};

/** What a request left in its structure, and its status: 0 or a negative errno. */
export type CallResult<N extends RequestName> = RequestArgs<N> & { readonly status: number };

/** One open `/dev/iommu`. */
export class Iommufd {
  readonly #ctx: Context;

  /** @param user memory that requests point into */
  constructor(core: IommuCore, user: UserMemory, options: IommufdOptions = {}) {
    this.#ctx = new Context(core, user, options);
  }

  // --- user space ---

  /**
   * A request by its ioctl number (`_IO(';', nr)`, the low byte) with its structure, which results are stored in.
   * @returns 0; -ENOTTY, -EINVAL, -E2BIG, -EFAULT for a request or structure that is not known; or the request's own
   */
  ioctl(nr: number, structure: Uint8Array): number {
    const name = requestOf(nr);
    if (name === undefined) return -UAPI_ERRNO.ENOTTY;
    const args = decodeRequest(name, structure);
    if (typeof args === "number") return args;
    const handler = HANDLERS[name] as (ctx: Context, args: Record<string, number>) => number;
    const status = handler(this.#ctx, args);
    storeRequest(name, structure, args);
    return status;
  }

  /** {@link ioctl} with the structure as an object; members that are not given are 0. */
  call<N extends RequestName>(name: N, args: Partial<RequestArgs<N>> = {}): CallResult<N> {
    const given = encodeRequest(name, args as Record<string, number>);
    const decoded = decodeRequest(name, given) as RequestArgs<N>;
    const status = HANDLERS[name](this.#ctx, decoded);
    return { ...decoded, status };
  }

  /** An event file that a request opened. */
  file(fd: number): EventFile | undefined {
    return this.#ctx.files.get(fd);
  }

  /** Closes an event file. 0 or -EBADF. */
  closeFile(fd: number): number {
    return this.#ctx.files.close(fd);
  }

  /** `mmap` of the file: the physical address of what is there; -ENXIO, -EINVAL. */
  mmap(offset: number, length: number): number {
    return this.#ctx.services.mmap(offset, length);
  }

  /** `munmap`. 0 or -EINVAL. */
  munmap(offset: number): number {
    return this.#ctx.services.munmap(offset);
  }

  /** Objects that exist, by id. */
  get objects(): ReadonlyMap<number, string> {
    return new Map(this.#ctx.objects.list().map(({ id, kind }) => [id, kind]));
  }

  /** Closes the file: everything goes. 0; -EBUSY while drivers have devices bound to it. */
  close(): number {
    if (this.#ctx.objects.list().some(({ kind }) => kind === "device")) return -UAPI_ERRNO.EBUSY;
    this.#ctx.files.clear();
    this.#ctx.objects.clear();
    return 0;
  }

  // --- the drivers of devices (VFIO) ---

  /**
   * Takes a device from the kernel's DMA API; its DMA is blocked. Its driver must be one that manages DMA itself, or there is none.
   * @returns its id; -ENODEV without an IOMMU, -EINVAL where DMA is not coherent, -EBUSY where its group is in use
   */
  bind(dev: Device): number {
    const { core, objects } = this.#ctx;
    const group = core.groupOf(dev);
    if (group === undefined) return -UAPI_ERRNO.ENODEV;
    if (group.instance.ops.capable?.(dev, "cache-coherency") !== true) return -UAPI_ERRNO.EINVAL;
    const shared = this.#ctx.groupOf(group);
    if ([...shared.members].some((member) => member.dev === dev)) return -UAPI_ERRNO.EBUSY;
    const status = shared.members.size > 0 ? 0 : core.claimOwner(group, "iommufd");
    if (status < 0) {
      this.#ctx.forgetGroup(shared);
      return status;
    }
    return objects.add(new IommufdDevice(core, dev, shared)).id;
  }

  /** Gives a device back, with what it is to virtual machines. 0; -ENOENT; -EBUSY while it is attached. */
  unbind(id: number): number {
    const { core, objects } = this.#ctx;
    const device = this.#ctx.device(id);
    if (device === undefined) return -UAPI_ERRNO.ENOENT;
    if (device.busy) return -UAPI_ERRNO.EBUSY;
    if (device.vdevice !== undefined) objects.bury(device.vdevice);
    device.users = 0;
    objects.destroy(id);
    const { shared } = device;
    if (shared.members.size > 0) return 0;
    this.#ctx.forgetGroup(shared);
    return core.releaseOwner(shared.group);
  }

  /**
   * Attaches a device, or one PASID of it, to a page table, or to an address space, by a page table that fits.
   * @param pasid 0: the device's own traffic
   * @returns the page table's id; -ENOENT; -EINVAL for other objects, and where something is attached
   */
  attach(id: number, target: number, pasid: number = RID): number {
    return this.#move(id, target, pasid, (device, hwpt) => device.attach(hwpt, pasid));
  }

  /** As {@link attach}, for a device that is attached to something. */
  replace(id: number, target: number, pasid: number = RID): number {
    const old = this.#ctx.device(id)?.attachedTo(pasid);
    const result = this.#move(id, target, pasid, (device, hwpt) => device.replace(hwpt, pasid));
    if (result >= 0) this.#release(old);
    return result;
  }

  /** Blocks it again. 0; -ENOENT; -EINVAL where it is not attached. */
  detach(id: number, pasid: number = RID): number {
    const device = this.#ctx.device(id);
    if (device === undefined) return -UAPI_ERRNO.ENOENT;
    const hwpt = device.detach(pasid);
    if (typeof hwpt === "number") return hwpt;
    this.#release(hwpt);
    return 0;
  }

  #move(id: number, target: number, pasid: number, apply: (device: IommufdDevice, hwpt: Hwpt) => number): number {
    const { objects } = this.#ctx;
    const device = this.#ctx.device(id);
    const object = objects.find(target);
    if (device === undefined || object === undefined) return -UAPI_ERRNO.ENOENT;
    if (object instanceof Hwpt) {
      const status = apply(device, object);
      return status < 0 ? status : object.id;
    }
    return object instanceof Ioas ? this.#auto(device, object, pasid, apply) : -UAPI_ERRNO.EINVAL;
  }

  /** By a page table of `ioas` that was made in this way before, if it takes the device; else by a new one. */
  #auto(device: IommufdDevice, ioas: Ioas, pasid: number, apply: (device: IommufdDevice, hwpt: Hwpt) => number): number {
    const { objects } = this.#ctx;
    if (pasid !== RID) return -UAPI_ERRNO.EINVAL;
    for (const hwpt of objects.list()) {
      if (!(hwpt instanceof HwptPaging) || !hwpt.auto || hwpt.ioas !== ioas) continue;
      const status = apply(device, hwpt);
      if (status !== -UAPI_ERRNO.EINVAL) return status < 0 ? status : hwpt.id;
    }
    const hwpt = makePaging(this.#ctx, ioas, device, 0, true);
    if (typeof hwpt === "number") return hwpt;
    const status = apply(device, hwpt);
    if (status === 0) return hwpt.id;
    objects.destroy(hwpt.id);
    return status;
  }

  /** A page table that was made for devices goes with the last of them. */
  #release(hwpt: Hwpt | undefined): void {
    if (hwpt instanceof HwptPaging && hwpt.auto && hwpt.users === 0) this.#ctx.objects.destroy(hwpt.id);
  }
}
