import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import type { Device, KernelContext } from "@smmuv3/driver-core";
import { Mm } from "@smmuv3/iommu-core";
import type { DomainType, FaultReport, IommuCore, IommuDomain, IommuInstance } from "@smmuv3/iommu-core";

/** A device as sysfs shows it. */
export interface DeviceInfo {
  /** e.g. `devices/platform/smmuv3@9050000`. */
  readonly path: string;
  readonly bus: string;
  /** Bound driver; empty without. */
  readonly driver: string;
  /** Firmware describes it: it was not made by a driver. */
  readonly firmware: boolean;
  /** How often binding it was deferred. */
  readonly deferrals: number;
}

/** A registered IOMMU instance: what its driver offers. */
export interface InstanceInfo {
  readonly name: string;
  /** Names of its `iommu_ops`. */
  readonly ops: readonly string[];
  /** Names of the operations of the paging domain that it gave to the first of its devices that has one. */
  readonly domainOps: readonly string[];
}

/** A fault as the kernel attributed it. */
export interface FaultInfo {
  /** Name of the device; empty when the kernel does not know it. */
  readonly device: string;
  readonly reason: string;
  readonly iova: number | undefined;
}

/** What a device may be attached to: a domain of {@link KernelPort.allocDomain}, or one that exists anyway. */
export type AttachTarget = number | "identity" | "blocked" | "default";

/**
 * What VFIO and other users of the IOMMU core do with a device, and what the kernel shows of its devices. Devices are numbered as in
 * HostPort; results are 0 or negative errnos unless said otherwise.
 */
export interface KernelPort {
  readonly faults: readonly FaultInfo[];
  readonly tree: readonly DeviceInfo[];
  readonly instances: readonly InstanceInfo[];
  /** Domain that the device's DMA goes through; undefined: it has no IOMMU. */
  domainType(device: number): DomainType | undefined;
  /** A new translating domain; its number, from 0, or a negative errno: -EOPNOTSUPP where the driver has none. */
  allocDomain(device: number): number;
  freeDomain(domain: number): number;
  /** Moves the device's group. */
  attach(device: number, target: AttachTarget): number;
  attachPasid(device: number, pasid: number, domain: number): number;
  detachPasid(device: number, pasid: number): number;
  /** `prot`: sum of read 1, write 2, cache 4, noexec 8, mmio 16. */
  map(domain: number, iova: number, pa: number, size: number, prot: number): number;
  /** Bytes unmapped. */
  unmap(domain: number, iova: number, size: number): number;
  /**
   * Gives the device the address space of a process whose page table (4K pages) is at `ttb`. Its PASID, or a negative errno:
   * -EOPNOTSUPP where the driver has no SVA.
   */
  bindProcess(device: number, ttb: number, vaBits: number): number;
  /** The device is unplugged: its driver goes, then the device. Its number stays taken. */
  unplug(device: number): void;
  /** Power-off: every driver quiesces its device. */
  shutdown(): void;
}

/** {@link KernelPort} of a booted kernel. */
export class KernelControl implements KernelPort {
  readonly #ctx: KernelContext;
  readonly #iommu: IommuCore;
  readonly #clients: readonly Device[];
  readonly #domains: (IommuDomain | undefined)[] = [];

  constructor(ctx: KernelContext, iommu: IommuCore, clients: readonly Device[]) {
    this.#ctx = ctx;
    this.#iommu = iommu;
    this.#clients = clients;
  }

  get faults(): readonly FaultInfo[] {
    return this.#iommu.faults.reports.map(faultInfo);
  }

  get tree(): readonly DeviceInfo[] {
    return this.#ctx.core.devices.map((dev) => ({
      path: dev.path,
      bus: dev.bus,
      driver: dev.driver?.name ?? "",
      firmware: dev.node !== undefined,
      deferrals: dev.deferrals,
    }));
  }

  get instances(): readonly InstanceInfo[] {
    return this.#iommu.instances.map((instance) => ({
      name: instance.name,
      ops: Object.keys(instance.ops),
      domainOps: this.#domainOps(instance),
    }));
  }

  domainType(device: number): DomainType | undefined {
    return this.#iommu.domainOf(this.#client(device))?.type;
  }

  allocDomain(device: number): number {
    const domain = this.#iommu.allocPaging(this.#client(device));
    return typeof domain === "number" ? domain : this.#domains.push(domain) - 1;
  }

  freeDomain(domain: number): number {
    const status = this.#iommu.freeDomain(this.#domain(domain));
    if (status === 0) this.#domains[domain] = undefined;
    return status;
  }

  attach(device: number, target: AttachTarget): number {
    const group = this.#iommu.groupOf(this.#client(device));
    if (group === undefined) return -ERRNO.ENODEV;
    const { identityDomain, blockedDomain } = group.instance.ops;
    if (typeof target === "number") return this.#iommu.attachGroup(group, this.#domain(target));
    const domain = { identity: identityDomain, blocked: blockedDomain, default: group.defaultDomain }[target];
    return domain === undefined ? -ERRNO.EINVAL : this.#iommu.attachGroup(group, domain);
  }

  attachPasid(device: number, pasid: number, domain: number): number {
    return this.#iommu.attachPasid(this.#client(device), pasid, this.#domain(domain));
  }

  detachPasid(device: number, pasid: number): number {
    return this.#iommu.detachPasid(this.#client(device), pasid);
  }

  map(domain: number, iova: number, pa: number, size: number, prot: number): number {
    return this.#iommu.map(this.#domain(domain), iova, pa, size, prot);
  }

  unmap(domain: number, iova: number, size: number): number {
    return this.#iommu.unmap(this.#domain(domain), iova, size);
  }

  bindProcess(device: number, ttb: number, vaBits: number): number {
    const table = { ttb, vaBits, granule: PAGE_SIZE, unmap: () => {}, free: () => {} };
    const handle = this.#iommu.bindSva(this.#client(device), new Mm(table));
    return typeof handle === "number" ? handle : handle.pasid;
  }

  unplug(device: number): void {
    this.#ctx.core.removeDevice(this.#client(device));
  }

  shutdown(): void {
    this.#ctx.core.shutdown();
  }

  #domainOps(instance: IommuInstance): readonly string[] {
    for (const dev of this.#iommu.devicesOf(instance)) {
      const domain = this.#iommu.domainOf(dev);
      if (domain?.type === "paging") return Object.keys(domain.ops);
    }
    return [];
  }

  #client(device: number): Device {
    const client = this.#clients[device];
    if (client === undefined) {
      throw new RangeError(`KernelPort: device must be an integer from 0 to ${this.#clients.length - 1}, got ${device}`);
    }
    return client;
  }

  #domain(domain: number): IommuDomain {
    const found = this.#domains[domain];
    if (found === undefined) throw new RangeError(`KernelPort: domain ${domain} does not exist`);
    return found;
  }
}

function faultInfo({ dev, fault }: FaultReport): FaultInfo {
  return { device: dev?.name ?? "", reason: fault.reason, iova: fault.iova };
}
