import { hi32, join, lo32 } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { GRANULE, HALF, PERM, STAGE1, Stage1Walker, STAGE2, Stage2Walker, WALK } from "../src/index.ts";
import { ATTR, BASE, put, ram, vtcr } from "./tables.ts";

const { K4, K16, K64 } = GRANULE;
const ROOT = BASE + 0x10_0000;
const S2_LEAF = ATTR.af | ATTR.s2.rw | ATTR.normal;
const S1_LEAF = ATTR.af | ATTR.ap.rw;

function stage2(memory: Memory, config: number, flags = 0): Stage2Walker {
  const walker = new Stage2Walker(memory);
  expect(walker.configure(lo32(ROOT), hi32(ROOT), config, flags)).toBe(WALK.OK);
  return walker;
}

function stage1(memory: Memory, flags: number, tsz: number, granule: number, ips = 4, half = 0): Stage1Walker {
  const walker = new Stage1Walker(memory, new Stage2Walker(memory));
  walker.configure(ips, flags);
  walker.configureHalf(false, lo32(ROOT), hi32(ROOT), tsz, granule, half);
  walker.configureHalf(true, 0, 0, tsz, granule, HALF.DISABLED);
  return walker;
}

describe("legal configurations of stage 2 (IHI 0070 5.2 S2T0SZ, S2SL0)", () => {
  const { DS, STT, SL2, LPAE } = STAGE2;
  test.each([
    ["4K, T0SZ 39", vtcr({ t0sz: 39, sl0: 0 }), 0, true],
    ["4K, T0SZ 40 without STT", vtcr({ t0sz: 40, sl0: 3 }), 0, false],
    ["4K, T0SZ 40 with STT at level 3", vtcr({ t0sz: 40, sl0: 3 }), STT, true],
    ["4K, level 3 without STT", vtcr({ t0sz: 39, sl0: 3 }), 0, false],
    ["4K, T0SZ 48 with STT", vtcr({ t0sz: 48, sl0: 3 }), STT, true],
    ["4K, T0SZ 49 with STT", vtcr({ t0sz: 49, sl0: 3 }), STT, false],
    ["64K, T0SZ 47 with STT", vtcr({ t0sz: 47, sl0: 0, tg: K64 }), STT, true],
    ["64K, T0SZ 48 with STT", vtcr({ t0sz: 48, sl0: 0, tg: K64 }), STT, false],
    ["4K, T0SZ 15 without DS", vtcr({ t0sz: 15, sl0: 2 }), 0, false],
    ["4K, T0SZ 12 with DS at level 0, concatenated", vtcr({ t0sz: 12, sl0: 2 }), DS, true],
    ["4K, T0SZ 12 with DS at level -1", vtcr({ t0sz: 12, sl0: 0 }), DS | SL2, true],
    ["4K, SL2 with SL0 = 1", vtcr({ t0sz: 12, sl0: 1 }), DS | SL2, false],
    ["16K, level 0 without DS", vtcr({ t0sz: 16, sl0: 3, tg: K16 }), 0, false],
    ["16K, level 0 with DS", vtcr({ t0sz: 16, sl0: 3, tg: K16 }), DS, true],
    ["64K, T0SZ 12", vtcr({ t0sz: 12, sl0: 2, tg: K64 }), 0, true],
    ["64K, SL0 = 3", vtcr({ t0sz: 12, sl0: 3, tg: K64 }), 0, false],
    ["LPAE, T0SZ -8 at level 1", vtcr({ t0sz: 8, sl0: 1 }), LPAE, true],
    ["LPAE, T0SZ -8 at level 2", vtcr({ t0sz: 8, sl0: 0 }), LPAE, false],
    ["LPAE, T0SZ 7 at level 2", vtcr({ t0sz: 7, sl0: 0 }), LPAE, true],
    ["LPAE, SL0 = 2", vtcr({ t0sz: 0, sl0: 2 }), LPAE, false],
  ])("%s", (_name, config, flags, legal) => {
    const walker = new Stage2Walker(ram());
    expect(walker.configure(lo32(ROOT), 0, config, flags)).toBe(legal ? WALK.OK : WALK.TRANSLATION);
  });
});

describe("legal configurations of stage 1 (IHI 0070 5.4 T0SZ)", () => {
  test.each([
    ["T0SZ 39", K4, 39, 0, true],
    ["T0SZ 40 without STT", K4, 40, 0, false],
    ["T0SZ 48 with STT", K4, 48, STAGE1.STT, true],
    ["64K, T0SZ 48 with STT", K64, 48, STAGE1.STT, false],
    ["T0SZ 15 without DS", K16, 15, 0, false],
    ["T0SZ 12 with DS", K16, 12, STAGE1.DS, true],
    ["64K, T0SZ 12", K64, 12, 0, true],
    ["a reserved granule", 3, 25, 0, false],
  ])("%s", (_name, granule, tsz, flags, legal) => {
    const memory = ram();
    const walker = stage1(memory, flags, tsz, granule);
    walker.walk(0, 0, 0);
    expect(walker.reads).toBe(legal ? 1 : 0);
  });
});

/** Blocks by granule and level: Arm ARM D8.3, AArch64.BlockDescSupported. */
describe("blocks", () => {
  const T = 2 ** 40;
  const { DS, LPA } = STAGE2;
  test.each([
    ["4K level 0", vtcr({ t0sz: 20, sl0: 2, ps: 5 }), 0, WALK.TRANSLATION, 0],
    ["4K level 0 with DS: 512 GiB", vtcr({ t0sz: 20, sl0: 2, ps: 5 }), DS, WALK.OK, 39],
    ["4K level 1: 1 GiB", vtcr({ t0sz: 25, sl0: 1, ps: 5 }), 0, WALK.OK, 30],
    ["16K level 1", vtcr({ t0sz: 20, sl0: 2, tg: K16, ps: 5 }), 0, WALK.TRANSLATION, 1],
    ["16K level 1 with DS: 64 GiB", vtcr({ t0sz: 20, sl0: 2, tg: K16, ps: 5 }), DS, WALK.OK, 36],
    ["64K level 1", vtcr({ t0sz: 16, sl0: 2, tg: K64, ps: 5 }), 0, WALK.TRANSLATION, 1],
    ["64K level 1 with PS = 52: 4 TiB", vtcr({ t0sz: 16, sl0: 2, tg: K64, ps: 6 }), 0, WALK.OK, 42],
    ["64K level 1 with OAS = 52", vtcr({ t0sz: 16, sl0: 2, tg: K64, ps: 5 }), LPA, WALK.OK, 42],
    ["64K ignores DS", vtcr({ t0sz: 16, sl0: 2, tg: K64, ps: 5 }), DS, WALK.TRANSLATION, 1],
  ])("%s", (_name, config, flags, status, levelOrShift) => {
    const memory = ram();
    put(memory, ROOT, 0, 8 * T, S2_LEAF | ATTR.block);
    const walker = stage2(memory, config, flags);
    const input = 3 * 2 ** 28 + 0x123;
    expect(walker.walk(lo32(input), hi32(input), PERM.READ)).toBe(status);
    if (status === WALK.OK) {
      expect(walker.shift).toBe(levelOrShift);
      expect(join(walker.paLo, walker.paHi)).toBe(8 * T + input);
    } else {
      expect(walker.level).toBe(levelOrShift);
    }
  });
});

describe("addresses of 52 bits", () => {
  test("64K keeps PA[51:48] in bits [15:12] (D8.3.1)", () => {
    const memory = ram();
    put(memory, ROOT, 1, 0, S2_LEAF | ATTR.block | 0xa000);
    const walker = stage2(memory, vtcr({ t0sz: 24, sl0: 1, tg: K64, ps: 6 }));
    expect(walker.walk(0x2000_0123, 0)).toBe(WALK.OK);
    expect([walker.paLo, walker.paHi]).toEqual([0x123, 0xa_0000]);
  });

  test("they are out of range where PS is less, and ignored where OAS is (D8.3.1)", () => {
    const memory = ram();
    put(memory, ROOT, 1, 0, S2_LEAF | ATTR.block | 0xa000);
    const config = vtcr({ t0sz: 24, sl0: 1, tg: K64, ps: 5 });
    expect(stage2(memory, config, STAGE2.LPA).walk(0x2000_0123, 0)).toBe(WALK.ADDRESS_SIZE);
    expect(stage2(memory, config).walk(0x2000_0123, 0)).toBe(WALK.OK);
  });

  test.each([
    ["4K", K4, 25, 0x4000_0000],
    ["16K", K16, 28, 0x200_0000],
  ])("%s with DS keeps PA[51:50] in bits [9:8], PA[49:48] in place, and SH in the configuration (5.4 DS)", (_name, granule, tsz, va) => {
    const memory = ram();
    put(memory, ROOT, 1, 0, S1_LEAF | ATTR.block | 0x200, 0x2_0000);
    const walker = stage1(memory, STAGE1.DS, tsz, granule, 6, 3 << HALF.SH_SHIFT);
    expect(walker.walk(va | 0x123, 0, PERM.READ)).toBe(WALK.OK);
    expect([walker.paLo, walker.paHi, walker.shareability]).toEqual([0x123, 0xa_0000, 3]);
  });

  test("4K with DS and 52-bit inputs starts at level -1 (D8.2.7)", () => {
    const memory = ram();
    put(memory, ROOT, 15, BASE + 0x1000, ATTR.table);
    put(memory, BASE + 0x1000, 1, 0, S1_LEAF | ATTR.block);
    const walker = stage1(memory, STAGE1.DS, 12, K4, 6);
    expect(walker.walk(0x123, 0xf_0080, PERM.READ)).toBe(WALK.OK);
    expect([walker.level, walker.shift, walker.reads]).toEqual([0, 39, 2]);
  });

  test("a first table is aligned to 64 bytes with 52-bit outputs (5.4 TTB0)", () => {
    const memory = ram();
    put(memory, ROOT, 0, 0x8000_0000, S1_LEAF | ATTR.block);
    const walker = new Stage1Walker(memory, new Stage2Walker(memory));
    walker.configure(6, 0);
    // One entry selects 2 of 1 GiB: without the rule the table would be aligned to 16 bytes.
    walker.configureHalf(false, lo32(ROOT) | 0x30, 0, 33, K4, 0);
    expect(walker.walk(0x123, 0, PERM.READ)).toBe(WALK.OK);
  });
});

describe("output sizes (IHI 0070 5.4 IPS)", () => {
  test.each([0, 1, 2, 3, 4, 5])("IPS = %i", (ips) => {
    const bits = [32, 36, 40, 42, 44, 48][ips]!;
    const memory = ram();
    put(memory, ROOT, 0, 2 ** (bits - 1), S1_LEAF | ATTR.block);
    put(memory, ROOT, 1, 2 ** bits % 2 ** 48, S1_LEAF | ATTR.block);
    const walker = stage1(memory, 0, 25, K4, ips);
    expect(walker.walk(0, 0, PERM.READ)).toBe(WALK.OK);
    // Without DS a 4K descriptor ends at bit 47: nothing is out of 48 bits.
    expect(walker.walk(0x4000_0000, 0, PERM.READ)).toBe(bits === 48 ? WALK.OK : WALK.ADDRESS_SIZE);
  });

  test("the input bits of a large block count (IHI 0070 5.2 S2PS)", () => {
    const memory = ram();
    put(memory, ROOT, 0, 0, S2_LEAF | ATTR.block);
    const walker = stage2(memory, vtcr({ t0sz: 20, sl0: 2, ps: 1 }), STAGE2.DS);
    expect(walker.walk(0, 0x0f)).toBe(WALK.OK);
    expect(walker.walk(0, 0x10)).toBe(WALK.ADDRESS_SIZE);
  });
});

describe("TBI ignores bits [63:56] only (IHI 0070 3.4.1)", () => {
  test.each([
    [0x5a00_0000, WALK.OK],
    [0x5a10_0000, WALK.TRANSLATION],
    [0x0040_0000, WALK.TRANSLATION],
  ])("0x%s", (hi, status) => {
    const memory = ram();
    put(memory, ROOT, 0, 0, S1_LEAF | ATTR.block);
    expect(stage1(memory, 0, 25, K4, 4, HALF.TBI).walk(0, hi, PERM.READ)).toBe(status);
  });
});

describe("VMSAv8-32 LPAE", () => {
  function halves(t0sz: number, t1sz: number, change: { epd1?: boolean } = {}): Stage1Walker {
    const memory = ram();
    for (let i = 0; i < 4; i++) put(memory, ROOT, i, 0x1_0000_0000 + i * 2 ** 30, S1_LEAF | ATTR.block);
    for (let i = 0; i < 512; i++) put(memory, ROOT + 0x1000, i, 0x8000_0000 + i * 2 ** 21, S1_LEAF | ATTR.block);
    const walker = new Stage1Walker(memory, new Stage2Walker(memory));
    walker.configure(0, STAGE1.LPAE);
    walker.configureHalf(false, lo32(ROOT), 0, t0sz, K64, 0);
    walker.configureHalf(true, lo32(ROOT + 0x1000), 0, t1sz, K64, change.epd1 === true ? HALF.DISABLED : 0);
    return walker;
  }
  /** Arm ARM G5.5.4. TTB1 here holds level-2 blocks, so that only T1SZ of 2 and more makes sense. */
  test.each([
    ["T0SZ = T1SZ = 0: all by TTB0", 0, 0, 0xffff_ffff, 0x1_ffff_ffff],
    ["T1SZ = 2: the last GiB by TTB1", 0, 2, 0xc020_0001, 0x8020_0001],
    ["T1SZ = 2: the rest by TTB0", 0, 2, 0xbfff_ffff, 0x1_bfff_ffff],
    ["T0SZ = 1, T1SZ = 2: a gap", 1, 2, 0x8000_0000, undefined],
    ["T0SZ = 1, T1SZ = 2: below it", 1, 2, 0x7fff_ffff, 0x1_7fff_ffff],
    ["T0SZ = 1, T1SZ = 2: above it", 1, 2, 0xc000_0000, 0x8000_0000],
  ])("%s", (_name, t0sz, t1sz, va, pa) => {
    const walker = halves(t0sz, t1sz);
    expect(walker.walk(lo32(va), 0, PERM.READ)).toBe(pa === undefined ? WALK.TRANSLATION : WALK.OK);
    if (pa !== undefined) expect(join(walker.paLo, walker.paHi)).toBe(pa);
  });

  test("EPD1 takes T1SZ away, VA[63:32] must be 0 (IHI 0070 3.4.1)", () => {
    expect(halves(0, 2, { epd1: true }).walk(lo32(0xc000_0000), 0, PERM.READ)).toBe(WALK.OK);
    expect(halves(0, 0).walk(0, 1, PERM.READ)).toBe(WALK.TRANSLATION);
  });

  test("outputs have 40 bits whatever IPS is (5.4 IPS)", () => {
    const memory = ram();
    put(memory, ROOT, 0, 2 ** 39, S1_LEAF | ATTR.block);
    put(memory, ROOT, 1, 2 ** 40, S1_LEAF | ATTR.block);
    const walker = stage1(memory, STAGE1.LPAE, 0, K4, 0);
    expect(walker.walk(0, 0, PERM.READ)).toBe(WALK.OK);
    expect(walker.walk(0x4000_0000, 0, PERM.READ)).toBe(WALK.ADDRESS_SIZE);
  });

  test.each([
    ["stage 1: what may not be read may not be executed", ATTR.ap.privRw, 0, PERM.PRIV_READ | PERM.PRIV_WRITE | PERM.PRIV_EXECUTE],
    ["stage 1: writable pages are executable privileged", ATTR.ap.rw, 0, PERM.ALL],
    ["UWXN", ATTR.ap.rw, STAGE1.UWXN, PERM.ALL & ~PERM.PRIV_EXECUTE],
  ])("%s (G5.6)", (_name, ap, flags, perm) => {
    const memory = ram();
    put(memory, ROOT, 0, 0, ATTR.af | ATTR.block | ap);
    const walker = stage1(memory, STAGE1.LPAE | flags, 0, K4);
    expect(walker.walk(0, 0, 0)).toBe(WALK.OK);
    expect(walker.perm).toBe(perm);
  });

  test("stage 2: 40-bit inputs through 2 x 512 entries, no execute-only pages (5.2 S2T0SZ, S2AA64)", () => {
    const memory = ram();
    put(memory, ROOT, 1023, 0, ATTR.af | ATTR.block | ATTR.s2.wo);
    const walker = stage2(memory, vtcr({ t0sz: 8, sl0: 1 }), STAGE2.LPAE);
    expect(walker.walk(lo32(0xc000_0123), 0xff)).toBe(WALK.OK);
    expect(walker.perm).toBe(PERM.WRITE | PERM.PRIV_WRITE);
  });
});

test("E0PD refuses unprivileged accesses of its half, before any walk (5.4 E0PD0)", () => {
  const memory = ram();
  put(memory, ROOT, 0, 0, S1_LEAF | ATTR.block);
  const walker = stage1(memory, 0, 25, K4, 4, HALF.E0PD);
  expect(walker.walk(0, 0, PERM.READ)).toBe(WALK.TRANSLATION);
  expect(walker.reads).toBe(0);
  expect(walker.walk(0, 0, PERM.PRIV_READ)).toBe(WALK.OK);
});

test.each([
  ["PAN alone", STAGE1.PAN, PERM.PRIV_READ | PERM.PRIV_WRITE | PERM.PRIV_EXECUTE | PERM.EXECUTE],
  ["with EPAN", STAGE1.PAN | STAGE1.EPAN, PERM.PRIV_EXECUTE | PERM.EXECUTE],
])("a page that is only executable unprivileged: %s (5.4 EPAN)", (_name, flags, perm) => {
  const memory = ram();
  put(memory, ROOT, 0, 0, ATTR.af | ATTR.block | ATTR.ap.privRw);
  const walker = stage1(memory, flags, 25, K4);
  expect(walker.walk(0, 0, 0)).toBe(WALK.OK);
  expect(walker.perm).toBe(perm);
});
