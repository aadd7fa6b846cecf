import { FRAME_WORDS } from "@smmuv3/platform";
import type { HypVectors } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { HypPanic, isHostAbort, isHypPanic, isMachineError, Machine } from "../src/index.ts";
import type { MachineOptions } from "../src/index.ts";
import { DEVICE, RAM, RAM_SIZE, Scratch, Tables, thrown } from "./fixture.ts";

const frame = (functionId = 0): Int32Array => new Int32Array(FRAME_WORDS).fill(functionId, 0, 1);

function machine(vectors?: Partial<HypVectors>, options: Partial<MachineOptions> = {}): Machine {
  const result = new Machine({ memory: { base: RAM, size: RAM_SIZE }, ...options });
  if (vectors !== undefined) result.hyp.install({ hvc: () => {}, dataAbort: () => 2, ...vectors });
  return result;
}

test("without vectors HVC answers NOT_SUPPORTED and leaves the rest", () => {
  const { host, counters } = machine();
  const words = frame(9).fill(5, 1);
  host.hvc(words);
  expect([...words]).toEqual([-1, ...Array<number>(FRAME_WORDS - 1).fill(5)]);
  expect(counters.read("hypercalls")).toMatchObject({ el1: 1, el2: 0 });
});

test("HVC passes the frame both ways and counts by function", () => {
  const { host, counters } = machine(
    { hvc: (words) => { words[0] = words[2]! * 2; } },
    { hvcCounter: (functionId) => (functionId < 10 ? "hypercalls.boot" : "hypercalls.iommu") },
  );
  for (const functionId of [3, 10, 11]) {
    const words = frame(functionId);
    words[2] = 21;
    host.hvc(words);
    expect(words[0]).toBe(42);
  }
  expect(counters.read("hypercalls.boot").el1).toBe(1);
  expect(counters.read("hypercalls.iommu").el1).toBe(2);
  expect(() => { host.hvc(new Int32Array(4)); }).toThrow(RangeError);
});

describe("what becomes a panic", () => {
  const cases: { name: string; hvc: (m: Machine) => void; reason: string }[] = [
    { name: "panic()", hvc: (m) => m.hyp.panic("bad state"), reason: "bad state" },
    { name: "panic() that EL2 catches", hvc: (m) => { try { m.hyp.panic("hidden"); } catch { /* hides it */ } }, reason: "hidden" },
    { name: "any exception", hvc: () => { throw new TypeError("oops"); }, reason: "exception at EL2: oops" },
    { name: "a HypPanic that did not come from panic()", hvc: () => { throw new HypPanic("forged"); }, reason: "exception at EL2: hypervisor panic: forged" },
    // eslint-disable-next-line @typescript-eslint/only-throw-error -- a hostile bundle may throw anything
    { name: "a thrown value", hvc: () => { throw "text"; }, reason: "exception at EL2: text" },
    { name: "memory outside of RAM", hvc: (m) => { m.hyp.memory.store32(RAM + RAM_SIZE, 1); }, reason: "external abort: write at 0x80800000" },
    { name: "an unmapped device", hvc: (m) => m.hyp.ioremap(DEVICE, 0x1000).read32(0), reason: "external abort: read at 0x9000000" },
    { name: "unaligned memory", hvc: (m) => m.hyp.memory.load32(RAM + 1), reason: "exception at EL2: Memory: address must be 4-byte aligned, got 0x80000001" },
  ];
  test.each(cases)("$name", ({ hvc, reason }) => {
    const m = machine({ hvc: () => { hvc(m); } });
    m.clock.advance(30);
    expect(isHypPanic(thrown(() => { m.host.hvc(frame()); }))).toBe(true);
    expect(m.panics).toEqual([{ reason, time: 30 }]);
    // The caller may catch it: EL2 is dead all the same.
    expect(isHypPanic(thrown(() => { m.host.hvc(frame()); }))).toBe(true);
    expect(m.panics).toHaveLength(1);
    expect(m.counters.read("hypercalls").el1).toBe(1);
  });
});

test("a panic in the abort handler latches, and no trap or guest runs after it", () => {
  let aborts = 0;
  const m = machine({ dataAbort: () => { aborts++; return m.hyp.panic("in abort"); } });
  m.addDevice("scratch", DEVICE, 0x1000, new Scratch());
  const { regime } = new Tables(m.memory);
  m.hyp.setHostStage2(regime);
  const accesses = [
    () => m.host.memory.load32(RAM),
    () => m.host.ioremap(DEVICE, 0x1000).read32(0),
    () => m.hyp.runGuest(1, 0, regime),
  ];
  for (const access of accesses) expect(isHypPanic(thrown(access))).toBe(true);
  expect(aborts).toBe(1);
  expect(m.panics).toHaveLength(1);
  expect(m.aborts).toEqual([]);
});

test("EL2 that goes through EL1's view is an error of the machine, not a recursion", () => {
  const m = machine({
    hvc: () => { m.host.hvc(frame()); },
    dataAbort: () => { m.host.memory.load32(RAM); return 0; },
  });
  m.hyp.setHostStage2(new Tables(m.memory).regime);
  expect(isMachineError(thrown(() => { m.host.hvc(frame()); }))).toBe(true);
  expect(isMachineError(thrown(() => m.host.memory.load32(RAM)))).toBe(true);
  expect(m.errors).toHaveLength(2);
  expect(m.panics).toEqual([]);
});

test("EL2 sees all of RAM whatever stage 2 says", () => {
  const m = machine({});
  m.hyp.setHostStage2(new Tables(m.memory).regime);
  m.hyp.memory.store32(RAM + 0x4000, 9);
  expect(m.memory.load32(RAM + 0x4000)).toBe(9);
  expect(m.counters.read("traps.stage2").total).toBe(0);
});

test("brands tell the three apart", () => {
  const m = machine({});
  const abort = thrown(() => m.host.memory.load32(0));
  const panic = thrown(() => m.hyp.panic("x"));
  expect([abort, panic, null, "text", {}].map((e) => [isHostAbort(e), isHypPanic(e), isMachineError(e)])).toEqual([
    [true, false, false],
    [false, true, false],
    [false, false, false],
    [false, false, false],
    [false, false, false],
  ]);
  expect(String(abort)).toBe("HostAbort: external abort: read at 0x0");
  expect(String(panic)).toBe("HypPanic: hypervisor panic: x");
});

test("levels, and a barrier that changes nothing", () => {
  for (const shared of [false, true]) {
    const m = new Machine({ memory: { base: RAM, size: RAM_SIZE, shared } });
    m.memory.store32(RAM, 0x1234);
    m.host.barrier();
    m.hyp.barrier();
    expect(m.memory.load32(RAM)).toBe(0x1234);
    expect(m.memory.words.buffer instanceof SharedArrayBuffer).toBe(shared);
    expect([m.host.level, m.hyp.level]).toEqual([1, 2]);
  }
});
