import { CD, CD_WORDS, getAddress, getField, L1CD, L1STD, printFields, REG, setAddress, setField, STE, STE_CONFIG, STE_S1FMT, STE_STRW, STE_WORDS, STRTAB_FMT } from "@smmuv3/smmu-v3-defs";
import type { AnyField, EventName, Field } from "@smmuv3/smmu-v3-defs";
import { findCdViolation, findSteViolation } from "@smmuv3/smmu-v3-model";
import type { Features } from "@smmuv3/smmu-v3-model";
import type { Bus } from "./bus.ts";
import { pairs } from "./bus.ts";
import type { Quirks } from "./quirks.ts";
import { fieldOf, low } from "./registers.ts";
import type { Registers } from "./registers.ts";
import { isWide, levelShift, mask, outputBits, PAGE_SHIFT, startLevelOf, TG1_GRANULE } from "./tables.ts";
import type { Half, Stage1, Stage2 } from "./tables.ts";

/** An SMMU as a dump or a case has it. */
export interface Machine {
  readonly registers: Registers;
  readonly features: Features;
  readonly bus: Bus;
}

/** A structure that a walk read. */
export interface StructureRead {
  /** `L1STD`, `STE`, `L1CD`, `CD`, or the stage and level of a descriptor. */
  readonly what: string;
  readonly pa: bigint;
  /** Address in the intermediate space, where stage 2 gave the PA. */
  readonly ipa?: bigint | undefined;
  /** 64-bit values, in order. */
  readonly value: readonly bigint[];
  /** Decoded. */
  readonly text: string;
}

/** Why a structure cannot be had: the event, the address that was not readable, and the reason in words. */
export interface Refusal {
  readonly event: EventName;
  readonly fetch: bigint | undefined;
  readonly reason: string;
}

export type OnRead = (read: StructureRead) => void;

/** Splits that exist; others behave as 6 (6.3.25). */
const SPLITS: readonly number[] = [6, 8, 10];

export function show(fields: Readonly<Record<string, AnyField>>, words: Int32Array): string {
  return printFields(fields, words) || "all zero";
}

/** Aligned to 2^log2 bytes, but at least 64. */
function alignTable(address: bigint, log2: number): bigint {
  return address & ~mask(Math.max(log2, 6));
}

/** The form of the stream table. */
export interface StreamTable {
  readonly twoLevel: boolean;
  readonly log2: number;
  readonly split: number;
  /** Of the first level, aligned. */
  readonly base: bigint;
}

export function streamTableOf({ registers, features }: Machine): StreamTable {
  const cfg = REG.STRTAB_BASE_CFG;
  const log2 = Math.min(fieldOf(registers, "STRTAB_BASE_CFG", cfg.LOG2SIZE), features.sidSize);
  const twoLevel = fieldOf(registers, "STRTAB_BASE_CFG", cfg.FMT) === STRTAB_FMT.twoLevel;
  const requested = fieldOf(registers, "STRTAB_BASE_CFG", cfg.SPLIT);
  const split = SPLITS.includes(requested) ? requested : 6;
  const address = (registers["STRTAB_BASE"] ?? 0n) & 0x000f_ffff_ffff_ffc0n;
  return { twoLevel, log2, split, base: alignTable(address, twoLevel ? Math.max(log2 - split, 0) + 3 : log2 + 6) };
}

/** Entries of the second level under a level-1 descriptor, and where they are. */
export function secondLevel(words: Int32Array, split: number, quirks: Quirks): { entries: number; base: bigint; span: number } {
  const span = getField(words, 0, L1STD.Span);
  const tooBig = span > split + 1 && !quirks.has("l2-span-too-big");
  const entries = span === 0 || tooBig ? 0 : 2 ** (quirks.has("l2-span") ? span : span - 1);
  return { span, entries, base: alignTable(BigInt(getAddress(words, 0, L1STD.L2Ptr)), 5 + span) };
}

/** Finds the STE of a stream (3.3.1, 5.2): its words, or why there is none. */
export function fetchSte(machine: Machine, sid: number, quirks: Quirks, onRead: OnRead): Int32Array | Refusal {
  const { bus } = machine;
  const { twoLevel, log2, split, base } = streamTableOf(machine);
  if (sid >= 2 ** log2) {
    return { event: "C_BAD_STREAMID", fetch: undefined, reason: `StreamID beyond STRTAB_BASE_CFG.LOG2SIZE = ${log2}` };
  }
  let pa = base + BigInt(sid) * 64n;
  if (twoLevel) {
    const first = base + BigInt(sid >>> split) * 8n;
    const words = bus.read(first, 2);
    if (words === undefined) return { event: "F_STE_FETCH", fetch: first, reason: "the level-1 descriptor cannot be read" };
    onRead({ what: "L1STD", pa: first, value: pairs(words), text: show(L1STD, words) });
    const { entries, base: second, span } = secondLevel(words, split, quirks);
    const index = sid & ((1 << split) - 1);
    if (index >= entries) {
      const event = quirks.has("l2-span") && entries > 0 ? "C_BAD_STE" : "C_BAD_STREAMID";
      return { event, fetch: undefined, reason: `StreamID beyond L1STD.Span = ${span}` };
    }
    pa = second + BigInt(index) * 64n;
  }
  const words = bus.read(pa, STE_WORDS);
  if (words === undefined) return { event: "F_STE_FETCH", fetch: pa, reason: "the STE cannot be read" };
  onRead({ what: "STE", pa, value: pairs(words), text: show(STE, words) });
  return words;
}

function stage2Shape(ste: Int32Array, features: Features): { pageShift: number; inputBits: number; startLevel: number; outputBits: number; wide: boolean } {
  const pageShift = PAGE_SHIFT[getField(ste, 0, STE.S2TG)] ?? 12;
  const sl0 = getField(ste, 0, STE.S2SL0);
  const ps = getField(ste, 0, STE.S2PS);
  return {
    pageShift,
    inputBits: 64 - getField(ste, 0, STE.S2T0SZ),
    startLevel: pageShift === 12 ? (sl0 === 3 ? 3 : 2 - sl0) : 3 - sl0,
    outputBits: outputBits(ps, features.oas),
    wide: isWide(pageShift, ps, features.oas),
  };
}

/** Stages that a STE uses. */
export function stagesOf(ste: Int32Array): { s1: boolean; s2: boolean } {
  const config = getField(ste, 0, STE.Config);
  return { s1: config >= STE_CONFIG.bypass && (config & 1) !== 0, s2: config >= STE_CONFIG.bypass && (config & 2) !== 0 };
}

/** The STE without what QEMU does not look at. */
function asQemuSees(ste: Int32Array, features: Features, quirks: Quirks): Int32Array {
  const seen = ste.slice();
  const set = (field: Field<"STE">, value: number): void => {
    setField(seen, 0, field, value);
  };
  if (quirks.has("unchecked-ste")) {
    for (const field of [STE.STRW, STE.EATS, STE.S1Fmt]) set(field, 0);
    setAddress(seen, 0, STE.S1ContextPtr, Number(BigInt(getAddress(ste, 0, STE.S1ContextPtr)) & mask(features.oasBits)));
    set(STE.S2VMID, getField(ste, 0, STE.S2VMID) & features.vmidMask);
    // Too few input bits for the start level; too many concatenated tables are noticed.
    const { pageShift, inputBits, startLevel } = stage2Shape(ste, features);
    if (inputBits <= levelShift(pageShift, startLevel)) {
      const level = startLevelOf(pageShift, inputBits);
      set(STE.S2SL0, (pageShift === 12 ? 2 : 3) - level);
    }
  }
  if (quirks.has("cd-ste-validity")) {
    set(STE.S2HA, 0);
    set(STE.S2HD, 0);
  }
  return seen;
}

/** Why a STE is ILLEGAL, or undefined. */
export function steViolation(ste: Int32Array, features: Features, quirks: Quirks): string | undefined {
  const { s1, s2 } = stagesOf(ste);
  const rule = findSteViolation(asQemuSees(ste, features, quirks), 0, features);
  if (rule !== undefined) return `${rule.name} (${rule.section})`;
  if (s2 && quirks.has("s2t0sz-vs-ps")) {
    const { pageShift, inputBits, outputBits: output } = stage2Shape(ste, features);
    if (inputBits > (pageShift === 16 ? output : Math.min(output, 48))) return "S2T0SZ exceeds S2PS";
  }
  if ((s1 || s2) && quirks.has("s1cdmax") && features.ssidSize === 0 && getField(ste, 0, STE.S1CDMax) > 0) return "S1CDMax without substreams";
  if (s2 && quirks.has("cd-ste-validity") && getField(ste, 0, STE.S1STALLD) === 1) return "S1STALLD";
  return undefined;
}

export function stage2Of(ste: Int32Array, features: Features, quirks: Quirks): Stage2 {
  return {
    ...stage2Shape(ste, features),
    ttb: BigInt(getAddress(ste, 0, STE.S2TTB)),
    affd: getField(ste, 0, STE.S2AFFD) === 1,
    ha: features.httu >= 1 && getField(ste, 0, STE.S2HA) === 1,
    hd: features.httu >= 2 && getField(ste, 0, STE.S2HD) === 1,
    ptw: getField(ste, 0, STE.S2PTW) === 1 && !quirks.has("unchecked-ste"),
    xnx: features.xnx,
  };
}

/** The stream is in an EL2 world with one half and one privilege level. */
export function isSingle(ste: Int32Array, { features, registers }: Machine): boolean {
  const el2 = getField(ste, 0, STE.Config) === STE_CONFIG.s1 && features.hyp && getField(ste, 0, STE.STRW) === STE_STRW.el2;
  return el2 && fieldOf(registers, "CR2", REG.CR2.E2H) === 0;
}

/** Where the CD of a substream is; `translate` is stage 2 where nested, and gives undefined when it has refused. */
export function fetchCd(
  machine: Machine,
  ste: Int32Array,
  ssid: number,
  translate: ((ipa: bigint) => bigint | undefined) | undefined,
  onRead: OnRead,
): Int32Array | Refusal | undefined {
  const { bus, features } = machine;
  const cdMax = features.ssidSize === 0 ? 0 : getField(ste, 0, STE.S1CDMax);
  const fmt = cdMax === 0 ? STE_S1FMT.linear : getField(ste, 0, STE.S1Fmt);
  let table = BigInt(getAddress(ste, 0, STE.S1ContextPtr));
  let index = ssid;
  const read = (what: "L1CD" | "CD", at: bigint, words: number): Int32Array | Refusal | undefined => {
    const pa = translate === undefined ? at : translate(at);
    if (pa === undefined) return undefined;
    const value = bus.read(pa, words);
    if (value === undefined) return { event: "F_CD_FETCH", fetch: pa, reason: `the ${what} cannot be read` };
    const ipa = translate === undefined ? undefined : at;
    onRead({ what, pa, ipa, value: pairs(value), text: show(what === "CD" ? CD : L1CD, value) });
    return value;
  };
  if (fmt === STE_S1FMT.linear) {
    table = alignTable(table, cdMax + 6);
  } else {
    const leafBits = fmt === STE_S1FMT.l2_4k ? 6 : 10;
    const first = read("L1CD", alignTable(table, Math.max(cdMax - leafBits, 0) + 3) + BigInt(ssid >>> leafBits) * 8n, 2);
    if (!(first instanceof Int32Array)) return first;
    table = BigInt(getAddress(first, 0, L1CD.L2Ptr));
    const limit = translate === undefined ? features.oasBits : features.iasBits;
    if (getField(first, 0, L1CD.V) === 0 || table > mask(limit)) {
      return { event: "C_BAD_SUBSTREAMID", fetch: undefined, reason: "the level-1 CD descriptor is invalid" };
    }
    if (fmt === STE_S1FMT.l2_64k) table = alignTable(table, 16);
    index = ssid & ((1 << leafBits) - 1);
  }
  return read("CD", table + BigInt(index) * 64n, CD_WORDS);
}

/** Why a CD is ILLEGAL, or undefined. */
export function cdViolation(machine: Machine, ste: Int32Array, cd: Int32Array): string | undefined {
  const context = { s1Stalld: getField(ste, 0, STE.S1STALLD) === 1, single: isSingle(ste, machine) };
  const rule = findCdViolation(cd, 0, machine.features, context);
  return rule === undefined ? undefined : `${rule.name} (${rule.section})`;
}

export function stage1Of(machine: Machine, ste: Int32Array, cd: Int32Array): Stage1 {
  const { features } = machine;
  const single = isSingle(ste, machine);
  const ips = getField(cd, 0, CD.IPS);
  const half = (granule: number, tsz: number, off: boolean, ttb: number, tbi: number, had: number): Half => {
    const pageShift = PAGE_SHIFT[granule];
    const inputBits = 64 - tsz;
    return {
      enabled: !off && pageShift !== undefined && inputBits > pageShift && inputBits <= 52,
      pageShift: pageShift ?? 12,
      inputBits,
      startLevel: startLevelOf(pageShift ?? 12, inputBits),
      outputBits: outputBits(ips, features.oas),
      wide: isWide(pageShift ?? 12, ips, features.oas),
      ttb: BigInt(ttb),
      tbi: tbi === 1,
      flat: features.had && had === 1,
    };
  };
  const get = (field: (typeof CD)["T0SZ"]): number => getField(cd, 0, field);
  return {
    halves: [
      half(get(CD.TG0), get(CD.T0SZ), get(CD.EPD0) === 1, getAddress(cd, 0, CD.TTB0), get(CD.TBI0), get(CD.HAD0)),
      half(
        TG1_GRANULE[get(CD.TG1)]!, get(CD.T1SZ), single || get(CD.EPD1) === 1, getAddress(cd, 0, CD.TTB1), get(CD.TBI1), get(CD.HAD1),
      ),
    ],
    affd: get(CD.AFFD) === 1,
    ha: features.httu >= 1 && get(CD.HA) === 1,
    hd: features.httu >= 2 && get(CD.HD) === 1,
    wxn: get(CD.WXN) === 1,
    pan: get(CD.PAN) === 1,
    single,
  };
}

/** What makes stage-2 tables of a form that is not read here, or undefined. */
export function foreignStage2(ste: Int32Array, features: Features): string | undefined {
  if (getField(ste, 0, STE.S2AA64) === 0) return "a stage 2 of VMSAv8-32 (STE.S2AA64 = 0)";
  if (getField(ste, 0, STE.S2ENDI) === 1) return "a big-endian stage 2 (STE.S2ENDI)";
  return features.ds && getField(ste, 0, STE.S2DS) === 1 ? "a stage 2 with 52-bit descriptors (STE.S2DS)" : undefined;
}

/** The same of stage 1. */
export function foreignStage1(ste: Int32Array, cd: Int32Array, features: Features): string | undefined {
  if (getField(cd, 0, CD.AA64) === 0) return "a stage 1 of VMSAv8-32 (CD.AA64 = 0)";
  if (getField(cd, 0, CD.ENDI) === 1) return "a big-endian stage 1 (CD.ENDI)";
  if (features.ds && getField(cd, 0, CD.DS) === 1) return "a stage 1 with 52-bit descriptors (CD.DS)";
  const indirect = getField(ste, 0, STE.S1PIE) === 1 && getField(cd, 0, CD.PIE) === 1;
  return indirect ? "permission indirection (CD.PIE)" : undefined;
}

/** SMMUEN of CR0. */
export function isEnabled({ registers }: Machine): boolean {
  return (low(registers, "CR0") & 1) !== 0;
}
