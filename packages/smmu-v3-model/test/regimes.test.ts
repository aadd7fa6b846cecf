import { describe, expect, test } from "vitest";
import { ACCESS } from "@smmuv3/platform";
import { CD, place, REG, STE, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
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

test("5.4 E0PD0: unprivileged accesses fault, in the TLB too", () => {
  const rig = new Rig({ id: ID });
  rig.map(rig.stage1(1, { IPS: 4, E0PD0: 1 }), VA, PA, S1.rw);
  for (let i = 0; i < 2; i++) {
    expect(rig.outcome(1, VA)).toBe("F_TRANSLATION");
    expect(rig.outcome(1, VA, ACCESS.privileged)).toBe(PA);
  }
});

test("5.2 S2PTW: a CD in Device memory", () => {
  const rig = new Rig();
  const { root2 } = rig.nested(3, 3, {}, { S2PTW: 1 });
  rig.map(root2, CDS, CDS, S2.rw & ~0x3c);
  expect(rig.outcome(3, VA)).toBe("F_PERMISSION");
  expect((rig.events()[0]![3]! >> 8) & 3).toBe(0);
});

test("5.4 AA64: VMSAv8-32 LPAE: 32-bit addresses, 40-bit outputs", () => {
  const rig = new Rig({ id: ID });
  const table = rig.alloc(0x1000);
  rig.ste(1, { Config: STE_CONFIG.s1, S1ContextPtr: CDS });
  rig.cd(CDS, { AA64: 0, T0SZ: 0, TTB0: table });
  rig.memory.store64(table + 8, 0x4000_0000 | 0xf41, 0x7f);
  expect(rig.outcome(1, 0x4012_3456)).toBe(0x7f_4012_3456);
  expect(rig.outcome(1, 2 ** 32 + 0x4012_3456)).toBe("F_TRANSLATION");
});

test("5.2 S2AA64: VMSAv8-32 LPAE stage 2: 40-bit IPAs, and a CD of that format above it", () => {
  const rig = new Rig({ id: ID });
  // S2T0SZ = 0: 32 bits from level 1, four entries.
  const table = rig.alloc(0x1000);
  const lpae = { S2AA64: 0, S2T0SZ: 0, S2SL0: 1, S2VMID: 4, S2R: 1, S2TTB: table };
  rig.ste(1, { Config: STE_CONFIG.s2, ...lpae });
  rig.memory.store64(table + 8, 0x4000_0000 | 0x7fd, 0x7f);
  expect(rig.outcome(1, 0x4012_3456)).toBe(0x7f_4012_3456);
  expect(rig.outcome(1, 0x8012_3456)).toBe("F_TRANSLATION");
  // Nested: stage 2 maps the RAM with the CD and its tables at its own address.
  rig.memory.store64(table + 8, 0x4000_0000 | 0x7fd, 0);
  rig.memory.store64(table + 16, 0x4000_0000 | 0x7fd, 2);
  const root = rig.alloc(0x1000);
  rig.ste(2, { Config: STE_CONFIG.nested, S1ContextPtr: CDS + 128, ...lpae, S2VMID: 5 });
  rig.cd(CDS + 128, { AA64: 0, T0SZ: 0, TTB0: root });
  rig.memory.store64(root, 0x8000_0000 | 0xf41, 0);
  expect(rig.outcome(2, 0x1234)).toBe(0x2_4000_1234);
  rig.fields(CD, CDS + 128, { AA64: 1 });
  rig.command("CFGI_CD", { SID: 2 });
  expect(rig.outcome(2, 0x1234)).toBe("C_BAD_CD");
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

describe("features that the preset lacks", () => {
  /** HTTU = 3, 52-bit addresses of OAS = 52 with DS, EPAN. */
  const everything: IdRegisters = {
    ...PRESETS.reference,
    AIDR: 4,
    IDR0: PRESETS.reference.IDR0 | place(REG.IDR0.HTTU, 3),
    IDR3: PRESETS.reference.IDR3 | place(REG.IDR3.EPAN, 1) | place(REG.IDR3.FWB, 1),
    IDR5: (PRESETS.reference.IDR5 & ~7) | 6 | place(REG.IDR5.DS, 1) | place(REG.IDR5.VAX, 1),
  };
  const AF = 1 << 10;
  /** With DS bits [9:8] are OA[51:50]. */
  const NO_SH = ~0x300;
  const WIDE = 2 ** 51;
  const FAR = 2 ** 49;

  test("5.4 DS: 4K tables from level -1, for 52-bit addresses", () => {
    const rig = new Rig({ id: everything });
    const top = rig.stage1(1, { DS: 1, T0SZ: 12, IPS: 6 });
    const level0 = rig.alloc(0x1000);
    rig.memory.store64(top + 8 * 8, level0 | 3, 0);
    rig.map(level0, 0x1000, FAR, S1.rw & NO_SH);
    // OA[51:50] = 0b10.
    rig.map(level0, 0x2000, FAR, (S1.rw & NO_SH) | (2 << 8));
    expect(rig.outcome(1, WIDE + 0x1234)).toBe(FAR + 0x234);
    expect(rig.outcome(1, WIDE + 0x2234)).toBe(2 ** 51 + FAR + 0x234);
    expect(rig.outcome(1, 0x1234)).toBe("F_TRANSLATION");
  });

  test("5.2 S2DS: the same of stage 2, by S2SL0_2", () => {
    const rig = new Rig({ id: everything });
    const top = rig.stage2(1, 1, { S2DS: 1, S2SL0_2: 1, S2SL0: 0, S2T0SZ: 12, S2PS: 6 });
    const level0 = rig.alloc(0x1000);
    rig.memory.store64(top + 8 * 8, level0 | 3, 0);
    rig.map(level0, 0x1000, FAR, S2.rw & NO_SH);
    expect(rig.outcome(1, WIDE + 0x1234)).toBe(FAR + 0x234);
  });

  test("5.4 DS: a block of 512 GiB, from the tables, from the TLB, and to ATOS", () => {
    const SIZE = 2 ** 39;
    for (const profile of ["lazy", "eager"] as const) {
      const rig = new Rig({ id: everything, profile });
      const root = rig.stage1(1, { DS: 1, T0SZ: 16, IPS: 6 });
      rig.map(root, SIZE, 4 * SIZE, S1.rw & NO_SH, SIZE);
      for (let i = 0; i < 2; i++) expect(rig.outcome(1, SIZE + 0x7f_8765_4321)).toBe(4 * SIZE + 0x7f_8765_4321);
      expect(rig.smmu.atos({ sid: 1, address: SIZE + 0x1000, stage: "1" })).toMatchObject({ fault: false, address: 4 * SIZE, size: SIZE });
      // Not Rig.nested(): SH of its leaves would be bits of the address.
      const root2 = rig.alloc(0x1000);
      const root1 = rig.stage1(2, { DS: 1, T0SZ: 16, IPS: 6 }, { Config: STE_CONFIG.nested, ...rig.stage2Fields(root2, 2), S2DS: 1, S2PS: 6 });
      rig.map(root2, BASE, BASE, S2.rw & NO_SH, 2 ** 30);
      rig.map(root1, SIZE, 2 * SIZE, S1.rw & NO_SH, SIZE);
      rig.map(root2, 2 * SIZE, 6 * SIZE, S2.rw & NO_SH, SIZE);
      for (let i = 0; i < 2; i++) expect(rig.outcome(2, SIZE + 0x7f_8765_4321)).toBe(6 * SIZE + 0x7f_8765_4321);
      expect(rig.outcome(2, SIZE + 0x123, ACCESS.write)).toBe(6 * SIZE + 0x123);
    }
  });

  test.each([["5.4 HAFT", 1], ["5.2 S2HAFT", 2]] as const)("%s: access flags of table descriptors", (_section, stage) => {
    for (const updates of [0, 1]) {
      const rig = new Rig({ id: everything });
      const root = stage === 1 ? rig.stage1(1, { HA: 1, HAFT: updates }) : rig.stage2(1, 1, { S2HA: 1, S2HAFT: updates });
      rig.map(root, VA, PA, stage === 1 ? S1.noAf : S2.noAf);
      expect(rig.outcome(1, VA)).toBe(PA);
      expect(rig.memory.load32(root) & AF).toBe(updates === 1 ? AF : 0);
      expect(rig.memory.load32(rig.leaf(root, VA)) & AF).toBe(AF);
    }
  });

  test.each([[0, PA], [1, "F_PERMISSION"]] as const)("5.4 EPAN = %i: privileged data of a page that users may execute", (EPAN, expected) => {
    const rig = new Rig({ id: everything });
    rig.map(rig.stage1(1, { PAN: 1, EPAN }), VA, PA, S1.priv);
    expect(rig.outcome(1, VA, ACCESS.privileged)).toBe(expected);
  });
});
