import { describe, expect, test } from "vitest";
import { ACCESS, hi32, lo32 } from "@smmuv3/platform";
import { OFFSET, PAGE_REGISTERS, place, REG, S_OFFSET, STE_CONFIG, STE_S1DSS, STE_STRW } from "@smmuv3/smmu-v3-defs";
import { decodePar, PRESETS } from "../src/index.ts";
import type { AtosResult, AtosQuery } from "../src/index.ts";
import { BASE, CDS, PA, Rig, S1, S2, STRTAB } from "./rig.ts";

const VA = 0x1234_5000;
const id = PRESETS.full;

function fault(code: string, reason: "none" | "CD" | "TT" | "IN" = "none", ipa = 0): AtosResult {
  return { fault: true, code, reason, ipa };
}

type Asked = Omit<AtosQuery, "stage"> & { readonly stage?: string };

/** Runs a request through GATOS, or VATOS for `vmid`, and reads PAR. */
function request(rig: Rig, { sid, ssid, address, stage = "1", flags = 0 }: Asked, vmid?: number): AtosResult {
  const { registers, layout } = rig.smmu;
  const base = vmid === undefined ? OFFSET.GATOS_CTRL : layout.vatos + PAGE_REGISTERS.VATOS_CTRL.offset;
  if (vmid !== undefined) registers.write32(OFFSET.VATOS_SEL, vmid);
  registers.write64(base + 8, sid, ssid === undefined ? 0 : ssid | (1 << 20));
  const type = { "0": 0, "1": 1, "2": 2, "1+2": 3 }[stage]!;
  const { GATOS_ADDR } = REG;
  const bits =
    place(GATOS_ADDR.TYPE, type) |
    place(GATOS_ADDR.RnW, (flags & ACCESS.write) === 0 ? 1 : 0) |
    place(GATOS_ADDR.PnU, (flags & ACCESS.privileged) === 0 ? 0 : 1) |
    place(GATOS_ADDR.InD, (flags & ACCESS.instruction) === 0 ? 0 : 1);
  registers.write64(base + 16, (lo32(address) & ~0xfff) | bits, hi32(address));
  registers.write32(base, 1);
  expect(registers.read32(base)).toBe(0);
  const lo = registers.read64(base + 24);
  return decodePar(lo, registers.hi);
}

describe("9.1.4: results", () => {
  test("stage 1: page, block, attributes of MAIR", () => {
    const rig = new Rig({ id });
    const root = rig.stage1(1, { MAIR0: 0x0000_04ff });
    rig.map(root, VA, PA, S1.rw);
    rig.map(root, 0x4000_0000, 0x8_4000_0000, S1.rw | (1 << 2), 0x4000_0000);
    expect(request(rig, { sid: 1, address: VA })).toEqual({ fault: false, address: PA, size: 0x1000, mair: 0xff, shareability: 3 });
    // Device, which is always Outer Shareable.
    expect(request(rig, { sid: 1, address: 0x4123_4000 })).toEqual({ fault: false, address: 0x8_4000_0000, size: 0x4000_0000, mair: 0x04, shareability: 2 });
  });

  test.each([
    ["1", 0x4000_5000, 0xff],
    ["2", PA, 0xff],
    ["1+2", PA, 0x44],
  ] as const)("nested, TYPE %s", (stage, address, mair) => {
    const rig = new Rig({ id });
    // Stage 1 maps Normal Non-cacheable (for 1+2) or Write-Back.
    const { root1, root2 } = rig.nested(1, 7, { MAIR0: stage === "1+2" ? 0x44 : 0xff });
    rig.map(root1, VA, BASE + 0x5000, S1.rw);
    rig.map(root2, BASE + 0x5000, PA, S2.rw);
    const asked = stage === "2" ? BASE + 0x5000 : VA;
    expect(request(rig, { sid: 1, address: asked, stage })).toMatchObject({ fault: false, address, size: 0x1000, mair });
  });

  test("the same from atos(), on an SMMU without ATOS, with nothing recorded", () => {
    const rig = new Rig();
    rig.map(rig.stage1(1), VA, PA, S1.ro);
    expect(rig.smmu.atos({ sid: 1, address: VA, stage: "1" })).toMatchObject({ fault: false, address: PA });
    expect(rig.smmu.atos({ sid: 1, address: VA, stage: "1", flags: ACCESS.write })).toEqual(fault("F_PERMISSION"));
    expect(rig.events()).toEqual([]);
  });

  test("STE.PRIVCFG and INSTCFG do not apply", () => {
    const rig = new Rig({ id });
    rig.map(rig.stage1(1, {}, { PRIVCFG: 3 }), VA, PA, S1.priv);
    expect(rig.outcome(1, VA)).toBe(PA);
    expect(request(rig, { sid: 1, address: VA })).toEqual(fault("F_PERMISSION"));
    expect(request(rig, { sid: 1, address: VA, flags: ACCESS.privileged })).toMatchObject({ fault: false });
  });

  test("S1DSS bypass without a SubstreamID: the input address, or stage 2 of it", () => {
    const rig = new Rig({ id });
    const { root2 } = rig.nested(1, 7, {}, { S1CDMax: 2, S1DSS: STE_S1DSS.bypass });
    rig.map(root2, BASE + 0x5000, PA, S2.rw);
    expect(request(rig, { sid: 1, address: BASE + 0x5000 })).toMatchObject({ fault: false, address: BASE + 0x5000 });
    expect(request(rig, { sid: 1, address: BASE + 0x5000, stage: "1+2" })).toMatchObject({ fault: false, address: PA });
    expect(request(rig, { sid: 1, address: 2 ** 52 })).toEqual(fault("F_ADDR_SIZE"));
  });
});

type Setup = (rig: Rig) => void;

/** A page that stage 2 of a nested stream maps to itself. */
const TABLE = BASE + 0xf0_0000;

/** Takes a page from stage 2 of stream 1. */
function unmap(rig: Rig, ipa: number): void {
  const root2 = rig.memory.load64(STRTAB + 64 + 24);
  rig.memory.store64(rig.leaf(root2, ipa), 0, 0);
}

function unmapTable(rig: Rig): void {
  rig.nested(1, 7, { TTB0: TABLE });
  unmap(rig, TABLE);
}

const single: Setup = (rig) => void rig.stage1(1);
const nested: Setup = (rig) => void rig.nested(1, 7);

describe("9.1.4, 9.1.5: faults", () => {
  const rows: readonly (readonly [string, Setup, Partial<Asked>, AtosResult])[] = [
    ["TYPE 0", single, { stage: "0" }, fault("INV_REQ")],
    ["TYPE 2 with a SubstreamID", nested, { stage: "2", ssid: 1 }, fault("INV_REQ")],
    ["a stream beyond the table", single, { sid: 64 }, fault("C_BAD_STREAMID")],
    ["an STE that is invalid", (rig) => { rig.ste(1, { V: 0 }); }, {}, fault("C_BAD_STE")],
    ["Config abort", (rig) => { rig.ste(1, { Config: STE_CONFIG.abort }); }, {}, fault("INV_STAGE")],
    ["Config bypass", (rig) => { rig.ste(1, { Config: STE_CONFIG.bypass }); }, {}, fault("INV_STAGE")],
    ["stage 2 of a stage-1 stream", single, { stage: "2" }, fault("INV_STAGE")],
    ["both of a stage-1 stream", single, { stage: "1+2" }, fault("INV_STAGE")],
    ["stage 1 of a stage-2 stream", (rig) => void rig.stage2(1), {}, fault("INV_STAGE")],
    ["INV_STAGE is before C_BAD_SUBSTREAMID", single, { stage: "1+2", ssid: 3 }, fault("INV_STAGE")],
    ["a SubstreamID without CDs", single, { ssid: 3 }, fault("C_BAD_SUBSTREAMID")],
    ["no SubstreamID where one is needed", (rig) => void rig.stage1(1, {}, { S1CDMax: 2, S1DSS: STE_S1DSS.terminate }), {}, fault("F_STREAM_DISABLED")],
    ["a CD that is invalid", (rig) => void rig.stage1(1, { V: 0 }), {}, fault("C_BAD_CD")],
    ["a CD outside of RAM", (rig) => void rig.stage1(1, {}, { S1ContextPtr: 0x8000_0000 }), {}, fault("F_CD_FETCH")],
    ["stage 1 translation", single, {}, fault("F_TRANSLATION")],
    ["stage 1 access flag", (rig) => { rig.map(rig.stage1(1), VA, PA, S1.noAf); }, {}, fault("F_ACCESS")],
    ["stage 1 walk abort", (rig) => void rig.stage1(1, { TTB0: 0x8000_0000 }), {}, fault("F_WALK_EABT")],
    ["stage 2 on the CD, TYPE 1", (rig) => { nested(rig); unmap(rig, CDS); }, {}, fault("F_CD_FETCH")],
    ["stage 2 on the CD, TYPE 3", (rig) => { nested(rig); unmap(rig, CDS); }, { stage: "1+2" }, fault("F_TRANSLATION", "CD", CDS)],
    ["stage 2 on a table, TYPE 1", (rig) => { unmapTable(rig); }, {}, fault("F_WALK_EABT")],
    ["stage 2 on a table, TYPE 3", (rig) => { unmapTable(rig); }, { stage: "1+2" }, fault("F_TRANSLATION", "TT", TABLE)],
    ["stage 2 on the output, TYPE 3", (rig) => { rig.map(rig.nested(1, 7).root1, VA, 0x9000_0000, S1.rw); }, { stage: "1+2" }, fault("F_TRANSLATION", "IN", 0x9000_0000)],
    ["stage 2 on the output, permission", (rig) => {
      const { root1, root2 } = rig.nested(1, 7);
      rig.map(root1, VA, BASE + 0x5000, S1.rw);
      rig.map(root2, BASE + 0x5000, PA, S2.ro);
    }, { stage: "1+2", flags: ACCESS.write }, fault("F_PERMISSION", "IN", BASE + 0x5000)],
    ["stage 2 alone does not tell the IPA", nested, { stage: "2", address: 0x9000_0000 }, fault("F_TRANSLATION", "IN")],
    ["stage 2 alone beyond IAS is of stage 1", nested, { stage: "2", address: 2 ** 52 }, fault("F_ADDR_SIZE")],
  ];

  test.each(rows)("%s", (_name, setup, asked, result) => {
    const rig = new Rig({ id });
    setup(rig);
    expect(request(rig, { sid: 1, address: VA, ...asked })).toEqual(result);
    expect(rig.events()).toEqual([]);
  });
});

describe("9.1.6: VATOS", () => {
  test.each([
    ["a matching VMID", 7, {}, { fault: false, address: BASE + 0x5000 }],
    ["another VMID", 8, {}, fault("C_BAD_STE")],
    ["TYPE 2", 7, { stage: "2" }, fault("INV_REQ")],
    ["TYPE 3", 7, { stage: "1+2" }, fault("INV_REQ")],
    ["a stage-2 stream", 7, { sid: 2 }, fault("INV_STAGE")],
    ["a bypassing stream", 7, { sid: 3 }, fault("C_BAD_STE")],
    ["an EL2 stream, which has no VMID", 0, { sid: 4 }, fault("C_BAD_STE")],
  ] as const)("%s", (_name, vmid, asked, result) => {
    const rig = new Rig({ id });
    rig.map(rig.nested(1, 7).root1, VA, BASE + 0x5000, S1.rw);
    rig.stage2(2, 7);
    rig.ste(3, { Config: STE_CONFIG.bypass });
    rig.stage1(4, {}, { STRW: STE_STRW.el2 });
    expect(request(rig, { sid: 1, address: VA, ...asked }, vmid)).toMatchObject(result);
  });
});

describe("6.3.37: RUN", () => {
  test("needs SMMUEN", () => {
    const rig = new Rig({ id, cr0: 0xc, progress: "manual" });
    rig.write("GATOS_CTRL", 1);
    expect(rig.read("GATOS_CTRL")).toBe(0);
  });

  test("stays until the request is done, and clearing SMMUEN ends it with INTERNAL_ERR", () => {
    const rig = new Rig({ id, progress: "manual" });
    rig.write("GATOS_CTRL", 1);
    expect(rig.read("GATOS_CTRL")).toBe(1);
    rig.write("CR0", 0xc);
    rig.smmu.step(0);
    expect(rig.read("GATOS_CTRL")).toBe(0);
    expect(decodePar(rig.read("GATOS_PAR"), 0)).toEqual(fault("INTERNAL_ERR"));
  });

  test("S_GATOS looks up Non-secure streams", () => {
    const rig = new Rig({ id });
    rig.map(rig.stage1(1), VA, PA, S1.rw);
    const secure = rig.smmu.secureRegisters;
    secure.write32(S_OFFSET.S_CR0, 1);
    secure.write64(S_OFFSET.S_GATOS_SID, 1, 0);
    secure.write64(S_OFFSET.S_GATOS_ADDR, VA | 0x500, 0);
    secure.write32(S_OFFSET.S_GATOS_CTRL, 1);
    const lo = secure.read64(S_OFFSET.S_GATOS_PAR);
    expect(decodePar(lo, secure.hi)).toMatchObject({ fault: false, address: PA });
  });
});

describe("9.1: hardware updates", () => {
  const AF = 1 << 10;
  const DBM = 1 << (51 - 32);

  /** Stage-1 stream with HA and HD; its leaf has no access flag and is writable-clean. */
  function clean(policy: "passive" | "accessFlag" = "passive"): { rig: Rig; leaf: number } {
    const rig = new Rig({ id, policy: { atosHttu: policy } });
    const root = rig.stage1(1, { HA: 1, HD: 1 });
    rig.map(root, VA, PA, S1.ro & ~AF);
    const leaf = rig.leaf(root, VA);
    rig.memory.store32(leaf + 4, rig.memory.load32(leaf + 4) | DBM);
    return { rig, leaf };
  }

  test.each([
    ["a read with update", "passive", true, 0, AF | 0x80],
    ["a write with update", "passive", true, ACCESS.write, AF],
    ["a write without", "passive", false, ACCESS.write, 0x80],
    ["a write without, by policy accessFlag", "accessFlag", false, ACCESS.write, AF | 0x80],
  ] as const)("%s", (_name, policy, update, flags, bits) => {
    const { rig, leaf } = clean(policy);
    expect(rig.smmu.atos({ sid: 1, address: VA, stage: "1", flags, update })).toMatchObject({ fault: false, address: PA });
    // AP[2] and AF.
    expect(rig.memory.load32(leaf) & (AF | 0x80)).toBe(bits);
  });

  test("stage 1 of a nested stream does not mark the output dirty", () => {
    const rig = new Rig({ id });
    const { root1, root2 } = rig.nested(1, 7, {}, { S2HA: 1, S2HD: 1 });
    rig.map(root1, VA, BASE + 0x5000, S1.rw);
    rig.map(root2, BASE + 0x5000, PA, S2.ro);
    const leaf = rig.leaf(root2, BASE + 0x5000);
    rig.memory.store32(leaf + 4, rig.memory.load32(leaf + 4) | DBM);
    const asked = { sid: 1, address: VA, flags: ACCESS.write, update: true } as const;
    expect(rig.smmu.atos({ ...asked, stage: "1" })).toMatchObject({ fault: false, address: BASE + 0x5000 });
    expect(rig.memory.load32(leaf) & 0x80).toBe(0);
    expect(rig.smmu.atos({ ...asked, stage: "1+2" })).toMatchObject({ fault: false, address: PA });
    expect(rig.memory.load32(leaf) & 0x80).toBe(0x80);
  });
});

describe("6.3.40: PAR", () => {
  test.each<[string, number, number, AtosResult]>([
    ["a block of 16 TiB", 1 << 11, 0x800 | (0x44 << 24), { fault: false, address: 0, size: 2 ** 44, mair: 0x44, shareability: 0 }],
    ["a block of 2 MiB", (1 << 20) | (1 << 11) | (3 << 8), 1, { fault: false, address: 2 ** 32, size: 2 ** 21, mair: 0, shareability: 3 }],
    ["an unknown code", 1 | (0xe5 << 4), 0, fault("0xe5")],
  ])("%s", (_name, lo, hi, result) => {
    expect(decodePar(lo, hi)).toEqual(result);
  });
});

test.each([["qemuStage1", "1"], ["qemuStage2", "2"], ["qemuNested", "1+2"]] as const)("9.1: without a stage, atos() of %s asks for %s", (preset, stage) => {
  const rig = new Rig({ id: PRESETS[preset] });
  const tables = { IPS: 4 };
  if (preset === "qemuStage2") rig.map(rig.stage2(1, 1, { S2PS: 4, S2T0SZ: 20 }), VA, PA, S2.rw);
  else rig.map(rig.stage1(1, tables), VA, PA, S1.rw);
  const asked = { sid: 1, address: VA } as const;
  expect(rig.smmu.atos(asked)).toEqual(rig.smmu.atos({ ...asked, stage }));
});

test("9.1.4: attributes of MAIR1, and an instruction fetch", () => {
  const rig = new Rig({ id });
  const XN = 1 << 22;
  const root = rig.stage1(1, { MAIR1: 0x4400 });
  rig.map(root, VA, PA, S1.rw | (5 << 2));
  expect(request(rig, { sid: 1, address: VA })).toMatchObject({ fault: false, mair: 0x44 });
  rig.memory.store32(rig.leaf(root, VA) + 4, XN | 8);
  expect(request(rig, { sid: 1, address: VA, flags: ACCESS.instruction })).toEqual(fault("F_PERMISSION"));
});
