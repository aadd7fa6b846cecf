// What users of the IOMMU core do through the port, on a driver that keeps a record.
import { FakeCpu, firmware, node, smmuNode } from "@smmuv3/fake-cpu";
import { IommuDomain } from "@smmuv3/iommu-core";
import type { DomainOps, IommuOps } from "@smmuv3/iommu-core";
import * as abi from "@smmuv3/pkvm-abi";
import { BOOT_DMA_PROPERTY, ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { DMA_CLIENT, HostKernel } from "../src/index.ts";
import type { KernelPort } from "../src/index.ts";

const SMMU = smmuNode(0x905_0000);
const CLIENT = node("0000:00:01.0", { compatible: [DMA_CLIENT], iommus: [{ iommu: SMMU.name, id: 8 }], properties: { "pasid-num-bits": 4 } });
const DISPLAY = node("display", { iommus: [{ iommu: SMMU.name, id: 24 }], properties: { [BOOT_DMA_PROPERTY]: true } });
const IOVA = 0x10_0000;
const READ_WRITE = 3;

interface Rig {
  readonly port: KernelPort;
  readonly kernel: HostKernel;
  /** Domain types in the order of the attaches; with a PASID `type@pasid`. */
  readonly attached: string[];
}

function boot(paging: boolean): Rig {
  const cpu = new FakeCpu(abi);
  const kernel = new HostKernel(cpu, firmware([SMMU, CLIENT, DISPLAY]));
  const attached: string[] = [];
  const common: DomainOps = {
    attachDev({ type }) {
      attached.push(type);
      return 0;
    },
    setDevPasid({ type }, _dev, pasid) {
      attached.push(`${type}@${pasid}`);
      return 0;
    },
  };
  const pagingOps: DomainOps = {
    ...common,
    mapPages(domain, _iova, _pa, pgsize, pgcount) {
      domain.mapped = pgsize * pgcount;
      return 0;
    },
    unmapPages: (_domain, _iova, pgsize, pgcount) => pgsize * pgcount,
  };
  const ops: IommuOps = {
    identityDomain: new IommuDomain({ type: "identity", ops: common }),
    blockedDomain: new IommuDomain({ type: "blocked", ops: common }),
    ofXlate: () => 0,
    probeDevice: () => 0,
    releaseDevice: () => {},
    deviceGroup: (dev) => kernel.iommu.genericGroup(dev),
    ...(paging ? { domainAllocPaging: () => new IommuDomain({ type: "paging", pgsizeBitmap: PAGE_SIZE, apertureEnd: 2 ** 32 - 1, ops: pagingOps }) } : {}),
  };
  kernel.ctx.core.initcall("device", "iommu", () => {
    kernel.ctx.core.registerDriver({
      name: "iommu", bus: "platform", ids: ["arm,smmu-v3"],
      probe: (dev) => kernel.iommu.register({ name: "iommu.0", ops, dev, node: SMMU }),
    });
    return 0;
  });
  const { kernel: port } = kernel.start();
  if (port === undefined) throw new Error("no port");
  attached.length = 0;
  return { port, kernel, attached };
}

describe("domains", () => {
  test("are made, mapped, attached, replaced and freed", () => {
    const { port, attached } = boot(true);
    const domain = port.allocDomain(0);
    expect(port.map(domain, IOVA, 0x4000_0000, 2 * PAGE_SIZE, READ_WRITE)).toBe(0);
    expect(port.attach(0, domain)).toBe(0);
    expect(port.domainType(0)).toBe("paging");
    expect(port.freeDomain(domain)).toBe(-ERRNO.EBUSY);
    expect([port.attach(0, "identity"), port.attach(0, "blocked"), port.attach(0, "default")]).toEqual([0, 0, 0]);
    expect(attached).toEqual(["paging", "identity", "blocked", "paging"]);
    expect(port.unmap(domain, IOVA, 2 * PAGE_SIZE)).toBe(2 * PAGE_SIZE);
    expect(port.freeDomain(domain)).toBe(0);
    expect(() => port.freeDomain(domain)).toThrow(RangeError);
  });

  test("PASIDs", () => {
    const { port, attached } = boot(true);
    const domain = port.allocDomain(0);
    expect([port.attachPasid(0, 3, domain), port.attachPasid(0, 3, domain), port.attachPasid(0, 16, domain)]).toEqual([0, -ERRNO.EBUSY, -ERRNO.EINVAL]);
    expect([port.detachPasid(0, 3), port.detachPasid(0, 3)]).toEqual([0, -ERRNO.ENOENT]);
    expect(attached).toEqual(["paging@3", "blocked@3"]);
  });

  test("are refused where the driver has none; processes too", () => {
    const { port } = boot(false);
    expect([port.allocDomain(0), port.bindProcess(0, 0x4000_0000, 48)]).toEqual([-ERRNO.EOPNOTSUPP, -ERRNO.EOPNOTSUPP]);
    expect(() => port.domainType(1)).toThrow("device must be an integer from 0 to 0, got 1");
  });
});

test("devices, instances and faults as the kernel shows them", () => {
  const { port, kernel } = boot(true);
  expect(port.tree.map(({ path, driver, firmware: fromFirmware }) => [path, driver, fromFirmware])).toEqual([
    [`devices/platform/${SMMU.name}`, "iommu", true],
    ["devices/pci/0000:00:01.0", "dma-client", true],
    ["devices/platform/display", "", true],
  ]);
  expect(port.tree[1]!.deferrals).toBe(1);
  expect(port.instances).toEqual([
    { name: "iommu.0", ops: expect.arrayContaining(["domainAllocPaging"]) as string[], domainOps: ["attachDev", "setDevPasid", "mapPages", "unmapPages"] },
  ]);
  kernel.iommu.reportFault(kernel.ctx.core.boundTo("dma-client")[0], { reason: "F_TRANSLATION", iova: 5 });
  kernel.iommu.reportFault(undefined, { reason: "C_BAD_STREAMID" });
  expect(port.faults).toEqual([
    { device: "0000:00:01.0", reason: "F_TRANSLATION", iova: 5 },
    { device: "", reason: "C_BAD_STREAMID", iova: undefined },
  ]);
});

test("an unplugged device is blocked and gone", () => {
  const { port, attached } = boot(true);
  port.unplug(0);
  expect(attached).toEqual(["blocked"]);
  expect(port.tree.map(({ path }) => path)).not.toContain("devices/pci/0000:00:01.0");
  port.shutdown();
});

test("memory of boot DMA is the device's one to one", () => {
  const { kernel } = boot(true);
  const [rmr, ...others] = kernel.iommu.rmrsOf(SMMU.name);
  expect(others).toEqual([]);
  expect(rmr).toMatchObject({ ids: [24], remapPermitted: false, ...kernel.ctx.firmware.memory });
});
