import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";

import type { HypCore } from "./core.ts";
import { OWNER, PAGE_STATE } from "./page-state.ts";

/**
 * `[pa, pa + size)` of `owner` is about to be mapped for its devices: its pages stay owned, and its alone, until
 * {@link unuseDma}. Device space of the host stays the host's for ever. -EINVAL: not whole pages, or RAM and device space. -EPERM: a
 * page is not `owner`'s alone. -EBUSY: too many users. -ENOSPC: too many device ranges.
 */
export function useDma(core: HypCore, pa: number, size: number, owner: number): number {
  return core.locked(() => {
    if (core.isRam(pa, size)) return core.pinPages(pa, size, owner, PAGE_STATE.owned);
    if (!core.isDevice(pa, size)) return -ERRNO.EINVAL;
    const { mmio } = core;
    // A VM only comes here with registers that are its own, and so have a record.
    if (mmio.overlaps(pa, size, OWNER.host)) return -ERRNO.EPERM;
    return mmio.has(pa, size, OWNER.host) ? 0 : mmio.add(pa, size, OWNER.host);
  });
}

/** Undoes {@link useDma} of RAM, page by page if need be: no TLB has it any more. Takes no lock. */
export function unuseDma({ cpu, states }: HypCore, pa: number, size: number): void {
  const first = cpu.memory.pageIndex(pa);
  if (first < 0) return;
  for (let page = first; page < first + size / PAGE_SIZE; page++) states.unpin(page);
}
