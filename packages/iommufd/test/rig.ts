// A kernel with two IOMMUs whose page tables are Maps, devices behind them, and one open iommufd.
import { createKernel } from "@smmuv3/driver-core";
import type { Device, Driver, KernelContext } from "@smmuv3/driver-core";
import { copyUserData, copyUserEntry, IommuCore, IommuDomain } from "@smmuv3/iommu-core";
import type {
  DomainOps, HwQueue, IommuInstance, IommuOps, IotlbGather, ReservedRegion, Viommu, ViommuOps,
} from "@smmuv3/iommu-core";
import { FakeCpu, firmware, node } from "@smmuv3/fake-cpu";
import { Iommufd, UserMemory } from "../src/index.ts";
import type { IommufdOptions, RequestArgs, RequestName } from "../src/index.ts";

export const PAGE = 0x1000;
export const RAM: { base: number; size: number } = { base: 0x4000_0000, size: 16 << 20 };
/** Where user space has the second half of RAM. */
export const USER = 0x7000_0000;
const USER_PA: number = RAM.base + (8 << 20);
export const VIOMMU_TYPE = 7;
export const QUEUE_TYPE = 3;
const APERTURE_END = 2 ** 40 - 1;

export class TableDomain extends IommuDomain {
  readonly table: Map<number, number> = new Map<number, number>();
  freed: boolean = false;
}

/** An IOMMU driver without hardware: what tests make it answer, and what it was asked. */
export class FakeDriver {
  readonly log: string[] = [];
  readonly resv: ReservedRegion[] = [];
  readonly attached: Map<string, IommuDomain> = new Map<string, IommuDomain>();
  readonly domains: TableDomain[] = [];
  readonly viommus: Viommu[] = [];
  readonly queues: HwQueue[] = [];
  dirty: boolean = true;
  coherent: boolean = true;
  /** Maps that succeed before one fails. */
  failAfter: number = Infinity;
  attachStatus: number = 0;
  viommuStatus: number = 0;
  /** Whether domains can be made coherent; `undefined`: devices do not need it. */
  enforces: boolean | undefined = undefined;
  responses: string[] = [];
  readonly ops: IommuOps;

  constructor(core: IommuCore, nested: boolean) {
    const attachDev = (domain: IommuDomain, dev: Device): number => {
      if (this.attachStatus < 0 && domain.type === "paging") return this.attachStatus;
      this.attached.set(dev.name, domain);
      return 0;
    };
    const setDevPasid = (domain: IommuDomain, dev: Device, pasid: number): number => {
      this.attached.set(`${dev.name}.${pasid}`, domain);
      return 0;
    };
    const paging = this.#paging(attachDev, setDevPasid);
    const alloc = (_: Device, flags: number): IommuDomain => {
      const domain = new TableDomain({ type: "paging", ops: paging, pgsizeBitmap: PAGE, apertureEnd: APERTURE_END });
      domain.tracksDirty = (flags & 2) !== 0;
      this.domains.push(domain);
      return domain;
    };
    this.ops = {
      ofXlate: () => 0,
      probeDevice: (dev) => {
        core.setDrvdata(dev, {});
        return 0;
      },
      releaseDevice: () => {},
      deviceGroup: (dev) => core.genericGroup(dev),
      identityDomain: new IommuDomain({ type: "identity", ops: { attachDev } }),
      blockedDomain: new IommuDomain({ type: "blocked", ops: { attachDev, setDevPasid } }),
      domainAllocPaging: (dev) => alloc(dev, 0),
      domainAllocPagingFlags: alloc,
      getResvRegions: () => this.resv,
      pageResponse: (dev, request, response) => {
        this.responses.push(`${dev.name} ${request.grpid} ${response}`);
      },
      capable: (_, capability) =>
        (capability === "cache-coherency" && this.coherent) ||
        (capability === "enforce-cache-coherency" && this.enforces !== undefined) || (capability === "dirty-tracking" && this.dirty),
      ...(nested
        ? {
            hwInfo: (_dev: Device, type: number) =>
              type === 0 || type === VIOMMU_TYPE ? { type: VIOMMU_TYPE, words: Int32Array.of(1, 2, 3) } : -95,
            getViommuSize: (_dev: Device, type: number) => (type === VIOMMU_TYPE ? 64 : 0),
            viommuInit: (viommu: Viommu) => {
              if (this.viommuStatus < 0) return this.viommuStatus;
              viommu.ops = this.#viommuOps(attachDev);
              this.viommus.push(viommu);
              return 0;
            },
          }
        : {}),
    };
  }

  #viommuOps(attachDev: DomainOps["attachDev"]): ViommuOps {
    return {
      destroy: () => void this.log.push("viommu gone"),
      allocDomainNested: (_, flags, data) => {
        const words = copyUserData(data, 2, 2);
        if (flags !== 0) return -95;
        return typeof words === "number" ? words : new IommuDomain({ type: "nested", ops: { attachDev } });
      },
      cacheInvalidate: (_, array) => {
        for (let i = 0; i < array.count; i++) {
          const words = copyUserEntry(array, 1, i, 2);
          if (typeof words === "number") return words;
          if (words[0] === 0) return -5;
          array.done++;
        }
        return 0;
      },
      vdeviceInit: ({ virtId }) => (virtId === 99 ? -22 : 0),
      vdeviceDestroy: ({ virtId }) => void this.log.push(`vdevice ${virtId} gone`),
      hasHwQueue: (_, type) => type === QUEUE_TYPE,
      hwQueueInit: (queue) => {
        if (queue.index > 3) return -22;
        const below = this.queues[queue.index - 1];
        if (below !== undefined) queue.viommu.host.dependHwQueue(queue, below);
        this.queues[queue.index] = queue;
        return 0;
      },
      hwQueueDestroy: (queue) => {
        const below = this.queues[queue.index - 1];
        if (below !== undefined) queue.viommu.host.undependHwQueue(queue, below);
        this.log.push(`queue ${queue.index} gone`);
      },
    };
  }

  #paging(attachDev: DomainOps["attachDev"], setDevPasid: NonNullable<DomainOps["setDevPasid"]>): DomainOps {
    return {
      attachDev,
      setDevPasid,
      mapPages: (domain: TableDomain, iova, pa, pgsize, pgcount) => {
        for (let i = 0; i < pgcount; i++) {
          if (this.failAfter-- <= 0) return -12;
          domain.table.set(iova + i * pgsize, pa + i * pgsize);
          domain.mapped += pgsize;
        }
        return 0;
      },
      unmapPages: (domain: TableDomain, iova, pgsize, pgcount, gather: IotlbGather) => {
        for (let i = 0; i < pgcount; i++) {
          if (!domain.table.delete(iova + i * pgsize)) return i * pgsize;
          gather.addPage(domain, iova + i * pgsize, pgsize);
        }
        return pgsize * pgcount;
      },
      iovaToPhys: (domain: TableDomain, iova) => domain.table.get(iova) ?? 0,
      readAndClearDirty: (_, iova, _size, _noClear, visit) => {
        visit(iova + PAGE, PAGE);
        return 0;
      },
      enforceCacheCoherency: () => this.enforces === true,
      free: (domain: TableDomain) => {
        domain.freed = true;
      },
    };
  }
}

export class Rig {
  readonly kernel: KernelContext;
  readonly core: IommuCore;
  readonly drivers: FakeDriver[];
  readonly user: UserMemory;
  readonly fd: Iommufd;

  constructor(options: IommufdOptions & { nested?: boolean } = {}) {
    const cpu = new FakeCpu(undefined, RAM);
    const clients = [0, 0, 1].map((iommu, i) =>
      node(`dev${i}`, {
        compatible: ["test,client"], iommus: [{ iommu: `iommu${iommu}`, id: i }], properties: { "pasid-num-bits": 4 },
      }),
    );
    const tables = firmware([node("iommu0"), node("iommu1"), ...clients], RAM);
    this.kernel = createKernel({ cpu, firmware: tables, ram: { base: RAM.base, size: 8 << 20 } });
    this.core = new IommuCore(this.kernel, { defaultDomainType: "identity" });
    this.kernel.core.populate(tables);
    this.drivers = [0, 1].map((i) => {
      const driver = new FakeDriver(this.core, options.nested ?? true);
      const dev = this.kernel.core.findByNode(`iommu${i}`)!;
      const instance: IommuInstance = { name: `iommu${i}`, ops: driver.ops, dev, node: dev.node! };
      this.core.register(instance);
      return driver;
    });
    const vfio: Driver = { name: "vfio", bus: "platform", ids: ["test,client"], managesDma: true, probe: () => 0 };
    this.kernel.core.registerDriver(vfio);
    this.user = new UserMemory(this.kernel.memory);
    this.user.map(USER, USER_PA, 4 << 20);
    // Two pages that are neighbours to user space only; and what it can only read.
    this.user.map(USER + (8 << 20), USER_PA + (5 << 20), PAGE);
    this.user.map(USER + (8 << 20) + PAGE, USER_PA + (6 << 20), PAGE);
    this.user.map(USER + (16 << 20), USER_PA + (7 << 20), PAGE, false);
    this.fd = new Iommufd(this.core, this.user, options);
  }

  dev(i: number): Device {
    return this.kernel.core.findByNode(`dev${i}`)!;
  }

  /** A member of what a request that must succeed leaves. */
  make<N extends RequestName>(name: N, args: Partial<RequestArgs<N>>, out: keyof RequestArgs<N>): number {
    const result = this.fd.call(name, args);
    if (result.status < 0) throw new Error(`${name}: ${result.status}`);
    return result[out];
  }

  bind(i: number): number {
    const id = this.fd.bind(this.dev(i));
    if (id < 0) throw new Error(`bind: ${id}`);
    return id;
  }

  ioas(): number {
    return this.make("IOAS_ALLOC", {}, "out_ioas_id");
  }

  hwpt(dev_id: number, pt_id: number, flags: number = 0): number {
    return this.make("HWPT_ALLOC", { dev_id, pt_id, flags }, "out_hwpt_id");
  }

  /** Words in user memory; their address. */
  words(...words: number[]): number {
    const at = USER + (2 << 20);
    this.user.write(at, new Uint8Array(Int32Array.from(words).buffer));
    return at;
  }

  /** A vIOMMU over a new nest parent: ids. */
  viommu(): { dev: number; ioas: number; parent: number; viommu: number } {
    const dev = this.bind(0);
    const ioas = this.ioas();
    const parent = this.hwpt(dev, ioas, 1);
    const viommu = this.make("VIOMMU_ALLOC", { type: VIOMMU_TYPE, dev_id: dev, hwpt_id: parent }, "out_viommu_id");
    return { dev, ioas, parent, viommu };
  }
}
