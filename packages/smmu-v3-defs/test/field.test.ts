import { describe, expect, test } from "vitest";
import {
  bits,
  definedBits,
  defineFields,
  extract,
  getAddress,
  getField,
  isAddressField,
  maskOf,
  place,
  setAddress,
  setField,
} from "../src/index.ts";

const T = defineFields("T", {
  low: [3, 0],
  top: [31, 28],
  word: [63, 32],
  pointer: [119, 76, "address"],
  flag: [127, 127],
});

describe("defineFields", () => {
  test("derives word, shift and mask", () => {
    expect(T.low).toEqual({ of: "T", name: "low", msb: 3, lsb: 0, word: 0, shift: 0, mask: 0xf });
    expect(T.top).toEqual({ of: "T", name: "top", msb: 31, lsb: 28, word: 0, shift: 28, mask: 0xf });
    expect(T.word).toMatchObject({ word: 1, shift: 0, mask: -1 });
    expect(T.pointer).toEqual({
      of: "T", name: "pointer", msb: 119, lsb: 76, word: 2, loMask: 0xfffff000 | 0, hiMask: 0x00ffffff,
    });
    expect(isAddressField(T.pointer)).toBe(true);
    expect(isAddressField(T.flag)).toBe(false);
  });

  test("an address that begins in the high word keeps its place in the pair", () => {
    const { upper } = defineFields("U", { upper: [63, 40, "address"] });
    expect(upper).toMatchObject({ word: 0, loMask: 0, hiMask: 0xffffff00 | 0 });
  });

  test.each([
    ["inverted", { bad: [3, 4] }, "T.bad: [3:4] is inverted"],
    ["inverted address", { bad: [11, 12, "address"] }, "T.bad: [11:12] is inverted"],
    ["spanning", { bad: [32, 31] }, "T.bad: [32:31] spans two words"],
    ["before the structure", { bad: [0, -1] }, "T.bad: [0:-1] begins before bit 0"],
    ["an address across pairs", { bad: [64, 63, "address"] }, "T.bad: [64:63] spans two pairs of words"],
    ["wider than a word", { bad: [63, 0] }, "T.bad: [63:0] spans two words"],
  ] as const)("refuses a field that is %s", (_, specs, message) => {
    expect(() => defineFields("T", specs)).toThrow(new RangeError(message));
  });
});

describe("access", () => {
  test("setField replaces its bits and no others, and drops what is too big", () => {
    for (const background of [0, -1]) {
      const words = new Int32Array(8).fill(background);
      setField(words, 4, T.top, 0x1a);
      expect(getField(words, 4, T.top)).toBe(0xa);
      expect(words[4]).toBe(((background & 0x0fffffff) | 0xa0000000) | 0);
      expect([...words].filter((word) => word !== background)).toHaveLength(1);
    }
  });

  test("values are unsigned", () => {
    const words = new Int32Array(4);
    setField(words, 0, T.word, 0xfedcba98);
    expect(getField(words, 0, T.word)).toBe(0xfedcba98);
    setField(words, 0, T.top, 0xf);
    expect(getField(words, 0, T.top)).toBe(0xf);
    expect(extract(words[0]!, T.top)).toBe(0xf);
    expect(extract(-1, T.word)).toBe(0xffffffff);
  });

  test("place and maskOf stay in int32", () => {
    expect(place(T.top, 0xf)).toBe(0xf0000000 | 0);
    expect(place(T.low, 0x1f)).toBe(0xf);
    expect(maskOf(T.top)).toBe(0xf0000000 | 0);
    expect(maskOf(T.word)).toBe(-1);
  });

  test("addresses above 4 GiB, by number", () => {
    for (const background of [0, -1]) {
      const words = new Int32Array(8).fill(background);
      setAddress(words, 4, T.pointer, 0xab_cdef_1234_5678);
      expect(getAddress(words, 4, T.pointer)).toBe(0xab_cdef_1234_5000);
      expect(words[6]! & 0xfff).toBe(background & 0xfff);
      expect(words[7]! >>> 24).toBe(background & 0xff);
    }
  });

  test.each([0, 0x1000, 0x8000_0000, 0xffff_f000, 2 ** 32, 2 ** 44 + 0x8000_0000, 2 ** 52 - 4096])("round trip of %d", (address) => {
    const words = new Int32Array(4);
    setAddress(words, 0, T.pointer, address);
    expect(getAddress(words, 0, T.pointer)).toBe(address);
  });

  test("bits and definedBits", () => {
    expect(bits(31, 0)).toBe(-1);
    expect(bits(31, 31)).toBe(-2147483648);
    expect(bits(10, 6)).toBe(0x7c0);
    expect([...definedBits(T, 4)]).toEqual([0xf000000f | 0, -1, 0xfffff000 | 0, 0x80ffffff | 0]);
    expect([...definedBits({}, 2)]).toEqual([0, 0]);
  });
});
