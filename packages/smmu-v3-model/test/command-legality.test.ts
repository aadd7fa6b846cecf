// CERROR_ILL: every row of chapter 4 that makes a command illegal.
import { describe, expect, test } from "vitest";
import { CERROR, CMD, COMMANDS, maskOf, REG, reservedCommandBits } from "@smmuv3/smmu-v3-defs";
import type { CommandName, Field } from "@smmuv3/smmu-v3-defs";
import { GERROR_BIT, PRESETS } from "../src/index.ts";
import type { IdRegisters, PolicyChoice } from "../src/index.ts";
import { Rig } from "./rig.ts";

const { IDR0, IDR3, IDR5 } = REG;
type Values = Readonly<Partial<Record<keyof typeof CMD, number>>>;

/** `id` with one field replaced. */
function withField(id: IdRegisters, register: "IDR0" | "IDR3" | "IDR5", field: Field, value: number): IdRegisters {
  return { ...id, [register]: (id[register] & ~maskOf(field)) | (value << field.shift) };
}

/** Everything that a command can depend on, on a Non-secure queue. */
const full: IdRegisters = [
  ["IDR0", IDR0.ATS, 1], ["IDR0", IDR0.PRI, 1], ["IDR0", IDR0.STALL_MODEL, 0], ["IDR3", IDR3.MPAM, 1], ["IDR3", IDR3.DPT, 1],
].reduce<IdRegisters>((id, [register, field, value]) => withField(id, register as "IDR0", field as Field, value as number), PRESETS.reference);

const without = (register: "IDR0" | "IDR3", field: Field, value: number = 0): IdRegisters => withField(full, register, field, value);
const NO_S1 = without("IDR0", IDR0.S1P);
const NO_S2 = without("IDR0", IDR0.S2P);
const NO_HYP = without("IDR0", IDR0.HYP);
const NO_ATS = without("IDR0", IDR0.ATS);
const NO_PRI = without("IDR0", IDR0.PRI);
const NO_STALL = without("IDR0", IDR0.STALL_MODEL, 1);
const NO_MPAM = without("IDR3", IDR3.MPAM);
const NO_DPT = without("IDR3", IDR3.DPT);
const NO_RIL = without("IDR3", IDR3.RIL);

/** One SMMU that takes one command after the other. */
class Queue {
  readonly rig: Rig;

  constructor(id: IdRegisters, policy: PolicyChoice = {}) {
    this.rig = new Rig({ id, policy });
  }

  /** CMDQ_CONS.ERR after the command, or CERROR.NONE when it was consumed. */
  error(name: CommandName, values: Values = {}, change?: (pa: number) => void): number {
    const { rig } = this;
    const pa = rig.push(name, values);
    change?.(pa);
    rig.ring();
    const cons = rig.read("CMDQ_CONS");
    const failed = ((rig.read("GERROR") ^ rig.read("GERRORN")) & GERROR_BIT.CMDQ_ERR) !== 0;
    expect(cons & 0xf_ffff, "RD stays on a command in error").toBe(failed ? 0 : 1);
    rig.restart();
    rig.write("GERRORN", rig.read("GERROR"));
    return failed ? cons >>> 24 : CERROR.NONE;
  }
}

const { ILL, NONE } = CERROR;

/** The feature without which a command is unknown; undefined for one that is always known, `secure` for one that never is. */
const GATE: Readonly<Record<CommandName, IdRegisters | "secure" | undefined>> = {
  PREFETCH_CONFIG: undefined,
  PREFETCH_ADDR: undefined,
  CFGI_STE: undefined,
  CFGI_STE_RANGE: undefined,
  CFGI_CD: NO_S1,
  CFGI_CD_ALL: NO_S1,
  CFGI_VMS_PIDM: NO_MPAM,
  TLBI_NH_ALL: NO_S1,
  TLBI_NH_ASID: NO_S1,
  TLBI_NH_VA: NO_S1,
  TLBI_NH_VAA: NO_S1,
  TLBI_EL3_ALL: "secure",
  TLBI_EL3_VA: "secure",
  TLBI_EL2_ALL: NO_HYP,
  TLBI_EL2_ASID: NO_HYP,
  TLBI_EL2_VA: NO_HYP,
  TLBI_EL2_VAA: NO_HYP,
  TLBI_S12_VMALL: NO_S2,
  TLBI_S2_IPA: NO_S2,
  TLBI_NSNH_ALL: undefined,
  ATC_INV: NO_ATS,
  PRI_RESP: NO_PRI,
  RESUME: NO_STALL,
  STALL_TERM: NO_STALL,
  SYNC: undefined,
  TLBI_S_EL2_ALL: "secure",
  TLBI_S_EL2_ASID: "secure",
  TLBI_S_EL2_VA: "secure",
  TLBI_S_EL2_VAA: "secure",
  TLBI_S_S12_VMALL: "secure",
  TLBI_S_S2_IPA: "secure",
  TLBI_SNH_ALL: "secure",
  DPTI_ALL: NO_DPT,
  DPTI_PA: NO_DPT,
};
const NAMES = Object.keys(GATE) as CommandName[];

describe("CERROR_ILL without the feature", () => {
  const everything = new Queue(full);
  const rows = NAMES.map((name) => ({ name, section: COMMANDS[name].section, of: GATE[name] === "secure" ? ", not on a Non-secure queue" : "" }));
  test.each(rows)("$section: CMD_$name$of", ({ name }) => {
    const gate = GATE[name];
    const note = `${COMMANDS[name].section} CMD_${name}`;
    expect(everything.error(name), note).toBe(gate === "secure" ? ILL : NONE);
    if (typeof gate === "object") expect(new Queue(gate).error(name), note).toBe(ILL);
  });

  test("4.1.1 opcodes without a command are Reserved", () => {
    const known = new Set<number>(Object.values(COMMANDS).map(({ opcode }) => opcode));
    for (let opcode = 0; opcode < 256; opcode++) {
      if (known.has(opcode)) continue;
      const error = everything.error("SYNC", {}, (pa) => {
        everything.rig.memory.store32(pa, opcode);
      });
      expect(error, `opcode 0x${opcode.toString(16)}`).toBe(ILL);
    }
  });
});

describe("4.1.6 SSec = 1 on a Non-secure queue", () => {
  const everything = new Queue(full);
  const WITH_SSEC: readonly CommandName[] = [
    "PREFETCH_CONFIG", "PREFETCH_ADDR", "CFGI_STE", "CFGI_STE_RANGE", "CFGI_CD", "CFGI_CD_ALL", "CFGI_VMS_PIDM", "RESUME", "STALL_TERM",
  ];
  test.each(WITH_SSEC)("%s", (name) => {
    expect(everything.error(name, { SSec: 1 })).toBe(ILL);
  });

  test("no other command has SSec", () => {
    for (const name of NAMES) {
      if (WITH_SSEC.includes(name) || GATE[name] === "secure") continue;
      expect(everything.error(name, { SSec: 1 }), name).toBe(NONE);
    }
  });
});

const RANGED: readonly CommandName[] = ["TLBI_NH_VA", "TLBI_NH_VAA", "TLBI_EL2_VA", "TLBI_EL2_VAA", "TLBI_S2_IPA"];
/** 4.4.1.1: TG with neither a range nor a level. */
const RANGES: readonly (readonly [name: string, values: Values, expected: number])[] = [
  ["no TG: no range", {}, NONE],
  ["no TG: NUM, SCALE and TTL mean nothing", { NUM: 3, SCALE: 2, TTL: 1 }, NONE],
  ["4K, one granule, no level", { TG: 1 }, ILL],
  ["16K, one granule, no level", { TG: 2 }, ILL],
  ["64K, one granule, no level", { TG: 3 }, ILL],
  ["4K, level 1", { TG: 1, TTL: 1 }, NONE],
  ["4K, level 3", { TG: 1, TTL: 3 }, NONE],
  ["64K, level 1", { TG: 3, TTL: 1 }, NONE],
  ["NUM alone makes a range", { TG: 1, NUM: 1 }, NONE],
  ["SCALE alone makes a range", { TG: 3, SCALE: 1 }, NONE],
  ["16K, level 1 is no level without 52-bit addresses", { TG: 2, TTL: 1 }, ILL],
  ["16K, level 1, with a range", { TG: 2, TTL: 1, NUM: 1 }, NONE],
  ["16K, level 2", { TG: 2, TTL: 2 }, NONE],
  ["SCALE[5] is no bit without 52-bit addresses", { TG: 1, SCALE: 32 }, ILL],
  ["TTL128 is no level", { TG: 1, TTL128: 1 }, ILL],
];

describe("4.4.1.1 range invalidation", () => {
  const everything = new Queue(full);
  const wide = new Queue(withField(full, "IDR5", IDR5.DS, 1));
  const old = new Queue(NO_RIL);
  test.each(RANGES)("%s", (_name, values, expected) => {
    for (const name of RANGED) {
      expect(everything.error(name, values), name).toBe(expected);
      expect(old.error(name, values), `${name} without RIL`).toBe(NONE);
    }
  });

  test("with 52-bit addresses 16K has level 1 and SCALE six bits", () => {
    expect(wide.error("TLBI_NH_VA", { TG: 2, TTL: 1 })).toBe(NONE);
    expect(wide.error("TLBI_NH_VA", { TG: 1, SCALE: 32 })).toBe(NONE);
    expect(wide.error("TLBI_NH_VA", { TG: 1, SCALE: 63 })).toBe(NONE);
  });
});

test.each<[string, CommandName, Values, PolicyChoice, number]>([
  ["4.7.3 CS = 0", "SYNC", { CS: 0 }, {}, NONE],
  ["4.7.3 CS = 1", "SYNC", { CS: 1 }, {}, NONE],
  ["4.7.3 CS = 2", "SYNC", { CS: 2 }, {}, NONE],
  ["4.7.3 CS = 3 is Reserved", "SYNC", { CS: 3 }, {}, ILL],
  ["4.5.2 Resp = 0", "PRI_RESP", { Resp: 0 }, {}, NONE],
  ["4.5.2 Resp = 1", "PRI_RESP", { Resp: 1 }, {}, NONE],
  ["4.5.2 Resp = 2", "PRI_RESP", { Resp: 2 }, {}, NONE],
  ["4.5.2 Resp = 3 is Reserved", "PRI_RESP", { Resp: 3 }, {}, ILL],
  ["4.5.1 Size = 52", "ATC_INV", { AtcSize: 52 }, {}, NONE],
  ["4.5.1 Size = 53, where that is checked", "ATC_INV", { AtcSize: 53 }, { atcInvSize: "illegal" }, ILL],
  ["4.5.1 Size = 53, where it is not", "ATC_INV", { AtcSize: 53 }, { atcInvSize: "all" }, NONE],
  ["4.1.3 ILL before out of range: Resp", "PRI_RESP", { Resp: 3, SID: 0xffff_ffff }, { commandParameter: "noEffect" }, ILL],
  ["4.1.3 ILL before out of range: TG", "TLBI_S2_IPA", { TG: 1 }, { commandParameter: "noEffect" }, ILL],
  ["4.1.3 ILL before out of range: Size", "ATC_INV", { AtcSize: 60, SID: 0xffff_ffff }, { commandParameter: "noEffect" }, ILL],
])("%s", (_name, name, values, policy, expected) => {
  expect(new Queue(full, policy).error(name, values)).toBe(expected);
});

/** Bits that the figures of chapter 4 give a meaning on a Non-secure queue of v3.1 without 128-bit descriptors. */
const range: readonly (readonly [number, number])[] = [[7, 0], [16, 12], [24, 20], [64, 64], [73, 72], [75, 74]];
const FIGURES: Readonly<Partial<Record<CommandName, readonly (readonly [msb: number, lsb: number])[]>>> = {
  PREFETCH_CONFIG: [[7, 0], [10, 10], [11, 11], [31, 12], [63, 32]],
  PREFETCH_ADDR: [[7, 0], [10, 10], [11, 11], [31, 12], [63, 32], [68, 64], [73, 69], [127, 76]],
  CFGI_STE: [[7, 0], [10, 10], [63, 32], [64, 64]],
  CFGI_STE_RANGE: [[7, 0], [10, 10], [63, 32], [68, 64]],
  CFGI_CD: [[7, 0], [10, 10], [31, 12], [63, 32], [64, 64]],
  CFGI_CD_ALL: [[7, 0], [10, 10], [63, 32]],
  CFGI_VMS_PIDM: [[7, 0], [10, 10], [47, 32]],
  TLBI_NH_ALL: [[7, 0], [47, 32]],
  TLBI_NH_ASID: [[7, 0], [63, 32]],
  TLBI_NH_VA: [...range, [63, 32], [127, 76]],
  TLBI_NH_VAA: [...range, [47, 32], [127, 76]],
  TLBI_EL2_ALL: [[7, 0]],
  TLBI_EL2_ASID: [[7, 0], [63, 48]],
  TLBI_EL2_VA: [...range, [63, 48], [127, 76]],
  TLBI_EL2_VAA: [...range, [127, 76]],
  TLBI_S12_VMALL: [[7, 0], [47, 32]],
  TLBI_S2_IPA: [...range, [47, 32], [115, 76]],
  TLBI_NSNH_ALL: [[7, 0]],
  ATC_INV: [[7, 0], [9, 9], [11, 11], [31, 12], [63, 32], [69, 64], [127, 76]],
  PRI_RESP: [[7, 0], [11, 11], [31, 12], [63, 32], [72, 64], [77, 76]],
  RESUME: [[7, 0], [10, 10], [12, 12], [13, 13], [63, 32], [79, 64]],
  STALL_TERM: [[7, 0], [10, 10], [63, 32]],
  SYNC: [[7, 0], [13, 12], [23, 22], [27, 24], [63, 32], [119, 66]],
  DPTI_ALL: [[7, 0]],
  DPTI_PA: [[7, 0], [64, 64], [75, 72], [115, 76]],
};

describe("4.1.5 RES0 bits", () => {
  const checks = new Queue(full, { commandReserved: "illegal" });
  const ignores = new Queue(full, { commandReserved: "ignore" });

  test.each(Object.entries(FIGURES) as [CommandName, readonly (readonly [number, number])[]][])("%s", (name, fields) => {
    // A range that is legal, so that its fields are no RES0.
    const values: Values = RANGED.includes(name) ? { TG: 1, TTL: 3 } : {};
    expect(checks.error(name, values)).toBe(NONE);
    for (let bit = 0; bit < 128; bit++) {
      if (fields.some(([msb, lsb]) => bit <= msb && bit >= lsb)) continue;
      const set = (queue: Queue) => (pa: number): void => {
        const at = pa + (bit >> 5) * 4;
        queue.rig.memory.store32(at, queue.rig.memory.load32(at) | (1 << (bit & 31)));
      };
      expect(checks.error(name, values, set(checks)), `bit ${bit}`).toBe(ILL);
      // TTL128 takes nothing away from a level.
      expect(ignores.error(name, values, set(ignores)), `bit ${bit}, ignored`).toBe(NONE);
    }
  });

  test("every command of a Non-secure queue has a row", () => {
    expect(Object.keys(FIGURES).sort()).toEqual(NAMES.filter((name) => GATE[name] !== "secure").sort());
  });

  test.each<[string, CommandName, Values, IdRegisters, number]>([
    ["NUM without TG", "TLBI_NH_VA", { NUM: 1 }, full, ILL],
    ["SCALE without TG", "TLBI_S2_IPA", { SCALE: 1 }, full, ILL],
    ["TTL without TG", "TLBI_EL2_VA", { TTL: 1 }, full, ILL],
    ["TG without RIL", "TLBI_NH_VAA", { TG: 1 }, NO_RIL, ILL],
    ["NUM without RIL", "TLBI_NH_VAA", { NUM: 1 }, NO_RIL, ILL],
    ["Stride of v3.0", "PREFETCH_ADDR", { Stride: 1 }, { ...full, AIDR: 0 }, ILL],
    ["Stride of v3.1", "PREFETCH_ADDR", { Stride: 1 }, full, NONE],
    ["IPA[52] before v3.4", "TLBI_S2_IPA", { Address: 2 ** 52 }, full, ILL],
    ["IPA[52] of v3.4", "TLBI_S2_IPA", { Address: 2 ** 52 }, { ...full, AIDR: 4 }, NONE],
    ["IPA[48] of v3.0", "TLBI_S2_IPA", { Address: 2 ** 48 }, { ...full, AIDR: 0 }, ILL],
  ])("%s", (_name, name, values, id, expected) => {
    expect(new Queue(id, { commandReserved: "illegal" }).error(name, values)).toBe(expected);
    expect(new Queue(id).error(name, values)).toBe(NONE);
  });

  test("the definitions know no more bits than the figures", () => {
    for (const [name, fields] of Object.entries(FIGURES) as [CommandName, readonly (readonly [number, number])[]][]) {
      const reserved = reservedCommandBits(COMMANDS[name].opcode)!;
      for (const [msb, lsb] of fields) {
        for (let bit = lsb; bit <= msb; bit++) expect((reserved[bit >> 5]! >>> (bit & 31)) & 1, `${name} ${bit}`).toBe(0);
      }
    }
  });
});
