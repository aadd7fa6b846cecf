import { tlbiNhAll } from "@smmuv3/arm-smmu-v3-common";
import type { Stage2 } from "@smmuv3/arm-smmu-v3-common";
import type { IoPgtable } from "@smmuv3/io-pgtable-arm-common";
import { HOST_PROT, HOST_VMID, newStage2, regimeOf } from "@smmuv3/pkvm-hyp";
import type { HypCore } from "@smmuv3/pkvm-hyp";
import { ERRNO, LEVEL, PAGE_SIZE } from "@smmuv3/platform";
import { CACHEABILITY, place, SHAREABILITY, STE } from "@smmuv3/smmu-v3-defs";

import type { HypSmmu } from "./smmu.ts";
import { invalidateRange, TLBI_S2 } from "./tlbi.ts";

/** Largest first: what firmware describes as device space never changes owner in parts of these. */
const DEVICE_SIZES: readonly number[] = [0x4000_0000, 0x20_0000, PAGE_SIZE];

/** Fields of a walk's attributes in VTCR bits, at their place in STE word 5. */
const WALK_MASK: number = place(STE.S2IR0, -1) | place(STE.S2OR0, -1) | place(STE.S2SH0, -1);
const WALK_NON_COHERENT: number =
  place(STE.S2IR0, CACHEABILITY.nonCacheable) |
  place(STE.S2OR0, CACHEABILITY.nonCacheable) |
  place(STE.S2SH0, SHAREABILITY.outer);

/**
 * One stage 2 for all SMMUs: what the host owns, one to one. SMMUs take no faults, so it is complete at all times. RAM has 4K
 * leaves: taking one page away never splits a block.
 */
export class IdentityMap {
  /** The SMMUs that use it. */
  readonly smmus: HypSmmu[] = [];
  readonly #core: HypCore;
  readonly #table: IoPgtable;
  readonly #nested: boolean;
  readonly #tableWrites: number;

  private constructor(core: HypCore, table: IoPgtable, nested: boolean) {
    this.#core = core;
    this.#table = table;
    this.#nested = nested;
    this.#tableWrites = core.cpu.counters.id("tableWrites") + LEVEL.el2;
  }

  /** Empty tables, or -ENOMEM. `nested`: streams have stage 1 on top, so that TLB entries may combine both. */
  static create(core: HypCore, nested: boolean): IdentityMap | number {
    const table = newStage2(core.cpu, core.pool, "idmap", core.addressBits);
    return typeof table === "number" ? table : new IdentityMap(core, table, nested);
  }

  /** The regime for the STEs of `smmu`. */
  stage2(smmu: HypSmmu): Stage2 {
    const regime = regimeOf(this.#table, HOST_VMID);
    return smmu.coherent ? regime : { ...regime, vtcr: (regime.vtcr & ~WALK_MASK) | WALK_NON_COHERENT };
  }

  /** Host access to `[start, end)` becomes `prot` of {@link HOST_PROT}. 0, or a negative errno with part of it done. */
  set(start: number, end: number, prot: number): number {
    const stop = Math.min(end, 2 ** this.#table.ias);
    if (prot === HOST_PROT.none) return this.#unmap(start, stop);
    const status = prot === HOST_PROT.memory ? this.#mapMemory(start, stop) : this.#mapDevice(start, stop);
    this.#core.cpu.barrier();
    return status;
  }

  #mapMemory(start: number, end: number): number {
    for (let at = start; at < end; at += this.#table.mapped) {
      const status = this.#map(at, PAGE_SIZE, (end - at) / PAGE_SIZE, HOST_PROT.memory);
      if (status < 0) return status;
    }
    return 0;
  }

  #mapDevice(start: number, end: number): number {
    for (let at = start; at < end; ) {
      const size = DEVICE_SIZES.find((one) => at % one === 0 && at + one <= end) ?? PAGE_SIZE;
      const status = this.#map(at, size, 1, HOST_PROT.device);
      // Windows of several devices may share a page.
      if (status < 0 && status !== -ERRNO.EEXIST) return status;
      at += size;
    }
    return 0;
  }

  #map(at: number, size: number, count: number, prot: number): number {
    const status = this.#table.mapPages(at, at, size, count, prot);
    this.#core.cpu.counters.add(this.#tableWrites, this.#table.mapped / size);
    return status;
  }

  #unmap(start: number, end: number): number {
    for (let at = start; at < end; ) {
      const bytes = this.#table.unmapPages(at, PAGE_SIZE, (end - at) / PAGE_SIZE, null);
      if (bytes === 0) {
        // A hole may be skipped; part of a block that stays mapped may not.
        this.#table.iovaToPhys(at);
        if (this.#table.found) return -ERRNO.EINVAL;
      }
      this.#core.cpu.counters.add(this.#tableWrites, bytes / PAGE_SIZE);
      at += Math.max(bytes, PAGE_SIZE);
    }
    this.#core.cpu.barrier();
    for (const smmu of this.smmus) {
      smmu.lock.lock(this.#core.cpu);
      const status = this.#invalidate(smmu, start, end - start);
      smmu.lock.unlock(this.#core.cpu);
      if (status < 0) return status;
    }
    return 0;
  }

  /**
   * No entry for the range is left when this returns 0. Combined entries of nested streams are known by address of stage 1 only,
   * so all of them go, and only after the stage-2 entries from which they could be made again.
   */
  #invalidate(smmu: HypSmmu, start: number, size: number): number {
    const { batch } = smmu;
    const status = invalidateRange(smmu, TLBI_S2, HOST_VMID, start, size, PAGE_SIZE, true);
    if (status < 0 || !this.#nested) return status;
    tlbiNhAll(batch.words, batch.next(), HOST_VMID);
    return batch.submit();
  }
}
