import { TRANSLATION } from "@smmuv3/platform";
import { CD, EVENT, EVENTS, getField, maskOf, STE } from "@smmuv3/smmu-v3-defs";
import { FAULT_CLASS, WALK } from "@smmuv3/vmsa-walk";
import type { Stage1Walker, Stage2Walker } from "@smmuv3/vmsa-walk";
import { accessBits } from "./attributes.ts";
import type { ConfigFetcher } from "./config.ts";
import { EVENT_BIT } from "./events.ts";
import type { EventQueue } from "./events.ts";

/** How a fault ends, as bits: CD.A, CD.R, CD.S, STE.S2R, STE.S2S; STE.MEV; and CD.E0PD0 and CD.E0PD1 in effect. */
export const FAULTS = { A: 1, R: 2, S2R: 4, S: 8, S2S: 16, MEV: 32, E0PD0: 64, E0PD1: 128 } as const;

// Of this module, for the compiler to see them as constants.
const { word: S2R_WORD, shift: S2R_SHIFT } = STE.S2R;
const { word: S2S_WORD, shift: S2S_SHIFT } = STE.S2S;
const { word: MEV_WORD, shift: MEV_SHIFT } = STE.MEV;
const { word: CD_WORD, shift: A_SHIFT } = CD.A;
const R_SHIFT = CD.R.shift;
const S_SHIFT = CD.S.shift;
const AA64 = maskOf(CD.AA64);
const { A, R, S, S2R, S2S, MEV } = FAULTS;

/** Flags of a STE. */
export function steFaults(words: Int32Array, at: number): number {
  return (
    (((words[at + S2R_WORD]! >>> S2R_SHIFT) & 1) * S2R) |
    (((words[at + S2S_WORD]! >>> S2S_SHIFT) & 1) * S2S) |
    (((words[at + MEV_WORD]! >>> MEV_SHIFT) & 1) * MEV)
  );
}

/** Flags of a CD; `e0pd` where the regime has E0PD, which VMSAv8-32 has not. */
export function cdFaults(words: Int32Array, at: number, e0pd: boolean): number {
  const word = words[at + CD_WORD]!;
  const own = (((word >>> A_SHIFT) & 1) * A) | (((word >>> R_SHIFT) & 1) * R) | (((word >>> S_SHIFT) & 1) * S);
  if (!e0pd || (word & AA64) === 0) return own;
  return own | (getField(words, at, CD.E0PD0) * FAULTS.E0PD0) | (getField(words, at, CD.E0PD1) * FAULTS.E0PD1);
}

/** Event types by WALK status. */
export const EVENT_OF_STATUS: readonly number[] = [
  0,
  EVENTS.F_TRANSLATION.type,
  EVENTS.F_ADDR_SIZE.type,
  EVENTS.F_ACCESS.type,
  EVENTS.F_PERMISSION.type,
  EVENTS.F_WALK_EABT.type,
];

const TYPES = EVENT_OF_STATUS;
const EXTERNAL_ABORT = WALK.EXTERNAL_ABORT;
const IN = FAULT_CLASS.IN << EVENT_BIT.CLASS;
const { abort: ABORT, raz: RAZ, stalled: STALLED } = TRANSLATION;
const SSV = maskOf(EVENT.SSV);
/** Events that have FetchAddr. */
const FETCHES: ReadonlySet<number> = new Set([EVENTS.F_STE_FETCH.type, EVENTS.F_CD_FETCH.type, EVENTS.F_VMS_FETCH.type]);

/** Ends transactions that fault (IHI 0070 3.12, 7.3): decides whether there is a record, and what the master sees. */
export class FaultReporter {
  /** Type of the last event, recorded or not; 0 for none. */
  last = 0;

  readonly #events: EventQueue;
  readonly #fetcher: ConfigFetcher;
  readonly #stage1: Stage1Walker;
  readonly #stage2: Stage2Walker;

  constructor(events: EventQueue, fetcher: ConfigFetcher, stage1: Stage1Walker, stage2: Stage2Walker) {
    this.#events = events;
    this.#fetcher = fetcher;
    this.#stage1 = stage1;
    this.#stage2 = stage2;
  }

  /** STE.MEV of the stream whose configuration errors follow. */
  set mev(value: boolean) {
    this.#events.mev = value;
  }

  /**
   * A fault of stage 1; CD.A, CD.R and CD.S govern all but external aborts (5.5). `status` is one of WALK, `faults` of
   * {@link FAULTS}. TRANSLATION.stalled leaves the record to whoever holds the transaction.
   */
  stage1(faults: number, status: number, sid: number, ssid: number, lo: number, hi: number, need: number): number {
    const type = TYPES[status]!;
    this.last = type;
    if (status === EXTERNAL_ABORT) {
      const walker = this.#stage1;
      const bits = FAULT_CLASS.TT << EVENT_BIT.CLASS;
      this.#build(faults, type, sid, ssid, lo, hi, need, bits, walker.descPaLo & ~7, walker.descPaHi);
      this.#events.commit();
      return TRANSLATION.abort;
    }
    // A stall is always recorded (5.5).
    if ((faults & (R | S)) !== 0) {
      this.#build(faults, type, sid, ssid, lo, hi, need, IN, 0, 0);
      if ((faults & S) !== 0) return STALLED;
      this.#events.commit();
    }
    return (faults & A) !== 0 ? ABORT : RAZ;
  }

  /** A fault of stage 2, which aborts or stalls; STE.S2R and STE.S2S govern all but external aborts. */
  stage2(
    faults: number,
    status: number,
    faultClass: number,
    ipaLo: number,
    ipaHi: number,
    sid: number,
    ssid: number,
    lo: number,
    hi: number,
    need: number,
  ): number {
    const type = TYPES[status]!;
    let bits = EVENT_BIT.S2 | (faultClass << EVENT_BIT.CLASS);
    this.last = type;
    if (status === WALK.EXTERNAL_ABORT) {
      this.#build(faults, type, sid, ssid, lo, hi, need, bits, this.#stage2.descPaLo & ~7, this.#stage2.descPaHi);
      this.#events.commit();
    } else if ((faults & (FAULTS.S2R | FAULTS.S2S)) !== 0) {
      // TTRnW: the descriptor was read, and not updated (7.3.16).
      if (status === WALK.PERMISSION && faultClass === FAULT_CLASS.TT && !this.#stage1.ttWrite) bits |= EVENT_BIT.TTRnW;
      this.#build(faults, type, sid, ssid, lo, hi, need, bits, ipaLo & ~0xfff, ipaHi);
      if ((faults & FAULTS.S2S) !== 0) return TRANSLATION.stalled;
      this.#events.commit();
    }
    return TRANSLATION.abort;
  }

  /** Stage 1 is bypassed or disabled and the address is beyond IAS: S2 = 0, CLASS = IN (7.3.14), an abort (3.4.1). */
  bypass(faults: number, sid: number, ssid: number, lo: number, hi: number, need: number): number {
    this.last = EVENTS.F_ADDR_SIZE.type;
    this.#build(faults, this.last, sid, ssid, lo, hi, need, FAULT_CLASS.IN << EVENT_BIT.CLASS, 0, 0);
    this.#events.commit();
    return TRANSLATION.abort;
  }

  /** Two TLB entries match: always recorded, always an abort (7.3.17). */
  conflict(faults: number, sid: number, ssid: number, lo: number, hi: number, need: number, stage2: boolean): number {
    this.last = EVENTS.F_TLB_CONFLICT.type;
    this.#build(faults, this.last, sid, ssid, lo, hi, need, stage2 ? EVENT_BIT.S2 : 0, stage2 ? lo & ~0xfff : 0, stage2 ? hi : 0);
    this.#events.commit();
    return TRANSLATION.abort;
  }

  #build(
    faults: number,
    type: number,
    sid: number,
    ssid: number,
    lo: number,
    hi: number,
    need: number,
    bits: number,
    extraLo: number,
    extraHi: number,
  ): void {
    const record = this.#events.begin(type, sid, ssid);
    this.#events.mev = (faults & FAULTS.MEV) !== 0;
    record[3] = accessBits(need) | bits;
    record[4] = lo;
    record[5] = hi;
    record[6] = extraLo;
    record[7] = extraHi;
  }

  /** C_* and fetch events: always recorded, but C_BAD_STREAMID only with RECINVSID; always an abort. */
  configuration(type: number, sid: number, ssid: number): number {
    this.last = type;
    const fetcher = this.#fetcher;
    if (type === EVENTS.C_BAD_STREAMID.type && !fetcher.recordsBadStreams) return TRANSLATION.abort;
    const record = this.#events.begin(type, sid, ssid);
    if (type === EVENTS.F_STREAM_DISABLED.type) record[0] = type;
    // Its SubstreamID is always valid: there is no SSV (7.3.9).
    if (type === EVENTS.C_BAD_SUBSTREAMID.type) record[0]! &= ~SSV;
    if (FETCHES.has(type)) {
      record[6] = fetcher.faultLo & ~7;
      record[7] = fetcher.faultHi;
    }
    this.#events.commit();
    return TRANSLATION.abort;
  }
}
