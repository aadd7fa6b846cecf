/** `state` of `__pkvm_iommu_set_state`; the PASID {@link IOMMU_NO_PASID} only has all of them. */
export const IOMMU_STATE = {
  blocking: 0,
  identity: 1,
  /** This and what follows are domains. */
  firstDomain: 2,
} as const;

/** `pasid` that means the transactions without one. */
export const IOMMU_NO_PASID = 0;

/** Domain ids of the host are below this; the other half, up to twice as many, is EL2's to give to guests. */
export const HOST_DOMAINS = 2048;

/** `type` of `__pkvm_iommu_alloc_domain`: the stage that translates. */
export const IOMMU_DOMAIN_TYPE = { s1: 1, s2: 2 } as const;
export type IommuDomainType = (typeof IOMMU_DOMAIN_TYPE)[keyof typeof IOMMU_DOMAIN_TYPE];

/** Bits of `prot`. */
export const ABI_PROT = { read: 1, write: 2, cache: 4, noexec: 8, mmio: 16, priv: 32 } as const;

/** An entry of the list of `__pkvm_iommu_map_sg`, little-endian: address (64 bits), page size, number of pages (32 bits each). */
export const SG_ENTRY = { phys: 0, pgsize: 8, pgcount: 12, bytes: 16 } as const;

/**
 * `op` of `__pkvm_iommu_event_queue`. `attach`: value = address of the queue, its log2 size in bits [5:0]; the pages are shared
 * with EL2 before and stay pinned. `consume`: value = new CONS; returns PROD. `gerror`: acknowledges and returns the active
 * global errors.
 */
export const EVENT_QUEUE_OP = { attach: 0, consume: 1, gerror: 2 } as const;
