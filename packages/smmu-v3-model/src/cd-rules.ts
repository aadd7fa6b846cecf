import { CD, getField, STALL_MODEL, TTF } from "@smmuv3/smmu-v3-defs";
import type { Field } from "@smmuv3/smmu-v3-defs";
import { GRANULE } from "@smmuv3/vmsa-walk";
import type { Features } from "./presets.ts";
import { effectiveSize, endiannessUnsupported } from "./ste-rules.ts";

/** What the CD rules need of the STE that leads to the CD. */
export interface CdContext {
  readonly s1Stalld: boolean;
  /** The stream is in an EL2 world without a second half (CR2.E2H = 0). */
  readonly single: boolean;
}

interface Subject extends CdContext {
  readonly words: Int32Array;
  readonly at: number;
  readonly features: Features;
  /** Halves that are in use: EPDn is 0. */
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

function badGranule(cd: Subject, granule: number | undefined): boolean {
  return granule === undefined || cd.features.granules[granule] !== true;
}

/** TxSZ is 16 to 39; small tables reach to 48, or 47 with 64K (5.4). */
function badSize(cd: Subject, tsz: number, granule: number | undefined): boolean {
  const upper = cd.features.stt ? (granule === GRANULE.K64 ? 47 : 48) : 39;
  return tsz < 16 || tsz > upper;
}

function beyondOutput(cd: Subject, word: number): boolean {
  const bits = effectiveSize(get(cd, CD.IPS), cd.features);
  return bits < 56 && (cd.words[cd.at + word + 1]! & 0x000f_ffff & ~((1 << (bits - 32)) - 1)) !== 0;
}

/** In the order of 5.4.2. EPDn = 1 makes the fields of that half IGNORED. */
export const CD_RULES: readonly CdRule[] = [
  { name: "V = 0", section: "5.4.2", illegal: (cd) => get(cd, CD.V) === 0 },
  { name: "S with STE.S1STALLD", section: "5.4 S", illegal: (cd) => get(cd, CD.S) === 1 && cd.s1Stalld },
  { name: "A = 0 with TERM_MODEL", section: "5.4 A", illegal: (cd) => get(cd, CD.A) === 0 && cd.features.termModel },
  {
    name: "S against STALL_MODEL",
    section: "5.4 S",
    illegal: (cd) =>
      (get(cd, CD.S) === 1 && cd.features.stallModel === STALL_MODEL.none) ||
      (get(cd, CD.S) === 0 && cd.features.stallModel === STALL_MODEL.forced && !cd.s1Stalld),
  },
  {
    name: "ENDI against TTENDIAN",
    section: "5.4 ENDI",
    illegal: (cd) => (cd.low || cd.high) && endiannessUnsupported(get(cd, CD.ENDI), cd.features.ttEndian),
  },
  {
    name: "AA64 does not match TTF",
    section: "5.4 AA64",
    illegal: (cd) =>
      get(cd, CD.AA64) === 1
        ? (cd.features.ttf & TTF.vmsav8_64) === 0
        : (cd.features.ttf & TTF.lpae) === 0 || cd.single,
  },
  {
    name: "HA or HD beyond HTTU",
    section: "5.4 HA",
    illegal: (cd) =>
      (get(cd, CD.HA) === 1 && cd.features.httu < 1) || (get(cd, CD.HD) === 1 && cd.features.httu < 2),
  },
  {
    name: "ASID[15:8] without ASID16",
    section: "5.4 ASID",
    illegal: (cd) => !cd.single && (get(cd, CD.ASID) & ~cd.features.asidMask) !== 0,
  },
  { name: "TG0", section: "5.4 TG0", illegal: (cd) => cd.low && badGranule(cd, GRANULE_OF_TG0[get(cd, CD.TG0)]) },
  {
    name: "T0SZ",
    section: "5.4 T0SZ",
    illegal: (cd) => cd.low && badSize(cd, get(cd, CD.T0SZ), GRANULE_OF_TG0[get(cd, CD.TG0)]),
  },
  { name: "TTB0 out of range", section: "5.4 TTB0", illegal: (cd) => cd.low && beyondOutput(cd, CD.TTB0.word) },
  { name: "TG1", section: "5.4 TG1", illegal: (cd) => cd.high && badGranule(cd, GRANULE_OF_TG1[get(cd, CD.TG1)]) },
  {
    name: "T1SZ",
    section: "5.4 T1SZ",
    illegal: (cd) => cd.high && badSize(cd, get(cd, CD.T1SZ), GRANULE_OF_TG1[get(cd, CD.TG1)]),
  },
  { name: "TTB1 out of range", section: "5.4 TTB1", illegal: (cd) => cd.high && beyondOutput(cd, CD.TTB1.word) },
];

/** The first rule that makes the CD at `at` ILLEGAL, or undefined. */
export function findCdViolation(
  words: Int32Array,
  at: number,
  features: Features,
  context: CdContext,
): CdRule | undefined {
  const low = getField(words, at, CD.EPD0) === 0;
  const high = !context.single && getField(words, at, CD.EPD1) === 0;
  const subject = { words, at, features, low, high, ...context };
  return CD_RULES.find((rule) => rule.illegal(subject));
}

/** Checks CDs, remembering the last legal one like `SteChecker`. */
export class CdChecker {
  readonly #features: Features;
  readonly #word1Mask: number;
  readonly #legal = new Int32Array(5).fill(-1);

  constructor(features: Features) {
    this.#features = features;
    // The part of ASID that is implemented may have any value.
    this.#word1Mask = ~(features.asidMask << CD.ASID.shift);
  }

  /** True where the CD at `at` is not ILLEGAL. */
  check(words: Int32Array, at: number, s1Stalld: boolean, single: boolean): boolean {
    const legal = this.#legal;
    const word1 = words[at + 1]! & this.#word1Mask;
    const context = (s1Stalld ? 1 : 0) | (single ? 2 : 0);
    if (
      legal[0] === words[at] &&
      legal[1] === word1 &&
      legal[2] === words[at + 3] &&
      legal[3] === words[at + 5] &&
      legal[4] === context
    ) {
      return true;
    }
    if (findCdViolation(words, at, this.#features, { s1Stalld, single }) !== undefined) return false;
    legal[0] = words[at]!;
    legal[1] = word1;
    legal[2] = words[at + 3]!;
    legal[3] = words[at + 5]!;
    legal[4] = context;
    return true;
  }
}
