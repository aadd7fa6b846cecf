// Benches of the page tables, with the rows and inputs of the native baselines: prints "impl<TAB>bench<TAB>ns" lines.
// usage: node bench/pgtable.ts [samples, default 5] [js|js.number]
// `js` calls the int32-pair core, `js.number` the façade.
import { Memory, hi32, join, lo32 } from "@smmuv3/platform";
import { IOMMU_PROT, allocIoPgtable } from "@smmuv3/io-pgtable-arm-common";
import type { IoPgtable, IoPgtableFormat } from "@smmuv3/io-pgtable-arm-common";

const ARENA_BYTES = 640 * 2 ** 20;
const PA_BASE = 2 ** 32;
const PROT = IOMMU_PROT.READ | IOMMU_PROT.WRITE | IOMMU_PROT.CACHE;
const PAGES = 262144;
const LOOKUPS = 1 << 20;
/** A JIT compiler needs more than the two warm-up runs of the baselines. */
const WARMUP = 3;

/** Calls per entry of a timed loop: code that V8 enters in mid-loop (on-stack replacement) keeps loop variables boxed. */
const CHUNK = 2048;

/** xorshift32, seed 12345. */
class Random {
  #state = 12345;
  next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }
}

/** Table pages: a bump pointer and a LIFO list threaded through the freed pages. */
class Arena {
  readonly memory: Memory = Memory.allocate({ base: 0x4000_0000, size: ARENA_BYTES });
  #used = 0;
  #free = -1;

  constructor() {
    // Touch every page once, so that no sample pays for a page fault.
    this.memory.words.fill(1);
  }

  reset(): void {
    this.#used = 0;
    this.#free = -1;
  }

  alloc(bytes: number): number {
    const freed = this.#free;
    if (freed >= 0) {
      this.#free = this.memory.words[freed]!;
      return this.memory.base + freed * 4;
    }
    const start = Math.ceil(this.#used / bytes) * bytes;
    if (start + bytes > ARENA_BYTES) return -1;
    this.#used = start + bytes;
    return this.memory.base + start;
  }

  release(pa: number): void {
    const index = (pa - this.memory.base) / 4;
    this.memory.words[index] = this.#free;
    this.#free = index;
  }
}

const arena = new Arena();
const iovaLo = new Int32Array(LOOKUPS);
const iovaHi = new Int32Array(LOOKUPS);
const paLo = new Int32Array(PAGES);
const paHi = new Int32Array(PAGES);
const iovas = new Float64Array(LOOKUPS);
const pas = new Float64Array(PAGES);

function freshTable(fmt: IoPgtableFormat, granule: number): IoPgtable {
  arena.reset();
  return allocIoPgtable(fmt, {
    memory: arena.memory,
    pgsizeBitmap: granule === 4096 ? 0x4020_1000 : 0x2001_0000,
    ias: 48,
    oas: 48,
    coherentWalk: true,
    tlb: { flushAll() {}, flushWalk() {}, addPage() {} },
    alloc: (bytes) => arena.alloc(bytes),
    free: (pa) => { arena.release(pa); },
  });
}

/**
 * How the calls of one implementation are made; each returns bytes, or the sum of addresses. Arrays are local: a variable of the
 * module is checked for initialisation on each use.
 */
interface Runner {
  readonly impl: string;
  map(table: IoPgtable, from: number, to: number, pgsize: number, count: number): number;
  unmap(table: IoPgtable, from: number, to: number, pgsize: number, count: number): number;
  lookup(table: IoPgtable, from: number, to: number): number;
  /** What `lookup` returns when every address is right. Sums of addresses exceed 2^53, so each runner has its own. */
  expectedLookup(from: number, to: number): number;
}

const pair: Runner = {
  impl: "js",
  map(table, from, to, pgsize, count) {
    const [il, ih, pl, ph, prot] = [iovaLo, iovaHi, paLo, paHi, PROT];
    let pages = 0;
    for (let i = from; i < to; i++) {
      if (table.mapPagesPair(il[i]!, ih[i]!, pl[i]!, ph[i]!, pgsize, count, prot) !== 0) throw new Error("map");
      pages += table.mappedPages;
    }
    return pages * pgsize;
  },
  unmap(table, from, to, pgsize, count) {
    const [il, ih] = [iovaLo, iovaHi];
    let pages = 0;
    for (let i = from; i < to; i++) pages += table.unmapPagesPair(il[i]!, ih[i]!, pgsize, count, null);
    return pages * pgsize;
  },
  lookup(table, from, to) {
    const [il, ih] = [iovaLo, iovaHi];
    let low = 0;
    let high = 0;
    for (let i = from; i < to; i++) {
      if (!table.iovaToPhysPair(il[i]!, ih[i]!)) throw new Error("lookup");
      low = (low + table.paLo) | 0;
      high = (high + table.paHi) | 0;
    }
    return join(low, high & 0xfffff);
  },
  expectedLookup(from, to) {
    let low = 0;
    let high = 0;
    for (let i = from; i < to; i++) {
      low = (low + lo32(iovas[i]! + PA_BASE)) | 0;
      high = (high + hi32(iovas[i]! + PA_BASE)) | 0;
    }
    return join(low, high & 0xfffff);
  },
};

const number: Runner = {
  impl: "js.number",
  map(table, from, to, pgsize, count) {
    let bytes = 0;
    for (let i = from; i < to; i++) {
      if (table.mapPages(iovas[i]!, pas[i]!, pgsize, count, PROT) !== 0) throw new Error("map");
      bytes += table.mapped;
    }
    return bytes;
  },
  unmap(table, from, to, pgsize, count) {
    let bytes = 0;
    for (let i = from; i < to; i++) bytes += table.unmapPages(iovas[i]!, pgsize, count, null);
    return bytes;
  },
  lookup(table, from, to) {
    let sum = 0;
    for (let i = from; i < to; i++) sum += table.iovaToPhys(iovas[i]!);
    return sum;
  },
  // The same additions in the same order round alike.
  expectedLookup(from, to) {
    let sum = 0;
    for (let i = from; i < to; i++) sum += iovas[i]! + PA_BASE;
    return sum;
  },
};

interface Suite {
  readonly prefix: string;
  readonly fmt: IoPgtableFormat;
  readonly granule: number;
  readonly samples: number;
  readonly runner: Runner;
}

/** Sum of `run` over `[0, n)` in pieces. */
function inChunks(n: number, run: (from: number, to: number) => number): number {
  let sum = 0;
  for (let from = 0; from < n; from += CHUNK) sum += run(from, Math.min(n, from + CHUNK));
  return sum;
}

function timed(expected: number, n: number, run: (from: number, to: number) => number): number {
  const start = performance.now();
  const got = inChunks(n, run);
  const end = performance.now();
  if (got !== expected) throw new Error(`expected ${expected}, got ${got}`);
  return ((end - start) * 1e6) / n;
}

function report(suite: Suite, row: string, round: number, ns: number): void {
  if (round >= 0) process.stdout.write(`${suite.runner.impl}\t${suite.prefix}.${row}\t${ns.toFixed(3)}\n`);
}

function setAddresses(order: Uint32Array, n: number, stride: number): void {
  for (let i = 0; i < n; i++) {
    const iova = order[i]! * stride;
    iovas[i] = iova;
    pas[i] = iova + PA_BASE;
    iovaLo[i] = lo32(iova);
    iovaHi[i] = hi32(iova);
    paLo[i] = lo32(iova + PA_BASE);
    paHi[i] = hi32(iova + PA_BASE);
  }
}

function benchMap(
  suite: Suite, row: string, order: Uint32Array, n: number, pgsize: number, count: number, warm: boolean,
): void {
  const { runner } = suite;
  const bytes = n * pgsize * count;
  setAddresses(order, n, pgsize * count);
  for (let round = -WARMUP; round < suite.samples; round++) {
    const table = freshTable(suite.fmt, suite.granule);
    report(suite, `map${row}`, round, timed(bytes, n, (from, to) => runner.map(table, from, to, pgsize, count)));
    report(suite, `unmap${row}`, round, timed(bytes, n, (from, to) => runner.unmap(table, from, to, pgsize, count)));
    if (warm) report(suite, `map${row}.warm`, round, timed(bytes, n, (from, to) => runner.map(table, from, to, pgsize, count)));
  }
}

/** Unmap of a block where a table of pages is. */
function benchUnmapTable(suite: Suite, row: string, order: Uint32Array, page: number, block: number): void {
  const { runner } = suite;
  const n = 2048;
  setAddresses(order, n, block);
  for (let round = -16 * WARMUP; round < suite.samples; round++) {
    const table = freshTable(suite.fmt, suite.granule);
    timed(n * block, n, (from, to) => runner.map(table, from, to, page, block / page));
    report(suite, row, round, timed(n * block, n, (from, to) => runner.unmap(table, from, to, block, 1)));
  }
}

function benchLookup(
  suite: Suite, row: string, order: Uint32Array, random: Random, gib: number, pgsize: number, block: number,
): void {
  const { runner } = suite;
  const table = freshTable(suite.fmt, suite.granule);
  const blocks = (gib * 2 ** 30) / block;
  setAddresses(order, blocks, block);
  const perCall = Math.min(block / pgsize, suite.granule / 8);
  timed(blocks * block, blocks, (from, to) => runner.map(table, from, to, pgsize, perCall));
  for (let i = 0; i < LOOKUPS; i++) {
    const page = random.next() % (gib * PAGES);
    const iova = page * 4096 + (random.next() & 0xfff);
    iovas[i] = iova;
    iovaLo[i] = lo32(iova);
    iovaHi[i] = hi32(iova);
  }
  const expected = inChunks(LOOKUPS, (from, to) => runner.expectedLookup(from, to));
  for (let round = -WARMUP; round < suite.samples; round++) {
    report(suite, row, round, timed(expected, LOOKUPS, (from, to) => runner.lookup(table, from, to)));
  }
}

function shuffle(random: Random): Uint32Array {
  const order = Uint32Array.from({ length: PAGES }, (_, i) => i);
  for (let i = PAGES - 1; i > 0; i--) {
    const j = random.next() % (i + 1);
    const swap = order[i]!;
    order[i] = order[j]!;
    order[j] = swap;
  }
  return order;
}

const sequential = Uint32Array.from({ length: PAGES }, (_, i) => i);

function suite4k(suite: Suite): void {
  const page = 4096;
  const block = 0x20_0000;
  const random = new Random();
  benchMap(suite, "4k.seq1G", sequential, PAGES, page, 1, false);
  benchMap(suite, "4k.rand1G", shuffle(random), PAGES, page, 1, true);
  const sparse = shuffle(random).map((index) => index * 256 + (random.next() % 256));
  benchMap(suite, "4k.rand256G", sparse, PAGES, page, 1, true);
  benchMap(suite, "4k.x512", sequential, 16384, page, 512, false);
  benchMap(suite, "2M", sequential, 65536, block, 1, false);
  benchMap(suite, "1G", sequential, 65536, 2 ** 30, 1, false);
  benchUnmapTable(suite, "unmap2M.tbl", sequential, page, block);
  benchLookup(suite, "i2p.1G", sequential, random, 1, page, block);
  benchLookup(suite, "i2p.64G", sequential, random, 64, page, block);
  benchLookup(suite, "i2p.256G", sequential, random, 256, page, block);
  benchLookup(suite, "i2p.2M.64G", sequential, random, 64, block, block);
}

function suite64k(suite: Suite): void {
  const page = 0x1_0000;
  const block = 0x2000_0000;
  const random = new Random();
  benchMap(suite, "64k.seq16G", sequential, PAGES, page, 1, false);
  benchMap(suite, "64k.rand16G", shuffle(random), PAGES, page, 1, true);
  benchMap(suite, "64k.x512", sequential, 16384, page, 512, false);
  benchMap(suite, "512M", sequential, 65536, block, 1, false);
  benchLookup(suite, "i2p.16G", sequential, random, 16, page, block);
  benchLookup(suite, "i2p.256G", sequential, random, 256, page, block);
  benchLookup(suite, "i2p.512M.256G", sequential, random, 256, block, block);
}

const samples = Number(process.argv[2] ?? 5);
if (!Number.isInteger(samples) || samples < 1) throw new RangeError(`samples must be a positive integer, got ${samples}`);
for (const runner of [pair, number].filter(({ impl }) => impl === (process.argv[3] ?? impl))) {
  const common = { granule: 4096, samples, runner };
  suite4k({ ...common, prefix: "pg.s1", fmt: "64_S1" });
  suite4k({ ...common, prefix: "pg.s2", fmt: "64_S2" });
  suite64k({ ...common, prefix: "pg64k.s1", fmt: "64_S1", granule: 0x1_0000 });
}
