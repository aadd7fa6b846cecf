import { CMD, maskOf } from "@smmuv3/smmu-v3-defs";
import { contextHash, KIND, LAYOUT } from "./tlb-layout.ts";
import type { Tlb } from "./tlb.ts";
import type { WalkCache } from "./walk-cache.ts";

const LEAF = maskOf(CMD.Leaf);
// Of this module, for the compiler to see them as constants.
const { ENTRY, SET, SET_SHIFT, MIX, KIND_SHIFT, GLOBAL, PAGE_SIZE_4K } = LAYOUT;
/** Words of a command. */
const NEXT = 4;

/**
 * Executes the TLBIs by address in `words[at..end)` that have the same first word as the first of them, up to one that has a bit of
 * `ranged` in its third: each drops one page of one context, and of no ASID. Table descriptors stay. Only where
 * {@link Tlb.dropsPages}.
 * @param tags bits of ASID | VMID << 16 that count
 * @returns where it ended
 */
export function dropPages(tlb: Tlb, words: Int32Array, at: number, end: number, kind: number, tags: number, ranged: number): number {
  // A pass for each size that entries have: nothing is inserted meanwhile, so that the order is all one.
  const key = kind << KIND_SHIFT;
  const stop = dropSize(tlb, words, at, end, key | PAGE_SIZE_4K, tags, ranged, -1);
  for (let i = 0; i < tlb.sizeCount; i++) dropSize(tlb, words, at, stop, key | tlb.sizeAt(i), tags, ranged, tlb.maskAt(i));
  if (tlb.hasGlobals) {
    const global = key | GLOBAL;
    const vmids = tags & ~0xffff;
    dropSize(tlb, words, at, stop, global | PAGE_SIZE_4K, vmids, ranged, -1);
    for (let i = 0; i < tlb.sizeCount; i++) dropSize(tlb, words, at, stop, global | tlb.sizeAt(i), vmids, ranged, tlb.maskAt(i));
  }
  return stop;
}

/** Drops entries of one size; `key` is their word 2 but for the address, `mask` the one of their word 0. */
function dropSize(tlb: Tlb, words: Int32Array, at: number, end: number, key: number, tags: number, ranged: number, mask: number): number {
  const word0 = words[at]!;
  const { data, setShift } = tlb;
  const kind = (key >>> KIND_SHIFT) & 3;
  for (let i = at; ; i += NEXT) {
    i = passAbsent(words, i, end, word0, ranged, kind, tags, mask, data, setShift);
    if (i >= end || words[i] !== word0 || (words[i + 2]! & ranged) !== 0) return i;
    dropEntry(words, i, key, tags, mask, data, setShift);
  }
}

/** Goes on over commands for which nothing in the set may be meant, which is what most of them find. Returns where it ended. */
function passAbsent(
  words: Int32Array,
  at: number,
  end: number,
  word0: number,
  ranged: number,
  kind: number,
  tags: number,
  mask: number,
  data: Int32Array,
  setShift: number,
): number {
  let i = at;
  // Nothing but what decides is kept over the loop: with more, registers are spilled, and it takes twice as long.
  while (i < end && words[i] === word0) {
    const word1 = words[i + 1]!;
    const word2 = words[i + 2]!;
    const hash = contextHash(((word1 >>> 16) | (word1 << 16)) & tags, kind);
    const vpn = ((word2 >>> 12) | (words[i + 3]! << 20)) & mask;
    const set = (Math.imul(vpn ^ hash, MIX) >>> setShift) << SET_SHIFT;
    if ((word2 & ranged) !== 0) break;
    if (data[set] === vpn || data[set + ENTRY] === vpn || data[set + 2 * ENTRY] === vpn || data[set + 3 * ENTRY] === vpn) break;
    i += NEXT;
  }
  return i;
}

/** Drops the entry that the command at `words[at]` names, if there is one. */
function dropEntry(words: Int32Array, at: number, key: number, tags: number, mask: number, data: Int32Array, setShift: number): void {
  const word1 = words[at + 1]!;
  const high = words[at + 3]!;
  const kind = (key >>> KIND_SHIFT) & 3;
  const tag = ((word1 >>> 16) | (word1 << 16)) & tags;
  const vpn = ((words[at + 2]! >>> 12) | (high << 20)) & mask;
  // An IPA is Address[55:12]; the tag of a VA is replaced by bit 55, as in the one that its entry is kept under (4.1.6).
  const word2 = key | (kind === KIND.IPA ? (high & 0xff_ffff) >>> 12 : ((high << 8) >> 8) >>> 12);
  const set = (Math.imul(vpn ^ contextHash(tag, kind), MIX) >>> setShift) << SET_SHIFT;
  for (let i = set; i < set + SET; i += ENTRY) {
    if (data[i] === vpn && data[i + 1] === tag && data[i + 2] === word2) {
      data[i + 3] = 0;
      // So that it is not met again.
      data[i] = -1;
    }
  }
}

/** Drops the table descriptors on the way to the pages of such commands, where Leaf is 0. */
export function dropTables(walks: WalkCache, words: Int32Array, at: number, end: number, kind: number, tags: number): void {
  for (let i = at; i < end; i += NEXT) {
    const word1 = words[i + 1]!;
    const word2 = words[i + 2]!;
    const high = words[i + 3]!;
    if ((word2 & LEAF) !== 0) continue;
    walks.dropPage(kind, ((word1 >>> 16) | (word1 << 16)) & tags, word2, kind === KIND.IPA ? high & 0xff_ffff : (high << 8) >> 8);
  }
}
