import { describe, expect, test } from "vitest";
import { ERRNO } from "@smmuv3/platform";
import { DriverCore, INITCALL_LEVELS, KernelLog } from "../src/index.ts";
import type { Device, Driver } from "../src/index.ts";
import { firmware, node } from "@smmuv3/fake-cpu";

const RAM = { base: 0x4000_0000, size: 1 << 20 };
const SMMU = node("smmuv3@9050000", { compatible: ["arm,smmu-v3"] });
const NIC = node("0000:00:01.0", { compatible: ["test,nic"], properties: { "dma-mask-bits": 32 } });
const DISK = node("disk@1000", { compatible: ["acme,disk-v2", "test,disk"] });

function setUp(): { core: DriverCore; log: KernelLog } {
  const log = new KernelLog(() => 0);
  return { core: new DriverCore(log), log };
}

/** A driver that succeeds and records what happens to it. */
function recorder(name: string, ids: string[], more: Partial<Driver> = {}): { driver: Driver; calls: string[] } {
  const calls: string[] = [];
  const record =
    (what: string) =>
    (dev: Device): number => {
      calls.push(`${what} ${dev.name}`);
      return 0;
    };
  const driver: Driver = {
    name,
    bus: "platform",
    ids,
    probe: record("probe"),
    remove: record("remove"),
    shutdown: record("shutdown"),
    ...more,
  };
  return { driver, calls };
}

describe("initcalls", () => {
  test("run by level, then in order of registration", () => {
    const { core, log } = setUp();
    const order: string[] = [];
    for (const level of INITCALL_LEVELS.toReversed()) {
      for (const n of [1, 2]) {
        core.initcall(level, `${level}${n}`, () => {
          order.push(`${level}${n}`);
          return n === 2 && level === "fs" ? -ERRNO.ENODEV : 0;
        });
      }
    }
    core.boot();
    expect(order).toEqual(INITCALL_LEVELS.flatMap((level) => [`${level}1`, `${level}2`]));
    expect(core.initcallRuns.map(({ name }) => name)).toEqual(order);
    expect(core.initcallRuns.filter(({ status }) => status !== 0)).toEqual([
      { level: "fs", name: "fs2", status: -ERRNO.ENODEV },
    ]);
    expect(log.lines("err")).toEqual(["initcall fs2 returned ENODEV"]);
  });

  test("a boot can stop at a level and go on; what is over is over", () => {
    const { core } = setUp();
    const order: string[] = [];
    core.initcall("subsys", "a", () => {
      order.push("a");
      core.initcall("subsys", "same level", () => void order.push("same level"));
      core.initcall("late", "later", () => void order.push("later"));
      return 0;
    });
    core.boot("device");
    expect(order).toEqual(["a", "same level"]);
    expect(() => {
      core.initcall("fs", "too late", () => 0);
    }).toThrow(/too late/);
    core.boot();
    core.boot();
    expect(order).toEqual(["a", "same level", "later"]);
  });
});

describe("matching", () => {
  test("firmware nodes become platform and PCI devices that match by compatible", () => {
    const { core } = setUp();
    const nic = recorder("nic", ["test,nic"], { bus: "pci" });
    const disk = recorder("disk", ["test,disk"]);
    expect(core.registerDriver(nic.driver)).toBe(0);
    core.populate(firmware([SMMU, NIC, DISK], RAM));
    expect(core.registerDriver(disk.driver)).toBe(1);
    expect(nic.calls).toEqual(["probe 0000:00:01.0"]);
    expect(disk.calls).toEqual(["probe disk@1000"]);
    expect(core.devices.map((dev) => [dev.name, dev.bus, dev.dmaMaskBits, dev.driver?.name])).toEqual([
      ["smmuv3@9050000", "platform", 64, undefined],
      ["0000:00:01.0", "pci", 32, "nic"],
      ["disk@1000", "platform", 64, "disk"],
    ]);
    expect(core.findByNode("disk@1000")?.dmaMask).toBe(2 ** 64 - 1);
    expect(core.findByNode("0000:00:01.0")?.dmaMask).toBe(0xffff_ffff);
    expect(core.findByNode("none")).toBeUndefined();
  });

  test("the bus is part of the match", () => {
    const { core } = setUp();
    const wrong = recorder("wrong", ["test,nic"]);
    core.registerDriver(wrong.driver);
    core.populate(firmware([NIC], RAM));
    expect(wrong.calls).toEqual([]);
  });

  test("the first driver claims the device and keeps it", () => {
    const { core } = setUp();
    const handoff = recorder("smmuv3-nesting", ["arm,smmu-v3"]);
    const stock = recorder("arm-smmu-v3", ["arm,smmu-v3"]);
    core.populate(firmware([SMMU], RAM));
    expect(core.registerDriver(handoff.driver)).toBe(1);
    expect(core.registerDriver(stock.driver)).toBe(0);
    expect(core.attach(core.findByNode(SMMU.name)!)).toBe(true);
    expect(handoff.calls).toEqual(["probe smmuv3@9050000"]);
    expect(stock.calls).toEqual([]);
    // The hand-off lets go: the stock driver may have it.
    core.unregisterDriver(handoff.driver);
    expect(handoff.calls).toEqual(["probe smmuv3@9050000", "remove smmuv3@9050000"]);
    expect(core.attach(core.findByNode(SMMU.name)!)).toBe(true);
    expect(stock.calls).toEqual(["probe smmuv3@9050000"]);
  });

  test("after a failed probe the next driver is tried; the failure is logged unless it means 'not mine'", () => {
    const { core, log } = setUp();
    core.registerDriver(recorder("broken", ["arm,smmu-v3"], { probe: () => -ERRNO.EIO }).driver);
    core.registerDriver(recorder("absent", ["arm,smmu-v3"], { probe: () => -ERRNO.ENODEV }).driver);
    const stock = recorder("stock", ["arm,smmu-v3"]);
    core.registerDriver(stock.driver);
    core.populate(firmware([SMMU], RAM));
    expect(core.findByNode(SMMU.name)?.driver).toBe(stock.driver);
    expect(log.lines("err")).toEqual(["broken smmuv3@9050000: probe failed: EIO"]);
    expect(log.lines("debug")).toEqual(["absent smmuv3@9050000: probe failed: ENODEV"]);
  });

  test("a failed probe leaves nothing behind", () => {
    const { core } = setUp();
    core.registerDriver(
      recorder("broken", ["arm,smmu-v3"], {
        probe: (dev) => {
          dev.drvdata = "leftover";
          return -ERRNO.EIO;
        },
      }).driver,
    );
    core.populate(firmware([SMMU], RAM));
    const dev = core.findByNode(SMMU.name)!;
    expect([dev.driver, dev.drvdata, dev.deferrals]).toEqual([undefined, undefined, 0]);
    expect(core.deferred).toEqual([]);
  });

  test("misuse", () => {
    const { core } = setUp();
    const { driver } = recorder("a", []);
    core.registerDriver(driver);
    expect(() => core.registerDriver(driver)).toThrow(/already/);
    expect(() => core.registerDriver(recorder("f", [], { bus: "faux" }).driver)).toThrow(/faux/);
    core.unregisterDriver(driver);
    expect(() => {
      core.unregisterDriver(driver);
    }).toThrow(/not registered/);
    const dev = core.addDevice({ name: "d", bus: "platform" });
    expect(() => core.addDevice({ name: "d", bus: "platform" })).toThrow(/exists/);
    core.removeDevice(dev);
    expect(() => {
      core.removeDevice(dev);
    }).toThrow(/not registered/);
    expect(() => core.addAuxiliary({ name: "x", id: "x", parent: dev })).toThrow(/parent/);
  });
});

describe("deferral", () => {
  test("a client waits for its supplier and binds right after it", () => {
    const { core } = setUp();
    const order: string[] = [];
    let ready = false;
    const client: Driver = {
      name: "client",
      bus: "pci",
      ids: ["test,nic"],
      probe: () => {
        if (!ready) return -ERRNO.EPROBE_DEFER;
        order.push("client");
        return 0;
      },
    };
    core.populate(firmware([NIC, SMMU], RAM));
    core.registerDriver(client);
    const nic = core.findByNode(NIC.name)!;
    expect(core.deferred).toEqual([nic]);
    core.registerDriver(
      recorder("smmu", ["arm,smmu-v3"], {
        probe: () => {
          ready = true;
          // Registering inside the probe asks for a retry, which comes only after the probe.
          core.retryDeferred();
          order.push("smmu");
          return 0;
        },
      }).driver,
    );
    expect(order).toEqual(["smmu", "client"]);
    expect([nic.deferrals, core.deferrals, core.deferred.length]).toEqual([1, 1, 0]);
  });

  test("every successful probe retries; chains resolve; the rest is retried at late_initcall", () => {
    const { core } = setUp();
    const bound: string[] = [];
    const waitFor = (name: string, needs: string): Driver => ({
      name,
      bus: "platform",
      ids: [name],
      probe: () => {
        if (needs !== "" && !bound.includes(needs)) return -ERRNO.EPROBE_DEFER;
        bound.push(name);
        return 0;
      },
    });
    core.populate(firmware(["c", "b", "a", "z"].map((name) => node(name, { compatible: [name] }), RAM)));
    core.registerDriver(waitFor("c", "b"));
    core.registerDriver(waitFor("b", "a"));
    core.registerDriver(waitFor("z", "late"));
    expect(bound).toEqual([]);
    core.registerDriver(waitFor("a", ""));
    expect(bound).toEqual(["a", "b", "c"]);
    expect(core.deferred.map(({ name }) => name)).toEqual(["z"]);
    core.initcall("late", "event without a probe", () => {
      bound.push("late");
      return 0;
    });
    core.boot();
    expect(bound).toEqual(["a", "b", "c", "late", "z"]);
    expect(core.deferred).toEqual([]);
  });

  test("late initcalls find the deferred devices retried", () => {
    const { core } = setUp();
    let ready = false;
    const probe = (): number => (ready ? 0 : -ERRNO.EPROBE_DEFER);
    core.registerDriver(recorder("waits", ["test,disk"], { probe }).driver);
    core.populate(firmware([DISK], RAM));
    core.initcall("device_sync", "event without a probe", () => {
      ready = true;
      return 0;
    });
    let seen: string | undefined;
    core.initcall("late", "look", () => {
      seen = core.findByNode(DISK.name)?.driver?.name;
      return 0;
    });
    core.boot();
    expect(seen).toBe("waits");
  });

  test("a deferred device may be claimed by another driver", () => {
    const { core } = setUp();
    core.registerDriver(recorder("waits", ["arm,smmu-v3"], { probe: () => -ERRNO.EPROBE_DEFER }).driver);
    core.populate(firmware([SMMU], RAM));
    const other = recorder("other", ["arm,smmu-v3"]);
    expect(core.registerDriver(other.driver)).toBe(1);
    expect(core.deferred).toEqual([]);
    expect(core.findByNode(SMMU.name)?.deferrals).toBe(1);
  });

  test("the DMA hooks can hold a device back, and see every unbind", () => {
    const { core } = setUp();
    const events: string[] = [];
    let status = -ERRNO.EPROBE_DEFER;
    core.addDmaHooks({
      configure: (dev) => {
        events.push(`configure ${dev.name}`);
        return status;
      },
      cleanup: (dev) => events.push(`cleanup ${dev.name}`),
      remove: (dev) => events.push(`remove ${dev.name}`),
    });
    const first = recorder("first", ["test,disk"]);
    const second = recorder("second", ["test,disk"]);
    core.registerDriver(first.driver);
    core.registerDriver(second.driver);
    core.populate(firmware([DISK], RAM));
    // One refusal is enough: the second driver is not asked.
    expect(events).toEqual(["configure disk@1000", "cleanup disk@1000"]);
    expect(first.calls).toEqual([]);
    status = 0;
    core.retryDeferred();
    expect(first.calls).toEqual(["probe disk@1000"]);
    core.removeDevice(core.findByNode(DISK.name)!);
    expect(events.slice(2)).toEqual(["configure disk@1000", "cleanup disk@1000", "remove disk@1000"]);
    expect(first.calls).toEqual(["probe disk@1000", "remove disk@1000"]);
    expect(second.calls).toEqual([]);
  });
});

describe("auxiliary and faux devices", () => {
  test("an auxiliary device matches by id and is a child", () => {
    const { core } = setUp();
    const emu = recorder("arm-smmu-v3-emu", ["protected_kvm.smmu_v3_emu"], { bus: "auxiliary" });
    const [smmu] = core.populate(firmware([SMMU], RAM));
    const aux = core.addAuxiliary({ name: "smmu_v3_emu.0", id: "protected_kvm.smmu_v3_emu", parent: smmu! });
    core.addAuxiliary({ name: "other.0", id: "other", parent: smmu! });
    expect(core.registerDriver(emu.driver)).toBe(1);
    expect(emu.calls).toEqual(["probe smmu_v3_emu.0"]);
    expect([aux.parent, aux.node, aux.path]).toEqual([
      smmu,
      undefined,
      "devices/platform/smmuv3@9050000/smmu_v3_emu.0",
    ]);
    core.removeDevice(smmu!);
    expect(emu.calls).toEqual(["probe smmu_v3_emu.0", "remove smmu_v3_emu.0"]);
    expect(core.devices).toEqual([]);
  });

  test("a faux device binds the driver it brings, or is gone", () => {
    const { core } = setUp();
    const good = recorder("pkvm-iommu", [], { bus: "faux" });
    const [smmu] = core.populate(firmware([SMMU], RAM));
    const faux = core.addFaux({ name: "pkvm-iommu.0", driver: good.driver, parent: smmu });
    expect(faux?.driver).toBe(good.driver);
    expect(smmu!.children).toEqual([faux]);
    for (const status of [-ERRNO.EIO, -ERRNO.EPROBE_DEFER]) {
      const bad = recorder("bad", [], { bus: "faux", probe: () => status });
      expect(core.addFaux({ name: "bad", driver: bad.driver })).toBeUndefined();
    }
    expect(core.deferred).toEqual([]);
    expect(core.devices).toEqual([smmu, faux]);
    expect(core.sysfs.list("bus/faux/devices")).toEqual(["pkvm-iommu.0"]);
  });

  test("a device made inside a probe binds at once; deferred ones wait for the outermost probe", () => {
    const { core } = setUp();
    const order: string[] = [];
    const child = recorder("child", ["child"], {
      bus: "auxiliary",
      probe: () => {
        order.push("child");
        return 0;
      },
    });
    core.registerDriver(child.driver);
    core.registerDriver(
      recorder("waits", ["test,disk"], {
        probe: () => {
          order.push("disk");
          return order.includes("child") ? 0 : -ERRNO.EPROBE_DEFER;
        },
      }).driver,
    );
    core.populate(firmware([DISK, SMMU], RAM));
    core.registerDriver(
      recorder("parent", ["arm,smmu-v3"], {
        probe: (dev) => {
          core.addAuxiliary({ name: "child.0", id: "child", parent: dev });
          order.push("parent");
          return 0;
        },
      }).driver,
    );
    expect(order).toEqual(["disk", "child", "parent", "disk"]);
  });
});

test("sysfs shows devices, buses, drivers and bindings", () => {
  const { core } = setUp();
  const stock = recorder("arm-smmu-v3", ["arm,smmu-v3"]);
  core.populate(firmware([SMMU, NIC], RAM));
  core.registerDriver(stock.driver);
  const { sysfs } = core;
  expect(sysfs.list("devices")).toEqual(["platform", "pci"]);
  expect(sysfs.list("bus/platform/drivers/arm-smmu-v3")).toEqual(["smmuv3@9050000"]);
  expect(sysfs.readlink("bus/platform/devices/smmuv3@9050000/driver")).toBe("bus/platform/drivers/arm-smmu-v3");
  expect(sysfs.exists("devices/pci/0000:00:01.0/driver")).toBe(false);
  core.unbind(core.findByNode(SMMU.name)!);
  expect(sysfs.list("bus/platform/drivers/arm-smmu-v3")).toEqual([]);
  core.unregisterDriver(stock.driver);
  expect(sysfs.list("bus/platform/drivers")).toEqual([]);
});

test("shutdown runs last bound first and leaves devices bound", () => {
  const { core } = setUp();
  const order: string[] = [];
  const shutdown = (dev: Device): void => void order.push(dev.name);
  core.registerDriver(recorder("a", ["arm,smmu-v3"], { shutdown }).driver);
  core.registerDriver(recorder("b", ["test,disk"], { shutdown }).driver);
  core.populate(firmware([SMMU, DISK], RAM));
  core.shutdown();
  expect(order).toEqual(["disk@1000", "smmuv3@9050000"]);
  expect(core.boundTo("b").map(({ name }) => name)).toEqual(["disk@1000"]);
});
