import { IOMMU_PROT } from "@smmuv3/io-pgtable-arm-common";
import type { IoPgtable } from "@smmuv3/io-pgtable-arm-common";
import { POOL } from "@smmuv3/pkvm-abi";
import { ERRNO, PAGE_SIZE, SpinLock } from "@smmuv3/platform";

import type { HypCore } from "./core.ts";
import { LOCK_RANK } from "./iommu-driver.ts";
import { OWNER } from "./page-state.ts";
import { HypPool } from "./pool.ts";
import { newStage2, regimeOf } from "./stage2.ts";

/** Handles are 1 to this; a VM's VMID is its handle, its owner id follows from it. */
const MAX_VMS = 64;
const MAX_VCPUS = 512;
/** IPA space of a VM: 1 TiB. */
const IPA_BITS = 40;
const GUEST_MEMORY = IOMMU_PROT.READ | IOMMU_PROT.WRITE | IOMMU_PROT.CACHE;
const GUEST_DEVICE = IOMMU_PROT.READ | IOMMU_PROT.WRITE | IOMMU_PROT.MMIO | IOMMU_PROT.NOEXEC;

/** A protected VM. */
export interface Vm {
  readonly handle: number;
  readonly owner: number;
  readonly table: IoPgtable;
  /** Memory of the tables: what the host gave at creation, and the memcaches of the vCPUs, which are one. */
  readonly pool: HypPool;
  /** 1 = running, by number. */
  readonly vcpus: Uint8Array;
  /** It has run, or its devices are final. */
  frozen: boolean;
  alive: boolean;
  /** Once it is not alive: pages to be reclaimed before the handle is free. */
  pages: number;
}

/** What passthrough does to VMs; all under the VM lock. */
export interface VmDevices {
  /** True when the page at `pa` is registers of a device of `owner`, and of no other. */
  ownsPage(owner: number, pa: number): boolean;
  /** Gives the devices back, blocked, and ends the domains; an error keeps the VM. */
  release(owner: number): number;
}

/** Protected VMs. Results are 0 or positive, or a negative errno: -ENOENT when there is no such VM or vCPU. */
export class ProtectedVms {
  /** Passthrough, in an EL2 that has it. */
  devices: VmDevices | undefined = undefined;
  readonly #core: HypCore;
  readonly #lock: SpinLock;
  /** By handle - 1. */
  readonly #vms: (Vm | undefined)[] = new Array<Vm | undefined>(MAX_VMS).fill(undefined);

  constructor(core: HypCore) {
    this.#core = core;
    this.#lock = new SpinLock("vms", LOCK_RANK.vms, core.locks);
  }

  /** Runs `run` on VM `handle` under the VM lock. */
  with(handle: number, run: (vm: Vm) => number): number {
    const { cpu } = this.#core;
    this.#lock.lock(cpu);
    const vm = this.#vms[handle - 1];
    const result = vm?.alive === true ? run(vm) : -ERRNO.ENOENT;
    this.#lock.unlock(cpu);
    return result;
  }

  /**
   * A VM whose stage-2 tables live in `[base, base + pages * 4K)`, which the host gives up. Returns its handle; -ENOSPC: too many
   * VMs; -EINVAL: no pages or vCPUs; or as a donation.
   */
  create(base: number, pages: number, vcpus: number): number {
    const { cpu } = this.#core;
    if (!(vcpus >= 1 && vcpus <= MAX_VCPUS) || !(pages >= 1)) return -ERRNO.EINVAL;
    this.#lock.lock(cpu);
    const handle = this.#create(base, pages, vcpus);
    this.#lock.unlock(cpu);
    return handle;
  }

  /** One page of the host, or of a device of the VM, to VM `handle` at `ipa`. -EEXIST: something is at `ipa`; or as a donation. */
  donatePage(handle: number, pa: number, ipa: number): number {
    return this.with(handle, (vm) => {
      if (ipa % PAGE_SIZE !== 0 || ipa >= 2 ** IPA_BITS) return -ERRNO.EINVAL;
      const core = this.#core;
      const device = this.devices?.ownsPage(vm.owner, pa) === true;
      const status = device ? core.donateMmio(pa, PAGE_SIZE, vm.owner) : core.donate(pa, PAGE_SIZE, vm.owner);
      if (status < 0) return status;
      const mapped = vm.table.mapPages(ipa, pa, PAGE_SIZE, 1, device ? GUEST_DEVICE : GUEST_MEMORY);
      if (mapped < 0 && device) core.returnMmio(pa, PAGE_SIZE, vm.owner);
      else if (mapped < 0) core.cancelDonation(pa, PAGE_SIZE);
      return mapped;
    });
  }

  /** `count` pages of the host to the memcache of a vCPU. */
  topup(handle: number, vcpu: number, pa: number, count: number): number {
    return this.with(handle, (vm) => {
      if (!(vcpu < vm.vcpus.length)) return -ERRNO.ENOENT;
      const status = this.#core.donate(pa, count * PAGE_SIZE, vm.owner);
      if (status === 0) vm.pool.add(pa, count);
      return status;
    });
  }

  /** Runs a vCPU until it exits: 0, or 1 when it took a stage-2 abort. -EBUSY: it runs already. */
  run(handle: number, vcpu: number): number {
    const status = this.with(handle, (vm) => {
      if (!(vcpu < vm.vcpus.length)) return -ERRNO.ENOENT;
      if (vm.vcpus[vcpu] !== 0) return -ERRNO.EBUSY;
      vm.frozen = true;
      vm.vcpus[vcpu] = 1;
      return 0;
    });
    if (status < 0) return status;
    // A VM with a running vCPU stays.
    const vm = this.#vms[handle - 1]!;
    const exit = this.#core.cpu.runGuest(handle, vcpu, regimeOf(vm.table, handle));
    return this.with(handle, () => {
      vm.vcpus[vcpu] = 0;
      return exit;
    });
  }

  /** VM `handle` shares its page at `ipa` with the host, or no longer. */
  share(handle: number, ipa: number, shared: boolean): number {
    return this.with(handle, (vm) => {
      const pa = translate(vm, ipa);
      if (pa < 0) return pa;
      return shared ? this.#core.shareWithHost(pa, vm.owner) : this.#core.unshareWithHost(pa, vm.owner);
    });
  }

  /** Ends a VM; its pages wait for {@link reclaimPage}. -EBUSY: a vCPU runs. */
  teardown(handle: number): number {
    return this.with(handle, (vm) => {
      if (vm.vcpus.includes(1)) return -ERRNO.EBUSY;
      const status = this.devices?.release(vm.owner) ?? 0;
      if (status < 0) return status;
      vm.alive = false;
      vm.table.free();
      vm.pages = this.#core.retire(vm.owner);
      return 0;
    });
  }

  /** One page of a VM that is gone, back to the host, wiped. -EPERM: it is none. */
  reclaimPage(pa: number): number {
    const { cpu } = this.#core;
    this.#lock.lock(cpu);
    const status = this.#reclaimPage(pa);
    this.#lock.unlock(cpu);
    return status;
  }

  #create(base: number, pages: number, vcpus: number): number {
    const slot = this.#vms.indexOf(undefined);
    if (slot < 0) return -ERRNO.ENOSPC;
    const core = this.#core;
    const owner = OWNER.firstVm + slot;
    const status = core.donate(base, pages * PAGE_SIZE, owner);
    if (status < 0) return status;
    const pool = new HypPool(core, POOL.vcpu, owner);
    pool.add(base, pages);
    const table = newStage2(core.cpu, pool, "vm", IPA_BITS);
    if (typeof table === "number") {
      core.cancelDonation(base, pages * PAGE_SIZE);
      return table;
    }
    const handle = slot + 1;
    this.#vms[slot] = { handle, owner, table, pool, vcpus: new Uint8Array(vcpus), frozen: false, alive: true, pages: 0 };
    return handle;
  }

  #reclaimPage(pa: number): number {
    const core = this.#core;
    const slot = core.ownerOf(pa) - OWNER.firstVm;
    const vm = this.#vms[slot];
    if (vm === undefined || vm.alive) return core.isRam(pa, PAGE_SIZE) || vm !== undefined ? -ERRNO.EPERM : -ERRNO.EINVAL;
    const status = core.reclaimRetired(pa, vm.owner);
    if (status === 0 && --vm.pages === 0) this.#vms[slot] = undefined;
    return status;
  }
}

/** Address of the page of `vm` at `ipa`. -EINVAL: not a page; -ENOENT: it has none there. */
export function translate(vm: Vm, ipa: number): number {
  if (ipa % PAGE_SIZE !== 0 || ipa >= 2 ** IPA_BITS) return -ERRNO.EINVAL;
  const pa = vm.table.iovaToPhys(ipa);
  return vm.table.found ? pa : -ERRNO.ENOENT;
}
