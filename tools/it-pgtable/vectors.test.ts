// Every result, every invalidation and the final tables of the kernel's own code, on both specialisations.
import { readFileSync, readdirSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { dataPath } from "@smmuv3/data";
import { allocGenericIoPgtable, allocIoPgtable, allocSharedIoPgtable } from "@smmuv3/io-pgtable-arm-common";
import type { Build, Configuration, Rule } from "./vectors.ts";
import { RULES, replay } from "./vectors.ts";

const FOLDER = dataPath("vectors/io-pgtable");
const files = readdirSync(FOLDER).filter((name) => name.endsWith(".jsonl.gz"));
const BUILDS: readonly (readonly [string, Build])[] = [
  ["single agent", allocIoPgtable],
  ["generic", allocGenericIoPgtable],
  ["shared", allocSharedIoPgtable],
];

const parse = (text: string): Configuration[] => text.trimEnd().split("\n").map((line) => JSON.parse(line) as Configuration);

describe.each(files)("%s", (name) => {
  const configurations = parse(gunzipSync(readFileSync(`${FOLDER}/${name}`)).toString());

  test.each(BUILDS)("%s: the kernel did the same", (_, build) => {
    const used: Rule[] = [];
    const failed = configurations.flatMap((cfg, i) => {
      const { differences, used: rules } = replay(cfg, build);
      used.push(...rules);
      const { fmt, pgsizes, ias, oas, coherent, quirks } = cfg;
      const title = `${i}: ${fmt} sizes ${pgsizes} ias ${ias} oas ${oas} coherent ${coherent} quirks ${quirks}`;
      return differences.length === 0 ? [] : [{ title, differences: differences.slice(0, 3) }];
    });
    expect(failed).toEqual([]);
    if (name === "seed7.jsonl.gz") {
      const count = (fmt: string): number => configurations.filter((cfg) => cfg.fmt === fmt).length;
      expect([count("64_S1"), count("64_S2"), count("32_S1"), count("32_S2")]).toEqual([48, 30, 6, 6]);
      // Recorded where 6.12 and newer kernels agree.
      expect(used).toEqual([]);
    }
  });
});

/** Lines as 6.12 would have recorded them, one per rule and direction. */
const map = (iova: number, pa: number, size: number, prot = 3): Configuration["ops"][number] => ({
  op: "map", iova: `0x${iova.toString(16)}`, pa: `0x${pa.toString(16)}`, size: `0x${size.toString(16)}`,
  count: 1, prot, tlb: [], ret: 0, mapped: prot === 0 ? "0x0" : `0x${size.toString(16)}`,
});
const stage2 = { fmt: "64_S2", coherent: 1, quirks: 0, vtcr: { ps: 5, tg: 0, sh: 3, orgn: 1, irgn: 1, sl: 1, tsz: 24 } };
const older: readonly (readonly [string, Rule, Configuration])[] = [
  [
    "two tables side by side, now a table of two",
    "concatenation",
    {
      ...stage2, pgsizes: "0x40201000", ias: 40, oas: 48, start: 1, pgdBytes: 8192,
      ops: [map(2 ** 39 + 2 ** 30, 2 ** 30, 2 ** 30)],
      tree: [["513", "L", "0x400006d5"]], leaves: 1, tables: 0,
    },
  ],
  [
    "a table of sixteen, now sixteen tables",
    "concatenation",
    {
      ...stage2, pgsizes: "0x2004000", ias: 40, oas: 40, start: 1, pgdBytes: 128,
      vtcr: { ...stage2.vtcr, ps: 2, tg: 2, sl: 2 },
      ops: [map(2 ** 36 + 2 ** 25, 2 ** 25, 2 ** 25)],
      tree: [["1", "T", "0x3"], ["1.1", "L", "0x20006d5"]], leaves: 1, tables: 1,
    },
  ],
  [
    "a block that is split",
    "split",
    {
      ...stage2, pgsizes: "0x40201000", ias: 39, oas: 48, start: 1, pgdBytes: 4096,
      vtcr: { ...stage2.vtcr, tsz: 25 },
      ops: [
        map(0, 2 ** 30, 2 ** 21),
        { op: "unmap", iova: "0x0", size: "0x1000", count: 1, tlb: [["page", "0x0", "0x1000"]], ret: "0x1000" },
        { op: "i2p", iova: "0x0", ret: "0x0" },
      ],
      tree: [], leaves: 511, tables: 2,
    },
  ],
  [
    "no access",
    "no access",
    {
      ...stage2, pgsizes: "0x40201000", ias: 39, oas: 48, start: 1, pgdBytes: 4096,
      vtcr: { ...stage2.vtcr, tsz: 25 },
      ops: [map(0, 2 ** 30, 2 ** 21, 0)],
      tree: [], leaves: 0, tables: 0,
    },
  ],
];

describe("rules for recordings of 6.12", () => {
  test.each(older)("%s: %s", (_, rule, cfg) => {
    expect(replay(cfg, allocIoPgtable)).toEqual({ differences: [], used: [rule] });
    const without = replay(cfg, allocIoPgtable, RULES.filter((other) => other !== rule));
    expect(without.used).toEqual([]);
    expect(without.differences).not.toEqual([]);
  });

  test("each explains something", () => {
    expect(new Set(older.map(([, rule]) => rule))).toEqual(new Set(RULES));
  });
});
