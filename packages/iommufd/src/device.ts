import type { Device } from "@smmuv3/driver-core";
import type { IommuCore, IommuGroup } from "@smmuv3/iommu-core";
import { UAPI_ERRNO } from "./errno.ts";
import type { Hwpt } from "./hwpt.ts";
import { deviceRanges } from "./ioas.ts";
import { IommufdObject } from "./objects.ts";
import type { VdeviceObject } from "./viommu.ts";

/** No PASID: the device's own traffic. */
export const RID = 0;

/** What devices of one group have in common. */
export class DeviceGroup {
  readonly group: IommuGroup;
  readonly members: Set<IommufdDevice> = new Set<IommufdDevice>();
  /** What the members' traffic goes through, by PASID, and who asked for it. */
  readonly attached: Map<number, { hwpt: Hwpt; devices: Set<IommufdDevice> }> = new Map<
    number, { hwpt: Hwpt; devices: Set<IommufdDevice> }
  >();

  constructor(group: IommuGroup) {
    this.group = group;
  }
}

/** A device that its driver (VFIO) has bound to a file. */
export class IommufdDevice extends IommufdObject {
  readonly kind = "device";
  readonly dev: Device;
  readonly shared: DeviceGroup;
  /** DMA is coherent even where the device says otherwise. */
  readonly enforcesCoherency: boolean;
  vdevice: VdeviceObject | undefined = undefined;
  readonly #core: IommuCore;

  constructor(core: IommuCore, dev: Device, shared: DeviceGroup) {
    super();
    this.#core = core;
    this.dev = dev;
    this.shared = shared;
    this.enforcesCoherency = this.ops.capable?.(dev, "enforce-cache-coherency") === true;
    // User space does not destroy it: its driver does.
    this.users = 1;
    shared.members.add(this);
  }

  get instance(): IommuGroup["instance"] {
    return this.shared.group.instance;
  }

  get ops(): IommuGroup["instance"]["ops"] {
    return this.instance.ops;
  }

  /** What its traffic with `pasid` goes through. */
  attachedTo(pasid: number): Hwpt | undefined {
    const attach = this.shared.attached.get(pasid);
    return attach?.devices.has(this) === true ? attach.hwpt : undefined;
  }

  /** Some traffic goes somewhere. */
  get busy(): boolean {
    return [...this.shared.attached.values()].some(({ devices }) => devices.has(this));
  }

  destroy(): void {
    this.shared.members.delete(this);
  }

  /** Attaches to `hwpt`. 0, or a negative errno with nothing changed; -EINVAL where it, or its group, is attached to something. */
  attach(hwpt: Hwpt, pasid: number): number {
    const { shared } = this;
    const present = shared.attached.get(pasid);
    if (present !== undefined && (present.hwpt !== hwpt || present.devices.has(this))) return -UAPI_ERRNO.EINVAL;
    const fits = this.#fits(hwpt, pasid);
    if (fits < 0) return fits;
    const reserved = this.#reserve(hwpt, pasid);
    if (reserved < 0) return reserved;
    if (present === undefined) {
      const status = this.#enter(hwpt, pasid);
      if (status < 0) {
        this.#unreserve(hwpt);
        return status;
      }
      shared.attached.set(pasid, { hwpt, devices: new Set([this]) });
    } else {
      present.devices.add(this);
    }
    hwpt.users++;
    return 0;
  }

  /** Moves to `hwpt`, with the others of its group. 0, or a negative errno with nothing changed; -EINVAL where it is not attached. */
  replace(hwpt: Hwpt, pasid: number): number {
    const present = this.shared.attached.get(pasid);
    if (present?.devices.has(this) !== true) return -UAPI_ERRNO.EINVAL;
    const old = present.hwpt;
    if (old === hwpt) return 0;
    const fits = this.#fits(hwpt, pasid);
    if (fits < 0) return fits;
    const moves = old.paging.ioas !== hwpt.paging.ioas;
    const members = [...present.devices];
    if (moves) {
      for (const [i, member] of members.entries()) {
        const reserved = member.#reserve(hwpt, pasid);
        if (reserved === 0) continue;
        for (const other of members.slice(0, i)) other.#unreserve(hwpt);
        return reserved;
      }
    }
    const status =
      pasid === RID
        ? this.#core.attachGroup(this.shared.group, hwpt.domain)
        : this.#core.replacePasid(this.dev, pasid, hwpt.domain);
    if (status < 0) {
      if (moves) for (const member of members) member.#unreserve(hwpt);
      return status;
    }
    present.hwpt = hwpt;
    for (const member of members) {
      old.fault?.forget(member.dev, old.domain);
      if (!member.#uses(old.paging.ioas)) member.#unreserve(old);
    }
    hwpt.users += members.length;
    old.users -= members.length;
    return 0;
  }

  /** Its traffic with `pasid` is blocked again, once the last of its group has left. What it was attached to; -EINVAL. */
  detach(pasid: number): Hwpt | number {
    const { attached, group } = this.shared;
    const present = attached.get(pasid);
    if (present?.devices.has(this) !== true) return -UAPI_ERRNO.EINVAL;
    const { hwpt, devices } = present;
    if (devices.size === 1) {
      const status =
        pasid === RID
          ? this.#core.attachGroup(group, this.ops.blockedDomain)
          : this.#core.detachPasid(this.dev, pasid);
      if (status < 0) return status;
      attached.delete(pasid);
    }
    devices.delete(this);
    hwpt.fault?.forget(this.dev, hwpt.domain);
    if (!this.#uses(hwpt.paging.ioas)) this.#unreserve(hwpt);
    hwpt.users--;
    return hwpt;
  }

  #enter(hwpt: Hwpt, pasid: number): number {
    return pasid === RID
      ? this.#core.attachGroup(this.shared.group, hwpt.domain)
      : this.#core.attachPasid(this.dev, pasid, hwpt.domain);
  }

  /** PASIDs are for page tables that were made for them, on both sides. */
  #fits(hwpt: Hwpt, pasid: number): number {
    const { attached, group } = this.shared;
    if (pasid !== RID) return hwpt.pasid && group.devices.length === 1 ? 0 : -UAPI_ERRNO.EINVAL;
    const pasids = [...attached.keys()].some((other) => other !== RID);
    return pasids && !hwpt.pasid ? -UAPI_ERRNO.EINVAL : 0;
  }

  #uses(ioas: object): boolean {
    return [...this.shared.attached.values()].some(({ hwpt, devices }) => devices.has(this) && hwpt.paging.ioas === ioas);
  }

  #reserve(hwpt: Hwpt, pasid: number): number {
    const { ioas } = hwpt.paging;
    if (pasid !== RID || this.#uses(ioas)) return 0;
    return ioas.reserve(this, deviceRanges(this.ops.getResvRegions?.(this.dev) ?? []));
  }

  #unreserve(hwpt: Hwpt): void {
    hwpt.paging.ioas.unreserve(this);
  }
}
