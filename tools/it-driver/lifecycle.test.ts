import { ERRNO, TRANSLATION } from "@smmuv3/platform";
import { Device } from "@smmuv3/driver-core";
import { OFFSET, REG } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import { describe, expect, test } from "vitest";
import { BUFFER, Rig, RW, withField } from "./fixture.ts";

const PAGE = 0x1000;

describe("a device", () => {
  test("that goes away is blocked, and its StreamID is free again", () => {
    const rig = new Rig();
    const client = rig.clients[0]!;
    const before = rig.kernel.pages.allocated;
    const domain = rig.domain();
    rig.attach(client, domain);
    rig.kernel.core.removeDevice(client.dev);
    expect(rig.write(client.sid, BUFFER, 1)).toBe(TRANSLATION.abort);
    expect(rig.device.masters.has(client.sid)).toBe(false);
    rig.iommu.freeDomain(domain);
    expect(rig.kernel.pages.allocated).toBe(before);
    const again = rig.kernel.core.addDevice({ name: "client0", bus: "platform", node: client.dev.node });
    expect(rig.iommu.groupOf(again)).toBeDefined();
    expect(rig.write(client.sid, BUFFER, 1)).toBe(TRANSLATION.ok);
  });

  test("may name a stream twice; its STE is written once", () => {
    const rig = new Rig({ clients: [[4, 4]] });
    expect(rig.device.masters.get(4)!.sids).toEqual([4]);
    expect(rig.golden(() => rig.attach(rig.clients[0]!, "blocked"))).toEqual(["C(CFGI_STE)", "PREFETCH_CONFIG"]);
  });

  test("cannot have the stream of another one", () => {
    const rig = new Rig({ clients: [[4], [5, 4]] });
    expect(rig.clients.map(({ dev }) => dev.name)).toEqual(["client0"]);
    expect(rig.kernel.log.lines("warn").join()).toMatch(/client1: stream 4 belongs to client0/);
    // Nothing of it stays behind: stream 5 is not taken.
    expect([...rig.device.masters.keys()]).toEqual([4]);
  });

  test("beyond the stream table is refused", () => {
    const rig = new Rig({ clients: [[64]], id: withField(PRESETS.qemuStage1, REG.IDR1.SIDSIZE, 6) });
    expect(rig.clients).toEqual([]);
    expect(rig.kernel.log.lines("err").join()).toMatch(/ERANGE/);
  });

  test("without memory for its stream table is refused, and nothing changes", () => {
    const rig = new Rig({ clients: [] });
    const { pages } = rig.kernel;
    pages.alloc = () => -ERRNO.ENOMEM;
    const dev = rig.kernel.core.addDevice({
      name: "late", bus: "platform",
      node: {
        name: "late", compatible: ["test,client"], reg: [], interrupts: {}, properties: {},
        iommus: [{ iommu: "smmuv3@9050000", id: 3 }],
      },
    });
    expect(rig.iommu.groupOf(dev)).toBeUndefined();
    expect(rig.kernel.log.lines("err").join()).toMatch(/late.*ENOMEM/);
    expect(rig.device.masters.size).toBe(0);
  });
});

describe("an attach that fails", () => {
  test.each(["identity", "blocked"] as const)("leaves %s as it was, byte for byte", (state) => {
    const rig = new Rig();
    const client = rig.clients[0]!;
    rig.attach(client, state);
    const domain = rig.domain();
    const before = rig.tables(client);
    rig.kernel.pages.alloc = () => -ERRNO.ENOMEM;
    const commands = rig.trace(() => {
      expect(rig.attach(client, domain)).toBe(-ERRNO.ENOMEM);
    });
    expect(commands).toEqual([]);
    expect(rig.tables(client)).toEqual(before);
    expect(client.group.domain!.type).toBe(state);
    expect(rig.write(client.sid, BUFFER, 1)).toBe(state === "identity" ? TRANSLATION.ok : TRANSLATION.abort);
  });

  test("an address space without memory for its table is not made, and its ASID is free again", () => {
    const rig = new Rig();
    const client = rig.clients[0]!;
    const { pages } = rig.kernel;
    const alloc = pages.alloc.bind(pages);
    pages.alloc = () => -ERRNO.ENOMEM;
    for (let i = 0; i < 3; i++) expect(rig.iommu.allocPaging(client.dev)).toBe(-ERRNO.ENOMEM);
    pages.alloc = alloc;
    expect(rig.domain()).toMatchObject({ id: 1, stage: 1 });
  });

  test("a domain of another SMMU is refused", () => {
    const rig = new Rig();
    const other = new Rig();
    const client = rig.clients[0]!;
    const before = rig.tables(client);
    const foreign = other.domain();
    // The other driver does not know the device's state.
    expect(foreign.ops.attachDev(foreign, client.dev, client.group.domain)).toBe(-ERRNO.EINVAL);
    const stranger = new Device({ name: "stranger", bus: "platform" });
    expect(foreign.ops.attachDev(foreign, stranger, undefined)).toBe(-ERRNO.ENOENT);
    expect(rig.tables(client)).toEqual(before);
  });
});

test("ASIDs run out, and come back", () => {
  const rig = new Rig({ id: withField(PRESETS.qemuStage1, REG.IDR0.ASID16, 0) });
  const client = rig.clients[0]!;
  const domains = Array.from({ length: 255 }, () => rig.domain(client));
  expect(new Set(domains.map((domain) => (domain as unknown as { id: number }).id)).size).toBe(255);
  expect(rig.iommu.allocPaging(client.dev)).toBe(-ERRNO.ENOSPC);
  rig.iommu.freeDomain(domains[9]!);
  expect(rig.domain()).toMatchObject({ id: 10 });
});

describe("the SMMU", () => {
  test("is disabled when its driver goes, and nothing of its memory stays behind", () => {
    const rig = new Rig({ clients: [[1], [300]] });
    const dev = rig.kernel.core.findByNode("smmuv3@9050000")!;
    const domain = rig.domain();
    rig.attach(rig.clients[0]!, domain);
    rig.iommu.map(domain, PAGE, BUFFER, PAGE, RW);
    rig.kernel.core.unbind(dev);
    rig.iommu.freeDomain(domain);
    expect(rig.registers.at(-1)).toBe("CR0=0x0");
    expect([rig.driver.smmus, rig.iommu.instances, rig.kernel.pages.allocated]).toEqual([[], [], 0]);
    expect(rig.smmu.registers.read32(OFFSET.CR0ACK)).toBe(0);
    // And binds again.
    expect(rig.kernel.core.attach(dev)).toBe(true);
  });

  test("is disabled at shutdown", () => {
    const rig = new Rig();
    rig.kernel.core.shutdown();
    expect(rig.registers.at(-1)).toBe("CR0=0x0");
  });

  test("too small a register window is refused", () => {
    const rig = new Rig({ clients: [] });
    const dev = rig.kernel.core.addDevice({
      name: "small", bus: "platform",
      node: {
        name: "small", compatible: ["arm,smmu-v3"], reg: [{ base: 0, size: 0x10000 }], interrupts: {}, iommus: [], properties: {},
      },
    });
    expect(dev.driver).toBeUndefined();
    expect(rig.kernel.log.lines("err").join()).toMatch(/MMIO region too small/);
  });
});

describe("auxiliary devices", () => {
  test("are bound with the resources of their parent, for its clients", () => {
    const id = "owner.smmu_v3";
    const rig = new Rig({ driver: { auxiliaryId: id, platform: false } });
    expect(rig.clients).toEqual([]);
    const { core } = rig.kernel;
    const parent = core.findByNode("smmuv3@9050000")!;
    expect(parent.driver).toBeUndefined();
    const aux = core.addAuxiliary({ name: `${id}.0`, id, parent });
    expect(rig.driver.smmus.map(({ dev }) => dev)).toEqual([aux]);
    expect(rig.iommu.instances[0]).toMatchObject({ dev: aux, node: parent.node });
    // The clients waited for it.
    const client = core.findByNode("client0")!;
    expect(rig.iommu.groupOf(client)).toBeDefined();
    expect(rig.write(8, BUFFER, 1)).toBe(TRANSLATION.ok);
  });

  test("of another id are left alone", () => {
    const rig = new Rig({ driver: { auxiliaryId: "a", platform: false } });
    const parent = rig.kernel.core.findByNode("smmuv3@9050000")!;
    const aux = rig.kernel.core.addAuxiliary({ name: "b.0", id: "b", parent });
    expect(aux.driver).toBeUndefined();
  });
});

describe("implementation hooks", () => {
  test("run in their places", () => {
    const calls: string[] = [];
    const rig = new Rig({
      clients: [],
      driver: {
        impl: {
          name: "test",
          probe: () => {
            calls.push("probe");
            return -ERRNO.ENODEV;
          },
          initStructures: () => {
            calls.push("initStructures");
            return 0;
          },
          deviceReset: (smmu) => {
            calls.push(`deviceReset, CR0 ${smmu.window.read32(OFFSET.CR0)}`);
            return 0;
          },
          deviceDisable: (smmu) => {
            calls.push(`deviceDisable, CR0 ${smmu.window.read32(OFFSET.CR0)}`);
          },
        },
      },
    });
    rig.kernel.core.shutdown();
    expect(calls).toEqual(["probe", "initStructures", "deviceReset, CR0 13", "deviceDisable, CR0 13"]);
  });

  test.each([["initStructures"], ["deviceReset"]] as const)("a failing %s fails the probe", (hook) => {
    const rig = new Rig({ clients: [], driver: { impl: { name: "test", [hook]: () => -ERRNO.EIO } } });
    expect([rig.driver.smmus, rig.kernel.pages.allocated]).toEqual([[], 0]);
    expect(rig.smmu.registers.read32(OFFSET.CR0)).toBe(0);
  });

  test("a probe that fails with something else than absence fails the driver's", () => {
    const rig = new Rig({ clients: [], driver: { impl: { name: "test", probe: () => -ERRNO.EACCES } } });
    expect([rig.driver.smmus, rig.registers]).toEqual([[], []]);
  });
});
