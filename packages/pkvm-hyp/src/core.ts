import { POOL } from "@smmuv3/pkvm-abi";
import { ERRNO, LEVEL, PAGE_SIZE, SpinLock } from "@smmuv3/platform";
import type { Firmware, HypCpu, LockOrder } from "@smmuv3/platform";

import { HostStage2 } from "./host-stage2.ts";
import { HOST_PROT, LOCK_RANK } from "./iommu-driver.ts";
import type { Iommus } from "./iommus.ts";
import { MmioOwners } from "./mmio-owners.ts";
import { OWNER, PAGE_STATE, PageStates } from "./page-state.ts";
import { account, HypPool } from "./pool.ts";
import type { PoolEnv } from "./pool.ts";
import type { Requests } from "./requests.ts";
import { addressBits } from "./stage2.ts";

/** Called for each piece of {@link HypCore.snapshot}. Returns 0 or a negative errno. */
export type RangeVisitor = (start: number, end: number, prot: number) => number;

/** What there is of EL2 before its core. */
export interface Surroundings extends Omit<PoolEnv, "states"> {
  readonly firmware: Firmware;
  readonly iommus: Iommus | undefined;
}

/** What a {@link HypCore} is made of. */
interface Parts extends Surroundings, PoolEnv {
  readonly pool: HypPool;
  readonly stage2: HostStage2;
  readonly mmio: MmioOwners;
}

/**
 * Who owns what, and how that changes. Ranges are 4K aligned; results are 0 or a negative errno, and after an error nothing
 * has changed. Each change is one critical section of the host lock.
 *
 * A page leaves the host in this order: the host's stage 2 and its TLB, the IOMMU's identity map and its TLB, then the owner on
 * record. It comes back in the reverse order, wiped.
 */
export class HypCore {
  readonly cpu: HypCpu;
  readonly firmware: Firmware;
  /** Bits of a physical address in use. */
  readonly addressBits: number;
  /** Memory that the host set aside at `__pkvm_init`, and what it adds to POOL.hyp. */
  readonly pool: HypPool;
  /** Memory of domains; empty until the host adds to POOL.iommu. */
  readonly iommuPool: HypPool;
  readonly states: PageStates;
  readonly stage2: HostStage2;
  /** EL2's locks, ranked by LOCK_RANK: `new SpinLock(name, rank, core.locks)`. */
  readonly locks: LockOrder;
  readonly requests: Requests;
  readonly #lock: SpinLock;
  /** Owners of device space; changes under the host lock. */
  readonly mmio: MmioOwners;
  readonly #iommus: Iommus | undefined;
  readonly #donated: number;
  readonly #reclaimed: number;
  /** Whose identity maps follow what changes. */
  #tracked: Iommus | undefined = undefined;

  private constructor(parts: Parts) {
    const { cpu, firmware, locks } = parts;
    this.cpu = cpu;
    this.firmware = firmware;
    this.addressBits = addressBits(firmware);
    this.pool = parts.pool;
    this.iommuPool = new HypPool(parts, POOL.iommu);
    this.states = parts.states;
    this.stage2 = parts.stage2;
    this.locks = locks;
    this.requests = parts.requests;
    this.#lock = new SpinLock("host", LOCK_RANK.host, locks);
    this.mmio = parts.mmio;
    this.#iommus = parts.iommus;
    this.#donated = cpu.counters.id("pagesDonated") + LEVEL.el2;
    this.#reclaimed = cpu.counters.id("pagesReclaimed") + LEVEL.el2;
  }

  /** The core over the carve-out `[base, base + pages * 4K)`. Returns -EINVAL for a bad range, -ENOMEM when it is too small. */
  static create(hyp: Surroundings, base: number, pages: number): HypCore | number {
    const { cpu, firmware } = hyp;
    const { memory } = cpu;
    if (base % PAGE_SIZE !== 0 || !(pages > 0) || memory.pageIndex(base) < 0) return -ERRNO.EINVAL;
    if (memory.pageIndex(base + (pages - 1) * PAGE_SIZE) < 0) return -ERRNO.EINVAL;
    // The table comes first and is not a block: aligning it would waste as much as it takes.
    const tablePages = Math.ceil((memory.pages * 4) / PAGE_SIZE);
    if (pages <= tablePages) return -ERRNO.ENOMEM;
    memory.fill(base, tablePages * PAGE_SIZE, 0);
    account(cpu, "pageState", tablePages * PAGE_SIZE);
    const states = new PageStates(memory, base);
    const first = memory.pageIndex(base);
    for (let page = first; page < first + tablePages; page++) states.set(page, OWNER.hyp, PAGE_STATE.owned, 1);
    const env = { ...hyp, states };
    const pool = new HypPool(env, POOL.hyp);
    pool.add(base + tablePages * PAGE_SIZE, pages - tablePages, true);
    const records = pool.alloc(PAGE_SIZE, "pageState");
    if (records < 0) return records;
    const stage2 = HostStage2.create(cpu, pool, states, addressBits(firmware));
    if (typeof stage2 === "number") return stage2;
    return new HypCore({ ...env, pool, stage2, mmio: new MmioOwners(memory, records) });
  }

  /**
   * Tells `visit` what the host owns: RAM, and the device space that firmware describes. From here on changes go to the drivers.
   * Stops at the first error and returns it.
   */
  snapshot(visit: RangeVisitor): number {
    return this.locked(() => this.#snapshot(visit));
  }

  /** True when `pa` is device space that is not the host's. */
  ownsMmio(pa: number): boolean {
    return this.mmio.overlaps(pa, 1, OWNER.host);
  }

  /** True when `[pa, pa + size)` is a non-empty range of whole pages of RAM. */
  isRam(pa: number, size: number): boolean {
    const { memory } = this.cpu;
    return isPages(pa, size) && memory.pageIndex(pa) >= 0 && memory.pageIndex(pa + size - 1) >= 0;
  }

  /** The host came to `ipa` and has no mapping there: makes one of what it may reach. -EPERM: it may not; -ENOMEM, -ERANGE. */
  mapForHost(ipa: number): number {
    return this.locked(() => {
      const page = this.#pageOf(ipa);
      if (page >= 0) return this.states.hostReaches(page) ? this.stage2.mapMemory(page) : -ERRNO.EPERM;
      return this.ownsMmio(ipa) ? -ERRNO.EPERM : this.stage2.mapDevice(ipa - (ipa % PAGE_SIZE));
    });
  }

  /** The host is deprivileged from here on. */
  deprivilege(): void {
    this.locked(() => {
      this.stage2.enable();
      return 0;
    });
  }

  /** Host to EL2, in use by EL2: the host cannot have the pages back by a hypercall. */
  donateHostToHyp(pa: number, size: number): number {
    return this.donate(pa, size, OWNER.hyp, 1);
  }

  /** Undoes {@link donateHostToHyp}. */
  donateHypToHost(pa: number, size: number): number {
    return this.reclaim(pa, size, OWNER.hyp, PAGE_STATE.owned, 1);
  }

  /**
   * Host to `owner`. -EINVAL: not whole pages of RAM. -EPERM: a page is not the host's alone. -EBUSY: a page is pinned. Or what
   * an IOMMU driver returned.
   */
  donate(pa: number, size: number, owner: number, pins: number = 0): number {
    return this.locked(() => this.#donate(pa, size, owner, pins));
  }

  /** Undoes a {@link donate} of pages that nobody wrote to since. */
  cancelDonation(pa: number, size: number): void {
    this.locked(() => {
      this.#setAll(pa, size, OWNER.host, PAGE_STATE.owned, 0);
      this.cpu.counters.add(this.#donated, -size / PAGE_SIZE);
      return this.#giveToHost(pa, size, HOST_PROT.memory);
    });
  }

  /** `owner`, in `state` and with `pins`, back to the host, wiped. -EINVAL, -EPERM, -EBUSY as for {@link donate}. */
  reclaim(pa: number, size: number, owner: number, state: number, pins: number = 0): number {
    return this.locked(() => this.#reclaim(pa, size, owner, state, pins));
  }

  /** EL2 gets access to one page of the host. -EINVAL, -EPERM, -EBUSY as for {@link donate}. */
  share(pa: number): number {
    return this.#move(pa, OWNER.host, PAGE_STATE.owned, PAGE_STATE.sharedOwned);
  }

  /** Undoes {@link share}. -EBUSY: EL2 has it pinned. */
  unshare(pa: number): number {
    return this.#move(pa, OWNER.host, PAGE_STATE.sharedOwned, PAGE_STATE.owned);
  }

  /** The host gets access to one page of VM `owner`. -EPERM, -EBUSY as for {@link donate}, or what an IOMMU driver returned. */
  shareWithHost(pa: number, owner: number): number {
    return this.#move(pa, owner, PAGE_STATE.owned, PAGE_STATE.sharedOwned, () =>
      this.#giveToHost(pa, PAGE_SIZE, HOST_PROT.memory),
    );
  }

  /** Undoes {@link shareWithHost}: complete on return. */
  unshareWithHost(pa: number, owner: number): number {
    return this.#move(pa, owner, PAGE_STATE.sharedOwned, PAGE_STATE.owned, () =>
      this.#takeFromHost(pa, PAGE_SIZE, HOST_PROT.memory),
    );
  }

  /** Keeps the shared pages under `[pa, pa + size)`, any alignment, shared and where they are. */
  pinShared(pa: number, size: number): number {
    return this.locked(() => this.pinPages(pa, size, OWNER.host, PAGE_STATE.sharedOwned));
  }

  /** {@link pinShared} of pages that the host need not have shared: EL2 acts for a host that does not know of it. */
  pinLent(pa: number, size: number): number {
    return this.locked(() => this.pinPages(pa, size, OWNER.host, PAGE_STATE.lent));
  }

  /** Undoes {@link pinShared} or {@link pinLent} for the same range. */
  unpin(pa: number, size: number): void {
    this.locked(() => {
      this.#unpinPages(this.#pageOf(pa), this.#pageOf(pa + size - 1) + 1);
      return 0;
    });
  }

  /** Device pages of the host to `owner`. -EINVAL: not whole pages, or RAM. -EPERM: not the host's, or its devices may reach them. */
  donateMmio(base: number, size: number, owner: number = OWNER.hyp): number {
    return this.locked(() => {
      if (!this.isDevice(base, size)) return -ERRNO.EINVAL;
      if (this.mmio.overlaps(base, size)) return -ERRNO.EPERM;
      const status = this.#takeFromHost(base, size, HOST_PROT.device);
      if (status < 0) return status;
      const recorded = this.mmio.add(base, size, owner);
      if (recorded < 0) this.#giveToHost(base, size, HOST_PROT.device);
      return recorded;
    });
  }

  /** Undoes {@link donateMmio} for the same range. */
  returnMmio(base: number, size: number, owner: number = OWNER.hyp): number {
    return this.locked(() => {
      const status = this.mmio.remove(base, size, owner);
      return status < 0 ? status : this.#giveToHost(base, size, HOST_PROT.device);
    });
  }

  /** What VM `owner` has waits to be reclaimed; nothing of it is in use. Returns pages and device ranges. */
  retire(owner: number): number {
    const { states } = this;
    return this.locked(() => {
      let count = this.mmio.count(owner);
      for (let page = 0; page < this.cpu.memory.pages; page++) {
        if (states.owner(page) !== owner) continue;
        states.set(page, owner, states.hostReaches(page) ? PAGE_STATE.reclaimShared : PAGE_STATE.reclaim);
        count++;
      }
      return count;
    });
  }

  /** One page, or device page, that {@link retire} left, back to the host. Errors as for {@link reclaim}. */
  reclaimRetired(pa: number, owner: number): number {
    const page = this.#pageOf(pa);
    if (page < 0) return this.returnMmio(pa, PAGE_SIZE, owner);
    const shared = this.states.hostReaches(page);
    return this.reclaim(pa, PAGE_SIZE, owner, shared ? PAGE_STATE.reclaimShared : PAGE_STATE.reclaim);
  }

  /** Owner on record of the page, or device page, at `pa`. */
  ownerOf(pa: number): number {
    const page = this.#pageOf(pa);
    return page < 0 ? this.mmio.ownerOf(pa) : this.states.owner(page);
  }

  /** Runs `run` under the host lock. */
  locked(run: () => number): number {
    this.#lock.lock(this.cpu);
    const result = run();
    this.#lock.unlock(this.cpu);
    return result;
  }

  /** True for whole pages of device space. */
  isDevice(base: number, size: number): boolean {
    const { memory } = this.cpu;
    if (!isPages(base, size) || base + size > 2 ** this.addressBits) return false;
    return base >= memory.base + memory.size || base + size <= memory.base;
  }

  /**
   * Keeps the pages under `[pa, pa + size)`, all of `owner` and in state `want`, where they are and in that state; the caller is
   * {@link locked}. -EINVAL: not RAM. -EPERM: another owner or state. -EBUSY: too many pins.
   */
  pinPages(pa: number, size: number, owner: number, want: number): number {
    const first = this.#pageOf(pa);
    const last = this.#pageOf(pa + size - 1);
    if (!(size > 0) || first < 0 || last < first) return -ERRNO.EINVAL;
    for (let page = first; page <= last; page++) {
      const status = this.#pinPage(page, owner, want);
      if (status < 0) {
        this.#unpinPages(first, page);
        return status;
      }
    }
    return 0;
  }

  #snapshot(visit: RangeVisitor): number {
    const { memory } = this.cpu;
    const ram = this.#runs(memory.base, memory.base + memory.size, HOST_PROT.memory, visit);
    if (ram < 0) return ram;
    for (const { base, size } of [...this.firmware.doorbells, ...this.firmware.nodes.flatMap((node) => node.reg)]) {
      const status = this.#runs(base - (base % PAGE_SIZE), base + size, HOST_PROT.device, visit);
      if (status < 0) return status;
    }
    this.#tracked = this.#iommus;
    return 0;
  }

  #donate(pa: number, size: number, owner: number, pins: number): number {
    if (!this.isRam(pa, size)) return -ERRNO.EINVAL;
    const { states } = this;
    const first = this.#pageOf(pa);
    const end = first + size / PAGE_SIZE;
    for (let page = first; page < end; page++) {
      if (states.pins(page) !== 0) return states.hostOwned(page) ? -ERRNO.EBUSY : -ERRNO.EPERM;
      if (!states.hostOwned(page) || states.state(page) !== PAGE_STATE.owned) return -ERRNO.EPERM;
    }
    const status = this.#takeFromHost(pa, size, HOST_PROT.memory);
    if (status < 0) return status;
    this.#setAll(pa, size, owner, PAGE_STATE.owned, pins);
    this.cpu.counters.add(this.#donated, end - first);
    return 0;
  }

  #reclaim(pa: number, size: number, owner: number, state: number, pins: number): number {
    if (!this.isRam(pa, size)) return -ERRNO.EINVAL;
    const { states } = this;
    const first = this.#pageOf(pa);
    const end = first + size / PAGE_SIZE;
    for (let page = first; page < end; page++) {
      if (states.owner(page) !== owner || states.state(page) !== state) return -ERRNO.EPERM;
      if (states.pins(page) !== pins) return -ERRNO.EBUSY;
    }
    this.cpu.memory.fill(pa, size, 0);
    const hadAccess = states.hostReaches(first);
    this.#setAll(pa, size, OWNER.host, PAGE_STATE.owned, 0);
    const status = hadAccess ? 0 : this.#giveToHost(pa, size, HOST_PROT.memory);
    if (status < 0) this.#setAll(pa, size, owner, state, pins);
    else this.cpu.counters.add(this.#reclaimed, end - first);
    return status;
  }

  /** One page of `owner`, not pinned, from a state to another once `follow` has succeeded. */
  #move(pa: number, owner: number, from: number, to: number, follow: () => number = () => 0): number {
    return this.locked(() => {
      if (!this.isRam(pa, PAGE_SIZE)) return -ERRNO.EINVAL;
      const { states } = this;
      const page = this.#pageOf(pa);
      if (states.owner(page) !== owner || states.state(page) !== from) return -ERRNO.EPERM;
      if (states.pins(page) !== 0) return -ERRNO.EBUSY;
      const status = follow();
      if (status === 0) states.set(page, owner, to);
      return status;
    });
  }

  #setAll(pa: number, size: number, owner: number, state: number, pins: number): void {
    const first = this.#pageOf(pa);
    for (let page = first; page < first + size / PAGE_SIZE; page++) this.states.set(page, owner, state, pins);
  }

  #takeFromHost(pa: number, size: number, prot: number): number {
    this.stage2.unmap(pa, size);
    return this.#tracked?.revoke(pa, pa + size, prot) ?? 0;
  }

  /** The host's stage 2 is filled when the host comes. */
  #giveToHost(pa: number, size: number, prot: number): number {
    return this.#tracked?.grant(pa, pa + size, prot) ?? 0;
  }

  #pageOf(pa: number): number {
    return this.cpu.memory.pageIndex(pa);
  }

  #pinPage(page: number, owner: number, want: number): number {
    const { states } = this;
    const state = states.state(page);
    if (states.owner(page) !== owner) return -ERRNO.EPERM;
    if (want === PAGE_STATE.lent && state === PAGE_STATE.owned) {
      if (states.pins(page) !== 0) return -ERRNO.EBUSY;
      states.set(page, owner, PAGE_STATE.lent);
    } else if (state !== want && !(want === PAGE_STATE.lent && state === PAGE_STATE.sharedOwned)) {
      return -ERRNO.EPERM;
    }
    return states.pin(page);
  }

  #unpinPages(first: number, end: number): void {
    const { states } = this;
    for (let page = first; page < end; page++) {
      states.unpin(page);
      if (states.pins(page) === 0 && states.state(page) === PAGE_STATE.lent) {
        states.set(page, states.owner(page), PAGE_STATE.owned);
      }
    }
  }

  /** Visits the maximal runs of `[start, end)` that the host owns. */
  #runs(start: number, end: number, prot: number, visit: RangeVisitor): number {
    let run = start;
    for (let pa = start; pa < end; pa += PAGE_SIZE) {
      if (this.#belongsToHost(pa, prot)) continue;
      const status = run < pa ? visit(run, pa, prot) : 0;
      if (status < 0) return status;
      run = pa + PAGE_SIZE;
    }
    const stop = Math.ceil(end / PAGE_SIZE) * PAGE_SIZE;
    return run < stop ? visit(run, stop, prot) : 0;
  }

  #belongsToHost(pa: number, prot: number): boolean {
    const page = this.#pageOf(pa);
    if (prot === HOST_PROT.memory) return this.states.hostOwned(page);
    return page < 0 && !this.ownsMmio(pa);
  }
}

/** True for a non-empty range of whole pages. */
function isPages(base: number, size: number): boolean {
  return base % PAGE_SIZE === 0 && size % PAGE_SIZE === 0 && size > 0 && base >= 0;
}
