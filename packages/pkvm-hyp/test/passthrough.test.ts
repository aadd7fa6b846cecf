import { GUEST_CALL, PVIOMMU_OP, REQUEST } from "@smmuv3/pkvm-abi";
import { ABORT_ACTION, ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { OWNER, paging, passthrough } from "../src/index.ts";
import type { FakeHypCpu } from "./fake-cpu.ts";
import { DMA_MMIO, SID } from "./fake-cpu.ts";
import { boot, page, pfn, RecordingPaging } from "./host.ts";
import type { Booted } from "./host.ts";

const { EBUSY, EEXIST, EINVAL, ENODEV, ENOENT, ENOSPC, EPERM, ETIMEDOUT, EOPNOTSUPP } = ERRNO;
const { pviommuOp, devReqDma } = GUEST_CALL;
const INVALID = -3;
const VM = 1;
const PV = 3;
const VSID = 7;
const IPA = 0x8000_0000;
const TABLES = page(200);
const VM_OWNER = OWNER.firstVm;
const NET_MMIO = DMA_MMIO + 0x2000;

/** What a test works on: EL2, and what was reset. */
class World {
  readonly resets: string[] = [];
  resetStatus = 0;
  readonly booted: Booted;
  readonly cpu: FakeHypCpu;

  /** A VM that has not run, with the network device, {@link VSID} for it, and two pages. */
  constructor() {
    const reset = ({ name }: { name: string }): number => {
      this.resets.push(name);
      return this.resetStatus;
    };
    this.booted = boot(true, [paging, passthrough({ reset })]);
    this.cpu = this.booted.cpu;
    const { cpu } = this;
    expect(cpu.call("__pkvm_topup_hyp", 0, pfn(page(304)), 3)).toBe(0);
    expect(cpu.call("__pkvm_init_vm", TABLES, 8, 2)).toBe(VM);
    for (const at of [0, 1]) expect(cpu.call("__pkvm_host_donate_guest", VM, pfn(page(100 + at)), IPA + at * PAGE_SIZE)).toBe(0);
    expect(cpu.call("__pkvm_pviommu_attach", VM, PV)).toBe(0);
    expect(cpu.call("__pkvm_pviommu_add_vsid", VM, PV, 0, SID.net, VSID)).toBe(0);
    expect(cpu.call("__pkvm_device_assign", VM, 0, SID.net)).toBe(0);
  }

  /** x0 and x1 of an operation. */
  readonly op = (name: keyof typeof PVIOMMU_OP, ...args: number[]): number[] =>
    this.cpu.guest(VM, pviommuOp, PVIOMMU_OP[name], ...args).slice(0, 2);
  readonly domain = (): number => this.op("allocDomain")[1]!;
  readonly pins = (pa: number): number => this.booted.core.states.pins(this.cpu.memory.pageIndex(pa));
}

describe("assignment", () => {
  test("blocks the device, resets it, and takes it from the host", () => {
    const { booted, cpu, resets } = new World();
    booted.driver.log.length = 0;
    expect(cpu.call("__pkvm_iommu_set_state", 0, SID.dma, 0, 1)).toBe(0);
    expect(cpu.call("__pkvm_device_assign", VM, 0, SID.dma)).toBe(0);
    // The disk shares a StreamID with it.
    expect(resets).toEqual(["net@a002000", "dma@a000000", "disk@a001000"]);
    expect(booted.driver.log).toEqual([
      `setState 0 ${SID.dma} 0 1`,
      ...[SID.dma, SID.shared, SID.shared, SID.disk].map((sid) => `setState 0 ${sid} 0 0`),
    ]);
    const { can, ...taken } = SID;
    for (const sid of Object.values(taken)) expect(cpu.call("__pkvm_iommu_set_state", 0, sid, 0, 1)).toBe(-EPERM);
    expect(cpu.call("__pkvm_iommu_set_state", 0, can, 0, 1)).toBe(0);
    expect(cpu.call("__pkvm_iommu_set_state", 0, 99, 0, 1)).toBe(0);
  });

  test("ends what the host had attached, PASIDs included", () => {
    const { booted, cpu } = new World();
    cpu.call("__pkvm_iommu_alloc_domain", 0, 5, 1);
    for (const pasid of [0, 1, 2]) expect(cpu.call("__pkvm_iommu_set_state", 0, SID.dma, pasid, 5)).toBe(0);
    expect(cpu.call("__pkvm_iommu_set_state", 0, 99, 1, 5)).toBe(0);
    booted.driver.log.length = 0;
    expect(cpu.call("__pkvm_device_assign", VM, 0, SID.dma)).toBe(0);
    // A PASID goes while its stream still has a table for it.
    expect(booted.driver.log.slice(0, 3)).toEqual([1, 2, 0].map((pasid) => `setState 0 ${SID.dma} ${pasid} 0`));
    expect([...booted.driver.paging.streams.keys()]).toEqual(["99.1"]);
    expect(cpu.call("__pkvm_iommu_free_domain", 5)).toBe(-EBUSY);
    expect(cpu.call("__pkvm_iommu_set_state", 0, 99, 1, 0)).toBe(0);
    expect(cpu.call("__pkvm_iommu_free_domain", 5)).toBe(0);
  });

  test.each<[string, (world: World) => number, number]>([
    ["no such VM", ({ cpu }) => cpu.call("__pkvm_device_assign", 2, 0, SID.dma), -ENOENT],
    ["a device that firmware does not know", ({ cpu }) => cpu.call("__pkvm_device_assign", VM, 0, 99), -ENODEV],
    ["an IOMMU that is none", ({ cpu }) => cpu.call("__pkvm_device_assign", VM, 1, SID.dma), -ENODEV],
    ["a device that it has", ({ cpu }) => cpu.call("__pkvm_device_assign", VM, 0, SID.net), -EPERM],
    [
      "a VM that has run",
      ({ cpu }) => cpu.call("__pkvm_vcpu_run", VM, 0) || cpu.call("__pkvm_device_assign", VM, 0, SID.dma),
      -EBUSY,
    ],
    [
      "a VM that is final",
      ({ cpu }) => cpu.call("__pkvm_pviommu_finalise", VM) || cpu.call("__pkvm_device_assign", VM, 0, SID.dma),
      -EBUSY,
    ],
  ])("with %s", (_what, call, status) => {
    expect(call(new World())).toBe(status);
  });

  test("does not happen when the device cannot be blocked or reset", () => {
    const world = new World();
    const { booted, cpu } = world;
    booted.driver.paging.refuse = -ETIMEDOUT;
    expect(cpu.call("__pkvm_device_assign", VM, 0, SID.dma)).toBe(-ETIMEDOUT);
    booted.driver.paging.refuse = 0;
    world.resetStatus = -ETIMEDOUT;
    expect(cpu.call("__pkvm_device_assign", VM, 0, SID.dma)).toBe(-ETIMEDOUT);
    expect(cpu.call("__pkvm_iommu_set_state", 0, SID.dma, 0, 1)).toBe(0);
  });

  test("gives the guest the device's registers, which only come back with the end of the VM", () => {
    const { booted, cpu } = new World();
    const give = (pa: number): number => cpu.call("__pkvm_host_donate_guest", VM, pfn(pa), IPA + 0x10_0000);
    expect(give(DMA_MMIO)).toBe(-EINVAL);
    expect(give(0x0900_0000)).toBe(-EINVAL);
    expect(give(NET_MMIO)).toBe(0);
    expect(give(NET_MMIO)).toBe(-EPERM);
    expect(cpu.abort(NET_MMIO, true, true)).toBe(ABORT_ACTION.inject);
    expect(booted.driver.dma.has(NET_MMIO)).toBe(false);
    expect(cpu.call("__pkvm_host_reclaim_page", pfn(NET_MMIO))).toBe(-EPERM);
    expect(cpu.call("__pkvm_teardown_vm", VM)).toBe(0);
    expect(cpu.abort(NET_MMIO, true, true)).toBe(ABORT_ACTION.inject);
    expect(cpu.call("__pkvm_host_reclaim_page", pfn(NET_MMIO))).toBe(0);
    expect(cpu.abort(NET_MMIO, true, true)).toBe(ABORT_ACTION.retry);
    expect(cpu.call("__pkvm_host_reclaim_page", pfn(NET_MMIO))).toBe(-EINVAL);
  });

  test("does not give the guest registers of another device in the same page", () => {
    const { cpu } = new World();
    expect(cpu.call("__pkvm_device_assign", VM, 0, SID.can)).toBe(0);
    expect(cpu.call("__pkvm_host_donate_guest", VM, pfn(DMA_MMIO + 0x3000), IPA + 0x10_0000)).toBe(-EINVAL);
  });

  test("registers stay the host's when the guest has something there", () => {
    const { cpu } = new World();
    expect(cpu.call("__pkvm_host_donate_guest", VM, pfn(NET_MMIO), IPA)).toBe(-EEXIST);
    expect(cpu.abort(NET_MMIO, true, true)).toBe(ABORT_ACTION.retry);
  });
});

describe("routes", () => {
  test.each<[string, number[], number]>([
    ["a second one for the StreamID", [VM, PV, 0, SID.dma, VSID], -EEXIST],
    ["a second one for the stream", [VM, PV, 0, SID.net, 8], -EEXIST],
    ["no such paravirtual IOMMU", [VM, 4, 0, SID.dma, 8], -ENOENT],
    ["no such IOMMU", [VM, PV, 1, SID.dma, 8], -ENODEV],
    ["no such VM", [2, PV, 0, SID.dma, 8], -ENOENT],
  ])("with %s", (_what, args, status) => {
    const { cpu } = new World();
    expect(cpu.call("__pkvm_pviommu_add_vsid", ...args)).toBe(status);
  });

  test("are finite, and final when the VM runs", () => {
    const { cpu } = new World();
    for (let at = 1; at < 16; at++) expect(cpu.call("__pkvm_pviommu_add_vsid", VM, PV, 0, 100 + at, 100 + at)).toBe(0);
    expect(cpu.call("__pkvm_pviommu_add_vsid", VM, PV, 0, 200, 200)).toBe(-ENOSPC);
    expect(cpu.call("__pkvm_pviommu_attach", VM, PV)).toBe(-EEXIST);
    for (let at = 1; at < 32; at++) expect(cpu.call("__pkvm_pviommu_attach", VM, 100 + at)).toBe(0);
    expect(cpu.call("__pkvm_pviommu_attach", VM, 200)).toBe(-EBUSY);
    expect(cpu.call("__pkvm_vcpu_run", VM, 0)).toBe(0);
    expect(cpu.call("__pkvm_pviommu_add_vsid", VM, 101, 0, 200, 200)).toBe(-EBUSY);
    expect(cpu.call("__pkvm_pviommu_attach", VM, 300)).toBe(-EBUSY);
  });

  test("tell a guest what it has, once it has it", () => {
    const { cpu } = new World();
    expect(cpu.guest(VM, devReqDma, PV, VSID)).toEqual([0, 0x0905_0000, SID.net]);
    cpu.call("__pkvm_pviommu_add_vsid", VM, PV, 0, SID.dma, 8);
    for (const args of [[PV, 8], [PV, 9], [4, VSID], [PV, VSID, 1]]) expect(cpu.guest(VM, devReqDma, ...args)[0]).toBe(INVALID);
    expect(cpu.guest(2, devReqDma, PV, VSID)[0]).toBe(INVALID);
  });
});

describe("a guest", () => {
  test("maps its own pages for its own device", () => {
    const { booted, cpu, op, domain, pins } = new World();
    const id = domain();
    expect(id).toBe(2048);
    expect(op("attachDev", PV, VSID, 0, id, 0)).toEqual([0, 0]);
    expect(booted.driver.paging.streams.get(`${SID.net}.0`)).toMatchObject({ id, owner: VM_OWNER, type: 2 });
    expect(op("mapPages", id, 0, IPA, 2 * PAGE_SIZE, 3)).toEqual([0, 2 * PAGE_SIZE]);
    const [leaves] = [...booted.driver.paging.domains].map((one) => RecordingPaging.leaves(one));
    expect([...leaves!]).toEqual([[0, page(100)], [PAGE_SIZE, page(101)]]);
    expect([pins(page(100)), pins(page(101))]).toEqual([1, 1]);
    // A page in use does not change hands.
    expect(cpu.guest(VM, GUEST_CALL.memShare, IPA)[0]).toBe(INVALID);
    expect(op("unmapPages", id, 0, 2 * PAGE_SIZE)).toEqual([0, 2 * PAGE_SIZE]);
    expect([pins(page(100)), pins(page(101))]).toEqual([0, 0]);
    expect(op("freeDomain", id)[0]).toBe(INVALID);
    expect(op("detachDev", PV, VSID, 0, id, 0)[0]).toBe(0);
    expect(op("freeDomain", id)[0]).toBe(0);
  });

  test("maps and unmaps a batch at a time", () => {
    const { cpu, op, domain, pins } = new World();
    for (let at = 2; at < 515; at++) {
      expect(cpu.call("__pkvm_host_donate_guest", VM, pfn(page(400 + at)), IPA + at * PAGE_SIZE)).toBe(0);
    }
    const id = domain();
    const size = 515 * PAGE_SIZE;
    expect(op("mapPages", id, 0, IPA, size, 3)).toEqual([0, 512 * PAGE_SIZE]);
    expect(op("mapPages", id, 512 * PAGE_SIZE, IPA + 512 * PAGE_SIZE, 3 * PAGE_SIZE, 3)).toEqual([0, 3 * PAGE_SIZE]);
    expect(op("unmapPages", id, 0, size)).toEqual([0, 512 * PAGE_SIZE]);
    expect([pins(page(100)), pins(page(911)), pins(page(912))]).toEqual([0, 0, 1]);
  });

  test("has stage 1 where there is no stage 2", () => {
    const { booted, op, domain } = new World();
    booted.driver.paging = new RecordingPaging(booted.driver, [1]);
    expect(domain()).toBe(2048);
    booted.driver.paging = new RecordingPaging(booted.driver, []);
    expect(op("allocDomain")[0]).toBe(INVALID);
  });

  test("gets its request to the host with the end of the run", () => {
    const { cpu, op, domain } = new World();
    cpu.guestProgram = () => {
      const id = domain();
      expect(op("mapPages", id, 0, IPA + PAGE_SIZE, 2 * PAGE_SIZE, 3)).toEqual([0, PAGE_SIZE]);
    };
    expect(cpu.reply("__pkvm_vcpu_run", VM, 0)).toEqual([0, REQUEST.guestPage, IPA + 2 * PAGE_SIZE, 1]);
    for (let i = 0; i < 7; i++) cpu.call("__pkvm_hyp_reclaim_pool", 0);
    cpu.guestProgram = () => {
      expect(op("mapPages", 2048, 2 ** 30, IPA, PAGE_SIZE, 3)).toEqual([0, 0]);
    };
    expect(cpu.reply("__pkvm_vcpu_run", VM, 0)).toEqual([0, REQUEST.memory, 0, 1]);
    cpu.guestProgram = () => {};
    expect(cpu.reply("__pkvm_vcpu_run", VM, 0)).toEqual([0, 0, 0, 0]);
  });

  test.each<[string, (world: World, id: number) => number[]]>([
    ["an operation that is none", ({ cpu }) => cpu.guest(VM, pviommuOp, 6)],
    ["an operation of 2^40", ({ cpu }) => cpu.guest(VM, pviommuOp, 2 ** 40)],
    ["an argument too many", ({ op }) => op("allocDomain", 0, 1)],
    ["a StreamID that it has not", ({ op }, id) => op("attachDev", PV, 8, 0, id, 0)],
    ["a paravirtual IOMMU that it has not", ({ op }, id) => op("attachDev", 4, VSID, 0, id, 0)],
    ["identity", ({ op }) => op("attachDev", PV, VSID, 0, 1, 0)],
    ["a domain of the host", ({ op }) => op("attachDev", PV, VSID, 0, 5, 0)],
    ["too many bits of PASID", ({ op }, id) => op("attachDev", PV, VSID, 0, id, 21)],
    ["a page of a domain of the host", ({ op }) => op("mapPages", 5, 0, IPA, PAGE_SIZE, 3)],
    ["part of a page", ({ op }, id) => op("mapPages", id, 0, IPA, 100, 3)],
    ["a misaligned address", ({ op }, id) => op("mapPages", id, 0, IPA + 8, PAGE_SIZE, 3)],
    ["an address beyond the VM", ({ op }, id) => op("mapPages", id, 0, 2 ** 40, PAGE_SIZE, 3)],
    ["an unknown prot", ({ op }, id) => op("mapPages", id, 0, IPA, PAGE_SIZE, 64)],
    ["its device's registers", ({ op }, id) => op("mapPages", id, 0, IPA + 0x10_0000, PAGE_SIZE, 3)],
    ["a domain of the host to unmap", ({ op }) => op("unmapPages", 5, 0, PAGE_SIZE)],
    ["a domain of the host to end", ({ op }) => op("freeDomain", 5)],
    ["no VM", ({ cpu }) => cpu.guest(2, pviommuOp, PVIOMMU_OP.allocDomain)],
  ])("cannot have %s", (_what, call) => {
    const world = new World();
    const { cpu, domain } = world;
    cpu.call("__pkvm_iommu_alloc_domain", 0, 5, 1);
    cpu.call("__pkvm_host_donate_guest", VM, pfn(NET_MMIO), IPA + 0x10_0000);
    expect(call(world, domain())[0]).toBe(INVALID);
  });

  test("cannot have a device that the host did not assign, nor its domain the host", () => {
    const { cpu, op, domain } = new World();
    cpu.call("__pkvm_pviommu_add_vsid", VM, PV, 0, SID.dma, 8);
    const id = domain();
    expect(op("attachDev", PV, 8, 0, id, 0)[0]).toBe(INVALID);
    expect(cpu.call("__pkvm_iommu_set_state", 0, SID.dma, 0, id)).toBe(-EPERM);
    expect(cpu.call("__pkvm_iommu_map_pages", id, 0, page(110), PAGE_SIZE, 1, 3)).toBe(-EPERM);
    expect(cpu.call("__pkvm_iommu_unmap_pages", id, 0, PAGE_SIZE, 1)).toBe(-EPERM);
    expect(cpu.call("__pkvm_iommu_free_domain", id)).toBe(-EPERM);
    expect(cpu.call("__pkvm_iommu_iova_to_phys", id, 0)).toBe(-EPERM);
  });

  test("without a route has no domains, and another call is not supported", () => {
    const { cpu } = new World();
    cpu.call("__pkvm_init_vm", page(208), 8, 1);
    expect(cpu.guest(2, pviommuOp, PVIOMMU_OP.allocDomain)[0]).toBe(INVALID);
    expect(cpu.guest(VM, 0x1234)[0]).toBe(-1);
  });

  test("has a finite number of domains", () => {
    const { op } = new World();
    for (let at = 0; at < 2048; at++) expect(op("allocDomain")).toEqual([0, 2048 + at]);
    expect(op("allocDomain")[0]).toBe(INVALID);
    expect(op("freeDomain", 3000)[0]).toBe(0);
    expect(op("allocDomain")).toEqual([0, 3000]);
  });
});

describe("the end of a VM with a device", () => {
  test("returns everything, blocked", () => {
    const { booted, cpu, resets, op, domain, pins } = new World();
    const id = domain();
    op("attachDev", PV, VSID, 0, id, 0);
    op("attachDev", PV, VSID, 1, id, 0);
    op("mapPages", id, 0, IPA, PAGE_SIZE, 3);
    booted.driver.paging.refuse = -ETIMEDOUT;
    expect(cpu.call("__pkvm_teardown_vm", VM)).toBe(-ETIMEDOUT);
    expect(pins(page(100))).toBe(1);
    booted.driver.paging.refuse = 0;
    expect(cpu.call("__pkvm_vcpu_run", VM, 0)).toBe(0);
    expect(cpu.call("__pkvm_teardown_vm", VM)).toBe(0);
    expect([booted.driver.paging.domains.size, booted.driver.paging.streams.size, pins(page(100))]).toEqual([0, 0, 0]);
    expect(resets.filter((name) => name === "net@a002000").length).toBeGreaterThanOrEqual(2);
    expect(cpu.call("__pkvm_iommu_set_state", 0, SID.net, 0, 1)).toBe(0);
    for (const pa of [page(100), page(101), ...Array.from({ length: 8 }, (_, at) => TABLES + at * PAGE_SIZE)]) {
      expect(cpu.call("__pkvm_host_reclaim_page", pfn(pa))).toBe(0);
    }
    // Handle, paravirtual IOMMU and device are free again.
    expect(cpu.call("__pkvm_init_vm", TABLES, 8, 1)).toBe(VM);
    expect(cpu.guest(VM, devReqDma, PV, VSID)[0]).toBe(INVALID);
    expect(cpu.call("__pkvm_pviommu_attach", VM, PV)).toBe(0);
    expect(cpu.call("__pkvm_device_assign", VM, 0, SID.net)).toBe(0);
  });
});

test("passthrough without paging does not start", () => {
  expect(() => boot(true, [passthrough()])).toThrow(`__pkvm_init: ${-EINVAL}`);
  expect(boot().cpu.call("__pkvm_device_assign", 1, 0, SID.net)).toBe(-EOPNOTSUPP);
});
