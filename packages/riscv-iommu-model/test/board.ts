import { ACCESS, Counters, hi32, lo32, Memory, PAGE_SIZE } from "@smmuv3/platform";
import {
  decodeRvFault, RV_ATP_MODE, RV_CMD_BYTES, RV_CQCSR, RV_DC, RV_DC_BYTES, RV_DC_WORDS, RV_DDTP_MODE, RV_FAULT_BYTES, RV_FQCSR,
  RV_PTE, RV_REG, RV_TC, rvPpnField, rvSetAtp,
} from "@smmuv3/riscv-iommu-defs";
import type { RvFault } from "@smmuv3/riscv-iommu-defs";
import { RiscvIommu } from "../src/index.ts";
import type { RvProfile } from "../src/index.ts";

export const RAM = 0x8000_0000;
const DDT = RAM;
const CQ = RAM + 0x1000;
const FQ = RAM + 0x2000;
const FIRST_FREE = RAM + 0x10000;
export const USER: number = RV_PTE.v | RV_PTE.u | RV_PTE.a;
export const RW: number = USER | RV_PTE.r | RV_PTE.w | RV_PTE.d;

/** An IOMMU with 8 MiB of RAM, a one-level directory, both queues on. */
export class Board {
  readonly memory: Memory = Memory.allocate({ base: RAM, size: 0x80_0000 });
  readonly counters: Counters = new Counters();
  readonly wires: number[] = [];
  readonly iommu: RiscvIommu;
  #next = FIRST_FREE;

  constructor(profile: RvProfile) {
    const irq = Array.from({ length: 16 }, (_, vector) => ({ pulse: () => void this.wires.push(vector) }));
    this.iommu = new RiscvIommu({ memory: this.memory, profile, counters: this.counters, irq });
    this.base(RV_REG.cqb, CQ, 3);
    this.base(RV_REG.fqb, FQ, 1);
    this.iommu.write32(RV_REG.icvec, 0x21);
    this.iommu.write32(RV_REG.cqcsr, RV_CQCSR.cqen | RV_CQCSR.cie);
    this.iommu.write32(RV_REG.fqcsr, RV_FQCSR.fqen | RV_FQCSR.fie);
    this.base(RV_REG.ddtp, DDT, RV_DDTP_MODE.level1);
  }

  /** Writes a register that holds a page number at [53:10] and `low` at [4:0]. */
  base(offset: number, pa: number, low: number): void {
    const [lo, hi] = rvPpnField(pa);
    this.iommu.write64(offset, lo | low, hi);
  }

  /** Zeroed pages, aligned to their size. */
  pages(count: number): number {
    const bytes = count * PAGE_SIZE;
    const pa = Math.ceil(this.#next / bytes) * bytes;
    this.#next = pa + bytes;
    return pa;
  }

  /** Device context of `did`. */
  context(did: number, first: readonly [mode: number, root: number], second: readonly [mode: number, root: number], gscid: number = 7): Int32Array {
    const dc = new Int32Array(RV_DC_WORDS);
    dc[RV_DC.tc] = RV_TC.v;
    rvSetAtp(dc, RV_DC.iohgatp, second[0], second[0] === RV_ATP_MODE.bare ? 0 : gscid, second[1]);
    rvSetAtp(dc, RV_DC.fsc, first[0], 0, first[1]);
    this.putContext(did, dc);
    return dc;
  }

  putContext(did: number, dc: Int32Array): void {
    this.memory.write(DDT + did * RV_DC_BYTES, dc);
  }

  /** Maps `size` bytes at `address` by one leaf; `stage2`: in tables whose root has four pages. Returns the entry's address. */
  map(root: number, levels: number, address: number, pa: number, flags: number, size: number = PAGE_SIZE): number {
    let table = root;
    let span = PAGE_SIZE * 512 ** (levels - 1);
    let top = true;
    for (;;) {
      const index = Math.floor(address / span) % (top ? 2048 : 512);
      const at = table + index * 8;
      if (span === size) {
        const [lo, hi] = rvPpnField(pa);
        this.memory.store64(at, lo | flags, hi);
        return at;
      }
      top = false;
      if ((this.memory.load32(at) & RV_PTE.v) === 0) {
        const [lo, hi] = rvPpnField(this.pages(1));
        this.memory.store64(at, lo | RV_PTE.v, hi);
      }
      table = (this.memory.load64(at) - RV_PTE.v) / 1024 * PAGE_SIZE;
      span /= 512;
    }
  }

  /** Translates; the output address, or undefined when it was refused. */
  go(did: number, iova: number, flags: number = ACCESS.read): number | undefined {
    const status = this.iommu.translate(did, 0, lo32(iova), hi32(iova), flags);
    return status === 0 ? (this.iommu.paHi >>> 0) * 2 ** 32 + (this.iommu.paLo >>> 0) : undefined;
  }

  /** Takes the fault records. */
  faults(): RvFault[] {
    const found: RvFault[] = [];
    for (;;) {
      const head = this.iommu.read32(RV_REG.fqh);
      if (head === this.iommu.read32(RV_REG.fqt)) return found;
      const record = new Int32Array(8);
      this.memory.read(FQ + head * RV_FAULT_BYTES, record);
      found.push(decodeRvFault(record));
      this.iommu.write32(RV_REG.fqh, head + 1);
    }
  }

  /** Issues commands, four words each. */
  command(words: readonly number[]): void {
    for (let i = 0; i < words.length; i += 4) {
      const tail = this.iommu.read32(RV_REG.cqt);
      this.memory.write(CQ + tail * RV_CMD_BYTES, Int32Array.from(words.slice(i, i + 4)));
      this.iommu.write32(RV_REG.cqt, tail + 1);
    }
  }
}
