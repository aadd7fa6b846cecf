import { ABI_PROT, HOST_DOMAINS, POOL, REQUEST, SG_ENTRY } from "@smmuv3/pkvm-abi";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { paging, power } from "../src/index.ts";
import { DMA_MMIO, RAM_BASE, RAM_SIZE, SID } from "./fake-cpu.ts";
import { boot, page, pfn, POOL_BASE, RecordingPaging } from "./host.ts";
import type { Booted } from "./host.ts";

const { read, write } = ABI_PROT;
const RW = read | write;
const ID = 5;
const PA = page(100);
const OTHER = page(101);
const { EBUSY, EINVAL, ENODEV, ENOENT, ENOMEM, E2BIG, EOPNOTSUPP, EPERM, ETIMEDOUT, ENOSPC, ERANGE } = ERRNO;

/** EL2 with paging, 8 pages in its IOMMU pool, and domain {@link ID}. */
function withDomain(): Booted {
  const booted = boot(true, [paging, power]);
  expect(booted.cpu.call("__pkvm_topup_hyp", POOL.iommu, pfn(page(304)), 3)).toBe(0);
  expect(booted.cpu.call("__pkvm_iommu_alloc_domain", 0, ID, 1)).toBe(0);
  return booted;
}

const pinsOf = ({ cpu, core }: Booted, pa: number): number => core.states.pins(cpu.memory.pageIndex(pa));

describe("domains", () => {
  test.each<[string, number[], number]>([
    ["id 0", [0, 0, 1], -EINVAL],
    ["id 1", [0, 1, 1], -EINVAL],
    ["an id of guests", [0, HOST_DOMAINS, 1], -EINVAL],
    ["an id that exists", [0, ID, 1], -EBUSY],
    ["type 0", [0, 6, 0], -EINVAL],
    ["type 3", [0, 6, 3], -EINVAL],
    ["an IOMMU that is none", [1, 6, 1], -ENODEV],
    ["2^53 - 1 for all", [2 ** 53 - 1, 2 ** 53 - 1, 2 ** 53 - 1], -EINVAL],
    ["the last id", [0, HOST_DOMAINS - 1, 2], 0],
  ])("with %s", (_what, args, status) => {
    expect(withDomain().cpu.call("__pkvm_iommu_alloc_domain", ...args)).toBe(status);
  });

  test("hardware without a stage", () => {
    const booted = withDomain();
    booted.driver.paging = new RecordingPaging(booted.driver, [1]);
    expect(booted.cpu.call("__pkvm_iommu_alloc_domain", 0, 6, 2)).toBe(-EOPNOTSUPP);
  });

  test("without the module nobody knows of them", () => {
    const { cpu } = boot();
    expect(cpu.call("__pkvm_iommu_alloc_domain", 0, ID, 1)).toBe(-EOPNOTSUPP);
    expect(cpu.call("__pkvm_iommu_set_state", 0, SID.net, 0, 2)).toBe(-EINVAL);
    expect(cpu.call("__pkvm_host_hvc_pd", 0, 1)).toBe(-EOPNOTSUPP);
  });

  test("end when nothing is attached, and what they map is free again", () => {
    const booted = withDomain();
    const { cpu, driver } = booted;
    cpu.call("__pkvm_iommu_map_pages", ID, 0, PA, PAGE_SIZE, 2, RW);
    expect(cpu.call("__pkvm_iommu_set_state", 0, SID.net, 0, ID)).toBe(0);
    expect(cpu.call("__pkvm_iommu_free_domain", ID)).toBe(-EBUSY);
    expect(cpu.call("__pkvm_iommu_set_state", 0, SID.net, 0, 0)).toBe(0);
    driver.paging.refuse = -ETIMEDOUT;
    expect(cpu.call("__pkvm_iommu_free_domain", ID)).toBe(-ETIMEDOUT);
    driver.paging.refuse = 0;
    expect(pinsOf(booted, PA)).toBe(1);
    expect(cpu.call("__pkvm_iommu_free_domain", ID)).toBe(0);
    expect([pinsOf(booted, PA), pinsOf(booted, OTHER)]).toEqual([0, 0]);
    expect(cpu.call("__pkvm_iommu_free_domain", ID)).toBe(-ENOENT);
    expect(cpu.call("__pkvm_iommu_alloc_domain", 0, ID, 2)).toBe(0);
  });

  test("every attachment is a reference", () => {
    const { cpu, driver } = withDomain();
    cpu.call("__pkvm_iommu_alloc_domain", 0, 6, 2);
    const set = (sid: number, pasid: number, state: number): number => cpu.call("__pkvm_iommu_set_state", 0, sid, pasid, state);
    const busy = (id: number): boolean => cpu.call("__pkvm_iommu_free_domain", id) === -EBUSY;
    expect([set(SID.net, 0, ID), set(SID.net, 1, ID), set(SID.disk, 0, ID)]).toEqual([0, 0, 0]);
    expect([set(SID.net, 0, 6), set(SID.net, 0, 6), set(SID.disk, 0, 1)]).toEqual([0, 0, 0]);
    expect([busy(ID), busy(6)]).toEqual([true, true]);
    driver.paging.refuse = -ETIMEDOUT;
    expect(set(SID.net, 1, 0)).toBe(-ETIMEDOUT);
    expect(set(SID.net, 1, 6)).toBe(-ETIMEDOUT);
    driver.paging.refuse = 0;
    expect(busy(ID)).toBe(true);
    expect(set(SID.net, 1, 0)).toBe(0);
    expect(cpu.call("__pkvm_iommu_free_domain", ID)).toBe(0);
    expect(set(SID.net, 0, 0)).toBe(0);
    expect(cpu.call("__pkvm_iommu_free_domain", 6)).toBe(0);
  });

  test("references are finite: one more is refused, and nothing is lost", () => {
    const { cpu, driver } = withDomain();
    for (let sid = 1; sid < 0xffff; sid++) {
      if (cpu.call("__pkvm_iommu_set_state", 0, sid, 0, ID) !== 0) throw new Error(`StreamID ${sid}`);
    }
    driver.log.length = 0;
    expect(cpu.call("__pkvm_iommu_set_state", 0, 0xffff, 0, ID)).toBe(-EBUSY);
    expect(cpu.call("__pkvm_iommu_map_pages", ID, 0, PA, PAGE_SIZE, 1, RW)).toBe(-EBUSY);
    expect(driver.log).toEqual([]);
    expect(cpu.call("__pkvm_iommu_set_state", 0, 1, 0, 0)).toBe(0);
    expect(cpu.call("__pkvm_iommu_map_pages", ID, 0, PA, PAGE_SIZE, 1, RW)).toBe(PAGE_SIZE);
    expect(cpu.call("__pkvm_iommu_set_state", 0, 0xffff, 0, ID)).toBe(0);
  });

  test.each<[string, number[], number]>([
    ["an IOMMU that is none", [1, SID.net, 0, ID], -ENODEV],
    ["a StreamID beyond 32 bits", [0, 2 ** 32, 0, ID], -EINVAL],
    ["a PASID beyond 20 bits", [0, SID.net, 2 ** 20, ID], -EINVAL],
    ["no domain", [0, SID.net, 0, 6], -ENOENT],
    ["a domain beyond all", [0, SID.net, 0, 2 ** 40], -ENOENT],
    ["identity for a PASID", [0, SID.net, 1, 1], -EINVAL],
  ])("set_state with %s", (_what, args, status) => {
    const { cpu, driver } = withDomain();
    driver.log.length = 0;
    expect(cpu.call("__pkvm_iommu_set_state", ...args)).toBe(status);
    expect(driver.log).toEqual([]);
  });
});

describe("mapping", () => {
  test.each<[string, number[], number]>([
    ["an unknown prot", [ID, 0, PA, PAGE_SIZE, 1, 64], -EOPNOTSUPP],
    ["prot before everything else", [0, 1, 1, 3, 2 ** 52, 64], -EOPNOTSUPP],
    ["an overflow of the size", [ID, 0, PA, PAGE_SIZE, 2 ** 52, RW], -E2BIG],
    ["an overflow of the IOVA", [ID, 2 ** 53 - PAGE_SIZE, PA, PAGE_SIZE, 2, RW], -E2BIG],
    ["an overflow of the address", [ID, 0, 2 ** 53 - PAGE_SIZE, PAGE_SIZE, 2, RW], -E2BIG],
    ["a misaligned IOVA", [ID, 8, PA, PAGE_SIZE, 1, RW], -EINVAL],
    ["a misaligned address", [ID, 0, PA + 8, PAGE_SIZE, 1, RW], -EINVAL],
    ["no pages", [ID, 0, PA, PAGE_SIZE, 0, RW], -EINVAL],
    ["pages of 0 bytes", [ID, 0, PA, 0, 1, RW], -EINVAL],
    ["pages of 64 bytes", [ID, 0, PA, 64, 1, RW], -EINVAL],
    ["alignment before the domain", [0, 8, PA, PAGE_SIZE, 1, RW], -EINVAL],
    ["domain 0", [0, 0, PA, PAGE_SIZE, 1, RW], -EINVAL],
    ["no domain", [6, 0, PA, PAGE_SIZE, 1, RW], -ENOENT],
    ["a domain before its pages", [6, 0, POOL_BASE, PAGE_SIZE, 1, RW], -ENOENT],
    ["a page of EL2", [ID, 0, POOL_BASE, PAGE_SIZE, 1, RW], -EPERM],
    ["pages that reach into EL2's", [ID, 0, POOL_BASE - PAGE_SIZE, PAGE_SIZE, 2, RW], -EPERM],
    ["RAM and what follows it", [ID, 0, RAM_BASE + RAM_SIZE - PAGE_SIZE, PAGE_SIZE, 2, RW], -EINVAL],
    ["device space and RAM", [ID, 0, RAM_BASE - PAGE_SIZE, PAGE_SIZE, 2, RW], -EINVAL],
    ["registers of an IOMMU of EL2", [ID, 0, 0x0905_0000, PAGE_SIZE, 1, RW], -EPERM],
    ["device space that no address reaches", [ID, 0, 2 ** 48, PAGE_SIZE, 1, RW], -EINVAL],
    ["an IOVA that is not aligned to a large page", [ID, PAGE_SIZE, RAM_BASE, 2 ** 21, 1, RW], -EINVAL],
    ["an address that is not aligned to a large page", [ID, 0, RAM_BASE + PAGE_SIZE, 2 ** 21, 1, RW], -EINVAL],
    ["a page size that the hardware has not", [ID, 0, RAM_BASE + 2 ** 22, 2 ** 21, 1, RW], -ERANGE],
  ])("with %s", (_what, args, status) => {
    const booted = withDomain();
    booted.core.donateMmio(0x0905_0000, 0x2_0000);
    expect(booted.cpu.call("__pkvm_iommu_map_pages", ...args)).toBe(status);
    expect([pinsOf(booted, PA), pinsOf(booted, POOL_BASE - PAGE_SIZE)]).toEqual([0, 0]);
    for (const domain of booted.driver.paging.domains) expect(RecordingPaging.leaves(domain).size).toBe(0);
  });

  test.each<[string, (booted: Booted) => void]>([
    ["shared with EL2", ({ cpu }) => void cpu.call("__pkvm_host_share_hyp", pfn(OTHER))],
    ["given away", ({ cpu }) => void cpu.call("__pkvm_host_donate_hyp", pfn(OTHER))],
    ["lent", ({ core }) => void core.pinLent(OTHER, 1)],
  ])("a page that is %s is not the host's alone", (_what, prepare) => {
    const booted = withDomain();
    prepare(booted);
    const before = pinsOf(booted, OTHER);
    expect(booted.cpu.call("__pkvm_iommu_map_pages", ID, 0, PA, PAGE_SIZE, 2, RW)).toBe(-EPERM);
    expect([pinsOf(booted, PA), pinsOf(booted, OTHER)]).toEqual([0, before]);
  });

  test("a mapped page stays where it is, until the last mapping is gone", () => {
    const booted = withDomain();
    const { cpu, core } = booted;
    const map = (iova: number): number => cpu.call("__pkvm_iommu_map_pages", ID, iova, PA, PAGE_SIZE, 1, RW);
    const unmap = (iova: number): number => cpu.call("__pkvm_iommu_unmap_pages", ID, iova, PAGE_SIZE, 1);
    expect([map(0), map(PAGE_SIZE)]).toEqual([PAGE_SIZE, PAGE_SIZE]);
    expect(cpu.call("__pkvm_iommu_iova_to_phys", ID, PAGE_SIZE)).toBe(PA);
    expect(unmap(0)).toBe(PAGE_SIZE);
    for (const name of ["__pkvm_host_donate_hyp", "__pkvm_host_share_hyp"] as const) {
      expect(cpu.call(name, pfn(PA))).toBe(-EBUSY);
    }
    cpu.call("__pkvm_init_vm", page(200), 8, 1);
    expect(cpu.call("__pkvm_host_donate_guest", 1, pfn(PA), 0)).toBe(-EBUSY);
    expect(core.pinLent(PA, 1)).toBe(-EBUSY);
    expect(unmap(0)).toBe(0);
    expect(unmap(PAGE_SIZE)).toBe(PAGE_SIZE);
    expect(pinsOf(booted, PA)).toBe(0);
    expect(cpu.call("__pkvm_host_donate_hyp", pfn(PA))).toBe(0);
  });

  test("what is not mapped is not in use", () => {
    const booted = withDomain();
    booted.driver.paging.limit = 1;
    expect(booted.cpu.call("__pkvm_iommu_map_pages", ID, 0, PA, PAGE_SIZE, 2, RW)).toBe(PAGE_SIZE);
    expect([pinsOf(booted, PA), pinsOf(booted, OTHER)]).toEqual([1, 0]);
  });

  test("a TLB that does not forget keeps the page in use", () => {
    const booted = withDomain();
    booted.cpu.call("__pkvm_iommu_map_pages", ID, 0, PA, PAGE_SIZE, 1, RW);
    booted.driver.paging.refuse = -ETIMEDOUT;
    expect(booted.cpu.call("__pkvm_iommu_unmap_pages", ID, 0, PAGE_SIZE, 1)).toBe(-ETIMEDOUT);
    expect(pinsOf(booted, PA)).toBe(1);
  });

  test("more than a batch is unmapped in one call, up to the first hole", () => {
    const booted = withDomain();
    const { cpu, driver } = booted;
    expect(cpu.call("__pkvm_iommu_map_pages", ID, 0, page(400), PAGE_SIZE, 1200, RW)).toBe(1200 * PAGE_SIZE);
    expect(cpu.call("__pkvm_iommu_unmap_pages", ID, 0, PAGE_SIZE, 1300)).toBe(1200 * PAGE_SIZE);
    for (let at = 400; at < 1600; at++) expect(pinsOf(booted, page(at))).toBe(0);
    for (const domain of driver.paging.domains) expect(RecordingPaging.leaves(domain).size).toBe(0);
  });

  test.each<[string, number[], number]>([
    ["an overflow", [ID, 2 ** 53 - PAGE_SIZE, PAGE_SIZE, 2], -E2BIG],
    ["a misaligned IOVA", [ID, 8, PAGE_SIZE, 1], -EINVAL],
    ["no pages", [ID, 0, PAGE_SIZE, 0], -EINVAL],
    ["no domain", [6, 0, PAGE_SIZE, 1], -ENOENT],
    ["a hole", [ID, 0, PAGE_SIZE, 4], 0],
  ])("unmapping with %s", (_what, args, status) => {
    expect(withDomain().cpu.call("__pkvm_iommu_unmap_pages", ...args)).toBe(status);
  });

  test("device space that a device may reach is the host's for ever", () => {
    const { cpu, core } = withDomain();
    const map = (): number => cpu.call("__pkvm_iommu_map_pages", ID, 0, DMA_MMIO, PAGE_SIZE, 1, RW | ABI_PROT.mmio);
    expect(map()).toBe(PAGE_SIZE);
    expect(cpu.call("__pkvm_iommu_unmap_pages", ID, 0, PAGE_SIZE, 1)).toBe(PAGE_SIZE);
    expect(core.donateMmio(DMA_MMIO, PAGE_SIZE)).toBe(-EPERM);
    expect(core.ownsMmio(DMA_MMIO)).toBe(false);
    expect(cpu.abort(DMA_MMIO, true, true)).toBe(0);
    // The same range needs no second record.
    for (let i = 0; i < 300; i++) {
      expect(map()).toBe(PAGE_SIZE);
      cpu.call("__pkvm_iommu_unmap_pages", ID, 0, PAGE_SIZE, 1);
    }
    let status = 0;
    for (let i = 0; i < 300 && status >= 0; i++) {
      status = cpu.call("__pkvm_iommu_map_pages", ID, 2 ** 30 + i * PAGE_SIZE, 0x1000_0000 + i * PAGE_SIZE, PAGE_SIZE, 1, RW);
    }
    expect(status).toBe(-ENOSPC);
  });

  test("a page has so many users and not more", () => {
    const booted = withDomain();
    booted.core.states.set(booted.cpu.memory.pageIndex(OTHER), 0, 0, 0xffff);
    expect(booted.cpu.call("__pkvm_iommu_map_pages", ID, 0, PA, PAGE_SIZE, 2, RW)).toBe(-EBUSY);
    expect([pinsOf(booted, PA), pinsOf(booted, OTHER)]).toEqual([0, 0xffff]);
  });
});

describe("scatter-gather lists", () => {
  const LIST = page(120);

  function withList(entries: readonly (readonly [phys: number, pgsize: number, count: number])[]): Booted {
    const booted = withDomain();
    entries.forEach(([phys, pgsize, count], at) => {
      const entry = LIST + at * SG_ENTRY.bytes;
      booted.cpu.memory.store64(entry + SG_ENTRY.phys, phys | 0, 0);
      booted.cpu.memory.store32(entry + SG_ENTRY.pgsize, pgsize);
      booted.cpu.memory.store32(entry + SG_ENTRY.pgcount, count);
    });
    expect(booted.cpu.call("__pkvm_host_share_hyp", pfn(LIST))).toBe(0);
    return booted;
  }

  test.each<[string, [number, number, number][], number]>([
    ["all of it", [[PA, PAGE_SIZE, 1], [page(110), PAGE_SIZE, 2]], 3 * PAGE_SIZE],
    ["up to a page of EL2", [[PA, PAGE_SIZE, 1], [POOL_BASE, PAGE_SIZE, 1], [OTHER, PAGE_SIZE, 1]], PAGE_SIZE],
    ["nothing when the first is bad", [[POOL_BASE, PAGE_SIZE, 1], [PA, PAGE_SIZE, 1]], -EPERM],
    ["not the list itself", [[LIST, PAGE_SIZE, 1]], -EPERM],
  ])("map %s", (_what, entries, result) => {
    const booted = withList(entries);
    expect(booted.cpu.call("__pkvm_iommu_map_sg", ID, 0, LIST, entries.length, RW)).toBe(result);
    expect(pinsOf(booted, LIST)).toBe(0);
    const mapped = [...booted.driver.paging.domains].flatMap((domain) => [...RecordingPaging.leaves(domain).keys()]);
    expect(mapped).toEqual(Array.from({ length: Math.max(result, 0) / PAGE_SIZE }, (_, at) => at * PAGE_SIZE));
  });

  test("stop at the first entry that is mapped in part", () => {
    const booted = withList([[PA, PAGE_SIZE, 2], [page(110), PAGE_SIZE, 1]]);
    booted.driver.paging.limit = 1;
    expect(booted.cpu.call("__pkvm_iommu_map_sg", ID, 0, LIST, 2, RW)).toBe(PAGE_SIZE);
  });

  test.each<[string, number[], number]>([
    ["in memory that is not shared", [ID, 0, page(121), 1, RW], -EPERM],
    ["outside of RAM", [ID, 0, DMA_MMIO, 1, RW], -EINVAL],
    ["that is misaligned", [ID, 0, LIST + 8, 1, RW], -EINVAL],
    ["that is empty", [ID, 0, LIST, 0, RW], -EINVAL],
    ["that is too long", [ID, 0, LIST, 1025, RW], -E2BIG],
    ["that reaches out of the shared page", [ID, 0, LIST, 257, RW], -EPERM],
  ])("a list %s", (_what, args, status) => {
    const booted = withList([[PA, PAGE_SIZE, 1]]);
    expect(booted.cpu.call("__pkvm_iommu_map_sg", ...args)).toBe(status);
    expect(pinsOf(booted, LIST)).toBe(0);
  });
});

describe("memory on request", () => {
  test("a map without memory asks for it, and goes on with it", () => {
    const { cpu, core } = boot(true, [paging]);
    cpu.call("__pkvm_iommu_alloc_domain", 0, ID, 1);
    const map = (count: number): number[] => cpu.reply("__pkvm_iommu_map_pages", ID, 0, PA, PAGE_SIZE, count, RW);
    expect(map(1)).toEqual([-ENOMEM, REQUEST.memory, POOL.iommu, 1]);
    expect(cpu.call("__pkvm_topup_hyp", POOL.iommu, pfn(page(300)), 0)).toBe(0);
    expect(map(1)).toEqual([PAGE_SIZE, REQUEST.none, 0, 0]);
    // What is done is said together with what lacks.
    const two = cpu.reply("__pkvm_iommu_map_pages", ID, 2 ** 21 - PAGE_SIZE, OTHER, PAGE_SIZE, 2, RW);
    expect(two).toEqual([PAGE_SIZE, REQUEST.memory, POOL.iommu, 1]);
    expect(core.states.pins(cpu.memory.pageIndex(page(102)))).toBe(0);
    expect(cpu.reply("__pkvm_host_share_hyp", pfn(page(110)))).toEqual([0, REQUEST.none, 0, 0]);
  });

  test.each<[string, number[], number]>([
    ["another pool", [2, pfn(page(300)), 0], -EINVAL],
    ["a block that is too large", [0, pfn(RAM_BASE), 11], -EINVAL],
    ["an order of 2^53", [0, 0, 2 ** 53 - 1], -EINVAL],
    ["a misaligned block", [0, pfn(page(301)), 1], -EINVAL],
    ["memory of EL2", [0, pfn(POOL_BASE), 0], -EPERM],
    ["what is no memory", [0, 1, 0], -EINVAL],
  ])("a top-up with %s", (_what, args, status) => {
    expect(boot(true, [paging]).cpu.call("__pkvm_topup_hyp", ...args)).toBe(status);
  });

  test.each([POOL.iommu, POOL.hyp])("pool %i gives back what it does not use, wiped, and not more", (pool) => {
    const { cpu, core, driver } = boot(true, [paging]);
    const frames = [0, 1, 2, 3].map((at) => pfn(page(300 + at)));
    const free = core.pool.freePages;
    cpu.memory.store32(page(302) + 64, 77);
    expect(cpu.call("__pkvm_topup_hyp", pool, frames[0]!, 2)).toBe(0);
    expect(driver.dma.has(page(302))).toBe(false);
    expect(cpu.call("__pkvm_hyp_donate_host", frames[0]!)).toBeLessThan(0);
    driver.refuseMap = -ENOMEM;
    expect(cpu.call("__pkvm_hyp_reclaim_pool", pool)).toBe(-ENOMEM);
    driver.refuseMap = 0;
    const back = frames.map(() => cpu.call("__pkvm_hyp_reclaim_pool", pool));
    expect(back.sort((a, b) => a - b)).toEqual(frames);
    expect(cpu.call("__pkvm_hyp_reclaim_pool", pool)).toBe(-ENOENT);
    expect(core.pool.freePages).toBe(free);
    expect([cpu.memory.load32(page(302) + 64), driver.dma.has(page(302))]).toEqual([0, true]);
    expect(cpu.call("__pkvm_hyp_reclaim_pool", 2)).toBe(-EINVAL);
  });
});

test("power goes to the driver", () => {
  const { cpu, driver } = withDomain();
  driver.log.length = 0;
  expect(cpu.call("__pkvm_host_hvc_pd", 0, 0)).toBe(0);
  expect(cpu.call("__pkvm_host_hvc_pd", 0, 1)).toBe(0);
  expect(cpu.call("__pkvm_host_hvc_pd", 0, 2)).toBe(-EINVAL);
  expect(cpu.call("__pkvm_host_hvc_pd", 1, 0)).toBe(-ENODEV);
  expect(driver.log).toEqual(["suspend 0", "resume 0"]);
});
