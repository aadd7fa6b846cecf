import type { Firmware, HostCpu, Memory } from "@smmuv3/platform";
import type { Device } from "./device.ts";
import { DriverCore } from "./driver-core.ts";
import { KernelLog } from "./log.ts";
import type { PciPort } from "./pci.ts";
import { PageAllocator } from "./pages.ts";

/** A message-signalled interrupt: a 32-bit write of `data` to `address` raises it. */
export interface MsiMessage {
  readonly address: number;
  readonly data: number;
}

/** The interrupt controller's part that gives messages to devices. */
export interface MsiDomain {
  /** An interrupt of `dev` that `handler` serves; a negative errno when there is none left. */
  alloc(dev: Device, handler: () => void): MsiMessage | number;
  free(message: MsiMessage): void;
}

/** What every driver of one kernel shares. */
export interface KernelContext {
  readonly cpu: HostCpu;
  /** Physical memory as the kernel may access it: `cpu.memory`. */
  readonly memory: Memory;
  readonly pages: PageAllocator;
  readonly core: DriverCore;
  readonly log: KernelLog;
  readonly firmware: Firmware;
  /** Message-signalled interrupts, where the platform has them. */
  readonly msi?: MsiDomain;
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
  /** Configuration space of PCI devices. */
  readonly pci?: PciPort;
  readonly msi?: MsiDomain;
}

/** A kernel without devices: call `core.populate(firmware)`, register initcalls and drivers, then `core.boot()`. */
export function createKernel(options: KernelOptions): KernelContext {
  const { cpu, firmware } = options;
  const log = new KernelLog(() => cpu.now(), options.logCapacity);
  const pages = new PageAllocator(options.ram ?? firmware.memory);
  for (const range of options.reserved ?? []) pages.reserve(range.base, range.size);
  const core = new DriverCore(log, options.pci);
  const kernel = { cpu, memory: cpu.memory, pages, core, log, firmware };
  return options.msi === undefined ? kernel : { ...kernel, msi: options.msi };
}
