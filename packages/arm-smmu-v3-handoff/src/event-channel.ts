import { errnoName } from "@smmuv3/platform";
import { RateLimit } from "@smmuv3/arm-smmu-v3-common";
import type { EventQueue } from "@smmuv3/arm-smmu-v3-common";
import type { KernelContext } from "@smmuv3/driver-core";
import { printEvent, printFields, REG } from "@smmuv3/smmu-v3-defs";
import type { ClaimedSmmu } from "./handoff.ts";
import { attachEventQueue, takeGlobalErrors } from "./hyp-events.ts";

/** Receives the eight words of each event record; the array is reused. */
export type RecordSink = (record: Int32Array) => void;

/** The events of an SMMU that EL2 drives: its queue, drained by interrupt, and its global errors. */
export class EventChannel {
  readonly #ctx: KernelContext;
  readonly #driver: string;
  readonly #smmu: ClaimedSmmu;
  readonly #sink: RecordSink;
  readonly #limit: RateLimit = new RateLimit();
  #queue: EventQueue | undefined = undefined;

  /** `driver`: in whose name messages are printed. */
  constructor(ctx: KernelContext, driver: string, smmu: ClaimedSmmu, sink: RecordSink) {
    this.#ctx = ctx;
    this.#driver = driver;
    this.#smmu = smmu;
    this.#sink = sink;
  }

  /** Attaches the queue and takes the interrupts. 0, or a negative errno without a queue. */
  start(): number {
    const { iommu, evtqLog2 } = this.#smmu;
    const queue = attachEventQueue(this.#ctx, iommu, evtqLog2, (errno) => {
      this.#log(`event queue: ${errnoName(errno)}`);
    });
    if (typeof queue === "number") return queue;
    this.#queue = queue;
    this.#requestInterrupts();
    return 0;
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
      if (this.#limit.admit(this.#ctx.cpu.now())) this.#log(`event: ${printEvent(record)}`);
      this.#sink(record);
    });
    if (queue.overflows !== before) this.#log("EVTQ overflow detected -- events lost");
  }

  #globalErrors(): void {
    const active = takeGlobalErrors(this.#ctx.cpu, this.#smmu.iommu);
    if (active < 0) this.#log(`global errors: ${errnoName(active)}`);
    else if (active > 0) this.#log(`global errors: ${printFields(REG.GERROR, Int32Array.of(active))}`);
  }

  #log(text: string): void {
    this.#ctx.log.err(`${this.#driver} ${this.#smmu.node.name}: ${text}`);
  }
}
