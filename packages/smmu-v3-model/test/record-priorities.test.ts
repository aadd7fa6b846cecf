// 7.3.22: of two things that are wrong at once, the record is of the one that is listed first. Each row has both.
import { describe, expect, test } from "vitest";
import { ACCESS } from "@smmuv3/platform";
import { EVENT, EVENT_CLASS, EVENT_NAMES, extract, place, REG, STE_S1DSS } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "../src/index.ts";
import { BASE, CDS, PA, Rig, S1, S2, STRTAB } from "./rig.ts";

const VA = 0x12_3456_7000;
const IPA = 0x1_0000_0000;
const NOT_RAM = 0x1000;
const SSID = ACCESS.ssidValid;
/** Leaf without permission for a write, with an access flag or without. */
const NO_AF = S1.ro & ~(1 << 10);
const S2_NO_AF = S2.ro & ~(1 << 10);

interface Row {
  readonly first: string;
  readonly second: string;
  readonly build: (rig: Rig) => void;
  readonly flags?: number;
  readonly ssid?: number;
  readonly address?: number;
  /** Stage and class of the record. */
  readonly where?: readonly [s2: 0 | 1, faultClass: number];
}

const CONFIG: readonly Row[] = [
  {
    first: "F_STE_FETCH", second: "C_BAD_STE",
    build: (rig) => { rig.memory.perm[rig.memory.pageIndex(STRTAB)] = 0; },
  },
  { first: "C_BAD_STE", second: "C_BAD_SUBSTREAMID", build: (rig) => { rig.ste(1, { V: 0 }); }, flags: SSID, ssid: 1 },
  {
    first: "C_BAD_SUBSTREAMID", second: "a fault of stage 2 on the CD", flags: SSID, ssid: 9,
    build: (rig) => { rig.nested(1, 1, {}, { S1CDMax: 2, S1ContextPtr: IPA }); },
  },
  {
    first: "F_STREAM_DISABLED", second: "a fault of stage 2 on the CD",
    build: (rig) => { rig.nested(1, 1, {}, { S1CDMax: 2, S1DSS: STE_S1DSS.terminate, S1ContextPtr: IPA }); },
  },
  {
    first: "F_TRANSLATION", second: "F_CD_FETCH", where: [1, EVENT_CLASS.CD],
    build: (rig) => { rig.nested(1, 1, {}, { S1ContextPtr: NOT_RAM }); },
  },
  {
    first: "F_PERMISSION", second: "C_BAD_CD", where: [1, EVENT_CLASS.CD],
    build: (rig) => {
      const { root2 } = rig.nested(1, 1, { V: 0 });
      rig.map(root2, CDS, CDS, S2.wo);
    },
  },
  {
    first: "F_CD_FETCH", second: "C_BAD_CD",
    build: (rig) => {
      rig.stage1(1, { V: 0 });
      rig.memory.perm[rig.memory.pageIndex(CDS)] = 0;
    },
  },
  { first: "C_BAD_CD", second: "a fault of stage 1", build: (rig) => { rig.stage1(1, { V: 0 }); } },
  {
    first: "C_BAD_CD", second: "F_TRANSLATION for the range of the input",
    build: (rig) => { rig.stage1(1, { V: 0, T0SZ: 25 }); }, address: 2 ** 45,
  },
];

/** Stage 1 alone; a write. */
const STAGE1: readonly Row[] = [
  {
    first: "F_TRANSLATION", second: "F_WALK_EABT", address: 2 ** 45, where: [0, EVENT_CLASS.IN],
    build: (rig) => { rig.stage1(1, { T0SZ: 25, TTB0: NOT_RAM }); },
  },
  {
    first: "F_TRANSLATION", second: "F_WALK_EABT, the half being disabled", address: 2 ** 64 - 0x1000, where: [0, EVENT_CLASS.IN],
    build: (rig) => { rig.stage1(1, { TTB1: NOT_RAM }); },
  },
  { first: "F_WALK_EABT", second: "F_TRANSLATION of the descriptor", build: (rig) => { rig.stage1(1, { TTB0: NOT_RAM }); }, where: [0, EVENT_CLASS.TT] },
  {
    first: "F_TRANSLATION", second: "F_ADDR_SIZE", where: [0, EVENT_CLASS.IN],
    build: (rig) => {
      const root = rig.stage1(1, { IPS: 0 });
      rig.map(root, VA, 2 ** 40, S1.rw);
      const leaf = rig.leaf(root, VA);
      rig.memory.store32(leaf, rig.memory.load32(leaf) & ~1);
    },
  },
  {
    first: "F_ADDR_SIZE", second: "F_WALK_EABT of the table that the descriptor names", where: [0, EVENT_CLASS.IN],
    build: (rig) => {
      const root = rig.stage1(1, { IPS: 0 });
      rig.memory.store64(root, 3, 2 ** 8);
    },
  },
  { first: "F_ADDR_SIZE", second: "F_ACCESS", where: [0, EVENT_CLASS.IN], build: (rig) => { rig.map(rig.stage1(1, { IPS: 0 }), VA, 2 ** 40, NO_AF); } },
  { first: "F_ADDR_SIZE", second: "F_PERMISSION", where: [0, EVENT_CLASS.IN], build: (rig) => { rig.map(rig.stage1(1, { IPS: 0 }), VA, 2 ** 40, S1.ro); } },
  { first: "F_ACCESS", second: "F_PERMISSION", where: [0, EVENT_CLASS.IN], build: (rig) => { rig.map(rig.stage1(1), VA, PA, NO_AF); } },
];

/** Stage 2 alone; a write. */
const STAGE2: readonly Row[] = [
  { first: "F_ADDR_SIZE", second: "F_TRANSLATION of stage 2, beyond IAS", address: 2 ** 60, where: [0, EVENT_CLASS.IN], build: (rig) => { rig.stage2(1); } },
  {
    first: "F_TRANSLATION", second: "F_WALK_EABT", address: 2 ** 40, where: [1, EVENT_CLASS.IN],
    build: (rig) => { rig.stage2(1, 1, { S2T0SZ: 25, S2SL0: 1, S2TTB: NOT_RAM }); },
  },
  { first: "F_WALK_EABT", second: "F_TRANSLATION", where: [1, EVENT_CLASS.IN], build: (rig) => { rig.stage2(1, 1, { S2TTB: NOT_RAM }); } },
  { first: "F_ADDR_SIZE", second: "F_ACCESS", where: [1, EVENT_CLASS.IN], build: (rig) => { rig.map(rig.stage2(1, 1, { S2PS: 1 }), VA, 2 ** 40, S2_NO_AF); } },
  { first: "F_ACCESS", second: "F_PERMISSION", where: [1, EVENT_CLASS.IN], build: (rig) => { rig.map(rig.stage2(1), VA, PA, S2_NO_AF); } },
];

/** A table of stage 1 at an IPA of its own. */
const TABLE = BASE + 0x80_0000;

const NESTED: readonly Row[] = [
  {
    first: "F_TRANSLATION", second: "a fault of stage 2 on the first table", address: 2 ** 45, where: [0, EVENT_CLASS.IN],
    build: (rig) => { rig.nested(1, 1, { T0SZ: 25, TTB0: IPA }); },
  },
  {
    first: "F_ACCESS", second: "F_PERMISSION of stage 2 on a table", where: [1, EVENT_CLASS.TT],
    build: (rig) => {
      const { root2 } = rig.nested(1, 1, { TTB0: TABLE });
      rig.map(root2, TABLE, TABLE, S2.wo & ~(1 << 10));
    },
  },
  {
    first: "F_PERMISSION", second: "F_WALK_EABT of the stage-1 descriptor", where: [1, EVENT_CLASS.TT],
    build: (rig) => {
      const { root2 } = rig.nested(1, 1, { TTB0: IPA });
      rig.map(root2, IPA, NOT_RAM, S2.wo);
    },
  },
  {
    first: "F_PERMISSION", second: "F_TRANSLATION of the stage-1 descriptor", where: [1, EVENT_CLASS.TT],
    build: (rig) => {
      const { root2 } = rig.nested(1, 1, { TTB0: TABLE });
      rig.map(root2, TABLE, TABLE, S2.wo);
    },
  },
  {
    first: "F_WALK_EABT", second: "F_TRANSLATION of the stage-1 descriptor", where: [0, EVENT_CLASS.TT],
    build: (rig) => {
      const { root2 } = rig.nested(1, 1, { TTB0: IPA });
      rig.map(root2, IPA, NOT_RAM, S2.rw);
    },
  },
  {
    first: "F_ADDR_SIZE", second: "F_TRANSLATION of stage 2 for the output", where: [0, EVENT_CLASS.IN],
    build: (rig) => { rig.map(rig.nested(1, 1, { IPS: 0 }).root1, VA, 2 ** 40, S1.rw); },
  },
  {
    first: "F_ACCESS", second: "F_TRANSLATION of stage 2 for the output", where: [0, EVENT_CLASS.IN],
    build: (rig) => { rig.map(rig.nested(1).root1, VA, IPA, S1.noAf); },
  },
  {
    first: "F_PERMISSION", second: "F_TRANSLATION of stage 2 for the output", flags: ACCESS.write, where: [0, EVENT_CLASS.IN],
    build: (rig) => { rig.map(rig.nested(1).root1, VA, IPA, S1.ro); },
  },
  {
    first: "F_PERMISSION", second: "F_PERMISSION of stage 2 for the output", flags: ACCESS.write, where: [0, EVENT_CLASS.IN],
    build: (rig) => {
      const { root1, root2 } = rig.nested(1);
      rig.map(root1, VA, IPA, S1.ro);
      rig.map(root2, IPA, PA, S2.ro);
    },
  },
];

function check({ first, build, flags, ssid, address, where }: Row): void {
  const rig = new Rig();
  build(rig);
  rig.access(1, address ?? VA, flags, ssid);
  const [record, more] = rig.events();
  expect(more).toBeUndefined();
  expect(EVENT_NAMES.get(record![0]! & 0xff)).toBe(first);
  if (where !== undefined) expect([extract(record![3]!, EVENT.S2), extract(record![3]!, EVENT.CLASS)]).toEqual(where);
}

describe("7.3.22 record priorities", () => {
  test.each(CONFIG)("configuration: $first before $second", (row) => { check(row); });
  test.each(STAGE1)("stage 1: $first before $second", (row) => { check({ flags: ACCESS.write, ...row }); });
  test.each(STAGE2)("stage 2: $first before $second", (row) => { check({ flags: ACCESS.write, ...row }); });
  test.each(NESTED)("nested: $first before $second", (row) => { check(row); });

  test("configuration: C_BAD_STE before F_VMS_FETCH", () => {
    const id = { ...PRESETS.full, IDR3: PRESETS.full.IDR3 | place(REG.IDR3.MPAM, 1), MPAMIDR: 7 };
    for (const [V, event] of [[0, "C_BAD_STE"], [1, "F_VMS_FETCH"]] as const) {
      const rig = new Rig({ id });
      rig.nested(1, 1, {}, { V, S1MPAM: 1, VMSPtr: 0x9_0000_0000 });
      expect(rig.outcome(1, VA)).toBe(event);
    }
  });
});

describe("7.3.13 attributes of a fault that is not of the input", () => {
  const KINDS = [["read", ACCESS.read], ["write", ACCESS.write], ["privileged fetch", ACCESS.privileged | ACCESS.instruction]] as const;
  const CLASSES = [
    ["CD", EVENT_CLASS.CD, (rig: Rig): void => { rig.nested(1, 1, {}, { S1ContextPtr: IPA }); }],
    ["TT", EVENT_CLASS.TT, (rig: Rig): void => { rig.nested(1, 1, { TTB0: IPA }); }],
  ] as const;
  const rows = CLASSES.flatMap(([name, faultClass, build]) => KINDS.map(([kind, flags]) => ({ name, faultClass, build, kind, flags })));
  test.each(rows)("RnW, InD and PnU are those of the transaction: CLASS = $name | $kind", ({ faultClass, build, flags }) => {
    const rig = new Rig();
    build(rig);
    rig.access(1, VA, flags);
    const word = rig.events()[0]![3]!;
    expect([extract(word, EVENT.S2), extract(word, EVENT.CLASS)]).toEqual([1, faultClass]);
    const write = flags === ACCESS.write;
    const fetch = (flags & ACCESS.instruction) !== 0;
    expect([EVENT.RnW, EVENT.InD, EVENT.PnU].map((field) => extract(word, field))).toEqual([write ? 0 : 1, fetch ? 1 : 0, fetch ? 1 : 0]);
  });
});
