// One thread that stands for several agents: what others do in between happens in the hooks of the CPU.
import type { Cpu } from "@smmuv3/platform";
import { CERROR, CMD, CMD_WORDS, COMMANDS, getAddress, getField, OFFSET, place, REG, SYNC_CS } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import { cfgiSte, SharedCommandQueue, sharedQueueState } from "../src/index.ts";
import type { SharedQueueOptions } from "../src/index.ts";
import { ValidMap } from "../src/valid-map.ts";
import { FakeDevice, RING } from "./fake-device.ts";

const ETIMEDOUT = -110;
const EINVAL = -22;

type Options = Partial<SharedQueueOptions> & { readonly hooks?: Partial<Cpu> };

/** One agent's queue on `device`; agents share `state`. */
function agent(device: FakeDevice, state: Int32Array, options: Options = {}): SharedCommandQueue {
  const cpu = { ...device.cpu, ...options.hooks };
  return new SharedCommandQueue({ cpu, window: device, pa: RING, log2: device.log2, state, ...options });
}

function alone(device: FakeDevice, options: Options = {}): SharedCommandQueue {
  return agent(device, sharedQueueState(device.log2, false), options);
}

function commands(first: number, count: number): Int32Array {
  const words = new Int32Array(count * CMD_WORDS);
  for (let i = 0; i < count; i++) cfgiSte(words, i * CMD_WORDS, first + i, true);
  return words;
}

function seen(device: FakeDevice): number[] {
  return device.consumed.map((words) =>
    getField(words, 0, CMD.Opcode) === COMMANDS.SYNC.opcode ? -1 : getField(words, 0, CMD.SID),
  );
}

describe("one producer", () => {
  test.each([1, 3, 4, 5, 6])("inserts in order over many laps of 2^%i slots", (log2) => {
    const device = new FakeDevice(log2);
    const queue = alone(device);
    const expected: number[] = [];
    for (let i = 0, sid = 0; i < 600; i++) {
      const count = i % (1 << log2);
      const sync = i % 3 === 0;
      expect(queue.issue(commands(sid, count), count, sync)).toBe(0);
      for (let k = 0; k < count; k++) expected.push(sid + k);
      if (sync) expected.push(-1);
      sid += count;
    }
    expect(seen(device)).toEqual(expected);
    expect(queue.prod).toBe(expected.length % (2 << log2));
    expect(queue.counts.contended + queue.counts.gathered).toBe(0);
  });

  test("a list that can never fit", () => {
    const device = new FakeDevice(3);
    const queue = alone(device);
    expect([queue.issue(commands(0, 8), 8, true), queue.issue(commands(0, 9), 9, false)]).toEqual([EINVAL, EINVAL]);
    expect(queue.issue(commands(0, 8), 8, false)).toBe(0);
    expect(queue.issue(commands(0, 0), 0, false)).toBe(0);
    expect(device.consumed.length).toBe(8);
  });

  test.each(["sev", "none", "msi"] as const)("waits for a SYNC by %s", (syncMethod) => {
    const device = new FakeDevice(4);
    device.perRelax = 1;
    const queue = alone(device, { syncMethod });
    expect(queue.issue(commands(7, 2), 2, true)).toBe(0);
    expect(seen(device)).toEqual([7, 8, -1]);
    const sync = device.consumed[2]!;
    expect(getField(sync, 0, CMD.CS)).toBe({ sev: SYNC_CS.sev, none: SYNC_CS.none, msi: SYNC_CS.irq }[syncMethod]);
    expect(getAddress(sync, 0, CMD.MSIAddr)).toBe(syncMethod === "msi" ? RING + 2 * 16 : 0);
    if (syncMethod === "msi") expect(device.reads).toBe(0);
  });

  test("a dead device times out, and the queue works when it is back", () => {
    const device = new FakeDevice(3);
    device.stuck = true;
    const queue = alone(device, { timeout: 100_000 });
    expect(queue.issue(commands(0, 2), 2, true)).toBe(ETIMEDOUT);
    expect(queue.issue(commands(2, 5), 5, false)).toBe(0);
    // Full: nothing of this is inserted.
    expect(queue.issue(commands(90, 1), 1, false)).toBe(ETIMEDOUT);
    device.stuck = false;
    expect(queue.issue(commands(7, 1), 1, true)).toBe(0);
    expect(seen(device)).toEqual([0, 1, -1, 2, 3, 4, 5, 6, 7, -1]);
    expect(queue.counts).toMatchObject({ full: 2, fullTimeouts: 1, syncTimeouts: 1 });
  });

  test("a queue that moves slowly is not given up", () => {
    const device = new FakeDevice(3);
    device.perRelax = 0;
    let steps = 0;
    const queue = alone(device, {
      timeout: 50_000,
      onWait() {
        if (++steps % 40 === 0) device.consume(1);
      },
    });
    expect(queue.issue(commands(0, 8), 8, false)).toBe(0);
    expect(queue.issue(commands(8, 8), 8, false)).toBe(0);
    expect(steps).toBe(320);
    expect(queue.counts.fullTimeouts).toBe(0);
  });

  test("flaw: a full queue is retried forever", () => {
    const device = new FakeDevice(3);
    device.stuck = true;
    let steps = 0;
    const queue = alone(device, {
      timeout: 10_000,
      flaws: { retryFull: true },
      onWait() {
        if (++steps === 100) device.stuck = false;
      },
    });
    expect(queue.issue(commands(0, 8), 8, false)).toBe(0);
    expect(queue.issue(commands(8, 1), 1, false)).toBe(0);
    expect(queue.counts.fullTimeouts).toBeGreaterThan(5);
    expect(seen(device)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  });

  /** Fills the queue up to a SYNC that times out, goes on, and lets the device work again. */
  function afterTimeout(timeoutFreesSlots: boolean): { statuses: number[]; seen: number[] } {
    const device = new FakeDevice(3);
    device.stuck = true;
    const queue = alone(device, { timeout: 10_000, syncMethod: "msi", flaws: { timeoutFreesSlots } });
    const statuses = [queue.issue(commands(0, 7), 7, true), queue.issue(commands(10, 3), 3, false)];
    device.stuck = false;
    device.consume(Infinity);
    return { statuses, seen: seen(device) };
  }

  test("after an MSI SYNC that timed out, commands that were not read stay", () => {
    expect(afterTimeout(false)).toEqual({ statuses: [ETIMEDOUT, ETIMEDOUT], seen: [0, 1, 2, 3, 4, 5, 6, -1] });
  });

  test("flaw: after an MSI SYNC that timed out, commands are overwritten that were not read", () => {
    const { statuses, seen: commandsSeen } = afterTimeout(true);
    expect(statuses).toEqual([ETIMEDOUT, 0]);
    expect(commandsSeen.filter((sid) => sid >= 0 && sid < 7)).not.toEqual([0, 1, 2, 3, 4, 5, 6]);
  });

  test.each([9, 4, 15])("CONS = %i, which cannot be, is not believed", (cons) => {
    const device = new FakeDevice(3);
    device.stuck = true;
    const queue = alone(device, { timeout: 10_000 });
    device.registers.set(OFFSET.CMDQ_CONS, cons);
    expect(queue.issue(commands(0, 1), 1, true)).toBe(ETIMEDOUT);
    expect(queue.issue(commands(1, 7), 7, false)).toBe(ETIMEDOUT);
  });

  test.each([
    ["ILL", CERROR.ILL, true],
    ["an unknown error", 0x7e, true],
    ["ABT", CERROR.ABT, false],
    ["ATC_INV_SYNC", CERROR.ATC_INV_SYNC, false],
  ])("skipError: %s", (_, error, replaced) => {
    for (const syncMethod of ["sev", "none"] as const) {
      const device = new FakeDevice(3);
      device.stuck = true;
      const queue = alone(device, { syncMethod });
      queue.issue(commands(40, 3), 3, false);
      device.registers.set(OFFSET.CMDQ_CONS, 1 | place(REG.CMDQ_CONS.ERR, error));
      expect(queue.skipError()).toBe(error);
      const slot = new Int32Array(CMD_WORDS);
      device.memory.read(RING + 16, slot);
      expect(getField(slot, 0, CMD.Opcode)).toBe(replaced ? COMMANDS.SYNC.opcode : COMMANDS.CFGI_STE.opcode);
      if (replaced) expect([getField(queue.errorCommand, 0, CMD.SID), getField(slot, 0, CMD.CS)]).toEqual([41, SYNC_CS[syncMethod]]);
    }
  });

  test("with interrupts masked a rejected command times out, unless errors are looked for while waiting", () => {
    for (const looks of [false, true]) {
      const device = new FakeDevice(3);
      device.stuck = true;
      const queue: SharedCommandQueue = alone(device, {
        timeout: 100_000,
        onWait() {
          if (!looks || !device.stuck) return;
          device.registers.set(OFFSET.CMDQ_CONS, place(REG.CMDQ_CONS.ERR, CERROR.ILL));
          expect(queue.skipError()).toBe(CERROR.ILL);
          device.registers.set(OFFSET.CMDQ_CONS, 0);
          device.stuck = false;
        },
      });
      expect(queue.issue(commands(0, 2), 2, true)).toBe(looks ? 0 : ETIMEDOUT);
      if (looks) expect(seen(device)).toEqual([-1, 1, -1]);
    }
  });

  test("a ring page without permission raises the abort before anything is reserved", () => {
    const device = new FakeDevice(9);
    let allowed = false;
    let masked = 0;
    const view = device.memory.view((pa) => {
      if (!allowed) throw new Error(`abort at 0x${pa.toString(16)}`);
      view.perm.fill(3);
    });
    const hooks = { memory: view, irqSave: () => masked++, irqRestore: () => masked-- };
    view.perm[(RING - device.memory.base) >> 12] = 3;
    const queue = alone(device, { hooks });
    expect(queue.issue(commands(0, 64), 64, false)).toBe(0);
    // The second page of the ring is reached by the end of the list.
    expect(() => queue.issue(commands(64, 256), 256, false)).toThrow("abort at 0x80003");
    expect([queue.prod, masked]).toEqual([64, 0]);
    allowed = true;
    expect(queue.issue(commands(64, 256), 256, true)).toBe(0);
    expect([seen(device).length, masked]).toEqual([64 + 256 + 1, 0]);
  });

  test.each([
    [{ pa: RING + 16 }, "pa must be 4K aligned"],
    [{ pa: 0 }, "all of its ring in RAM"],
    [{ log2: 20 }, "log2"],
    [{ state: sharedQueueState(7) }, "state must be that of 2^3 slots"],
  ])("%j is refused", (options, message) => {
    expect(() => alone(new FakeDevice(3), options)).toThrow(message);
  });

  test("after a reset it starts over", () => {
    const device = new FakeDevice(3);
    const queue = alone(device);
    queue.issue(commands(0, 5), 5, false);
    device.registers.clear();
    queue.reset();
    expect(queue.issue(commands(5, 5), 5, true)).toBe(0);
    expect(seen(device)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -1]);
  });
});

describe("several producers", () => {
  /** Runs `other` once in the middle of an insertion: after its commands are stored, before they are valid. */
  function between(device: FakeDevice, state: Int32Array, other: () => void, options: Options = {}): SharedCommandQueue {
    let pending = true;
    const barrier = (): void => {
      if (!pending) return;
      pending = false;
      other();
    };
    return agent(device, state, { ...options, hooks: { barrier } });
  }

  test("the owner tells the SMMU of what came after it", () => {
    const device = new FakeDevice(4);
    const state = sharedQueueState(4);
    const second = agent(device, state);
    const first = between(device, state, () => {
      expect(second.issue(commands(100, 3), 3, false)).toBe(0);
      // Valid, but nobody has told.
      expect([second.prod, device.consumed.length]).toEqual([0, 0]);
    });
    expect(first.issue(commands(0, 2), 2, true)).toBe(0);
    expect(seen(device)).toEqual([0, 1, -1, 100, 101, 102]);
    expect([first.counts.owned, second.counts.gathered, second.counts.owned]).toEqual([1, 1, 0]);
    // The next one owns again.
    expect(second.issue(commands(9, 1), 1, true)).toBe(0);
    expect(second.counts.owned).toBe(1);
  });

  // Words of the state that other agents' steps show in.
  const PROD = 0;
  const OWNER = 32;
  const VALID = 80;

  test("the owner waits for those that have reserved and not yet stored", () => {
    const device = new FakeDevice(4);
    const state = sharedQueueState(4);
    const map = new ValidMap(state, VALID, 4);
    const steps: string[] = [];
    const queue = agent(device, state, {
      hooks: {
        barrier() {
          // Somebody reserves two slots.
          Atomics.add(state, PROD, 2);
        },
        relax() {
          steps.push(`told ${device.registers.get(OFFSET.CMDQ_PROD) ?? 0}`);
          if (steps.length === 2) map.mark(3, 4);
          if (steps.length < 3) return;
          device.memory.write(RING + 2 * 16, commands(100, 2));
          map.mark(2, 3);
        },
      },
    });
    expect(queue.issue(commands(0, 2), 2, false)).toBe(0);
    expect(steps).toEqual(["told 0", "told 0", "told 0"]);
    expect(seen(device)).toEqual([0, 1, 100, 101]);
  });

  test("owners tell the SMMU in their order", () => {
    const device = new FakeDevice(4);
    const state = sharedQueueState(4);
    // An owner has three commands valid, and not told yet.
    device.memory.write(RING, commands(100, 3));
    new ValidMap(state, VALID, 4).mark(0, 3);
    state[PROD] = 3;
    let waited = 0;
    const relax = (): void => {
      if (++waited < 3) return;
      device.write32(OFFSET.CMDQ_PROD, 3);
      state[OWNER] = 3;
    };
    const queue = agent(device, state, { hooks: { relax } });
    expect(queue.issue(commands(0, 2), 2, true)).toBe(0);
    expect(seen(device)).toEqual([100, 101, 102, 0, 1, -1]);
    expect(waited).toBe(3);
  });

  test("a reservation that another was faster at is tried again", () => {
    const device = new FakeDevice(4);
    const state = sharedQueueState(4);
    const other = agent(device, state);
    // Permission is looked up between the look at PROD and the exchange: there another list comes in.
    let pending = true;
    const view = device.memory.view(() => {
      view.perm.fill(3);
      if (pending) expect(other.issue(commands(100, 2), 2, false)).toBe(0);
      pending = false;
    });
    const queue = agent(device, state, { hooks: { memory: view } });
    expect(queue.issue(commands(0, 2), 2, true)).toBe(0);
    expect(seen(device)).toEqual([100, 101, 0, 1, -1]);
    expect(queue.counts.contended).toBe(1);
  });

  test("no more than the ring holds is reserved while a SYNC is waited for, and CONS is told by the last who waits", () => {
    const device = new FakeDevice(3);
    device.stuck = true;
    const state = sharedQueueState(3);
    const other = agent(device, state, { timeout: 3000 });
    let tried = 0;
    const queue = agent(device, state, {
      timeout: 1_000_000,
      onWait() {
        if (++tried > 1) return;
        expect(other.issue(commands(100, 5), 5, false)).toBe(0);
        device.stuck = false;
        device.consume(2);
        device.stuck = true;
        // There is room, but CONS may not be moved while the SYNC is waited for.
        expect(other.issue(commands(200, 1), 1, false)).toBe(ETIMEDOUT);
        device.stuck = false;
      },
    });
    expect(queue.issue(commands(0, 2), 2, true)).toBe(0);
    expect(other.issue(commands(200, 1), 1, true)).toBe(0);
    expect(seen(device)).toEqual([0, 1, -1, 100, 101, 102, 103, 104, 200, -1]);
  });

  test("a SYNC that is complete does not free the slots behind one that is still waited for", () => {
    const device = new FakeDevice(3);
    const state = sharedQueueState(3);
    const second = agent(device, state);
    const third = agent(device, state, { timeout: 3000 });
    device.stuck = true;
    let tried = 0;
    const first = agent(device, state, {
      timeout: 1_000_000,
      onWait() {
        if (++tried > 1) return;
        device.stuck = false;
        expect(second.issue(commands(100, 1), 1, true)).toBe(0);
        // A whole lap would look to the first as if nothing had been consumed.
        expect(third.issue(commands(200, 8), 8, false)).toBe(ETIMEDOUT);
      },
    });
    expect(first.issue(commands(0, 1), 1, true)).toBe(0);
    expect(third.issue(commands(200, 8), 8, false)).toBe(0);
    expect(seen(device)).toEqual([0, -1, 100, -1, 200, 201, 202, 203, 204, 205, 206, 207]);
  });

  test("many agents in turn over many laps, nested at every barrier", () => {
    const device = new FakeDevice(6);
    const state = sharedQueueState(6);
    const expected = new Map<number, number[]>();
    const agents: SharedCommandQueue[] = [];
    let sid = 0;
    const insert = (index: number, depth: number): void => {
      const count = 1 + ((sid * 7 + index) % 5);
      const first = sid;
      sid += count;
      expected.set(index, [...(expected.get(index) ?? []), ...Array.from({ length: count }, (_, k) => first + k)]);
      depths[index] = depth;
      // Those inside may not wait: the owner is outside.
      expect(agents[index]!.issue(commands(first, count), count, depth === 0)).toBe(0);
    };
    const depths: number[] = [];
    for (let index = 0; index < 4; index++) {
      agents.push(agent(device, state, {
        hooks: {
          barrier() {
            if (index < 3) insert(index + 1, depths[index]! + 1);
          },
        },
      }));
    }
    for (let round = 0; round < 200; round++) insert(0, 0);
    const consumed = seen(device).filter((value) => value >= 0);
    expect(consumed.toSorted((a, b) => a - b)).toEqual(Array.from({ length: sid }, (_, i) => i));
    for (const list of expected.values()) {
      const mine = new Set(list);
      expect(consumed.filter((value) => mine.has(value))).toEqual(list);
    }
    expect(agents[0]!.counts.owned).toBe(200);
    expect(agents[3]!.counts.gathered).toBe(200);
  });
});
