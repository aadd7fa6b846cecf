import { describe, expect, test } from "vitest";
import type { CMD, CommandName } from "@smmuv3/smmu-v3-defs";
import { PA, Rig, S1, S2 } from "./rig.ts";

type Values = Readonly<Partial<Record<keyof typeof CMD, number>>>;
const VA = 0x4000_1000;
const IPA = 0x1_0000_0000;
/** A page of the same tables as VA, which is looked up only after the tables have gone. */
const NEXT = 0x1000;

/** Streams whose level-1 tables are replaced by nothing after one page of each was used; the old tables keep their content. */
class Warm {
  readonly rig: Rig;

  constructor(rig: Rig = new Rig()) {
    this.rig = rig;
    const stage1 = (sid: number, asid: number, vmid: number, ste = {}): number => rig.stage1(sid, { ASID: asid }, { S2VMID: vmid, ...ste });
    const roots = {
      1: stage1(1, 1, 1), 2: stage1(2, 2, 1), 3: stage1(3, 1, 2), 4: stage1(4, 0, 0, { STRW: 2 }), 5: rig.stage2(5, 1), 6: rig.stage2(6, 2),
    } as const;
    for (const [sid, root] of Object.entries(roots)) {
      const [address, attributes] = Number(sid) < 5 ? [VA, S1.rw] : [IPA, S2.rw];
      for (const offset of [0, NEXT]) rig.map(root, address + offset, PA + offset, attributes);
      rig.access(Number(sid), address);
    }
    for (const root of Object.values(roots)) rig.memory.store64(root, 0, 0);
  }

  /** Streams whose walks no longer go through the old tables. */
  gone(): number[] {
    return [1, 2, 3, 4, 5, 6].filter((sid) => this.rig.outcome(sid, (sid < 5 ? VA : IPA) + NEXT) !== PA + NEXT);
  }
}

const SCOPE: readonly (readonly [name: CommandName, values: Values, gone: readonly number[]])[] = [
  ["SYNC", {}, []],
  ["CFGI_STE_RANGE", { Range: 31 }, []],
  ["TLBI_NH_VA", { VMID: 1, ASID: 1, Address: VA, Leaf: 1 }, []],
  ["TLBI_NH_VA", { VMID: 1, ASID: 1, Address: VA }, [1]],
  ["TLBI_NH_VA", { VMID: 1, ASID: 1, Address: VA + 0x10_0000 }, [1]],
  ["TLBI_NH_VA", { VMID: 1, ASID: 1, Address: VA + 0x80_0000_0000 }, []],
  ["TLBI_NH_VA", { VMID: 1, ASID: 2, Address: VA }, [2]],
  ["TLBI_NH_VA", { VMID: 2, ASID: 1, Address: VA }, [3]],
  ["TLBI_NH_VA", { VMID: 1, ASID: 1, Address: 0, TG: 1, NUM: 31, SCALE: 16 }, [1]],
  ["TLBI_NH_VA", { VMID: 1, ASID: 1, Address: VA, TG: 1, TTL: 3 }, [1]],
  ["TLBI_NH_VAA", { VMID: 1, Address: VA }, [1, 2]],
  ["TLBI_NH_VAA", { VMID: 1, Address: VA, Leaf: 1 }, []],
  ["TLBI_NH_ASID", { VMID: 1, ASID: 1 }, [1]],
  ["TLBI_NH_ALL", { VMID: 1 }, [1, 2]],
  ["TLBI_S12_VMALL", { VMID: 1 }, [1, 2, 5]],
  ["TLBI_S2_IPA", { VMID: 1, Address: IPA }, [5]],
  ["TLBI_S2_IPA", { VMID: 1, Address: IPA, Leaf: 1 }, []],
  ["TLBI_EL2_VA", { Address: VA }, [4]],
  ["TLBI_EL2_ALL", {}, [4]],
  ["TLBI_NSNH_ALL", {}, [1, 2, 3, 5, 6]],
];

describe("4.4: what a TLBI does to table descriptors", () => {
  test.each(SCOPE)("CMD_%s | %j", (name, values, gone) => {
    const warm = new Warm();
    warm.rig.command(name, values);
    expect(warm.gone()).toEqual(gone);
  });

  test("4.4.1: a level hint leaves the tables at and below the level", () => {
    const { rig } = new Warm();
    rig.command("TLBI_NH_VA", { VMID: 1, ASID: 1, Address: VA & ~0x3fff_ffff, TG: 1, TTL: 1 });
    // The level-1 and level-2 descriptors stay, and with them the way to the leaf.
    expect(rig.outcome(1, VA + NEXT)).toBe(PA + NEXT);
  });
});

test.each(["eager", "finite"] as const)("16.2: profile %s keeps no tables", (profile) => {
  expect(new Warm(new Rig({ profile })).gone()).toEqual([1, 2, 3, 4, 5, 6]);
});

test("16.2: a small walk cache evicts the oldest", () => {
  const cache = { entries: 1024, grows: true };
  const rig = new Rig({ profile: { tlb: cache, stes: cache, cds: cache, walks: { entries: 6, grows: false } } });
  // Three descriptors each: the last two streams have what there is room for.
  expect(new Warm(rig).gone()).toEqual([1, 2, 3, 4]);
});

test("16.2: walks that begin lower down find the same", () => {
  const rig = new Rig();
  const { root1, root2 } = rig.nested(7, 1, { ASID: 7 });
  for (let page = 0; page < 16; page++) {
    rig.map(root1, VA + page * 0x1000, IPA + page * 0x3000, page % 4 === 3 ? S1.ro : S1.rw);
    rig.map(root2, IPA + page * 0x3000, PA + page * 0x1000, S2.rw);
  }
  for (let page = 0; page < 16; page++) expect(rig.outcome(7, VA + page * 0x1000 + 8)).toBe(PA + page * 0x1000 + 8);
  for (let page = 0; page < 16; page++) {
    expect(rig.outcome(7, VA + page * 0x1000, 1)).toBe(page % 4 === 3 ? "F_PERMISSION" : PA + page * 0x1000);
  }
  expect(rig.outcome(7, VA + 0x10_0000)).toBe("F_TRANSLATION");
  // The first walk reads 4 descriptors of stage 1, later ones 1.
  expect(rig.smmu.counters.read("walkReads").total).toBeLessThan(24 + 17 * 9);
});

test("16.2: tables that restrict what is below them are not kept", () => {
  const rig = new Rig();
  const root = rig.stage1(1);
  for (const offset of [0, NEXT]) rig.map(root, VA + offset, PA + offset, S1.rw);
  // APTable: read-only.
  rig.memory.words[rig.memory.index(root, true) + 1]! |= 0x4000_0000;
  expect(rig.outcome(1, VA, 1)).toBe("F_PERMISSION");
  expect(rig.outcome(1, VA + NEXT, 1)).toBe("F_PERMISSION");
  expect(rig.outcome(1, VA + NEXT)).toBe(PA + NEXT);
});

test("a saved state has the walk cache in it", () => {
  const warm = new Warm();
  const state = warm.rig.smmu.saveState();
  warm.rig.command("TLBI_NSNH_ALL");
  warm.rig.command("TLBI_EL2_ALL");
  warm.rig.smmu.restoreState(state);
  expect(warm.gone()).toEqual([]);
});
