import { hex, join, PAGE_SIZE } from "@smmuv3/platform";
import type { Memory, RegisterWindow } from "@smmuv3/platform";

/** A device on the bus. */
export interface Device {
  readonly name: string;
  readonly base: number;
  readonly size: number;
  readonly window: RegisterWindow;
}

/**
 * A 4K page outside of RAM: who answers there, and what the host's TLB holds of it. `perm` is 0 when nothing is cached;
 * `[leafBase, leafBase + leafSize)` is the leaf of stage 2 that it came from.
 */
export class BusPage {
  readonly base: number;
  device: Device | undefined = undefined;
  perm = 0;
  leafBase = 0;
  leafSize = 0;

  constructor(base: number) {
    this.base = base;
  }
}

/** Throws RangeError unless `[pa, pa + size)` is a non-empty run of 4K pages. */
export function checkPages(who: string, pa: number, size: number): void {
  const aligned = pa % PAGE_SIZE === 0 && size % PAGE_SIZE === 0;
  if (!Number.isSafeInteger(pa + size) || pa < 0 || size <= 0 || !aligned) {
    throw new RangeError(`${who}: expected a 4K-aligned window, got ${hex(pa)} + ${hex(size)}`);
  }
}

/** The physical address map: RAM, and devices by page. */
export class Bus {
  readonly memory: Memory;
  /** By page frame number: every page that has a device or was mapped once. */
  readonly pages: Map<number, BusPage> = new Map<number, BusPage>();
  readonly #devices: Device[] = [];

  constructor(memory: Memory) {
    this.memory = memory;
  }

  /** Puts a device on the bus. Throws RangeError when it overlaps RAM or another device. */
  add(device: Device): void {
    const { name, base, size } = device;
    checkPages(`addDevice "${name}"`, base, size);
    this.#refuseRam(`addDevice "${name}"`, base, size);
    const other = this.#devices.find((one) => base < one.base + one.size && one.base < base + size);
    if (other !== undefined) throw new RangeError(`addDevice "${name}": overlaps "${other.name}"`);
    this.#devices.push(device);
    for (let pa = base; pa < base + size; pa += PAGE_SIZE) this.#page(pa).device = device;
  }

  /** The pages of `[pa, pa + size)`, whether or not anything answers there. Throws RangeError on RAM. */
  range(pa: number, size: number): BusPage[] {
    checkPages("ioremap", pa, size);
    this.#refuseRam("ioremap", pa, size);
    return Array.from({ length: size / PAGE_SIZE }, (_, i) => this.#page(pa + i * PAGE_SIZE));
  }

  /** The device that answers at physical address `hi:lo`. */
  deviceAt(lo: number, hi: number): Device | undefined {
    return this.pages.get(Math.floor(join(lo, hi) / PAGE_SIZE))?.device;
  }

  #page(pa: number): BusPage {
    const number = pa / PAGE_SIZE;
    let page = this.pages.get(number);
    if (page === undefined) this.pages.set(number, (page = new BusPage(pa)));
    return page;
  }

  #refuseRam(who: string, pa: number, size: number): void {
    const { base, size: bytes } = this.memory;
    if (pa < base + bytes && base < pa + size) throw new RangeError(`${who}: ${hex(pa)} + ${hex(size)} overlaps RAM`);
  }
}
