import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { HypPool } from "../src/index.ts";
import { FakeHypCpu, Panic, RAM_BASE } from "./fake-cpu.ts";

describe("HypPool", () => {
  test("blocks are zeroed and naturally aligned, also when the pool is not", () => {
    const cpu = new FakeHypCpu();
    cpu.memory.fill(RAM_BASE, 64 * PAGE_SIZE, -1);
    const pool = new HypPool(cpu, RAM_BASE + PAGE_SIZE, 31);
    for (const bytes of [PAGE_SIZE, 4 * PAGE_SIZE, 512, 3 * PAGE_SIZE, 8 * PAGE_SIZE]) {
      const pa = pool.alloc(bytes, "vm");
      const block = 2 ** Math.ceil(Math.log2(Math.max(bytes, PAGE_SIZE)));
      expect(pa % block).toBe(0);
      for (let at = 0; at < bytes; at += 4) expect(cpu.memory.load32(pa + at)).toBe(0);
    }
  });

  test("exhaustion is a value, and what is freed is found again", () => {
    const cpu = new FakeHypCpu();
    const pool = new HypPool(cpu, RAM_BASE, 8);
    const pages = Array.from({ length: 8 }, () => pool.alloc(PAGE_SIZE, "idmap"));
    expect(new Set(pages).size).toBe(8);
    expect(pool.alloc(1, "idmap")).toBe(-ERRNO.ENOMEM);
    pool.free(pages[2]!, PAGE_SIZE, "idmap");
    pool.free(pages[3]!, PAGE_SIZE, "idmap");
    expect(pool.freePages).toBe(2);
    expect(pool.alloc(4 * PAGE_SIZE, "idmap")).toBe(-ERRNO.ENOMEM);
    expect(pool.alloc(2 * PAGE_SIZE, "streamTables")).toBe(pages[2]);
    expect(cpu.counters.read("pool.idmap").el2).toBe(6 * PAGE_SIZE);
    expect(cpu.counters.read("pool.streamTables").el2).toBe(2 * PAGE_SIZE);
  });

  test.each([
    ["foreign memory", RAM_BASE + 100 * PAGE_SIZE],
    ["memory that is free", RAM_BASE],
    ["part of a page", RAM_BASE + 8],
  ])("freeing %s is a bug of EL2", (_what, pa) => {
    const pool = new HypPool(new FakeHypCpu(), RAM_BASE, 8);
    expect(() => { pool.free(pa, PAGE_SIZE, "vm"); }).toThrow(Panic);
  });
});
