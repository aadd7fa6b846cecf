// Trap-and-emulate's two devices for one SMMU: the physical one, which the nesting driver has, and the auxiliary one below it, to which
// the unmodified driver binds. What either `struct device` is used for, loading the driver late, and shutting down.
import { expect, test } from "vitest";
import { startHypervisor } from "@smmuv3/arch-trap-emulate/el2";
import { HostKernel } from "@smmuv3/arch-common";
import { ArmSmmuV3 } from "@smmuv3/arm-smmu-v3";
import { createNesting, EMULATED_SMMU_ID } from "@smmuv3/arm-smmu-v3-nesting";
import type { SmmuHandoff } from "@smmuv3/arm-smmu-v3-handoff";
import type { Device } from "@smmuv3/driver-core";
import { PAGE_SIZE, TRANSLATION } from "@smmuv3/platform";
import { OFFSET } from "@smmuv3/smmu-v3-defs";
import type { HostPort } from "@smmuv3/arch-common";
import type { Board } from "@smmuv3/smmu-lab";
import { DEVICES, dmaWorks, newBoard } from "./hyp-kernels.ts";

interface Kernel {
  readonly board: Board;
  readonly kernel: HostKernel;
  readonly port: HostPort;
  readonly nesting: SmmuHandoff;
  readonly driver: ArmSmmuV3;
  readonly physical: Device;
  readonly auxiliary: Device;
}

/** As arch-trap-emulate composes it; `late`: the SMMU driver is a module, which nobody has loaded yet. */
function boot(late = false, board: Board = newBoard()): Kernel {
  startHypervisor(board.machine.hyp, board.firmware);
  const kernel = new HostKernel(board.machine.host, board.firmware);
  const { core } = kernel.ctx;
  const nesting = createNesting(kernel.ctx);
  const driver = new ArmSmmuV3(kernel.ctx, kernel.iommu, { auxiliaryId: EMULATED_SMMU_ID });
  core.initcall("subsys", "smmuv3-nesting", () => {
    nesting.register();
    return 0;
  });
  kernel.addPkvm({ iommu: true, handoffs: [nesting], accepted: () => nesting.accepted });
  if (!late) core.initcall("device", "arm-smmu-v3", () => load(kernel, driver));
  const port = kernel.start();
  const physical = core.findByNode("smmuv3@9050000")!;
  return { board, kernel, port, nesting, driver, physical, auxiliary: physical.children[0]! };
}

function load(kernel: HostKernel, driver: ArmSmmuV3): number {
  for (const entry of driver.drivers) kernel.ctx.core.registerDriver(entry);
  return 0;
}

test("use 1, printing: messages name the physical device, which is what a log is searched for", () => {
  const { board, kernel, port } = boot();
  const dma = port.dmaMap(0, port.allocPages(PAGE_SIZE), PAGE_SIZE, 0);
  board.masters.get(DEVICES[0])!.read(dma + 0x10_0000, new Int32Array(1));
  port.poll();
  const texts = kernel.ctx.log.entries().map(({ text }) => text).filter((text) => text.includes("smmu"));
  expect(texts.length).toBeGreaterThan(0);
  for (const text of texts) expect(text).toContain("smmuv3@9050000");
});

test("use 2, DMA memory: the auxiliary device has the DMA attributes of the hardware below; memory goes back when it unbinds", () => {
  const { kernel, physical, auxiliary, port } = boot();
  expect(auxiliary.dmaMaskBits).toBe(physical.dmaMaskBits);
  const before = port.allocatedBytes;
  kernel.ctx.core.unbind(auxiliary);
  expect(port.allocatedBytes).toBeLessThan(before);
});

test("use 3, resources: registers are the parent's window; sysfs shows the IOMMU on the auxiliary device, the hypervisor above it", () => {
  const { kernel, driver, auxiliary } = boot();
  expect(driver.smmus[0]!.mmioBase).toBe(0x0905_0000);
  const { sysfs } = kernel.ctx.core;
  const path = sysfs.readlink("class/iommu/smmu3.0x9050000");
  expect(path).toBe(`${auxiliary.path}/iommu/smmu3.0x9050000`);
  expect(auxiliary.path).toBe("devices/platform/smmuv3@9050000/protected_kvm.smmu_v3_emu.0");
  expect(sysfs.readlink("devices/platform/smmuv3@9050000/driver")).toBe("bus/platform/drivers/smmuv3-nesting");
  expect(sysfs.readlink(`${auxiliary.path}/driver`)).toBe("bus/auxiliary/drivers/arm-smmu-v3.aux");
  expect(sysfs.list(`${path}/devices`)).toEqual([...DEVICES]);
});

test("use 4, firmware: the parent's node is the only one; clients that name it find the instance", () => {
  const { kernel, driver, physical, auxiliary } = boot();
  expect(auxiliary.node).toBeUndefined();
  expect(driver.smmus[0]!.node).toBe(physical.node);
  expect(kernel.ctx.core.findByNode("smmuv3@9050000")).toBe(physical);
  expect(kernel.iommu.instanceOf("smmuv3@9050000")?.dev).toBe(auxiliary);
});

test("use 5, interrupts: the parent's wires, requested when the driver binds and freed when it lets go", () => {
  const { board, kernel, port, driver, auxiliary } = boot();
  const { eventq, gerror } = driver.smmus[0]!.node.interrupts;
  expect(driver.smmus[0]!.irqs).toEqual(expect.arrayContaining([eventq, gerror]));
  const dma = port.dmaMap(0, port.allocPages(PAGE_SIZE), PAGE_SIZE, 0);
  board.masters.get(DEVICES[0])!.read(dma + 0x10_0000, new Int32Array(1));
  port.poll();
  expect(port.faultsReported).toBe(1);
  kernel.ctx.core.unbind(auxiliary);
  for (const intid of [eventq!, gerror!]) {
    board.machine.host.requestIrq(intid, () => {});
    board.machine.host.freeIrq(intid);
  }
});

test("use 6, driver data: each driver has that of its own device", () => {
  const { kernel, nesting, physical, auxiliary, board, port } = boot();
  const claim = physical.drvdata;
  expect(nesting.smmus).toEqual([claim]);
  kernel.ctx.core.unbind(auxiliary);
  expect(physical.drvdata).toBe(claim);
  expect(auxiliary.drvdata).toBeUndefined();
  // And binds again: the claim was not the SMMU driver's to lose.
  kernel.ctx.core.attach(auxiliary);
  kernel.ctx.core.retryDeferred();
  expect(auxiliary.driver?.name).toBe("arm-smmu-v3.aux");
  expect(physical.driver?.name).toBe("smmuv3-nesting");
  expect(board.machine.panics).toEqual([]);
  expect(port.status.protectedMode).toBe(true);
});

test("the driver is loaded late: clients wait, blocked, and come when it is there", () => {
  const { board, kernel, driver } = boot(true);
  const { core } = kernel.ctx;
  expect(core.boundTo("dma-client")).toEqual([]);
  expect(core.deferred.map(({ name }) => name)).toEqual([...DEVICES]);
  for (const name of DEVICES) {
    const aborted = board.masters.get(name)!.read(0x4010_0000, new Int32Array(1));
    expect(aborted).not.toBe(TRANSLATION.ok);
  }
  load(kernel, driver);
  expect(core.boundTo("dma-client").map(({ name }) => name)).toEqual([...DEVICES]);
  // The physical device is not offered to the platform entry that was loaded with it.
  expect(core.findByNode("smmuv3@9050000")?.driver?.name).toBe("smmuv3-nesting");
});

test("the order of probing: each step once, and nobody waits twice", () => {
  const { kernel, port } = boot();
  const { core } = kernel.ctx;
  expect(port.status.initcalls).toEqual([
    "arch:populate",
    "subsys:smmuv3-nesting",
    "device:dma-client",
    "device:kvm",
    "device:arm-smmu-v3",
    "device_sync:finalize_pkvm",
    "device_sync:pkvm_devices",
  ]);
  const waited = Object.fromEntries(core.devices.map(({ name, deferrals }) => [name, deferrals]));
  expect(waited).toMatchObject({ "smmuv3@9050000": 0, "protected_kvm.smmu_v3_emu.0": 0, [DEVICES[0]]: 1, [DEVICES[2]]: 1 });
  expect(core.deferrals).toBe(DEVICES.length);
});

test("shutting down blocks all DMA and leaves EL2 with its SMMU; the next kernel's driver can have the emulated one", () => {
  const { board, kernel, port, driver } = boot();
  expect(dmaWorks(board, port, 1)).toBe(true);
  kernel.ctx.core.shutdown();
  const window = driver.smmus[0]!.window;
  expect(window.read32(OFFSET.CR0) & 1).toBe(0);
  expect(board.smmu.registers.read32(OFFSET.CR0) & 1).toBe(1);
  for (const name of DEVICES) {
    expect(board.masters.get(name)!.read(0x4010_0000, new Int32Array(1))).not.toBe(TRANSLATION.ok);
  }
  // Reset as a driver's probe does it.
  expect(window.read32(OFFSET.CR0ACK) & 1).toBe(0);
  expect([board.machine.panics, board.machine.errors]).toEqual([[], []]);
});
