import { ERRNO } from "@smmuv3/platform";
import type { Device } from "@smmuv3/driver-core";
import type { IommuDomain } from "./domain.ts";
import { deviceIommu } from "./group.ts";
import type { IopfGroup } from "./iopf.ts";
import type { Mm } from "./mm.ts";
import { attachPasid, detachPasid } from "./pasid.ts";

/** A device bound to the address space of a process (`struct iommu_sva`). */
export interface SvaHandle {
  readonly dev: Device;
  readonly mm: Mm;
  /** What the device has to send with its transactions. */
  readonly pasid: number;
  readonly domain: IommuDomain;
}

interface Bond {
  readonly handle: SvaHandle;
  users: number;
}

/** Brings in the page that a device asked for, as a fault of the process itself would. */
function servePage(mm: Mm, group: IopfGroup): number {
  const { addr, perm } = group.request;
  group.respond(mm.alive && mm.fault(addr, perm) === 0 ? "success" : "invalid");
  return 0;
}

/** Shared Virtual Addressing: processes have one PASID for all devices, and one domain per IOMMU driver's device that is bound. */
export class Sva {
  readonly #pasids = new Map<Mm, number>();
  readonly #bonds = new Map<Device, Map<Mm, Bond>>();

  /** Binds `dev` to `mm`. The handle, the same for every bind; or a negative errno of the driver. */
  bind(dev: Device, mm: Mm): SvaHandle | number {
    const bonds = this.#bonds.get(dev) ?? new Map<Mm, Bond>();
    const known = bonds.get(mm);
    if (known !== undefined) {
      known.users++;
      return known.handle;
    }
    const ops = deviceIommu(dev)?.instance.ops;
    if (ops?.domainAllocSva === undefined) return -ERRNO.EOPNOTSUPP;
    const pasid = this.#pasids.get(mm) ?? this.#freePasid();
    const domain = ops.domainAllocSva(dev, mm);
    if (typeof domain === "number") return domain;
    domain.iopfHandler = (group) => servePage(mm, group);
    const status = attachPasid(dev, pasid, domain);
    if (status < 0) {
      domain.ops.free?.(domain);
      return status;
    }
    this.#pasids.set(mm, pasid);
    const handle = { dev, mm, pasid, domain };
    bonds.set(mm, { handle, users: 1 });
    this.#bonds.set(dev, bonds);
    return handle;
  }

  /** Undoes one {@link bind}. 0, or -ENOENT. */
  unbind(handle: SvaHandle): number {
    const { dev, mm, pasid, domain } = handle;
    const bonds = this.#bonds.get(dev);
    const bond = bonds?.get(mm);
    if (bonds === undefined || bond?.handle !== handle) return -ERRNO.ENOENT;
    bond.users--;
    if (bond.users > 0) return 0;
    bonds.delete(mm);
    detachPasid(dev, pasid);
    domain.ops.free?.(domain);
    if (![...this.#bonds.values()].some((others) => others.has(mm))) this.#pasids.delete(mm);
    return 0;
  }

  /** Unbinds all of a device that goes away. */
  release(dev: Device): void {
    for (const bond of [...(this.#bonds.get(dev)?.values() ?? [])]) {
      bond.users = 1;
      this.unbind(bond.handle);
    }
    this.#bonds.delete(dev);
  }

  #freePasid(): number {
    const taken = new Set(this.#pasids.values());
    for (let pasid = 1; ; pasid++) if (!taken.has(pasid)) return pasid;
  }
}
