// A virtual machine whose kernel drives an emulated SMMU with the driver of this project, over iommufd on the hardware model.
import { ERRNO, TRANSLATION } from "@smmuv3/platform";
import { VIOMMU_ARM_SMMUV3 } from "@smmuv3/arm-smmu-v3";
import type { NativeBackend } from "@smmuv3/arm-smmu-v3";
import { DMA_DIR, DOMAIN_FLAG } from "@smmuv3/iommu-core";
import { COMMANDS, getField, STE, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import { describe, expect, test } from "vitest";
import { GUEST_BYTES, Host, IPA, PAGE, RW } from "./fixture.ts";
import { row } from "./rows.ts";
import { Core, VirtualMachine, wrap, wrapAny } from "./vmm.ts";

const { ok, abort } = TRANSLATION;
const DEVICES = [{ client: 0, vsid: 0x30 }, { client: 1, vsid: 0x131 }] as const;
const SIDS = [8, 9] as const;
/** Guest memory that its kernel does not allocate. */
const BUFFER: number = IPA + GUEST_BYTES / 2;

const config = (host: Host, sid: number): number => getField(host.ste(sid), 0, STE.Config);

row("VMM: before the machine starts, its devices pass by nested STEs", (make) => {
  const host = make();
  const machine = new VirtualMachine(host, { devices: DEVICES });
  for (const sid of SIDS) {
    expect(config(host, sid)).toBe(STE_CONFIG.s2);
    expect(host.iommu.domainOf(host.devices[SIDS.indexOf(sid)]!)!.type).toBe("nested");
    expect(host.write(sid, BUFFER + sid * PAGE, sid)).toBe(ok);
    expect(machine.memory.load32(BUFFER + sid * PAGE)).toBe(sid);
    // Nothing but the machine's memory.
    expect([host.write(sid, IPA - PAGE, 1), host.write(sid, IPA + GUEST_BYTES, 1), host.write(sid, 0x4000_0000, 1)]).toEqual([abort, abort, abort]);
  }
  machine.close();
  expect([...host.fd.objects]).toEqual([]);
  expect([host.fd.close(), host.user.pinned]).toEqual([0, 0]);
  expect(SIDS.map((sid) => config(host, sid))).toEqual([STE_CONFIG.bypass, STE_CONFIG.bypass]);
});

row("VMM: the guest's driver boots, and its devices do DMA through stage 1 over stage 2", (make) => {
  const host = make();
  const machine = new VirtualMachine(host, { devices: DEVICES });
  const guest = machine.boot();
  expect(guest.kernel.log.lines("err")).toEqual([]);
  expect(guest.driver.smmus.length).toBe(1);
  expect(SIDS.map((sid) => config(host, sid))).toEqual([STE_CONFIG.nested, STE_CONFIG.nested]);
  const { dma } = guest.iommu;
  for (const [i, dev] of guest.devices.entries()) {
    const sid = SIDS[i]!;
    for (let round = 0; round < 40; round++) {
      const ipa = BUFFER + ((round * 7) % 23) * PAGE + i * 64 * PAGE;
      const bytes = round % 3 === 0 ? 5 * PAGE : PAGE;
      const iova = dma.mapPage(dev, ipa, bytes, DMA_DIR.bidirectional);
      const value = 0x1000 * (i + 1) + round;
      expect(host.write(sid, iova + bytes - 8, value)).toBe(ok);
      expect(machine.memory.load32(ipa + bytes - 8)).toBe(value);
      // Another device of the machine has nothing there.
      expect(host.write(SIDS[1 - i]!, iova + bytes - 8, 1)).toBe(abort);
      dma.unmapPage(dev, iova, bytes, DMA_DIR.bidirectional);
      expect(host.write(sid, iova + bytes - 8, 0xbad)).toBe(abort);
      expect(machine.memory.load32(ipa + bytes - 8)).toBe(value);
      machine.run();
    }
  }
  // The faults are the guest's to see, under its own numbers.
  expect(guest.iommu.faults.count).toBeGreaterThan(80);
  expect(new Set(guest.iommu.faults.reports.map(({ fault }) => fault.sid))).toEqual(new Set([0x30, 0x131]));
  expect(host.iommu.faults.count).toBe(0);
  expect(guest.kernel.log.lines("err").filter((line) => !line.includes("event:"))).toEqual([]);
  machine.close();
  expect(host.fd.close()).toBe(0);
});

row("VMM: what the guest attaches is what its devices do", (make) => {
  const host = make();
  const machine = new VirtualMachine(host, { devices: [DEVICES[0]], properties: { "pasid-num-bits": 4 } });
  const guest = machine.boot();
  const dev = guest.devices[0]!;
  const group = guest.iommu.groupOf(dev)!;
  const { identityDomain, blockedDomain } = group.instance.ops;
  const paging = guest.iommu.allocPaging(dev);
  if (typeof paging === "number") throw new Error(`allocPaging: ${paging}`);
  const iova = 0x5_0000_0000;
  expect(guest.iommu.map(paging, iova, BUFFER + PAGE, 2 * PAGE, RW)).toBe(0);
  const kinds = [
    [identityDomain, BUFFER, BUFFER, STE_CONFIG.s2], [paging, iova, BUFFER + PAGE, STE_CONFIG.nested],
    [blockedDomain, BUFFER, 0, STE_CONFIG.abort],
  ] as const;
  let value = 1;
  for (const order of [[0, 1, 2], [1, 0, 1, 2, 1], [0, 2, 0]]) {
    for (const i of order) {
      const [domain, address, target, expected] = kinds[i]!;
      expect(guest.iommu.attachGroup(group, domain)).toBe(0);
      expect(config(host, 8)).toBe(expected);
      expect(host.write(8, address, ++value)).toBe(target === 0 ? abort : ok);
      if (target !== 0) expect(machine.memory.load32(target)).toBe(value);
    }
  }
  // PASIDs are the guest's own: its CD table is not the host's.
  guest.iommu.attachGroup(group, paging);
  const pasid = guest.iommu.allocPaging(dev, DOMAIN_FLAG.pasid);
  if (typeof pasid === "number") throw new Error(`allocPaging: ${pasid}`);
  guest.iommu.map(pasid, iova, BUFFER + 9 * PAGE, PAGE, RW);
  expect(guest.iommu.attachPasid(dev, 3, pasid)).toBe(0);
  expect([host.write(8, iova, 0x77, 3), host.write(8, iova, 0x78), host.write(8, iova, 0x79, 4)]).toEqual([ok, ok, abort]);
  expect([machine.memory.load32(BUFFER + 9 * PAGE), machine.memory.load32(BUFFER + PAGE)]).toEqual([0x77, 0x78]);
  expect(guest.iommu.unmap(pasid, iova, PAGE)).toBe(PAGE);
  expect(host.write(8, iova, 1, 3)).toBe(abort);
  expect(guest.iommu.detachPasid(dev, 3)).toBe(0);
  // The machine is reset: its SMMU is off again.
  (guest.driver.smmus[0]!.backend as NativeBackend).disable();
  expect(config(host, 8)).toBe(STE_CONFIG.s2);
  machine.close();
});

row("VMM: memory that the host takes back is gone from stage 1 over stage 2", (make) => {
  const host = make();
  const machine = new VirtualMachine(host, { devices: [DEVICES[0]] });
  const guest = machine.boot();
  const dev = guest.devices[0]!;
  const address = guest.iommu.dma.mapPage(dev, BUFFER, PAGE, DMA_DIR.bidirectional);
  expect(host.write(8, address, 1)).toBe(ok);
  const trace = host.trace(() => {
    expect(host.fd.call("IOAS_UNMAP", { ioas_id: machine.core.ioas, length: 2 ** 64 }).status).toBe(0);
  });
  expect(host.write(8, address, 2)).toBe(abort);
  // Stage 2 first, then what guests made of it.
  expect(trace.some((line) => line.startsWith("CMD_TLBI_NH_ALL") || line.startsWith("CMD_TLBI_S12_VMALL"))).toBe(true);
});

row("VMM: a command that the machine may not have stops its queue, and only its", (make) => {
  const host = make();
  const machine = new VirtualMachine(host, { devices: [DEVICES[0]] });
  const guest = machine.boot();
  const backend = guest.driver.smmus[0]!.backend as NativeBackend;
  for (const opcode of [COMMANDS.TLBI_S12_VMALL.opcode, COMMANDS.CFGI_CD_ALL.opcode, 0xff]) {
    // The second is of a stream that the machine does not have.
    backend.cmdq.issue(Int32Array.of(opcode, 8, 0, 0), 1, true);
    machine.run();
  }
  expect(guest.kernel.log.lines("err").filter((line) => line.includes("CMDQ error")).length).toBe(3);
  expect(host.kernel.log.lines("err")).toEqual([]);
  const address = guest.iommu.dma.mapPage(guest.devices[0]!, BUFFER, PAGE, DMA_DIR.bidirectional);
  expect(host.write(8, address, 0x55)).toBe(ok);
});

describe("VMM: which stage 2 a vIOMMU wraps", () => {
  test("those of the core in turn, then a new one: two SMMUs, three emulated ones", () => {
    const host = new Host({ second: true, clients: [{ sids: [8] }, { sids: [9], smmu: 1 }, { sids: [10] }, { sids: [11], smmu: 1 }] });
    const core = new Core(host);
    const wrapped = [0, 1, 2, 3].map((i) => wrap(core, host.bind(i), VIOMMU_ARM_SMMUV3));
    const stage2s = wrapped.map((each) => (typeof each === "number" ? each : each.stage2));
    expect(core.stage2s.length).toBe(2);
    expect(stage2s).toEqual([core.stage2s[0], core.stage2s[1], core.stage2s[0], core.stage2s[1]]);
    expect(new Set(wrapped.map((each) => (typeof each === "number" ? each : each.viommu))).size).toBe(4);
  });

  test.each([
    ["the driver's", PRESETS.mmu700, {}, "own"],
    ["the default one, where iommufd has it", PRESETS.qemuNested, { defaultViommu: true }, "default"],
    ["none, as upstream", PRESETS.qemuNested, {}, "none"],
    ["none, where nothing nests", PRESETS.qemuStage2, { defaultViommu: true }, "none"],
  ] as const)("%s", (_what, id, iommufd, expected) => {
    const host = new Host({ id, iommufd });
    const core = new Core(host);
    const dev = host.bind(0);
    const wrapped = wrapAny(core, dev, VIOMMU_ARM_SMMUV3);
    if (typeof wrapped === "number") throw new Error(`wrapAny: ${wrapped}`);
    expect(wrapped.viommu > 0).toBe(expected !== "none");
    expect(wrap(core, dev, VIOMMU_ARM_SMMUV3) === -ERRNO.EOPNOTSUPP).toBe(expected !== "own");
    // A device that nothing is emulated for does DMA to the machine's memory.
    expect(host.fd.attach(dev, wrapped.stage2)).toBe(wrapped.stage2);
    expect([host.write(8, BUFFER, 1), host.write(8, IPA - PAGE, 1)]).toEqual([ok, abort]);
  });
});
