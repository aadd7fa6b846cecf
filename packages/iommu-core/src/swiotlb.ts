import { ERRNO, LEVEL, PAGE_SIZE } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";
import { PageAllocator } from "@smmuv3/driver-core";
import type { KernelContext } from "@smmuv3/driver-core";
import { DMA_DIR } from "./prot.ts";

/** The pool lies below 4 GiB, where 32-bit devices reach it. */
const POOL_LIMIT = 0xffff_ffff;

/** Bits of `count` bytes from byte `first` of a word. */
function byteMask(first: number, count: number): number {
  const ones = count === 4 ? -1 : (1 << (count * 8)) - 1;
  return ones << (first * 8);
}

/** Copies `size` bytes; source and destination have the same offset in a word. */
export function copyBytes(memory: Memory, to: number, from: number, size: number): void {
  let done = 0;
  while (done < size) {
    const lead = (from + done) % 4;
    const bytes = Math.min(4 - lead, size - done);
    const source = memory.load32(from + done - lead);
    const at = to + done - lead;
    if (bytes === 4) memory.store32(at, source);
    else {
      const mask = byteMask(lead, bytes);
      memory.store32(at, (memory.load32(at) & ~mask) | (source & mask));
    }
    done += bytes;
  }
}

/**
 * Bounce buffers: pages that a device with a small DMA mask reaches, in place of pages that it does not. The CPU copies at
 * map and at unmap. The pool is taken from the page allocator by the first use.
 */
export class Swiotlb {
  readonly #kernel: KernelContext;
  readonly #size: number;
  readonly #bounced: number;
  readonly #bouncedBytes: number;
  /** Slots are pages of a buddy system of their own. */
  #slots: PageAllocator | undefined = undefined;
  /** Per slot: the original physical address and the size of the mapping that starts in it. */
  readonly #originals: Float64Array;
  readonly #sizes: Float64Array;

  /** @param size bytes of the pool, a multiple of 4K; 0 switches bouncing off. */
  constructor(kernel: KernelContext, size: number) {
    if (!Number.isSafeInteger(size) || size < 0 || size % PAGE_SIZE !== 0) {
      throw new RangeError(`Swiotlb: size must be a multiple of 4K, got ${size}`);
    }
    this.#kernel = kernel;
    this.#size = size;
    this.#originals = new Float64Array(size / PAGE_SIZE);
    this.#sizes = new Float64Array(size / PAGE_SIZE);
    this.#bounced = kernel.cpu.counters.id("dma.bounced") + LEVEL.el1;
    this.#bouncedBytes = kernel.cpu.counters.id("dma.bouncedBytes") + LEVEL.el1;
  }

  /** Bytes of slots in use. */
  get used(): number {
    return this.#slots?.allocated ?? 0;
  }

  /** True when `address` lies in the pool. */
  contains(address: number): boolean {
    const slots = this.#slots;
    return slots !== undefined && address >= slots.base && address < slots.base + slots.size;
  }

  /** Bounces `[pa, pa + size)`; the address for the device, or -ENOMEM when the pool is full or beyond `mask`. */
  map(pa: number, size: number, dir: number, mask: number): number {
    const slots = this.#pool();
    if (slots === undefined || slots.base + slots.size - 1 > mask) return -ERRNO.ENOMEM;
    const offset = pa % PAGE_SIZE;
    const slot = slots.alloc(offset + size);
    if (slot < 0) return slot;
    const index = (slot - slots.base) / PAGE_SIZE;
    this.#originals[index] = pa;
    this.#sizes[index] = size;
    if (dir !== DMA_DIR.fromDevice) this.#copy(slot + offset, pa, size);
    this.#kernel.cpu.counters.add(this.#bounced, 1);
    return slot + offset;
  }

  /** Ends the bounce at `address`; 0, or -EINVAL when it is not one of `size` bytes. */
  unmap(address: number, size: number, dir: number): number {
    const slots = this.#slots;
    if (slots === undefined || !this.contains(address)) return -ERRNO.EINVAL;
    const offset = address % PAGE_SIZE;
    const index = (address - offset - slots.base) / PAGE_SIZE;
    const pa = this.#originals[index]!;
    if (this.#sizes[index] !== size || pa % PAGE_SIZE !== offset) return -ERRNO.EINVAL;
    if (dir !== DMA_DIR.toDevice) this.#copy(pa, address, size);
    this.#sizes[index] = 0;
    slots.free(address - offset, offset + size);
    return 0;
  }

  #copy(to: number, from: number, size: number): void {
    copyBytes(this.#kernel.memory, to, from, size);
    this.#kernel.cpu.counters.add(this.#bouncedBytes, size);
  }

  #pool(): PageAllocator | undefined {
    if (this.#slots === undefined && this.#size > 0) {
      const base = this.#kernel.pages.alloc(this.#size, PAGE_SIZE, POOL_LIMIT);
      if (base >= 0) this.#slots = new PageAllocator({ base, size: this.#size });
      else this.#kernel.log.warn(`software IO TLB: cannot allocate ${this.#size} bytes below 4 GiB`);
    }
    return this.#slots;
  }
}
