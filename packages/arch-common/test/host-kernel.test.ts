import * as abi from "@smmuv3/pkvm-abi";
import type { Device, Driver } from "@smmuv3/driver-core";
import { IommuDomain } from "@smmuv3/iommu-core";
import type { IommuOps } from "@smmuv3/iommu-core";
import { abiHash, poolPages } from "@smmuv3/pkvm-abi";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { DMA_CLIENT, DMA_DIRECTION, HostKernel } from "../src/index.ts";
import type { BootOptions, HandoffDriver, HostPort, PkvmPort } from "../src/index.ts";
import { FakeCpu, firmware, node, RAM, smmuNode } from "@smmuv3/fake-cpu";

const SMMU = smmuNode(0x905_0000);
const CLIENTS = [8, 16].map((id) =>
  node(`0000:00:0${id / 8}.0`, { compatible: [DMA_CLIENT], iommus: [{ iommu: SMMU.name, id }] }),
);
const VM_TABLES = 32;

/** An IOMMU driver whose page table is a Map. */
function iommuDriver(kernel: HostKernel, name: string, table: Map<number, number>, paging: boolean): Driver {
  const attachDev = (): number => 0;
  const ops: IommuOps = {
    identityDomain: new IommuDomain({ type: "identity", ops: { attachDev } }),
    blockedDomain: new IommuDomain({ type: "blocked", ops: { attachDev } }),
    ofXlate: () => 0,
    probeDevice: () => 0,
    releaseDevice: () => {},
    deviceGroup: (dev) => kernel.iommu.genericGroup(dev),
    capable: () => true,
    ...(paging ? { domainAllocPaging: () => pagingDomain(table) } : {}),
  };
  return {
    name,
    bus: "platform",
    ids: ["arm,smmu-v3"],
    probe: (dev) => kernel.iommu.register({ name: `${name}.0`, ops, dev, node: SMMU }),
  };
}

function pagingDomain(table: Map<number, number>): IommuDomain {
  return new IommuDomain({
    type: "paging",
    pgsizeBitmap: PAGE_SIZE,
    apertureEnd: 2 ** 32 - 1,
    ops: {
      attachDev: () => 0,
      mapPages(domain, iova, pa, pgsize, pgcount) {
        for (let i = 0; i < pgcount; i++) table.set(iova + i * pgsize, pa + i * pgsize);
        domain.mapped = pgsize * pgcount;
        return 0;
      },
      unmapPages(_domain, iova, pgsize, pgcount) {
        for (let i = 0; i < pgcount; i++) table.delete(iova + i * pgsize);
        return pgsize * pgcount;
      },
      flushIotlbAll: () => {},
    },
  });
}

interface Setup {
  readonly cpu: FakeCpu<abi.HypercallName>;
  readonly kernel: HostKernel;
  readonly port: HostPort;
  /** What the hand-off driver was asked, and who bound. */
  readonly events: string[];
  readonly table: Map<number, number>;
}

interface SetupOptions extends BootOptions {
  readonly pkvm?: boolean;
  readonly paging?: boolean;
  readonly handoff?: number;
  readonly prepare?: (cpu: FakeCpu<abi.HypercallName>) => void;
}

/** A kernel with a driver that claims the SMMU for EL2, if there is pKVM, and a stock driver. */
function boot(options: SetupOptions = {}): Setup {
  const cpu = new FakeCpu(abi);
  options.prepare?.(cpu);
  const kernel = new HostKernel(cpu, firmware([SMMU, ...CLIENTS]), options);
  const { core } = kernel.ctx;
  const table = new Map<number, number>();
  const events: string[] = [];
  const stock = iommuDriver(kernel, "stock", table, options.paging ?? true);
  if (options.pkvm === true) addClaimer(kernel, events, options.handoff ?? 0);
  core.initcall("device", "stock", () => {
    core.registerDriver(stock);
    return 0;
  });
  const port = kernel.start();
  return { cpu, kernel, port, events, table };
}

function addClaimer(kernel: HostKernel, events: string[], status: number): void {
  const { core } = kernel.ctx;
  const claimer: Driver = { name: "claimer", bus: "platform", ids: ["arm,smmu-v3"], probe: () => 0 };
  let accepted = 0;
  const handoff: HandoffDriver = {
    handoff() {
      events.push("handoff");
      if (status === 0) accepted = 1;
      return status;
    },
    ready() {
      events.push("ready");
      // The device in place of the physical one; its driver pages, so that a test sees who won.
      const driver: Driver = { ...iommuDriver(kernel, "at-el2", new Map(), false), bus: "faux" };
      core.addFaux({ name: "at-el2", driver, parent: core.findByNode(SMMU.name)! });
    },
    release() {
      events.push("release");
      core.unregisterDriver(claimer);
    },
  };
  core.initcall("subsys", "claimer", () => {
    core.registerDriver(claimer);
    return 0;
  });
  kernel.addPkvm({ iommu: true, handoffs: [handoff], accepted: () => accepted });
}

describe("boot", () => {
  test("without pKVM", () => {
    const { port, cpu } = boot();
    expect(port.status).toEqual({
      protectedMode: false,
      iommuAtEl2: false,
      translation: "strict",
      initcalls: ["arch:populate", "device:dma-client", "device:stock"],
      deferrals: 2,
      iommus: [{ name: "stock.0", device: "devices/platform/smmuv3@9050000", driver: "stock" }],
      poolBytes: 0,
      warnings: [],
    });
    expect(port.devices).toEqual(["0000:00:01.0", "0000:00:02.0"]);
    expect(cpu.calls).toEqual([]);
  });

  test("with pKVM: EL2 up, hand-over, deprivileged, then devices", () => {
    const { port, cpu, events } = boot({ pkvm: true });
    expect(port.status).toMatchObject({
      protectedMode: true,
      iommuAtEl2: true,
      translation: "identity",
      initcalls: [
        "arch:populate",
        "subsys:claimer",
        "device:dma-client",
        "device:kvm",
        "device:stock",
        "device_sync:finalize_pkvm",
        "device_sync:pkvm_devices",
      ],
      iommus: [{ name: "at-el2.0", device: "devices/platform/smmuv3@9050000/at-el2", driver: "at-el2" }],
      warnings: [],
    });
    const pages = poolPages(RAM.size, true);
    expect(port.status.poolBytes).toBe(pages * PAGE_SIZE);
    const [init, finalize] = cpu.calls;
    expect(init).toEqual(["__pkvm_init", abiHash(), init![2], pages]);
    expect(init![2]! % PAGE_SIZE).toBe(0);
    expect(finalize).toEqual(["__pkvm_prot_finalize"]);
    expect(cpu.calls).toHaveLength(2);
    expect(events).toEqual(["handoff", "ready"]);
    expect(port.devices).toHaveLength(2);
  });

  test.each([
    { name: "no EL2", step: "init failed: ENOSYS", handed: false, up: false, prepare: (cpu: FakeCpu<abi.HypercallName>) => (cpu.el2 = false) },
    {
      name: "EL2 refuses the ABI",
      step: "init failed: EINVAL",
      handed: false,
      up: false,
      prepare: (cpu: FakeCpu<abi.HypercallName>) => (cpu.answers.__pkvm_init = -ERRNO.EINVAL),
    },
    { name: "hand-over fails", step: "IOMMU hand-off failed: ENODEV", handed: true, up: true, handoff: -ERRNO.ENODEV },
    {
      name: "EL2 will not deprivilege the host",
      step: "finalize failed: EPERM",
      handed: true,
      up: true,
      prepare: (cpu: FakeCpu<abi.HypercallName>) => (cpu.answers.__pkvm_prot_finalize = -ERRNO.EPERM),
    },
  ])("$name: no protection, and the stock driver has the hardware", ({ step, handed, up, handoff = 0, prepare = () => 0 }) => {
    const { port, cpu, events, kernel } = boot({ pkvm: true, handoff, prepare });
    expect(events).toEqual(handed ? ["handoff", "release"] : ["release"]);
    expect(port.status).toMatchObject({
      protectedMode: false,
      iommuAtEl2: false,
      translation: "strict",
      iommus: [{ name: "stock.0", device: "devices/platform/smmuv3@9050000", driver: "stock" }],
    });
    expect(port.devices).toHaveLength(2);
    expect(port.status.warnings[0]).toBe(`kvm: pKVM ${step}; the host is not protected`);
    // What EL2 took it keeps; what it refused is the kernel's again.
    expect(kernel.ctx.pages.allocated).toBe(up ? port.status.poolBytes : 0);
    expect(port.status.poolBytes > 0).toBe(up);
    expect(port.vmCreate(1)).toBe(-ERRNO.ENOSYS);
    expect(cpu.argsOf("__pkvm_init_vm")).toEqual([]);
  });

  test("no memory for EL2: it is not started", () => {
    const cpu = new FakeCpu(abi);
    const kernel = new HostKernel(cpu, firmware([]));
    kernel.addPkvm({ iommu: false, handoffs: [], accepted: () => 0 });
    while (kernel.ctx.pages.alloc(PAGE_SIZE) >= 0);
    const { status } = kernel.start();
    expect(status.warnings[0]).toContain("ENOMEM");
    expect(cpu.calls).toEqual([]);
  });

  test("pKVM without IOMMUs is protected, and EL2 owns none", () => {
    const cpu = new FakeCpu(abi);
    const kernel = new HostKernel(cpu, firmware([]));
    kernel.addPkvm({ iommu: false, handoffs: [], accepted: () => 0 });
    const { status } = kernel.start();
    expect(status).toMatchObject({ protectedMode: true, iommuAtEl2: false });
    expect(status.poolBytes).toBe(poolPages(RAM.size, false) * PAGE_SIZE);
  });

  test.each([
    { translation: "identity", paging: true, expected: "identity" },
    { translation: "strict", paging: true, expected: "strict" },
    { translation: "fq", paging: true, expected: "fq" },
    { translation: "fq", paging: false, expected: "identity" },
  ] as const)("asked for $translation (paging: $paging) it is $expected", ({ translation, paging, expected }) => {
    expect(boot({ translation, paging }).port.status.translation).toBe(expected);
  });
});

describe("port", () => {
  test("pages go through the IOMMU's table", () => {
    const { port, table } = boot();
    const pa = port.allocPages(PAGE_SIZE);
    const before = port.allocatedBytes;
    const dma = port.dmaMap(0, pa + 16, 100, DMA_DIRECTION.toDevice);
    expect(dma % PAGE_SIZE).toBe(16);
    expect(table.get(dma - 16)).toBe(pa);
    expect(port.dmaUnmap(0, dma, 100, DMA_DIRECTION.toDevice)).toBe(0);
    expect(table.size).toBe(0);
    expect(port.allocatedBytes).toBe(before);
    port.freePages(pa, PAGE_SIZE);
    expect(port.allocatedBytes).toBe(before - PAGE_SIZE);
  });

  test("scatter lists, coherent memory, device space", () => {
    const { port, table } = boot();
    const pages = [port.allocPages(PAGE_SIZE), port.allocPages(PAGE_SIZE)];
    const entries = pages.map((pa) => ({ pa, length: PAGE_SIZE, dmaAddress: 0, dmaLength: 0 }));
    expect(port.dmaMapSg(1, entries, DMA_DIRECTION.fromDevice)).toBe(1);
    expect(table.get(entries[0]!.dmaAddress + PAGE_SIZE)).toBe(pages[1]);
    expect(port.dmaUnmapSg(1, entries, DMA_DIRECTION.fromDevice)).toBe(0);

    const dma = port.dmaAlloc(0, 5000);
    expect(table.get(dma)).toBe(port.coherentPa);
    expect(port.load32(port.coherentPa)).toBe(0);
    port.store32(port.coherentPa, -7);
    expect(port.load32(port.coherentPa)).toBe(-7);
    expect(port.dmaFree(0, port.coherentPa, dma, 2 * PAGE_SIZE)).toBe(0);

    const doorbell = port.dmaMapResource(0, 0x808_0000, PAGE_SIZE);
    expect(table.get(doorbell)).toBe(0x808_0000);
    expect(port.dmaUnmapResource(0, doorbell, PAGE_SIZE)).toBe(0);
    expect(table.size).toBe(0);
  });

  test("failures are errnos, a wrong device number is the caller's mistake", () => {
    const { port } = boot();
    expect(port.dmaMap(0, RAM.base, 0, DMA_DIRECTION.toDevice)).toBe(-ERRNO.EINVAL);
    expect(port.dmaAlloc(0, 1 << 30)).toBe(-ERRNO.ENOMEM);
    for (const device of [-1, 2, 0.5]) {
      expect(() => port.dmaMap(device, RAM.base, 16, DMA_DIRECTION.toDevice)).toThrow(RangeError);
    }
  });

  test("counts attaches and faults", () => {
    const { port, kernel } = boot();
    expect(port.attaches).toBe(2);
    expect(port.faultsReported).toBe(0);
    const dev: Device | undefined = kernel.ctx.core.findByNode("0000:00:01.0");
    kernel.iommu.reportFault(dev, { reason: "F_TRANSLATION", sid: 8 });
    expect(port.faultsReported).toBe(1);
  });

  test("without pKVM there are no VMs", () => {
    const { port } = boot();
    const results = [port.vmCreate(1), port.vmDonate(1, RAM.base, 0), port.vmRun(1, 0), port.vmDestroy(1, [])];
    expect(results).toEqual([-ERRNO.ENOSYS, -ERRNO.ENOSYS, -ERRNO.ENOSYS, -ERRNO.ENOSYS]);
  });
});

describe("VMs", () => {
  function bootPkvm(): Setup {
    const setup = boot({ pkvm: true });
    setup.cpu.calls.length = 0;
    return setup;
  }

  test("a VM's life", () => {
    const { port, cpu } = bootPkvm();
    cpu.answers.__pkvm_init_vm = 5;
    cpu.answers.__pkvm_vcpu_run = 1;
    const before = port.allocatedBytes;
    expect(port.vmCreate(2)).toBe(5);
    expect(port.allocatedBytes - before).toBe(VM_TABLES * PAGE_SIZE);
    const page = port.allocPages(PAGE_SIZE);
    expect(port.vmDonate(5, page, 0x8000_0000)).toBe(0);
    expect(port.vmRun(5, 1)).toBe(1);
    expect(port.vmDestroy(5, [page])).toBe(0);
    const base = cpu.argsOf("__pkvm_init_vm")[0]![0]!;
    expect(cpu.calls).toEqual([
      ["__pkvm_init_vm", base, VM_TABLES, 2],
      ["__pkvm_host_donate_guest", 5, page / PAGE_SIZE, 0x8000_0000],
      ["__pkvm_vcpu_run", 5, 1],
      ["__pkvm_teardown_vm", 5],
      ...Array.from({ length: VM_TABLES }, (_, i) => ["__pkvm_host_reclaim_page", base / PAGE_SIZE + i]),
      ["__pkvm_host_reclaim_page", page / PAGE_SIZE],
    ]);
    expect(port.allocatedBytes - before).toBe(PAGE_SIZE);
  });

  test("EL2 refuses to create one: its memory is back", () => {
    const { port, cpu } = bootPkvm();
    cpu.answers.__pkvm_init_vm = -ERRNO.ENOSPC;
    const before = port.allocatedBytes;
    expect(port.vmCreate(1)).toBe(-ERRNO.ENOSPC);
    expect(port.allocatedBytes).toBe(before);
  });

  test("errors of EL2 reach the caller", () => {
    const { port, cpu } = bootPkvm();
    cpu.answers.__pkvm_host_donate_guest = -ERRNO.EBUSY;
    cpu.answers.__pkvm_vcpu_run = -ERRNO.ENOENT;
    cpu.answers.__pkvm_teardown_vm = -ERRNO.ENOENT;
    expect([port.vmDonate(1, RAM.base, 0), port.vmRun(1, 0), port.vmDestroy(1, [RAM.base])]).toEqual([
      -ERRNO.EBUSY,
      -ERRNO.ENOENT,
      -ERRNO.ENOENT,
    ]);
    expect(cpu.argsOf("__pkvm_host_reclaim_page")).toEqual([]);
  });

  test.each([
    { name: "table memory", refuse: 3, lost: VM_TABLES * PAGE_SIZE },
    { name: "a data page", refuse: VM_TABLES, lost: 0 },
  ])("EL2 keeps $name: the rest is reclaimed all the same", ({ refuse, lost }) => {
    const { port, cpu } = bootPkvm();
    cpu.answers.__pkvm_init_vm = 1;
    port.vmCreate(1);
    const page = port.allocPages(PAGE_SIZE);
    const before = port.allocatedBytes;
    let asked = 0;
    cpu.answers.__pkvm_host_reclaim_page = () => (asked++ === refuse ? -ERRNO.EPERM : 0);
    expect(port.vmDestroy(1, [page])).toBe(-ERRNO.EPERM);
    expect(cpu.argsOf("__pkvm_host_reclaim_page")).toHaveLength(VM_TABLES + 1);
    expect(before - port.allocatedBytes).toBe(VM_TABLES * PAGE_SIZE - lost);
    expect(port.vmDestroy(1, [])).toBe(-ERRNO.ENOENT);
  });
});

describe("what EL2 asks for", () => {
  const { POOL, REQUEST } = abi;
  const NEEDS_TABLES = [-ERRNO.ENOMEM, REQUEST.memory, POOL.vcpu, 1];
  const MEMCACHE = 8;

  test("tables of a VM: its memcache is filled, and goes back with the VM", () => {
    const { port, cpu } = boot({ pkvm: true });
    cpu.answers.__pkvm_init_vm = 3;
    port.vmCreate(1);
    const before = port.allocatedBytes;
    let asked = 0;
    cpu.answers.__pkvm_host_donate_guest = () => (asked++ < 2 ? NEEDS_TABLES : [0]);
    expect(port.vmDonate(3, RAM.base, 0)).toBe(0);
    expect(cpu.argsOf("__pkvm_vcpu_topup").map(([handle, vcpu, , count]) => [handle, vcpu, count])).toEqual([[3, 0, MEMCACHE], [3, 0, MEMCACHE]]);
    expect(port.allocatedBytes - before).toBe(2 * MEMCACHE * PAGE_SIZE);
    expect(port.vmDestroy(3, [])).toBe(0);
    expect(cpu.argsOf("__pkvm_host_reclaim_page")).toHaveLength(VM_TABLES + 2 * MEMCACHE);
    expect(before - port.allocatedBytes).toBe(VM_TABLES * PAGE_SIZE);
  });

  test.each<[string, abi.HypercallName, number, number]>([
    ["EL2 refuses the memory", "__pkvm_vcpu_topup", -ERRNO.EBUSY, -ERRNO.EBUSY],
    ["EL2 never has enough", "__pkvm_vcpu_topup", 0, -ERRNO.ENOMEM],
  ])("%s", (_what, name, answer, status) => {
    const { port, cpu } = boot({ pkvm: true });
    cpu.answers.__pkvm_init_vm = 3;
    port.vmCreate(1);
    const before = port.allocatedBytes;
    cpu.answers[name] = answer;
    cpu.answers.__pkvm_host_donate_guest = NEEDS_TABLES;
    expect(port.vmDonate(3, RAM.base, 0)).toBe(status);
    expect(cpu.argsOf("__pkvm_vcpu_topup").length).toBe(answer < 0 ? 1 : 4);
    if (answer < 0) expect(port.allocatedBytes).toBe(before);
  });

  test("a guest's wants: memory at once, a page is the caller's to give", () => {
    const { port, cpu } = boot({ pkvm: true });
    cpu.answers.__pkvm_vcpu_run = [0, REQUEST.memory, POOL.iommu, 1];
    expect(port.vmRun(1, 0)).toBe(0);
    expect(cpu.argsOf("__pkvm_topup_hyp")).toMatchObject([[POOL.iommu, expect.any(Number) as number, 2]]);
    cpu.answers.__pkvm_vcpu_run = [0, REQUEST.guestPage, 0x8000_0000, 1];
    port.vmRun(1, 0);
    expect(port.pkvm!.lastRequest).toEqual({ type: REQUEST.guestPage, what: 0x8000_0000, pages: 1 });
    expect(cpu.argsOf("__pkvm_topup_hyp")).toHaveLength(1);
  });

  test("a pool's pages are free again once their block is whole", () => {
    const { port, cpu } = boot({ pkvm: true });
    const before = port.allocatedBytes;
    expect(port.pkvm!.topup(POOL.iommu, 4)).toBe(0);
    const first = cpu.argsOf("__pkvm_topup_hyp")[0]![1]!;
    const giving = (...pages: number[]): void => {
      cpu.answers.__pkvm_hyp_reclaim_pool = () => pages.shift() ?? -ERRNO.ENOENT;
    };
    giving(first + 1, first);
    expect(port.pkvm!.reclaimPool(POOL.iommu)).toBe(2);
    expect(port.allocatedBytes - before).toBe(4 * PAGE_SIZE);
    giving(first + 3, first + 2);
    expect(port.pkvm!.reclaimPool(POOL.iommu)).toBe(2);
    expect(port.allocatedBytes).toBe(before);
    giving();
    expect(port.pkvm!.reclaimPool(POOL.iommu)).toBe(0);
    cpu.answers.__pkvm_hyp_reclaim_pool = -ERRNO.EINVAL;
    expect(port.pkvm!.reclaimPool(9)).toBe(-ERRNO.EINVAL);
  });
});

describe("devices of VMs", () => {
  test.each<[abi.HypercallName, (pkvm: PkvmPort) => number, number[]]>([
    ["__pkvm_device_assign", (pkvm) => pkvm.assignDevice(1, 0, 8), [1, 0, 8]],
    ["__pkvm_pviommu_attach", (pkvm) => pkvm.attachPviommu(1, 2), [1, 2]],
    ["__pkvm_pviommu_add_vsid", (pkvm) => pkvm.addVsid(1, 2, 0, 8, 5), [1, 2, 0, 8, 5]],
    ["__pkvm_pviommu_finalise", (pkvm) => pkvm.finaliseVm(1), [1]],
    ["__pkvm_host_hvc_pd", (pkvm) => pkvm.setPower(0, true), [0, 1]],
    ["__pkvm_host_hvc_pd", (pkvm) => pkvm.setPower(1, false), [1, 0]],
  ])("%s", (name, call, args) => {
    const { port, cpu } = boot({ pkvm: true });
    cpu.answers[name] = -ERRNO.EBUSY;
    expect(call(port.pkvm!)).toBe(-ERRNO.EBUSY);
    expect(cpu.argsOf(name)).toEqual([args]);
  });

  test("there are none without protection", () => {
    expect(boot().port.pkvm).toBeUndefined();
    const prepare = (cpu: FakeCpu<abi.HypercallName>): unknown => (cpu.answers.__pkvm_init = -ERRNO.EINVAL);
    expect(boot({ pkvm: true, prepare }).port.pkvm).toBeUndefined();
  });
});
