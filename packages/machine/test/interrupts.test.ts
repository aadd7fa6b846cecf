import { describe, expect, test } from "vitest";
import { isErrno } from "@smmuv3/platform";
import type { HostCpu } from "@smmuv3/platform";
import { Machine, MSI_DOORBELL, MsiFrame } from "../src/index.ts";
import { DEVICE, RAM, rig, thrown } from "./fixture.ts";

const frame = (): Int32Array => new Int32Array(36);

describe("points where EL1 takes interrupts", () => {
  test.each<{ name: string; run: (machine: Machine, host: HostCpu) => void; taken: boolean }>([
    { name: "relax", run: (_, host) => { host.relax(); }, taken: true },
    { name: "takeInterrupts", run: (machine) => { machine.takeInterrupts(); }, taken: true },
    { name: "outermost irqRestore", run: (_, host) => { host.irqSave(); host.irqSave(); host.irqRestore(); host.irqRestore(); }, taken: true },
    { name: "inner irqRestore", run: (_, host) => { host.irqSave(); host.irqSave(); host.irqRestore(); }, taken: false },
    { name: "relax while masked", run: (_, host) => { host.irqSave(); host.relax(); }, taken: false },
    { name: "takeInterrupts while masked", run: (machine, host) => { host.irqSave(); machine.takeInterrupts(); }, taken: false },
    { name: "memory access", run: (_, host) => host.memory.load32(RAM), taken: false },
    { name: "register access", run: (_, host) => { host.ioremap(DEVICE, 4096).write32(0, 1); }, taken: false },
    { name: "barrier", run: (_, host) => { host.barrier(); }, taken: false },
    { name: "hvc", run: (_, host) => { host.hvc(frame()); }, taken: false },
    { name: "relax of EL2", run: (machine) => { machine.hyp.relax(); }, taken: false },
    { name: "irqRestore of EL2", run: (machine) => { machine.hyp.irqSave(); machine.hyp.irqRestore(); }, taken: false },
  ])("$name", ({ run, taken }) => {
    const { machine } = rig();
    let handled = 0;
    machine.host.requestIrq(5, () => handled++);
    machine.line(5).pulse();
    expect([handled, machine.pending(5)]).toEqual([0, true]);
    run(machine, machine.host);
    expect([handled, machine.pending(5)]).toEqual([Number(taken), !taken]);
    expect(machine.counters.read("interrupts")).toMatchObject({ el1: Number(taken), el2: 0 });
  });
});

test("a line pulsed from a register write is taken later", () => {
  const { machine } = rig();
  machine.addDevice("msi", 0x1000, 0x1000, new MsiFrame(machine));
  const order: string[] = [];
  machine.host.requestIrq(9, () => order.push("irq"));
  machine.host.ioremap(0x1000, 0x1000).write32(MSI_DOORBELL, 9);
  order.push("write done");
  machine.host.relax();
  expect(order).toEqual(["write done", "irq"]);
});

test("handlers run masked, lowest INTID first, edges in between once", () => {
  const { machine } = rig();
  const { host } = machine;
  const order: string[] = [];
  host.requestIrq(3, () => {
    order.push("3 in");
    machine.line(1).pulse();
    machine.line(1).pulse();
    host.irqSave();
    host.irqRestore();
    host.relax();
    order.push("3 out");
  });
  host.requestIrq(1, () => order.push("1"));
  host.requestIrq(7, () => order.push("7"));
  for (const intid of [7, 3, 3]) machine.line(intid).pulse();
  machine.takeInterrupts();
  expect(order).toEqual(["3 in", "3 out", "1", "7"]);
  expect(machine.counters.read("interrupts").el1).toBe(3);
});

test("an edge waits for its handler, and survives freeIrq", () => {
  const { machine } = rig();
  let handled = 0;
  machine.line(4).pulse();
  machine.takeInterrupts();
  machine.host.requestIrq(4, () => handled++);
  expect(handled).toBe(0);
  machine.takeInterrupts();
  expect(handled).toBe(1);
  machine.host.freeIrq(4);
  machine.line(4).pulse();
  machine.takeInterrupts();
  expect([handled, machine.pending(4)]).toEqual([1, true]);
});

test("a line that its handler raises again does not hang EL1", () => {
  const { machine } = rig();
  let handled = 0;
  machine.host.requestIrq(2, () => {
    handled++;
    machine.line(2).pulse();
  });
  machine.line(2).pulse();
  machine.host.relax();
  expect(handled).toBe(256);
  expect(machine.pending(2)).toBe(true);
});

test("a handler that throws leaves interrupts as they were", () => {
  const { machine } = rig();
  let handled = 0;
  machine.host.requestIrq(2, () => {
    throw new Error("handler");
  });
  machine.host.requestIrq(3, () => handled++);
  machine.line(2).pulse();
  machine.line(3).pulse();
  expect(() => { machine.takeInterrupts(); }).toThrow("handler");
  machine.takeInterrupts();
  expect(handled).toBe(1);
});

test("no handler runs while EL2 does, whatever EL2 or a device asks for", () => {
  const { machine } = rig();
  let handled = 0;
  machine.host.requestIrq(6, () => handled++);
  const seen: number[] = [];
  machine.onRelax(() => {
    machine.takeInterrupts();
  });
  machine.hyp.install({
    hvc: () => {
      machine.line(6).pulse();
      machine.takeInterrupts();
      machine.hyp.relax();
      seen.push(handled);
    },
    dataAbort: () => 2,
  });
  machine.host.hvc(frame());
  expect(seen).toEqual([0]);
  expect(handled).toBe(0);
  machine.host.relax();
  expect(handled).toBe(1);
});

test("relax runs the hooks in order, then takes interrupts, then moves the clock", () => {
  const { machine } = rig();
  const order: string[] = [];
  machine.onRelax(() => {
    order.push(`a ${machine.clock.now()}`);
    machine.line(1).pulse();
  });
  machine.onRelax(() => order.push("b"));
  machine.host.requestIrq(1, () => order.push(`irq ${machine.host.now()}`));
  machine.host.relax();
  expect(order).toEqual(["a 0", "b", "irq 0"]);
  expect(machine.host.now()).toBe(1000);
  machine.hyp.relax();
  machine.clock.advance(500);
  expect([machine.hyp.now(), machine.clock.now()]).toEqual([2500, 2500]);
  expect(() => { machine.clock.advance(-1); }).toThrow(RangeError);
  const slow = rig({ relaxNs: 7 }).machine;
  slow.host.relax();
  expect(slow.clock.now()).toBe(7);
});

test("misuse", () => {
  const { machine } = rig({ irqLines: 8 });
  const { host } = machine;
  host.requestIrq(1, () => {});
  const again = thrown(() => { host.requestIrq(1, () => {}); });
  expect(isErrno(again) && again.code).toBe("EBUSY");
  expect(() => { host.freeIrq(2); }).toThrow(RangeError);
  expect(() => { host.irqRestore(); }).toThrow(RangeError);
  expect(() => { machine.hyp.irqRestore(); }).toThrow(RangeError);
  for (const intid of [-1, 8, 1.5]) expect(() => machine.line(intid)).toThrow(RangeError);
  expect(() => rig({ irqLines: 0 })).toThrow(RangeError);
});

test("EL2 makes an interrupt pending; EL1 takes it when EL2 is done", () => {
  const machine = new Machine({ memory: { base: RAM, size: 1 << 20 } });
  let taken = 0;
  machine.host.requestIrq(40, () => { taken++; });
  machine.hyp.install({
    hvc: () => {
      machine.hyp.injectIrq(40);
      machine.hyp.injectIrq(40);
      machine.takeInterrupts();
      expect(taken).toBe(0);
    },
    dataAbort: () => 2,
  });
  machine.host.hvc(frame());
  expect(machine.pending(40)).toBe(true);
  machine.host.relax();
  expect(taken).toBe(1);
});
