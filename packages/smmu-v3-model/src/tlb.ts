import type { CacheSize } from "./config-cache.ts";

const WAYS = 4;
const ENTRY = 8;
const SET = WAYS * ENTRY;
const SET_SHIFT = 5;
/** Multiplier of the hash; its high bits choose the set. */
const MIX = 0x85eb_ca6b | 0;
const MAX_SET_BITS = 20;
/** Ranges of more pages than this are invalidated by looking at every entry. */
const PROBE_PAGES = 64;
/** Context stamps are folded into the entries when there are more than this. */
const MAX_STAMPS = 4096;

/** What an entry translates from: the StreamWorld, or IPAs where stage 2 is the only stage. */
export const KIND = { EL1: 0, IPA: 1, EL2: 2 } as const;

/** Word 2 of a key: VA[63:44], kind, global, log2 of the size. */
const KIND_SHIFT = 20;
const GLOBAL = 1 << 22;
const SIZE_SHIFT = 24;
const PAGE_SIZE_4K = 12 << SIZE_SHIFT;

/** What a walk found, to be inserted. The addresses are those of the access; the TLB aligns them. */
export interface TlbFill {
  /** log2 of the size that maps to one place. */
  pageShift: number;
  /** log2 of the size of the stage-1 leaf (of the stage-2 leaf for KIND.IPA), and its level. */
  leafShift: number;
  level: number;
  global: boolean;
  paLo: number;
  paHi: number;
  ipaLo: number;
  ipaHi: number;
  /** Permissions of stage 1 and 2. */
  perm: number;
  perm2: number;
}

/** Pages that a TLBI by address names. */
export interface TlbRange {
  kind: number;
  vmid: number;
  /** -1 for all ASIDs. */
  asid: number;
  addressLo: number;
  addressHi: number;
  /** 4K pages. */
  pages: number;
  /** Level of the leaf entries that must go; 0 for any. */
  level: number;
}

/**
 * Translation cache: stage-1, stage-2-only and combined entries, tagged by VMID and ASID. One entry maps what one leaf maps,
 * so that a block is invalidated by any address in it. Entries are eight words:
 *
 * 0 VA[43:12], 1 ASID | VMID << 16, 2 VA[63:44] | kind | global | size, 3 stamp, 4 PA[31:12] | permissions of both stages,
 * 5 PA[51:32] | level, 6 IPA[31:12] | log2 of the leaf, 7 IPA[51:32].
 *
 * Invalidation of a context is one stamp, not a scan: an entry counts only if it is as young as the youngest stamp of its
 * ASID, VMID and world, which {@link floor} gives.
 */
export class Tlb {
  data: Int32Array<ArrayBuffer>;
  /** Some entry was global since the TLB was last cleared: look-ups have to ask for those as well. */
  hasGlobals = false;
  /** Changes when a floor may have changed. */
  floorEpoch = 1;
  /** Operand of {@link invalidateRange}. */
  readonly range: TlbRange = { kind: 0, vmid: 0, asid: 0, addressLo: 0, addressHi: 0, pages: 1, level: 0 };
  /** Entries evicted to make room. */
  evictions = 0;

  #setBits: number;
  #hashShift: number;
  #next = 0;
  #now = 1;
  /** Stamps of whole worlds. */
  #nonHypFloor = 1;
  #hypFloor = 1;
  /** Per VMID: all of its entries; its stage-1 entries. */
  readonly #vmidStamps = new Int32Array(65536);
  readonly #stage1Stamps = new Int32Array(65536);
  /** Per kind, VMID and ASID: entries that are not global. */
  readonly #asidStamps = new Map<number, number>();
  /** Sizes other than 4K that entries have had, as in word 2, and their masks of word 0. */
  readonly #sizes = new Int32Array(16);
  readonly #masks = new Int32Array(16);
  #sizeCount = 0;
  /** A combined entry is smaller than its stage-1 leaf: invalidation by VA cannot find it by its own address. */
  #fractured = false;
  readonly #enabled: boolean;
  readonly #grows: boolean;

  constructor(size: CacheSize) {
    this.#enabled = size.entries > 0;
    this.#grows = size.grows;
    this.#setBits = Math.max(1, Math.ceil(Math.log2(Math.max(size.entries, WAYS) / WAYS)));
    this.#hashShift = 32 - this.#setBits;
    this.data = new Int32Array(SET << this.#setBits);
  }

  /** Hash of a context, to be passed to {@link find}. */
  static hash(tag: number, kind: number): number {
    return Math.imul(tag ^ (kind << 30), 0x9e37_79b1);
  }

  /** Oldest stamp that counts for entries of one context; `asid` -1 asks for its global entries. */
  floor(kind: number, vmid: number, asid: number): number {
    const asidStamp = asid < 0 ? 0 : (this.#asidStamps.get(contextKey(kind, vmid, asid)) ?? 0);
    if (kind === KIND.EL2) return Math.max(this.#hypFloor, asidStamp);
    const floor = Math.max(this.#nonHypFloor, this.#vmidStamps[vmid]!);
    return kind === KIND.IPA ? floor : Math.max(floor, this.#stage1Stamps[vmid]!, asidStamp);
  }

  /**
   * Index of the entry for the page `vpnLo` = VA[43:12], `vpnHi` = VA[63:44], or -1.
   * @param key kind, as `kind << 20`, and the global bit: {@link Tlb.key}
   */
  find(vpnLo: number, vpnHi: number, tag: number, key: number, hash: number, floor: number): number {
    const word2 = vpnHi | key;
    const at = this.#look(vpnLo, word2 | PAGE_SIZE_4K, tag, hash, floor);
    if (at >= 0 || this.#sizeCount === 0) return at;
    for (let i = 0; i < this.#sizeCount; i++) {
      const found = this.#look(vpnLo & this.#masks[i]!, word2 | this.#sizes[i]!, tag, hash, floor);
      if (found >= 0) return found;
    }
    return -1;
  }

  #look(vpn: number, word2: number, tag: number, hash: number, floor: number): number {
    const data = this.data;
    const at = (Math.imul(vpn ^ hash, MIX) >>> this.#hashShift) << SET_SHIFT;
    // Written out: this is the path of every translation.
    if (data[at] === vpn && data[at + 2] === word2 && data[at + 1] === tag && data[at + 3]! >= floor) return at;
    const b = at + ENTRY;
    if (data[b] === vpn && data[b + 2] === word2 && data[b + 1] === tag && data[b + 3]! >= floor) return b;
    const c = at + 2 * ENTRY;
    if (data[c] === vpn && data[c + 2] === word2 && data[c + 1] === tag && data[c + 3]! >= floor) return c;
    const d = at + 3 * ENTRY;
    if (data[d] === vpn && data[d + 2] === word2 && data[d + 1] === tag && data[d + 3]! >= floor) return d;
    return -1;
  }

  static key(kind: number, global: boolean): number {
    return (kind << KIND_SHIFT) | (global ? GLOBAL : 0);
  }

  /** Keeps a translation of one context; `tag` is ASID | VMID << 16. */
  insert(vpnLo: number, vpnHi: number, kind: number, tag: number, fill: TlbFill): void {
    if (!this.#enabled) return;
    const mask = this.#sizeMask(fill.pageShift);
    const ownTag = fill.global ? tag & ~0xffff : tag;
    if (fill.global) this.hasGlobals = true;
    if (fill.leafShift !== fill.pageShift) this.#fractured = true;
    const vpn = vpnLo & mask;
    const key = Tlb.key(kind, fill.global) | vpnHi | (fill.pageShift << SIZE_SHIFT);
    // Below the low bits that the size leaves to the access: those are zero in the entry.
    const paLo = fill.pageShift >= 32 ? 0 : fill.paLo & -(1 << fill.pageShift);
    const ipaLo = fill.pageShift >= 32 ? 0 : fill.ipaLo & -(1 << fill.pageShift);
    const at = this.#place(vpn, ownTag, key);
    const data = this.data;
    data[at] = vpn;
    data[at + 1] = ownTag;
    data[at + 2] = key;
    data[at + 3] = this.#now;
    data[at + 4] = paLo | fill.perm | (fill.perm2 << 6);
    data[at + 5] = fill.paHi | (fill.level << 20);
    data[at + 6] = ipaLo | fill.leafShift;
    data[at + 7] = fill.ipaHi;
  }

  /** Everything but EL2 entries (TLBI_NSNH_ALL). */
  invalidateNonHyp(): void {
    this.#nonHypFloor = this.#stamp();
  }

  /** All EL2 entries (TLBI_EL2_ALL). */
  invalidateHyp(): void {
    this.#hypFloor = this.#stamp();
  }

  /** All entries of a VMID (TLBI_S12_VMALL). */
  invalidateVmid(vmid: number): void {
    this.#vmidStamps[vmid] = this.#stamp();
  }

  /** Entries of a VMID that hold a stage 1: combined ones and global ones as well (TLBI_NH_ALL). */
  invalidateStage1(vmid: number): void {
    this.#stage1Stamps[vmid] = this.#stamp();
  }

  /** Entries of an ASID that are not global (TLBI_NH_ASID, TLBI_EL2_ASID). */
  invalidateAsid(kind: number, vmid: number, asid: number): void {
    this.#asidStamps.set(contextKey(kind, vmid, asid), this.#stamp());
    if (this.#asidStamps.size > MAX_STAMPS) this.#fold();
  }

  /** Entries of {@link range}; global ones whatever their ASID. */
  invalidateRange(): void {
    const { range } = this;
    const { kind, asid, pages } = range;
    // A tagged address and the VA that its entry is kept under agree after extension from bit 55.
    const hi = kind === KIND.IPA ? range.addressHi : (range.addressHi << 8) >> 8;
    if (pages === 1 && asid >= 0 && !this.#fractured) {
      this.#probeContexts((range.addressLo >>> 12) | (hi << 20), hi >>> 12, range);
      return;
    }
    const first = (hi >>> 0) * 0x10_0000 + (range.addressLo >>> 12);
    if (pages > PROBE_PAGES || asid < 0 || this.#fractured) {
      this.#scan(range, first);
      return;
    }
    for (let i = 0; i < pages; i++) {
      const page = first + i;
      this.#probeContexts(page | 0, Math.floor(page / 0x1_0000_0000) & 0xf_ffff, range);
    }
  }

  /** Entries that would be found. */
  get size(): number {
    let count = 0;
    for (let at = 0; at < this.data.length; at += ENTRY) if (this.#live(this.data, at)) count++;
    return count;
  }

  /** Drops one page of an ASID, and of no ASID. */
  #probeContexts(vpnLo: number, vpnHi: number, { kind, vmid, asid, level }: TlbRange): void {
    const tag = asid | (vmid << 16);
    this.#probe(vpnLo, vpnHi, tag, Tlb.key(kind, false), Tlb.hash(tag, kind), level);
    if (!this.hasGlobals) return;
    const globalTag = vmid << 16;
    this.#probe(vpnLo, vpnHi, globalTag, Tlb.key(kind, true), Tlb.hash(globalTag, kind), level);
  }

  #probe(vpnLo: number, vpnHi: number, tag: number, key: number, hash: number, level: number): void {
    this.#drop(this.#look(vpnLo, vpnHi | key | PAGE_SIZE_4K, tag, hash, 1), level);
    for (let i = 0; i < this.#sizeCount; i++) {
      this.#drop(this.#look(vpnLo & this.#masks[i]!, vpnHi | key | this.#sizes[i]!, tag, hash, 1), level);
    }
  }

  #drop(at: number, level: number): void {
    if (at < 0) return;
    const data = this.data;
    if (level === 0 || ((data[at + 5]! >>> 20) & 7) === level) data[at + 3] = 0;
  }

  #scan({ kind, vmid, asid, pages, level }: TlbRange, first: number): void {
    const data = this.data;
    for (let at = 0; at < data.length; at += ENTRY) {
      const tag = data[at + 1]!;
      const key = data[at + 2]!;
      if (((key >>> KIND_SHIFT) & 3) !== kind || tag >>> 16 !== vmid) continue;
      if (asid >= 0 && (key & GLOBAL) === 0 && (tag & 0xffff) !== asid) continue;
      if (level !== 0 && ((data[at + 5]! >>> 20) & 7) !== level) continue;
      // The whole leaf counts, also where stage 2 cut the entry down.
      const leafPages = 2 ** ((data[at + 6]! & 63) - 12);
      const page = (key & 0xf_ffff) * 0x1_0000_0000 + (data[at]! >>> 0);
      const start = page - (page % leafPages);
      if (start < first + pages && start + leafPages > first) data[at + 3] = 0;
    }
  }

  #stamp(): number {
    this.floorEpoch++;
    return ++this.#now;
  }

  /** Mask of word 0 for a size, which look-ups know from now on. */
  #sizeMask(shift: number): number {
    if (shift === 12) return -1;
    const size = shift << SIZE_SHIFT;
    const mask = -(1 << (shift - 12));
    for (let i = 0; i < this.#sizeCount; i++) if (this.#sizes[i] === size) return mask;
    this.#sizes[this.#sizeCount] = size;
    this.#masks[this.#sizeCount++] = mask;
    return mask;
  }

  /** Index for a new entry: its old place, else a free one, else a victim's. */
  #place(vpn: number, tag: number, key: number): number {
    const data = this.data;
    const hash = Tlb.hash(tag, (key >>> KIND_SHIFT) & 3);
    const first = (Math.imul(vpn ^ hash, MIX) >>> this.#hashShift) << SET_SHIFT;
    let free = -1;
    for (let at = first; at < first + SET; at += ENTRY) {
      if (data[at] === vpn && data[at + 1] === tag && data[at + 2] === key) return at;
      if (free < 0 && data[at + 3] === 0) free = at;
    }
    if (free >= 0) return free;
    if (!this.#grows) return this.#victim(first);
    for (let at = first; at < first + SET; at += ENTRY) if (!this.#live(data, at)) return at;
    if (this.#setBits >= MAX_SET_BITS) return this.#victim(first);
    this.#grow();
    return this.#place(vpn, tag, key);
  }

  #victim(first: number): number {
    this.evictions++;
    return first + (this.#next++ & (WAYS - 1)) * ENTRY;
  }

  #live(data: Int32Array, at: number): boolean {
    const stamp = data[at + 3]!;
    if (stamp === 0) return false;
    const tag = data[at + 1]!;
    const key = data[at + 2]!;
    return stamp >= this.floor((key >>> KIND_SHIFT) & 3, tag >>> 16, (key & GLOBAL) === 0 ? tag & 0xffff : -1);
  }

  #grow(): void {
    const old = this.data;
    this.#setBits++;
    this.#hashShift--;
    this.data = new Int32Array(SET << this.#setBits);
    for (let at = 0; at < old.length; at += ENTRY) {
      if (!this.#live(old, at)) continue;
      const to = this.#place(old[at]!, old[at + 1]!, old[at + 2]!);
      for (let word = 0; word < ENTRY; word++) this.data[to + word] = old[at + word]!;
    }
  }

  /** Marks dead entries as free, after which the stamps of ASIDs say nothing more. */
  #fold(): void {
    for (let at = 0; at < this.data.length; at += ENTRY) if (!this.#live(this.data, at)) this.data[at + 3] = 0;
    this.#asidStamps.clear();
  }
}

/** Exact below 2^53. */
function contextKey(kind: number, vmid: number, asid: number): number {
  return (kind * 65536 + vmid) * 65536 + asid;
}
