import { CD, getField, STALL_MODEL, TTF } from "@smmuv3/smmu-v3-defs";
import type { Field } from "@smmuv3/smmu-v3-defs";
import { GRANULE } from "@smmuv3/vmsa-walk";
import type { Features } from "./presets.ts";
import { beyond, effectiveSize, endiannessUnsupported, largestTxsz, tableRange, ttbHighMask } from "./ste-rules.ts";

/** What the CD rules need of the STE that leads to the CD (5.4.1), as bits. */
export const CD_CONTEXT = {
  /** STE.S1STALLD. */
  S1STALLD: 1,
  /** The stream is in the EL2 world without E2H: one half, one privilege level, no ASID. */
  SINGLE: 2,
  /** The stream is in the EL2 world with E2H. */
  E2H: 4,
  /** Stage 2 is used, with tables of VMSAv8-32 LPAE. */
  LPAE_STAGE2: 8,
  /** STE.S1PIE. */
  S1PIE: 16,
} as const;

/** The same as an object. */
export interface CdContext {
  readonly s1Stalld: boolean;
  readonly single: boolean;
  readonly e2h?: boolean;
  readonly lpaeStage2?: boolean;
  readonly s1pie?: boolean;
}

function contextBits(context: CdContext): number {
  return (
    (context.s1Stalld ? CD_CONTEXT.S1STALLD : 0) |
    (context.single ? CD_CONTEXT.SINGLE : 0) |
    (context.e2h === true ? CD_CONTEXT.E2H : 0) |
    (context.lpaeStage2 === true ? CD_CONTEXT.LPAE_STAGE2 : 0) |
    (context.s1pie === true ? CD_CONTEXT.S1PIE : 0)
  );
}

interface Subject {
  readonly words: Int32Array;
  readonly at: number;
  readonly features: Features;
  readonly context: number;
  /** Tables of VMSAv8-32 LPAE. */
  readonly lpae: boolean;
  /** Halves that are in use: EPDn is 0 in effect. */
  readonly low: boolean;
  readonly high: boolean;
}

/** One reason for which a CD is ILLEGAL. */
export interface CdRule {
  readonly name: string;
  /** Section of the manual. */
  readonly section: string;
  readonly illegal: (cd: Subject) => boolean;
}

/** GRANULE by CD.TG0 and CD.TG1; undefined where reserved. */
export const GRANULE_OF_TG0: readonly (number | undefined)[] = [GRANULE.K4, GRANULE.K64, GRANULE.K16, undefined];
export const GRANULE_OF_TG1: readonly (number | undefined)[] = [undefined, GRANULE.K16, GRANULE.K4, GRANULE.K64];

function get(cd: Subject, field: Field<"CD">): number {
  return getField(cd.words, cd.at, field);
}

function has(cd: Subject, field: Field<"CD">): boolean {
  return get(cd, field) !== 0;
}

function granule0(cd: Subject): number | undefined {
  return GRANULE_OF_TG0[get(cd, CD.TG0)];
}

function granule1(cd: Subject): number | undefined {
  return GRANULE_OF_TG1[get(cd, CD.TG1)];
}

function badGranule(cd: Subject, granule: number | undefined): boolean {
  return !cd.lpae && (granule === undefined || cd.features.granules[granule] !== true);
}

/** CD.DS in effect for one half. */
function usesDs(cd: Subject, granule: number | undefined): boolean {
  return cd.features.ds && has(cd, CD.DS) && granule !== GRANULE.K64;
}

/** CDTxSZInvalid of 5.4.2. */
function badSize(cd: Subject, tsz: number, granule: number | undefined): boolean {
  if (cd.lpae) return false;
  const large = cd.features.vax !== 0 && (granule === GRANULE.K64 || usesDs(cd, granule));
  return tsz < (large ? 12 : 16) || tsz > largestTxsz(granule, cd.features);
}

function beyondOutput(cd: Subject, word: number, granule: number | undefined): boolean {
  const bits = cd.lpae ? 40 : tableRange(effectiveSize(get(cd, CD.IPS), cd.features), granule, usesDs(cd, granule));
  return beyond(cd.words[cd.at + word + 1]!, ttbHighMask(cd.features), bits);
}

/** Stage-1 permission indirection is in use. */
function indirect(cd: Subject): boolean {
  return !cd.lpae && cd.features.s1pi && (cd.context & CD_CONTEXT.S1PIE) !== 0 && has(cd, CD.PIE);
}

/** Interpretation `index` of the 16 at `word`, three bits each. */
function interpretation(cd: Subject, word: number, index: number): number {
  const bit = index * 3;
  const first = cd.words[cd.at + word + (bit >> 5)]! >>> (bit & 31);
  const rest = (bit & 31) > 29 ? cd.words[cd.at + word + 1]! << (32 - (bit & 31)) : 0;
  return (first | rest) & 7;
}

const INDICES: readonly number[] = Array.from({ length: 16 }, (_, index) => index);

function reserved(cd: Subject, word: number): boolean {
  return INDICES.some((index) => [4, 6].includes(interpretation(cd, word, index)));
}

function privilegedRunsUnprivilegedData(cd: Subject): boolean {
  return INDICES.some(
    (index) => (interpretation(cd, CD.PIIP.word, index) & 2) !== 0 && (interpretation(cd, CD.PIIU.word, index) & 4) !== 0,
  );
}

function single(cd: Subject): boolean {
  return (cd.context & CD_CONTEXT.SINGLE) !== 0;
}

/** In the order of 5.4.2. EPDn = 1 makes the fields of that half IGNORED. */
export const CD_RULES: readonly CdRule[] = [
  { name: "V = 0", section: "5.4.2", illegal: (cd) => !has(cd, CD.V) },
  {
    name: "S with STE.S1STALLD",
    section: "5.5",
    illegal: (cd) => has(cd, CD.S) && (cd.context & CD_CONTEXT.S1STALLD) !== 0,
  },
  { name: "A = 0 with TERM_MODEL", section: "5.5", illegal: (cd) => !has(cd, CD.A) && cd.features.termModel },
  {
    name: "S against STALL_MODEL",
    section: "5.5",
    illegal: (cd) => cd.features.stallModel === (has(cd, CD.S) ? STALL_MODEL.none : STALL_MODEL.forced),
  },
  {
    name: "ENDI against TTENDIAN",
    section: "5.4 ENDI",
    illegal: (cd) => (cd.low || cd.high) && endiannessUnsupported(get(cd, CD.ENDI), cd.features.ttEndian),
  },
  {
    name: "AA64 = 0 without VMSAv8-32, or with E2H",
    section: "5.4 AA64",
    // With D128, 0 is VMSAv9-128, which is not built.
    illegal: (cd) =>
      cd.lpae && (cd.features.d128 || (cd.features.ttf & TTF.lpae) === 0 || (cd.context & CD_CONTEXT.E2H) !== 0),
  },
  {
    name: "AA64 = 1 without VMSAv8-64, or over a VMSAv8-32 stage 2",
    section: "5.4 AA64",
    illegal: (cd) =>
      !cd.lpae && ((cd.features.ttf & TTF.vmsav8_64) === 0 || (cd.context & CD_CONTEXT.LPAE_STAGE2) !== 0),
  },
  {
    name: "HA or HD without HTTU",
    section: "5.4 HA",
    illegal: (cd) => !cd.lpae && (has(cd, CD.HA) || has(cd, CD.HD)) && cd.features.httu === 0,
  },
  {
    name: "HD where only access flags are updated",
    section: "5.4 HA",
    illegal: (cd) => !cd.lpae && has(cd, CD.HD) && cd.features.httu === 1,
  },
  {
    name: "HAFT without HA",
    section: "5.4 HAFT",
    illegal: (cd) => !cd.lpae && has(cd, CD.HAFT) && !has(cd, CD.HA) && cd.features.httu === 3,
  },
  {
    name: "ASID[15:8] without ASID16",
    section: "5.4 ASID",
    illegal: (cd) => !single(cd) && (get(cd, CD.ASID) & ~cd.features.asidMask) !== 0,
  },
  { name: "T0SZ", section: "5.4 T0SZ", illegal: (cd) => cd.low && badSize(cd, get(cd, CD.T0SZ), granule0(cd)) },
  { name: "T1SZ", section: "5.4 T1SZ", illegal: (cd) => cd.high && badSize(cd, get(cd, CD.T1SZ), granule1(cd)) },
  { name: "TG0", section: "5.4 TG0", illegal: (cd) => cd.low && badGranule(cd, granule0(cd)) },
  {
    name: "TTB0 out of range",
    section: "5.4 TTB0",
    illegal: (cd) => cd.low && beyondOutput(cd, CD.TTB0.word, granule0(cd)),
  },
  { name: "TG1", section: "5.4 TG1", illegal: (cd) => cd.high && badGranule(cd, granule1(cd)) },
  {
    name: "TTB1 out of range",
    section: "5.4 TTB1",
    illegal: (cd) => cd.high && beyondOutput(cd, CD.TTB1.word, granule1(cd)),
  },
  { name: "PIIP is reserved", section: "5.4 PIIP", illegal: (cd) => indirect(cd) && reserved(cd, CD.PIIP.word) },
  {
    name: "PIIU is reserved",
    section: "5.4 PIIU",
    illegal: (cd) => indirect(cd) && !single(cd) && reserved(cd, CD.PIIU.word),
  },
  {
    name: "PIIP runs what PIIU writes",
    section: "5.4 PIIP",
    illegal: (cd) => indirect(cd) && !single(cd) && privilegedRunsUnprivilegedData(cd),
  },
];

/** The first rule that makes the CD at `at` ILLEGAL, or undefined. */
export function findCdViolation(words: Int32Array, at: number, features: Features, context: CdContext): CdRule | undefined {
  return violation(words, at, features, contextBits(context));
}

function violation(words: Int32Array, at: number, features: Features, context: number): CdRule | undefined {
  // Without a second half EPD0 and EPD1 are IGNORED (5.4 EPD0).
  const alone = (context & CD_CONTEXT.SINGLE) !== 0;
  const low = alone || getField(words, at, CD.EPD0) === 0;
  const high = !alone && getField(words, at, CD.EPD1) === 0;
  const lpae = getField(words, at, CD.AA64) === 0;
  const subject = { words, at, features, context, lpae, low, high };
  return CD_RULES.find((rule) => rule.illegal(subject));
}

/** Bits [55:32] of an address, in word 3 TTB0 and in word 5 TTB1: the more of them are one, the less it is legal. */
const ADDRESS = 0x00ff_ffff;

/** Checks CDs, remembering the last legal one like `SteChecker`. */
export class CdChecker {
  readonly #features: Features;
  readonly #word1Mask: number;
  readonly #legal = new Int32Array(8);
  #primed = 0;
  readonly #indirect: boolean;

  constructor(features: Features) {
    this.#features = features;
    // The part of ASID that is implemented may have any value.
    this.#word1Mask = ~(features.asidMask << CD.ASID.shift);
    this.#indirect = features.s1pi;
  }

  /** True where the CD at `at` is not ILLEGAL; `context` are bits of {@link CD_CONTEXT}. */
  check(words: Int32Array, at: number, context: number): boolean {
    const legal = this.#legal;
    const word0 = words[at]!;
    const word1 = words[at + 1]! & this.#word1Mask;
    // HAFT is bit 3 of word 2, DS and PIE are in word 5, next to the high word of TTB1.
    const word2 = words[at + 2]! & 8;
    const word3 = words[at + 3]!;
    const word5 = words[at + 5]!;
    const changed =
      (legal[0]! ^ word0) |
      (legal[1]! ^ word1) |
      (legal[4]! ^ word2) |
      (legal[5]! ^ context) |
      ((legal[2]! ^ word3) & ~ADDRESS) |
      ((legal[3]! ^ word5) & ~ADDRESS);
    const known = changed === 0 && this.#primed === 1 && !this.#indirect;
    if (known && (((word3 & ~legal[2]!) | (word5 & ~legal[3]!)) & ADDRESS) === 0) return true;
    if (violation(words, at, this.#features, context) !== undefined) return false;
    legal[0] = word0;
    legal[1] = word1;
    legal[2] = word3 | (known ? legal[2]! : 0);
    legal[3] = word5 | (known ? legal[3]! : 0);
    legal[4] = word2;
    legal[5] = context;
    this.#primed = 1;
    return true;
  }
}
