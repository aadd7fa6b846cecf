import * as abi from "@smmuv3/pkvm-abi";
import { createKernel } from "@smmuv3/driver-core";
import type { Device, KernelContext } from "@smmuv3/driver-core";
import { IommuCore, IommuDomain } from "@smmuv3/iommu-core";
import type { IommuCoreOptions } from "@smmuv3/iommu-core";
import { IOMMU_STATE } from "@smmuv3/pkvm-abi";
import { ERRNO } from "@smmuv3/platform";
import type { FirmwareNode } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { DomainIds, PvDomain } from "@smmuv3/pkvm-iommu-lib";
import { pkvmIommuDriver, streamOwner } from "../src/index.ts";
import type { PkvmIommuOptions } from "../src/index.ts";
import { FakeCpu, firmware, node, smmuNode } from "@smmuv3/fake-cpu";

const { blocking, identity } = IOMMU_STATE;
const SMMU = smmuNode(0x905_0000);
const OTHER = smmuNode(0x907_0000);

interface Setup {
  readonly cpu: FakeCpu<abi.HypercallName>;
  readonly kernel: KernelContext;
  readonly iommu: IommuCore;
  readonly faux: Device | undefined;
  readonly dev: (name: string) => Device;
  /** Calls of set_state since the last look: [iommu, sid, pasid, state]. */
  readonly calls: () => number[][];
}

function client(name: string, ids: number[], fields: Partial<FirmwareNode> = {}, iommu: string = SMMU.name): FirmwareNode {
  return node(name, { compatible: ["test,client"], iommus: ids.map((id) => ({ iommu, id })), ...fields });
}

const LIMITS = { pgsizeBitmap: 0x4020_1000, s1Bits: 48, s2Bits: 44 };

function setUp(
  clients: FirmwareNode[],
  prepare: (cpu: FakeCpu<abi.HypercallName>) => void = () => {},
  options: Partial<PkvmIommuOptions> & IommuCoreOptions = {},
): Setup {
  const cpu = new FakeCpu(abi);
  prepare(cpu);
  const kernel = createKernel({ cpu, firmware: firmware([SMMU, OTHER, ...clients]) });
  const iommu = new IommuCore(kernel, options);
  kernel.core.populate(kernel.firmware);
  kernel.core.registerDriver({ name: "client", bus: "pci", ids: ["test,client"], probe: () => 0 });
  const driver = pkvmIommuDriver(kernel, iommu, { iommu: 2, node: SMMU, paging: options.paging });
  const parent = kernel.core.findByNode(SMMU.name)!;
  const faux = kernel.core.addFaux({ name: "pkvm-iommu.2", driver, parent });
  const calls = (): number[][] => {
    const args = cpu.argsOf("__pkvm_iommu_set_state");
    cpu.calls.length = 0;
    return args;
  };
  return { cpu, kernel, iommu, faux, calls, dev: (name) => kernel.core.findByNode(name)! };
}

test("the faux device is registered in place of the physical node", () => {
  const { iommu, faux, kernel } = setUp([]);
  const [instance] = iommu.instances;
  expect(instance).toMatchObject({ name: "pkvm-iommu.2", node: SMMU });
  expect(instance!.dev).toBe(faux);
  expect(iommu.instanceOf(SMMU.name)).toBe(instance);
  expect(kernel.core.sysfs.readlink("class/iommu/pkvm-iommu.2")).toBe(
    "devices/platform/smmuv3@9050000/pkvm-iommu.2/iommu/pkvm-iommu.2",
  );
});

test("a client waits for its IOMMU, is checked, and gets the identity domain: one hypercall a stream", () => {
  const { iommu, calls, dev, kernel } = setUp([client("0000:00:01.0", [8, 9])]);
  expect(kernel.core.deferrals).toBe(1);
  expect(dev("0000:00:01.0").driver?.name).toBe("client");
  expect(calls()).toEqual([
    [2, 8, 0, blocking],
    [2, 9, 0, blocking],
    [2, 8, 0, identity],
    [2, 9, 0, identity],
  ]);
  expect(iommu.domainOf(dev("0000:00:01.0"))?.type).toBe("identity");
});

test("a device whose DMA is active at boot is never blocked on the way", () => {
  const { calls, kernel } = setUp([client("0000:00:01.0", [8], { properties: { "iommu-addresses": true } })]);
  expect(kernel.core.boundTo("client")).toHaveLength(1);
  expect(calls()).toEqual([[2, 8, 0, identity], [2, 8, 0, identity]]);
});

test("blocking, identity and removal are single calls", () => {
  const { iommu, kernel, calls, dev } = setUp([client("0000:00:01.0", [8])]);
  const device = dev("0000:00:01.0");
  const group = iommu.groupOf(device)!;
  const { ops } = iommu.instances[0]!;
  calls();
  expect(iommu.attachGroup(group, ops.blockedDomain)).toBe(0);
  expect(calls()).toEqual([[2, 8, 0, blocking]]);
  expect(iommu.attachGroup(group, ops.identityDomain)).toBe(0);
  expect(calls()).toEqual([[2, 8, 0, identity]]);
  kernel.core.removeDevice(device);
  expect(calls()).toEqual([[2, 8, 0, blocking]]);
});

test("DMA addresses are physical and cost no hypercall", () => {
  const { iommu, calls, dev } = setUp([client("0000:00:01.0", [8])]);
  calls();
  const device = dev("0000:00:01.0");
  expect(iommu.dma.mapPage(device, 0x4010_0000, 4096, 0)).toBe(0x4010_0000);
  expect(iommu.dma.unmapPage(device, 0x4010_0000, 4096, 0)).toBe(0);
  expect(calls()).toEqual([]);
  expect(iommu.allocPaging(device)).toBe(-ERRNO.EOPNOTSUPP);
});

test("EL2 does not have a stream: the device is not added, the others are as they were", () => {
  const { iommu, kernel, calls, dev } = setUp([client("0000:00:01.0", [8, 500])], (cpu) => {
    cpu.answers.__pkvm_iommu_set_state = (_iommu, sid) => (sid === 500 ? -ERRNO.EINVAL : 0);
  });
  expect(calls()).toEqual([
    [2, 8, 0, blocking],
    [2, 500, 0, blocking],
    [2, 8, 0, blocking],
  ]);
  expect(dev("0000:00:01.0").driver).toBeUndefined();
  expect(iommu.groups).toEqual([]);
  expect(kernel.log.lines("err")).toContain("iommu: 0000:00:01.0: cannot add to pkvm-iommu.2: EINVAL");
});

test("an attach that EL2 refuses half-way keeps the old domain for every stream", () => {
  const { cpu, iommu, calls, dev } = setUp([client("0000:00:01.0", [8, 9, 10])]);
  const device = dev("0000:00:01.0");
  calls();
  cpu.answers.__pkvm_iommu_set_state = (_iommu, sid, _pasid, state) =>
    sid === 10 && state === blocking ? -ERRNO.ENOMEM : 0;
  const { blockedDomain } = iommu.instances[0]!.ops;
  expect(iommu.attachGroup(iommu.groupOf(device)!, blockedDomain)).toBe(-ERRNO.ENOMEM);
  expect(calls()).toEqual([
    [2, 8, 0, blocking],
    [2, 9, 0, blocking],
    [2, 10, 0, blocking],
    [2, 9, 0, identity],
    [2, 8, 0, identity],
  ]);
  expect(iommu.domainOf(device)?.type).toBe("identity");
  expect(blockedDomain.users).toBe(0);
});

test("the first attach refused: what was changed is blocked again", () => {
  const { calls, dev } = setUp([client("0000:00:01.0", [8, 9])], (cpu) => {
    cpu.answers.__pkvm_iommu_set_state = (_iommu, sid, _pasid, state) =>
      sid === 9 && state === identity ? -ERRNO.EBUSY : 0;
  });
  expect(calls().slice(2)).toEqual([
    [2, 8, 0, identity],
    [2, 9, 0, identity],
    [2, 8, 0, blocking],
  ]);
  expect(dev("0000:00:01.0").driver).toBeUndefined();
});

test("EL2 gone: -ENOSYS reaches the device", () => {
  const { cpu, iommu, dev } = setUp([client("0000:00:01.0", [8])]);
  cpu.el2 = false;
  const { blockedDomain } = iommu.instances[0]!.ops;
  expect(iommu.attachGroup(iommu.groupOf(dev("0000:00:01.0"))!, blockedDomain)).toBe(-ERRNO.ENOSYS);
});

test("one driver serves one device, one node one instance", () => {
  const { iommu, kernel } = setUp([]);
  const parent = kernel.core.findByNode(SMMU.name)!;
  const driver = pkvmIommuDriver(kernel, iommu, { iommu: 3, node: OTHER });
  expect(kernel.core.addFaux({ name: "a", driver, parent })).toBeDefined();
  expect(kernel.core.addFaux({ name: "b", driver, parent })).toBeUndefined();
  const same = pkvmIommuDriver(kernel, iommu, { iommu: 4, node: SMMU });
  expect(kernel.core.addFaux({ name: "c", driver: same, parent })).toBeUndefined();
  expect(iommu.instances.map(({ name }) => name)).toEqual(["pkvm-iommu.2", "pkvm-iommu.3"]);
});

test("removing the faux device blocks its clients and unregisters", () => {
  const { iommu, kernel, faux, calls } = setUp([client("0000:00:01.0", [8])]);
  calls();
  kernel.core.removeDevice(faux!);
  expect(calls()).toEqual([[2, 8, 0, blocking]]);
  expect(iommu.instances).toEqual([]);
});

test("who owns a stream", () => {
  const { iommu, dev } = setUp([client("0000:00:01.0", [8, 9]), client("0000:00:02.0", [16])]);
  expect(streamOwner(iommu, SMMU.name, 9)).toBe(dev("0000:00:01.0"));
  expect(streamOwner(iommu, SMMU.name, 16)).toBe(dev("0000:00:02.0"));
  expect(streamOwner(iommu, SMMU.name, 17)).toBeUndefined();
  expect(streamOwner(iommu, OTHER.name, 16)).toBeUndefined();
});

test("the domains are static: one of each for all devices", () => {
  const { iommu, dev } = setUp([client("0000:00:01.0", [8]), client("0000:00:02.0", [16])]);
  const domain = iommu.domainOf(dev("0000:00:01.0"));
  expect(domain).toBeInstanceOf(IommuDomain);
  expect(iommu.domainOf(dev("0000:00:02.0"))).toBe(domain);
  expect(domain?.users).toBe(2);
});

describe("with paging", () => {
  const paging = (): PkvmIommuOptions["paging"] => ({ ids: new DomainIds(), limits: LIMITS });
  const all = (cpu: FakeCpu<abi.HypercallName>): void => {
    cpu.answers.__pkvm_iommu_map_pages = (_domain, _iova, _pa, size, count) => size * count;
    cpu.answers.__pkvm_iommu_unmap_pages = (_domain, _iova, size, count) => size * count;
  };

  test.each([["dma", undefined], ["dma-fq", 1]] as const)("a client's default domain is EL2's: %s", (defaultDomainType, queues) => {
    const { cpu, iommu, dev } = setUp([client("0000:00:01.0", [8])], all, { paging: paging(), defaultDomainType });
    const device = dev("0000:00:01.0");
    const domain = iommu.domainOf(device);
    expect(domain).toBeInstanceOf(PvDomain);
    expect(domain?.flushQueue === undefined ? undefined : 1).toBe(queues);
    const dma = iommu.dma.mapPage(device, 0x4010_0000, 4096, 0);
    expect(cpu.argsOf("__pkvm_iommu_map_pages")).toEqual([[2, dma, 0x4010_0000, 4096, 1, expect.any(Number)]]);
    expect(iommu.dma.unmapPage(device, dma, 4096, 0)).toBe(0);
    // In each unmap: a flush queue keeps the IOVA back, not the mapping.
    expect(cpu.argsOf("__pkvm_iommu_unmap_pages")).toEqual([[2, dma, 4096, 1]]);
  });

  test("domains of all IOMMUs have one space of ids", () => {
    const shared = paging();
    const { kernel, iommu, dev, cpu } = setUp([client("0000:00:01.0", [8]), client("0000:00:02.0", [9], {}, OTHER.name)], all, { paging: shared });
    const driver = pkvmIommuDriver(kernel, iommu, { iommu: 3, node: OTHER, paging: shared });
    expect(kernel.core.addFaux({ name: "other", driver })).toBeDefined();
    expect(cpu.argsOf("__pkvm_iommu_alloc_domain")).toEqual([[2, 2, 1], [3, 3, 1]]);
    // A domain is of the IOMMU that it was made for.
    const group = iommu.groupOf(dev("0000:00:02.0"))!;
    expect(iommu.attachGroup(group, iommu.domainOf(dev("0000:00:01.0"))!)).toBe(-ERRNO.EINVAL);
  });

  test("PASIDs come and go by a call for each stream; the device that goes away has none left", () => {
    const { kernel, iommu, dev, calls } = setUp(
      [client("0000:00:01.0", [8], { properties: { "pasid-num-bits": 4 } })], all, { paging: paging() },
    );
    const device = dev("0000:00:01.0");
    const domain = iommu.allocPaging(device);
    if (typeof domain === "number") throw new Error("no domain");
    calls();
    expect(iommu.attachPasid(device, 3, domain)).toBe(0);
    expect(calls()).toEqual([[2, 8, 3, 3]]);
    expect(iommu.detachPasid(device, 3)).toBe(0);
    expect(calls()).toEqual([[2, 8, 3, blocking]]);
    iommu.attachPasid(device, 4, domain);
    calls();
    kernel.core.removeDevice(device);
    expect(calls()).toEqual([[2, 8, 4, blocking], [2, 8, 0, blocking]]);
  });

  test("an EL2 without paging: the client has identity, as without asking", () => {
    const { iommu, dev, kernel } = setUp(
      [client("0000:00:01.0", [8])], (cpu) => { cpu.answers.__pkvm_iommu_alloc_domain = -ERRNO.EOPNOTSUPP; }, { paging: paging() },
    );
    expect(iommu.domainOf(dev("0000:00:01.0"))?.type).toBe("identity");
    expect(kernel.log.lines("err")).toEqual([]);
  });

  test("a device that is active at boot keeps identity", () => {
    const { iommu, dev, calls } = setUp(
      [client("0000:00:01.0", [8], { properties: { "iommu-addresses": true } })], all, { paging: paging() },
    );
    expect(iommu.domainOf(dev("0000:00:01.0"))?.type).toBe("identity");
    expect(calls()).toEqual([[2, 8, 0, identity], [2, 8, 0, identity]]);
  });
});
