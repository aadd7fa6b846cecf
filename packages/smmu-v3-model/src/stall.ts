import { ACCESS, LEVEL, TRANSLATION } from "@smmuv3/platform";
import type { Counters } from "@smmuv3/platform";
import { EVENT, maskOf, place } from "@smmuv3/smmu-v3-defs";
import type { EventQueue } from "./events.ts";
import type { SmmuPolicy } from "./policy.ts";
import type { Features } from "./presets.ts";
import type { StateReader, StateWriter } from "./state.ts";

/**
 * Where a stalled transaction is: `recorded` software has its record; `waiting` there was no room for one, or no free STAG, and
 * it is tried again when there is (IHI 0070 7.2.1); `suppressed` it shares the record of an earlier one (3.12.2.1).
 */
export type StallState = "recorded" | "waiting" | "suppressed";

/** A transaction that waits in the SMMU. */
export interface StalledTransaction {
  readonly sid: number;
  readonly ssid: number;
  /** The input address. */
  readonly lo: number;
  readonly hi: number;
  /** Of ACCESS. */
  readonly flags: number;
  readonly state: StallState;
  /** Token of CMD_RESUME; -1 unless `recorded`. */
  readonly stag: number;
  /** TRANSLATION.stalled until it is answered, then `ok`, `abort` or `raz`. */
  readonly outcome: number;
  /** Output address once `outcome` is `ok`. */
  readonly paLo: number;
  readonly paHi: number;
}

/** Called when a stalled transaction is answered: `outcome` is TRANSLATION.ok, `abort` or `raz`. */
export type ResumeHandler = (transaction: StalledTransaction, outcome: number) => void;

/** What stalled transactions are translated with. */
export interface Retrier {
  translate(sid: number, ssid: number, lo: number, hi: number, flags: number): number;
  paLo: number;
  paHi: number;
}

type Entry = { -readonly [K in keyof StalledTransaction]: StalledTransaction[K] } & {
  /** The recorded transaction that a suppressed one waits for. */
  leader: Entry | undefined;
  /** Its master is still in the call that presented it, and gets the answer from there. */
  presenting: boolean;
};

const STALL = maskOf(EVENT.Stall);
/** Of what two accesses must agree in to share a record (3.12.2.1). */
const SAME_FLAGS = ACCESS.write | ACCESS.privileged | ACCESS.instruction | ACCESS.ssidValid;

/** Stalled transactions and their STAGs, IHI 0070 3.12.2. */
export class Stalls {
  onResume: ResumeHandler | undefined = undefined;
  /** The last transaction that its master has left here. */
  last: StalledTransaction | undefined = undefined;
  /** Configuration or translations were invalidated since the last CMD_SYNC. */
  stale = false;

  readonly #features: Features;
  readonly #policy: SmmuPolicy;
  readonly #events: EventQueue;
  readonly #unit: Retrier;
  readonly #entries: Entry[] = [];
  /** By STAG the transaction whose record has it: the value is free again once software has answered (4.7.1, 4.7.2). */
  readonly #stags = new Map<number, Entry>();
  #polling = false;
  readonly #counts: Float64Array;
  readonly #stallsId: number;

  constructor(features: Features, policy: SmmuPolicy, events: EventQueue, unit: Retrier, counters: Counters) {
    this.#features = features;
    this.#policy = policy;
    this.#events = events;
    this.#unit = unit;
    this.#counts = counters.values;
    this.#stallsId = counters.id("stalls") + LEVEL.device;
  }

  /** Stalled transactions, oldest first. */
  get transactions(): readonly StalledTransaction[] {
    return this.#entries;
  }

  /**
   * Takes a transaction whose translation has just ended in a stall, with its record still in the event queue's buffer.
   * Returns TRANSLATION.stalled, or the outcome where software has answered at once, in its interrupt handler.
   */
  hold(sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    const entry: Entry = {
      sid, ssid, lo, hi, flags,
      state: "waiting", stag: -1, outcome: TRANSLATION.stalled, paLo: 0, paHi: 0, leader: undefined, presenting: true,
    };
    this.#counts[this.#stallsId]!++;
    this.#stall(entry);
    entry.presenting = false;
    if (entry.outcome === TRANSLATION.stalled) this.last = entry;
    if (entry.outcome === TRANSLATION.ok) {
      this.#unit.paLo = entry.paLo;
      this.#unit.paHi = entry.paHi;
    }
    return entry.outcome;
  }

  /** CMD_RESUME; without effect unless `stag` belongs to a stall of `sid` (4.7.1). */
  resume(sid: number, stag: number, retry: boolean, abort: boolean): void {
    const entry = this.#stags.get(stag);
    // Bit for bit: a StreamID of 32 bits is negative as a word.
    if (entry === undefined || (entry.sid ^ sid) !== 0) return;
    this.#stags.delete(stag);
    const followers = this.#entries.filter(({ leader }) => leader === entry);
    // An early retry may have ended it; its record is answered all the same.
    if (this.#take(entry)) {
      if (retry) this.#retry(entry);
      else this.#answer(entry, abort || this.#features.termModel ? TRANSLATION.abort : TRANSLATION.raz);
    }
    for (const follower of followers) {
      if (follower.state === "suppressed" && this.#take(follower)) this.#retry(follower);
    }
    this.poll();
  }

  /** CMD_STALL_TERM: aborts all of a stream and frees its STAGs (4.7.2). */
  terminate(sid: number): void {
    for (const [stag, entry] of this.#stags) if ((entry.sid ^ sid) === 0) this.#stags.delete(stag);
    for (const entry of this.#entries.filter((candidate) => (candidate.sid ^ sid) === 0)) this.#abort(entry);
    this.poll();
  }

  /** SMMUEN was cleared, or the SMMU was reset: aborts everything (6.3.9.6). */
  terminateAll(): void {
    this.#stags.clear();
    for (const entry of this.#entries.slice()) this.#abort(entry);
  }

  /** Tries waiting transactions again, oldest first, while a record can be written (7.2.1). */
  poll(): void {
    if (this.#polling || this.#entries.length === 0) return;
    this.#polling = true;
    try {
      for (;;) {
        const entry = this.#entries.find(({ state }) => state === "waiting");
        if (entry === undefined || !this.#events.writable || this.#freeStag() < 0) return;
        this.#take(entry);
        this.#retry(entry);
      }
    } finally {
      this.#polling = false;
    }
  }

  /**
   * CMD_SYNC after an invalidation: with early retry, recorded transactions are translated again without waiting for
   * CMD_RESUME. One that now ends leaves no second record, and its STAG stays taken (3.12.2.2).
   */
  synchronize(): void {
    if (!this.stale) return;
    this.stale = false;
    for (const entry of this.#entries.filter(({ state }) => state !== "waiting")) {
      if (!this.#entries.includes(entry)) continue;
      this.#events.muted = true;
      let result: number;
      try {
        result = this.#unit.translate(entry.sid, entry.ssid, entry.lo, entry.hi, entry.flags);
      } finally {
        this.#events.muted = false;
      }
      if (result === TRANSLATION.stalled) continue;
      this.#take(entry);
      this.#answer(entry, result);
    }
  }

  save(out: StateWriter): void {
    // A STAG may belong to a transaction that has ended already (3.12.2.2).
    const all = [...new Set([...this.#entries, ...this.#stags.values()])];
    out.put("stalls", {
      stale: this.stale,
      last: this.last === undefined ? -1 : all.indexOf(this.last as Entry),
      transactions: all.map((entry) => ({
        ...entry,
        leader: entry.leader === undefined ? -1 : all.indexOf(entry.leader),
        held: this.#entries.includes(entry),
      })),
      stags: [...this.#stags].map(([stag, entry]) => [stag, all.indexOf(entry)]),
    });
  }

  /** The transactions are new objects: masters find theirs in {@link transactions}. */
  restore(from: StateReader): void {
    const saved = from.get("stalls") as {
      stale: boolean;
      last: number;
      transactions: (Omit<Entry, "leader"> & { leader: number; held: boolean })[];
      stags: [number, number][];
    };
    const all = saved.transactions.map(
      ({ sid, ssid, lo, hi, flags, state, stag, outcome, paLo, paHi, presenting }): Entry =>
        ({ sid, ssid, lo, hi, flags, state, stag, outcome, paLo, paHi, presenting, leader: undefined }),
    );
    this.#entries.length = 0;
    this.#stags.clear();
    saved.transactions.forEach(({ held, leader }, index) => {
      const entry = all[index]!;
      entry.leader = all[leader];
      if (held) this.#entries.push(entry);
    });
    for (const [stag, index] of saved.stags) this.#stags.set(stag, all[index]!);
    this.last = all[saved.last];
    this.stale = saved.stale;
  }

  /** The lowest STAG that no record has, or -1: as many as the SMMU can hold transactions (IDR5.STALL_MAX). */
  #freeStag(): number {
    const size = Math.max(this.#features.stallMax, 1);
    if (this.#stags.size >= size) return -1;
    let stag = 0;
    while (this.#stags.has(stag)) stag++;
    return stag;
  }

  #stall(entry: Entry): void {
    const entries = this.#entries;
    entry.stag = -1;
    entry.leader = this.#policy.stallDuplicates === "suppress" ? this.#leader(entry) : undefined;
    if (entry.leader !== undefined) {
      entry.state = "suppressed";
      entries.push(entry);
      return;
    }
    const stag = this.#freeStag();
    entry.state = "waiting";
    entries.push(entry);
    if (stag < 0 || !this.#events.writable) return;
    // Complete before the record is written: the interrupt may have it answered before commit returns.
    entry.state = "recorded";
    entry.stag = stag;
    this.#stags.set(stag, entry);
    this.#events.record[EVENT.STAG.word] = STALL | place(EVENT.STAG, stag);
    if (this.#events.commit(true) || entry.stag !== stag) return;
    entry.state = "waiting";
    entry.stag = -1;
    this.#stags.delete(stag);
  }

  /** A recorded stall whose record tells software of `entry` as well (3.12.2.1). */
  #leader(entry: Entry): Entry | undefined {
    return this.#entries.find(
      (other) =>
        other.state === "recorded" &&
        other.sid === entry.sid &&
        ((other.flags ^ entry.flags) & SAME_FLAGS) === 0 &&
        ((entry.flags & ACCESS.ssidValid) === 0 || other.ssid === entry.ssid) &&
        other.hi === entry.hi &&
        other.lo >>> 12 === entry.lo >>> 12,
    );
  }

  /** Translates as though the transaction had just arrived. It is not in the list. */
  #retry(entry: Entry): void {
    const result = this.#unit.translate(entry.sid, entry.ssid, entry.lo, entry.hi, entry.flags);
    if (result === TRANSLATION.stalled) this.#stall(entry);
    else this.#answer(entry, result);
  }

  #abort(entry: Entry): void {
    if (this.#take(entry)) this.#answer(entry, TRANSLATION.abort);
  }

  /** Takes a transaction out of the list. Returns false where it is not in it: it was answered meanwhile. */
  #take(entry: Entry): boolean {
    const at = this.#entries.indexOf(entry);
    if (at < 0) return false;
    this.#entries.splice(at, 1);
    entry.stag = -1;
    return true;
  }

  #answer(entry: Entry, outcome: number): void {
    entry.outcome = outcome;
    entry.paLo = this.#unit.paLo;
    entry.paHi = this.#unit.paHi;
    if (!entry.presenting) this.onResume?.(entry, outcome);
  }
}
