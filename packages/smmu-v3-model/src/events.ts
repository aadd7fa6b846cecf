import { ACCESS, LEVEL } from "@smmuv3/platform";
import type { Counters, Memory } from "@smmuv3/platform";
import { EVENT, EVENT_WORDS, EVENTS, isAddressField, maskOf, OFFSET, place, printEvent, REG, setAddress, setField } from "@smmuv3/smmu-v3-defs";
import type { EventField, EventName } from "@smmuv3/smmu-v3-defs";
import { GERROR_BIT } from "./irq.ts";
import type { Interrupts } from "./irq.ts";
import { mergeable } from "./merge.ts";
import type { SmmuPolicy } from "./policy.ts";
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

/** Events with InputAddr[63:12] (7.3.6, 7.3.19). */
const PAGES: ReadonlySet<EventName> = new Set(["F_BAD_ATS_TREQ", "E_PAGE_REQUEST"]);

/** Fields of a record by name. Addresses are exact below 2^53. */
export type EventValues = Readonly<Partial<Record<EventField, number>>>;

/** Word 2 of a new record by type: the IMPLEMENTATION DEFINED Reason of the types that have one. */
function reasons(reason: number): Int32Array {
  const table = new Int32Array(256);
  for (const { type, fields } of Object.values(EVENTS)) {
    const names: readonly string[] = fields;
    if (names.includes("Reason")) table[type] = place(EVENT.Reason, reason);
    if (names.includes("ConflictReason")) table[type] = reason;
  }
  return table;
}

/** The Event queue, IHI 0070 7.2: writes records, keeps the overflow flag, raises the interrupt. */
export class EventQueue {
  /** The record being built, and after {@link commit} the last one, whether or not there was room for it. */
  readonly record: Int32Array<ArrayBuffer> = new Int32Array(EVENT_WORDS);
  /** STE.MEV of the stream that the record is about; events before the STE is found may be merged in any case (7.3.1). */
  mev = false;
  /** What is translated is no transaction, or one that has its record: {@link commit} does nothing (4.2, 3.12.2.2). */
  muted = false;

  readonly #file: RegisterFile;
  readonly #memory: Memory;
  readonly #interrupts: Interrupts;
  readonly #maxLog2: number;
  readonly #merges: boolean;
  readonly #asynchronous: boolean;
  readonly #reasons: Int32Array;
  readonly #counts: Float64Array;
  readonly #eventsId: number;
  readonly #lostId: number;
  readonly #mergedId: number;

  constructor(
    file: RegisterFile,
    features: Features,
    policy: SmmuPolicy,
    memory: Memory,
    interrupts: Interrupts,
    counters: Counters,
  ) {
    this.#file = file;
    this.#memory = memory;
    this.#interrupts = interrupts;
    this.#maxLog2 = features.eventqs;
    this.#merges = policy.merging === "maximal";
    this.#asynchronous = policy.queueWriteAbort === "asynchronous";
    this.#reasons = reasons(policy.reason);
    this.#counts = counters.values;
    this.#eventsId = counters.id("events") + LEVEL.device;
    this.#lostId = counters.id("events.lost") + LEVEL.device;
    this.#mergedId = counters.id("events.merged") + LEVEL.device;
  }

  /** log2 of the entries in effect: the register's value, limited by IDR1.EVENTQS (6.3.29). */
  get log2(): number {
    return Math.min(this.#file.get(BASE) & LOG2SIZE, this.#maxLog2);
  }

  /** Records can be written: the queue is enabled, has room and no unacknowledged abort (7.2.1). */
  get writable(): boolean {
    return this.#open && !queueFull(this.#file.get(PROD), this.#file.get(CONS), this.log2);
  }

  /** The same, full or not. */
  get #open(): boolean {
    return (
      (this.#file.get(CR0ACK) & EVENTQEN) !== 0 &&
      !this.#interrupts.active(GERROR_BIT.EVENTQ_ABT_ERR) &&
      !this.#interrupts.serviceFailure
    );
  }

  /** Starts a record: all but `type`, the substream, the StreamID and Reason is zero. `ssid` is -1 without one. */
  begin(type: number, sid: number, ssid: number): Int32Array {
    const record = this.record;
    record[0] = type | (ssid < 0 ? 0 : SSV | (ssid << SSID_SHIFT));
    record[1] = sid;
    record[2] = this.#reasons[type]!;
    for (let i = 3; i < EVENT_WORDS; i++) record[i] = 0;
    return record;
  }

  /**
   * Writes the record. Returns false where that is impossible and the record is lost.
   * @param stall it is that of a stalled transaction, whose next attempt makes another
   */
  commit(stall: boolean = false): boolean {
    if (this.muted) return false;
    const stored = this.#merge() || this.#store();
    if (!stored && !stall) this.#counts[this.#lostId]!++;
    return stored;
  }

  /** Writes a record of an event that comes from outside of translation. Throws RangeError for a field that it has not. */
  report(name: EventName, sid: number, values: EventValues, mev: boolean): boolean {
    const { type, fields } = EVENTS[name];
    const record = this.begin(type, sid, -1);
    this.mev = mev;
    for (const [key, value] of Object.entries(values)) {
      if (!(fields as readonly string[]).includes(key)) throw new RangeError(`${name} has no field ${key}`);
      const field = EVENT[key as EventField];
      if (isAddressField(field)) setAddress(record, 0, field, value);
      else setField(record, 0, field, value);
    }
    if (PAGES.has(name)) record[EVENT.InputAddr.word]! &= ~0xfff;
    return this.commit();
  }

  /** Writes F_UUT for an access of a kind that is not supported, with its attributes as they came (7.3.2). */
  unsupported(sid: number, ssid: number, lo: number, hi: number, flags: number): void {
    const record = this.begin(EVENTS.F_UUT.type, sid, (flags & ACCESS.ssidValid) === 0 ? -1 : ssid);
    record[3] =
      ((flags & ACCESS.privileged) !== 0 ? EVENT_BIT.PnU : 0) |
      ((flags & ACCESS.instruction) !== 0 ? EVENT_BIT.InD : 0) |
      ((flags & ACCESS.write) === 0 ? EVENT_BIT.RnW : 0);
    record[4] = lo;
    record[5] = hi;
    this.commit();
  }

  /** The record equals the one before it, which software has not consumed: it stands for both (7.3.1). */
  #merge(): boolean {
    if (!this.#merges) return false;
    const file = this.#file;
    const log2 = this.log2;
    const prod = file.get(PROD);
    if (!this.#open || queueEmpty(prod, file.get(CONS), log2)) return false;
    const at = this.#locate(queueIndex(prod - 1, log2), log2, 1);
    if (at < 0 || !mergeable(this.record, this.#memory.words, at, this.mev)) return false;
    this.#counts[this.#mergedId]!++;
    return true;
  }

  #store(): boolean {
    const file = this.#file;
    const memory = this.#memory;
    const log2 = this.log2;
    const prod = file.get(PROD);
    const cons = file.get(CONS);
    if (!this.#open) return false;
    if (queueFull(prod, cons, log2)) {
      // OVFLG toggles once until software has acknowledged it (7.4).
      if (((prod ^ cons) & OVFLG) === 0) file.set(PROD, prod ^ OVFLG);
      return false;
    }
    const at = this.#locate(queueIndex(prod, log2), log2, 2);
    if (at >= 0) {
      for (let i = 0; i < EVENT_WORDS; i++) memory.words[at + i] = this.record[i]!;
      this.#counts[this.#eventsId]!++;
    } else if (this.#asynchronous) {
      // The abort arrives after the index has moved: the entry is not valid and the record is lost (7.2.2).
      this.#counts[this.#lostId]!++;
    } else {
      this.#interrupts.raise(GERROR_BIT.EVENTQ_ABT_ERR);
      return false;
    }
    file.set(PROD, (prod & OVFLG) | queueNext(queuePointer(prod, log2), log2));
    if (at < 0) this.#interrupts.raise(GERROR_BIT.EVENTQ_ABT_ERR);
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
