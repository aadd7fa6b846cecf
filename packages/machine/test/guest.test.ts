import { FRAME_WORDS } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { isHypPanic, isMachineError } from "../src/index.ts";
import type { GuestCpu } from "../src/index.ts";
import { DEVICE, NONE, RAM, rig, RO, RW, Tables, TABLES, thrown, VTCR } from "./fixture.ts";

const IPA = 0x4000_0000;
const PAGE = RAM + 0x6000;

function guestRig(): ReturnType<typeof rig> & { readonly vm: Tables; readonly run: (program?: (guest: GuestCpu) => void) => number } {
  const full = rig();
  const vm = new Tables(full.machine.memory, TABLES - 0x10_0000);
  vm.map(IPA, RW, 3, PAGE);
  const run = (program?: (guest: GuestCpu) => void): number => {
    if (program !== undefined) full.machine.setGuestProgram(1, 0, program);
    return full.machine.hyp.runGuest(1, 0, vm.regime);
  };
  return Object.assign(full, { vm, run });
}

test("a guest runs on its own stage 2, while the host's is in effect", () => {
  const { machine, tables, run } = guestRig();
  machine.hyp.setHostStage2(tables.regime);
  let read = 0;
  const status = run((guest) => {
    guest.store32(IPA + 4, 0x5afe);
    read = guest.load32(IPA + 4);
  });
  expect([status, read, machine.memory.load32(PAGE + 4)]).toEqual([0, 0x5afe, 0x5afe]);
  expect(machine.guest(1, 0).fault).toBeUndefined();
  expect(machine.counters.read("guest.runs")).toMatchObject({ el2: 1 });
  expect(machine.counters.read("traps.stage2").total).toBe(0);
});

test("no program: counted, nothing done", () => {
  const { machine } = rig();
  expect(machine.hyp.runGuest(5, 3, { ttb: 0, vtcr: 0, vmid: 1 })).toBe(0);
  expect(machine.counters.read("guest.runs").el2).toBe(1);
});

describe("what ends a run", () => {
  test.each([
    { name: "unmapped read", rights: NONE, run: (g: GuestCpu) => g.load32(IPA + 0x1000), fault: { ipa: IPA + 0x1000, write: false } },
    { name: "write to read-only", rights: RO, run: (g: GuestCpu) => { g.store32(IPA + 0x1008, 1); }, fault: { ipa: IPA + 0x1008, write: true } },
    { name: "read beyond the input range", rights: RW, run: (g: GuestCpu) => g.load32(2 ** 39), fault: { ipa: 2 ** 39, write: false } },
    { name: "read of nothing", rights: RW, run: (g: GuestCpu) => g.load32(IPA + 0x2000), fault: { ipa: IPA + 0x2000, write: false } },
    { name: "write of nothing", rights: RW, run: (g: GuestCpu) => { g.store32(IPA + 0x2000, 1); }, fault: { ipa: IPA + 0x2000, write: true } },
  ])("$name", ({ rights, run, fault }) => {
    const full = guestRig();
    full.vm.map(IPA + 0x1000, rights, 3, PAGE + 0x1000);
    full.vm.map(IPA + 0x2000, RW, 3, 0x1000);
    let after = false;
    expect(full.run((guest) => {
      guest.store32(IPA, 1);
      run(guest);
      after = true;
    })).toBe(1);
    expect(after).toBe(false);
    expect(full.machine.guest(1, 0).fault).toEqual(fault);
    expect(full.machine.memory.load32(PAGE)).toBe(1);
  });
});

test("a program cannot go on after its fault, and the next run starts afresh", () => {
  const { machine, vm, run } = guestRig();
  const program = (guest: GuestCpu): void => {
    try {
      guest.load32(IPA + 0x1000);
    } catch {
      guest.store32(IPA, 77);
    }
  };
  expect(run(program)).toBe(1);
  expect(machine.memory.load32(PAGE)).toBe(0);
  // No TLB: the very next run sees the table as it is.
  vm.map(IPA + 0x1000, RW, 3, PAGE + 0x1000);
  expect(run()).toBe(0);
  expect(machine.guest(1, 0).fault).toBeUndefined();
});

test("an assigned device", () => {
  const { vm, device, run } = guestRig();
  vm.map(IPA + 0x1000, RW, 3, DEVICE);
  let read = 0;
  expect(run((guest) => {
    guest.store32(IPA + 0x1010, 3);
    read = guest.load32(IPA + 0x1010);
  })).toBe(0);
  expect([read, device.log]).toEqual([3, ["w32 10=3", "r32 10"]]);
});

test("vCPUs are apart", () => {
  const { machine, vm } = guestRig();
  const ran: string[] = [];
  for (const [handle, vcpu] of [[1, 0], [1, 1], [2, 0]] as const) {
    machine.setGuestProgram(handle, vcpu, (guest) => ran.push(`${guest.handle}.${guest.vcpu}`));
  }
  machine.hyp.runGuest(2, 0, vm.regime);
  machine.hyp.runGuest(1, 1, vm.regime);
  expect(ran).toEqual(["2.0", "1.1"]);
});

test("errors: illegal VTCR is EL2's, an exception is the program's, a stray access the harness's", () => {
  const { machine, vm, run } = guestRig();
  machine.hyp.install({ hvc: () => { run(); }, dataAbort: () => 2 });
  machine.setGuestProgram(1, 0, (guest) => guest.load32(2));
  expect(isMachineError(thrown(() => { machine.host.hvc(new Int32Array(36)); }))).toBe(true);
  expect(machine.errors).toMatchObject([{ reason: "program of VM 1: guest: expected a 4-byte aligned address, got 0x2" }]);
  expect(() => machine.guest(1, 0).load32(IPA)).toThrow(RangeError);
  expect(machine.panics).toEqual([]);
  const regime = { ...vm.regime, vtcr: VTCR.level0 & ~(3 << 6) };
  expect(isHypPanic(thrown(() => machine.hyp.runGuest(1, 0, regime)))).toBe(true);
});

test("a guest's hypercall goes to EL2, or is not supported", () => {
  const { machine, run } = guestRig();
  const frame = new Int32Array(FRAME_WORDS);
  const ask = (guest: GuestCpu): void => {
    frame[0] = 7;
    guest.hvc(frame);
  };
  expect([run(ask), frame[0]]).toEqual([0, -1]);
  machine.hyp.install({
    hvc: () => {},
    dataAbort: () => 2,
    guestHvc: (handle, vcpu, words) => {
      words[0] = handle * 100 + vcpu * 10 + words[0]!;
    },
  });
  expect([run(ask), frame[0]]).toEqual([0, 107]);
  expect(() => { machine.guest(1, 0).hvc(frame); }).toThrow(RangeError);
  expect(isMachineError(thrown(() => run((guest) => { guest.hvc(new Int32Array(2)); })))).toBe(true);
});

test("what escapes from EL2's handler of a guest's hypercall is a panic", () => {
  const { machine, run } = guestRig();
  machine.hyp.install({ hvc: () => {}, dataAbort: () => 2, guestHvc: () => { throw new TypeError("oops"); } });
  expect(isHypPanic(thrown(() => run((guest) => { guest.hvc(new Int32Array(FRAME_WORDS)); })))).toBe(true);
  expect(machine.panics).toMatchObject([{ reason: "exception at EL2: oops" }]);
});
