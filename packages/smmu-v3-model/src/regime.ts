import { CD, extract, getField, maskOf, OFFSET, REG, STE, STE_CONFIG, STE_STRW, STE_VTCR_MASK, STE_VTCR_WORD } from "@smmuv3/smmu-v3-defs";
import type { Field } from "@smmuv3/smmu-v3-defs";
import { HALF, STAGE1, STAGE2 } from "@smmuv3/vmsa-walk";
import type { Stage1Walker, Stage2Walker } from "@smmuv3/vmsa-walk";
import { CD_CONTEXT, GRANULE_OF_TG0, GRANULE_OF_TG1 } from "./cd-rules.ts";
import type { Features } from "./presets.ts";
import type { RegisterFile } from "./registers.ts";
import { usesLpaeStage2 } from "./ste-rules.ts";
import { KIND } from "./tlb.ts";

const PS_SHIFT = STE.S2PS.lsb - STE.S2T0SZ.lsb;
const PS = STE.S2PS.mask << PS_SHIFT;
// Of this module, for the compiler to see them as constants.
const { EL1, EL2 } = KIND;
const CONFIG_SHIFT = STE.Config.shift;
const ONLY_S1 = STE_CONFIG.s1;
/** Config[1]. */
const USES_S2 = 2 << STE.Config.shift;
const { word: STRW_WORD, shift: STRW_SHIFT } = STE.STRW;
const STRW_EL2 = STE_STRW.el2;
const STALLD_WORD = STE.S1STALLD.word;
const STALLD = maskOf(STE.S1STALLD);
const PIE = maskOf(STE.S1PIE);
const {
  S1STALLD: CONTEXT_STALLD, S1PIE: CONTEXT_PIE, SINGLE: CONTEXT_SINGLE, E2H: CONTEXT_E2H, LPAE_STAGE2: CONTEXT_LPAE,
} = CD_CONTEXT;
/** OAS from which physical addresses have 52 bits. */
const LARGE_OAS = 6;

/** Rows of a table that turns fields into flags: the field, its flag, and the features without which it is IGNORED. */
type FlagRow<Of extends string> = readonly [field: Field<Of>, flag: number, built?: (features: Features) => boolean];

const STAGE2_FLAGS: readonly FlagRow<"STE">[] = [
  [STE.S2AFFD, STAGE2.AFFD],
  [STE.S2HA, STAGE2.HA, (features) => features.httu >= 1],
  [STE.S2HD, STAGE2.HD, (features) => features.httu >= 2],
  [STE.S2HAFT, STAGE2.HAFT, (features) => features.httu >= 3],
  [STE.S2ENDI, STAGE2.BIG_ENDIAN],
  [STE.S2DS, STAGE2.DS, (features) => features.ds],
  [STE.S2SL0_2, STAGE2.SL2, (features) => features.ds],
  [STE.S2FWB, STAGE2.FWB, (features) => features.fwb],
];

const STAGE1_FLAGS: readonly FlagRow<"CD">[] = [
  [CD.AFFD, STAGE1.AFFD],
  [CD.WXN, STAGE1.WXN],
  [CD.UWXN, STAGE1.UWXN],
  [CD.PAN, STAGE1.PAN],
  [CD.EPAN, STAGE1.EPAN, (features) => features.epan],
  [CD.HA, STAGE1.HA, (features) => features.httu >= 1],
  [CD.HD, STAGE1.HD, (features) => features.httu >= 2],
  [CD.HAFT, STAGE1.HAFT, (features) => features.httu >= 3],
  [CD.ENDI, STAGE1.BIG_ENDIAN],
  [CD.DS, STAGE1.DS, (features) => features.ds],
];

/** Flags of the fields that are 1. */
function collect<Of extends string>(
  rows: readonly FlagRow<Of>[],
  words: Int32Array,
  at: number,
  features: Features,
): number {
  let flags = 0;
  for (const [field, flag, built] of rows) {
    if ((words[at + field.word]! & maskOf(field)) !== 0 && (built === undefined || built(features))) flags |= flag;
  }
  return flags;
}

/** Sets up the stage-2 walker from the STE whose first word is `words[at]`. */
export function configureStage2(walker: Stage2Walker, words: Int32Array, at: number, features: Features): void {
  const word5 = words[at + STE_VTCR_WORD]!;
  const vtcr = word5 & STE_VTCR_MASK;
  // An S2PS beyond OAS is OAS (3.4).
  const ps = Math.min(extract(word5, STE.S2PS), features.oas);
  walker.configure(
    words[at + STE.S2TTB.word]! & STE.S2TTB.loMask,
    words[at + STE.S2TTB.word + 1]! & STE.S2TTB.hiMask,
    (vtcr & ~PS) | (ps << PS_SHIFT),
    collect(STAGE2_FLAGS, words, at, features) |
      (getField(words, at, STE.S2AA64) === 0 ? STAGE2.LPAE : 0) |
      (features.xnx ? STAGE2.XNX : 0) |
      (features.stt ? STAGE2.STT : 0) |
      (features.oas >= LARGE_OAS ? STAGE2.LPA : 0),
  );
}

/** EL2 stream without E2H: one half, one privilege level, no ASID. */
export function isSingle(kind: number, file: RegisterFile): boolean {
  return kind === EL2 && (file.get(OFFSET.CR2) & maskOf(REG.CR2.E2H)) === 0;
}

/** StreamWorld of a stream whose stage 1 is used (5.2, STRW). */
export function streamKind(words: Int32Array, at: number, features: Features): number {
  if (((words[at]! >>> CONFIG_SHIFT) & 7) !== ONLY_S1) return EL1;
  return features.hyp && ((words[at + STRW_WORD]! >>> STRW_SHIFT) & 3) === STRW_EL2 ? EL2 : EL1;
}

/** What the legality of a CD depends on in the STE `words[at]`: bits of CD_CONTEXT. `kind` and `single` as above. */
export function cdContext(words: Int32Array, at: number, kind: number, single: boolean): number {
  const word2 = words[at + STALLD_WORD]!;
  return (
    ((word2 & STALLD) === 0 ? 0 : CONTEXT_STALLD) |
    ((word2 & PIE) === 0 ? 0 : CONTEXT_PIE) |
    (single ? CONTEXT_SINGLE : 0) |
    (kind === EL2 && !single ? CONTEXT_E2H : 0) |
    ((words[at]! & USES_S2) !== 0 && usesLpaeStage2(words, at) ? CONTEXT_LPAE : 0)
  );
}

/** Sets up the stage-1 walker from the CD whose first word is `words[at]`. */
export function configureStage1(
  walker: Stage1Walker,
  words: Int32Array,
  at: number,
  features: Features,
  nested: boolean,
  ptw: boolean,
  single: boolean,
): void {
  const word0 = words[at]!;
  const word1 = words[at + 1]!;
  const flags =
    collect(STAGE1_FLAGS, words, at, features) |
    ((word1 & maskOf(CD.AA64)) === 0 ? STAGE1.LPAE : 0) |
    (features.stt ? STAGE1.STT : 0) |
    (features.oas >= LARGE_OAS ? STAGE1.LPA : 0) |
    (single ? STAGE1.SINGLE : 0) |
    (nested ? STAGE1.NESTED : 0) |
    (nested && ptw ? STAGE1.PTW : 0);
  // An IPS beyond OAS is OAS (3.4).
  walker.configure(Math.min(extract(word1, CD.IPS), features.oas), flags);
  walker.configureHalf(
    false,
    words[at + CD.TTB0.word]! & CD.TTB0.loMask,
    words[at + CD.TTB0.word + 1]! & CD.TTB0.hiMask,
    extract(word0, CD.T0SZ),
    GRANULE_OF_TG0[extract(word0, CD.TG0)] ?? 0,
    // Without a second half EPD0 is IGNORED (5.4).
    (!single && (word0 & maskOf(CD.EPD0)) !== 0 ? HALF.DISABLED : 0) |
      ((word1 & maskOf(CD.TBI0)) !== 0 ? HALF.TBI : 0) |
      (features.had && (words[at + CD.HAD0.word]! & maskOf(CD.HAD0)) !== 0 ? HALF.HAD : 0) |
      (features.e0pd && (words[at + CD.E0PD0.word]! & maskOf(CD.E0PD0)) !== 0 ? HALF.E0PD : 0) |
      (extract(word0, CD.SH0) << HALF.SH_SHIFT),
  );
  walker.configureHalf(
    true,
    words[at + CD.TTB1.word]! & CD.TTB1.loMask,
    words[at + CD.TTB1.word + 1]! & CD.TTB1.hiMask,
    extract(word0, CD.T1SZ),
    GRANULE_OF_TG1[extract(word0, CD.TG1)] ?? 0,
    (single || (word0 & maskOf(CD.EPD1)) !== 0 ? HALF.DISABLED : 0) |
      ((word1 & maskOf(CD.TBI1)) !== 0 ? HALF.TBI : 0) |
      (features.had && (words[at + CD.HAD1.word]! & maskOf(CD.HAD1)) !== 0 ? HALF.HAD : 0) |
      (features.e0pd && (words[at + CD.E0PD1.word]! & maskOf(CD.E0PD1)) !== 0 ? HALF.E0PD : 0) |
      (extract(word0, CD.SH1) << HALF.SH_SHIFT),
  );
}
