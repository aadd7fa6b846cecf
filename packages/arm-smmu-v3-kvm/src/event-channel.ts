import { errnoName, PAGE_SIZE } from "@smmuv3/platform";
import { EventQueue } from "@smmuv3/arm-smmu-v3-common";
import type { QueuePointers } from "@smmuv3/arm-smmu-v3-common";
import type { ClaimedSmmu } from "@smmuv3/arm-smmu-v3-handoff";
import type { KernelContext } from "@smmuv3/driver-core";
import { EVENT_QUEUE_OP, hypercall } from "@smmuv3/pkvm-abi";
import { EVENT_BYTES, maskOf, printEvent, printFields, REG } from "@smmuv3/smmu-v3-defs";

/** Receives the eight words of each event record; the array is reused. */
export type RecordSink = (record: Int32Array) => void;

/** log2 of the events that the queue has at most: each page of it costs a hypercall and stays pinned. */
const MAX_LOG2 = 11;
const OVERFLOW = maskOf(REG.EVENTQ_CONS.OVACKFLG);
/** Messages about events: at most this many per interval of ns. */
const BURST = 10;
const INTERVAL = 5_000_000_000;

/**
 * The event queue of an SMMU that EL2 drives: memory of the host, shared with EL2 page by page, indices by hypercall. It is
 * drained by interrupt.
 */
export class EventChannel implements QueuePointers {
  readonly #ctx: KernelContext;
  readonly #smmu: ClaimedSmmu;
  readonly #sink: RecordSink;
  #queue: EventQueue | undefined = undefined;
  /** CONS that EL2 is told at the next look at PROD. */
  #cons = 0;
  #windowStart = 0;
  #printed = 0;

  constructor(ctx: KernelContext, smmu: ClaimedSmmu, sink: RecordSink) {
    this.#ctx = ctx;
    this.#smmu = smmu;
    this.#sink = sink;
  }

  /** Shares the queue's memory, has it programmed, and takes the interrupts. 0, or a negative errno with nothing left shared. */
  start(): number {
    const { memory, pages } = this.#ctx;
    const log2 = Math.min(this.#smmu.evtqLog2, MAX_LOG2);
    const bytes = EVENT_BYTES << log2;
    const pa = pages.allocZeroed(memory, bytes);
    if (pa < 0) return pa;
    const status = this.#share(pa, bytes, log2);
    if (status < 0) {
      pages.free(pa, bytes);
      return status;
    }
    this.#queue = new EventQueue({ memory, pointers: this, pa, log2 });
    this.#requestInterrupts();
    return 0;
  }

  /** PROD. Tells EL2 which places are free: a burst of events costs two hypercalls. */
  readProd(): number {
    const prod = this.#call(EVENT_QUEUE_OP.consume, this.#cons >>> 0);
    if (prod >= 0) return prod | 0;
    this.#log(`event queue: ${errnoName(prod)}`);
    return this.#cons;
  }

  /** CONS. Told later, but for an overflow: until it is acknowledged, another one would not be seen. */
  writeCons(value: number): void {
    const acknowledge = ((value ^ this.#cons) & OVERFLOW) !== 0;
    this.#cons = value;
    if (acknowledge) this.readProd();
  }

  /** Shares all pages of the queue and attaches it; on failure, takes them back. */
  #share(pa: number, bytes: number, log2: number): number {
    const { cpu } = this.#ctx;
    let end = pa;
    let status = 0;
    while (end < pa + bytes && status === 0) {
      status = hypercall(cpu, "__pkvm_host_share_hyp", end / PAGE_SIZE);
      if (status === 0) end += PAGE_SIZE;
    }
    if (status === 0) status = this.#call(EVENT_QUEUE_OP.attach, pa + log2);
    if (status < 0) {
      for (let page = pa; page < end; page += PAGE_SIZE) hypercall(cpu, "__pkvm_host_unshare_hyp", page / PAGE_SIZE);
    }
    return status;
  }

  /** `combined`, or one interrupt per cause. */
  #requestInterrupts(): void {
    const { cpu } = this.#ctx;
    const events = (): void => {
      this.#drain();
    };
    const errors = (): void => {
      this.#globalErrors();
    };
    const both = (): void => {
      this.#globalErrors();
      this.#drain();
    };
    const { combined, eventq, gerror } = this.#smmu.node.interrupts;
    if (combined !== undefined) {
      cpu.requestIrq(combined, both);
      return;
    }
    if (eventq !== undefined) cpu.requestIrq(eventq, events);
    if (gerror !== undefined) cpu.requestIrq(gerror, errors);
  }

  #drain(): void {
    const queue = this.#queue;
    if (queue === undefined) return;
    const before = queue.overflows;
    queue.drain((record) => {
      if (this.#mayPrint()) this.#log(`event: ${printEvent(record)}`);
      this.#sink(record);
    });
    if (queue.overflows !== before) this.#log("EVTQ overflow detected -- events lost");
  }

  #globalErrors(): void {
    const active = this.#call(EVENT_QUEUE_OP.gerror, 0);
    if (active < 0) this.#log(`global errors: ${errnoName(active)}`);
    else if (active > 0) this.#log(`global errors: ${printFields(REG.GERROR, Int32Array.of(active))}`);
  }

  #call(op: number, value: number): number {
    return hypercall(this.#ctx.cpu, "__pkvm_iommu_event_queue", this.#smmu.iommu, op, value);
  }

  #mayPrint(): boolean {
    const now = this.#ctx.cpu.now();
    if (now - this.#windowStart >= INTERVAL) {
      this.#windowStart = now;
      this.#printed = 0;
    }
    this.#printed++;
    return this.#printed <= BURST;
  }

  #log(text: string): void {
    this.#ctx.log.err(`arm-smmu-v3-kvm ${this.#smmu.node.name}: ${text}`);
  }
}
