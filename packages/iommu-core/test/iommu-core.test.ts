import { describe, expect, test } from "vitest";
import { PROT } from "../src/index.ts";
import type { ReservedRegion } from "../src/index.ts";
import { CLIENT, FakeIommu, K4, client, setUp } from "./fake-iommu.ts";
import { node } from "@smmuv3/fake-cpu";

const NIC = client("0000:00:01.0", [1, 2]);
const DISK = client("0000:00:02.0", [3]);

describe("binding", () => {
  test("a device behind an IOMMU waits for it; one without does not", () => {
    const free = client("0000:00:03.0", []);
    const { kernel, iommu, instance, dev } = setUp([NIC, free], { late: true });
    expect(kernel.core.deferred).toEqual([dev(NIC.name)]);
    expect(dev(free.name).driver).toBe(CLIENT);
    expect(iommu.fwspecOf(dev(free.name))).toBeUndefined();
    expect(iommu.register(instance)).toBe(0);
    expect(iommu.register(instance)).toBe(-16);
    expect(dev(NIC.name).driver).toBe(CLIENT);
    // Once when the driver came, once when the other device's success retried it.
    expect(dev(NIC.name).deferrals).toBe(2);
  });

  test("a registration inside the IOMMU driver's probe binds clients after that probe", () => {
    const { kernel, iommu, instance, dev } = setUp([NIC], { late: true });
    let boundDuringProbe = true;
    kernel.core.registerDriver({
      name: "smmu",
      bus: "platform",
      ids: ["test,smmu"],
      probe: () => {
        iommu.register(instance);
        boundDuringProbe = dev(NIC.name).driver !== undefined;
        return 0;
      },
    });
    expect(boundDuringProbe).toBe(false);
    expect(dev(NIC.name).driver).toBe(CLIENT);
  });

  test("fwspec, driver data, group and default domain are there before the client's probe", () => {
    const { kernel, iommu, fake, instance, dev } = setUp([NIC]);
    const nic = dev(NIC.name);
    expect(iommu.fwspecOf(nic)).toMatchObject({ instance, ids: [1, 2] });
    expect(iommu.drvdataOf(nic)).toEqual({ sids: [1, 2] });
    const group = iommu.groupOf(nic)!;
    expect([group.domain?.type, group.domain === group.defaultDomain, group.devices]).toEqual(["paging", true, [nic]]);
    expect(fake.events).toEqual(["0000:00:01.0 paging"]);
    expect(kernel.cpu.counters.read("iommu.attaches").el1).toBe(1);
    expect(iommu.instanceOf("smmu")).toBe(instance);
    expect(iommu.instances).toEqual([instance]);
  });

  test("unbinding and binding again keeps group and domain", () => {
    const { kernel, iommu, fake, dev } = setUp([NIC]);
    const nic = dev(NIC.name);
    const group = iommu.groupOf(nic);
    kernel.core.unbind(nic);
    kernel.core.attach(nic);
    expect(iommu.groupOf(nic)).toBe(group);
    expect(fake.events).toHaveLength(1);
  });

  test.each([
    { name: "a StreamID that the IOMMU refuses", ids: [256], arrange: (): void => {} },
    { name: "two IOMMUs", ids: [1], other: true, arrange: (): void => {} },
    { name: "probe_device", ids: [1], arrange: (fake: FakeIommu): void => void (fake.probeStatus = -19) },
    { name: "the attach", ids: [1], arrange: (fake: FakeIommu): void => void fake.refuse.add("0000:00:01.0") },
    { name: "a direct region", ids: [1], arrange: failDirect },
  ])("failure of $name keeps the device unbound, logged, without leftovers", ({ ids, arrange, other }) => {
    const base = client(NIC.name, ids);
    const nic = other === true ? { ...base, iommus: [...base.iommus, { iommu: "elsewhere", id: 1 }] } : base;
    const { kernel, iommu, fake, instance, dev } = setUp([nic], { late: true });
    arrange(fake);
    iommu.register(instance);
    expect(dev(nic.name).driver).toBeUndefined();
    expect(kernel.log.entries("err").length).toBeGreaterThan(0);
    expect(iommu.fwspecOf(dev(nic.name))).toBeUndefined();
    expect(iommu.groups).toEqual([]);
    expect(fake.domains.every(({ freed }) => freed)).toBe(true);
    expect(kernel.core.sysfs.list("kernel/iommu_groups")).toEqual([]);
  });
});

function failDirect(fake: FakeIommu): void {
  fake.resv = [{ start: 0x4000_0000, length: K4, prot: PROT.READ, type: "direct" }];
  fake.failAfter = 0;
}

describe("default domains", () => {
  test.each([
    { name: "dma", options: {}, type: "paging" },
    { name: "identity by option", options: { defaultDomainType: "identity" }, type: "identity" },
    { name: "identity since the driver cannot page", options: { paging: false }, type: "identity" },
  ] as const)("$name", ({ options, type }) => {
    const { iommu, fake, dev } = setUp([NIC], options);
    expect(iommu.domainOf(dev(NIC.name))?.type).toBe(type);
    expect(fake.attached.get(NIC.name)?.type).toBe(type);
    const paging = iommu.allocPaging(dev(NIC.name));
    expect(typeof paging === "number" ? paging : paging.type).toBe("paging" in options ? -95 : "paging");
  });

  test("the driver may demand a type for one device", () => {
    const { iommu, fake, instance, dev } = setUp([NIC, DISK], { late: true });
    const ops = {
      ...fake.ops,
      defDomainType: (of: { name: string }) => (of.name === NIC.name ? ("identity" as const) : undefined),
    };
    iommu.register({ ...instance, ops });
    expect(iommu.domainOf(dev(NIC.name))?.type).toBe("identity");
    expect(iommu.domainOf(dev(DISK.name))?.type).toBe("paging");
  });

  test("reserved regions leave the IOVA space; direct ones are mapped before the attach", () => {
    const { iommu, fake, instance, dev } = setUp([NIC], { late: true });
    const resv: ReservedRegion[] = [
      { start: 0xffff_f000, length: K4, prot: 0, type: "reserved" },
      { start: 0xffff_0000, length: 0x8000, prot: PROT.READ | PROT.WRITE, type: "direct" },
    ];
    fake.resv = resv;
    iommu.register(instance);
    const domain = iommu.domainOf(dev(NIC.name))!;
    expect(iommu.iovaToPhys(domain, 0xffff_1234)).toBe(0xffff_1234);
    const iovas = Array.from({ length: 9 }, () => domain.iovas!.alloc(K4));
    const skipped = [0xffff_f000, ...Array.from({ length: 8 }, (_, i) => 0xffff_0000 + i * K4)];
    expect(iovas.filter((iova) => skipped.includes(iova))).toEqual([]);
    expect(Math.min(...iovas)).toBe(0xfffe_e000);
  });
});

describe("groups", () => {
  test("each device has its own, PCI aliases share one", () => {
    const alias = client("0000:00:02.0", [2]);
    const { iommu, dev, fake } = setUp([NIC, alias, client("0000:00:03.0", [3])]);
    expect(iommu.groups.map(({ id, devices }) => [id, devices.map(({ name }) => name)])).toEqual([
      [0, [NIC.name, alias.name]],
      [1, ["0000:00:03.0"]],
    ]);
    expect(iommu.domainOf(dev(alias.name))).toBe(iommu.domainOf(dev(NIC.name)));
    expect(fake.domains).toHaveLength(2);
  });

  test("attach replaces; users and events are counted", () => {
    const { kernel, iommu, fake, dev } = setUp([NIC]);
    const nic = dev(NIC.name);
    const group = iommu.groupOf(nic)!;
    const other = iommu.allocPaging(nic);
    if (typeof other === "number") throw new Error("no domain");
    expect(iommu.attachGroup(group, other)).toBe(0);
    expect([other.users, group.defaultDomain!.users]).toEqual([1, 0]);
    expect(iommu.attachGroup(group, other)).toBe(0);
    expect(kernel.cpu.counters.read("iommu.attaches").el1).toBe(2);
    expect(iommu.freeDomain(other)).toBe(-16);
    expect(iommu.dma.mapPage(nic, 0x4000_0000, K4, 0)).toBe(-5);
    iommu.attachGroup(group, group.defaultDomain!);
    expect(iommu.freeDomain(other)).toBe(0);
    expect(fake.events).toEqual(["paging", "paging", "paging"].map((type) => `${NIC.name} ${type}`));
  });

  test("a failed attach keeps every device on the old domain", () => {
    const alias = client("0000:00:02.0", [2]);
    const { iommu, fake, dev } = setUp([NIC, alias]);
    const group = iommu.groupOf(dev(NIC.name))!;
    const old = group.domain!;
    const other = iommu.allocPaging(dev(NIC.name));
    if (typeof other === "number") throw new Error("no domain");
    fake.refuse.add(alias.name);
    expect(iommu.attachGroup(group, other)).toBe(-22);
    expect(group.domain).toBe(old);
    expect(fake.attached.get(NIC.name)).toBe(old);
    expect(fake.attached.get(alias.name)).toBe(old);
    expect([old.users, other.users]).toEqual([2, 0]);
    const iova = iommu.dma.mapPage(dev(NIC.name), 0x4000_3000, K4, 0);
    expect(fake.dma(dev(alias.name), iova)).toBe(0x4000_3000);
  });

  test("an owner gets a blocked group, and keeps drivers out until it lets go", () => {
    const { kernel, iommu, fake, dev } = setUp([NIC]);
    const nic = dev(NIC.name);
    const group = iommu.groupOf(nic)!;
    expect(iommu.claimOwner(group, "vfio")).toBe(-16);
    kernel.core.unbind(nic);
    expect(iommu.claimOwner(group, "vfio")).toBe(0);
    expect(iommu.claimOwner(group, "other")).toBe(-16);
    expect(fake.attached.get(NIC.name)?.type).toBe("blocked");
    expect(kernel.core.attach(nic)).toBe(false);
    const vfio = { ...CLIENT, name: "vfio-pci", managesDma: true };
    expect(kernel.core.registerDriver(vfio)).toBe(1);
    kernel.core.unregisterDriver(vfio);
    expect(iommu.releaseOwner(group)).toBe(0);
    expect(fake.attached.get(NIC.name)).toBe(group.defaultDomain);
    expect(kernel.core.attach(nic)).toBe(true);
  });
});

describe("release", () => {
  test("a removed device is blocked first, then released; the last one frees the group", () => {
    const alias = client("0000:00:02.0", [2]);
    const { kernel, iommu, fake, dev } = setUp([NIC, alias]);
    fake.events.length = 0;
    const [nic, other] = [dev(NIC.name), dev(alias.name)];
    kernel.core.removeDevice(nic);
    expect(fake.events).toEqual([`${NIC.name} blocked`, `${NIC.name} released`]);
    expect(fake.dma(nic, 0x4000_0000)).toBe(-1);
    expect(iommu.groups).toHaveLength(1);
    expect(fake.domains[0]!.freed).toBe(false);
    kernel.core.removeDevice(other);
    expect(iommu.groups).toEqual([]);
    expect([fake.domains[0]!.freed, fake.domains[0]!.users, fake.ops.blockedDomain.users]).toEqual([true, 0, 0]);
    iommu.releaseDevice(nic);
    expect(fake.events).toHaveLength(4);
  });

  test("a release domain is used instead of blocked", () => {
    const { kernel, iommu, fake, instance, dev } = setUp([NIC], { late: true });
    iommu.register({ ...instance, ops: { ...fake.ops, releaseDomain: fake.ops.identityDomain } });
    kernel.core.removeDevice(dev(NIC.name));
    expect(fake.events).toEqual([`${NIC.name} paging`, `${NIC.name} identity`, `${NIC.name} released`]);
  });

  test("unregistering an IOMMU blocks its clients; another driver can take over the node", () => {
    const { kernel, iommu, fake, instance, dev } = setUp([NIC, DISK]);
    iommu.unregister(instance);
    expect(fake.attached.get(NIC.name)?.type).toBe("blocked");
    expect(fake.attached.get(DISK.name)?.type).toBe("blocked");
    expect(kernel.core.sysfs.list("class/iommu")).toEqual([]);
    expect(() => {
      iommu.unregister(instance);
    }).toThrow(/not registered/);
    const stock = new FakeIommu(iommu);
    iommu.register(stock.instance("stock.0", dev("smmu"), instance.node));
    kernel.core.unbind(dev(NIC.name));
    expect(kernel.core.attach(dev(NIC.name))).toBe(true);
    expect(stock.attached.get(NIC.name)?.type).toBe("paging");
  });
});

test("sysfs: class/iommu, groups and links", () => {
  const { kernel, dev, iommu } = setUp([NIC]);
  const { sysfs } = kernel.core;
  expect(sysfs.list("class/iommu")).toEqual(["fake.0"]);
  expect(sysfs.list("class/iommu/fake.0/devices")).toEqual([NIC.name]);
  expect(sysfs.readlink("class/iommu/fake.0")).toBe("devices/platform/smmu/iommu/fake.0");
  expect(sysfs.list("kernel/iommu_groups/0/devices")).toEqual([NIC.name]);
  expect(sysfs.readlink(`devices/pci/${NIC.name}/iommu_group`)).toBe("kernel/iommu_groups/0");
  iommu.releaseDevice(dev(NIC.name));
  expect(sysfs.list("class/iommu/fake.0/devices")).toEqual([]);
  expect(sysfs.list("kernel/iommu_groups")).toEqual([]);
});

test("faults are counted, kept up to the bound, and heard", () => {
  const { iommu, dev } = setUp([NIC], { faultCapacity: 2 });
  const heard: string[] = [];
  iommu.faults.listen(({ fault }) => heard.push(fault.reason));
  iommu.reportFault(dev(NIC.name), { reason: "F_TRANSLATION", iova: 0x1000, sid: 1, write: true });
  iommu.reportFault(undefined, { reason: "C_BAD_STREAMID", sid: 99 });
  iommu.reportFault(undefined, { reason: "C_BAD_STE" });
  expect(iommu.faults.count).toBe(3);
  expect(iommu.faults.reports.map(({ dev: of, fault }) => [of?.name, fault.reason])).toEqual([
    [NIC.name, "F_TRANSLATION"],
    [undefined, "C_BAD_STREAMID"],
  ]);
  expect(heard).toEqual(["F_TRANSLATION", "C_BAD_STREAMID", "C_BAD_STE"]);
  iommu.faults.clear();
  expect([iommu.faults.count, iommu.faults.reports]).toEqual([0, []]);
});

test("driver data needs an IOMMU", () => {
  const { iommu, kernel } = setUp([]);
  const plain = kernel.core.addDevice({ name: "plain", bus: "platform", node: node("plain") });
  expect(() => {
    iommu.setDrvdata(plain, 1);
  }).toThrow(/no IOMMU/);
  expect([iommu.drvdataOf(plain), iommu.allocPaging(plain), iommu.genericGroup(plain)]).toEqual([undefined, -19, -22]);
});
