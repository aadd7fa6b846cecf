// Sequences of maps and unmaps against a Map of pages: what the page table says, and what the TLB may still say.
import fc from "fast-check";
import { expect, test } from "vitest";
import { DMA_DIR, sgEntry } from "../src/index.ts";
import type { SgEntry } from "../src/index.ts";
import { client, FakeDomain, K4, M2, RAM, setUp } from "./fake-iommu.ts";
import type { Setup } from "./fake-iommu.ts";

const NAME = "0000:00:01.0";
const { bidirectional } = DMA_DIR;

/** Physical pages by IOVA page. */
type Pages = Map<number, number>;

interface Mapping {
  readonly pages: Pages;
  unmap: () => number;
}

const bytes = fc.oneof({ weight: 12, arbitrary: fc.integer({ min: 1, max: 5 * K4 }) }, { weight: 1, arbitrary: fc.constantFrom(M2, M2 + K4) });
const address = fc.oneof(fc.nat(64 * K4), fc.nat(16).map((at) => at * K4), fc.nat(8).map((at) => at * M2)).map((offset) => RAM.base + offset);
const buffer = fc.record({ pa: address, size: bytes });
/** Page table operations that work before one fails. */
const failAfter = fc.option(fc.nat(8), { freq: 2 }).map((n) => n ?? Infinity);
const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("page" as const), buffer, failAfter }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("sg" as const), list: fc.array(buffer, { minLength: 1, maxLength: 6 }), failAfter }) },
  { weight: 5, arbitrary: fc.record({ kind: fc.constant("unmap" as const), index: fc.nat(100) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("part" as const), index: fc.nat(100) }) },
  { weight: 1, arbitrary: fc.constant({ kind: "flush" as const }) },
);

/** The pages under `[pa, pa + size)`, from IOVA page `iova` on. */
function cover(pages: Pages, iova: number, pa: number, size: number): number {
  let at = iova;
  for (let page = pa - (pa % K4); page < pa + size; page += K4, at += K4) pages.set(at, page);
  return at;
}

/** Pages of `table` that `model` does not have so, and how many there are. */
function compare(table: FakeDomain["table"], model: Pages): { wrong: number[]; count: number } {
  const wrong: number[] = [];
  let count = 0;
  for (const [iova, { pa, size }] of table) {
    for (let at = 0; at < size; at += K4, count++) if (model.get(iova + at) !== pa + at) wrong.push(iova + at);
  }
  return { wrong, count };
}

function world(lazy: boolean, bits: number): Setup & { domain: FakeDomain } {
  const setup = setUp([client(NAME, [1], { "dma-mask-bits": bits })], { late: true, defaultDomainType: lazy ? "dma-fq" : "dma" });
  setup.iommu.register({ ...setup.instance, ops: { ...setup.fake.ops, capable: () => true } });
  return { ...setup, domain: setup.iommu.domainOf(setup.dev(NAME)) as FakeDomain };
}

/** Segments and the pages of a mapped list: each entry on pages of its own, one after the other. */
function sgPages(list: readonly SgEntry[], segments: number): Pages {
  const pages: Pages = new Map();
  let at = list[0]!.dmaAddress - (list[0]!.dmaAddress % K4);
  const expected: [number, number][] = [];
  for (const { pa, length } of list) {
    const start = at + (pa % K4);
    const last = expected.at(-1);
    if (last !== undefined && last[0] + last[1] === start) last[1] += length;
    else expected.push([start, length]);
    at = cover(pages, at, pa, length);
  }
  expect(list.slice(0, segments).map(({ dmaAddress, dmaLength }) => [dmaAddress, dmaLength])).toEqual(expected);
  return pages;
}

test.each([[false, 32], [false, 24], [true, 32], [true, 24]])("maps and unmaps, flush queue %s, %i address bits", (lazy, bits) => {
  let refused = 0;
  fc.assert(
    fc.property(fc.array(step, { maxLength: 50, size: "max" }), (steps) => {
      const { iommu, fake, domain, dev } = world(lazy, bits);
      const nic = dev(NAME);
      const live: Mapping[] = [];
      const map = (limit: number, go: () => number, made: (result: number) => Mapping): void => {
        fake.failAfter = limit;
        const result = go();
        const failed = fake.failAfter < 0;
        fake.failAfter = Infinity;
        if (result < 0) {
          // Nothing is left of it: the comparison below sees to that.
          expect([result, failed || bits < 32]).toEqual([-12, true]);
          refused++;
          return;
        }
        expect(failed).toBe(false);
        live.push(made(result));
      };
      const check = (): void => {
        const model: Pages = new Map();
        let total = 0;
        for (const { pages } of live) {
          total += pages.size;
          for (const [iova, pa] of pages) model.set(iova, pa);
        }
        const expected = { wrong: [], count: model.size };
        // No IOVA twice, none beyond the mask.
        expect(total).toBe(model.size);
        expect([...model.keys()].filter((iova) => iova === 0 || iova >= 2 ** bits)).toEqual([]);
        expect(compare(domain.table, model)).toEqual(expected);
        if (!lazy) expect(compare(domain.tlb, model)).toEqual(expected);
        // A flush queue may leave old entries, but never where an IOVA is in use.
        expect([...model].filter(([iova, pa]) => fake.dma(nic, iova) !== pa)).toEqual([]);
      };
      for (const one of steps) {
        if (one.kind === "page") {
          const { pa, size } = one.buffer;
          map(one.failAfter, () => iommu.dma.mapPage(nic, pa, size, bidirectional), (iova) => {
            expect(iova % K4).toBe(pa % K4);
            const pages: Pages = new Map();
            cover(pages, iova - (iova % K4), pa, size);
            return { pages, unmap: () => iommu.dma.unmapPage(nic, iova, size, bidirectional) };
          });
        } else if (one.kind === "sg") {
          const list = one.list.map(({ pa, size }) => sgEntry(pa, size));
          map(one.failAfter, () => iommu.dma.mapSg(nic, list, bidirectional), (segments) => ({
            pages: sgPages(list, segments),
            unmap: () => iommu.dma.unmapSg(nic, list, bidirectional),
          }));
        } else if (one.kind === "flush") {
          domain.flushQueue?.flush();
          if (lazy) expect(domain.tlb.size).toBe(domain.table.size);
        } else if (one.kind === "part" && live.length > 0) {
          // Its last page alone is not a mapping, unless it has no other.
          const { pages } = live[one.index % live.length]!;
          if (pages.size > 1) expect(iommu.dma.unmapPage(nic, [...pages.keys()].at(-1)!, K4, bidirectional)).toBe(-22);
        } else if (live.length > 0) {
          const [mapping] = live.splice(one.index % live.length, 1);
          expect(mapping!.unmap()).toBe(0);
          expect(mapping!.unmap()).toBe(-22);
        }
        check();
      }
      for (const { unmap } of live.splice(0)) expect(unmap()).toBe(0);
      domain.flushQueue?.flush();
      expect([domain.table.size, domain.tlb.size, domain.iovas!.allocatedPages]).toEqual([0, 0, 0]);
    }),
    { seed: 12345, numRuns: 30 },
  );
  expect(refused).toBeGreaterThan(10);
});
