import { ERRNO, TRANSLATION } from "@smmuv3/platform";
import { featureMask } from "@smmuv3/arm-smmu-v3-common";
import { COMMANDS, OFFSET, REG, STE, STE_INSTCFG, getField, maskOf } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import { expect } from "vitest";
import { BUFFER, RW, SMMU_BASE, withField } from "./fixture.ts";
import type { Rig } from "./fixture.ts";
import { row } from "./rows.ts";

const PAGE = 0x1000;
const ID = PRESETS.mmu700;
const { ok, abort } = TRANSLATION;
const reg = (size: number): { reg: { base: number; size: number }[] } => ({ reg: [{ base: SMMU_BASE, size }] });

/** log2 of the entries of the queues. */
function depths(rig: Rig): Readonly<Record<string, number>> {
  const { cmdq, evtq, priq } = rig.native;
  return { CMDQ: cmdq.log2, EVENTQ: evtq.log2, PRIQ: priq!.log2 };
}

row("R1 IDR decode: features as the kernel prints them", (make) => {
  const system = { coherent: true, vhe: false };
  for (const [id, mask] of [
    [PRESETS.qemuStage1, 0x0100_8305], [PRESETS.qemuStage2, 0x0100_8505], [PRESETS.qemuNested, 0x0108_8705],
    [PRESETS.reference, 0x0118_97c7],
  ] as const) {
    const { features } = make({ id, clients: [] }).native;
    expect((featureMask(features, { ...system, sva: false }) >>> 0).toString(16)).toBe(mask.toString(16));
  }
});

row("R4 enabled at boot: GBPA.ABORT before CR0 = 0, DMA during the reset aborts", (make) => {
  const seen: number[] = [];
  const rig = make({
    before({ machine, smmu }) {
      const { registers } = smmu;
      registers.write32(OFFSET.CR0, 1);
      const plain = registers.write32.bind(registers);
      const master = machine.dmaMaster("boot", 8, smmu);
      registers.write32 = (offset, value): void => {
        plain(offset, value);
        if ((registers.read32(OFFSET.CR0ACK) & 1) === 0) seen.push(master.write(BUFFER, Int32Array.of(1)));
      };
    },
  });
  expect(rig.registers[0]).toBe("GBPA=0x80100000");
  expect(new Set(seen)).toEqual(new Set([abort]));
  expect(rig.write(8, BUFFER, 1)).toBe(ok);
});

row("R5 stream table threshold: 8 bits linear, 9 two levels, 32 capped; beyond it -ERANGE", (make) => {
  const cfg = (bits: number): Rig => make({ id: withField(ID, REG.IDR1.SIDSIZE, bits), clients: [[2 ** bits - 1]] });
  expect([8, 9].map((bits) => cfg(bits).registers.find((line) => line.startsWith("STRTAB_BASE_CFG")))).toEqual([
    "STRTAB_BASE_CFG=0x8", "STRTAB_BASE_CFG=0x10209",
  ]);
  const capped = cfg(32);
  expect(capped.registers).toContain("STRTAB_BASE_CFG=0x10219");
  expect(capped.kernel.log.lines("warn").join()).toMatch(/only covers 25\/32 bits of SID/);
  expect([capped.clients, capped.kernel.log.lines("err").join()]).toEqual([[], expect.stringMatching(/ERANGE/)]);
});

row("R6 streams of a second-level table that nobody claimed abort, those without a table are bad", (make) => {
  const rig = make();
  expect([rig.write(100, BUFFER, 1), rig.smmu.explainLast()]).toEqual([abort, undefined]);
  expect([rig.write(1000, BUFFER, 1), rig.smmu.explainLast()]).toEqual([abort, "C_BAD_STREAMID"]);
});

row("R7 IIDR errata", (make) => {
  const probe = (iidr: number): Record<string, boolean> => {
    const { sev, nesting, forceSync, fullContRangeInv } = make({ id: { ...ID, IIDR: iidr }, clients: [] }).native.features;
    return { sev, nesting, forceSync, fullContRangeInv };
  };
  const none = { sev: true, nesting: true, forceSync: false, fullContRangeInv: false };
  expect(probe(0)).toEqual(none);
  expect(probe(0x4830_243b)).toEqual({ ...none, sev: false, nesting: false });
  expect(probe(0x4832_043b)).toEqual(none);
  expect(probe(0x4870_043b)).toEqual({ ...none, nesting: false, forceSync: true, fullContRangeInv: true });
  expect(probe(0x4871_143b)).toEqual({ ...none, fullContRangeInv: true });
  expect(probe(0x4980_043b)).toEqual({ ...none, fullContRangeInv: true });
});

row("R7 FORCE_SYNC: a list of 63 commands ends in a SYNC", (make) => {
  const id = withField({ ...ID, IIDR: 0x4870_043b }, REG.IDR3.RIL, 0);
  const rig = make({ id });
  const domain = rig.domain();
  rig.attach(rig.clients[0]!, domain);
  rig.iommu.map(domain, 0x10_0000, BUFFER + PAGE, 130 * PAGE, RW);
  const commands = rig.golden(() => rig.iommu.unmap(domain, 0x10_0000, 130 * PAGE));
  const syncs = commands.flatMap((name, i) => (name.startsWith("C(") ? [i + 1] : []));
  expect(syncs).toEqual([63, 126, 130]);
});

row("Q10 repeat erratum: CFGI and TLBI lists are seen twice, ATC_INV once", (make) => {
  const gpu = { sids: [8], pci: "0000:01:00.0", properties: { "ats-capable": true, "ats-supported": true } };
  const rig = make({ id: ID, clients: [gpu], node: { compatible: ["nvidia,tegra264-smmu", "arm,smmu-v3"] } });
  const domain = rig.domain();
  const attach = rig.golden(() => rig.attach(rig.clients[0]!, domain));
  expect(attach.filter((name) => name === "C(ATC_INV)")).toHaveLength(1);
  expect(attach.filter((name) => name === "C(CFGI_CD)")).toHaveLength(4);
  rig.iommu.map(domain, PAGE, BUFFER, PAGE, RW);
  rig.dma(rig.clients[0]!, PAGE, 1);
  expect(rig.golden(() => rig.iommu.unmap(domain, PAGE, PAGE))).toEqual(["C(TLBI_NH_VA)", "C(TLBI_NH_VA)", "C(ATC_INV)"]);
});

row("Q11 command queue depth cap, and kdump: all queues one page", (make) => {
  expect(depths(make({ id: ID, clients: [] }))).toEqual({ CMDQ: 18, EVENTQ: 17, PRIQ: 18 });
  expect(depths(make({ id: ID, clients: [], driver: { cmdqMaxLog2: 10 } }))["CMDQ"]).toBe(10);
  expect(depths(make({ id: ID, clients: [], driver: { cmdqMaxLog2: 2 } }))["CMDQ"]).toBe(8);
  expect(depths(make({ id: ID, clients: [], driver: { kdump: true } }))).toEqual({ CMDQ: 8, EVENTQ: 7, PRIQ: 8 });
});

row("Q5 SEV SYNC by parameter", (make) => {
  const rig = make({ id: ID, driver: { disableMsipolling: true } });
  expect(rig.trace(() => rig.attach(rig.clients[0]!, "blocked"))[1]).toBe("CMD_SYNC CS=2");
  const msi = make({ id: ID });
  expect(msi.trace(() => msi.attach(msi.clients[0]!, "blocked"))[1]).not.toContain("CS=2");
});

row("Q12 too small a command queue", (make) => {
  const rig = make({ id: withField(ID, REG.IDR1.CMDQS, 6), clients: [] });
  expect([rig.driver.smmus, rig.kernel.log.lines("err").join()]).toEqual([[], expect.stringMatching(/queue size <= 64/)]);
});

row("R9 kdump: CR0 ends without EVENTQEN and PRIQEN", (make) => {
  const rig = make({ id: ID, driver: { kdump: true } });
  const { CR0 } = REG;
  expect(rig.smmu.registers.read32(OFFSET.CR0)).toBe(maskOf(CR0.SMMUEN) | maskOf(CR0.CMDQEN) | maskOf(CR0.ATSCHK));
  rig.write(9999, 0, 1);
  rig.machine.takeInterrupts();
  expect(rig.iommu.faults.count).toBe(0);
});

row("R10 shutdown and remove: hooks, then CR0 = 0; GBPA is left alone", (make) => {
  const calls: string[] = [];
  const impl = {
    name: "test",
    deviceDisable: () => void calls.push("disable"),
    deviceRemove: () => void calls.push("remove"),
  };
  const rig = make({ driver: { impl } });
  rig.registers.length = 0;
  rig.kernel.core.shutdown();
  expect([calls, rig.registers]).toEqual([["disable"], ["CR0=0x0"]]);
  rig.kernel.core.unbind(rig.kernel.core.findByNode("smmuv3@9050000")!);
  expect(calls).toEqual(["disable", "disable", "remove"]);
  expect(rig.registers.filter((line) => line.startsWith("GBPA"))).toEqual([]);
});

row("R11 PAGE0_REGS_ONLY: 64K suffice, event indices are in page 0", (make) => {
  const properties = { "cavium,cn9900-broken-page1-regspace": true };
  const model = { policy: { page0IndexAlias: "alias" } } as const;
  const rig = make({ node: { ...reg(0x1_0000), properties }, model });
  expect(rig.registers).toContain("0xa8=0x0");
  expect(rig.registers.some((line) => line.startsWith("EVENTQ_PROD="))).toBe(false);
  rig.write(9999, 0, 1);
  rig.machine.takeInterrupts();
  expect(rig.iommu.faults.count).toBe(1);
  expect(make({ node: reg(0x1_0000), clients: [] }).driver.smmus).toEqual([]);
});

row("R12 COHACC override: firmware wins, with a warning; CR1 is fixed", (make) => {
  const rig = make({ id: ID, node: { properties: { "dma-coherent": false } } });
  expect(rig.kernel.log.lines("warn").join()).toMatch(/COHACC overridden by firmware: not coherent/);
  expect(rig.registers).toContain("CR1=0xd75");
  expect(rig.device.instance!.ops.capable!(rig.clients[0]!.dev, "cache-coherency")).toBe(false);
  const httu = make({ id: ID, node: { properties: { "httu-override": 1 } } });
  expect(httu.native.features).toMatchObject({ ha: true, hd: false });
  expect(httu.kernel.log.lines("warn").join()).toMatch(/HTTU overridden/);
});

row("S5 PREFETCH skip quirk", (make) => {
  const rig = make({ node: { properties: { "hisilicon,broken-prefetch-cmd": true } } });
  const domain = rig.domain();
  const commands = rig.golden(() => {
    for (const state of ["blocked", domain, "identity"] as const) rig.attach(rig.clients[0]!, state);
  });
  expect(commands.some((name) => name.includes("PREFETCH"))).toBe(false);

});

row("S4 an idempotent rewrite: no CFGI_STE, one PREFETCH_CONFIG", (make) => {
  const rig = make();
  const client = rig.clients[0]!;
  rig.attach(client, rig.domain());
  const other = rig.domain();
  const commands = rig.golden(() => rig.attach(client, other));
  expect(commands.filter((name) => name.includes("STE"))).toEqual([]);
  expect(commands.filter((name) => name === "PREFETCH_CONFIG")).toHaveLength(1);
});

row("S8 INSTCFG override", (make) => {
  const properties = { "arm,instdata-override": true };
  const rig = make({ id: ID, node: { properties } });
  const client = rig.clients[0]!;
  for (const flags of [0, 1]) {
    rig.attach(client, rig.domain(client, flags));
    expect(getField(rig.ste(8), 0, STE.INSTCFG)).toBe(STE_INSTCFG.data);
  }
  rig.attach(client, "identity");
  expect(getField(rig.ste(8), 0, STE.INSTCFG)).toBe(0);
  const cannot = make({ id: withField(ID, REG.IDR1.ATTR_PERMS_OVR, 0), node: { properties }, clients: [] });
  expect(cannot.driver.smmus).toEqual([]);
  expect(-ERRNO.ENXIO).toBe(-6);
});

row("Q1 the shared queue as the main queue", (make) => {
  const rig = make({ id: ID, driver: { sharedQueue: true } });
  const client = rig.clients[0]!;
  const domain = rig.domain();
  rig.attach(client, domain);
  rig.iommu.map(domain, PAGE, BUFFER, PAGE, RW);
  expect(rig.write(client.sid, PAGE, 1)).toBe(ok);
  rig.iommu.unmap(domain, PAGE, PAGE);
  expect(rig.write(client.sid, PAGE, 1)).toBe(abort);
  // An illegal command is found although interrupts are masked.
  const words = new Int32Array(8);
  words[0] = 0xff;
  words[4] = COMMANDS.TLBI_NSNH_ALL.opcode;
  expect(rig.native.cmdq.issue(words, 2, true)).toBe(0);
  expect(rig.kernel.log.lines("err").join()).toMatch(/CMDQ error 0x1/);
});
