import { describe, expect, test } from "vitest";
import { Memory } from "@smmuv3/platform";
import { PageAllocator } from "../src/index.ts";

const PAGE = 4096;
const MiB = 1 << 20;
const ENOMEM = -12;

/** A small deterministic generator (xorshift32). */
function random(seed: number): (below: number) => number {
  let state = seed | 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

describe("alignment and sizes", () => {
  test.each([
    { bytes: 1, align: undefined, alignment: PAGE, taken: PAGE },
    { bytes: PAGE, align: undefined, alignment: PAGE, taken: PAGE },
    { bytes: PAGE + 1, align: undefined, alignment: 2 * PAGE, taken: 2 * PAGE },
    { bytes: 3 * PAGE, align: undefined, alignment: 4 * PAGE, taken: 3 * PAGE },
    { bytes: 64 << 10, align: undefined, alignment: 64 << 10, taken: 64 << 10 },
    { bytes: MiB, align: undefined, alignment: MiB, taken: MiB },
    { bytes: 5 * MiB, align: undefined, alignment: 8 * MiB, taken: 5 * MiB },
    { bytes: PAGE, align: MiB, alignment: MiB, taken: PAGE },
  ])("$bytes bytes aligned to $alignment take $taken", ({ bytes, align, alignment, taken }) => {
    const pages = new PageAllocator({ base: 0x4000_0000 + PAGE, size: 64 * MiB });
    pages.alloc(PAGE);
    const before = pages.allocated;
    const pa = pages.alloc(bytes, align);
    expect(pa % alignment).toBe(0);
    expect(pa).toBeGreaterThanOrEqual(pages.base);
    expect(pages.allocated - before).toBe(taken);
    expect(pages.sizeOf(pa)).toBe(taken);
  });

  test("a base that is not a power of two loses no page", () => {
    const pages = new PageAllocator({ base: 7 * PAGE, size: 22 * PAGE });
    const got = new Set<number>();
    for (let pa = pages.alloc(PAGE); pa >= 0; pa = pages.alloc(PAGE)) got.add(pa);
    expect(got.size).toBe(22);
    expect(Math.min(...got)).toBe(7 * PAGE);
    expect(Math.max(...got)).toBe(28 * PAGE);
  });

  test("a limit keeps to low addresses", () => {
    const pages = new PageAllocator({ base: 0xff00_0000, size: 32 * MiB });
    const low = pages.alloc(MiB, PAGE, 0xffff_ffff);
    expect(low + MiB).toBeLessThanOrEqual(2 ** 32);
    expect(pages.alloc(PAGE, PAGE, 0xfeff_ffff)).toBe(ENOMEM);
    for (let i = 0; i < 15; i++) expect(pages.alloc(MiB, PAGE, 0xffff_ffff)).toBeLessThan(2 ** 32);
    expect(pages.alloc(MiB, PAGE, 0xffff_ffff)).toBe(ENOMEM);
    expect(pages.alloc(MiB)).toBeGreaterThanOrEqual(2 ** 32);
  });
});

test("freeing joins buddies: all memory is one block again", () => {
  const pages = new PageAllocator({ base: 0x4000_0000, size: 16 * MiB });
  const all: number[] = [];
  for (let pa = pages.alloc(PAGE); pa >= 0; pa = pages.alloc(PAGE)) all.push(pa);
  expect(all).toHaveLength(4096);
  expect(pages.available).toBe(0);
  for (const pa of all.filter((_, i) => i % 2 === 0)) pages.free(pa, PAGE);
  expect(pages.alloc(2 * PAGE)).toBe(ENOMEM);
  for (const pa of all.filter((_, i) => i % 2 === 1)) pages.free(pa, PAGE);
  expect(pages.alloc(16 * MiB)).toBe(0x4000_0000);
  expect(pages.peak).toBe(16 * MiB);
});

test("misuse is a RangeError", () => {
  const pages = new PageAllocator({ base: 0x4000_0000, size: MiB });
  const pa = pages.alloc(2 * PAGE);
  expect(() => {
    pages.free(pa, PAGE);
  }).toThrow(/has 8192 bytes/);
  expect(() => {
    pages.free(pa + PAGE, PAGE);
  }).toThrow(RangeError);
  expect(() => {
    pages.free(0x1000, PAGE);
  }).toThrow(/not allocated/);
  pages.free(pa, 2 * PAGE);
  expect(() => {
    pages.free(pa, 2 * PAGE);
  }).toThrow(/not allocated/);
  expect(() => pages.alloc(0)).toThrow(RangeError);
  expect(() => new PageAllocator({ base: 1, size: PAGE })).toThrow(/base/);
  expect(() => new PageAllocator({ base: 0, size: 100 })).toThrow(/size/);
  expect(pages.allocated).toBe(0);
});

test("reserved ranges are never handed out, and must be free", () => {
  const pages = new PageAllocator({ base: 0x4000_0000, size: MiB });
  pages.reserve(0x4000_3000, 5 * PAGE);
  expect(pages.available).toBe(MiB - 5 * PAGE);
  for (let pa = pages.alloc(PAGE); pa >= 0; pa = pages.alloc(PAGE)) {
    expect(pa < 0x4000_3000 || pa >= 0x4000_8000).toBe(true);
  }
  expect(pages.allocated).toBe(MiB - 5 * PAGE);
  for (const base of [0x4000_3000, 0x4000_0000, 0x3fff_f000]) {
    expect(() => {
      pages.reserve(base, PAGE);
    }).toThrow(/not all free/);
  }
});

test("allocZeroed zeroes whole pages", () => {
  const memory = Memory.allocate({ base: 0x4000_0000, size: MiB });
  memory.fill(memory.base, MiB, -1);
  const pages = new PageAllocator(memory);
  const pa = pages.allocZeroed(memory, PAGE + 4);
  for (let at = pa; at < pa + 2 * PAGE; at += 4) expect(memory.load32(at)).toBe(0);
  expect(memory.load32(pa + 2 * PAGE)).toBe(-1);
});

test.each([1, 2, 3, 4])("random use agrees with a map of pages (seed %i)", (seed) => {
  const next = random(seed * 7919);
  const base = 0x4000_0000 + seed * 3 * PAGE;
  const total = 1500;
  const pages = new PageAllocator({ base, size: total * PAGE });
  const owner = new Int32Array(total);
  const live: { pa: number; count: number; id: number }[] = [];
  let used = 0;
  for (let id = 1; id < 6000; id++) {
    if (live.length > 0 && next(5) < 2) {
      const [block] = live.splice(next(live.length), 1);
      pages.free(block!.pa, block!.count * PAGE);
      owner.fill(0, (block!.pa - base) / PAGE, (block!.pa - base) / PAGE + block!.count);
      used -= block!.count;
    } else {
      const count = next(4) === 0 ? 1 + next(40) : 1;
      const pa = pages.alloc(count * PAGE);
      if (pa < 0) continue;
      const first = (pa - base) / PAGE;
      for (let page = first; page < first + count; page++) {
        if (page < 0 || page >= total || owner[page] !== 0) throw new Error(`page ${page} was handed out twice`);
        owner[page] = id;
      }
      live.push({ pa, count, id });
      used += count;
    }
    if (pages.allocated !== used * PAGE) throw new Error("byte count is wrong");
  }
  for (const { pa, count } of live) pages.free(pa, count * PAGE);
  expect(pages.allocated).toBe(0);
  expect(pages.alloc(512 * PAGE)).toBeGreaterThan(0);
});
