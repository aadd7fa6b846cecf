// Replays operation sequences recorded from the kernel's own io-pgtable-arm.c: every result, every invalidation, the final tables.
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { expect, test } from "vitest";
import { allocIoPgtable } from "@smmuv3/io-pgtable-arm-common";
import type { IoPgtable, IoPgtableFormat } from "@smmuv3/io-pgtable-arm-common";
import { Memory } from "@smmuv3/platform";

type Invalidation = [kind: "walk", iova: string, size: string, granule: string] | [kind: "page", iova: string, granule: string];

interface MapOp {
  readonly op: "map";
  readonly iova: string;
  readonly pa: string;
  readonly size: string;
  readonly count: number;
  readonly prot: number;
  readonly tlb: Invalidation[];
  readonly ret: number;
  readonly mapped: string;
}

interface UnmapOp {
  readonly op: "unmap";
  readonly iova: string;
  readonly size: string;
  readonly count: number;
  readonly tlb: Invalidation[];
  readonly ret: string;
}

interface LookupOp {
  readonly op: "i2p";
  readonly iova: string;
  readonly ret: string;
}

interface Configuration {
  readonly fmt: string;
  readonly pgsizes: string;
  readonly ias: number;
  readonly oas: number;
  readonly coherent: number;
  readonly quirks: number;
  readonly tcr?: Record<string, number>;
  readonly mair?: string;
  readonly vtcr?: Record<string, number>;
  readonly start: number;
  readonly pgdBytes: number;
  readonly ops: (MapOp | UnmapOp | LookupOp)[];
  readonly tree: [path: string, kind: "T" | "L", descriptor: string][];
  readonly leaves: number;
  readonly tables: number;
}

/** Formats that `allocIoPgtable` does not build. */
const OTHER_FORMATS = new Set(["32_S1", "32_S2"]);

const file = new URL("../data/vectors/io-pgtable/seed7.jsonl.gz", import.meta.url);
const configurations = gunzipSync(readFileSync(file))
  .toString()
  .trimEnd()
  .split("\n")
  .map((line) => JSON.parse(line) as Configuration);
const covered = configurations.filter(({ fmt }) => !OTHER_FORMATS.has(fmt));

const ADDRESS = 0x0000_ffff_ffff_f000n;
const hexOf = (value: number | bigint): string => `0x${BigInt.asUintN(64, BigInt(value)).toString(16)}`;
/** Signed, so that addresses of the upper half are exact. */
const toNumber = (hex: string): number => Number(BigInt.asIntN(64, BigInt(hex)));

/** Table pages in RAM, never reused, so that a stale pointer cannot go unnoticed. */
class Harness {
  readonly memory: Memory = Memory.allocate({ base: 0x4000_0000, size: 32 << 20 });
  readonly live = new Map<number, number>();
  invalidations: Invalidation[] = [];
  readonly table: IoPgtable;
  #next = 0x4000_0000;

  constructor(cfg: Configuration) {
    this.memory.words.fill(0x5a5a5a5a);
    this.table = allocIoPgtable(cfg.fmt as IoPgtableFormat, {
      memory: this.memory,
      pgsizeBitmap: Number(cfg.pgsizes),
      ias: cfg.ias,
      oas: cfg.oas,
      coherentWalk: cfg.coherent === 1,
      quirks: cfg.quirks,
      tlb: {
        flushAll() {},
        flushWalk: (iova, size, granule) => {
          this.invalidations.push(["walk", hexOf(iova), hexOf(size), hexOf(granule)]);
        },
        addPage: (_gather, iova, granule) => {
          this.invalidations.push(["page", hexOf(iova), hexOf(granule)]);
        },
      },
      alloc: (bytes) => {
        const pa = Math.ceil(this.#next / bytes) * bytes;
        this.#next = pa + bytes;
        this.live.set(pa, bytes);
        return pa;
      },
      free: (pa, bytes) => {
        expect(this.live.get(pa)).toBe(bytes);
        this.live.delete(pa);
        this.memory.fill(pa, bytes, 0x5a5a5a5a);
      },
    });
  }

  /** Tables as the recording has them, read from memory and not through the code under test. */
  tree(cfg: Configuration): Configuration["tree"] {
    const pageShift = Math.log2(this.table.granule);
    const rows: Configuration["tree"] = [];
    const visit = (table: number, entries: number, level: number, path: string): void => {
      for (let i = 0; i < entries; i++) {
        const lo = BigInt(this.memory.load32(table + i * 8) >>> 0);
        const descriptor = lo | (BigInt(this.memory.load32(table + i * 8 + 4) >>> 0) << 32n);
        if (descriptor === 0n) continue;
        const at = path === "" ? String(i) : `${path}.${i}`;
        if (level < 3 && (descriptor & 3n) === 3n) {
          rows.push([at, "T", hexOf(descriptor & ~ADDRESS)]);
          visit(Number(descriptor & ADDRESS), 1 << (pageShift - 3), level + 1, at);
        } else {
          rows.push([at, "L", hexOf(descriptor)]);
        }
      }
    };
    visit(this.table.pgd, cfg.pgdBytes / 8, cfg.start, "");
    return rows;
  }
}

function replay(harness: Harness, op: MapOp | UnmapOp | LookupOp): unknown {
  const { table } = harness;
  harness.invalidations = [];
  const iova = toNumber(op.iova);
  switch (op.op) {
    case "map": {
      const ret = table.mapPages(iova, toNumber(op.pa), Number(op.size), op.count, op.prot);
      return { ...op, ret, mapped: hexOf(table.mapped), tlb: harness.invalidations };
    }
    case "unmap": {
      const ret = hexOf(table.unmapPages(iova, Number(op.size), op.count, { queued: false }));
      return { ...op, ret, tlb: harness.invalidations };
    }
    case "i2p":
      return { ...op, ret: hexOf(table.iovaToPhys(iova)) };
  }
}

test("the recording has configurations of both stages and all granules", () => {
  expect(covered).toHaveLength(78);
  expect(configurations.length - covered.length).toBe(12);
});

test.each(covered.map((cfg, i) => [i, cfg.fmt, cfg.pgsizes, cfg.ias, cfg.oas, `coherent ${cfg.coherent}`, cfg.quirks, cfg] as const))(
  "configuration %i: %s, sizes %s, ias %i, oas %i, %s, quirks %i",
  (...[, , , , , , , cfg]) => {
    const harness = new Harness(cfg);
    const { table } = harness;
    expect([table.startLevel, table.pgdBytes]).toEqual([cfg.start, cfg.pgdBytes]);
    if (cfg.fmt === "64_S1") {
      expect(table.tcr).toEqual(cfg.tcr);
      // The recording sign-extends MAIR's low word.
      expect(hexOf(table.mair.lo)).toBe(cfg.mair);
    } else {
      expect(table.vtcr).toEqual(cfg.vtcr);
    }

    cfg.ops.forEach((op, i) => {
      expect([i, replay(harness, op)]).toEqual([i, op]);
    });

    const tree = harness.tree(cfg);
    expect(tree).toEqual(cfg.tree);
    expect(tree.filter(([, kind]) => kind === "L")).toHaveLength(cfg.leaves);
    expect(tree.filter(([, kind]) => kind === "T")).toHaveLength(cfg.tables);
    const bytes = [...harness.live.values()].reduce((sum, size) => sum + size, 0);
    expect(table.tableBytes).toBe(bytes);
    table.free();
    expect([table.tableBytes, harness.live.size]).toEqual([0, 0]);
  },
);
