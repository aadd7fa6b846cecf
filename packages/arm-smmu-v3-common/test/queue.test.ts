import { CERROR, CMD, CMD_WORDS, COMMANDS, getAddress, getField, OFFSET, place, REG, SYNC_CS } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import { CommandBatch, CommandQueue, cfgiSte, queueBase } from "../src/index.ts";
import type { CommandQueueOptions } from "../src/index.ts";
import { FakeDevice, RING } from "./fake-device.ts";

const ETIMEDOUT = -110;
const EINVAL = -22;

function queueOn(device: FakeDevice, options: Partial<CommandQueueOptions> = {}): CommandQueue {
  return new CommandQueue({ cpu: device.cpu, window: device, pa: RING, log2: device.log2, ...options });
}

/** `count` commands whose SIDs count up from `first`. */
function commands(first: number, count: number): Int32Array {
  const words = new Int32Array(count * CMD_WORDS);
  for (let i = 0; i < count; i++) cfgiSte(words, i * CMD_WORDS, first + i, true);
  return words;
}

/** SIDs of what was consumed; -1 for a SYNC. */
function seen(device: FakeDevice): number[] {
  return device.consumed.map((words) =>
    getField(words, 0, CMD.Opcode) === COMMANDS.SYNC.opcode ? -1 : getField(words, 0, CMD.SID),
  );
}

describe("CommandQueue", () => {
  test("inserts in order over many laps", () => {
    const device = new FakeDevice(3);
    const queue = queueOn(device);
    const expected: number[] = [];
    for (let i = 0, sid = 0; i < 300; i++) {
      const count = i % 8;
      expect(queue.issue(commands(sid, count), count, i % 3 === 0)).toBe(0);
      for (let k = 0; k < count; k++) expected.push(sid + k);
      if (i % 3 === 0) expected.push(-1);
      sid += count;
    }
    expect(seen(device)).toEqual(expected);
    expect(device.relaxed).toBe(0);
    expect(queue.prod).toBe(expected.length % 16);
  });

  test.each([15, 16, 17, 40, 63, 64])("%i commands at a time keep their order where the ring wraps", (count) => {
    const device = new FakeDevice(6);
    const queue = queueOn(device);
    const expected: number[] = [];
    for (let sid = 0; sid < 640; sid += count) {
      const words = commands(sid, count + 2);
      expect(queue.issue(words, count, false)).toBe(0);
      for (let k = 0; k < count; k++) expected.push(sid + k);
    }
    expect(seen(device)).toEqual(expected);
  });

  test("an exactly full queue is filled, not overrun", () => {
    const device = new FakeDevice(3);
    device.perRelax = 1;
    const queue = queueOn(device);
    expect(queue.issue(commands(0, 8), 8, false)).toBe(0);
    expect(device.relaxed).toBe(0);
    expect(queue.issue(commands(8, 3), 3, false)).toBe(0);
    expect(device.relaxed).toBe(3);
    device.consume(Infinity);
    expect(seen(device)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  });

  test("more than ever fits is refused", () => {
    expect(queueOn(new FakeDevice(3)).issue(commands(0, 8), 8, true)).toBe(EINVAL);
  });

  test.each(["sev", "none", "msi"] as const)("a SYNC by %s is waited for", (syncMethod) => {
    const device = new FakeDevice(4);
    device.perRelax = 1;
    const queue = queueOn(device, { syncMethod });
    for (let lap = 0; lap < 20; lap++) expect(queue.issue(commands(lap, 2), 2, true)).toBe(0);
    expect(device.relaxed).toBe(60);
    const sync = device.consumed[2]!;
    expect(getField(sync, 0, CMD.CS)).toBe({ sev: SYNC_CS.sev, none: SYNC_CS.none, msi: SYNC_CS.irq }[syncMethod]);
    expect(getAddress(sync, 0, CMD.MSIAddr)).toBe(syncMethod === "msi" ? RING + 2 * 16 : 0);
    // CONS is read to see the SYNC complete, except where the SYNC says so itself.
    if (syncMethod === "msi") expect(device.reads).toBeLessThan(20);
  });

  test("a dead device times out, and the queue works when it is back", () => {
    const device = new FakeDevice(3);
    device.stuck = true;
    const queue = queueOn(device, { timeout: 100_000 });
    expect(queue.issue(commands(0, 2), 2, true)).toBe(ETIMEDOUT);
    expect(device.relaxed).toBe(100);
    expect(queue.issue(commands(2, 5), 5, false)).toBe(0);
    // Full: nothing of this is inserted.
    expect(queue.issue(commands(90, 1), 1, false)).toBe(ETIMEDOUT);
    device.stuck = false;
    expect(queue.issue(commands(7, 1), 1, true)).toBe(0);
    expect(seen(device)).toEqual([0, 1, -1, 2, 3, 4, 5, 6, 7, -1]);
  });

  test("an impossible CONS is not believed", () => {
    const device = new FakeDevice(3);
    device.stuck = true;
    const queue = queueOn(device, { timeout: 10_000 });
    device.registers.set(OFFSET.CMDQ_CONS, 9);
    expect(queue.issue(commands(0, 1), 1, true)).toBe(ETIMEDOUT);
  });

  test("a handler may insert while an insertion waits", () => {
    const device = new FakeDevice(4);
    device.perRelax = 1;
    let nested = 0;
    const queue: CommandQueue = queueOn(device, {
      onWait() {
        if (nested++ < 3) queue.issue(commands(100 + nested, 1), 1, false);
      },
    });
    expect(queue.issue(commands(0, 2), 2, true)).toBe(0);
    device.consume(Infinity);
    expect(seen(device)).toEqual([0, 1, -1, 101, 102, 103]);
  });

  test.each([
    ["ILL", CERROR.ILL, true],
    ["an unknown error", 0x7e, true],
    ["ABT", CERROR.ABT, false],
    ["ATC_INV_SYNC", CERROR.ATC_INV_SYNC, false],
    ["no error", CERROR.NONE, false],
  ])("skipError: %s", (_, error, replaced) => {
    const device = new FakeDevice(3);
    device.stuck = true;
    const queue = queueOn(device);
    queue.issue(commands(40, 3), 3, false);
    device.registers.set(OFFSET.CMDQ_CONS, 1 | place(REG.CMDQ_CONS.ERR, error));
    expect(queue.skipError()).toBe(error);
    const slot = new Int32Array(CMD_WORDS);
    device.memory.read(RING + 16, slot);
    expect(getField(slot, 0, CMD.Opcode)).toBe(replaced ? COMMANDS.SYNC.opcode : COMMANDS.CFGI_STE.opcode);
    if (replaced) expect(getField(queue.errorCommand, 0, CMD.SID)).toBe(41);
  });

  test("a ring page without permission raises the abort before anything is stored", () => {
    const device = new FakeDevice(3);
    const view = device.memory.view(() => {
      throw new Error("abort");
    });
    const queue = queueOn(device, { cpu: { ...device.cpu, memory: view } });
    expect(() => queue.issue(commands(1, 1), 1, false)).toThrow("abort");
    expect(device.memory.load32(RING)).toBe(0);
  });

  test.each([
    [{ pa: RING + 16 }, "pa must be 4K aligned"],
    [{ pa: 0 }, "all of its ring in RAM"],
    [{ log2: 0 }, "log2"],
    [{ log2: 20 }, "log2"],
  ])("%j is refused", (options, message) => {
    expect(() => queueOn(new FakeDevice(3), options)).toThrow(message);
  });

  test("queueBase", () => {
    const value = new Int32Array(2);
    queueBase(value, 0x12_3456_7000, 8);
    expect([...value]).toEqual([0x3456_7008, (1 << 30) | 0x12]);
  });
});

describe("CommandBatch", () => {
  const fill = (forceSync: boolean, count: number): [number, boolean][] => {
    const lists: [number, boolean][] = [];
    const batch = new CommandBatch(
      {
        issue: (_, n, sync) => {
          lists.push([n, sync]);
          return n === 64 ? ETIMEDOUT : 0;
        },
      },
      forceSync,
    );
    for (let i = 0; i < count; i++) cfgiSte(batch.words, batch.next(), i, true);
    const status = batch.submit();
    expect(status).toBe(!forceSync && count > 64 ? ETIMEDOUT : 0);
    expect([batch.count, batch.submit()]).toEqual([0, 0]);
    return lists.slice(0, -1);
  };

  test("lists of 64, a SYNC at the end only", () => {
    expect(fill(false, 200)).toEqual([[64, false], [64, false], [64, false], [8, true]]);
  });
  test("the erratum wants a SYNC after 63", () => {
    expect(fill(true, 130)).toEqual([[63, true], [63, true], [4, true]]);
  });
  test("an empty batch is a bare SYNC", () => {
    expect(fill(false, 0)).toEqual([[0, true]]);
  });
});
