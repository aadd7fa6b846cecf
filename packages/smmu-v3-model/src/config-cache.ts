import type { StateReader, StateWriter } from "./state.ts";

const WAYS = 4;
/** Words of a key: sid, ssid, stamp (0 where there is nothing), unused. The keys of a set are one cache line. */
const KEY = 4;
const STAMP = 2;
/** Words of a structure. */
const PAYLOAD = 16;
/** Streams whose invalidation is told apart; those that share the low bits are invalidated together, which is permitted. */
const MAX_STREAM_BITS = 20;
const MAX_SET_BITS = 18;
const MIX = 0x85eb_ca6b | 0;
const SUBSTREAM_MIX = 0x9e37_79b1 | 0;

export interface CacheSize {
  /** Entries to start with; 0 keeps nothing. */
  readonly entries: number;
  /** Grows instead of evicting. */
  readonly grows: boolean;
  /** Victims are chosen at random from this seed; default: round robin. */
  readonly seed?: number;
}

/** Chooses the ways to evict. */
export class Replacement {
  /** Determines all further choices. */
  state: number;
  readonly #random: number;

  constructor(seed: number | undefined) {
    this.#random = seed === undefined ? 0 : 1;
    this.state = seed ?? 0;
  }

  /** 0 to 3. */
  way(): number {
    if (this.#random === 0) {
      const { state } = this;
      this.state = (state + 1) | 0;
      return state & (WAYS - 1);
    }
    this.state = (Math.imul(this.state, 1_664_525) + 1_013_904_223) | 0;
    return this.state >>> 30;
  }
}

/**
 * Cache of 64-byte configuration structures, keyed by StreamID and SubstreamID (IHI 0070 16.2): one for STEs, one for CDs.
 * Set-associative with round-robin replacement. Invalidating a stream is one store: an entry counts only if it is younger
 * than its stream's stamp and the stamp of everything.
 */
export class ConfigCache {
  /** Structures at the indices that {@link find} and {@link insert} return. */
  data: Int32Array<ArrayBuffer>;
  /** What {@link insert} returned last. */
  last = 0;
  #keys: Int32Array<ArrayBuffer>;
  #setBits: number;
  readonly #replacement: Replacement;
  #now = 1;
  #floor = 1;
  readonly #enabled: boolean;
  readonly #grows: boolean;
  readonly #streamStamps: Int32Array;
  readonly #streamMask: number;

  constructor(size: CacheSize, sidBits: number) {
    const streamBits = Math.min(sidBits, MAX_STREAM_BITS);
    this.#streamMask = (1 << streamBits) - 1;
    this.#streamStamps = new Int32Array(1 << streamBits);
    this.#enabled = size.entries > 0;
    this.#grows = size.grows;
    this.#replacement = new Replacement(size.seed);
    this.#setBits = Math.max(1, Math.ceil(Math.log2(Math.max(size.entries, WAYS) / WAYS)));
    this.#keys = new Int32Array((WAYS << this.#setBits) * KEY);
    this.data = new Int32Array((WAYS << this.#setBits) * PAYLOAD);
  }

  /** Index of the structure in {@link data}, or -1. */
  find(sid: number, ssid: number): number {
    const keys = this.#keys;
    const stamp = this.#streamStamps[sid & this.#streamMask]!;
    const floor = stamp > this.#floor ? stamp : this.#floor;
    const first = this.#set(sid, ssid) << 2;
    for (let way = 0, at = first; way < WAYS; way++, at = (at + KEY) | 0) {
      if (keys[at] === sid && keys[at | 1] === ssid && keys[at | STAMP]! >= floor) return at << 2;
    }
    return -1;
  }

  /** What {@link insert} or {@link find} once returned for these is still there, unless it was invalidated. */
  holds(index: number, sid: number, ssid: number): boolean {
    const keys = this.#keys;
    // The key of a structure is four words for its 16.
    const at = index >>> 2;
    return keys[at] === sid && keys[at | 1] === ssid && keys[at | STAMP] !== 0;
  }

  /** Makes room for a structure that {@link find} did not find; its 16 words go to the index returned. */
  insert(sid: number, ssid: number): number {
    const first = this.#set(sid, ssid);
    let entry = this.#free(first);
    if (entry < 0) {
      if (this.#grows && this.#setBits < MAX_SET_BITS) {
        this.#grow();
        return this.insert(sid, ssid);
      }
      entry = first + this.#replacement.way();
    }
    const keys = this.#keys;
    const at = entry * KEY;
    keys[at] = sid;
    keys[at + 1] = ssid;
    keys[at + STAMP] = this.#enabled ? this.#now : 0;
    this.last = entry * PAYLOAD;
    return this.last;
  }

  /** Drops one structure. */
  remove(sid: number, ssid: number): void {
    const at = this.find(sid, ssid);
    if (at >= 0) this.#keys[(at / PAYLOAD) * KEY + STAMP] = 0;
  }

  /** Drops all structures of one stream. */
  removeStream(sid: number): void {
    this.#streamStamps[sid & this.#streamMask] = ++this.#now;
  }

  /**
   * Executes the CMD_CFGI_STEs in `words[at..end)` that have the same first word as the first of them on both caches, which are of
   * the same SMMU: all of their streams get one stamp. Returns where it ended.
   */
  static removeStreams(stes: ConfigCache, cds: ConfigCache, words: Int32Array, at: number, end: number): number {
    const word0 = words[at]!;
    const steStamps = stes.#streamStamps;
    const cdStamps = cds.#streamStamps;
    const mask = stes.#streamMask;
    const steNow = ++stes.#now;
    const cdNow = ++cds.#now;
    let i = at;
    while (i < end && words[i] === word0) {
      const stream = words[i + 1]! & mask;
      steStamps[stream] = steNow;
      cdStamps[stream] = cdNow;
      i += 4;
    }
    return i;
  }

  /** Drops all structures of the streams `[first, first + count)`. */
  removeStreams(first: number, count: number): void {
    this.#now++;
    const end = Math.min(count, this.#streamMask + 1);
    for (let i = 0; i < end; i++) this.#streamStamps[(first + i) & this.#streamMask] = this.#now;
  }

  clear(): void {
    this.#floor = ++this.#now;
  }

  /** Structures that would be found. */
  get size(): number {
    let count = 0;
    for (let entry = 0; entry < this.#keys.length / KEY; entry++) if (this.#live(this.#keys, entry)) count++;
    return count;
  }

  /** Saves the cache under `name`. */
  save(name: string, out: StateWriter): void {
    out.put(name, { setBits: this.#setBits, next: this.#replacement.state, now: this.#now, floor: this.#floor });
    out.sparse(`${name}.keys`, this.#keys);
    out.sparse(`${name}.data`, this.data);
    out.sparse(`${name}.streams`, this.#streamStamps);
  }

  restore(name: string, from: StateReader): void {
    const saved = from.get(name) as { setBits: number; next: number; now: number; floor: number };
    this.#setBits = saved.setBits;
    this.#replacement.state = saved.next;
    this.#now = saved.now;
    this.#floor = saved.floor;
    this.#keys = new Int32Array((WAYS << saved.setBits) * KEY);
    this.data = new Int32Array((WAYS << saved.setBits) * PAYLOAD);
    from.sparse(`${name}.keys`, this.#keys);
    from.sparse(`${name}.data`, this.data);
    from.sparse(`${name}.streams`, this.#streamStamps);
  }

  #live(keys: Int32Array, entry: number): boolean {
    const stamp = keys[entry * KEY + STAMP]!;
    return stamp > 0 && stamp >= this.#floor && stamp >= this.#streamStamps[keys[entry * KEY]! & this.#streamMask]!;
  }

  /** An entry of a set that holds nothing, or -1. Only a cache that grows looks for dead ones as well. */
  #free(first: number): number {
    const keys = this.#keys;
    for (let entry = first; entry < first + WAYS; entry++) if (keys[entry * KEY + STAMP] === 0) return entry;
    if (!this.#grows) return -1;
    for (let entry = first; entry < first + WAYS; entry++) if (!this.#live(keys, entry)) return entry;
    return -1;
  }

  /** First entry of a set. The hash is multiplicative: StreamIDs of PCI functions differ in any of their bits. */
  #set(sid: number, ssid: number): number {
    return (Math.imul(sid ^ Math.imul(ssid + 1, SUBSTREAM_MIX), MIX) >>> (32 - this.#setBits)) * WAYS;
  }

  #grow(): void {
    const keys = this.#keys;
    const data = this.data;
    this.#setBits++;
    this.#keys = new Int32Array((WAYS << this.#setBits) * KEY);
    this.data = new Int32Array((WAYS << this.#setBits) * PAYLOAD);
    for (let entry = 0; entry < keys.length / KEY; entry++) {
      if (!this.#live(keys, entry)) continue;
      const to = this.insert(keys[entry * KEY]!, keys[entry * KEY + 1]!);
      this.#keys[(to / PAYLOAD) * KEY + STAMP] = keys[entry * KEY + STAMP]!;
      this.data.set(data.subarray(entry * PAYLOAD, (entry + 1) * PAYLOAD), to);
    }
  }
}
