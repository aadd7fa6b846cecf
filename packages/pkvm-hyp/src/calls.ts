import { abiHash, readHandoff } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";

import type { HypCore } from "./core.ts";
import type { HypIommuDriver } from "./iommu-driver.ts";
import { OWNER, PAGE_STATE } from "./page-state.ts";
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
  readonly driver: HypIommuDriver | undefined;
}

/** A hypercall after the one that makes the context. `a` to `d`: x1 to x4, integers from 0 on. */
export interface Call {
  /** Phases in which the host may make it: -EPERM before, -EBUSY after. */
  readonly from: Phase;
  readonly to: Phase;
  readonly run: (context: Context, a: number, b: number, c: number, d: number) => number;
}

/** Arguments of `__pkvm_init` are right for this EL2. */
export function checkAbi(hash: number): number {
  return hash === abiHash() ? 0 : -ERRNO.EINVAL;
}

/** A hypercall that goes to the IOMMU driver: nothing to talk to without one. */
function iommu(run: (driver: HypIommuDriver, a: number, b: number, c: number, d: number) => number): Call {
  return {
    from: PHASE.trusted,
    to: PHASE.deprivileged,
    run: ({ driver }, a, b, c, d) => (driver === undefined ? -ERRNO.ENODEV : run(driver, a, b, c, d)),
  };
}

function handoff({ core, driver }: Context, page: number): number {
  if (driver === undefined) return -ERRNO.ENODEV;
  const donated = core.donateHostToHyp(page, PAGE_SIZE);
  if (donated < 0) return donated;
  const status = driver.handoff(readHandoff(core.cpu.memory, page));
  if (status < 0) core.cancelDonation(page, PAGE_SIZE);
  return status;
}

function finalize({ core, driver }: Context): number {
  const status = driver?.finalize?.() ?? 0;
  if (status < 0) return status;
  core.stage2.enable();
  return 0;
}

const always = { from: PHASE.trusted, to: PHASE.deprivileged } as const;
const protectedOnly = { from: PHASE.deprivileged, to: PHASE.deprivileged } as const;
const bootOnly = { from: PHASE.trusted, to: PHASE.trusted } as const;

/** Every hypercall but `__pkvm_init`. */
export const CALLS: Readonly<Record<Exclude<HypercallName, "__pkvm_init">, Call>> = {
  __pkvm_iommu_handoff: { ...bootOnly, run: handoff },
  __pkvm_prot_finalize: { ...bootOnly, run: finalize },
  __pkvm_host_share_hyp: { ...always, run: ({ core }, pfn) => core.share(pfn * PAGE_SIZE) },
  __pkvm_host_unshare_hyp: { ...always, run: ({ core }, pfn) => core.unshare(pfn * PAGE_SIZE) },
  __pkvm_host_donate_hyp: {
    ...always,
    run: ({ core }, pfn) => core.donate(pfn * PAGE_SIZE, PAGE_SIZE, OWNER.hyp),
  },
  __pkvm_hyp_donate_host: {
    ...always,
    run: ({ core }, pfn) => core.reclaim(pfn * PAGE_SIZE, PAGE_SIZE, OWNER.hyp, PAGE_STATE.owned),
  },
  __pkvm_init_vm: { ...protectedOnly, run: ({ vms }, base, pages, vcpus) => vms.create(base, pages, vcpus) },
  __pkvm_host_donate_guest: {
    ...protectedOnly,
    run: ({ vms }, handle, pfn, ipa) => vms.donatePage(handle, pfn * PAGE_SIZE, ipa),
  },
  __pkvm_vcpu_run: { ...protectedOnly, run: ({ vms }, handle, vcpu) => vms.run(handle, vcpu) },
  __pkvm_teardown_vm: { ...protectedOnly, run: ({ vms }, handle) => vms.teardown(handle) },
  __pkvm_host_reclaim_page: { ...protectedOnly, run: ({ vms }, pfn) => vms.reclaimPage(pfn * PAGE_SIZE) },
  __pkvm_iommu_set_state: iommu((driver, id, sid, pasid, state) => driver.setState(id, sid, pasid, state)),
  __pkvm_iommu_event_queue: iommu((driver, id, op, value) => driver.eventQueue(id, op, value)),
};
