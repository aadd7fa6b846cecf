// Rules for what the recorded vectors do not show, each with a case written from the deviation list; and that a rule excuses
// nothing but what it says.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import { RULES, runVectors } from "../src/index.ts";
import type { Rule, VectorReport } from "../src/index.ts";
import { AT, caseLine, Image, IOVA, LEAF, TABLE } from "./image.ts";
import type { AccessLine } from "./image.ts";

const dir = mkdtempSync(join(tmpdir(), "smmu-lab-rules-"));
afterAll(() => {
  rmSync(dir, { recursive: true });
});

function replay(text: string, rules: readonly Rule[] = RULES): Promise<VectorReport> {
  const file = join(dir, "case.jsonl");
  writeFileSync(file, text);
  return runVectors([file], { profile: "eager", rules });
}

const hex = (value: number | bigint): string => `0x${value.toString(16)}`;
/** A record of stream 8. */
function event(type: number, dw1: bigint, input: number, extra: number = 0): string[] {
  return [hex((8n << 32n) | BigInt(type)), hex(dw1), hex(input), hex(extra)];
}
const RNW = 1n << 35n;
const S2 = 1n << 39n;
const TT = 1n << 40n;
const ok: AccessLine = { outcome: "ok", pa: hex(AT.data) };
const s1 = (leaf: number = LEAF.s1): Image => new Image().ste(STE_CONFIG.s1).cd().tables(leaf);
const s2 = (leaf: number = LEAF.s2): Image => new Image().ste(STE_CONFIG.s2).tables(leaf);
/** Stage 1 as usual; stage 2 maps the first 4 GiB to itself with blocks. */
function nested(cd: Parameters<Image["cd"]>[0] = {}, memAttr: number = 0xf, ste: Parameters<Image["ste"]>[1] = {}): Image {
  const image = new Image().ste(STE_CONFIG.nested, { S2TTB: AT.level0, ...ste }).cd(cd).tables(LEAF.s1);
  for (let i = 0; i < 4; i++) image.store64(AT.level0 + i * 8, i * 2 ** 30 + (0x4c1 | (memAttr << 2)));
  return image;
}

const CASES: readonly (readonly [row: string, image: Image, access: AccessLine | readonly AccessLine[], regs?: Record<string, string>])[] = [
  ["ap-unpriv", s1(LEAF.s1Privileged), ok],
  ["bypass-ias", new Image().ste(STE_CONFIG.bypass), { outcome: "bypass", iova: "0x1000000000000", pa: "0x1000000000000" }],
  ["cd-ste-validity", s2().ste(STE_CONFIG.s2, { S2HA: 1 }), ok],
  ["cd-ste-validity", s2().ste(STE_CONFIG.s2, { S1STALLD: 1 }), { outcome: "abort", events: [event(0x04, 0n, 0)] }],
  [
    "l2-span-too-big",
    s1().store64(AT.strtab + 0x1000, (AT.strtab & ~0x1_ffff) | 12).store64((AT.strtab & ~0x1_ffff) + 8 * 64, 0x4100_b00b),
    ok,
    { STRTAB_BASE: hex(AT.strtab + 0x1000), STRTAB_BASE_CFG: "0x10210" },
  ],
  [
    "nested-ttb1-unmapped",
    nested({ EPD1: 0, TG1: 2, T1SZ: 25, TTB1: 0x1_4000_0000 }),
    { outcome: "fault", events: [event(0x10, S2 | TT | RNW, IOVA, 0x1_4000_0000)] },
  ],
  ["s1cdmax", s1().ste(STE_CONFIG.s1, { S1CDMax: 1 }), { outcome: "abort", events: [event(0x04, 0n, 0)] }],
  [
    "table-addrsize",
    new Image().ste(STE_CONFIG.s1).cd({ IPS: 0 }).tables(LEAF.s1).store64(AT.level1, 0x1_4000_0000 + TABLE)
      .store64(0x1_4000_0000 + (IOVA >>> 21) * 8, AT.level3 | TABLE),
    ok,
  ],
  ["unchecked-ste", s2().ste(STE_CONFIG.s2, { S2SL0: 2, S2T0SZ: 33, S2TTB: AT.level0 }).store64(AT.level0, AT.level1 | TABLE), ok],
  ["unchecked-ste", nested({}, 0, { S2PTW: 1 }), ok],
  // With stage 2 alone a refusal on a TLB hit leaves no record.
  ["warm-tlb", s2(LEAF.s2ReadOnly), [ok, { outcome: "fault", write: true }]],
];

describe("constructed cases", () => {
  test.each(CASES.map(([row, ...rest]) => ({ row, rest })))("$row", async ({ row, rest: [image, access, regs] }) => {
    const list = Array.isArray(access) ? (access as readonly AccessLine[]) : [access as AccessLine];
    const text = caseLine(row, image, list, regs);
    const { excused, pass, fail, differences } = await replay(text);
    expect(differences).toEqual([]);
    expect({ excused: [...excused], pass, fail }).toEqual({ excused: [[row, 1]], pass: list.length - 1, fail: 0 });
    const without = await replay(text, RULES.filter((rule) => rule.row !== row));
    expect({ pass: without.pass, fail: without.fail }).toEqual({ pass: list.length - 1, fail: 1 });
  });
});

describe("a rule does not excuse more", () => {
  const privileged = s1(LEAF.s1Privileged);
  test.each<readonly [what: string, text: string]>([
    ["another PA", caseLine("x", s1(), [{ outcome: "ok", pa: hex(AT.data + 0x1000) }])],
    ["refused without reason", caseLine("x", s1(), [{ outcome: "fault", events: [event(0x10, 2n << 40n | RNW, IOVA)] }])],
    ["a record too few", caseLine("x", new Image().ste(STE_CONFIG.s1).cd(), [{ outcome: "fault" }])],
    ["a record with another address", caseLine("x", new Image().ste(STE_CONFIG.s1).cd(), [{ outcome: "fault", events: [event(0x10, 2n << 40n | RNW, IOVA + 4)] }])],
    ["a rule that applies, and something else", caseLine("x", privileged, [{ outcome: "ok", pa: hex(AT.data + 4) }])],
    ["two records of one 4-byte access", caseLine("x", new Image().ste(STE_CONFIG.s1).cd(), [
      { outcome: "fault", events: [event(0x10, 2n << 40n | RNW, IOVA), event(0x10, 2n << 40n | RNW, IOVA + 4)] },
    ])],
    ["records of a long access that do not follow", caseLine("x", new Image().ste(STE_CONFIG.s1).cd(), [
      { outcome: "fault", len: 8, events: [event(0x10, 2n << 40n | RNW, IOVA), event(0x10, 2n << 40n | RNW, IOVA + 8)] },
    ])],
  ])("%s", async (_, text) => {
    const { pass, excusedAccesses, fail } = await replay(text);
    expect({ pass, excusedAccesses, fail }).toEqual({ pass: 0, excusedAccesses: 0, fail: 1 });
  });
});

test("names are told apart, each says the section of the manual", () => {
  expect(new Set(RULES.map(({ row }) => row)).size).toBe(RULES.length);
  for (const { section } of RULES) expect(section).toMatch(/^(\d\.\d|Arm ARM D8)/);
});
