import { IOMMU_PROT } from "@smmuv3/io-pgtable-arm-common";
import type { IommuDomainType, IommuHandoff } from "@smmuv3/pkvm-abi";
import type { AbortAction } from "@smmuv3/platform";

import type { HypCore } from "./core.ts";

/** What the host may do to a range, as bits of `IOMMU_PROT`: the `prot` of {@link HypIommuDriver.hostStage2Idmap}. */
export const HOST_PROT: { readonly none: number; readonly memory: number; readonly device: number } = {
  none: 0,
  memory: IOMMU_PROT.READ | IOMMU_PROT.WRITE | IOMMU_PROT.CACHE,
  device: IOMMU_PROT.READ | IOMMU_PROT.WRITE | IOMMU_PROT.MMIO,
};

/**
 * Ranks of EL2's locks: a CPU takes them in ascending order. A driver's own are `emulation` for what a trapped access of the host
 * works on (so that it may pin and share), and `iommu` for one IOMMU's hardware, which nothing else is taken under but a pool's.
 */
export const LOCK_RANK = { vms: 1, emulation: 2, host: 3, domains: 4, pgt: 5, iommu: 6, pool: 7 } as const;

/** A paravirtual domain, as the generic layer keeps it and a driver sees it. */
export interface HypDomain {
  /** 2 to 4095: unique, so that it can be an ASID or a VMID. */
  readonly id: number;
  readonly type: IommuDomainType;
  /** OWNER.host, or the VM's. */
  readonly owner: number;
  /** The driver's. */
  data: unknown;
}

/** Called for a leaf that is gone, from tables and TLB. */
export type UnmapVisitor = (pa: number, size: number) => void;

/** A driver is asked to unmap so many leaves at once, at most. */
export const UNMAP_MAX = 512;

/**
 * Paging of an EL2 IOMMU driver. `iommu` is the driver's own number. Results are 0 or positive, or a negative errno with nothing
 * changed; memory comes from `core.iommuPool`, whose -ENOMEM tells the host to add some. Calls for a domain come one at a time, those
 * for a StreamID as well; the pages are checked and in use before they are mapped.
 */
export interface HypIommuPaging {
  /** Makes the domain; it maps nothing. -EOPNOTSUPP: hardware without that stage. */
  allocDomain(iommu: number, domain: HypDomain): number;
  /**
   * Ends a domain that nothing is attached to. What it maps is unmapped first: `visit` for each leaf once the TLB has none of it.
   * An error keeps the domain; what was not visited is still in use.
   */
  freeDomain(domain: HypDomain, visit: UnmapVisitor): number;
  /** Attaches; hitless where possible. Replaces what was attached. Failure leaves the hardware as it was. */
  attach(iommu: number, sid: number, pasid: number, domain: HypDomain): number;
  /** Maps with `prot` of ABI_PROT. Returns bytes mapped, or an error when that is 0. */
  mapPages(domain: HypDomain, iova: number, pa: number, pgsize: number, count: number, prot: number): number;
  /** Unmaps up to `count`, at most {@link UNMAP_MAX}; `visit` for each leaf once the TLB has none of it. Returns bytes unmapped. */
  unmapPages(domain: HypDomain, iova: number, pgsize: number, count: number, visit: UnmapVisitor): number;
  /** Address that `iova` translates to, or 0. */
  iovaToPhys(domain: HypDomain, iova: number): number;
}

/** The operations of an EL2 IOMMU driver. Results are 0 or positive, or a negative errno. */
export interface HypIommuDriver {
  /** Once, at the end of `__pkvm_init`. */
  init(core: HypCore): number;
  /**
   * Takes the IOMMU that `handoff` describes, all of it or nothing. The host is still trusted. -ENODEV: it is none for this driver.
   * @returns the IOMMU's number, counted by the driver from 0; that by which the host names it is another
   */
  handoff(handoff: IommuHandoff): number;
  /**
   * The host's access to `[start, end)`, page aligned, becomes `prot` of {@link HOST_PROT}. When access is taken away, no DMA of
   * the host reaches the range once this returns 0. After a failure the core asks for the old access again.
   */
  hostStage2Idmap(start: number, end: number, prot: number): number;
  /** `__pkvm_iommu_set_state`, blocking or identity; `pasid` other than 0 is blocked only. */
  setState(iommu: number, sid: number, pasid: number, state: number): number;
  /** `__pkvm_iommu_event_queue` */
  eventQueue(iommu: number, op: number, value: number): number;
  /** The host accessed device space that EL2 owns; undefined: none of this driver's. */
  dataAbort(frame: Int32Array): AbortAction | undefined;
  /** Before the host is deprivileged; an error keeps it privileged. */
  finalize?(): number;
  /** Paging; without it streams are blocked or identity-mapped. */
  readonly paging?: HypIommuPaging;
  /** Before power goes: DMA is blocked while it is off, and when it comes back. */
  suspend?(iommu: number): number;
  /** Power is back: everything is as before {@link suspend}. */
  resume?(iommu: number): number;
}
