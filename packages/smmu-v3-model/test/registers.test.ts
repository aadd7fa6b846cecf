import { describe, expect, test } from "vitest";
import { OFFSET, PAGE1, REGISTER_SPACE } from "@smmuv3/smmu-v3-defs";
import type { RegisterName } from "@smmuv3/smmu-v3-defs";
import { Memory } from "@smmuv3/platform";
import { PRESETS, SmmuV3 } from "../src/index.ts";
import { Rig } from "./rig.ts";

function bare(id = PRESETS.reference): SmmuV3 {
  return new SmmuV3({ memory: Memory.allocate({ base: 0x4000_0000, size: 0x1000 }), id });
}

function writeRead(smmu: SmmuV3, name: RegisterName, value: number): number {
  smmu.registers.write32(OFFSET[name], value);
  return smmu.registers.read32(OFFSET[name]) >>> 0;
}

describe("6.3.1: identification", () => {
  test.each(["IDR0", "IDR1", "IDR3", "IDR5", "AIDR"] as const)("%s is the preset's and read-only", (name) => {
    const smmu = bare(PRESETS.qemuNested);
    expect(writeRead(smmu, name, 0xffff_ffff)).toBe(PRESETS.qemuNested[name]! >>> 0);
  });

  test("unused offsets, and those beyond the window, read as zero", () => {
    const { registers } = bare();
    for (const offset of [0x4c, 0x800, PAGE1, REGISTER_SPACE, -4, 2]) {
      registers.write32(offset, -1);
      expect(registers.read32(offset)).toBe(0);
    }
  });
});

describe("6.3: bits that do not exist", () => {
  test.each([
    ["CR0 without ATS, PRI, VMW", PRESETS.qemuNested, "CR0", 0xd],
    ["CR0 with VMW", PRESETS.reference, "CR0", 0x1cd],
    ["IRQ_CTRL without PRI", PRESETS.reference, "IRQ_CTRL", 5],
    ["CR2 without EL2", PRESETS.qemuNested, "CR2", 0x6],
    ["CR2 with EL2", PRESETS.reference, "CR2", 0x7],
    ["an MSI register without MSIs", PRESETS.qemuNested, "EVENTQ_IRQ_CFG1", 0],
    ["a PRIQ register without PRI", PRESETS.reference, "PRIQ_PROD", 0],
  ] as const)("%s", (_name, id, register, value) => {
    expect(writeRead(bare(id), register, -1)).toBe(value);
  });

  test("they do not echo into CR0ACK", () => {
    const smmu = bare(PRESETS.qemuNested);
    smmu.registers.write32(OFFSET.CR0, -1);
    expect(smmu.registers.read32(OFFSET.CR0ACK)).toBe(0xd);
  });
});

describe("6.3.14.1: GBPA", () => {
  test("is written only with UPDATE, which clears", () => {
    const smmu = bare();
    expect(writeRead(smmu, "GBPA", 0x10_0000)).toBe(0);
    expect(writeRead(smmu, "GBPA", 0x8010_0000)).toBe(0x10_0000);
  });

  test("ignores writes while an update is under way", () => {
    const rig = new Rig({ progress: "manual" });
    rig.write("GBPA", 0x8010_0000);
    expect(rig.read("GBPA")).toBe(0x8010_0000);
    rig.write("GBPA", 0x8000_0001);
    expect(rig.read("GBPA")).toBe(0x8010_0000);
    rig.smmu.step(0);
    expect(rig.read("GBPA")).toBe(0x10_0000);
  });
});

describe("6.3.9: acknowledgements", () => {
  test("a second change of CR0 before the first is acknowledged is ignored", () => {
    const rig = new Rig({ progress: "clocked", cr0: 0 });
    rig.write("CR0", 0xc);
    rig.write("CR0", 0xd);
    expect([rig.read("CR0"), rig.read("CR0ACK")]).toEqual([0xc, 0]);
    rig.smmu.tick();
    rig.write("CR0", 0xd);
    rig.smmu.tick();
    expect([rig.read("CR0"), rig.read("CR0ACK")]).toEqual([0xd, 0xd]);
  });
});

describe("6.2: widths", () => {
  test("a 64-bit register is two halves or one access", () => {
    const { registers } = bare();
    registers.write32(OFFSET.STRTAB_BASE + 4, 0x4000_0001);
    registers.write32(OFFSET.STRTAB_BASE, 0x4000_1040);
    expect([registers.read64(OFFSET.STRTAB_BASE), registers.hi]).toEqual([0x4000_1040, 0x4000_0001]);
    registers.write64(OFFSET.STRTAB_BASE, -1, -1);
    expect([registers.read64(OFFSET.STRTAB_BASE), registers.hi]).toEqual([-64, 0x40ff_ffff]);
  });

  test("64-bit accesses of 32-bit registers and misaligned ones do nothing", () => {
    const { registers } = bare();
    registers.write64(OFFSET.IRQ_CTRL, 5, 0);
    expect(registers.read32(OFFSET.IRQ_CTRL)).toBe(0);
    expect(registers.read64(OFFSET.IDR0)).toBe(0);
    registers.write64(OFFSET.STRTAB_BASE + 4, 64, 64);
    expect(registers.read64(OFFSET.STRTAB_BASE)).toBe(0);
  });
});

test("6.3.9: reset restores registers and forgets everything", () => {
  const rig = new Rig();
  rig.map(rig.stage1(1), 0x1000, 0x8_0000_0000, 0xf40);
  expect(rig.outcome(1, 0x1000)).toBe(0x8_0000_0000);
  rig.smmu.reset();
  expect([rig.read("CR0"), rig.read("CR0ACK"), rig.read("IDR0")]).toEqual([0, 0, PRESETS.reference.IDR0 >>> 0]);
  expect(rig.smmu.cacheStats()).toMatchObject({ tlb: 0, stes: 0, cds: 0 });
});

test("a profile that does not exist is refused by name", () => {
  const memory = Memory.allocate({ base: 0, size: 0x1000 });
  expect(() => new SmmuV3({ memory, profile: "slow" as never })).toThrow(/profile must be one of lazy, eager, finite.*slow/);
});
