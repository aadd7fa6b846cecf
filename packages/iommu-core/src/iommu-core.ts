import { ERRNO, LEVEL, errnoName } from "@smmuv3/platform";
import type { Device, KernelContext } from "@smmuv3/driver-core";
import { readAndClearDirty, setDirtyTracking } from "./dirty.ts";
import type { DirtyBitmap } from "./dirty.ts";
import { DmaApi } from "./dma.ts";
import { DOMAIN_FLAG } from "./domain.ts";
import type { IommuDomain } from "./domain.ts";
import { FaultLog } from "./faults.ts";
import type { Rmr } from "./firmware-tables.ts";
import { FlushQueue } from "./flush-queue.ts";
import { IotlbGather } from "./gather.ts";
import { IommuGroup, deviceIommu } from "./group.ts";
import { defaultType, reservedText, sharesSlot } from "./group-info.ts";
import type { DeviceIommu } from "./group.ts";
import { cancelPageRequests, reportPageRequest } from "./iopf.ts";
import type { PageRequest } from "./iopf.ts";
import { IovaAllocator } from "./iova.ts";
import { RangeMapper } from "./map.ts";
import type { Mm } from "./mm.ts";
import type { DefaultDomainType, Fwspec, IommuFault, IommuInstance, IommuOps, ReservedRegion } from "./ops.ts";
import { attachPasid, detachAllPasids, detachPasid, replacePasid } from "./pasid.ts";
import { Sva } from "./sva.ts";
import type { SvaHandle } from "./sva.ts";
import { Swiotlb } from "./swiotlb.ts";

export interface IommuCoreOptions {
  /**
   * Default domains; "dma" unless given. A driver that cannot page gets "identity"; one without `flushIotlbAll` or the
   * deferred-flush capability gets "dma" instead of "dma-fq".
   */
  readonly defaultDomainType?: DefaultDomainType;
  /** Bytes of the bounce pool, taken at its first use; default 4 MiB. */
  readonly swiotlbBytes?: number;
  /** Faults kept in {@link IommuCore.faults}; default 256. */
  readonly faultCapacity?: number;
  /** Memory that firmware wants devices to reach one to one. */
  readonly rmrs?: readonly Rmr[];
}

/**
 * The IOMMU subsystem of one kernel. Creating it hooks into the driver core: a device with an `iommus` property binds only
 * when its IOMMU is registered, and gets a group and a default domain first.
 */
export class IommuCore {
  readonly dma: DmaApi;
  readonly faults: FaultLog;
  readonly swiotlb: Swiotlb;
  readonly defaultDomainType: DefaultDomainType;
  readonly #kernel: KernelContext;
  readonly #mapper: RangeMapper;
  readonly #gather: IotlbGather = new IotlbGather();
  readonly #instances = new Map<string, IommuInstance>();
  readonly #groups = new Set<IommuGroup>();
  readonly #attaches: number;
  readonly #rmrs: readonly Rmr[];
  readonly #sva: Sva = new Sva();
  #nextGroup = 0;

  constructor(kernel: KernelContext, options: IommuCoreOptions = {}) {
    this.#kernel = kernel;
    this.defaultDomainType = options.defaultDomainType ?? "dma";
    this.#rmrs = options.rmrs ?? [];
    this.#attaches = kernel.cpu.counters.id("iommu.attaches") + LEVEL.el1;
    this.#mapper = new RangeMapper(kernel.cpu.counters);
    this.swiotlb = new Swiotlb(kernel, options.swiotlbBytes ?? 4 << 20);
    this.dma = new DmaApi(kernel, this.#mapper, this.swiotlb);
    this.faults = new FaultLog(kernel, options.faultCapacity ?? 256);
    kernel.core.addDmaHooks({
      configure: (dev) => this.#configure(dev),
      cleanup: () => {},
      remove: (dev) => {
        this.releaseDevice(dev);
      },
    });
  }

  /** Registered instances, oldest first. */
  get instances(): IommuInstance[] {
    return [...this.#instances.values()];
  }

  /** Groups in order of creation. */
  get groups(): IommuGroup[] {
    return [...this.#groups];
  }

  // --- instances ---

  /** Registers an IOMMU: its sysfs entry appears and deferred clients are tried again. 0, or -EBUSY: the node has one. */
  register(instance: IommuInstance): number {
    if (this.#instances.has(instance.node.name)) return -ERRNO.EBUSY;
    this.#instances.set(instance.node.name, instance);
    const { sysfs } = this.#kernel.core;
    const path = sysfsPath(instance);
    sysfs.mkdir(`${path}/devices`);
    sysfs.link(`${path}/device`, instance.dev.path);
    sysfs.link(`class/iommu/${instance.name}`, path);
    this.#kernel.core.retryDeferred();
    return 0;
  }

  /** Takes an IOMMU away: its clients are released (blocked). RangeError when it is not registered. */
  unregister(instance: IommuInstance): void {
    if (this.#instances.get(instance.node.name) !== instance) {
      throw new RangeError(`IommuCore: ${instance.name} is not registered`);
    }
    for (const dev of this.devicesOf(instance)) this.releaseDevice(dev);
    this.#instances.delete(instance.node.name);
    const { sysfs } = this.#kernel.core;
    sysfs.remove(`class/iommu/${instance.name}`);
    sysfs.remove(sysfsPath(instance));
  }

  /** The instance that firmware node `name` is, if registered. */
  instanceOf(name: string): IommuInstance | undefined {
    return this.#instances.get(name);
  }

  /** Devices behind an instance. */
  devicesOf(instance: IommuInstance): Device[] {
    return this.groups.filter((group) => group.instance === instance).flatMap((group) => [...group.devices]);
  }

  // --- devices ---

  /** Streams of `dev`; `undefined` without an IOMMU. Valid from ofXlate on. */
  fwspecOf(dev: Device): Fwspec | undefined {
    return deviceIommu(dev);
  }

  /** Group of `dev`; `undefined` without an IOMMU. */
  groupOf(dev: Device): IommuGroup | undefined {
    return deviceIommu(dev)?.group;
  }

  /** Domain that `dev` is attached to; `undefined` without an IOMMU. */
  domainOf(dev: Device): IommuDomain | undefined {
    return deviceIommu(dev)?.group?.domain;
  }

  /** The IOMMU driver's data of `dev`. */
  drvdataOf(dev: Device): unknown {
    return deviceIommu(dev)?.drvdata;
  }

  /** Sets the IOMMU driver's data of `dev`, which must have a fwspec. */
  setDrvdata(dev: Device, data: unknown): void {
    const state = deviceIommu(dev);
    if (state === undefined) throw new RangeError(`IommuCore: device ${dev.name} has no IOMMU`);
    state.drvdata = data;
  }

  /**
   * {@link IommuOps.deviceGroup}: a new group, or that of a device with a StreamID in common (PCI aliases) or, on PCI, of a function
   * in the same slot when one of them is not isolated from the others (no ACS).
   */
  genericGroup(dev: Device): IommuGroup | number {
    const state = deviceIommu(dev);
    if (state === undefined) return -ERRNO.EINVAL;
    const alias = this.devicesOf(state.instance).find(
      (other) => deviceIommu(other)?.ids.some((id) => state.ids.includes(id)) === true || sharesSlot(dev, other),
    );
    return deviceIommu(alias ?? dev)?.group ?? new IommuGroup(this.#nextGroup++, state.instance);
  }

  /** Blocks the DMA of `dev` and forgets it. A device without an IOMMU is left alone. */
  releaseDevice(dev: Device): void {
    const state = deviceIommu(dev);
    if (state === undefined) return;
    const { ops } = state.instance;
    const { group } = state;
    this.#sva.release(dev);
    detachAllPasids(dev);
    cancelPageRequests(dev);
    if (group !== undefined) {
      const last = ops.releaseDomain ?? ops.blockedDomain;
      const status = this.#attachDevice(last, dev, group.domain);
      if (status < 0) this.#kernel.log.err(`iommu: ${dev.name}: cannot block: ${errnoName(status)}`);
      else last.users--;
      this.#leave(group, dev);
    }
    ops.releaseDevice(dev);
    dev.iommu = undefined;
    if (group?.devices.length === 0) this.#freeGroup(group);
  }

  // --- domains ---

  /**
   * New paging domain for `dev`, or a negative errno: -EOPNOTSUPP when its IOMMU has none, or none for `flags`, of
   * {@link DOMAIN_FLAG}.
   */
  allocPaging(dev: Device, flags: number = 0): IommuDomain | number {
    const ops = deviceIommu(dev)?.instance.ops;
    if (ops === undefined) return -ERRNO.ENODEV;
    if (flags === 0) return ops.domainAllocPaging?.(dev) ?? -ERRNO.EOPNOTSUPP;
    if ((flags & DOMAIN_FLAG.dirtyTracking) !== 0 && ops.capable?.(dev, "dirty-tracking") !== true) return -ERRNO.EOPNOTSUPP;
    return ops.domainAllocPagingFlags?.(dev, flags) ?? -ERRNO.EOPNOTSUPP;
  }

  /** Frees a domain; -EBUSY while devices are attached. */
  freeDomain(domain: IommuDomain): number {
    if (domain.users > 0) return -ERRNO.EBUSY;
    domain.ops.free?.(domain);
    return 0;
  }

  /**
   * Moves every device of `group` to `domain`, replacing the present one. 0, or a negative errno with all devices where they
   * were: -EINVAL also for blocking a device that firmware wants to reach its memory at all times.
   */
  attachGroup(group: IommuGroup, domain: IommuDomain): number {
    const old = group.domain;
    if (old === domain) return 0;
    if (domain.type === "blocked" && group.devices.some((dev) => deviceIommu(dev)?.requireDirect === true)) {
      this.#kernel.log.warn(`iommu: group ${group.id}: firmware has requested a 1:1 mapping, not blocked`);
      return -ERRNO.EINVAL;
    }
    for (let i = 0; i < group.devices.length; i++) {
      const status = this.#attachDevice(domain, group.devices[i]!, old);
      if (status === 0) continue;
      for (let j = i - 1; j >= 0; j--) {
        const back = this.#attachDevice(old ?? group.instance.ops.blockedDomain, group.devices[j]!, domain);
        if (back < 0) this.#kernel.log.err(`iommu: ${group.devices[j]!.name}: cannot restore: ${errnoName(back)}`);
      }
      return status;
    }
    for (const dev of group.devices) if (old !== undefined) cancelPageRequests(dev, old);
    group.domain = domain;
    return 0;
  }

  /**
   * Attaches `domain` to one PASID of `dev`, from 1 to 2^`pasid-num-bits` of its node - 1. -EINVAL out of range, -EBUSY in use,
   * -EOPNOTSUPP when the driver has no PASIDs, or the driver's own.
   */
  attachPasid(dev: Device, pasid: number, domain: IommuDomain): number {
    return attachPasid(dev, pasid, domain);
  }

  /** Moves a PASID that is attached to another domain; an errno leaves it where it was. -ENOENT when it is not attached. */
  replacePasid(dev: Device, pasid: number, domain: IommuDomain): number {
    return replacePasid(dev, pasid, domain);
  }

  /** Gives `dev` the address space of a process (`iommu_sva_bind_device`). What it is bound by, or a negative errno. */
  bindSva(dev: Device, mm: Mm): SvaHandle | number {
    return this.#sva.bind(dev, mm);
  }

  /** Undoes one {@link bindSva}; the device must have no transaction with the PASID under way. 0 or -ENOENT. */
  unbindSva(handle: SvaHandle): number {
    return this.#sva.unbind(handle);
  }

  /** Blocks a PASID again. 0, or -ENOENT when it is not attached. */
  detachPasid(dev: Device, pasid: number): number {
    return detachPasid(dev, pasid);
  }

  /**
   * Takes a group from the DMA API; it is blocked then. -EBUSY while it has an owner, or a bound driver that does not manage
   * DMA itself.
   */
  claimOwner(group: IommuGroup, owner: string): number {
    const used = group.devices.some((dev) => dev.driver !== undefined && dev.driver.managesDma !== true);
    if (group.owner !== undefined || used) return -ERRNO.EBUSY;
    const status = this.attachGroup(group, group.instance.ops.blockedDomain);
    if (status === 0) group.owner = owner;
    return status;
  }

  /** Returns a claimed group to its default domain. 0 or a negative errno. */
  releaseOwner(group: IommuGroup): number {
    group.owner = undefined;
    return group.defaultDomain === undefined ? -ERRNO.EINVAL : this.attachGroup(group, group.defaultDomain);
  }

  /** Maps `[iova, iova + size)` with the largest pages that fit. 0, or a negative errno with nothing of it mapped. */
  map(domain: IommuDomain, iova: number, pa: number, size: number, prot: number): number {
    return this.#mapper.map(domain, iova, pa, size, prot);
  }

  /** Unmaps and invalidates. Returns bytes unmapped. */
  unmap(domain: IommuDomain, iova: number, size: number): number {
    const gather = this.#gather;
    gather.reset();
    const bytes = this.#mapper.unmap(domain, iova, size, gather);
    gather.sync(domain);
    return bytes;
  }

  /** Unmaps into `gather`; the caller syncs it. Returns bytes unmapped. */
  unmapFast(domain: IommuDomain, iova: number, size: number, gather: IotlbGather): number {
    return this.#mapper.unmap(domain, iova, size, gather);
  }

  /** Physical address of `iova`: itself on identity, 0 when blocked or not mapped. */
  iovaToPhys(domain: IommuDomain, iova: number): number {
    if (domain.type === "identity") return iova;
    return domain.ops.iovaToPhys?.(domain, iova) ?? 0;
  }

  /** See {@link setDirtyTracking}. */
  setDirtyTracking(domain: IommuDomain, enable: boolean): number {
    return setDirtyTracking(domain, enable);
  }

  /** See {@link readAndClearDirty}. */
  readAndClearDirty(domain: IommuDomain, bitmap: DirtyBitmap, noClear: boolean = false): number {
    return readAndClearDirty(domain, bitmap, noClear);
  }

  /** Regions that firmware wants to be mapped one to one for the streams `ids` of an IOMMU, by its node; all of them without `ids`. */
  rmrsOf(iommu: string, ids?: readonly number[]): readonly Rmr[] {
    return this.#rmrs.filter((rmr) => rmr.iommu === iommu && (ids === undefined || rmr.ids.some((id) => ids.includes(id))));
  }

  /** What drivers call for a transaction that waits for a page; see {@link reportPageRequest}. */
  reportPageRequest(dev: Device, request: PageRequest): number {
    return reportPageRequest(dev, request);
  }

  /** What drivers call for every fault event. */
  reportFault(dev: Device | undefined, fault: IommuFault): void {
    this.faults.report(dev, fault);
  }

  #attachDevice(domain: IommuDomain, dev: Device, old: IommuDomain | undefined): number {
    const status = domain.ops.attachDev(domain, dev, old);
    if (status < 0) return status;
    this.#kernel.cpu.counters.add(this.#attaches, 1);
    domain.users++;
    if (old !== undefined) old.users--;
    return 0;
  }

  /** The driver core is about to bind `dev`. */
  #configure(dev: Device): number {
    const status = deviceIommu(dev) === undefined ? this.#discover(dev) : 0;
    if (status < 0 || this.groupOf(dev)?.owner === undefined || dev.driver?.managesDma === true) return status;
    return -ERRNO.EBUSY;
  }

  /** Finds the IOMMU of `dev` in its firmware node. */
  #discover(dev: Device): number {
    const iommus = dev.node?.iommus ?? [];
    const first = iommus[0];
    if (first === undefined) return 0;
    if (iommus.some(({ iommu }) => iommu !== first.iommu)) return -ERRNO.EINVAL;
    const instance = this.#instances.get(first.iommu);
    if (instance === undefined) return -ERRNO.EPROBE_DEFER;
    const status = this.#probe(dev, instance);
    if (status < 0 && status !== -ERRNO.EPROBE_DEFER) {
      this.#kernel.log.err(`iommu: ${dev.name}: cannot add to ${instance.name}: ${errnoName(status)}`);
    }
    return status;
  }

  #probe(dev: Device, instance: IommuInstance): number {
    const { ops } = instance;
    const state: DeviceIommu = {
      instance, ids: [], group: undefined, pasids: new Map(), iopf: new Set(), requireDirect: false, drvdata: undefined,
    };
    dev.iommu = state;
    let status = this.#translateIds(dev, state);
    if (status === 0) status = ops.probeDevice(dev);
    if (status < 0) {
      dev.iommu = undefined;
      return status;
    }
    const group = ops.deviceGroup(dev);
    status = typeof group === "number" ? group : this.#join(group, dev, state);
    if (status < 0) {
      ops.releaseDevice(dev);
      dev.iommu = undefined;
    }
    return status;
  }

  #translateIds(dev: Device, state: DeviceIommu): number {
    for (const { id } of dev.node?.iommus ?? []) {
      const status = state.instance.ops.ofXlate(dev, id);
      if (status < 0) return status;
      state.ids.push(id);
    }
    return 0;
  }

  /** Adds `dev` to `group` and attaches it to the group's domain, which the first device chooses. */
  #join(group: IommuGroup, dev: Device, state: DeviceIommu): number {
    if (group.defaultDomain === undefined) {
      const domain = this.#defaultDomain(dev, state.instance.ops);
      if (typeof domain === "number") return domain;
      group.defaultDomain = domain;
    }
    const domain = group.domain ?? group.defaultDomain;
    const regions = state.instance.ops.getResvRegions?.(dev) ?? [];
    state.requireDirect = regions.some(({ type }) => type === "direct");
    const status = this.#mapDirect(domain, regions) || this.#attachDevice(domain, dev, undefined);
    if (status < 0) {
      if (group.devices.length === 0) this.#freeGroup(group);
      return status;
    }
    group.domain = domain;
    group.devices.push(dev);
    state.group = group;
    this.#groups.add(group);
    const { sysfs } = this.#kernel.core;
    if (group.devices.length === 1) {
      sysfs.attribute(`${group.path}/type`, () => defaultType(group));
      sysfs.attribute(`${group.path}/reserved_regions`, () => reservedText(group));
    }
    sysfs.link(`${group.path}/devices/${dev.name}`, dev.path);
    sysfs.link(`${dev.path}/iommu_group`, group.path);
    sysfs.link(`${sysfsPath(state.instance)}/devices/${dev.name}`, dev.path);
    return 0;
  }

  #leave(group: IommuGroup, dev: Device): void {
    group.devices.splice(group.devices.indexOf(dev), 1);
    const { sysfs } = this.#kernel.core;
    sysfs.remove(`${group.path}/devices/${dev.name}`);
    sysfs.remove(`${dev.path}/iommu_group`);
    sysfs.remove(`${sysfsPath(group.instance)}/devices/${dev.name}`);
  }

  #freeGroup(group: IommuGroup): void {
    const { ops } = group.instance;
    const domain = group.defaultDomain;
    group.domain = undefined;
    group.defaultDomain = undefined;
    if (domain !== undefined && domain !== ops.identityDomain) this.freeDomain(domain);
    this.#groups.delete(group);
    this.#kernel.core.sysfs.remove(group.path);
  }

  #defaultDomain(dev: Device, ops: IommuOps): IommuDomain | number {
    const type = ops.defDomainType?.(dev) ?? this.defaultDomainType;
    if (type === "identity" || ops.domainAllocPaging === undefined) return ops.identityDomain;
    const domain = ops.domainAllocPaging(dev);
    if (domain === -ERRNO.EOPNOTSUPP) return ops.identityDomain;
    if (typeof domain === "number") return domain;
    const granule = domain.pageSizes[0];
    if (granule === undefined) throw new RangeError("IommuDomain: a paging domain needs a pgsizeBitmap");
    domain.iovas = new IovaAllocator({ granule, apertureEnd: domain.apertureEnd });
    const deferred = domain.ops.flushIotlbAll !== undefined && ops.capable?.(dev, "deferred-flush") === true;
    if (type === "dma-fq" && deferred) {
      domain.flushQueue = new FlushQueue(domain, domain.iovas, this.#kernel.cpu);
    }
    return domain;
  }

  /** Reserves the regions of a device in the IOVA space, and maps those that must always be reachable. */
  #mapDirect(domain: IommuDomain, regions: readonly ReservedRegion[]): number {
    const { iovas } = domain;
    if (iovas === undefined) return 0;
    for (const region of regions) {
      iovas.reserve(region.start, region.length);
      const direct = region.type === "direct" || region.type === "direct-relaxable";
      if (!direct || this.iovaToPhys(domain, region.start) !== 0) continue;
      const status = this.map(domain, region.start, region.start, region.length, region.prot);
      if (status < 0) return status;
    }
    return 0;
  }
}

function sysfsPath(instance: IommuInstance): string {
  return `${instance.dev.path}/iommu/${instance.name}`;
}
