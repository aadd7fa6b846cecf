import type { InterruptLine, RegisterWindow } from "@smmuv3/platform";
import { CERROR } from "@smmuv3/smmu-v3-defs";
import type { CommandPort, CommandQueues } from "./command-runner.ts";
import { VirtualCommandQueue } from "./tegra241-queue.ts";
import {
  CMDQV, CMDQV_FIELD, CMDQV_PAGE, CMDQV_VCMDQ_STRIDE, CMDQV_VINTF_PAGES, CMDQV_VINTF_STRIDE, ENABLE, inPlace, put, read, VINTF,
} from "./tegra241-registers.ts";
import { VirtualInterface } from "./tegra241-vintf.ts";

export interface Tegra241CmdqvOptions {
  /** Virtual interfaces, a power of two up to 64; default 4. */
  readonly vintfs?: number;
  /** Virtual command queues, a power of two up to 128; default 8. */
  readonly vcmdqs?: number;
  /** StreamIDs that a VINTF replaces, a power of two up to 16; default 16. */
  readonly sidsPerVm?: number;
  /** Edge-triggered: pulsed when a queue gets into error. */
  readonly irq?: InterruptLine;
  /** What a virtual machine is shown: HYP_OWN stays 0. */
  readonly guest?: boolean;
}

/** What the block needs of its SMMU; SmmuV3 is one. */
export interface CommandQueueHost {
  attachCommandQueues(queues: CommandQueues): CommandPort;
}

const VERSION = 1;
const MAX_SIDS = 16;
const { ALLOC_LVCMDQ, ALLOC_VINTF } = CMDQV_FIELD;
/** Bits of CMDQ_ALLOC. */
const ALLOC = inPlace(ALLOC_VINTF) | inPlace(ALLOC_LVCMDQ) | ENABLE;
const VINTF_MAP_WORDS = 2;
const CMDQ_MAP_WORDS = 4;

function log2Of(name: string, value: number, limit: number): number {
  const log2 = Math.log2(value);
  if (!Number.isInteger(log2) || value < 1 || value > limit) {
    throw new RangeError(`Tegra241Cmdqv: ${name} must be a power of two from 1 to ${limit}, got ${value}`);
  }
  return log2;
}

/** Word `index` of a bit map. */
function mapWord(set: Iterable<number>, index: number): number {
  let word = 0;
  for (const bit of set) if (bit >> 5 === index) word |= 1 << (bit & 31);
  return word;
}

/**
 * The command queue virtualisation of Tegra241: more command queues for one SMMU, in interfaces that a hypervisor gives to
 * virtual machines. The SMMU executes their commands as its own. The registers are a window beside the SMMU's.
 */
export class Tegra241Cmdqv implements RegisterWindow, CommandQueues {
  /** High word of the last {@link read64}. */
  hi = 0;

  readonly #queues: readonly VirtualCommandQueue[];
  readonly #vintfs: readonly VirtualInterface[];
  readonly #allocations: Int32Array;
  readonly #masked = new Int32Array(VINTF_MAP_WORDS);
  readonly #param: number;
  readonly #immediate: boolean;
  readonly #irq: InterruptLine | undefined;
  #config = 0;
  #enabled = false;
  #busy = false;

  constructor(host: CommandQueueHost, options: Tegra241CmdqvOptions = {}) {
    const { vintfs = 4, vcmdqs = 8, sidsPerVm = MAX_SIDS, guest = false } = options;
    this.#param =
      put(CMDQV_FIELD.PARAM_VER, VERSION) |
      put(CMDQV_FIELD.PARAM_NUM_VCMDQ_LOG2, log2Of("vcmdqs", vcmdqs, CMDQ_MAP_WORDS * 32)) |
      put(CMDQV_FIELD.PARAM_NUM_VINTF_LOG2, log2Of("vintfs", vintfs, VINTF_MAP_WORDS * 32)) |
      put(CMDQV_FIELD.PARAM_SID_PER_VM_LOG2, log2Of("sidsPerVm", sidsPerVm, MAX_SIDS));
    const port = host.attachCommandQueues(this);
    this.#queues = Array.from({ length: vcmdqs }, () => new VirtualCommandQueue(port));
    this.#vintfs = Array.from({ length: vintfs }, () => new VirtualInterface(sidsPerVm, !guest));
    this.#allocations = new Int32Array(vcmdqs);
    this.#immediate = port.immediate;
    this.#irq = options.irq;
  }

  /** Bytes of the register window. */
  get size(): number {
    return CMDQV_VINTF_PAGES + this.#vintfs.length * CMDQV_VINTF_STRIDE;
  }

  read32(offset: number): number {
    if (offset % 4 !== 0) return 0;
    if (offset < CMDQV_PAGE) return this.#readConfiguration(offset);
    return this.#queueAt(offset)?.read(pageOf(offset), offset % CMDQV_VCMDQ_STRIDE) ?? 0;
  }

  write32(offset: number, value: number): void {
    if (offset % 4 !== 0) return;
    if (offset < CMDQV_PAGE) this.#writeConfiguration(offset, value);
    else this.#queueAt(offset)?.write(pageOf(offset), offset % CMDQV_VCMDQ_STRIDE, value);
    if (!this.#immediate) return;
    this.#apply();
    this.#consume(Number.MAX_SAFE_INTEGER);
  }

  read64(offset: number): number {
    this.hi = this.read32(offset + 4);
    return this.read32(offset);
  }

  write64(offset: number, lo: number, hi: number): void {
    this.write32(offset, lo);
    this.write32(offset + 4, hi);
  }

  advance(limit: number): number {
    this.#apply();
    return this.#consume(limit);
  }

  reset(): void {
    this.#config = 0;
    this.#enabled = false;
    this.#masked.fill(0);
    this.#allocations.fill(0);
    for (const vintf of this.#vintfs) vintf.reset();
    for (const queue of this.#queues) queue.reset();
  }

  /** The queue that an offset belongs to: by its own number, or by its number in a VINTF. */
  #queueAt(offset: number): VirtualCommandQueue | undefined {
    const index = Math.floor((offset % CMDQV_PAGE) / CMDQV_VCMDQ_STRIDE);
    if (offset < CMDQV_VINTF_PAGES) return this.#queues[index];
    const vintf = Math.floor((offset - CMDQV_VINTF_PAGES) / CMDQV_VINTF_STRIDE);
    return this.#queues.find((queue) => queue.vintf === vintf && queue.logical === index);
  }

  #readConfiguration(offset: number): number {
    const inMap = (base: number, words: number): number => (offset >= base && offset < base + words * 4 ? (offset - base) >> 2 : -1);
    if (offset === CMDQV.CONFIG) return this.#config;
    if (offset === CMDQV.PARAM) return this.#param;
    if (offset === CMDQV.STATUS) return this.#enabled ? ENABLE : 0;
    let word = inMap(CMDQV.VINTF_ERR_MAP, VINTF_MAP_WORDS);
    if (word >= 0) return mapWord(this.#failed(({ vintf }) => vintf), word);
    word = inMap(CMDQV.VINTF_INT_MASK, VINTF_MAP_WORDS);
    if (word >= 0) return this.#masked[word]!;
    word = inMap(CMDQV.CMDQ_ERR_MAP, CMDQ_MAP_WORDS);
    if (word >= 0) return mapWord(this.#failed((queue) => this.#queues.indexOf(queue)), word);
    word = inMap(CMDQV.CMDQ_ALLOC, this.#queues.length);
    if (word >= 0) return this.#allocations[word]!;
    const index = vintfOf(offset);
    const inside = offset % CMDQV.VINTF_STRIDE;
    if (inside >= VINTF.LVCMDQ_ERR_MAP && inside < VINTF.LVCMDQ_ERR_MAP + CMDQ_MAP_WORDS * 4) {
      const logical = this.#failed((queue) => (queue.vintf === index ? queue.logical : -1));
      return mapWord(logical, (inside - VINTF.LVCMDQ_ERR_MAP) >> 2);
    }
    return this.#vintfs[index]!.read(inside);
  }

  /** `key` of every allocated queue that is in error, without those that are -1. */
  #failed(key: (queue: VirtualCommandQueue) => number): number[] {
    return this.#queues.filter(({ failed, vintf }) => failed && vintf >= 0).map(key).filter((bit) => bit >= 0);
  }

  #writeConfiguration(offset: number, value: number): void {
    const mask = (offset - CMDQV.VINTF_INT_MASK) >> 2;
    const queue = (offset - CMDQV.CMDQ_ALLOC) >> 2;
    if (offset === CMDQV.CONFIG) this.#config = value & ENABLE;
    else if (mask >= 0 && mask < VINTF_MAP_WORDS) this.#masked[mask] = value;
    else if (queue >= 0 && queue < this.#queues.length) this.#allocate(queue, value & ALLOC);
    else this.#vintfs[vintfOf(offset)]?.write(offset % CMDQV.VINTF_STRIDE, value);
  }

  #allocate(index: number, value: number): void {
    const queue = this.#queues[index]!;
    const vintf = read(value, ALLOC_VINTF);
    const allocated = (value & ENABLE) !== 0 && vintf < this.#vintfs.length;
    this.#allocations[index] = value;
    queue.vintf = allocated ? vintf : -1;
    queue.logical = allocated ? read(value, ALLOC_LVCMDQ) : -1;
  }

  /** Puts requested enables into effect: a queue needs its interface, and that the whole block. */
  #apply(): void {
    this.#enabled = (this.#config & ENABLE) !== 0;
    for (const vintf of this.#vintfs) vintf.enabled = this.#enabled && vintf.wanted;
    for (const queue of this.#queues) queue.enabled = queue.wanted && this.#vintfs[queue.vintf]?.enabled === true;
  }

  /** One command of each queue in turn. */
  #consume(limit: number): number {
    if (this.#busy) return 0;
    this.#busy = true;
    try {
      let done = 0;
      for (let before = -1; before !== done && done < limit; ) {
        before = done;
        for (const queue of this.#queues) if (done < limit && this.#runOne(queue)) done++;
      }
      return done;
    } finally {
      this.#busy = false;
    }
  }

  #runOne(queue: VirtualCommandQueue): boolean {
    const vintf = this.#vintfs[queue.vintf];
    if (vintf === undefined) return false;
    const error = queue.runOne(vintf.filter);
    if (error === undefined || error === CERROR.NONE) return error !== undefined;
    if (((this.#masked[queue.vintf >> 5]! >>> (queue.vintf & 31)) & 1) === 0) this.#irq?.pulse();
    return false;
  }
}

function vintfOf(offset: number): number {
  return Math.floor((offset - CMDQV.VINTF) / CMDQV.VINTF_STRIDE);
}

/** Page 0 or 1 of a queue; the pages of all queues come before those of the interfaces. */
function pageOf(offset: number): number {
  return offset < CMDQV_VINTF_PAGES ? (offset >> 16) - 1 : ((offset - CMDQV_VINTF_PAGES) >> 16) & 1;
}
