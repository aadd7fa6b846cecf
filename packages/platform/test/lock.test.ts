import { describe, expect, test } from "vitest";
import { LockOrder, SpinLock } from "../src/index.ts";
import type { Cpu } from "../src/index.ts";

/** The part of a CPU that a lock uses: how deep interrupts are masked. */
function fakeCpu(id?: number, relax: () => void = () => {}): { readonly cpu: Cpu; readonly depths: number[] } {
  const depths = [0];
  const move = (by: number): void => {
    depths.push(depths.at(-1)! + by);
  };
  const part: Pick<Cpu, "irqSave" | "irqRestore" | "relax" | "id"> = {
    ...(id === undefined ? {} : { id }),
    irqSave: () => { move(1); },
    irqRestore: () => { move(-1); },
    relax,
  };
  return { cpu: part as Cpu, depths };
}

describe("SpinLock", () => {
  test("masks interrupts while held", () => {
    const { cpu, depths } = fakeCpu();
    const lock = new SpinLock("cmdq");
    expect(lock.held).toBe(false);
    lock.lock(cpu);
    expect(lock.held).toBe(true);
    lock.unlock(cpu);
    expect(lock.held).toBe(false);
    expect(depths).toEqual([0, 1, 0]);
  });

  test("is free when unlock unmasks, so that an interrupt handler may take it", () => {
    const lock = new SpinLock("cmdq");
    const seen: boolean[] = [];
    const part: Pick<Cpu, "irqSave" | "irqRestore"> = { irqSave: () => {}, irqRestore: () => { seen.push(lock.held); } };
    lock.lock(part as Cpu);
    lock.unlock(part as Cpu);
    expect(seen).toEqual([false]);
  });

  test("different locks nest", () => {
    const { cpu, depths } = fakeCpu();
    const [outer, inner] = [new SpinLock("outer"), new SpinLock("inner")];
    outer.lock(cpu);
    inner.lock(cpu);
    inner.unlock(cpu);
    outer.unlock(cpu);
    expect(depths).toEqual([0, 1, 2, 1, 0]);
  });

  test("a second acquisition is a deadlock and leaves interrupts as they are", () => {
    const { cpu, depths } = fakeCpu();
    const lock = new SpinLock("cmdq");
    lock.lock(cpu);
    expect(() => { lock.lock(cpu); }).toThrow('deadlock: lock "cmdq" is already held');
    expect(depths).toEqual([0, 1]);
    expect(lock.held).toBe(true);
  });

  test("releasing a free lock is an error and unmasks nothing", () => {
    const { cpu, depths } = fakeCpu();
    const lock = new SpinLock("cmdq");
    expect(() => { lock.unlock(cpu); }).toThrow('lock "cmdq" is not held');
    expect(depths).toEqual([0]);
  });

  test("another CPU waits for it, with interrupts masked, and only the holder releases it", () => {
    const lock = new SpinLock("cmdq");
    const { cpu: first } = fakeCpu(0);
    let relaxed = 0;
    const { cpu: second, depths } = fakeCpu(1, () => {
      expect(depths).toEqual([0, 1]);
      if (++relaxed === 3) lock.unlock(first);
    });
    lock.lock(first);
    expect(() => { lock.unlock(second); }).toThrow('lock "cmdq" is not held');
    lock.lock(second);
    expect([relaxed, lock.held]).toEqual([3, true]);
    expect(() => { lock.unlock(first); }).toThrow('lock "cmdq" is not held');
    lock.unlock(second);
    expect(lock.held).toBe(false);
  });
});

describe("LockOrder", () => {
  const ranked = (...ranks: number[]) => {
    const order = new LockOrder();
    return { order, locks: ranks.map((rank, at) => new SpinLock(`${"abc"[at]}${rank}`, rank, order)) };
  };

  test.each([
    ["ascending", [1, 2], undefined],
    ["descending", [2, 1], 'lock order: "b1" is taken while "a2" is held'],
    ["equal", [1, 1], 'lock order: "b1" is taken while "a1" is held'],
  ])("%s ranks", (_what, ranks, message) => {
    const { cpu, depths } = fakeCpu();
    const { locks } = ranked(...ranks);
    locks[0]!.lock(cpu);
    if (message === undefined) locks[1]!.lock(cpu);
    else expect(() => { locks[1]!.lock(cpu); }).toThrow(message);
    expect(depths.at(-1)).toBe(message === undefined ? 2 : 1);
  });

  test("what was released does not count, in whatever order", () => {
    const { cpu } = fakeCpu();
    const { order, locks: [a, b, c] } = ranked(1, 3, 2);
    a!.lock(cpu);
    b!.lock(cpu);
    a!.unlock(cpu);
    expect(order.heldBy(0)).toEqual([b]);
    b!.unlock(cpu);
    c!.lock(cpu);
    expect(order.heldBy(0)).toEqual([c]);
  });

  test("is each CPU's own, and locks without a rank are outside of it", () => {
    const { order, locks: [a, b] } = ranked(2, 1);
    const [first, second] = [fakeCpu(0).cpu, fakeCpu(1).cpu];
    a!.lock(first);
    b!.lock(second);
    new SpinLock("any").lock(first);
    expect([order.heldBy(0), order.heldBy(1), order.heldBy(2)]).toEqual([[a], [b], []]);
  });

  test("comes before waiting: the CPU that would deadlock says so", () => {
    const { locks: [a, b] } = ranked(2, 1);
    const [first, second] = [fakeCpu(0).cpu, fakeCpu(1).cpu];
    a!.lock(first);
    b!.lock(second);
    expect(() => { b!.lock(first); }).toThrow('lock order: "b1" is taken while "a2" is held');
  });
});
