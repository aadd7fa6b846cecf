// Every register with a guard: taken while the guard is open, ignored while it is closed. The rows are those of the definitions.
import { describe, expect, test } from "vitest";
import { OFFSET, PAGE_REGISTERS, place, REG, REGISTERS, S_OFFSET, S_REG, SECURE_REGISTERS } from "@smmuv3/smmu-v3-defs";
import type { Guard, RegisterDef, RegisterName, SecureRegisterName } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "../src/index.ts";
import type { IdRegisters } from "../src/index.ts";
import { Rig } from "./rig.ts";

const { CR0, IRQ_CTRL, IDR3 } = REG;
const { S_CR0, S_IRQ_CTRL } = S_REG;
/** With every feature that a register can depend on. */
const everything: IdRegisters = {
  ...PRESETS.full,
  IDR3: PRESETS.full.IDR3 | place(IDR3.DPT, 1) | place(IDR3.S2PI, 1) | place(IDR3.MPAM, 1),
};

function machine(): Rig {
  const rig = new Rig({ id: everything, progress: "manual", cr0: 0 });
  rig.smmu.secureRegisters.write32(OFFSET.IRQ_CTRL, 0);
  rig.smmu.step(0);
  return rig;
}

/** Writes through the Secure port, which reaches both banks. */
function write(rig: Rig, offset: number, value: number, settle = true): void {
  rig.smmu.secureRegisters.write32(offset, value);
  if (settle) rig.smmu.step(0);
}

interface Gate {
  readonly section: string;
  readonly what: string;
  readonly close: (rig: Rig) => void;
  readonly open: (rig: Rig) => void;
}

function enable(section: string, what: string, offset: number, bit: number): Gate {
  return {
    section, what,
    close: (rig) => { write(rig, offset, bit); },
    open: (rig) => { write(rig, offset, 0); },
  };
}

/** RUN stays set until the request is served. */
function running(section: string, what: string, cr0: number, control: (rig: Rig) => number): Gate {
  return {
    section, what,
    close: (rig) => {
      write(rig, cr0, 1);
      write(rig, control(rig), 1, false);
    },
    open: (rig) => {
      rig.smmu.step(1);
      write(rig, cr0, 0);
    },
  };
}

function vatosControl({ smmu }: Rig): number {
  return smmu.layout.vatos + PAGE_REGISTERS.VATOS_CTRL.offset;
}

function ecmdqProd({ smmu }: Rig): number {
  return smmu.layout.ecmdqPages[0]! + PAGE_REGISTERS.ECMDQ_PROD.offset;
}

const GATES: Readonly<Record<Guard, Gate>> = {
  smmuen: enable("6.3.9", "CR0.SMMUEN", OFFSET.CR0, place(CR0.SMMUEN, 1)),
  cmdqen: enable("6.3.9", "CR0.CMDQEN", OFFSET.CR0, place(CR0.CMDQEN, 1)),
  eventqen: enable("6.3.9", "CR0.EVENTQEN", OFFSET.CR0, place(CR0.EVENTQEN, 1)),
  priqen: enable("6.3.9", "CR0.PRIQEN", OFFSET.CR0, place(CR0.PRIQEN, 1)),
  "dpt-walk-en": enable("6.3.9", "CR0.DPT_WALK_EN", OFFSET.CR0, place(CR0.DPT_WALK_EN, 1)),
  "irq-gerror": enable("6.3.16", "IRQ_CTRL.GERROR_IRQEN", OFFSET.IRQ_CTRL, place(IRQ_CTRL.GERROR_IRQEN, 1)),
  "irq-eventq": enable("6.3.16", "IRQ_CTRL.EVENTQ_IRQEN", OFFSET.IRQ_CTRL, place(IRQ_CTRL.EVENTQ_IRQEN, 1)),
  "irq-priq": enable("6.3.16", "IRQ_CTRL.PRIQ_IRQEN", OFFSET.IRQ_CTRL, place(IRQ_CTRL.PRIQ_IRQEN, 1)),
  "gatos-idle": running("6.3.37", "GATOS_CTRL.RUN", OFFSET.CR0, () => OFFSET.GATOS_CTRL),
  "vatos-idle": running("6.3.99", "VATOS_CTRL.RUN", OFFSET.CR0, vatosControl),
  "s-gatos-idle": running("6.3.83", "S_GATOS_CTRL.RUN", S_OFFSET.S_CR0, () => S_OFFSET.S_GATOS_CTRL),
  "s-smmuen": enable("6.3.57", "S_CR0.SMMUEN", S_OFFSET.S_CR0, place(S_CR0.SMMUEN, 1)),
  "s-cmdqen": enable("6.3.57", "S_CR0.CMDQEN", S_OFFSET.S_CR0, place(S_CR0.CMDQEN, 1)),
  "s-eventqen": enable("6.3.57", "S_CR0.EVENTQEN", S_OFFSET.S_CR0, place(S_CR0.EVENTQEN, 1)),
  "s-irq-gerror": enable("6.3.65", "S_IRQ_CTRL.GERROR_IRQEN", S_OFFSET.S_IRQ_CTRL, place(S_IRQ_CTRL.GERROR_IRQEN, 1)),
  "s-irq-eventq": enable("6.3.65", "S_IRQ_CTRL.EVENTQ_IRQEN", S_OFFSET.S_IRQ_CTRL, place(S_IRQ_CTRL.EVENTQ_IRQEN, 1)),
  "ecmdq-en": {
    section: "3.5.6.2",
    what: "ECMDQ_PROD.EN",
    close: (rig) => { write(rig, ecmdqProd(rig), -0x8000_0000); },
    open: (rig) => { write(rig, ecmdqProd(rig), 0); },
  },
};

interface Row {
  readonly name: string;
  readonly section: string;
  readonly what: string;
  readonly gate: Gate;
  readonly offset: (rig: Rig) => number;
}

function rowsOf(registers: Readonly<Record<string, RegisterDef>>, base: (name: string, rig: Rig) => number): Row[] {
  return Object.entries(registers).flatMap(([name, { guard, section, offset }]) => {
    if (guard === undefined || name.endsWith("ATOS_CTRL")) return [];
    return [{ name, section, what: GATES[guard].what, gate: GATES[guard], offset: (rig: Rig) => base(name, rig) + offset }];
  });
}

const ROWS: readonly Row[] = [
  ...rowsOf(REGISTERS, () => 0),
  ...rowsOf(SECURE_REGISTERS, () => 0),
  ...rowsOf(PAGE_REGISTERS, (name, { smmu }) => (name.startsWith("VATOS") ? smmu.layout.vatos : smmu.layout.ecmdqPages[0]!)),
];

describe("guards", () => {
  test.each(ROWS)("$section: $name is read-only while $what is 1", ({ gate, offset }) => {
    const rig = machine();
    const at = offset(rig);
    // Without bit 31, where ECMDQ_CONS acknowledges the gate itself.
    const read = (): number => rig.smmu.secureRegisters.read32(at) & 0x7fff_ffff;
    write(rig, at, 0);
    expect(read()).toBe(0);
    gate.close(rig);
    write(rig, at, -1, false);
    expect(read(), "closed").toBe(0);
    gate.open(rig);
    write(rig, at, -1, false);
    const all = read();
    expect(all, "open").not.toBe(0);
    gate.close(rig);
    write(rig, at, 0, false);
    expect(read(), "closed again").toBe(all);
  });

  test.each(["GATOS_CTRL", "S_GATOS_CTRL"] as const)("6.3.37: %s.RUN is not cleared by a write, and needs SMMUEN", (name) => {
    const rig = machine();
    const at = name === "GATOS_CTRL" ? OFFSET.GATOS_CTRL : S_OFFSET.S_GATOS_CTRL;
    write(rig, at, 1);
    expect(rig.smmu.secureRegisters.read32(at)).toBe(0);
    write(rig, name === "GATOS_CTRL" ? OFFSET.CR0 : S_OFFSET.S_CR0, 1);
    write(rig, at, 1, false);
    write(rig, at, 0, false);
    expect(rig.smmu.secureRegisters.read32(at)).toBe(1);
  });

  const QUEUES = [
    ["SMMUEN", CR0.SMMUEN, 0xfc0], ["CMDQEN", CR0.CMDQEN, 0x3f], ["EVENTQEN", CR0.EVENTQEN, 0x3f], ["PRIQEN", CR0.PRIQEN, 0x3f],
  ] as const;
  test.each(QUEUES)("6.3.11: CR1 attributes are read-only while CR0.%s is 1", (_name, bit, closed) => {
    const rig = machine();
    write(rig, OFFSET.CR0, place(bit, 1));
    write(rig, OFFSET.CR1, -1);
    expect(rig.read("CR1")).toBe(0xfff & ~closed);
    write(rig, OFFSET.CR0, 0);
    write(rig, OFFSET.CR1, -1);
    expect(rig.read("CR1")).toBe(0xfff);
  });
  test.each([["SMMUEN", S_CR0.SMMUEN, 0xfc0], ["CMDQEN", S_CR0.CMDQEN, 0x3f], ["EVENTQEN", S_CR0.EVENTQEN, 0x3f]] as const)(
    "6.3.59: S_CR1 attributes are read-only while S_CR0.%s is 1", (_name, bit, closed) => {
      const rig = machine();
      write(rig, S_OFFSET.S_CR0, place(bit, 1));
      write(rig, S_OFFSET.S_CR1, -1);
      expect(rig.smmu.secureRegisters.read32(S_OFFSET.S_CR1)).toBe(0xfff & ~closed);
    },
  );

  test("6.3.9: both a control bit and its acknowledgement close a guard", () => {
    const rig = new Rig({ progress: "manual", cr0: 0 });
    rig.write("CR0", 1);
    expect(rig.read("CR0ACK")).toBe(0);
    rig.write("STRTAB_BASE_CFG", 9);
    expect(rig.read("STRTAB_BASE_CFG")).toBe(6);
    rig.smmu.step(0);
    rig.write("CR0", 0);
    rig.write("STRTAB_BASE_CFG", 9);
    expect(rig.read("STRTAB_BASE_CFG")).toBe(6);
    rig.smmu.step(0);
    rig.write("STRTAB_BASE_CFG", 9);
    expect(rig.read("STRTAB_BASE_CFG")).toBe(9);
  });

  test("every guard of the definitions has a gate, and every guarded register a row", () => {
    const all: readonly RegisterDef[] = [REGISTERS, SECURE_REGISTERS, PAGE_REGISTERS].flatMap((table) => Object.values<RegisterDef>(table));
    const guarded = all.filter(({ guard }) => guard !== undefined);
    // GATOS_CTRL, S_GATOS_CTRL and VATOS_CTRL guard themselves.
    expect(ROWS).toHaveLength(guarded.length - 3);
    expect(new Set(guarded.map(({ guard }) => guard)).size).toBe(Object.keys(GATES).length);
  });
});

describe("registers that are always open or never", () => {
  const ids = Object.entries<RegisterDef>(REGISTERS).filter(([, { access }]) => access === "id" || access === "ro");
  test.each(ids.map(([name, { section }]) => ({ name: name as RegisterName, section })))("$section: $name is read-only", ({ name }) => {
    const { smmu } = machine();
    const before = smmu.registers.read32(OFFSET[name]);
    smmu.registers.write32(OFFSET[name], ~before);
    smmu.step(0);
    expect(smmu.registers.read32(OFFSET[name])).toBe(before);
  });

  const secureIds = Object.entries<RegisterDef>(SECURE_REGISTERS).filter(([, { access }]) => access === "id" || access === "ro");
  test.each(secureIds.map(([name, { section }]) => ({ name: name as SecureRegisterName, section })))(
    "$section: $name is read-only", ({ name }) => {
      const { smmu } = machine();
      const before = smmu.secureRegisters.read32(S_OFFSET[name]);
      smmu.secureRegisters.write32(S_OFFSET[name], ~before);
      smmu.step(0);
      expect(smmu.secureRegisters.read32(S_OFFSET[name])).toBe(before);
    },
  );

  test.each(["EVENTQ_CONS", "PRIQ_CONS", "CMDQ_PROD", "GERRORN"] as const)("6.2.2: %s is writable whatever is enabled", (name) => {
    const rig = machine();
    write(rig, OFFSET.IRQ_CTRL, 7);
    if (name !== "CMDQ_PROD") write(rig, OFFSET.CR0, 0xf);
    rig.write(name, 1);
    expect(rig.read(name)).toBe(1);
  });
});
