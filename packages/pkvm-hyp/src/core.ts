import { ERRNO, LEVEL, PAGE_SIZE } from "@smmuv3/platform";
import type { Firmware, HypCpu } from "@smmuv3/platform";

import { HostStage2 } from "./host-stage2.ts";
import { HOST_PROT } from "./iommu-driver.ts";
import type { HypIommuDriver } from "./iommu-driver.ts";
import { MmioOwners } from "./mmio-owners.ts";
import { OWNER, PAGE_STATE, PageStates } from "./page-state.ts";
import { account, HypPool } from "./pool.ts";
import { addressBits } from "./stage2.ts";

/** Called for each piece of {@link HypCore.snapshot}. Returns 0 or a negative errno. */
export type RangeVisitor = (start: number, end: number, prot: number) => number;

/**
 * Who owns what, and how that changes. Ranges are 4K aligned; results are 0 or a negative errno, and after an error nothing
 * has changed.
 *
 * A page leaves the host in this order: the host's stage 2 and its TLB, the IOMMU's identity map and its TLB, then the owner on
 * record. It comes back in the reverse order, wiped.
 */
export class HypCore {
  readonly cpu: HypCpu;
  readonly firmware: Firmware;
  /** Bits of a physical address in use. */
  readonly addressBits: number;
  readonly pool: HypPool;
  readonly states: PageStates;
  readonly stage2: HostStage2;
  readonly #mmio: MmioOwners;
  readonly #driver: HypIommuDriver | undefined;
  readonly #donated: number;
  readonly #reclaimed: number;
  /** The driver's identity map follows from here on. */
  #tracked = false;

  private constructor(
    cpu: HypCpu,
    firmware: Firmware,
    driver: HypIommuDriver | undefined,
    pool: HypPool,
    states: PageStates,
    stage2: HostStage2,
    mmio: MmioOwners,
  ) {
    this.cpu = cpu;
    this.firmware = firmware;
    this.addressBits = addressBits(firmware);
    this.pool = pool;
    this.states = states;
    this.stage2 = stage2;
    this.#mmio = mmio;
    this.#driver = driver;
    this.#donated = cpu.counters.id("pagesDonated") + LEVEL.el2;
    this.#reclaimed = cpu.counters.id("pagesReclaimed") + LEVEL.el2;
  }

  /** The core over the carve-out `[base, base + pages * 4K)`. Returns -EINVAL for a bad range, -ENOMEM when it is too small. */
  static create(
    cpu: HypCpu,
    firmware: Firmware,
    driver: HypIommuDriver | undefined,
    base: number,
    pages: number,
  ): HypCore | number {
    const { memory } = cpu;
    if (base % PAGE_SIZE !== 0 || !(pages > 0) || memory.pageIndex(base) < 0) return -ERRNO.EINVAL;
    if (memory.pageIndex(base + (pages - 1) * PAGE_SIZE) < 0) return -ERRNO.EINVAL;
    // The table comes first and is not a block: aligning it would waste as much as it takes.
    const tablePages = Math.ceil((memory.pages * 4) / PAGE_SIZE);
    if (pages <= tablePages) return -ERRNO.ENOMEM;
    memory.fill(base, tablePages * PAGE_SIZE, 0);
    const pool = new HypPool(cpu, base + tablePages * PAGE_SIZE, pages - tablePages);
    const records = pool.alloc(PAGE_SIZE, "pageState");
    if (records < 0) return records;
    const states = new PageStates(memory, base);
    const stage2 = HostStage2.create(cpu, pool, states, addressBits(firmware));
    if (typeof stage2 === "number") return stage2;
    account(cpu, "pageState", tablePages * PAGE_SIZE);
    const first = memory.pageIndex(base);
    for (let page = first; page < first + pages; page++) states.set(page, OWNER.hyp, PAGE_STATE.owned, 1);
    return new HypCore(cpu, firmware, driver, pool, states, stage2, new MmioOwners(memory, records));
  }

  /**
   * Tells `visit` what the host owns: RAM, and the device space that firmware describes. From here on changes go to the driver.
   * Stops at the first error and returns it.
   */
  snapshot(visit: RangeVisitor): number {
    const { memory } = this.cpu;
    const ram = this.#runs(memory.base, memory.base + memory.size, HOST_PROT.memory, visit);
    if (ram < 0) return ram;
    for (const { base, size } of [...this.firmware.doorbells, ...this.firmware.nodes.flatMap((node) => node.reg)]) {
      const status = this.#runs(base - (base % PAGE_SIZE), base + size, HOST_PROT.device, visit);
      if (status < 0) return status;
    }
    this.#tracked = true;
    return 0;
  }

  /** True when `pa` is device space that EL2 owns. */
  ownsMmio(pa: number): boolean {
    return this.#mmio.overlaps(pa, 1);
  }

  /** True when `[pa, pa + size)` is a non-empty range of whole pages of RAM. */
  isRam(pa: number, size: number): boolean {
    const { memory } = this.cpu;
    return (
      pa % PAGE_SIZE === 0 &&
      size % PAGE_SIZE === 0 &&
      size > 0 &&
      memory.pageIndex(pa) >= 0 &&
      memory.pageIndex(pa + size - 1) >= 0
    );
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
   * the IOMMU driver returned.
   */
  donate(pa: number, size: number, owner: number, pins: number = 0): number {
    if (!this.isRam(pa, size)) return -ERRNO.EINVAL;
    const { states } = this;
    const first = this.cpu.memory.pageIndex(pa);
    const end = first + size / PAGE_SIZE;
    for (let page = first; page < end; page++) {
      if (states.pins(page) !== 0) return states.hostOwned(page) ? -ERRNO.EBUSY : -ERRNO.EPERM;
      if (!states.hostOwned(page) || states.state(page) !== PAGE_STATE.owned) return -ERRNO.EPERM;
    }
    const status = this.#takeFromHost(pa, size, HOST_PROT.memory);
    if (status < 0) return status;
    for (let page = first; page < end; page++) states.set(page, owner, PAGE_STATE.owned, pins);
    this.cpu.counters.add(this.#donated, end - first);
    return 0;
  }

  /** Undoes a {@link donate} of pages that nobody wrote to since. */
  cancelDonation(pa: number, size: number): void {
    const first = this.#pageOf(pa);
    const end = first + size / PAGE_SIZE;
    for (let page = first; page < end; page++) this.states.set(page, OWNER.host, PAGE_STATE.owned);
    this.#giveToHost(pa, size, HOST_PROT.memory);
    this.cpu.counters.add(this.#donated, first - end);
  }

  /** `owner`, in `state` and with `pins`, back to the host, wiped. -EINVAL, -EPERM, -EBUSY as for {@link donate}. */
  reclaim(pa: number, size: number, owner: number, state: number, pins: number = 0): number {
    if (!this.isRam(pa, size)) return -ERRNO.EINVAL;
    const { states } = this;
    const first = this.cpu.memory.pageIndex(pa);
    const end = first + size / PAGE_SIZE;
    for (let page = first; page < end; page++) {
      if (states.owner(page) !== owner || states.state(page) !== state) return -ERRNO.EPERM;
      if (states.pins(page) !== pins) return -ERRNO.EBUSY;
    }
    this.cpu.memory.fill(pa, size, 0);
    for (let page = first; page < end; page++) states.set(page, OWNER.host, PAGE_STATE.owned);
    const status = this.#giveToHost(pa, size, HOST_PROT.memory);
    if (status < 0) {
      for (let page = first; page < end; page++) states.set(page, owner, state, pins);
      return status;
    }
    this.cpu.counters.add(this.#reclaimed, end - first);
    return 0;
  }

  /** EL2 gets access to one page of the host. -EINVAL, -EPERM as for {@link donate}. */
  share(pa: number): number {
    if (!this.isRam(pa, PAGE_SIZE)) return -ERRNO.EINVAL;
    const page = this.cpu.memory.pageIndex(pa);
    if (!this.states.hostOwned(page) || this.states.state(page) !== PAGE_STATE.owned) return -ERRNO.EPERM;
    this.states.set(page, OWNER.host, PAGE_STATE.sharedOwned);
    return 0;
  }

  /** Undoes {@link share}. -EBUSY: EL2 has it pinned. */
  unshare(pa: number): number {
    if (!this.isRam(pa, PAGE_SIZE)) return -ERRNO.EINVAL;
    const page = this.cpu.memory.pageIndex(pa);
    if (!this.states.hostOwned(page) || this.states.state(page) !== PAGE_STATE.sharedOwned) return -ERRNO.EPERM;
    if (this.states.pins(page) !== 0) return -ERRNO.EBUSY;
    this.states.set(page, OWNER.host, PAGE_STATE.owned);
    return 0;
  }

  /** Keeps the shared pages under `[pa, pa + size)`, any alignment, shared and where they are. */
  pinShared(pa: number, size: number): number {
    return this.#pinPages(pa, size, false);
  }

  /** {@link pinShared} of pages that the host need not have shared: EL2 acts for a host that does not know of it. */
  pinLent(pa: number, size: number): number {
    return this.#pinPages(pa, size, true);
  }

  /** Undoes {@link pinShared} or {@link pinLent} for the same range. */
  unpin(pa: number, size: number): void {
    this.#unpinPages(this.#pageOf(pa), this.#pageOf(pa + size - 1) + 1);
  }

  /** Device pages to EL2. -EINVAL: not whole pages, or RAM. -EPERM: EL2 owns one already. */
  donateMmio(base: number, size: number): number {
    const { memory } = this.cpu;
    const aligned = base % PAGE_SIZE === 0 && size % PAGE_SIZE === 0 && size > 0 && base >= 0;
    if (!aligned || base + size > 2 ** this.addressBits) return -ERRNO.EINVAL;
    if (base < memory.base + memory.size && memory.base < base + size) return -ERRNO.EINVAL;
    if (this.#mmio.overlaps(base, size)) return -ERRNO.EPERM;
    const status = this.#takeFromHost(base, size, HOST_PROT.device);
    if (status < 0) return status;
    const recorded = this.#mmio.add(base, size);
    if (recorded < 0) this.#giveToHost(base, size, HOST_PROT.device);
    return recorded;
  }

  /** Undoes {@link donateMmio} for the same range. */
  returnMmio(base: number, size: number): number {
    const status = this.#mmio.remove(base, size);
    return status < 0 ? status : this.#giveToHost(base, size, HOST_PROT.device);
  }

  #takeFromHost(pa: number, size: number, prot: number): number {
    this.stage2.unmap(pa, size);
    if (!this.#tracked || this.#driver === undefined) return 0;
    const status = this.#driver.hostStage2Idmap(pa, pa + size, HOST_PROT.none);
    if (status < 0) this.#giveToHost(pa, size, prot);
    return status;
  }

  /** The host's stage 2 is filled when the host comes. */
  #giveToHost(pa: number, size: number, prot: number): number {
    if (!this.#tracked || this.#driver === undefined) return 0;
    return this.#driver.hostStage2Idmap(pa, pa + size, prot);
  }

  #pageOf(pa: number): number {
    return this.cpu.memory.pageIndex(pa);
  }

  #pinPages(pa: number, size: number, lend: boolean): number {
    const first = this.#pageOf(pa);
    const last = this.#pageOf(pa + size - 1);
    if (!(size > 0) || first < 0 || last < first) return -ERRNO.EINVAL;
    for (let page = first; page <= last; page++) {
      const status = this.#pinPage(page, lend);
      if (status < 0) {
        this.#unpinPages(first, page);
        return status;
      }
    }
    return 0;
  }

  #pinPage(page: number, lend: boolean): number {
    const { states } = this;
    if (!states.hostOwned(page)) return -ERRNO.EPERM;
    const state = states.state(page);
    if (!lend && state !== PAGE_STATE.sharedOwned) return -ERRNO.EPERM;
    if (state === PAGE_STATE.owned) states.set(page, OWNER.host, PAGE_STATE.lent);
    return states.pin(page);
  }

  #unpinPages(first: number, end: number): void {
    const { states } = this;
    for (let page = first; page < end; page++) {
      states.unpin(page);
      if (states.pins(page) === 0 && states.state(page) === PAGE_STATE.lent) {
        states.set(page, OWNER.host, PAGE_STATE.owned);
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
    return page < 0 && !this.#mmio.overlaps(pa, PAGE_SIZE);
  }
}
