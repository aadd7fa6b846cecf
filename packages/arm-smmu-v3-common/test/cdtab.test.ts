import { Memory } from "@smmuv3/platform";
import { STE_S1FMT } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import { cdAddress, CDTAB_L2_BYTES, cdtabGeometry, l1CdAddress, makeL1Cd, ssidInRange } from "../src/index.ts";

describe("table of Context Descriptors", () => {
  test.each([
    [0, true, { s1fmt: STE_S1FMT.linear, entries: 1, bytes: 64 }],
    [1, true, { s1fmt: STE_S1FMT.linear, entries: 2, bytes: 128 }],
    [10, true, { s1fmt: STE_S1FMT.linear, entries: 1024, bytes: 65536 }],
    [11, true, { s1fmt: STE_S1FMT.l2_64k, entries: 2, bytes: 64 }],
    [11, false, { s1fmt: STE_S1FMT.linear, entries: 2048, bytes: 131072 }],
    [16, true, { s1fmt: STE_S1FMT.l2_64k, entries: 64, bytes: 512 }],
    [20, true, { s1fmt: STE_S1FMT.l2_64k, entries: 1024, bytes: 8192 }],
  ])("%i bits, two levels: %s", (bits, twoLevel, expected) => {
    const geometry = cdtabGeometry(bits, twoLevel);
    expect(geometry).toEqual({ s1cdmax: bits, ...expected });
    expect([-1, 0, 2 ** bits - 1, 2 ** bits].map((ssid) => ssidInRange(geometry, ssid))).toEqual([false, true, true, false]);
  });

  test("addresses of CDs", () => {
    const memory = Memory.allocate({ base: 0x4000_0000, size: 0x2000 });
    const base = 0x4000_1000;
    const table = 0x5000_0000;
    expect(cdAddress(memory, cdtabGeometry(10, true), base, 7)).toBe(base + 7 * 64);
    const geometry = cdtabGeometry(16, true);
    expect(cdAddress(memory, geometry, base, 0x805)).toBe(-1);
    const desc = new Int32Array(2);
    makeL1Cd(desc, table);
    expect(l1CdAddress(base, 0x805)).toBe(base + 2 * 8);
    memory.write(l1CdAddress(base, 0x805), desc);
    expect(cdAddress(memory, geometry, base, 0x805)).toBe(table + 5 * 64);
    expect(cdAddress(memory, geometry, base, 0xbff)).toBe(table + CDTAB_L2_BYTES - 64);
    expect([0x7ff, 0xc00].map((ssid) => cdAddress(memory, geometry, base, ssid))).toEqual([-1, -1]);
  });
});
