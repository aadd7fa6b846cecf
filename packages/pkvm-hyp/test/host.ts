import { abiHash, writeHandoff } from "@smmuv3/pkvm-abi";
import { PAGE_SIZE } from "@smmuv3/platform";
import { HOST_PROT, iommus, startHyp } from "../src/index.ts";
import type { Hyp, HypCore, HypDomain, HypIommuDriver, HypIommuPaging, HypModule, UnmapVisitor } from "../src/index.ts";
import { FakeHypCpu, FIRMWARE, RAM_BASE, RAM_SIZE } from "./fake-cpu.ts";

const HANDOFF = { mmioSize: 0x2_0000, cmdqBase: 0, cmdqLog2: 0, strtabBase: 0, strtabBytes: 0, flags: 0 };

export const POOL_PAGES = 256;
export const POOL_BASE: number = RAM_BASE + RAM_SIZE - POOL_PAGES * PAGE_SIZE;

/** An IOMMU driver that records what it is told. */
export class RecordingDriver implements HypIommuDriver {
  readonly log: string[];
  core: HypCore | undefined = undefined;
  /** Status of unmaps, which take effect nevertheless; status of maps, which then do not. */
  refuse = 0;
  refuseMap = 0;
  finalizeStatus = 0;
  /** Pages that DMA of the host may reach. */
  readonly dma: Set<number> = new Set<number>();
  paging: RecordingPaging = new RecordingPaging(this);
  handoffStatus = 0;
  initStatus = 0;

  constructor(log: string[]) {
    this.log = log;
  }
  init(core: HypCore): number {
    this.core = core;
    return this.initStatus;
  }
  handoff(): number {
    if (this.handoffStatus < 0) return this.handoffStatus;
    this.log.push("handoff");
    this.core?.snapshot((start, end, prot) => this.hostStage2Idmap(start, end, prot));
    return 0;
  }
  hostStage2Idmap(start: number, end: number, prot: number): number {
    if (prot === HOST_PROT.none) {
      this.log.push(`idmap unmap ${start.toString(16)}`);
    } else if (this.refuseMap < 0) return this.refuseMap;
    for (let pa = start; pa < end; pa += PAGE_SIZE) {
      if (prot === HOST_PROT.none) this.dma.delete(pa);
      else this.dma.add(pa);
    }
    return prot === HOST_PROT.none ? this.refuse : 0;
  }
  setState(...args: number[]): number {
    if (this.paging.refuse < 0) return this.paging.refuse;
    this.log.push(`setState ${args.join(" ")}`);
    this.paging.streams.delete(`${args[1]}.${args[2]}`);
    return 0;
  }
  eventQueue(): number {
    return 0;
  }
  dataAbort(): undefined {
    return undefined;
  }
  finalize(): number {
    return this.finalizeStatus;
  }
  suspend(iommu: number): number {
    this.log.push(`suspend ${iommu}`);
    return 0;
  }
  resume(iommu: number): number {
    this.log.push(`resume ${iommu}`);
    return 0;
  }
}

/** Paging in a Map, with table memory of EL2: one page for each 2 MiB that has a leaf. */
export class RecordingPaging implements HypIommuPaging {
  readonly domains: Set<HypDomain> = new Set<HypDomain>();
  readonly streams: Map<string, HypDomain> = new Map<string, HypDomain>();
  /** Status of the next operations on hardware. */
  refuse = 0;
  /** Pages that one call maps at most. */
  limit: number = Infinity;
  readonly types: ReadonlySet<number>;
  readonly #driver: RecordingDriver;

  constructor(driver: RecordingDriver, types: readonly number[] = [1, 2]) {
    this.#driver = driver;
    this.types = new Set(types);
  }

  static leaves(domain: HypDomain): Map<number, number> {
    return (domain.data as { leaves: Map<number, number> }).leaves;
  }

  allocDomain(_iommu: number, domain: HypDomain): number {
    if (!this.types.has(domain.type)) return -95;
    domain.data = { leaves: new Map<number, number>(), tables: new Map<number, number>() };
    this.domains.add(domain);
    return 0;
  }

  freeDomain(domain: HypDomain, visit: UnmapVisitor): number {
    if (this.refuse < 0) return this.refuse;
    for (const pa of RecordingPaging.leaves(domain).values()) visit(pa, PAGE_SIZE);
    const { tables } = domain.data as { tables: Map<number, number> };
    for (const table of tables.values()) this.#driver.core?.iommuPool.free(table, PAGE_SIZE, "domains");
    this.domains.delete(domain);
    return 0;
  }

  attach(iommu: number, sid: number, pasid: number, domain: HypDomain): number {
    if (this.refuse < 0) return this.refuse;
    this.#driver.log.push(`attach ${iommu} ${sid} ${pasid} ${domain.id}`);
    this.streams.set(`${sid}.${pasid}`, domain);
    return 0;
  }

  mapPages(domain: HypDomain, iova: number, pa: number, pgsize: number, count: number): number {
    if (pgsize !== PAGE_SIZE) return -34;
    const { leaves, tables } = domain.data as { leaves: Map<number, number>; tables: Map<number, number> };
    for (let i = 0; i < count; i++) {
      const at = iova + i * PAGE_SIZE;
      const table = Math.floor(at / 2 ** 21);
      if (leaves.has(at) || i === this.limit) return i * PAGE_SIZE || -17;
      if (!tables.has(table)) {
        const memory = this.#driver.core?.iommuPool.alloc(PAGE_SIZE, "domains") ?? -12;
        if (memory < 0) return i * PAGE_SIZE || memory;
        tables.set(table, memory);
      }
      leaves.set(at, pa + i * PAGE_SIZE);
    }
    return count * PAGE_SIZE;
  }

  unmapPages(domain: HypDomain, iova: number, pgsize: number, count: number, visit: UnmapVisitor): number {
    if (this.refuse < 0) return this.refuse;
    const leaves = RecordingPaging.leaves(domain);
    for (let i = 0; i < count; i++) {
      const pa = leaves.get(iova + i * PAGE_SIZE);
      if (pa === undefined || pgsize !== PAGE_SIZE) return i * PAGE_SIZE;
      leaves.delete(iova + i * PAGE_SIZE);
      visit(pa, PAGE_SIZE);
    }
    return count * PAGE_SIZE;
  }

  iovaToPhys(domain: HypDomain, iova: number): number {
    return RecordingPaging.leaves(domain).get(iova) ?? 0;
  }
}

export interface Booted {
  readonly cpu: FakeHypCpu;
  readonly hyp: Hyp;
  readonly core: HypCore;
  readonly driver: RecordingDriver;
}

/** EL2 after `__pkvm_init` and, unless told otherwise, handoff and `__pkvm_prot_finalize`. */
export function boot(finalize = true, modules: readonly HypModule[] = []): Booted {
  const cpu = new FakeHypCpu();
  const driver = new RecordingDriver(cpu.log);
  const hyp = startHyp(cpu, { firmware: FIRMWARE, iommus: iommus(driver), modules });
  const status = cpu.call("__pkvm_init", abiHash(), POOL_BASE, POOL_PAGES);
  if (status < 0 || hyp.core === undefined) throw new Error(`__pkvm_init: ${status}`);
  if (finalize) {
    writeHandoff(cpu.memory, RAM_BASE + RAM_SIZE / 2, { ...HANDOFF, mmioBase: 0x0905_0000 });
    cpu.call("__pkvm_iommu_handoff", RAM_BASE + RAM_SIZE / 2);
    cpu.call("__pkvm_prot_finalize");
  }
  return { cpu, hyp, core: hyp.core, driver };
}

export const pfn = (pa: number): number => pa / PAGE_SIZE;
/** Page `index` of the host's RAM. */
export const page = (index: number): number => RAM_BASE + index * PAGE_SIZE;
