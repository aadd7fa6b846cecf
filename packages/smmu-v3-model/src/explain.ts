import { ACCESS, TRANSLATION } from "@smmuv3/platform";
import { CD, EVENT_NAMES, EVENT_WORDS, EVENTS, getField, L1CD, L1STD, printEvent, printFields, STE } from "@smmuv3/smmu-v3-defs";
import type { EventName } from "@smmuv3/smmu-v3-defs";
import { FAULT_CLASS } from "@smmuv3/vmsa-walk";
import { findCdViolation } from "./cd-rules.ts";
import { describeDescriptor } from "./descriptor-text.ts";
import type { EventQueue } from "./events.ts";
import type { Features } from "./presets.ts";
import { isSingle, streamKind } from "./regime.ts";
import type { RegisterFile } from "./registers.ts";
import { findSteViolation } from "./ste-rules.ts";
import { ReadRecorder } from "./trace.ts";
import type { TracedRead } from "./trace.ts";
import type { TranslationUnit } from "./translate.ts";

export interface ExplainOptions {
  /** Where a structure lies in memory that cannot be read, the outcome is `unknown` instead of an external abort. */
  readonly unreadableIsUnknown?: boolean;
}

/** A structure that was read on the way. */
export interface StructureRead {
  readonly what: TracedRead["what"];
  /** Level of a translation table descriptor (S1, S2), else 0. */
  readonly level: number;
  /** Physical address. */
  readonly pa: number;
  /** 64-bit words in hex, ascending. */
  readonly words: readonly string[];
  /** The fields that are not zero, or what a descriptor is. */
  readonly text: string;
}

/** The rule of the manual (IHI 0070) that decided. */
export interface ExplainedRule {
  readonly text: string;
  readonly section: string;
}

/** What an access would do now, and why. Plain data: it can be printed as JSON. */
export interface Explanation {
  readonly access: {
    readonly sid: number;
    /** Undefined for traffic without a SubstreamID. */
    readonly ssid: number | undefined;
    /** 64-bit input address in hex. */
    readonly address: string;
    readonly write: boolean;
    readonly privileged: boolean;
    readonly instruction: boolean;
  };
  /** `raz`: terminated, reads as zero. `unknown`: it depends on memory that cannot be read. */
  readonly outcome: "ok" | "abort" | "raz" | "stalled" | "unknown";
  /** Output address where `outcome` is ok. */
  readonly pa: number | undefined;
  /** The event that the access causes. */
  readonly event: { readonly name: EventName; readonly recorded: boolean; readonly text: string; readonly words: readonly number[] } | undefined;
  readonly rule: ExplainedRule;
  /** All that was read, in order. */
  readonly reads: readonly StructureRead[];
}

const OUTCOMES: Readonly<Record<number, Explanation["outcome"]>> = {
  [TRANSLATION.ok]: "ok",
  [TRANSLATION.abort]: "abort",
  [TRANSLATION.raz]: "raz",
  [TRANSLATION.stalled]: "stalled",
};

/** Rules of events that have but one, or none of a table. */
const RULES: Readonly<Partial<Record<EventName, ExplainedRule>>> = {
  C_BAD_STREAMID: { text: "the StreamID is beyond the stream table, or its level-1 descriptor does not reach to it", section: "7.3.3" },
  F_STE_FETCH: { text: "the STE, or its level-1 descriptor, cannot be read", section: "7.3.4" },
  F_STREAM_DISABLED: { text: "STE.S1DSS refuses this traffic", section: "7.3.7" },
  C_BAD_SUBSTREAMID: { text: "the SubstreamID is beyond STE.S1CDMax, or its level-1 descriptor is not valid", section: "7.3.9" },
  F_CD_FETCH: { text: "the CD, or its level-1 descriptor, cannot be read", section: "7.3.10" },
  F_VMS_FETCH: { text: "the VMS cannot be read", section: "7.3.20" },
};

/** What a fault of translation says, with the section of its event. */
const FAULT_RULES: Readonly<Partial<Record<EventName, ExplainedRule>>> = {
  F_WALK_EABT: { text: "a descriptor cannot be read", section: "7.3.12" },
  F_TRANSLATION: { text: "no valid translation", section: "7.3.13" },
  F_ADDR_SIZE: { text: "an address is beyond its size", section: "7.3.14" },
  F_ACCESS: { text: "the access flag is 0", section: "7.3.15" },
  F_PERMISSION: { text: "the access is not permitted", section: "7.3.16" },
};

/** Events of structures that could not be read. */
const FETCH_EVENTS: ReadonlySet<number> = new Set([
  EVENTS.F_STE_FETCH.type, EVENTS.F_CD_FETCH.type, EVENTS.F_WALK_EABT.type, EVENTS.F_VMS_FETCH.type,
]);

const FIELDS = { STE, CD, L1STD, L1CD } as const;

function hex64(words: ArrayLike<number>, at: number): string {
  return `0x${((words[at + 1]! >>> 0).toString(16) + (words[at]! >>> 0).toString(16).padStart(8, "0")).replace(/^0+(?=.)/u, "")}`;
}

function show({ what, level, pa, words }: TracedRead): StructureRead {
  const text =
    what === "S1" || what === "S2"
      ? describeDescriptor(what === "S1" ? 1 : 2, level, words[0]!, words[1]!)
      : printFields(FIELDS[what], words);
  const doublewords = Array.from({ length: words.length / 2 }, (_, i) => hex64(words, i * 2));
  return { what, level, pa, words: doublewords, text: text === "" ? "all fields are 0" : text };
}

/**
 * Tells what an access would do and why, by sending it through a translation unit of its own that keeps nothing, records
 * nothing and updates no descriptor: what it says is what the tables in memory say, whatever the caches hold.
 */
export class Explainer {
  readonly #file: RegisterFile;
  readonly #features: Features;
  readonly #unit: TranslationUnit;
  readonly #events: EventQueue;
  readonly #recorder: ReadRecorder;

  /** @param unit has caches without entries, and `events` for its queue */
  constructor(file: RegisterFile, features: Features, unit: TranslationUnit, events: EventQueue, recorder: ReadRecorder) {
    this.#file = file;
    this.#features = features;
    this.#unit = unit;
    this.#events = events;
    this.#recorder = recorder;
    events.muted = true;
    unit.stage1.inhibitUpdates = true;
    unit.stage2.inhibitUpdates = true;
    unit.trace(recorder);
  }

  /**
   * See `SmmuV3.explainAccess`.
   * @param failed Service Failure Mode
   */
  explain(sid: number, ssid: number, lo: number, hi: number, flags: number, failed: boolean, options: ExplainOptions): Explanation {
    const unit = this.#unit;
    const record = this.#events.record;
    const recorder = this.#recorder;
    recorder.reads = [];
    record.fill(0);
    unit.failed = failed;
    const result = unit.translate(sid, ssid, lo, hi, flags);
    const { reads } = recorder;
    const type = unit.lastEvent;
    const unknown = options.unreadableIsUnknown === true && FETCH_EVENTS.has(type);
    const ok = result === TRANSLATION.ok;
    const words = Array.from(record.subarray(0, EVENT_WORDS), (word) => word >>> 0);
    const name = EVENT_NAMES.get(type);
    return {
      access: {
        sid,
        ssid: (flags & ACCESS.ssidValid) === 0 ? undefined : ssid,
        address: hex64([lo, hi], 0),
        write: (flags & ACCESS.write) !== 0,
        privileged: (flags & ACCESS.privileged) !== 0,
        instruction: (flags & ACCESS.instruction) !== 0,
      },
      outcome: unknown ? "unknown" : OUTCOMES[result]!,
      pa: ok ? (unit.paHi >>> 0) * 0x1_0000_0000 + (unit.paLo >>> 0) : undefined,
      event: name === undefined || unknown ? undefined : { name, recorded: words[0] !== 0, text: printEvent(record), words },
      rule: ok ? this.#success(reads) : this.#failure(name, reads, failed),
      reads: reads.map(show),
    };
  }

  #success(reads: readonly TracedRead[]): ExplainedRule {
    const ste = reads.find(({ what }) => what === "STE");
    if (ste === undefined) return { text: "the SMMU is disabled (CR0.SMMUEN = 0) and GBPA lets traffic pass", section: "3.11" };
    const cd = reads.findIndex(({ what }) => what === "CD");
    const one = reads.some(({ what }) => what === "S1");
    const two = reads.some(({ what }, at) => what === "S2" && at > cd);
    if (one && two) return { text: "translated by stage 1 and stage 2", section: "3.3.2" };
    if (one || two) return { text: `translated by stage ${one ? 1 : 2}`, section: "3.3.2" };
    return { text: "the stream bypasses translation", section: "5.2 Config" };
  }

  #failure(name: EventName | undefined, reads: readonly TracedRead[], failed: boolean): ExplainedRule {
    const ste = reads.find(({ what }) => what === "STE")?.words;
    if (name === undefined) {
      if (failed) return { text: "the SMMU is in Service Failure Mode", section: "12.3" };
      if (ste === undefined) return { text: "the SMMU is disabled (CR0.SMMUEN = 0) and GBPA.ABORT is 1", section: "3.11" };
      return { text: `STE.Config = ${getField(ste, 0, STE.Config)} aborts all traffic, without an event`, section: "5.2 Config" };
    }
    if (name === "C_BAD_STE") return this.#illegal("STE", findSteViolation(ste!, 0, this.#features)!);
    if (name === "C_BAD_CD") {
      const cd = reads.findLast(({ what }) => what === "CD")!.words;
      const single = isSingle(streamKind(ste!, 0, this.#features), this.#file);
      const s1Stalld = getField(ste!, 0, STE.S1STALLD) === 1;
      return this.#illegal("CD", findCdViolation(cd, 0, this.#features, { s1Stalld, single })!);
    }
    const rule = FAULT_RULES[name];
    if (rule === undefined) return RULES[name]!;
    return { text: this.#fault(reads, rule.text), section: rule.section };
  }

  #illegal(what: string, rule: { readonly name: string; readonly section: string }): ExplainedRule {
    return { text: `the ${what} is ILLEGAL: ${rule.name}`, section: rule.section };
  }

  /** Where a walk ended. */
  #fault(reads: readonly TracedRead[], why: string): string {
    const { stage1, stage2 } = this.#unit;
    const cd = reads.findLastIndex(({ what }) => what === "CD");
    const ste = reads.find(({ what }) => what === "STE")!.words;
    const config = getField(ste, 0, STE.Config);
    if ((config & 3) === 0) return `${why}: the stream bypasses translation`;
    if (cd < 0) {
      const onCd = (config & 1) !== 0;
      return `stage 2, level ${stage2.level}${onCd ? ", on the way to the CD" : ""}: ${why}`;
    }
    if (stage1.stage === 1) return `stage 1, level ${stage1.level}: ${why}`;
    const where = stage1.faultClass === FAULT_CLASS.TT ? ", on the way to a stage-1 descriptor" : ", output of stage 1";
    return `stage 2, level ${stage2.level}${where}: ${why}`;
  }
}
