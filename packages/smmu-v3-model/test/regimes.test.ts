import { describe, expect, test } from "vitest";
import { ACCESS } from "@smmuv3/platform";
import { STE, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "../src/index.ts";
import type { IdRegisters } from "../src/index.ts";
import { BASE, CDS, PA, Rig, S1, S2, STRTAB } from "./rig.ts";

const VA = 0x12_3456_7000;
const { qemuNested } = PRESETS;
/** Dirty state updates, both table formats, E0PD, no stalls; 44-bit addresses. */
const ID: IdRegisters = {
  ...qemuNested,
  IDR0: (qemuNested.IDR0 & ~((3 << 6) | (3 << 2))) | (2 << 6) | (3 << 2),
  IDR3: qemuNested.IDR3 | (1 << 13),
};
const MPAM: IdRegisters = { ...ID, IDR3: ID.IDR3 | (1 << 7), MPAMIDR: 7 };
const DBM = 1 << 19;
const TTRNW = 1 << 12;

function clean(rig: Rig, leaf: number): void {
  rig.memory.words[rig.memory.index(leaf + 4, true)]! |= DBM;
}

describe("dirty state (3.13.3): a TLB entry that is clean", () => {
  test("stage 1: the first write marks the page and needs no TLBI", () => {
    const rig = new Rig({ id: ID });
    const root = rig.stage1(1, { IPS: 4, HA: 1, HD: 1 });
    rig.map(root, VA, PA, S1.ro);
    clean(rig, rig.leaf(root, VA));
    expect(rig.outcome(1, VA)).toBe(PA);
    expect(rig.memory.load32(rig.leaf(root, VA)) & 0x80).toBe(0x80);
    expect(rig.outcome(1, VA, ACCESS.write)).toBe(PA);
    expect(rig.memory.load32(rig.leaf(root, VA)) & 0x80).toBe(0);
  });

  test("stage 2", () => {
    const rig = new Rig({ id: ID });
    const root = rig.stage2(2, 2, { S2PS: 4, S2T0SZ: 20, S2HA: 1, S2HD: 1 });
    rig.map(root, VA, PA, S2.ro);
    clean(rig, rig.leaf(root, VA));
    for (const flags of [ACCESS.read, ACCESS.write]) expect(rig.outcome(2, VA, flags)).toBe(PA);
    expect(rig.memory.load32(rig.leaf(root, VA)) & 0x80).toBe(0x80);
  });

  test("an update that stage 2 refuses: CLASS = TT, TTRnW = 0 (7.3.16)", () => {
    const rig = new Rig({ id: ID });
    const { root1, root2 } = rig.nested(3, 3, { IPS: 4, HA: 1 }, { S2PS: 4, S2T0SZ: 20 });
    rig.map(root1, VA, 0x1_0000_0000, S1.noAf);
    rig.map(root2, 0x1_0000_0000, PA, S2.rw);
    const table = rig.leaf(root1, VA) - (rig.leaf(root1, VA) % 0x1000);
    rig.map(root2, table, table, S2.ro);
    expect(rig.outcome(3, VA)).toBe("F_PERMISSION");
    const [record] = rig.events();
    expect([record![3]! & TTRNW, (record![3]! >> 8) & 3, record![6]]).toEqual([0, 1, table]);
  });
});

test("a refused access leaves a TLB entry: more rights need a TLBI (16.2)", () => {
  const rig = new Rig();
  const root = rig.stage1(1);
  rig.map(root, VA, PA, S1.ro);
  expect(rig.outcome(1, VA, ACCESS.write)).toBe("F_PERMISSION");
  rig.map(root, VA, PA, S1.rw);
  expect(rig.outcome(1, VA, ACCESS.write)).toBe("F_PERMISSION");
  rig.command("TLBI_NH_VA", { Address: VA, ASID: 1 });
  expect(rig.outcome(1, VA, ACCESS.write)).toBe(PA);
});

test("E0PD (5.4 E0PD0): unprivileged accesses fault, in the TLB too", () => {
  const rig = new Rig({ id: ID });
  rig.map(rig.stage1(1, { IPS: 4, E0PD0: 1 }), VA, PA, S1.rw);
  for (let i = 0; i < 2; i++) {
    expect(rig.outcome(1, VA)).toBe("F_TRANSLATION");
    expect(rig.outcome(1, VA, ACCESS.privileged)).toBe(PA);
  }
});

test("S2PTW: a CD in Device memory (5.2 S2PTW)", () => {
  const rig = new Rig();
  const { root2 } = rig.nested(3, 3, {}, { S2PTW: 1 });
  rig.map(root2, CDS, CDS, S2.rw & ~0x3c);
  expect(rig.outcome(3, VA)).toBe("F_PERMISSION");
  expect((rig.events()[0]![3]! >> 8) & 3).toBe(0);
});

test("VMSAv8-32 LPAE (5.4 AA64): 32-bit addresses, 40-bit outputs", () => {
  const rig = new Rig({ id: ID });
  const table = rig.alloc(0x1000);
  rig.ste(1, { Config: STE_CONFIG.s1, S1ContextPtr: CDS });
  rig.cd(CDS, { AA64: 0, T0SZ: 0, TTB0: table });
  rig.memory.store64(table + 8, 0x4000_0000 | 0xf41, 0x7f);
  expect(rig.outcome(1, 0x4012_3456)).toBe(0x7f_4012_3456);
  expect(rig.outcome(1, 2 ** 32 + 0x4012_3456)).toBe("F_TRANSLATION");
});

describe("addresses that are too large (3.4)", () => {
  test("bypass by Config is limited by OAS, a disabled SMMU aborts in silence", () => {
    const rig = new Rig({ id: ID });
    rig.ste(1, { Config: STE_CONFIG.bypass });
    expect(rig.outcome(1, 2 ** 44 - 1)).toBe(2 ** 44 - 1);
    expect(rig.outcome(1, 2 ** 44)).toBe("F_ADDR_SIZE");
    rig.events();
    rig.write("CR0", 0xc);
    expect(rig.outcome(1, 2 ** 44)).toBe("abort");
    expect(rig.events()).toEqual([]);
  });

  test.each([["truncate", 0x1000], ["abort", "F_STE_FETCH"]] as const)("STRTAB_BASE, policy %s (3.4.3)", (pointerOverflow, expected) => {
    const rig = new Rig({ id: ID, cr0: 0xc, policy: { pointerOverflow } });
    rig.write64("STRTAB_BASE", 2 ** 45 + STRTAB);
    rig.write("CR0", 0xd);
    rig.ste(1, { Config: STE_CONFIG.bypass });
    expect(rig.outcome(1, 0x1000)).toBe(expected);
  });
});

test("F_VMS_FETCH (7.3.20)", () => {
  const rig = new Rig({ id: MPAM });
  const { root1, root2 } = rig.nested(3, 3, { IPS: 4 }, { S2PS: 4, S2T0SZ: 20, S1MPAM: 1, VMSPtr: BASE });
  rig.map(root1, VA, 0x1_0000_0000, S1.rw);
  rig.map(root2, 0x1_0000_0000, PA, S2.rw);
  expect(rig.outcome(3, VA)).toBe(PA);
  rig.fields(STE, STRTAB + 3 * 64, { VMSPtr: 0x9_0000_0000 });
  rig.command("CFGI_STE_RANGE", { Range: 31 });
  expect(rig.outcome(3, VA)).toBe("F_VMS_FETCH");
  expect(rig.events()[0]!.slice(6)).toEqual([0, 9]);
});

test("invalid STEs and CDs are not kept with policy refetch (16.2)", () => {
  for (const [invalidConfigCaching, expected] of [["cache", "C_BAD_STE"], ["refetch", 0x1000]] as const) {
    const rig = new Rig({ policy: { invalidConfigCaching } });
    expect(rig.outcome(1, 0x1000)).toBe("C_BAD_STE");
    rig.ste(1, { Config: STE_CONFIG.bypass });
    expect(rig.outcome(1, 0x1000)).toBe(expected);
  }
});
