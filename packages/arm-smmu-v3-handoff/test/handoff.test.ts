import * as abi from "@smmuv3/pkvm-abi";
import { createKernel } from "@smmuv3/driver-core";
import type { KernelContext } from "@smmuv3/driver-core";
import { readHandoff } from "@smmuv3/pkvm-abi";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import type { FirmwareNode } from "@smmuv3/platform";
import { expect, test } from "vitest";
import { SmmuHandoff } from "../src/index.ts";
import { FakeCpu, firmware, node, RAM, smmuNode } from "@smmuv3/fake-cpu";

const FIRST = 0x905_0000;
const SECOND = 0x907_0000;
const THIRD = 0x909_0000;

interface Setup {
  readonly cpu: FakeCpu<abi.HypercallName>;
  readonly kernel: KernelContext;
  readonly handoff: SmmuHandoff;
  readonly ready: string[];
}

function setUp(nodes: FirmwareNode[], ram: typeof RAM = RAM): Setup {
  const cpu = new FakeCpu(abi, ram);
  const kernel = createKernel({ cpu, firmware: firmware(nodes, ram) });
  const ready: string[] = [];
  const handoff = new SmmuHandoff(kernel, { name: "claimer", ready: ({ dev, iommu }) => ready.push(`${dev.name}=${iommu}`) });
  kernel.core.populate(kernel.firmware);
  handoff.register();
  return { cpu, kernel, handoff, ready };
}

/** EL2 numbers the IOMMUs; `refuse`: what it answers to those after them. */
function accept(cpu: FakeCpu<abi.HypercallName>, count: number, refuse: number = -ERRNO.EBUSY): void {
  let next = 0;
  cpu.answers.__pkvm_iommu_handoff = () => (next < count ? next++ : refuse);
}

test("every SMMU is claimed, and nothing else", () => {
  const { handoff, cpu, kernel } = setUp([smmuNode(FIRST), node("uart", { compatible: ["arm,pl011"] }), smmuNode(SECOND)]);
  expect(handoff.smmus.map(({ dev }) => dev.name)).toEqual(["smmuv3@9050000", "smmuv3@9070000"]);
  expect(kernel.core.boundTo("claimer")).toHaveLength(2);
  expect(handoff.accepted).toBe(0);
  expect(cpu.calls).toEqual([]);
  expect(kernel.pages.allocated).toBe(0);
});

test("each SMMU goes to EL2 with the memory that its ID registers ask for", () => {
  const { handoff, cpu, kernel } = setUp([smmuNode(FIRST, { properties: { "dma-coherent": true } }), smmuNode(SECOND)]);
  accept(cpu, 2);
  expect(handoff.handoff()).toBe(0);
  expect(handoff.smmus.map(({ iommu, evtqLog2 }) => [iommu, evtqLog2])).toEqual([[0, 10], [1, 10]]);
  expect(handoff.accepted).toBe(2);

  const pages = cpu.argsOf("__pkvm_iommu_handoff").map(([page]) => readHandoff(cpu.memory, page!));
  const common = { mmioSize: 0x2_0000, cmdqLog2: 12, strtabBytes: PAGE_SIZE };
  expect(pages[0]).toMatchObject({ ...common, mmioBase: FIRST, flags: 1 });
  expect(pages[1]).toMatchObject({ ...common, mmioBase: SECOND, flags: 0 });
  for (const { cmdqBase, strtabBase } of pages) {
    expect(cmdqBase % 0x1_0000).toBe(0);
    expect(strtabBase % PAGE_SIZE).toBe(0);
  }
  const blocks = pages.flatMap(({ cmdqBase, strtabBase }) => [cmdqBase, strtabBase]);
  expect(new Set(blocks).size).toBe(4);
  expect(kernel.pages.allocated).toBe(2 * (PAGE_SIZE + 0x1_0000 + PAGE_SIZE));
});

test.each([
  { name: "linear table", id: [0x00, (2 << 21) | (2 << 2) | 3], strtabBytes: 64 << 16, cmdqLog2: 12 },
  { name: "small command queue", id: [0x04, (3 << 21) | (10 << 16) | 16], strtabBytes: PAGE_SIZE, cmdqLog2: 3 },
])("$name", ({ id, strtabBytes, cmdqLog2 }) => {
  const { handoff, cpu } = setUp([smmuNode(FIRST)]);
  cpu.registers.set(id[0]!, id[1]!);
  expect(handoff.handoff()).toBe(0);
  const described = readHandoff(cpu.memory, cpu.argsOf("__pkvm_iommu_handoff")[0]![0]!);
  expect(described).toMatchObject({ strtabBytes, cmdqLog2 });
  expect(described.strtabBase % strtabBytes).toBe(0);
});

test("only SMMUs that EL2 has become ready", () => {
  const { handoff, cpu, ready } = setUp([smmuNode(FIRST), smmuNode(SECOND)]);
  handoff.ready();
  expect(ready).toEqual([]);
  accept(cpu, 1);
  handoff.handoff();
  handoff.ready();
  expect(ready).toEqual(["smmuv3@9050000=0"]);
});

test("EL2 refuses one: it gets its memory back, later ones are not asked", () => {
  const { handoff, cpu, kernel } = setUp([smmuNode(FIRST), smmuNode(SECOND), smmuNode(THIRD)]);
  accept(cpu, 1, -ERRNO.ENODEV);
  expect(handoff.handoff()).toBe(-ERRNO.ENODEV);
  expect(handoff.smmus.map(({ iommu }) => iommu)).toEqual([0, -1, -1]);
  expect(cpu.calls).toHaveLength(2);
  expect(kernel.pages.allocated).toBe(PAGE_SIZE + 0x1_0000 + PAGE_SIZE);
  expect(kernel.log.lines("err")).toEqual(["claimer smmuv3@9070000: handing it to EL2: ENODEV"]);
});

test("no memory: nothing is asked of EL2 and nothing is kept", () => {
  const { handoff, cpu, kernel } = setUp([smmuNode(FIRST)], { base: RAM.base, size: 4 * PAGE_SIZE });
  expect(handoff.handoff()).toBe(-ERRNO.ENOMEM);
  expect(cpu.calls).toEqual([]);
  expect(kernel.pages.allocated).toBe(0);
});

test("without an EL2: -ENOSYS", () => {
  const { handoff, cpu, kernel } = setUp([smmuNode(FIRST)]);
  cpu.el2 = false;
  expect(handoff.handoff()).toBe(-ERRNO.ENOSYS);
  expect(kernel.pages.allocated).toBe(0);
});

test.each([
  { name: "no registers", reg: [] },
  { name: "half a register space", reg: [{ base: FIRST, size: 0x1_0000 }] },
  { name: "registers not page aligned", reg: [{ base: FIRST + 0x200, size: 0x2_0000 }] },
])("$name: claimed, so that the hand-over fails", ({ reg }) => {
  const { handoff, cpu } = setUp([smmuNode(FIRST, { reg })]);
  expect(handoff.smmus).toHaveLength(1);
  expect(handoff.handoff()).toBe(-ERRNO.EINVAL);
  expect(cpu.calls).toEqual([]);
});

test("hardware that no driver can use says why", () => {
  const { handoff, cpu, kernel } = setUp([smmuNode(FIRST)]);
  cpu.registers.set(0, 0);
  expect(handoff.handoff()).toBe(-ERRNO.ENXIO);
  expect(cpu.calls).toEqual([]);
  expect(kernel.log.lines("err")[0]).toBe("claimer smmuv3@9050000: no translation support");
});

test("release lets the stock driver have the hardware; what EL2 was given stays with it", () => {
  const { handoff, cpu, kernel } = setUp([smmuNode(FIRST), smmuNode(SECOND)]);
  const bound: string[] = [];
  const probe = ({ name }: { name: string }): number => bound.push(name) && 0;
  kernel.core.registerDriver({ name: "stock", bus: "platform", ids: ["arm,smmu-v3"], probe });
  expect(bound).toEqual([]);

  accept(cpu, 1);
  handoff.handoff();
  const allocated = kernel.pages.allocated;
  handoff.release();
  expect(handoff.smmus).toEqual([]);
  expect(handoff.accepted).toBe(0);
  expect(kernel.pages.allocated).toBe(allocated);
  for (const dev of kernel.core.devices) kernel.core.attach(dev);
  expect(bound).toEqual(["smmuv3@9050000", "smmuv3@9070000"]);
});
