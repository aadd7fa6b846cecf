import { ERRNO, PAGE_SIZE, alignUp, hex } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";

/** Largest block of the buddy system: 2^18 pages, 1 GiB. */
const MAX_ORDER = 18;
/** Page frame numbers are int32. */
const MAX_ADDRESS = 2 ** 43;

export interface PageAllocatorOptions {
  /** First physical address, 4K aligned. */
  readonly base: number;
  /** Bytes, a multiple of 4K. */
  readonly size: number;
}

/** Smallest order whose block holds `pages` pages. */
function orderOf(pages: number): number {
  return pages <= 1 ? 0 : 32 - Math.clz32(pages - 1);
}

function checkPages(what: string, value: number, least: number): void {
  if (!Number.isSafeInteger(value) || value < least || value % PAGE_SIZE !== 0 || value > MAX_ADDRESS) {
    throw new RangeError(`PageAllocator: ${what} must be a multiple of 4K from ${least} to 2^43, got ${value}`);
  }
}

/**
 * The kernel's physical pages: a buddy system over `[base, base + size)`. A block of n pages is aligned to n rounded up to
 * a power of two; what the rounding adds stays free. Free lists are doubly linked through typed arrays, so allocating and
 * freeing a page costs a few loads. Nothing is zeroed here.
 */
export class PageAllocator {
  readonly base: number;
  readonly size: number;
  /** Bytes handed out now. */
  allocated: number = 0;
  /** Largest value that {@link allocated} had. */
  peak: number = 0;
  /** Bytes taken out by {@link reserve}. */
  reserved: number = 0;
  /** Page frame number of `base`: buddies are naturally aligned physical addresses. */
  readonly #first: number;
  readonly #count: number;
  /** Per page index: order + 1 when it heads a free block, else 0. */
  readonly #order: Uint8Array;
  /** Free list links, as page index + 1; 0 ends a list. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  /** Heads of the free lists by order. */
  readonly #heads: Int32Array = new Int32Array(MAX_ORDER + 1);
  /** Bit n: the list of order n is not empty. */
  #nonEmpty = 0;
  /** Per page index: number of pages when it heads an allocation, else 0. */
  readonly #span: Int32Array;

  constructor(options: PageAllocatorOptions) {
    checkPages("base", options.base, 0);
    checkPages("size", options.size, PAGE_SIZE);
    checkPages("base + size", options.base + options.size, PAGE_SIZE);
    this.base = options.base;
    this.size = options.size;
    this.#first = options.base / PAGE_SIZE;
    this.#count = options.size / PAGE_SIZE;
    this.#order = new Uint8Array(this.#count);
    this.#next = new Int32Array(this.#count);
    this.#previous = new Int32Array(this.#count);
    this.#span = new Int32Array(this.#count);
    this.#release(0, this.#count);
  }

  /** Bytes that are neither allocated nor reserved. */
  get available(): number {
    return this.size - this.allocated - this.reserved;
  }

  /**
   * Allocates `bytes` (rounded up to pages), physically contiguous.
   * @param bytes positive
   * @param align power of two; the natural alignment of `bytes` applies when it is larger
   * @param limit highest address that the block may contain (GFP_DMA32); slower than without
   * @returns the physical address, or -ENOMEM
   */
  alloc(bytes: number, align: number = PAGE_SIZE, limit: number = Infinity): number {
    if (!(bytes > 0)) throw new RangeError(`PageAllocator: bytes must be positive, got ${bytes}`);
    const pages = bytes <= PAGE_SIZE ? 1 : Math.ceil(bytes / PAGE_SIZE);
    let order = orderOf(pages);
    if (align > PAGE_SIZE) order = Math.max(order, orderOf(align / PAGE_SIZE));
    if (order > MAX_ORDER) return -ERRNO.ENOMEM;
    const index = limit === Infinity ? this.#take(order) : this.#takeBelow(order, limit);
    if (index < 0) return -ERRNO.ENOMEM;
    if (pages < 1 << order) this.#release(index + pages, (1 << order) - pages);
    this.#span[index] = pages;
    this.allocated += pages * PAGE_SIZE;
    if (this.allocated > this.peak) this.peak = this.allocated;
    return (this.#first + index) * PAGE_SIZE;
  }

  /** {@link alloc}, then zeroes the block through `memory`, the view of the CPU that will use it. */
  allocZeroed(memory: Memory, bytes: number, align?: number): number {
    const pa = this.alloc(bytes, align);
    if (pa >= 0) memory.fill(pa, alignUp(bytes, PAGE_SIZE), 0);
    return pa;
  }

  /** Gives back a whole allocation of `bytes`. RangeError when it is not one: double free, foreign address, wrong size. */
  free(pa: number, bytes: number): void {
    const index = pa / PAGE_SIZE - this.#first;
    const pages = Math.ceil(bytes / PAGE_SIZE);
    const span = this.#span[index] ?? 0;
    if (span === 0 || span !== pages) {
      const why = span === 0 ? "is not allocated" : `has ${span * PAGE_SIZE} bytes`;
      throw new RangeError(`PageAllocator: free of ${bytes} bytes at ${hex(pa)}, which ${why}`);
    }
    this.#span[index] = 0;
    this.allocated -= pages * PAGE_SIZE;
    if (pages === 1) this.#insert(index, 0);
    else this.#release(index, pages);
  }

  /** Bytes of the allocation that starts at `pa`; 0 when none does. */
  sizeOf(pa: number): number {
    return (this.#span[pa / PAGE_SIZE - this.#first] ?? 0) * PAGE_SIZE;
  }

  /** Takes the free range `[base, base + size)` out for good: firmware, carve-outs. RangeError when part of it is in use. */
  reserve(base: number, size: number): void {
    checkPages("base", base, 0);
    checkPages("size", size, PAGE_SIZE);
    const start = base / PAGE_SIZE - this.#first;
    const end = start + size / PAGE_SIZE;
    for (let page = start; page < end; ) page = this.#blockEnd(page, base, size);
    for (let page = start; page < end; ) {
      const head = this.#blockOf(page);
      const blockEnd = head + (1 << (this.#order[head]! - 1));
      this.#unlink(head);
      if (head < start) this.#release(head, start - head);
      if (blockEnd > end) this.#release(end, blockEnd - end);
      page = blockEnd;
    }
    this.reserved += size;
  }

  /** End of the free block around `page`. */
  #blockEnd(page: number, base: number, size: number): number {
    const head = page >= 0 && page < this.#count ? this.#blockOf(page) : -1;
    if (head < 0) throw new RangeError(`PageAllocator: reserve of ${size} bytes at ${hex(base)}, which is not all free`);
    return head + (1 << (this.#order[head]! - 1));
  }

  /** Index of the head of the free block that contains `page`, or -1. */
  #blockOf(page: number): number {
    const frame = this.#first + page;
    for (let order = 0; order <= MAX_ORDER; order++) {
      const head = (frame & (-1 << order)) - this.#first;
      if (head < 0) return -1;
      if (this.#order[head] === order + 1) return head;
    }
    return -1;
  }

  /** Takes a block of `order`, splitting a larger one; index or -1. */
  #take(order: number): number {
    const candidates = this.#nonEmpty & (-1 << order);
    if (candidates === 0) return -1;
    const found = 31 - Math.clz32(candidates & -candidates);
    const index = this.#heads[found]! - 1;
    this.#unlink(index);
    this.#split(index, found, order);
    return index;
  }

  /** As {@link #take}, of the blocks whose low part ends at or below `limit`. */
  #takeBelow(order: number, limit: number): number {
    const lastFrame = Math.floor((limit + 1) / PAGE_SIZE) - (1 << order);
    for (let found = order; found <= MAX_ORDER; found++) {
      for (let link = this.#heads[found]!; link !== 0; link = this.#next[link - 1]!) {
        const index = link - 1;
        if (this.#first + index > lastFrame) continue;
        this.#unlink(index);
        this.#split(index, found, order);
        return index;
      }
    }
    return -1;
  }

  /** Frees the upper halves of the block at `index` until `order` is left. */
  #split(index: number, from: number, order: number): void {
    for (let at = from - 1; at >= order; at--) this.#link(index + (1 << at), at);
  }

  /** Frees `pages` pages at `index` as the largest naturally aligned blocks; the low ones are found first afterwards. */
  #release(index: number, pages: number): void {
    let end = index + pages;
    while (end > index) {
      const frame = this.#first + end;
      const aligned = frame === 0 ? MAX_ORDER : 31 - Math.clz32(frame & -frame);
      const order = Math.min(aligned, 31 - Math.clz32(end - index), MAX_ORDER);
      end -= 1 << order;
      this.#insert(end, order);
    }
  }

  /** Frees one block and joins it with its free buddies. */
  #insert(index: number, order: number): void {
    let at = index;
    let level = order;
    while (level < MAX_ORDER) {
      const buddy = ((this.#first + at) ^ (1 << level)) - this.#first;
      if (buddy < 0 || buddy >= this.#count || this.#order[buddy] !== level + 1) break;
      this.#unlink(buddy);
      if (buddy < at) at = buddy;
      level++;
    }
    this.#link(at, level);
  }

  #link(index: number, order: number): void {
    const head = this.#heads[order]!;
    this.#order[index] = order + 1;
    this.#next[index] = head;
    this.#previous[index] = 0;
    if (head !== 0) this.#previous[head - 1] = index + 1;
    this.#heads[order] = index + 1;
    this.#nonEmpty |= 1 << order;
  }

  #unlink(index: number): void {
    const order = this.#order[index]! - 1;
    const next = this.#next[index]!;
    const previous = this.#previous[index]!;
    if (next !== 0) this.#previous[next - 1] = previous;
    if (previous !== 0) this.#next[previous - 1] = next;
    else {
      this.#heads[order] = next;
      if (next === 0) this.#nonEmpty &= ~(1 << order);
    }
    this.#order[index] = 0;
  }
}
