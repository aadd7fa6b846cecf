import { BOOT_DMA_PROPERTY, ERRNO } from "@smmuv3/platform";
import type { Firmware, HostCpu } from "@smmuv3/platform";
import { createKernel } from "@smmuv3/driver-core";
import type { Device, KernelContext } from "@smmuv3/driver-core";
import { DMA_DIR, IommuCore } from "@smmuv3/iommu-core";
import type { CoherentBuffer, DefaultDomainType, Rmr, SgEntry } from "@smmuv3/iommu-core";
import { KernelControl } from "./kernel-port.ts";
import type { KernelPort } from "./kernel-port.ts";
import { Pkvm } from "./pkvm.ts";
import type { PkvmOptions } from "./pkvm.ts";
import type { BootOptions, BootStatus, HostPort, PkvmPort, Translation } from "./port.ts";

/** `compatible` of the devices whose DMA a harness drives. */
export const DMA_CLIENT = "smmuv3,dma-client";

const DOMAIN_TYPES: Readonly<Record<Translation, DefaultDomainType>> = {
  identity: "identity",
  strict: "dma",
  fq: "dma-fq",
};

/** A kernel that is being put together: an architecture adds its drivers as initcalls, then {@link start}s it. */
export class HostKernel {
  readonly ctx: KernelContext;
  readonly iommu: IommuCore;
  #pkvm: Pkvm | undefined = undefined;

  constructor(cpu: HostCpu, firmware: Firmware, options: BootOptions = {}) {
    this.ctx = createKernel({ cpu, firmware });
    this.iommu = new IommuCore(this.ctx, {
      defaultDomainType: DOMAIN_TYPES[options.translation ?? "strict"],
      rmrs: bootRegions(firmware),
    });
    this.ctx.core.initcall("arch", "populate", () => {
      this.ctx.core.populate(firmware);
      return 0;
    });
    this.ctx.core.initcall("device", "dma-client", () => {
      this.ctx.core.registerDriver({ name: "dma-client", bus: "pci", ids: [DMA_CLIENT], probe: () => 0 });
      return 0;
    });
  }

  /** Adds the kernel's side of pKVM; its initcalls come before those that are added after it. */
  addPkvm(options: PkvmOptions): void {
    this.#pkvm = new Pkvm(this.ctx, options);
    this.#pkvm.register();
  }

  /** Boots, and returns the port of the running kernel. */
  start(): HostPort {
    this.ctx.core.boot();
    return new BootedKernel(this.ctx, this.iommu, this.#pkvm);
  }
}

/** Memory that devices use since boot, one to one: which part of RAM, firmware does not say here. */
function bootRegions({ memory, nodes }: Firmware): Rmr[] {
  return nodes
    .filter(({ properties }) => properties[BOOT_DMA_PROPERTY] !== undefined)
    .flatMap(({ iommus }) => iommus.map(({ iommu, id }) => ({ ...memory, iommu, ids: [id], remapPermitted: false })));
}

/** {@link HostPort} of a booted {@link HostKernel}. */
class BootedKernel implements HostPort {
  readonly status: BootStatus;
  readonly devices: readonly string[];
  readonly pkvm?: PkvmPort;
  readonly kernel: KernelPort;
  coherentPa: number = 0;
  readonly #ctx: KernelContext;
  readonly #iommu: IommuCore;
  readonly #pkvm: Pkvm | undefined;
  readonly #clients: readonly Device[];

  constructor(ctx: KernelContext, iommu: IommuCore, pkvm: Pkvm | undefined) {
    this.#ctx = ctx;
    this.#iommu = iommu;
    this.#pkvm = pkvm;
    this.#clients = ctx.core.boundTo("dma-client");
    this.devices = this.#clients.map((dev) => dev.name);
    this.status = this.#describe();
    this.kernel = new KernelControl(ctx, iommu, this.#clients);
    if (pkvm?.finalized === true) this.pkvm = pkvm;
  }

  get faultsReported(): number {
    return this.#iommu.faults.count;
  }

  get attaches(): number {
    return this.#ctx.cpu.counters.read("iommu.attaches").el1;
  }

  get allocatedBytes(): number {
    return this.#ctx.pages.allocated;
  }

  dmaMap(device: number, pa: number, size: number, direction: number): number {
    return this.#iommu.dma.mapPage(this.#client(device), pa, size, direction);
  }

  dmaUnmap(device: number, dma: number, size: number, direction: number): number {
    return this.#iommu.dma.unmapPage(this.#client(device), dma, size, direction);
  }

  dmaMapSg(device: number, entries: readonly SgEntry[], direction: number): number {
    return this.#iommu.dma.mapSg(this.#client(device), entries, direction);
  }

  dmaUnmapSg(device: number, entries: readonly SgEntry[], direction: number): number {
    return this.#iommu.dma.unmapSg(this.#client(device), entries, direction);
  }

  dmaAlloc(device: number, size: number): number {
    const buffer = this.#iommu.dma.allocCoherent(this.#client(device), size);
    if (typeof buffer === "number") return buffer;
    this.coherentPa = buffer.pa;
    return buffer.dma;
  }

  dmaFree(device: number, pa: number, dma: number, size: number): number {
    const buffer: CoherentBuffer = { pa, dma, size };
    return this.#iommu.dma.freeCoherent(this.#client(device), buffer);
  }

  dmaMapResource(device: number, pa: number, size: number): number {
    return this.#iommu.dma.mapResource(this.#client(device), pa, size, DMA_DIR.bidirectional);
  }

  dmaUnmapResource(device: number, dma: number, size: number): number {
    return this.#iommu.dma.unmapResource(this.#client(device), dma, size, DMA_DIR.bidirectional);
  }

  allocPages(bytes: number): number {
    return this.#ctx.pages.alloc(bytes);
  }

  freePages(pa: number, bytes: number): void {
    this.#ctx.pages.free(pa, bytes);
  }

  load32(pa: number): number {
    return this.#ctx.memory.load32(pa);
  }

  store32(pa: number, value: number): void {
    this.#ctx.memory.store32(pa, value);
  }

  vmCreate(vcpus: number): number {
    return this.#pkvm?.createVm(vcpus) ?? -ERRNO.ENOSYS;
  }

  vmDonate(handle: number, pa: number, ipa: number): number {
    return this.#pkvm?.donateToVm(handle, pa, ipa) ?? -ERRNO.ENOSYS;
  }

  vmRun(handle: number, vcpu: number): number {
    return this.#pkvm?.runVcpu(handle, vcpu) ?? -ERRNO.ENOSYS;
  }

  vmDestroy(handle: number, pages: readonly number[]): number {
    return this.#pkvm?.destroyVm(handle, pages) ?? -ERRNO.ENOSYS;
  }

  poll(): void {
    this.#ctx.cpu.relax();
  }

  #client(device: number): Device {
    const client = this.#clients[device];
    if (client === undefined) {
      throw new RangeError(`HostPort: device must be an integer from 0 to ${this.#clients.length - 1}, got ${device}`);
    }
    return client;
  }

  #describe(): BootStatus {
    const { core, log } = this.#ctx;
    return {
      protectedMode: this.#pkvm?.finalized ?? false,
      iommuAtEl2: this.#pkvm?.ownsIommus ?? false,
      translation: this.#translation(),
      initcalls: core.initcallRuns.map(({ level, name }) => `${level}:${name}`),
      deferrals: core.deferrals,
      iommus: this.#iommu.instances.map(({ name, dev }) => ({
        name,
        device: dev.path,
        driver: dev.driver?.name ?? "",
      })),
      poolBytes: this.#pkvm?.poolBytes ?? 0,
      warnings: log.entries().filter(({ level }) => level === "warn" || level === "err").map(({ text }) => text),
    };
  }

  /** Of all clients; they share one default. */
  #translation(): Translation {
    const first = this.#clients[0];
    const domain = first === undefined ? undefined : this.#iommu.domainOf(first);
    if (domain?.type !== "paging") return "identity";
    return domain.flushQueue === undefined ? "strict" : "fq";
  }
}
