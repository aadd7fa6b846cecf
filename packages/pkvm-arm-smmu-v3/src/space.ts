import { tlbiNhAsid, tlbiNhVa } from "@smmuv3/arm-smmu-v3-common";
import { allocIoPgtable, IO_PGTABLE_QUIRK } from "@smmuv3/io-pgtable-arm-common";
import type { IoPgtable } from "@smmuv3/io-pgtable-arm-common";
import { IOMMU_DOMAIN_TYPE } from "@smmuv3/pkvm-abi";
import { HOST_VMID } from "@smmuv3/pkvm-hyp";
import type { HypCore, HypDomain, UnmapVisitor } from "@smmuv3/pkvm-hyp";
import { ERRNO, isErrno, LEVEL, PAGE_SIZE } from "@smmuv3/platform";

import type { HypSmmu } from "./smmu.ts";
import { smmuNodes } from "./takeover.ts";
import { invalidateRange, TLBI_S2 } from "./tlbi.ts";
import type { TlbiKind } from "./tlbi.ts";

/** Leaves that one invalidation covers at most. */
const ROUND = 512;
/** Input address bits of stage 1: what every CPU has. */
const VA_BITS = 48;
/** log2 of what a leaf of level 0 would cover, with 4K pages. */
const LEVEL0_SHIFT = 39;
const LEVEL_BITS = 9;

/** Stage 1 of the hypercall designs: EL2 has the tables, so the host's VMID tags their entries. */
const TLBI_S1: TlbiKind = {
  range({ batch }, id, w0, w2, w3) {
    tlbiNhVa(batch.words, batch.next(), HOST_VMID, id, w0, w2, w3);
  },
  all({ batch }, id) {
    tlbiNhAsid(batch.words, batch.next(), HOST_VMID, id);
  },
};

/**
 * A paravirtual domain: EL2's own page table, and the id that tags its TLB entries. The caller holds the domain's lock while
 * it maps and unmaps, and an SMMU's lock while it changes {@link users} of that SMMU.
 */
export class AddressSpace {
  readonly stage: number;
  /** ASID or VMID. */
  readonly id: number;
  /** Streams and substreams that lead here, by SMMU. While it is 0, the SMMU's TLB has nothing of this domain. */
  readonly users: Int32Array;
  readonly table: IoPgtable;
  readonly coherent: boolean;
  readonly #core: HypCore;
  readonly #smmus: readonly HypSmmu[];
  readonly #kind: TlbiKind;
  readonly #tableWrites: number;
  readonly #pas: Float64Array = new Float64Array(ROUND);
  /** An SMMU may still hold entries: no table memory is given back any more. */
  #stale = false;

  /** Throws Errno ENOMEM without a first table. `smmus`: all that EL2 has; `first`: the one whose hardware decides. */
  constructor(core: HypCore, smmus: readonly HypSmmu[], first: HypSmmu, stage: number, id: number) {
    const { features, coherent } = first;
    const s1 = stage === IOMMU_DOMAIN_TYPE.s1;
    this.stage = stage;
    this.id = id;
    // Also for SMMUs that EL2 is handed later.
    this.users = new Int32Array(smmuNodes(core).length);
    this.coherent = coherent;
    this.#core = core;
    this.#smmus = smmus;
    this.#kind = s1 ? TLBI_S1 : TLBI_S2;
    this.#tableWrites = core.cpu.counters.id("tableWrites") + LEVEL.el2;
    this.table = allocIoPgtable(s1 ? "64_S1" : "64_S2", {
      memory: core.cpu.memory,
      pgsizeBitmap: features.pgsizeBitmap,
      pageSize: PAGE_SIZE,
      ias: s1 ? Math.min(features.vaBits, VA_BITS) : Math.min(features.oas, VA_BITS),
      oas: Math.min(features.oas, VA_BITS),
      coherentWalk: coherent,
      quirks: IO_PGTABLE_QUIRK.NO_WARN,
      tlb: {
        flushAll: () => {},
        flushWalk: (iova, size, granule) => {
          if (this.#invalidate(iova, size, granule, false) < 0) this.#stale = true;
        },
        addPage: () => {},
      },
      alloc: (bytes) => core.iommuPool.alloc(bytes, "domains"),
      free: (pa, bytes) => {
        if (!this.#stale) core.iommuPool.free(pa, bytes, "domains");
      },
    });
  }

  /** True when the tables mean the same to `smmu`. */
  fits({ features, coherent }: HypSmmu): boolean {
    const s1 = this.stage === IOMMU_DOMAIN_TYPE.s1;
    return (
      (s1 ? features.s1 && this.table.ias <= features.vaBits : features.s2 && this.table.ias <= features.oas) &&
      this.table.oas <= features.oas &&
      (this.table.pgsizeBitmap & ~features.pgsizeBitmap) === 0 &&
      this.id < 2 ** (s1 ? features.asidBits : features.vmidBits) &&
      this.coherent === coherent
    );
  }

  /** Bytes mapped, fewer than asked for at the first failure; or that failure's negative errno. */
  map(iova: number, pa: number, pgsize: number, count: number, prot: number): number {
    const { table } = this;
    if (iova % pgsize !== 0 || pa % pgsize !== 0) return -ERRNO.EINVAL;
    const size = pgsize * count;
    let done = 0;
    let status = 0;
    // A block would replace a table and all that it maps; what is in use is not replaced.
    if (pgsize > PAGE_SIZE && this.#occupied(iova, size)) return -ERRNO.EEXIST;
    while (done < size && status === 0) {
      status = table.mapPages(iova + done, pa + done, pgsize, (size - done) / pgsize, prot);
      done += table.mapped;
    }
    this.#core.cpu.counters.add(this.#tableWrites, done / pgsize);
    this.#core.cpu.barrier();
    return done > 0 ? done : status;
  }

  /**
   * Unmaps up to a hole or part of a larger leaf, and tells what is gone once no TLB has it. Returns bytes; a negative errno when
   * an SMMU does not answer: the leaves are gone from the tables, and stay in use for ever.
   */
  unmap(iova: number, size: number, visit: UnmapVisitor): number {
    const { table } = this;
    const end = iova + size;
    let at = iova;
    while (at < end) {
      const start = at;
      const leaf = this.#leafSize(at);
      let n = 0;
      while (n < ROUND && leaf > 0 && at % leaf === 0 && at + leaf <= end && (n === 0 || this.#leafSize(at) === leaf)) {
        this.#pas[n++] = table.iovaToPhys(at);
        table.unmapPages(at, leaf, 1, null);
        at += leaf;
      }
      if (n === 0) break;
      this.#core.cpu.counters.add(this.#tableWrites, n);
      this.#core.cpu.barrier();
      const status = this.#invalidate(start, at - start, leaf, true);
      if (status < 0) return status;
      for (let i = 0; i < n; i++) visit(this.#pas[i]!, leaf);
    }
    return at - iova;
  }

  /** Output address of `iova`, or 0. */
  lookUp(iova: number): number {
    return iova < 2 ** this.table.ias ? this.table.iovaToPhys(iova) : 0;
  }

  /** One more stream of `smmu` leads here; before the SMMU can know. */
  enter(smmu: HypSmmu): void {
    this.users[smmu.index]!++;
  }

  /** One stream less, after the SMMU forgot it. The last one takes the TLB's entries with it. */
  leave(smmu: HypSmmu): void {
    if (--this.users[smmu.index]! > 0) return;
    this.#kind.all(smmu, this.id);
    // An SMMU that does not answer stays a user: nothing of what it may reach is given away.
    if (smmu.batch.submit() < 0) this.users[smmu.index] = 1;
  }

  /** True when a stream leads here, or an SMMU may still believe so. */
  get used(): boolean {
    for (let i = 0; i < this.users.length; i++) if (this.users[i] !== 0) return true;
    return false;
  }

  /** Frees the tables, which no TLB knows; `visit` for each leaf that was left. -ETIMEDOUT: an SMMU may still know them. */
  free(visit: UnmapVisitor): number {
    if (this.used || this.#stale) return -ERRNO.ETIMEDOUT;
    this.table.forEachLeaf((_iova, size, pa) => {
      visit(pa, size);
    });
    this.table.free();
    return 0;
  }

  /** Something is mapped in `[start, start + size)`. */
  #occupied(start: number, size: number): boolean {
    for (let at = start; at < start + size; ) {
      let level = 0;
      const status = this.table.walk(at, (deepest) => {
        level = deepest;
      });
      if (status >= 0) return true;
      const span = 2 ** (LEVEL0_SHIFT - LEVEL_BITS * level);
      at += span - (at % span);
    }
    return false;
  }

  /** Bytes of the leaf at `iova`; 0: none. */
  #leafSize(iova: number): number {
    let level = 0;
    if (iova >= 2 ** this.table.ias) return 0;
    const status = this.table.walk(iova, (at) => {
      level = at;
    });
    return status < 0 ? 0 : 2 ** (LEVEL0_SHIFT - LEVEL_BITS * level);
  }

  #invalidate(start: number, size: number, granule: number, leaf: boolean): number {
    let first = 0;
    for (let i = 0; i < this.#smmus.length; i++) {
      const smmu = this.#smmus[i]!;
      smmu.lock.lock(this.#core.cpu);
      const status = this.users[i] === 0 ? 0 : invalidateRange(smmu, this.#kind, this.id, start, size, granule, leaf);
      smmu.lock.unlock(this.#core.cpu);
      if (first === 0) first = status;
    }
    return first;
  }
}

/**
 * The address space of a domain whose id tags its TLB entries, or a negative errno: -EOPNOTSUPP (hardware without that stage),
 * -ENOSPC (its tags have fewer bits), -ENOMEM.
 */
export function newAddressSpace(
  core: HypCore,
  smmus: readonly HypSmmu[],
  smmu: HypSmmu,
  { id, type }: HypDomain,
): AddressSpace | number {
  const { s1, s2, asidBits, vmidBits } = smmu.features;
  const first = type === IOMMU_DOMAIN_TYPE.s1;
  if (!(first ? s1 : s2)) return -ERRNO.EOPNOTSUPP;
  if (id >= 2 ** (first ? asidBits : vmidBits)) return -ERRNO.ENOSPC;
  try {
    return new AddressSpace(core, smmus, smmu, type, id);
  } catch (error) {
    if (isErrno(error)) return -ERRNO.ENOMEM;
    throw error;
  }
}
