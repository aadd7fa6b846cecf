import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { RAM_BASE, RAM_SIZE } from "./fake-cpu.ts";
import { boot, page, pfn, POOL_BASE } from "./host.ts";

const TABLES = page(200);
const PAGES = 8;
const GUEST = page(100);
const IPA = 0x8000_0000;

function withVm(): ReturnType<typeof boot> & { handle: number } {
  const booted = boot();
  return { ...booted, handle: booted.cpu.call("__pkvm_init_vm", TABLES, PAGES, 2) };
}

describe("protected VMs", () => {
  test("have a VMID of their own and their own tables", () => {
    const { cpu, handle } = withVm();
    expect(handle).toBe(1);
    expect(cpu.call("__pkvm_init_vm", page(300), PAGES, 1)).toBe(2);
    expect(cpu.call("__pkvm_vcpu_run", handle, 0)).toBe(0);
    cpu.guestExit = 1;
    expect(cpu.call("__pkvm_vcpu_run", 2, 0)).toBe(1);
    expect(cpu.guestRuns.map(({ regime }) => regime.vmid)).toEqual([1, 2]);
    const first = cpu.guestRuns[0]!.regime.ttb;
    expect(first >= TABLES && first < TABLES + PAGES * PAGE_SIZE).toBe(true);
    expect(cpu.guestRuns[1]!.regime.ttb).not.toBe(first);
  });

  test.each<[string, number[], number]>([
    ["no pages", [TABLES, 0, 1], -ERRNO.EINVAL],
    ["no vCPUs", [TABLES, PAGES, 0], -ERRNO.EINVAL],
    ["too many vCPUs", [TABLES, PAGES, 513], -ERRNO.EINVAL],
    ["unaligned memory", [TABLES + 1, PAGES, 1], -ERRNO.EINVAL],
    ["memory outside of RAM", [RAM_BASE + RAM_SIZE, PAGES, 1], -ERRNO.EINVAL],
    ["memory that reaches outside of RAM", [TABLES, RAM_SIZE, 1], -ERRNO.EINVAL],
    ["memory of EL2", [POOL_BASE, PAGES, 1], -ERRNO.EPERM],
    ["too little memory for the first table", [TABLES, 1, 1], -ERRNO.ENOMEM],
  ])("cannot be made with %s", (_what, args, status) => {
    const { cpu } = boot();
    expect(cpu.call("__pkvm_init_vm", ...args)).toBe(status);
    expect(cpu.call("__pkvm_init_vm", TABLES, PAGES, 1)).toBe(1);
  });

  test.each<[string, number[], number]>([
    ["another handle", [2, pfn(GUEST), IPA], -ERRNO.ENOENT],
    ["handle 0", [0, pfn(GUEST), IPA], -ERRNO.ENOENT],
    ["an unaligned address", [1, pfn(GUEST), IPA + 1], -ERRNO.EINVAL],
    ["an address beyond the VM", [1, pfn(GUEST), 2 ** 40], -ERRNO.EINVAL],
    ["a page of EL2", [1, pfn(POOL_BASE), IPA], -ERRNO.EPERM],
    ["a page that is not RAM", [1, 9, IPA], -ERRNO.EINVAL],
    ["its own tables", [1, pfn(TABLES), IPA], -ERRNO.EPERM],
  ])("get no page with %s", (_what, args, status) => {
    const { cpu } = withVm();
    expect(cpu.call("__pkvm_host_donate_guest", ...args)).toBe(status);
  });

  test("an address holds one page; the second stays the host's, unharmed", () => {
    const { cpu, handle, driver } = withVm();
    const other = page(101);
    cpu.memory.store32(other, 77);
    expect(cpu.call("__pkvm_host_donate_guest", handle, pfn(GUEST), IPA)).toBe(0);
    expect(cpu.call("__pkvm_host_donate_guest", handle, pfn(other), IPA)).toBe(-ERRNO.EEXIST);
    expect(cpu.memory.load32(other)).toBe(77);
    expect(driver.dma.has(other)).toBe(true);
    expect(cpu.call("__pkvm_host_share_hyp", pfn(other))).toBe(0);
  });

  test("table memory runs out as a value", () => {
    const { cpu, handle } = withVm();
    let status = 0;
    for (let i = 0; i < 20 && status === 0; i++) {
      status = cpu.call("__pkvm_host_donate_guest", handle, pfn(page(400 + i)), IPA + i * 2 ** 30);
    }
    expect(status).toBe(-ERRNO.ENOMEM);
  });

  test("only existing vCPUs run", () => {
    const { cpu, handle } = withVm();
    expect(cpu.call("__pkvm_vcpu_run", handle, 1)).toBe(0);
    expect(cpu.call("__pkvm_vcpu_run", handle, 2)).toBe(-ERRNO.ENOENT);
    expect(cpu.call("__pkvm_vcpu_run", 3, 0)).toBe(-ERRNO.ENOENT);
  });

  test("after teardown every page comes back wiped, then the handle is free again", () => {
    const { cpu, handle, driver, hyp } = withVm();
    cpu.call("__pkvm_host_donate_guest", handle, pfn(GUEST), IPA);
    cpu.memory.store32(GUEST, 0x5ec4e7);
    expect(cpu.call("__pkvm_host_reclaim_page", pfn(GUEST))).toBe(-ERRNO.EPERM);
    expect(hyp.memoryUsed().vm).toBeGreaterThan(0);
    expect(cpu.call("__pkvm_teardown_vm", handle)).toBe(0);
    expect(hyp.memoryUsed().vm).toBe(0);
    expect(cpu.call("__pkvm_teardown_vm", handle)).toBe(-ERRNO.ENOENT);
    expect(cpu.call("__pkvm_vcpu_run", handle, 0)).toBe(-ERRNO.ENOENT);
    expect(cpu.memory.load32(GUEST)).toBe(0x5ec4e7);
    expect(driver.dma.has(GUEST)).toBe(false);

    // A page that was reclaimed cannot be used while the old VM is on record.
    expect(cpu.call("__pkvm_init_vm", page(500), PAGES, 1)).toBe(2);
    for (let i = 0; i < PAGES; i++) expect(cpu.call("__pkvm_host_reclaim_page", pfn(TABLES) + i)).toBe(0);
    expect(cpu.call("__pkvm_host_reclaim_page", pfn(GUEST))).toBe(0);
    expect(cpu.memory.load32(GUEST)).toBe(0);
    expect(driver.dma.has(GUEST)).toBe(true);
    expect(cpu.call("__pkvm_host_reclaim_page", pfn(GUEST))).toBe(-ERRNO.EPERM);
    expect(cpu.call("__pkvm_init_vm", page(600), PAGES, 1)).toBe(1);
    expect(cpu.counters.read("pagesReclaimed").el2).toBe(PAGES + 1);
  });

  test("there are 64 at most", () => {
    const { cpu } = boot();
    for (let i = 0; i < 64; i++) expect(cpu.call("__pkvm_init_vm", page(200 + i * 2), 2, 1)).toBe(i + 1);
    expect(cpu.call("__pkvm_init_vm", page(1000), 2, 1)).toBe(-ERRNO.ENOSPC);
  });
});
