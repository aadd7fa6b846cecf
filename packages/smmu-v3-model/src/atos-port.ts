import { ACCESS, hi32, lo32 } from "@smmuv3/platform";
import { EVENT_NAMES, extract, maskOf, OFFSET, PAGE_REGISTERS, REG, S_OFFSET, S_REG } from "@smmuv3/smmu-v3-defs";
import { ATOS_FAULT, ATOS_REASON, ATOS_TYPE } from "./atos.ts";
import type { AtosUnit } from "./atos.ts";
import type { RegisterLayout } from "./layout.ts";
import type { Features } from "./presets.ts";
import type { RegisterFile } from "./registers.ts";

const RUN = maskOf(REG.GATOS_CTRL.RUN);
const SMMUEN = maskOf(REG.CR0.SMMUEN);
const { GATOS_PAR } = REG;

/** A request to translate an address. */
export interface AtosQuery {
  readonly sid: number;
  /** Left out: without a SubstreamID. */
  readonly ssid?: number;
  /** VA, or the IPA for `stage: "2"`; exact below 2^53. */
  readonly address: number;
  /** Stages to translate; default: both where the SMMU has both, else the one that it has. */
  readonly stage?: "1" | "2" | "1+2";
  /** Of ACCESS: write, privileged, instruction. Default: a data read, unprivileged. */
  readonly flags?: number;
  /** Sets access flags and marks pages dirty as the access would (HTTUI = 0). Default: nothing changes. */
  readonly update?: boolean;
}

/** The PAR register of an ATOS request, decoded (6.3.40). */
export type AtosResult =
  | {
      readonly fault: false;
      /** Output address of the start of the page or block, in bytes. */
      readonly address: number;
      /** Bytes that map to one place. */
      readonly size: number;
      /** Memory attributes in MAIR form, and the shareability as in a descriptor. */
      readonly mair: number;
      readonly shareability: number;
    }
  | {
      readonly fault: true;
      /** Name of the event, or INV_REQ, INV_STAGE, INTERNAL_ERR. */
      readonly code: string;
      /** What stage 2 failed on; `none` for stage 1 and everything else. */
      readonly reason: "none" | "CD" | "TT" | "IN";
      /** The page that stage 2 failed on, 0 where that is not told. */
      readonly ipa: number;
    };

const FAULT_NAMES: ReadonlyMap<number, string> = new Map(Object.entries(ATOS_FAULT).map(([name, code]) => [code, name]));
const REASONS: readonly (keyof typeof ATOS_REASON)[] = ["none", "CD", "TT", "IN"];
const TYPES: Readonly<Record<NonNullable<AtosQuery["stage"]>, number>> = {
  "1": ATOS_TYPE.stage1,
  "2": ATOS_TYPE.stage2,
  "1+2": ATOS_TYPE.both,
};

/** Decodes a PAR register. */
export function decodePar(lo: number, hi: number): AtosResult {
  if ((lo & maskOf(GATOS_PAR.FAULT)) !== 0) {
    const code = extract(lo, GATOS_PAR.FAULTCODE);
    return {
      fault: true,
      code: FAULT_NAMES.get(code) ?? EVENT_NAMES.get(code) ?? `0x${code.toString(16)}`,
      reason: REASONS[extract(lo, GATOS_PAR.REASON)]!,
      ipa: (hi & GATOS_PAR.FADDR.hiMask) * 2 ** 32 + ((lo & GATOS_PAR.FADDR.loMask) >>> 0),
    };
  }
  const low = (lo & GATOS_PAR.ADDR.loMask) >>> 0;
  const high = hi & GATOS_PAR.ADDR.hiMask;
  let size = 4096;
  let address = high * 2 ** 32 + low;
  if (extract(lo, GATOS_PAR.Size) === 1) {
    // The lowest bit that is set stands for half of the size.
    const half = low === 0 ? 2 ** (63 - Math.clz32(high & -high)) : 2 ** (31 - Math.clz32(low & -low));
    size = half * 2;
    address -= half;
  }
  return { fault: false, address, size, mair: extract(hi, GATOS_PAR.ATTR), shareability: extract(lo, GATOS_PAR.SH) };
}

/** The register interfaces of ATOS: GATOS, VATOS, and S_GATOS for Non-secure streams. */
export class AtosPort {
  readonly #file: RegisterFile;
  readonly #features: Features;
  readonly #unit: AtosUnit;
  /** VATOS_CTRL, -1 without a VATOS page. */
  readonly vatosCtrl: number;

  constructor(file: RegisterFile, features: Features, layout: RegisterLayout, unit: AtosUnit) {
    this.#file = file;
    this.#features = features;
    this.#unit = unit;
    this.vatosCtrl = layout.vatos < 0 ? -1 : layout.vatos + PAGE_REGISTERS.VATOS_CTRL.offset;
  }

  /** The offset is that of a register whose write may start a request. */
  starts(offset: number): boolean {
    return offset === OFFSET.GATOS_CTRL || offset === S_OFFSET.S_GATOS_CTRL || (offset === this.vatosCtrl && offset >= 0);
  }

  /** Performs what has been requested. */
  step(): void {
    if (this.#requested(OFFSET.GATOS_CTRL)) this.#unit.runRegisters(OFFSET.GATOS_CTRL, -1);
    if (this.vatosCtrl >= 0 && this.#requested(this.vatosCtrl)) {
      this.#unit.runRegisters(this.vatosCtrl, extract(this.#file.get(OFFSET.VATOS_SEL), REG.VATOS_SEL.VMID));
    }
    if (this.#requested(S_OFFSET.S_GATOS_CTRL)) this.#runSecure();
  }

  /** SMMUEN is being cleared: what is under way ends (6.3.37). */
  cancel(): void {
    this.#unit.cancel(OFFSET.GATOS_CTRL);
    if (this.vatosCtrl >= 0) this.#unit.cancel(this.vatosCtrl);
  }

  /** Runs a request without the registers. */
  answer(query: AtosQuery): AtosResult {
    const { s1p, s2p } = this.#features;
    const both = s1p && s2p ? ATOS_TYPE.both : s1p ? ATOS_TYPE.stage1 : ATOS_TYPE.stage2;
    const flags = query.flags ?? ACCESS.read;
    this.#unit.run({
      type: query.stage === undefined ? both : TYPES[query.stage],
      sid: query.sid,
      ssid: query.ssid ?? -1,
      lo: lo32(query.address),
      hi: hi32(query.address),
      flags,
      inhibit: query.update !== true,
      vmid: -1,
    });
    return decodePar(this.#unit.parLo, this.#unit.parHi);
  }

  #requested(ctrl: number): boolean {
    return (this.#file.get(ctrl) & RUN) !== 0;
  }

  /** Only Non-secure streams exist here; their look-up needs the Non-secure SMMUEN too (chapter 9). */
  #runSecure(): void {
    const file = this.#file;
    const secure = extract(file.high(S_OFFSET.S_GATOS_SID), S_REG.S_GATOS_SID.SSEC) === 1;
    if (secure || (file.get(OFFSET.CR0ACK) & SMMUEN) === 0) this.#unit.cancel(S_OFFSET.S_GATOS_CTRL);
    else this.#unit.runRegisters(S_OFFSET.S_GATOS_CTRL, -1);
  }
}
