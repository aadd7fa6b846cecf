import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { IovaAllocator } from "../src/index.ts";

const PAGE = 4096;
const ENOMEM = -12;
const EINVAL = -22;

describe("placement", () => {
  test("top-down from 4 GiB, aligned to the size rounded up", () => {
    const iovas = new IovaAllocator({ granule: PAGE, apertureEnd: 2 ** 48 - 1 });
    expect(iovas.alloc(1)).toBe(0xffff_f000);
    expect(iovas.alloc(PAGE)).toBe(0xffff_e000);
    expect(iovas.alloc(3 * PAGE)).toBe(0xffff_8000);
    expect(iovas.alloc(PAGE)).toBe(0xffff_d000);
    expect(iovas.alloc(2 << 20)).toBe(0xffc0_0000);
    // 3 pages take 4; 40 pages take 40, aligned to 64.
    const at = iovas.alloc(40 * PAGE);
    expect(at).toBe(0xfffc_0000 - 0x8_0000 + 0x4_0000);
    expect(iovas.allocatedPages).toBe(1 + 1 + 4 + 1 + 512 + 40);
  });

  test.each([
    { name: "the device's mask", apertureEnd: 2 ** 48 - 1, limit: 0x3fff_ffff, first: 0x3fff_f000 },
    { name: "the aperture", apertureEnd: 0x7fff_ffff, limit: 2 ** 64 - 1, first: 0x7fff_f000 },
    { name: "32 bits", apertureEnd: 2 ** 48 - 1, limit: 2 ** 48 - 1, first: 0xffff_f000 },
    { name: "an odd mask", apertureEnd: 2 ** 48 - 1, limit: 0x1234_5678, first: 0x1234_4000 },
  ])("$name bounds it", ({ apertureEnd, limit, first }) => {
    const iovas = new IovaAllocator({ granule: PAGE, apertureEnd });
    expect(iovas.alloc(PAGE, limit)).toBe(first);
  });

  test("a 64K granule", () => {
    const iovas = new IovaAllocator({ granule: 0x1_0000, apertureEnd: 2 ** 48 - 1 });
    expect(iovas.alloc(PAGE)).toBe(0xffff_0000);
    expect(iovas.alloc(0x1_0001)).toBe(0xfffc_0000 + 0x2_0000 - 0x2_0000);
    expect(iovas.free(0xffff_0000, PAGE)).toBe(0);
    expect(iovas.alloc(0x1_0000)).toBe(0xffff_0000);
  });

  test("page 0 and reserved regions are never handed out; a full space is -ENOMEM", () => {
    const iovas = new IovaAllocator({ granule: PAGE, apertureEnd: 0xf_ffff });
    iovas.reserve(0x8_0800, 0x1000);
    const got = new Set<number>();
    for (let iova = iovas.alloc(PAGE); iova >= 0; iova = iovas.alloc(PAGE)) got.add(iova);
    expect(got.size).toBe(256 - 1 - 2);
    expect([0, 0x8_0000, 0x8_1000].filter((iova) => got.has(iova))).toEqual([]);
    expect(iovas.alloc(PAGE)).toBe(ENOMEM);
    expect(iovas.free(0x4_2000, PAGE)).toBe(0);
    expect(iovas.alloc(PAGE)).toBe(0x4_2000);
    expect(iovas.alloc(2 ** 40)).toBe(ENOMEM);
  });

  test("only what was allocated can be freed, once", () => {
    const iovas = new IovaAllocator({ granule: PAGE, apertureEnd: 2 ** 32 });
    const iova = iovas.alloc(4 * PAGE);
    expect(iovas.free(iova, PAGE)).toBe(EINVAL);
    expect(iovas.free(iova + PAGE, 4 * PAGE)).toBe(EINVAL);
    expect(iovas.free(iova + 1, 4 * PAGE)).toBe(EINVAL);
    expect(iovas.owns(iova, 3 * PAGE)).toBe(true);
    expect(iovas.free(iova, 4 * PAGE)).toBe(0);
    expect(iovas.free(iova, 4 * PAGE)).toBe(EINVAL);
    expect(iovas.allocatedPages).toBe(0);
  });

  test("a granule that is no power of two is refused", () => {
    expect(() => new IovaAllocator({ granule: 5000, apertureEnd: 2 ** 32 })).toThrow(/granule/);
  });
});

/** The same policy as a search over one flag a page. */
class Naive {
  readonly used: Uint8Array;

  constructor(pages: number) {
    this.used = new Uint8Array(pages);
    this.used[0] = 1;
  }

  alloc(pages: number, lastPage: number): number {
    let block = 1;
    while (block < pages) block *= 2;
    const taken = pages < 32 ? block : pages;
    const top = Math.floor((Math.min(lastPage, this.used.length - 1) + 1) / block) * block;
    for (let start = top - block; start >= 0; start -= block) {
      if (this.used.subarray(start, start + block).includes(1)) continue;
      this.used.fill(1, start, start + taken);
      return start;
    }
    return -1;
  }

  free(start: number, pages: number): void {
    let block = 1;
    while (block < pages) block *= 2;
    this.used.fill(0, start, start + (pages < 32 ? block : pages));
  }
}

const operation = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant("alloc" as const),
      count: fc.oneof(fc.constantFrom(1, 1, 1, 2, 3, 5, 16, 31, 32, 33, 70, 128), fc.integer({ min: 1, max: 300 })),
      last: fc.option(fc.nat(1200), { freq: 4 }),
    }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("free" as const), index: fc.nat(500), wrong: fc.constantFrom(0, 0, 0, 0, 1) }) },
);

test("any use agrees with a naive model", () => {
  let failures = 0;
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 1200 }),
      fc.record({ start: fc.nat(1200), count: fc.nat(9) }),
      fc.array(operation, { maxLength: 300, size: "max" }),
      (pages, reserved, operations) => {
        const iovas = new IovaAllocator({ granule: PAGE, apertureEnd: pages * PAGE - 1 });
        const naive = new Naive(pages);
        iovas.reserve(reserved.start * PAGE, reserved.count * PAGE);
        naive.used.fill(1, reserved.start, reserved.start + reserved.count);
        const live: { page: number; count: number }[] = [];
        for (const step of operations) {
          if (step.kind === "alloc") {
            const last = step.last ?? pages - 1;
            const page = naive.alloc(step.count, last);
            expect(iovas.alloc(step.count * PAGE, (last + 1) * PAGE - 1)).toBe(page < 0 ? ENOMEM : page * PAGE);
            if (page < 0) failures++;
            else live.push({ page, count: step.count });
          } else if (live.length > 0) {
            const at = step.index % live.length;
            const { page, count } = live[at]!;
            if (step.wrong !== 0) {
              // Twice the range, or what lies in the middle of one: none of them is an allocation.
              expect(iovas.free(page * PAGE, 2 * Math.max(count, 32) * PAGE)).toBe(EINVAL);
              expect(iovas.free(page * PAGE + 1, count * PAGE)).toBe(EINVAL);
              continue;
            }
            live.splice(at, 1);
            expect(iovas.free(page * PAGE, count * PAGE)).toBe(0);
            expect(iovas.free(page * PAGE, count * PAGE)).toBe(EINVAL);
            naive.free(page, count);
          }
        }
        for (const { page, count } of live) iovas.free(page * PAGE, count * PAGE);
        expect(iovas.allocatedPages).toBe(0);
      },
    ),
    { seed: 12345, numRuns: 150 },
  );
  expect(failures).toBeGreaterThan(100);
});

test("tens of thousands live: freed ranges come back, none overlaps", () => {
  const iovas = new IovaAllocator({ granule: PAGE, apertureEnd: 2 ** 48 - 1 });
  const live: number[] = [];
  const seen = new Set<number>();
  for (let step = 0; step < 60_000; step++) {
    if (live.length > 30_000) {
      // A prime stride frees all over the place.
      const at = (step * 7919) % live.length;
      const iova = live[at]!;
      live[at] = live[live.length - 1]!;
      live.pop();
      seen.delete(iova);
      iovas.free(iova, PAGE);
    }
    const iova = iovas.alloc(PAGE);
    if (iova < 0 || seen.has(iova)) throw new Error(`0x${iova.toString(16)} at step ${step}`);
    seen.add(iova);
    live.push(iova);
  }
  expect(Math.min(...live.slice(-20))).toBeGreaterThanOrEqual(2 ** 32 - 30_002 * PAGE);
});
