import { describe, expect, test } from "vitest";
import {
  ADDRESS_SIZES,
  extract,
  OFFSET,
  PAGE1,
  REG,
  REGISTER_AT,
  REGISTER_SPACE,
  REGISTERS,
  STALL_MODEL,
  TTENDIAN,
  TTF,
} from "../src/index.ts";
import type { Field, RegisterDef, RegisterName } from "../src/index.ts";

const NAMES = Object.keys(REGISTERS) as RegisterName[];

/** All fields of one 32-bit register. */
function decode(name: RegisterName, value: number): Record<string, number> {
  const fields = REG[name] as Readonly<Record<string, Field>>;
  return Object.fromEntries(Object.entries(fields).map(([field, at]) => [field, extract(value, at)]));
}

describe("register map", () => {
  test("offsets are aligned, ascending, disjoint and inside the register space", () => {
    let end = 0;
    for (const name of NAMES) {
      const { offset, bits } = REGISTERS[name];
      expect(offset % (bits / 8), name).toBe(0);
      expect(offset, name).toBeGreaterThanOrEqual(end);
      end = offset + bits / 8;
    }
    expect(end).toBeLessThanOrEqual(REGISTER_SPACE);
  });

  test("only the producer and consumer indices of the output queues are in page 1", () => {
    expect(NAMES.filter((name) => REGISTERS[name].offset >= PAGE1)).toEqual([
      "EVENTQ_PROD", "EVENTQ_CONS", "PRIQ_PROD", "PRIQ_CONS",
    ]);
  });

  test("offsets of 6.2.1", () => {
    // Spot checks with a rare neighbourhood; recorded traces check the others.
    expect(OFFSET).toMatchObject({
      IDR0: 0x0, CR0: 0x20, CR2: 0x2c, S2PII: 0x30, STATUSR: 0x40, GBPA: 0x44, IRQ_CTRL: 0x50, GERROR: 0x60, GERRORN: 0x64,
      GERROR_IRQ_CFG0: 0x68, STRTAB_BASE: 0x80, CMDQ_BASE: 0x90, CMDQ_CONS: 0x9c, EVENTQ_BASE: 0xa0, PRIQ_BASE: 0xc0,
      PRIQ_IRQ_CFG2: 0xdc, GATOS_PAR: 0x118, MPAMIDR: 0x130, GBPMPAM: 0x13c, VATOS_SEL: 0x180, IDR6: 0x190, DPT_CFG_FAR: 0x210,
      EVENTQ_PROD: 0x100a8, EVENTQ_CONS: 0x100ac, PRIQ_PROD: 0x100c8, PRIQ_CONS: 0x100cc,
    });
  });

  test("REGISTER_AT finds both halves of a 64-bit register, and nothing else", () => {
    for (const name of NAMES) {
      const { offset, bits } = REGISTERS[name];
      expect(REGISTER_AT.get(offset)).toBe(name);
      if (bits === 64) expect(REGISTER_AT.get(offset + 4)).toBe(name);
    }
    expect(REGISTER_AT.size).toBe(NAMES.reduce((sum, name) => sum + REGISTERS[name].bits / 32, 0));
    for (const hole of [0x38, 0x4c, 0x8c, 0xa8, 0xac, 0x104, 0x200 - 4, 0xfd0]) expect(REGISTER_AT.get(hole)).toBeUndefined();
  });

  test("fields stay inside of their register", () => {
    for (const name of NAMES) {
      for (const { msb } of Object.values(REG[name] as Readonly<Record<string, Field>>)) {
        expect(msb, name).toBeLessThan(REGISTERS[name].bits);
      }
    }
  });

  test("sections are distinct and in the order of the manual, page 1 last", () => {
    const minor = NAMES.map((name) => Number(/^6\.3\.(\d+)$/.exec(REGISTERS[name].section)![1]));
    expect(new Set(minor).size).toBe(NAMES.length);
    // The manual describes S2PII (offset 0x30) behind IRQ_CTRL.
    const others = minor.filter((_, i) => NAMES[i] !== "S2PII");
    expect(others).toEqual([...others].sort((a, b) => a - b));
    expect(minor.slice(-4)).toEqual([95, 96, 97, 98]);
    expect(REGISTERS.S2PII.section).toBe("6.3.17");
    expect(REGISTERS.DPT_CFG_FAR.section).toBe("6.3.48");
  });

  test("acknowledge registers are read-only and have the layout of what they acknowledge", () => {
    for (const [control, ack] of [["CR0", "CR0ACK"], ["IRQ_CTRL", "IRQ_CTRLACK"], ["GERRORN", "GERROR"]] as const) {
      expect(REGISTERS[ack].access).toBe("ro");
      expect(decode(ack, -1)).toEqual(decode(control, -1));
    }
  });

  test("guards and features", () => {
    const by = (key: "guard" | "feature", value: string): string[] =>
      NAMES.filter((name) => (REGISTERS[name] as RegisterDef)[key] === value);
    expect(by("guard", "smmuen")).toEqual(["CR2", "STRTAB_BASE", "STRTAB_BASE_CFG"]);
    expect(by("guard", "cmdqen")).toEqual(["CMDQ_BASE", "CMDQ_CONS"]);
    expect(by("guard", "eventqen")).toEqual(["EVENTQ_BASE", "EVENTQ_PROD"]);
    expect(by("guard", "priqen")).toEqual(["PRIQ_BASE", "PRIQ_PROD"]);
    expect(by("guard", "gatos-idle")).toEqual(["GATOS_CTRL", "GATOS_SID", "GATOS_ADDR"]);
    expect(by("guard", "dpt-walk-en")).toEqual(["DPT_BASE", "DPT_BASE_CFG"]);
    expect(by("guard", "vatos-idle")).toEqual(["VATOS_SEL"]);
    expect(by("feature", "s2pi")).toEqual(["S2PII"]);
    expect(by("feature", "mpam")).toEqual(["MPAMIDR", "GMPAM", "GBPMPAM"]);
    expect(by("feature", "ecmdq")).toEqual(["IDR6"]);
    expect(by("feature", "dpt")).toEqual(["DPT_BASE", "DPT_BASE_CFG", "DPT_CFG_FAR"]);
  });
});

// ID and control registers as an SMMU of QEMU 11.1.3 had them under Linux 6.12, stage 1 only.
describe("recorded registers", () => {
  test("IDR0", () => {
    expect(decode("IDR0", 0x0d44101a)).toEqual({
      S2P: 0, S1P: 1, TTF: TTF.vmsav8_64, COHACC: 1, BTM: 0, HTTU: 0, DORMHINT: 0, HYP: 0, ATS: 0, NS1ATS: 0, ASID16: 1, MSI: 0,
      SEV: 0, ATOS: 0, PRI: 0, VMW: 0, VMID16: 1, CD2L: 0, VATOS: 0, TTENDIAN: TTENDIAN.little, ATSRECERR: 0,
      STALL_MODEL: STALL_MODEL.none, TERM_MODEL: 1, ST_LEVEL: 1, RME_IMPL: 0,
    });
    // The same with both stages.
    expect(decode("IDR0", 0x0d44101b)).toMatchObject({ S1P: 1, S2P: 1 });
  });

  test("IDR1", () => {
    expect(decode("IDR1", 0x02730010)).toEqual({
      SIDSIZE: 16, SSIDSIZE: 0, PRIQS: 0, EVENTQS: 19, CMDQS: 19, ATTR_PERMS_OVR: 0, ATTR_TYPES_OVR: 0, REL: 0,
      QUEUES_PRESET: 0, TABLES_PRESET: 0, ECMDQ: 0,
    });
  });

  test("IDR3", () => {
    expect(decode("IDR3", 0x1404)).toEqual({
      HAD: 1, PBHA: 0, XNX: 0, PPS: 0, MPAM: 0, FWB: 0, STT: 0, RIL: 1, BBML: 2, E0PD: 0, PTWNNC: 0, DPT: 0, PASIDTT: 0, EPAN: 0,
      S1PI: 0, S2PI: 0, S2PO: 0, THE: 0, MTEPERM: 0, AIE: 0,
    });
    expect(decode("IDR3", 0x1414)).toMatchObject({ HAD: 1, XNX: 1, RIL: 1, BBML: 2 });
  });

  test("IDR5 and the address size it encodes", () => {
    const idr5 = decode("IDR5", 0x74);
    expect(idr5).toEqual({ OAS: 4, GRAN4K: 1, GRAN16K: 1, GRAN64K: 1, DS: 0, D128: 0, VAX: 0, STALL_MAX: 0 });
    expect(ADDRESS_SIZES[idr5["OAS"]!]).toBe(44);
    expect(ADDRESS_SIZES).toHaveLength(8);
  });

  test.each([
    ["AIDR", 0x1, { ArchMajorRev: 0, ArchMinorRev: 1 }],
    ["CR0", 0xd, { SMMUEN: 1, PRIQEN: 0, EVENTQEN: 1, CMDQEN: 1, ATSCHK: 0, VMW: 0, DPT_WALK_EN: 0 }],
    ["CR1", 0xd75, { QUEUE_IC: 1, QUEUE_OC: 1, QUEUE_SH: 3, TABLE_IC: 1, TABLE_OC: 1, TABLE_SH: 3 }],
    ["CR2", 0x6, { E2H: 0, RECINVSID: 1, PTM: 1, REC_CFG_ATS: 0 }],
    ["GBPA", 0x1000, { MemAttr: 0, MTCFG: 0, ALLOCCFG: 0, SHCFG: 1, PRIVCFG: 0, INSTCFG: 0, ABORT: 0, UPDATE: 0 }],
    ["IRQ_CTRL", 0x5, { GERROR_IRQEN: 1, PRIQ_IRQEN: 0, EVENTQ_IRQEN: 1 }],
    ["STRTAB_BASE_CFG", 0x10210, { LOG2SIZE: 16, SPLIT: 8, FMT: 1 }],
    ["CMDQ_CONS", 0x35b, { RD: 0x35b, ERR: 0 }],
  ] as const)("%s", (name, value, fields) => {
    expect(decode(name, value)).toEqual(fields);
  });
});
