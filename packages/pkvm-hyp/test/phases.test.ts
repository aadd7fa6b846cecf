import { abiHash, functionId, HYPERCALLS, SMCCC_NOT_SUPPORTED } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { PHASE, startHyp } from "../src/index.ts";
import { FakeHypCpu, FIRMWARE, RAM_BASE, RAM_SIZE } from "./fake-cpu.ts";
import { boot, page, pfn, POOL_BASE, POOL_PAGES } from "./host.ts";

const NAMES = Object.keys(HYPERCALLS) as HypercallName[];
const EPERM = -ERRNO.EPERM;
const EINVAL = -ERRNO.EINVAL;
const EBUSY = -ERRNO.EBUSY;

describe("phases", () => {
  test.each(NAMES.filter((name) => name !== "__pkvm_init"))("%s before __pkvm_init is refused", (name) => {
    const cpu = new FakeHypCpu();
    startHyp(cpu, { firmware: FIRMWARE });
    expect(cpu.call(name, 0, 0, 0, 0)).toBe(EPERM);
  });

  test.each<[HypercallName, number]>([
    ["__pkvm_init", EBUSY],
    ["__pkvm_init_vm", EPERM],
    ["__pkvm_host_donate_guest", EPERM],
    ["__pkvm_vcpu_run", EPERM],
    ["__pkvm_teardown_vm", EPERM],
    ["__pkvm_host_reclaim_page", EPERM],
  ])("%s while the host is trusted", (name, status) => {
    expect(boot(false).cpu.call(name, 1, 1, 1)).toBe(status);
  });

  test.each<[HypercallName, number]>([
    ["__pkvm_init", EBUSY],
    ["__pkvm_iommu_handoff", EBUSY],
    ["__pkvm_prot_finalize", EBUSY],
  ])("%s after __pkvm_prot_finalize", (name, status) => {
    const { cpu, hyp } = boot();
    expect(hyp.phase).toBe(PHASE.deprivileged);
    expect(cpu.call(name, 0, 0, 0)).toBe(status);
  });

  test.each<[string, number, number, number, number]>([
    ["another ABI", abiHash() ^ 1, POOL_BASE, POOL_PAGES, EINVAL],
    ["a misaligned pool", abiHash(), POOL_BASE + 8, POOL_PAGES, EINVAL],
    ["no pages", abiHash(), POOL_BASE, 0, EINVAL],
    ["a pool that leaves RAM", abiHash(), POOL_BASE, POOL_PAGES + 1, EINVAL],
    ["a pool below RAM", abiHash(), RAM_BASE - PAGE_SIZE, POOL_PAGES, EINVAL],
    ["a pool without room for page state", abiHash(), POOL_BASE, 4, -ERRNO.ENOMEM],
    ["a pool without room for tables", abiHash(), POOL_BASE, 5, -ERRNO.ENOMEM],
    ["2^53 pages", abiHash(), POOL_BASE, 2 ** 53, EINVAL],
  ])("__pkvm_init with %s", (_what, hash, base, pages, status) => {
    const cpu = new FakeHypCpu();
    const hyp = startHyp(cpu, { firmware: FIRMWARE });
    expect(cpu.call("__pkvm_init", hash, base, pages)).toBe(status);
    expect(hyp.phase).toBe(PHASE.reset);
    expect(cpu.call("__pkvm_init", abiHash(), POOL_BASE, POOL_PAGES)).toBe(0);
  });

  test("the host's stage 2 is in effect from __pkvm_prot_finalize on, under VMID 0", () => {
    const { cpu } = boot(false);
    expect(cpu.regime).toBeUndefined();
    expect(cpu.call("__pkvm_prot_finalize")).toBe(0);
    expect(cpu.regime).toMatchObject({ vmid: 0 });
    expect(cpu.log.slice(-2)).toEqual(["setHostStage2", "tlbiAll"]);
  });

  test("the IOMMU driver can keep the host privileged", () => {
    const { cpu, driver, hyp } = boot(false);
    driver.finalizeStatus = -ERRNO.ENODEV;
    expect(cpu.call("__pkvm_prot_finalize")).toBe(-ERRNO.ENODEV);
    expect(hyp.phase).toBe(PHASE.trusted);
    expect(cpu.regime).toBeUndefined();
  });

  test("an unknown function is not supported", () => {
    const { cpu } = boot();
    expect(cpu.raw([functionId("__pkvm_init") + 99])[0]).toBe(SMCCC_NOT_SUPPORTED);
  });

  test("without IOMMU support there is nothing to hand over and nothing to set", () => {
    const cpu = new FakeHypCpu();
    startHyp(cpu, { firmware: FIRMWARE });
    cpu.call("__pkvm_init", abiHash(), POOL_BASE, POOL_PAGES);
    expect(cpu.call("__pkvm_iommu_handoff", page(0))).toBe(-ERRNO.EOPNOTSUPP);
    expect(cpu.call("__pkvm_iommu_set_state", 0, 0, 0, 0)).toBe(-ERRNO.EOPNOTSUPP);
    expect(cpu.call("__pkvm_iommu_event_queue", 0, 0, 0)).toBe(-ERRNO.EOPNOTSUPP);
    expect(boot().cpu.call("__pkvm_iommu_event_queue", 1, 0, 0)).toBe(-ERRNO.ENODEV);
  });
});

describe("aborts of the host", () => {
  test("RAM of the host is mapped, RAM of EL2 is not", () => {
    const { cpu } = boot();
    expect(cpu.abort(page(3))).toBe(0);
    expect(cpu.abort(POOL_BASE)).toBe(2);
  });

  test("a window with a page of somebody else is mapped page by page", () => {
    const { cpu, core } = boot();
    const before = core.pool.freePages;
    expect(cpu.abort(RAM_BASE + RAM_SIZE - POOL_PAGES * PAGE_SIZE - PAGE_SIZE)).toBe(0);
    expect(cpu.counters.read("tableWrites").el2).toBe(1);
    expect(cpu.abort(page(0))).toBe(0);
    expect(cpu.counters.read("tableWrites").el2).toBe(513);
    expect(core.pool.freePages).toBeLessThan(before);
  });

  test("device space is mapped unless EL2 owns it, and beyond the address bits it aborts", () => {
    const { cpu, core } = boot();
    expect(cpu.abort(0x0900_0010, true, true)).toBe(0);
    expect(core.donateMmio(0x0900_0000, PAGE_SIZE)).toBe(0);
    expect(cpu.abort(0x0900_0010, true, true)).toBe(2);
    expect(cpu.abort(2 ** 40, false, true)).toBe(2);
  });

  test("when device mappings have eaten the pool they are dropped and made again", () => {
    const { cpu, core } = boot();
    for (let at = 0; at < 2 * POOL_PAGES; at++) {
      const device = at * 2 ** 21;
      if (device < RAM_BASE || device >= RAM_BASE + RAM_SIZE) expect(cpu.abort(device, false, true)).toBe(0);
    }
    // The tables are free only after the TLB has forgotten them; the first one stays.
    expect(cpu.log.filter((entry) => entry === "tlbiAll").length).toBeGreaterThan(1);
    expect(cpu.log.filter((entry) => entry === "setHostStage2").length).toBe(1);
    expect(core.pool.freePages).toBeGreaterThan(0);
  });

  test("before EL2 has memory there is nothing that it could map", () => {
    const cpu = new FakeHypCpu();
    startHyp(cpu, { firmware: FIRMWARE });
    expect(cpu.abort(page(0))).toBe(2);
  });
});

test("pool gauges tell what EL2's memory is for", () => {
  const { cpu, hyp } = boot();
  cpu.abort(page(0));
  const used = hyp.memoryUsed();
  expect(used.pageState).toBe(((RAM_SIZE / PAGE_SIZE) * 4) + PAGE_SIZE);
  expect(used.hostStage2).toBeGreaterThanOrEqual(2 * PAGE_SIZE);
  expect(cpu.counters.read("pool.pageState").el2).toBe(used.pageState);
  expect(pfn(RAM_BASE)).toBe(0x4_0000);
});
