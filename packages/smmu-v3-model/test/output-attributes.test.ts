import { describe, expect, test } from "vitest";
import { ACCESS, hi32, lo32 } from "@smmuv3/platform";
import { PRESETS } from "../src/index.ts";
import { STE_CONFIG, STE_S1DSS } from "@smmuv3/smmu-v3-defs";
import type { IdRegisters, ProfileName } from "../src/index.ts";
import { CDS, PA, Rig, S1, S2 } from "./rig.ts";
import type { CdValues, SteValues } from "./rig.ts";

const VA = 0x12_3456_7000;
const FWB: IdRegisters = { ...PRESETS.reference, IDR3: PRESETS.reference.IDR3 | (1 << 8) };
const V3_4: IdRegisters = { ...PRESETS.reference, AIDR: 4 };
const SH = { NSH: 0, OSH: 2, ISH: 3 } as const;

function of(rig: Rig, sid: number, flags: number = ACCESS.read): readonly (number | boolean)[] | undefined {
  const out = rig.smmu.attributes(sid, 0, lo32(VA), hi32(VA), flags);
  return out && [out.mair, out.shareability];
}

/** Attr0 of the CD, SH of the leaf and overrides, to MAIR form and shareability. */
describe.each<ProfileName>(["lazy", "eager"])("stage 1 (13.4.2), profile %s", (profile) => {
  test.each<[string, number, number, SteValues, number, number]>([
    ["write-back", 0xff, SH.ISH, {}, 0xff, SH.ISH],
    ["write-through inside, Non-cacheable outside", 0x4b, SH.ISH, {}, 0x4b, SH.ISH],
    ["Non-cacheable is Outer Shareable (13.1.7)", 0x44, SH.ISH, {}, 0x44, SH.OSH],
    ["Device-nGnRE", 0x04, SH.NSH, {}, 0x04, SH.OSH],
    ["reserved Device (5.4 MAIR0)", 0x07, SH.NSH, {}, 0x04, SH.OSH],
    ["reserved inner half (5.4 MAIR0)", 0xf0, SH.ISH, {}, 0xf3, SH.ISH],
    ["MTCFG does nothing", 0xff, SH.ISH, { MTCFG: 1, MemAttr: 1 }, 0xff, SH.ISH],
    ["ALLOCCFG combines: read-allocate only", 0xff, SH.ISH, { ALLOCCFG: 0b1100 }, 0xee, SH.ISH],
    ["ALLOCCFG combines: transient", 0xff, SH.ISH, { ALLOCCFG: 0b1111 }, 0x77, SH.ISH],
    ["what does not allocate is not transient", 0xff, SH.ISH, { ALLOCCFG: 0b1001 }, 0xcc, SH.ISH],
    ["ALLOCCFG does not combine with a Device input", 0xff, SH.ISH, { MTCFG: 1, MemAttr: 0, ALLOCCFG: 0b1100 }, 0xff, SH.ISH],
  ])("%s", (_name, mair, sh, ste, out, shared) => {
    const rig = new Rig({ profile });
    rig.map(rig.stage1(1, { MAIR0: mair }, ste), VA, PA, (S1.rw & ~0x300) | (sh << 8));
    expect(rig.outcome(1, VA)).toBe(PA);
    expect(of(rig, 1)).toEqual([out, shared]);
    expect(rig.events()).toEqual([]);
  });
});

describe("stage 2 (13.4.3)", () => {
  test.each<[string, number, SteValues, number, number]>([
    ["write-back", 0xf, {}, 0xff, SH.ISH],
    ["Non-cacheable", 0x5, {}, 0x44, SH.OSH],
    ["Device-nGRE", 0x2, {}, 0x08, SH.OSH],
    ["overridden to write-through", 0xf, { MTCFG: 1, MemAttr: 0xa }, 0xbb, SH.ISH],
    ["overridden to Device", 0xf, { MTCFG: 1, MemAttr: 0x3 }, 0x0c, SH.OSH],
    ["overridden to a reserved type (5.2 MemAttr)", 0xf, { MTCFG: 1, MemAttr: 0x8 }, 0x00, SH.OSH],
    ["SHCFG = Outer Shareable", 0xf, { SHCFG: 2 }, 0xff, SH.OSH],
    ["ALLOCCFG", 0xf, { ALLOCCFG: 0b1010 }, 0xdd, SH.ISH],
  ])("%s", (_name, memAttr, ste, out, shared) => {
    const rig = new Rig();
    rig.map(rig.stage2(2, 2, ste), VA, PA, (S2.rw & ~0x3c) | (memAttr << 2));
    expect(of(rig, 2)).toEqual([out, shared]);
  });

  test.each<[string, IdRegisters, number, number, SteValues, number]>([
    ["the weaker of both", PRESETS.reference, 0xbb, 0xf, {}, 0xbb],
    ["Device wins", PRESETS.reference, 0xff, 0x1, {}, 0x04],
    ["S2FWB forces write-back (13.1.6)", FWB, 0x44, 6, { S2FWB: 1 }, 0xff],
    ["S2FWB takes stage 1", FWB, 0x04, 7, { S2FWB: 1 }, 0x04],
  ])("nested, %s", (_name, id, mair, memAttr, ste, out) => {
    const rig = new Rig({ id });
    const { root1, root2 } = rig.nested(3, 3, { MAIR0: mair }, ste);
    rig.map(root1, VA, 0x1_0000_0000, S1.rw);
    rig.map(root2, 0x1_0000_0000, PA, (S2.rw & ~0x3c) | (memAttr << 2));
    expect(of(rig, 3)?.[0]).toBe(out);
  });
});

test("bypass: STE (13.3) and GBPA (13.2)", () => {
  const rig = new Rig();
  rig.ste(1, { Config: STE_CONFIG.bypass, MTCFG: 1, MemAttr: 5, SHCFG: 1 });
  rig.ste(2, { Config: STE_CONFIG.bypass, SHCFG: 3 });
  expect([of(rig, 1), of(rig, 2)]).toEqual([[0x44, SH.OSH], [0xff, SH.ISH]]);
  rig.write("CR0", 0xc);
  rig.write("GBPA", 0x8000_0000 | (3 << 12) | (1 << 4) | 0xa);
  expect(of(rig, 1)).toEqual([0xbb, SH.ISH]);
});

test.each<[string, IdRegisters, CdValues, SteValues, boolean, boolean]>([
  ["as it came", PRESETS.reference, {}, {}, true, true],
  ["overridden", PRESETS.reference, {}, { PRIVCFG: 2, INSTCFG: 2 }, false, false],
  ["SMMUv3.4: Data, Privileged", V3_4, {}, { PRIVCFG: 2, INSTCFG: 3 }, true, false],
])("privilege and instruction (13.1.2), %s", (_name, id, cd, ste, privileged, instruction) => {
  const rig = new Rig({ id });
  rig.map(rig.stage1(1, cd, ste), VA, PA, S1.ro);
  const out = rig.smmu.attributes(1, 0, lo32(VA), hi32(VA), ACCESS.privileged | ACCESS.instruction);
  expect([out?.privileged, out?.instruction]).toEqual([privileged, instruction]);
});

test("13.1.5: an access that is refused has none; a substream has those of its CD", () => {
  const rig = new Rig();
  const root = rig.stage1(2, {}, { S1CDMax: 1, S1DSS: STE_S1DSS.bypass });
  rig.map(root, VA, PA, S1.rw);
  rig.cd(CDS + 2 * 64 + 64, { TTB0: root, ASID: 9, MAIR0: 0x44 });
  expect(of(rig, 2)).toBeDefined();
  expect(rig.smmu.attributes(2, 1, lo32(VA), hi32(VA), ACCESS.ssidValid)).toMatchObject({ mair: 0x44 });
  expect(rig.smmu.attributes(2, 1, lo32(VA), hi32(VA) + 1, ACCESS.ssidValid)).toBeUndefined();
  expect(rig.events()).toEqual([]);
});
