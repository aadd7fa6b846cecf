/** What a hypercall is for; the cost tables of a comparison keep these apart. */
export type HypercallClass = "boot" | "vm" | "iommu" | "events" | "power";

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
 * - `__pkvm_host_donate_guest`: gives one page to a VM at `ipa`; its tables come from the memcache of the VM's vCPUs. Or one page of
 *   registers of a device that is assigned to the VM.
 * - `__pkvm_vcpu_run`: runs a vCPU until it exits. Returns the exit: 0 done, 1 stage-2 abort; its hypercalls may leave a
 *   REQUEST.
 * - `__pkvm_teardown_vm`: ends a VM; its pages wait for `__pkvm_host_reclaim_page`, which wipes them.
 * - `__pkvm_topup_hyp`: donates the 2^order pages from `pfn` on to a pool of EL2: see POOL. `__pkvm_hyp_reclaim_pool`
 *   takes one page that the pool does not use back, wiped, and returns its pfn; -ENOENT: there is none.
 * - `__pkvm_vcpu_topup`: donates `count` pages to the memcache of a vCPU.
 * - `__pkvm_device_assign`: the device behind `(iommu, sid)`, and all that share a StreamID with it, from the host to a VM that
 *   has not run; its DMA is blocked. It comes back, blocked, when the VM ends.
 * - `__pkvm_pviommu_attach`: gives a VM that has not run the paravirtual IOMMU `id`. `__pkvm_pviommu_add_vsid`: its StreamID `vsid`
 *   is `(iommu, sid)`. `__pkvm_pviommu_finalise`: nothing is added any more, as from the first run on.
 * - `__pkvm_iommu_set_state`: translation of `(iommu, sid, pasid)`: see IOMMU_STATE.
 * - `__pkvm_iommu_event_queue`: event queue in host memory: see EVENT_QUEUE_OP.
 * - `__pkvm_iommu_alloc_domain`: makes domain `domain` of IOMMU_DOMAIN_TYPE for an IOMMU; the host's ids are 2 up to
 *   HOST_DOMAINS, exclusive. `__pkvm_iommu_free_domain`: -EBUSY while attached; what is still mapped is unmapped.
 * - `__pkvm_iommu_map_pages`: maps `pgcount` pages of `pgsize` bytes, `prot` of ABI_PROT. Returns bytes mapped, which may be
 *   fewer, with a REQUEST. `__pkvm_iommu_map_sg`: the same for a list of `nent` SG_ENTRY at `sg_pa`, in pages shared
 *   with EL2. `__pkvm_iommu_unmap_pages`: returns bytes unmapped. `__pkvm_iommu_iova_to_phys`: returns the address, or 0.
 * - `__pkvm_host_hvc_pd`: switches the power domain of an IOMMU (`device`) on or off.
 *
 * A call that lacks memory returns what it has done, or -ENOMEM, with a REQUEST in x2 to x4.
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
  __pkvm_topup_hyp: { number: 25, class: "vm", args: ["pool", "pfn", "order"] },
  __pkvm_hyp_reclaim_pool: { number: 26, class: "vm", args: ["pool"] },
  __pkvm_vcpu_topup: { number: 27, class: "vm", args: ["handle", "vcpu", "pfn", "count"] },
  __pkvm_device_assign: { number: 28, class: "vm", args: ["handle", "iommu", "sid"] },
  __pkvm_pviommu_attach: { number: 29, class: "vm", args: ["handle", "id"] },
  __pkvm_pviommu_add_vsid: { number: 30, class: "vm", args: ["handle", "id", "iommu", "sid", "vsid"] },
  __pkvm_pviommu_finalise: { number: 31, class: "vm", args: ["handle"] },
  __pkvm_iommu_set_state: { number: 32, class: "iommu", args: ["iommu", "sid", "pasid", "state"] },
  __pkvm_iommu_event_queue: { number: 33, class: "events", args: ["iommu", "op", "value"] },
  __pkvm_iommu_alloc_domain: { number: 34, class: "iommu", args: ["iommu", "domain", "type"] },
  __pkvm_iommu_free_domain: { number: 35, class: "iommu", args: ["domain"] },
  __pkvm_iommu_map_pages: { number: 36, class: "iommu", args: ["domain", "iova", "paddr", "pgsize", "pgcount", "prot"] },
  __pkvm_iommu_unmap_pages: { number: 37, class: "iommu", args: ["domain", "iova", "pgsize", "pgcount"] },
  __pkvm_iommu_map_sg: { number: 38, class: "iommu", args: ["domain", "iova", "sg_pa", "nent", "prot"] },
  __pkvm_iommu_iova_to_phys: { number: 39, class: "iommu", args: ["domain", "iova"] },
  __pkvm_host_hvc_pd: { number: 48, class: "power", args: ["device", "on"] },
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
