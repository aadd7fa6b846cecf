/** What a hypercall is for; the cost tables of a comparison keep these apart. */
export type HypercallClass = "boot" | "vm" | "iommu" | "events";

export interface HypercallDef {
  readonly number: number;
  readonly class: HypercallClass;
  /** Arguments in x1.. order. */
  readonly args: readonly string[];
}

/** SMCCC vendor-specific hypervisor service, 64-bit fast calls. */
const VENDOR_HYP = 0xc6000000 | 0;

/**
 * Hypercalls of the host. Each returns a status in x1: zero or a positive result, or a negative errno.
 *
 * - `__pkvm_init`: EL2 takes `[pool_base, pool_base + pool_pages * 4K)` for its own use. The host stays trusted.
 * - `__pkvm_iommu_handoff`: gives an IOMMU to EL2, described by the handoff page (see handoff.ts), which EL2 keeps. Returns
 *   the IOMMU's number.
 * - `__pkvm_prot_finalize`: the host is deprivileged: its stage 2 is in effect from here on.
 * - `__pkvm_host_share_hyp` / `__pkvm_host_unshare_hyp`: EL2 may read and write one page that the host keeps.
 * - `__pkvm_host_donate_hyp` / `__pkvm_hyp_donate_host`: one page changes owner.
 * - `__pkvm_init_vm`: creates a protected VM; `mem_base`, `mem_pages` are donated for its stage-2 tables. Returns its handle.
 * - `__pkvm_host_donate_guest`: gives one page to a VM at `ipa`.
 * - `__pkvm_vcpu_run`: runs a vCPU until it exits. Returns the exit: 0 done, 1 stage-2 abort.
 * - `__pkvm_teardown_vm`: ends a VM; its pages wait for `__pkvm_host_reclaim_page`, which wipes them.
 * - `__pkvm_iommu_set_state`: translation of `(iommu, sid, pasid)`: see {@link IOMMU_STATE}.
 * - `__pkvm_iommu_event_queue`: event queue in host memory: see {@link EVENT_QUEUE_OP}.
 */
export const HYPERCALLS = {
  __pkvm_init: { number: 1, class: "boot", args: ["abi_hash", "pool_base", "pool_pages"] },
  __pkvm_iommu_handoff: { number: 2, class: "boot", args: ["handoff_pa"] },
  __pkvm_prot_finalize: { number: 3, class: "boot", args: [] },
  __pkvm_host_share_hyp: { number: 16, class: "vm", args: ["pfn"] },
  __pkvm_host_unshare_hyp: { number: 17, class: "vm", args: ["pfn"] },
  __pkvm_host_donate_hyp: { number: 18, class: "vm", args: ["pfn"] },
  __pkvm_hyp_donate_host: { number: 19, class: "vm", args: ["pfn"] },
  __pkvm_init_vm: { number: 20, class: "vm", args: ["mem_base", "mem_pages", "vcpus"] },
  __pkvm_host_donate_guest: { number: 21, class: "vm", args: ["handle", "pfn", "ipa"] },
  __pkvm_vcpu_run: { number: 22, class: "vm", args: ["handle", "vcpu"] },
  __pkvm_teardown_vm: { number: 23, class: "vm", args: ["handle"] },
  __pkvm_host_reclaim_page: { number: 24, class: "vm", args: ["pfn"] },
  __pkvm_iommu_set_state: { number: 32, class: "iommu", args: ["iommu", "sid", "pasid", "state"] },
  __pkvm_iommu_event_queue: { number: 33, class: "events", args: ["iommu", "op", "value"] },
} as const satisfies Record<string, HypercallDef>;

export type HypercallName = keyof typeof HYPERCALLS;

/** x0 of a hypercall, as int32. */
export function functionId(name: HypercallName): number {
  return VENDOR_HYP | HYPERCALLS[name].number;
}

const BY_ID: ReadonlyMap<number, HypercallName> = new Map(
  Object.keys(HYPERCALLS).map((name) => [functionId(name as HypercallName), name as HypercallName]),
);

/** Name of the hypercall that x0 (its low word) asks for, or undefined. */
export function hypercallName(id: number): HypercallName | undefined {
  return BY_ID.get(id);
}

/** `state` of `__pkvm_iommu_set_state`. Values from 2 on are paravirtual domains. */
export const IOMMU_STATE = { blocking: 0, identity: 1 } as const;

/** `pasid` that means the transactions without one. */
export const IOMMU_NO_PASID = 0;

/**
 * `op` of `__pkvm_iommu_event_queue`. `attach`: value = address of the queue, its log2 size in bits [5:0]; the pages are shared
 * with EL2 before and stay pinned. `consume`: value = new CONS; returns PROD. `gerror`: acknowledges and returns the active
 * global errors.
 */
export const EVENT_QUEUE_OP = { attach: 0, consume: 1, gerror: 2 } as const;
