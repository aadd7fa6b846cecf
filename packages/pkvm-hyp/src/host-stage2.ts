import { IOMMU_PROT } from "@smmuv3/io-pgtable-arm-common";
import type { IoPgtable } from "@smmuv3/io-pgtable-arm-common";
import { ERRNO, LEVEL, PAGE_SIZE } from "@smmuv3/platform";
import type { HypCpu } from "@smmuv3/platform";

import type { PageStates } from "./page-state.ts";
import type { HypPool } from "./pool.ts";
import { newStage2, regimeOf } from "./stage2.ts";

/** The VMID of the host; protected VMs have others. */
export const HOST_VMID = 0;
/** Leaves of one last-level table. */
const LEAVES = 512;
const WINDOW = LEAVES * PAGE_SIZE;
/** What one entry of level 1 covers. */
const GIB = 2 ** 30;
const MEMORY = IOMMU_PROT.READ | IOMMU_PROT.WRITE | IOMMU_PROT.CACHE;
const DEVICE = IOMMU_PROT.READ | IOMMU_PROT.WRITE | IOMMU_PROT.MMIO | IOMMU_PROT.NOEXEC;

/**
 * The host's identity stage 2. Filled on demand with 4K leaves only, so that taking one page away never has to split a block;
 * dropping all of it is always legal.
 */
export class HostStage2 {
  readonly #cpu: HypCpu;
  readonly #states: PageStates;
  readonly #tableWrites: number;
  readonly #table: IoPgtable;

  private constructor(cpu: HypCpu, states: PageStates, table: IoPgtable) {
    this.#cpu = cpu;
    this.#states = states;
    this.#table = table;
    this.#tableWrites = cpu.counters.id("tableWrites") + LEVEL.el2;
  }

  /** Empty tables, or -ENOMEM. */
  static create(cpu: HypCpu, pool: HypPool, states: PageStates, bits: number): HostStage2 | number {
    const flushWalk = (): void => {
      cpu.barrier();
      cpu.tlbiAll();
    };
    const table = newStage2(cpu, pool, "hostStage2", bits, { flushAll: flushWalk, flushWalk, addPage: () => {} });
    return typeof table === "number" ? table : new HostStage2(cpu, states, table);
  }

  /** From now on the host reaches what the tables say. */
  enable(): void {
    this.#cpu.setHostStage2(regimeOf(this.#table, HOST_VMID));
    this.#cpu.tlbiAll();
  }

  /** Maps RAM page `page` (index) that the host owns, and its whole window where the host owns all of it. */
  mapMemory(page: number): number {
    const { base } = this.#cpu.memory;
    const pa = base + page * PAGE_SIZE;
    const first = page - (pa % WINDOW) / PAGE_SIZE;
    if (this.#windowOwned(first) && this.#map(base + first * PAGE_SIZE, LEAVES, MEMORY) === 0) return 0;
    return this.#mapOne(pa, MEMORY);
  }

  /** Maps the device page at `pa`. */
  mapDevice(pa: number): number {
    return this.#mapOne(pa, DEVICE);
  }

  /** Takes `[pa, pa + size)` away; complete on return. */
  unmap(pa: number, size: number): void {
    for (let at = pa; at < pa + size; at += PAGE_SIZE) {
      if (this.#table.unmapPages(at, PAGE_SIZE, 1, null) !== 0) this.#cpu.counters.add(this.#tableWrites, 1);
    }
    this.#cpu.barrier();
    this.#cpu.tlbiIpa(pa, size);
  }

  #mapOne(pa: number, prot: number): number {
    let status = this.#map(pa, 1, prot);
    if (status === -ERRNO.ENOMEM) {
      this.#drop();
      status = this.#map(pa, 1, prot);
    }
    // A stale abort: the leaf came while this one was on its way.
    return status === -ERRNO.EEXIST ? 0 : status;
  }

  #map(pa: number, count: number, prot: number): number {
    const status = this.#table.mapPages(pa, pa, PAGE_SIZE, count, prot);
    if (status === 0) this.#cpu.counters.add(this.#tableWrites, count);
    return status;
  }

  #windowOwned(first: number): boolean {
    if (first < 0 || first + LEAVES > this.#cpu.memory.pages) return false;
    for (let page = first; page < first + LEAVES; page++) if (!this.#states.hostOwned(page)) return false;
    return true;
  }

  /** Drops every mapping: tables that only hold old device mappings become free memory, once no walk can use them. */
  #drop(): void {
    for (let at = 0; at < 2 ** this.#table.ias; at += GIB) this.#table.unmapPages(at, GIB, 1, null);
  }
}
