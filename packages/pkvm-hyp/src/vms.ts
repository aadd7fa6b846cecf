import { IOMMU_PROT } from "@smmuv3/io-pgtable-arm-common";
import type { IoPgtable } from "@smmuv3/io-pgtable-arm-common";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";

import type { HypCore } from "./core.ts";
import { OWNER, PAGE_STATE } from "./page-state.ts";
import { HypPool } from "./pool.ts";
import { newStage2, regimeOf } from "./stage2.ts";

/** Handles are 1 to this; a VM's VMID is its handle, its owner id follows from it. */
const MAX_VMS = 64;
const MAX_VCPUS = 512;
/** IPA space of a VM: 1 TiB. */
const IPA_BITS = 40;
const GUEST = IOMMU_PROT.READ | IOMMU_PROT.WRITE | IOMMU_PROT.CACHE;

interface Vm {
  readonly table: IoPgtable;
  readonly vcpus: number;
  readonly memoryBase: number;
  readonly memorySize: number;
  /** Pages on record for it; its handle is in use until all of them are reclaimed. */
  pages: number;
  alive: boolean;
}

/** Protected VMs. Results are 0 or positive, or a negative errno. */
export class ProtectedVms {
  readonly #core: HypCore;
  /** By handle - 1. */
  readonly #vms: (Vm | undefined)[] = new Array<Vm | undefined>(MAX_VMS).fill(undefined);

  constructor(core: HypCore) {
    this.#core = core;
  }

  /**
   * A VM whose stage-2 tables live in `[base, base + pages * 4K)`, which the host gives up. Returns its handle; -ENOSPC: too many
   * VMs; -EINVAL: no pages or vCPUs; or as a donation.
   */
  create(base: number, pages: number, vcpus: number): number {
    if (!(vcpus >= 1 && vcpus <= MAX_VCPUS) || !(pages >= 1)) return -ERRNO.EINVAL;
    const slot = this.#vms.indexOf(undefined);
    if (slot < 0) return -ERRNO.ENOSPC;
    const core = this.#core;
    const status = core.donate(base, pages * PAGE_SIZE, OWNER.firstVm + slot);
    if (status < 0) return status;
    const table = newStage2(core.cpu, new HypPool(core.cpu, base, pages), "vm", IPA_BITS);
    if (typeof table === "number") {
      core.cancelDonation(base, pages * PAGE_SIZE);
      return table;
    }
    this.#vms[slot] = { table, vcpus, memoryBase: base, memorySize: pages * PAGE_SIZE, pages, alive: true };
    return slot + 1;
  }

  /** One page of the host to VM `handle` at `ipa`. -ENOENT: no such VM; -EEXIST: something is at `ipa`; or as a donation. */
  donatePage(handle: number, pa: number, ipa: number): number {
    const vm = this.#find(handle);
    if (vm === undefined) return -ERRNO.ENOENT;
    if (ipa % PAGE_SIZE !== 0 || ipa >= 2 ** IPA_BITS) return -ERRNO.EINVAL;
    const core = this.#core;
    const status = core.donate(pa, PAGE_SIZE, OWNER.firstVm + handle - 1);
    if (status < 0) return status;
    const mapped = vm.table.mapPages(ipa, pa, PAGE_SIZE, 1, GUEST);
    if (mapped < 0) core.cancelDonation(pa, PAGE_SIZE);
    else vm.pages++;
    return mapped;
  }

  /** Runs a vCPU until it exits: 0, or 1 when it took a stage-2 abort. -ENOENT: no such VM or vCPU. */
  run(handle: number, vcpu: number): number {
    const vm = this.#find(handle);
    if (vm === undefined || !(vcpu < vm.vcpus)) return -ERRNO.ENOENT;
    return this.#core.cpu.runGuest(handle, vcpu, regimeOf(vm.table, handle));
  }

  /** Ends a VM; its pages wait for {@link reclaimPage}. */
  teardown(handle: number): number {
    const vm = this.#find(handle);
    if (vm === undefined) return -ERRNO.ENOENT;
    vm.alive = false;
    vm.table.forEachLeaf((_ipa, _size, pa) => {
      this.#release(handle, pa, PAGE_SIZE);
    });
    // The VM's tables go last: what they named is on record by now.
    vm.table.free();
    this.#release(handle, vm.memoryBase, vm.memorySize);
    return 0;
  }

  /** One page of a VM that is gone, back to the host, wiped. */
  reclaimPage(pa: number): number {
    const core = this.#core;
    const page = core.cpu.memory.pageIndex(pa);
    if (page < 0) return -ERRNO.EINVAL;
    const owner = core.states.owner(page);
    const vm = this.#vms[owner - OWNER.firstVm];
    if (vm === undefined) return -ERRNO.EPERM;
    const status = core.reclaim(pa, PAGE_SIZE, owner, PAGE_STATE.reclaim);
    if (status === 0 && --vm.pages === 0) this.#vms[owner - OWNER.firstVm] = undefined;
    return status;
  }

  #find(handle: number): Vm | undefined {
    const vm = this.#vms[handle - 1];
    return vm?.alive === true ? vm : undefined;
  }

  #release(handle: number, pa: number, size: number): void {
    const { cpu, states } = this.#core;
    const first = cpu.memory.pageIndex(pa);
    for (let page = first; page < first + size / PAGE_SIZE; page++) {
      states.set(page, OWNER.firstVm + handle - 1, PAGE_STATE.reclaim);
    }
  }
}
