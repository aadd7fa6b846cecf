import type { Firmware, HostCpu, Memory } from "@smmuv3/platform";
import { DriverCore } from "./driver-core.ts";
import { KernelLog } from "./log.ts";
import { PageAllocator } from "./pages.ts";

/** What every driver of one kernel shares. */
export interface KernelContext {
  readonly cpu: HostCpu;
  /** Physical memory as the kernel may access it: `cpu.memory`. */
  readonly memory: Memory;
  readonly pages: PageAllocator;
  readonly core: DriverCore;
  readonly log: KernelLog;
  readonly firmware: Firmware;
}

export interface KernelOptions {
  readonly cpu: HostCpu;
  readonly firmware: Firmware;
  /** RAM that the page allocator manages; default: all that firmware reports. */
  readonly ram?: { readonly base: number; readonly size: number };
  /** Carve-outs inside of it: firmware, hypervisor, test buffers. */
  readonly reserved?: readonly { readonly base: number; readonly size: number }[];
  /** Messages that the log keeps. */
  readonly logCapacity?: number;
}

/** A kernel without devices: call `core.populate(firmware)`, register initcalls and drivers, then `core.boot()`. */
export function createKernel(options: KernelOptions): KernelContext {
  const { cpu, firmware } = options;
  const log = new KernelLog(() => cpu.now(), options.logCapacity);
  const pages = new PageAllocator(options.ram ?? firmware.memory);
  for (const range of options.reserved ?? []) pages.reserve(range.base, range.size);
  return { cpu, memory: cpu.memory, pages, core: new DriverCore(log), log, firmware };
}
