// Whose the mapping of an MSI doorbell is. The IOMMU layer makes it when a device gets its first interrupt, without an
// event of the DMA API, and a domain keeps it for as long as it lives.

import type { TracedDevice } from "./device.ts";

/** Physical addresses that devices write to for an interrupt. */
export interface Doorbell {
  readonly base: number;
  /** Bytes. */
  readonly size: number;
}

/** Pages of GITS_TRANSLATER and of the GICv2m frame on QEMU's `virt`, where the shipped recordings come from. */
export const DEFAULT_DOORBELLS: readonly Doorbell[] = [
  { base: 0x08090000, size: 0x1000 },
  { base: 0x08020000, size: 0x1000 },
];

/** A doorbell's `map:` line. */
export interface DoorbellLine {
  readonly iova: number;
  readonly end: number;
  readonly pa: number;
  readonly pid: number;
  readonly cpu: number;
  readonly line: number;
  /** Device of the next map event on the CPU, of whatever task. */
  nextOnCpu: TracedDevice | undefined;
}

/** Doorbell lines that wait, before the oldest is given up. */
const CAPACITY = 1024;

/**
 * Gives each doorbell line to a device that has none yet, by the first of these that tells:
 *
 * 1. the device that the same task attached last (a probe attaches, then asks for interrupts);
 * 2. the device of the same task's next map event (a driver that loads asks for interrupts, then allocates);
 * 3. when one line and one attached device are left, these two;
 * 4. at the end of the recording, the device of the next map event on that CPU.
 */
export class DoorbellRule {
  readonly #doorbells: readonly Doorbell[];
  readonly #assign: (line: DoorbellLine, device: TracedDevice) => void;
  readonly #giveUp: () => void;
  #waiting: DoorbellLine[] = [];

  constructor(
    doorbells: readonly Doorbell[],
    assign: (line: DoorbellLine, device: TracedDevice) => void,
    giveUp: () => void,
  ) {
    this.#doorbells = doorbells;
    this.#assign = assign;
    this.#giveUp = giveUp;
  }

  covers(pa: number): boolean {
    for (const { base, size } of this.#doorbells) if (pa >= base && pa < base + size) return true;
    return false;
  }

  /** A doorbell's line came. */
  add(line: DoorbellLine, devices: readonly TracedDevice[]): void {
    let device: TracedDevice | undefined;
    for (const candidate of devices) {
      if (candidate.attachedBy === line.pid && candidate.attachedAt > (device?.attachedAt ?? 0)) device = candidate;
    }
    if (device?.doorbell === false) {
      this.#give(line, device);
      this.#eliminate(devices);
      return;
    }
    this.#waiting.push(line);
    if (this.#waiting.length > CAPACITY) {
      this.#waiting.shift();
      this.#giveUp();
    }
  }

  /**
   * Takes out the lines of `pid` that lie in [iova, end), which an event of the DMA API has: on a machine with memory at
   * this address they were no doorbells.
   */
  reclaim(pid: number, iova: number, end: number): DoorbellLine[] {
    if (this.#waiting.length === 0) return [];
    const inside = (line: DoorbellLine): boolean => line.pid === pid && line.iova < end && line.end > iova;
    const claimed = this.#waiting.filter(inside);
    if (claimed.length > 0) this.#waiting = this.#waiting.filter((line) => !inside(line));
    return claimed;
  }

  /** `device` mapped something. */
  mapped(device: TracedDevice, pid: number, cpu: number, devices: readonly TracedDevice[]): void {
    if (this.#waiting.length === 0 || device.doorbell) return;
    const index = this.#waiting.findLastIndex((line) => line.pid === pid);
    if (index >= 0) {
      this.#give(this.#waiting.splice(index, 1)[0]!, device);
      this.#eliminate(devices);
      return;
    }
    for (const line of this.#waiting) if (line.cpu === cpu) line.nextOnCpu ??= device;
  }

  /** The recording is over. */
  finish(devices: readonly TracedDevice[]): void {
    this.#eliminate(devices);
    for (const line of this.#waiting) {
      if (line.nextOnCpu?.doorbell === false) this.#give(line, line.nextOnCpu);
      else this.#giveUp();
    }
    this.#waiting = [];
  }

  #eliminate(devices: readonly TracedDevice[]): void {
    if (this.#waiting.length !== 1) return;
    const without = devices.filter((device) => device.attachedAt > 0 && !device.doorbell);
    if (without.length === 1) this.#give(this.#waiting.pop()!, without[0]!);
  }

  #give(line: DoorbellLine, device: TracedDevice): void {
    device.doorbell = true;
    this.#assign(line, device);
  }
}
