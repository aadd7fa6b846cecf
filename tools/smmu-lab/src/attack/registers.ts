// What the SMMU's own registers say, read behind EL2's back.
import { hex, PAGE_SIZE } from "@smmuv3/platform";
import { EVENT_BYTES, extract, maskOf, OFFSET, PRIQ_BYTES, REG } from "@smmuv3/smmu-v3-defs";
import type { Violation } from "./op.ts";
import { wrong } from "./ownership.ts";
import type { World } from "./world.ts";

const { CR0, GBPA } = REG;
const SMMUEN: number = maskOf(CR0.SMMUEN);
const CMDQEN: number = maskOf(CR0.CMDQEN);
const EVENTQEN: number = maskOf(CR0.EVENTQEN);
const PRIQEN: number = maskOf(CR0.PRIQEN);
const ATSCHK: number = maskOf(CR0.ATSCHK);
const ABORT: number = maskOf(GBPA.ABORT);
const BASE_HI = 0xf_ffff;

/** Registers that EL2 wrote once and for all, in words. */
const FIXED: readonly (readonly [name: string, offset: number])[] = [
  ["STRTAB_BASE", OFFSET.STRTAB_BASE],
  ["STRTAB_BASE[63:32]", OFFSET.STRTAB_BASE + 4],
  ["STRTAB_BASE_CFG", OFFSET.STRTAB_BASE_CFG],
  ["CMDQ_BASE", OFFSET.CMDQ_BASE],
  ["CMDQ_BASE[63:32]", OFFSET.CMDQ_BASE + 4],
  ["CR1", OFFSET.CR1],
];

/** MSI addresses: the SMMU writes there by itself. */
const MSI: readonly (readonly [name: string, offset: number])[] = [
  ["GERROR_IRQ_CFG0", OFFSET.GERROR_IRQ_CFG0],
  ["EVENTQ_IRQ_CFG0", OFFSET.EVENTQ_IRQ_CFG0],
  ["PRIQ_IRQ_CFG0", OFFSET.PRIQ_IRQ_CFG0],
];

/** Queues that the SMMU writes. */
const QUEUES = [
  { name: "event queue", enable: EVENTQEN, offset: OFFSET.EVENTQ_BASE, entry: EVENT_BYTES },
  { name: "PRI queue", enable: PRIQEN, offset: OFFSET.PRIQ_BASE, entry: PRIQ_BYTES },
] as const;

/** I5, I8, I10 and I11 as far as registers can tell. */
export class RegisterCheck {
  readonly #world: World;
  readonly #fixed: Int32Array;

  /** Takes the values of now, which the boot has left, for EL2's. */
  constructor(world: World) {
    this.#world = world;
    this.#fixed = Int32Array.from(FIXED, ([, offset]) => world.smmu.registers.read32(offset));
  }

  check(): Violation | undefined {
    const { smmu, ledger } = this.#world;
    const { registers } = smmu;
    for (let i = 0; i < FIXED.length; i++) {
      const [name, offset] = FIXED[i]!;
      const value = registers.read32(offset);
      if (value !== this.#fixed[i]) return wrong(`${name} is ${hex(value >>> 0)}, EL2 wrote ${hex(this.#fixed[i]! >>> 0)}`, "I5");
    }
    if ((registers.read32(OFFSET.GBPA) & ABORT) === 0) return wrong("GBPA.ABORT is 0", "I5");
    const cr0 = registers.read32(OFFSET.CR0ACK);
    if ((cr0 & SMMUEN) === 0 && !ledger.powerOff) return wrong("the SMMU is disabled", "I10");
    if ((cr0 & SMMUEN) !== 0 && (cr0 & CMDQEN) === 0) return wrong("the SMMU is enabled and EL2 cannot invalidate: CMDQEN is 0", "I10");
    if ((cr0 & SMMUEN) !== 0 && (cr0 & ATSCHK) === 0) return wrong("translated requests are not checked: CR0.ATSCHK is 0", "I11");
    return this.#queues(cr0) ?? this.#messages();
  }

  #queues(cr0: number): Violation | undefined {
    const { registers } = this.#world.smmu;
    for (const { name, enable, offset, entry } of QUEUES) {
      if ((cr0 & enable) === 0) continue;
      const lo = registers.read32(offset);
      const base = (registers.read32(offset + 4) & BASE_HI) * 0x1_0000_0000 + ((lo & ~31) >>> 0);
      const bytes = entry * 2 ** Math.min(extract(lo, REG.EVENTQ_BASE.LOG2SIZE), 19);
      const strange = this.#strangePage(base, bytes);
      if (strange >= 0) return wrong(`the SMMU's ${name} is in page ${hex(strange)}, which is not the host's`, "I8");
    }
    return undefined;
  }

  #messages(): Violation | undefined {
    const { registers } = this.#world.smmu;
    for (const [name, offset] of MSI) {
      const lo = registers.read32(offset) & ~3;
      const hi = registers.read32(offset + 4) & BASE_HI;
      if ((lo | hi) === 0) continue;
      const strange = this.#strangePage(hi * 0x1_0000_0000 + (lo >>> 0), 4);
      if (strange >= 0) return wrong(`${name} sends messages to ${hex(strange)}, which is not the host's`, "I5");
    }
    return undefined;
  }

  /** A page of RAM in the range that is not the host's, or -1. */
  #strangePage(base: number, bytes: number): number {
    const { ledger } = this.#world;
    for (let pa = base - (base % PAGE_SIZE); pa < base + bytes; pa += PAGE_SIZE) {
      const page = ledger.memory.pageIndex(pa);
      if (page >= 0 && !ledger.isHosts(page)) return pa;
    }
    return -1;
  }
}
