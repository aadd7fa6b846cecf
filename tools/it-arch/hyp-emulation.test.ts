// EL2's emulation on the real model: stage 1 of the host nested on EL2's stage 2, and a host that does not play by the rules.
import { describe, expect, test } from "vitest";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { COMMANDS, OFFSET, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import { CR0, EmulatedHost, HOST_CMDQ, HOST_EVTQ, HOST_L1, HOST_L2 } from "./hyp-emulated-host.ts";
import { IRQS, losing, PAGE, POOL_BASE, SID, World } from "./hyp-fixture.ts";

const SENTINEL = 0x5ec2_e700;
const IOVA = 0x1_0000;
const PROFILES = ["lazy", "eager", "finite"] as const;

function running(options: ConstructorParameters<typeof World>[1] = {}): EmulatedHost {
  const world = new World("emulation", options);
  expect([world.handoff, world.finalize]).toEqual([0, 0]);
  const host = new EmulatedHost(world);
  host.enable();
  return host;
}

describe.each(PROFILES)("cache profile %s", (profile) => {
  test("a stream is blocked, bypasses within what the host owns, or goes through the host's stage 1", () => {
    const host = running({ profile });
    const { world } = host;
    expect(world.reaches(PAGE, PAGE, 1)).toBe(false);
    host.setSte(STE_CONFIG.bypass);
    expect(world.reaches(PAGE, PAGE, 2)).toBe(true);
    expect(world.reaches(POOL_BASE, POOL_BASE, 0x0bad)).toBe(false);
    host.map(IOVA, PAGE);
    host.setSte(STE_CONFIG.s1);
    expect(world.reaches(IOVA, PAGE, 3)).toBe(true);
    expect(world.reaches(PAGE, PAGE, 4)).toBe(false);
    host.setSte(STE_CONFIG.abort);
    expect(world.reaches(IOVA, PAGE, 5)).toBe(false);
    expect(host.idle).toBe(true);
    expect(world.sound).toBe(true);
  });

  test("unmapping works by the host's own TLBI", () => {
    const host = running({ profile });
    host.map(IOVA, PAGE);
    host.setSte(STE_CONFIG.s1);
    expect(host.world.reaches(IOVA, PAGE, 1)).toBe(true);
    host.map(IOVA, -1);
    if (profile === "lazy") expect(host.world.reaches(IOVA, PAGE, 2)).toBe(true);
    host.invalidate(IOVA);
    expect(host.world.reaches(IOVA, PAGE, 3)).toBe(false);
  });

  test.each([
    ["bypass", STE_CONFIG.bypass, PAGE],
    ["stage 1", STE_CONFIG.s1, IOVA],
  ])("a donated page with a warm TLB faults through %s, and stays the VM's", (_what, config, iova) => {
    const host = running({ profile });
    const { world } = host;
    host.map(IOVA, PAGE);
    host.setSte(config);
    expect(world.reaches(iova, PAGE, 1)).toBe(true);
    const handle = world.vmWithPage(PAGE, SENTINEL);
    expect(world.reaches(iova, PAGE, 2)).toBe(false);
    expect(world.machine.memory.load32(PAGE)).toBe(SENTINEL);
    world.endVm(handle, PAGE);
    expect(world.reaches(iova, PAGE, 3)).toBe(true);
    expect(world.sound).toBe(true);
  });
});

describe("hostile host", () => {
  test("stage-1 tables that point at EL2's memory reach nothing", () => {
    const host = running();
    host.setSte(STE_CONFIG.s1);
    for (const pa of [POOL_BASE, POOL_BASE + 0x1_0000, 0x0905_0000]) {
      host.map(IOVA, pa);
      host.invalidate(IOVA);
      expect(host.world.dma.write(IOVA, Int32Array.of(0x0bad))).not.toBe(0);
    }
  });

  test("donating while the virtual SMMUEN is 0 leaves no entry behind", () => {
    const host = running();
    host.setSte(STE_CONFIG.bypass);
    expect(host.world.reaches(PAGE, PAGE, 1)).toBe(true);
    host.regs.write32(OFFSET.CR0, CR0.CMDQEN);
    expect(host.world.reaches(PAGE, PAGE, 2)).toBe(false);
    host.world.vmWithPage(PAGE, SENTINEL);
    host.regs.write32(OFFSET.CR0, CR0.CMDQEN | CR0.SMMUEN);
    expect(host.world.reaches(PAGE, PAGE, 3)).toBe(false);
    expect(host.world.reaches(PAGE + PAGE_SIZE, PAGE + PAGE_SIZE, 4)).toBe(true);
  });

  test("messages cannot be aimed: neither by CMD_SYNC nor by the interrupt registers", () => {
    const host = running();
    const { memory } = host.world.machine;
    const before = memory.load32(POOL_BASE);
    host.regs.write64(OFFSET.EVENTQ_IRQ_CFG0, POOL_BASE, 0);
    host.regs.write64(OFFSET.GERROR_IRQ_CFG0, POOL_BASE, 0);
    host.regs.write32(OFFSET.IRQ_CTRL, 5);
    host.queue(["SYNC", { CS: 1, MSIAddr: POOL_BASE, MSIData: 0x0bad, MSH: 3, MSIAttr: 15 }]);
    host.setSte(STE_CONFIG.s1);
    host.world.dma.read(0x5000, new Int32Array(1));
    expect(memory.load32(POOL_BASE)).toBe(before);
    expect(host.idle).toBe(true);
  });

  test("memory in use cannot be given away", () => {
    const { world } = running();
    for (const pa of [HOST_CMDQ, HOST_L1, HOST_EVTQ]) {
      expect(world.call("__pkvm_host_donate_hyp", pa / PAGE_SIZE)).toBe(-ERRNO.EBUSY);
    }
    // A second level is read when the host says so, and may go.
    expect(world.call("__pkvm_host_donate_hyp", HOST_L2 / PAGE_SIZE)).toBe(0);
  });

  test("an event queue in EL2's memory gets no events", () => {
    const world = new World("emulation");
    const host = new EmulatedHost(world);
    host.enable(CR0.CMDQEN | CR0.SMMUEN);
    host.regs.write64(OFFSET.EVENTQ_BASE, POOL_BASE | 7, 0);
    host.regs.write32(OFFSET.CR0, CR0.CMDQEN | CR0.SMMUEN | CR0.EVENTQEN);
    const before = Int32Array.from({ length: 1024 }, (_, i) => world.machine.memory.load32(POOL_BASE + i * 4));
    host.setSte(STE_CONFIG.s1);
    world.dma.read(0x5000, new Int32Array(1));
    expect(Int32Array.from({ length: 1024 }, (_, i) => world.machine.memory.load32(POOL_BASE + i * 4))).toEqual(before);
    expect(host.regs.read32(OFFSET.CR0ACK) & CR0.EVENTQEN).toBe(0);
  });

  test("no register access stops EL2", () => {
    const host = running();
    for (let offset = 0; offset < 0x2_0000; offset += 4) {
      host.regs.read32(offset);
      host.regs.write32(offset, -1);
      if (offset % 8 === 0) host.regs.write64(offset, -1, -1);
      if (offset % 8 === 0) host.regs.read64(offset);
    }
    expect(host.world.reaches(POOL_BASE, POOL_BASE, 0x0bad)).toBe(false);
    expect(host.world.sound).toBe(true);
  });
});

describe("what the architecture promises the host", () => {
  test("an illegal command stops its queue and raises the global error interrupt", () => {
    const host = running();
    let interrupts = 0;
    host.world.machine.host.requestIrq(IRQS.gerror, () => { interrupts++; });
    host.regs.write32(OFFSET.IRQ_CTRL, 1);
    expect(host.regs.read32(OFFSET.IRQ_CTRLACK)).toBe(1);
    host.queue(["TLBI_S2_IPA"], ["SYNC"]);
    host.world.machine.host.relax();
    expect(interrupts).toBe(1);
    expect(host.idle).toBe(false);
    expect(host.regs.read32(OFFSET.GERROR) ^ host.regs.read32(OFFSET.GERRORN)).toBe(1);
    host.memory.store32(HOST_CMDQ, COMMANDS.SYNC.opcode);
    host.regs.write32(OFFSET.GERRORN, host.regs.read32(OFFSET.GERROR));
    expect(host.idle).toBe(true);
    // EL2's own queue was never affected.
    expect(host.world.call("__pkvm_host_donate_hyp", PAGE / PAGE_SIZE)).toBe(0);
  });

  test("events arrive in its own memory, by interrupt, with its own addresses", () => {
    const host = running();
    let interrupts = 0;
    host.world.machine.host.requestIrq(IRQS.eventq, () => { interrupts++; });
    host.regs.write32(OFFSET.IRQ_CTRL, 4);
    host.setSte(STE_CONFIG.s1);
    host.world.dma.read(0x5008, new Int32Array(1));
    host.world.machine.host.relax();
    expect(interrupts).toBe(1);
    expect(host.regs.read32(OFFSET.EVENTQ_PROD)).toBe(1);
    expect([0, 4, 16].map((at) => host.memory.load32(HOST_EVTQ + at))).toEqual([0x10, SID, 0x5008]);
    host.regs.write32(OFFSET.EVENTQ_CONS, 1);
    expect(host.regs.read32(OFFSET.EVENTQ_CONS)).toBe(1);
  });

  test("a boot stream goes on until the host's own table takes over", () => {
    const world = new World("emulation", { bootDma: SID });
    expect(world.reaches(PAGE, PAGE, 1)).toBe(true);
    const host = new EmulatedHost(world);
    host.enable();
    host.setSte(STE_CONFIG.bypass);
    expect(world.reaches(PAGE, PAGE, 2)).toBe(true);
  });
});

test.each([
  ["stage 1 only", PRESETS.qemuStage1, -ERRNO.ENODEV],
  ["stage 2 only", PRESETS.qemuStage2, -ERRNO.ENODEV],
  ["both stages", PRESETS.qemuNested, 0],
])("hardware with %s", (_what, id, status) => {
  expect(new World("emulation", { id }).handoff).toBe(status);
});

test("combined entries outlive an invalidation by IPA: TLBI_NH_ALL is not optional", () => {
  const leaks = (opcode: number): boolean => {
    const host = running({ hypCpu: losing(opcode) });
    host.map(IOVA, PAGE);
    host.setSte(STE_CONFIG.s1);
    host.world.reaches(IOVA, PAGE, 1);
    host.world.vmWithPage(PAGE, SENTINEL);
    return host.world.reaches(IOVA, PAGE, 2);
  };
  expect(leaks(COMMANDS.TLBI_NH_ALL.opcode)).toBe(true);
  expect(leaks(COMMANDS.TLBI_NH_ASID.opcode)).toBe(false);
});
