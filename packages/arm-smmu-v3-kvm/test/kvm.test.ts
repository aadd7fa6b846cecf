import * as abi from "@smmuv3/pkvm-abi";
import type { SmmuEvent } from "@smmuv3/arm-smmu-v3-common";
import { createKernel } from "@smmuv3/driver-core";
import type { Driver, KernelContext } from "@smmuv3/driver-core";
import { EVENT_QUEUE_OP } from "@smmuv3/pkvm-abi";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { EVENT, EVENT_BYTES, EVENT_WORDS, EVENTS, setAddress, setField } from "@smmuv3/smmu-v3-defs";
import { expect, test } from "vitest";
import { createSmmuKvm } from "../src/index.ts";
import type { SmmuKvm } from "../src/index.ts";
import { FakeCpu, firmware, smmuNode } from "@smmuv3/fake-cpu";

const OVERFLOW = 2 ** 31;
/** 2^10 events. */
const QUEUE_PAGES = 8;
const EVENTQ_IRQ = 74;
const GERROR_IRQ = 77;

/** EL2's side of the event queue: PROD, and the CONS values that it was told. */
class FakeQueue {
  prod = 0;
  readonly told: number[] = [];
  base = 0;
  gerror = 0;
  attachStatus = 0;

  constructor(cpu: FakeCpu<abi.HypercallName>) {
    cpu.answers.__pkvm_iommu_event_queue = (_iommu, op, value) => this.#answer(op, value);
  }

  #answer(op: number, value: number): number {
    if (op === EVENT_QUEUE_OP.attach) this.base = value - (value % 64);
    if (op === EVENT_QUEUE_OP.attach) return this.attachStatus;
    if (op === EVENT_QUEUE_OP.gerror) return this.gerror;
    this.told.push(value);
    return this.prod;
  }
}

interface Setup {
  readonly cpu: FakeCpu<abi.HypercallName>;
  readonly kernel: KernelContext;
  readonly kvm: SmmuKvm;
  readonly queue: FakeQueue;
  readonly events: (readonly [iommu: number, event: SmmuEvent])[];
  readonly push: (record: Int32Array) => void;
}

const FAUX: Driver = { name: "pv", bus: "faux", ids: [], probe: () => 0 };

function setUp(options: { faux?: Driver; interrupts?: Record<string, number> } = {}): Setup {
  const cpu = new FakeCpu(abi);
  const interrupts = options.interrupts ?? { eventq: EVENTQ_IRQ, gerror: GERROR_IRQ };
  const kernel = createKernel({ cpu, firmware: firmware([smmuNode(0x905_0000, { interrupts })]) });
  const queue = new FakeQueue(cpu);
  const events: (readonly [number, SmmuEvent])[] = [];
  const kvm = createSmmuKvm(kernel, {
    fauxDriver: () => options.faux ?? FAUX,
    onEvent: ({ iommu }, event) => events.push([iommu, event]),
  });
  kernel.core.populate(kernel.firmware);
  kvm.handoff.register();
  cpu.answers.__pkvm_iommu_handoff = 3;
  const push = (record: Int32Array): void => {
    cpu.memory.write(queue.base + (queue.prod % 1024) * EVENT_BYTES, record);
    queue.prod = (queue.prod & OVERFLOW) + ((queue.prod + 1) % 2048);
  };
  return { cpu, kernel, kvm, queue, events, push };
}

function record(sid: number, iova: number): Int32Array {
  const words = new Int32Array(EVENT_WORDS);
  setField(words, 0, EVENT.Type, EVENTS.F_TRANSLATION.type);
  setField(words, 0, EVENT.SID, sid);
  setField(words, 0, EVENT.RnW, 1);
  setAddress(words, 0, EVENT.InputAddr, iova);
  return words;
}

test("after the hand-over: queue shared page by page, attached, then one faux device", () => {
  const { cpu, kernel, kvm, queue } = setUp();
  expect(kvm.handoff.handoff()).toBe(0);
  expect(kvm.fauxDevices).toEqual([]);
  expect(cpu.irqs.size).toBe(0);
  cpu.calls.length = 0;

  kvm.handoff.ready();
  const first = queue.base / PAGE_SIZE;
  expect(cpu.calls).toEqual([
    ...Array.from({ length: QUEUE_PAGES }, (_, i) => ["__pkvm_host_share_hyp", first + i]),
    ["__pkvm_iommu_event_queue", 3, EVENT_QUEUE_OP.attach, queue.base + 10],
  ]);
  expect(queue.base % (QUEUE_PAGES * PAGE_SIZE)).toBe(0);
  expect([...cpu.irqs.keys()]).toEqual([EVENTQ_IRQ, GERROR_IRQ]);
  expect(kvm.fauxDevices.map(({ path }) => path)).toEqual(["devices/platform/smmuv3@9050000/pkvm-iommu.3"]);
  expect(kvm.fauxDevices[0]!.driver).toBe(FAUX);
  expect(kernel.log.entries()).toEqual([]);
});

test("EL2 refused the SMMU: no queue and no faux device", () => {
  const { cpu, kvm } = setUp();
  cpu.answers.__pkvm_iommu_handoff = -ERRNO.ENODEV;
  kvm.handoff.handoff();
  kvm.handoff.ready();
  expect(kvm.fauxDevices).toEqual([]);
  expect(cpu.argsOf("__pkvm_host_share_hyp")).toEqual([]);
});

test("a faux driver that fails leaves no device", () => {
  const { kvm, kernel } = setUp({ faux: { ...FAUX, probe: () => -ERRNO.EBUSY } });
  kvm.handoff.handoff();
  kvm.handoff.ready();
  expect(kvm.fauxDevices).toEqual([]);
  expect(kernel.core.devices.map(({ name }) => name)).toEqual(["smmuv3@9050000"]);
});

test.each([
  { at: 0, shared: 0 },
  { at: 3, shared: 3 },
])("sharing fails at page $at: the others are taken back, the SMMU works without events", ({ at, shared }) => {
  const { cpu, kvm, kernel } = setUp();
  kvm.handoff.handoff();
  const allocated = kernel.pages.allocated;
  let asked = 0;
  cpu.answers.__pkvm_host_share_hyp = () => (asked++ === at ? -ERRNO.ENOMEM : 0);
  kvm.handoff.ready();
  const pages = cpu.argsOf("__pkvm_host_share_hyp");
  expect(cpu.argsOf("__pkvm_host_unshare_hyp")).toEqual(pages.slice(0, shared));
  expect(cpu.argsOf("__pkvm_iommu_event_queue")).toEqual([]);
  expect(kernel.pages.allocated).toBe(allocated);
  expect(cpu.irqs.size).toBe(0);
  expect(kvm.fauxDevices).toHaveLength(1);
  expect(kernel.log.lines("warn")).toEqual(["arm-smmu-v3-kvm smmuv3@9050000: no event queue: ENOMEM"]);
});

test("attaching the queue fails: all of it is taken back", () => {
  const { cpu, kvm, kernel, queue } = setUp();
  kvm.handoff.handoff();
  const allocated = kernel.pages.allocated;
  queue.attachStatus = -ERRNO.EPERM;
  kvm.handoff.ready();
  expect(cpu.argsOf("__pkvm_host_unshare_hyp")).toHaveLength(QUEUE_PAGES);
  expect(kernel.pages.allocated).toBe(allocated);
  expect(kvm.fauxDevices).toHaveLength(1);
});

test.each([
  { name: "a small hardware queue", evtqs: 4, log2: 4, pages: 1 },
  { name: "a large hardware queue", evtqs: 19, log2: 11, pages: 16 },
])("$name", ({ evtqs, log2, pages }) => {
  const { cpu, kvm, queue } = setUp();
  cpu.registers.set(4, (14 << 21) | (evtqs << 16) | 16);
  kvm.handoff.handoff();
  kvm.handoff.ready();
  expect(cpu.argsOf("__pkvm_host_share_hyp")).toHaveLength(pages);
  expect(cpu.argsOf("__pkvm_iommu_event_queue")).toEqual([[3, EVENT_QUEUE_OP.attach, queue.base + log2]]);
});

test("an interrupt drains the queue: decoded events, two hypercalls a burst", () => {
  const { cpu, kvm, kernel, queue, events, push } = setUp();
  kvm.handoff.handoff();
  kvm.handoff.ready();
  push(record(5, 0x1_2345_6000));
  push(record(6, 0xffff_f000));
  cpu.irqs.get(EVENTQ_IRQ)!();
  expect(events.map(([iommu, { reason, sid, iova, write }]) => [iommu, reason, sid, iova, write])).toEqual([
    [3, "F_TRANSLATION", 5, 0x1_2345_6000, false],
    [3, "F_TRANSLATION", 6, 0xffff_f000, false],
  ]);
  expect(queue.told).toEqual([0, 2]);
  expect(kernel.log.lines("err")[0]).toMatch(/^arm-smmu-v3-kvm smmuv3@9050000: event: F_TRANSLATION SID=5 .*InputAddr=0x123456000/);

  push(record(7, 0));
  cpu.irqs.get(EVENTQ_IRQ)!();
  expect(events).toHaveLength(3);
  expect(queue.told).toEqual([0, 2, 2, 3]);
});

test("the index wraps", () => {
  const { cpu, kvm, queue, events, push } = setUp();
  kvm.handoff.handoff();
  kvm.handoff.ready();
  for (let i = 0; i < 2500; i++) {
    push(record(i, 0));
    if (i % 100 === 99) cpu.irqs.get(EVENTQ_IRQ)!();
  }
  expect(events.map(([, { sid }]) => sid)).toEqual(Array.from({ length: 2500 }, (_, i) => i));
  expect(queue.told.at(-1)).toBe(2500 % 2048);
});

test("an overflow is reported and acknowledged, once", () => {
  const { cpu, kvm, kernel, queue, events, push } = setUp();
  kvm.handoff.handoff();
  kvm.handoff.ready();
  push(record(1, 0));
  queue.prod += OVERFLOW;
  cpu.irqs.get(EVENTQ_IRQ)!();
  expect(events).toHaveLength(1);
  expect(queue.told.at(-1)).toBe(OVERFLOW + 1);
  const lost = "arm-smmu-v3-kvm smmuv3@9050000: EVTQ overflow detected -- events lost";
  expect(kernel.log.lines("err").filter((line) => line === lost)).toHaveLength(1);
  cpu.irqs.get(EVENTQ_IRQ)!();
  expect(kernel.log.lines("err").filter((line) => line === lost)).toHaveLength(1);
  expect(queue.told.at(-1)).toBe(OVERFLOW + 1);
});

test("EL2 refuses to tell PROD: no event is made up", () => {
  const { cpu, kvm, kernel, events } = setUp();
  kvm.handoff.handoff();
  kvm.handoff.ready();
  cpu.answers.__pkvm_iommu_event_queue = -ERRNO.ENODEV;
  cpu.irqs.get(EVENTQ_IRQ)!();
  expect(events).toEqual([]);
  expect(kernel.log.lines("err")).toContain("arm-smmu-v3-kvm smmuv3@9050000: event queue: ENODEV");
});

test("a flood of events is delivered, and logged for a part", () => {
  const { cpu, kvm, kernel, events, push } = setUp();
  kvm.handoff.handoff();
  kvm.handoff.ready();
  for (let i = 0; i < 30; i++) push(record(i, 0));
  cpu.irqs.get(EVENTQ_IRQ)!();
  expect(events).toHaveLength(30);
  expect(kernel.log.lines("err")).toHaveLength(10);
  cpu.time = 5_000_000_000;
  push(record(1, 0));
  cpu.irqs.get(EVENTQ_IRQ)!();
  expect(kernel.log.lines("err")).toHaveLength(11);
});

test("global errors are named", () => {
  const { cpu, kvm, kernel, queue } = setUp();
  kvm.handoff.handoff();
  kvm.handoff.ready();
  cpu.irqs.get(GERROR_IRQ)!();
  expect(kernel.log.lines("err")).toEqual([]);
  queue.gerror = 1 << 2;
  cpu.irqs.get(GERROR_IRQ)!();
  expect(kernel.log.lines("err")).toEqual(["arm-smmu-v3-kvm smmuv3@9050000: global errors: EVENTQ_ABT_ERR=1"]);
});

test("one combined interrupt does both", () => {
  const { cpu, kvm, kernel, queue, events, push } = setUp({ interrupts: { combined: 80 } });
  kvm.handoff.handoff();
  kvm.handoff.ready();
  expect([...cpu.irqs.keys()]).toEqual([80]);
  push(record(1, 0));
  queue.gerror = 1;
  cpu.irqs.get(80)!();
  expect(events).toHaveLength(1);
  expect(kernel.log.lines("err")[0]).toContain("CMDQ_ERR");
});
