import { LEVEL } from "@smmuv3/platform";
import type { Counters, Memory } from "@smmuv3/platform";
import { EVENT, EVENT_WORDS, maskOf, OFFSET, place, printEvent, REG } from "@smmuv3/smmu-v3-defs";
import { GERROR_BIT } from "./irq.ts";
import type { Interrupts } from "./irq.ts";
import type { Features } from "./presets.ts";
import { queueEmpty, queueFull, queueIndex, queueNext, queuePointer } from "./queues.ts";
import type { RegisterFile } from "./registers.ts";

const OVFLG = maskOf(REG.EVENTQ_PROD.OVFLG);
const LOG2SIZE = maskOf(REG.EVENTQ_BASE.LOG2SIZE);
const BASE = OFFSET.EVENTQ_BASE;
const PROD = OFFSET.EVENTQ_PROD;
const CONS = OFFSET.EVENTQ_CONS;
const CR0ACK = OFFSET.CR0ACK;
const SSV = place(EVENT.SSV, 1);
const SSID_SHIFT = EVENT.SSID.shift;
const EVENTQEN = maskOf(REG.CR0ACK.EVENTQEN);

/** Bits of word 3 of a record, in place (7.3). */
export const EVENT_BIT: Readonly<Record<"PnU" | "InD" | "RnW" | "S2" | "CLASS" | "TTRnW", number>> = {
  PnU: place(EVENT.PnU, 1),
  InD: place(EVENT.InD, 1),
  RnW: place(EVENT.RnW, 1),
  S2: place(EVENT.S2, 1),
  CLASS: EVENT.CLASS.shift,
  TTRnW: place(EVENT.TTRnW, 1),
};

/** An event record as software reads it. */
export interface EventRecord {
  /** The eight words. */
  readonly words: Int32Array;
  /** One line of text. */
  readonly text: string;
}

/** The Event queue, IHI 0070 7.2: writes records, keeps the overflow flag, raises the interrupt. */
export class EventQueue {
  /** The record being built, and after {@link commit} the last one, whether or not there was room for it. */
  readonly record: Int32Array<ArrayBuffer> = new Int32Array(EVENT_WORDS);

  readonly #file: RegisterFile;
  readonly #memory: Memory;
  readonly #interrupts: Interrupts;
  readonly #maxLog2: number;
  readonly #counts: Float64Array;
  readonly #eventsId: number;
  readonly #lostId: number;

  constructor(file: RegisterFile, features: Features, memory: Memory, interrupts: Interrupts, counters: Counters) {
    this.#file = file;
    this.#memory = memory;
    this.#interrupts = interrupts;
    this.#maxLog2 = features.eventqs;
    this.#counts = counters.values;
    this.#eventsId = counters.id("events") + LEVEL.device;
    this.#lostId = counters.id("events.lost") + LEVEL.device;
  }

  /** log2 of the entries in effect: the register's value, limited by IDR1.EVENTQS (6.3.29). */
  get log2(): number {
    return Math.min(this.#file.get(BASE) & LOG2SIZE, this.#maxLog2);
  }

  /** Starts a record: everything but `type`, the substream and the StreamID is zero. `ssid` is -1 without one. */
  begin(type: number, sid: number, ssid: number): Int32Array {
    const record = this.record;
    for (let i = 2; i < EVENT_WORDS; i++) record[i] = 0;
    record[0] = type | (ssid < 0 ? 0 : SSV | (ssid << SSID_SHIFT));
    record[1] = sid;
    return record;
  }

  /** Writes the record. Returns false where it was lost. */
  commit(): boolean {
    const stored = this.#store();
    this.#counts[stored ? this.#eventsId : this.#lostId]!++;
    return stored;
  }

  #store(): boolean {
    const file = this.#file;
    const memory = this.#memory;
    const log2 = this.log2;
    const prod = file.get(PROD);
    const cons = file.get(CONS);
    if ((file.get(CR0ACK) & EVENTQEN) === 0) return false;
    if (this.#interrupts.active(GERROR_BIT.EVENTQ_ABT_ERR)) return false;
    if (queueFull(prod, cons, log2)) {
      // OVFLG toggles once until software has acknowledged it (7.4).
      if (((prod ^ cons) & OVFLG) === 0) file.set(PROD, prod ^ OVFLG);
      return false;
    }
    const at = this.#locate(queueIndex(prod, log2), log2, 2);
    if (at < 0) {
      this.#interrupts.raise(GERROR_BIT.EVENTQ_ABT_ERR);
      return false;
    }
    for (let i = 0; i < EVENT_WORDS; i++) memory.words[at + i] = this.record[i]!;
    file.set(PROD, (prod & OVFLG) | queueNext(queuePointer(prod, log2), log2));
    if (queueEmpty(prod, cons, log2)) this.#interrupts.eventQueue();
    return true;
  }

  /** Index of the first word of entry `index`, or -1 where its page refuses the access `need`. */
  #locate(index: number, log2: number, need: number): number {
    const { ADDR } = REG.EVENTQ_BASE;
    // The base is aligned to the queue's size (6.3.29).
    const lo = (this.#file.get(BASE) & ADDR.loMask & ~((32 << log2) - 1)) | (index << 5);
    const page = this.#memory.pageOf(lo, this.#file.high(BASE) & ADDR.hiMask);
    if (page < 0 || (this.#memory.perm[page]! & need) === 0) return -1;
    return (page << 10) | ((lo & 0xfff) >>> 2);
  }

  /** Records that software has not consumed, oldest first. */
  pending(): EventRecord[] {
    const log2 = this.log2;
    const prod = this.#file.get(PROD);
    const out: EventRecord[] = [];
    let cons = queuePointer(this.#file.get(CONS), log2);
    for (let n = 0; n < 1 << log2 && !queueEmpty(prod, cons, log2); n++, cons = queueNext(cons, log2)) {
      const at = this.#locate(queueIndex(cons, log2), log2, 1);
      if (at < 0) break;
      const words = this.#memory.words.slice(at, at + EVENT_WORDS);
      out.push({ words, text: printEvent(words) });
    }
    return out;
  }
}
