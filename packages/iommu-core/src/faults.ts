import type { Device, KernelContext } from "@smmuv3/driver-core";
import type { FaultReport, IommuFault } from "./ops.ts";

/** Faults that IOMMU drivers reported: a bounded list of the first ones, a count of all, and listeners. */
export class FaultLog {
  /** Faults reported. */
  count: number = 0;
  /** The first faults, up to the capacity. */
  readonly reports: FaultReport[] = [];
  readonly #kernel: KernelContext;
  readonly #capacity: number;
  readonly #listeners: ((report: FaultReport) => void)[] = [];

  constructor(kernel: KernelContext, capacity: number) {
    this.#kernel = kernel;
    this.#capacity = capacity;
  }

  /** Calls `listener` for every fault from now on. */
  listen(listener: (report: FaultReport) => void): void {
    this.#listeners.push(listener);
  }

  report(dev: Device | undefined, fault: IommuFault): void {
    const report = { time: this.#kernel.cpu.now(), dev, fault };
    this.count++;
    if (this.reports.length < this.#capacity) this.reports.push(report);
    for (const listener of this.#listeners) listener(report);
  }

  /** Forgets the reports and the count. */
  clear(): void {
    this.count = 0;
    this.reports.length = 0;
  }
}
