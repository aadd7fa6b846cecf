import { TRANSLATION } from "@smmuv3/platform";
import { EVENT, EVENTS, maskOf } from "@smmuv3/smmu-v3-defs";
import { FAULT_CLASS, WALK } from "@smmuv3/vmsa-walk";
import type { Stage1Walker, Stage2Walker } from "@smmuv3/vmsa-walk";
import { accessBits } from "./attributes.ts";
import type { ConfigFetcher } from "./config.ts";
import { EVENT_BIT } from "./events.ts";
import type { EventQueue } from "./events.ts";

/** How a fault ends: CD.A, CD.R and STE.S2R as bits. */
export const FAULTS = { A: 1, R: 2, S2R: 4 } as const;

/** Event types by WALK status. */
const EVENT_OF_STATUS: readonly number[] = [
  0,
  EVENTS.F_TRANSLATION.type,
  EVENTS.F_ADDR_SIZE.type,
  EVENTS.F_ACCESS.type,
  EVENTS.F_PERMISSION.type,
  EVENTS.F_WALK_EABT.type,
];

const SSV = maskOf(EVENT.SSV);

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

  /** A fault of stage 1; CD.A and CD.R govern all but external aborts. `status` is one of WALK, `faults` of {@link FAULTS}. */
  stage1(faults: number, status: number, sid: number, ssid: number, lo: number, hi: number, need: number): number {
    const type = EVENT_OF_STATUS[status]!;
    this.last = type;
    if (status === WALK.EXTERNAL_ABORT) {
      const walker = this.#stage1;
      const bits = FAULT_CLASS.TT << EVENT_BIT.CLASS;
      this.#record(type, sid, ssid, lo, hi, need, bits, walker.descPaLo & ~7, walker.descPaHi);
      return TRANSLATION.abort;
    }
    if ((faults & FAULTS.R) !== 0) {
      this.#record(type, sid, ssid, lo, hi, need, FAULT_CLASS.IN << EVENT_BIT.CLASS, 0, 0);
    }
    return (faults & FAULTS.A) !== 0 ? TRANSLATION.abort : TRANSLATION.raz;
  }

  /** A fault of stage 2, which always aborts; STE.S2R governs the record of all but external aborts. */
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
    const type = EVENT_OF_STATUS[status]!;
    let bits = EVENT_BIT.S2 | (faultClass << EVENT_BIT.CLASS);
    this.last = type;
    if (status === WALK.EXTERNAL_ABORT) {
      this.#record(type, sid, ssid, lo, hi, need, bits, this.#stage2.descPaLo & ~7, this.#stage2.descPaHi);
    } else if ((faults & FAULTS.S2R) !== 0) {
      // A table walk only reads (7.3.16).
      if (status === WALK.PERMISSION && faultClass === FAULT_CLASS.TT) bits |= EVENT_BIT.TTRnW;
      this.#record(type, sid, ssid, lo, hi, need, bits, ipaLo & ~0xfff, ipaHi);
    }
    return TRANSLATION.abort;
  }

  /** Stage 1 is bypassed or disabled and the address is beyond IAS: S2 = 0, CLASS = IN (7.3.14). */
  bypass(sid: number, ssid: number, lo: number, hi: number, need: number): number {
    this.#record(EVENTS.F_ADDR_SIZE.type, sid, ssid, lo, hi, need, FAULT_CLASS.IN << EVENT_BIT.CLASS, 0, 0);
    return TRANSLATION.abort;
  }

  #record(
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
    this.last = type;
    const record = this.#events.begin(type, sid, ssid);
    record[3] = accessBits(need) | bits;
    record[4] = lo;
    record[5] = hi;
    record[6] = extraLo;
    record[7] = extraHi;
    this.#events.commit();
  }

  /** C_* and fetch events: always recorded, but C_BAD_STREAMID only with RECINVSID; always an abort. */
  configuration(type: number, sid: number, ssid: number): number {
    this.last = type;
    const fetcher = this.#fetcher;
    if (type === EVENTS.C_BAD_STREAMID.type && !fetcher.recordsBadStreams) return TRANSLATION.abort;
    const record = this.#events.begin(type, sid, ssid);
    // Its SubstreamID is always valid: there is no SSV (7.3.9).
    if (type === EVENTS.C_BAD_SUBSTREAMID.type) record[0]! &= ~SSV;
    if (type === EVENTS.F_STE_FETCH.type || type === EVENTS.F_CD_FETCH.type) {
      record[6] = fetcher.faultLo & ~7;
      record[7] = fetcher.faultHi;
    }
    this.#events.commit();
    return TRANSLATION.abort;
  }
}
