import { Replacement } from "./config-cache.ts";
import type { CacheSize } from "./config-cache.ts";
import type { SavedWalk, WalkCache } from "./walk-cache.ts";
import type { StateReader, StateWriter } from "./state.ts";

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
export const KIND_SHIFT = 20;
export const GLOBAL: number = 1 << 22;
const SIZE_SHIFT = 24;
const PAGE_SIZE_4K = 12 << SIZE_SHIFT;

/** Word 5 and word 7 above the address, besides the level. */
export const CLEAN_SHIFT = 23;
export const ATTRIBUTES_SHIFT = 20;

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
  /** Stages whose leaf is writable-clean, 2 bits. */
  clean: number;
  /** Memory attributes of the leaves as the descriptors have them, 12 bits. */
  attributes: number;
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
  /** Table descriptors above the leaves may stay. */
  leaf: boolean;
}

/**
 * Translation cache: stage-1, stage-2-only and combined entries, tagged by VMID and ASID. One entry maps what one leaf maps,
 * so that a block is invalidated by any address in it. Entries are eight words:
 *
 * 0 VA[43:12], 1 ASID | VMID << 16, 2 VA[63:44] | kind | global | size, 3 stamp, 4 PA[31:12] | permissions of both stages,
 * 5 PA[51:32] | level | writable-clean stages, 6 IPA[31:12] | log2 of the leaf, 7 IPA[51:32] | attributes.
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
  readonly range: TlbRange = { kind: 0, vmid: 0, asid: 0, addressLo: 0, addressHi: 0, pages: 1, level: 0, leaf: false };
  /** Entries evicted to make room. */
  evictions = 0;
  /** A look-up has met two entries, and has found neither; for the caller to clear. */
  conflict = false;
  /** Table descriptors, which the same commands invalidate. */
  walks: WalkCache | undefined = undefined;

  #setBits: number;
  #hashShift: number;
  readonly #replacement: Replacement;
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
    this.#replacement = new Replacement(size.seed);
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

  /** An entry of another size than that at `at` for the same page, or -1; parameters as those of {@link find}. */
  findOther(at: number, vpnLo: number, vpnHi: number, tag: number, key: number, hash: number, floor: number): number {
    const word2 = vpnHi | key;
    for (let i = 0; i < this.#sizeCount; i++) {
      const found = this.#look(vpnLo & this.#masks[i]!, word2 | this.#sizes[i]!, tag, hash, floor);
      if (found >= 0 && found !== at) return found;
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
    const above = fill.pageShift > 32 ? -(1 << (fill.pageShift - 32)) : -1;
    const at = this.#place(vpn, ownTag, key);
    const data = this.data;
    data[at] = vpn;
    data[at + 1] = ownTag;
    data[at + 2] = key;
    data[at + 3] = this.#now;
    data[at + 4] = paLo | fill.perm | (fill.perm2 << 6);
    data[at + 5] = (fill.paHi & above & 0xf_ffff) | (fill.level << 20) | (fill.clean << CLEAN_SHIFT);
    data[at + 6] = ipaLo | fill.leafShift;
    data[at + 7] = (fill.ipaHi & above & 0xf_ffff) | (fill.attributes << ATTRIBUTES_SHIFT);
  }

  /** Everything but EL2 entries (TLBI_NSNH_ALL). */
  invalidateNonHyp(): void {
    this.#nonHypFloor = this.#stamp();
    this.walks?.dropNonHyp();
  }

  /** All EL2 entries (TLBI_EL2_ALL). */
  invalidateHyp(): void {
    this.#hypFloor = this.#stamp();
    this.walks?.dropHyp();
  }

  /** All entries of a VMID (TLBI_S12_VMALL). */
  invalidateVmid(vmid: number): void {
    this.#vmidStamps[vmid] = this.#stamp();
    this.walks?.dropVmid(vmid);
  }

  /** Entries of a VMID that hold a stage 1: combined ones and global ones as well (TLBI_NH_ALL). */
  invalidateStage1(vmid: number): void {
    this.#stage1Stamps[vmid] = this.#stamp();
    this.walks?.dropStage1(vmid);
  }

  /** Entries of an ASID that are not global (TLBI_NH_ASID, TLBI_EL2_ASID). */
  invalidateAsid(kind: number, vmid: number, asid: number): void {
    this.#asidStamps.set(contextKey(kind, vmid, asid), this.#stamp());
    this.walks?.dropAsid(kind, vmid, asid);
    if (this.#asidStamps.size > MAX_STAMPS) this.#fold();
  }

  /** Entries of {@link range}; global ones whatever their ASID. */
  invalidateRange(): void {
    const { range } = this;
    const { kind, asid, pages } = range;
    if (!range.leaf) this.walks?.dropRange(range);
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

  /** Drops entries of stage 1 whose output, an IPA where both stages are used, is in {@link range}. */
  dropByIpa(): void {
    const { data, range } = this;
    const first = (range.addressHi >>> 0) * 0x10_0000 + (range.addressLo >>> 12);
    for (let at = 0; at < data.length; at += ENTRY) {
      const key = data[at + 2]!;
      if (((key >>> KIND_SHIFT) & 3) !== KIND.EL1 || data[at + 1]! >>> 16 !== range.vmid) continue;
      const page = (data[at + 7]! & 0xf_ffff) * 0x10_0000 + (data[at + 6]! >>> 12);
      if (page < first + range.pages && page + 2 ** ((key >>> SIZE_SHIFT) - 12) > first) data[at + 3] = 0;
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
    return first + this.#replacement.way() * ENTRY;
  }

  /** Everything that look-ups and invalidations depend on. */
  save(out: StateWriter): void {
    out.put("tlb", {
      next: this.#replacement.state, now: this.#now, nonHypFloor: this.#nonHypFloor, hypFloor: this.#hypFloor, fractured: this.#fractured,
      hasGlobals: this.hasGlobals, evictions: this.evictions, setBits: this.#setBits, sizes: [...this.#sizes.subarray(0, this.#sizeCount)],
      asids: [...this.#asidStamps], walks: this.walks?.save() ?? [],
    });
    out.sparse("tlb.data", this.data);
    out.sparse("tlb.vmids", this.#vmidStamps);
    out.sparse("tlb.stage1", this.#stage1Stamps);
  }

  restore(from: StateReader): void {
    const saved = from.get("tlb") as {
      next: number; now: number; nonHypFloor: number; hypFloor: number; fractured: boolean; hasGlobals: boolean; evictions: number;
      setBits: number; sizes: number[]; asids: [number, number][]; walks: SavedWalk[];
    };
    this.#replacement.state = saved.next;
    this.walks?.restore(saved.walks);
    this.#now = saved.now;
    this.#nonHypFloor = saved.nonHypFloor;
    this.#hypFloor = saved.hypFloor;
    this.#fractured = saved.fractured;
    this.hasGlobals = saved.hasGlobals;
    this.evictions = saved.evictions;
    this.#setBits = saved.setBits;
    this.#hashShift = 32 - saved.setBits;
    this.#sizeCount = 0;
    for (const size of saved.sizes) this.#sizeMask(size >>> SIZE_SHIFT);
    this.#asidStamps.clear();
    for (const [context, stamp] of saved.asids) this.#asidStamps.set(context, stamp);
    this.data = new Int32Array(SET << saved.setBits);
    from.sparse("tlb.data", this.data);
    from.sparse("tlb.vmids", this.#vmidStamps);
    from.sparse("tlb.stage1", this.#stage1Stamps);
    this.floorEpoch++;
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
