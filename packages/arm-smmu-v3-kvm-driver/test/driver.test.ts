import * as abi from "@smmuv3/pkvm-abi";
import { createKernel } from "@smmuv3/driver-core";
import type { Device, KernelContext } from "@smmuv3/driver-core";
import { IommuCore } from "@smmuv3/iommu-core";
import type { SmmuHandoff } from "@smmuv3/arm-smmu-v3-handoff";
import { EVENT_QUEUE_OP, IOMMU_STATE } from "@smmuv3/pkvm-abi";
import { ERRNO } from "@smmuv3/platform";
import type { FirmwareNode } from "@smmuv3/platform";
import { expect, test } from "vitest";
import { createKvmDriver } from "../src/index.ts";
import { FakeCpu, firmware, node, smmuNode } from "@smmuv3/fake-cpu";

const { blocking, identity } = IOMMU_STATE;
const EVENTQ_IRQ = 74;
const SMMU = smmuNode(0x905_0000, { interrupts: { eventq: EVENTQ_IRQ } });

interface Setup {
  readonly cpu: FakeCpu<abi.HypercallName>;
  readonly kernel: KernelContext;
  readonly core: IommuCore;
  readonly handoff: SmmuHandoff;
  readonly stock: string[];
  readonly dev: (name: string) => Device;
  readonly states: () => number[][];
}

function setUp(clients: readonly Partial<FirmwareNode>[] = [{}]): Setup {
  const cpu = new FakeCpu(abi);
  const nodes = clients.map((fields, i) =>
    node(`0000:00:0${i + 1}.0`, { compatible: ["test,client"], iommus: [{ iommu: SMMU.name, id: 8 + i }], ...fields }),
  );
  const kernel = createKernel({ cpu, firmware: firmware([SMMU, ...nodes]) });
  const core = new IommuCore(kernel);
  const handoff = createKvmDriver(kernel, core);
  const stock: string[] = [];
  kernel.core.populate(kernel.firmware);
  handoff.register();
  kernel.core.registerDriver({ name: "stock", bus: "platform", ids: ["arm,smmu-v3"], probe: (dev) => stock.push(dev.name) && 0 });
  kernel.core.registerDriver({ name: "client", bus: "pci", ids: ["test,client"], probe: () => 0 });
  const dev = (name: string): Device => kernel.core.findByNode(name)!;
  return { cpu, kernel, core, handoff, stock, dev, states: () => cpu.argsOf("__pkvm_iommu_set_state") };
}

test("the instance is on the physical device, once the host is deprivileged; clients then have identity", () => {
  const one = setUp();
  expect(one.handoff.handoff()).toBe(0);
  expect(one.core.instances).toEqual([]);
  one.handoff.ready();
  const [instance] = one.core.instances;
  expect(instance).toMatchObject({ name: "smmu3.0x9050000", node: SMMU });
  expect(instance!.dev).toBe(one.dev(SMMU.name));
  expect(instance!.dev.driver?.name).toBe("kvm-arm-smmu-v3");
  expect(one.core.domainOf(one.dev("0000:00:01.0"))?.type).toBe("identity");
  expect(one.states()).toEqual([[0, 8, 0, blocking], [0, 8, 0, identity]]);
  expect(one.core.allocPaging(one.dev("0000:00:01.0"))).toBe(-ERRNO.EOPNOTSUPP);
  expect(one.stock).toEqual([]);
});

test("a device that goes away is blocked, and the driver that goes away blocks all", () => {
  const one = setUp([{}, {}]);
  one.handoff.handoff();
  one.handoff.ready();
  one.kernel.core.removeDevice(one.dev("0000:00:01.0"));
  expect(one.states().at(-1)).toEqual([0, 8, 0, blocking]);
  one.handoff.release();
  expect(one.states().at(-1)).toEqual([0, 9, 0, blocking]);
  expect(one.core.instances).toEqual([]);
});

test("DMA that is active at boot is not interrupted", () => {
  const one = setUp([{ properties: { "iommu-addresses": true } }]);
  one.handoff.handoff();
  one.handoff.ready();
  expect(one.states()).toEqual([[0, 8, 0, identity], [0, 8, 0, identity]]);
});

test("faults are reported for the device of the stream", () => {
  const one = setUp();
  let queue = 0;
  let prod = 0;
  one.cpu.answers.__pkvm_iommu_event_queue = (_iommu, op, value) => {
    if (op === EVENT_QUEUE_OP.attach) queue = value - (value % 64);
    return op === EVENT_QUEUE_OP.consume ? prod : 0;
  };
  one.handoff.handoff();
  one.handoff.ready();
  one.kernel.memory.write(queue, Int32Array.of(0x10, 8, 0, 0, 0x5000, 0, 0, 0));
  prod = 1;
  one.cpu.irqs.get(EVENTQ_IRQ)!();
  expect(one.core.faults.count).toBe(1);
});

test("no event queue: the SMMU works all the same", () => {
  const one = setUp();
  one.cpu.answers.__pkvm_iommu_event_queue = -ERRNO.EINVAL;
  one.handoff.handoff();
  one.handoff.ready();
  expect(one.core.instances).toHaveLength(1);
  expect(one.kernel.log.lines("warn")).toEqual(["kvm-arm-smmu-v3 smmuv3@9050000: no event queue: EINVAL"]);
});

test("no EL2: the stock driver gets the device, and nothing is registered", () => {
  const one = setUp();
  one.cpu.el2 = false;
  expect(one.handoff.handoff()).toBe(-ERRNO.ENOSYS);
  one.handoff.release();
  for (const dev of one.kernel.core.devices) one.kernel.core.attach(dev);
  expect(one.stock).toEqual([SMMU.name]);
  expect(one.core.instances).toEqual([]);
});
