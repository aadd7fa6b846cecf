export const PAGE_SHIFT = 12;
export const PAGE_SIZE = 4096;
/** 32-bit words of a 4K page. */
export const PAGE_WORDS = 1024;

/** Bits of {@link Memory.perm}. */
export const PERM_READ = 1;
export const PERM_WRITE = 2;
export const PERM_RW = 3;

/** Flat RAM is indexed by an int32 word number, so it stays below 8 GiB. */
const MAX_SIZE = 2 ** 33 - PAGE_SIZE;
/** Page frame numbers fit an int32 below this address. */
const MAX_END = 2 ** 43;

/**
 * Slow path of a view: called when an access finds no permission cached for its page, or lies outside of RAM. It either
 * makes the access legal (fills {@link Memory.perm}) and returns, or raises the abort by throwing.
 */
export type MemorySlowPath = (pa: number, write: boolean) => void;

export interface MemoryOptions {
  /** First physical address, 4K aligned. */
  readonly base: number;
  /** Bytes, a multiple of 4K, below 8 GiB. */
  readonly size: number;
  /** Back it with a SharedArrayBuffer (worker threads). */
  readonly shared?: boolean;
}

/** Thrown by a view whose slow path is the default: the address is not RAM. */
export class MemoryAbort extends Error {
  readonly pa: number;
  readonly write: boolean;

  constructor(pa: number, write: boolean) {
    super(`external abort: ${write ? "write" : "read"} at 0x${pa.toString(16)}, which is not RAM`);
    this.name = "MemoryAbort";
    this.pa = pa;
    this.write = write;
  }
}

const abort: MemorySlowPath = (pa, write) => {
  throw new MemoryAbort(pa, write);
};

/**
 * Physical memory as one agent sees it: the words are shared by all views, the permissions are the view's own.
 *
 * `words` is little-endian by construction: a 64-bit descriptor is a low word followed by a high word. Hot paths index
 * `words` themselves after asking `perm` once per page; all others use the checked accessors, which take byte addresses
 * as `number`. One class only: several implementations behind an interface cost six times more per load.
 */
export class Memory {
  readonly words: Int32Array;
  readonly perm: Uint8Array;
  readonly base: number;
  readonly size: number;
  /** Page frame number of `base`. */
  readonly basePage: number;
  /** Number of 4K pages. */
  readonly pages: number;
  readonly #slow: MemorySlowPath;

  private constructor(words: Int32Array, perm: Uint8Array, base: number, slow: MemorySlowPath) {
    this.words = words;
    this.perm = perm;
    this.base = base;
    this.size = words.length * 4;
    this.basePage = base / PAGE_SIZE;
    this.pages = perm.length;
    this.#slow = slow;
  }

  /** New zeroed RAM; every page readable and writable. Throws RangeError for a base or size that does not fit. */
  static allocate(options: MemoryOptions): Memory {
    const { base, size } = options;
    if (!Number.isSafeInteger(base) || base < 0 || base % PAGE_SIZE !== 0) {
      throw new RangeError(`Memory: base must be a 4K-aligned address, got ${base}`);
    }
    if (!Number.isSafeInteger(size) || size <= 0 || size % PAGE_SIZE !== 0 || size > MAX_SIZE) {
      throw new RangeError(`Memory: size must be a multiple of 4K and below 8 GiB, got ${size}`);
    }
    if (base + size > MAX_END) {
      throw new RangeError(`Memory: RAM must end at or below 8 TiB, got base ${base} and size ${size}`);
    }
    const buffer = options.shared === true ? new SharedArrayBuffer(size) : new ArrayBuffer(size);
    return new Memory(new Int32Array(buffer), new Uint8Array(size / PAGE_SIZE).fill(PERM_RW), base, abort);
  }

  /** The same RAM seen by another agent: nothing is permitted until `slow` fills {@link perm}. */
  view(slow: MemorySlowPath): Memory {
    return new Memory(this.words, new Uint8Array(this.pages), this.base, slow);
  }

  /**
   * `[pa, pa + size)` of this RAM, all of it permitted, at `base` instead: as the kernel of a virtual machine sees its memory.
   * Throws RangeError where that is not RAM in whole pages.
   */
  window(pa: number, size: number, base: number): Memory {
    if ([pa, size, base].some((value) => value % PAGE_SIZE !== 0) || pa < this.base || !(size > 0) || pa + size > this.base + this.size) {
      throw new RangeError(`Memory: window must be whole pages of RAM, got ${size} bytes at 0x${pa.toString(16)} for ${base}`);
    }
    const first = (pa - this.base) / 4;
    const words = this.words.subarray(first, first + size / 4);
    return new Memory(words, new Uint8Array(size / PAGE_SIZE).fill(PERM_RW), base, abort);
  }

  /** Page index of the physical address `hi:lo`, or -1 outside of RAM. */
  pageOf(lo: number, hi: number): number {
    // Nothing at or above MAX_END is RAM.
    if (hi >>> 11 !== 0) return -1;
    const page = ((hi << 20) | (lo >>> 12)) - this.basePage;
    return page >= 0 && page < this.pages ? page : -1;
  }

  /** Page index of the physical address `pa`, or -1 outside of RAM. */
  pageIndex(pa: number): number {
    const offset = pa - this.base;
    return offset >= 0 && offset < this.size ? Math.floor(offset / PAGE_SIZE) : -1;
  }

  /** Index into `words` of the 4-byte aligned `pa`, after the permission check; aborts by the slow path. */
  index(pa: number, write: boolean): number {
    if (pa % 4 !== 0) throw new RangeError(`Memory: address must be 4-byte aligned, got 0x${pa.toString(16)}`);
    const offset = pa - this.base;
    const need = write ? PERM_WRITE : PERM_READ;
    const inside = offset >= 0 && offset < this.size;
    if (!inside || (this.perm[Math.floor(offset / PAGE_SIZE)]! & need) === 0) this.#slow(pa, write);
    if (!inside) throw new MemoryAbort(pa, write);
    return (offset * 0.25) | 0;
  }

  /** The 32-bit word at `pa` as int32. */
  load32(pa: number): number {
    return this.words[this.index(pa, false)]!;
  }

  /** Stores a 32-bit word. */
  store32(pa: number, value: number): void {
    this.words[this.index(pa, true)] = value;
  }

  /** {@link index} of an 8-byte aligned `pa`: both words lie in the page that was checked. */
  #pair(pa: number, write: boolean): number {
    if (pa % 8 !== 0) throw new RangeError(`Memory: address must be 8-byte aligned, got 0x${pa.toString(16)}`);
    return this.index(pa, write);
  }

  /**
   * Stores a 64-bit descriptor, 8-byte aligned. Single-copy atomic to a reader that looks at the low word: an entry becomes
   * invalid by its low word before its high word changes, and valid after it.
   */
  store64(pa: number, lo: number, hi: number): void {
    const index = this.#pair(pa, true);
    const words = this.words;
    if (words[index + 1] !== hi) {
      if ((words[index]! & 1) !== 0) words[index] = 0;
      words[index + 1] = hi;
    }
    words[index] = lo;
  }

  /** The 64-bit value at `pa`, 8-byte aligned, as a number; exact below 2^53. */
  load64(pa: number): number {
    const index = this.#pair(pa, false);
    return (this.words[index + 1]! >>> 0) * 0x1_0000_0000 + (this.words[index]! >>> 0);
  }

  /** Fills `[pa, pa + size)`, word aligned, with the 32-bit `value`. */
  fill(pa: number, size: number, value: number): void {
    for (let at = pa; at < pa + size; ) {
      const start = this.index(at, true);
      const bytes = Math.min(pa + size - at, PAGE_SIZE - (at % PAGE_SIZE));
      this.words.fill(value, start, start + bytes / 4);
      at += bytes;
    }
  }

  /** Copies `out.length` words from `pa` into `out`. */
  read(pa: number, out: Int32Array): void {
    for (let i = 0; i < out.length; i++) out[i] = this.load32(pa + i * 4);
  }

  /** Copies all words of `data` to `pa`, ascending. */
  write(pa: number, data: Int32Array): void {
    for (let i = 0; i < data.length; i++) this.store32(pa + i * 4, data[i]!);
  }
}
