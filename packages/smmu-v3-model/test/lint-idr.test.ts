import { describe, expect, test } from "vitest";
import { place, REG, S_REG } from "@smmuv3/smmu-v3-defs";
import type { Field } from "@smmuv3/smmu-v3-defs";
import { IDR_RULES, lintIdr, PRESETS } from "../src/index.ts";
import type { IdRegisters, PresetName } from "../src/index.ts";

const { IDR0, IDR1, IDR2, IDR3, IDR5, IDR6, AIDR } = REG;
const { S_IDR0, S_IDR1, S_IDR3 } = S_REG;

/** `base` with some fields changed. */
function change(base: IdRegisters, fields: readonly (readonly [Field, number])[]): IdRegisters {
  const words: Record<string, number> = { ...(base as unknown as Record<string, number>) };
  for (const [field, value] of fields) {
    words[field.of] = ((words[field.of] ?? 0) & ~(field.mask << field.shift)) | place(field, value);
  }
  return words as unknown as IdRegisters;
}

const ids = (id: IdRegisters): string[] => lintIdr(id).map((finding) => finding.id);

test.each(Object.keys(PRESETS) as PresetName[])("6.3.1 to 6.3.8: preset %s is consistent", (name) => {
  expect(lintIdr(PRESETS[name])).toEqual([]);
});

describe("6.3.1 to 6.3.8: known identities that are not consistent", () => {
  test.each([
    // The default of gem5 24.0: CMDQS 7, EVENTQS 0, SIDSIZE 0.
    ["gem5", { IDR0: 0x094c_100f, IDR1: 0x00e0_0000, IDR3: 0, IDR5: 0x55 }, ["eventqs-zero", "sidsize-unused"]],
    ["gem5, were it v3.1", { IDR0: 0x094c_100f, IDR1: 0x00e0_0000, IDR3: 0, IDR5: 0x55, AIDR: 1 }, ["eventqs-zero", "sidsize-unused", "had", "xnx"]],
    // As Hafnium's tests configure Arm's platform model.
    ["FVP of Hafnium", { IDR0: 0x0046_123b, IDR1: 0x0060_0002, IDR3: 0x1714, IDR5: 0xffff_0472, AIDR: 2, S_IDR1: 0xa000_0002 }, ["eventqs-zero"]],
  ] as const)("%s", (_name, id, findings) => {
    expect(ids(id)).toEqual(findings);
  });
});

const { reference, full, mmu700 } = PRESETS;

// [rule, identity, fields that break it]
const BREAKS: readonly (readonly [string, IdRegisters, readonly (readonly [Field, number])[]])[] = [
  ["stages", reference, [[IDR0.S1P, 0], [IDR0.S2P, 0]]],
  ["ttf", reference, [[IDR0.TTF, 0]]],
  ["ttf-lpae-4k", reference, [[IDR0.TTF, 3], [IDR5.GRAN4K, 0]]],
  ["granule", reference, [[IDR5.GRAN4K, 0], [IDR5.GRAN16K, 0], [IDR5.GRAN64K, 0]]],
  ["ttendian", reference, [[IDR0.TTENDIAN, 1]]],
  ["stall-model", full, [[IDR0.STALL_MODEL, 3]]],
  ["st-level", reference, [[IDR0.ST_LEVEL, 2]]],
  ["vmw", reference, [[IDR0.S2P, 0]]],
  ["hyp", reference, [[IDR0.S2P, 0]]],
  ["hyp-v3.2", full, [[IDR0.HYP, 0]]],
  ["ats", full, [[IDR0.ATS, 0]]],
  ["ns1ats", full, [[IDR0.NS1ATS, 1], [IDR0.S1P, 0]]],
  ["vatos", full, [[IDR0.ATOS, 0]]],
  ["rme", reference, [[IDR0.RME_IMPL, 1]]],
  ["sidsize", reference, [[IDR1.SIDSIZE, 33]]],
  ["sidsize-level", reference, [[IDR0.ST_LEVEL, 0]]],
  ["ssidsize", reference, [[IDR1.SSIDSIZE, 21]]],
  ["queue-size", reference, [[IDR1.CMDQS, 20]]],
  ["rel", reference, [[IDR1.REL, 1]]],
  ["ecmdq", full, [[IDR0.COHACC, 0]]],
  ["ecmdq", full, [[IDR1.QUEUES_PRESET, 1]]],
  ["eventqs-zero", reference, [[IDR1.EVENTQS, 0]]],
  ["sidsize-unused", reference, [[IDR1.SIDSIZE, 0]]],
  ["ba-vatos", reference, [[IDR2.BA_VATOS, 1]]],
  ["had", reference, [[IDR3.HAD, 0]]],
  ["xnx", reference, [[IDR3.XNX, 0]]],
  ["pbha", full, [[IDR3.HAD, 0]]],
  ["pps", full, [[IDR0.PRI, 0]]],
  ["pasidtt", full, [[IDR1.SSIDSIZE, 0]]],
  ["ril", full, [[IDR3.RIL, 0]]],
  ["fwb", full, [[IDR3.FWB, 0]]],
  ["bbml", full, [[IDR3.BBML, 0]]],
  ["bbml-reserved", reference, [[IDR3.BBML, 3]]],
  ["stt", full, [[IDR3.STT, 0]]],
  ["e0pd", full, [[IDR3.E0PD, 0]]],
  ["ptwnnc", full, [[IDR3.PTWNNC, 0]]],
  ["epan", full, [[AIDR.ArchMinorRev, 4], [IDR3.EPAN, 0]]],
  ["mteperm", full, [[AIDR.ArchMinorRev, 4]]],
  ["dpt", reference, [[IDR3.DPT, 1]]],
  ["s1pi", full, [[IDR3.S1PI, 1], [IDR0.S1P, 0]]],
  ["s2pi", full, [[IDR3.S2PI, 1], [IDR0.S2P, 0]]],
  ["s2po", full, [[IDR3.S2PO, 1]]],
  ["the", full, [[IDR3.THE, 1]]],
  ["stall-max", full, [[IDR0.STALL_MODEL, 1]]],
  ["stall-max-zero", full, [[IDR5.STALL_MAX, 0]]],
  ["vax-reserved", full, [[IDR5.VAX, 3]]],
  ["vax", mmu700, [[IDR5.GRAN64K, 0]]],
  ["vax-d128", full, [[IDR5.VAX, 2]]],
  ["ds", full, [[IDR5.VAX, 0]]],
  ["ds-granule", full, [[IDR5.GRAN4K, 0], [IDR5.GRAN16K, 0]]],
  ["oas-52", mmu700, [[IDR5.GRAN64K, 0]]],
  ["oas-56", full, [[IDR5.OAS, 7]]],
  ["d128", full, [[IDR5.D128, 1]]],
  ["idr6", reference, [[IDR6.CMDQ_CONTROL_PAGE_LOG2NUMQ, 1]]],
  ["idr6-size", full, [[IDR6.CMDQ_CONTROL_PAGE_LOG2NUMQ, 9]]],
  ["minor", reference, [[AIDR.ArchMinorRev, 5]]],
  ["secure-s1", full, [[IDR0.S1P, 0]]],
  ["secure-stall", full, [[S_IDR0.STALL_MODEL, 1]]],
  ["secure-ecmdq", full, [[S_IDR0.ECMDQ, 1], [S_IDR0.MSI, 0]]],
  ["sel2", full, [[IDR0.S2P, 0]]],
  ["sel2-v3.2", full, [[AIDR.ArchMinorRev, 1]]],
  ["sams", reference, [[S_IDR3.SAMS, 1]]],
  ["secure-off", full, [[S_IDR1.SECURE_IMPL, 0]]],
];

describe("each rule", () => {
  const rows = BREAKS.map(([id, base, fields]) => ({ ...IDR_RULES.find((rule) => rule.id === id)!, base, fields }));
  test.each(rows)("$section: lintIdr, $id: $text", ({ id: rule, base, fields }) => {
    expect(ids(base)).toEqual([]);
    expect(ids(change(base, fields))).toContain(rule);
  });

  test("is broken by a row", () => {
    expect(IDR_RULES.map(({ id }) => id).filter((id) => !BREAKS.some(([rule]) => rule === id))).toEqual([]);
    expect(new Set(IDR_RULES.map(({ id }) => id)).size).toBe(IDR_RULES.length);
  });
});
