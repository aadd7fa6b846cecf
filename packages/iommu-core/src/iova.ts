import { ERRNO } from "@smmuv3/platform";

/** Highest IOVA that the DMA API hands out. */
export const IOVA_LIMIT = 0xffff_ffff;

/** Ranges below 2^5 pages take a power of two of them: the kernel's caches of freed ranges work by order. */
const ROUNDED_PAGES = 32;

export interface IovaOptions {
  /** Bytes of one IOVA page: the smallest page size of the domain; power of two, 4K or more. */
  readonly granule: number;
  /** Last IOVA that may be used; anything above {@link IOVA_LIMIT} is not. */
  readonly apertureEnd: number;
}

/**
 * Free pages of one order as a bitmap with summaries: bit n of level 0 says that the aligned block n is free; bit n of a
 * higher level says that word n of the level below is not zero. Finding the highest free block takes one `clz32` a level.
 */
class OrderBitmap {
  readonly levels: readonly Int32Array[];
  readonly count: number;

  /** Every bit of `count` set. */
  constructor(count: number) {
    this.count = count;
    const levels: Int32Array[] = [];
    for (let bits = count; ; bits = (bits + 31) >>> 5) {
      const words = new Int32Array((bits + 31) >>> 5).fill(-1);
      if (bits % 32 !== 0) words[words.length - 1] = (1 << (bits % 32)) - 1;
      levels.push(words);
      if (bits <= 32) break;
    }
    this.levels = levels;
  }

  has(bit: number): boolean {
    return (this.levels[0]![bit >>> 5]! & (1 << (bit & 31))) !== 0;
  }

  set(bit: number): void {
    let at = bit;
    for (const words of this.levels) {
      const index = at >>> 5;
      const before = words[index]!;
      words[index] = before | (1 << (at & 31));
      if (before !== 0) return;
      at = index;
    }
  }

  clear(bit: number): void {
    let at = bit;
    for (const words of this.levels) {
      const index = at >>> 5;
      const after = words[index]! & ~(1 << (at & 31));
      words[index] = after;
      if (after !== 0) return;
      at = index;
    }
  }

  /** Highest set bit that is at most `from`, or -1. */
  last(from: number): number {
    const { levels } = this;
    let at = Math.min(from, this.count - 1);
    for (let level = 0; level < levels.length; level++) {
      if (at < 0) return -1;
      const index = at >>> 5;
      const found = levels[level]![index]! & (-1 >>> (31 - (at & 31)));
      if (found !== 0) return this.#descend(level, index * 32 + 31 - Math.clz32(found));
      at = index - 1;
    }
    return -1;
  }

  #descend(level: number, bit: number): number {
    let at = bit;
    for (let down = level - 1; down >= 0; down--) at = at * 32 + 31 - Math.clz32(this.levels[down]![at]!);
    return at;
  }
}

/**
 * IOVA ranges of one domain, allocated from the top of the 32-bit space downwards: the highest free block whose alignment is
 * the size rounded up to a power of two. Page 0 is never handed out.
 */
export class IovaAllocator {
  /** Bytes of one IOVA page. */
  readonly granule: number;
  /** Pages handed out now. */
  allocatedPages: number = 0;
  readonly #pages: number;
  /** Free blocks by order: block n of order k is free when pages n*2^k .. (n+1)*2^k-1 all are. */
  readonly #orders: readonly OrderBitmap[];
  /** Pages of the allocation that starts at a page; 0: none does. */
  readonly #spans: Int32Array;

  constructor(options: IovaOptions) {
    const { granule } = options;
    if (granule < 4096 || granule > 2 ** 30 || (granule & (granule - 1)) !== 0) {
      throw new RangeError(`IovaAllocator: granule must be a power of two from 4K to 1G, got ${granule}`);
    }
    this.granule = granule;
    this.#pages = Math.floor((Math.min(options.apertureEnd, IOVA_LIMIT) + 1) / granule);
    const orders: OrderBitmap[] = [];
    for (let count = this.#pages; count > 0; count >>>= 1) orders.push(new OrderBitmap(count));
    this.#orders = orders;
    this.#spans = new Int32Array(this.#pages);
    this.#take(0, 1);
  }

  /**
   * Allocates a range of at least `size` bytes below or at `limit` (the device's DMA mask).
   * @returns its IOVA, or -ENOMEM
   */
  alloc(size: number, limit: number = IOVA_LIMIT): number {
    const pages = this.#pagesOf(size);
    const order = pages === 1 ? 0 : 32 - Math.clz32(pages - 1);
    const blocks = this.#orders[order];
    if (blocks === undefined) return -ERRNO.ENOMEM;
    const last = Math.floor((Math.min(limit, IOVA_LIMIT) + 1) / (this.granule * 2 ** order)) - 1;
    const block = blocks.last(last);
    if (block < 0) return -ERRNO.ENOMEM;
    const page = block * 2 ** order;
    this.#take(page, page + pages);
    this.#spans[page] = pages;
    this.allocatedPages += pages;
    return page * this.granule;
  }

  /** Gives back the range of `size` bytes at `iova`; 0, or -EINVAL when it was not allocated so. */
  free(iova: number, size: number): number {
    const page = iova / this.granule;
    const pages = this.#pagesOf(size);
    if (this.#spans[page] !== pages) return -ERRNO.EINVAL;
    this.#spans[page] = 0;
    this.allocatedPages -= pages;
    this.#give(page, page + pages);
    return 0;
  }

  /** True when a range of `size` bytes was allocated at `iova`. */
  owns(iova: number, size: number): boolean {
    return this.#spans[iova / this.granule] === this.#pagesOf(size);
  }

  /** Takes `[start, start + length)` out for good. Call before the first {@link alloc}. */
  reserve(start: number, length: number): void {
    const first = Math.floor(start / this.granule);
    const end = Math.min(Math.ceil((start + length) / this.granule), this.#pages);
    if (first < end) this.#take(first, end);
  }

  #pagesOf(size: number): number {
    const pages = Math.ceil(size / this.granule);
    return pages >= ROUNDED_PAGES || pages <= 1 ? Math.max(pages, 1) : 1 << (32 - Math.clz32(pages - 1));
  }

  /** Marks pages used: every block that overlaps them stops being free. */
  #take(start: number, end: number): void {
    let first = start;
    let last = end - 1;
    for (const blocks of this.#orders) {
      // A block that is not free lies in larger ones that are not free either.
      if (first === last && (first >= blocks.count || !blocks.has(first))) return;
      const stop = Math.min(last, blocks.count - 1);
      for (let block = first; block <= stop; block++) blocks.clear(block);
      first >>>= 1;
      last >>>= 1;
    }
  }

  /** Marks pages free: every block of which both halves are free becomes free. */
  #give(start: number, end: number): void {
    for (let page = start; page < end; page++) this.#orders[0]!.set(page);
    let first = start;
    let last = end - 1;
    for (let order = 1; order < this.#orders.length; order++) {
      const below = this.#orders[order - 1]!;
      const blocks = this.#orders[order]!;
      first >>>= 1;
      last >>>= 1;
      let any = false;
      for (let block = first; block <= last && block < blocks.count; block++) {
        if (!below.has(block * 2) || !below.has(block * 2 + 1)) continue;
        blocks.set(block);
        any = true;
      }
      if (!any) return;
    }
  }
}
