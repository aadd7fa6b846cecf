// EL2's identity driver on the real model: what a device reaches, and what it does not.
import { describe, expect, test } from "vitest";
import { EVENT_QUEUE_OP, IOMMU_STATE } from "@smmuv3/pkvm-abi";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { COMMANDS } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import { losing, PAGE, POOL_BASE, RAM_BASE, SID, VM_TABLES, World } from "./hyp-fixture.ts";

const SENTINEL = 0x5ec2_e700;
const PROFILES = ["lazy", "eager", "finite"] as const;

function attached(options: ConstructorParameters<typeof World>[1] = {}): World {
  const world = new World("identity", options);
  expect([world.handoff, world.finalize]).toEqual([0, 0]);
  expect(world.call("__pkvm_iommu_set_state", 0, SID, 0, IOMMU_STATE.identity)).toBe(0);
  return world;
}

describe.each(PROFILES)("cache profile %s", (profile) => {
  test("a device reaches nothing before it is attached, the host's pages after, nothing once blocked", () => {
    const world = new World("identity", { profile });
    expect(world.reaches(PAGE, PAGE, 1)).toBe(false);
    world.call("__pkvm_iommu_set_state", 0, SID, 0, IOMMU_STATE.identity);
    expect(world.reaches(PAGE, PAGE, 2)).toBe(true);
    expect(world.reaches(RAM_BASE + 0x20_0000, RAM_BASE + 0x20_0000, 3)).toBe(true);
    world.call("__pkvm_iommu_set_state", 0, SID, 0, IOMMU_STATE.blocking);
    expect(world.reaches(PAGE, PAGE, 4)).toBe(false);
    expect(world.sound).toBe(true);
  });

  test("a page with a warm TLB goes to a VM: reads and writes fault, its data stays; it comes back wiped and reachable", () => {
    const world = attached({ profile });
    expect(world.reaches(PAGE, PAGE, 1)).toBe(true);
    if (profile === "lazy") expect(world.smmu.cacheStats().tlb).toBeGreaterThan(0);
    const handle = world.vmWithPage(PAGE, SENTINEL);
    expect(world.reaches(PAGE, PAGE, 2)).toBe(false);
    expect(world.machine.memory.load32(PAGE)).toBe(SENTINEL);
    expect(world.reaches(PAGE + PAGE_SIZE, PAGE + PAGE_SIZE, 3)).toBe(true);
    world.endVm(handle, PAGE);
    expect(world.machine.memory.load32(PAGE)).toBe(0);
    expect(world.reaches(PAGE, PAGE, 4)).toBe(true);
    expect(world.sound).toBe(true);
  });
});

test("the host's CPU and its devices lose a page together", () => {
  const world = attached();
  world.machine.host.memory.store32(PAGE, 7);
  world.vmWithPage(PAGE, SENTINEL);
  expect(() => world.machine.host.memory.load32(PAGE)).toThrow();
  expect(() => { world.machine.host.memory.store32(PAGE, 8); }).toThrow();
  expect(() => world.machine.host.memory.load32(VM_TABLES)).toThrow();
  expect(() => world.machine.host.memory.load32(POOL_BASE)).toThrow();
  expect(world.machine.host.memory.load32(PAGE + PAGE_SIZE)).toBe(0);
  expect(world.machine.memory.load32(PAGE)).toBe(SENTINEL);
  expect(world.sound).toBe(true);
});

test("no DMA reaches EL2's memory, its queue, its tables or the registers", () => {
  const world = attached();
  const owned = [POOL_BASE, POOL_BASE + 0x1_0000, RAM_BASE, RAM_BASE + 0x10_0000, RAM_BASE + 0x11_0000];
  for (const pa of owned) expect(world.reaches(pa, pa, 0x0bad)).toBe(false);
  expect(world.dma.write(0x0905_0020, Int32Array.of(0))).not.toBe(0);
  expect(() => world.registers().read32(0)).toThrow();
  expect(() => { world.registers().write32(0x20, 0); }).toThrow();
  expect(world.reaches(PAGE, PAGE, 1)).toBe(true);
});

test("a stream that is active at boot is never interrupted", () => {
  const world = new World("identity", { bootDma: SID });
  expect(world.reaches(PAGE, PAGE, 1)).toBe(true);
});

test.each([
  ["stage 1 only", PRESETS.qemuStage1, -ERRNO.ENODEV],
  ["stage 2 only", PRESETS.qemuStage2, 0],
  ["both stages", PRESETS.qemuNested, 0],
])("hardware with %s", (_what, id, status) => {
  const world = new World("identity", { id });
  expect([world.handoff, world.finalize]).toEqual([status, status]);
  // What EL2 does not take stays as it was: the host can drive it.
  if (status < 0) expect(world.registers().read32(0)).toBe(id.IDR0);
});

test("faults of donated pages are reported to the host's event queue, by interrupt", () => {
  const world = attached();
  const queue = PAGE + 0x10_0000;
  world.call("__pkvm_host_share_hyp", queue / PAGE_SIZE);
  expect(world.call("__pkvm_iommu_event_queue", 0, EVENT_QUEUE_OP.attach, queue + 7)).toBe(0);
  let interrupts = 0;
  world.machine.host.requestIrq(106, () => { interrupts++; });
  world.vmWithPage(PAGE, SENTINEL);
  world.dma.read(PAGE + 8, new Int32Array(1));
  world.machine.host.relax();
  expect(interrupts).toBe(1);
  expect(world.call("__pkvm_iommu_event_queue", 0, EVENT_QUEUE_OP.consume, 0)).toBe(1);
  const { memory } = world.machine.host;
  expect(memory.load32(queue) & 0xff).toBe(0x10);
  expect(memory.load32(queue + 4)).toBe(SID);
  expect(memory.load32(queue + 16)).toBe(PAGE + 8);
  expect(world.call("__pkvm_iommu_event_queue", 0, EVENT_QUEUE_OP.consume, 1)).toBe(1);
});

test("a lost TLBI is what the lazy profile is there to show", () => {
  const leaks = (profile: (typeof PROFILES)[number]): boolean => {
    const world = attached({ profile, hypCpu: losing(COMMANDS.TLBI_S2_IPA.opcode) });
    world.reaches(PAGE, PAGE, 1);
    world.vmWithPage(PAGE, SENTINEL);
    return world.reaches(PAGE, PAGE, 2);
  };
  expect(leaks("lazy")).toBe(true);
  expect(leaks("eager")).toBe(false);
});
