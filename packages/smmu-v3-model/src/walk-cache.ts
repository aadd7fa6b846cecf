import { CD, CD_WORDS, getField, setAddress, setField, STE, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import { GRANULE, GRANULES } from "@smmuv3/vmsa-walk";
import type { Stage1Walker, Stage2Walker, WalkTrace } from "@smmuv3/vmsa-walk";
import { GRANULE_OF_TG0, GRANULE_OF_TG1 } from "./cd-rules.ts";
import type { CacheSize } from "./config-cache.ts";
import type { Features } from "./presets.ts";
import { configureStage1, configureStage2 } from "./regime.ts";
import type { TlbRange } from "./tlb.ts";
import type { TracedRead } from "./trace.ts";

/** A table descriptor, and those above it. */
export interface WalkEntry {
  readonly read: TracedRead;
  /** log2 of what the descriptor spans: the input size of the table below it. */
  readonly shift: number;
  readonly parent: WalkEntry | undefined;
}

/** An entry and those above it, from the top down, as plain data. */
export interface SavedWalk {
  readonly context: number;
  readonly key: number;
  readonly path: readonly { readonly what: TracedRead["what"]; readonly level: number; readonly pa: number; readonly words: readonly number[]; readonly shift: number }[];
}

/** Worlds in which an entry may be, by number: KIND. */
const EL2 = 2;
const IPA = 1;
const SHIFTS = 64;
/** Bits of a stage-1 table descriptor that restrict everything below it: APTable, UXNTable, PXNTable. */
const RESTRICTS = 0x7800_0000;

/** Exact below 2^53. */
function contextOf(kind: number, tag: number): number {
  return kind * 0x1_0000_0000 + (tag >>> 0);
}

/** Index of the block of 2^shift bytes, shift at least 12, that has the address. */
function blockOf(lo: number, hi: number, shift: number): number {
  return shift >= 32 ? (hi >>> 0) / 2 ** (shift - 32) : (hi >>> 0) * 2 ** (32 - shift) + (lo >>> shift);
}

/**
 * Walk cache (IHI 0070 16.2): table descriptors of levels above the leaf, tagged as TLB entries are. It is what makes Leaf = 0 in
 * a TLBI matter: after Leaf = 1, walks still go through tables that are gone. Tables that restrict what is below them, and those
 * of 52-bit addresses, are not kept, as is permitted.
 */
export class WalkCache {
  readonly #contexts = new Map<number, Map<number, WalkEntry>>();
  /** Spans that entries have had, in ascending order. */
  #shifts: number[] = [];
  #count = 0;
  readonly #size: CacheSize;

  constructor(size: CacheSize) {
    this.#size = size;
  }

  get size(): number {
    return this.#count;
  }

  /** The lowest table descriptor on the way to an address, or undefined. `tag` is ASID | VMID << 16. */
  find(kind: number, tag: number, lo: number, hi: number): WalkEntry | undefined {
    const entries = this.#contexts.get(contextOf(kind, tag));
    if (entries === undefined) return undefined;
    for (const shift of this.#shifts) {
      const entry = entries.get(Math.floor(blockOf(lo, hi, shift)) * SHIFTS + shift);
      if (entry !== undefined) return entry;
    }
    return undefined;
  }

  /**
   * Keeps the table descriptors among `reads`, those of one stage from the top down.
   * @param granule of GRANULE
   * @param parent where the walk began, if it was not at the first table
   */
  learn(kind: number, tag: number, lo: number, hi: number, granule: number, reads: readonly TracedRead[], parent: WalkEntry | undefined): void {
    const { pageShift, stride } = GRANULES[granule]!;
    let above = parent;
    for (const read of reads) {
      const [low, high] = [read.words[0]!, read.words[1]!];
      if (read.level === 3 || (low & 3) !== 3) return;
      if (read.what === "S1" && (high & RESTRICTS) !== 0) return;
      above = { read, shift: pageShift + (3 - read.level) * stride, parent: above };
      this.#keep(kind, tag, lo, hi, above);
    }
  }

  #keep(kind: number, tag: number, lo: number, hi: number, entry: WalkEntry): void {
    const context = contextOf(kind, tag);
    if (!this.#size.grows && this.#count >= this.#size.entries) this.#evict();
    let entries = this.#contexts.get(context);
    if (entries === undefined) {
      entries = new Map();
      this.#contexts.set(context, entries);
    }
    const { shift } = entry;
    if (!this.#shifts.includes(shift)) this.#shifts = [...this.#shifts, shift].sort((a, b) => a - b);
    const before = entries.size;
    entries.set(Math.floor(blockOf(lo, hi, shift)) * SHIFTS + shift, entry);
    this.#count += entries.size - before;
  }

  save(): SavedWalk[] {
    const saved: SavedWalk[] = [];
    for (const [context, entries] of this.#contexts) {
      for (const [key, entry] of entries) {
        const path: SavedWalk["path"][number][] = [];
        for (let at: WalkEntry | undefined = entry; at !== undefined; at = at.parent) {
          path.unshift({ ...at.read, words: Array.from(at.read.words), shift: at.shift });
        }
        saved.push({ context, key, path });
      }
    }
    return saved;
  }

  restore(saved: readonly SavedWalk[]): void {
    this.#contexts.clear();
    this.#count = saved.length;
    for (const { context, key, path } of saved) {
      let entry: WalkEntry | undefined;
      for (const { shift, words, ...read } of path) entry = { read: { ...read, words: Int32Array.from(words) }, shift, parent: entry };
      const entries = this.#contexts.get(context) ?? new Map<number, WalkEntry>();
      this.#contexts.set(context, entries.set(key, entry!));
      this.#shifts = [...new Set([...this.#shifts, entry!.shift])].sort((a, b) => a - b);
    }
  }

  /** Drops the oldest entry of the oldest context. */
  #evict(): void {
    const [first] = this.#contexts;
    if (first === undefined) return;
    const [context, entries] = first;
    const [key] = entries.keys();
    if (key !== undefined && entries.delete(key)) this.#count--;
    if (entries.size === 0) this.#contexts.delete(context);
  }

  /** Drops contexts by kind and VMID. */
  dropContexts(matches: (kind: number, vmid: number) => boolean): void {
    for (const [context, entries] of this.#contexts) {
      const tag = context % 0x1_0000_0000;
      if (!matches(Math.floor(context / 0x1_0000_0000), Math.floor(tag / 65536))) continue;
      this.#count -= entries.size;
      this.#contexts.delete(context);
    }
  }

  /** Everything but EL2. */
  dropNonHyp(): void {
    this.dropContexts((kind) => kind !== EL2);
  }

  dropHyp(): void {
    this.dropContexts((kind) => kind === EL2);
  }

  dropVmid(vmid: number): void {
    this.dropContexts((kind, other) => kind !== EL2 && other === vmid);
  }

  dropStage1(vmid: number): void {
    this.dropContexts((kind, other) => kind !== EL2 && kind !== IPA && other === vmid);
  }

  dropAsid(kind: number, vmid: number, asid: number): void {
    const context = contextOf(kind, asid | (vmid << 16));
    this.#count -= this.#contexts.get(context)?.size ?? 0;
    this.#contexts.delete(context);
  }

  /** Drops the tables that span one address of a context; `tag` is ASID | VMID << 16. */
  dropPage(kind: number, tag: number, lo: number, hi: number): void {
    const entries = this.#contexts.get(contextOf(kind, tag));
    if (entries === undefined) return;
    for (const shift of this.#shifts) {
      if (entries.delete(Math.floor(blockOf(lo, hi, shift)) * SHIFTS + shift)) this.#count--;
    }
  }

  /**
   * Drops the tables that span an address of a TLBI by address with Leaf = 0. A level hint names the leaf, and with it the tables
   * above that (4.4.1).
   */
  dropRange(range: TlbRange): void {
    const { kind, vmid, asid, pages, level } = range;
    const hi = kind === IPA ? range.addressHi : (range.addressHi << 8) >> 8;
    const first = blockOf(range.addressLo, hi, 12);
    for (const [context, entries] of this.#contexts) {
      const tag = context % 0x1_0000_0000;
      if (Math.floor(context / 0x1_0000_0000) !== kind || Math.floor(tag / 65536) !== vmid) continue;
      if (asid >= 0 && tag % 65536 !== asid) continue;
      for (const [key, entry] of entries) {
        const span = 2 ** (entry.shift - 12);
        const start = Math.floor(key / SHIFTS) * span;
        if (start >= first + pages || start + span <= first || (level !== 0 && entry.read.level >= level)) continue;
        entries.delete(key);
        this.#count--;
      }
    }
  }
}

/** A Tlb has a walk cache only where addresses fit 48 bits and tables are VMSAv8-64. */
export function canCacheWalks(features: Features): boolean {
  return features.oasBits <= 48 && !features.ds;
}

function tableOf({ read }: WalkEntry): number {
  return (read.words[1]! & 0xffff) * 0x1_0000_0000 + ((read.words[0]! & ~0xfff) >>> 0);
}

/** GRANULE of the half of a CD that has the address. */
function stage1Granule(cd: Int32Array, at: number, high: boolean): number {
  return (high ? GRANULE_OF_TG1[getField(cd, at, CD.TG1)] : GRANULE_OF_TG0[getField(cd, at, CD.TG0)]) ?? 0;
}

/** Makes of a CD one whose tables begin below `entry`. */
function resumeCd(cd: Int32Array, high: boolean, entry: WalkEntry): void {
  setAddress(cd, 0, high ? CD.TTB1 : CD.TTB0, tableOf(entry));
  setField(cd, 0, high ? CD.T1SZ : CD.T0SZ, 64 - entry.shift);
}

/** Makes of an STE one whose stage-2 tables begin below `entry`. */
function resumeSte(ste: Int32Array, entry: WalkEntry): void {
  const level = entry.read.level + 1;
  setAddress(ste, 0, STE.S2TTB, tableOf(entry));
  setField(ste, 0, STE.S2T0SZ, 64 - entry.shift);
  // 4K counts down from level 2 and has level 3 as 3; the others count down from 3 (5.2, S2SL0).
  setField(ste, 0, STE.S2SL0, getField(ste, 0, STE.S2TG) === GRANULE.K4 ? (level === 3 ? 3 : 2 - level) : 3 - level);
}

/** The address as one of the input range of 2^shift bytes of a table: bits above it all zero, or all one in the upper half. */
function confineLo(lo: number, shift: number, high: boolean): number {
  if (shift >= 32) return lo;
  const above = -1 << shift;
  return high ? lo | above : lo & ~above;
}

function confineHi(hi: number, shift: number, high: boolean): number {
  if (shift >= 64) return hi;
  const above = shift <= 32 ? -1 : -1 << (shift - 32);
  return high ? hi | above : hi & ~above;
}

/** Walks that begin where a {@link WalkCache} allows, and leave their tables in it. */
export class CachedWalks {
  readonly #cache: WalkCache;
  readonly #features: Features;
  readonly #stage1: Stage1Walker;
  readonly #stage2: Stage2Walker;
  readonly #ste = new Int32Array(STE_WORDS);
  readonly #cd = new Int32Array(CD_WORDS);

  constructor(cache: WalkCache, features: Features, stage1: Stage1Walker, stage2: Stage2Walker) {
    this.#cache = cache;
    // A table of the last level is smaller than TxSZ may otherwise say.
    this.#features = { ...features, stt: true };
    this.#stage1 = stage1;
    this.#stage2 = stage2;
  }

  /**
   * Walks stage 1, alone or nested, and leaves the walker set up for some other input range.
   * @param words,at the CD
   * @param ptw,single see configureStage1
   * @param lo,hi the address, without its tag
   */
  stage1(words: Int32Array, at: number, nested: boolean, ptw: boolean, single: boolean, kind: number, tag: number, lo: number, hi: number, need: number): number {
    const high = (hi & 0x0080_0000) !== 0;
    const cd = this.#cd;
    const walker = this.#stage1;
    // The sizes of VMSAv8-32 LPAE do not reach below its first table.
    if (getField(words, at, CD.AA64) === 0) return walker.walk(lo, hi, need);
    cd.set(words.subarray(at, at + CD_WORDS));
    const parent = this.#cache.find(kind, tag, lo, hi);
    if (parent !== undefined) {
      resumeCd(cd, high, parent);
      configureStage1(walker, cd, 0, this.#features, nested, ptw, single);
    }
    const granule = stage1Granule(words, at, high);
    const shift = parent?.shift ?? 64;
    const walk = (): number => walker.walk(confineLo(lo, shift, high), confineHi(hi, shift, high), need);
    return this.#traced(1, walker, kind, tag, lo, hi, granule, parent, walk);
  }

  /** Walks stage 2 alone; `words[at]` is the STE. */
  stage2(words: Int32Array, at: number, tag: number, lo: number, hi: number, need: number): number {
    const ste = this.#ste;
    const walker = this.#stage2;
    if (getField(words, at, STE.S2AA64) === 0) return walker.walk(lo, hi, need);
    ste.set(words.subarray(at, at + STE_WORDS));
    const parent = this.#cache.find(IPA, tag, lo, hi);
    if (parent !== undefined) {
      resumeSte(ste, parent);
      configureStage2(walker, ste, 0, this.#features);
    }
    const shift = parent?.shift ?? 64;
    const walk = (): number => walker.walk(confineLo(lo, shift, false), confineHi(hi, shift, false), need);
    return this.#traced(2, walker, IPA, tag, lo, hi, getField(words, at, STE.S2TG), parent, walk);
  }

  #traced(stage: 1 | 2, walker: Stage1Walker | Stage2Walker, kind: number, tag: number, lo: number, hi: number, granule: number, parent: WalkEntry | undefined, walk: () => number): number {
    const outer = walker.trace;
    if (outer !== null) replay(parent, stage, outer);
    const reads: TracedRead[] = [];
    walker.trace = (of, level, paLo, paHi, low, high): void => {
      const pa = (paHi >>> 0) * 0x1_0000_0000 + (paLo >>> 0);
      if (of === stage) reads.push({ what: of === 1 ? "S1" : "S2", level, pa, words: Int32Array.of(low, high) });
      outer?.(of, level, paLo, paHi, low, high);
    };
    const status = walk();
    walker.trace = outer;
    this.#cache.learn(kind, tag, lo, hi, granule, reads, parent);
    return status;
  }
}

/** Shows cached descriptors to a trace as though they had been read. */
function replay(entry: WalkEntry | undefined, stage: number, trace: WalkTrace): void {
  if (entry === undefined) return;
  replay(entry.parent, stage, trace);
  const { level, pa, words } = entry.read;
  trace(stage, level, pa | 0, Math.floor(pa / 0x1_0000_0000), words[0]!, words[1]!);
}
