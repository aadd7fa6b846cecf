import { errnoName, PAGE_SIZE } from "@smmuv3/platform";
import type { ClaimedSmmu } from "@smmuv3/arm-smmu-v3-handoff";
import type { KernelContext } from "@smmuv3/driver-core";
import { EVENT_QUEUE_OP, hypercall } from "@smmuv3/pkvm-abi";

/** Receives the eight words of each event record; the array is reused. */
export type EventSink = (record: Int32Array) => void;

/** 32-byte records: a 16 KiB queue. */
const LOG2_ENTRIES = 9;
const RECORD_WORDS = 8;
const QUEUE_BYTES = (RECORD_WORDS * 4) << LOG2_ENTRIES;
const INDEX_MASK = (1 << LOG2_ENTRIES) - 1;
/** Index and wrap bit. */
const POSITION_MASK = (INDEX_MASK << 1) | 1;
const OVERFLOW_FLAG = 1 << 31;

/** The event queue of an SMMU that EL2 drives: memory of the host, indices by hypercall. */
export class HostEventQueue {
  readonly #ctx: KernelContext;
  readonly #smmu: ClaimedSmmu;
  readonly #sink: EventSink;
  readonly #record = new Int32Array(RECORD_WORDS);
  #base = 0;
  #cons = 0;

  constructor(ctx: KernelContext, smmu: ClaimedSmmu, sink: EventSink) {
    this.#ctx = ctx;
    this.#smmu = smmu;
    this.#sink = sink;
  }

  /** Shares the queue's memory with EL2, has it programmed, and takes the interrupts. 0, or a negative errno. */
  start(): number {
    const { cpu, pages, memory } = this.#ctx;
    const base = pages.alloc(QUEUE_BYTES);
    if (base < 0) return base;
    memory.fill(base, QUEUE_BYTES, 0);
    for (let pa = base; pa < base + QUEUE_BYTES; pa += PAGE_SIZE) {
      const shared = hypercall(cpu, "__pkvm_host_share_hyp", pa / PAGE_SIZE);
      if (shared < 0) return shared;
    }
    const status = this.#call(EVENT_QUEUE_OP.attach, base + LOG2_ENTRIES);
    if (status < 0) return status;
    this.#base = base;
    const { eventq, gerror } = this.#smmu.node.interrupts;
    if (eventq !== undefined) cpu.requestIrq(eventq, () => { this.drain(); });
    if (gerror !== undefined) cpu.requestIrq(gerror, () => { this.#globalError(); });
    return 0;
  }

  /** Hands every record to the sink and acknowledges an overflow: one hypercall a batch, and one that finds it empty. */
  drain(): void {
    const { memory, log } = this.#ctx;
    let prod = this.#call(EVENT_QUEUE_OP.consume, this.#cons);
    while (prod >= 0 && ((prod ^ this.#cons) & POSITION_MASK) !== 0) {
      while (((prod ^ this.#cons) & POSITION_MASK) !== 0) {
        memory.read(this.#base + (this.#cons & INDEX_MASK) * RECORD_WORDS * 4, this.#record);
        this.#sink(this.#record);
        this.#cons = (this.#cons & OVERFLOW_FLAG) | ((this.#cons + 1) & POSITION_MASK);
      }
      prod = this.#call(EVENT_QUEUE_OP.consume, this.#cons);
    }
    if (prod >= 0 && ((prod ^ this.#cons) & OVERFLOW_FLAG) !== 0) {
      log.print("warn", `${this.#smmu.dev.name}: EVTQ overflow: events lost`);
      this.#cons = (this.#cons & ~OVERFLOW_FLAG) | (prod & OVERFLOW_FLAG);
      this.#call(EVENT_QUEUE_OP.consume, this.#cons);
    }
    if (prod < 0) log.print("err", `${this.#smmu.dev.name}: event queue: ${errnoName(prod)}`);
  }

  #globalError(): void {
    const active = this.#call(EVENT_QUEUE_OP.gerror, 0);
    if (active !== 0) this.#ctx.log.print("err", `${this.#smmu.dev.name}: global error 0x${active.toString(16)}`);
  }

  #call(op: number, value: number): number {
    // Register arguments are unsigned; CONS carries its overflow flag in bit 31.
    const argument = value < 0 ? value >>> 0 : value;
    return hypercall(this.#ctx.cpu, "__pkvm_iommu_event_queue", this.#smmu.iommu, op, argument);
  }
}
