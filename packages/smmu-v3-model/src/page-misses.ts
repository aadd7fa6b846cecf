import type { Memory } from "@smmuv3/platform";
import { PERM } from "@smmuv3/vmsa-walk";
import type { Stage1Walker } from "@smmuv3/vmsa-walk";
import { CONTEXT } from "./contexts.ts";
import { RAW } from "./fill.ts";
import { ATTRIBUTES_SHIFT } from "./tlb.ts";
import type { Tlb } from "./tlb.ts";

// Of this module, for the compiler to see them as constants.
const { PAGE_KEY } = CONTEXT;
const { SH1, MEM_ATTR, SH2 } = RAW;
const ATTRIBUTES = ATTRIBUTES_SHIFT;
/** Of a leaf: the access flag, and nG. */
const AF_NG = 0xc00;
const NG = 0x800;
const PERM2_ALL = PERM.ALL << 6;
const LEVEL_3 = 3 << 20;

/** An ordinary walk may apply, but not {@link PageMisses.stage1}. */
export const OTHER = -2;

/**
 * The ordinary TLB misses: pages of 4K that are not global and permit the access. What it leaves in the TLB is what the long way
 * through `fillStage1` leaves there.
 */
export class PageMisses {
  /** Output of the last {@link stage1} that has found one. */
  paLo = 0;
  paHi = 0;

  readonly #contexts: Int32Array;
  readonly #tlb: Tlb;
  readonly #walker: Stage1Walker;
  readonly #words: Int32Array;

  constructor(contexts: Int32Array, tlb: Tlb, walker: Stage1Walker, memory: Memory) {
    this.#contexts = contexts;
    this.#tlb = tlb;
    this.#walker = walker;
    this.#words = memory.words;
  }

  /**
   * Walks stage 1 alone for the context at `c`, for which the walker is set up.
   * @returns descriptors read; or, and then nothing has happened, -1 where only `Stage1Walker.walkFully` will do, else {@link OTHER}
   */
  stage1(c: number, lo: number, hi: number, need: number): number {
    const walker = this.#walker;
    const at = walker.page(lo, hi);
    if (at < 0) return at;
    const words = this.#words;
    const descLo = words[at]!;
    const descHi = words[at | 1]!;
    const perm = walker.rights(descLo, descHi);
    if ((perm & need) === 0 || (descLo & AF_NG) !== AF_NG || this.#contexts[c | PAGE_KEY] === -1) return OTHER;
    const tlb = this.#tlb;
    const paLo = descLo & ~0xfff;
    const paHi = descHi & 0xffff;
    const entry = tlb.placePage(this.#contexts, c, (lo >>> 12) | (hi << 20), hi >>> 12);
    const data = tlb.data;
    data[entry | 4] = paLo | perm | PERM2_ALL;
    data[entry | 5] = paHi | LEVEL_3;
    data[entry | 6] = paLo | 12;
    data[entry | 7] = paHi | (((descLo >>> 2) & 7) << ATTRIBUTES) | (((descLo >>> 8) & 3) << (ATTRIBUTES + SH1));
    this.paLo = paLo | (lo & 0xfff);
    this.paHi = paHi;
    return walker.countPage(hi);
  }

  /** Keeps what a good walk of both stages has found. Returns 0, and does nothing, where that is not ordinary. */
  keepNested(c: number, lo: number, hi: number): number {
    const walker = this.#walker;
    const { stage2, descLo } = walker;
    if (walker.shift !== 12 || stage2.shift !== 12 || (descLo & NG) === 0 || this.#contexts[c | PAGE_KEY] === -1) return 0;
    if (walker.clean || stage2.clean) return 0;
    const tlb = this.#tlb;
    const entry = tlb.placePage(this.#contexts, c, (lo >>> 12) | (hi << 20), hi >>> 12);
    const data = tlb.data;
    const attributes = walker.attrIndex | (walker.shareability << SH1) | (stage2.memAttr << MEM_ATTR) | (stage2.shareability << SH2);
    data[entry | 4] = (stage2.paLo & ~0xfff) | walker.perm | (stage2.perm << 6);
    data[entry | 5] = stage2.paHi | LEVEL_3;
    data[entry | 6] = (walker.ipaLo & ~0xfff) | 12;
    data[entry | 7] = walker.ipaHi | (attributes << ATTRIBUTES);
    return 1;
  }
}
