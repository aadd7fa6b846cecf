import { TRANSLATION } from "@smmuv3/platform";
import { EVENTS, OFFSET, REG, getField, maskOf, STE } from "@smmuv3/smmu-v3-defs";
import type { EventName } from "@smmuv3/smmu-v3-defs";
import { GERROR_BIT, PRESETS } from "@smmuv3/smmu-v3-model";
import { expect } from "vitest";
import { BUFFER, RW } from "./fixture.ts";
import type { Rig } from "./fixture.ts";
import { row } from "./rows.ts";

const ID = PRESETS.mmu700;
const WIRED = { eventq: 74, gerror: 77, priq: 75 };

const errors = (rig: Rig): string[] => rig.kernel.log.lines("err");

row("E1 every event is decoded, logged with its device, and limited to 10 in 5 seconds", (make) => {
  const names = (Object.keys(EVENTS) as EventName[]).filter((name) => name !== "E_PAGE_REQUEST");
  const rig = make({ id: ID });
  for (const name of names) {
    rig.machine.clock.advance(5e9);
    const before = errors(rig).length;
    expect(rig.smmu.recordEvent(name, 8)).toBe(true);
    rig.machine.takeInterrupts();
    const [line, ...more] = errors(rig).slice(before);
    expect([line, more]).toEqual([expect.stringContaining(`event: ${name} `), []]);
    expect(line).toContain("(client0)");
    expect(rig.iommu.faults.reports.at(-1)!.fault.reason).toBe(name);
  }
  rig.machine.clock.advance(5e9);
  const before = errors(rig).length;
  for (let i = 0; i < 25; i++) rig.smmu.recordEvent("F_TRANSLATION", 8);
  rig.machine.takeInterrupts();
  expect([errors(rig).length - before, rig.device.suppressed]).toEqual([10, 15]);
});

row("E6 PRI: the last request of a group is denied, the others are not answered", (make) => {
  const rig = make({ id: ID, node: { interrupts: WIRED } });
  const requests = [
    { sid: 8, address: 0x1000, prgIndex: 3, read: true, last: false },
    { sid: 8, address: 0x2000, prgIndex: 3, read: true, last: true },
    { sid: 8, ssid: 5, address: 0x3000, prgIndex: 4, write: true, last: true },
  ];
  const commands = rig.trace(() => {
    for (const request of requests) expect(rig.smmu.pri.pageRequest(request)).toBe("queued");
    rig.machine.takeInterrupts();
  });
  expect(commands.filter((line) => line.startsWith("CMD_PRI"))).toEqual([
    "CMD_PRI_RESP SID=8 PRGIndex=3", "CMD_PRI_RESP SSV=1 SSID=5 SID=8 PRGIndex=4",
  ]);
  expect(rig.kernel.log.lines("info").filter((line) => line.includes("unexpected PRI request"))).toHaveLength(3);
});

row("E7 each bit of GERROR is logged and acknowledged; Service Failure Mode switches the SMMU off", (make) => {
  for (const name of [
    "EVENTQ_ABT_ERR", "PRIQ_ABT_ERR", "MSI_CMDQ_ABT_ERR", "MSI_EVENTQ_ABT_ERR", "MSI_PRIQ_ABT_ERR", "MSI_GERROR_ABT_ERR", "SFM_ERR",
  ] as const) {
    const rig = make({ id: ID });
    const { registers } = rig.smmu;
    if (name === "SFM_ERR") rig.smmu.enterServiceFailure();
    else raise(rig, GERROR_BIT[name]);
    rig.machine.takeInterrupts();
    expect(errors(rig)).toEqual([`arm-smmu-v3 smmuv3@9050000: global error: ${name}`]);
    expect((registers.read32(OFFSET.GERROR) ^ registers.read32(OFFSET.GERRORN)) & maskOf(REG.GERROR[name])).toBe(0);
    expect((registers.read32(OFFSET.CR0) & 1) === 0).toBe(name === "SFM_ERR");
  }
});

row("E7 an event queue that cannot be written is noticed", (make) => {
  const rig = make({ id: ID });
  const { memory } = rig.machine;
  const page = memory.pageIndex(rig.native.evtq.pa);
  memory.perm[page] = 0;
  rig.write(9999, 0, 1);
  rig.machine.takeInterrupts();
  expect(errors(rig).join()).toMatch(/EVENTQ_ABT_ERR/);
  expect(rig.write(8, BUFFER, 1)).toBe(TRANSLATION.ok);
});

row("E8 wired, combined and message-signalled interrupts", (make) => {
  const wired = make({ id: ID, node: { interrupts: { eventq: 74, gerror: 77 } } });
  expect(wired.registers).toContain("IRQ_CTRL=0x7");
  expect(wired.registers.filter((line) => line.includes("CFG1"))).toEqual([]);

  const handlers: (() => void)[] = [];
  const frees: number[] = [];
  const msi = {
    alloc: (_: unknown, handler: () => void) => ({ address: 0x802_0040, data: 0x100 + handlers.push(handler) }),
    free: ({ data }: { data: number }) => void frees.push(data),
  };
  const sent: number[] = [];
  const target = (_lo: number, _hi: number, data: number): boolean => {
    sent.push(data);
    return true;
  };
  const rig = make({ id: ID, kernel: { msi }, model: { msi: target }, node: { interrupts: { eventq: 74, gerror: 77 } } });
  const log = rig.registers;
  expect(log.slice(log.indexOf("IRQ_CTRL=0x0"), log.indexOf("IRQ_CTRL=0x7") + 1)).toEqual([
    "IRQ_CTRL=0x0",
    "GERROR_IRQ_CFG0=0x0", "EVENTQ_IRQ_CFG0=0x0", "PRIQ_IRQ_CFG0=0x0",
    "EVENTQ_IRQ_CFG0=0x8020040", "EVENTQ_IRQ_CFG1=0x101", "EVENTQ_IRQ_CFG2=0x1",
    "GERROR_IRQ_CFG0=0x8020040", "GERROR_IRQ_CFG1=0x102", "GERROR_IRQ_CFG2=0x1",
    "PRIQ_IRQ_CFG0=0x8020040", "PRIQ_IRQ_CFG1=0x103", "PRIQ_IRQ_CFG2=0x1",
    "IRQ_CTRL=0x7",
  ]);
  rig.write(9999, 0, 1);
  expect(sent).toEqual([0x101]);
  handlers[0]!();
  expect(rig.iommu.faults.count).toBe(1);
  rig.kernel.core.unbind(rig.kernel.core.findByNode("smmuv3@9050000")!);
  expect(frees).toEqual([0x101, 0x102, 0x103]);

  // One interrupt for all is preferred to messages; too few messages fall back to wires.
  const combined = make({ id: ID, kernel: { msi }, node: { interrupts: { combined: 74 } } });
  expect(combined.registers.filter((line) => line.includes("CFG1"))).toEqual([]);
  const few = { ...msi, alloc: () => -28 };
  const fallback = make({ id: ID, kernel: { msi: few }, node: { interrupts: { eventq: 74, gerror: 77 } } });
  expect(fallback.kernel.log.lines("warn").join()).toMatch(/falling back to wired irqs/);
  fallback.write(9999, 0, 1);
  fallback.machine.takeInterrupts();
  expect(fallback.iommu.faults.count).toBe(1);
});

row("S6 E2H streamworld", (make) => {
  const rig = make({ id: ID, driver: { cpu: { vhe: true } } });
  expect(rig.registers).toContain("CR2=0x7");
  const client = rig.clients[0]!;
  const [one, two] = [rig.domain(), rig.domain()];
  for (const domain of [one, two]) rig.iommu.map(domain, 0x1000, BUFFER, 0x1000, RW);
  rig.attach(client, one);
  expect(getField(rig.ste(8), 0, STE.STRW)).toBe(2);
  expect(rig.dma(client, 0x1000, 5)).toBe(TRANSLATION.ok);
  expect(rig.golden(() => rig.iommu.unmap(one, 0x1000, 0x1000))).toEqual(["C(TLBI_EL2_VA)"]);
  expect(rig.dma(client, 0x1000, 5)).toBe(TRANSLATION.abort);
  expect(rig.golden(() => rig.attach(client, two)).at(-1)).toBe("C(TLBI_EL2_ASID)");
  expect(rig.dma(client, 0x1000, 6)).toBe(TRANSLATION.ok);
});

/** Raises a global error of which the model has no cause: the register shows it until it is acknowledged, and the line is pulsed. */
function raise(rig: Rig, bit: number): void {
  const { registers } = rig.smmu;
  const read = registers.read32.bind(registers);
  const write = registers.write32.bind(registers);
  const gerror = read(OFFSET.GERROR) ^ bit;
  let gerrorn = read(OFFSET.GERRORN);
  registers.read32 = (offset) => (offset === OFFSET.GERROR ? gerror : offset === OFFSET.GERRORN ? gerrorn : read(offset));
  registers.write32 = (offset, value) => {
    if (offset === OFFSET.GERRORN) gerrorn = value;
    write(offset, value);
  };
  rig.machine.line(77).pulse();
}
