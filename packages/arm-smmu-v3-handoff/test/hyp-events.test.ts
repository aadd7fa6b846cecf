import * as abi from "@smmuv3/pkvm-abi";
import type { EventQueue } from "@smmuv3/arm-smmu-v3-common";
import { createKernel } from "@smmuv3/driver-core";
import type { KernelContext } from "@smmuv3/driver-core";
import { EVENT_QUEUE_OP } from "@smmuv3/pkvm-abi";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { expect, test } from "vitest";
import { attachEventQueue, takeGlobalErrors } from "../src/index.ts";
import { FakeCpu, firmware } from "@smmuv3/fake-cpu";

const IOMMU = 3;
const OVERFLOW = 2 ** 31;

interface Setup {
  readonly cpu: FakeCpu<abi.HypercallName>;
  readonly kernel: KernelContext;
  readonly refusals: number[];
  readonly attach: (log2: number) => EventQueue | number;
}

function setUp(): Setup {
  const cpu = new FakeCpu(abi);
  const kernel = createKernel({ cpu, firmware: firmware([]) });
  const refusals: number[] = [];
  return {
    cpu, kernel, refusals,
    attach: (log2) => attachEventQueue(kernel, IOMMU, log2, (errno) => refusals.push(errno)),
  };
}

test.each([
  { evtqLog2: 4, log2: 4, pages: 1 },
  { evtqLog2: 10, log2: 10, pages: 8 },
  { evtqLog2: 19, log2: 11, pages: 16 },
])("2^$evtqLog2 events: $pages pages are shared, then attached", ({ evtqLog2, log2, pages }) => {
  const { cpu, attach } = setUp();
  const queue = attach(evtqLog2) as EventQueue;
  const first = queue.pa / PAGE_SIZE;
  expect(queue.log2).toBe(log2);
  expect(cpu.calls).toEqual([
    ...Array.from({ length: pages }, (_, i) => ["__pkvm_host_share_hyp", first + i]),
    ["__pkvm_iommu_event_queue", IOMMU, EVENT_QUEUE_OP.attach, queue.pa + log2],
  ]);
});

test("CONS travels with the next look at PROD; an overflow is acknowledged at once", () => {
  const { cpu, attach, refusals } = setUp();
  const queue = attach(4) as EventQueue;
  const told: number[] = [];
  let prod = 2;
  cpu.answers.__pkvm_iommu_event_queue = (_iommu, _op, cons) => {
    told.push(cons);
    return prod;
  };
  expect(queue.drain(() => {})).toBe(2);
  expect(told).toEqual([0, 2]);
  prod = OVERFLOW + 3;
  expect(queue.drain(() => {})).toBe(1);
  expect(told).toEqual([0, 2, 2, 3, OVERFLOW + 3]);
  expect([queue.overflows, refusals]).toEqual([1, []]);
});

test("EL2 refuses to tell PROD: the queue looks empty, and somebody hears of it", () => {
  const { cpu, attach, refusals } = setUp();
  const queue = attach(4) as EventQueue;
  cpu.answers.__pkvm_iommu_event_queue = -ERRNO.ENODEV;
  expect(queue.drain(() => {})).toBe(0);
  expect(new Set(refusals)).toEqual(new Set([-ERRNO.ENODEV]));
});

test("EL2 refuses the queue but keeps one page: its memory is not used for anything else", () => {
  const { cpu, kernel, attach } = setUp();
  cpu.answers.__pkvm_iommu_event_queue = -ERRNO.ETIMEDOUT;
  let asked = 0;
  cpu.answers.__pkvm_host_unshare_hyp = () => (asked++ === 5 ? -ERRNO.EBUSY : 0);
  expect(attach(10)).toBe(-ERRNO.ETIMEDOUT);
  expect(asked).toBe(8);
  expect(kernel.pages.allocated).toBe(8 * PAGE_SIZE);
  // EL2 lets go of all of it.
  expect(attach(10)).toBe(-ERRNO.ETIMEDOUT);
  expect(kernel.pages.allocated).toBe(8 * PAGE_SIZE);
});

test("global errors are EL2's to read and acknowledge", () => {
  const { cpu } = setUp();
  cpu.answers.__pkvm_iommu_event_queue = 1 << 2;
  expect(takeGlobalErrors(cpu, IOMMU)).toBe(4);
  expect(cpu.calls).toEqual([["__pkvm_iommu_event_queue", IOMMU, EVENT_QUEUE_OP.gerror, 0]]);
});
