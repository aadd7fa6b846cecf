import { DMA_CLIENT, DMA_DIRECTION } from "@smmuv3/arch-common";
import type { HostPort } from "@smmuv3/arch-common";
import { bootKernel } from "@smmuv3/arch-two-vendors/el1";
import { startHypervisor } from "@smmuv3/arch-two-vendors/el2";
import { Machine } from "@smmuv3/machine";
import type { DmaMaster } from "@smmuv3/machine";
import { hypercallName } from "@smmuv3/pkvm-abi";
import { ERRNO, PAGE_SIZE, TRANSLATION } from "@smmuv3/platform";
import type { Firmware, FirmwareNode } from "@smmuv3/platform";
import { RV_REGISTER_SPACE } from "@smmuv3/riscv-iommu-defs";
import { RiscvIommu } from "@smmuv3/riscv-iommu-model";
import { REGISTER_SPACE } from "@smmuv3/smmu-v3-defs";
import { SmmuV3 } from "@smmuv3/smmu-v3-model";
import { describe, expect, test } from "vitest";

const RAM = { base: 0x4000_0000, size: 64 << 20 };
const SMMU = { name: "smmuv3@9050000", base: 0x905_0000 };
const RISCV = { name: "iommu@9070000", base: 0x907_0000 };
const SENTINEL = 0x5ec2_e700;

function client(name: string, iommu: string, id: number): FirmwareNode {
  const properties = { "dma-coherent": true };
  return { name, compatible: [DMA_CLIENT], reg: [], interrupts: {}, iommus: [{ iommu, id }], properties };
}

const FIRMWARE: Firmware = {
  memory: RAM,
  doorbells: [],
  nodes: [
    {
      name: SMMU.name, compatible: ["arm,smmu-v3"], reg: [{ base: SMMU.base, size: REGISTER_SPACE }],
      interrupts: { eventq: 106, gerror: 109 }, iommus: [], properties: { "dma-coherent": true },
    },
    {
      name: RISCV.name, compatible: ["riscv,iommu"], reg: [{ base: RISCV.base, size: RV_REGISTER_SPACE }],
      interrupts: { fltq: 112 }, iommus: [], properties: {},
    },
    client("0000:00:01.0", SMMU.name, 5),
    client("0000:00:02.0", RISCV.name, 300),
  ],
};

interface Rig {
  readonly machine: Machine;
  readonly port: HostPort;
  /** By device number: behind the SMMU, behind the RISC-V IOMMU. */
  readonly masters: readonly DmaMaster[];
  readonly calls: string[];
}

function boot(profile: "lazy" | "eager", paging: boolean): Rig {
  const calls: string[] = [];
  const hvcCounter = (id: number): string => {
    calls.push(hypercallName(id) ?? "unknown");
    return "hypercalls";
  };
  const machine = new Machine({ memory: RAM, hvcCounter });
  const smmu = new SmmuV3({
    memory: machine.memory, profile, counters: machine.counters,
    irq: { evtq: machine.line(106), gerror: machine.line(109), priq: machine.line(107), cmdSync: machine.line(108) },
    msi: () => false,
  });
  const riscv = new RiscvIommu({ memory: machine.memory, profile, counters: machine.counters, irq: [machine.line(112)] });
  machine.addDevice(SMMU.name, SMMU.base, REGISTER_SPACE, smmu.registers);
  machine.addDevice(RISCV.name, RISCV.base, RV_REGISTER_SPACE, riscv);
  startHypervisor(machine.hyp, FIRMWARE);
  const port = bootKernel(machine.host, FIRMWARE, { paging });
  return { machine, port, masters: [machine.dmaMaster("nic", 5, smmu), machine.dmaMaster("disk", 300, riscv)], calls };
}

describe.each([
  ["lazy", true], ["eager", true], ["lazy", false], ["eager", false],
] as const)("%s caches, paging %s", (profile, paging) => {
  test("both vendors' faux devices are bound by the same driver, and EL2 owns both", () => {
    const { port, machine } = boot(profile, paging);
    expect(port.status).toMatchObject({ protectedMode: true, iommuAtEl2: true, translation: paging ? "strict" : "identity" });
    expect(port.status.iommus.map(({ driver }) => driver)).toEqual(["pkvm-iommu", "pkvm-iommu"]);
    expect(port.status.warnings).toEqual([]);
    expect([machine.panics, machine.aborts, machine.errors]).toEqual([[], [], []]);
  });

  test.each([["SMMUv3", 0], ["RISC-V", 1]] as const)("%s: DMA works while it is mapped", (_name, device) => {
    const { machine, port, masters } = boot(profile, paging);
    const pa = port.allocPages(PAGE_SIZE);
    const dma = port.dmaMap(device, pa, PAGE_SIZE, DMA_DIRECTION.bidirectional);
    expect(dma === pa).toBe(!paging);
    const words = Int32Array.of(0x1234, 0x5678);
    expect(masters[device]!.write(dma + 16, words)).toBe(TRANSLATION.ok);
    expect([machine.memory.load32(pa + 16), machine.memory.load32(pa + 20)]).toEqual([0x1234, 0x5678]);
    port.dmaUnmap(device, dma, PAGE_SIZE, DMA_DIRECTION.bidirectional);
    const before = port.faultsReported;
    expect(masters[device]!.read(dma, words)).toBe(paging ? TRANSLATION.abort : TRANSLATION.ok);
    port.poll();
    expect(port.faultsReported - before).toBe(paging ? 1 : 0);
  });

  test.each([["SMMUv3", 0], ["RISC-V", 1]] as const)("%s: a VM's page is out of reach", (_name, device) => {
    const { machine, port, masters } = boot(profile, paging);
    const pa = port.allocPages(PAGE_SIZE);
    const dma = port.dmaMap(device, pa, PAGE_SIZE, DMA_DIRECTION.bidirectional);
    const word = Int32Array.of(0x0bad);
    // Warm, and shown to be reachable.
    expect(masters[device]!.write(dma, word)).toBe(TRANSLATION.ok);
    const vm = port.vmCreate(1);
    machine.setGuestProgram(vm, 0, (guest) => { guest.store32(0x8000_0000, SENTINEL); });
    if (paging) {
      expect(port.vmDonate(vm, pa, 0x8000_0000)).toBe(-ERRNO.EBUSY);
      port.dmaUnmap(device, dma, PAGE_SIZE, DMA_DIRECTION.bidirectional);
    }
    expect(port.vmDonate(vm, pa, 0x8000_0000)).toBe(0);
    expect(port.vmRun(vm, 0)).toBe(0);
    expect(masters[device]!.write(dma, word)).toBe(TRANSLATION.abort);
    expect(masters[device]!.read(dma, word)).toBe(TRANSLATION.abort);
    expect(machine.memory.load32(pa)).toBe(SENTINEL);
  });
});

test("an IOMMU that EL2 was not given keeps the host privileged", () => {
  const machine = new Machine({ memory: RAM });
  const smmu = new SmmuV3({ memory: machine.memory, msi: () => false });
  machine.addDevice(SMMU.name, SMMU.base, REGISTER_SPACE, smmu.registers);
  // The other one is broken: it has no second stage.
  const window = { hi: 0, read32: () => 0, read64: () => 0, write32: () => {}, write64: () => {} };
  machine.addDevice(RISCV.name, RISCV.base, RV_REGISTER_SPACE, window);
  startHypervisor(machine.hyp, FIRMWARE);
  const port = bootKernel(machine.host, FIRMWARE);
  expect(port.status.protectedMode).toBe(false);
  expect(machine.panics).toEqual([]);
});
