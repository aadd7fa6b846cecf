import * as abi from "@smmuv3/pkvm-abi";
import { createKernel } from "@smmuv3/driver-core";
import type { Device, KernelContext } from "@smmuv3/driver-core";
import type { SmmuHandoff } from "@smmuv3/arm-smmu-v3-handoff";
import { ERRNO } from "@smmuv3/platform";
import { expect, test } from "vitest";
import { createNesting, EMULATED_SMMU_ID } from "../src/index.ts";
import { FakeCpu, firmware, smmuNode } from "@smmuv3/fake-cpu";

interface Setup {
  readonly cpu: FakeCpu<abi.HypercallName>;
  readonly kernel: KernelContext;
  readonly nesting: SmmuHandoff;
  /** Devices that the SMMU driver binds. */
  readonly bound: Device[];
}

function setUp(): Setup {
  const cpu = new FakeCpu(abi);
  const kernel = createKernel({ cpu, firmware: firmware([smmuNode(0x905_0000), smmuNode(0x907_0000)]) });
  const nesting = createNesting(kernel);
  const bound: Device[] = [];
  const probe = (dev: Device): number => bound.push(dev) && 0;
  kernel.core.populate(kernel.firmware);
  nesting.register();
  kernel.core.registerDriver({ name: "stock", bus: "platform", ids: ["arm,smmu-v3"], probe });
  kernel.core.registerDriver({ name: "stock.aux", bus: "auxiliary", ids: [EMULATED_SMMU_ID], probe });
  return { cpu, kernel, nesting, bound };
}

test("an auxiliary device appears below each SMMU once it is EL2's and the host deprivileged", () => {
  const { cpu, kernel, nesting, bound } = setUp();
  let next = 0;
  cpu.answers.__pkvm_iommu_handoff = () => next++;
  expect(nesting.handoff()).toBe(0);
  expect(bound).toEqual([]);
  nesting.ready();
  expect(bound.map(({ path }) => path)).toEqual([
    "devices/platform/smmuv3@9050000/protected_kvm.smmu_v3_emu.0",
    "devices/platform/smmuv3@9070000/protected_kvm.smmu_v3_emu.1",
  ]);
  expect(bound.map(({ parent }) => parent?.driver?.name)).toEqual(["smmuv3-nesting", "smmuv3-nesting"]);
  // The resources are the parent's: a node of its own would be a second device of that node.
  expect(bound.map(({ node }) => node)).toEqual([undefined, undefined]);
  expect(kernel.core.findByNode("smmuv3@9050000")).toBe(bound[0]!.parent);
});

test("EL2 has only some: no device for the others", () => {
  const { cpu, nesting, bound } = setUp();
  let next = 0;
  cpu.answers.__pkvm_iommu_handoff = () => (next === 0 ? next++ : -ERRNO.ENODEV);
  expect(nesting.handoff()).toBe(-ERRNO.ENODEV);
  nesting.ready();
  expect(bound.map(({ name }) => name)).toEqual(["protected_kvm.smmu_v3_emu.0"]);
});

test("no EL2: the driver gets the physical devices", () => {
  const { cpu, kernel, nesting, bound } = setUp();
  cpu.el2 = false;
  expect(nesting.handoff()).toBe(-ERRNO.ENOSYS);
  nesting.release();
  for (const dev of kernel.core.devices) kernel.core.attach(dev);
  expect(bound.map(({ path }) => path)).toEqual(["devices/platform/smmuv3@9050000", "devices/platform/smmuv3@9070000"]);
});
