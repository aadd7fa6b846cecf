import { ACCESS, TRANSLATION } from "@smmuv3/platform";
import { EVENTS, maskOf, OFFSET, REG, STE, STE_CONFIG, STE_EATS } from "@smmuv3/smmu-v3-defs";
import { FAULT_CLASS, WALK } from "@smmuv3/vmsa-walk";
import type { AtsRecords } from "./ats-records.ts";
import type { AtsStream } from "./ats-stream.ts";
import { accessBits, NEED, overrideIndex } from "./attributes.ts";
import { EVENT_BIT } from "./events.ts";
import { EVENT_OF_STATUS } from "./faults.ts";
import { CLEAN } from "./fill.ts";
import type { Features } from "./presets.ts";
import type { RegisterFile } from "./registers.ts";

const SMMUEN = maskOf(REG.CR0ACK.SMMUEN);
const ATSCHK = maskOf(REG.CR0ACK.ATSCHK);
const IN = FAULT_CLASS.IN << EVENT_BIT.CLASS;

/** ATS Translated transactions, IHI 0070 3.9.1.3. */
export class TranslatedAccesses {
  /** Output address of the last transaction that passed. */
  paLo = 0;
  paHi = 0;

  readonly #file: RegisterFile;
  readonly #features: Features;
  readonly #stream: AtsStream;
  readonly #records: AtsRecords;

  constructor(file: RegisterFile, features: Features, stream: AtsStream, records: AtsRecords) {
    this.#file = file;
    this.#features = features;
    this.#stream = stream;
    this.#records = records;
  }

  /** See `AtsPort.translatedAccess`. */
  present(sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    const stream = this.#stream;
    const cr0 = this.#file.get(OFFSET.CR0ACK);
    stream.found = false;
    if ((cr0 & SMMUEN) === 0) return this.#forbidden(sid, lo, hi, flags);
    if ((cr0 & ATSCHK) === 0) return this.#pass(lo, hi);
    // Without PASIDTT, or without a PASID, it is unprivileged data without a substream.
    const tagged = this.#features.pasidtt && (flags & ACCESS.ssidValid) !== 0;
    const pasid = tagged ? ssid : -1;
    let failed = stream.fetchSte(sid);
    if (failed !== 0) return this.#refuse(failed, sid, pasid);
    if (stream.config < STE_CONFIG.bypass) return TRANSLATION.abort;
    if (stream.eats === STE_EATS.abort) return this.#forbidden(sid, lo, hi, flags);
    // Where PASIDs are not conveyed, a transaction without one says nothing about the substream it belongs to.
    if (this.#features.pasidtt) failed = stream.checkSubstream(pasid);
    if (failed !== 0) return this.#refuse(failed, sid, pasid);
    if (stream.eats === STE_EATS.full) return this.#pass(lo, hi);
    return this.#stage2(sid, pasid, lo, hi, tagged ? flags : flags & ACCESS.write);
  }

  /** Address bits above OAS: the behaviour chosen is an abort without a record (3.9.1.1). */
  #pass(lo: number, hi: number): number {
    if ((hi & ~((1 << (this.#features.oasBits - 32)) - 1)) !== 0) return TRANSLATION.abort;
    this.paLo = lo;
    this.paHi = hi;
    return TRANSLATION.ok;
  }

  #forbidden(sid: number, lo: number, hi: number, flags: number): number {
    this.#records.forbidden(sid, lo, hi, flags);
    return TRANSLATION.abort;
  }

  /** A configuration error. CR2.RECINVSID has no say here (3.9.1.3). */
  #refuse(type: number, sid: number, ssid: number): number {
    this.#records.configuration(type, sid, ssid);
    return TRANSLATION.abort;
  }

  /** Split-stage ATS: the address is an IPA. Faults are recorded as those of an ordinary transaction (13.6.3). */
  #stage2(sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    const stream = this.#stream;
    const records = this.#records;
    const need = NEED[overrideIndex(stream.privcfg, stream.instcfg) | (flags & 7)]!;
    const bits = accessBits(need) | IN;
    if (stream.beyondInput(hi)) {
      records.fault(EVENTS.F_ADDR_SIZE.type, sid, ssid, lo, hi, bits, 0, 0);
      return TRANSLATION.abort;
    }
    stream.prepareStage2();
    let status = stream.lookup(lo, hi);
    if (status === WALK.OK) {
      const dirties = (stream.clean & CLEAN.S2) !== 0 && (flags & ACCESS.write) !== 0;
      status = (stream.perm2 & need) === 0 && !dirties ? WALK.PERMISSION : stream.settle(lo, hi, need);
    }
    if (status === WALK.OK) return this.#pass(stream.paLo, stream.paHi);
    const type = EVENT_OF_STATUS[status]!;
    if (status === WALK.EXTERNAL_ABORT) {
      const { descPaLo, descPaHi } = stream.stage2;
      records.fault(type, sid, ssid, lo, hi, bits | EVENT_BIT.S2, descPaLo & ~7, descPaHi);
    } else if (stream.flag(STE.S2R)) {
      records.fault(type, sid, ssid, lo, hi, bits | EVENT_BIT.S2, lo & ~0xfff, hi);
    }
    return TRANSLATION.abort;
  }
}
