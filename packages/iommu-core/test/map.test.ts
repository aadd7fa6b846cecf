import { describe, expect, test } from "vitest";
import { Counters } from "@smmuv3/platform";
import { IommuDomain, IotlbGather, PROT, RangeMapper, dirProt } from "../src/index.ts";
import { G1, K4, M2, client, setUp } from "./fake-iommu.ts";
import type { FakeDomain } from "./fake-iommu.ts";

const ops = { attachDev: (): number => 0 };

describe("size selection", () => {
  const T4 = 2 ** 42;
  const K64 = 1 << 16;
  const M512 = 512 << 20;
  const SIZES = { small: K4 + M2 + G1, big: K64 + M512 + T4 };
  test.each([
    { sizes: "small", iova: 0, pa: 0, size: K4, pgsize: K4, pgcount: 1 },
    { sizes: "small", iova: 0, pa: 0, size: M2, pgsize: M2, pgcount: 1 },
    { sizes: "small", iova: 0, pa: 0, size: M2 - K4, pgsize: K4, pgcount: 511 },
    { sizes: "small", iova: 0, pa: K4, size: 4 * M2, pgsize: K4, pgcount: 2048 },
    { sizes: "small", iova: K4, pa: K4, size: 2 * M2, pgsize: K4, pgcount: 511 },
    { sizes: "small", iova: K4, pa: K4 + M2, size: 2 * M2, pgsize: K4, pgcount: 511 },
    { sizes: "small", iova: K4, pa: K4, size: M2, pgsize: K4, pgcount: 512 },
    { sizes: "small", iova: M2, pa: M2, size: 3 * G1, pgsize: M2, pgcount: 511 },
    { sizes: "small", iova: M2, pa: 0, size: 3 * G1, pgsize: M2, pgcount: 1536 },
    { sizes: "small", iova: 2 ** 40, pa: 2 ** 41, size: 3 * G1 + K4, pgsize: G1, pgcount: 3 },
    { sizes: "small", iova: 2 ** 40 + K4, pa: 2 ** 41 + K4, size: G1, pgsize: K4, pgcount: 511 },
    { sizes: "small", iova: 0x800, pa: 0, size: K4, pgsize: 0, pgcount: 0 },
    { sizes: "small", iova: 0, pa: 0, size: K4 - 1, pgsize: 0, pgcount: 0 },
    { sizes: "big", iova: T4, pa: 2 * T4, size: T4 + K64, pgsize: T4, pgcount: 1 },
    { sizes: "big", iova: T4 - M512, pa: T4 - M512, size: 2 * T4, pgsize: M512, pgcount: 1 },
    { sizes: "big", iova: T4 - M512, pa: 0, size: 2 * T4, pgsize: M512, pgcount: 16384 },
  ] as const)("$iova -> $pa, $size bytes ($sizes): $pgcount pages of $pgsize", (row) => {
    const domain = new IommuDomain({ type: "paging", ops, pgsizeBitmap: SIZES[row.sizes] });
    const mapper = new RangeMapper(new Counters());
    mapper.pick(domain, row.iova, row.pa, row.size);
    expect([mapper.pgsize, mapper.pgcount]).toEqual([row.pgsize, row.pgcount]);
  });

  test("a page size bitmap is a sum of powers of two", () => {
    const domain = new IommuDomain({ type: "paging", ops, pgsizeBitmap: K64 + T4 });
    expect(domain.pageSizes).toEqual([K64, T4]);
    domain.pgsizeBitmap = K4 + G1;
    expect([domain.pageSizes, domain.pgsizeBitmap]).toEqual([[K4, G1], K4 + G1]);
    expect(() => {
      domain.pgsizeBitmap = -1;
    }).toThrow(RangeError);
  });
});

describe("gather", () => {
  /** Pages added, and the syncs that must have happened before the final one. */
  test.each([
    { name: "one page", pages: [[0x1000, K4]], synced: [], left: [0x1000, 0x1fff, K4] },
    { name: "touching above", pages: [[0x1000, K4], [0x2000, K4]], synced: [], left: [0x1000, 0x2fff, K4] },
    { name: "touching below", pages: [[0x2000, K4], [0x1000, K4]], synced: [], left: [0x1000, 0x2fff, K4] },
    { name: "overlap", pages: [[0x1000, K4], [0x1000, K4]], synced: [], left: [0x1000, 0x1fff, K4] },
    { name: "hole above", pages: [[0x1000, K4], [0x3000, K4]], synced: [[0x1000, 0x1fff, K4]], left: [0x3000, 0x3fff, K4] },
    { name: "hole below", pages: [[0x3000, K4], [0x1000, K4]], synced: [[0x3000, 0x3fff, K4]], left: [0x1000, 0x1fff, K4] },
    { name: "other size", pages: [[M2 - K4, K4], [M2, M2]], synced: [[M2 - K4, M2 - 1, K4]], left: [M2, 2 * M2 - 1, M2] },
    { name: "page 0", pages: [[0, K4], [K4, K4]], synced: [], left: [0, 0x1fff, K4] },
  ] as const)("$name", ({ pages, synced, left }) => {
    const seen: number[][] = [];
    const domain = new IommuDomain({
      type: "paging",
      ops: {
        ...ops,
        iotlbSync: (_domain, gather) => {
          seen.push([gather.start, gather.end, gather.pgsize]);
        },
      },
    });
    const gather = new IotlbGather();
    expect(gather.empty).toBe(true);
    for (const [iova, size] of pages) gather.addPage(domain, iova, size);
    expect(seen).toEqual(synced);
    expect([gather.start, gather.end, gather.pgsize]).toEqual(left);
    gather.sync(domain);
    expect(seen).toEqual([...synced, left]);
    expect([gather.empty, gather.pgsize]).toEqual([true, 0]);
  });

  test("a range without a page size stays so", () => {
    const gather = new IotlbGather();
    gather.addRange(0x1000, K4);
    expect([gather.start, gather.end, gather.pgsize]).toEqual([0x1000, 0x1fff, 0]);
  });
});

describe("map and unmap", () => {
  function domainOf(): ReturnType<typeof setUp> & { domain: FakeDomain } {
    const setup = setUp([client("0000:00:01.0", [1])]);
    const domain = setup.iommu.allocPaging(setup.dev("0000:00:01.0")) as FakeDomain;
    return { ...setup, domain };
  }

  test("the expected leaves, whatever the driver maps at once", () => {
    for (const chunk of [1, 7, 512]) {
      const { iommu, fake, domain } = domainOf();
      fake.chunk = chunk;
      const size = G1 + M2 + K4;
      expect(iommu.map(domain, G1 - M2 - K4, 3 * G1 - M2 - K4, M2 + K4 + size, PROT.READ)).toBe(0);
      const leaves = [...domain.table.entries()].map(([iova, { size: bytes }]) => [iova, bytes]);
      expect(leaves).toEqual([
        [G1 - M2 - K4, K4],
        [G1 - M2, M2],
        [G1, G1],
        [2 * G1, M2],
        [2 * G1 + M2, K4],
      ]);
      expect(iommu.iovaToPhys(domain, 2 * G1 + M2 + 5)).toBe(4 * G1 + M2 + 5);
      expect(iommu.unmap(domain, G1 - M2 - K4, M2 + K4 + size)).toBe(M2 + K4 + size);
      expect(domain.tlb.size).toBe(0);
      expect(iommu.iovaToPhys(domain, G1)).toBe(0);
    }
  });

  test("a failing map undoes what it mapped, and invalidates it", () => {
    const { iommu, fake, domain } = domainOf();
    fake.chunk = 3;
    fake.failAfter = 10;
    expect(iommu.map(domain, 0x10_0000, 0x5000_0000, 16 * K4, PROT.READ | PROT.WRITE)).toBe(-12);
    expect([domain.table.size, domain.tlb.size]).toEqual([0, 0]);
  });

  test("a range over an existing mapping fails and leaves that alone", () => {
    const { iommu, domain } = domainOf();
    expect(iommu.map(domain, 0x10_2000, 0x5000_0000, K4, PROT.READ)).toBe(0);
    expect(iommu.map(domain, 0x10_0000, 0x6000_0000, 4 * K4, PROT.READ)).toBe(-17);
    expect([...domain.table.keys()]).toEqual([0x10_2000]);
    expect(iommu.iovaToPhys(domain, 0x10_2000)).toBe(0x5000_0000);
  });

  test("unmap stops at a hole and reports bytes", () => {
    const { iommu, domain } = domainOf();
    iommu.map(domain, 0x10_0000, 0x5000_0000, 3 * K4, PROT.READ);
    iommu.map(domain, 0x10_4000, 0x5000_4000, K4, PROT.READ);
    expect(iommu.unmap(domain, 0x10_0000, 5 * K4)).toBe(3 * K4);
    expect([...domain.table.keys()]).toEqual([0x10_4000]);
    expect([...domain.tlb.keys()]).toEqual([0x10_4000]);
  });

  test("unmapFast leaves the invalidation to the caller", () => {
    const { iommu, fake, domain } = domainOf();
    iommu.map(domain, 0x10_0000, 0x5000_0000, 2 * K4, PROT.READ);
    const gather = new IotlbGather();
    expect(iommu.unmapFast(domain, 0x10_0000, 2 * K4, gather)).toBe(2 * K4);
    expect([domain.table.size, domain.tlb.size, fake.syncs.length]).toEqual([0, 2, 0]);
    gather.sync(domain);
    expect([domain.tlb.size, fake.syncs]).toEqual([0, [{ start: 0x10_0000, end: 0x10_1fff, pgsize: K4 }]]);
  });

  test.each([
    { name: "misaligned iova", iova: 0x800, pa: 0, size: K4 },
    { name: "misaligned pa", iova: 0, pa: 0x800, size: K4 },
    { name: "misaligned size", iova: 0, pa: 0, size: K4 + 1 },
    { name: "no size", iova: 0, pa: 0, size: 0 },
  ])("$name is -EINVAL to map and 0 bytes to unmap", ({ iova, pa, size }) => {
    const { iommu, domain } = domainOf();
    expect(iommu.map(domain, iova, pa, size, PROT.READ)).toBe(-22);
    if (pa === 0) expect(iommu.unmap(domain, iova, size)).toBe(0);
  });

  test("domains without a page table refuse", () => {
    const { iommu, fake } = domainOf();
    expect(iommu.map(fake.ops.identityDomain, 0, 0, K4, PROT.READ)).toBe(-22);
    expect(iommu.unmap(fake.ops.identityDomain, 0, K4)).toBe(0);
    expect(iommu.iovaToPhys(fake.ops.identityDomain, 77)).toBe(77);
    expect(iommu.iovaToPhys(fake.ops.blockedDomain, 77)).toBe(0);
  });

  test("iotlbSyncMap runs once a map, and its failure undoes", () => {
    const synced: number[][] = [];
    let status = 0;
    let bytes = 0;
    const domain = new IommuDomain({
      type: "paging",
      pgsizeBitmap: K4,
      ops: {
        ...ops,
        mapPages: (at) => {
          at.mapped = K4;
          bytes += K4;
          return 0;
        },
        unmapPages: () => {
          bytes -= K4;
          return K4;
        },
        iotlbSyncMap: (_domain, iova, size) => {
          synced.push([iova, size]);
          return status;
        },
      },
    });
    const mapper = new RangeMapper(new Counters());
    expect(mapper.map(domain, K4, 0, 3 * K4, PROT.READ)).toBe(0);
    status = -5;
    expect(mapper.map(domain, K4, 0, 2 * K4, PROT.READ)).toBe(-5);
    expect(synced).toEqual([
      [K4, 3 * K4],
      [K4, 2 * K4],
    ]);
    expect(bytes).toBe(3 * K4);
  });

  test("calls into the driver are counted", () => {
    const { kernel, iommu, fake, domain } = domainOf();
    fake.chunk = 2;
    const before = kernel.cpu.counters.read("dma.pgtableMaps").el1;
    iommu.map(domain, 0, 0x4000_0000, 5 * K4, PROT.READ);
    iommu.unmap(domain, 0, 5 * K4);
    expect(kernel.cpu.counters.read("dma.pgtableMaps").el1 - before).toBe(3);
    expect(kernel.cpu.counters.read("dma.pgtableUnmaps").el1).toBe(1);
  });
});

test("directions give the device's permissions", () => {
  expect([0, 1, 2].map((dir) => dirProt(dir, false))).toEqual([3, 1, 2]);
  expect([0, 1, 2].map((dir) => dirProt(dir, true))).toEqual([7, 5, 6]);
  expect(() => dirProt(3, false)).toThrow(RangeError);
});
