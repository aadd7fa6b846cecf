// Boot that fails at any step, several IOMMU drivers, locks, memory of VMs, pages that VMs share.
import { abiHash, GUEST_CALL, POOL, REQUEST, writeHandoff } from "@smmuv3/pkvm-abi";
import { ABORT_ACTION, ERRNO, PAGE_SIZE, SpinLock } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { hostView, HOST_PROT, iommus, LOCK_RANK, OWNER, PAGE_STATE, paging, PHASE, POOL_PURPOSES, startHyp } from "../src/index.ts";
import type { HypModule } from "../src/index.ts";
import { FakeHypCpu, FIRMWARE } from "./fake-cpu.ts";
import { boot, page, pfn, POOL_BASE, POOL_PAGES, RecordingDriver } from "./host.ts";

const { EBUSY, EEXIST, EIO, EINVAL, ENODEV, ENOENT, ENOMEM, EPERM, ETIMEDOUT } = ERRNO;
const HANDOFF = page(50);

function gauges(cpu: FakeHypCpu): number[] {
  return POOL_PURPOSES.map((purpose) => cpu.counters.read(`pool.${purpose}`).el2);
}

describe("a boot that fails", () => {
  test("for want of memory, wherever it runs out, leaves nothing behind, and the next attempt succeeds", () => {
    let failures = 0;
    for (let pages = 1; ; pages++) {
      const cpu = new FakeHypCpu();
      const driver = new RecordingDriver(cpu.log);
      const hyp = startHyp(cpu, { firmware: FIRMWARE, iommus: iommus(driver), modules: [paging] });
      const status = cpu.call("__pkvm_init", abiHash(), POOL_BASE, pages);
      if (status === 0) break;
      failures++;
      expect(status).toBe(-ENOMEM);
      expect(gauges(cpu)).toEqual(POOL_PURPOSES.map(() => 0));
      expect([hyp.phase, hyp.core, cpu.regime, cpu.log]).toEqual([PHASE.reset, undefined, undefined, []]);
      expect(cpu.call("__pkvm_prot_finalize")).toBe(-EPERM);
      expect(cpu.call("__pkvm_init", abiHash(), POOL_BASE, POOL_PAGES)).toBe(0);
    }
    // Enough is: page state, records of device space, the host's stage 2, references of domains.
    expect(failures).toBe(4 + 1 + 1 + 4 - 1);
  });

  const failing: HypModule = { init: () => -EIO, calls: {} };
  test.each<[string, (driver: RecordingDriver) => readonly HypModule[]]>([
    ["a driver", (driver) => ((driver.initStatus = -EIO), [])],
    ["a module", () => [failing]],
    ["a module after another", () => [paging, failing]],
  ])("because of %s leaves nothing behind", (_what, prepare) => {
    const cpu = new FakeHypCpu();
    const driver = new RecordingDriver(cpu.log);
    const hyp = startHyp(cpu, { firmware: FIRMWARE, iommus: iommus(driver), modules: prepare(driver) });
    expect(cpu.reply("__pkvm_init", abiHash(), POOL_BASE, POOL_PAGES)).toEqual([-EIO, 0, 0, 0]);
    expect(gauges(cpu)).toEqual(POOL_PURPOSES.map(() => 0));
    expect([hyp.phase, cpu.regime]).toEqual([PHASE.reset, undefined]);
  });

  test("because no driver takes the IOMMU gives the page back, and the host goes on as it was", () => {
    const { cpu, core, driver, hyp } = boot(false);
    driver.handoffStatus = -EIO;
    expect(cpu.call("__pkvm_iommu_handoff", HANDOFF)).toBe(-EIO);
    expect(hostView(core.states, cpu.memory.pageIndex(HANDOFF))).toBe("owned");
    expect([hyp.phase, cpu.regime]).toEqual([PHASE.trusted, undefined]);
    driver.handoffStatus = 0;
    expect(cpu.call("__pkvm_iommu_handoff", HANDOFF)).toBe(0);
  });
});

test("a host whose stage 2 has no memory keeps its privilege", () => {
  const { cpu, core } = boot(false);
  while (core.pool.freePages > 7) core.pool.alloc(PAGE_SIZE, "idmap");
  expect(cpu.call("__pkvm_prot_finalize")).toBe(-ENOMEM);
  expect(cpu.call("__pkvm_topup_hyp", POOL.hyp, pfn(page(60)), 0)).toBe(0);
  expect(cpu.call("__pkvm_prot_finalize")).toBe(0);
});

describe("IOMMU drivers", () => {
  function bootWith(...statuses: number[]) {
    const cpu = new FakeHypCpu();
    const drivers = statuses.map((status) => {
      const driver = new RecordingDriver([]);
      driver.handoffStatus = status;
      return driver;
    });
    startHyp(cpu, { firmware: FIRMWARE, iommus: iommus(...drivers), modules: [paging] });
    expect(cpu.call("__pkvm_init", abiHash(), POOL_BASE, POOL_PAGES)).toBe(0);
    writeHandoff(cpu.memory, HANDOFF, { mmioBase: 0x0905_0000, mmioSize: 0, cmdqBase: 0, cmdqLog2: 0, strtabBase: 0, strtabBytes: 0, flags: 0 });
    const handoff = (at: number): number => cpu.call("__pkvm_iommu_handoff", HANDOFF + at * PAGE_SIZE);
    return { cpu, drivers, handoff };
  }

  test("the first one that knows an IOMMU has it; numbers go on over all of them", () => {
    const { cpu, drivers, handoff } = bootWith(-ENODEV, 0);
    expect(handoff(0)).toBe(0);
    drivers[0]!.handoffStatus = 0;
    expect(handoff(1)).toBe(1);
    expect(cpu.call("__pkvm_iommu_set_state", 0, 8, 0, 1)).toBe(0);
    expect(cpu.call("__pkvm_iommu_set_state", 1, 9, 0, 1)).toBe(0);
    // Each names its own from 0 on.
    expect(drivers.map(({ log }) => log.filter((entry) => entry.startsWith("set")))).toEqual([["setState 0 9 0 1"], ["setState 0 8 0 1"]]);
  });

  test.each([[[-ENODEV, -ENODEV], -ENODEV], [[-EIO, 0], -EIO], [[-ENODEV, -EINVAL], -EINVAL]])("%j give %i", (statuses, status) => {
    expect(bootWith(...statuses).handoff(0)).toBe(status);
  });

  test("a donation that one of them refuses is undone by all, and one that it does not like to take back as well", () => {
    const { cpu, drivers, handoff } = bootWith(0, 0, 0);
    handoff(0);
    for (const driver of drivers) for (const at of [60, 61]) driver.hostStage2Idmap(page(at), page(at + 1), HOST_PROT.memory);
    drivers[1]!.refuse = -ETIMEDOUT;
    expect(cpu.call("__pkvm_host_donate_hyp", pfn(page(60)))).toBe(-ETIMEDOUT);
    expect(drivers.map(({ dma }) => dma.has(page(60)))).toEqual([true, true, true]);
    drivers[1]!.refuse = 0;
    expect(cpu.call("__pkvm_host_donate_hyp", pfn(page(60)))).toBe(0);
    expect(drivers.map(({ dma }) => dma.has(page(60)))).toEqual([false, false, false]);
    drivers[2]!.refuseMap = -ENOMEM;
    expect(cpu.call("__pkvm_hyp_donate_host", pfn(page(60)))).toBe(-ENOMEM);
    expect(drivers.map(({ dma }) => dma.has(page(60)))).toEqual([false, false, false]);
  });

  test("each may keep the host privileged", () => {
    const { cpu, drivers } = bootWith(0, 0);
    drivers[1]!.finalizeStatus = -ENODEV;
    expect(cpu.call("__pkvm_prot_finalize")).toBe(-ENODEV);
    expect(cpu.regime).toBeUndefined();
  });

  test("a domain of one is none for a stream of another", () => {
    const { cpu, drivers, handoff } = bootWith(-ENODEV, 0);
    handoff(0);
    drivers[0]!.handoffStatus = 0;
    handoff(1);
    expect(cpu.call("__pkvm_iommu_alloc_domain", 0, 2, 1)).toBe(0);
    expect(cpu.call("__pkvm_iommu_set_state", 1, 8, 0, 2)).toBe(-EINVAL);
    expect(cpu.call("__pkvm_iommu_set_state", 0, 8, 0, 2)).toBe(0);
    expect(drivers.map(({ paging: of }) => [...of.streams.keys()])).toEqual([[], ["8.0"]]);
  });

  test("are five at most", () => {
    expect(() => bootWith(0, 0, 0, 0, 0, 0)).toThrow("iommus: expected at most 5 drivers, got 6");
  });
});

describe("locks", () => {
  test("a driver that takes the host lock under its own is caught at once", () => {
    const { cpu, core } = boot();
    const lock = new SpinLock("smmu 0", LOCK_RANK.iommu, core.locks);
    lock.lock(cpu);
    expect(() => core.pinLent(page(60), 1)).toThrow('lock order: "host" is taken while "smmu 0" is held');
  });

  test("what works on a trapped access may pin", () => {
    const { cpu, core } = boot();
    const lock = new SpinLock("emulation 0", LOCK_RANK.emulation, core.locks);
    lock.lock(cpu);
    expect(core.pinLent(page(60), 1)).toBe(0);
    lock.unlock(cpu);
  });

  test("no lock is left, whatever a call returns", () => {
    const { cpu, core } = boot(true, [paging]);
    for (const name of ["__pkvm_init_vm", "__pkvm_host_donate_guest", "__pkvm_vcpu_run", "__pkvm_iommu_map_pages"] as const) {
      cpu.call(name, 1, 1, 1, 4096, 1, 1);
      cpu.call(name, page(200), 8, 1);
      expect(core.locks.heldBy(0)).toEqual([]);
    }
    cpu.guestProgram = () => { expect(core.locks.heldBy(0)).toEqual([]); };
    cpu.call("__pkvm_init_vm", page(200), 8, 1);
    expect(cpu.call("__pkvm_vcpu_run", 1, 0)).toBe(0);
  });
});

describe("memory of a VM's tables", () => {
  const IPAS = [0, 2 ** 30, 2 ** 31, 3 * 2 ** 30].map((ipa) => ipa + 2 ** 21);

  test("comes from the memcache when the first pages are used up, and goes back with the VM", () => {
    const { cpu } = boot();
    expect(cpu.call("__pkvm_init_vm", page(200), 2, 2)).toBe(1);
    const give = (at: number): number[] => cpu.reply("__pkvm_host_donate_guest", 1, pfn(page(100 + at)), IPAS[at]!);
    expect(give(0)).toEqual([-ENOMEM, REQUEST.memory, POOL.vcpu, 1]);
    expect(cpu.call("__pkvm_vcpu_topup", 1, 1, pfn(page(210)), 8)).toBe(0);
    for (let at = 0; at < 4; at++) expect(give(at)).toEqual([0, 0, 0, 0]);
    expect(cpu.call("__pkvm_host_donate_hyp", pfn(page(210)))).toBe(-EPERM);
    expect(cpu.call("__pkvm_teardown_vm", 1)).toBe(0);
    for (const at of [100, 101, 102, 103, 200, 201, 210, 211, 212, 213, 214, 215, 216]) {
      expect(cpu.call("__pkvm_host_reclaim_page", pfn(page(at)))).toBe(0);
    }
    // The handle is in use until the last page is back.
    expect(cpu.call("__pkvm_init_vm", page(300), 2, 1)).toBe(2);
    expect(cpu.call("__pkvm_host_reclaim_page", pfn(page(217)))).toBe(0);
    expect(cpu.call("__pkvm_init_vm", page(302), 2, 1)).toBe(1);
  });

  test.each<[string, number[], number]>([
    ["no such VM", [2, 0, pfn(page(210)), 1], -ENOENT],
    ["no such vCPU", [1, 2, pfn(page(210)), 1], -ENOENT],
    ["no pages", [1, 0, pfn(page(210)), 0], -EINVAL],
    ["memory of EL2", [1, 0, pfn(POOL_BASE), 1], -EPERM],
    ["too many pages", [1, 0, pfn(page(210)), 2 ** 53 - 1], -EINVAL],
  ])("a memcache with %s", (_what, args, status) => {
    const { cpu } = boot();
    cpu.call("__pkvm_init_vm", page(200), 2, 2);
    expect(cpu.call("__pkvm_vcpu_topup", ...args)).toBe(status);
  });
});

test("a vCPU runs once at a time, and its VM stays as long", () => {
  const { cpu } = boot();
  cpu.call("__pkvm_init_vm", page(200), 8, 2);
  const inside: number[] = [];
  cpu.guestProgram = () => {
    cpu.guestProgram = () => {};
    inside.push(cpu.call("__pkvm_vcpu_run", 1, 0), cpu.call("__pkvm_teardown_vm", 1), cpu.call("__pkvm_vcpu_run", 1, 1));
  };
  expect(cpu.call("__pkvm_vcpu_run", 1, 0)).toBe(0);
  expect(inside).toEqual([-EBUSY, -EBUSY, 0]);
  expect(cpu.call("__pkvm_teardown_vm", 1)).toBe(0);
});

describe("a page that a VM shares", () => {
  const PA = page(100);
  const IPA = 0x8000_0000;

  function withPage() {
    const booted = boot(true, [paging]);
    const { cpu, core, driver } = booted;
    cpu.call("__pkvm_init_vm", page(200), 8, 1);
    cpu.call("__pkvm_host_donate_guest", 1, pfn(PA), IPA);
    const view = (): string => hostView(core.states, cpu.memory.pageIndex(PA));
    const reached = (): boolean[] => [cpu.abort(PA) === ABORT_ACTION.retry, driver.dma.has(PA)];
    return { ...booted, view, reached, share: () => cpu.guest(1, GUEST_CALL.memShare, IPA)[0], unshare: () => cpu.guest(1, GUEST_CALL.memUnshare, IPA)[0] };
  }

  test("is borrowed: the host reaches it, and cannot give it away", () => {
    const { cpu, view, reached, share, unshare } = withPage();
    expect([view(), ...reached()]).toEqual(["donated", false, false]);
    expect([share(), share()]).toEqual([0, -3]);
    expect([view(), ...reached()]).toEqual(["borrowed", true, true]);
    for (const name of ["__pkvm_host_donate_hyp", "__pkvm_host_share_hyp", "__pkvm_host_unshare_hyp", "__pkvm_hyp_donate_host"] as const) {
      expect(cpu.call(name, pfn(PA))).toBe(-EPERM);
    }
    cpu.call("__pkvm_iommu_alloc_domain", 0, 2, 1);
    expect(cpu.call("__pkvm_iommu_map_pages", 2, 0, PA, PAGE_SIZE, 1, 3)).toBe(-EPERM);
    expect([unshare(), unshare()]).toEqual([0, -3]);
    expect([view(), ...reached()]).toEqual(["donated", false, false]);
    expect(cpu.log.at(-1)).toBe(`idmap unmap ${PA.toString(16)}`);
  });

  test("stays as it is when the IOMMU does not follow", () => {
    const { driver, view, reached, share, unshare } = withPage();
    driver.refuseMap = -ENOMEM;
    expect([share(), view()]).toEqual([-3, "donated"]);
    driver.refuseMap = 0;
    share();
    driver.refuse = -ETIMEDOUT;
    expect([unshare(), view()]).toEqual([-3, "borrowed"]);
    expect(reached()).toEqual([true, true]);
  });

  test("comes back wiped like the others", () => {
    const { cpu, core, driver, reached, share } = withPage();
    share();
    cpu.memory.store32(PA, 77);
    cpu.call("__pkvm_teardown_vm", 1);
    expect(core.states.state(cpu.memory.pageIndex(PA))).toBe(PAGE_STATE.reclaimShared);
    expect(reached()).toEqual([true, true]);
    driver.refuseMap = -ENOMEM;
    expect(cpu.call("__pkvm_host_reclaim_page", pfn(PA))).toBe(0);
    expect([cpu.memory.load32(PA), core.states.owner(cpu.memory.pageIndex(PA))]).toEqual([0, OWNER.host]);
  });

  test.each([["nothing", IPA + PAGE_SIZE], ["part of a page", IPA + 4], ["nothing beyond the VM", 2 ** 40]])("is not %s", (_what, ipa) => {
    const { cpu } = withPage();
    expect(cpu.guest(1, GUEST_CALL.memShare, ipa)[0]).toBe(-3);
    expect(cpu.guest(2, GUEST_CALL.memShare, IPA)[0]).toBe(-3);
  });
});

test("a page shared with EL2 is shared, and an address holds one page", () => {
  const { cpu, core } = boot();
  cpu.call("__pkvm_host_share_hyp", pfn(page(60)));
  expect(hostView(core.states, cpu.memory.pageIndex(page(60)))).toBe("shared");
  cpu.call("__pkvm_init_vm", page(200), 8, 1);
  cpu.call("__pkvm_host_donate_guest", 1, pfn(page(61)), 0);
  expect(cpu.call("__pkvm_host_donate_guest", 1, pfn(page(62)), 0)).toBe(-EEXIST);
});
