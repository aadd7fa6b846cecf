import { POOL, REQUEST } from "@smmuv3/pkvm-abi";
import { ERRNO, LockOrder, PAGE_SIZE } from "@smmuv3/platform";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { HypPool, OWNER, PageStates, Requests } from "../src/index.ts";
import { FakeHypCpu, Panic, RAM_BASE, RAM_SIZE } from "./fake-cpu.ts";

const STATES = RAM_BASE + RAM_SIZE / 2;

function environment() {
  const cpu = new FakeHypCpu();
  return { cpu, states: new PageStates(cpu.memory, STATES), locks: new LockOrder(), requests: new Requests(cpu) };
}

function poolOf(base: number, pages: number) {
  const env = environment();
  const pool = new HypPool(env, POOL.hyp);
  env.cpu.memory.fill(base, pages * PAGE_SIZE, -1);
  pool.add(base, pages);
  return { ...env, pool };
}

describe("HypPool", () => {
  test("blocks are zeroed and naturally aligned, also when the pool is not", () => {
    const { cpu, pool } = poolOf(RAM_BASE + PAGE_SIZE, 31);
    for (const bytes of [PAGE_SIZE, 4 * PAGE_SIZE, 512, 3 * PAGE_SIZE, 8 * PAGE_SIZE]) {
      const pa = pool.alloc(bytes, "vm");
      const block = 2 ** Math.ceil(Math.log2(Math.max(bytes, PAGE_SIZE)));
      expect(pa % block).toBe(0);
      for (let at = 0; at < bytes; at += 4) expect(cpu.memory.load32(pa + at)).toBe(0);
    }
  });

  test("exhaustion is a value and a request, and what is freed is found again, whole", () => {
    const { cpu, pool, requests } = poolOf(RAM_BASE, 8);
    const pages = Array.from({ length: 8 }, () => pool.alloc(PAGE_SIZE, "idmap"));
    expect(new Set(pages).size).toBe(8);
    requests.clear();
    expect(pool.alloc(1, "idmap")).toBe(-ERRNO.ENOMEM);
    const frame = new Int32Array(36);
    requests.reply(frame);
    expect([frame[4], frame[6], frame[8]]).toEqual([REQUEST.memory, POOL.hyp, 1]);
    pool.free(RAM_BASE + 2 * PAGE_SIZE, PAGE_SIZE, "idmap");
    pool.free(RAM_BASE + 3 * PAGE_SIZE, PAGE_SIZE, "idmap");
    expect(pool.freePages).toBe(2);
    expect(pool.alloc(4 * PAGE_SIZE, "idmap")).toBe(-ERRNO.ENOMEM);
    expect(pool.alloc(2 * PAGE_SIZE, "streamTables")).toBe(RAM_BASE + 2 * PAGE_SIZE);
    expect(cpu.counters.read("pool.idmap").el2).toBe(6 * PAGE_SIZE);
    expect(cpu.counters.read("pool.streamTables").el2).toBe(2 * PAGE_SIZE);
  });

  test.each([
    ["foreign memory", RAM_BASE + 100 * PAGE_SIZE],
    ["memory that is free", RAM_BASE],
    ["part of a page", RAM_BASE + 8],
    ["what is no memory", 0],
  ])("freeing %s is a bug of EL2", (_what, pa) => {
    const { pool } = poolOf(RAM_BASE, 8);
    expect(() => { pool.free(pa, PAGE_SIZE, "vm"); }).toThrow(Panic);
  });

  test("the pages that it must keep are never taken, the others all are", () => {
    const env = environment();
    const pool = new HypPool(env, POOL.hyp);
    // What is kept has neighbours that would be its buddies.
    pool.add(RAM_BASE + 8 * PAGE_SIZE, 4, true);
    pool.add(RAM_BASE + 12 * PAGE_SIZE, 4);
    pool.add(RAM_BASE + 16 * PAGE_SIZE, 2);
    const taken = Array.from({ length: 6 }, () => pool.take());
    const outside = [12, 13, 14, 15, 16, 17].map((at) => RAM_BASE + at * PAGE_SIZE);
    expect(taken.sort((a, b) => a - b)).toEqual(outside);
    expect(pool.take()).toBe(-ERRNO.ENOENT);
    expect(pool.freePages).toBe(4);
    expect(pool.alloc(4 * PAGE_SIZE, "vm")).toBe(RAM_BASE + 8 * PAGE_SIZE);
  });

  test("neighbours of two pools or of two owners never become one block", () => {
    const env = environment();
    const pools = [new HypPool(env, POOL.hyp), new HypPool(env, POOL.iommu), new HypPool(env, POOL.iommu, OWNER.firstVm)];
    pools.forEach((pool, at) => { pool.add(RAM_BASE + at * PAGE_SIZE, 1); });
    for (const pool of pools) expect(pool.alloc(2 * PAGE_SIZE, "vm")).toBe(-ERRNO.ENOMEM);
  });

  test("after any history no two blocks overlap, and freeing all makes one block again", () => {
    const step = fc.record({ free: fc.boolean(), size: fc.integer({ min: 1, max: 12_000 }), which: fc.nat() });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 150, size: "max" }), (steps) => {
        const { pool } = poolOf(RAM_BASE, 64);
        const used: [pa: number, bytes: number][] = [];
        const pages = new Set<number>();
        const blockOf = (bytes: number) => 2 ** Math.ceil(Math.log2(Math.ceil(bytes / PAGE_SIZE)));
        for (const { free, size, which } of steps) {
          if (free && used.length > 0) {
            const [[pa, bytes]] = used.splice(which % used.length, 1) as [[number, number]];
            pool.free(pa, bytes, "vm");
            for (let i = 0; i < blockOf(bytes); i++) pages.delete(pa + i * PAGE_SIZE);
          } else if (!free) {
            const pa = pool.alloc(size, "vm");
            if (pa < 0) continue;
            used.push([pa, size]);
            for (let i = 0; i < blockOf(size); i++) {
              expect(pages.has(pa + i * PAGE_SIZE)).toBe(false);
              pages.add(pa + i * PAGE_SIZE);
            }
          }
          expect(pool.freePages).toBe(64 - pages.size);
        }
        for (const [pa, bytes] of used) pool.free(pa, bytes, "vm");
        expect(pool.alloc(64 * PAGE_SIZE, "vm")).toBe(RAM_BASE);
      }),
      { seed: 7, numRuns: 100 },
    );
  });
});
