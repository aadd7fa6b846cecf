import { ACCESS } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";
import { CD, EVENTS, extract, getField, maskOf, OFFSET, place, REG, STE, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import { attributesOf, combineAttributes, FAULT_CLASS, PERM, SH, WALK } from "@smmuv3/vmsa-walk";
import { AtsStream, STAGE_BIT } from "./ats-stream.ts";
import type { AtsCaches } from "./ats-stream.ts";
import { NEED } from "./attributes.ts";
import { STAGE2_FAULT } from "./config.ts";
import { EVENT_OF_STATUS } from "./faults.ts";
import type { SmmuPolicy } from "./policy.ts";
import type { Features } from "./presets.ts";
import { streamKind } from "./regime.ts";
import type { RegisterFile } from "./registers.ts";
import { KIND } from "./tlb.ts";

const { GATOS_SID, GATOS_ADDR, GATOS_PAR } = REG;

/** ATOS_ADDR.TYPE (9.1.3). */
export const ATOS_TYPE = { stage1: 1, stage2: 2, both: 3 } as const;
/** ATOS_PAR.FAULTCODE beyond the types of events (9.1.5). */
export const ATOS_FAULT = { INV_REQ: 0xff, INV_STAGE: 0xfe, INTERNAL_ERR: 0xfd } as const;
/** ATOS_PAR.REASON: stage 1 or none, else what stage 2 failed on. */
export const ATOS_REASON = { none: 0, CD: 1, TT: 2, IN: 3 } as const;

/** REASON by FAULT_CLASS. */
const REASON_OF_CLASS: readonly number[] = [ATOS_REASON.CD, ATOS_REASON.TT, ATOS_REASON.IN];

/** MAIR byte of Write-Back memory: what a bypassed stage 1 shows, and has stage 2 show its own attributes (6.3.40, 9.1.3). */
const WRITE_BACK = 0xff;

const PRIVILEGED = PERM.PRIV_READ | PERM.PRIV_WRITE | PERM.PRIV_EXECUTE;

/** What a request asks. */
export interface AtosRequest {
  /** Of {@link ATOS_TYPE}. */
  readonly type: number;
  readonly sid: number;
  /** -1 without a SubstreamID. */
  readonly ssid: number;
  readonly lo: number;
  readonly hi: number;
  /** Of ACCESS: write, privileged, instruction. */
  readonly flags: number;
  /** HTTUI: nothing in the tables changes. */
  readonly inhibit: boolean;
  /** VATOS_SEL.VMID for a request of the VATOS interface, else -1. */
  readonly vmid: number;
}

/**
 * Address translation operations, IHI 0070 chapter 9: the steps of an ordinary transaction, but STE overrides do not apply,
 * nothing is recorded and nothing stalls. The result is the PAR register, in {@link parLo} and {@link parHi}.
 */
export class AtosUnit {
  parLo = 0;
  parHi = 0;

  readonly #file: RegisterFile;
  readonly #features: Features;
  readonly #caches: AtsCaches;
  readonly #stream: AtsStream;
  /** A request with HTTUI = 1 sets access flags. */
  readonly #marks: boolean;

  constructor(file: RegisterFile, features: Features, policy: SmmuPolicy, memory: Memory, caches: AtsCaches) {
    this.#marks = policy.atosHttu === "accessFlag";
    this.#file = file;
    this.#features = features;
    this.#caches = caches;
    this.#stream = new AtsStream(file, features, memory, caches, policy);
  }

  /** Runs the request in the registers at `ctrl` (GATOS_CTRL or VATOS_CTRL), and clears its RUN. */
  runRegisters(ctrl: number, vmid: number): void {
    const file = this.#file;
    const sid = ctrl + (OFFSET.GATOS_SID - OFFSET.GATOS_CTRL);
    const address = ctrl + (OFFSET.GATOS_ADDR - OFFSET.GATOS_CTRL);
    const sidHi = file.high(sid);
    const word = file.get(address);
    const write = extract(word, GATOS_ADDR.RnW) === 0;
    this.run({
      type: extract(word, GATOS_ADDR.TYPE),
      sid: file.get(sid) >>> 0,
      ssid: extract(sidHi, GATOS_SID.SSID_VALID) === 1 ? extract(sidHi, GATOS_SID.SUBSTREAMID) : -1,
      lo: word & GATOS_ADDR.ADDR.loMask,
      hi: file.high(address),
      flags:
        (write ? ACCESS.write : 0) |
        (extract(word, GATOS_ADDR.PnU) === 1 ? ACCESS.privileged : 0) |
        (!write && extract(word, GATOS_ADDR.InD) === 1 ? ACCESS.instruction : 0),
      inhibit: extract(word, GATOS_ADDR.HTTUI) === 1,
      vmid,
    });
    this.#finish(ctrl);
  }

  /** Ends a request that is under way with INTERNAL_ERR: SMMUEN is being cleared (6.3.37). */
  cancel(ctrl: number): void {
    if ((this.#file.get(ctrl) & maskOf(REG.GATOS_CTRL.RUN)) === 0) return;
    this.#fault(ATOS_FAULT.INTERNAL_ERR, ATOS_REASON.none, 0, 0);
    this.#finish(ctrl);
  }

  #finish(ctrl: number): void {
    const par = ctrl + (OFFSET.GATOS_PAR - OFFSET.GATOS_CTRL);
    this.#file.set(par, this.parLo);
    this.#file.set(par + 4, this.parHi);
    this.#file.set(ctrl, 0);
  }

  /** Leaves the result in {@link parLo} and {@link parHi}. */
  run(request: AtosRequest): void {
    // Both walkers have the one switch.
    this.#stream.stage2.inhibitUpdates = request.inhibit;
    const refused = this.#configure(request);
    if (refused !== 0) this.#fault(refused, ATOS_REASON.none, 0, 0);
    else this.#translate(request);
  }

  /** Everything before the substream, in the order of 9.1.5. Returns FAULTCODE or 0. */
  #configure({ type, sid, ssid, vmid }: AtosRequest): number {
    const features = this.#features;
    const stream = this.#stream;
    const wants1 = (type & ATOS_TYPE.stage1) !== 0;
    const wants2 = (type & ATOS_TYPE.stage2) !== 0;
    if (type === 0 || (wants1 && !features.s1p) || (wants2 && !features.s2p)) return ATOS_FAULT.INV_REQ;
    if (!wants1 && ssid >= 0) return ATOS_FAULT.INV_REQ;
    if (vmid >= 0 && wants2) return ATOS_FAULT.INV_REQ;
    const failed = stream.fetchSte(sid);
    if (failed !== 0) return failed;
    const { config } = stream;
    if (vmid >= 0 && this.#vmid() !== vmid) return EVENTS.C_BAD_STE.type;
    if (config <= STE_CONFIG.bypass) return ATOS_FAULT.INV_STAGE;
    const has1 = (config & 1) !== 0;
    const has2 = (config & 2) !== 0;
    return (wants1 && !has1) || (wants2 && !has2) ? ATOS_FAULT.INV_STAGE : 0;
  }

  /** VMID that tags the translations of the STE found, -1 where none does (5.2, S2VMID). */
  #vmid(): number {
    const { config, fetcher } = this.#stream;
    const words = this.#caches.stes.data;
    if (config <= STE_CONFIG.bypass || !this.#features.s2p) return -1;
    if ((config & 1) !== 0 && streamKind(words, fetcher.at, this.#features) === KIND.EL2) return -1;
    return getField(words, fetcher.at, STE.S2VMID) & this.#features.vmidMask;
  }

  #translate(request: AtosRequest): void {
    const { type, sid, ssid, lo, hi } = request;
    const stream = this.#stream;
    const need = NEED[request.flags & 7]!;
    if (type === ATOS_TYPE.stage2) {
      // The substream, and with it S1DSS, is a matter of stage 1.
      stream.prepareStage2();
      this.#stage2(lo, hi, need, type);
      return;
    }
    const failed = stream.checkSubstream(ssid);
    if (failed !== 0) {
      this.#fault(failed, ATOS_REASON.none, 0, 0);
      return;
    }
    const status = stream.prepare(sid);
    if (status === STAGE2_FAULT) {
      const { fetcher } = stream;
      this.#stage2Fault(fetcher.walkStatus, FAULT_CLASS.CD, fetcher.ipaLo, fetcher.ipaHi, type);
    } else if (status !== 0) {
      this.#fault(status, ATOS_REASON.none, 0, 0);
    } else if ((stream.stages & STAGE_BIT.S1) !== 0) {
      this.#stage1(lo, hi, need, type);
    } else if (stream.beyondInput(hi)) {
      this.#fault(EVENTS.F_ADDR_SIZE.type, ATOS_REASON.none, 0, 0);
    } else if (type === ATOS_TYPE.stage1) {
      this.#success(lo, hi, 12, attributesOf(WRITE_BACK, SH.ISH));
    } else {
      this.#stage2(lo, hi, need, type);
    }
  }

  #stage1(lo: number, hi: number, need: number, type: number): void {
    const { stage1, stage2, fetcher, stages } = this.#stream;
    const nested = (stages & STAGE_BIT.S2) !== 0;
    const { inhibitUpdates } = stage2;
    // The page that stage 1 leads to is not marked dirty where stage 2 of it was not asked for (chapter 9): flags are set by a
    // walk that reads, and what the access would meet is found without an update.
    const apart = nested && type === ATOS_TYPE.stage1 && !inhibitUpdates;
    const marks = !nested && inhibitUpdates && this.#marks;
    if (apart) stage1.walk(lo, hi, reading(need));
    stage2.inhibitUpdates = inhibitUpdates || apart;
    const status = stage1.walk(lo, hi, need);
    const onOutput = stage1.stage === 2 && stage1.faultClass === FAULT_CLASS.IN;
    if (status !== WALK.OK && !(onOutput && type === ATOS_TYPE.stage1)) {
      if (stage1.stage === 2) this.#stage2Fault(status, stage1.faultClass, stage1.ipaLo, stage1.ipaHi, type);
      else this.#fault(EVENT_OF_STATUS[status]!, ATOS_REASON.none, 0, 0);
      return;
    }
    const index = stage1.attrIndex;
    const mair = index < 4 ? CD.MAIR0 : CD.MAIR1;
    const attribute = (getField(this.#caches.cds.data, fetcher.at, mair) >>> ((index & 3) * 8)) & 0xff;
    const sh = stage1.shareability;
    if (type === ATOS_TYPE.stage1) {
      this.#success(stage1.ipaLo, stage1.ipaHi, stage1.shift, attributesOf(attribute, sh));
    } else {
      const combined = combineAttributes(attribute, sh, stage2.memAttr, stage2.shareability, stage2.fwb);
      this.#success(stage1.paLo, stage1.paHi, Math.min(stage1.shift, stage2.shift), combined);
    }
    if (marks) {
      stage2.inhibitUpdates = false;
      stage1.walk(lo, hi, reading(need));
    }
  }

  #stage2(lo: number, hi: number, need: number, type: number): void {
    const { stage2 } = this.#stream;
    if (this.#stream.beyondInput(hi)) {
      this.#fault(EVENTS.F_ADDR_SIZE.type, ATOS_REASON.none, 0, 0);
      return;
    }
    const status = stage2.walk(lo, hi, need);
    if (status !== WALK.OK) {
      this.#stage2Fault(status, FAULT_CLASS.IN, lo, hi, type);
      return;
    }
    const attributes = combineAttributes(WRITE_BACK, SH.NSH, stage2.memAttr, stage2.shareability, stage2.fwb);
    this.#success(stage2.paLo, stage2.paHi, stage2.shift, attributes);
    if (!stage2.inhibitUpdates || !this.#marks) return;
    stage2.inhibitUpdates = false;
    stage2.walk(lo, hi, reading(need));
  }

  /** A fault of stage 2 as the request sees it (table of 9.1.4). */
  #stage2Fault(status: number, faultClass: number, ipaLo: number, ipaHi: number, type: number): void {
    const code = EVENT_OF_STATUS[status]!;
    if (type === ATOS_TYPE.stage1) {
      // Stage 2 does not exist for whoever asks: its faults are aborts of the fetch.
      const fetch = faultClass === FAULT_CLASS.CD ? EVENTS.F_CD_FETCH : EVENTS.F_WALK_EABT;
      this.#fault(fetch.type, ATOS_REASON.none, 0, 0);
      return;
    }
    const shown = type === ATOS_TYPE.both && status !== WALK.EXTERNAL_ABORT;
    this.#fault(code, REASON_OF_CLASS[faultClass]!, shown ? ipaLo : 0, shown ? ipaHi : 0);
  }

  #fault(code: number, reason: number, ipaLo: number, ipaHi: number): void {
    this.parLo =
      place(GATOS_PAR.FAULT, 1) |
      place(GATOS_PAR.REASON, reason) |
      place(GATOS_PAR.FAULTCODE, code) |
      (ipaLo & GATOS_PAR.FADDR.loMask);
    this.parHi = ipaHi & GATOS_PAR.FADDR.hiMask;
  }

  /** `attributes` are a MAIR byte and SH << 8. The size of a block shows as the lowest bit that is set in its address (6.3.40). */
  #success(lo: number, hi: number, shift: number, attributes: number): void {
    const low = lo & GATOS_PAR.ADDR.loMask;
    const high = hi & GATOS_PAR.ADDR.hiMask;
    const bit = shift - 1;
    if (shift > 12) {
      this.parLo = (bit < 31 ? low & -(1 << shift) : 0) | (bit < 32 ? 1 << bit : 0) | place(GATOS_PAR.Size, 1);
      this.parHi = bit < 32 ? high : (high & -(1 << (shift - 32))) | (1 << (bit - 32));
    } else {
      this.parLo = low;
      this.parHi = high;
    }
    this.parLo |= place(GATOS_PAR.SH, attributes >>> 8);
    this.parHi |= place(GATOS_PAR.ATTR, attributes);
  }
}

/** The right to read of the privilege of `need`: such an access sets access flags, and marks nothing dirty. */
function reading(need: number): number {
  return (need & PRIVILEGED) !== 0 ? PERM.PRIV_READ : PERM.READ;
}
