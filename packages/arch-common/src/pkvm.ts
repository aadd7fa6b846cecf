import { ERRNO, errnoName, PAGE_SIZE } from "@smmuv3/platform";
import type { KernelContext } from "@smmuv3/driver-core";
import { abiHash, hypercall, poolPages } from "@smmuv3/pkvm-abi";

/** A kernel driver that gives an IOMMU to EL2. Calls come in the order of the members, each once. */
export interface HandoffDriver {
  /** EL2 is up and the host still trusted: hand over. 0, or a negative errno: EL2 goes on without this IOMMU. */
  handoff(): number;
  /** The host is deprivileged and EL2 has the IOMMUs: make the devices that drivers bind to. */
  ready(): void;
  /** EL2 did not come up: let go of the hardware, so that the stock driver can have it. */
  release(): void;
}

export interface PkvmOptions {
  /** EL2 has an IOMMU driver: its pool is larger. */
  readonly iommu: boolean;
  readonly handoffs: readonly HandoffDriver[];
  /** How many IOMMUs EL2 has accepted. */
  readonly accepted: () => number;
}

/** 4K pages a VM's stage-2 tables get. */
const VM_TABLE_PAGES = 32;

/** The kernel's side of pKVM: brings EL2 up, hands IOMMUs over, gives itself up, manages protected VMs. */
export class Pkvm {
  /** EL2 is up and the host is deprivileged. */
  finalized: boolean = false;
  /** Bytes that EL2 has as its pool. */
  poolBytes: number = 0;
  readonly #ctx: KernelContext;
  readonly #options: PkvmOptions;
  #up = false;
  readonly #tables = new Map<number, number>();

  constructor(ctx: KernelContext, options: PkvmOptions) {
    this.#ctx = ctx;
    this.#options = options;
  }

  /**
   * Registers the initcalls: `kvm` at device level, `finalize_pkvm` after all of that level, `pkvm_devices` last. Drivers that
   * hand over from their own probe register at device level after this.
   */
  register(): void {
    const { core } = this.#ctx;
    core.initcall("device", "kvm", () => this.#init());
    core.initcall("device_sync", "finalize_pkvm", () => this.#finalize());
    core.initcall("late", "pkvm_devices", () => {
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

  /** Protection is off; the machine works without. */
  #failed(step: string, status: number): number {
    const { core, log } = this.#ctx;
    log.err(`kvm: pKVM ${step} failed: ${errnoName(status)}; the host is not protected`);
    this.#up = false;
    for (const driver of this.#options.handoffs) driver.release();
    for (const dev of core.devices) if (dev.driver === undefined) core.attach(dev);
    return status;
  }

  createVm(vcpus: number): number {
    if (!this.finalized) return -ERRNO.ENOSYS;
    const { cpu, pages } = this.#ctx;
    const base = pages.alloc(VM_TABLE_PAGES * PAGE_SIZE);
    if (base < 0) return base;
    const handle = hypercall(cpu, "__pkvm_init_vm", base, VM_TABLE_PAGES, vcpus);
    if (handle < 0) pages.free(base, VM_TABLE_PAGES * PAGE_SIZE);
    else this.#tables.set(handle, base);
    return handle;
  }

  donateToVm(handle: number, pa: number, ipa: number): number {
    return hypercall(this.#ctx.cpu, "__pkvm_host_donate_guest", handle, pa / PAGE_SIZE, ipa);
  }

  runVcpu(handle: number, vcpu: number): number {
    return hypercall(this.#ctx.cpu, "__pkvm_vcpu_run", handle, vcpu);
  }

  /** Tears the VM down and reclaims its pages, table memory included. Pages in `owned` stay with the caller. */
  destroyVm(handle: number, owned: readonly number[]): number {
    const { cpu, pages } = this.#ctx;
    const base = this.#tables.get(handle);
    const status = hypercall(cpu, "__pkvm_teardown_vm", handle);
    if (status < 0 || base === undefined) return status < 0 ? status : -ERRNO.ENOENT;
    this.#tables.delete(handle);
    for (let i = 0; i < VM_TABLE_PAGES; i++) {
      const reclaimed = hypercall(cpu, "__pkvm_host_reclaim_page", base / PAGE_SIZE + i);
      if (reclaimed < 0) return reclaimed;
    }
    pages.free(base, VM_TABLE_PAGES * PAGE_SIZE);
    for (const pa of owned) {
      const reclaimed = hypercall(cpu, "__pkvm_host_reclaim_page", pa / PAGE_SIZE);
      if (reclaimed < 0) return reclaimed;
    }
    return 0;
  }
}
