import { BOOT_DMA_PROPERTY, ERRNO, errnoName } from "@smmuv3/platform";
import type { Device, KernelContext } from "@smmuv3/driver-core";
import { IommuDomain } from "@smmuv3/iommu-core";
import type { DomainOps } from "@smmuv3/iommu-core";
import { hypercall, hypercallWithTopup, IOMMU_DOMAIN_TYPE, IOMMU_NO_PASID, IOMMU_STATE } from "@smmuv3/pkvm-abi";
import type { IommuDomainType } from "@smmuv3/pkvm-abi";
import type { DomainIds } from "./ids.ts";

/** What domains of an IOMMU can say. */
export interface PagingLimits {
  /** Sum of the page sizes, in bytes. */
  readonly pgsizeBitmap: number;
  /** Input address bits of each stage; 0: the hardware does not have it. */
  readonly s1Bits: number;
  readonly s2Bits: number;
}

export interface PvPaging {
  readonly ids: DomainIds;
  readonly limits: PagingLimits;
}

export interface PvIommuOptions {
  /** EL2's number of the IOMMU. */
  readonly iommu: number;
  /** Streams of a device behind it; empty for any other device. */
  readonly idsOf: (dev: Device) => readonly number[];
  /** Domains that translate; without it there are identity and blocked. */
  readonly paging?: PvPaging | undefined;
}

/** The stages, best first: stage 1 is replaced by, and replaces, identity without a break. */
const STAGES = [
  ["s1Bits", IOMMU_DOMAIN_TYPE.s1],
  ["s2Bits", IOMMU_DOMAIN_TYPE.s2],
] as const satisfies readonly (readonly [keyof PagingLimits, IommuDomainType])[];

/** Of domains that EL2 keeps; their operations are hypercalls, invalidation included. */
const PAGING: DomainOps = {
  attachDev: (domain, dev, old) => pvDomain(domain).pv.attach(dev, IOMMU_NO_PASID, domain, old),
  setDevPasid: (domain, dev, pasid, old) => pvDomain(domain).pv.attach(dev, pasid, domain, old),
  mapPages(domain, iova, pa, pgsize, pgcount, prot) {
    const { pv, id } = pvDomain(domain);
    const bytes = pv.callWithTopup("__pkvm_iommu_map_pages", id, iova, pa, pgsize, pgcount, prot);
    domain.mapped = Math.max(bytes, 0);
    return Math.min(bytes, 0);
  },
  unmapPages(domain, iova, pgsize, pgcount) {
    const { pv, id } = pvDomain(domain);
    const bytes = pv.call("__pkvm_iommu_unmap_pages", id, iova, pgsize, pgcount);
    if (bytes < 0) pv.complain("unmap", bytes);
    return Math.max(bytes, 0);
  },
  iotlbSync: () => {},
  flushIotlbAll: () => {},
  iovaToPhys: (domain, iova) => Math.max(pvDomain(domain).pv.call("__pkvm_iommu_iova_to_phys", pvDomain(domain).id, iova), 0),
  free(domain) {
    const { pv, id } = pvDomain(domain);
    pv.freeDomain(id);
  },
};

/** A domain that EL2 keeps. */
export class PvDomain extends IommuDomain {
  readonly pv: PvIommu;
  /** EL2's id of it. */
  readonly id: number;

  constructor(pv: PvIommu, id: number, pgsizeBitmap: number, bits: number) {
    super({ type: "paging", ops: PAGING, pgsizeBitmap, apertureEnd: 2 ** bits - 1 });
    this.pv = pv;
    this.id = id;
  }
}

/** One IOMMU that EL2 owns: every change of translation is one hypercall per stream. Statuses are 0 or a negative errno. */
export class PvIommu {
  readonly iommu: number;
  /** Static domains. */
  readonly identityDomain: IommuDomain;
  readonly blockedDomain: IommuDomain;
  readonly #ctx: KernelContext;
  readonly #options: PvIommuOptions;

  constructor(ctx: KernelContext, options: PvIommuOptions) {
    this.#ctx = ctx;
    this.#options = options;
    this.iommu = options.iommu;
    this.identityDomain = this.#fixed("identity");
    this.blockedDomain = this.#fixed("blocked");
  }

  /**
   * Asks for the state that the streams of `dev` have since the take-over: a stream that EL2 does not have, or has no memory for,
   * is refused here, and identity and blocked do not fail later. DMA that is active at boot is not interrupted.
   * @param ids the streams, where `idsOf` does not know the device yet
   */
  probe(dev: Device, ids: readonly number[] = this.#options.idsOf(dev)): number {
    const state = bootDma(dev) ? IOMMU_STATE.identity : IOMMU_STATE.blocking;
    return this.setState(ids, IOMMU_NO_PASID, state, state);
  }

  /** Moves `dev`, or one PASID of it, from `old` to `domain`: all its streams or none. */
  attach(dev: Device, pasid: number, domain: IommuDomain, old: IommuDomain | undefined): number {
    const ids = this.#options.idsOf(dev);
    return ids.length === 0 ? -ERRNO.EINVAL : this.setState(ids, pasid, stateOf(domain), stateOf(old));
  }

  /** The streams `ids` from state `old` to `state` (IOMMU_STATE or a domain's id), together or not at all. */
  setState(ids: readonly number[], pasid: number, state: number, old: number): number {
    for (let i = 0; i < ids.length; i++) {
      const status = this.callWithTopup("__pkvm_iommu_set_state", this.iommu, ids[i]!, pasid, state);
      if (status === 0) continue;
      while (--i >= 0) this.callWithTopup("__pkvm_iommu_set_state", this.iommu, ids[i]!, pasid, old);
      return status;
    }
    return 0;
  }

  /** A new translating domain for `dev`, or a negative errno: -EOPNOTSUPP without paging, and for DMA that is active at boot. */
  allocPaging(dev: Device): PvDomain | number {
    const { paging } = this.#options;
    if (paging === undefined || bootDma(dev)) return -ERRNO.EOPNOTSUPP;
    const id = paging.ids.alloc();
    if (id < 0) return id;
    let status: number = -ERRNO.EOPNOTSUPP;
    for (const [bits, type] of STAGES) {
      const width = paging.limits[bits];
      if (width === 0) continue;
      status = this.callWithTopup("__pkvm_iommu_alloc_domain", this.iommu, id, type);
      if (status === 0) return new PvDomain(this, id, paging.limits.pgsizeBitmap, width);
      if (status !== -ERRNO.EOPNOTSUPP) break;
    }
    paging.ids.free(id);
    return status;
  }

  /** Ends a domain. An id that EL2 keeps is not used again. */
  freeDomain(id: number): void {
    const status = this.call("__pkvm_iommu_free_domain", id);
    if (status < 0) this.complain(`free domain ${id}`, status);
    else this.#options.paging?.ids.free(id);
  }

  call(name: Parameters<typeof hypercall>[1], ...args: readonly number[]): number {
    return hypercall(this.#ctx.cpu, name, ...args);
  }

  callWithTopup(name: Parameters<typeof hypercall>[1], ...args: readonly number[]): number {
    return hypercallWithTopup(this.#ctx.cpu, this.#ctx.pages, name, ...args);
  }

  complain(what: string, status: number): void {
    this.#ctx.log.err(`iommu ${this.iommu} of EL2: ${what}: ${errnoName(status)}`);
  }

  #fixed(type: "identity" | "blocked"): IommuDomain {
    return new IommuDomain({
      type,
      ops: {
        attachDev: (domain, dev, old) => this.attach(dev, IOMMU_NO_PASID, domain, old),
        setDevPasid: (domain, dev, pasid, old) => this.attach(dev, pasid, domain, old),
      },
    });
  }
}

function bootDma(dev: Device): boolean {
  return dev.node?.properties[BOOT_DMA_PROPERTY] !== undefined;
}

/** State of a stream whose device is attached to `domain`; a device without one is blocked. */
function stateOf(domain: IommuDomain | undefined): number {
  if (domain instanceof PvDomain) return domain.id;
  return domain?.type === "identity" ? IOMMU_STATE.identity : IOMMU_STATE.blocking;
}

/** Domains with these operations are of this class only. */
function pvDomain(domain: IommuDomain): PvDomain {
  if (domain instanceof PvDomain) return domain;
  throw new TypeError("PvIommu: domain must be one that allocPaging returned");
}
