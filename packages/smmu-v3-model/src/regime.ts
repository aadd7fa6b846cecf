import { CD, extract, maskOf, OFFSET, REG, STE, STE_CONFIG, STE_STRW, STE_VTCR_MASK, STE_VTCR_WORD } from "@smmuv3/smmu-v3-defs";
import { HALF, STAGE1, STAGE2 } from "@smmuv3/vmsa-walk";
import type { Stage1Walker, Stage2Walker } from "@smmuv3/vmsa-walk";
import { GRANULE_OF_TG0, GRANULE_OF_TG1 } from "./cd-rules.ts";
import type { Features } from "./presets.ts";
import type { RegisterFile } from "./registers.ts";
import { KIND } from "./tlb.ts";

const PS_SHIFT = STE.S2PS.lsb - STE.S2T0SZ.lsb;
const PS = STE.S2PS.mask << PS_SHIFT;

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
    ((word5 & maskOf(STE.S2AFFD)) !== 0 ? STAGE2.AFFD : 0) | (features.xnx ? STAGE2.XNX : 0),
  );
}

/** EL2 stream without E2H: one half, one privilege level, no ASID. */
export function isSingle(kind: number, file: RegisterFile): boolean {
  return kind === KIND.EL2 && (file.get(OFFSET.CR2) & maskOf(REG.CR2.E2H)) === 0;
}

/** StreamWorld of a stream whose stage 1 is used (5.2, STRW). */
export function streamKind(words: Int32Array, at: number, features: Features): number {
  if (extract(words[at + STE.Config.word]!, STE.Config) !== STE_CONFIG.s1) return KIND.EL1;
  const el2 = features.hyp && extract(words[at + STE.STRW.word]!, STE.STRW) === STE_STRW.el2;
  return el2 ? KIND.EL2 : KIND.EL1;
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
    ((word1 & maskOf(CD.AFFD)) !== 0 ? STAGE1.AFFD : 0) |
    ((word1 & maskOf(CD.WXN)) !== 0 ? STAGE1.WXN : 0) |
    ((word1 & maskOf(CD.PAN)) !== 0 ? STAGE1.PAN : 0) |
    (single ? STAGE1.SINGLE : 0) |
    (nested ? STAGE1.NESTED : 0) |
    (ptw ? STAGE1.PTW : 0);
  // An IPS beyond OAS is OAS (3.4).
  walker.configure(Math.min(extract(word1, CD.IPS), features.oas), flags);
  walker.configureHalf(
    false,
    words[at + CD.TTB0.word]! & CD.TTB0.loMask,
    words[at + CD.TTB0.word + 1]! & CD.TTB0.hiMask,
    extract(word0, CD.T0SZ),
    GRANULE_OF_TG0[extract(word0, CD.TG0)] ?? 0,
    ((word0 & maskOf(CD.EPD0)) !== 0 ? HALF.DISABLED : 0) |
      ((word1 & maskOf(CD.TBI0)) !== 0 ? HALF.TBI : 0) |
      (features.had && (words[at + CD.HAD0.word]! & maskOf(CD.HAD0)) !== 0 ? HALF.HAD : 0),
  );
  walker.configureHalf(
    true,
    words[at + CD.TTB1.word]! & CD.TTB1.loMask,
    words[at + CD.TTB1.word + 1]! & CD.TTB1.hiMask,
    extract(word0, CD.T1SZ),
    GRANULE_OF_TG1[extract(word0, CD.TG1)] ?? 0,
    (single || (word0 & maskOf(CD.EPD1)) !== 0 ? HALF.DISABLED : 0) |
      ((word1 & maskOf(CD.TBI1)) !== 0 ? HALF.TBI : 0) |
      (features.had && (words[at + CD.HAD1.word]! & maskOf(CD.HAD1)) !== 0 ? HALF.HAD : 0),
  );
}
