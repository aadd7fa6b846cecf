import { Replacement } from "./config-cache.ts";
import type { CacheSize } from "./config-cache.ts";
import { CONTEXT } from "./contexts.ts";
import { contextHash, KIND, LAYOUT } from "./tlb-layout.ts";
import { dropRange } from "./tlb-range.ts";
import type { SavedWalk, WalkCache } from "./walk-cache.ts";
import type { StateReader, StateWriter } from "./state.ts";

// Of this module, for the compiler to see them as constants.
const { PAGE_KEY, TAG, HASH, FLOOR } = CONTEXT;
const { WAYS, ENTRY, SET, MIX: SET_MIX, SIZE_SHIFT } = LAYOUT;
const MAX_SET_BITS = 20;
/** Context stamps are folded into the entries when there are more than this. */
const MAX_STAMPS = 4096;

export { KIND };
/** Of a key; see {@link LAYOUT}. */
export const KIND_SHIFT: number = LAYOUT.KIND_SHIFT;
export const GLOBAL: number = LAYOUT.GLOBAL;
export const PAGE_SIZE_4K: number = LAYOUT.PAGE_SIZE_4K;

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
  /** Zero as long as all entries have been for pages of 4K, and none of them global. */
  variety = 0;
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
    return contextHash(tag, kind);
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
    const at = this.findPage(vpnLo, word2 | PAGE_SIZE_4K, tag, hash, floor);
    if (at >= 0 || this.#sizeCount === 0) return at;
    for (let i = 0; i < this.#sizeCount; i++) {
      const found = this.findPage(vpnLo & this.#masks[i]!, word2 | this.#sizes[i]!, tag, hash, floor);
      if (found >= 0) return found;
    }
    return -1;
  }

  /** An entry of another size than that at `at` for the same page, or -1; parameters as those of {@link find}. */
  findOther(at: number, vpnLo: number, vpnHi: number, tag: number, key: number, hash: number, floor: number): number {
    const word2 = vpnHi | key;
    for (let i = 0; i < this.#sizeCount; i++) {
      const found = this.findPage(vpnLo & this.#masks[i]!, word2 | this.#sizes[i]!, tag, hash, floor);
      if (found >= 0 && found !== at) return found;
    }
    return -1;
  }

  /**
   * Index of the entry for a 4K page, or -1.
   * @param contexts,c the context of the stream
   * @param vpnLo,vpnHi see {@link find}
   */
  hit(contexts: Int32Array, c: number, vpnLo: number, vpnHi: number): number {
    return this.findPage(vpnLo, vpnHi | contexts[c | PAGE_KEY]!, contexts[c | TAG]!, contexts[c | HASH]!, contexts[c | FLOOR]!);
  }

  /** Index of the entry with these words 0, 1 and 2 that is not older than `floor`, or -1. */
  findPage(vpn: number, word2: number, tag: number, hash: number, floor: number): number {
    const data = this.data;
    const first = (Math.imul(vpn ^ hash, SET_MIX) >>> this.#hashShift) << 5;
    if (data[first] === vpn && data[first | 2] === word2 && data[first | 1] === tag && data[first | 3]! >= floor) return first;
    // Most sets that have what is asked for have it in their first way.
    for (let at = first | 8; at < ((first + 32) | 0); at = (at + 8) | 0) {
      if (data[at] === vpn && data[at | 2] === word2 && data[at | 1] === tag && data[at | 3]! >= floor) return at;
    }
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
    if (fill.global) {
      this.hasGlobals = true;
      this.variety = 1;
    }
    if (fill.leafShift !== fill.pageShift) this.#fractured = true;
    const vpn = vpnLo & mask;
    const key = Tlb.key(kind, fill.global) | vpnHi | (fill.pageShift << SIZE_SHIFT);
    // Below the low bits that the size leaves to the access: those are zero in the entry.
    const paLo = fill.pageShift >= 32 ? 0 : fill.paLo & -(1 << fill.pageShift);
    const ipaLo = fill.pageShift >= 32 ? 0 : fill.ipaLo & -(1 << fill.pageShift);
    const above = fill.pageShift > 32 ? -(1 << (fill.pageShift - 32)) : -1;
    const at = this.#claim(vpn, ownTag, key, Tlb.hash(ownTag, kind));
    const data = this.data;
    data[at + 4] = paLo | fill.perm | (fill.perm2 << 6);
    data[at + 5] = (fill.paHi & above & 0xf_ffff) | (fill.level << 20) | (fill.clean << CLEAN_SHIFT);
    data[at + 6] = ipaLo | fill.leafShift;
    data[at + 7] = (fill.ipaHi & above & 0xf_ffff) | (fill.attributes << ATTRIBUTES_SHIFT);
  }

  /**
   * Makes an entry for a 4K page that is not global; parameters as those of {@link hit}. The caller fills words 4 to 7 of the entry
   * at the index returned. Not for a TLB that is not {@link enabled}.
   */
  placePage(contexts: Int32Array, c: number, vpnLo: number, vpnHi: number): number {
    return this.#claim(vpnLo, contexts[c | TAG]!, vpnHi | contexts[c | PAGE_KEY]!, contexts[c | HASH]!);
  }

  /** Keeps anything. */
  get enabled(): boolean {
    return this.#enabled;
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
    if (!this.range.leaf) this.walks?.dropRange(this.range);
    dropRange(this);
  }

  /** An entry of a page of one ASID is found by that page: none of the kind is smaller than its stage-1 leaf. */
  dropsPages(kind: number): boolean {
    return kind !== KIND.EL1 || !this.#fractured;
  }

  /** 32 - log2 of the sets. */
  get setShift(): number {
    return this.#hashShift;
  }

  /** Number of sizes other than 4K that entries have had. */
  get sizeCount(): number {
    return this.#sizeCount;
  }

  /** Such a size, in place in word 2. */
  sizeAt(index: number): number {
    return this.#sizes[index]!;
  }

  /** Its mask of word 0. */
  maskAt(index: number): number {
    return this.#masks[index]!;
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
    this.variety = 1;
    return mask;
  }

  /** A new entry, with its key: in its old place, else in a free one, else in a victim's. */
  #claim(vpn: number, tag: number, key: number, hash: number): number {
    const data = this.data;
    const first = (Math.imul(vpn ^ hash, SET_MIX) >>> this.#hashShift) << 5;
    let at = -1;
    for (let way = 0, each = first; way < 4; way++, each = (each + 8) | 0) {
      if (data[each] === vpn && data[each | 1] === tag && data[each | 2] === key) {
        at = each;
        break;
      }
      if (at < 0 && data[each | 3] === 0) at = each;
    }
    if (at < 0) {
      if (this.#grows) return this.#claimLarger(first, vpn, tag, key, hash);
      at = this.#victim(first);
    }
    data[at] = vpn;
    data[at | 1] = tag;
    data[at | 2] = key;
    data[at | 3] = this.#now;
    return at;
  }

  /** The same in a full set of a TLB that grows: in a dead entry's place, or in a TLB of twice the size. */
  #claimLarger(first: number, vpn: number, tag: number, key: number, hash: number): number {
    const data = this.data;
    let at = -1;
    for (let each = first; each < first + SET; each += ENTRY) if (at < 0 && !this.#live(data, each)) at = each;
    if (at < 0 && this.#setBits >= MAX_SET_BITS) at = this.#victim(first);
    if (at < 0) {
      this.#grow();
      return this.#claim(vpn, tag, key, hash);
    }
    data[at] = vpn;
    data[at | 1] = tag;
    data[at | 2] = key;
    data[at | 3] = this.#now;
    return at;
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
    this.variety = saved.hasGlobals ? 1 : 0;
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
      const key = old[at + 2]!;
      const to = this.#claim(old[at]!, old[at + 1]!, key, Tlb.hash(old[at + 1]!, (key >>> KIND_SHIFT) & 3));
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
