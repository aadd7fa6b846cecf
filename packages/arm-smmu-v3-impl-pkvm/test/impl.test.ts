import { BOOT_DMA_PROPERTY, ERRNO } from "@smmuv3/platform";
import { registerArmSmmuV3 } from "@smmuv3/arm-smmu-v3";
import type { ArmSmmuV3 } from "@smmuv3/arm-smmu-v3";
import { EVENT, EVENTS, maskOf, REG, setField } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import { createPkvmImpl, PkvmBackend } from "../src/index.ts";
import { EVENTQ_IRQ, GERROR_IRQ, World } from "./fake-hyp.ts";
import type { HypOptions } from "./fake-hyp.ts";

function boot(options: HypOptions = {}, paging = false): { world: World; driver: ArmSmmuV3 } {
  const world = new World(options);
  const driver = registerArmSmmuV3(world.kernel, world.iommu, { impl: createPkvmImpl({ paging }) });
  world.kernel.core.registerDriver({ name: "client", bus: "platform", ids: ["client"], probe: () => 0 });
  return { world, driver };
}

const event = (sid: number): Int32Array => {
  const record = new Int32Array(8);
  setField(record, 0, EVENT.Type, EVENTS.C_BAD_STE.type);
  setField(record, 0, EVENT.SID, sid);
  return record;
};

const hyp = (world: World, name: string): string[] => world.calls.filter((call) => call.startsWith(name));

describe("with an EL2", () => {
  test("the SMMU is given away with its memory; the kernel writes no register", () => {
    const { world, driver } = boot();
    expect(world.handoff).toMatchObject({
      mmioBase: 0x905_0000, mmioSize: 0x2_0000, cmdqLog2: 8, strtabBytes: 0x1000, flags: 1,
    });
    expect(world.handoff!.cmdqBase % 4096).toBe(0);
    expect(world.writes).toEqual([]);
    expect(driver.smmus[0]!.backend).toBeInstanceOf(PkvmBackend);
    expect(world.calls.map((call) => call.split(" ")[0])).toEqual([
      "iommu_handoff",
      // 512 events of 32 bytes.
      ...new Array<string>(4).fill("host_share_hyp"),
      "iommu_event_queue",
      ...new Array<string>(4).fill("iommu_set_state"),
    ]);
    expect([...world.irqs.keys()]).toEqual([EVENTQ_IRQ, GERROR_IRQ]);
  });

  test("streams are made blocked, then pass; there are no translating domains", () => {
    const { world, driver } = boot();
    const nic = world.kernel.core.findByNode("nic")!;
    expect(hyp(world, "iommu_set_state")).toEqual([
      "iommu_set_state 2 3 0 0", "iommu_set_state 2 5 0 0", "iommu_set_state 2 3 0 1", "iommu_set_state 2 5 0 1",
    ]);
    expect(world.iommu.domainOf(nic)!.type).toBe("identity");
    expect(world.iommu.allocPaging(nic)).toBe(-ERRNO.EOPNOTSUPP);
    const before = world.calls.length;
    world.iommu.attachGroup(world.iommu.groupOf(nic)!, driver.smmus[0]!.instance!.ops.blockedDomain);
    expect(world.calls.slice(before)).toEqual(["iommu_set_state 2 3 0 0", "iommu_set_state 2 5 0 0"]);
  });

  test("a stream that EL2 refuses is no client", () => {
    const { world } = boot({ answer: (name, args) => (name === "__pkvm_iommu_set_state" && args[1] === 5 ? -ERRNO.EBUSY : undefined) });
    expect(world.iommu.groupOf(world.kernel.core.findByNode("nic")!)).toBeUndefined();
  });

  test("DMA that is active at boot is never blocked", () => {
    const { world } = boot({ nic: { [BOOT_DMA_PROPERTY]: true } });
    expect(hyp(world, "iommu_set_state")).toEqual([
      "iommu_set_state 2 3 0 1", "iommu_set_state 2 5 0 1", "iommu_set_state 2 3 0 1", "iommu_set_state 2 5 0 1",
    ]);
  });

  test("EL2 refuses to tell PROD or global errors: nothing is made up", () => {
    let refuse = false;
    const { world } = boot({ answer: () => (refuse ? -ERRNO.ENODEV : undefined) });
    refuse = true;
    world.irqs.get(EVENTQ_IRQ)!();
    world.irqs.get(GERROR_IRQ)!();
    expect(world.iommu.faults.count).toBe(0);
    expect(new Set(world.kernel.log.lines("err"))).toEqual(
      new Set(["arm-smmu-v3 smmu: event queue: ENODEV", "arm-smmu-v3 smmu: global errors: ENODEV"]),
    );
  });

  test("identity that EL2 refuses leaves every stream as it was; blocking that EL2 refuses is logged: it must not fail", () => {
    let refused = 1;
    const { world } = boot({
      answer: (name, args) => (name === "__pkvm_iommu_set_state" && args[1] === 5 && args[3] === refused && refused >= 0 ? -ERRNO.EIO : undefined),
    });
    expect(hyp(world, "iommu_set_state").slice(2)).toEqual([
      "iommu_set_state 2 3 0 1", "iommu_set_state 2 5 0 1", "iommu_set_state 2 3 0 0",
    ]);
    expect(world.kernel.log.lines("err")[0]).toBe("iommu: nic: cannot add to smmu3.0x9050000: EIO");

    refused = -1;
    const nic = world.kernel.core.findByNode("nic")!;
    world.kernel.core.attach(nic);
    refused = 0;
    const { ops } = world.iommu.instances[0]!;
    expect(world.iommu.attachGroup(world.iommu.groupOf(nic)!, ops.blockedDomain)).toBe(0);
    expect(world.kernel.log.lines("err").at(-1)).toBe("arm-smmu-v3 smmu: nic: stream 5: EL2 refused: EIO");
  });

  test("a burst of events costs two hypercalls", () => {
    const { world } = boot();
    for (let sid = 0; sid < 6; sid++) world.deliver(event(sid));
    const before = world.calls.length;
    world.irqs.get(EVENTQ_IRQ)!();
    expect(world.calls.slice(before)).toEqual(["iommu_event_queue 2 1 0", "iommu_event_queue 2 1 6"]);
    expect(world.iommu.faults.reports.map(({ dev, fault }) => [dev?.name, fault.sid])).toEqual([
      [undefined, 0], [undefined, 1], [undefined, 2], ["nic", 3], [undefined, 4], ["nic", 5],
    ]);
  });

  test("an overflow is acknowledged", () => {
    const { world } = boot();
    world.deliver(event(3));
    world.prod |= 1 << 31;
    world.irqs.get(EVENTQ_IRQ)!();
    expect(world.cons).toBe(0x8000_0001);
    expect(world.kernel.log.lines("err").join()).toMatch(/EVTQ overflow/);
  });

  test("global errors come from EL2", () => {
    const { world } = boot();
    world.gerror = maskOf(REG.GERROR.EVENTQ_ABT_ERR);
    world.irqs.get(GERROR_IRQ)!();
    world.irqs.get(GERROR_IRQ)!();
    expect(world.kernel.log.lines("err")).toEqual(["arm-smmu-v3 smmu: global error: EVENTQ_ABT_ERR"]);
    expect(world.writes).toEqual([]);
  });

  test("shutdown blocks every stream", () => {
    const { world } = boot();
    const before = world.calls.length;
    world.kernel.core.shutdown();
    expect(world.calls.slice(before)).toEqual(["iommu_set_state 2 3 0 0", "iommu_set_state 2 5 0 0"]);
  });

  test("memory of the event queue is kept when the driver goes: EL2 still has it", () => {
    const { world } = boot();
    const eventq = world.eventq - (world.eventq % 64);
    world.kernel.core.unbind(world.kernel.core.findByNode("smmu")!);
    expect(world.kernel.pages.sizeOf(eventq)).toBe(512 * 32);
    expect(world.irqs.size).toBe(0);
  });
});

describe("without", () => {
  test("an EL2, the driver uses the hardware itself and has its memory back", () => {
    const { world, driver } = boot({ absent: true });
    // The fake registers acknowledge nothing: what matters is that the native back end tried.
    expect(world.writes.length).toBeGreaterThan(0);
    expect(driver.smmus).toEqual([]);
    expect([world.calls, world.kernel.pages.allocated]).toEqual([[], 0]);
  });

  test("EL2's consent, the probe fails with the hardware and the memory untouched", () => {
    const { world, driver } = boot({ answer: (name) => (name === "__pkvm_iommu_handoff" ? -ERRNO.EBUSY : undefined) });
    expect([driver.smmus, world.writes, world.kernel.pages.allocated]).toEqual([[], [], 0]);
    expect(world.kernel.log.lines("err").join()).toMatch(/handing the SMMU to EL2: EBUSY/);
  });

  test.each([
    ["the third page refused", (name: string, args: readonly number[]) => name === "__pkvm_host_share_hyp" && args[0]! % 4 === 2, 2],
    ["the queue refused", (name: string) => name === "__pkvm_iommu_event_queue", 4],
  ])("an event queue: %s, the SMMU and its devices work without events", (_, refuse, unshared) => {
    const { world, driver } = boot({ answer: (name, args) => (refuse(name, args) ? -ERRNO.EPERM : undefined) });
    expect(driver.smmus[0]!.backend).toBeInstanceOf(PkvmBackend);
    expect(world.iommu.domainOf(world.kernel.core.findByNode("nic")!)!.type).toBe("identity");
    expect(world.kernel.log.entries().map(({ level, text }) => [level, text])).toEqual([
      ["warn", "arm-smmu-v3 smmu: no event queue: EPERM"],
    ]);
    const shared = hyp(world, "host_share_hyp").slice(0, unshared).map((call) => call.split(" ")[1]);
    expect(hyp(world, "host_unshare_hyp").map((call) => call.split(" ")[1])).toEqual(shared);
    expect(world.irqs.size).toBe(0);
  });
});

describe("with paging", () => {
  const bytes = (name: string, args: readonly number[]): number | undefined =>
    name === "__pkvm_iommu_map_pages" ? args[3]! * args[4]! : name === "__pkvm_iommu_unmap_pages" ? args[2]! * args[3]! : undefined;

  test("streams lead to a domain that EL2 keeps; the DMA API maps in it", () => {
    const { world } = boot({ answer: bytes }, true);
    const nic = world.kernel.core.findByNode("nic")!;
    expect(hyp(world, "iommu_alloc_domain")).toEqual(["iommu_alloc_domain 2 2 1"]);
    expect(hyp(world, "iommu_set_state").slice(2)).toEqual(["iommu_set_state 2 3 0 2", "iommu_set_state 2 5 0 2"]);
    const dma = world.iommu.dma.mapPage(nic, 0x4010_0000, 4096, 0);
    expect(world.iommu.dma.unmapPage(nic, dma, 4096, 0)).toBe(0);
    expect(hyp(world, "iommu_map_pages").concat(hyp(world, "iommu_unmap_pages"))).toEqual([
      `iommu_map_pages 2 ${dma.toString(16)} 40100000 1000 1 ${hyp(world, "iommu_map_pages")[0]!.split(" ").at(-1)}`,
      `iommu_unmap_pages 2 ${dma.toString(16)} 1000 1`,
    ]);
    expect(world.writes).toEqual([]);
  });

  test("PASIDs are attached and detached by EL2", () => {
    const { world } = boot({ answer: bytes, nic: { "pasid-num-bits": 4 } }, true);
    const nic = world.kernel.core.findByNode("nic")!;
    const domain = world.iommu.allocPaging(nic);
    if (typeof domain === "number") throw new Error("no domain");
    const before = hyp(world, "iommu_set_state").length;
    expect(world.iommu.attachPasid(nic, 2, domain)).toBe(0);
    expect(world.iommu.detachPasid(nic, 2)).toBe(0);
    expect(hyp(world, "iommu_set_state").slice(before)).toEqual([
      "iommu_set_state 2 3 2 3", "iommu_set_state 2 5 2 3", "iommu_set_state 2 3 2 0", "iommu_set_state 2 5 2 0",
    ]);
  });

  test("a domain that EL2 refuses half-way leaves the streams where they were", () => {
    const { world } = boot({
      answer: (name, args) => (name === "__pkvm_iommu_set_state" && args[1] === 5 && args[3] === 3 ? -ERRNO.EBUSY : bytes(name, args)),
    }, true);
    const nic = world.kernel.core.findByNode("nic")!;
    const domain = world.iommu.allocPaging(nic);
    if (typeof domain === "number") throw new Error("no domain");
    expect(world.iommu.attachGroup(world.iommu.groupOf(nic)!, domain)).toBe(-ERRNO.EBUSY);
    expect(hyp(world, "iommu_set_state").slice(-3)).toEqual([
      "iommu_set_state 2 3 0 3", "iommu_set_state 2 5 0 3", "iommu_set_state 2 3 0 2",
    ]);
  });
});
