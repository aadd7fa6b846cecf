// Secondary command queues: the virtual queues of Tegra241 beside the SMMU's own, chosen by opcode.
import { Counters, Memory } from "@smmuv3/platform";
import type { Cpu, RegisterWindow } from "@smmuv3/platform";
import {
  cfgiSte, CommandQueue, preferSecondary, queueBase, SelectingBatch, SharedCommandQueue, sharedQueueState, tlbiNhVa, VCMDQ_GUEST_OPCODES,
} from "@smmuv3/arm-smmu-v3-common";
import { CERROR, CMD, COMMANDS, getField, maskOf, OFFSET, REG } from "@smmuv3/smmu-v3-defs";
import { PRESETS, SmmuV3, Tegra241Cmdqv } from "@smmuv3/smmu-v3-model";
import { describe, expect, test } from "vitest";

const RAM = 0x4000_0000;
const RING = RAM;
const VRING = RAM + 0x1000;
const LOG2 = 7;

/** Registers of the block, and of a queue of VINTF 0 in its two pages. */
const [CONFIG, ALLOC0, VINTF0] = [0x0, 0x200, 0x1000];
const [PAGE0, PAGE1] = [0x3_0000, 0x4_0000];
const VCMDQ = { CONS: 0x0, PROD: 0x4, CONFIG: 0x8, STATUS: 0xc, GERROR: 0x10, GERRORN: 0x14 };
const HYP_OWN = 1 << 17;

class Rig {
  readonly memory: Memory = Memory.allocate({ base: RAM, size: 0x1_0000 });
  readonly counters: Counters = new Counters();
  readonly smmu: SmmuV3 = new SmmuV3({ memory: this.memory, id: PRESETS.full, counters: this.counters });
  readonly block: Tegra241Cmdqv;
  readonly main: CommandQueue;
  readonly vcmdq: SharedCommandQueue;
  /** The interface's window of a queue. */
  readonly window: RegisterWindow;
  readonly batch: SelectingBatch;
  enabled: boolean = true;

  constructor(guest: boolean) {
    const { memory, smmu, counters } = this;
    const { registers } = smmu;
    this.block = new Tegra241Cmdqv(smmu, { guest });
    const { block } = this;
    const base = new Int32Array(2);
    queueBase(base, RING, LOG2);
    registers.write64(OFFSET.CMDQ_BASE, base[0]!, base[1]!);
    registers.write32(OFFSET.CR0, maskOf(REG.CR0.CMDQEN));
    block.write32(CONFIG, 1);
    block.write32(ALLOC0, 1);
    block.write32(VINTF0, 1 | HYP_OWN);
    queueBase(base, VRING, LOG2);
    // The allocation hints are not there.
    block.write64(PAGE1, base[0]!, base[1]! & 0xffff);
    block.write32(PAGE0 + VCMDQ.CONFIG, 1);
    expect(block.read32(PAGE0 + VCMDQ.STATUS)).toBe(1);

    this.window = {
      hi: 0,
      read32: (offset) => block.read32(PAGE0 + offset),
      read64: (offset) => block.read64(PAGE0 + offset),
      write32: (offset, value) => { block.write32(PAGE0 + offset, value); },
      write64: (offset, lo, hi) => { block.write64(PAGE0 + offset, lo, hi); },
    };
    let time = 0;
    const cpu: Cpu = {
      level: 1, memory, counters, ioremap: () => registers, now: () => time, relax: () => { time += 1000; }, barrier: () => {},
      irqSave: () => {}, irqRestore: () => {},
    };
    this.main = new CommandQueue({ cpu, window: registers, pa: RING, log2: LOG2 });
    this.vcmdq = new SharedCommandQueue({
      cpu, window: this.window, prodOffset: VCMDQ.PROD, consOffset: VCMDQ.CONS, pa: VRING, log2: LOG2, syncMethod: "none", timeout: 50_000,
      state: sharedQueueState(LOG2, false),
      ...((block.read32(VINTF0) & HYP_OWN) === 0 ? { opcodes: VCMDQ_GUEST_OPCODES } : {}),
    });
    this.batch = new SelectingBatch(preferSecondary(this.main, () => (this.enabled ? this.vcmdq : undefined)));
  }

  /** Commands consumed by the main queue and by the virtual one. */
  get consumed(): readonly [main: number, vcmdq: number] {
    return [this.smmu.registers.read32(OFFSET.CMDQ_CONS), this.window.read32(VCMDQ.CONS)];
  }

  invalidate(page: number): void {
    tlbiNhVa(this.batch.words, this.batch.next(), 0, 1, 0, page << 12, 0);
  }
}

describe.each([false, true])("guest: %s", (guest) => {
  test("commands go to the queue that takes the first of them", () => {
    const rig = new Rig(guest);
    rig.invalidate(1);
    rig.invalidate(2);
    expect([rig.batch.submit(), rig.consumed]).toEqual([0, [0, 3]]);
    cfgiSte(rig.batch.words, rig.batch.next(), 1, true);
    expect(rig.batch.submit()).toBe(0);
    expect(rig.consumed).toEqual(guest ? [2, 3] : [0, 5]);
    rig.invalidate(3);
    cfgiSte(rig.batch.words, rig.batch.next(), 1, true);
    rig.invalidate(4);
    expect(rig.batch.submit()).toBe(0);
    // A guest's list ends where a command is for the main queue, which then takes the rest.
    expect(rig.consumed).toEqual(guest ? [5, 5] : [0, 9]);
    rig.enabled = false;
    rig.invalidate(5);
    expect(rig.batch.submit()).toBe(0);
    expect(rig.consumed).toEqual(guest ? [7, 5] : [2, 9]);
    expect(rig.counters.read("commands").device).toBe(rig.consumed[0] + rig.consumed[1]);
  });

  test("more than a lap", () => {
    const rig = new Rig(guest);
    for (let page = 0; page < 1000; page++) rig.invalidate(page);
    expect(rig.batch.submit()).toBe(0);
    expect(rig.consumed).toEqual([0, 1001 % (2 << LOG2)]);
  });
});

test("a guest's queue does not run what is not for it, and goes on without it", () => {
  const rig = new Rig(true);
  const words = new Int32Array(8);
  cfgiSte(words, 0, 9, true);
  tlbiNhVa(words, 4, 0, 1, 0, 0x1000, 0);
  expect(rig.vcmdq.supports(COMMANDS.CFGI_STE.opcode)).toBe(false);
  // Against what it says.
  expect(rig.vcmdq.issue(words, 2, true)).toBe(-110);
  expect(rig.window.read32(VCMDQ.GERROR) ^ rig.window.read32(VCMDQ.GERRORN)).toBe(1);
  expect(rig.vcmdq.skipError()).toBe(CERROR.ILL);
  expect(getField(rig.vcmdq.errorCommand, 0, CMD.SID)).toBe(9);
  rig.window.write32(VCMDQ.GERRORN, rig.window.read32(VCMDQ.GERROR));
  expect(rig.consumed).toEqual([0, 3]);
  expect(rig.counters.read("syncs").device).toBe(2);
  expect(rig.vcmdq.issue(words.subarray(4), 1, true)).toBe(0);
});
