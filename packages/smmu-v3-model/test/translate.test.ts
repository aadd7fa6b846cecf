import { describe, expect, test } from "vitest";
import { ACCESS, TRANSLATION } from "@smmuv3/platform";
import { STE, STE_CONFIG, STE_S1DSS, STE_STRW } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "../src/index.ts";
import type { ProfileName } from "../src/index.ts";
import { CDS, PA, Rig, S1, S2, STRTAB } from "./rig.ts";

const VA = 0x12_3456_7000;
const ALL: readonly ProfileName[] = ["lazy", "eager", "finite"];

describe.each(ALL)("3.3.2: translation | profile %s", (profile) => {
  test("stage 1: pages and blocks, twice", () => {
    const rig = new Rig({ profile });
    const root = rig.stage1(1);
    rig.map(root, VA, PA, S1.rw);
    rig.map(root, 0x4000_0000, PA + 0x4000_0000, S1.rw, 0x4000_0000);
    rig.map(root, 0x8020_0000, PA + 0x20_0000, S1.rw, 0x20_0000);
    for (let i = 0; i < 2; i++) {
      expect(rig.outcome(1, VA + 0x123)).toBe(PA + 0x123);
      expect(rig.outcome(1, 0x4567_89ab)).toBe(PA + 0x4567_89ab);
      expect(rig.outcome(1, 0x803f_ffff)).toBe(PA + 0x3f_ffff);
    }
  });

  test("stage 2", () => {
    const rig = new Rig({ profile });
    rig.map(rig.stage2(2), VA, PA, S2.rw);
    for (let i = 0; i < 2; i++) expect(rig.outcome(2, VA + 4)).toBe(PA + 4);
  });

  test("nested, with blocks of different sizes in the two stages", () => {
    const rig = new Rig({ profile });
    const { root1, root2 } = rig.nested(3);
    rig.map(root1, 0x20_0000, 0x1_0020_0000, S1.rw, 0x20_0000);
    rig.map(root2, 0x1_0020_5000, PA, S2.rw);
    rig.map(root2, 0x1_0020_6000, PA + 0x10_0000, S2.rw);
    for (let i = 0; i < 2; i++) {
      expect(rig.outcome(3, 0x20_5010)).toBe(PA + 0x10);
      expect(rig.outcome(3, 0x20_6020)).toBe(PA + 0x10_0020);
      expect(rig.outcome(3, 0x20_7000)).toBe("F_TRANSLATION");
    }
  });

  test("two streams with the same VA", () => {
    const rig = new Rig({ profile });
    for (const sid of [1, 2]) rig.map(rig.stage1(sid), VA, PA + sid * 0x1000, S1.rw);
    for (let i = 0; i < 2; i++) {
      expect(rig.outcome(1, VA)).toBe(PA + 0x1000);
      expect(rig.outcome(2, VA)).toBe(PA + 0x2000);
    }
  });

  test("rights are kept with the translation", () => {
    const rig = new Rig({ profile });
    const root = rig.stage1(1);
    rig.map(root, VA, PA, S1.ro);
    rig.map(root, VA + 0x1000, PA, S1.priv);
    for (let i = 0; i < 2; i++) {
      expect(rig.outcome(1, VA)).toBe(PA);
      expect(rig.outcome(1, VA, ACCESS.write)).toBe("F_PERMISSION");
      expect(rig.outcome(1, VA + 0x1000, ACCESS.privileged)).toBe(PA);
      expect(rig.outcome(1, VA + 0x1000)).toBe("F_PERMISSION");
    }
  });

  test("a write-only page of stage 2", () => {
    const rig = new Rig({ profile });
    rig.map(rig.stage2(2), VA, PA, S2.wo);
    for (let i = 0; i < 2; i++) {
      expect(rig.outcome(2, VA, ACCESS.write)).toBe(PA);
      expect(rig.outcome(2, VA)).toBe("F_PERMISSION");
    }
  });
});

test("5.2 Config: bypass, abort, a disabled SMMU", () => {
  const rig = new Rig();
  rig.ste(1, { Config: STE_CONFIG.bypass });
  rig.ste(2, { Config: STE_CONFIG.abort });
  expect(rig.outcome(1, 0x1234_5678_9abc)).toBe(0x1234_5678_9abc);
  expect(rig.outcome(1, 2 ** 48)).toBe("F_ADDR_SIZE");
  expect(rig.outcome(2, 0)).toBe("abort");
  rig.write("CR0", 0xc);
  expect(rig.outcome(2, 0x1000)).toBe(0x1000);
  rig.write("GBPA", 0x8010_0000);
  expect(rig.outcome(1, 0x1000)).toBe("abort");
  rig.write("CR0", 0xd);
  expect(rig.outcome(1, 0x1000)).toBe(0x1000);
});

describe("two-level stream table (5.1)", () => {
  const SPLIT = 6;
  function twoLevel(span: number, log2 = 10): Rig {
    const rig = new Rig({ cr0: 0xc });
    const table = rig.alloc(0x1000);
    // Not aligned to its size: the low bits of L2Ptr are ignored.
    rig.memory.store64(STRTAB + 8, (table + 0x40) | span, 0);
    rig.write("STRTAB_BASE_CFG", log2 | (SPLIT << 6) | (1 << 16));
    rig.write("CR0", 0xd);
    rig.ste(0x3f, { Config: STE_CONFIG.bypass }, table);
    rig.ste(0x01, { Config: STE_CONFIG.bypass }, table);
    return rig;
  }
  test.each<[string, number, number, number | string]>([
    ["a full table", SPLIT + 1, 0x7f, 0x1000],
    ["its neighbour", SPLIT + 1, 0x41, 0x1000],
    ["a table of two", 2, 0x41, 0x1000],
    ["beyond a table of two", 2, 0x42, "C_BAD_STREAMID"],
    ["Span 0", 0, 0x40, "C_BAD_STREAMID"],
    ["Span beyond SPLIT + 1", SPLIT + 2, 0x40, "C_BAD_STREAMID"],
    ["an empty level-1 entry", SPLIT + 1, 0x80, "C_BAD_STREAMID"],
    ["beyond LOG2SIZE", SPLIT + 1, 0x400, "C_BAD_STREAMID"],
  ])("%s", (_name, span, sid, expected) => {
    expect(twoLevel(span).outcome(sid, 0x1000)).toBe(expected);
  });
});

test("6.3.25: a SPLIT that is reserved behaves as 6; a level-1 descriptor that cannot be read is F_STE_FETCH", () => {
  const rig = new Rig({ cr0: 0xc });
  const table = rig.alloc(0x1000);
  rig.memory.store64(STRTAB + 8, table | 7, 0);
  rig.ste(1, { Config: STE_CONFIG.bypass }, table);
  rig.write("STRTAB_BASE_CFG", 10 | (7 << 6) | (1 << 16));
  rig.write("CR0", 0xd);
  expect(rig.outcome(0x41, 0x1000)).toBe(0x1000);
  rig.memory.perm[rig.memory.pageIndex(STRTAB)] = 0;
  expect(rig.outcome(0x42, 0x1000)).toBe("F_STE_FETCH");
});

test("7.3.10: a level-1 CD descriptor that cannot be read is F_CD_FETCH", () => {
  const rig = new Rig();
  rig.stage1(1, {}, { S1CDMax: 8, S1Fmt: 1, S1ContextPtr: 0x1000 });
  expect(rig.outcome(1, VA, ACCESS.ssidValid, 3)).toBe("F_CD_FETCH");
});

describe("5.2 S1DSS: substreams", () => {
  const SSID = ACCESS.ssidValid;
  function substreams(dss: number, values: object = {}): Rig {
    const rig = new Rig();
    const root = rig.stage1(1, {}, { S1CDMax: 4, S1DSS: dss, S1ContextPtr: CDS, ...values });
    const root3 = rig.alloc(0x1000);
    rig.cd(CDS, { TTB0: root, ASID: 100 });
    rig.cd(CDS + 3 * 64, { TTB0: root3, ASID: 103 });
    rig.map(root, VA, PA, S1.rw);
    rig.map(root3, VA, PA + 0x3000, S1.rw);
    return rig;
  }
  test.each<[string, number, number, number, number | string]>([
    ["a substream", STE_S1DSS.terminate, SSID, 3, PA + 0x3000],
    ["a substream whose CD is not valid", STE_S1DSS.terminate, SSID, 4, "C_BAD_CD"],
    ["SubstreamID 0", STE_S1DSS.terminate, SSID, 0, PA],
    ["beyond S1CDMax", STE_S1DSS.terminate, SSID, 16, "C_BAD_SUBSTREAMID"],
    ["none, terminate", STE_S1DSS.terminate, 0, 0, "F_STREAM_DISABLED"],
    ["none, reserved S1DSS", 3, 0, 0, "F_STREAM_DISABLED"],
    ["none, bypass", STE_S1DSS.bypass, 0, 0, VA],
    ["none, CD 0", STE_S1DSS.ssid0, 0, 0, PA],
    ["SubstreamID 0 where CD 0 is taken", STE_S1DSS.ssid0, SSID, 0, "F_STREAM_DISABLED"],
  ])("%s", (_name, dss, flags, ssid, expected) => {
    expect(substreams(dss).outcome(1, VA, flags, ssid)).toBe(expected);
  });

  test("a SubstreamID without stage 1, or without substreams", () => {
    const rig = new Rig();
    rig.ste(1, { Config: STE_CONFIG.bypass });
    rig.stage2(2);
    rig.stage1(3);
    for (const sid of [1, 2, 3]) expect(rig.outcome(sid, 0, SSID, 1)).toBe("C_BAD_SUBSTREAMID");
  });

  test.each([
    [1, 6],
    [2, 10],
  ])("two-level CD table, format %i", (format, leafBits) => {
    const rig = new Rig();
    const root = rig.stage1(1, {}, { S1CDMax: 12, S1Fmt: format, S1ContextPtr: CDS });
    const ssid = (2 << leafBits) + 5;
    const leaf = rig.alloc(64 << leafBits, 0x1_0000);
    rig.memory.fill(CDS, 0x1000, 0);
    rig.memory.store64(CDS + 2 * 8, leaf | 1, 0);
    rig.cd(leaf + 5 * 64, { TTB0: root, ASID: 9 });
    rig.map(root, VA, PA, S1.rw);
    expect(rig.outcome(1, VA, SSID, ssid)).toBe(PA);
    expect(rig.outcome(1, VA, SSID, 0)).toBe(format === 0 ? "C_BAD_CD" : "C_BAD_SUBSTREAMID");
  });
});

describe("5.2 STRW: EL2 streams", () => {
  test("without E2H there is one half, one privilege, no ASID", () => {
    const rig = new Rig();
    const root = rig.stage1(1, { EPD1: 0, T1SZ: 16, TG1: 2, ASID: 7 }, { STRW: STE_STRW.el2 });
    rig.map(root, VA, PA, S1.priv);
    expect(rig.outcome(1, VA)).toBe(PA);
    expect(rig.outcome(1, 0xffff_8000 * 2 ** 32)).toBe("F_TRANSLATION");
    rig.memory.store64(rig.leaf(root, VA), 0, 0);
    for (const [name, values, expected] of [
      ["TLBI_NSNH_ALL", {}, PA],
      ["TLBI_NH_ALL", {}, PA],
      ["TLBI_EL2_VA", { Address: VA, ASID: 3 }, "F_TRANSLATION"],
    ] as const) {
      rig.command(name, values);
      expect(rig.outcome(1, VA)).toBe(expected);
    }
  });

  test("with E2H they are like EL1", () => {
    const rig = new Rig({ cr2: 3 });
    const root = rig.stage1(1, { ASID: 7 }, { STRW: STE_STRW.el2 });
    rig.map(root, VA, PA, S1.priv);
    expect(rig.outcome(1, VA)).toBe("F_PERMISSION");
    expect(rig.outcome(1, VA, ACCESS.privileged)).toBe(PA);
    rig.memory.store64(rig.leaf(root, VA), 0, 0);
    rig.command("TLBI_EL2_ASID", { ASID: 6 });
    expect(rig.outcome(1, VA, ACCESS.privileged)).toBe(PA);
    rig.command("TLBI_EL2_ASID", { ASID: 7 });
    expect(rig.outcome(1, VA, ACCESS.privileged)).toBe("F_TRANSLATION");
  });
});

describe("5.2 INSTCFG: attributes of the access, with PRIVCFG", () => {
  test.each<[string, Partial<Record<keyof typeof STE, number>>, number, number | string]>([
    ["unprivileged by default", {}, ACCESS.read, "F_PERMISSION"],
    ["privileged on request", {}, ACCESS.privileged, PA],
    ["PRIVCFG = privileged", { PRIVCFG: 3 }, ACCESS.read, PA],
    ["PRIVCFG = unprivileged", { PRIVCFG: 2 }, ACCESS.privileged, "F_PERMISSION"],
    ["an instruction fetch", {}, ACCESS.privileged | ACCESS.instruction, "F_PERMISSION"],
    ["INSTCFG = data", { INSTCFG: 2 }, ACCESS.privileged | ACCESS.instruction, PA],
    ["INSTCFG = instruction", { INSTCFG: 3 }, ACCESS.privileged, "F_PERMISSION"],
    ["a write is data", { INSTCFG: 3 }, ACCESS.privileged | ACCESS.write, PA],
  ])("%s", (_name, values, flags, expected) => {
    const rig = new Rig();
    const root = rig.stage1(1, {}, values);
    rig.map(root, VA, PA, S1.priv);
    // Not executable by either privilege.
    const leaf = rig.leaf(root, VA);
    rig.memory.words[rig.memory.index(leaf + 4, true)]! |= 3 << 21;
    expect(rig.outcome(1, VA, flags)).toBe(expected);
  });

  test("they do nothing without ATTR_PERMS_OVR", () => {
    const rig = new Rig({ id: PRESETS.qemuNested });
    rig.map(rig.stage1(1, { IPS: 4 }, { PRIVCFG: 3 }), VA, PA, S1.priv);
    expect(rig.outcome(1, VA)).toBe("F_PERMISSION");
  });
});

describe("how a fault ends (3.12)", () => {
  test.each([
    ["A = 1", { A: 1, R: 1 }, TRANSLATION.abort, 1],
    ["A = 0", { A: 0, R: 1 }, TRANSLATION.raz, 1],
    ["R = 0", { A: 1, R: 0 }, TRANSLATION.abort, 0],
  ])("stage 1, %s", (_name, cd, result, records) => {
    const rig = new Rig();
    rig.stage1(1, cd);
    expect(rig.access(1, VA).result).toBe(result);
    expect(rig.events()).toHaveLength(records);
  });

  test.each([
    [1, 1],
    [0, 0],
  ])("stage 2, S2R = %i", (s2r, records) => {
    const rig = new Rig();
    rig.stage2(2, 2, { S2R: s2r });
    expect(rig.access(2, VA).result).toBe(TRANSLATION.abort);
    expect(rig.events()).toHaveLength(records);
  });
});

test("5.4 TBI: the tag is ignored, in the TLB too", () => {
  const rig = new Rig();
  rig.map(rig.stage1(1, { TBI0: 1 }), VA, PA, S1.rw);
  const lo = VA | 0;
  const hi = Math.floor(VA / 2 ** 32);
  expect(rig.smmu.translate(1, 0, lo, hi | 0x5a00_0000, 0)).toBe(TRANSLATION.ok);
  expect(rig.smmu.translate(1, 0, lo, hi | 0x3300_0000, 0)).toBe(TRANSLATION.ok);
  expect(rig.smmu.counters.read("tlb.hits").device).toBe(1);
});

test("counters", () => {
  const rig = new Rig();
  rig.map(rig.stage1(1), VA, PA, S1.rw);
  for (let i = 0; i < 3; i++) rig.outcome(1, VA);
  const read = (name: string): number => rig.smmu.counters.read(name).device;
  const names = ["translations", "ste.hits", "ste.misses", "cd.misses", "tlb.hits", "tlb.misses", "walkReads"];
  expect(names.map(read)).toEqual([3, 2, 1, 1, 2, 1, 4]);
});

