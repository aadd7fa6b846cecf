const WAYS = 4;
/** Entry: sid, ssid, stamp, unused; then the structure. */
const HEADER = 4;
const PAYLOAD = 16;
const ENTRY = HEADER + PAYLOAD;
/** Streams whose invalidation is told apart; those that share the low bits are invalidated together, which is permitted. */
const MAX_STREAM_BITS = 20;
const MAX_SET_BITS = 18;

export interface CacheSize {
  /** Entries to start with; 0 keeps nothing. */
  readonly entries: number;
  /** Grows instead of evicting. */
  readonly grows: boolean;
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
  #setBits: number;
  #next = 0;
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
    this.#setBits = Math.max(1, Math.ceil(Math.log2(Math.max(size.entries, WAYS) / WAYS)));
    this.data = new Int32Array((WAYS << this.#setBits) * ENTRY);
  }

  /** Index of the structure in {@link data}, or -1. */
  find(sid: number, ssid: number): number {
    const data = this.data;
    const floor = Math.max(this.#floor, this.#streamStamps[sid & this.#streamMask]!);
    let at = this.#set(sid, ssid);
    for (let way = 0; way < WAYS; way++, at += ENTRY) {
      if (data[at] === sid && data[at + 1] === ssid && data[at + 2]! >= floor) return at + HEADER;
    }
    return -1;
  }

  /** Makes room for a structure that {@link find} did not find; its 16 words go to the index returned. */
  insert(sid: number, ssid: number): number {
    const data = this.data;
    const first = this.#set(sid, ssid);
    let at = -1;
    for (let way = WAYS - 1; way >= 0; way--) if (data[first + way * ENTRY + 2] === 0) at = first + way * ENTRY;
    for (let way = 0; way < WAYS && at < 0; way++) if (!this.#live(first + way * ENTRY)) at = first + way * ENTRY;
    if (at < 0) {
      if (this.#grows && this.#setBits < MAX_SET_BITS) {
        this.#grow();
        return this.insert(sid, ssid);
      }
      at = first + (this.#next++ & (WAYS - 1)) * ENTRY;
    }
    data[at] = sid;
    data[at + 1] = ssid;
    data[at + 2] = this.#enabled ? this.#now : 0;
    this.last = at + HEADER;
    return this.last;
  }

  /** Drops one structure. */
  remove(sid: number, ssid: number): void {
    const at = this.find(sid, ssid);
    if (at >= 0) this.data[at - HEADER + 2] = 0;
  }

  /** Drops all structures of one stream. */
  removeStream(sid: number): void {
    this.#streamStamps[sid & this.#streamMask] = ++this.#now;
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
    for (let at = 0; at < this.data.length; at += ENTRY) if (this.#live(at)) count++;
    return count;
  }

  #live(at: number): boolean {
    const stamp = this.data[at + 2]!;
    return stamp >= this.#floor && stamp >= this.#streamStamps[this.data[at]! & this.#streamMask]! && stamp > 0;
  }

  #set(sid: number, ssid: number): number {
    // Multiplicative: StreamIDs of PCI functions differ in any of their bits.
    const hash = Math.imul(sid ^ Math.imul(ssid + 1, 0x9e37_79b1), 0x85eb_ca6b) >>> (32 - this.#setBits);
    return hash * (WAYS * ENTRY);
  }

  #grow(): void {
    const old = this.data;
    this.#setBits++;
    this.data = new Int32Array((WAYS << this.#setBits) * ENTRY);
    for (let at = 0; at < old.length; at += ENTRY) {
      const sid = old[at]!;
      const stamp = old[at + 2]!;
      if (stamp === 0 || stamp < this.#floor || stamp < this.#streamStamps[sid & this.#streamMask]!) continue;
      const to = this.insert(sid, old[at + 1]!);
      this.data[to - HEADER + 2] = stamp;
      this.data.set(old.subarray(at + HEADER, at + ENTRY), to);
    }
  }
}
