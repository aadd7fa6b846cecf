import { CD, maskOf, STE } from "@smmuv3/smmu-v3-defs";
import type { Stage1Walker, Stage2Walker } from "@smmuv3/vmsa-walk";
import type { Features } from "./presets.ts";
import { configureStage1, configureStage2 } from "./regime.ts";

// Of this module, for the compiler to see them as constants.
const ASID = maskOf(CD.ASID);
const { word: TTB0, loMask: TTB0_LO, hiMask: TTB0_HI } = CD.TTB0;
const { word: TTB1, loMask: TTB1_LO, hiMask: TTB1_HI } = CD.TTB1;
const { word: S2TTB, loMask: S2TTB_LO, hiMask: S2TTB_HI } = STE.S2TTB;
const PTW = maskOf(STE.S2PTW);
const PTW_WORD = STE.S2PTW.word;
const FWB = maskOf(STE.S2FWB);
const FWB_WORD = STE.S2FWB.word;
const VTCR_WORD = STE.S2T0SZ.word;

/**
 * Sets up the walkers of a translation unit for one stream after the other. Streams of one driver differ in the addresses of their
 * tables and in their ASID: only those are exchanged where everything else is as it was.
 */
export class WalkerSetup {
  readonly #stage1: Stage1Walker;
  readonly #stage2: Stage2Walker;
  readonly #features: Features;
  /** CD words 0 to 5 without addresses and ASID, and a word of flags; STE words 2, 5, 6 and 7 without addresses. */
  readonly #cd = new Int32Array(7);
  readonly #ste = new Int32Array(4);
  #knows1 = 0;
  #knows2 = 0;

  constructor(features: Features, stage1: Stage1Walker, stage2: Stage2Walker) {
    this.#features = features;
    this.#stage1 = stage1;
    this.#stage2 = stage2;
  }

  /** Somebody else has configured the walkers. */
  forget(): void {
    this.#knows1 = 0;
    this.#knows2 = 0;
  }

  /**
   * @param cds,cd where the CD is
   * @param stes,ste where the STE is
   * @param nested,single see configureStage1
   */
  stage1(cds: Int32Array, cd: number, stes: Int32Array, ste: number, nested: boolean, single: boolean): void {
    const ptw = nested && (stes[ste + PTW_WORD]! & PTW) !== 0;
    const flags = (nested ? 1 : 0) | (single ? 2 : 0) | (ptw ? 4 : 0);
    const word0 = cds[cd]!;
    const word1 = cds[cd + 1]! & ~ASID;
    const lo0 = cds[cd + TTB0]!;
    const hi0 = cds[cd + TTB0 + 1]!;
    const lo1 = cds[cd + TTB1]!;
    const hi1 = cds[cd + TTB1 + 1]!;
    const known = this.#cd;
    const changed =
      (known[0]! ^ word0) |
      (known[1]! ^ word1) |
      (known[2]! ^ (lo0 & ~TTB0_LO)) |
      (known[3]! ^ (hi0 & ~TTB0_HI)) |
      (known[4]! ^ (lo1 & ~TTB1_LO)) |
      (known[5]! ^ (hi1 & ~TTB1_HI)) |
      (known[6]! ^ flags);
    if (changed === 0 && this.#knows1 === 1) {
      this.#stage1.setRoots(lo0 & TTB0_LO, hi0 & TTB0_HI, lo1 & TTB1_LO, hi1 & TTB1_HI);
      return;
    }
    configureStage1(this.#stage1, cds, cd, this.#features, nested, ptw, single);
    known[0] = word0;
    known[1] = word1;
    known[2] = lo0 & ~TTB0_LO;
    known[3] = hi0 & ~TTB0_HI;
    known[4] = lo1 & ~TTB1_LO;
    known[5] = hi1 & ~TTB1_HI;
    known[6] = flags;
    this.#knows1 = 1;
  }

  /** The same for stage 2. */
  stage2(stes: Int32Array, ste: number): void {
    const fwb = stes[ste + FWB_WORD]! & FWB;
    const vtcr = stes[ste + VTCR_WORD]!;
    const lo = stes[ste + S2TTB]!;
    const hi = stes[ste + S2TTB + 1]!;
    const known = this.#ste;
    const changed = (known[0]! ^ fwb) | (known[1]! ^ vtcr) | (known[2]! ^ (lo & ~S2TTB_LO)) | (known[3]! ^ (hi & ~S2TTB_HI));
    if (changed === 0 && this.#knows2 === 1) {
      this.#stage2.setRoot(lo & S2TTB_LO, hi & S2TTB_HI);
      return;
    }
    configureStage2(this.#stage2, stes, ste, this.#features);
    known[0] = fwb;
    known[1] = vtcr;
    known[2] = lo & ~S2TTB_LO;
    known[3] = hi & ~S2TTB_HI;
    this.#knows2 = 1;
  }
}
