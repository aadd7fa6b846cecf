import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Memory } from "@smmuv3/platform";
import { PageAllocator } from "../src/index.ts";

const PAGE = 4096;
const MiB = 1 << 20;
const ENOMEM = -12;

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

/** The same pages as one flag each. */
class FlagModel {
  readonly free: boolean[];
  readonly first: number;

  constructor(first: number, count: number) {
    this.first = first;
    this.free = new Array<boolean>(count).fill(true);
  }

  /** True when a naturally aligned block of `block` pages, ending at or below `end` (frame number), is free. */
  has(block: number, end: number): boolean {
    const { first, free } = this;
    for (let frame = Math.ceil(first / block) * block; frame + block <= Math.min(first + free.length, end); frame += block) {
      if (free.slice(frame - first, frame - first + block).every(Boolean)) return true;
    }
    return false;
  }

  allFree(frame: number, count: number): boolean {
    const at = frame - this.first;
    return at >= 0 && at + count <= this.free.length && this.free.slice(at, at + count).every(Boolean);
  }

  set(frame: number, count: number, free: boolean): void {
    this.free.fill(free, frame - this.first, frame - this.first + count);
  }
}

const LARGEST = 64;
const pageCount = fc.oneof({ weight: 3, arbitrary: fc.constant(1) }, { weight: 2, arbitrary: fc.integer({ min: 1, max: LARGEST }) });
const operation = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant("alloc" as const),
      count: pageCount,
      align: fc.constantFrom(1, 1, 1, 2, 16, 64),
      limit: fc.option(fc.nat(300), { freq: 4 }),
    }),
  },
  { weight: 5, arbitrary: fc.record({ kind: fc.constant("free" as const), index: fc.nat(100), wrong: fc.constantFrom(0, 0, 0, 1) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("reserve" as const), at: fc.nat(300), count: fc.integer({ min: 1, max: 8 }) }) },
);

test("any use agrees with a flag for each page", () => {
  fc.assert(
    fc.property(
      fc.nat(40),
      fc.integer({ min: 1, max: 300 }),
      fc.array(operation, { maxLength: 200, size: "max" }),
      (offset, total, operations) => {
        const first = 0x4_0000 + offset;
        const pages = new PageAllocator({ base: first * PAGE, size: total * PAGE });
        const model = new FlagModel(first, total);
        const live: { frame: number; count: number }[] = [];
        let [used, peak, reserved] = [0, 0, 0];
        for (const step of operations) {
          if (step.kind === "alloc") {
            const { count, align, limit } = step;
            const block = Math.max(2 ** Math.ceil(Math.log2(count)), align);
            const end = limit === null ? Infinity : first + limit;
            const expected = model.has(block, end);
            const pa = pages.alloc(count * PAGE, align * PAGE, end * PAGE - 1);
            expect(pa >= 0).toBe(expected);
            if (pa < 0) continue;
            const frame = pa / PAGE;
            expect([frame % block, model.allFree(frame, count), frame + count <= end]).toEqual([0, true, true]);
            model.set(frame, count, false);
            live.push({ frame, count });
            used += count;
            peak = Math.max(peak, used);
          } else if (step.kind === "reserve") {
            const frame = first + step.at;
            const reserve = (): void => {
              pages.reserve(frame * PAGE, step.count * PAGE);
            };
            if (!model.allFree(frame, step.count)) expect(reserve).toThrow(RangeError);
            else {
              reserve();
              model.set(frame, step.count, false);
              reserved += step.count;
            }
          } else if (live.length > 0) {
            const at = step.index % live.length;
            const { frame, count } = live[at]!;
            const free = (): void => {
              pages.free(frame * PAGE, (count + step.wrong) * PAGE);
            };
            if (step.wrong !== 0) {
              expect(free).toThrow(RangeError);
              continue;
            }
            free();
            live.splice(at, 1);
            model.set(frame, count, true);
            used -= count;
            expect(free).toThrow(/not allocated/);
          }
          expect([pages.allocated, pages.peak, pages.reserved]).toEqual([used * PAGE, peak * PAGE, reserved * PAGE]);
        }
        for (const { frame, count } of live) {
          pages.free(frame * PAGE, count * PAGE);
          model.set(frame, count, true);
        }
        // All joined again: the largest block that the flags have is one allocation.
        for (let block = 1; block <= 256; block *= 2) {
          const pa = pages.alloc(block * PAGE);
          expect(pa >= 0).toBe(model.has(block, Infinity));
          if (pa >= 0) pages.free(pa, block * PAGE);
        }
      },
    ),
    { seed: 12345, numRuns: 200 },
  );
});
