/** Pools of EL2. A VM's own tables come from the memcaches of its vCPUs (`vcpu`), which `__pkvm_vcpu_topup` fills. */
export const POOL = { iommu: 0, hyp: 1, vcpu: 2 } as const;

/** x2 of a reply: what EL2 asks the host for. */
export const REQUEST = {
  none: 0,
  /** x3 = {@link POOL}, x4 = pages, as one naturally aligned block. */
  memory: 1,
  /** x3 = address in the VM at which it has no page. */
  guestPage: 2,
} as const;

/** What EL2 asked for in a reply. */
export interface HypRequest {
  /** {@link REQUEST} */
  readonly type: number;
  /** x3 and x4 */
  readonly what: number;
  readonly pages: number;
}

/** The largest block of pages that may be topped up: 2^10. */
export const TOPUP_MAX_ORDER = 10;
