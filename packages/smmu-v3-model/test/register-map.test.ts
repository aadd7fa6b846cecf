import { describe, expect, test } from "vitest";
import {
  ECMDQ_CONTROL_PAGE,
  ID_REGS,
  OFFSET,
  PAGE1,
  PAGE_REGISTERS,
  place,
  REG,
  REGISTERS,
  registerMask,
  S_OFFSET,
  S_REG,
  SECURE_REGISTERS,
} from "@smmuv3/smmu-v3-defs";
import type { RegisterDef, RegisterName, SecureRegisterName } from "@smmuv3/smmu-v3-defs";
import { Memory } from "@smmuv3/platform";
import { choosePolicy, POLICIES, PRESETS, RegisterAbort, SmmuV3 } from "../src/index.ts";
import type { IdRegisters, PolicyChoice, SmmuV3Options } from "../src/index.ts";
import { Rig } from "./rig.ts";

function bare(id: IdRegisters, policy: PolicyChoice = "strict", more: Partial<SmmuV3Options> = {}): SmmuV3 {
  return new SmmuV3({ memory: Memory.allocate({ base: 0x4000_0000, size: 0x1000 }), id, policy, ...more });
}

const { full, reference, qemuNested } = PRESETS;
const withDpt: IdRegisters = { ...full, IDR3: full.IDR3 | place(REG.IDR3.DPT, 1) };
const withS2pi: IdRegisters = { ...full, IDR3: full.IDR3 | place(REG.IDR3.S2PI, 1) };
const NAMES = Object.keys(REGISTERS) as RegisterName[];
const SECURE_NAMES = Object.keys(SECURE_REGISTERS) as SecureRegisterName[];

describe("6.2.1, 6.2.2: every register of a full SMMU", () => {
  test.each(NAMES)("%s takes its fields, and only those", (name) => {
    const def: RegisterDef = REGISTERS[name];
    const { registers } = bare(full);
    const { offset } = def;
    const before = [registers.read32(offset), def.bits === 64 ? registers.read32(offset + 4) : 0];
    registers.write32(offset, -1);
    if (def.bits === 64) registers.write32(offset + 4, -1);
    const after = [registers.read32(offset), def.bits === 64 ? registers.read32(offset + 4) : 0];
    if (def.access === "id" || def.access === "ro") expect(after).toEqual(before);
    const mask = registerMask(name);
    for (const half of [0, 1]) expect(after[half]! & ~mask[half]!, name).toBe(0);
    if (def.access === "rw" && def.feature === undefined && name !== "GERRORN") expect(after[0]).not.toBe(0);
  });
});

describe("features without which a register is RES0", () => {
  test.each([
    ["6.3.17", "S2PII", qemuNested, withS2pi],
    ["6.3.22", "GERROR_IRQ_CFG1", qemuNested, full],
    ["6.3.33", "PRIQ_BASE", qemuNested, full],
    ["6.3.38", "GATOS_SID", qemuNested, full],
    ["6.3.39", "GATOS_ADDR", qemuNested, full],
    ["6.3.44", "VATOS_SEL", qemuNested, full],
    ["6.3.46", "DPT_BASE", full, withDpt],
    ["6.3.47", "DPT_BASE_CFG", full, withDpt],
  ] as const)("%s: %s", (_section, name, without, having) => {
    for (const [id, writable] of [[without, false], [having, true]] as const) {
      const { registers } = bare(id);
      registers.write32(OFFSET[name], -1);
      expect(registers.read32(OFFSET[name]) !== 0, name).toBe(writable);
    }
  });

  test("6.3.42, 6.3.43: GMPAM and GBPMPAM need MPAM and UPDATE", () => {
    for (const name of ["GMPAM", "GBPMPAM"] as const) {
      const { registers } = bare(full);
      registers.write32(OFFSET[name], 5);
      expect(registers.read32(OFFSET[name])).toBe(0);
      registers.write32(OFFSET[name], 5 | -0x8000_0000);
      expect(registers.read32(OFFSET[name])).toBe(5);
      const without = bare(reference).registers;
      without.write32(OFFSET[name], 5 | -0x8000_0000);
      expect(without.read32(OFFSET[name])).toBe(0);
    }
  });

  test("6.3.36: PRIQ_IRQ_CFG2.LO is there without MSIs", () => {
    const id = { ...full, IDR0: full.IDR0 & ~place(REG.IDR0.MSI, 1), IDR1: full.IDR1 & 0x7fff_ffff };
    const { registers } = bare(id);
    registers.write32(OFFSET.PRIQ_IRQ_CFG2, -1);
    expect(registers.read32(OFFSET.PRIQ_IRQ_CFG2)).toBe(-0x8000_0000);
  });

  test("6.3.38: GATOS_SID has no bits beyond SIDSIZE and SSIDSIZE", () => {
    const id = { ...full, IDR1: (full.IDR1 & ~0x7ff) | 16 | (8 << 6) };
    const { registers } = bare(id);
    registers.write64(OFFSET.GATOS_SID, -1, -1);
    expect([registers.read64(OFFSET.GATOS_SID), registers.hi]).toEqual([0xffff, 0x10_00ff]);
  });
});

describe("guards", () => {
  test.each(["DPT_BASE_CFG", "DPT_BASE"] as const)("6.3.46: %s is read-only while DPT_WALK_EN is set", (name) => {
    const { registers } = bare(withDpt);
    registers.write32(OFFSET.CR0, place(REG.CR0.DPT_WALK_EN, 1));
    registers.write32(OFFSET[name], 0x3000 | 3);
    expect(registers.read32(OFFSET[name])).toBe(0);
    registers.write32(OFFSET.CR0, 0);
    registers.write32(OFFSET[name], 0x3000 | 3);
    expect(registers.read32(OFFSET[name])).not.toBe(0);
  });

  test("6.3.48: DPT_CFG_FAR takes only the write that clears FAULT", () => {
    const { registers } = bare(withDpt);
    registers.write64(OFFSET.DPT_CFG_FAR, -1, -1);
    expect([registers.read64(OFFSET.DPT_CFG_FAR), registers.hi]).toEqual([0, 0]);
  });

  test("6.3.24, 6.3.26: preset tables and queues are read-only", () => {
    const { registers } = bare({ ...reference, IDR1: reference.IDR1 | 0x6000_0000 });
    for (const name of ["STRTAB_BASE", "STRTAB_BASE_CFG", "CMDQ_BASE", "EVENTQ_BASE"] as const) {
      registers.write32(OFFSET[name], -1);
      expect(registers.read32(OFFSET[name])).toBe(0);
    }
  });

  test("6.3.11: an enabled ECMDQ closes the queue attributes of CR1", () => {
    const smmu = bare(full);
    const prod = smmu.layout.ecmdqPages[0]! + PAGE_REGISTERS.ECMDQ_PROD.offset;
    smmu.registers.write32(prod, -0x8000_0000);
    smmu.registers.write32(OFFSET.CR1, -1);
    expect(smmu.registers.read32(OFFSET.CR1)).toBe(0xfc0);
  });

  test("6.3.39, 6.3.44: the ATOS registers are read-only while RUN is set", () => {
    const rig = new Rig({ id: full, progress: "manual", cr0: 0xd });
    const { registers, layout } = rig.smmu;
    rig.write("GATOS_CTRL", 1);
    registers.write32(layout.vatos + PAGE_REGISTERS.VATOS_CTRL.offset, 1);
    for (const offset of [OFFSET.GATOS_SID, OFFSET.GATOS_ADDR, OFFSET.VATOS_SEL, layout.vatos + PAGE_REGISTERS.VATOS_SID.offset]) {
      registers.write32(offset, 0x1000);
      expect(registers.read32(offset)).toBe(0);
    }
    rig.smmu.step(0);
    rig.write("VATOS_SEL", 7);
    expect(rig.read("VATOS_SEL")).toBe(7);
  });
});

describe("6.1: optional pages", () => {
  test("VATOS page, then command queue control pages", () => {
    const { layout, registers } = bare({ ...full, IDR2: 2, IDR6: 0x0103_0000 });
    expect(layout).toEqual({ vatos: 0x4_0000, ecmdqPages: [0x5_0000, 0x6_0000], ecmdqsPerPage: 8, ecmdqStride: 0x2000, size: 0x7_0000 });
    // 6.3.49 to 6.3.51: 64K granule, registers, enabled.
    const at = ECMDQ_CONTROL_PAGE.base + ECMDQ_CONTROL_PAGE.stride;
    expect([0, 4, 8, 12].map((offset) => registers.read32(at + offset))).toEqual([0x6_0003, 0, 1, 1]);
  });

  test("ECMDQ registers: BASE is guarded by EN, CONS shows only RD to writes", () => {
    const { registers, layout } = bare(full);
    const queue = layout.ecmdqPages[0]! + 3 * layout.ecmdqStride;
    registers.write64(queue, 0x4000_0004, 0);
    registers.write32(queue + 12, -1);
    expect([registers.read32(queue), registers.read32(queue + 12)]).toEqual([0x4000_0004, 0xf_ffff]);
  });

  test("without them the window ends behind page 1", () => {
    expect(bare(reference).layout).toMatchObject({ vatos: -1, ecmdqPages: [], size: 0x2_0000 });
  });

  test("ID_REGS: component and peripheral identification", () => {
    const { registers } = bare({ ...reference, peripheral: [1, 2, 3, 4, 5, 6, 7, 8] });
    const words = Array.from({ length: ID_REGS.words }, (_, i) => registers.read32(ID_REGS.offset + 4 * i));
    expect(words).toEqual([5, 6, 7, 8, 1, 2, 3, 4, 0x0d, 0xf0, 0x05, 0xb1]);
  });
});

describe("Secure registers", () => {
  test("6.2: RAZ/WI to a Non-secure access, and without Secure state to any", () => {
    const { registers, secureRegisters } = bare(full);
    for (const name of SECURE_NAMES) {
      registers.write32(S_OFFSET[name], -1);
      expect(registers.read32(S_OFFSET[name]), name).toBe(0);
    }
    expect(secureRegisters.read32(S_OFFSET.S_IDR1) >>> 0).toBe(0xa000_0020);
    const none = bare(reference).secureRegisters;
    for (const name of SECURE_NAMES) {
      none.write32(S_OFFSET[name], -1);
      expect(none.read32(S_OFFSET[name]), name).toBe(0);
    }
  });

  test.each([
    ["6.3.73", "S_STRTAB_BASE_CFG", 0x5, "S_CR0", 1],
    ["6.3.60", "S_CR2", 0x2, "S_CR0", 1],
    ["6.3.74", "S_CMDQ_BASE", 0x4, "S_CR0", 8],
    ["6.3.78", "S_EVENTQ_PROD", 0x3, "S_CR0", 4],
    ["6.3.59", "S_CR1", 0x15, "S_CR0", 4],
    ["6.3.70", "S_GERROR_IRQ_CFG1", 0x77, "S_IRQ_CTRL", 1],
    ["6.3.82", "S_EVENTQ_IRQ_CFG2", 0x3f, "S_IRQ_CTRL", 4],
  ] as const)("%s: %s = %i is taken while %s has not bit %i", (_section, name, value, control, bit) => {
    const { secureRegisters: registers } = bare(full);
    registers.write32(S_OFFSET[control], bit);
    registers.write32(S_OFFSET[name], value);
    expect(registers.read32(S_OFFSET[name])).toBe(0);
    registers.write32(S_OFFSET[control], 0);
    registers.write32(S_OFFSET[name], value);
    expect(registers.read32(S_OFFSET[name])).toBe(value);
  });

  test("6.3.57: S_CR0 is acknowledged, S_GBPA needs UPDATE", () => {
    const { secureRegisters: registers } = bare(full);
    registers.write32(S_OFFSET.S_CR0, -1);
    expect(registers.read32(S_OFFSET.S_CR0ACK)).toBe(0x3ed);
    registers.write32(S_OFFSET.S_GBPA, 1 << 20);
    expect(registers.read32(S_OFFSET.S_GBPA)).toBe(0);
    registers.write32(S_OFFSET.S_GBPA, (1 << 20) | -0x8000_0000);
    expect(registers.read32(S_OFFSET.S_GBPA)).toBe(1 << 20);
  });

  test("6.3.62: S_INIT.INV_ALL empties every cache, not while SMMUEN is set", () => {
    const rig = new Rig({ id: full });
    rig.map(rig.stage1(1), 0x1000, 0x8_0000_0000, 0xf40);
    rig.access(1, 0x1000);
    rig.smmu.secureRegisters.write32(S_OFFSET.S_INIT, place(S_REG.S_INIT.INV_ALL, 1));
    expect(rig.smmu.cacheStats()).toMatchObject({ tlb: 1, stes: 1, cds: 1 });
    rig.write("CR0", 0xc);
    rig.smmu.secureRegisters.write32(S_OFFSET.S_INIT, 1);
    expect(rig.smmu.cacheStats()).toMatchObject({ tlb: 0, stes: 0, cds: 0 });
    expect(rig.smmu.secureRegisters.read32(S_OFFSET.S_INIT)).toBe(0);
  });
});

describe("policy", () => {
  test("an option or a name that does not exist is refused", () => {
    expect(() => choosePolicy({ page1: "alias" } as never)).toThrow(/no option "page1"/);
    expect(() => choosePolicy("loose" as never)).toThrow(/one of strict, adversarial, v3_1, qemuLike/);
    expect(choosePolicy({ uut: true })).toEqual({ ...POLICIES.strict, uut: true });
  });

  test("registerAccess: razWi, spread, abort (6.2)", () => {
    const strict = bare(reference).registers;
    expect([strict.read32(2), strict.read64(OFFSET.IDR0), strict.hi]).toEqual([0, 0, 0]);
    const spread = bare(reference, { registerAccess: "spread" }).registers;
    expect([spread.read64(OFFSET.IDR0), spread.hi]).toEqual([reference.IDR0, reference.IDR1]);
    spread.write64(OFFSET.IRQ_CTRL, 5, 0);
    spread.write32(OFFSET.CR1 + 2, 0x2);
    expect([spread.read32(OFFSET.IRQ_CTRL), spread.read32(OFFSET.CR1), spread.read32(OFFSET.CR2)]).toEqual([5, 2, 2]);
    expect(spread.read32(OFFSET.CR1 + 2)).toBe(2);
    const abort = bare(reference, { registerAccess: "abort" }).registers;
    expect(() => abort.read64(OFFSET.IDR0)).toThrow(RegisterAbort);
    expect(() => { abort.write32(2, 0); }).toThrow(/write of 4 bytes at 0x2/);
    expect(abort.read64(OFFSET.STRTAB_BASE)).toBe(0);
  });

  test.each([["res0", 0], ["alias", reference.IDR0]] as const)("page1Alias: %s (6.2.2)", (page1Alias, value) => {
    const { registers } = bare(reference, { page1Alias });
    expect(registers.read32(PAGE1 + OFFSET.IDR0)).toBe(value);
    registers.write32(OFFSET.EVENTQ_CONS, 3);
    expect(registers.read32(OFFSET.EVENTQ_CONS)).toBe(3);
  });

  test.each([["res0", 0], ["alias", 3]] as const)("page0IndexAlias: %s (6.2.1)", (page0IndexAlias, value) => {
    const { registers } = bare(reference, { page0IndexAlias });
    registers.write32(OFFSET.EVENTQ_CONS - PAGE1, 3);
    expect([registers.read32(OFFSET.EVENTQ_CONS), registers.read32(OFFSET.EVENTQ_CONS - PAGE1)]).toEqual([value, value]);
  });

  test("6.2: unknownReset: what is UNKNOWN is poisoned, what is not stays", () => {
    const { registers } = bare(full, { unknownReset: "poison" });
    for (const name of NAMES) {
      const def: RegisterDef = REGISTERS[name];
      const value = registers.read32(def.offset);
      if (def.reset === 0) expect(value, name).toBe(0);
      else if (def.access === "rw" && def.feature === undefined && def.reset === undefined) expect(value, name).not.toBe(0);
      if (def.access !== "id") expect(value & ~registerMask(name)[0], name).toBe(0);
    }
    // 6.3.97: OVFLG resets to 0.
    expect(registers.read32(OFFSET.PRIQ_PROD)).toBe(0xf_ffff);
  });

  test("6.2: unknownReset: a seed gives the same values each time, another seed others", () => {
    const base = (seed: number): number => bare(full, { unknownReset: seed }).registers.read32(OFFSET.STRTAB_BASE);
    expect(base(1)).toBe(base(1));
    expect(base(1)).not.toBe(base(2));
  });

  test.each([["bypass", 0], ["abort", 1]] as const)("gbpaReset: %s (6.3.14)", (gbpaReset, result) => {
    expect(bare(reference, { gbpaReset }).translate(1, 0, 0x1000, 0, 0)).toBe(result);
  });

  test.each([["ignore", 6], ["apply", 9]] as const)("guardedWrite: %s (6.3.24)", (guardedWrite, value) => {
    const rig = new Rig({ policy: { guardedWrite } });
    rig.write("STRTAB_BASE_CFG", 9);
    expect(rig.read("STRTAB_BASE_CFG")).toBe(value);
  });

  test.each([["ignore", 0], ["apply", 0xfff]] as const)("guardedWrite: %s, of CR1 (6.3.11)", (guardedWrite, value) => {
    const rig = new Rig({ policy: { guardedWrite } });
    rig.write("CR1", -1);
    expect(rig.read("CR1")).toBe(value);
  });

  test.each([["ignore", 0, 0], ["store", 0x10_0000, 0], ["apply", 0x10_0000, 1]] as const)(
    "updateBit: %s (6.3.14.1)",
    (updateBit, value, result) => {
      const smmu = bare(reference, { updateBit });
      smmu.registers.write32(OFFSET.GBPA, 0x10_0000);
      expect([smmu.registers.read32(OFFSET.GBPA), smmu.translate(1, 0, 0x1000, 0, 0)]).toEqual([value, result]);
    },
  );

  test.each([["ignore", 0xc], ["replace", 0xd]] as const)("secondWrite: %s (6.3.9)", (secondWrite, value) => {
    const rig = new Rig({ policy: { secondWrite }, progress: "manual", cr0: 0 });
    rig.write("CR0", 0xc);
    rig.write("CR0", 0xd);
    rig.smmu.step(0);
    expect(rig.read("CR0ACK")).toBe(value);
  });

  test.each([1, 3])("updateLatency: %i steps, GBPA takes effect with its UPDATE (6.3.9, 6.3.14)", (updateLatency) => {
    const smmu = bare(reference, { updateLatency }, { progress: "manual" });
    smmu.registers.write32(OFFSET.GBPA, 0x10_0000 | -0x8000_0000);
    for (let step = 0; step < updateLatency; step++) {
      expect(smmu.registers.read32(OFFSET.GBPA)).toBe(0x10_0000 | -0x8000_0000);
      expect(smmu.translate(1, 0, 0x1000, 0, 0)).toBe(0);
      smmu.step(0);
    }
    expect(smmu.registers.read32(OFFSET.GBPA)).toBe(0x10_0000);
    expect(smmu.translate(1, 0, 0x1000, 0, 0)).toBe(1);
  });
});
