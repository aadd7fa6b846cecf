import { Memory } from "@smmuv3/platform";
import { getAddress, getField, L1STD, REG, STRTAB_FMT } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import {
  l1StdAddress,
  makeL1Std,
  sidInRange,
  steAddress,
  strtabBase,
  strtabBaseCfg,
  strtabGeometry,
  STRTAB_L2_BYTES,
} from "../src/index.ts";

describe("stream table", () => {
  test.each([
    [8, false, { log2size: 8, entries: 256, bytes: 16384 }],
    [4, false, { log2size: 4, entries: 16, bytes: 1024 }],
    [9, true, { log2size: 9, entries: 2, bytes: 16 }],
    [16, true, { log2size: 16, entries: 256, bytes: 2048 }],
    [32, true, { log2size: 25, entries: 1 << 17, bytes: 1 << 20 }],
  ])("%i bits, two levels: %s", (bits, twoLevel, expected) => {
    const geometry = strtabGeometry(bits, twoLevel);
    expect(geometry).toEqual({ twoLevel, ...expected });
    const last = 2 ** expected.log2size - 1;
    expect([sidInRange(geometry, last), sidInRange(geometry, last + 1), sidInRange(geometry, -1)]).toEqual([
      true, false, false,
    ]);
    const cfg = Int32Array.of(strtabBaseCfg(geometry));
    const { FMT, SPLIT, LOG2SIZE } = REG.STRTAB_BASE_CFG;
    expect(getField(cfg, 0, LOG2SIZE)).toBe(expected.log2size);
    expect(getField(cfg, 0, FMT)).toBe(twoLevel ? STRTAB_FMT.twoLevel : STRTAB_FMT.linear);
    expect(getField(cfg, 0, SPLIT)).toBe(twoLevel ? 8 : 0);
  });

  test("addresses of STEs", () => {
    const memory = Memory.allocate({ base: 0x4000_0000, size: 0x10000 });
    const base = 0x4000_1000;
    const table = 0x4000_4000;
    expect(steAddress(memory, strtabGeometry(8, false), base, 7)).toBe(base + 7 * 64);
    const geometry = strtabGeometry(16, true);
    expect(steAddress(memory, geometry, base, 0x305)).toBe(-1);
    const desc = new Int32Array(2);
    makeL1Std(desc, table);
    expect([getField(desc, 0, L1STD.Span), getAddress(desc, 0, L1STD.L2Ptr)]).toEqual([9, table]);
    expect(l1StdAddress(base, 0x305)).toBe(base + 3 * 8);
    memory.write(l1StdAddress(base, 0x305), desc);
    expect(steAddress(memory, geometry, base, 0x305)).toBe(table + 5 * 64);
    expect(steAddress(memory, geometry, base, 0x3ff)).toBe(table + STRTAB_L2_BYTES - 64);
    expect(steAddress(memory, geometry, base, 0x405)).toBe(-1);
    // A shorter span covers fewer STEs.
    memory.store32(l1StdAddress(base, 0x305), table | 3);
    expect(steAddress(memory, geometry, base, 0x303)).toBe(table + 3 * 64);
    expect(steAddress(memory, geometry, base, 0x304)).toBe(-1);
  });

  test("STRTAB_BASE", () => {
    const value = new Int32Array(2);
    strtabBase(value, 0x5_4000_0040);
    expect([...value]).toEqual([0x4000_0040, (1 << 30) | 5]);
  });
});
