// Nesting through iommufd, on the hardware model.
import { ERRNO, TRANSLATION } from "@smmuv3/platform";
import { HW_INFO_ARM_SMMUV3, VEVENTQ_ARM_SMMUV3, VIOMMU_ARM_SMMUV3 } from "@smmuv3/arm-smmu-v3";
import type { ImplOps } from "@smmuv3/arm-smmu-v3";
import { tlbiNhAsid, tlbiNhVa } from "@smmuv3/arm-smmu-v3-common";
import { PROT } from "@smmuv3/iommu-core";
import { HWPT_FLAG } from "@smmuv3/iommufd";
import {
  CMD, CMD_WORDS, COMMANDS, EVENT, EVENTS, getField, maskOf, setField, STE, STE_CONFIG, STE_EATS,
} from "@smmuv3/smmu-v3-defs";
import type { CommandName } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import type { IdRegisters } from "@smmuv3/smmu-v3-model";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { GuestTables, Host, IPA, nested, PAGE, RW, stage2 } from "./fixture.ts";
import type { ClientSpec, Stage2 } from "./fixture.ts";
import { row } from "./rows.ts";

const { ok, abort } = TRANSLATION;
const { EEXIST, EINVAL, EIO, ENOENT, EOPNOTSUPP } = ERRNO;
/** Of the guest: what its device uses, and where that is in its memory. */
const IOVA = 0x12_3456_7000;
const BUFFER: number = IPA + (20 << 20);
const VSID = 0x21;
const ATS: ClientSpec = { sids: [8], pci: "0000:01:00.0", properties: { "ats-capable": true, "ats-supported": true, "pci-pasid-bits": 8 } };

const V = 1;
const BYPASS = [V | (STE_CONFIG.bypass << 1), 0, 0, 0];
const ABORT = [V, 0, 0, 0];

function vdevice(host: Host, { viommu, dev }: Stage2, virt_id: number = VSID): number {
  return host.make("VDEVICE_ALLOC", { viommu_id: viommu, dev_id: dev, virt_id }, "out_vdevice_id");
}

/** Attaches what a guest's STE says. */
function setVste(host: Host, ids: Stage2, vste: Int32Array | readonly number[]): number {
  const hwpt = nested(host, ids.dev, ids.viommu, vste);
  if (hwpt < 0) return hwpt;
  const status = host.fd.replace(ids.dev, hwpt);
  return status === -EINVAL ? host.fd.attach(ids.dev, hwpt) : status;
}

function invalidate(host: Host, viommu: number, commands: Int32Array | readonly number[]): readonly [status: number, done: number] {
  const entry_num = commands.length / CMD_WORDS;
  const call = { hwpt_id: viommu, data_type: 1, entry_len: 16, entry_num, data_uptr: host.words(commands) };
  const result = host.fd.call("HWPT_INVALIDATE", call);
  return [result.status, result.entry_num];
}

/** A command by its fields. */
function command(name: CommandName, fields: Readonly<Record<string, number>> = {}): number[] {
  const words = new Int32Array(CMD_WORDS);
  words[0] = COMMANDS[name].opcode;
  for (const [field, value] of Object.entries(fields)) {
    const at = CMD[field as "SID"];
    if ("loMask" in at) words[2]! |= value;
    else setField(words, 0, at, value);
  }
  return [...words];
}

row("N1 hw_info: the ID registers as they are, and the erratum", (make) => {
  for (const compatible of ["arm,smmu-v3", "nvidia,tegra264-smmu"]) {
    const host = make({ node: { compatible: [compatible, "arm,smmu-v3"] } });
    const info = host.fd.call("GET_HW_INFO", { dev_id: host.bind(0), data_len: 40, data_uptr: host.words(new Int32Array(10)) });
    expect([info.status, info.data_type, info.data_len]).toEqual([0, HW_INFO_ARM_SMMUV3, 40]);
    expect([info.out_capabilities, info.max_pasid_log2]).toEqual([1, 0]);
    const registers = [0, 4, 8, 0xc, 0x10, 0x14, 0x18, 0x1c].map((offset) => host.smmu.registers.read32(offset));
    expect([...host.result(10)]).toEqual([compatible === "arm,smmu-v3" ? 0 : 1, 0, ...registers]);
    const typed = (data_type: number): number => host.fd.call("GET_HW_INFO", { dev_id: 1, flags: 1, data_type }).status;
    expect([typed(HW_INFO_ARM_SMMUV3), typed(3)]).toEqual([0, -EOPNOTSUPP]);
  }
});

describe("N2 each gate of a vIOMMU", () => {
  const nwb: ClientSpec = { sids: [8], properties: { canwbs: true } };
  const iidr = (id: IdRegisters, IIDR: number): IdRegisters => ({ ...id, IIDR });
  const rows: readonly (readonly [what: string, id: IdRegisters, client: ClientSpec, type: number, status: number])[] = [
    ["S2FWB", PRESETS.mmu700, { sids: [8] }, VIOMMU_ARM_SMMUV3, 0],
    ["CANWBS instead", PRESETS.qemuNested, nwb, VIOMMU_ARM_SMMUV3, 0],
    ["neither", PRESETS.qemuNested, { sids: [8] }, VIOMMU_ARM_SMMUV3, -EOPNOTSUPP],
    ["a type nobody knows", PRESETS.mmu700, { sids: [8] }, 9, -EOPNOTSUPP],
    ["Tegra's type without Tegra's block", PRESETS.mmu700, { sids: [8] }, 2, -EOPNOTSUPP],
    // No nest parent can be made: the vIOMMU has nothing to be over.
    ["stage 1 only", PRESETS.qemuStage1, nwb, VIOMMU_ARM_SMMUV3, -ENOENT],
    ["an MMU-700 whose nesting is broken", iidr(PRESETS.mmu700, 0x4870_043b), { sids: [8] }, VIOMMU_ARM_SMMUV3, -ENOENT],
  ];
  test.each(rows)("%s", (_what, id, client, type, status) => {
    const host = new Host({ id, clients: [client] });
    const dev = host.bind(0);
    const ioas = host.make("IOAS_ALLOC", {}, "out_ioas_id");
    const parent = host.fd.call("HWPT_ALLOC", { dev_id: dev, pt_id: ioas, flags: HWPT_FLAG.nestParent });
    expect(parent.status).toBe(status === -ENOENT ? -EOPNOTSUPP : 0);
    const { instance } = host.iommu.groupOf(host.devices[0]!)!;
    const size = instance.ops.getViommuSize!(host.devices[0]!, type);
    expect(size > 0).toBe(status === 0);
    if (status === -ENOENT) return;
    expect(host.fd.call("VIOMMU_ALLOC", { type, dev_id: dev, hwpt_id: parent.out_hwpt_id }).status).toBe(status);
  });

  test("a parent of another SMMU: -EINVAL", () => {
    const host = new Host({ second: true, clients: [{ sids: [8] }, { sids: [9], smmu: 1 }] });
    const { parent } = stage2(host);
    const other = host.bind(1);
    expect(host.fd.call("VIOMMU_ALLOC", { type: VIOMMU_ARM_SMMUV3, dev_id: other, hwpt_id: parent }).status).toBe(-EINVAL);
  });

  test("an SMMU whose lists must end in a SYNC every 63 commands", () => {
    const host = new Host();
    const { ops } = host.iommu.groupOf(host.devices[0]!)!.instance;
    expect(ops.getViommuSize!(host.devices[0]!, VIOMMU_ARM_SMMUV3)).toBeGreaterThan(0);
    (host.native.features as { forceSync: boolean }).forceSync = true;
    expect(ops.getViommuSize!(host.devices[0]!, VIOMMU_ARM_SMMUV3)).toBe(0);
  });

  test("T7 an implementation with one of the hooks only: its SMMU is not bound", () => {
    const impl: ImplOps = { name: "odd", vsmmuInit: () => 0 };
    expect(new Host({ driver: { impl } }).driver.smmus).toEqual([]);
    const both: ImplOps = { name: "even", vsmmuInit: () => 0, getViommuSize: (_, type) => (type === 77 ? 8 : 0) };
    const host = new Host({ driver: { impl: both } });
    expect(stage2(host, 77).viommu).toBeGreaterThan(0);
  });
});

describe("N3 virtual STEs", () => {
  test("allowed if and only if the rules say so", () => {
    const host = new Host();
    const ids = stage2(host);
    const allowed = [0xffff_ffff | 0, 0xf80f_ffff | 0, 0x3800_00ff, 0];
    const config = fc.constantFrom(0, 4, 5, 5, 5, 1, 6, 7);
    const words4 = fc.array(fc.integer(), { minLength: 4, maxLength: 4 });
    const vste = fc.tuple(fc.boolean(), config, words4, fc.boolean(), fc.integer({ min: 0, max: 127 }));
    fc.assert(
      fc.property(vste, ([valid, cfg, random, inside, stray]) => {
        const words = random.map((word, i) => (inside ? word & allowed[i]! : word));
        words[0] = (words[0]! & ~0xf) | (valid ? 1 : 0) | (cfg << 1);
        if (inside) words[0] &= ~0xc & ~0x30 | 0x3f;
        if (stray < 8) words[stray % 4]! |= 1 << (stray * 3);
        const legal =
          (words[0] & 1) === 0 ||
          (words.every((word, i) => (word & ~(i === 0 ? ~0 : allowed[i]!)) === 0) &&
            [0, 4, 5].includes((words[0] >>> 1) & 7) && ((words[2]! >>> 28) & 3) <= 1);
        const hwpt = nested(host, ids.dev, ids.viommu, words);
        expect(hwpt > 0).toBe(legal);
        if (!legal) expect(hwpt).toBe(-EIO);
        else host.fd.call("DESTROY", { id: hwpt });
      }),
      { numRuns: 400, seed: 20 },
    );
  });

  test("data of another type or length; flags", () => {
    const host = new Host();
    const { dev, viommu } = stage2(host);
    const alloc = (data_type: number, data_len: number, flags: number = 0): number =>
      host.fd.call("HWPT_ALLOC", { dev_id: dev, pt_id: viommu, data_type, data_len, flags, data_uptr: host.words([0, 0, 0, 0, 9]) }).status;
    expect([alloc(2, 16), alloc(3, 16), alloc(2, 8), alloc(2, 20), alloc(2, 16, HWPT_FLAG.pasid)]).toEqual([0, -EINVAL, -EINVAL, -7, -EOPNOTSUPP]);
  });
});

row("N4 invalid, abort, bypass and stage 1: the physical STE, and where DMA goes", (make) => {
  const host = make();
  const ids = stage2(host);
  vdevice(host, ids);
  const guest = new GuestTables(host);
  expect(guest.pgtable.mapPages(IOVA, BUFFER, PAGE, 2, RW)).toBe(0);
  const target = guest.pa(BUFFER);
  const { memory } = host.machine;
  const dma = (iova: number, value: number): number => host.write(8, iova + 4, value);

  expect(setVste(host, ids, [0, 0, 0, 0])).toBeGreaterThan(0);
  expect([...host.ste(8).slice(0, 8)]).toEqual([V, 0, 0, 0, 0, 0, 0, 0]);
  expect([dma(IOVA, 1), dma(BUFFER, 1)]).toEqual([abort, abort]);
  setVste(host, ids, ABORT);
  expect([dma(IOVA, 1), dma(BUFFER, 1)]).toEqual([abort, abort]);

  setVste(host, ids, BYPASS);
  expect(getField(host.ste(8), 0, STE.Config)).toBe(STE_CONFIG.s2);
  expect([dma(IOVA, 2), dma(BUFFER, 2)]).toEqual([abort, ok]);
  expect(memory.load32(target + 4)).toBe(2);

  const vste = guest.vste();
  setVste(host, ids, vste);
  const ste = host.ste(8);
  expect(getField(ste, 0, STE.Config)).toBe(STE_CONFIG.nested);
  expect([ste[0]! & ~maskOf(STE.Config), ste[1]]).toEqual([vste[0]! & ~maskOf(STE.Config), vste[1]]);
  expect(ste[2]! & vste[2]!).toBe(vste[2]);
  expect([getField(ste, 0, STE.STRW), getField(ste, 0, STE.EATS)]).toEqual([0, STE_EATS.abort]);
  expect([dma(IOVA, 3), dma(BUFFER, 3)]).toEqual([ok, abort]);
  expect(memory.load32(target + 4)).toBe(3);
  expect(dma(IOVA + PAGE, 4)).toBe(ok);
  expect(memory.load32(target + PAGE + 4)).toBe(4);
  // Stage 2 goes away underneath: what both stages made, too.
  expect(host.fd.call("IOAS_UNMAP", { ioas_id: ids.ioas, length: 2 ** 64 }).status).toBe(0);
  expect([dma(IOVA, 5), dma(IOVA + PAGE, 5)]).toEqual([abort, abort]);
  expect(host.fd.detach(ids.dev)).toBe(0);
  expect([...host.ste(8).slice(0, 4)]).toEqual([V, 0, 0, 0]);
  expect(host.fd.unbind(ids.dev)).toBe(0);
  expect([host.fd.close(), host.user.pinned]).toEqual([0, 0]);
});

row("N5 faults of guests may be merged", (make) => {
  const host = make();
  const ids = stage2(host);
  vdevice(host, ids);
  const guest = new GuestTables(host);
  setVste(host, ids, guest.vste());
  expect(getField(host.ste(8), 0, STE.MEV)).toBe(1);
  setVste(host, ids, BYPASS);
  expect(getField(host.ste(8), 0, STE.MEV)).toBe(0);
});

row("N6 vdevices: one per device and number, of this SMMU, with one stream; stage 1 needs one", (make) => {
  const host = make({ second: true, clients: [{ sids: [8] }, { sids: [9] }, { sids: [10], smmu: 1 }, { sids: [11, 12] }] });
  const ids = stage2(host);
  const alloc = (dev_id: number, virt_id: number): number =>
    host.fd.call("VDEVICE_ALLOC", { viommu_id: ids.viommu, dev_id, virt_id }).status;
  const vste = new GuestTables(host).vste();
  expect(setVste(host, ids, vste)).toBe(-ENOENT);
  expect(setVste(host, ids, BYPASS)).toBeGreaterThan(0);
  expect(setVste(host, ids, ABORT)).toBeGreaterThan(0);
  expect(setVste(host, ids, vste)).toBe(-ENOENT);
  expect([...host.ste(8).slice(0, 4)]).toEqual(ABORT);
  const [second, foreign, wide] = [host.bind(1), host.bind(2), host.bind(3)];
  expect([alloc(ids.dev, VSID), alloc(ids.dev, 5), alloc(second, VSID)]).toEqual([0, -EEXIST, -EEXIST]);
  expect([alloc(foreign, 6), alloc(wide, 7), alloc(second, 8)]).toEqual([-EINVAL, -EOPNOTSUPP, 0]);
  expect(setVste(host, ids, vste)).toBeGreaterThan(0);
  // Not of the SMMU that the vIOMMU is at.
  expect(host.fd.attach(foreign, nested(host, ids.dev, ids.viommu, BYPASS))).toBe(-EINVAL);
});

describe("N7 conversion of commands", () => {
  const full = 0xffff;
  type Row = readonly [name: CommandName, fields: Readonly<Record<string, number>>, text: string | undefined];
  const rows: readonly Row[] = [
    ["TLBI_NSNH_ALL", {}, "CMD_TLBI_NH_ALL VMID=1"],
    ["TLBI_NSNH_ALL", { VMID: 1 }, undefined],
    ["TLBI_NH_ALL", { VMID: full }, "CMD_TLBI_NH_ALL VMID=1"],
    ["TLBI_NH_ALL", { ASID: 3 }, undefined],
    ["TLBI_NH_ASID", { VMID: 7, ASID: 3 }, "CMD_TLBI_NH_ASID VMID=1 ASID=3"],
    ["TLBI_NH_VA", { VMID: 7, ASID: 3, Leaf: 1 }, "CMD_TLBI_NH_VA VMID=1 ASID=3 Leaf=1"],
    ["TLBI_NH_VA", { VMID: 7, ASID: 3, TG: 1, NUM: 3, SCALE: 2, TTL: 3 }, "CMD_TLBI_NH_VA VMID=1 ASID=3 NUM=3 SCALE=2 TTL=3 TG=1"],
    ["TLBI_NH_VA", { TG: 1 }, undefined],
    ["TLBI_NH_VA", { NUM: 1 }, undefined],
    ["TLBI_NH_VA", { TTL: 1 }, undefined],
    ["TLBI_NH_VA", { TG: 2, TTL: 1 }, undefined],
    ["TLBI_NH_VA", { TG: 1, NUM: 1, SCALE: 32 }, undefined],
    ["TLBI_NH_VA", { TTL128: 1 }, undefined],
    ["TLBI_NH_VAA", { VMID: 7, Leaf: 1 }, "CMD_TLBI_NH_VAA VMID=1 Leaf=1"],
    ["TLBI_NH_VAA", { ASID: 1 }, undefined],
    ["CFGI_CD", { SID: VSID, SSID: 3, Leaf: 1 }, "CMD_CFGI_CD SSID=3 SID=8 Leaf=1"],
    ["CFGI_CD", { SID: 8 }, undefined],
    ["CFGI_CD_ALL", { SID: VSID }, "CMD_CFGI_CD_ALL SID=8"],
    ["CFGI_CD_ALL", { SID: VSID, SSec: 1 }, undefined],
    ["ATC_INV", { SID: VSID, AtcSize: 52 }, "CMD_ATC_INV SID=8 AtcSize=0x34"],
    ["ATC_INV", { SID: VSID, AtcSize: 53 }, undefined],
    ["ATC_INV", { SID: 9, AtcSize: 52 }, undefined],
    ...(["CFGI_STE", "CFGI_STE_RANGE", "SYNC", "TLBI_S2_IPA", "TLBI_S12_VMALL", "TLBI_EL2_ALL", "TLBI_EL2_VA", "PREFETCH_CONFIG", "RESUME",
      "PRI_RESP", "STALL_TERM", "TLBI_EL3_ALL", "CFGI_VMS_PIDM", "TLBI_SNH_ALL", "DPTI_ALL"] as const
    ).map((name): Row => [name, {}, undefined]),
  ];
  test.each(rows)("%s %j", (name, fields, text) => {
    const host = new Host({ clients: [{ sids: [8] }, { sids: [9] }] });
    const ids = stage2(host);
    vdevice(host, ids);
    let result: readonly [number, number] = [0, 0];
    const trace = host.trace(() => {
      result = invalidate(host, ids.viommu, command(name, fields));
    });
    expect(result).toEqual(text === undefined ? [-EIO, 0] : [0, 1]);
    const fieldsOf = (line: string): string => line.replaceAll(/ (\w+)=0(x0)?(?=\s|$)/g, "");
    expect(trace.map(fieldsOf)).toEqual(text === undefined ? [] : [text, "SYNC"]);
    expect(host.smmu.registers.read32(0x60)).toBe(0);
  });

  test("whatever a guest sends, its own VMID and streams are all that the SMMU hears of", () => {
    const host = new Host({ clients: [{ sids: [8] }, { sids: [9] }] });
    const ids = stage2(host);
    vdevice(host, ids);
    const opcodes = Object.values(COMMANDS).map(({ opcode }) => opcode);
    const words = fc.tuple(fc.constantFrom(...opcodes), fc.integer(), fc.constantFrom(0, VSID, 8, 9, -1), fc.integer(), fc.integer());
    fc.assert(
      fc.property(words, fc.boolean(), ([opcode, w0, w1, w2, w3], plain) => {
        const bits = plain ? 0 : w0 & 0xff00;
        const lines = host.trace(() => invalidate(host, ids.viommu, [opcode | bits, w1, plain ? 0 : w2, plain ? 0 : w3]));
        for (const line of lines) {
          if (line === "SYNC") continue;
          expect(line).toMatch(/ VMID=1\b| SID=8\b/);
          expect(line).toMatch(/TLBI_NH|CFGI_CD|ATC_INV/);
        }
        // Nothing of it is an error there.
        expect(host.smmu.registers.read32(0x60)).toBe(0);
      }),
      { numRuns: 600, seed: 7 },
    );
  });

  test("ASIDs are as wide as the SMMU's", () => {
    const host = new Host({ id: { ...PRESETS.mmu700, IDR0: PRESETS.mmu700.IDR0 & ~(1 << 12) } });
    const { viommu } = stage2(host);
    expect(invalidate(host, viommu, command("TLBI_NH_ASID", { ASID: 255 }))).toEqual([0, 1]);
    expect(invalidate(host, viommu, command("TLBI_NH_ASID", { ASID: 256 }))).toEqual([-EIO, 0]);
  });

  test("without range invalidation or ATS their fields and commands are refused", () => {
    const id = { ...PRESETS.mmu700, IDR0: PRESETS.mmu700.IDR0 & ~(1 << 10), IDR3: PRESETS.mmu700.IDR3 & ~(1 << 10) };
    const host = new Host({ id });
    const ids = stage2(host);
    vdevice(host, ids);
    expect(invalidate(host, ids.viommu, command("TLBI_NH_VA", { TG: 1, NUM: 1 }))).toEqual([-EIO, 0]);
    expect(invalidate(host, ids.viommu, command("ATC_INV", { SID: VSID }))).toEqual([-EIO, 0]);
    expect(invalidate(host, ids.viommu, command("TLBI_NH_VA", { ASID: 1 }))).toEqual([0, 1]);
  });
});

row("N7 a guest's unmap: what it invalidates is gone, and only then", (make) => {
  const host = make();
  const ids = stage2(host);
  vdevice(host, ids);
  const guest = new GuestTables(host);
  setVste(host, ids, guest.vste());
  guest.pgtable.mapPages(IOVA, BUFFER, PAGE, 4, RW);
  for (let i = 0; i < 4; i++) expect(host.write(8, IOVA + i * PAGE, i)).toBe(ok);
  guest.pgtable.unmapPages(IOVA, PAGE, 2, null);
  const words = new Int32Array(CMD_WORDS);
  for (let i = 0; i < 2; i++) {
    const iova = IOVA + i * PAGE;
    tlbiNhVa(words, 0, 0x77, guest.asid, 0, (iova | 0) | 1, Math.floor(iova / 2 ** 32));
    expect(invalidate(host, ids.viommu, words)).toEqual([0, 1]);
  }
  expect([0, 1, 2, 3].map((i) => host.write(8, IOVA + i * PAGE, 9))).toEqual([abort, abort, ok, ok]);
  guest.pgtable.unmapPages(IOVA + 2 * PAGE, PAGE, 2, null);
  tlbiNhAsid(words, 0, 0, guest.asid);
  expect(invalidate(host, ids.viommu, words)).toEqual([0, 1]);
  expect([2, 3].map((i) => host.write(8, IOVA + i * PAGE, 9))).toEqual([abort, abort]);
});

describe("N8 batches", () => {
  const batch = (count: number, bad: number = -1): number[] =>
    Array.from({ length: count }, (_, i) => command(i === bad ? "CFGI_STE" : "TLBI_NH_ASID", i === bad ? {} : { ASID: i })).flat();
  type Row = readonly [count: number, bad: number, done: number, lists: readonly number[], flawed: readonly [number, readonly number[]]];
  const rows: readonly Row[] = [
    [1, -1, 1, [1], [1, [1]]],
    [63, -1, 63, [63], [63, [63]]],
    [64, -1, 64, [63, 1], [64, [63, 1]]],
    [150, -1, 150, [63, 63, 24], [150, [63, 63, 24]]],
    [150, 0, 0, [], [0, []]],
    // The kernel counts 100 here, of which 37 were not sent.
    [150, 100, 63, [63], [100, [63]]],
    [150, 149, 126, [63, 63], [149, [63, 63]]],
  ];
  test.each(rows.flatMap((entry) => [false, true].map((lax) => ({ lax, entry }))))("$lax $entry", ({ lax, entry }) => {
    const [count, bad, done, lists, flawed] = entry;
    const host = new Host({ driver: { laxGuestInvalidations: lax } });
    const ids = stage2(host);
    let result: readonly [number, number] = [0, 0];
    const trace = host.trace(() => {
      result = invalidate(host, ids.viommu, batch(count, bad));
    });
    expect(result).toEqual([bad < 0 ? 0 : -EIO, lax ? flawed[0] : done]);
    const sent: number[] = [];
    let run = 0;
    for (const line of trace) {
      if (line === "SYNC") sent.push(run);
      run = line === "SYNC" ? 0 : run + 1;
    }
    expect(sent).toEqual(lax ? flawed[1] : lists);
  });

  test("what the kernel lets through, and the SMMU calls illegal", () => {
    const illegal = command("TLBI_NH_VA", { TG: 1 });
    for (const lax of [false, true]) {
      const host = new Host({ driver: { laxGuestInvalidations: lax } });
      const { viommu } = stage2(host);
      expect(invalidate(host, viommu, illegal)).toEqual(lax ? [0, 1] : [-EIO, 0]);
      host.settle();
      expect(host.kernel.log.lines("err").some((line) => line.includes("CMDQ error"))).toBe(lax);
    }
  });
});

row("N9 the guest's STE switches the device's ATS", (make) => {
  const host = make({ clients: [ATS] });
  const ids = stage2(host);
  vdevice(host, ids);
  const guest = new GuestTables(host);
  guest.pgtable.mapPages(IOVA, BUFFER, PAGE, 1, RW);
  const eats = (): number => getField(host.ste(8), 0, STE.EATS);
  host.pci.length = 0;
  setVste(host, ids, guest.vste(false));
  expect([eats(), host.pci]).toEqual([STE_EATS.abort, []]);
  setVste(host, ids, guest.vste(true));
  expect([eats(), host.pci]).toEqual([STE_EATS.full, ["ats on 8"]]);
  expect(host.write(8, IOVA, 0x99)).toBe(ok);
  expect(host.machine.memory.load32(guest.pa(BUFFER))).toBe(0x99);
  expect(host.atcs.get(8)!.requests).toBe(1);
  setVste(host, ids, guest.vste(false));
  expect([eats(), host.pci]).toEqual([STE_EATS.abort, ["ats on 8", "ats off 8"]]);
  // Without stage 1 the choice is the host's.
  setVste(host, ids, BYPASS);
  expect(eats()).toBe(STE_EATS.full);
});

row("N9 a guest's ATC_INV reaches its device's cache, by the guest's number", (make) => {
  const host = make({ clients: [ATS] });
  const ids = stage2(host);
  vdevice(host, ids);
  const guest = new GuestTables(host);
  guest.pgtable.mapPages(IOVA, BUFFER, PAGE, 1, RW);
  setVste(host, ids, guest.vste(true));
  expect(host.write(8, IOVA, 1)).toBe(ok);
  guest.pgtable.unmapPages(IOVA, PAGE, 1, null);
  const commands = [...command("TLBI_NH_ASID", { ASID: guest.asid }), ...command("ATC_INV", { SID: VSID, AtcSize: 52 })];
  expect(invalidate(host, ids.viommu, commands)).toEqual([0, 2]);
  expect(host.write(8, IOVA, 2)).not.toBe(ok);
});

row("N10 events of stage 1 go to the guest, under its number; others stay", (make) => {
  const host = make();
  const ids = stage2(host);
  vdevice(host, ids);
  const guest = new GuestTables(host);
  guest.pgtable.mapPages(IOVA, BUFFER, PAGE, 1, RW);
  // Stage 1 leads outside of the guest's memory.
  guest.pgtable.mapPages(IOVA + PAGE, 0x1000, PAGE, 1, RW);
  setVste(host, ids, guest.vste());
  const fault = (iova: number): number => {
    const before = host.iommu.faults.count;
    expect(host.write(8, iova, 1)).toBe(abort);
    host.settle();
    return host.iommu.faults.count - before;
  };
  // Nobody listens.
  expect(fault(IOVA - PAGE)).toBe(1);
  const queue = host.fd.call("VEVENTQ_ALLOC", { viommu_id: ids.viommu, type: VEVENTQ_ARM_SMMUV3, veventq_depth: 2 });
  const file = host.fd.file(queue.out_veventq_fd)!;
  expect(fault(IOVA - PAGE)).toBe(0);
  const bytes = file.read(1024) as Uint8Array;
  const words = new Int32Array(bytes.buffer, bytes.byteOffset);
  expect([words.length, words[0], words[1]]).toEqual([10, 0, 0]);
  const record = words.slice(2);
  expect([getField(record, 0, EVENT.Type), getField(record, 0, EVENT.SID)]).toEqual([EVENTS.F_TRANSLATION.type, VSID]);
  // Stage 2's is the host's.
  expect(fault(IOVA + PAGE)).toBe(1);
  expect(file.readable).toBe(false);
  // More than there is room for: the loss is noted, and the numbers show it.
  for (let i = 1; i <= 4; i++) expect(fault(IOVA - i * 16 * PAGE)).toBe(0);
  const many = new Int32Array((file.read(1024) as Uint8Array).buffer);
  expect([many[0], many[1], many[10], many[11], many[20], many[21], many.length]).toEqual([0, 1, 0, 2, 1, 4, 22]);
  // So are errors of the host's own structures.
  const before = host.iommu.faults.count;
  for (const name of ["F_STE_FETCH", "F_WALK_EABT", "F_TLB_CONFLICT", "F_UUT"] as const) host.smmu.recordEvent(name, 8);
  host.settle();
  expect([host.iommu.faults.count - before, file.readable]).toEqual([4, false]);
  for (const name of ["C_BAD_CD", "C_BAD_SUBSTREAMID", "C_BAD_STE", "F_STREAM_DISABLED"] as const) {
    host.smmu.recordEvent(name, 8);
    host.settle();
    expect(getField(new Int32Array((file.read(1024) as Uint8Array).buffer).slice(2), 0, EVENT.Type)).toBe(EVENTS[name].type);
  }
  // An abort that the guest asked for is silent; and a device that has left it is the host's.
  host.fd.detach(ids.dev);
  expect(host.driver.smmus[0]!.masters.get(8)!.vmaster).toBe(undefined);
});

row("N11 S2FWB: memory stays cacheable whatever the guest says", (make) => {
  for (const id of [PRESETS.mmu700, PRESETS.qemuNested]) {
    const fwb = id === PRESETS.mmu700;
    const host = make({ id, clients: [{ sids: [8], properties: { canwbs: true } }] });
    const ids = stage2(host);
    vdevice(host, ids);
    const guest = new GuestTables(host);
    guest.pgtable.mapPages(IOVA, BUFFER, PAGE, 1, PROT.READ | PROT.WRITE);
    setVste(host, ids, guest.vste());
    expect(getField(host.ste(8), 0, STE.S2FWB)).toBe(fwb ? 1 : 0);
    expect(host.write(8, IOVA, 1)).toBe(ok);
    const attributes = host.smmu.attributes(8, 0, IOVA | 0, Math.floor(IOVA / 2 ** 32), 0);
    // Normal Non-cacheable, as the guest wrote; or write-back in spite of it.
    expect(attributes?.mair).toBe(fwb ? 0xff : 0x44);
  }
});

row("N1 PASIDs of a device", (make) => {
  const host = make({ clients: [ATS] });
  expect(host.make("GET_HW_INFO", { dev_id: host.bind(0) }, "max_pasid_log2")).toBe(8);
});

row("N12 dirty tracking and PASIDs do not go with a nest parent; nested ones take none", (make) => {
  const host = make({ clients: [{ sids: [8], properties: { "pasid-num-bits": 4 } }] });
  const ids = stage2(host);
  for (const flag of [HWPT_FLAG.dirtyTracking, HWPT_FLAG.pasid, HWPT_FLAG.dirtyTracking | HWPT_FLAG.pasid]) {
    const alloc = (flags: number): number => host.fd.call("HWPT_ALLOC", { dev_id: ids.dev, pt_id: ids.ioas, flags }).status;
    expect([alloc(flag | HWPT_FLAG.nestParent), alloc(flag)]).toEqual([-EOPNOTSUPP, 0]);
  }
  vdevice(host, ids);
  const pasid = host.make("HWPT_ALLOC", { dev_id: ids.dev, pt_id: ids.ioas, flags: HWPT_FLAG.pasid }, "out_hwpt_id");
  expect(host.fd.attach(ids.dev, pasid, 3)).toBe(pasid);
  const hwpt = nested(host, ids.dev, ids.viommu, new GuestTables(host).vste());
  expect(host.fd.attach(ids.dev, hwpt)).toBe(-EINVAL);
  expect(host.fd.detach(ids.dev, 3)).toBe(0);
  expect(host.fd.attach(ids.dev, hwpt)).toBe(hwpt);
  expect(host.fd.attach(ids.dev, pasid, 3)).toBe(-EINVAL);
});
