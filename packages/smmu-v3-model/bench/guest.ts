// Guests for the benches beside model.ts: memory, page tables of any granule, streams, and an SMMU that is switched on.
import { Memory } from "@smmuv3/platform";
import { CD, OFFSET, setAddress, setField, STE, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import { GRANULE, GRANULES } from "@smmuv3/vmsa-walk";
import { PRESETS, SmmuV3 } from "../src/index.ts";
import type { SmmuV3Options } from "../src/index.ts";

export const PA_BASE: number = 2 ** 32;
export const QUEUE_LOG2 = 12;
const S1_ATTRS = 0xf40;
const S2_ATTRS = 0x7fc;
/** Input addresses of 44 bits, in every granule. */
const T0SZ = 20;
const TG0: readonly number[] = [];
const START_SHIFT: readonly number[] = [];
for (const [granule, tg0, shift] of [[GRANULE.K4, 0, 39], [GRANULE.K16, 2, 36], [GRANULE.K64, 1, 42]] as const) {
  (TG0 as number[])[granule] = tg0;
  (START_SHIFT as number[])[granule] = shift;
}

/** xorshift32 with the seed of the native benches. */
export function generator(): () => number {
  let state = 12345;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

export type Kind = "s1" | "s2" | "nested";

/** Physical memory from 0 on with `streams` streams in a two-level stream table, and queues. */
export class Guest {
  readonly memory: Memory;
  readonly words: Int32Array;
  readonly smmu: SmmuV3;
  readonly queue: number;
  readonly #level2: number;
  readonly #cds: number;
  #next = 4096;

  constructor(bytes: number, streamsLog2: number, options: Partial<SmmuV3Options> = {}) {
    this.memory = Memory.allocate({ base: 0, size: bytes });
    this.words = this.memory.words;
    const streams = 1 << streamsLog2;
    const table = this.alloc(Math.max(streams >> 8, 1) * 8, 4096);
    this.#level2 = this.alloc(streams * 64, 65536);
    this.#cds = this.alloc(streams * 64, 65536);
    for (let i = 0; i < streams >> 8; i++) this.words[table / 4 + i * 2] = (this.#level2 + i * 256 * 64) | 9;
    this.queue = this.alloc(16 << QUEUE_LOG2, 16 << QUEUE_LOG2);
    const events = this.alloc(32 * 128, 4096);
    this.smmu = new SmmuV3({ memory: this.memory, id: PRESETS.qemuNested, profile: "finite", progress: "manual", ...options });
    const { registers } = this.smmu;
    registers.write64(OFFSET.STRTAB_BASE, table, 0);
    registers.write32(OFFSET.STRTAB_BASE_CFG, streamsLog2 | (8 << 6) | (1 << 16));
    registers.write64(OFFSET.CMDQ_BASE, this.queue | QUEUE_LOG2, 0);
    registers.write64(OFFSET.EVENTQ_BASE, events | 7, 0);
    registers.write32(OFFSET.CR0, 0xd);
    this.smmu.step(0);
  }

  alloc(bytes: number, align: number): number {
    const pa = Math.ceil(this.#next / align) * align;
    this.#next = pa + bytes;
    if (this.#next > this.memory.size) throw new Error("guest memory is full");
    return pa;
  }

  root(granule: number = GRANULE.K4): number {
    return this.alloc(2 ** GRANULES[granule]!.pageShift, 2 ** GRANULES[granule]!.pageShift);
  }

  map(root: number, address: number, pa: number, stage2: boolean, granule: number = GRANULE.K4): void {
    const { pageShift } = GRANULES[granule]!;
    const entries = 2 ** (pageShift - 3);
    const slot = (table: number, shift: number): number => (table + (Math.floor(address / 2 ** shift) % entries) * 8) / 4;
    let table = root;
    for (let shift = START_SHIFT[granule]!; shift > pageShift; shift -= pageShift - 3) {
      const at = slot(table, shift);
      if (this.words[at] === 0) this.words[at] = this.root(granule) | 3;
      table = this.words[at]! & -(2 ** pageShift);
    }
    const at = slot(table, pageShift);
    this.words[at] = (pa % 2 ** 32) | (stage2 ? S2_ATTRS : S1_ATTRS) | 3;
    this.words[at + 1] = pa / 2 ** 32;
  }

  stream(sid: number, kind: Kind, root1: number, root2: number = 0, granule: number = GRANULE.K4): void {
    const { words } = this;
    const ste = (this.#level2 + sid * 64) / 4;
    const cd = (this.#cds + sid * 64) / 4;
    setField(words, ste, STE.V, 1);
    setField(words, ste, STE.Config, STE_CONFIG[kind]);
    if (kind !== "s1") {
      for (const [field, value] of [
        [STE.S2VMID, 1], [STE.S2T0SZ, T0SZ], [STE.S2SL0, 2], [STE.S2PS, 4], [STE.S2AA64, 1], [STE.S2R, 1],
        [STE.S2TG, TG0[granule]!],
      ] as const) setField(words, ste, field, value);
      setAddress(words, ste, STE.S2TTB, root2);
    }
    if (kind === "s2") return;
    setAddress(words, ste, STE.S1ContextPtr, this.#cds + sid * 64);
    for (const [field, value] of [
      [CD.T0SZ, T0SZ], [CD.TG0, TG0[granule]!], [CD.EPD1, 1], [CD.V, 1], [CD.IPS, 4], [CD.AA64, 1], [CD.R, 1], [CD.A, 1], [CD.ASID, sid],
    ] as const) setField(words, cd, field, value);
    setAddress(words, cd, CD.TTB0, root1);
  }

  /** Maps `bytes` of guest memory at its own address, for the tables and CDs of nested streams. */
  identity(root2: number, bytes: number, granule: number = GRANULE.K4): void {
    for (let pa = 0; pa < bytes; pa += 2 ** GRANULES[granule]!.pageShift) this.map(root2, pa, pa, true, granule);
  }
}
