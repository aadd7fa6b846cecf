import { describe, expect, test } from "vitest";
import {
  CD,
  CD_SPEC,
  CD_WORDS,
  CMD,
  CMD_SPEC,
  CMD_WORDS,
  COMMANDS,
  COMMAND_NAMES,
  defineFields,
  EVENT,
  EVENT_CLASS,
  EVENT_NAMES,
  EVENT_SPEC,
  EVENT_WORDS,
  EVENTS,
  getAddress,
  getField,
  isAddressField,
  setAddress,
  setField,
  STE,
  STE_CONFIG,
  STE_SPEC,
  STE_VTCR_MASK,
  STE_VTCR_WORD,
  STE_WORDS,
} from "../src/index.ts";
import type { AnyField, CommandName, EventName, FieldSpecs } from "../src/index.ts";

// Recorded from Linux 6.12 on an SMMU of QEMU 11.1.3: raw structures, with their content as an independent program read it.

type Values = Readonly<Record<string, number>>;
type FieldTable = Readonly<Record<string, AnyField>>;

interface Vector {
  readonly words: Int32Array;
  readonly values: Values;
}

function vector(length: number, head: readonly number[], values: Values): Vector {
  const words = new Int32Array(length);
  words.set(head);
  return { words, values };
}

/** Words of 64-bit values. */
function dwords(...values: readonly bigint[]): number[] {
  return values.flatMap((value) => [Number(BigInt.asIntN(32, value)), Number(BigInt.asIntN(32, value >> 32n))]);
}

function read(fields: FieldTable, words: Int32Array, name: string): number {
  const field = fields[name]!;
  return isAddressField(field) ? getAddress(words, 0, field) : getField(words, 0, field);
}

/** Every field that is not zero. */
function decode(fields: FieldTable, words: Int32Array): Values {
  const entries = Object.keys(fields).map((name) => [name, read(fields, words, name)] as const);
  return Object.fromEntries(entries.filter(([, value]) => value !== 0));
}

function encode(fields: FieldTable, length: number, values: Values): Int32Array {
  const words = new Int32Array(length);
  for (const [name, value] of Object.entries(values)) {
    const field = fields[name]!;
    if (isAddressField(field)) setAddress(words, 0, field, value);
    else setField(words, 0, field, value);
  }
  return words;
}

const S1_STE = { V: 1, Config: STE_CONFIG.s1, S1CIR: 1, S1COR: 1, S1CSH: 3, S1DSS: 2 };
const S2_STE = {
  V: 1, Config: STE_CONFIG.s2, S2T0SZ: 20, S2SL0: 2, S2IR0: 1, S2OR0: 1, S2SH0: 3, S2PS: 4, S2AA64: 1, S2PTW: 1, S2R: 1,
};
const STES: readonly Vector[] = [
  vector(STE_WORDS, [0x4673b00b, 0, 0xd6], { ...S1_STE, S1ContextPtr: 0x4673b000 }),
  vector(STE_WORDS, [0x443ca00b, 0, 0xd6], { ...S1_STE, S1ContextPtr: 0x443ca000 }),
  vector(STE_WORDS, [0xd, 0, 0, 0, 4, 0x044c3594, 0x43dcf000, 1], { ...S2_STE, S2VMID: 4, S2TTB: 0x143dcf000 }),
  vector(STE_WORDS, [0xd, 0, 0, 0, 5, 0x044c3594, 0x4410a000, 1], { ...S2_STE, S2VMID: 5, S2TTB: 0x14410a000 }),
];

const S1_CD = {
  T0SZ: 16, IR0: 1, OR0: 1, SH0: 3, EPD1: 1, V: 1, IPS: 4, AA64: 1, R: 1, A: 1, ASET: 1, MAIR0: 0xf404ff44, MAIR1: 0xffffffff,
};
const CDS: readonly Vector[] = [
  vector(CD_WORDS, [0xc0003510, 0x4e204, 0x4673a000, 0, 0, 0, 0xf404ff44, -1], { ...S1_CD, ASID: 4, TTB0: 0x4673a000 }),
  vector(CD_WORDS, [0xc0003510, 0x2e204, 0x443b6000, 0, 0, 0, 0xf404ff44, -1], { ...S1_CD, ASID: 2, TTB0: 0x443b6000 }),
];

const EVENTS_RECORDED: readonly (Vector & { readonly name: EventName })[] = (
  [
    ["F_TRANSLATION", [0x5000000010n, 0x20800000000n, 0x3000000000n, 0n], { RnW: 1, CLASS: EVENT_CLASS.IN, InputAddr: 0x3000000000 }],
    ["F_TRANSLATION", [0x5000000010n, 0x20000000000n, 0x100000801cn, 0n], { CLASS: EVENT_CLASS.IN, InputAddr: 0x100000801c }],
    ["F_PERMISSION", [0x5000000013n, 0x20000000000n, 0x1000400030n, 0n], { CLASS: EVENT_CLASS.IN, InputAddr: 0x1000400030 }],
    ["F_TRANSLATION", [0x5000000010n, 0x20800000000n, 0x4000000000004n, 0n], { RnW: 1, CLASS: EVENT_CLASS.IN, InputAddr: 0x4000000000004 }],
    [
      "F_TRANSLATION",
      [0x5000000010n, 0x28800000000n, 0x3000000004n, 0x3000000004n],
      { RnW: 1, S2: 1, CLASS: EVENT_CLASS.IN, InputAddr: 0x3000000004, IPA: 0x3000000000 },
    ],
    [
      "F_PERMISSION",
      [0x5000000013n, 0x28000000000n, 0x1000400034n, 0x1000400034n],
      { S2: 1, CLASS: EVENT_CLASS.IN, InputAddr: 0x1000400034, IPA: 0x1000400000 },
    ],
  ] as const
).map(([name, raw, values]) => ({ name, ...vector(EVENT_WORDS, dwords(...raw), { SID: 80, ...values }) }));

const TLBI = { ASID: 2, Leaf: 1, TTL: 3, TG: 1 };
const COMMANDS_RECORDED: readonly (Vector & { readonly name: CommandName })[] = (
  [
    ["CFGI_STE_RANGE", [0x4n, 0x1fn], { Range: 31 }],
    ["SYNC", [0xfc02046n, 0x0n], { CS: 2, MSH: 3, MSIAttr: 15 }],
    ["TLBI_NSNH_ALL", [0x30n, 0n], {}],
    ["TLBI_NH_ASID", [0x1000000000011n, 0n], { ASID: 1 }],
    ["CFGI_CD", [0x4800000005n, 1n], { SID: 72, Leaf: 1 }],
    ["CFGI_STE", [0x4800000003n, 1n], { SID: 72, Leaf: 1 }],
    ["PREFETCH_CONFIG", [0x1000000001n, 0n], { SID: 16 }],
    ["TLBI_NH_VA", [0x2000000000012n, 0xffffb701n], { ...TLBI, Address: 0xffffb000 }],
    ["TLBI_NH_VA", [0x200000001a012n, 0xfffc0701n], { ...TLBI, NUM: 26, Address: 0xfffc0000 }],
    ["TLBI_NH_VA", [0x2000000106012n, 0xfff90701n], { ...TLBI, NUM: 6, SCALE: 1, Address: 0xfff90000 }],
    ["TLBI_NH_VA", [0x2000000500012n, 0xfff60701n], { ...TLBI, SCALE: 5, Address: 0xfff60000 }],
    ["TLBI_S12_VMALL", [0x200000028n, 0n], { VMID: 2 }],
    ["TLBI_S2_IPA", [0x20000002an, 0xffff8701n], { VMID: 2, Leaf: 1, TTL: 3, TG: 1, Address: 0xffff8000 }],
  ] as const
).map(([name, raw, values]) => ({ name, ...vector(CMD_WORDS, dwords(...raw), values) }));

/** The part of `specs` that the manual gives to one command or record. */
function pick(specs: FieldSpecs, names: readonly string[]): FieldSpecs {
  return Object.fromEntries(names.map((name) => [name, specs[name]!]));
}

interface Case extends Vector {
  readonly title: string;
  readonly specs: FieldSpecs;
}

const CASES: readonly Case[] = [
  ...STES.map((item, i) => ({ ...item, title: `STE ${i}`, specs: STE_SPEC })),
  ...CDS.map((item, i) => ({ ...item, title: `CD ${i}`, specs: CD_SPEC })),
  ...EVENTS_RECORDED.map((item, i) => ({
    ...item,
    title: `event ${i}`,
    specs: pick(EVENT_SPEC, ["Type", "SID", ...EVENTS[item.name].fields]),
    values: { Type: EVENTS[item.name].type, ...item.values },
  })),
  ...COMMANDS_RECORDED.map((item, i) => ({
    ...item,
    title: `command ${i}`,
    specs: pick(CMD_SPEC, ["Opcode", ...COMMANDS[item.name].fields]),
    values: { Opcode: COMMANDS[item.name].opcode, ...item.values },
  })),
];

/** Events of a stage-2 fault carry the offset within the page behind IPA[55:12]; QEMU does not clear it. */
function comparable({ words, specs }: Case): number[] {
  return Array.from(words, (word, i) => (i === 6 && "IPA" in specs ? word & ~0xfff : word));
}

/** True when `fields` reads from the words what was recorded, and builds the words from it. */
function agrees(fields: FieldTable, item: Case): boolean {
  const decoded = decode(fields, item.words);
  const names = new Set([...Object.keys(decoded), ...Object.keys(item.values)]);
  const same = [...names].every((name) => decoded[name] === item.values[name]);
  const built = encode(fields, item.words.length, item.values);
  return same && comparable(item).every((word, i) => word === built[i]);
}

describe("recorded structures", () => {
  test.each(CASES)("$title", (item) => {
    const fields = defineFields("recorded", item.specs);
    expect(decode(fields, item.words)).toEqual(item.values);
    expect([...encode(fields, item.words.length, item.values)]).toEqual(comparable(item));
  });

  test("names by opcode and type", () => {
    for (const { words, name } of COMMANDS_RECORDED) expect(COMMAND_NAMES.get(getField(words, 0, CMD.Opcode))).toBe(name);
    for (const { words, name } of EVENTS_RECORDED) expect(EVENT_NAMES.get(getField(words, 0, EVENT.Type))).toBe(name);
  });

  test("stage 2 geometry of an STE is VTCR_EL2[18:0]", () => {
    // T0SZ 20, SL0 2, IRGN0 1, ORGN0 1, SH0 3, TG0 4K, PS 44 bits.
    const vtcr = 20 | (2 << 6) | (1 << 8) | (1 << 10) | (3 << 12) | (0 << 14) | (4 << 16);
    expect(STES[2]!.words[STE_VTCR_WORD]! & STE_VTCR_MASK).toBe(vtcr);
    for (const name of ["S2T0SZ", "S2SL0", "S2IR0", "S2OR0", "S2SH0", "S2TG", "S2PS"] as const) {
      expect(STE[name].word).toBe(STE_VTCR_WORD);
      expect((STE_VTCR_MASK >>> STE[name].shift) & STE[name].mask).toBe(STE[name].mask);
    }
  });

  test("the asid and the table of a CD are where the driver put them", () => {
    expect(getField(CDS[0]!.words, 0, CD.ASID)).toBe(4);
    expect(getAddress(CDS[0]!.words, 0, CD.TTB0)).toBe(0x4673a000);
  });
});

describe("a planted wrong bit position fails a vector", () => {
  /** `specs` with the field `name` moved by `distance` bits. */
  function plant(specs: FieldSpecs, name: string, distance: number): FieldSpecs {
    const [msb, lsb, kind] = specs[name]!;
    const at = [msb + distance, lsb + distance] as const;
    return { ...specs, [name]: kind === undefined ? at : [...at, kind] };
  }

  /** defineFields refuses a field that leaves its word; any other has to be refused by the recorded structure. */
  function detected(item: Case, specs: FieldSpecs): boolean {
    let fields: FieldTable;
    try {
      fields = defineFields("planted", specs);
    } catch (error) {
      if (error instanceof RangeError) return true;
      throw error;
    }
    return !agrees(fields, item);
  }

  test.each(CASES)("$title", (item) => {
    expect(detected(item, item.specs)).toBe(false);
    for (const name of Object.keys(item.values)) {
      // An address keeps its bits wherever its field begins, so it is moved to the next pair of words.
      const distances = item.specs[name]!.length === 3 ? [64] : [1, -1];
      for (const distance of distances) {
        expect(detected(item, plant(item.specs, name, distance)), `${name} moved by ${distance}`).toBe(true);
      }
    }
  });
});
