import { PAGE_SIZE } from "@smmuv3/platform";
import type { HostCpu } from "@smmuv3/platform";
import { EventQueue } from "@smmuv3/arm-smmu-v3-common";
import type { QueuePointers } from "@smmuv3/arm-smmu-v3-common";
import type { KernelContext } from "@smmuv3/driver-core";
import { EVENT_QUEUE_OP, hypercall } from "@smmuv3/pkvm-abi";
import { EVENT_BYTES, maskOf, REG } from "@smmuv3/smmu-v3-defs";

/** log2 of the events that the queue has at most: each page of it costs a hypercall and stays pinned. */
const MAX_LOG2 = 11;
const OVERFLOW = maskOf(REG.EVENTQ_CONS.OVACKFLG);

/** Called with EL2's errno when it does not tell PROD; the queue looks empty then. */
export type EventRefusal = (errno: number) => void;

/**
 * Pointers of an event queue whose registers are EL2's. Freed places are reported with the next look at PROD, so that a burst
 * of events costs two hypercalls; an overflow is acknowledged at once: until then another one would not be seen.
 */
class HypercallPointers implements QueuePointers {
  readonly #cpu: HostCpu;
  readonly #iommu: number;
  readonly #refused: EventRefusal;
  /** CONS that EL2 is told at the next look at PROD. */
  #cons = 0;

  constructor(cpu: HostCpu, iommu: number, refused: EventRefusal) {
    this.#cpu = cpu;
    this.#iommu = iommu;
    this.#refused = refused;
  }

  readProd(): number {
    const prod = hypercall(this.#cpu, "__pkvm_iommu_event_queue", this.#iommu, EVENT_QUEUE_OP.consume, this.#cons >>> 0);
    if (prod >= 0) return prod | 0;
    this.#refused(prod);
    return this.#cons;
  }

  writeCons(value: number): void {
    const acknowledge = ((value ^ this.#cons) & OVERFLOW) !== 0;
    this.#cons = value;
    if (acknowledge) this.readProd();
  }
}

/**
 * The event queue of an SMMU that EL2 has: memory of the host, shared with EL2 page by page and attached by hypercall. There is
 * no call that takes it back, so it is never freed.
 * @param evtqLog2 log2 of the events that the hardware's queue may have
 * @returns the queue; or a negative errno, -ENOMEM or EL2's, with nothing left shared but what EL2 keeps
 */
export function attachEventQueue(
  ctx: KernelContext, iommu: number, evtqLog2: number, refused: EventRefusal,
): EventQueue | number {
  const { cpu, memory, pages } = ctx;
  const log2 = Math.min(evtqLog2, MAX_LOG2);
  const bytes = EVENT_BYTES << log2;
  const pa = pages.allocZeroed(memory, bytes);
  if (pa < 0) return pa;
  let end = pa;
  let status = 0;
  while (end < pa + bytes && status === 0) {
    status = hypercall(cpu, "__pkvm_host_share_hyp", end / PAGE_SIZE);
    if (status === 0) end += PAGE_SIZE;
  }
  if (status === 0) status = hypercall(cpu, "__pkvm_iommu_event_queue", iommu, EVENT_QUEUE_OP.attach, pa + log2);
  if (status === 0) {
    return new EventQueue({ memory, pointers: new HypercallPointers(cpu, iommu, refused), pa, log2 });
  }
  let kept = 0;
  for (let page = pa; page < end; page += PAGE_SIZE) {
    if (hypercall(cpu, "__pkvm_host_unshare_hyp", page / PAGE_SIZE) < 0) kept++;
  }
  // What EL2 does not let go of may still be written by the SMMU: it is nobody else's memory.
  if (kept === 0) pages.free(pa, bytes);
  return status;
}

/** Has EL2 acknowledge global errors. Returns those that were active, bits of GERROR; or EL2's negative errno. */
export function takeGlobalErrors(cpu: HostCpu, iommu: number): number {
  return hypercall(cpu, "__pkvm_iommu_event_queue", iommu, EVENT_QUEUE_OP.gerror, 0);
}
