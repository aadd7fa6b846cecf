import { ERRNO, TRANSLATION } from "@smmuv3/platform";
import type { Master } from "@smmuv3/arm-smmu-v3";
import { DOMAIN_FLAG } from "@smmuv3/iommu-core";
import type { IommuDomain } from "@smmuv3/iommu-core";
import { getField, OFFSET, REG, maskOf, STE, STE_CONFIG, STE_EATS, STE_S1DSS } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import { expect } from "vitest";
import { BUFFER, RW, withField } from "./fixture.ts";
import type { ClientSpec, Rig } from "./fixture.ts";
import { row } from "./rows.ts";

const PAGE = 0x1000;
const IOVA = 0x5000_0000;
const { ok, abort } = TRANSLATION;
const ID = PRESETS.mmu700;
const ATS = { "ats-capable": true, "ats-supported": true };
const GPU: ClientSpec = { sids: [8], pci: "0000:01:00.0", properties: { ...ATS, "pci-pasid-bits": 8 } };

const eats = (rig: Rig): number => getField(rig.ste(8), 0, STE.EATS);

function mapped(rig: Rig, page: number, flags: number = 0): IommuDomain {
  const domain = rig.domain(rig.clients[0], flags);
  expect(rig.iommu.map(domain, IOVA, BUFFER + page * PAGE, 4 * PAGE, RW)).toBe(0);
  return domain;
}

row("A1 ATS enable order: the STE answers before the device asks", (make) => {
  const rig = make({ id: ID, clients: [GPU] });
  const domain = mapped(rig, 1);
  rig.attach(rig.clients[0]!, "blocked");
  rig.onAts = (_, enabled) => {
    rig.pci.push(`eats ${eats(rig)}, commands ${rig.smmu.registers.read32(OFFSET.CMDQ_CONS) === rig.native.cmdq.prod}`);
    expect(enabled).toBe(true);
  };
  rig.pci.length = 0;
  const commands = rig.golden(() => rig.attach(rig.clients[0]!, domain));
  expect(commands.slice(-2)).toEqual(["PREFETCH_CONFIG", "C(ATC_INV)"]);
  expect(rig.pci).toEqual(["ats on 8", `eats ${STE_EATS.full}, commands true`]);
  expect(rig.smmu.registers.read32(OFFSET.CR0) & maskOf(REG.CR0.ATSCHK)).not.toBe(0);
  expect(rig.dma(rig.clients[0]!, IOVA, 0xa1)).toBe(ok);
  expect(rig.machine.memory.load32(BUFFER + PAGE)).toBe(0xa1);
  expect(rig.atcs.get(8)!.requests).toBe(1);
});

row("A2 ATS disable order: the device stops asking before the STE stops answering", (make) => {
  const rig = make({ id: ID, clients: [GPU] });
  const client = rig.clients[0]!;
  for (const state of ["identity", "blocked"] as const) {
    rig.attach(client, mapped(rig, 1));
    rig.dma(client, IOVA, 1);
    let then = -1;
    rig.onAts = (_, enabled) => {
      if (!enabled) then = eats(rig);
    };
    const commands = rig.golden(() => rig.attach(client, state));
    expect(then).toBe(STE_EATS.full);
    // STE first, then what the device has kept, then the ASID that nobody uses any more.
    const at = (name: string): number => commands.indexOf(name);
    expect(at("C(CFGI_STE)")).toBeLessThan(at("C(ATC_INV)"));
    expect(at("C(ATC_INV)")).toBeLessThan(at("C(TLBI_NH_ASID)"));
    expect(eats(rig)).toBe(STE_EATS.abort);
    expect(rig.dma(client, IOVA, 1)).toBe(state === "identity" ? abort : abort);
    expect(rig.dma(client, BUFFER, 1)).toBe(state === "identity" ? ok : abort);
  }
});

row("A3 domain change with ATS: what the device kept is never used afterwards", (make) => {
  const rig = make({ id: ID, clients: [GPU] });
  const client = rig.clients[0]!;
  const domains = [mapped(rig, 1), mapped(rig, 10), mapped(rig, 20, DOMAIN_FLAG.nestParent), mapped(rig, 30)];
  for (const turn of [0, 1, 0, 2, 3, 2, 1]) {
    rig.attach(client, domains[turn]!);
    const page = [1, 10, 20, 30][turn]!;
    expect(rig.dma(client, IOVA + PAGE, 0x300 + turn)).toBe(ok);
    expect(rig.machine.memory.load32(BUFFER + (page + 1) * PAGE)).toBe(0x300 + turn);
  }
  expect(rig.pci.filter((line) => line.startsWith("ats"))).toEqual(["ats on 8"]);
});

row("A4 ATC ranges, and SSV only with a PASID", (make) => {
  const rig = make({ id: ID, clients: [GPU] });
  const client = rig.clients[0]!;
  const domain = rig.domain();
  rig.iommu.map(domain, 0, BUFFER + PAGE, 16 * PAGE, RW);
  rig.attach(client, domain);
  const atc = (action: () => void): string[] => rig.trace(action).filter((line) => line.startsWith("CMD_ATC_INV"));
  expect(atc(() => rig.iommu.unmap(domain, 0, PAGE))).toEqual(["CMD_ATC_INV SID=8"]);
  expect(atc(() => rig.iommu.unmap(domain, 8 * PAGE, 4 * PAGE))).toEqual(["CMD_ATC_INV SID=8 AtcSize=2 Address=0x8000"]);
  expect(atc(() => rig.iommu.unmap(domain, 5 * PAGE, 3 * PAGE))).toEqual(["CMD_ATC_INV SID=8 AtcSize=2 Address=0x4000"]);
  expect(atc(() => { domain.ops.flushIotlbAll!(domain); })).toEqual(["CMD_ATC_INV SID=8 AtcSize=0x34"]);
  const process = mapped(rig, 1);
  rig.iommu.attachPasid(client.dev, 5, process);
  expect(atc(() => rig.iommu.unmap(process, IOVA, PAGE))).toEqual(["CMD_ATC_INV SSV=1 SSID=5 SID=8 Address=0x50000000"]);
});

row("A5 no ATC invalidation before the TLBI is complete", (make) => {
  const rig = make({ id: ID, clients: [GPU, { ...GPU, sids: [9], pci: "0000:02:00.0" }] });
  const domain = mapped(rig, 1);
  for (const client of rig.clients) rig.attach(client, domain);
  rig.dma(rig.clients[0]!, IOVA, 1);
  rig.dma(rig.clients[1]!, IOVA, 1);
  expect(rig.golden(() => rig.iommu.unmap(domain, IOVA, PAGE))).toEqual(["C(TLBI_NH_VA)", "ATC_INV", "C(ATC_INV)"]);
  for (const client of rig.clients) expect(rig.dma(client, IOVA, 2)).toBe(abort);
});

row("A6 ATS always on", (make) => {
  const rig = make({ id: ID, clients: [{ ...GPU, properties: { ...GPU.properties, "ats-required": true } }] });
  const client = rig.clients[0]!;
  const fields = (): number[] => [STE.Config, STE.S1DSS, STE.EATS].map((field) => getField(rig.ste(8), 0, field));
  expect(fields()).toEqual([STE_CONFIG.s1, STE_S1DSS.bypass, STE_EATS.full]);
  expect(rig.dma(client, BUFFER, 0x66)).toBe(ok);
  expect(rig.machine.memory.load32(BUFFER)).toBe(0x66);
  rig.attach(client, "blocked");
  expect(fields()).toEqual([STE_CONFIG.abort, 0, STE_EATS.abort]);
  expect(rig.dma(client, BUFFER, 1)).toBe(abort);
  const process = mapped(rig, 4);
  rig.attach(client, "identity");
  rig.iommu.attachPasid(client.dev, 2, process);
  rig.iommu.detachPasid(client.dev, 2);
  expect(fields()).toEqual([STE_CONFIG.s1, STE_S1DSS.bypass, STE_EATS.full]);
});

row("A7 ATS required but unsupported", (make) => {
  const needs = { ...GPU, properties: { ...GPU.properties, "ats-required": true } };
  for (const [id, spec] of [
    [withField(ID, REG.IDR0.ATS, 0), needs],
    [ID, { ...needs, properties: { ...needs.properties, "ats-supported": false } }],
    [ID, { ...needs, properties: { ...needs.properties, "pci-pasid-bits": 0 } }],
    [withField(ID, REG.IDR0.S1P, 0), needs],
  ] as const) {
    const rig = make({ id, clients: [spec] });
    expect(rig.clients).toEqual([]);
    expect(rig.kernel.log.lines("err").join()).toMatch(/needs ATS.*EOPNOTSUPP/);
    const dev = rig.kernel.core.findByNode("0000:01:00.0")!;
    expect([rig.iommu.groupOf(dev), rig.device.masters.size]).toEqual([undefined, 0]);
  }
  expect(-ERRNO.EOPNOTSUPP).toBeLessThan(0);
});

row("A8 PASIDs with ATS: enabled with the first, disabled with the last, PASID before ATS", (make) => {
  const rig = make({ id: ID, clients: [GPU] });
  const client = rig.clients[0]!;
  expect(rig.pci).toEqual(["pasid on 8"]);
  rig.pci.length = 0;
  const [one, two] = [mapped(rig, 1), mapped(rig, 10)];
  rig.iommu.attachPasid(client.dev, 1, one);
  rig.iommu.attachPasid(client.dev, 2, two);
  expect([rig.dma(client, IOVA, 0x11, 1), rig.dma(client, IOVA, 0x12, 2)]).toEqual([ok, ok]);
  expect([1, 10].map((page) => rig.machine.memory.load32(BUFFER + page * PAGE))).toEqual([0x11, 0x12]);
  // Identity traffic is answered one to one.
  expect(rig.dma(client, BUFFER + 50 * PAGE, 0x13)).toBe(ok);
  expect(rig.machine.memory.load32(BUFFER + 50 * PAGE)).toBe(0x13);
  rig.iommu.detachPasid(client.dev, 1);
  expect([rig.dma(client, IOVA, 1, 1), rig.dma(client, IOVA, 2, 2)]).toEqual([abort, ok]);
  rig.iommu.detachPasid(client.dev, 2);
  expect(rig.pci).toEqual(["ats on 8", "ats off 8"]);
  const master = rig.iommu.drvdataOf(client.dev) as Master;
  expect([master.atsEnabled, eats(rig)]).toEqual([false, STE_EATS.abort]);
});

row("I1 strict unmap with and without ATS", (make) => {
  const rig = make({ id: ID, clients: [GPU, [9]] });
  const domain = rig.domain();
  for (const client of rig.clients) rig.attach(client, domain);
  for (let turn = 0; turn < 4; turn++) {
    rig.iommu.map(domain, IOVA, BUFFER + turn * PAGE, PAGE, RW);
    for (const client of rig.clients) expect(rig.dma(client, IOVA, turn)).toBe(ok);
    rig.iommu.unmap(domain, IOVA, PAGE);
    for (const client of rig.clients) expect(rig.dma(client, IOVA, turn)).toBe(abort);
  }
});

row("I5 deferred flush: queued unmaps issue nothing, the flush does it all", (make) => {
  const rig = make({ id: ID, clients: [GPU], iommu: { defaultDomainType: "dma-fq" } });
  const client = rig.clients[0]!;
  const { dma } = rig.iommu;
  const addresses = Array.from({ length: 256 }, (_, i) => dma.mapPage(client.dev, BUFFER + i * PAGE, PAGE, 0));
  for (const address of addresses) rig.dma(client, address, 1);
  expect(rig.trace(() => { for (const address of addresses) dma.unmapPage(client.dev, address, PAGE, 0); })).toEqual([]);
  const last = dma.mapPage(client.dev, BUFFER, PAGE, 0);
  const commands = rig.golden(() => dma.unmapPage(client.dev, last, PAGE, 0));
  expect(commands).toEqual(["C(TLBI_NH_ASID)", "C(ATC_INV)"]);
  for (const address of addresses) expect(rig.dma(client, address, 2)).toBe(abort);
});

row("I8 nest parent stage-2 change", (make) => {
  const rig = make({ id: ID, clients: [GPU] });
  const client = rig.clients[0]!;
  const domain = mapped(rig, 1, DOMAIN_FLAG.nestParent);
  rig.attach(client, domain);
  rig.dma(client, IOVA, 1);
  expect(rig.golden(() => rig.iommu.unmap(domain, IOVA, PAGE))).toEqual(["C(TLBI_S2_IPA)", "C(TLBI_NH_ALL)", "C(ATC_INV)"]);
  expect(rig.dma(client, IOVA, 2)).toBe(abort);
  expect(rig.golden(() => { domain.ops.flushIotlbAll!(domain); })).toEqual(["C(TLBI_S12_VMALL)", "C(ATC_INV)"]);
});
