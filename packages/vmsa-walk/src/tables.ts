import { PERM_WRITE } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";
import { aboveHi, alignWord, GRANULE, GRANULES, locate, swap } from "./granule.ts";
import { WALK } from "./status.ts";

/** Access flag: bit 10 of a block, a page, and with HAFT of a table descriptor. */
export const AF = 0x400;
/** Dirty bit modifier, bit 51, in the high word. */
export const DBM = 0x8_0000;

/** Called for every descriptor read: stage, level, physical address, and the descriptor as the architecture numbers its bits. */
export type WalkTrace = (stage: number, level: number, paLo: number, paHi: number, lo: number, hi: number) => void;

/** Called after every descriptor update: stage, level, physical address, and the new low word. */
export type WalkUpdate = (stage: number, level: number, paLo: number, paHi: number, lo: number) => void;

/** Where descriptors keep bits [51:48] of an address. */
const FORM = { NONE: 0, K64: 1, DS: 2 } as const;

/** Bits of a high word that no address of RAM has, among [47:32], and bits [63:59] of a table descriptor. */
const BEYOND_RAM = 0xf800;
const TABLE_RIGHTS = 0x1f << 27;

/** Levels of the longest walk: -1 to 3. */
const LEVELS = 5;

/** Options of {@link Tables.configure} that change how descriptors are read. */
export const LAYOUT = {
  /** Addresses of 52 bits with 4K and 16K (FEAT_LPA2). */
  DS: 1,
  /** Physical addresses have 52 bits: 64K descriptors hold bits [51:48], and level 1 may hold blocks. */
  LPA: 2,
  /** Descriptors are big-endian. */
  BIG_ENDIAN: 4,
  /** Hardware updates descriptors. */
  HA: 8,
  /** It sets the access flag of table descriptors, too (FEAT_HAFT); needs HA. */
  HAFT: 16,
  /** Addresses of descriptors go through stage 2. */
  NESTED: 32,
  /** Walks are never ordinary: their owner has more to look at than {@link Tables.ordinary} does. */
  ODD: 64,
} as const;

/** How an ordinary walk goes: not at all, by {@link Tables.ordinary}, or through stage 2 at each level. */
export const ROUTE = { NONE: 0, DIRECT: 1, NESTED: 2 } as const;

/** What translates the addresses of stage-1 descriptors: the part of stage 2 that a walk of stage 1 needs. */
export interface DescriptorRoute {
  /** Returns one of WALK; `paLo` and `paHi` have the address. */
  walk(ipaLo: number, ipaHi: number, need: number): number;
  readonly paLo: number;
  readonly paHi: number;
}

/** Physical address of the word at index `at` of a memory. */
function addressLo(memory: Memory, at: number): number {
  return ((memory.basePage + (at >>> 10)) << 12) | ((at & 0x3ff) << 2);
}

function addressHi(memory: Memory, at: number): number {
  return (memory.basePage + (at >>> 10)) >>> 20;
}

/** High word of the address that a descriptor holds. */
function outputHi(lo: number, hi: number, mask: number, form: number): number {
  const high = hi & mask;
  if (form === FORM.NONE) return high;
  return form === FORM.K64 ? high | ((lo & 0xf000) << 4) : high | ((lo & 0x300) << 10);
}

/**
 * One tree of translation tables: its configuration, decoded once, and the descriptor at which the last walk down of it ended.
 * Knows the shape of tables and descriptors; rights, flags and stages are its owner's.
 */
export class Tables {
  /** What stage 1 knows of one half of its address space: EPDn is 0, HADn is 0, E0PDn, and TnSZ of LPAE (0 where disabled). */
  enabled = false;
  hierarchical = false;
  e0pd = false;
  tsz32 = 0;
  /** Bits above the input range. */
  topLo = -1;
  topHi = -1;
  /** Address of the first table, and mask of indices into it, times 2. */
  rootLo = 0;
  rootHi = 0;
  rootMask = 0;
  /** Index in `Memory.words` of the first table, negative where not all of it is RAM. */
  rootAt = -1;
  /** Bits of a high word that make a leaf, or a table descriptor, one for {@link descendAny}. */
  leafTop = 0;
  tableTop = 0;
  /** {@link ROUTE} of walks that are ordinary. */
  route = 0;
  startLevel = 0;
  startShift = 0;
  /** Shareability of all leaves, or -1 where each has its own. */
  sh = -1;

  /** The last descriptor, its physical address and level, log2 of what it spans, and all table descriptors before it ORed. */
  descLo = 0;
  descHi = 0;
  /** Index in `Memory.words` of the last descriptor, or -1 where {@link descPaLo} and {@link descPaHi} have its address. */
  descAt = -1;
  descPaLo = 0;
  descPaHi = 0;
  level = 0;
  shift = 0;
  inheritedHi = 0;
  /** The address of the last descriptor before stage 2, set by {@link descendAny}. */
  slotLo = 0;
  slotHi = 0;
  /** Descriptor reads since construction. */
  reads = 0;
  /** Output of the last descriptor for the last input. */
  outLo = 0;
  outHi = 0;

  /**
   * Descriptors to be updated, from the first level on: index of the first word, level, address before stage 2, and what to XOR
   * into the low word. {@link ordinary} has none.
   */
  pending = 0;
  readonly pendingAt: Int32Array = new Int32Array(LEVELS);
  readonly pendingLevel: Int32Array = new Int32Array(LEVELS);
  readonly pendingLo: Int32Array = new Int32Array(LEVELS);
  readonly pendingHi: Int32Array = new Int32Array(LEVELS);
  readonly pendingFlip: Int32Array = new Int32Array(LEVELS);

  readonly stage: number;
  readonly #memory: Memory;
  #haft = false;
  #bigEndian = false;
  /** {@link route} while there is no trace. */
  #untraced = 0;
  #trace: WalkTrace | null = null;
  #tableAlign = 0;
  #startMask = 0;
  #stride = 9;
  #addressMask = 0;
  #highMask = 0xffff;
  #blockLevel = 1;
  #form: number = FORM.NONE;
  #outputTop = 0;

  constructor(stage: number, memory: Memory) {
    this.stage = stage;
    this.#memory = memory;
  }

  get trace(): WalkTrace | null {
    return this.#trace;
  }

  set trace(trace: WalkTrace | null) {
    this.#trace = trace;
    this.route = trace === null ? this.#untraced : ROUTE.NONE;
  }

  /**
   * @param ttbLo,ttbHi address of the first table; bits below its size are ignored
   * @param inputBits size of the input range
   * @param startLevel -1 to 3
   * @param granule of GRANULE
   * @param outputBits 32 to 52
   * @param layout of {@link LAYOUT}
   */
  configure(ttbLo: number, ttbHi: number, inputBits: number, startLevel: number, granule: number, outputBits: number, layout: number): void {
    const { pageShift, stride, blockLevel, addressMask } = GRANULES[granule]!;
    const ds = (layout & LAYOUT.DS) !== 0 && granule !== GRANULE.K64;
    const wide = granule === GRANULE.K64 && ((layout & LAYOUT.LPA) !== 0 || outputBits > 48);
    const startShift = pageShift + (3 - startLevel) * stride;
    const startBits = inputBits - startShift;
    this.startLevel = startLevel;
    this.startShift = startShift;
    this.#startMask = (1 << startBits) - 1;
    this.rootMask = this.#startMask << 1;
    // A first table is aligned to its size, and to 64 bytes with 52-bit outputs (IHI 0070 5.2 S2TTB, 5.4 TTB0).
    this.#tableAlign = Math.max(startBits + 3, outputBits > 48 ? 6 : 0);
    this.#stride = stride;
    this.#addressMask = addressMask;
    this.#highMask = ds ? 0x3_ffff : 0xffff;
    this.#blockLevel = ds || wide ? blockLevel - 1 : blockLevel;
    this.#form = ds ? FORM.DS : wide ? FORM.K64 : FORM.NONE;
    this.#outputTop = aboveHi(outputBits);
    this.#bigEndian = (layout & LAYOUT.BIG_ENDIAN) !== 0;
    this.#haft = (layout & LAYOUT.HAFT) !== 0;
    this.pending = 0;
    this.leafTop = this.#outputTop & 0xffff;
    // Of stage 1 also APTable, UXNTable and PXNTable, and what lies next to them.
    this.tableTop = this.leafTop | BEYOND_RAM | (this.hierarchical ? TABLE_RIGHTS : 0);
    const odd = layout & (LAYOUT.DS | LAYOUT.BIG_ENDIAN | LAYOUT.HA | LAYOUT.ODD);
    const plain = granule === GRANULE.K4 && odd === 0 && (startLevel === 0 || startLevel === 1);
    this.#untraced = !plain ? ROUTE.NONE : (layout & LAYOUT.NESTED) === 0 ? ROUTE.DIRECT : ROUTE.NESTED;
    this.route = this.#trace === null ? this.#untraced : ROUTE.NONE;
    this.setRoot(ttbLo, ttbHi);
    this.topHi = inputBits >= 32 ? aboveHi(inputBits) : -1;
    this.topLo = inputBits >= 32 ? 0 : ~((1 << inputBits) - 1);
  }

  /** No walk is ordinary until the next {@link configure}. */
  disable(): void {
    this.#untraced = ROUTE.NONE;
    this.route = ROUTE.NONE;
  }

  /** Replaces the address of the first table and leaves all else as it is configured. */
  setRoot(ttbLo: number, ttbHi: number): void {
    const lo = alignWord(ttbLo, this.#tableAlign);
    this.rootLo = lo;
    this.rootHi = ttbHi;
    const memory = this.#memory;
    const page = memory.pageOf(lo, ttbHi);
    const last = page + (this.rootMask >>> 10);
    this.rootAt = page < 0 || last >= memory.pages ? -1 - this.rootMask : (page << 10) | ((lo & 0xfff) >>> 2);
  }

  /** Physical address of the last descriptor. */
  get addressLo(): number {
    return this.descAt < 0 ? this.descPaLo : addressLo(this.#memory, this.descAt);
  }

  get addressHi(): number {
    return this.descAt < 0 ? this.descPaHi : addressHi(this.#memory, this.descAt);
  }

  /** Index into `Memory.words` of the last descriptor. */
  indexIn(memory: Memory): number {
    return (memory.pageOf(this.descPaLo, this.descPaHi) << 10) | ((this.descPaLo & 0xfff) >>> 2);
  }

  /** Notes that no table was reached. */
  refuse(): number {
    this.level = 0;
    return WALK.TRANSLATION;
  }

  /**
   * The way down of an ordinary walk: one stage, readable tables without restrictions for what is below them, and a
   * leaf at level 3 or a block at level 2 whose address fits. Changes nothing.
   * @returns the index in `Memory.words` of the leaf, plus 1 for a block; -1 for anything else, which is for {@link descendAny}
   */
  ordinary(memory: Memory, inLo: number, inHi: number): number {
    let at = (this.rootAt + ((this.startLevel === 0 ? inHi >>> 6 : (inHi << 3) | (inLo >>> 29)) & this.rootMask)) | 0;
    const perm = memory.perm;
    if (at < 0 || (perm[at >>> 10]! & 1) === 0) return -1;
    const words = memory.words;
    const pages = memory.pages | 0;
    const basePage = memory.basePage | 0;
    const top = this.tableTop;
    // Levels written out: a loop takes half as long again.
    let lo = words[at]!;
    let hi = words[at | 1]!;
    let page = (((hi << 20) | (lo >>> 12)) - basePage) | 0;
    if ((lo & 3) !== 3 || (hi & top) !== 0 || page >>> 0 >= pages || (perm[page]! & 1) === 0) return -1;
    if (this.startLevel === 0) {
      at = (page << 10) | (((inHi << 3) | (inLo >>> 29)) & 0x3fe);
      lo = words[at]!;
      hi = words[at | 1]!;
      page = (((hi << 20) | (lo >>> 12)) - basePage) | 0;
      if ((lo & 3) !== 3 || (hi & top) !== 0 || page >>> 0 >= pages || (perm[page]! & 1) === 0) return -1;
    }
    at = (page << 10) | (((inHi << 12) | (inLo >>> 20)) & 0x3fe);
    lo = words[at]!;
    hi = words[at | 1]!;
    if ((lo & 3) === 3) {
      page = (((hi << 20) | (lo >>> 12)) - basePage) | 0;
      if ((hi & top) !== 0 || page >>> 0 >= pages || (perm[page]! & 1) === 0) return -1;
      at = (page << 10) | ((inLo >>> 11) & 0x3fe);
      return (words[at]! & 3) === 3 && (words[at | 1]! & this.leafTop) === 0 ? at : -1;
    }
    return (lo & 3) === 1 && (hi & this.leafTop) === 0 ? at | 1 : -1;
  }

  /** Notes what {@link ordinary} has found at `at`; `lo` and `hi` are the descriptor. */
  arrive(at: number, lo: number, hi: number): void {
    const block = at & 1;
    this.level = 3 - block;
    this.shift = block === 0 ? 12 : 21;
    this.descAt = at & ~1;
    this.descLo = lo;
    this.descHi = hi;
    this.reads += 4 - block - this.startLevel;
  }

  /**
   * Walks down from the first table to the descriptor that ends the walk: a leaf, or one that is not a good pointer to a table.
   * @param via stage 2 of descriptor addresses, or null where they are physical
   * @param need of PERM, what fetches need of `via`
   * @returns one of WALK as far as it does not depend on flags and rights, or ~status where `via` refused
   */
  descendAny(memory: Memory, inLo: number, inHi: number, via: DescriptorRoute | null, need: number): number {
    const words = memory.words;
    const perm = memory.perm;
    const pages = memory.pages;
    const basePage = memory.basePage;
    const stride = this.#stride;
    const form = this.#form;
    const highMask = this.#highMask;
    const top = this.#outputTop;
    const odd = this.#bigEndian || this.#trace !== null;
    const haft = this.#haft;
    let shift = this.startShift;
    let mask = this.#startMask;
    let level = this.startLevel;
    let tableLo = this.rootLo;
    let tableHi = this.rootHi;
    let inherited = 0;
    this.pending = 0;
    for (;;) {
      const index = shift >= 32 ? inHi >>> (shift - 32) : (inLo >>> shift) | (inHi << (32 - shift));
      const slot = tableLo | ((index & mask) << 3);
      let paLo = slot;
      let paHi = tableHi;
      if (via !== null) {
        const status = via.walk(slot, tableHi, need);
        if (status !== WALK.OK) {
          this.reads += level - this.startLevel;
          this.level = level;
          this.slotLo = slot;
          this.slotHi = tableHi;
          return ~status;
        }
        paLo = via.paLo;
        paHi = via.paHi;
      }
      const at = locate(paLo, paHi, perm, pages, basePage);
      if (at < 0) return this.#abort(level, paLo, paHi);
      let lo = words[at]!;
      let hi = words[at + 1]!;
      if (odd) {
        if (this.#bigEndian) {
          const first = lo;
          lo = swap(hi);
          hi = swap(first);
        }
        if (this.#trace !== null) this.#trace(this.stage, level, paLo, paHi, lo, hi);
      }
      const outHi = outputHi(lo, hi, highMask, form);
      if ((lo & 3) !== 3 || level === 3 || (outHi & top) !== 0) {
        this.slotLo = slot;
        this.slotHi = tableHi;
        return this.#end(level, shift, paLo, paHi, lo, hi, inherited, inLo, inHi);
      }
      if (haft && (lo & AF) === 0) this.note(at, level, slot, tableHi, AF);
      inherited |= hi;
      tableLo = lo & this.#addressMask;
      tableHi = outHi;
      shift -= stride;
      level++;
      mask = (1 << stride) - 1;
    }
  }

  /** Adds a descriptor to those to be updated; `flip` is what changes of its low word. */
  note(at: number, level: number, slotLo: number, slotHi: number, flip: number): void {
    const i = this.pending++;
    this.pendingAt[i] = at;
    this.pendingLevel[i] = level;
    this.pendingLo[i] = slotLo;
    this.pendingHi[i] = slotHi;
    this.pendingFlip[i] = flip;
  }

  /** EXTERNAL_ABORT where the descriptor of pending update `i` lies in a page that may not be written, else OK. */
  checkPending(memory: Memory, i: number): number {
    const at = this.pendingAt[i]!;
    if ((memory.perm[at >>> 10]! & PERM_WRITE) !== 0) return WALK.OK;
    this.level = this.pendingLevel[i]!;
    this.descAt = -1;
    this.descPaLo = addressLo(memory, at);
    this.descPaHi = addressHi(memory, at);
    return WALK.EXTERNAL_ABORT;
  }

  /** Does pending update `i`: one store to the word that holds the low half of the descriptor. */
  update(memory: Memory, i: number, hook: WalkUpdate | null): void {
    const at = this.pendingAt[i]!;
    const word = this.#bigEndian ? at + 1 : at;
    const flip = this.pendingFlip[i]!;
    memory.words[word]! ^= this.#bigEndian ? swap(flip) : flip;
    const level = this.pendingLevel[i]!;
    const lo = this.#bigEndian ? swap(memory.words[word]!) : memory.words[word]!;
    if (hook !== null) hook(this.stage, level, addressLo(memory, at), addressHi(memory, at), lo);
  }

  #abort(level: number, paLo: number, paHi: number): number {
    this.reads += level - this.startLevel;
    this.level = level;
    this.descAt = -1;
    this.descPaLo = paLo;
    this.descPaHi = paHi;
    return WALK.EXTERNAL_ABORT;
  }

  /** Ends a walk at a descriptor: checks its type, then the size of its address, and forms the output. */
  #end(
    level: number,
    shift: number,
    paLo: number,
    paHi: number,
    lo: number,
    hi: number,
    inherited: number,
    inLo: number,
    inHi: number,
  ): number {
    this.reads += level - this.startLevel + 1;
    this.level = level;
    this.shift = shift;
    this.descAt = -1;
    this.descPaLo = paLo;
    this.descPaHi = paHi;
    this.descLo = lo;
    this.descHi = hi;
    this.inheritedHi = inherited;
    if ((lo & 1) === 0 || ((lo & 2) === 0 && (level === 3 || level < this.#blockLevel))) return WALK.TRANSLATION;
    // A walk ends at a table descriptor only because of its address.
    if (level < 3 && (lo & 2) !== 0) return WALK.ADDRESS_SIZE;
    const base = outputHi(lo, hi, this.#highMask, this.#form);
    const low = shift < 32 ? (1 << shift) - 1 : -1;
    const high = shift < 32 ? 0 : (1 << (shift - 32)) - 1;
    this.outLo = (lo & this.#addressMask & ~low) | (inLo & low);
    this.outHi = (base & ~high) | (inHi & high);
    return (this.outHi & this.#outputTop) === 0 ? WALK.OK : WALK.ADDRESS_SIZE;
  }
}
