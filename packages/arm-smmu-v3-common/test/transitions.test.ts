// Every transition of every pair of kinds of STE and of CD: syncs, and what the SMMU can see on the way.
import { CD, getField, maskOf, STE, STE_EATS, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import { cdUsed, steSafe, steUsed } from "../src/index.ts";
import type { UsedBits } from "../src/index.ts";
import { CDS, STES } from "./kinds.ts";
import { acts, run, views } from "./writer.ts";
import type { Entry } from "./writer.ts";

/** Syncs from the kind of the row to that of the column, in the same order; `!`: through an invalid entry. */
const STE_SYNCS = `
  0  2  2  2  2  2  2  2  2  2  2  2  2  2  2  2  2  2  2  2  2   abort
   2  0  3  3  3  3  3  2  2  3  3  2  2  2  2  2  2  2  2  2  2   bypass
   2  3  0  1  1  1  1  3! 3! 3! 1  3! 3  3! 3! 3! 3! 3! 3! 3! 3!   s1
   2  3  1  0  1  1  2  3! 3! 3! 1  3! 3  3! 3! 3! 3! 3! 3! 3! 3!   s1 ATS
   2  3  1  1  0  1  3! 3! 3! 3! 1  3! 3  3! 3! 3! 3! 3! 3! 3! 3!   s1 stall
   2  3  1  1  1  0  3! 3! 3! 3! 1  3! 3  3! 3! 3! 3! 3! 3! 3! 3!   s1 EL2
   2  3  1  2  3! 3! 0  1  1  1  3! 3! 3  3! 3! 3! 3! 3! 3! 3! 3!   s1 PASIDs
   2  2  3! 3! 3! 3! 1  0  1  1  3! 3! 3  3! 3! 3! 3! 3! 3! 3! 3!   identity PASIDs
   2  2  3! 3! 3! 3! 1  1  0  1  3! 3! 3  3! 3! 3! 3! 3! 3! 3! 3!   identity PASIDs ATS
   2  3  3! 3! 3! 3! 1  1  1  0  3! 3! 3  3! 3! 3! 3! 3! 3! 3! 3!   blocked PASIDs
   2  3  1  1  1  1  3! 3! 3! 3! 0  3! 3! 3! 3! 3! 3! 3! 3! 3! 3!   s1 as data
   2  2  3! 3! 3! 3! 3! 3! 3! 3! 3! 0  1  1  1  1  3! 2  2  2  3!   s2
   2  2  3  3  3  3  3  3  3  3  3! 1  0  2  1  3! 3! 3! 3! 3! 3!   s2 VMID 0
   2  2  3! 3! 3! 3! 3! 3! 3! 3! 3! 1  2  0  3! 1  3! 2  2  2  3!   s2 ATS
   2  2  3! 3! 3! 3! 3! 3! 3! 3! 3! 1  1  3! 0  3! 3! 3! 3! 3! 3!   s2 stall
   2  2  3! 3! 3! 3! 3! 3! 3! 3! 3! 1  3! 1  3! 0  3! 3! 3! 3! 2   s2 FWB
   2  2  3! 3! 3! 3! 3! 3! 3! 3! 3! 3! 3! 3! 3! 3! 0  3! 3! 3! 3!   s2 other
   2  2  3! 3! 3! 3! 3! 3! 3! 3! 3! 3  3! 3  3! 3! 3! 0  1  1  1   nested
   2  2  3! 3! 3! 3! 3! 3! 3! 3! 3! 3  3! 3  3! 3! 3! 1  0  1  1   nested ATS
   2  2  3! 3! 3! 3! 3! 3! 3! 3! 3! 3  3! 3  3! 3! 3! 1  1  0  1   nested S1DSS bypass ATS
   2  2  3! 3! 3! 3! 3! 3! 3! 3! 3! 3! 3! 3! 3! 3  3! 1  1  1  0   nested FWB
`;
const CD_SYNCS = `
   0  2  2  2  2  2  2  2  2  2  2  2   none
   2  0  1  3! 1  1  3! 3! 3! 3! 3! 3!   s1
   2  1  0  1  1  1  3! 3! 3! 3! 3! 3!   s1 other ASID
   2  3! 1  0  3! 3! 3! 3! 3! 3! 3! 3!   s1 other
   2  1  1  3! 0  1  3! 3! 3! 3! 3! 3!   s1 stall
   2  1  1  3! 1  0  3! 3! 3! 3! 3! 3!   s1 dirty
   2  3! 3! 3! 3! 3! 0  2  3! 3! 0  2   SVA
   2  3! 3! 3! 3! 3! 2  0  3! 3! 2  1   SVA released
   2  3! 3! 3! 3! 3! 3! 3! 0  2  3! 3!   SVA with HTTU
   2  3! 3! 3! 3! 3! 3! 3! 2  0  3! 3!   SVA with HTTU released
   2  3! 3! 3! 3! 3! 0  2  3! 3! 0  2   SVA forced
   2  3! 3! 3! 3! 3! 2  1  3! 3! 2  0   SVA forced released
`;

/** `syncs[from][to]`, by name. */
function parse(text: string, names: readonly string[]): Map<string, readonly string[]> {
  const lines = text.trim().split("\n");
  expect(lines.map((line) => line.trim().split(/ {3,}/).at(-1))).toEqual(names);
  return new Map(lines.map((line, row) => [names[row]!, line.trim().split(/ {3,}/)[0]!.split(/ +/)]));
}

/** Quadwords that the SMMU may have read before or after their store: any set of the first four. The others are zero. */
const MASKS: readonly number[] = Array.from({ length: 16 }, (_, mask) => mask);

function isIllegal(ste: Entry): boolean {
  const s2 = (getField(ste, 0, STE.Config) & 2) !== 0;
  // ATS and stalling at stage 2 (5.2 EATS); a value that means nothing here.
  const eats = getField(ste, 0, STE.EATS);
  return getField(ste, 0, STE.V) === 1 && ((s2 && eats === STE_EATS.full && getField(ste, 0, STE.S2S) === 1) || eats > STE_EATS.full);
}

interface Rules {
  readonly used: UsedBits;
  readonly isSte: boolean;
}

/** Checks one transition; the text that the table has for it. */
function transition(from: Entry, to: Entry, { used, isSte }: Rules): string {
  const result = run(from, to, used, isSte);
  expect(result.final).toEqual(to);
  const safe = new Int32Array(STE_WORDS);
  if (isSte) steSafe(from, to, safe);
  const valid = isSte ? STE.V : CD.V;
  let invalid = false;
  for (const mask of MASKS) {
    for (const image of views(from, result, mask)) {
      if (isSte && isIllegal(image)) throw new Error(`illegal: ${image.join(" ")}`);
      if (acts(image, from, used, safe) || acts(image, to, used, safe)) continue;
      if (getField(image, 0, valid) === 1) throw new Error(`neither old nor new: ${image.join(" ")}`);
      invalid = true;
    }
  }
  return `${result.status}${invalid ? "!" : ""}`;
}

describe.each([
  { name: "STE", kinds: STES, table: STE_SYNCS, rules: { used: steUsed, isSte: true } },
  { name: "CD", kinds: CDS, table: CD_SYNCS, rules: { used: cdUsed, isSte: false } },
])("$name", ({ kinds, table, rules }) => {
  const names = Object.keys(kinds);

  test.each(names)("from %s to every kind", (name) => {
    const expected = parse(table, names).get(name)!;
    expect(names.map((to) => transition(kinds[name]!, kinds[to]!, rules))).toEqual(expected);
  });

  test.each(names)("%s has no bit that the SMMU would not look at", (name) => {
    const entry = kinds[name]!;
    const used = new Int32Array(STE_WORDS);
    rules.used(entry, used);
    expect(entry.every((word, i) => (word & ~used[i]!) === 0)).toBe(true);
  });
});

test("EATS alone changes in one store, but not where one of both could be illegal on the way", () => {
  const mixed = (from: Entry, to: Entry): boolean => {
    const safe = new Int32Array(STE_WORDS);
    steSafe(from, to, safe);
    return (safe[STE.EATS.word]! & maskOf(STE.EATS)) !== 0;
  };
  expect(mixed(STES["s2"]!, STES["s2 ATS"]!)).toBe(true);
  expect(mixed(STES["s2 stall"]!, STES["s2 ATS"]!)).toBe(false);
  expect(mixed(STES["s2 ATS"]!, STES["s2 stall"]!)).toBe(false);
});
