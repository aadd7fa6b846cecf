// A device given to a protected VM, on the real model: what its DMA reaches before, while and after the VM has it.
import { describe, expect, test } from "vitest";
import type { GuestCpu } from "@smmuv3/machine";
import { frameArg, GUEST_CALL, IOMMU_STATE, POOL, PVIOMMU_OP, setFrame } from "@smmuv3/pkvm-abi";
import { ERRNO, FRAME_WORDS, PAGE_SIZE } from "@smmuv3/platform";
import { PAGE, RAM_BASE, SID, SMMU_BASE, VM_IPA, VM_TABLES, World } from "./hyp-fixture.ts";
import type { WorldOptions } from "./hyp-fixture.ts";

const PROFILES = ["lazy", "eager", "finite"] as const;
const VM = 1;
const PV = 5;
const VSID = 9;
const IOVA = 0x7_0000;
const RW = 3;
const MARK = 0x0bad_d3a0;
const VM_TABLE_PAGES = 16;
const HOST_PAGE = PAGE + 8 * PAGE_SIZE;
const TOPUP = RAM_BASE + 0x80_0000;

/** A host whose device does DMA, and a VM with two pages that gets the device. */
class Passthrough extends World {
  constructor(options: WorldOptions) {
    super("paging", { ...options, bootDma: SID });
    this.ok("__pkvm_topup_hyp", POOL.iommu, TOPUP / PAGE_SIZE, 7);
    expect(this.reaches(PAGE, PAGE, 1)).toBe(true);
    expect(this.call("__pkvm_init_vm", VM_TABLES, VM_TABLE_PAGES, 1)).toBe(VM);
    for (const at of [0, PAGE_SIZE]) this.ok("__pkvm_host_donate_guest", VM, (PAGE + at) / PAGE_SIZE, VM_IPA + at);
    this.ok("__pkvm_pviommu_attach", VM, PV);
    this.ok("__pkvm_pviommu_add_vsid", VM, PV, 0, SID, VSID);
    this.ok("__pkvm_device_assign", VM, 0, SID);
  }

  ok(...call: Parameters<World["call"]>): void {
    expect([call[0], this.call(...call)]).toEqual([call[0], 0]);
  }

  /** Runs `program` on the VM's vCPU. */
  run(program: (guest: GuestCpu) => void): void {
    this.machine.setGuestProgram(VM, 0, program);
    this.ok("__pkvm_vcpu_run", VM, 0);
  }

  /** The pages that the device writes to, at addresses that somebody may have mapped. */
  reached(): number[] {
    const { memory } = this.machine;
    const pages = [PAGE, PAGE + PAGE_SIZE, HOST_PAGE];
    const before = pages.map((pa) => memory.load32(pa));
    for (const iova of [IOVA, IOVA + PAGE_SIZE, VM_IPA, ...pages]) this.dma.write(iova, Int32Array.of(MARK));
    const reached = pages.filter((pa) => memory.load32(pa) === MARK);
    pages.forEach((pa, at) => { memory.store32(pa, before[at]!); });
    return reached;
  }
}

/** A hypercall of the guest: x0 to x2. */
function hvc(guest: GuestCpu, ...registers: number[]): number[] {
  const frame = new Int32Array(FRAME_WORDS);
  registers.forEach((value, at) => { setFrame(frame, at, value); });
  guest.hvc(frame);
  return [frame[0]!, frameArg(frame, 1), frameArg(frame, 2)];
}

function operate(guest: GuestCpu, op: keyof typeof PVIOMMU_OP, ...args: number[]): number {
  const [status, result] = hvc(guest, GUEST_CALL.pviommuOp, PVIOMMU_OP[op], ...args);
  expect([op, status]).toEqual([op, 0]);
  return result!;
}

/** What a guest's driver does: it checks the device, and maps its first page. */
function takeDevice(guest: GuestCpu): void {
  expect(hvc(guest, GUEST_CALL.devReqDma, PV, VSID)).toEqual([0, SMMU_BASE, SID]);
  const domain = operate(guest, "allocDomain");
  operate(guest, "attachDev", PV, VSID, 0, domain, 0);
  expect(operate(guest, "mapPages", domain, IOVA, VM_IPA, PAGE_SIZE, RW)).toBe(PAGE_SIZE);
}

describe.each(PROFILES)("a device of a VM, cache profile %s", (profile) => {
  test("reaches what its guest mapped, and nothing of the host", () => {
    const world = new Passthrough({ profile });
    // Blocked while it changes hands, though the host's DMA had warmed every cache.
    expect(world.reached()).toEqual([]);
    world.run(takeDevice);
    expect(world.reached()).toEqual([PAGE]);
    expect(world.sound).toBe(true);
  });

  test("is not the host's to touch", () => {
    const world = new Passthrough({ profile });
    world.run(takeDevice);
    for (const state of Object.values(IOMMU_STATE)) expect(world.call("__pkvm_iommu_set_state", 0, SID, 0, state)).toBe(-ERRNO.EPERM);
    expect(world.call("__pkvm_iommu_unmap_pages", 2048, IOVA, PAGE_SIZE, 1)).toBe(-ERRNO.EPERM);
    expect(world.call("__pkvm_iommu_map_pages", 2048, IOVA + PAGE_SIZE, HOST_PAGE, PAGE_SIZE, 1, RW)).toBe(-ERRNO.EPERM);
    expect(world.reached()).toEqual([PAGE]);
  });

  test("forgets what its guest unmaps", () => {
    const world = new Passthrough({ profile });
    world.run(takeDevice);
    expect(world.reached()).toEqual([PAGE]);
    world.run((guest) => {
      expect(operate(guest, "unmapPages", 2048, IOVA, PAGE_SIZE)).toBe(PAGE_SIZE);
      expect(operate(guest, "mapPages", 2048, IOVA + PAGE_SIZE, VM_IPA + PAGE_SIZE, PAGE_SIZE, RW)).toBe(PAGE_SIZE);
    });
    expect(world.reached()).toEqual([PAGE + PAGE_SIZE]);
  });

  test("reaches nothing after its VM, until the host lets it", () => {
    const world = new Passthrough({ profile });
    world.run(takeDevice);
    world.run((guest) => { guest.store32(VM_IPA, 0x5ec2_e700); });
    expect(world.reached()).toEqual([PAGE]);
    world.ok("__pkvm_teardown_vm", VM);
    expect(world.reached()).toEqual([]);
    for (const pa of [PAGE, PAGE + PAGE_SIZE, ...Array.from({ length: VM_TABLE_PAGES }, (_, at) => VM_TABLES + at * PAGE_SIZE)]) {
      world.ok("__pkvm_host_reclaim_page", pa / PAGE_SIZE);
    }
    expect(world.machine.memory.load32(PAGE)).toBe(0);
    expect(world.reached()).toEqual([]);
    world.ok("__pkvm_iommu_set_state", 0, SID, 0, IOMMU_STATE.identity);
    expect(world.reached()).toEqual([PAGE, PAGE + PAGE_SIZE, HOST_PAGE]);
    expect(world.sound).toBe(true);
  });

  test("and a page that the VM shares with the host is no secret, nor in use by the device", () => {
    const world = new Passthrough({ profile });
    world.run((guest) => {
      expect(hvc(guest, GUEST_CALL.memShare, VM_IPA + PAGE_SIZE)[0]).toBe(0);
      takeDevice(guest);
      expect(hvc(guest, GUEST_CALL.memShare, VM_IPA)[0]).not.toBe(0);
    });
    world.machine.host.memory.store32(PAGE + PAGE_SIZE, 7);
    expect(() => world.machine.host.memory.load32(PAGE)).toThrow();
    world.run((guest) => { expect(guest.load32(VM_IPA + PAGE_SIZE)).toBe(7); });
    world.run((guest) => { expect(hvc(guest, GUEST_CALL.memUnshare, VM_IPA + PAGE_SIZE)[0]).toBe(0); });
    expect(() => world.machine.host.memory.load32(PAGE + PAGE_SIZE)).toThrow();
    expect(world.reached()).toEqual([PAGE]);
  });
});
