import { describe, expect, test } from "vitest";
import type { Memory } from "@smmuv3/platform";
import { DMA_DIR, PROT, sgEntry } from "../src/index.ts";
import { FakeDomain, K4, M2, RAM, client, setUp } from "./fake-iommu.ts";
import type { Setup } from "./fake-iommu.ts";

const { bidirectional, toDevice, fromDevice } = DMA_DIR;
const NAME = "0000:00:01.0";

function translated(properties = {}): Setup & { domain: FakeDomain } {
  const setup = setUp([client(NAME, [1], properties)]);
  return { ...setup, domain: setup.iommu.domainOf(setup.dev(NAME)) as FakeDomain };
}

describe("dma-iommu", () => {
  test("the offset in the page is kept, the covering pages are mapped, top-down", () => {
    const { iommu, fake, domain, dev } = translated();
    const iova = iommu.dma.mapPage(dev(NAME), 0x4000_1ffc, 8, fromDevice);
    expect(iova).toBe(0xffff_effc);
    expect([...domain.table.keys()]).toEqual([0xffff_e000, 0xffff_f000]);
    expect(fake.dma(dev(NAME), iova)).toBe(0x4000_1ffc);
    expect(fake.dma(dev(NAME), iova + 7)).toBe(0x4000_2003);
    expect(iommu.dma.unmapPage(dev(NAME), iova, 8, fromDevice)).toBe(0);
    expect([domain.table.size, domain.iovas!.allocatedPages]).toEqual([0, 0]);
  });

  test.each([
    { dir: bidirectional, coherent: false, prot: PROT.READ | PROT.WRITE },
    { dir: toDevice, coherent: false, prot: PROT.READ },
    { dir: fromDevice, coherent: true, prot: PROT.WRITE | PROT.CACHE },
  ])("direction $dir, coherent $coherent: protection $prot", ({ dir, coherent, prot }) => {
    const { iommu, domain, dev } = translated({ "dma-coherent": coherent });
    iommu.dma.mapPage(dev(NAME), 0x4000_0000, K4, dir);
    expect([...domain.table.values()].map((leaf) => leaf.prot)).toEqual([prot]);
  });

  test("strict: when unmap returns, the TLB has forgotten; one sync an unmap", () => {
    const { iommu, fake, dev } = translated();
    const iova = iommu.dma.mapPage(dev(NAME), 0x4000_0000, 16 * K4, bidirectional);
    expect(fake.dma(dev(NAME), iova + 5 * K4)).toBe(0x4000_5000);
    expect(iommu.dma.unmapPage(dev(NAME), iova, 16 * K4, bidirectional)).toBe(0);
    expect(fake.dma(dev(NAME), iova + 5 * K4)).toBe(-1);
    expect(fake.syncs).toEqual([{ start: iova, end: iova + 16 * K4 - 1, pgsize: K4 }]);
    expect(iommu.dma.mapPage(dev(NAME), 0x4001_0000, 16 * K4, bidirectional)).toBe(iova);
    expect(fake.dma(dev(NAME), iova)).toBe(0x4001_0000);
  });

  test("a large mapping uses blocks", () => {
    const { iommu, domain, dev } = translated();
    const iova = iommu.dma.mapPage(dev(NAME), 0x4020_0000, 2 * M2, toDevice);
    expect(iova % M2).toBe(0);
    expect([...domain.table.values()].map(({ size }) => size)).toEqual([M2, M2]);
  });

  test("the DMA mask bounds the IOVA, not the physical address", () => {
    const { iommu, fake, dev } = translated({ "dma-mask-bits": 28 });
    const iova = iommu.dma.mapPage(dev(NAME), 0x4012_3000, K4, toDevice);
    expect(iova).toBe(0x0fff_f000);
    expect(fake.dma(dev(NAME), iova)).toBe(0x4012_3000);
  });

  test("failures leave nothing: no room, page table", () => {
    const { iommu, fake, domain, dev } = translated();
    expect(iommu.dma.mapPage(dev(NAME), 0, 2 ** 33, toDevice)).toBe(-12);
    expect(iommu.dma.mapPage(dev(NAME), 0x4000_0000, 0, toDevice)).toBe(-22);
    fake.failAfter = 3;
    expect(iommu.dma.mapPage(dev(NAME), 0x4000_0000, 8 * K4, toDevice)).toBe(-12);
    expect([domain.table.size, domain.tlb.size, domain.iovas!.allocatedPages]).toEqual([0, 0, 0]);
    expect(() => iommu.dma.mapPage(dev(NAME), 0x4000_0000, 8, 3)).toThrow(RangeError);
  });

  test("unmapping what was not mapped is -EINVAL and touches nothing", () => {
    const { iommu, fake, domain, dev } = translated();
    const iova = iommu.dma.mapPage(dev(NAME), 0x4000_0000, 2 * K4, toDevice);
    for (const [address, size] of [
      [iova, K4],
      [iova + K4, K4],
      [0x1000, K4],
    ] as const) {
      expect(iommu.dma.unmapPage(dev(NAME), address, size, toDevice)).toBe(-22);
    }
    expect([domain.table.size, fake.syncs.length]).toEqual([2, 0]);
    expect(iommu.dma.unmapPage(dev(NAME), iova, 2 * K4, toDevice)).toBe(0);
    expect(iommu.dma.unmapPage(dev(NAME), iova, 2 * K4, toDevice)).toBe(-22);
  });

  test("a resource is mapped as device memory that is not executable", () => {
    const { iommu, domain, dev, fake } = translated({ "dma-coherent": true });
    const iova = iommu.dma.mapResource(dev(NAME), 0x0802_0040, 4, fromDevice);
    expect([...domain.table.values()]).toEqual([
      { pa: 0x0802_0000, size: K4, prot: PROT.WRITE | PROT.MMIO | PROT.NOEXEC },
    ]);
    expect(fake.dma(dev(NAME), iova)).toBe(0x0802_0040);
    expect(iommu.dma.unmapResource(dev(NAME), iova, 4, fromDevice)).toBe(0);
    expect(domain.table.size).toBe(0);
  });

  test("coherent buffers are zeroed, mapped and freed", () => {
    const { kernel, iommu, domain, dev, fake } = translated();
    kernel.memory.fill(RAM.base, RAM.size, -1);
    const buffer = iommu.dma.allocCoherent(dev(NAME), 5000);
    if (typeof buffer === "number") throw new Error("no buffer");
    expect(buffer.size).toBe(2 * K4);
    expect(kernel.memory.load32(buffer.pa + 2 * K4 - 4)).toBe(0);
    expect(fake.dma(dev(NAME), buffer.dma + 5000)).toBe(buffer.pa + 5000);
    expect(iommu.dma.freeCoherent(dev(NAME), buffer)).toBe(0);
    expect([domain.table.size, kernel.pages.allocated]).toEqual([0, 0]);
    fake.failAfter = 0;
    expect(iommu.dma.allocCoherent(dev(NAME), K4)).toBe(-12);
    expect(kernel.pages.allocated).toBe(0);
  });

  test("counters: calls of the API and into the driver", () => {
    const { kernel, iommu, dev } = translated();
    const iova = iommu.dma.mapPage(dev(NAME), 0x4000_0000, M2 + K4, toDevice);
    iommu.dma.unmapPage(dev(NAME), iova, M2 + K4, toDevice);
    const read = (name: string): number => kernel.cpu.counters.read(name).el1;
    expect(["dma.maps", "dma.unmaps", "dma.pgtableMaps", "dma.pgtableUnmaps", "dma.bounced"].map(read)).toEqual([
      1, 1, 2, 2, 0,
    ]);
  });
});

describe("scatter-gather on a translating domain", () => {
  test.each([
    {
      name: "whole pages join into one segment",
      entries: [[0x4000_3000, K4], [0x4000_8000, 2 * K4], [0x4000_1000, K4]],
      segments: [[0, 4 * K4]],
      maps: 3,
    },
    {
      name: "physically contiguous entries are mapped together",
      entries: [[0x4000_3000, K4], [0x4000_4000, K4], [0x4000_5000, K4]],
      segments: [[0, 3 * K4]],
      maps: 1,
    },
    {
      name: "an entry that ends inside a page ends its segment",
      entries: [[0x4000_3000, 100], [0x4000_8000, K4]],
      segments: [[0, 100], [K4, K4]],
      maps: 2,
    },
    {
      name: "an entry that starts inside a page starts a segment",
      entries: [[0x4000_3000, K4], [0x4000_8200, 0x200], [0x4000_a000, K4]],
      segments: [[0, K4], [K4 + 0x200, 0x200], [2 * K4, K4]],
      maps: 3,
    },
    {
      name: "first page partly, last page partly",
      entries: [[0x4000_3800, 0x800], [0x4000_8000, 0x123]],
      segments: [[0x800, 0x923]],
      maps: 2,
    },
  ] as const)("$name", ({ entries, segments, maps }) => {
    const { kernel, iommu, fake, domain, dev } = translated();
    const list = entries.map(([pa, length]) => sgEntry(pa, length));
    const count = iommu.dma.mapSg(dev(NAME), list, bidirectional);
    const base = Math.min(...domain.table.keys());
    expect(list.slice(0, count).map(({ dmaAddress, dmaLength }) => [dmaAddress - base, dmaLength])).toEqual(segments);
    expect(kernel.cpu.counters.read("dma.pgtableMaps").el1).toBe(maps);
    // The device reads the segments' bytes in the order of the entries.
    const seen: number[] = [];
    for (const { dmaAddress, dmaLength } of list.slice(0, count)) {
      for (let at = 0; at < dmaLength; at++) seen.push(fake.dma(dev(NAME), dmaAddress + at));
    }
    const expected = entries.flatMap(([pa, length]) => Array.from({ length }, (_, at) => pa + at));
    expect(seen).toEqual(expected);
    expect(iommu.dma.unmapSg(dev(NAME), list, bidirectional)).toBe(0);
    expect([domain.table.size, domain.tlb.size, domain.iovas!.allocatedPages]).toEqual([0, 0, 0]);
  });

  test("a failure in the middle leaves nothing mapped", () => {
    const { iommu, fake, domain, dev } = translated();
    const list = [sgEntry(0x4000_1000, K4), sgEntry(0x4000_9000, K4), sgEntry(0x4000_5000, 2 * K4)];
    fake.failAfter = 3;
    expect(iommu.dma.mapSg(dev(NAME), list, toDevice)).toBe(-12);
    expect([domain.table.size, domain.tlb.size, domain.iovas!.allocatedPages]).toEqual([0, 0, 0]);
    expect(iommu.dma.mapSg(dev(NAME), list, toDevice, 0)).toBe(-22);
    fake.failAfter = Infinity;
    expect(iommu.dma.mapSg(dev(NAME), list, toDevice, 2)).toBe(1);
    expect(domain.table.size).toBe(2);
    expect(iommu.dma.unmapSg(dev(NAME), list, toDevice, 2)).toBe(0);
    expect(iommu.dma.unmapSg(dev(NAME), list, toDevice, 2)).toBe(-22);
  });
});

/** RAM that a 32-bit device only reaches in part. */
const HIGH = { base: 0xff80_0000, size: 16 << 20 };
const ABOVE = 2 ** 32;

function direct(bits: number, swiotlbBytes = 64 << 10): Setup {
  const nic = client(NAME, [], { "dma-mask-bits": bits });
  return setUp([nic], { ram: HIGH, swiotlbBytes });
}

/** Byte `pa` of memory. */
function byte(memory: Memory, pa: number): number {
  return (memory.load32(pa - (pa % 4)) >>> ((pa % 4) * 8)) & 0xff;
}

function pattern(memory: Memory, pa: number, size: number, salt: number): void {
  for (let at = pa; at < pa + size; at += 4) memory.store32(at, Math.imul((at | 0) + salt * 0x0123_4567, 0x9e37_79b1));
}

describe("dma-direct", () => {
  test("identity and devices without an IOMMU: the address is physical", () => {
    const identity = setUp([client(NAME, [1])], { defaultDomainType: "identity" });
    const plain = setUp([client(NAME, [])]);
    for (const { iommu, dev, kernel } of [identity, plain]) {
      expect(iommu.dma.mapPage(dev(NAME), 0x4000_0123, 99, toDevice)).toBe(0x4000_0123);
      expect(iommu.dma.unmapPage(dev(NAME), 0x4000_0123, 99, toDevice)).toBe(0);
      const list = [sgEntry(0x4000_1000, K4), sgEntry(0x4000_2000, K4)];
      expect(iommu.dma.mapSg(dev(NAME), list, toDevice)).toBe(2);
      expect(list.map(({ dmaAddress }) => dmaAddress)).toEqual([0x4000_1000, 0x4000_2000]);
      expect(iommu.dma.unmapSg(dev(NAME), list, toDevice)).toBe(0);
      expect(iommu.dma.mapResource(dev(NAME), 0x0802_0040, 4, fromDevice)).toBe(0x0802_0040);
      expect(kernel.cpu.counters.read("dma.pgtableMaps").el1).toBe(0);
    }
  });

  test("memory within the mask is not bounced, up to the last byte", () => {
    const { iommu, dev, kernel } = direct(32);
    expect(iommu.dma.mapPage(dev(NAME), ABOVE - K4, K4, toDevice)).toBe(ABOVE - K4);
    expect(kernel.cpu.counters.read("dma.bounced").el1).toBe(0);
    expect(iommu.dma.mapPage(dev(NAME), ABOVE - K4, K4 + 1, toDevice)).toBeLessThan(ABOVE - K4);
    expect(kernel.cpu.counters.read("dma.bounced").el1).toBe(1);
  });

  test.each([
    { dir: toDevice, copiesIn: true, copiesOut: false },
    { dir: fromDevice, copiesIn: false, copiesOut: true },
    { dir: bidirectional, copiesIn: true, copiesOut: true },
  ])("direction $dir copies in: $copiesIn, out: $copiesOut", ({ dir, copiesIn, copiesOut }) => {
    for (const { offset, size } of [
      { offset: 0, size: K4 },
      { offset: 0x123, size: 0x77 },
      { offset: 0xffe, size: 5 },
      { offset: 1, size: 1 },
      { offset: 2, size: 3 * K4 },
    ]) {
      const { iommu, dev, kernel } = direct(32);
      const { memory } = kernel;
      const pa = ABOVE + 0x10_0000 + offset;
      pattern(memory, ABOVE + 0x10_0000, 5 * K4, 1);
      const original = Array.from({ length: size }, (_, at) => byte(memory, pa + at));
      const address = iommu.dma.mapPage(dev(NAME), pa, size, dir);
      expect(address % K4).toBe(offset);
      expect(address + size).toBeLessThanOrEqual(ABOVE);
      const bounced = Array.from({ length: size }, (_, at) => byte(memory, address + at));
      expect(bounced.every((value, at) => value === original[at])).toBe(copiesIn);

      pattern(memory, address - (address % K4), Math.ceil((offset + size) / K4) * K4, 2);
      const written = Array.from({ length: size }, (_, at) => byte(memory, address + at));
      const neighbours = [byte(memory, pa - 1), byte(memory, pa + size)];
      expect(iommu.dma.unmapPage(dev(NAME), address, size, dir)).toBe(0);
      const after = Array.from({ length: size }, (_, at) => byte(memory, pa + at));
      expect(after).toEqual(copiesOut ? written : original);
      expect([byte(memory, pa - 1), byte(memory, pa + size)]).toEqual(neighbours);
      expect(kernel.cpu.counters.read("dma.bounced").el1).toBe(1);
      expect(kernel.cpu.counters.read("dma.bouncedBytes").el1).toBe(size * (Number(copiesIn) + Number(copiesOut)));
      expect(iommu.swiotlb.used).toBe(0);
    }
  });

  test("a full pool is -ENOMEM, and slots come back", () => {
    const { iommu, dev } = direct(32);
    const nic = dev(NAME);
    const got = Array.from({ length: 16 }, (_, i) => iommu.dma.mapPage(nic, ABOVE + i * K4, K4, toDevice));
    expect(new Set(got).size).toBe(16);
    expect(iommu.dma.mapPage(nic, ABOVE, K4, toDevice)).toBe(-12);
    expect(iommu.dma.unmapPage(nic, got[3]!, 12, toDevice)).toBe(-22);
    expect(iommu.dma.unmapPage(nic, got[3]!, K4, toDevice)).toBe(0);
    expect(iommu.dma.unmapPage(nic, got[3]!, K4, toDevice)).toBe(-22);
    expect(iommu.dma.mapPage(nic, ABOVE + M2, K4, toDevice)).toBe(got[3]);
  });

  test("a scatter-gather list that does not fit is undone", () => {
    const { iommu, dev } = direct(32);
    const list = [8, 4, 8].map((pages, i) => sgEntry(ABOVE + i * M2, pages * K4));
    expect(iommu.dma.mapSg(dev(NAME), list, fromDevice)).toBe(-12);
    expect(iommu.swiotlb.used).toBe(0);
    expect(iommu.dma.mapSg(dev(NAME), list, fromDevice, 2)).toBe(2);
    expect(iommu.swiotlb.used).toBe(12 * K4);
    expect(iommu.dma.unmapSg(dev(NAME), list, fromDevice, 2)).toBe(0);
    expect(iommu.swiotlb.used).toBe(0);
  });

  test("no pool, or one that the device does not reach: -ENOMEM", () => {
    const none = direct(32, 0);
    expect(none.iommu.dma.mapPage(none.dev(NAME), ABOVE, K4, toDevice)).toBe(-12);
    const narrow = direct(31);
    expect(narrow.iommu.dma.mapPage(narrow.dev(NAME), HIGH.base, K4, toDevice)).toBe(-12);
    const huge = direct(32, 64 << 20);
    expect(huge.iommu.dma.mapPage(huge.dev(NAME), ABOVE, K4, toDevice)).toBe(-12);
    expect(huge.kernel.log.lines("warn")).toHaveLength(1);
    expect(() => direct(32, 100)).toThrow(/multiple of 4K/);
  });

  test("coherent memory lies within the mask; resources beyond it fail", () => {
    const { iommu, dev, kernel } = direct(32);
    for (let used = 0; used < 8; used++) {
      const buffer = iommu.dma.allocCoherent(dev(NAME), 1 << 20);
      if (typeof buffer === "number") throw new Error("no buffer");
      expect(buffer.dma).toBe(buffer.pa);
      expect(buffer.pa + (1 << 20)).toBeLessThanOrEqual(ABOVE);
    }
    expect(iommu.dma.allocCoherent(dev(NAME), 1 << 20)).toBe(-12);
    expect(kernel.pages.available).toBe(8 << 20);
    expect(iommu.dma.mapResource(dev(NAME), 2 ** 33, 4, fromDevice)).toBe(-5);
  });
});

test("a blocked device cannot map", () => {
  const { iommu, fake, dev } = translated();
  const nic = dev(NAME);
  iommu.attachGroup(iommu.groupOf(nic)!, fake.ops.blockedDomain);
  const list = [sgEntry(0x4000_0000, K4)];
  expect([
    iommu.dma.mapPage(nic, 0x4000_0000, K4, toDevice),
    iommu.dma.unmapPage(nic, 0x4000_0000, K4, toDevice),
    iommu.dma.mapSg(nic, list, toDevice),
    iommu.dma.unmapSg(nic, list, toDevice),
    iommu.dma.mapResource(nic, 0x4000_0000, K4, toDevice),
  ]).toEqual([-5, -5, -5, -5, -5]);
});
