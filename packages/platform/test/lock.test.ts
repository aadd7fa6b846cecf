import { describe, expect, test } from "vitest";
import { SpinLock } from "../src/index.ts";
import type { Cpu } from "../src/index.ts";

/** The part of a CPU that a lock uses: how deep interrupts are masked. */
function fakeCpu(): { readonly cpu: Cpu; readonly depths: number[] } {
  const depths = [0];
  const move = (by: number): void => {
    depths.push(depths.at(-1)! + by);
  };
  const part: Pick<Cpu, "irqSave" | "irqRestore"> = {
    irqSave: () => { move(1); },
    irqRestore: () => { move(-1); },
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
});
