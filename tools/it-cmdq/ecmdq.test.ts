// Enhanced Command queues: one for each CPU, beside the SMMU's own.
import { Counters, Memory } from "@smmuv3/platform";
import type { Cpu, RegisterWindow } from "@smmuv3/platform";
import { cfgiSte, queueBase, SharedCommandQueue, sharedQueueState, tlbiNhVa } from "@smmuv3/arm-smmu-v3-common";
import type { SyncMethod } from "@smmuv3/arm-smmu-v3-common";
import { CERROR, CMD, getField, maskOf, OFFSET, PAGE_FIELDS, PAGE_REGISTERS } from "@smmuv3/smmu-v3-defs";
import { GERROR_BIT, PRESETS, SmmuV3 } from "@smmuv3/smmu-v3-model";
import { describe, expect, test } from "vitest";

const RAM = 0x4000_0000;
const LOG2 = 4;
const { ECMDQ_PROD, ECMDQ_CONS } = PAGE_FIELDS;
const PROD = PAGE_REGISTERS.ECMDQ_PROD.offset;
const CONS = PAGE_REGISTERS.ECMDQ_CONS.offset;

interface Queue {
  readonly window: RegisterWindow;
  readonly queue: SharedCommandQueue;
  /** Another agent's object for the same queue. */
  readonly other: SharedCommandQueue;
}

class Rig {
  readonly memory: Memory = Memory.allocate({ base: RAM, size: 0x1_0000 });
  readonly counters: Counters = new Counters();
  readonly smmu: SmmuV3 = new SmmuV3({ memory: this.memory, id: PRESETS.full, counters: this.counters });

  queue(index: number, syncMethod: SyncMethod, barrier: () => void = () => {}): Queue {
    const { memory, smmu, counters } = this;
    const { registers, layout } = smmu;
    const at = layout.ecmdqPages[0]! + index * layout.ecmdqStride;
    const window: RegisterWindow = {
      hi: 0,
      read32: (offset) => registers.read32(at + offset),
      read64: (offset) => registers.read64(at + offset),
      write32: (offset, value) => { registers.write32(at + offset, value); },
      write64: (offset, lo, hi) => { registers.write64(at + offset, lo, hi); },
    };
    let time = 0;
    const cpu: Cpu = {
      level: 1, memory, counters, ioremap: () => window, now: () => time, relax: () => { time += 1000; }, barrier: () => {},
      irqSave: () => {}, irqRestore: () => {},
    };
    const pa = RAM + index * 0x1000;
    const options = { window, pa, log2: LOG2, state: sharedQueueState(LOG2, false), syncMethod, timeout: 50_000, enhanced: true };
    const queue = new SharedCommandQueue({ ...options, cpu });
    const base = new Int32Array(2);
    queueBase(base, pa, LOG2);
    window.write64(0, base[0]!, base[1]!);
    window.write32(CONS, 0);
    window.write32(PROD, queue.prod);
    expect(window.read32(CONS) & maskOf(ECMDQ_CONS.ENACK)).not.toBe(0);
    return { window, queue, other: new SharedCommandQueue({ ...options, cpu: { ...cpu, barrier } }) };
  }
}

function commands(first: number, count: number): Int32Array {
  const words = new Int32Array(count * 4);
  for (let i = 0; i < count; i++) cfgiSte(words, i * 4, first + i, true);
  return words;
}

describe.each(["sev", "msi", "none"] as const)("SYNC by %s", (syncMethod) => {
  test("queues work side by side, over many laps", () => {
    const rig = new Rig();
    const queues = [0, 1, 2].map((index) => rig.queue(index, syncMethod));
    for (let round = 0; round < 30; round++) {
      for (const { queue } of queues) expect(queue.issue(commands(round, 5), 5, true)).toBe(0);
    }
    expect(rig.counters.read("commands").device).toBe(3 * 30 * 6);
    for (const { window, queue } of queues) {
      expect(window.read32(CONS) & ECMDQ_CONS.RD.mask).toBe((30 * 6) % (2 << LOG2));
      expect(window.read32(PROD)).toBe(queue.prod);
    }
  });

  test("errors are skipped and acknowledged, one after the other", () => {
    const rig = new Rig();
    const { queue, window } = rig.queue(1, syncMethod);
    for (let round = 0; round < 3; round++) {
      const words = commands(10 * round, 4);
      // No command has this opcode.
      words[4] = 0xee;
      words[12] = 0xee;
      expect(queue.issue(words, 4, false)).toBe(0);
      for (const sid of [10 * round + 1, 10 * round + 3]) {
        expect(rig.smmu.registers.read32(OFFSET.GERROR) & GERROR_BIT.CMDQP_ERR).toBe(GERROR_BIT.CMDQP_ERR);
        expect(queue.skipError()).toBe(CERROR.ILL);
        expect(getField(queue.errorCommand, 0, CMD.SID)).toBe(sid);
      }
      expect(queue.skipError()).toBe(CERROR.NONE);
      expect((window.read32(PROD) ^ window.read32(CONS)) & maskOf(ECMDQ_PROD.ERRACK)).toBe(0);
      expect(queue.issue(commands(0, 1), 1, true)).toBe(0);
    }
  });
});

test("an error is acknowledged by the owner where there is one", () => {
  const rig = new Rig();
  const between: (() => void)[] = [];
  const { queue, other, window } = rig.queue(0, "sev", () => between.pop()?.());
  const words = commands(0, 2);
  words[0] = 0xee;
  expect(queue.issue(words, 2, false)).toBe(0);
  between.push(() => {
    const prod = window.read32(PROD);
    expect(queue.skipError()).toBe(CERROR.ILL);
    // The one that is inserting will tell.
    expect(window.read32(PROD)).toBe(prod);
  });
  tlbiNhVa(words, 0, 0, 1, 0, 0x1000, 0);
  expect(other.issue(words, 1, true)).toBe(0);
  expect((window.read32(PROD) ^ window.read32(CONS)) & maskOf(ECMDQ_PROD.ERRACK)).toBe(0);
  expect(rig.counters.read("commands").device).toBe(4);
});

test("a reset keeps the queue enabled", () => {
  const { queue } = new Rig().queue(0, "sev");
  queue.issue(commands(0, 3), 3, true);
  queue.reset();
  expect(queue.prod).toBe(maskOf(ECMDQ_PROD.EN));
});
