// Paravirtual domains of EL2 on the real model: translation, PASIDs, references, and changes without a break.
import { describe, expect, test } from "vitest";
import { IOMMU_DOMAIN_TYPE, IOMMU_STATE, POOL } from "@smmuv3/pkvm-abi";
import { ERRNO, PAGE_SIZE, TRANSLATION } from "@smmuv3/platform";
import { COMMANDS } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import { losing, PAGE, RAM_BASE, SID, VM_TABLES, World } from "./hyp-fixture.ts";
import type { WorldOptions } from "./hyp-fixture.ts";

const SENTINEL = 0x5ec2_e700;
const PROFILES = ["lazy", "eager", "finite"] as const;
const { s1, s2 } = IOMMU_DOMAIN_TYPE;
const TOPUP = RAM_BASE + 0x80_0000;
const TOPUP_ORDER = 7;
const IOVA = 0x7_0000;
const RW = 3;
const [A, B] = [2, 3];

class PagingWorld extends World {
  constructor(options: WorldOptions = {}) {
    super("paging", options);
    this.ok("__pkvm_topup_hyp", POOL.iommu, TOPUP / PAGE_SIZE, TOPUP_ORDER);
  }
  ok(...call: Parameters<World["call"]>): number {
    const status = this.call(...call);
    if (status < 0) throw new Error(`${call.join(" ")}: ${status}`);
    return status;
  }
  domain(id: number, type: number): void {
    this.ok("__pkvm_iommu_alloc_domain", 0, id, type);
  }
  map(domain: number, iova: number, pa: number): void {
    this.ok("__pkvm_iommu_map_pages", domain, iova, pa, PAGE_SIZE, 1, RW);
  }
  unmap(domain: number, iova: number): number {
    return this.ok("__pkvm_iommu_unmap_pages", domain, iova, PAGE_SIZE, 1);
  }
  state(state: number, pasid = 0): number {
    return this.call("__pkvm_iommu_set_state", 0, SID, pasid, state);
  }
}

describe.each(PROFILES)("cache profile %s", (profile) => {
  describe.each([["stage 1", s1], ["stage 2", s2]])("%s", (_what, type) => {
    test("what is mapped is reached and stays the host's; what is unmapped is neither", () => {
      const world = new PagingWorld({ profile });
      world.domain(A, type);
      world.map(A, IOVA, PAGE);
      expect(world.state(A)).toBe(0);
      expect(world.reaches(IOVA, PAGE, 1)).toBe(true);
      expect(world.reaches(PAGE, PAGE, 2)).toBe(false);
      expect(world.reaches(IOVA + PAGE_SIZE, PAGE + PAGE_SIZE, 3)).toBe(false);
      expect(world.call("__pkvm_iommu_iova_to_phys", A, IOVA + 4)).toBe(PAGE + 4);
      expect(world.call("__pkvm_host_donate_hyp", PAGE / PAGE_SIZE)).toBe(-ERRNO.EBUSY);
      expect(world.unmap(A, IOVA)).toBe(PAGE_SIZE);
      expect(world.reaches(IOVA, PAGE, 4)).toBe(false);
      const handle = world.vmWithPage(PAGE, SENTINEL);
      expect(world.reaches(IOVA, PAGE, 5)).toBe(false);
      expect(world.call("__pkvm_iommu_map_pages", A, IOVA, PAGE, PAGE_SIZE, 1, RW)).toBe(-ERRNO.EPERM);
      expect(world.machine.memory.load32(PAGE)).toBe(SENTINEL);
      world.endVm(handle, PAGE);
      expect(world.sound).toBe(true);
    });

    test("a domain ends with its mappings, once nothing is attached", () => {
      const world = new PagingWorld({ profile });
      world.domain(A, type);
      world.map(A, IOVA, PAGE);
      world.state(A);
      world.reaches(IOVA, PAGE, 1);
      expect(world.call("__pkvm_iommu_free_domain", A)).toBe(-ERRNO.EBUSY);
      expect(world.state(IOMMU_STATE.blocking)).toBe(0);
      expect(world.call("__pkvm_iommu_free_domain", A)).toBe(0);
      world.vmWithPage(PAGE, SENTINEL);
      // The id is free, and its tag of the TLB has no memory.
      world.domain(A, type);
      expect(world.state(A)).toBe(0);
      expect(world.reaches(IOVA, PAGE, 2)).toBe(false);
      expect(world.sound).toBe(true);
    });
  });

  test("PASIDs reach their own domain, beside the rest of the stream and without it", () => {
    const world = new PagingWorld({ profile });
    world.domain(A, s1);
    world.domain(B, s1);
    world.map(A, IOVA, PAGE);
    world.map(B, IOVA, PAGE + PAGE_SIZE);
    const pasid = (value: number): boolean => {
      world.dma.ssid = 3;
      const reached = world.reaches(IOVA, PAGE + PAGE_SIZE, value);
      world.dma.ssid = -1;
      return reached;
    };
    expect(world.state(B, 3)).toBe(0);
    expect([pasid(1), world.reaches(IOVA, PAGE, 2)]).toEqual([true, false]);
    expect(world.state(A)).toBe(0);
    expect([pasid(3), world.reaches(IOVA, PAGE, 4)]).toEqual([true, true]);
    expect(world.state(IOMMU_STATE.identity)).toBe(-ERRNO.EBUSY);
    expect(world.state(IOMMU_STATE.blocking)).toBe(0);
    expect([pasid(5), world.reaches(IOVA, PAGE, 6)]).toEqual([true, false]);
    expect(world.state(IOMMU_STATE.blocking, 3)).toBe(0);
    expect(pasid(7)).toBe(false);
    expect(world.sound).toBe(true);
  });

  const HITLESS: readonly (readonly [string, number, number])[] = [
    ["identity -> stage 1", IOMMU_STATE.identity, A],
    ["stage 1 -> identity", A, IOMMU_STATE.identity],
    ["stage 1 -> stage 1", A, B],
  ];
  test.each(HITLESS)("%s: DMA works between any two stores of EL2", (_what, from, to) => {
    const world = new PagingWorld({ profile });
    for (const id of [A, B]) {
      world.domain(id, s1);
      world.map(id, PAGE, PAGE);
    }
    expect(world.state(from)).toBe(0);
    let good = 0;
    between(world, () => {
      expect(world.reaches(PAGE, PAGE, ++good)).toBe(true);
    });
    expect(world.state(to)).toBe(0);
    expect(good).toBeGreaterThan(2);
    expect(world.machine.counters.read("steBreaks").el2).toBe(0);
    expect(world.sound).toBe(true);
  });

  const BESIDE: readonly (readonly [string, number, (world: PagingWorld) => number])[] = [
    ["a PASID comes", 0, (world) => world.state(B, 1)],
    ["a PASID comes for which the table is too small", 0, (world) => world.state(B, 900)],
    ["a PASID gets another domain", 0, (world) => world.state(B, 1) || world.state(A, 1)],
    ["a PASID goes", 0, (world) => world.state(B, 1) || world.state(IOMMU_STATE.blocking, 1)],
    ["the rest of the stream gets another domain", 5, (world) => world.state(B)],
    ["the rest of the stream is blocked, and comes back", 5, (world) => world.state(IOMMU_STATE.blocking) || world.state(A)],
  ];
  test.each(BESIDE)("%s: DMA beside it works between any two stores of EL2", (_what, pasid, step) => {
    const world = new PagingWorld({ profile });
    for (const id of [A, B]) {
      world.domain(id, s1);
      world.map(id, PAGE, PAGE);
    }
    expect(world.state(A)).toBe(0);
    if (pasid > 0) expect(world.state(B, pasid)).toBe(0);
    world.dma.ssid = pasid > 0 ? pasid : -1;
    let good = 0;
    between(world, () => {
      expect(world.reaches(PAGE, PAGE, ++good)).toBe(true);
    });
    expect(step(world)).toBe(0);
    expect(good).toBeGreaterThan(2);
    expect(world.machine.counters.read("steBreaks").el2).toBe(0);
    expect(world.sound).toBe(true);
  });

  test("what cannot be hitless blocks in between, reaches nothing else, and is counted", () => {
    const world = new PagingWorld({ profile });
    world.domain(A, s1);
    world.domain(B, s2);
    for (const id of [A, B]) world.map(id, IOVA, PAGE);
    const states = [A, B, IOMMU_STATE.identity, B, A];
    world.state(states[0]!);
    let value = 0;
    between(world, () => {
      world.reaches(IOVA, PAGE, ++value);
      expect(world.reaches(IOVA + PAGE_SIZE, PAGE + PAGE_SIZE, ++value)).toBe(false);
    });
    for (const state of states.slice(1)) expect(world.state(state)).toBe(0);
    expect(world.machine.counters.read("steBreaks").el2).toBe(4);
    expect(world.sound).toBe(true);
  });

  test.each([["stage 1", A, 0], ["stage 2", B, 1]])("%s -> blocking never passes through identity", (_what, from, offset) => {
    const world = new PagingWorld({ profile });
    world.domain(A, s1);
    world.domain(B, s2);
    world.map(from, IOVA, PAGE);
    world.state(from);
    let seen = 0;
    between(world, () => {
      seen++;
      expect(world.reaches(PAGE, PAGE, seen)).toBe(false);
    });
    expect(world.state(IOMMU_STATE.blocking)).toBe(0);
    expect(seen).toBeGreaterThan(offset);
  });
});

/** Has `look` run before and after each of EL2's stores; those of 64 bits are one: the high word, then the low word. */
function between(world: World, look: () => void): void {
  const { memory } = world.machine.hyp;
  const store = memory.store32.bind(memory);
  let low = -1;
  memory.store32 = (pa, value) => {
    if (pa !== low) look();
    low = pa % 8 === 4 ? pa - 4 : -1;
    store(pa, value);
    if (low < 0) look();
  };
}

test("EL2 asks for memory, and a host that gives none gets an errno", () => {
  const world = new World("paging");
  expect(world.call("__pkvm_iommu_alloc_domain", 0, A, s1)).toBe(-ERRNO.ENOMEM);
  expect(world.call("__pkvm_topup_hyp", POOL.iommu, TOPUP / PAGE_SIZE, 0)).toBe(0);
  expect(world.call("__pkvm_iommu_alloc_domain", 0, A, s1)).toBe(0);
  expect(world.call("__pkvm_iommu_map_pages", A, IOVA, PAGE, PAGE_SIZE, 1, RW)).toBe(-ERRNO.ENOMEM);
  // Not mapped, so not in use.
  expect(world.call("__pkvm_host_donate_hyp", PAGE / PAGE_SIZE)).toBe(0);
  expect(world.sound).toBe(true);
});

test("a block of 2 MiB is given away once all of it is unmapped", () => {
  const world = new PagingWorld();
  const block = 0x20_0000;
  const pa = RAM_BASE + 0x140_0000;
  world.domain(A, s1);
  world.state(A);
  expect(world.ok("__pkvm_iommu_map_pages", A, block, pa, block, 1, RW)).toBe(block);
  expect(world.reaches(block + 0x1_2340, pa + 0x1_2340, 1)).toBe(true);
  expect(world.call("__pkvm_host_donate_hyp", pa / PAGE_SIZE + 300)).toBe(-ERRNO.EBUSY);
  expect(world.call("__pkvm_iommu_unmap_pages", A, block, PAGE_SIZE, 511)).toBe(0);
  expect(world.ok("__pkvm_iommu_unmap_pages", A, block, block, 1)).toBe(block);
  expect(world.call("__pkvm_host_donate_hyp", pa / PAGE_SIZE + 300)).toBe(0);
  expect(world.reaches(block + 300 * PAGE_SIZE, pa + 300 * PAGE_SIZE, 2)).toBe(false);
});

test("no domain reaches EL2's memory, its tables, or a VM's", () => {
  const world = new PagingWorld();
  world.domain(A, s1);
  for (const pa of [TOPUP, RAM_BASE + 0x10_0000, RAM_BASE + 0x11_0000]) {
    expect(world.call("__pkvm_iommu_map_pages", A, IOVA, pa, PAGE_SIZE, 1, RW)).toBe(-ERRNO.EPERM);
  }
  world.vmWithPage(PAGE, SENTINEL);
  expect(world.call("__pkvm_iommu_map_pages", A, IOVA, VM_TABLES, PAGE_SIZE, 1, RW)).toBe(-ERRNO.EPERM);
  expect(world.call("__pkvm_iommu_map_pages", A, IOVA, PAGE - PAGE_SIZE, PAGE_SIZE, 2, RW)).toBe(-ERRNO.EPERM);
});

test.each([["stage 1 only", PRESETS.qemuStage1], ["stage 2 only", PRESETS.qemuStage2], ["both", PRESETS.qemuNested]])(
  "hardware with %s",
  (what, id) => {
    const world = new World("paging", { id });
    expect(world.handoff).toBe(what === "stage 1 only" ? -ERRNO.ENODEV : 0);
    if (world.handoff < 0) return;
    world.call("__pkvm_topup_hyp", POOL.iommu, TOPUP / PAGE_SIZE, 4);
    expect(world.call("__pkvm_iommu_alloc_domain", 0, A, s1)).toBe(what === "both" ? 0 : -ERRNO.EOPNOTSUPP);
    expect(world.call("__pkvm_iommu_alloc_domain", 0, B, s2)).toBe(0);
  },
);

test.each([["stage 1", s1, COMMANDS.TLBI_NH_VA.opcode], ["stage 2", s2, COMMANDS.TLBI_S2_IPA.opcode]])(
  "a lost TLBI of %s is what the lazy profile is there to show",
  (_what, type, opcode) => {
    const leaks = (profile: "lazy" | "eager"): boolean => {
      const world = new PagingWorld({ profile, hypCpu: losing(opcode) });
      world.domain(A, type);
      world.map(A, IOVA, PAGE);
      world.state(A);
      world.reaches(IOVA, PAGE, 1);
      world.unmap(A, IOVA);
      world.vmWithPage(PAGE, SENTINEL);
      return world.dma.read(IOVA, new Int32Array(1)) === TRANSLATION.ok;
    };
    expect(leaks("lazy")).toBe(true);
    expect(leaks("eager")).toBe(false);
  },
);
