import { ABI_PROT, HOST_DOMAINS, IOMMU_DOMAIN_TYPE, IOMMU_STATE, SG_ENTRY } from "@smmuv3/pkvm-abi";
import type { IommuDomainType } from "@smmuv3/pkvm-abi";
import { ERRNO, PAGE_SIZE, SpinLock } from "@smmuv3/platform";

import type { HypCore } from "./core.ts";
import { LOCK_RANK, UNMAP_MAX } from "./iommu-driver.ts";
import type { HypDomain, HypIommuPaging, UnmapVisitor } from "./iommu-driver.ts";
import { setFixedState } from "./iommus.ts";
import type { Iommus } from "./iommus.ts";
import { unuseDma, useDma } from "./use-dma.ts";

/** Ids are below this; those from HOST_DOMAINS on are of guests. */
const MAX_DOMAINS = 2 * HOST_DOMAINS;
const MAX_REFS = 0xffff;
const ALL_PROT = Object.values(ABI_PROT).reduce((all, bit) => all | bit, 0);
/** No address is beyond. */
const ADDRESS_END = 2 ** 52;
/** Entries of one `__pkvm_iommu_map_sg`. */
const SG_MAX = 1024;
const PASIDS = 2 ** 20;

/** A domain and what translates for it. */
interface Domain extends HypDomain {
  readonly paging: HypIommuPaging;
  /** Held while its tables are read or written. */
  readonly lock: SpinLock;
}

/**
 * Paravirtual domains. Whoever `caller` is (OWNER.host, or a VM), it only reaches its own. Results are 0 or positive, or a
 * negative errno: -ENOENT when there is no such domain, -EPERM when it is another's.
 *
 * A domain has a reference for being there, one for each stream or PASID that it is attached to, and one while it is mapped or
 * unmapped. They are in EL2's memory and change under the domains lock.
 */
export class Domains {
  readonly #core: HypCore;
  readonly #iommus: Iommus;
  /** References, by id. */
  readonly #refs: number;
  readonly #domains: (Domain | undefined)[] = new Array<Domain | undefined>(MAX_DOMAINS).fill(undefined);
  /** Domain ids by IOMMU, and by StreamID and PASID. */
  readonly #attached: Map<number, number>[] = [];
  readonly #unuse: UnmapVisitor;

  private constructor(core: HypCore, iommus: Iommus, refs: number) {
    this.#core = core;
    this.#iommus = iommus;
    this.#refs = refs;
    this.#unuse = (pa, size) => {
      unuseDma(core, pa, size);
    };
  }

  /** No domains, or -ENOMEM. */
  static create(core: HypCore, iommus: Iommus): Domains | number {
    const refs = core.pool.alloc(MAX_DOMAINS * 4, "domains");
    return refs < 0 ? refs : new Domains(core, iommus, refs);
  }

  /** Makes domain `id` of the host. -EBUSY: it exists. */
  alloc(caller: number, iommu: number, id: number, type: number): number {
    if (!(id >= IOMMU_STATE.firstDomain && id < HOST_DOMAINS)) return -ERRNO.EINVAL;
    return this.#locked(() => this.#alloc(caller, iommu, id, type));
  }

  /** Makes a domain of a guest, of the first type that the hardware has. Returns its id; -ENOSPC. */
  allocFor(caller: number, iommu: number): number {
    return this.#locked(() => {
      let id = HOST_DOMAINS;
      while (id < MAX_DOMAINS && this.#ref(id) !== 0) id++;
      if (id === MAX_DOMAINS) return -ERRNO.ENOSPC;
      let status = this.#alloc(caller, iommu, id, IOMMU_DOMAIN_TYPE.s2);
      if (status === -ERRNO.EOPNOTSUPP) status = this.#alloc(caller, iommu, id, IOMMU_DOMAIN_TYPE.s1);
      return status < 0 ? status : id;
    });
  }

  /** Ends a domain, unmapping what it maps. -EBUSY: in use. */
  free(caller: number, id: number): number {
    return this.#locked(() => {
      const domain = this.#find(caller, id);
      return typeof domain === "number" ? domain : this.#free(domain);
    });
  }

  /**
   * Translation of `(iommu, sid, pasid)`: IOMMU_STATE or a domain. -ENODEV, -EINVAL (arguments that do not go together), -EPERM
   * (the stream is another's), or what the driver returned.
   */
  setState(caller: number, iommu: number, sid: number, pasid: number, state: number): number {
    return this.#locked(() => this.#setState(caller, iommu, sid, pasid, state));
  }

  /** Blocks the PASIDs of a stream and the stream; the caller holds the domains lock. */
  block(caller: number, iommu: number, sid: number): number {
    for (const key of [...(this.#attached[iommu]?.keys() ?? [])]) {
      if (Math.floor(key / PASIDS) !== sid || key % PASIDS === 0) continue;
      const status = this.#setState(caller, iommu, sid, key % PASIDS, IOMMU_STATE.blocking);
      if (status < 0) return status;
    }
    return this.#setState(caller, iommu, sid, 0, IOMMU_STATE.blocking);
  }

  /** Ends all domains of a guest that has no streams any more; the caller holds the domains lock. */
  freeAll(caller: number): number {
    for (let id = HOST_DOMAINS; id < MAX_DOMAINS; id++) {
      const domain = this.#domains[id];
      const status = domain?.owner === caller ? this.#free(domain) : 0;
      if (status < 0) return status;
    }
    return 0;
  }

  /**
   * Maps `count` pages of `pgsize` bytes, which the caller owns alone, and keeps them in use. Returns bytes mapped, or an error when
   * that is 0: -EOPNOTSUPP (prot), -E2BIG (range), -EINVAL (alignment, RAM and device space), -ENOENT, -EPERM, or the driver's.
   */
  map(caller: number, id: number, iova: number, pa: number, pgsize: number, count: number, prot: number): number {
    const size = pgsize * count;
    if (prot > ALL_PROT) return -ERRNO.EOPNOTSUPP;
    const checked = checkRange(iova, pgsize, size);
    if (checked < 0 || pa + size > ADDRESS_END) return checked < 0 ? checked : -ERRNO.E2BIG;
    if (pa % pgsize !== 0) return -ERRNO.EINVAL;
    const domain = this.#get(caller, id);
    if (typeof domain === "number") return domain;
    const { cpu } = this.#core;
    let done = useDma(this.#core, pa, size, caller);
    if (done === 0) {
      domain.lock.lock(cpu);
      done = domain.paging.mapPages(domain, iova, pa, pgsize, count, prot);
      domain.lock.unlock(cpu);
      const mapped = Math.max(done, 0);
      if (mapped < size) unuseDma(this.#core, pa + mapped, size - mapped);
    }
    this.#put(id);
    return done;
  }

  /** Maps the entries of a list in shared memory, one after the other, up to the first that is not mapped all. As {@link map}. */
  mapSg(caller: number, id: number, iova: number, list: number, entries: number, prot: number): number {
    const { memory } = this.#core.cpu;
    if (entries > SG_MAX) return -ERRNO.E2BIG;
    if (list % SG_ENTRY.bytes !== 0) return -ERRNO.EINVAL;
    const pinned = this.#core.pinShared(list, entries * SG_ENTRY.bytes);
    if (pinned < 0) return pinned;
    let done = 0;
    let status = 0;
    for (let at = list; at < list + entries * SG_ENTRY.bytes && status >= 0; at += SG_ENTRY.bytes) {
      // The host may write while EL2 reads: each field is read once.
      const phys = memory.load64(at + SG_ENTRY.phys);
      const pgsize = memory.load32(at + SG_ENTRY.pgsize) >>> 0;
      const count = memory.load32(at + SG_ENTRY.pgcount) >>> 0;
      status = this.map(caller, id, iova + done, phys, pgsize, count, prot);
      done += Math.max(status, 0);
      if (status < pgsize * count) break;
    }
    this.#core.unpin(list, entries * SG_ENTRY.bytes);
    return done === 0 ? status : done;
  }

  /** Unmaps up to `count` pages of `pgsize` bytes, as far as they are mapped. Returns bytes, or an error when that is 0. */
  unmap(caller: number, id: number, iova: number, pgsize: number, count: number): number {
    const checked = checkRange(iova, pgsize, pgsize * count);
    if (checked < 0) return checked;
    const domain = this.#get(caller, id);
    if (typeof domain === "number") return domain;
    const { cpu } = this.#core;
    let pages = 0;
    let status = 0;
    do {
      domain.lock.lock(cpu);
      const batch = Math.min(count - pages, UNMAP_MAX);
      status = domain.paging.unmapPages(domain, iova + pages * pgsize, pgsize, batch, this.#unuse);
      domain.lock.unlock(cpu);
      pages += Math.max(status, 0) / pgsize;
    } while (status > 0 && pages < count);
    this.#put(id);
    return pages === 0 ? status : pages * pgsize;
  }

  /** Address that `iova` translates to; 0: none. */
  iovaToPhys(caller: number, id: number, iova: number): number {
    const domain = this.#get(caller, id);
    if (typeof domain === "number") return domain;
    const { cpu } = this.#core;
    domain.lock.lock(cpu);
    const pa = domain.paging.iovaToPhys(domain, iova);
    domain.lock.unlock(cpu);
    this.#put(id);
    return pa;
  }

  #locked(run: () => number): number {
    this.#iommus.lock.lock(this.#core.cpu);
    const result = run();
    this.#iommus.lock.unlock(this.#core.cpu);
    return result;
  }

  #alloc(owner: number, iommu: number, id: number, type: number): number {
    const found = this.#iommus.at(iommu);
    if (found === undefined) return -ERRNO.ENODEV;
    const { paging } = found.driver;
    if (paging === undefined) return -ERRNO.EOPNOTSUPP;
    if (!isType(type)) return -ERRNO.EINVAL;
    if (this.#ref(id) !== 0) return -ERRNO.EBUSY;
    const lock = new SpinLock(`domain ${id}`, LOCK_RANK.pgt, this.#core.locks);
    const domain: Domain = { id, type, owner, data: undefined, paging, lock };
    const status = paging.allocDomain(found.local, domain);
    if (status < 0) return status;
    this.#domains[id] = domain;
    this.#setRef(id, 1);
    return 0;
  }

  #free(domain: Domain): number {
    if (this.#ref(domain.id) !== 1) return -ERRNO.EBUSY;
    const status = domain.paging.freeDomain(domain, this.#unuse);
    if (status < 0) return status;
    this.#domains[domain.id] = undefined;
    this.#setRef(domain.id, 0);
    return 0;
  }

  #setState(caller: number, iommu: number, sid: number, pasid: number, state: number): number {
    const stream = this.#iommus.streamOf(caller, iommu, sid, pasid);
    if (typeof stream === "number") return stream;
    let status: number;
    if (state < IOMMU_STATE.firstDomain) {
      status = setFixedState(stream, sid, pasid, state);
    } else {
      const domain = this.#find(caller, state);
      if (typeof domain === "number") return domain;
      if (domain.paging !== stream.driver.paging) return -ERRNO.EINVAL;
      if (this.#ref(state) === MAX_REFS) return -ERRNO.EBUSY;
      status = domain.paging.attach(stream.local, sid, pasid, domain);
    }
    if (status >= 0) this.#record(iommu, sid * PASIDS + pasid, state);
    return status;
  }

  #record(iommu: number, key: number, state: number): void {
    const attached = (this.#attached[iommu] ??= new Map<number, number>());
    const old = attached.get(key);
    if (state < IOMMU_STATE.firstDomain) {
      attached.delete(key);
    } else {
      attached.set(key, state);
      this.#setRef(state, this.#ref(state) + 1);
    }
    if (old !== undefined) this.#setRef(old, this.#ref(old) - 1);
  }

  #get(caller: number, id: number): Domain | number {
    const { cpu } = this.#core;
    this.#iommus.lock.lock(cpu);
    let domain = this.#find(caller, id);
    if (typeof domain !== "number") {
      const refs = this.#ref(id);
      if (refs === MAX_REFS) domain = -ERRNO.EBUSY;
      else this.#setRef(id, refs + 1);
    }
    this.#iommus.lock.unlock(cpu);
    return domain;
  }

  #put(id: number): void {
    const { cpu } = this.#core;
    this.#iommus.lock.lock(cpu);
    this.#setRef(id, this.#ref(id) - 1);
    this.#iommus.lock.unlock(cpu);
  }

  #find(caller: number, id: number): Domain | number {
    if (id < IOMMU_STATE.firstDomain) return -ERRNO.EINVAL;
    const domain = this.#domains[id];
    if (domain === undefined) return -ERRNO.ENOENT;
    return domain.owner === caller ? domain : -ERRNO.EPERM;
  }

  #ref(id: number): number {
    return this.#core.cpu.memory.load32(this.#refs + id * 4);
  }

  #setRef(id: number, refs: number): void {
    this.#core.cpu.memory.store32(this.#refs + id * 4, refs);
  }
}

function isType(type: number): type is IommuDomainType {
  return type === IOMMU_DOMAIN_TYPE.s1 || type === IOMMU_DOMAIN_TYPE.s2;
}

/** -E2BIG: it goes beyond every address; -EINVAL: nothing, or not whole pages. */
function checkRange(iova: number, pgsize: number, size: number): number {
  if (iova + size > ADDRESS_END) return -ERRNO.E2BIG;
  return size === 0 || pgsize % PAGE_SIZE !== 0 || iova % pgsize !== 0 ? -ERRNO.EINVAL : 0;
}
