// An SMMU whose power the host switches, with EL2 told before and after: DMA is blocked meanwhile, and what EL2 decided meanwhile holds when
// the SMMU comes back with everything forgotten. EL2 trusts that an SMMU without power, and one that comes back, lets nothing pass.
import { describe, expect, test } from "vitest";
import { EVENT_QUEUE_OP, IOMMU_DOMAIN_TYPE, IOMMU_STATE, POOL } from "@smmuv3/pkvm-abi";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { OFFSET } from "@smmuv3/smmu-v3-defs";
import { IRQS, PAGE, RAM_BASE, SID, World } from "./hyp-fixture.ts";

const TOPUP = RAM_BASE + 0x80_0000;
const IOVA = 0x7_0000;
const [OFF, ON] = [0, 1];
const DOMAIN = 2;

function running(type: number): World {
  const world = new World("paging");
  world.call("__pkvm_topup_hyp", POOL.iommu, TOPUP / PAGE_SIZE, 7);
  world.call("__pkvm_iommu_alloc_domain", 0, DOMAIN, type);
  for (const page of [0, 1]) {
    world.call("__pkvm_iommu_map_pages", DOMAIN, IOVA + page * PAGE_SIZE, PAGE + page * PAGE_SIZE, PAGE_SIZE, 1, 3);
  }
  expect(world.call("__pkvm_iommu_set_state", 0, SID, 0, DOMAIN)).toBe(0);
  expect(world.reaches(IOVA, PAGE, 1)).toBe(true);
  return world;
}

function power(world: World, on: number): void {
  expect(world.call("__pkvm_host_hvc_pd", 0, on)).toBe(0);
}

describe.each([["loses its state", true], ["keeps its state", false]])("an SMMU that %s", (_what, loses) => {
  const cycle = (world: World, meanwhile: () => void): void => {
    power(world, OFF);
    expect(world.reaches(IOVA, PAGE, 2)).toBe(false);
    if (loses) world.smmu.reset();
    meanwhile();
    power(world, ON);
  };

  test.each([["stage 1", IOMMU_DOMAIN_TYPE.s1], ["stage 2", IOMMU_DOMAIN_TYPE.s2]])("%s is back as it was, without what was unmapped", (_stage, type) => {
    const world = running(type);
    cycle(world, () => {
      expect(world.call("__pkvm_iommu_unmap_pages", DOMAIN, IOVA + PAGE_SIZE, PAGE_SIZE, 1)).toBe(PAGE_SIZE);
      expect(world.call("__pkvm_host_donate_hyp", PAGE / PAGE_SIZE + 1)).toBe(0);
    });
    expect(world.reaches(IOVA, PAGE, 3)).toBe(true);
    expect(world.reaches(IOVA + PAGE_SIZE, PAGE + PAGE_SIZE, 4)).toBe(false);
    expect(world.sound).toBe(true);
  });

  test("identity is back without the page that was given away, which was in its TLB", () => {
    const world = running(IOMMU_DOMAIN_TYPE.s1);
    world.call("__pkvm_iommu_set_state", 0, SID, 0, IOMMU_STATE.identity);
    const page = PAGE + 0x10_0000;
    expect(world.reaches(page, page, 5)).toBe(true);
    cycle(world, () => {
      expect(world.call("__pkvm_host_donate_hyp", page / PAGE_SIZE)).toBe(0);
    });
    expect(world.reaches(page, page, 6)).toBe(false);
    expect(world.reaches(page + PAGE_SIZE, page + PAGE_SIZE, 7)).toBe(true);
  });

  test("a stream that was moved meanwhile is where it was moved", () => {
    const world = running(IOMMU_DOMAIN_TYPE.s1);
    cycle(world, () => {
      expect(world.call("__pkvm_iommu_set_state", 0, SID, 0, IOMMU_STATE.blocking)).toBe(0);
      expect(world.call("__pkvm_iommu_free_domain", DOMAIN)).toBe(0);
    });
    expect(world.reaches(IOVA, PAGE, 8)).toBe(false);
  });

  test("events go on, where the host reads them", () => {
    const world = running(IOMMU_DOMAIN_TYPE.s1);
    const queue = PAGE + 0x20_0000;
    world.call("__pkvm_host_share_hyp", queue / PAGE_SIZE);
    expect(world.call("__pkvm_iommu_event_queue", 0, EVENT_QUEUE_OP.attach, queue + 7)).toBe(0);
    let interrupts = 0;
    world.machine.host.requestIrq(IRQS.eventq, () => { interrupts++; });
    world.dma.read(IOVA + 0x8000, new Int32Array(1));
    expect(world.call("__pkvm_iommu_event_queue", 0, EVENT_QUEUE_OP.consume, 0)).toBe(1);
    cycle(world, () => {
      expect(world.call("__pkvm_iommu_event_queue", 0, EVENT_QUEUE_OP.consume, 1)).toBe(-ERRNO.EPIPE);
    });
    world.dma.read(IOVA + 0x9000, new Int32Array(1));
    world.machine.host.relax();
    expect(interrupts).toBeGreaterThan(0);
    expect(world.call("__pkvm_iommu_event_queue", 0, EVENT_QUEUE_OP.consume, 1)).toBe(2);
    expect(world.machine.host.memory.load32(queue + 32 + 16)).toBe(IOVA + 0x9000);
  });
});

test("switching twice, and what is not there", () => {
  const world = running(IOMMU_DOMAIN_TYPE.s1);
  for (const on of [ON, OFF, OFF, ON, ON]) power(world, on);
  expect(world.reaches(IOVA, PAGE, 9)).toBe(true);
  expect(world.call("__pkvm_host_hvc_pd", 1, OFF)).toBe(-ERRNO.ENODEV);
  expect(world.smmu.registers.read32(OFFSET.CR0) & 1).toBe(1);
});
