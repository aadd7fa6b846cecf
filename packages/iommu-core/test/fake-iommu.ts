import { createKernel } from "@smmuv3/driver-core";
import type { Device, Driver, KernelContext } from "@smmuv3/driver-core";
import type { FirmwareNode } from "@smmuv3/platform";
import { IommuCore, IommuDomain } from "../src/index.ts";
import type {
  DomainOps,
  IommuCoreOptions,
  IommuGroup,
  IommuInstance,
  IommuOps,
  IotlbGather,
  ReservedRegion,
} from "../src/index.ts";
import { FakeCpu, firmware, node } from "@smmuv3/fake-cpu";

export const K4 = 4096;
export const M2: number = 2 << 20;
export const G1: number = 2 ** 30;
export const RAM: { base: number; size: number } = { base: 0x4000_0000, size: 16 << 20 };

interface Leaf {
  pa: number;
  size: number;
  prot: number;
}

/** A page table that is a Map, with a TLB that keeps what was unmapped until it is invalidated. */
export class FakeDomain extends IommuDomain {
  readonly table: Map<number, Leaf> = new Map<number, Leaf>();
  readonly tlb: Map<number, Leaf> = new Map<number, Leaf>();
  freed: boolean = false;
}

/** An IOMMU driver without hardware. */
export class FakeIommu {
  readonly core: IommuCore;
  readonly events: string[] = [];
  /** Domain that each device's DMA really goes through. */
  readonly attached: Map<string, IommuDomain> = new Map<string, IommuDomain>();
  /** Attaching these devices to a paging domain fails. */
  readonly refuse: Set<string> = new Set<string>();
  /** Errno of the next page table operation after `failAfter` more of them. */
  failAfter: number = Infinity;
  /** Pages that one call maps at most. */
  chunk: number = 512;
  /** Calls of flushIotlbAll. */
  flushes: number = 0;
  syncs: { start: number; end: number; pgsize: number }[] = [];
  resv: ReservedRegion[] = [];
  shareGroup: IommuGroup | undefined = undefined;
  pgsizeBitmap: number = K4 + M2 + G1;
  apertureEnd: number = 2 ** 48 - 1;
  probeStatus: number = 0;
  domains: FakeDomain[] = [];
  readonly ops: IommuOps;

  constructor(core: IommuCore, options: { paging: boolean } = { paging: true }) {
    this.core = core;
    const attachDev = (domain: IommuDomain, dev: Device): number => {
      if (domain.type === "paging" && this.refuse.has(dev.name)) return -22;
      this.attached.set(dev.name, domain);
      this.events.push(`${dev.name} ${domain.type}`);
      return 0;
    };
    const pagingOps = this.#pagingOps(attachDev);
    this.ops = {
      ofXlate: (_dev, id) => (id > 255 ? -34 : 0),
      probeDevice: (dev) => {
        if (this.probeStatus === 0) core.setDrvdata(dev, { sids: [...core.fwspecOf(dev)!.ids] });
        return this.probeStatus;
      },
      releaseDevice: (dev) => {
        this.events.push(`${dev.name} released`);
      },
      deviceGroup: (dev) => this.shareGroup ?? core.genericGroup(dev),
      identityDomain: new IommuDomain({ type: "identity", ops: { attachDev } }),
      blockedDomain: new IommuDomain({ type: "blocked", ops: { attachDev } }),
      getResvRegions: () => this.resv,
      ...(options.paging
        ? {
            domainAllocPaging: () => {
              const { pgsizeBitmap, apertureEnd } = this;
              const domain = new FakeDomain({ type: "paging", ops: pagingOps, pgsizeBitmap, apertureEnd });
              this.domains.push(domain);
              return domain;
            },
          }
        : {}),
    };
  }

  #pagingOps(attachDev: DomainOps["attachDev"]): DomainOps {
    return {
      attachDev,
      mapPages: (domain: FakeDomain, iova, pa, pgsize, pgcount, prot) => {
        if (iova % pgsize !== 0 || pa % pgsize !== 0) throw new Error(`a leaf of ${pgsize} bytes at ${iova}, ${pa}`);
        const count = Math.min(pgcount, this.chunk);
        for (let i = 0; i < count; i++) {
          if (this.failAfter-- <= 0) return -12;
          if (domain.table.has(iova + i * pgsize)) return -17;
          const leaf = { pa: pa + i * pgsize, size: pgsize, prot };
          domain.table.set(iova + i * pgsize, leaf);
          domain.tlb.set(iova + i * pgsize, leaf);
          domain.mapped += pgsize;
        }
        return 0;
      },
      unmapPages: (domain: FakeDomain, iova, pgsize, pgcount, gather) => {
        let bytes = 0;
        for (let i = 0; i < pgcount; i++, bytes += pgsize) {
          if (!remove(domain.table, iova + i * pgsize, pgsize)) break;
          gather.addPage(domain, iova + i * pgsize, pgsize);
        }
        return bytes;
      },
      iotlbSync: (domain: FakeDomain, gather: IotlbGather) => {
        if (gather.pgsize === 0) return;
        this.syncs.push({ start: gather.start, end: gather.end, pgsize: gather.pgsize });
        for (const iova of domain.tlb.keys()) {
          if (iova >= gather.start && iova <= gather.end) domain.tlb.delete(iova);
        }
      },
      flushIotlbAll: (domain: FakeDomain) => {
        this.flushes++;
        domain.tlb.clear();
        for (const [iova, leaf] of domain.table) domain.tlb.set(iova, leaf);
      },
      iovaToPhys: (domain: FakeDomain, iova) => translate(domain.table, iova),
      free: (domain: FakeDomain) => {
        domain.freed = true;
      },
    };
  }

  /** Where a DMA of `dev` to `iova` goes through the TLB: a physical address, or -1. */
  dma(dev: Device, iova: number): number {
    const domain = this.attached.get(dev.name);
    if (domain?.type === "identity") return iova;
    return domain instanceof FakeDomain ? translate(domain.tlb, iova) || -1 : -1;
  }

  instance(name: string, dev: Device, of: FirmwareNode): IommuInstance {
    return { name, ops: this.ops, dev, node: of };
  }
}

/** Removes the leaf at `iova`, or the lower-level table in its place with all that is in it. */
function remove(table: Map<number, Leaf>, iova: number, size: number): boolean {
  const leaf = table.get(iova);
  if (leaf !== undefined && leaf.size >= size) return leaf.size === size && table.delete(iova);
  let any = false;
  for (let at = iova; size > K4 && at < iova + size; at += K4) any = table.delete(at) || any;
  return any;
}

function translate(table: ReadonlyMap<number, Leaf>, iova: number): number {
  for (const size of [K4, M2, G1]) {
    const page = iova - (iova % size);
    const leaf = table.get(page);
    if (leaf?.size === size) return leaf.pa + (iova % size);
  }
  return 0;
}

export interface Setup {
  readonly kernel: KernelContext;
  readonly iommu: IommuCore;
  readonly fake: FakeIommu;
  readonly instance: IommuInstance;
  readonly dev: (name: string) => Device;
}

/** Driver of every test client. */
export const CLIENT: Driver = { name: "client", bus: "pci", ids: ["test,client"], probe: () => 0 };

export function client(name: string, ids: number[], properties: FirmwareNode["properties"] = {}): FirmwareNode {
  return node(name, {
    compatible: ["test,client"],
    iommus: ids.map((id) => ({ iommu: "smmu", id })),
    properties,
  });
}

/** A kernel with an IOMMU node, the given clients, and a client driver; the IOMMU is registered unless `late`. */
export function setUp(
  clients: FirmwareNode[],
  options: IommuCoreOptions & { paging?: boolean; late?: boolean; ram?: typeof RAM } = {},
): Setup {
  const ram = options.ram ?? RAM;
  const smmu = node("smmu", { compatible: ["test,smmu"] });
  const kernel = createKernel({ cpu: new FakeCpu(undefined, ram), firmware: firmware([smmu, ...clients], ram) });
  const iommu = new IommuCore(kernel, options);
  const fake = new FakeIommu(iommu, { paging: options.paging ?? true });
  kernel.core.populate(kernel.firmware);
  const instance = fake.instance("fake.0", kernel.core.findByNode("smmu")!, smmu);
  if (options.late !== true) iommu.register(instance);
  kernel.core.registerDriver(CLIENT);
  return { kernel, iommu, fake, instance, dev: (name) => kernel.core.findByNode(name)! };
}
