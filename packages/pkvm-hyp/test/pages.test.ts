import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { OWNER, PAGE_STATE } from "../src/index.ts";
import { RAM_BASE, RAM_SIZE } from "./fake-cpu.ts";
import { boot, page, pfn, POOL_BASE } from "./host.ts";
import type { Booted } from "./host.ts";

const EPERM = -ERRNO.EPERM;
const EBUSY = -ERRNO.EBUSY;
const EINVAL = -ERRNO.EINVAL;
const TARGET = page(100);

/** Brings the page at TARGET into a state. */
const STATES: Record<string, (booted: Booted) => void> = {
  "host, owned": () => {},
  "host, shared": ({ cpu }) => void cpu.call("__pkvm_host_share_hyp", pfn(TARGET)),
  "host, shared, pinned": ({ cpu, core }) => {
    cpu.call("__pkvm_host_share_hyp", pfn(TARGET));
    core.pinShared(TARGET, PAGE_SIZE);
  },
  "host, lent": ({ core }) => void core.pinLent(TARGET, PAGE_SIZE),
  "EL2, donated by the host": ({ cpu }) => void cpu.call("__pkvm_host_donate_hyp", pfn(TARGET)),
  "EL2, in use": ({ core }) => void core.donateHostToHyp(TARGET, PAGE_SIZE),
  "VM, owned": ({ cpu }) => {
    cpu.call("__pkvm_init_vm", page(200), 8, 1);
    cpu.call("__pkvm_host_donate_guest", 1, pfn(TARGET), 0x1000);
  },
  "VM, reclaim": ({ cpu }) => {
    cpu.call("__pkvm_init_vm", page(200), 8, 1);
    cpu.call("__pkvm_host_donate_guest", 1, pfn(TARGET), 0x1000);
    cpu.call("__pkvm_teardown_vm", 1);
  },
};

/** Result of each transition by state. */
const CALLS = [
  "__pkvm_host_share_hyp",
  "__pkvm_host_unshare_hyp",
  "__pkvm_host_donate_hyp",
  "__pkvm_hyp_donate_host",
  "__pkvm_host_reclaim_page",
] as const;
const TRANSITIONS: Record<keyof typeof STATES, readonly number[]> = {
  "host, owned": [0, EPERM, 0, EPERM, EPERM],
  "host, shared": [EPERM, 0, EPERM, EPERM, EPERM],
  "host, shared, pinned": [EPERM, EBUSY, EBUSY, EPERM, EPERM],
  "host, lent": [EPERM, EPERM, EBUSY, EPERM, EPERM],
  "EL2, donated by the host": [EPERM, EPERM, EPERM, 0, EPERM],
  "EL2, in use": [EPERM, EPERM, EPERM, EBUSY, EPERM],
  "VM, owned": [EPERM, EPERM, EPERM, EPERM, EPERM],
  "VM, reclaim": [EPERM, EPERM, EPERM, EPERM, 0],
};

describe.each(Object.keys(STATES))("page state: %s", (state) => {
  test.each(CALLS.map((call, at) => [call, TRANSITIONS[state]![at]!] as const))("%s gives %i", (call, status) => {
    const booted = boot();
    STATES[state]!(booted);
    const index = booted.core.cpu.memory.pageIndex(TARGET);
    const before = [booted.core.states.owner(index), booted.core.states.state(index), booted.core.states.pins(index)];
    expect(booted.cpu.call(call, pfn(TARGET))).toBe(status);
    const after = [booted.core.states.owner(index), booted.core.states.state(index), booted.core.states.pins(index)];
    if (status < 0) expect(after).toEqual(before);
    else expect(after).not.toEqual(before);
  });

  test("the host's DMA and CPU reach it exactly while the host owns it", () => {
    const booted = boot();
    STATES[state]!(booted);
    const hosts = state.startsWith("host");
    expect(booted.driver.dma.has(TARGET)).toBe(hosts);
    expect(booted.cpu.abort(TARGET)).toBe(hosts ? 0 : 2);
  });
});

test.each([
  ["not RAM", pfn(0x0900_0000)],
  ["just below RAM", pfn(RAM_BASE) - 1],
  ["just above RAM", pfn(RAM_BASE + RAM_SIZE)],
  ["2^52", 2 ** 52],
])("a page frame that is %s is invalid", (_what, frame) => {
  const { cpu } = boot();
  for (const call of CALLS) expect(cpu.call(call, frame)).toBe(EINVAL);
});

describe("order of donation", () => {
  test("CPU first, then IOMMU, then the owner", () => {
    const { cpu, core, driver } = boot();
    cpu.abort(TARGET);
    cpu.log.length = 0;
    const index = cpu.memory.pageIndex(TARGET);
    const unmap = driver.hostStage2Idmap.bind(driver);
    driver.hostStage2Idmap = (start, end, prot) => {
      cpu.log.push(`owner ${core.states.owner(index)}`);
      return unmap(start, end, prot);
    };
    expect(cpu.call("__pkvm_host_donate_hyp", pfn(TARGET))).toBe(0);
    const at = TARGET.toString(16);
    expect(cpu.log).toEqual([`tlbiIpa ${at} 4096`, `owner ${OWNER.host}`, `idmap unmap ${at}`]);
    expect(core.states.owner(index)).toBe(OWNER.hyp);
    expect(cpu.counters.read("pagesDonated").el2).toBe(2);
  });

  test("when the IOMMU refuses, nothing has changed", () => {
    const { cpu, core, driver } = boot();
    cpu.memory.store32(TARGET, 0x600d);
    driver.refuse = -ERRNO.ETIMEDOUT;
    expect(cpu.call("__pkvm_host_donate_hyp", pfn(TARGET))).toBe(-ERRNO.ETIMEDOUT);
    const index = cpu.memory.pageIndex(TARGET);
    expect(core.states.hostOwned(index)).toBe(true);
    expect(core.states.state(index)).toBe(PAGE_STATE.owned);
    expect(driver.dma.has(TARGET)).toBe(true);
    expect(cpu.abort(TARGET)).toBe(0);
    expect(cpu.memory.load32(TARGET)).toBe(0x600d);
  });

  test("when the IOMMU cannot map a page that comes back, it stays where it was", () => {
    const { cpu, driver } = boot();
    cpu.call("__pkvm_host_donate_hyp", pfn(TARGET));
    driver.refuseMap = -ERRNO.ENOMEM;
    expect(cpu.call("__pkvm_hyp_donate_host", pfn(TARGET))).toBe(-ERRNO.ENOMEM);
    expect(cpu.abort(TARGET)).toBe(2);
    driver.refuseMap = 0;
    expect(cpu.call("__pkvm_hyp_donate_host", pfn(TARGET))).toBe(0);
  });

  test("a page that comes back is wiped, and reachable again", () => {
    const { cpu, driver } = boot();
    cpu.call("__pkvm_host_donate_hyp", pfn(TARGET));
    cpu.memory.store32(TARGET + 8, 0x5ec4e7);
    expect(cpu.call("__pkvm_hyp_donate_host", pfn(TARGET))).toBe(0);
    expect(cpu.memory.load32(TARGET + 8)).toBe(0);
    expect(driver.dma.has(TARGET)).toBe(true);
  });
});

describe("pins", () => {
  test("a range is pinned as a whole or not at all", () => {
    const { cpu, core } = boot();
    cpu.call("__pkvm_host_share_hyp", pfn(TARGET));
    expect(core.pinShared(TARGET, 2 * PAGE_SIZE)).toBe(EPERM);
    expect(cpu.call("__pkvm_host_unshare_hyp", pfn(TARGET))).toBe(0);
    cpu.call("__pkvm_host_donate_hyp", pfn(TARGET + PAGE_SIZE));
    expect(core.pinLent(TARGET, 2 * PAGE_SIZE)).toBe(EPERM);
    expect(cpu.call("__pkvm_host_share_hyp", pfn(TARGET))).toBe(0);
  });

  test("pins nest, and a lent page is the host's alone after the last", () => {
    const { cpu, core } = boot();
    expect(core.pinLent(TARGET + 0x40, 0x40)).toBe(0);
    expect(core.pinLent(TARGET, PAGE_SIZE)).toBe(0);
    core.unpin(TARGET, PAGE_SIZE);
    expect(cpu.call("__pkvm_host_donate_hyp", pfn(TARGET))).toBe(EBUSY);
    core.unpin(TARGET + 0x40, 0x40);
    expect(cpu.call("__pkvm_host_donate_hyp", pfn(TARGET))).toBe(0);
  });

  test("a page that the host shared stays shared after a loan", () => {
    const { cpu, core } = boot();
    cpu.call("__pkvm_host_share_hyp", pfn(TARGET));
    core.pinLent(TARGET, PAGE_SIZE);
    core.unpin(TARGET, PAGE_SIZE);
    expect(cpu.call("__pkvm_host_unshare_hyp", pfn(TARGET))).toBe(0);
  });

  test.each([
    [0, 0],
    [RAM_BASE - 1, 2],
    [RAM_BASE + RAM_SIZE - 8, 16],
    [TARGET, 2 ** 50],
  ])("no range [%i, +%i)", (pa, size) => {
    expect(boot().core.pinLent(pa, size)).toBe(EINVAL);
  });

  test("the count does not overflow", () => {
    const { core } = boot();
    for (let i = 0; i < 0xffff; i++) core.pinLent(TARGET, 1);
    expect(core.pinLent(TARGET, 1)).toBe(EBUSY);
    expect(core.states.pins(core.cpu.memory.pageIndex(TARGET))).toBe(0xffff);
  });
});

describe("device space", () => {
  test.each([
    ["an unaligned base", 0x0900_0800, PAGE_SIZE, EINVAL],
    ["an unaligned size", 0x0900_0000, 0x800, EINVAL],
    ["nothing", 0x0900_0000, 0, EINVAL],
    ["RAM", RAM_BASE, PAGE_SIZE, EINVAL],
    ["a window that reaches into RAM", RAM_BASE - PAGE_SIZE, 2 * PAGE_SIZE, EINVAL],
    ["what no address reaches", 2 ** 48, PAGE_SIZE, EINVAL],
    ["a device", 0x0900_0000, PAGE_SIZE, 0],
  ])("donating %s", (_what, base, size, status) => {
    expect(boot().core.donateMmio(base, size)).toBe(status);
  });

  test("a page has one owner, and goes back exactly as it came", () => {
    const { core, driver } = boot();
    expect(core.donateMmio(0x0905_0000, 0x2_0000)).toBe(0);
    expect(core.donateMmio(0x0906_f000, 0x2000)).toBe(EPERM);
    expect(driver.dma.has(0x0905_0000)).toBe(false);
    expect(core.returnMmio(0x0905_0000, 0x1_0000)).toBe(EPERM);
    expect(core.returnMmio(0x0905_0000, 0x2_0000)).toBe(0);
    expect(core.ownsMmio(0x0905_0000)).toBe(false);
    expect(driver.dma.has(0x0906_f000)).toBe(true);
  });

  test("what comes back leaves the rest where it is", () => {
    const { core } = boot();
    const at = (n: number): number => 0x1000_0000 + n * PAGE_SIZE;
    for (const n of [0, 1, 2, 3]) expect(core.donateMmio(at(n), PAGE_SIZE)).toBe(0);
    expect(core.returnMmio(at(1), PAGE_SIZE)).toBe(0);
    expect([0, 1, 2, 3].map((n) => core.ownsMmio(at(n)))).toEqual([true, false, true, true]);
    expect(core.returnMmio(at(1), PAGE_SIZE)).toBe(-ERRNO.EPERM);
    for (const n of [3, 0, 2]) expect(core.returnMmio(at(n), PAGE_SIZE)).toBe(0);
    expect([0, 1, 2, 3].some((n) => core.ownsMmio(at(n)))).toBe(false);
  });

  test("the records are finite", () => {
    const { core, driver } = boot();
    let status = 0;
    let count = 0;
    for (; status === 0; count++) status = core.donateMmio(0x1000_0000 + count * PAGE_SIZE, PAGE_SIZE);
    expect(status).toBe(-ERRNO.ENOSPC);
    expect(count).toBe(257);
    expect(core.ownsMmio(0x1000_0000 + (count - 1) * PAGE_SIZE)).toBe(false);
    expect(driver.dma.has(0x1000_0000 + (count - 1) * PAGE_SIZE)).toBe(true);
  });
});

test("a snapshot has what the host owns and nothing else", () => {
  const { core, driver } = boot(false);
  core.donateMmio(0x0905_0000, 0x2_0000);
  core.donateHostToHyp(TARGET, PAGE_SIZE);
  core.snapshot((start, end, prot) => driver.hostStage2Idmap(start, end, prot));
  expect(driver.dma.has(0x0808_0000)).toBe(true);
  expect(driver.dma.has(0x0900_0000)).toBe(true);
  expect(driver.dma.has(0x0905_0000)).toBe(false);
  expect(driver.dma.has(TARGET)).toBe(false);
  expect(driver.dma.has(TARGET - PAGE_SIZE)).toBe(true);
  expect(driver.dma.has(TARGET + PAGE_SIZE)).toBe(true);
  expect(driver.dma.has(POOL_BASE - PAGE_SIZE)).toBe(true);
  expect(driver.dma.has(POOL_BASE)).toBe(false);
  expect(driver.dma.has(RAM_BASE + RAM_SIZE - PAGE_SIZE)).toBe(false);
});

test("a failed hand-over leaves its page with the host, content and all", () => {
  const { cpu, driver } = boot(false);
  cpu.memory.store32(TARGET + 4, 7);
  driver.handoff = () => -ERRNO.ENODEV;
  expect(cpu.call("__pkvm_iommu_handoff", TARGET)).toBe(-ERRNO.ENODEV);
  expect(cpu.memory.load32(TARGET + 4)).toBe(7);
  expect(cpu.call("__pkvm_host_share_hyp", pfn(TARGET))).toBe(0);
});
