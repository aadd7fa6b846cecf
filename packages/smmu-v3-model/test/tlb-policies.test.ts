import { describe, expect, test } from "vitest";
import { ACCESS } from "@smmuv3/platform";
import { PA, Rig, S1, S2 } from "./rig.ts";

const VA = 0x4000_0000;
const IPA = 0x1_0000_0000;
const BLOCK = 0x20_0000;
const OTHER = PA + 0x40_0000_0000;

describe("policy tlb: a nested entry after CMD_TLBI_S2_IPA (16.2)", () => {
  test.each([["combined", 0, PA], ["split", 0, OTHER], ["split", 0x1000, PA]] as const)("%s, offset %i", (tlb, offset, expected) => {
    const rig = new Rig({ policy: { tlb } });
    const { root1, root2 } = rig.nested(7, 1, { ASID: 7 });
    rig.map(root1, VA, IPA, S1.rw);
    rig.map(root2, IPA, PA, S2.rw);
    expect(rig.outcome(7, VA)).toBe(PA);
    rig.map(root2, IPA, OTHER, S2.rw);
    rig.command("TLBI_S2_IPA", { VMID: 1, Address: IPA + offset });
    expect(rig.outcome(7, VA)).toBe(expected);
  });
});

describe("policy bbml: pages and a block at once (3.21.1)", () => {
  /** One page of a table is in the TLB; then a block replaces the table, and another page of it is used. */
  function replaced(bbml: "none" | "fault" | "amalgamate"): Rig {
    const rig = new Rig({ policy: { bbml } });
    const root = rig.stage1(1, { ASID: 5 }, { S2VMID: 1 });
    rig.map(root, VA, PA, S1.ro);
    expect(rig.outcome(1, VA)).toBe(PA);
    // Without its tables, a walk cache would go on as before.
    rig.map(root, VA, OTHER, S1.rw, BLOCK);
    rig.command("TLBI_NH_VA", { VMID: 1, ASID: 5, Address: VA + 0x1000 });
    expect(rig.outcome(1, VA + 0x1000)).toBe(OTHER + 0x1000);
    return rig;
  }

  test("none: the old entry is found", () => {
    expect(replaced("none").outcome(1, VA)).toBe(PA);
  });

  test("fault: F_TLB_CONFLICT until it is invalidated", () => {
    const rig = replaced("fault");
    expect(rig.outcome(1, VA)).toBe("F_TLB_CONFLICT");
    expect(rig.outcome(1, VA + 0x2000)).toBe(OTHER + 0x2000);
    expect(rig.smmu.decodeEvents().map(({ text }) => text)).toEqual(["F_TLB_CONFLICT SID=1 RnW=1 InputAddr=0x40000000"]);
    rig.command("TLBI_NH_ASID", { VMID: 1, ASID: 5 });
    expect(rig.outcome(1, VA)).toBe(OTHER);
  });

  test("amalgamate: the rights of both, and an address of both", () => {
    const rig = replaced("amalgamate");
    expect(rig.outcome(1, VA, ACCESS.write)).toBe(OTHER);
  });
});

describe("16.2: replacement", () => {
  /** Pages of 64 that a TLB of 8 entries still has after one round. */
  function survivors(seed?: number): number[] {
    const cache = { entries: 64, grows: true };
    const tlb = { entries: 8, grows: false, ...(seed === undefined ? {} : { seed }) };
    const rig = new Rig({ profile: { tlb, stes: cache, cds: cache } });
    const root = rig.stage1(1);
    for (let i = 0; i < 64; i++) rig.map(root, VA + i * 0x1000, PA + i * 0x1000, S1.rw);
    for (let i = 0; i < 64; i++) expect(rig.outcome(1, VA + i * 0x1000)).toBe(PA + i * 0x1000);
    const hits = (): number => rig.smmu.counters.read("tlb.hits").total;
    for (let i = 0; i < 64; i++) rig.memory.store64(rig.leaf(root, VA + i * 0x1000), 0, 0);
    return Array.from({ length: 64 }, (_, i) => i).filter((i) => {
      const before = hits();
      rig.access(1, VA + i * 0x1000);
      return hits() > before;
    });
  }

  test("round robin keeps the last of each set", () => {
    expect(Math.min(...survivors())).toBeGreaterThan(48);
    expect(survivors()).toHaveLength(8);
  });

  test("random is the same for the same seed", () => {
    expect(survivors(7)).toEqual(survivors(7));
    expect(survivors(7)).not.toEqual(survivors());
  });
});
