import type { Memory } from "@smmuv3/platform";
import type { ConfigTrace } from "./config.ts";

/** One structure that a translation read, as it was then. */
export interface TracedRead {
  /** S1 and S2 are translation table descriptors of that stage. */
  readonly what: "L1STD" | "STE" | "L1CD" | "CD" | "S1" | "S2";
  /** Level of a descriptor, -1 to 3; 0 for other structures. */
  readonly level: number;
  /** Physical address. */
  readonly pa: number;
  /** Little-endian words; those of a descriptor as the architecture numbers its bits. */
  readonly words: Int32Array;
}

/** Collects what a translation unit reads; {@link TranslationUnit.trace} connects it. */
export class ReadRecorder {
  /** In the order of the accesses. */
  reads: TracedRead[] = [];
  readonly config: ConfigTrace;
  readonly walk: (stage: number, level: number, paLo: number, paHi: number, lo: number, hi: number) => void;

  constructor(memory: Memory) {
    this.config = (what, index, count): void => {
      const words = memory.words.slice(index, index + count);
      this.reads.push({ what, level: 0, pa: memory.base + index * 4, words });
    };
    this.walk = (stage, level, paLo, paHi, lo, hi): void => {
      const pa = (paHi >>> 0) * 0x1_0000_0000 + (paLo >>> 0);
      this.reads.push({ what: stage === 1 ? "S1" : "S2", level, pa, words: Int32Array.of(lo, hi) });
    };
  }
}
