import { DMA_DIR } from "@smmuv3/iommu-core";
import type { SgEntry } from "@smmuv3/iommu-core";
import type { HypRequest } from "@smmuv3/pkvm-abi";
import type { Firmware, HostCpu, HypCpu } from "@smmuv3/platform";
import type { KernelPort } from "./kernel-port.ts";

/** How a kernel's devices are translated; `fq`: invalidated late, through a flush queue. */
export type Translation = "identity" | "strict" | "fq";

/** What the kernel is told when it is started: its command line. */
export interface BootOptions {
  /**
   * Translation of the DMA clients where the driver can do it, else the nearest that it can: `iommu.passthrough`,
   * `iommu.strict`. Default strict.
   */
  readonly translation?: Translation;
  /**
   * In designs where EL2 drives the SMMU on request: translate by domains that EL2 keeps, where it has them. Default false: direct DMA
   * behind the identity map.
   */
  readonly paging?: boolean;
}

/** DMA direction, Linux values. */
export const DMA_DIRECTION: typeof DMA_DIR = DMA_DIR;

/** What became of a boot. */
export interface BootStatus {
  /** pKVM is up and the host is deprivileged. */
  readonly protectedMode: boolean;
  /** EL2 owns the SMMUs. */
  readonly iommuAtEl2: boolean;
  /** Translation of the DMA clients. */
  readonly translation: Translation;
  /** Initcalls in the order they ran, `level:name`. */
  readonly initcalls: readonly string[];
  /** How often a probe was deferred. */
  readonly deferrals: number;
  /** Registered IOMMU instances, and the device that sysfs shows each on. */
  readonly iommus: readonly { readonly name: string; readonly device: string; readonly driver: string }[];
  /** Bytes that the kernel set aside for EL2's pool. */
  readonly poolBytes: number;
  /** Kernel messages of level warning and above. */
  readonly warnings: readonly string[];
}

/** What a kernel on pKVM can do besides. Failures are negative errnos. */
export interface PkvmPort {
  /** What EL2 asked for when the last vCPU stopped. Memory has been added already; a missing page is the VMM's to give. */
  readonly lastRequest: HypRequest;
  /** Gives a device, by its IOMMU at EL2 and its StreamID, to a VM that has not run. */
  assignDevice(handle: number, iommu: number, sid: number): number;
  /** Gives the VM a paravirtual IOMMU `id`. */
  attachPviommu(handle: number, id: number): number;
  /** StreamID `vsid` of that is `(iommu, sid)`. */
  addVsid(handle: number, id: number, iommu: number, sid: number, vsid: number): number;
  /** The VM's devices are final. */
  finaliseVm(handle: number): number;
  /** Adds `pages` pages, as one block, to a pool of EL2. */
  topup(pool: number, pages: number): number;
  /** Takes back what the pool does not use. Returns the pages that it gave. */
  reclaimPool(pool: number): number;
  /** Switches the power of an IOMMU. */
  setPower(iommu: number, on: boolean): number;
}

/**
 * A booted kernel, as a harness drives it: its DMA API, its page allocator, its view of memory, its hypercalls for VMs.
 * Devices are numbered; addresses are numbers; failures are negative errnos. A device number without a device is a RangeError.
 */
export interface HostPort {
  readonly status: BootStatus;
  /** Names of the DMA clients, by number. */
  readonly devices: readonly string[];

  /** Maps `[pa, pa + size)` for `device`; direction as in {@link DMA_DIRECTION}. Returns the DMA address. */
  dmaMap(device: number, pa: number, size: number, direction: number): number;
  /** Undoes {@link dmaMap}; returns 0. */
  dmaUnmap(device: number, dma: number, size: number, direction: number): number;
  /** Maps a scatter-gather list; returns the number of DMA segments written to its leading entries. */
  dmaMapSg(device: number, entries: readonly SgEntry[], direction: number): number;
  /** Undoes {@link dmaMapSg}. */
  dmaUnmapSg(device: number, entries: readonly SgEntry[], direction: number): number;
  /** Coherent memory: returns its DMA address; {@link coherentPa} has the physical one. */
  dmaAlloc(device: number, size: number): number;
  readonly coherentPa: number;
  dmaFree(device: number, pa: number, dma: number, size: number): number;
  /** Maps device space, e.g. an MSI doorbell. */
  dmaMapResource(device: number, pa: number, size: number): number;
  dmaUnmapResource(device: number, dma: number, size: number): number;

  /** Pages of the kernel's allocator, naturally aligned; -ENOMEM when there are none. */
  allocPages(bytes: number): number;
  freePages(pa: number, bytes: number): void;
  /** Memory as the kernel's CPU sees it. */
  load32(pa: number): number;
  store32(pa: number, value: number): void;

  /** Creates a protected VM; returns its handle. -ENOSYS without a hypervisor. */
  vmCreate(vcpus: number): number;
  /** Gives one page to the VM at `ipa`. */
  vmDonate(handle: number, pa: number, ipa: number): number;
  /** Runs a vCPU until it exits: 0 done, 1 stage-2 abort. */
  vmRun(handle: number, vcpu: number): number;
  /** Ends the VM and takes `pages` back, wiped. */
  vmDestroy(handle: number, pages: readonly number[]): number;

  /** With a hypervisor. */
  readonly pkvm?: PkvmPort;
  /** What users of the IOMMU core other than the DMA API do. */
  readonly kernel?: KernelPort;

  /** Lets the kernel run: interrupts are taken, event queues drained. */
  poll(): void;
  /** Faults that the SMMU driver reported since boot. */
  readonly faultsReported: number;
  /** Driver attaches since boot. */
  readonly attaches: number;
  /** Bytes that the kernel's allocator has given out. */
  readonly allocatedBytes: number;
}

/** EL1 entry of an architecture. */
export type BootKernel = (cpu: HostCpu, firmware: Firmware, options?: BootOptions) => HostPort;

/** EL2 entry of an architecture. */
export type StartHypervisor = (cpu: HypCpu, firmware: Firmware) => void;
