import { describe, expect, test } from "vitest";
import { Memory, MemoryAbort, PAGE_SHIFT, PAGE_SIZE, PAGE_WORDS, PERM_READ, PERM_RW, PERM_WRITE } from "../src/index.ts";

const BASE = 0x4000_0000;
const ram = (pages = 4, base = BASE): Memory => Memory.allocate({ base, size: pages * PAGE_SIZE });

test("page constants", () => {
  expect([2 ** PAGE_SHIFT, PAGE_WORDS * 4, PERM_READ | PERM_WRITE]).toEqual([PAGE_SIZE, PAGE_SIZE, PERM_RW]);
});

describe("allocate", () => {
  test("zeroed, every page readable and writable", () => {
    const memory = ram();
    expect(memory).toMatchObject({ base: BASE, size: 4 * PAGE_SIZE, basePage: BASE / PAGE_SIZE, pages: 4 });
    expect([...memory.perm]).toEqual([PERM_RW, PERM_RW, PERM_RW, PERM_RW]);
    expect(memory.words.every((word) => word === 0)).toBe(true);
    expect(memory.words).toHaveLength(4 * PAGE_WORDS);
    expect(memory.words.buffer).toBeInstanceOf(ArrayBuffer);
  });

  test("shared", () => {
    const memory = Memory.allocate({ base: 0, size: PAGE_SIZE, shared: true });
    expect(memory.words.buffer).toBeInstanceOf(SharedArrayBuffer);
    memory.store32(0xffc, 7);
    expect(memory.load32(0xffc)).toBe(7);
  });

  test.each([0x800, -PAGE_SIZE, 0.5, Number.NaN, 2 ** 53, Number.POSITIVE_INFINITY])("refuses base %d", (base) => {
    expect(() => Memory.allocate({ base, size: PAGE_SIZE })).toThrow(
      new RangeError(`Memory: base must be a 4K-aligned address, got ${base}`),
    );
  });

  test("refuses RAM whose page numbers do not fit", () => {
    const base = 2 ** 43 - PAGE_SIZE;
    expect(Memory.allocate({ base, size: PAGE_SIZE }).pageOf(-1, 0x7ff)).toBe(0);
    expect(() => Memory.allocate({ base, size: 2 * PAGE_SIZE })).toThrow(
      new RangeError(`Memory: RAM must end at or below 8 TiB, got base ${base} and size ${2 * PAGE_SIZE}`),
    );
  });

  test.each([0, -PAGE_SIZE, 100, PAGE_SIZE + 4, Number.NaN, 2 ** 33, 2 ** 40])("refuses size %d", (size) => {
    expect(() => Memory.allocate({ base: 0, size })).toThrow(
      new RangeError(`Memory: size must be a multiple of 4K and below 8 GiB, got ${size}`),
    );
  });
});

describe("words", () => {
  test("are int32 and little-endian by descriptor: low word first", () => {
    const memory = ram();
    memory.store32(BASE + 8, 0xffff_fffe);
    expect(memory.load32(BASE + 8)).toBe(-2);
    memory.store64(BASE + 16, 0x89ab_cdef | 0, 0x0000_0123);
    expect([...memory.words.subarray(4, 6)]).toEqual([0x89ab_cdef | 0, 0x123]);
    expect(memory.load64(BASE + 16)).toBe(0x123_89ab_cdef);
  });

  test("load64 is exact up to 2^53 - 1", () => {
    const memory = ram();
    memory.store64(BASE, -1, 0x1f_ffff);
    expect(memory.load64(BASE)).toBe(Number.MAX_SAFE_INTEGER);
    memory.store64(BASE, 0, -1);
    expect(memory.load64(BASE)).toBe(0xffff_ffff * 2 ** 32);
  });

  test("read and write copy words", () => {
    const memory = ram();
    const across = BASE + PAGE_SIZE - 8;
    memory.write(across, Int32Array.of(1, -2, 3, 4));
    const out = new Int32Array(5);
    memory.read(across - 4, out);
    expect([...out]).toEqual([0, 1, -2, 3, 4]);
  });

  test("fill goes across pages and stops at its end", () => {
    const memory = ram();
    memory.fill(BASE + 0xff8, PAGE_SIZE + 16, -1);
    const filled = [...memory.words.keys()].filter((i) => memory.words[i] === -1);
    expect([filled[0], filled.at(-1), filled.length]).toEqual([0xff8 / 4, 0xff8 / 4 + 1027, 1028]);
    memory.fill(BASE, 0, 5);
    expect(memory.load32(BASE)).toBe(0);
  });

  test("fill asks for permission once a page, before it writes there", () => {
    const memory = ram();
    const asked: number[] = [];
    const view = memory.view((pa) => {
      asked.push(pa);
      if (pa >= BASE + 2 * PAGE_SIZE) throw new MemoryAbort(pa, true);
      view.perm[view.pageIndex(pa)] = PERM_RW;
    });
    expect(() => { view.fill(BASE + 4, 3 * PAGE_SIZE, 1); }).toThrow(MemoryAbort);
    expect(asked).toEqual([BASE + 4, BASE + PAGE_SIZE, BASE + 2 * PAGE_SIZE]);
    expect(memory.words.filter((word) => word === 1)).toHaveLength(2 * PAGE_WORDS - 1);
  });
});

describe("store64 keeps a reader of the low word consistent", () => {
  /** Words of an entry after each store, by way of a recording proxy of the word array. */
  function storesOf(old: readonly [number, number], lo: number, hi: number): [number, number][] {
    const states: [number, number][] = [];
    const backing = Int32Array.from(old);
    const words = new Proxy(backing, {
      get: (target, key) => Reflect.get(target, key) as unknown,
      set: (target, key, value) => {
        const done = Reflect.set(target, key, value);
        states.push([target[0]!, target[1]!]);
        return done;
      },
    });
    const memory = ram(1, 0);
    Object.defineProperty(memory, "words", { value: words });
    memory.store64(0, lo, hi);
    return states;
  }

  test.each([
    ["valid to another address: invalid in between", [0x1003, 1], 0x2003, 2, [[0, 1], [0, 2], [0x2003, 2]]],
    ["valid, same high word: one store", [0x1003, 1], 0x2003, 1, [[0x2003, 1]]],
    ["invalid to valid: high word first", [0, 0], 0x2003, 2, [[0, 2], [0x2003, 2]]],
    ["valid to zero", [0x1003, 1], 0, 0, [[0, 1], [0, 0], [0, 0]]],
    ["invalid with bits left in the low word", [0x1002, 0], 0x1003, 5, [[0x1002, 5], [0x1003, 5]]],
  ] as const)("%s", (_, old, lo, hi, states) => {
    expect(storesOf(old, lo, hi)).toEqual(states);
  });

  test("the high word only changes while the low word is invalid", () => {
    for (const old of [[0, 0], [1, 0], [2, 3], [3, -1], [-1, 1]] as const) {
      for (const [lo, hi] of [[0, 0], [1, 0], [3, 5], [-1, -1]] as const) {
        let before: readonly [number, number] = old;
        for (const state of storesOf(old, lo, hi)) {
          if (state[1] !== before[1]) expect(before[0] & 1, `${old.join()} to ${lo},${hi}`).toBe(0);
          before = state;
        }
        expect(before).toEqual([lo, hi]);
      }
    }
  });
});

describe("views", () => {
  test("share the words and have permissions of their own", () => {
    const memory = ram();
    const view = memory.view((pa) => {
      view.perm[view.pageIndex(pa)] = PERM_RW;
    });
    expect([...view.perm]).toEqual([0, 0, 0, 0]);
    expect(view.words).toBe(memory.words);
    view.store32(BASE + PAGE_SIZE, 9);
    expect(memory.load32(BASE + PAGE_SIZE)).toBe(9);
    expect([...view.perm]).toEqual([0, PERM_RW, 0, 0]);
    expect([...memory.perm]).toEqual([PERM_RW, PERM_RW, PERM_RW, PERM_RW]);
  });

  test("the slow path is asked once, and again when permission is dropped", () => {
    const asked: [number, boolean][] = [];
    const view = ram().view((pa, write) => {
      asked.push([pa, write]);
      view.perm[view.pageIndex(pa)] = PERM_READ | (write ? PERM_WRITE : 0);
    });
    view.load32(BASE + 4);
    view.load32(BASE + 8);
    view.store32(BASE + 8, 1);
    view.store32(BASE + 12, 1);
    expect(asked).toEqual([[BASE + 4, false], [BASE + 8, true]]);
    view.perm.fill(0);
    view.load64(BASE + 16);
    expect(asked.slice(2)).toEqual([[BASE + 16, false]]);
  });

  test("permission to write is not permission to read", () => {
    const asked: string[] = [];
    const view = ram().view((_, write) => {
      asked.push(write ? "write" : "read");
    });
    view.perm[0] = PERM_WRITE;
    view.store32(BASE, 1);
    expect(asked).toEqual([]);
    expect(view.load32(BASE)).toBe(1);
    expect(asked).toEqual(["read"]);
  });

  test("an access that the slow path refuses has no effect", () => {
    const memory = ram();
    const refused = new Error("refused");
    const view = memory.view(() => {
      throw refused;
    });
    expect(() => { view.store32(BASE, 1); }).toThrow(refused);
    expect(() => { view.store64(BASE, 1, 1); }).toThrow(refused);
    expect(() => view.load32(BASE)).toThrow(refused);
    expect(memory.words.every((word) => word === 0)).toBe(true);
  });

  test("a slow path that returns for an address outside of RAM does not make it RAM", () => {
    let asked = 0;
    const view = ram().view(() => {
      asked++;
    });
    expect(() => view.load32(BASE - 4)).toThrow(new MemoryAbort(BASE - 4, false));
    expect(asked).toBe(1);
  });

  test("views of a view", () => {
    const memory = ram();
    const view = memory.view(() => {}).view(() => {});
    expect(view.words).toBe(memory.words);
    expect(view.basePage).toBe(memory.basePage);
  });
});

describe("addresses that are not RAM", () => {
  test.each([BASE - 4, BASE + 4 * PAGE_SIZE, 0, 2 ** 40])("0x%s aborts", (pa) => {
    const memory = ram();
    const text = pa.toString(16);
    expect(() => memory.load32(pa)).toThrow(`external abort: read at 0x${text}, which is not RAM`);
    expect(() => { memory.store32(pa, 0); }).toThrow(`external abort: write at 0x${text}, which is not RAM`);
    expect(memory.pageIndex(pa)).toBe(-1);
  });

  test("MemoryAbort says what was attempted", () => {
    expect(new MemoryAbort(0x10, true)).toMatchObject({ name: "MemoryAbort", pa: 0x10, write: true });
  });

  test.each([1, 2, 3, 0x1001])("offset %d is not aligned", (offset) => {
    const memory = ram();
    const message = `Memory: address must be 4-byte aligned, got 0x${(BASE + offset).toString(16)}`;
    expect(() => memory.load32(BASE + offset)).toThrow(new RangeError(message));
    expect(() => { memory.store32(BASE + offset, 0); }).toThrow(RangeError);
  });

  test("64 bits that begin in the middle of a pair are refused: their second word may lie in a page that was not checked", () => {
    const asked: number[] = [];
    const view = ram().view((pa) => { asked.push(pa); });
    const pa = BASE + PAGE_SIZE - 4;
    const message = `Memory: address must be 8-byte aligned, got 0x${pa.toString(16)}`;
    expect(() => { view.store64(pa, 1, 1); }).toThrow(new RangeError(message));
    expect(() => view.load64(pa)).toThrow(new RangeError(message));
    expect(asked).toEqual([]);
  });
});

describe("page indices", () => {
  const HIGH = 0x12_0000_0000;

  test("above 4 GiB", () => {
    const memory = ram(8, HIGH);
    expect(memory.basePage).toBe(0x12_00000);
    expect(memory.pageIndex(HIGH + 5 * PAGE_SIZE + 0xffc)).toBe(5);
    expect(memory.index(HIGH + 5 * PAGE_SIZE, false)).toBe(5 * PAGE_WORDS);
    expect(memory.pageOf(0x5ffc, 0x12)).toBe(5);
    expect(memory.pageOf(0x5ffc, 0x11)).toBe(-1);
    expect(memory.pageOf(0x5ffc, 0)).toBe(-1);
    expect(memory.pageOf(0x8000, 0x12)).toBe(-1);
  });

  test("pageOf takes a low word with bit 31 set, as the negative int32 that it is", () => {
    const memory = ram(4, 0xffff_e000);
    expect(memory.pageOf(0xffff_e000 | 0, 0)).toBe(0);
    expect(memory.pageOf(-1, 0)).toBe(1);
    expect(memory.pageOf(0, 1)).toBe(2);
    expect(memory.pageOf(0x2000, 1)).toBe(-1);
    expect(memory.pageOf(0xffff_d000 | 0, 0)).toBe(-1);
  });

  test.each([0x800, 0x8000_0000 | 0, -1])("pageOf with high word %d is not RAM", (hi) => {
    expect(ram(4, 0).pageOf(0, hi)).toBe(-1);
  });

  test("pageOf and pageIndex agree", () => {
    for (const base of [0, BASE, HIGH, 0xffff_f000, 0x7ff_ffff_0000]) {
      const memory = ram(4, base);
      for (let pa = Math.max(base - 2 * PAGE_SIZE, 0); pa < base + 6 * PAGE_SIZE; pa += 0x7fc) {
        expect(memory.pageOf(pa | 0, Math.floor(pa / 2 ** 32)), pa.toString(16)).toBe(memory.pageIndex(pa));
      }
    }
  });
});

describe("windows", () => {
  test("show a part of the words at another address, and nothing else", () => {
    const memory = ram();
    const window = memory.window(BASE + PAGE_SIZE, 2 * PAGE_SIZE, 0x8000_0000);
    expect([window.base, window.size, window.pages]).toEqual([0x8000_0000, 2 * PAGE_SIZE, 2]);
    window.store64(0x8000_0008, 5, 6);
    expect([memory.load32(BASE + PAGE_SIZE + 8), memory.load32(BASE + PAGE_SIZE + 12)]).toEqual([5, 6]);
    memory.store32(BASE + 3 * PAGE_SIZE - 4, 7);
    expect(window.load32(0x8000_1ffc)).toBe(7);
    for (const pa of [BASE + PAGE_SIZE, 0x7fff_fffc, 0x8000_2000]) expect(() => window.load32(pa)).toThrow(MemoryAbort);
  });

  test.each([
    [BASE + 4, PAGE_SIZE, 0], [BASE, 100, 0], [BASE, PAGE_SIZE, 8], [BASE, 0, 0], [BASE - PAGE_SIZE, PAGE_SIZE, 0], [BASE, 5 * PAGE_SIZE, 0],
  ])("of anything but whole pages of RAM are refused: %i, %i at %i", (pa, size, base) => {
    expect(() => ram().window(pa, size, base)).toThrow(RangeError);
  });
});
