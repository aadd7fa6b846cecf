import { ACCESS } from "@smmuv3/platform";
import { EVENT, EVENTS, maskOf, OFFSET, REG, STE } from "@smmuv3/smmu-v3-defs";
import type { AtsStream } from "./ats-stream.ts";
import { EVENT_BIT } from "./events.ts";
import type { EventQueue } from "./events.ts";
import type { RegisterFile } from "./registers.ts";

const RECINVSID = maskOf(REG.CR2.RECINVSID);
const REC_CFG_ATS = maskOf(REG.CR2.REC_CFG_ATS);

/** Records with FetchAddr. */
const FETCHES: ReadonlySet<number> = new Set([EVENTS.F_STE_FETCH.type, EVENTS.F_CD_FETCH.type, EVENTS.F_VMS_FETCH.type]);

/** Event records of ATS and PRI (IHI 0070 3.9.1.2, 3.9.1.3, 8.1). */
export class AtsRecords {
  readonly #file: RegisterFile;
  readonly #events: EventQueue;
  readonly #stream: AtsStream;

  constructor(file: RegisterFile, events: EventQueue, stream: AtsStream) {
    this.#file = file;
    this.#events = events;
    this.#stream = stream;
  }

  /** CR2.REC_CFG_ATS. */
  get configurationErrors(): boolean {
    return (this.#file.get(OFFSET.CR2) & REC_CFG_ATS) !== 0;
  }

  /** CR2.RECINVSID, without which Translation Requests and page requests do not record C_BAD_STREAMID. */
  get badStreams(): boolean {
    return (this.#file.get(OFFSET.CR2) & RECINVSID) !== 0;
  }

  /** A configuration error that {@link AtsStream} reported, where CR2.REC_CFG_ATS asks for it. */
  configuration(type: number, sid: number, ssid: number): void {
    if (!this.configurationErrors) return;
    const record = this.begin(type, sid, type === EVENTS.F_STREAM_DISABLED.type ? -1 : ssid);
    // Its SubstreamID is always valid: there is no SSV (7.3.9).
    if (type === EVENTS.C_BAD_SUBSTREAMID.type) record[0]! &= ~maskOf(EVENT.SSV);
    if (FETCHES.has(type)) {
      record[6] = this.#stream.fetcher.faultLo & ~7;
      record[7] = this.#stream.fetcher.faultHi;
    }
    this.#events.commit();
  }

  /** F_TRANSL_FORBIDDEN (7.3.8). */
  forbidden(sid: number, lo: number, hi: number, flags: number): void {
    const record = this.begin(EVENTS.F_TRANSL_FORBIDDEN.type, sid, -1);
    record[3] = (flags & ACCESS.write) === 0 ? EVENT_BIT.RnW : 0;
    record[4] = lo;
    record[5] = hi;
    this.#events.commit();
  }

  /** F_BAD_ATS_TREQ; `request` is its word 2 (7.3.6). */
  badRequest(sid: number, ssid: number, lo: number, hi: number, request: number): void {
    const record = this.begin(EVENTS.F_BAD_ATS_TREQ.type, sid, ssid);
    record[2] = request;
    record[4] = lo;
    record[5] = hi;
    this.#events.commit();
  }

  /** A fault of the translation; `bits` is word 3, `extra` the IPA or the address of the descriptor. */
  fault(
    type: number,
    sid: number,
    ssid: number,
    lo: number,
    hi: number,
    bits: number,
    extraLo: number,
    extraHi: number,
  ): void {
    const record = this.begin(type, sid, ssid);
    record[3] = bits;
    record[4] = lo;
    record[5] = hi;
    record[6] = extraLo;
    record[7] = extraHi;
    this.#events.commit();
  }

  /** What comes before an STE may be merged in any case; then STE.MEV decides (7.3.1). */
  begin(type: number, sid: number, ssid: number): Int32Array {
    this.#events.mev = this.#stream.found && this.#stream.flag(STE.MEV);
    return this.#events.begin(type, sid, ssid);
  }
}
