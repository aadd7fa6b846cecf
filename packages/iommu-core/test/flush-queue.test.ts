import { describe, expect, test } from "vitest";
import { DMA_DIR, FLUSH_QUEUE_SIZE, FLUSH_QUEUE_TIMEOUT, FlushQueue, IommuDomain, IovaAllocator } from "../src/index.ts";
import { K4, client, setUp } from "./fake-iommu.ts";
import type { FakeDomain, Setup } from "./fake-iommu.ts";
import { FakeCpu } from "@smmuv3/fake-cpu";

const NAME = "0000:00:01.0";

function deferred(capable = true): Setup & { domain: FakeDomain } {
  const setup = setUp([client(NAME, [1])], { late: true, defaultDomainType: "dma-fq" });
  const ops = { ...setup.fake.ops, capable: () => capable };
  setup.iommu.register({ ...setup.instance, ops });
  return { ...setup, domain: setup.iommu.domainOf(setup.dev(NAME)) as FakeDomain };
}

describe("dma-fq", () => {
  test("an unmap leaves the TLB alone; the flush clears it and frees the IOVAs", () => {
    const { kernel, iommu, fake, domain, dev } = deferred();
    const nic = dev(NAME);
    const first = iommu.dma.mapPage(nic, 0x4000_0000, K4, DMA_DIR.bidirectional);
    expect(iommu.dma.unmapPage(nic, first, K4, DMA_DIR.bidirectional)).toBe(0);
    expect(domain.table.size).toBe(0);
    // The window: the device still reaches the page, and nobody else gets the IOVA.
    expect(fake.dma(nic, first)).toBe(0x4000_0000);
    expect(iommu.dma.mapPage(nic, 0x4000_1000, K4, DMA_DIR.bidirectional)).not.toBe(first);
    expect(iommu.dma.unmapPage(nic, first, K4, DMA_DIR.bidirectional)).toBe(-22);
    expect([domain.flushQueue!.pending, fake.syncs.length, fake.flushes]).toEqual([1, 0, 0]);
    domain.flushQueue!.flush();
    expect(fake.dma(nic, first)).toBe(-1);
    expect([domain.flushQueue!.pending, fake.flushes]).toEqual([0, 1]);
    expect(iommu.dma.mapPage(nic, 0x4000_2000, K4, DMA_DIR.bidirectional)).toBe(first);
    expect(kernel.cpu.counters.read("dma.fqFlushes").el1).toBe(1);
  });

  test("a full queue flushes once for all", () => {
    const { iommu, fake, domain, dev } = deferred();
    for (let i = 0; i <= FLUSH_QUEUE_SIZE; i++) {
      const iova = iommu.dma.mapPage(dev(NAME), 0x4000_0000, K4, DMA_DIR.toDevice);
      iommu.dma.unmapPage(dev(NAME), iova, K4, DMA_DIR.toDevice);
      expect(fake.flushes).toBe(i === FLUSH_QUEUE_SIZE ? 1 : 0);
    }
    expect([domain.flushQueue!.pending, domain.iovas!.allocatedPages]).toEqual([1, 1]);
  });

  test("a driver that cannot flush late stays strict", () => {
    const { iommu, fake, domain, dev } = deferred(false);
    const iova = iommu.dma.mapPage(dev(NAME), 0x4000_0000, K4, DMA_DIR.toDevice);
    iommu.dma.unmapPage(dev(NAME), iova, K4, DMA_DIR.toDevice);
    expect([domain.flushQueue, fake.syncs.length, domain.tlb.size]).toEqual([undefined, 1, 0]);
  });
});

test("the oldest entry's time-out flushes at the next unmap", () => {
  const cpu = new FakeCpu();
  let flushes = 0;
  const flushIotlbAll = (): void => {
    flushes++;
  };
  const domain = new IommuDomain({ type: "paging", ops: { attachDev: () => 0, flushIotlbAll } });
  const iovas = new IovaAllocator({ granule: K4, apertureEnd: 2 ** 32 });
  const queue = new FlushQueue(domain, iovas, cpu);
  const add = (): void => {
    queue.add(iovas.alloc(K4), K4);
  };
  add();
  cpu.time = FLUSH_QUEUE_TIMEOUT - 1;
  add();
  expect([flushes, queue.pending]).toEqual([0, 2]);
  cpu.time++;
  add();
  expect([flushes, queue.pending, iovas.allocatedPages]).toEqual([1, 1, 1]);
});
