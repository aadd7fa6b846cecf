import { ABORT, ABORT_ACTION, ABORT_FLAG_DEVICE, ABORT_FLAG_WRITE } from "@smmuv3/platform";
import type { RegisterWindow } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { isHostAbort, isHypPanic, isMachineError, Machine } from "../src/index.ts";
import { DEVICE, NONE, RAM, RAM_SIZE, rig, RO, RW, Scratch, thrown } from "./fixture.ts";

interface Access {
  readonly name: string;
  readonly run: (window: RegisterWindow) => unknown;
  readonly log: string;
  /** What the device answers, and what an abort handler that emulates answers. */
  readonly direct: unknown;
  readonly emulated: unknown;
  readonly flags: number;
  readonly size: number;
  readonly value: readonly [lo: number, hi: number];
}

const ACCESSES: readonly Access[] = [
  { name: "read32", run: (w) => w.read32(0x10), log: "r32 10", direct: 0x11, emulated: 0xaa, flags: 0, size: 4, value: [0, 0] },
  { name: "write32", run: (w) => { w.write32(0x10, 5); }, log: "w32 10=5", direct: undefined, emulated: undefined, flags: ABORT_FLAG_WRITE, size: 4, value: [5, 0] },
  { name: "read64", run: (w) => [w.read64(0x10), w.hi], log: "r64 10", direct: [0x11, 0x22], emulated: [0xaa, 0xbb], flags: 0, size: 8, value: [0, 0] },
  { name: "write64", run: (w) => { w.write64(0x10, 6, 7); }, log: "w64 10=7:6", direct: undefined, emulated: undefined, flags: ABORT_FLAG_WRITE, size: 8, value: [6, 7] },
];

function seeded(options?: Parameters<typeof rig>[0]): ReturnType<typeof rig> {
  const full = rig(options);
  full.device.values.set(0x10, 0x11);
  full.device.values.set(0x14, 0x22);
  return full;
}

describe.each(ACCESSES)("$name of EL1", ({ run, log, direct, emulated, flags, size, value }) => {
  test("stage 2 off: one access, one count", () => {
    const { machine, device } = seeded();
    expect(run(machine.host.ioremap(DEVICE, 0x1000))).toEqual(direct);
    expect(device.log).toEqual([log]);
    expect(machine.counters.read("mmio")).toMatchObject({ el1: 1, el2: 0 });
    expect(machine.counters.read("traps.mmio").total).toBe(0);
  });

  test("stage 2 permits: the same", () => {
    const { machine, device, tables, frames } = seeded();
    tables.map(DEVICE, RW);
    machine.hyp.setHostStage2(tables.regime);
    expect(run(machine.host.ioremap(DEVICE, 0x1000))).toEqual(direct);
    expect(device.log).toEqual([log]);
    expect(frames).toEqual([]);
  });

  test("stage 2 denies, EL2 emulates: one trap and no access", () => {
    const full = seeded();
    full.machine.hyp.setHostStage2(full.tables.regime);
    full.onAbort = (frame) => {
      frame[ABORT.valueLo] = 0xaa;
      frame[ABORT.valueHi] = 0xbb;
      return ABORT_ACTION.emulated;
    };
    expect(run(full.machine.host.ioremap(DEVICE, 0x1000))).toEqual(emulated);
    expect(full.device.log).toEqual([]);
    expect(full.frames).toEqual([[DEVICE + 0x10, 0, flags | ABORT_FLAG_DEVICE, size, ...value]]);
    expect(full.machine.counters.read("mmio")).toMatchObject({ el1: 1, el2: 0 });
    expect(full.machine.counters.read("traps.mmio")).toMatchObject({ el1: 1, el2: 0 });
    expect(full.machine.counters.read("traps.stage2").total).toBe(0);
  });

  test("stage 2 denies, EL2 mends and retries", () => {
    const full = seeded();
    full.machine.hyp.setHostStage2(full.tables.regime);
    full.onAbort = () => {
      full.tables.map(DEVICE, RW);
      return ABORT_ACTION.retry;
    };
    expect(run(full.machine.host.ioremap(DEVICE, 0x1000))).toEqual(direct);
    expect(full.device.log).toEqual([log]);
    expect(full.frames).toHaveLength(1);
    expect(full.machine.counters.read("traps.mmio").total).toBe(0);
    expect(full.machine.counters.read("traps.stage2")).toMatchObject({ el1: 1, el2: 0 });
  });

  test("stage 2 denies, EL2 retries for ever", () => {
    const full = seeded();
    full.machine.hyp.setHostStage2(full.tables.regime);
    full.onAbort = () => ABORT_ACTION.retry;
    const window = full.machine.host.ioremap(DEVICE, 0x1000);
    expect(isMachineError(thrown(() => run(window)))).toBe(true);
    expect(full.frames).toHaveLength(3);
    expect(full.machine.errors).toHaveLength(1);
  });

  test("stage 2 denies, EL2 injects", () => {
    const full = seeded();
    full.machine.hyp.setHostStage2(full.tables.regime);
    const window = full.machine.host.ioremap(DEVICE, 0x1000);
    expect(isHostAbort(thrown(() => run(window)))).toBe(true);
    expect(full.device.log).toEqual([]);
    const write = flags !== 0;
    expect(full.machine.aborts).toEqual([{ cause: "injected", pa: DEVICE + 0x10, write, device: true, time: 0 }]);
  });

  test("nothing answers: external abort", () => {
    const { machine } = rig();
    const window = machine.host.ioremap(DEVICE + 0x10_0000, 0x1000);
    expect(isHostAbort(thrown(() => run(window)))).toBe(true);
    expect(machine.aborts).toMatchObject([{ cause: "external", pa: DEVICE + 0x10_0010, device: true }]);
  });

  test("EL2 goes straight to the device, and panics where nothing answers", () => {
    const { machine, device, tables } = seeded();
    machine.hyp.setHostStage2(tables.regime);
    expect(run(machine.hyp.ioremap(DEVICE, 0x1000))).toEqual(direct);
    expect(device.log).toEqual([log]);
    expect(machine.counters.read("mmio")).toMatchObject({ el1: 0, el2: 1 });
    const nowhere = machine.hyp.ioremap(DEVICE + 0x10_0000, 0x1000);
    expect(isHypPanic(thrown(() => run(nowhere)))).toBe(true);
    expect(machine.panics).toHaveLength(1);
  });
});

test("a read-only device page traps writes only", () => {
  const full = seeded();
  full.tables.map(DEVICE, RO);
  full.machine.hyp.setHostStage2(full.tables.regime);
  full.onAbort = () => ABORT_ACTION.emulated;
  const window = full.machine.host.ioremap(DEVICE, 0x2000);
  expect(window.read32(0x10)).toBe(0x11);
  window.write32(0x10, 9);
  window.read32(0x1010);
  expect(full.frames.map((frame) => [frame[0], frame[2]])).toEqual([
    [DEVICE + 0x10, ABORT_FLAG_WRITE | ABORT_FLAG_DEVICE],
    [DEVICE + 0x1010, ABORT_FLAG_DEVICE],
  ]);
  expect(full.device.log).toEqual(["r32 10"]);
});

test.each([
  { name: "before TLBI", drop: () => {}, denied: false },
  { name: "TLBI of another page", drop: (m: Machine) => { m.hyp.tlbiIpa(DEVICE + 0x1000, 4096); }, denied: false },
  { name: "TLBI of the page", drop: (m: Machine) => { m.hyp.tlbiIpa(DEVICE, 4096); }, denied: true },
  { name: "TLBI of all", drop: (m: Machine) => { m.hyp.tlbiAll(); }, denied: true },
])("a device page that EL2 revoked: $name", ({ drop, denied }) => {
  const { machine, tables, frames } = rig();
  tables.map(DEVICE, RW);
  machine.hyp.setHostStage2(tables.regime);
  const window = machine.host.ioremap(DEVICE, 0x1000);
  window.write32(0, 1);
  tables.map(DEVICE, NONE);
  drop(machine);
  if (denied) expect(isHostAbort(thrown(() => window.read32(0)))).toBe(true);
  else expect(window.read32(0)).toBe(1);
  expect(frames).toHaveLength(denied ? 1 : 0);
});

test("a device page cached from a block goes with any address of the block", () => {
  const { machine, tables } = rig();
  tables.map(0x900_0000, RW, 2);
  machine.hyp.setHostStage2(tables.regime);
  const window = machine.host.ioremap(DEVICE, 0x1000);
  window.write32(0, 1);
  tables.map(0x900_0000, NONE, 2);
  machine.hyp.tlbiIpa(0x920_0000, 4096);
  expect(window.read32(0)).toBe(1);
  machine.hyp.tlbiIpa(0x91f_f000, 4096);
  expect(isHostAbort(thrown(() => window.read32(0)))).toBe(true);
});

test("the harness names the trap counter", () => {
  const full = rig({ trapCounter: (pa, write) => `traps.${write ? "w" : "r"}${(pa - DEVICE).toString(16)}` });
  full.machine.hyp.setHostStage2(full.tables.regime);
  full.onAbort = () => ABORT_ACTION.emulated;
  const window = full.machine.host.ioremap(DEVICE, 0x1000);
  window.write32(0x20, 0);
  window.read64(0x28);
  window.read64(0x28);
  expect(full.machine.counters.read("traps.w20").el1).toBe(1);
  expect(full.machine.counters.read("traps.r28").el1).toBe(2);
});

test("a window in the middle of a device, and one that spans two devices", () => {
  const { machine, device } = rig();
  const next = new Scratch();
  machine.addDevice("next", DEVICE + 0x2000, 0x1000, next);
  const window = machine.host.ioremap(DEVICE + 0x1000, 0x2000);
  window.write32(0xffc, 1);
  window.write32(0x1004, 2);
  expect(device.log).toEqual(["w32 1ffc=1"]);
  expect(next.log).toEqual(["w32 4=2"]);
});

test("a device that appears after ioremap answers", () => {
  const { machine } = rig();
  const window = machine.host.ioremap(0x1000, 0x1000);
  machine.addDevice("late", 0x1000, 0x1000, new Scratch());
  window.write32(8, 3);
  expect(window.read32(8)).toBe(3);
});

describe("misuse is a RangeError", () => {
  const { machine } = rig();
  const window = machine.host.ioremap(DEVICE, 0x1000);
  test.each([
    { name: "device over device", run: () => { machine.addDevice("x", DEVICE + 0x1000, 0x1000, new Scratch()); } },
    { name: "device over RAM", run: () => { machine.addDevice("x", RAM - 0x1000, 0x2000, new Scratch()); } },
    { name: "device not 4K aligned", run: () => { machine.addDevice("x", 0x800, 0x1000, new Scratch()); } },
    { name: "device of no size", run: () => { machine.addDevice("x", 0x1000, 0, new Scratch()); } },
    { name: "ioremap of RAM", run: () => machine.host.ioremap(RAM, 0x1000) },
    { name: "ioremap of RAM at EL2", run: () => machine.hyp.ioremap(RAM + RAM_SIZE - 0x1000, 0x1000) },
    { name: "ioremap not 4K aligned", run: () => machine.host.ioremap(DEVICE, 0x10) },
    { name: "offset beyond the window", run: () => window.read32(0x1000) },
    { name: "64 bits across the end", run: () => window.read64(0xffc) },
    { name: "negative offset", run: () => window.read32(-4) },
    { name: "unaligned 64-bit access", run: () => { window.write64(4, 0, 0); } },
    { name: "unaligned 32-bit access", run: () => { window.write32(2, 0); } },
    { name: "RAM above 2^43", run: () => new Machine({ memory: { base: 2 ** 43, size: 4096 } }) },
  ])("$name", ({ run }) => {
    expect(run).toThrow(RangeError);
  });
});
