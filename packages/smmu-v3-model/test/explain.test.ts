import { describe, expect, test } from "vitest";
import { ACCESS, TRANSLATION } from "@smmuv3/platform";
import { OFFSET, STE_CONFIG, STE_S1DSS } from "@smmuv3/smmu-v3-defs";
import { formatExplanation } from "../src/index.ts";
import type { Explanation, ExplainOptions } from "../src/index.ts";
import { BASE, CDS, PA, Rig, S1, S2, STRTAB } from "./rig.ts";

const VA = 0x4000_1000;
const IPA = 0x1_0000_0000;

function explain(rig: Rig, sid: number, address: number, flags: number = ACCESS.read, ssid: number = 0, options?: ExplainOptions): Explanation {
  return rig.smmu.explainAccess(sid, ssid, address | 0, Math.floor(address / 2 ** 32), flags, options);
}

function names({ reads }: Explanation): string[] {
  return reads.map(({ what, level }) => (what === "S1" || what === "S2" ? `${what}.${level}` : what));
}

const WALK1 = ["S1.0", "S1.1", "S1.2", "S1.3"];
const WALK2 = ["S2.0", "S2.1", "S2.2", "S2.3"];

describe("what is read", () => {
  test("stage 1", () => {
    const rig = new Rig();
    rig.map(rig.stage1(1), VA, PA, S1.rw);
    const found = explain(rig, 1, VA + 4);
    expect(names(found)).toEqual(["STE", "CD", ...WALK1]);
    expect(found).toMatchObject({ outcome: "ok", pa: PA + 4, event: undefined, rule: { section: "3.3.2" } });
    expect(found.reads.map(({ pa }) => pa).slice(0, 2)).toEqual([STRTAB + 64, CDS + 64]);
    expect(found.reads.at(-1)!.text).toBe("page 0x800000000 AP=rw AF=1 nG AttrIndx=0");
  });

  test("stage 2", () => {
    const rig = new Rig();
    rig.map(rig.stage2(2), IPA, PA, S2.ro);
    expect(names(explain(rig, 2, IPA))).toEqual(["STE", ...WALK2]);
  });

  test("both: the CD and each descriptor of stage 1 through stage 2", () => {
    const rig = new Rig();
    const { root1, root2 } = rig.nested(7);
    rig.map(root1, VA, IPA, S1.rw);
    rig.map(root2, IPA, PA, S2.rw);
    const one = WALK1.flatMap((read) => [...WALK2, read]);
    expect(names(explain(rig, 7, VA))).toEqual(["STE", ...WALK2, "CD", ...one, ...WALK2]);
  });

  test("two-level tables of streams and substreams", () => {
    const rig = new Rig({ cr0: 0xc });
    const l1 = rig.alloc(0x1000);
    const l2 = rig.alloc(0x4000);
    const cdL1 = rig.alloc(0x1000);
    const cds = rig.alloc(0x1000);
    rig.memory.store64(l1 + 8, l2 | 7, 0);
    rig.memory.store64(cdL1, cds | 1, 0);
    rig.write64("STRTAB_BASE", l1);
    rig.write("STRTAB_BASE_CFG", 0x1_0000 | (6 << 6) | 10);
    rig.write("CR0", 0xd);
    rig.ste(1, { Config: STE_CONFIG.s1, S1Fmt: 1, S1CDMax: 8, S1ContextPtr: cdL1 }, l2);
    const root = rig.alloc(0x1000);
    rig.cd(cds + 3 * 64, { TTB0: root });
    rig.map(root, VA, PA, S1.rw);
    const found = explain(rig, 65, VA, ACCESS.ssidValid, 3);
    expect(names(found)).toEqual(["L1STD", "STE", "L1CD", "CD", ...WALK1]);
    expect(found.outcome).toBe("ok");
  });
});

describe("the rule that decides", () => {
  const cases: readonly (readonly [name: string, section: string, text: RegExp, run: (rig: Rig) => Explanation])[] = [
    ["disabled", "3.11", /GBPA lets/u, (rig) => (rig.write("CR0", 0xc), explain(rig, 1, VA))],
    ["C_BAD_STREAMID", "7.3.3", /beyond the stream table/u, (rig) => explain(rig, 9999, VA)],
    ["F_STE_FETCH", "7.3.4", /cannot be read/u, (rig) => (rig.memory.perm.fill(0), explain(rig, 1, VA))],
    ["C_BAD_STE", "5.2.2", /V = 0/u, (rig) => explain(rig, 1, VA)],
    ["Config abort", "5.2 Config", /aborts all traffic/u, (rig) => (rig.ste(1, {}), explain(rig, 1, VA))],
    ["bypass", "5.2 Config", /bypasses/u, (rig) => (rig.ste(1, { Config: STE_CONFIG.bypass }), explain(rig, 1, VA))],
    ["C_BAD_SUBSTREAMID", "7.3.9", /S1CDMax/u, (rig) => (rig.stage1(1), explain(rig, 1, VA, ACCESS.ssidValid, 1))],
    ["C_BAD_CD", "5.4.2", /V = 0/u, (rig) => (rig.stage1(1, { V: 0 }), explain(rig, 1, VA))],
    ["F_TRANSLATION", "7.3.13", /stage 1, level 0/u, (rig) => (rig.stage1(1), explain(rig, 1, VA))],
    ["F_ACCESS", "7.3.15", /stage 1, level 3/u, (rig) => (rig.map(rig.stage1(1), VA, PA, S1.noAf), explain(rig, 1, VA))],
    ["F_PERMISSION", "7.3.16", /stage 2, level 3/u, (rig) => (rig.map(rig.stage2(1), VA, PA, S2.wo), explain(rig, 1, VA))],
  ];
  test.each(cases)("%s, %s", (_name, section, text, run) => {
    const found = run(new Rig({ policy: { gbpaReset: "bypass" } }));
    expect(found.rule.section).toBe(section);
    expect(found.rule.text).toMatch(text);
  });

  test.each([
    ["the CD", /stage 2, level 0, on the way to the CD/u, (rig: Rig) => {
      rig.memory.store64(rig.nested(7).root2, 0, 0);
    }],
    ["the output of stage 1", /stage 2, level \d, output of stage 1/u, (rig: Rig) => {
      rig.map(rig.nested(7).root1, VA, IPA, S1.rw);
    }],
  ])("stage 2 refuses %s", (_name, text, prepare) => {
    const rig = new Rig();
    prepare(rig);
    expect(explain(rig, 7, VA).rule.text).toMatch(text);
  });

  test("memory that nobody has decides nothing", () => {
    const rig = new Rig();
    rig.stage1(1, { TTB0: BASE + 0xf00_0000 });
    rig.memory.perm[rig.memory.pageIndex(BASE + 0xf0_0000)] = 0;
    rig.stage1(2, { TTB0: BASE + 0xf0_0000 });
    expect(explain(rig, 2, VA).event?.name).toBe("F_WALK_EABT");
    const unknown = explain(rig, 2, VA, ACCESS.read, 0, { unreadableIsUnknown: true });
    expect(unknown).toMatchObject({ outcome: "unknown", event: undefined });
  });
});

describe("what a descriptor is, in words", () => {
  const XN1 = 1 << 21;
  const XN2 = 1 << 22;
  test.each<[string, (rig: Rig) => number, number, number, RegExp]>([
    ["not executable", (rig) => rig.stage1(1), S1.rw | 3, XN1 | XN2, /^page 0x800000000 AP=rw AF=1 nG PXN UXN AttrIndx=0$/u],
    ["writable-clean", (rig) => rig.stage1(1), S1.ro | 3, 0x8_0000, /AP=ro AF=1 DBM nG/u],
    ["global, privileged", (rig) => rig.stage1(1), (S1.priv & ~0x800) | 3, 0, /AP=privileged-rw AF=1 global/u],
    ["reserved", (rig) => rig.stage1(1), S1.rw | 1, 0, /^reserved: bit 1 is 0 at level 3$/u],
    ["stage 2, XN", (rig) => rig.stage2(1), S2.rw | 3, XN2, /S2AP=rw AF=1 XN=2 MemAttr=0xf/u],
  ])("%s", (_name, build, lo, hi, text) => {
    const rig = new Rig();
    const root = build(rig);
    rig.map(root, VA, PA, 0);
    rig.memory.store64(rig.leaf(root, VA), lo, hi | 8);
    expect(explain(rig, 1, VA).reads.at(-1)!.text).toMatch(text);
  });

  test("a block, and what a table restricts", () => {
    const rig = new Rig();
    const root = rig.stage1(1);
    rig.map(root, 0x4000_0000, PA, S1.rw, 0x4000_0000);
    rig.memory.store64(root, rig.memory.load32(root), 0x7800_0000);
    expect(explain(rig, 1, VA).reads.slice(-2).map(({ text }) => text)).toEqual([
      expect.stringMatching(/^table 0x[0-9a-f]+ APTable=ro APTable=privileged UXNTable PXNTable$/u),
      "block 0x800000000 AP=rw AF=1 nG AttrIndx=0",
    ]);
  });
});

describe("what ends an access without an event", () => {
  test.each<[string, RegExp, string, (rig: Rig) => void]>([
    ["Service Failure Mode", /Service Failure Mode/u, "12.3", (rig) => { rig.smmu.enterServiceFailure(); }],
    ["disabled, GBPA.ABORT", /GBPA.ABORT is 1/u, "3.11", (rig) => {
      rig.write("CR0", 0xc);
      rig.write("GBPA", 0x8010_0000);
    }],
    ["S1DSS = bypass", /bypasses translation/u, "5.2 Config", (rig) => { rig.stage1(1, {}, { S1CDMax: 2, S1DSS: STE_S1DSS.bypass }); }],
  ])("%s", (_name, text, section, build) => {
    const rig = new Rig();
    build(rig);
    expect(explain(rig, 1, VA).rule).toEqual({ text: expect.stringMatching(text) as string, section });
  });

  test("a bypassed address that is too large", () => {
    const rig = new Rig();
    rig.ste(1, { Config: STE_CONFIG.bypass });
    expect(explain(rig, 1, 2 ** 55).rule).toMatchObject({ text: expect.stringContaining("the stream bypasses translation") as string, section: "7.3.14" });
  });
});

test("text tells the kind of the access, the substream, the PA, and an event that is not recorded", () => {
  const rig = new Rig({ cr2: 0 });
  rig.map(rig.stage1(1), VA, PA, S1.rw);
  expect(formatExplanation(explain(rig, 1, VA))).toContain("SID 1, read of 0x40001000: ok, PA 0x800000000");
  const fetch = ACCESS.privileged | ACCESS.instruction | ACCESS.ssidValid;
  expect(formatExplanation(explain(rig, 1, VA, fetch, 7))).toContain("SID 1 SSID 7, privileged instruction read of 0x40001000: abort");
  const silent = new Rig();
  silent.map(silent.stage1(1, { R: 0 }), VA, PA, S1.noAf);
  expect(formatExplanation(explain(silent, 1, VA))).toContain("F_ACCESS, not recorded");
});

test("an explanation is text of at most 100 columns, and JSON", () => {
  const rig = new Rig();
  const { root1 } = rig.nested(7);
  rig.map(root1, VA, IPA, S1.rw);
  const found = explain(rig, 7, VA, ACCESS.write);
  const text = formatExplanation(found);
  expect(text.split("\n").filter((line) => line.length > 100)).toEqual([]);
  expect(text).toContain("SID 7, write of 0x40001000: abort");
  expect(text).toContain("F_TRANSLATION: F_TRANSLATION SID=7");
  expect(JSON.parse(JSON.stringify(found))).toMatchObject({ outcome: "abort", rule: found.rule });
});

test("nothing changes: no event, no fill, no counter, no word of memory", () => {
  const rig = new Rig();
  rig.map(rig.stage1(1), VA, PA, S1.rw);
  rig.stage1(2);
  const memory = rig.memory.words.slice();
  const counters = rig.smmu.counters.values.slice();
  const stats = rig.smmu.cacheStats();
  for (const sid of [1, 2, 3]) explain(rig, sid, VA, ACCESS.write);
  expect(rig.memory.words).toEqual(memory);
  expect(rig.smmu.counters.values).toEqual(counters);
  expect(rig.smmu.cacheStats()).toEqual(stats);
  expect(rig.smmu.registers.read32(OFFSET.EVENTQ_PROD)).toBe(0);
});

test("the tables of now, not the caches", () => {
  const rig = new Rig();
  const root = rig.stage1(1);
  rig.map(root, VA, PA, S1.rw);
  expect(rig.outcome(1, VA)).toBe(PA);
  rig.memory.store64(rig.leaf(root, VA), 0, 0);
  expect(rig.outcome(1, VA)).toBe(PA);
  expect(explain(rig, 1, VA).event?.name).toBe("F_TRANSLATION");
});

/** A generator that gives the same numbers every time. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    return (state >>> 8) % below;
  };
}

const OUTCOMES = { [TRANSLATION.ok]: "ok", [TRANSLATION.abort]: "abort", [TRANSLATION.raz]: "raz" } as const;

describe("agrees with translate() of an SMMU without caches, on random configurations", () => {
  test.each(Array.from({ length: 24 }, (_, seed) => seed))("seed %i", (seed) => {
    const pick = random(seed + 1);
    const rig = new Rig({ profile: "eager" });
    const damage = (pa: number): void => {
      const at = rig.memory.index(pa, true) + pick(16);
      rig.memory.words[at]! ^= 1 << pick(32);
    };
    for (let sid = 1; sid <= 8; sid++) {
      const kind = pick(3);
      const attributes = Object.values(S1)[pick(5)]!;
      const attributes2 = Object.values(S2)[pick(5)]!;
      if (kind === 0) rig.map(rig.stage1(sid, { A: pick(2), R: pick(2) }), VA, PA, attributes);
      else if (kind === 1) rig.map(rig.stage2(sid), VA, PA, attributes2);
      else {
        const { root1, root2 } = rig.nested(sid);
        rig.map(root1, VA, IPA, attributes);
        rig.map(root2, IPA, PA, attributes2);
        if (pick(3) === 0) rig.memory.words[rig.memory.index(rig.leaf(root2, CDS), true)]! ^= 1 << pick(12);
      }
      if (pick(3) === 0) damage(STRTAB + sid * 64);
      if (pick(3) === 0) damage(CDS + sid * 64);
    }
    for (let sid = 0; sid < 10; sid++) {
      for (const flags of [ACCESS.read, ACCESS.write, ACCESS.read | ACCESS.privileged, ACCESS.instruction, ACCESS.ssidValid]) {
        const found = explain(rig, sid, VA + 8, flags);
        const { result, pa } = rig.access(sid, VA + 8, flags);
        expect(found.outcome).toBe(OUTCOMES[result as 0 | 1 | 2]);
        expect(found.pa ?? -1).toBe(pa);
        expect(found.event?.name).toBe(rig.smmu.explainLast());
        const [record] = rig.events();
        expect(found.event?.recorded ?? false).toBe(record !== undefined);
        if (record !== undefined) expect(found.event!.words).toEqual(record);
      }
    }
  });
});
