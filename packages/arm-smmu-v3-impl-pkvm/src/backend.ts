import { errnoName, PAGE_SIZE } from "@smmuv3/platform";
import type { HostCpu } from "@smmuv3/platform";
import type { Backend, Master, SmmuDevice } from "@smmuv3/arm-smmu-v3";
import { EventQueue } from "@smmuv3/arm-smmu-v3-common";
import type { QueuePointers } from "@smmuv3/arm-smmu-v3-common";
import { EVENT_QUEUE_OP, hypercall, IOMMU_NO_PASID, IOMMU_STATE } from "@smmuv3/pkvm-abi";
import { EVENT_BYTES } from "@smmuv3/smmu-v3-defs";

/** log2 of the events that the queue has at most: each page of it costs a hypercall and stays pinned. */
const MAX_EVTQ_LOG2 = 11;
/** Overflow acknowledge, in CONS. */
const OVERFLOW = 1 << 31;

/**
 * Pointers of an event queue whose registers are EL2's. Freed places are reported with the next look at PROD, so that a burst
 * of events costs two hypercalls; an overflow is acknowledged at once.
 */
class HypercallPointers implements QueuePointers {
  readonly #cpu: HostCpu;
  readonly #iommu: number;
  #cons = 0;

  constructor(cpu: HostCpu, iommu: number) {
    this.#cpu = cpu;
    this.#iommu = iommu;
  }

  readProd(): number {
    const prod = hypercall(this.#cpu, "__pkvm_iommu_event_queue", this.#iommu, EVENT_QUEUE_OP.consume, this.#cons >>> 0);
    // An EL2 that refuses has nothing for us: the queue looks empty.
    return prod < 0 ? this.#cons : prod | 0;
  }

  writeCons(value: number): void {
    const acknowledge = ((value ^ this.#cons) & OVERFLOW) !== 0;
    this.#cons = value;
    if (acknowledge) this.readProd();
  }
}

/** The back end for an SMMU that EL2 owns. */
export class PkvmBackend implements Backend {
  readonly evtq: EventQueue;
  readonly #smmu: SmmuDevice;
  readonly #cpu: HostCpu;
  /** EL2's number of the IOMMU. */
  readonly #iommu: number;

  constructor(smmu: SmmuDevice, iommu: number, evtqLog2: number) {
    this.#smmu = smmu;
    this.#cpu = smmu.kernel.cpu;
    this.#iommu = iommu;
    const log2 = Math.min(evtqLog2, MAX_EVTQ_LOG2);
    const { pages, memory } = smmu.kernel;
    // Not of smmu.alloc: once EL2 has it, it is never freed.
    const pa = pages.allocZeroed(memory, EVENT_BYTES << log2);
    this.evtq = new EventQueue({ memory, pointers: new HypercallPointers(this.#cpu, iommu), pa, log2 });
  }

  start(requestInterrupts: () => void): number {
    const { pa, log2, bytes } = this.evtq;
    if (pa < 0) return pa;
    const status = this.#share(pa, log2, bytes);
    if (status < 0) this.#smmu.kernel.pages.free(pa, bytes);
    else requestInterrupts();
    return status;
  }

  /** Shares the event queue with EL2 and tells it. On failure nothing stays shared. */
  #share(pa: number, log2: number, bytes: number): number {
    let status = 0;
    let page = pa;
    for (; page < pa + bytes && status === 0; page += PAGE_SIZE) {
      status = hypercall(this.#cpu, "__pkvm_host_share_hyp", page / PAGE_SIZE);
    }
    // The page that was refused is not ours to take back.
    const shared = status < 0 ? page - PAGE_SIZE : page;
    if (status === 0) {
      status = hypercall(this.#cpu, "__pkvm_iommu_event_queue", this.#iommu, EVENT_QUEUE_OP.attach, pa + log2);
    }
    if (status < 0) {
      for (let at = pa; at < shared; at += PAGE_SIZE) hypercall(this.#cpu, "__pkvm_host_unshare_hyp", at / PAGE_SIZE);
    }
    return status;
  }

  addMaster(master: Master): number {
    for (const sid of master.sids) {
      const status = this.#setState(sid, IOMMU_STATE.blocking);
      if (status < 0) return status;
    }
    return 0;
  }

  attachIdentity(master: Master): void {
    this.#setAll(master, IOMMU_STATE.identity);
  }

  attachBlocked(master: Master): void {
    this.#setAll(master, IOMMU_STATE.blocking);
  }

  handleErrors(): number {
    const active = hypercall(this.#cpu, "__pkvm_iommu_event_queue", this.#iommu, EVENT_QUEUE_OP.gerror, 0);
    return active < 0 ? 0 : active;
  }

  /** EL2 does not give the SMMU back: every stream is blocked. */
  disable(): void {
    for (const master of new Set(this.#smmu.masters.values())) this.attachBlocked(master);
  }

  #setState(sid: number, state: number): number {
    return hypercall(this.#cpu, "__pkvm_iommu_set_state", this.#iommu, sid, IOMMU_NO_PASID, state);
  }

  #setAll(master: Master, state: number): void {
    for (const sid of master.sids) {
      const status = this.#setState(sid, state);
      if (status < 0) {
        this.#smmu.log("err", `${master.dev.name}: stream ${sid}: EL2 refused: ${errnoName(status)}`);
      }
    }
  }
}
