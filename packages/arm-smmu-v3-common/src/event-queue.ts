import type { Memory, RegisterWindow } from "@smmuv3/platform";
import { EVENT_BYTES, EVENT_WORDS, OFFSET } from "@smmuv3/smmu-v3-defs";

/** Access to the producer and consumer pointers of a queue that the SMMU fills. */
export interface QueuePointers {
  readProd(): number;
  writeCons(value: number): void;
}

/** The pointers in the device's registers. */
export function queuePointers(window: RegisterWindow, prodOffset: number, consOffset: number): QueuePointers {
  return {
    readProd: () => window.read32(prodOffset),
    writeCons: (value) => {
      window.write32(consOffset, value);
    },
  };
}

/** The event queue's pointers. */
export function eventQueuePointers(window: RegisterWindow): QueuePointers {
  return queuePointers(window, OFFSET.EVENTQ_PROD, OFFSET.EVENTQ_CONS);
}

/** The page request queue's pointers. */
export function priQueuePointers(window: RegisterWindow): QueuePointers {
  return queuePointers(window, OFFSET.PRIQ_PROD, OFFSET.PRIQ_CONS);
}

export interface EventQueueOptions {
  readonly memory: Memory;
  readonly pointers: QueuePointers;
  readonly pa: number;
  readonly log2: number;
  /** 32 for events, 16 for page requests. */
  readonly entryBytes?: number;
}

/** Overflow flag of both pointers. */
const OVERFLOW = 1 << 31;

/** The consumer of an event queue or a page request queue. */
export class EventQueue {
  readonly pa: number;
  readonly log2: number;
  readonly bytes: number;
  /** Times that the SMMU found the queue full and records were lost. */
  overflows: number = 0;
  readonly #memory: Memory;
  readonly #pointers: QueuePointers;
  readonly #entryBytes: number;
  readonly #pointerMask: number;
  readonly #record: Int32Array;
  /** CONS as the SMMU was told: overflow acknowledge, wrap, index. */
  #cons = 0;

  constructor(options: EventQueueOptions) {
    this.pa = options.pa;
    this.log2 = options.log2;
    this.#entryBytes = options.entryBytes ?? EVENT_BYTES;
    this.bytes = this.#entryBytes << options.log2;
    this.#memory = options.memory;
    this.#pointers = options.pointers;
    this.#pointerMask = (2 << options.log2) - 1;
    this.#record = new Int32Array(options.entryBytes === undefined ? EVENT_WORDS : options.entryBytes / 4);
  }

  /** Empties it: the SMMU's pointers were set to zero. */
  reset(): void {
    this.#cons = 0;
  }

  /**
   * Hands every record to `handler`, frees its place, and goes on until the queue is empty; then acknowledges an overflow.
   * The array is reused.
   * @returns the number of records
   */
  drain(handler: (record: Int32Array) => void): number {
    let records = 0;
    let prod = this.#pointers.readProd();
    let overflow = this.#cons & OVERFLOW;
    for (;;) {
      while (((prod ^ this.#cons) & this.#pointerMask) !== 0) {
        const slot = this.#cons & (this.#pointerMask >> 1);
        this.#memory.read(this.pa + slot * this.#entryBytes, this.#record);
        handler(this.#record);
        records++;
        this.#cons = (this.#cons & OVERFLOW) | ((this.#cons + 1) & this.#pointerMask);
        this.#pointers.writeCons(this.#cons);
      }
      prod = this.#pointers.readProd();
      if ((prod & OVERFLOW) !== overflow) {
        overflow = prod & OVERFLOW;
        this.overflows++;
      }
      if (((prod ^ this.#cons) & this.#pointerMask) === 0) break;
    }
    if (((prod ^ this.#cons) & OVERFLOW) !== 0) {
      this.#cons ^= OVERFLOW;
      this.#pointers.writeCons(this.#cons);
    }
    return records;
  }
}
