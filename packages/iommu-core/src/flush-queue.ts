import { LEVEL } from "@smmuv3/platform";
import type { Cpu } from "@smmuv3/platform";
import type { IommuDomain } from "./domain.ts";
import type { IovaAllocator } from "./iova.ts";

/** Unmaps that wait at most (IOVA_DEFAULT_FQ_SIZE). */
export const FLUSH_QUEUE_SIZE = 256;
/** ns that one waits at most (IOVA_DEFAULT_FQ_TIMEOUT, 10 ms). */
export const FLUSH_QUEUE_TIMEOUT = 10_000_000;

/**
 * IOVA ranges that were unmapped but not invalidated. One invalidation of the whole domain serves them all; until then a
 * device may still reach their pages, and they are not handed out again. The time-out is checked when the next unmap comes.
 */
export class FlushQueue {
  readonly #domain: IommuDomain;
  readonly #iovas: IovaAllocator;
  readonly #cpu: Cpu;
  readonly #flushes: number;
  readonly #starts: Float64Array = new Float64Array(FLUSH_QUEUE_SIZE);
  readonly #sizes: Float64Array = new Float64Array(FLUSH_QUEUE_SIZE);
  #pending = 0;
  #oldest = 0;

  constructor(domain: IommuDomain, iovas: IovaAllocator, cpu: Cpu) {
    this.#domain = domain;
    this.#iovas = iovas;
    this.#cpu = cpu;
    this.#flushes = cpu.counters.id("dma.fqFlushes") + LEVEL.el1;
  }

  /** Unmaps that wait for a flush. */
  get pending(): number {
    return this.#pending;
  }

  /** Adds an unmapped range; flushes first when the queue is full or its oldest entry timed out. */
  add(iova: number, size: number): void {
    const now = this.#cpu.now();
    const timedOut = this.#pending > 0 && now - this.#oldest >= FLUSH_QUEUE_TIMEOUT;
    if (timedOut || this.#pending === FLUSH_QUEUE_SIZE) this.flush();
    if (this.#pending === 0) this.#oldest = now;
    this.#starts[this.#pending] = iova;
    this.#sizes[this.#pending] = size;
    this.#pending++;
  }

  /** Invalidates the domain and frees the waiting ranges. */
  flush(): void {
    if (this.#pending === 0) return;
    this.#domain.ops.flushIotlbAll?.(this.#domain);
    for (let i = 0; i < this.#pending; i++) this.#iovas.free(this.#starts[i]!, this.#sizes[i]!);
    this.#pending = 0;
    this.#cpu.counters.add(this.#flushes, 1);
  }
}
