import { createKernel } from "@smmuv3/driver-core";
import type { KernelContext } from "@smmuv3/driver-core";
import { EVENT_QUEUE_OP, frameArg, hypercallName, setFrame } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { Counters, ERRNO, Memory } from "@smmuv3/platform";
import type { FirmwareNode, HostCpu } from "@smmuv3/platform";
import { RV_FAULT_BYTES } from "@smmuv3/riscv-iommu-defs";
import type { RvFault } from "@smmuv3/riscv-iommu-defs";
import { describe, expect, test } from "vitest";
import { RiscvIommuKvm } from "../src/index.ts";

const RAM = { base: 0x4000_0000, size: 8 << 20 };
type Answer = (...args: number[]) => number;

/** A kernel with one IOMMU over an EL2 whose answers a test may change. */
class Host {
  readonly calls: string[] = [];
  readonly answers: Partial<Record<HypercallName, Answer>> = {};
  readonly faults: RvFault[] = [];
  interrupt: () => void = () => {};
  readonly memory: Memory = Memory.allocate(RAM);
  readonly kernel: KernelContext;
  readonly half: RiscvIommuKvm;

  constructor(reg: FirmwareNode["reg"] = [{ base: 0x907_0000, size: 0x1000 }]) {
    const cpu = {
      memory: this.memory,
      counters: new Counters(),
      now: () => 0,
      requestIrq: (_intid: number, handler: () => void) => {
        this.interrupt = handler;
      },
      hvc: (frame: Int32Array) => {
        const name = hypercallName(frame[0]!)!;
        this.calls.push(name);
        const args = [1, 2, 3].map((i) => frameArg(frame, i));
        frame.fill(0);
        setFrame(frame, 1, this.answers[name]?.(...args) ?? 0);
      },
    } as unknown as HostCpu;
    const node: FirmwareNode = {
      name: "iommu@9070000", compatible: ["riscv,iommu"], reg, interrupts: { fltq: 80 }, iommus: [], properties: {},
    };
    this.kernel = createKernel({ cpu, firmware: { memory: RAM, doorbells: [], nodes: [node] } });
    this.half = new RiscvIommuKvm(this.kernel, {
      fauxDriver: () => ({ name: "pv", bus: "faux", ids: [], probe: () => 0 }),
      onFault: (_iommu, fault) => this.faults.push(fault),
    });
    this.kernel.core.populate(this.kernel.firmware);
    this.half.register();
  }

  get allocated(): number {
    return this.kernel.pages.allocated;
  }
}

describe("hand-over", () => {
  test.each([
    ["EL2 refuses", -ERRNO.ENODEV, [{ base: 0x907_0000, size: 0x1000 }]],
    ["no registers", -ERRNO.EINVAL, []],
    ["registers that are too small", -ERRNO.EINVAL, [{ base: 0x907_0000, size: 0x800 }]],
  ] as const)("%s: nothing is kept, no faux device", (_name, status, reg) => {
    const host = new Host(reg);
    const before = host.allocated;
    host.answers.__pkvm_iommu_handoff = () => -ERRNO.ENODEV;
    expect(host.half.handoff()).toBe(status);
    host.half.ready();
    expect(host.half.accepted).toBe(0);
    expect(host.allocated).toBe(before);
    expect(host.kernel.core.devices.some(({ bus }) => bus === "faux")).toBe(false);
  });

  test("after release the next driver can have the hardware", () => {
    const { half, kernel } = new Host();
    half.release();
    kernel.core.registerDriver({ name: "other", bus: "platform", ids: ["riscv,iommu"], probe: () => 0 });
    expect(kernel.core.devices.find(({ node }) => node !== undefined)?.driver?.name).toBe("other");
  });
});

describe("fault queue", () => {
  test.each([
    ["cannot be shared", "__pkvm_host_share_hyp"],
    ["cannot be attached", "__pkvm_iommu_event_queue"],
  ] as const)("that %s is given back, and the faux device comes all the same", (_name, call) => {
    const host = new Host();
    host.half.handoff();
    const before = host.allocated;
    host.answers[call] = () => -ERRNO.EPERM;
    host.half.ready();
    expect(host.allocated).toBe(before);
    expect(host.kernel.core.devices.some(({ bus }) => bus === "faux")).toBe(true);
  });

  test("faults are drained until the tail stands still", () => {
    const host = new Host();
    let queue = 0;
    let tail = 0;
    const heads: number[] = [];
    host.answers.__pkvm_iommu_event_queue = (_iommu, op, value) => {
      if (op === EVENT_QUEUE_OP.attach) queue = value - (value % 64);
      if (op !== EVENT_QUEUE_OP.consume) return 0;
      heads.push(value);
      return tail;
    };
    host.half.handoff();
    host.half.ready();
    for (const [i, cause] of [23, 258].entries()) host.memory.write(queue + i * RV_FAULT_BYTES, Int32Array.of(cause, (5 + i) << 8));
    tail = 2;
    host.interrupt();
    expect(host.faults.map(({ cause, did }) => [cause, did])).toEqual([[23, 5], [258, 6]]);
    expect(heads).toEqual([0, 2]);
  });

  test("lost records are told", () => {
    const host = new Host();
    host.half.handoff();
    host.half.ready();
    host.answers.__pkvm_iommu_event_queue = (_iommu, op) => (op === EVENT_QUEUE_OP.gerror ? 0x200 : 0);
    host.interrupt();
    expect(host.kernel.log.entries().map(({ text }) => text).join("\n")).toContain("records were lost");
  });
});
