import { hex, PAGE_SHIFT } from "@smmuv3/platform";
import type { Counters, RegisterWindow } from "@smmuv3/platform";

import type { BusPage, Device } from "./bus.ts";

/** Decides over the device accesses of one exception level. */
export interface DeviceGuard {
  /**
   * Returns true when the access may go to the device, false when it was emulated and a read takes its value from
   * {@link valueLo} and {@link valueHi}; throws the abort otherwise. `lo`, `hi`: the value of a write.
   */
  admit(page: BusPage, pa: number, size: number, write: boolean, lo: number, hi: number): boolean;
  readonly valueLo: number;
  readonly valueHi: number;
  /** Nothing answers at `pa`. */
  external(pa: number, write: boolean): never;
}

/** What `ioremap` gives: counts each access, asks the guard, dispatches. */
export class MappedWindow implements RegisterWindow {
  hi = 0;
  readonly #pages: readonly BusPage[];
  readonly #base: number;
  readonly #size: number;
  readonly #guard: DeviceGuard;
  readonly #counters: Counters;
  readonly #counter: number;

  constructor(pages: readonly BusPage[], size: number, guard: DeviceGuard, counters: Counters, counter: number) {
    this.#pages = pages;
    this.#base = pages[0]!.base;
    this.#size = size;
    this.#guard = guard;
    this.#counters = counters;
    this.#counter = counter;
  }

  read32(offset: number): number {
    const device = this.#enter(offset, 4, false, 0, 0);
    if (device === undefined) return this.#guard.valueLo;
    return device.window.read32(this.#base + offset - device.base);
  }

  write32(offset: number, value: number): void {
    const device = this.#enter(offset, 4, true, value, 0);
    device?.window.write32(this.#base + offset - device.base, value);
  }

  read64(offset: number): number {
    const device = this.#enter(offset, 8, false, 0, 0);
    if (device === undefined) {
      this.hi = this.#guard.valueHi;
      return this.#guard.valueLo;
    }
    const lo = device.window.read64(this.#base + offset - device.base);
    this.hi = device.window.hi;
    return lo;
  }

  write64(offset: number, lo: number, hi: number): void {
    const device = this.#enter(offset, 8, true, lo, hi);
    device?.window.write64(this.#base + offset - device.base, lo, hi);
  }

  /** The device that the access goes to, or undefined when it was emulated. */
  #enter(offset: number, size: number, write: boolean, lo: number, hi: number): Device | undefined {
    if (!(offset >= 0 && offset + size <= this.#size) || offset % size !== 0) {
      throw new RangeError(`register window: no aligned ${size}-byte register at offset ${hex(offset)}`);
    }
    this.#counters.add(this.#counter, 1);
    const page = this.#pages[offset >>> PAGE_SHIFT]!;
    const pa = this.#base + offset;
    if (!this.#guard.admit(page, pa, size, write, lo, hi)) return undefined;
    return page.device ?? this.#guard.external(pa, write);
  }
}
