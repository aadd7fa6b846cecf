import { planRange, planSingle, tlbiNhAsid, tlbiNhVa, tlbiS12Vmall, tlbiS2Ipa, vtcrBits } from "@smmuv3/arm-smmu-v3-common";
import type { CommandBatch, SmmuFeatures, Stage2, TlbiEmit } from "@smmuv3/arm-smmu-v3-common";
import { allocIoPgtable } from "@smmuv3/io-pgtable-arm-common";
import type { IoPgtable } from "@smmuv3/io-pgtable-arm-common";
import { IommuDomain } from "@smmuv3/iommu-core";
import type { DomainOps, IotlbGather } from "@smmuv3/iommu-core";
import type { KernelContext } from "@smmuv3/driver-core";

/** What a translating domain needs of its SMMU. */
export interface DomainHost {
  readonly kernel: KernelContext;
  readonly features: SmmuFeatures;
  readonly coherent: boolean;
  /** For invalidations; never used by interrupt handlers. */
  readonly batch: CommandBatch;
  attachDomain(domain: SmmuDomain, ...args: Parameters<DomainOps["attachDev"]>): number;
  /** A batch was not completed in time. */
  invalidationFailed(status: number): void;
  freeId(domain: SmmuDomain): void;
}

/** VMID of stage-1-only streams. */
const VMID_S1 = 0;
/** Input address bits of CPUs. */
const CPU_VA_BITS = 48;

const OPS: DomainOps = {
  attachDev: (domain, dev, old) => smmuDomain(domain).host.attachDomain(smmuDomain(domain), domain, dev, old),
  mapPages(domain, iova, pa, pgsize, pgcount, prot) {
    const { pgtable } = smmuDomain(domain);
    const status = pgtable.mapPages(iova, pa, pgsize, pgcount, prot);
    domain.mapped = pgtable.mapped;
    return status;
  },
  unmapPages: (domain, iova, pgsize, pgcount, gather) => smmuDomain(domain).unmap(iova, pgsize, pgcount, gather),
  iotlbSync(domain, gather) {
    if (gather.pgsize === 0) return;
    smmuDomain(domain).invalidate(gather.start, gather.end - gather.start + 1, gather.pgsize, true);
  },
  flushIotlbAll(domain) {
    smmuDomain(domain).invalidateAll();
  },
  iovaToPhys: (domain, iova) => smmuDomain(domain).pgtable.iovaToPhys(iova),
  free(domain) {
    smmuDomain(domain).pgtable.free();
    smmuDomain(domain).host.freeId(smmuDomain(domain));
  },
};

/** `arm_smmu_domain`: a page table of one SMMU with the ASID (stage 1) or VMID (stage 2) that tags its TLB entries. */
export class SmmuDomain extends IommuDomain {
  readonly host: DomainHost;
  readonly stage: 1 | 2;
  /** ASID or VMID. */
  readonly id: number;
  readonly pgtable: IoPgtable;
  /**
   * Masters whose STE or CD leads here, or is about to: what the TLB may hold entries for. While it is 0 the TLB is known to
   * hold none, so nothing is invalidated.
   */
  masters: number = 0;
  readonly #emit: TlbiEmit;
  readonly #pageShift: number;
  /** Of the unmap that is running: the tables hand it back as a lesser type. */
  #gather: IotlbGather | undefined = undefined;

  /** Throws Errno ENOMEM without a first table. */
  constructor(host: DomainHost, stage: 1 | 2, id: number) {
    const { features, kernel, batch } = host;
    super({ type: "paging", ops: OPS });
    this.host = host;
    this.stage = stage;
    this.id = id;
    this.pgtable = allocIoPgtable(stage === 1 ? "64_S1" : "64_S2", {
      memory: kernel.memory,
      pgsizeBitmap: features.pgsizeBitmap,
      ias: stage === 1 ? Math.min(features.vaBits, CPU_VA_BITS) : features.oas,
      oas: features.oas,
      coherentWalk: host.coherent,
      tlb: {
        flushAll: () => {
          this.invalidateAll();
        },
        flushWalk: (iova, size, granule) => {
          this.invalidate(iova, size, granule, false);
        },
        addPage: (_, iova, granule) => {
          this.#gather?.addPage(this, iova, granule);
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
    this.pgsizeBitmap = this.pgtable.pgsizeBitmap;
    this.apertureEnd = 2 ** this.pgtable.ias - 1;
    this.#pageShift = Math.log2(this.pgtable.granule);
    this.#emit =
      stage === 1
        ? (w0, w2, w3) => {
            tlbiNhVa(batch.words, batch.next(), VMID_S1, id, w0, w2, w3);
          }
        : (w0, w2, w3) => {
            tlbiS2Ipa(batch.words, batch.next(), id, w0, w2, w3);
          };
  }

  /** Stage 2: what STEs need. */
  get stage2(): Stage2 {
    return { ttb: this.pgtable.pgd, vtcr: vtcrBits(this.pgtable.vtcr), vmid: this.id };
  }

  /** Unmaps pages into `gather`; bytes unmapped. */
  unmap(iova: number, pgsize: number, pgcount: number, gather: IotlbGather): number {
    this.#gather = gather;
    return this.pgtable.unmapPages(iova, pgsize, pgcount, gather);
  }

  /**
   * Invalidates `[iova, iova + size)` and waits.
   * @param granule bytes of the leaves that went away, or of the pages where tables went away
   * @param leaf only leaves went away
   */
  invalidate(iova: number, size: number, granule: number, leaf: boolean): void {
    if (this.masters === 0) return;
    const { features } = this.host;
    const planned = features.ril
      ? planRange(iova, size, this.#pageShift, granule, leaf, this.#emit)
      : planSingle(iova, size, granule, leaf, this.#emit);
    if (planned) this.#submit();
    else this.invalidateAll();
  }

  /** Invalidates everything of this domain and waits. */
  invalidateAll(): void {
    if (this.masters > 0) this.flushId();
  }

  /** As {@link invalidateAll}, also when its last master has just left. */
  flushId(): void {
    const { batch } = this.host;
    if (this.stage === 1) tlbiNhAsid(batch.words, batch.next(), VMID_S1, this.id);
    else tlbiS12Vmall(batch.words, batch.next(), this.id);
    this.#submit();
  }

  #submit(): void {
    const status = this.host.batch.submit();
    if (status < 0) this.host.invalidationFailed(status);
  }
}

/** Domains with these operations are of this class only. */
function smmuDomain(domain: IommuDomain): SmmuDomain {
  if (domain instanceof SmmuDomain) return domain;
  throw new TypeError("arm-smmu-v3: domain must be one that domainAllocPaging returned");
}
