// A second SMMU in BigInt, slow and independent of the model: it judges what the model does against recorded hardware (vectors/rules.ts),
// and lists tables of dumps that are too sparse for the flat memory of the model.
import { CD, EVENT, EVENT_CLASS, EVENT_WORDS, EVENTS, getField, printEvent, REG, setField, STE, STE_CONFIG, STE_INSTCFG, STE_PRIVCFG, STE_S1DSS } from "@smmuv3/smmu-v3-defs";
import type { EventName } from "@smmuv3/smmu-v3-defs";
import { hex, UnknownPage } from "./bus.ts";
import { cdViolation, fetchCd, fetchSte, foreignStage1, foreignStage2, isEnabled, stage1Of, stage2Of, stagesOf, steViolation } from "./config.ts";
import type { Machine, Refusal, StructureRead } from "./config.ts";
import { describeDescriptor } from "./describe.ts";
import { NO_QUIRKS } from "./quirks.ts";
import type { Quirks } from "./quirks.ts";
import { fieldOf } from "./registers.ts";
import { mask, RIGHT, walkStage1, walkStage2, walkTable } from "./tables.ts";
import type { Context, Fault, FaultStatus, Leaf, Stage2 } from "./tables.ts";

/** One access, which does not cross a page. */
export interface Access {
  readonly sid: number;
  /** SubstreamID; undefined for traffic without one. */
  readonly ssid: number | undefined;
  readonly iova: bigint;
  readonly write: boolean;
  readonly privileged: boolean;
  readonly instruction: boolean;
}

/** What an access does, and why. */
export interface Explanation {
  /**
   * `raz`: terminated, reads as zero. `unknown`: decided by a page that nobody has, or by tables of a form that is not read
   * here.
   */
  readonly outcome: "ok" | "abort" | "raz" | "unknown";
  readonly pa: bigint | undefined;
  /** The event, whether or not it is recorded. */
  readonly event: { readonly name: EventName; readonly recorded: boolean; readonly words: Int32Array; readonly text: string } | undefined;
  readonly reason: string;
  /** Every structure that was read, in order. */
  readonly reads: readonly StructureRead[];
  /**
   * Where `outcome` is ok and something translates: bits of the address that one leaf maps, the rights of each stage, and those
   * of the stage-1 leaf without the table descriptors above it.
   */
  readonly leaf: { readonly shift: number; readonly rights1: number; readonly rights2: number; readonly own: number | undefined } | undefined;
}

const EVENT_OF: Readonly<Record<FaultStatus, EventName>> = {
  translation: "F_TRANSLATION",
  addrSize: "F_ADDR_SIZE",
  access: "F_ACCESS",
  permission: "F_PERMISSION",
  eabt: "F_WALK_EABT",
};

const WORDS_OF: Readonly<Record<FaultStatus, string>> = {
  translation: "no valid translation",
  addrSize: "the output address is too large",
  access: "the access flag is 0",
  permission: "the access is not permitted",
  eabt: "a descriptor cannot be read",
};

/** The one right that an access needs (5.2 PRIVCFG, INSTCFG; writes are data). */
function neededRight(access: Access, ste: Int32Array, machine: Machine): number {
  const overrides = machine.features.attrPermsOvr;
  const privcfg = overrides ? getField(ste, 0, STE.PRIVCFG) : STE_PRIVCFG.incoming;
  const instcfg = overrides ? getField(ste, 0, STE.INSTCFG) : STE_INSTCFG.incoming;
  const privileged = privcfg === STE_PRIVCFG.privileged || (privcfg !== STE_PRIVCFG.unprivileged && access.privileged);
  const instruction = instcfg === STE_INSTCFG.instruction || (instcfg !== STE_INSTCFG.data && access.instruction);
  const right = access.write ? RIGHT.write : instruction ? RIGHT.execute : RIGHT.read;
  return privileged ? right << 3 : right;
}

/** Ends an explanation. */
type Ending = Omit<Explanation, "reads">;

/** Tables of a form that this walk does not know. */
function notRead(form: string): Ending {
  return { outcome: "unknown", pa: undefined, event: undefined, reason: `unknown: ${form} is not read here`, leaf: undefined };
}

/** One access on its way: what it needs, and what has been found out. */
class Journey {
  readonly reads: StructureRead[] = [];
  readonly #machine: Machine;
  readonly #access: Access;
  readonly #quirks: Quirks;
  readonly #context: Context;
  #need = 0;

  constructor(machine: Machine, access: Access, quirks: Quirks) {
    this.#machine = machine;
    this.#access = access;
    this.#quirks = quirks;
    this.#context = {
      bus: machine.bus,
      quirks,
      onRead: (read) => {
        this.reads.push({
          what: `stage ${read.stage} level ${read.level}`,
          pa: read.pa,
          ipa: read.ipa,
          value: [read.desc],
          text: describeDescriptor(read),
        });
      },
    };
  }

  #ok(pa: bigint, reason: string, leaf?: Explanation["leaf"]): Ending {
    return { outcome: "ok", pa, event: undefined, reason, leaf };
  }

  #end(outcome: "abort" | "raz", reason: string, event?: Explanation["event"]): Ending {
    return { outcome, pa: undefined, event, reason, leaf: undefined };
  }

  /** An event of this access; `fill` sets what is particular. */
  #event(name: EventName, recorded: boolean, fill: (words: Int32Array) => void = () => {}): Explanation["event"] {
    const words = new Int32Array(EVENT_WORDS);
    const { sid, ssid } = this.#access;
    setField(words, 0, EVENT.Type, EVENTS[name].type);
    setField(words, 0, EVENT.SID, sid);
    if (ssid !== undefined) {
      setField(words, 0, EVENT.SSV, 1);
      setField(words, 0, EVENT.SSID, ssid);
    }
    fill(words);
    const enabled = fieldOf(this.#machine.registers, "CR0", REG.CR0.EVENTQEN) === 1;
    return { name, recorded: recorded && enabled, words, text: printEvent(words) };
  }

  /** What a fault record says of the access. */
  #attributes(words: Int32Array): void {
    const need = this.#need;
    setField(words, 0, EVENT.PnU, need >= RIGHT.privRead ? 1 : 0);
    setField(words, 0, EVENT.InD, (need & (RIGHT.execute | RIGHT.privExecute)) !== 0 ? 1 : 0);
    setField(words, 0, EVENT.RnW, (need & (RIGHT.write | RIGHT.privWrite)) === 0 ? 1 : 0);
    setAddress64(words, 4, this.#access.iova);
  }

  /** A configuration event always aborts (7.3); C_BAD_STREAMID is recorded with CR2.RECINVSID only. */
  #configuration({ event, fetch, reason }: Refusal, shown: number | null = this.#access.ssid ?? null): Ending {
    const recorded =
      event !== "C_BAD_STREAMID" ||
      this.#quirks.has("recinvsid") ||
      fieldOf(this.#machine.registers, "CR2", REG.CR2.RECINVSID) === 1;
    const misplaced = event === "F_CD_FETCH" && this.#quirks.has("cd-fetch-addr");
    return this.#end("abort", reason, this.#event(event, recorded, (words) => {
      setField(words, 0, EVENT.SSV, shown === null || event === "C_BAD_SUBSTREAMID" ? 0 : 1);
      setField(words, 0, EVENT.SSID, shown ?? 0);
      if (fetch !== undefined) setAddress64(words, misplaced ? 4 : 6, fetch & ~7n);
    }));
  }

  /** Stage 1 is bypassed or not there and the address is beyond IAS (3.4.1, 7.3.14). */
  #beyondInput(recorded: boolean): Ending {
    return this.#end("abort", "the address is beyond the input size (IAS)", this.#event("F_ADDR_SIZE", recorded, (words) => {
      this.#attributes(words);
      setField(words, 0, EVENT.CLASS, EVENT_CLASS.IN);
    }));
  }

  /** A fault of a walk: CD.A and CD.R, or STE.S2R, say how it ends (3.12). */
  #fault(fault: Fault, what: number, ste: Int32Array, cd: Int32Array | undefined): Ending {
    const quirks = this.#quirks;
    const ofStage1 = fault.stage === 1 || fault.disguised === true;
    const aborted = fault.fault === "eabt";
    const wanted = ofStage1 ? cd !== undefined && getField(cd, 0, CD.R) === 1 : getField(ste, 0, STE.S2R) === 1;
    const event = this.#event(EVENT_OF[fault.fault], wanted || aborted, (words) => {
      this.#attributes(words);
      setField(words, 0, EVENT.S2, ofStage1 ? 0 : 1);
      setField(words, 0, EVENT.CLASS, fault.stage === 1 && aborted ? EVENT_CLASS.TT : what);
      // Below the first table QEMU takes RnW from the transaction.
      if (what !== EVENT_CLASS.IN && quirks.has("nested-rnw") && fault.disguised !== true) setField(words, 0, EVENT.RnW, 1);
      if (what === EVENT_CLASS.TT && fault.fault === "permission" && !quirks.has("nested-rnw")) setField(words, 0, EVENT.TTRnW, 1);
      if (aborted && fault.disguised !== true) setAddress64(words, 6, (fault.fetch ?? 0n) & ~7n);
      else if (fault.ipa !== undefined) setAddress64(words, 6, quirks.has("ipa-low-bits") ? fault.ipa : fault.ipa & ~0xfffn);
    });
    const where = what === EVENT_CLASS.CD ? " on the way to the CD" : what === EVENT_CLASS.TT && fault.stage === 2 ? " on the way to a stage-1 table" : "";
    const reason = `stage ${fault.stage}, level ${fault.level}${where}: ${WORDS_OF[fault.fault]}`;
    const zero = fault.stage === 1 && !aborted && cd !== undefined && getField(cd, 0, CD.A) === 0;
    return this.#end(zero ? "raz" : "abort", reason, event);
  }

  #stage2(s2: Stage2, ipa: bigint, need: number): Leaf | Fault {
    return walkStage2(this.#context, s2, ipa, need);
  }

  run(): Ending {
    const machine = this.#machine;
    const { features, registers } = machine;
    const { iova, sid } = this.#access;
    const quirks = this.#quirks;
    if (!isEnabled(machine)) {
      if (fieldOf(registers, "GBPA", REG.GBPA.ABORT) === 1) return this.#end("abort", "the SMMU is disabled and GBPA.ABORT is 1");
      return this.#ok(iova, "the SMMU is disabled: CR0.SMMUEN = 0");
    }
    const ste = fetchSte(machine, sid, quirks, (read) => this.reads.push(read));
    if (!(ste instanceof Int32Array)) return this.#configuration(ste);
    const illegal = steViolation(ste, features, quirks);
    if (illegal !== undefined) {
      return this.#configuration({ event: "C_BAD_STE", fetch: undefined, reason: `the STE is ILLEGAL: ${illegal}` });
    }
    const config = getField(ste, 0, STE.Config);
    if (config < STE_CONFIG.bypass) return this.#end("abort", `STE.Config = ${config}: every access is aborted, without an event`);
    this.#need = neededRight(this.#access, ste, machine);
    const substream = this.#substream(ste);
    if (typeof substream === "object") return substream;
    const { s1, s2 } = stagesOf(ste);
    const foreign = s2 ? foreignStage2(ste, features) : undefined;
    if (foreign !== undefined) return notRead(foreign);
    const stage2 = s2 ? stage2Of(ste, features, quirks) : undefined;
    if (s1 && substream >= 0) return this.#translate(ste, substream, stage2);

    if (stage2 === undefined) {
      if (iova > mask(features.iasBits) && !quirks.has("bypass-ias")) return this.#beyondInput(true);
      return this.#ok(iova, "the stream bypasses translation");
    }
    if (quirks.has("s2-iova-beyond-ias") && iova > mask(features.oasBits)) return this.#beyondInput(false);
    if (iova > mask(features.iasBits)) return this.#beyondInput(true);
    const leaf = this.#stage2(stage2, iova, this.#need);
    if (leaf.fault !== undefined) return this.#fault(leaf, EVENT_CLASS.IN, ste, undefined);
    return this.#ok(leaf.pa, "translated by stage 2", { shift: leaf.shift, rights1: RIGHT.all, rights2: leaf.rights, own: undefined });
  }

  /** Index of the CD, -1 where stage 1 is bypassed (5.2 S1CDMax, S1DSS). */
  #substream(ste: Int32Array): number | Ending {
    const { ssid } = this.#access;
    const { s1 } = stagesOf(ste);
    const cdMax = this.#machine.features.ssidSize === 0 ? 0 : getField(ste, 0, STE.S1CDMax);
    const dss = getField(ste, 0, STE.S1DSS);
    const disabled = (): Ending =>
      this.#configuration({ event: "F_STREAM_DISABLED", fetch: undefined, reason: `STE.S1DSS = ${dss} refuses this substream` }, null);
    if (ssid !== undefined) {
      if (!s1 || cdMax === 0 || ssid >= 2 ** cdMax) {
        return this.#configuration({ event: "C_BAD_SUBSTREAMID", fetch: undefined, reason: `SubstreamID beyond STE.S1CDMax = ${cdMax}` });
      }
      return ssid === 0 && dss === STE_S1DSS.ssid0 ? disabled() : ssid;
    }
    if (!s1 || cdMax === 0) return 0;
    if (dss === STE_S1DSS.bypass) return -1;
    return dss === STE_S1DSS.ssid0 ? 0 : disabled();
  }

  /** Stage 1, alone or nested. */
  #translate(ste: Int32Array, substream: number, stage2: Stage2 | undefined): Ending {
    const machine = this.#machine;
    const { iova } = this.#access;
    const quirks = this.#quirks;
    let refused: Ending | undefined;
    const translateCd = (s2: Stage2) => (ipa: bigint): bigint | undefined => {
      if (quirks.has("unchecked-ste") && ipa > mask(machine.features.oasBits)) {
        refused = this.#end("abort", "the CD is beyond the input size of stage 2");
        return undefined;
      }
      const found = walkTable(this.#context, s2, ipa);
      if (found.fault === undefined) return found.pa;
      refused = this.#fault(found, EVENT_CLASS.CD, ste, undefined);
      return undefined;
    };
    const cd = fetchCd(machine, ste, substream, stage2 === undefined ? undefined : translateCd(stage2), (read) => this.reads.push(read));
    if (cd === undefined) return refused!;
    if (!(cd instanceof Int32Array)) {
      // Through S1DSS the substream was 0 although the transaction had none (7.3.9).
      return this.#configuration(cd, cd.event === "C_BAD_SUBSTREAMID" ? substream : (this.#access.ssid ?? null));
    }
    const illegal = cdViolation(machine, ste, cd);
    if (illegal !== undefined) {
      return this.#configuration({ event: "C_BAD_CD", fetch: undefined, reason: `the CD is ILLEGAL: ${illegal}` });
    }
    const foreign = foreignStage1(ste, cd, machine.features);
    if (foreign !== undefined) return notRead(foreign);
    const s1 = stage1Of(machine, ste, cd);
    if (stage2 !== undefined && quirks.has("nested-ttb1-unmapped")) {
      for (const { enabled, ttb } of s1.halves) {
        if (!enabled) continue;
        const found = walkTable(this.#context, stage2, ttb);
        if (found.fault !== undefined) return this.#fault(found, EVENT_CLASS.TT, ste, cd);
      }
    }
    const first = walkStage1(this.#context, s1, stage2, iova, this.#need);
    if (first.fault !== undefined) return this.#fault(first, first.on === "table" ? EVENT_CLASS.TT : EVENT_CLASS.IN, ste, cd);
    const own = ((first.desc >> 7n) & 1n) === 0n ? RIGHT.all : RIGHT.all & ~RIGHT.write;
    const one = { shift: first.shift, rights1: first.rights, rights2: RIGHT.all, own };
    if (stage2 === undefined) return this.#ok(first.pa, "translated by stage 1", one);
    const second = this.#stage2(stage2, first.pa, this.#need);
    if (second.fault !== undefined) return this.#fault(second, EVENT_CLASS.IN, ste, cd);
    const leaf = { ...one, shift: Math.min(first.shift, second.shift), rights2: second.rights };
    return this.#ok(second.pa, `translated by stage 1 to IPA ${hex(first.pa)}, by stage 2 to the PA`, leaf);
  }
}

function setAddress64(words: Int32Array, at: number, value: bigint): void {
  words[at] = Number(BigInt.asIntN(32, value));
  words[at + 1] = Number(BigInt.asIntN(32, value >> 32n));
}

/**
 * Follows one access through registers, structures and tables as the manual has it: slow, and it keeps what it read. `quirks`
 * make it do as QEMU does instead.
 */
export function explain(machine: Machine, access: Access, quirks: Quirks = NO_QUIRKS): Explanation {
  const journey = new Journey(machine, access, quirks);
  try {
    return { ...journey.run(), reads: journey.reads };
  } catch (error) {
    if (!(error instanceof UnknownPage)) throw error;
    return { outcome: "unknown", pa: undefined, event: undefined, reason: `unknown: ${error.message}`, leaf: undefined, reads: journey.reads };
  }
}
