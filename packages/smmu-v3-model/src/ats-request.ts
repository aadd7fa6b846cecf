import { hi32, join, lo32 } from "@smmuv3/platform";
import { EVENT, EVENTS, place, STE_CONFIG, STE_EATS, STE_INSTCFG, STE_PRIVCFG } from "@smmuv3/smmu-v3-defs";
import { FAULT_CLASS, PERM, WALK } from "@smmuv3/vmsa-walk";
import type { TranslationCompletion, TranslationEntry, TranslationRequest } from "./ats.ts";
import type { AtsRecords } from "./ats-records.ts";
import { STAGE_BIT } from "./ats-stream.ts";
import type { AtsStream } from "./ats-stream.ts";
import { STAGE2_FAULT } from "./config.ts";
import { EVENT_BIT } from "./events.ts";

const UR: TranslationCompletion = { status: "UR", translations: [] };
const CA: TranslationCompletion = { status: "CA", translations: [] };

/** Answers to ATS Translation Requests, IHI 0070 3.9.1.2, 13.6 and 13.7. */
export class TranslationRequests {
  readonly #stream: AtsStream;
  readonly #records: AtsRecords;
  readonly #stu: number;

  constructor(stream: AtsStream, records: AtsRecords, stu: number) {
    this.#stream = stream;
    this.#records = records;
    this.#stu = stu;
  }

  /** @param enabled CR0.SMMUEN is in effect */
  answer(request: TranslationRequest, enabled: boolean): TranslationCompletion {
    const { sid, ssid = -1, address, count = 1 } = request;
    if (!Number.isInteger(count) || count < 1 || count > 32) {
      throw new RangeError(`translationRequest: count must be an integer from 1 to 32, got ${count}`);
    }
    const stream = this.#stream;
    stream.found = false;
    if (!enabled) return this.#bad(request);
    let failed = stream.fetchSte(sid);
    if (failed !== 0) return this.#configuration(failed, sid, ssid);
    if (stream.config < STE_CONFIG.bypass) return UR;
    if (stream.eats === STE_EATS.abort) return this.#bad(request);
    failed = stream.checkSubstream(ssid);
    if (failed === 0) failed = stream.prepare(sid);
    if (failed === STAGE2_FAULT) {
      if (stream.fetcher.walkStatus !== WALK.EXTERNAL_ABORT) return this.#denied(request);
      return this.#walkAbort(request, FAULT_CLASS.CD);
    }
    if (failed !== 0) return this.#configuration(failed, sid, ssid);
    return this.#translate(request, join(lo32(address) & ~0xfff, hi32(address)), count);
  }

  /**
   * One entry per Smallest Translation Unit or larger area, all of one size; fewer than were asked for where the next one is
   * smaller than the first, which the protocol permits.
   */
  #translate(request: TranslationRequest, base: number, count: number): TranslationCompletion {
    const stu = 2 ** this.#stu;
    const translations: TranslationEntry[] = [];
    let size = stu;
    for (let at = base - (base % stu); at < base + count * stu && translations.length < count; at += size) {
      const status = this.#lookup(request, lo32(at), hi32(at));
      if (status === WALK.EXTERNAL_ABORT) {
        if (translations.length > 0) break;
        return this.#walkAbort(request, this.#abortClass());
      }
      const entry = status === WALK.OK ? this.#entry(request, at) : undefined;
      if (translations.length === 0) {
        if (entry !== undefined) size = entry.size;
        translations.push(entry ?? this.#hole(request));
        // What maps a large area counts from its start.
        at -= at % size;
      } else if (entry !== undefined && entry.size >= size) {
        translations.push({ ...entry, address: this.#output(at), size });
      } else if (entry === undefined && size === stu) {
        translations.push(this.#hole(request));
      } else {
        break;
      }
    }
    return { status: "success", translations };
  }

  /** Translates one address. Returns one of WALK. */
  #lookup(request: TranslationRequest, lo: number, hi: number): number {
    const stream = this.#stream;
    if ((stream.stages & STAGE_BIT.S1) === 0 && stream.beyondInput(hi)) return WALK.ADDRESS_SIZE;
    if (stream.stages !== 0) {
      const status = stream.lookup(lo, hi);
      if (status === WALK.OK) return this.#settle(request, lo, hi);
      // Stage 2 is not asked about an output to which stage 1 grants no access (3.9.1.2).
      return stream.failedOnOutput && !this.#grants(request, stream.perm) ? WALK.PERMISSION : status;
    }
    // A skipped stage 1 without a stage 2 is the identity (13.6.4).
    stream.shift = this.#stu;
    stream.perm = PERM.READ | PERM.WRITE | PERM.PRIV_READ | PERM.PRIV_WRITE;
    stream.perm2 = PERM.ALL;
    stream.clean = 0;
    stream.paLo = lo;
    stream.paHi = hi;
    return WALK.OK;
  }

  /** Flags of the tables: accessed if anything is granted, dirty if the device means to write (13.7, 3.13.7). */
  #settle(request: TranslationRequest, lo: number, hi: number): number {
    const stream = this.#stream;
    const perm = stream.perm & stream.perm2;
    const read = stream.instcfg === STE_INSTCFG.instruction ? PERM.EXECUTE : PERM.READ;
    const level = this.#privileged(request) ? 3 : 0;
    const granted = ((perm >>> level) & (read | PERM.WRITE)) << level;
    if (stream.clean !== 0 && request.noWrite !== true) {
      const status = stream.settle(lo, hi, granted | (PERM.WRITE << level));
      if (status === WALK.OK) return status;
    }
    return granted === 0 ? WALK.OK : stream.settle(lo, hi, granted);
  }

  /** The privilege in effect (13.7.1). */
  #privileged(request: TranslationRequest): boolean {
    const { privcfg } = this.#stream;
    if (privcfg >= STE_PRIVCFG.unprivileged) return privcfg === STE_PRIVCFG.privileged;
    return request.ssid !== undefined && request.privileged === true;
  }

  /** The translated address of `at` by the last look-up: with split-stage ATS, the output of stage 1 (13.6.3, 13.6.5). */
  #output(at: number): number {
    const stream = this.#stream;
    if (stream.eats !== STE_EATS.s1chk) return join(stream.paLo, stream.paHi);
    return (stream.stages & STAGE_BIT.S1) === 0 ? at : join(stream.ipaLo, stream.ipaHi);
  }

  /** Bits READ, WRITE and EXECUTE of `perm` at the privilege in effect. */
  #rights(request: TranslationRequest, perm: number): number {
    return (this.#privileged(request) ? perm >>> 3 : perm) & (PERM.READ | PERM.WRITE | PERM.EXECUTE);
  }

  /** The completion's R, or W: with INSTCFG = Instruction, what can be executed can be read (13.7.1). */
  #grants(request: TranslationRequest, perm: number): boolean {
    const read = this.#stream.instcfg === STE_INSTCFG.instruction ? PERM.EXECUTE : PERM.READ;
    return (this.#rights(request, perm) & (read | PERM.WRITE)) !== 0;
  }

  /** The entry for the whole of what the last look-up found around `at`; undefined where nothing is granted (13.7.1). */
  #entry(request: TranslationRequest, at: number): TranslationEntry | undefined {
    const stream = this.#stream;
    const { instcfg } = stream;
    const perm = stream.perm & stream.perm2;
    if (!this.#grants(request, perm)) return undefined;
    const rights = this.#rights(request, perm);
    const executable = (rights & PERM.EXECUTE) !== 0;
    const R = instcfg === STE_INSTCFG.instruction ? executable : (rights & PERM.READ) !== 0;
    const requested = request.ssid !== undefined && request.execute === true;
    const size = Math.max(2 ** stream.shift, 2 ** this.#stu);
    const output = this.#output(at);
    return {
      ...this.#hole(request),
      address: output - (output % size),
      size,
      R,
      W: (rights & PERM.WRITE) !== 0,
      X: requested && R && (instcfg === STE_INSTCFG.data || executable),
    };
  }

  /** R == W == 0, of the size of the Smallest Translation Unit. Priv is as requested (13.7.1). */
  #hole(request: TranslationRequest): TranslationEntry {
    const Priv = request.ssid !== undefined && request.privileged === true;
    return { address: 0, size: 2 ** this.#stu, R: false, W: false, X: false, Priv, Global: false, U: false, N: false };
  }

  #denied(request: TranslationRequest): TranslationCompletion {
    return { status: "success", translations: [this.#hole(request)] };
  }

  /** Records F_BAD_ATS_TREQ: the permissions as requested, before overrides (7.3.6). */
  #bad(request: TranslationRequest): TranslationCompletion {
    const { sid, ssid = -1, address, count = 1 } = request;
    const tagged = ssid >= 0;
    const word =
      place(EVENT.AtsSpan, count & EVENT.AtsSpan.mask) |
      place(EVENT.AtsP, tagged && request.privileged === true ? 1 : 0) |
      place(EVENT.AtsX, tagged && request.execute === true ? 1 : 0) |
      place(EVENT.AtsW, request.noWrite === true ? 0 : 1) |
      place(EVENT.AtsR, 1);
    this.#records.badRequest(sid, ssid, lo32(address) & ~0xfff, hi32(address), word);
    return UR;
  }

  /** A configuration error; C_BAD_STREAMID needs RECINVSID to be recorded. */
  #configuration(type: number, sid: number, ssid: number): TranslationCompletion {
    if (type !== EVENTS.C_BAD_STREAMID.type || this.#records.badStreams) this.#records.configuration(type, sid, ssid);
    return CA;
  }

  /** CLASS of the descriptor that aborted where it was stage 2's, else -1. */
  #abortClass(): number {
    const stream = this.#stream;
    if ((stream.stages & STAGE_BIT.S1) === 0) return FAULT_CLASS.IN;
    return stream.stage1.stage === 2 ? stream.stage1.faultClass : -1;
  }

  /** F_WALK_EABT (7.3.12). RnW is UNKNOWN (3.9.1.2): a read. */
  #walkAbort(request: TranslationRequest, faultClass: number): TranslationCompletion {
    if (!this.#records.configurationErrors) return CA;
    const { sid, ssid = -1, address } = request;
    const walker = faultClass < 0 ? this.#stream.stage1 : this.#stream.stage2;
    const origin = faultClass < 0 ? FAULT_CLASS.TT << EVENT_BIT.CLASS : EVENT_BIT.S2 | (faultClass << EVENT_BIT.CLASS);
    const { type } = EVENTS.F_WALK_EABT;
    const lo = lo32(address) & ~0xfff;
    this.#records.fault(type, sid, ssid, lo, hi32(address), EVENT_BIT.RnW | origin, walker.descPaLo & ~7, walker.descPaHi);
    return CA;
  }
}
