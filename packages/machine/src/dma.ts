import { ACCESS, hex, hi32, join, LEVEL, lo32, PAGE_SIZE, TRANSLATION } from "@smmuv3/platform";
import type { Counters, Translator } from "@smmuv3/platform";

import type { Bus } from "./bus.ts";

/**
 * A device that reads and writes memory by itself. Transactions are split at 4K boundaries, with one translation for each
 * piece, and stop at the first piece that is not answered.
 */
export class DmaMaster {
  readonly name: string;
  readonly streamId: number;
  /** The IOMMU in front of the device; undefined: addresses go to the bus as they are. */
  translator: Translator | undefined;
  /** SubstreamID (PASID) of the transactions; -1: none. */
  ssid = -1;
  privileged = false;
  instruction = false;
  /** Words moved by the last transfer. */
  done = 0;
  /** Output address of the last translation. */
  paLo = 0;
  paHi = 0;
  readonly #bus: Bus;
  readonly #counters: Counters;
  readonly #words: number;

  constructor(name: string, streamId: number, translator: Translator | undefined, bus: Bus, counters: Counters) {
    this.name = name;
    this.streamId = streamId;
    this.translator = translator;
    this.#bus = bus;
    this.#counters = counters;
    this.#words = counters.id("dma.words") + LEVEL.device;
  }

  /**
   * Reads `out.length` words from `iova`, 4-byte aligned. Pieces that the IOMMU terminates as RAZ read as zero and do not
   * count in {@link done}; the others are still transferred, and the result is `raz`.
   * @returns one of TRANSLATION
   */
  read(iova: number, out: Int32Array): number {
    return this.#transfer(iova, out, false);
  }

  /**
   * Writes all of `data` to `iova`, 4-byte aligned, in the same way. A 4-byte write may reach a device (a doorbell).
   * @returns one of TRANSLATION
   */
  write(iova: number, data: Int32Array): number {
    return this.#transfer(iova, data, true);
  }

  /** Translates one access without touching what it addresses; {@link paLo} and {@link paHi} tell where it goes. */
  probe(iova: number, write: boolean): number {
    const { translator } = this;
    const lo = lo32(iova);
    const hi = hi32(iova);
    if (translator === undefined) {
      this.paLo = lo;
      this.paHi = hi;
      return TRANSLATION.ok;
    }
    const status = translator.translate(this.streamId, Math.max(this.ssid, 0), lo, hi, this.#flags(write));
    if (status === TRANSLATION.ok) {
      this.paLo = translator.paLo;
      this.paHi = translator.paHi;
    }
    return status;
  }

  #flags(write: boolean): number {
    return (
      (write ? ACCESS.write : ACCESS.read) |
      (this.privileged ? ACCESS.privileged : 0) |
      (this.instruction ? ACCESS.instruction : 0) |
      (this.ssid >= 0 ? ACCESS.ssidValid : 0)
    );
  }

  #transfer(iova: number, data: Int32Array, write: boolean): number {
    if (!(iova >= 0) || iova % 4 !== 0) {
      throw new RangeError(`${this.name}: expected a 4-byte aligned IOVA, got ${hex(iova)}`);
    }
    let result: number = TRANSLATION.ok;
    this.done = 0;
    for (let at = 0; at < data.length; ) {
      const address = iova + at * 4;
      const end = Math.min(data.length, at + (PAGE_SIZE - (address % PAGE_SIZE)) / 4);
      const status = this.probe(address, write);
      if (status === TRANSLATION.raz) {
        if (!write) data.fill(0, at, end);
        result = TRANSLATION.raz;
      } else {
        if (status !== TRANSLATION.ok) return status;
        if (!this.#move(data, at, end, write)) return TRANSLATION.abort;
        this.done += end - at;
        this.#counters.add(this.#words, end - at);
      }
      at = end;
    }
    return result;
  }

  /** Moves `data[at..end)` from or to the output address; false: nothing answers there. */
  #move(data: Int32Array, at: number, end: number, write: boolean): boolean {
    const { memory } = this.#bus;
    const { paLo, paHi } = this;
    const page = memory.pageOf(paLo, paHi);
    if (page < 0) return end - at === 1 && this.#moveDevice(data, at, write);
    const { words } = memory;
    const base = ((page << 10) | ((paLo >>> 2) & 1023)) - at;
    if (write) for (let i = at; i < end; i++) words[base + i] = data[i]!;
    else for (let i = at; i < end; i++) data[i] = words[base + i]!;
    return true;
  }

  #moveDevice(data: Int32Array, at: number, write: boolean): boolean {
    const device = this.#bus.deviceAt(this.paLo, this.paHi);
    if (device === undefined) return false;
    const offset = join(this.paLo, this.paHi) - device.base;
    if (write) device.window.write32(offset, data[at]!);
    else data[at] = device.window.read32(offset);
    return true;
  }
}
