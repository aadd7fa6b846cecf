import { describe, expect, test } from "vitest";
import { ACCESS } from "@smmuv3/platform";
import { COMMANDS, STE, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import type { CMD, CommandName } from "@smmuv3/smmu-v3-defs";
import { PA, Rig, S1, S2, STRTAB, CDS } from "./rig.ts";

type Values = Readonly<Partial<Record<keyof typeof CMD, number>>>;
const VA = 0x4000_1000;
const IPA = 0x1_0000_0000;

/** Entries that the table below asks about; every name is a stream, or a page of one. */
const ENTRIES = [
  "asid1", "asid1.next", "asid1.block", "asid2", "global", "vmid2", "stage2", "stage2.vmid2", "nested", "el2",
] as const;
type Entry = (typeof ENTRIES)[number];

/**
 * Streams with an entry each in the lazy TLB, then all leaves are removed from memory. VMID 1: asid1, asid2, global, nested,
 * stage2. VMID 2: vmid2 (ASID 1), stage2.vmid2.
 */
class Warm {
  readonly rig = new Rig();
  readonly #where: Record<Entry, readonly [sid: number, address: number]>;
  readonly #pa = new Map<Entry, number | string>();

  constructor() {
    const { rig } = this;
    const leaves: number[] = [];
    const page = (root: number, address: number, attributes: number): void => {
      rig.map(root, address, PA + address, attributes);
      leaves.push(rig.leaf(root, address));
    };
    const asid1 = rig.stage1(1, { ASID: 1 }, { S2VMID: 1 });
    page(asid1, VA, S1.rw);
    page(asid1, VA + 0x1000, S1.rw);
    rig.map(asid1, 0x8000_0000, PA, S1.rw, 0x20_0000);
    page(rig.stage1(2, { ASID: 2 }, { S2VMID: 1 }), VA, S1.rw);
    page(rig.stage1(3, { ASID: 3 }, { S2VMID: 1 }), VA + 0x10_0000, S1.global);
    page(rig.stage1(4, { ASID: 1 }, { S2VMID: 2 }), VA, S1.rw);
    page(rig.stage2(5, 1), IPA, S2.rw);
    page(rig.stage2(6, 2), IPA, S2.rw);
    const nested = rig.nested(7, 1, { ASID: 7 });
    page(nested.root1, VA, S1.rw);
    rig.map(nested.root2, PA + VA, PA + 0x10_0000_0000, S2.rw);
    page(rig.stage1(8, {}, { STRW: 2 }), VA, S1.rw);
    this.#where = {
      asid1: [1, VA],
      "asid1.next": [1, VA + 0x1000],
      "asid1.block": [1, 0x8012_3000],
      asid2: [2, VA],
      global: [3, VA + 0x10_0000],
      vmid2: [4, VA],
      stage2: [5, IPA],
      "stage2.vmid2": [6, IPA],
      nested: [7, VA],
      el2: [8, VA],
    };
    for (const entry of ENTRIES) this.#pa.set(entry, this.look(entry));
    for (const leaf of leaves) rig.memory.store64(leaf, 0, 0);
    // The block, at level 2.
    const level1 = rig.memory.load32(asid1) & ~0xfff;
    const level2 = rig.memory.load32((level1 >>> 0) + 2 * 8) & ~0xfff;
    rig.memory.store64(level2 >>> 0, 0, 0);
  }

  look(entry: Entry): number | string {
    const [sid, address] = this.#where[entry];
    return this.rig.outcome(sid, address);
  }

  /** Entries that are gone. */
  gone(): Entry[] {
    return ENTRIES.filter((entry) => this.look(entry) !== this.#pa.get(entry));
  }
}

const OF_VMID1_S1: readonly Entry[] = ["asid1", "asid1.next", "asid1.block", "asid2", "global", "nested"];

const SCOPE: readonly (readonly [name: CommandName, values: Values, gone: readonly Entry[]])[] = [
  ["SYNC", {}, []],
  ["CFGI_STE_RANGE", { Range: 31 }, []],
  ["TLBI_NH_ALL", { VMID: 1 }, OF_VMID1_S1],
  ["TLBI_NH_ALL", { VMID: 2 }, ["vmid2"]],
  ["TLBI_NH_ALL", { VMID: 3 }, []],
  ["TLBI_NH_ASID", { VMID: 1, ASID: 1 }, ["asid1", "asid1.next", "asid1.block"]],
  ["TLBI_NH_ASID", { VMID: 2, ASID: 1 }, ["vmid2"]],
  ["TLBI_NH_ASID", { VMID: 1, ASID: 3 }, []],
  ["TLBI_NH_ASID", { VMID: 1, ASID: 7 }, ["nested"]],
  ["TLBI_NH_VA", { VMID: 1, ASID: 1, Address: VA }, ["asid1"]],
  ["TLBI_NH_VA", { VMID: 1, ASID: 1, Address: VA, Leaf: 1 }, ["asid1"]],
  ["TLBI_NH_VA", { VMID: 2, ASID: 1, Address: VA }, ["vmid2"]],
  ["TLBI_NH_VA", { VMID: 1, ASID: 7, Address: VA }, ["nested"]],
  ["TLBI_NH_VA", { VMID: 1, ASID: 1, Address: 0x8000_0000 }, ["asid1.block"]],
  ["TLBI_NH_VA", { VMID: 1, ASID: 1, Address: 0x801f_f000 }, ["asid1.block"]],
  ["TLBI_NH_VA", { VMID: 1, ASID: 1, Address: 0x8020_0000 }, []],
  ["TLBI_NH_VA", { VMID: 1, ASID: 99, Address: VA + 0x10_0000 }, ["global"]],
  ["TLBI_NH_VA", { VMID: 1, ASID: 1, Address: VA, TG: 1, NUM: 1 }, ["asid1", "asid1.next"]],
  ["TLBI_NH_VA", { VMID: 1, ASID: 1, Address: VA, TG: 1, NUM: 1, TTL: 3 }, ["asid1", "asid1.next"]],
  ["TLBI_NH_VA", { VMID: 1, ASID: 1, Address: VA, TG: 1, NUM: 1, TTL: 2 }, []],
  ["TLBI_NH_VA", { VMID: 1, ASID: 1, Address: 0, TG: 1, NUM: 31, SCALE: 16 }, ["asid1", "asid1.next", "asid1.block", "global"]],
  ["TLBI_NH_VA", { VMID: 1, ASID: 1, Address: 0x8010_0000, TG: 1, NUM: 0, SCALE: 1 }, ["asid1.block"]],
  ["TLBI_NH_VAA", { VMID: 1, Address: VA }, ["asid1", "asid2", "nested"]],
  ["TLBI_NH_VAA", { VMID: 1, Address: VA + 0x10_0000 }, ["global"]],
  ["TLBI_EL2_ALL", {}, ["el2"]],
  ["TLBI_EL2_VA", { Address: VA }, ["el2"]],
  ["TLBI_EL2_VAA", { Address: VA }, ["el2"]],
  ["TLBI_S12_VMALL", { VMID: 1 }, [...OF_VMID1_S1, "stage2"]],
  ["TLBI_S12_VMALL", { VMID: 2 }, ["vmid2", "stage2.vmid2"]],
  // A combined entry need not die, and a hypervisor that relies on it is wrong.
  ["TLBI_S2_IPA", { VMID: 1, Address: IPA }, ["stage2"]],
  ["TLBI_S2_IPA", { VMID: 1, Address: PA + VA }, []],
  ["TLBI_S2_IPA", { VMID: 2, Address: IPA }, ["stage2.vmid2"]],
  ["TLBI_NSNH_ALL", {}, ENTRIES.filter((entry) => entry !== "el2")],
];

describe("scope of TLB invalidation", () => {
  const rows = SCOPE.map(([name, values, gone]) => ({ name, values, gone, section: COMMANDS[name].section }));
  test.each(rows)("$section: CMD_$name | $values", ({ name, values, gone }) => {
    const warm = new Warm();
    expect(warm.gone()).toEqual([]);
    warm.rig.command(name, values);
    expect(warm.gone().sort()).toEqual([...gone].sort());
  });

  const MATCHING: readonly (readonly [vmw: number, vmid: number, gone: readonly Entry[]])[] = [
    [0, 3, []], [0, 2, ["vmid2"]], [1, 3, ["vmid2"]], [1, 0, OF_VMID1_S1], [2, 3, [...OF_VMID1_S1, "vmid2"]], [2, 4, []],
    [3, 7, [...OF_VMID1_S1, "vmid2"]], [3, 8, []], [4, 15, [...OF_VMID1_S1, "vmid2"]], [4, 16, []], [5, 3, []], [6, 3, []], [7, 3, []],
  ];
  test.each(MATCHING)("6.3.9: CR0.VMW = %i, the VMID bits that a TLBI ignores | VMID %i", (vmw, vmid, gone) => {
    const warm = new Warm();
    warm.rig.write("CR0", 0xd | (vmw << 6));
    warm.rig.command("TLBI_NH_ALL", { VMID: vmid });
    expect(warm.gone().sort()).toEqual([...gone].sort());
  });

  test("16.2: an eager SMMU has nothing to invalidate", () => {
    const rig = new Rig({ profile: "eager" });
    const root = rig.stage1(1);
    rig.map(root, VA, PA, S1.rw);
    expect(rig.outcome(1, VA)).toBe(PA);
    rig.memory.store64(rig.leaf(root, VA), 0, 0);
    expect(rig.outcome(1, VA)).toBe("F_TRANSLATION");
  });
});

test("4.4.2.3: a block that stage 2 cuts into pages is invalidated by any address in it", () => {
  const rig = new Rig();
  const { root1, root2 } = rig.nested(7, 1, { ASID: 7 });
  rig.map(root1, 0x8000_0000, IPA, S1.rw, 0x20_0000);
  for (let page = 0; page < 4; page++) rig.map(root2, IPA + page * 0x1000, PA + page * 0x1000, S2.rw);
  for (let page = 0; page < 4; page++) expect(rig.outcome(7, 0x8000_0000 + page * 0x1000)).toBe(PA + page * 0x1000);
  const level1 = (rig.memory.load32(root1) & ~0xfff) >>> 0;
  rig.memory.store64((rig.memory.load32(level1 + 16) & ~0xfff) >>> 0, 0, 0);
  rig.command("TLBI_NH_VA", { VMID: 1, ASID: 7, Address: 0x8010_0000 });
  for (let page = 0; page < 4; page++) expect(rig.outcome(7, 0x8000_0000 + page * 0x1000)).toBe("F_TRANSLATION");
});

test("4.4.2.2: more contexts than stamps: invalidations are not lost", () => {
  const rig = new Rig();
  const root = rig.stage1(1, { ASID: 1 });
  rig.map(root, VA, PA, S1.rw);
  expect(rig.outcome(1, VA)).toBe(PA);
  rig.memory.store64(rig.leaf(root, VA), 0, 0);
  for (let asid = 2; asid < 5000; asid++) rig.command("TLBI_NH_ASID", { VMID: 0, ASID: asid });
  expect(rig.outcome(1, VA)).toBe(PA);
  rig.command("TLBI_NH_ASID", { VMID: 0, ASID: 1 });
  for (let asid = 2; asid < 5000; asid++) rig.command("TLBI_NH_ASID", { VMID: 0, ASID: asid });
  expect(rig.outcome(1, VA)).toBe("F_TRANSLATION");
});

test("16.2: a lazy TLB grows, a finite one evicts, and both stay right", () => {
  const PAGES = 20_000;
  for (const profile of ["lazy", "finite"] as const) {
    const rig = new Rig({ profile });
    const root = rig.stage1(1);
    for (let page = 0; page < PAGES / 10; page++) rig.map(root, page * 0x1000, PA + page * 0x1000, S1.rw);
    for (let block = 0; block < PAGES; block++) rig.outcome(1, (block % (PAGES / 10)) * 0x1000);
    for (let sid = 2; sid < 32; sid++) {
      rig.ste(sid, { Config: STE_CONFIG.s1, S1ContextPtr: CDS + sid * 64 });
      rig.cd(CDS + sid * 64, { TTB0: root, ASID: sid });
      for (let page = 0; page < PAGES / 10; page++) {
        if (rig.outcome(sid, page * 0x1000) !== PA + page * 0x1000) throw new Error("wrong PA");
      }
    }
    const { tlb, tlbEvictions } = rig.smmu.cacheStats();
    if (profile === "lazy") expect([tlb, tlbEvictions]).toEqual([31 * (PAGES / 10), 0]);
    else expect(tlb).toBeLessThanOrEqual(4096);
    rig.command("TLBI_NSNH_ALL");
    expect(rig.smmu.cacheStats().tlb).toBe(0);
  }
});

describe("4.3: configuration caches", () => {
  const SSID = ACCESS.ssidValid;
  /** Streams 8 and 9 with two substreams each. Then every STE becomes an abort and every CD invalid. */
  function warm(): { rig: Rig; look: (sid: number, ssid: number) => number | string } {
    const rig = new Rig();
    const root = rig.stage1(8, {}, { S1CDMax: 1, S1ContextPtr: CDS });
    rig.map(root, VA, PA, S1.rw);
    for (const [sid, table] of [[8, CDS], [9, CDS + 0x1000]] as const) {
      rig.ste(sid, { Config: STE_CONFIG.s1, S1CDMax: 1, S1ContextPtr: table });
      for (const ssid of [0, 1]) rig.cd(table + ssid * 64, { TTB0: root, ASID: sid * 2 + ssid });
    }
    const look = (sid: number, ssid: number): number | string => rig.outcome(sid, VA, SSID, ssid);
    for (const sid of [8, 9]) for (const ssid of [0, 1]) look(sid, ssid);
    for (const table of [CDS, CDS + 0x1000]) rig.memory.fill(table, 128, 0);
    return { rig, look };
  }
  const KEYS = ["8.0", "8.1", "9.0", "9.1"];
  function gone(look: (sid: number, ssid: number) => number | string): string[] {
    return KEYS.filter((key) => {
      const [sid, ssid] = key.split(".").map(Number);
      return look(sid!, ssid!) !== PA;
    });
  }

  test.each<[CommandName, Values, string[]]>([
    ["TLBI_NSNH_ALL", {}, []],
    ["CFGI_CD", { SID: 8, SSID: 1 }, ["8.1"]],
    ["CFGI_CD", { SID: 8, SSID: 1, Leaf: 1 }, ["8.1"]],
    ["CFGI_CD_ALL", { SID: 8 }, ["8.0", "8.1"]],
    ["CFGI_STE", { SID: 9 }, ["9.0", "9.1"]],
    ["CFGI_STE", { SID: 9, Leaf: 1 }, ["9.0", "9.1"]],
    ["CFGI_STE_RANGE", { SID: 8, Range: 0 }, KEYS],
    ["CFGI_STE_RANGE", { SID: 10, Range: 0 }, []],
    ["CFGI_STE_RANGE", { SID: 15, Range: 2 }, KEYS],
    ["CFGI_STE_RANGE", { Range: 31 }, KEYS],
  ])("the CDs of CMD_%s | %j", (name, values, expected) => {
    const { rig, look } = warm();
    rig.command(name, values);
    expect(gone(look)).toEqual(expected);
  });

  test.each<[CommandName, Values, number | string]>([
    ["CFGI_CD", { SID: 8 }, "C_BAD_CD"],
    ["CFGI_CD_ALL", { SID: 8 }, "C_BAD_CD"],
    ["CFGI_STE", { SID: 9 }, PA],
    ["CFGI_STE", { SID: 8 }, "C_BAD_STE"],
  ])("the STE stays where only CDs go: CMD_%s | %j", (name, values, expected) => {
    const { rig, look } = warm();
    rig.memory.fill(STRTAB + 8 * 64, 64, 0);
    rig.command(name, values);
    expect(look(8, 0)).toBe(expected);
  });

  test("an STE that was invalid when it was fetched stays so", () => {
    const rig = new Rig();
    expect(rig.outcome(1, 0)).toBe("C_BAD_STE");
    rig.ste(1, { Config: STE_CONFIG.bypass });
    expect(rig.outcome(1, 0x1000)).toBe("C_BAD_STE");
    rig.command("CFGI_STE", { SID: 1 });
    expect(rig.outcome(1, 0x1000)).toBe(0x1000);
  });

  test("a failed fetch leaves nothing", () => {
    const rig = new Rig();
    const page = rig.memory.pageIndex(STRTAB);
    rig.ste(1, { Config: STE_CONFIG.bypass });
    rig.memory.perm[page] = 0;
    expect(rig.outcome(1, 0x1000)).toBe("F_STE_FETCH");
    rig.memory.perm[page] = 3;
    expect(rig.outcome(1, 0x1000)).toBe(0x1000);
  });

  test("fault settings are not part of the TLB", () => {
    const rig = new Rig();
    rig.map(rig.stage2(2), VA, PA, S2.ro);
    expect(rig.outcome(2, VA)).toBe(PA);
    rig.fields(STE, STRTAB + 2 * 64, { S2R: 0 });
    rig.command("CFGI_STE", { SID: 2 });
    rig.access(2, VA, ACCESS.write);
    expect(rig.events()).toEqual([]);
  });

  test("a cache that grows keeps every configuration until it is invalidated, and takes the place of those that were", () => {
    const small = { entries: 4, grows: true };
    const rig = new Rig({ profile: { tlb: { entries: 0, grows: false }, stes: small, cds: small } });
    const root = rig.stage1(0);
    rig.map(root, VA, PA, S1.rw);
    const build = (): void => {
      for (let sid = 0; sid < 64; sid++) {
        rig.ste(sid, { Config: STE_CONFIG.s1, S1ContextPtr: CDS + sid * 64 });
        rig.cd(CDS + sid * 64, { TTB0: root, ASID: sid });
      }
    };
    const outcomes = (): Set<number | string> => new Set(Array.from({ length: 64 }, (_, sid) => rig.outcome(sid, VA)));
    for (let round = 0; round < 3; round++) {
      build();
      expect(outcomes()).toEqual(new Set([PA]));
      rig.memory.fill(STRTAB, 64 * 64, 0);
      expect(outcomes()).toEqual(new Set([PA]));
      expect(rig.smmu.cacheStats()).toMatchObject({ stes: 64, cds: 64 });
      for (let sid = 0; sid < 64; sid++) rig.command("CFGI_STE", { SID: sid });
      expect(outcomes()).toEqual(new Set(["C_BAD_STE"]));
      rig.command("CFGI_STE_RANGE", { Range: 31 });
      rig.events();
    }
  });

  test("a finite cache that evicted a stream's configuration fetches it again", () => {
    const tiny = { entries: 4, grows: false };
    const rig = new Rig({ profile: { tlb: { entries: 0, grows: false }, stes: tiny, cds: tiny } });
    const root = rig.stage1(0);
    rig.map(root, VA, PA, S1.rw);
    for (let sid = 0; sid < 32; sid++) {
      rig.ste(sid, { Config: STE_CONFIG.s1, S1ContextPtr: CDS + sid * 64 });
      rig.cd(CDS + sid * 64, { TTB0: root, ASID: sid });
    }
    for (let round = 0; round < 3; round++) {
      for (let sid = 0; sid < 32; sid++) expect(rig.outcome(sid, VA + sid)).toBe(PA + sid);
    }
  });
});
