import { CD, extract, getField, REG, STE } from "@smmuv3/smmu-v3-defs";
import type { Field } from "@smmuv3/smmu-v3-defs";
import { attributesOf, combineAttributes } from "@smmuv3/vmsa-walk";
import { accessBits, NEED, overrideIndex } from "./attributes.ts";
import { EVENT_BIT } from "./events.ts";
import { RAW } from "./fill.ts";
import type { Features } from "./presets.ts";

/** Attributes with which an access leaves the SMMU (chapter 13). */
export interface OutputAttributes {
  /** Memory type, cacheability and allocation hints in the encoding of a MAIR byte. */
  readonly mair: number;
  /** Shareability in the encoding of SH[1:0]: 0 Non-shareable, 2 Outer, 3 Inner. */
  readonly shareability: number;
  readonly privileged: boolean;
  readonly instruction: boolean;
}

/** Where STE or GBPA have their overrides of the incoming attributes. */
interface Overrides {
  readonly words: Int32Array;
  readonly at: number;
  readonly fields: Readonly<Record<"MTCFG" | "MemAttr" | "ALLOCCFG" | "SHCFG", Field>>;
}

/** What the SMMU takes where the interconnect says nothing (13.1.3): Normal write-back, allocating, Non-shareable. */
const DEFAULT_MAIR = 0xff;
const NON_CACHEABLE = 4;
/** MAIR nibbles by MemAttr[3:2] or MemAttr[1:0]: reserved or Device, Non-cacheable, write-through, write-back. */
const NIBBLES: readonly number[] = [0, NON_CACHEABLE, 0xb, 0xf];
/** SHCFG: use the incoming shareability. */
const INCOMING = 1;

function isDevice(mair: number): boolean {
  return (mair & 0xf0) === 0;
}

function cached(nibble: number): boolean {
  return nibble !== NON_CACHEABLE;
}

/** STE.MemAttr in MAIR form; its reserved encodings are Device-nGnRnE (5.2). */
function mairOf(memAttr: number): number {
  const outer = memAttr >> 2;
  const inner = memAttr & 3;
  if (outer === 0) return inner << 2;
  return inner === 0 ? 0 : (NIBBLES[outer]! << 4) | NIBBLES[inner]!;
}

interface Hints {
  readonly allocate: number;
  readonly transient: boolean;
}

function hintsOf(nibble: number): Hints {
  return { allocate: nibble & 3, transient: (nibble & 8) === 0 };
}

/** The nibble with the stronger of its hints and others; what does not allocate is not transient (13.1.7). */
function combineHints(nibble: number, { allocate, transient }: Hints): number {
  if (!cached(nibble)) return nibble;
  const own = hintsOf(nibble);
  const both = own.allocate & allocate;
  const passing = (own.transient || transient) && both !== 0;
  return (nibble & 4) | (passing ? 0 : 8) | both;
}

function mapNibbles(mair: number, hints: (outer: boolean) => Hints): number {
  if (isDevice(mair)) return mair;
  return (combineHints(mair >> 4, hints(true)) << 4) | combineHints(mair & 15, hints(false));
}

/** Incoming attributes after overrides, as `MAIR | SH << 8` (13.1.4). */
function incoming(features: Features, { words, at, fields }: Overrides): number {
  if (!features.attrTypesOvr) return DEFAULT_MAIR;
  const get = (field: Field): number => getField(words, at, field);
  const type = get(fields.MTCFG) === 1 ? mairOf(get(fields.MemAttr)) : DEFAULT_MAIR;
  const alloc = get(fields.ALLOCCFG);
  const hints = { allocate: (alloc >> 1) & 3, transient: (alloc & 1) !== 0 };
  const mair = (alloc & 8) === 0 ? type : mapNibbles(type, () => hints);
  const shcfg = get(fields.SHCFG);
  return mair | ((shcfg === INCOMING ? 0 : shcfg) << 8);
}

/** AttrIndx of a CD's MAIR; reserved encodings as 5.4 has them. */
function mairAt(words: Int32Array, cd: number, index: number): number {
  const word = getField(words, cd, index < 4 ? CD.MAIR0 : CD.MAIR1);
  const mair = (word >>> ((index & 3) * 8)) & 0xff;
  return !isDevice(mair) && (mair & 15) === 0 ? mair | 3 : mair;
}

/** What an access that passed has gone through. */
export interface Passed {
  /** `overrideIndex` of the STE. */
  readonly override: number;
  readonly stage1: boolean;
  readonly stage2: boolean;
  /** `TlbFill.attributes` of what translated it. */
  readonly raw: number;
  readonly stes: Int32Array;
  readonly ste: number;
  readonly cds: Int32Array;
  readonly cd: number;
}

function output(features: Features, attributes: number, need: number): OutputAttributes {
  const bits = accessBits(need);
  // From SMMUv3.4 everything leaves as Data, Privileged (13.1.2).
  const fixed = features.minor >= 4;
  return {
    mair: attributes & 0xff,
    shareability: attributes >> 8,
    privileged: fixed || (bits & EVENT_BIT.PnU) !== 0,
    instruction: !fixed && (bits & EVENT_BIT.InD) !== 0,
  };
}

/** Attributes of an access while SMMUEN is 0 (13.2). `flags` are of ACCESS. */
export function disabledAttributes(features: Features, gbpa: number, flags: number): OutputAttributes {
  const input = incoming(features, { words: Int32Array.of(gbpa), at: 0, fields: REG.GBPA });
  const override = overrideIndex(extract(gbpa, REG.GBPA.PRIVCFG), extract(gbpa, REG.GBPA.INSTCFG));
  const need = NEED[(features.attrPermsOvr ? override : 0) | (flags & 7)]!;
  return output(features, attributesOf(input & 0xff, input >> 8), need);
}

/** Attributes of an access while SMMUEN is 1 (13.3, 13.4, 13.5). */
export function passedAttributes(features: Features, passed: Passed, flags: number): OutputAttributes {
  const { raw, stes, ste } = passed;
  const input = incoming(features, { words: stes, at: ste, fields: STE });
  const need = NEED[passed.override | (flags & 7)]!;
  let mair = input & 0xff;
  let sh = input >> 8;
  if (passed.stage1) {
    // Type and shareability are stage 1's; hints combine where the input has any (13.4.2).
    const from = mair;
    const own = mairAt(passed.cds, passed.cd, raw & 7);
    mair = isDevice(from) ? own : mapNibbles(own, (outer) => inputHints(outer ? from >> 4 : from & 15));
    sh = (raw >> RAW.SH1) & 3;
  }
  if (!passed.stage2) return output(features, attributesOf(mair, sh), need);
  const fwb = features.fwb && getField(stes, ste, STE.S2FWB) === 1;
  return output(features, combineAttributes(mair, sh, (raw >> RAW.MEM_ATTR) & 15, (raw >> RAW.SH2) & 3, fwb), need);
}

function inputHints(nibble: number): Hints {
  return cached(nibble) ? hintsOf(nibble) : { allocate: 3, transient: false };
}
