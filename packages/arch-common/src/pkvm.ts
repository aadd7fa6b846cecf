import { ERRNO, errnoName, PAGE_SIZE } from "@smmuv3/platform";
import type { KernelContext } from "@smmuv3/driver-core";
import {
  abiHash,
  frameRequest,
  frameResult,
  hypercall,
  hypercallFrame,
  POOL,
  poolPages,
  REQUEST,
  TOPUP_MAX_ORDER,
  topupPool,
} from "@smmuv3/pkvm-abi";
import type { HypRequest } from "@smmuv3/pkvm-abi";
import type { PkvmPort } from "./port.ts";

/** A kernel driver that gives IOMMUs to EL2. */
export interface HandoffDriver {
  /**
   * EL2 is up and the host still trusted: hand over. 0, or a negative errno: the host stays as it is, for a device that reaches
   * all memory would make the protection of the rest worthless.
   */
  handoff(): number;
  /** The host is deprivileged and EL2 has the IOMMUs: make the devices that drivers bind to. */
  ready(): void;
  /** Instead of {@link ready}: there is no protection. Let go of the hardware, so that the stock driver can have it. */
  release(): void;
}

export interface PkvmOptions {
  /** EL2 has an IOMMU driver, which needs more memory. */
  readonly iommu: boolean;
  readonly handoffs: readonly HandoffDriver[];
  /** How many IOMMUs EL2 has accepted. */
  readonly accepted: () => number;
}

/** 4K pages a VM's stage-2 tables get at first, and with each top-up of a vCPU's memcache. */
const VM_TABLE_PAGES = 32;
const MEMCACHE_PAGES = 8;
/** A donation needs no more tables than there are levels. */
const TOPUPS = 4;
const NO_REQUEST: HypRequest = { type: REQUEST.none, what: 0, pages: 0 };

/** The kernel's side of pKVM: brings EL2 up, hands IOMMUs over, gives itself up, manages protected VMs. */
export class Pkvm implements PkvmPort {
  /** EL2 is up and the host is deprivileged. */
  finalized: boolean = false;
  /** Bytes that EL2 has as its pool. */
  poolBytes: number = 0;
  readonly #ctx: KernelContext;
  readonly #options: PkvmOptions;
  /** EL2 is up and everything so far went well. */
  #up = false;
  lastRequest: HypRequest = NO_REQUEST;
  /** Table memory of each VM, by handle: blocks, by address and pages. */
  readonly #tables = new Map<number, Map<number, number>>();
  /** Pages that pools gave back, by the block that the kernel's allocator knows. */
  readonly #returned = new Map<number, number>();

  constructor(ctx: KernelContext, options: PkvmOptions) {
    this.#ctx = ctx;
    this.#options = options;
  }

  /**
   * Registers the initcalls: `kvm` at device level; `finalize_pkvm` after all of that level, then `pkvm_devices`, before devices that
   * wait are tried again. Drivers that hand over from their own probe register at device level after this.
   */
  register(): void {
    const { core } = this.#ctx;
    core.initcall("device", "kvm", () => this.#init());
    core.initcall("device_sync", "finalize_pkvm", () => this.#finalize());
    core.initcall("device_sync", "pkvm_devices", () => {
      if (this.finalized) for (const driver of this.#options.handoffs) driver.ready();
      return 0;
    });
  }

  /** EL2 has IOMMUs, and nobody else may touch them. */
  get ownsIommus(): boolean {
    return this.finalized && this.#options.accepted() > 0;
  }

  #init(): number {
    const { cpu, firmware, pages } = this.#ctx;
    const count = poolPages(firmware.memory.size, this.#options.iommu);
    const base = pages.alloc(count * PAGE_SIZE);
    const status = base < 0 ? base : hypercall(cpu, "__pkvm_init", abiHash(), base, count);
    if (status < 0) {
      if (base >= 0) pages.free(base, count * PAGE_SIZE);
      return this.#failed("init", status);
    }
    this.#up = true;
    this.poolBytes = count * PAGE_SIZE;
    for (const driver of this.#options.handoffs) {
      const handed = driver.handoff();
      if (handed < 0) return this.#failed("IOMMU hand-off", handed);
    }
    return 0;
  }

  #finalize(): number {
    if (!this.#up) return 0;
    const status = hypercall(this.#ctx.cpu, "__pkvm_prot_finalize");
    if (status < 0) return this.#failed("finalize", status);
    this.finalized = true;
    return 0;
  }

  /** There is no protection; the machine works without. Devices that were let go are offered to the other drivers. */
  #failed(step: string, status: number): number {
    const { core, log } = this.#ctx;
    log.err(`kvm: pKVM ${step} failed: ${errnoName(status)}; the host is not protected`);
    this.#up = false;
    for (const driver of this.#options.handoffs) driver.release();
    for (const dev of core.devices) if (dev.driver === undefined) core.attach(dev);
    return status;
  }

  /** Creates a protected VM. Its handle, or a negative errno: -ENOSYS while the host is not deprivileged. */
  createVm(vcpus: number): number {
    if (!this.finalized) return -ERRNO.ENOSYS;
    const { cpu, pages } = this.#ctx;
    const base = pages.alloc(VM_TABLE_PAGES * PAGE_SIZE);
    if (base < 0) return base;
    const handle = hypercall(cpu, "__pkvm_init_vm", base, VM_TABLE_PAGES, vcpus);
    if (handle < 0) pages.free(base, VM_TABLE_PAGES * PAGE_SIZE);
    else this.#tables.set(handle, new Map([[base, VM_TABLE_PAGES]]));
    return handle;
  }

  /** Gives the page at `pa` to a VM at `ipa`; what its tables lack comes into the memcache of its first vCPU. */
  donateToVm(handle: number, pa: number, ipa: number): number {
    for (let round = 0; ; round++) {
      const frame = hypercallFrame(this.#ctx.cpu, "__pkvm_host_donate_guest", [handle, pa / PAGE_SIZE, ipa]);
      const result = frameResult(frame);
      const { type, what } = frameRequest(frame);
      if (result >= 0 || type !== REQUEST.memory || what !== POOL.vcpu || round === TOPUPS) return result;
      const status = this.#topupVcpu(handle);
      if (status < 0) return status;
    }
  }

  /** Runs a vCPU until it exits: 0 done, 1 stage-2 abort. What its hypercalls lacked is in {@link lastRequest}. */
  runVcpu(handle: number, vcpu: number): number {
    const frame = hypercallFrame(this.#ctx.cpu, "__pkvm_vcpu_run", [handle, vcpu]);
    this.lastRequest = frameRequest(frame);
    const { type, what, pages } = this.lastRequest;
    if (type === REQUEST.memory) this.topup(what, pages);
    return frameResult(frame);
  }

  /**
   * Tears the VM down and reclaims its pages, table memory included. The pages in `owned` stay allocated: they are the caller's.
   * @returns 0, or the first negative errno; what EL2 does not give back is lost to the kernel
   */
  destroyVm(handle: number, owned: readonly number[]): number {
    const tables = this.#tables.get(handle);
    const torn = hypercall(this.#ctx.cpu, "__pkvm_teardown_vm", handle);
    if (torn < 0) return torn;
    if (tables === undefined) return -ERRNO.ENOENT;
    this.#tables.delete(handle);
    let first = 0;
    for (const [base, count] of tables) {
      const status = this.#reclaim(Array.from({ length: count }, (_, i) => base + i * PAGE_SIZE));
      if (status === 0) this.#ctx.pages.free(base, count * PAGE_SIZE);
      else if (first === 0) first = status;
    }
    return this.#reclaim(owned) || first;
  }

  assignDevice(handle: number, iommu: number, sid: number): number {
    return hypercall(this.#ctx.cpu, "__pkvm_device_assign", handle, iommu, sid);
  }

  attachPviommu(handle: number, id: number): number {
    return hypercall(this.#ctx.cpu, "__pkvm_pviommu_attach", handle, id);
  }

  addVsid(handle: number, id: number, iommu: number, sid: number, vsid: number): number {
    return hypercall(this.#ctx.cpu, "__pkvm_pviommu_add_vsid", handle, id, iommu, sid, vsid);
  }

  finaliseVm(handle: number): number {
    return hypercall(this.#ctx.cpu, "__pkvm_pviommu_finalise", handle);
  }

  topup(pool: number, pages: number): number {
    return topupPool(this.#ctx.cpu, this.#ctx.pages, pool, pages);
  }

  /** Pages go back to the allocator once a whole block of it has come back. */
  reclaimPool(pool: number): number {
    for (let count = 0; ; count++) {
      const pfn = hypercall(this.#ctx.cpu, "__pkvm_hyp_reclaim_pool", pool);
      if (pfn < 0) return count > 0 || pfn === -ERRNO.ENOENT ? count : pfn;
      this.#giveBack(pfn * PAGE_SIZE);
    }
  }

  setPower(iommu: number, on: boolean): number {
    return hypercall(this.#ctx.cpu, "__pkvm_host_hvc_pd", iommu, on ? 1 : 0);
  }

  #topupVcpu(handle: number): number {
    const { cpu, pages } = this.#ctx;
    const base = pages.alloc(MEMCACHE_PAGES * PAGE_SIZE);
    if (base < 0) return base;
    const status = hypercall(cpu, "__pkvm_vcpu_topup", handle, 0, base / PAGE_SIZE, MEMCACHE_PAGES);
    if (status < 0) pages.free(base, MEMCACHE_PAGES * PAGE_SIZE);
    else this.#tables.get(handle)?.set(base, MEMCACHE_PAGES);
    return status;
  }

  #giveBack(pa: number): void {
    const { pages } = this.#ctx;
    for (let order = 0; order <= TOPUP_MAX_ORDER; order++) {
      const block = pa - (pa % (PAGE_SIZE * 2 ** order));
      const bytes = pages.sizeOf(block);
      if (pa >= block + bytes) continue;
      const returned = (this.#returned.get(block) ?? 0) + PAGE_SIZE;
      this.#returned.set(block, returned);
      if (returned < bytes) return;
      this.#returned.delete(block);
      pages.free(block, bytes);
      return;
    }
  }

  #reclaim(pages: readonly number[]): number {
    let first = 0;
    for (const pa of pages) {
      const status = hypercall(this.#ctx.cpu, "__pkvm_host_reclaim_page", pa / PAGE_SIZE);
      if (first === 0) first = status;
    }
    return first;
  }
}
