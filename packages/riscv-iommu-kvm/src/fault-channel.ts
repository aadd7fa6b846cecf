import { errnoName, PAGE_SIZE } from "@smmuv3/platform";
import type { KernelContext } from "@smmuv3/driver-core";
import { EVENT_QUEUE_OP, hypercall } from "@smmuv3/pkvm-abi";
import { decodeRvFault, RV_FAULT_BYTES, RV_FAULT_WORDS } from "@smmuv3/riscv-iommu-defs";
import type { RvFault } from "@smmuv3/riscv-iommu-defs";

/** log2 of the records: one page of them. */
const LOG2 = 7;
const MASK = 2 ** LOG2 - 1;

/** The fault queue of an IOMMU that EL2 drives: host memory, shared with EL2 and pinned; its pointers by hypercall. */
export class FaultChannel {
  readonly #ctx: KernelContext;
  readonly #iommu: number;
  readonly #sink: (fault: RvFault) => void;
  #base = 0;
  #head = 0;

  constructor(ctx: KernelContext, iommu: number, sink: (fault: RvFault) => void) {
    this.#ctx = ctx;
    this.#iommu = iommu;
    this.#sink = sink;
  }

  /** Attaches the queue and takes the interrupt. 0, or a negative errno without a queue. */
  start(interrupt: number | undefined): number {
    const { cpu, memory, pages } = this.#ctx;
    const pa = pages.allocZeroed(memory, PAGE_SIZE);
    if (pa < 0) return pa;
    let status = hypercall(cpu, "__pkvm_host_share_hyp", pa / PAGE_SIZE);
    const shared = status === 0;
    if (shared) status = this.#call(EVENT_QUEUE_OP.attach, pa + LOG2);
    if (status < 0) {
      // What EL2 does not let go of may still be written to.
      if (!shared || hypercall(cpu, "__pkvm_host_unshare_hyp", pa / PAGE_SIZE) === 0) pages.free(pa, PAGE_SIZE);
      return status;
    }
    this.#base = pa;
    if (interrupt !== undefined) cpu.requestIrq(interrupt, () => { this.drain(); });
    return 0;
  }

  /** Passes on the faults that are there. */
  drain(): void {
    const record = new Int32Array(RV_FAULT_WORDS);
    for (let tail = this.#consume(); tail !== this.#head; tail = this.#consume()) {
      while (this.#head !== tail) {
        this.#ctx.memory.read(this.#base + this.#head * RV_FAULT_BYTES, record);
        this.#head = (this.#head + 1) & MASK;
        this.#sink(decodeRvFault(record));
      }
    }
    const errors = this.#call(EVENT_QUEUE_OP.gerror, 0);
    if (errors > 0) this.#ctx.log.err(`riscv-iommu-kvm: fault queue errors 0x${errors.toString(16)}: records were lost`);
  }

  /** Tells EL2 what was read; returns the tail. */
  #consume(): number {
    const tail = this.#call(EVENT_QUEUE_OP.consume, this.#head);
    if (tail >= 0) return tail & MASK;
    this.#ctx.log.err(`riscv-iommu-kvm: fault queue: ${errnoName(tail)}`);
    return this.#head;
  }

  #call(op: number, value: number): number {
    return hypercall(this.#ctx.cpu, "__pkvm_iommu_event_queue", this.#iommu, op, value);
  }
}
