import { abiHash, frameArg, GUEST_CALL, POOL, TOPUP_MAX_ORDER } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { ERRNO, LEVEL, PAGE_SIZE } from "@smmuv3/platform";

import type { HypCore } from "./core.ts";
import type { Domains } from "./domains.ts";
import type { Iommus } from "./iommus.ts";
import { OWNER, PAGE_STATE } from "./page-state.ts";
import type { HypPool } from "./pool.ts";
import type { ProtectedVms } from "./vms.ts";

/** Boot phases, in order. */
export const PHASE = {
  /** EL2 has vectors and nothing else. */
  reset: 0,
  /** EL2 has memory; the host is trusted and hands over devices. */
  trusted: 1,
  /** The host's stage 2 is in effect. */
  deprivileged: 2,
} as const;
export type Phase = (typeof PHASE)[keyof typeof PHASE];

/** What a hypercall works on, after `__pkvm_init`. */
export interface Context {
  readonly core: HypCore;
  readonly vms: ProtectedVms;
  /** In an EL2 with IOMMU support. */
  readonly iommus: Iommus | undefined;
  /** In an EL2 with paging. */
  domains: Domains | undefined;
}

/** A hypercall after the one that makes the context. `a` to `f`: x1 to x6, integers from 0 on. */
export interface Call {
  /** Phases in which the host may make it: -EPERM before, -EBUSY after. */
  readonly from: Phase;
  readonly to: Phase;
  readonly run: (context: Context, a: number, b: number, c: number, d: number, e: number, f: number) => number;
}

/** A hypercall of vCPU `vcpu` of VM `handle`: arguments and results are in the frame from x1 on. Negative: x0 says invalid parameter. */
export type GuestCall = (context: Context, handle: number, frame: Int32Array) => number;

/** A part of EL2 that an architecture adds to it. */
export interface HypModule {
  /** At the end of `__pkvm_init`. 0, or a negative errno. */
  readonly init?: (context: Context) => number;
  readonly calls: Readonly<Partial<Record<HypercallName, Call>>>;
  /** By function id. */
  readonly guestCalls?: Readonly<Record<number, GuestCall>>;
}

/** When the host may make a call. */
export const WHEN: Readonly<Record<"boot" | "always" | "protected", Pick<Call, "from" | "to">>> = {
  boot: { from: PHASE.trusted, to: PHASE.trusted },
  always: { from: PHASE.trusted, to: PHASE.deprivileged },
  protected: { from: PHASE.deprivileged, to: PHASE.deprivileged },
};

/** Pages without which the host could not go on: tables of its stage 2, which is filled as it comes. */
const STAGE2_RESERVE = 8;

/** Arguments of `__pkvm_init` are right for this EL2. */
export function checkAbi(hash: number): number {
  return hash === abiHash() ? 0 : -ERRNO.EINVAL;
}

function finalize({ core, iommus }: Context): number {
  if (core.pool.freePages < STAGE2_RESERVE) return -ERRNO.ENOMEM;
  const status = iommus?.finalize() ?? 0;
  if (status === 0) core.deprivilege();
  return status;
}

function poolOf(core: HypCore, pool: number): HypPool | undefined {
  if (pool === POOL.iommu) return core.iommuPool;
  return pool === POOL.hyp ? core.pool : undefined;
}

function topup({ core }: Context, id: number, pfn: number, order: number): number {
  const pool = poolOf(core, id);
  if (pool === undefined || order > TOPUP_MAX_ORDER || pfn % 2 ** order !== 0) return -ERRNO.EINVAL;
  const status = core.donateHostToHyp(pfn * PAGE_SIZE, PAGE_SIZE * 2 ** order);
  if (status < 0) return status;
  pool.add(pfn * PAGE_SIZE, 2 ** order);
  // What of them is in use the pool's gauges say.
  core.cpu.counters.add(core.cpu.counters.id("pagesToppedUp") + LEVEL.el2, 2 ** order);
  return status;
}

function reclaimPool({ core }: Context, id: number): number {
  const pool = poolOf(core, id);
  if (pool === undefined) return -ERRNO.EINVAL;
  const pa = pool.take();
  if (pa < 0) return pa;
  const status = core.donateHypToHost(pa, PAGE_SIZE);
  if (status < 0) pool.add(pa, 1);
  return status < 0 ? status : pa / PAGE_SIZE;
}

/** Every hypercall but `__pkvm_init` that EL2 has in any architecture. */
export const CALLS: Readonly<Partial<Record<HypercallName, Call>>> = {
  __pkvm_prot_finalize: { ...WHEN.boot, run: finalize },
  __pkvm_host_share_hyp: { ...WHEN.always, run: ({ core }, pfn) => core.share(pfn * PAGE_SIZE) },
  __pkvm_host_unshare_hyp: { ...WHEN.always, run: ({ core }, pfn) => core.unshare(pfn * PAGE_SIZE) },
  __pkvm_host_donate_hyp: {
    ...WHEN.always,
    run: ({ core }, pfn) => core.donate(pfn * PAGE_SIZE, PAGE_SIZE, OWNER.hyp),
  },
  __pkvm_hyp_donate_host: {
    ...WHEN.always,
    run: ({ core }, pfn) => core.reclaim(pfn * PAGE_SIZE, PAGE_SIZE, OWNER.hyp, PAGE_STATE.owned),
  },
  __pkvm_topup_hyp: { ...WHEN.always, run: topup },
  __pkvm_hyp_reclaim_pool: { ...WHEN.always, run: reclaimPool },
  __pkvm_init_vm: { ...WHEN.protected, run: ({ vms }, base, pages, vcpus) => vms.create(base, pages, vcpus) },
  __pkvm_host_donate_guest: {
    ...WHEN.protected,
    run: ({ vms }, handle, pfn, ipa) => vms.donatePage(handle, pfn * PAGE_SIZE, ipa),
  },
  __pkvm_vcpu_topup: {
    ...WHEN.protected,
    run: ({ vms }, handle, vcpu, pfn, count) => vms.topup(handle, vcpu, pfn * PAGE_SIZE, count),
  },
  __pkvm_vcpu_run: { ...WHEN.protected, run: ({ vms }, handle, vcpu) => vms.run(handle, vcpu) },
  __pkvm_teardown_vm: { ...WHEN.protected, run: ({ vms }, handle) => vms.teardown(handle) },
  __pkvm_host_reclaim_page: { ...WHEN.protected, run: ({ vms }, pfn) => vms.reclaimPage(pfn * PAGE_SIZE) },
};

/** Hypercalls of guests that EL2 has in any architecture. */
export const GUEST_CALLS: Readonly<Record<number, GuestCall>> = {
  [GUEST_CALL.memShare]: ({ vms }, handle, frame) => vms.share(handle, frameArg(frame, 1), true),
  [GUEST_CALL.memUnshare]: ({ vms }, handle, frame) => vms.share(handle, frameArg(frame, 1), false),
};
