import { Counters, Memory } from "@smmuv3/platform";
import type { Firmware, FirmwareNode, HostCpu } from "@smmuv3/platform";

/** A host CPU that has memory and counters, and nothing else. */
export function fakeCpu(options: { base: number; size: number }): HostCpu {
  const unavailable = (): never => {
    throw new Error("the fake CPU has no devices");
  };
  return {
    level: 1,
    memory: Memory.allocate(options),
    counters: new Counters(),
    now: () => 0,
    relax: () => {},
    barrier: () => {},
    irqSave: () => {},
    irqRestore: () => {},
    ioremap: unavailable,
    hvc: unavailable,
    requestIrq: unavailable,
    freeIrq: unavailable,
  };
}

/** A firmware node with what a test cares about. */
export function node(name: string, fields: Partial<FirmwareNode> = {}): FirmwareNode {
  return { name, compatible: [], reg: [], interrupts: {}, iommus: [], properties: {}, ...fields };
}

export function firmware(memory: { base: number; size: number }, nodes: FirmwareNode[]): Firmware {
  return { memory, doorbells: [], nodes };
}
