import { describe, expect, test } from "vitest";
import { alignUp, hex, hex64, hi32, join, lo32 } from "../src/index.ts";

/** Numbers that lie around every power of two, and a sequence of others, up to 2^53 - 1. */
function* samples(): Generator<number> {
  for (let bit = 0; bit < 53; bit++) yield* [2 ** bit - 1, 2 ** bit, 2 ** bit + 1];
  yield Number.MAX_SAFE_INTEGER;
  let seed = 1;
  for (let i = 0; i < 2000; i++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const high = seed >>> 11;
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    yield high * 2 ** 32 + seed;
  }
}

describe("splitting and joining", () => {
  test("is exact for every safe integer", () => {
    for (const address of samples()) {
      const [lo, hi] = [lo32(address), hi32(address)];
      expect(lo).toBe(Number(BigInt.asIntN(32, BigInt(address))));
      expect(hi).toBe(Number(BigInt.asIntN(32, BigInt(address) >> 32n)));
      expect(join(lo, hi)).toBe(address);
    }
  });

  test.each([
    [0xffff_ffff, -1, 0],
    [0x8000_0000, -0x8000_0000, 0],
    [0x1_0000_0000, 0, 1],
    [2 ** 53 - 1, -1, 0x1f_ffff],
    [2 ** 53, 0, 0x20_0000],
  ])("%d", (address, lo, hi) => {
    expect([lo32(address), hi32(address)]).toEqual([lo, hi]);
  });

  test("join takes its words as unsigned", () => {
    expect(join(-1, 0)).toBe(0xffff_ffff);
    expect(join(0, -1)).toBe(0xffff_ffff * 2 ** 32);
  });
});

describe("text", () => {
  test("hex", () => {
    expect([hex(0), hex(0x12ab), hex(2 ** 52)]).toEqual(["0x0", "0x12ab", "0x10000000000000"]);
  });

  test("hex64 is exact for all 64 bits", () => {
    expect(hex64(0, 0)).toBe("0x0");
    expect(hex64(-1, 0)).toBe("0xffffffff");
    expect(hex64(0x1000, 1)).toBe("0x100001000");
    expect(hex64(-1, -1)).toBe("0xffffffffffffffff");
    for (const address of samples()) expect(hex64(lo32(address), hi32(address))).toBe(hex(address));
  });
});

test.each([
  [0, 4096, 0],
  [1, 4096, 4096],
  [4096, 4096, 4096],
  [4097, 4096, 8192],
  [2 ** 40 + 1, 2 ** 30, 2 ** 40 + 2 ** 30],
  [7, 3, 9],
])("alignUp(%d, %d)", (value, unit, result) => {
  expect(alignUp(value, unit)).toBe(result);
});
