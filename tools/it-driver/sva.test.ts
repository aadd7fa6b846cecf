import { ERRNO, TRANSLATION } from "@smmuv3/platform";
import type { SvaHandle } from "@smmuv3/iommu-core";
import { CD, getAddress, getField, REG } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import { describe, expect, test } from "vitest";
import { BUFFER, Rig, RW, withField } from "./fixture.ts";
import type { Client, RigOptions } from "./fixture.ts";
import { Process } from "./process.ts";
import { row } from "./rows.ts";

const PAGE = 0x1000;
const VA = 0x7f12_3456_7000;
const ID = PRESETS.mmu700;
const { ok, abort, stalled } = TRANSLATION;
const DEVICE = { sids: [8], properties: { "pasid-num-bits": 8, "dma-can-stall": true } };
const QUIET = { sids: [8], properties: { "pasid-num-bits": 8 } };

function bind(rig: Rig, client: Client, process: Process): SvaHandle {
  const handle = rig.iommu.bindSva(client.dev, process.mm);
  if (typeof handle === "number") throw new Error(`bindSva: ${handle}`);
  return handle;
}

row("D14 SVA bind, unbind: CD fields, and DMA by virtual addresses", (make) => {
  const rig = make({ id: ID, clients: [QUIET] });
  const client = rig.clients[0]!;
  const process = new Process(rig);
  process.map(VA, BUFFER + PAGE);
  const handle = bind(rig, client, process);
  const cd = rig.cd(client, handle.pasid);
  const fields = Object.fromEntries(
    (["V", "EPD0", "EPD1", "T0SZ", "TG0", "IPS", "AA64", "ASET", "R", "A", "S", "HA", "HD"] as const).map((name) => [
      name, getField(cd, 0, CD[name]),
    ]),
  );
  expect(fields).toEqual({
    V: 1, EPD0: 0, EPD1: 1, T0SZ: 16, TG0: 0, IPS: 2, AA64: 1, ASET: 1, R: 1, A: 1, S: 0, HA: 1, HD: 1,
  });
  expect(getAddress(cd, 0, CD.TTB0)).toBe(process.tables.pgd);
  expect(rig.dma(client, VA, 0x5a, handle.pasid)).toBe(ok);
  expect(rig.machine.memory.load32(BUFFER + PAGE)).toBe(0x5a);
  // Bound again: the same, until the last unbind.
  expect(rig.iommu.bindSva(client.dev, process.mm)).toBe(handle);
  expect(rig.iommu.unbindSva(handle)).toBe(0);
  expect(rig.dma(client, VA, 1, handle.pasid)).toBe(ok);
  expect(rig.iommu.unbindSva(handle)).toBe(0);
  expect(rig.dma(client, VA, 1, handle.pasid)).toBe(abort);
  expect(rig.iommu.unbindSva(handle)).toBe(-ERRNO.ENOENT);
  expect(process.mm.notifiers).toBe(0);
});

row("D14 notifier: invalidations arrive before pages are reused", (make) => {
  const rig = make({ id: ID, clients: [QUIET, { ...QUIET, sids: [9] }] });
  const process = new Process(rig);
  const handles = rig.clients.map((client) => bind(rig, client, process));
  expect(handles[0]!.pasid).toBe(handles[1]!.pasid);
  for (let turn = 0; turn < 4; turn++) {
    process.map(VA, BUFFER + turn * PAGE);
    rig.clients.forEach((client, i) => {
      expect(rig.dma(client, VA, turn, handles[i]!.pasid)).toBe(ok);
    });
    process.mm.munmap(VA, PAGE);
    rig.clients.forEach((client, i) => {
      expect(rig.dma(client, VA, 0xbad, handles[i]!.pasid)).toBe(abort);
    });
  }
  process.map(VA, BUFFER);
  expect(rig.trace(() => { process.mm.munmap(VA, PAGE); }).filter((line) => line.includes("TLBI_NH_VA"))).toHaveLength(2);
});

row("D14 with ATS: the device's cache hears of it too", (make) => {
  const properties = { "ats-capable": true, "ats-supported": true, "pci-pasid-bits": 8 };
  const rig = make({ id: ID, clients: [{ sids: [8], pci: "0000:01:00.0", properties }] });
  const client = rig.clients[0]!;
  const process = new Process(rig);
  const { pasid } = bind(rig, client, process);
  process.map(VA, BUFFER);
  expect(rig.dma(client, VA, 1, pasid)).toBe(ok);
  expect(rig.golden(() => { process.mm.munmap(VA, PAGE); })).toEqual(["C(TLBI_NH_VA)", "C(ATC_INV)"]);
  expect(rig.dma(client, VA, 2, pasid)).toBe(abort);
});

row("S11 SVA release: the CD stays valid with EPD0, DMA aborts without C_BAD_CD, no stall", (make) => {
  const rig = make({ id: ID, clients: [DEVICE] });
  const client = rig.clients[0]!;
  const process = new Process(rig);
  process.map(VA, BUFFER);
  const { pasid } = bind(rig, client, process);
  expect(rig.dma(client, VA, 1, pasid)).toBe(ok);
  const commands = rig.golden(() => { process.mm.exit(); });
  expect(commands).toEqual(["C(CFGI_CD)", "C(CFGI_CD)", "C(TLBI_NH_ASID)"]);
  const cd = rig.cd(client, pasid);
  expect([CD.V, CD.EPD0, CD.S, CD.R].map((field) => getField(cd, 0, field))).toEqual([1, 1, 0, 0]);
  expect(rig.dma(client, VA, 2, pasid)).toBe(abort);
  rig.machine.takeInterrupts();
  expect(rig.iommu.faults.reports.map(({ fault }) => fault.reason)).not.toContain("C_BAD_CD");
  bind(rig, client, new Process(rig));
  // A process that exits cannot be bound any more.
  const late = new Process(rig);
  late.mm.exit();
  expect(rig.iommu.bindSva(client.dev, late.mm)).toBe(-ERRNO.EINVAL);
});

row("I10 FULL_CONT erratum: one command covers the whole range", (make) => {
  const rig = make({ id: { ...ID, IIDR: 0x4871_143b }, clients: [QUIET] });
  const client = rig.clients[0]!;
  const process = new Process(rig);
  const { pasid } = bind(rig, client, process);
  for (let page = 0; page < 45; page++) process.map(VA + page * PAGE, BUFFER + page * PAGE);
  expect(rig.dma(client, VA, 1, pasid)).toBe(ok);
  // Exact ranges take two commands.
  expect(rig.golden(() => { process.mm.munmap(VA, 45 * PAGE); })).toEqual(["C(TLBI_NH_VA)"]);
  expect(rig.dma(client, VA, 1, pasid)).toBe(abort);
});

row("E3 stall -> IOPF -> RESUME: the process brings the page in, the DMA completes", (make) => {
  const rig = make({ id: ID, clients: [DEVICE] });
  const client = rig.clients[0]!;
  const asked: [number, number][] = [];
  const process: Process = new Process(rig, (address, perm) => {
    asked.push([address, perm]);
    if (address >= VA + 4 * PAGE) return -ERRNO.EFAULT;
    process.map(address - (address % PAGE), BUFFER + 2 * PAGE);
    return 0;
  });
  const { pasid } = bind(rig, client, process);
  const outcomes: number[] = [];
  rig.smmu.onResume = (_, outcome) => outcomes.push(outcome);
  const commands = rig.trace(() => {
    expect(rig.dma(client, VA + 8, 1, pasid)).toBe(stalled);
    rig.machine.takeInterrupts();
  });
  expect(commands).toEqual(["CMD_RESUME Ac=1 SID=8"]);
  expect([outcomes, asked]).toEqual([[ok], [[VA + 8, 2]]]);
  expect(rig.dma(client, VA + 8, 0x33, pasid)).toBe(ok);
  expect(rig.machine.memory.load32(BUFFER + 2 * PAGE + 8)).toBe(0x33);
  // What the process does not have either, aborts.
  expect(rig.dma(client, VA + 5 * PAGE, 1, pasid)).toBe(stalled);
  rig.machine.takeInterrupts();
  expect(outcomes).toEqual([ok, abort]);
  expect([rig.iommu.faults.count, rig.smmu.stalled]).toEqual([0, []]);
});

row("E4 stall without handler: aborted and reported", (make) => {
  const rig = make({ id: ID, clients: [DEVICE] });
  const client = rig.clients[0]!;
  rig.attach(client, rig.domain());
  const outcomes: number[] = [];
  rig.smmu.onResume = (_, outcome) => outcomes.push(outcome);
  expect(rig.dma(client, VA, 1)).toBe(stalled);
  rig.machine.takeInterrupts();
  expect([outcomes, rig.smmu.stalled]).toEqual([[abort], []]);
  expect(rig.iommu.faults.reports.map(({ dev, fault }) => [dev?.name, fault.reason, fault.iova])).toEqual([
    ["client0", "F_TRANSLATION", VA],
  ]);
  expect(rig.kernel.log.lines("err").join()).toMatch(/F_TRANSLATION/);
});

row("E5 IOPF with two SIDs", (make) => {
  const rig = make({ id: ID, clients: [{ ...DEVICE, sids: [8, 9] }, [10]] });
  const [client, plain] = rig.clients;
  const domain = rig.domain();
  domain.iopfHandler = () => 0;
  expect(rig.attach(client!, domain)).toBe(-ERRNO.EOPNOTSUPP);
  expect(rig.dma(client!, BUFFER, 1)).toBe(ok);
  // A device that does not stall has no faults to answer.
  expect(rig.attach(plain!, domain)).toBe(0);
});

row("E3 a fault-capable domain answers late, and what waits is ended when the domain goes", (make) => {
  const rig = make({ id: ID, clients: [{ ...DEVICE, properties: { ...DEVICE.properties } }] });
  const client = rig.clients[0]!;
  const domain = rig.domain();
  const groups: { respond(response: "success"): void }[] = [];
  domain.iopfHandler = (group) => {
    groups.push(group);
    return 0;
  };
  rig.attach(client, domain);
  const outcomes: number[] = [];
  rig.smmu.onResume = (_, outcome) => outcomes.push(outcome);
  rig.dma(client, VA, 1);
  rig.machine.takeInterrupts();
  expect([groups.length, outcomes]).toEqual([1, []]);
  rig.iommu.map(domain, VA, BUFFER, PAGE, RW);
  groups[0]!.respond("success");
  groups[0]!.respond("success");
  expect(outcomes).toEqual([ok]);
  rig.dma(client, VA + PAGE, 1);
  rig.machine.takeInterrupts();
  rig.attach(client, "blocked");
  expect(outcomes).toEqual([ok, abort]);
});

row("E9 STALL_FORCE: every master stalls, S1STALLD = 0, SVA release keeps S and R", (make) => {
  const rig = make({ id: withField(ID, REG.IDR0.STALL_MODEL, 2), clients: [QUIET] });
  const client = rig.clients[0]!;
  const process = new Process(rig);
  const { pasid } = bind(rig, client, process);
  expect(rig.device.masters.get(8)!.stall).toBe(true);
  process.mm.exit();
  const cd = rig.cd(client, pasid);
  expect([CD.EPD0, CD.S, CD.R].map((field) => getField(cd, 0, field))).toEqual([1, 1, 1]);
});

describe("D15 SVA support matrix", () => {
  const noSva = (options: RigOptions): void => {
    const rig = new Rig({ id: ID, clients: [QUIET], ...options });
    expect(rig.native.sva).toBe(false);
    expect(rig.iommu.bindSva(rig.clients[0]!.dev, new Process(rig).mm)).toBe(-ERRNO.EOPNOTSUPP);
  };
  test.each<[string, RigOptions]>([
    ["not coherent", { node: { properties: { "dma-coherent": false } } }],
    ["52-bit addresses with 4K pages", { driver: { cpu: { vaBits: 52 } } }],
    ["BBML2 of the CPU only", { id: withField(ID, REG.IDR3.BBML, 0), driver: { cpu: { bbml2: true } } }],
    ["HAFT of the CPU only", { driver: { cpu: { haft: true } } }],
    ["contiguous runs without range invalidation", { id: { ...withField(ID, REG.IDR3.RIL, 0), IIDR: 0x4872_043b } }],
    ["a page size that the SMMU has not", { id: withField(ID, REG.IDR5.GRAN4K, 0) }],
    ["larger physical addresses", { id: withField(ID, REG.IDR5.OAS, 1) }],
    ["larger ASIDs", { id: withField(ID, REG.IDR0.ASID16, 0) }],
  ])("%s", (_, options) => {
    noSva(options);
  });

  test("as it is", () => {
    expect(new Rig({ id: ID }).native.sva).toBe(true);
  });
});
