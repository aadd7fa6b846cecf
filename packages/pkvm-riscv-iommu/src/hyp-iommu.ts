import { LOCK_RANK } from "@smmuv3/pkvm-hyp";
import type { HypCore } from "@smmuv3/pkvm-hyp";
import { ERRNO, PAGE_SIZE, SpinLock } from "@smmuv3/platform";
import type { RegisterWindow } from "@smmuv3/platform";
import {
  RV_ATP_MODE, RV_CMD_BYTES, RV_CMD_WORDS, RV_CQCSR, RV_DC, RV_DC_BYTES, RV_DC_WORDS, RV_DDI_BITS, RV_DDTE_V, RV_DDTP_MODE,
  RV_REG, RV_TC, rvIodirInvalDdt, rvIofence, rvIotinvalGvma, rvPpnAddress, rvPpnField, rvSetAtp,
} from "@smmuv3/riscv-iommu-defs";

/** Every wait ends: 100 ms, in ns. */
const TIMEOUT = 100_000_000;
/** More pages than this are invalidated by address space. */
const MAX_SINGLE = 32;
/** Room for the invalidations of one range, or of one context, and the fence. */
export const CMDQ_MIN_LOG2 = 6;
const DDI0 = 2 ** RV_DDI_BITS[0]!;
/** Two levels of directory. */
const DIDS: number = DDI0 * 2 ** RV_DDI_BITS[1]!;

/** What EL2 was given with an IOMMU. */
export interface RvResources {
  readonly mmioBase: number;
  readonly mmioSize: number;
  readonly cmdqBase: number;
  readonly cmdqLog2: number;
  /** Root of the directory: one page. */
  readonly ddtBase: number;
}

/** A RISC-V IOMMU that EL2 drives: its command queue and its device directory. Results are 0 or a negative errno. */
export class HypRiscvIommu {
  readonly index: number;
  readonly window: RegisterWindow;
  readonly resources: RvResources;
  /** Who uses the IOMMU after the hand-over holds it. */
  readonly lock: SpinLock;
  /** Without power nothing is cached, so commands have nothing to do. */
  off = false;
  readonly #core: HypCore;
  readonly #command: Int32Array = new Int32Array(RV_CMD_WORDS);
  #tail = 0;

  constructor(core: HypCore, index: number, window: RegisterWindow, resources: RvResources) {
    this.#core = core;
    this.index = index;
    this.window = window;
    this.resources = resources;
    this.lock = new SpinLock(`riscv-iommu${index}`, LOCK_RANK.iommu, core.locks);
  }

  /** Switches the command queue on and makes the directory the one that decides; everything else is refused before and after. */
  start(): number {
    const { window, resources } = this;
    this.#base(RV_REG.ddtp, 0, RV_DDTP_MODE.off);
    this.#base(RV_REG.cqb, resources.cmdqBase, resources.cmdqLog2 - 1);
    window.write32(RV_REG.cqt, 0);
    window.write32(RV_REG.cqcsr, RV_CQCSR.cqen);
    this.#tail = 0;
    const status = this.#poll(() => (window.read32(RV_REG.cqcsr) & RV_CQCSR.cqon) !== 0);
    if (status < 0) return status;
    this.#base(RV_REG.ddtp, resources.ddtBase, RV_DDTP_MODE.level2);
    // Nothing of what the host had is left in the caches.
    this.#push((out) => { rvIotinvalGvma(out, 0, 0); out[1] = 0; });
    this.#push((out) => { rvIodirInvalDdt(out, 0, 0); out[1] = 0; });
    return this.#fence();
  }

  /** Refuses all DMA and lets go of memory. */
  stop(): void {
    this.#base(RV_REG.ddtp, 0, RV_DDTP_MODE.off);
    this.window.write32(RV_REG.cqcsr, 0);
  }

  hasDevice(did: number): boolean {
    return Number.isInteger(did) && did >= 0 && did < DIDS;
  }

  /** Refuses everything that comes from `did`. */
  block(did: number): number {
    const pa = this.#contextAt(did);
    if (pa < 0) return 0;
    this.#core.cpu.memory.store32(pa, 0);
    return this.#invalidateContext(did);
  }

  /**
   * Has the second stage at `root` translate for `did`, tagged `gscid`. A context that was valid is invalid in between: its two words of
   * iohgatp do not change at once here.
   */
  setSecondStage(did: number, root: number, gscid: number): number {
    const added = this.#contextAt(did) < 0 ? this.#addLeaf(did) : 0;
    if (added < 0) return added;
    const { memory } = this.#core.cpu;
    const pa = this.#contextAt(did);
    const dc = new Int32Array(RV_DC_WORDS);
    dc[RV_DC.tc] = RV_TC.v;
    rvSetAtp(dc, RV_DC.iohgatp, RV_ATP_MODE.sv48, gscid, root);
    const old = new Int32Array(RV_DC_WORDS);
    memory.read(pa, old);
    if (old.every((word, i) => word === dc[i])) return 0;
    const blocked = (old[RV_DC.tc]! & RV_TC.v) === 0 ? 0 : this.block(did);
    const status = blocked < 0 ? blocked : this.#writeContext(pa, did, dc);
    // Without an answer nobody knows what the IOMMU believes; memory says what it said before.
    if (status < 0) this.#writeContext(pa, did, old);
    return status;
  }

  /** No entry of `gscid` for `[start, start + size)` is left when this returns 0. */
  invalidate(gscid: number, start: number, size: number): number {
    const pages = size / PAGE_SIZE;
    if (pages > MAX_SINGLE) this.#push((out) => { rvIotinvalGvma(out, 0, gscid); });
    else for (let i = 0; i < pages; i++) this.#push((out) => { rvIotinvalGvma(out, 0, gscid, start + i * PAGE_SIZE); });
    return this.#fence();
  }

  /** All entries of `gscid`. */
  invalidateAll(gscid: number): number {
    this.#push((out) => { rvIotinvalGvma(out, 0, gscid); });
    return this.#fence();
  }

  #base(offset: number, pa: number, low: number): void {
    const [lo, hi] = rvPpnField(pa);
    this.window.write64(offset, lo | low, hi);
  }

  /** Address of the context of `did`, which the directory covers; -1 when its leaf table does not exist. */
  #contextAt(did: number): number {
    const { memory } = this.#core.cpu;
    const entry = this.#rootEntry(did);
    const lo = memory.load32(entry);
    if ((lo & RV_DDTE_V) === 0) return -1;
    return rvPpnAddress(lo, memory.load32(entry + 4)) + (did % DDI0) * RV_DC_BYTES;
  }

  #rootEntry(did: number): number {
    return this.resources.ddtBase + Math.floor(did / DDI0) * 8;
  }

  #addLeaf(did: number): number {
    const { cpu, pool, iommuPool } = this.#core;
    let table = pool.alloc(PAGE_SIZE, "streamTables");
    if (table < 0) table = iommuPool.alloc(PAGE_SIZE, "streamTables");
    if (table < 0) return -ERRNO.ENOMEM;
    const [lo, hi] = rvPpnField(table);
    cpu.barrier();
    cpu.memory.store64(this.#rootEntry(did), lo | RV_DDTE_V, hi);
    return this.#invalidateContext(did);
  }

  #writeContext(pa: number, did: number, dc: Int32Array): number {
    const { cpu } = this.#core;
    for (let word: number = RV_DC.iohgatp; word < RV_DC_WORDS; word++) cpu.memory.store32(pa + word * 4, dc[word]!);
    cpu.barrier();
    cpu.memory.store32(pa, dc[RV_DC.tc]!);
    return this.#invalidateContext(did);
  }

  #invalidateContext(did: number): number {
    this.#push((out) => { rvIodirInvalDdt(out, 0, did); });
    return this.#fence();
  }

  #push(encode: (out: Int32Array) => void): void {
    if (this.off) return;
    const { cmdqBase, cmdqLog2 } = this.resources;
    encode(this.#command);
    this.#core.cpu.memory.write(cmdqBase + this.#tail * RV_CMD_BYTES, this.#command);
    this.#tail = (this.#tail + 1) % 2 ** cmdqLog2;
  }

  /** Publishes what was pushed and waits until it is done. */
  #fence(): number {
    if (this.off) return 0;
    this.#push((out) => { rvIofence(out, 0); });
    this.#core.cpu.barrier();
    this.window.write32(RV_REG.cqt, this.#tail);
    return this.#poll(() => this.window.read32(RV_REG.cqh) === this.#tail);
  }

  /** An error bit of the queue is EL2's own mistake or broken memory: it does not get better by waiting. */
  #poll(done: () => boolean): number {
    const { cpu } = this.#core;
    const deadline = cpu.now() + TIMEOUT;
    while (!done()) {
      if ((this.window.read32(RV_REG.cqcsr) & RV_CQCSR.errors) !== 0 || cpu.now() >= deadline) return -ERRNO.ETIMEDOUT;
      cpu.relax();
    }
    return 0;
  }
}
