import { ERRNO } from "@smmuv3/platform";
import { INV, Invalidator, makeInvs, makeS1Cd, vtcrBits } from "@smmuv3/arm-smmu-v3-common";
import type { CommandCollector, Invs, InvTag, SmmuFeatures, Stage2 } from "@smmuv3/arm-smmu-v3-common";
import { allocIoPgtable, IO_PGTABLE_QUIRK } from "@smmuv3/io-pgtable-arm-common";
import type { IoPgtable } from "@smmuv3/io-pgtable-arm-common";
import { IommuDomain } from "@smmuv3/iommu-core";
import type { DomainOps, DomainType, IotlbGather } from "@smmuv3/iommu-core";
import type { Device, KernelContext } from "@smmuv3/driver-core";
import type { SmmuParams } from "./params.ts";
import type { Master } from "./smmu.ts";

/** What a domain needs of its SMMU. */
export interface DomainHost {
  readonly kernel: KernelContext;
  readonly features: SmmuFeatures;
  readonly coherent: boolean;
  readonly params: SmmuParams;
  /** Number of the SMMU among those of its driver. */
  readonly number: number;
  /** Streams are of EL2 (VHE). */
  readonly e2h: boolean;
  /** For invalidations; never used by interrupt handlers. */
  readonly batch: CommandCollector;
  attachDomain(domain: SmmuDomain, dev: Device): number;
  attachPasid(domain: SmmuDomain, dev: Device, pasid: number): number;
  /** A list of commands was not completed in time. */
  invalidationFailed(status: number): void;
  freeId(domain: SmmuDomain): void;
}

/** A device, or a PASID of one, that is attached. */
export interface Attachment {
  readonly master: Master;
  readonly ssid: number;
}

/**
 * `arm_smmu_domain`: an address space of one SMMU, with the ASID (stage 1) or VMID (stage 2) that tags its TLB entries, and what has to
 * be invalidated when it changes.
 */
export abstract class SmmuDomain extends IommuDomain {
  readonly host: DomainHost;
  readonly stage: 1 | 2;
  /** ASID or VMID. */
  readonly id: number;
  /** Guests' tables may be put over it. */
  readonly nestParent: boolean;
  /**
   * What invalidations go to. While it is empty the TLB is known to hold nothing of the domain, so nothing is invalidated.
   */
  invs: Invs;
  readonly attachments: Attachment[] = [];
  /** Accesses are coherent whatever devices ask for; devices that cannot do that are refused. */
  enforcedCoherency: boolean = false;
  readonly #invalidator: Invalidator;

  constructor(host: DomainHost, type: DomainType, ops: DomainOps, stage: 1 | 2, id: number, pageShift: number, nestParent: boolean) {
    super({ type, ops });
    this.host = host;
    this.stage = stage;
    this.id = id;
    this.nestParent = nestParent;
    this.invs = makeInvs([])!;
    const { cpu } = host.kernel;
    this.#invalidator = new Invalidator({
      current: () => this.invs,
      batchOf: () => host.batch,
      barrier: () => {
        cpu.barrier();
      },
      relax: () => {
        cpu.relax();
      },
      pageShift,
      sva: type === "sva",
    });
  }

  /** CD of this address space for `master`, 16 words; stage 1 only. */
  abstract makeCd(cd: Int32Array, master: Master): void;

  /** What has to be invalidated on behalf of `master`. */
  tags(master: Master, ssid: number, ats: boolean): InvTag[] {
    const { features, number, e2h } = this.host;
    const traits = { smmu: number, ril: features.ril, fullCont: features.fullContRangeInv };
    const tags: InvTag[] =
      this.stage === 1 ? [{ ...traits, type: INV.s1Asid, id: this.id, e2h }] : [{ ...traits, type: INV.s2Vmid, id: this.id }];
    if (this.nestParent) tags.push({ ...traits, type: INV.s2VmidS1Clear, id: this.id });
    if (!ats) return tags;
    return tags.concat(
      master.sids.map((id) => ({ ...traits, type: this.nestParent ? INV.atsFull : INV.ats, id, ssid: this.nestParent ? 0 : ssid })),
    );
  }

  /**
   * Invalidates `[iova, iova + size)` and waits.
   * @param granule bytes of the leaves that went away, or of the pages where tables went away
   * @param leaf only leaves went away
   */
  invalidate(iova: number, size: number, granule: number, leaf: boolean): void {
    const status = this.#invalidator.invalidate(iova, size, granule, leaf);
    if (status < 0) this.host.invalidationFailed(status);
  }

  /** Invalidates everything of this domain and waits. */
  invalidateAll(): void {
    const status = this.#invalidator.invalidateAll();
    if (status < 0) this.host.invalidationFailed(status);
  }

  /** Invalidates the ASID or VMID if its last user has just left, which `removed` says. 0 or a negative errno. */
  flushReleased(removed: Invs): number {
    return this.#invalidator.flushReleased(removed);
  }
}

const OPS: DomainOps = {
  attachDev: (domain, dev) => paging(domain).host.attachDomain(paging(domain), dev),
  setDevPasid: (domain, dev, pasid) => paging(domain).host.attachPasid(paging(domain), dev, pasid),
  mapPages(domain, iova, pa, pgsize, pgcount, prot) {
    const { pgtable } = paging(domain);
    const status = pgtable.mapPages(iova, pa, pgsize, pgcount, prot);
    domain.mapped = pgtable.mapped;
    return status;
  },
  unmapPages: (domain, iova, pgsize, pgcount, gather) => paging(domain).unmap(iova, pgsize, pgcount, gather),
  iotlbSync(domain, gather) {
    if (gather.pgsize === 0) return;
    paging(domain).invalidate(gather.start, gather.end - gather.start + 1, gather.pgsize, true);
  },
  flushIotlbAll(domain) {
    paging(domain).invalidateAll();
  },
  iovaToPhys: (domain, iova) => paging(domain).pgtable.iovaToPhys(iova),
  enforceCacheCoherency(domain) {
    const { attachments } = paging(domain);
    if (!attachments.every(({ master }) => master.canwbs)) return false;
    paging(domain).enforcedCoherency = true;
    return true;
  },
  // DBM is in the descriptors and HD in the CDs from the beginning: there is nothing to switch.
  setDirtyTracking: () => 0,
  readAndClearDirty: (domain, iova, size, noClear, visit, gather) => paging(domain).readDirty(iova, size, noClear, visit, gather),
  free(domain) {
    paging(domain).pgtable.free();
    paging(domain).host.freeId(paging(domain));
  },
};

/** How a paging domain is built. */
export interface PagingOptions {
  readonly stage: 1 | 2;
  readonly id: number;
  readonly nestParent: boolean;
  readonly dirty: boolean;
}

/** A page table of the kernel's own. */
export class PagingDomain extends SmmuDomain {
  readonly pgtable: IoPgtable;
  /** Stage 2: guests cannot make memory less cacheable than it is here. */
  readonly s2fwb: boolean;
  /** Of the unmap that is running: the tables hand it back as a lesser type. */
  #gather: IotlbGather | undefined = undefined;

  /** Throws Errno ENOMEM without a first table. */
  constructor(host: DomainHost, options: PagingOptions) {
    const { features, kernel, params } = host;
    const { stage, id, nestParent, dirty } = options;
    const s2fwb = stage === 2 && nestParent && features.s2fwb;
    // The tables report to the domain, which exists when they do.
    const self: { domain?: PagingDomain } = {};
    const pgtable = allocIoPgtable(stage === 1 ? "64_S1" : "64_S2", {
      memory: kernel.memory,
      pgsizeBitmap: features.pgsizeBitmap,
      ias: stage === 1 ? Math.min(features.vaBits, params.cpu.vaBits) : features.oas,
      oas: features.oas,
      coherentWalk: host.coherent,
      pageSize: params.cpu.pageSize,
      quirks: (dirty ? IO_PGTABLE_QUIRK.ARM_HD : 0) | (s2fwb ? IO_PGTABLE_QUIRK.ARM_S2FWB : 0),
      tlb: {
        flushAll: () => {
          self.domain?.invalidateAll();
        },
        flushWalk: (iova, size, granule) => {
          self.domain?.invalidate(iova, size, granule, false);
        },
        addPage: (_, iova, granule) => {
          const { domain } = self;
          if (domain !== undefined) domain.#gather?.addPage(domain, iova, granule);
        },
      },
      alloc: (bytes) => kernel.pages.alloc(bytes),
      free: (pa, bytes) => {
        kernel.pages.free(pa, bytes);
      },
      onWarn: (reason) => {
        kernel.log.warn(`arm-smmu-v3: page table: ${reason}`);
      },
    });
    super(host, "paging", OPS, stage, id, Math.log2(pgtable.granule), nestParent);
    self.domain = this;
    this.pgtable = pgtable;
    this.s2fwb = s2fwb;
    this.tracksDirty = dirty;
    this.pgsizeBitmap = pgtable.pgsizeBitmap;
    this.apertureEnd = 2 ** pgtable.ias - 1;
  }

  /** Stage 2: what STEs need. */
  get stage2(): Stage2 {
    return { ttb: this.pgtable.pgd, vtcr: vtcrBits(this.pgtable.vtcr), vmid: this.id };
  }

  makeCd(cd: Int32Array, master: Master): void {
    const { tcr, mair, pgd: ttb } = this.pgtable;
    makeS1Cd(cd, {
      ttb, tcr, mairLo: mair.lo, mairHi: mair.hi, asid: this.id, stall: master.stall, dirty: this.tracksDirty,
    });
  }

  /** Unmaps pages into `gather`; bytes unmapped. */
  unmap(iova: number, pgsize: number, pgcount: number, gather: IotlbGather): number {
    this.#gather = gather;
    return this.pgtable.unmapPages(iova, pgsize, pgcount, gather);
  }

  /**
   * Unlike the kernel, what was made clean is invalidated: a TLB that holds it as dirty would not note further writes.
   */
  readDirty(
    iova: number, size: number, noClear: boolean, visit: (iova: number, size: number) => void, gather: IotlbGather,
  ): number {
    if (!this.tracksDirty) return -ERRNO.EINVAL;
    this.#gather = gather;
    return this.pgtable.readAndClearDirty(iova, size, noClear, visit, gather);
  }
}

/** Domains with these operations are of this class only. */
function paging(domain: IommuDomain): PagingDomain {
  if (domain instanceof PagingDomain) return domain;
  throw new TypeError("arm-smmu-v3: domain must be one that domainAllocPaging returned");
}
