import { describe, expect, test } from "vitest";
import {
  ECMDQ_CONTROL_PAGE,
  OFFSET,
  PAGE_FIELDS,
  PAGE_REGISTERS,
  REG,
  REGISTERS,
  registerMask,
  S_OFFSET,
  S_REG,
  SECURE_REGISTERS,
  secureRegisterMask,
} from "../src/index.ts";
import type { Field, PageRegisterName, RegisterDef, RegisterName, SecureRegisterName } from "../src/index.ts";

const SECURE = Object.keys(SECURE_REGISTERS) as SecureRegisterName[];
const PAGES = Object.keys(PAGE_REGISTERS) as PageRegisterName[];

describe("6.2.1: the Secure bank", () => {
  test.each(SECURE)("%s is 0x8000 above the register of its name, with its width and access", (name) => {
    const plain = name.slice(2);
    if (!Object.hasOwn(REGISTERS, plain)) {
      expect(name).toBe("S_INIT");
      expect(S_OFFSET.S_INIT).toBe(0x803c);
      return;
    }
    const own: RegisterDef = SECURE_REGISTERS[name];
    const other: RegisterDef = REGISTERS[plain as RegisterName];
    // The indices of the Secure event queue are in page 0.
    expect(own.offset).toBe(0x8000 + (other.offset & 0xffff));
    expect([own.bits, own.access, own.reset]).toEqual([other.bits, other.access, other.reset]);
  });

  test("sections ascend from 6.3.52 without a gap", () => {
    expect(SECURE.map((name) => Number(SECURE_REGISTERS[name].section.slice(4)))).toEqual(SECURE.map((_, i) => 52 + i));
  });

  test("every register is of a Secure feature", () => {
    expect(SECURE.filter((name) => !(SECURE_REGISTERS[name] as RegisterDef).feature!.startsWith("secure"))).toEqual([]);
  });

  test("fields that only one state has", () => {
    expect(secureRegisterMask("S_CR0")[0]).toBe(0x3ed);
    expect(secureRegisterMask("S_GERROR")[0] & ~registerMask("GERROR")[0]).toBe(0);
    expect(S_REG.S_GATOS_SID.SSEC.msb).toBe(53);
    expect(S_REG.S_GBPA.NSCFG.lsb).toBe(14);
    expect(Object.hasOwn(REG.GBPA, "NSCFG")).toBe(false);
  });
});

describe("optional pages", () => {
  test("6.2.3: VATOS registers have the layout of GATOS", () => {
    for (const part of ["CTRL", "SID", "ADDR", "PAR"] as const) {
      expect(PAGE_REGISTERS[`VATOS_${part}`].offset - 0xa00).toBe(OFFSET[`GATOS_${part}`] - 0x100);
    }
  });

  test("6.2.5: fields fit, and EN is where ENACK is", () => {
    for (const name of PAGES) {
      const fields = Object.values(PAGE_FIELDS[name] as Readonly<Record<string, Field>>);
      for (const { msb } of fields) expect(msb, name).toBeLessThan(PAGE_REGISTERS[name].bits);
    }
    expect(PAGE_FIELDS.ECMDQ_PROD.EN.msb).toBe(PAGE_FIELDS.ECMDQ_CONS.ENACK.msb);
    expect(ECMDQ_CONTROL_PAGE.base + ECMDQ_CONTROL_PAGE.stride * ECMDQ_CONTROL_PAGE.count).toBe(0x6000);
  });
});
