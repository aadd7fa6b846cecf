import { DMA_DIRECTION } from "@smmuv3/arch-common";
import type { HostPort } from "@smmuv3/arch-common";
import type { MapOperation, Operation, UnmapOperation } from "@smmuv3/dma-workload";
import type { SgEntry } from "@smmuv3/iommu-core";
import { MSI_DOORBELL } from "@smmuv3/machine";
import type { DmaMaster } from "@smmuv3/machine";
import { alignUp, ERRNO, errnoName, PAGE_SIZE, TRANSLATION } from "@smmuv3/platform";
import type { Board } from "./board.ts";
import type { PhaseCounters } from "./phases.ts";

/** What the devices' accesses came to. */
export interface DmaTally {
  /** Right data in the right place. */
  ok: number;
  /** Refused after the mapping was gone, as it must be. */
  faulted: number;
  /** Everything else: refused while mapped, other data, a neighbour changed, answered after the unmap. */
  wrong: number;
}

/** A mapping in use. */
interface Live {
  readonly op: MapOperation;
  readonly device: number;
  readonly buffers: readonly Buffer[];
  /** Set for scatter lists: what the kernel needs to undo them. */
  readonly entries: readonly SgEntry[];
}

/** Memory of one piece of a mapping. */
interface Buffer {
  /** Page-aligned memory of the kernel, or the doorbell. */
  readonly base: number;
  readonly bytes: number;
  /** First byte the device may use. */
  readonly pa: number;
  readonly size: number;
  /** DMA address of `pa`. */
  dma: number;
  /** Distinguishes this buffer's data from any other's. */
  readonly seed: number;
}

/** Devices move data in bursts of this many words, each a transaction of its own: 512 bytes, a usual PCIe payload. */
const BURST_WORDS = 128;
/** An interrupt that nobody listens to: devices ring their doorbell with it. */
const MSI_DATA = 512;
const GOLDEN = 0x9e3779b9 | 0;

/** Word `i` of the data of `seed`; CPU and device write different data. */
function pattern(seed: number, i: number): number {
  const mixed = Math.imul(seed ^ Math.imul(i + 1, GOLDEN), 0x85ebca6b);
  return mixed ^ (mixed >>> 15);
}

/** Words that hold `[pa, pa + size)`: first word and one past the last, relative to `base`. */
function wordRange({ base, pa, size }: Buffer): readonly [number, number] {
  return [Math.floor((pa - base) / 4), Math.ceil((pa - base + size) / 4)];
}

/** Replays DMA operations through a kernel's DMA API, does the DMA each stands for, and checks the data. */
export class Replay {
  readonly tally: DmaTally = { ok: 0, faulted: 0, wrong: 0 };
  /** DMA API calls: maps and unmaps. */
  dmaOps: number = 0;
  /** First few findings, in words. */
  readonly findings: string[] = [];
  readonly #board: Board;
  readonly #port: HostPort;
  readonly #phases: PhaseCounters;
  readonly #live = new Map<number, Live>();
  readonly #devices: ReadonlyMap<string, number>;
  #seed = 1;
  #scratch = new Int32Array(PAGE_SIZE);

  constructor(board: Board, port: HostPort, phases: PhaseCounters) {
    this.#board = board;
    this.#port = port;
    this.#phases = phases;
    this.#devices = new Map(port.devices.map((node, index) => [board.deviceNames.get(node) ?? node, index]));
  }

  /** Mappings in use. */
  get live(): number {
    return this.#live.size;
  }

  /** One operation of the trace. Attaches happen when the kernel probes its devices; here they are only passed over. */
  step(op: Operation): void {
    if (op.kind === "map") this.#map(op);
    else if (op.kind === "unmap") this.#unmap(op);
  }

  /** Ends what is still mapped at the end of the trace, checked like any unmap. */
  finish(): void {
    for (const { op } of [...this.#live.values()]) {
      this.#unmap({ kind: "unmap", id: op.id, device: op.device, api: op.api, iova: op.iova, size: op.size, line: op.line });
    }
  }

  #map(op: MapOperation): void {
    const device = this.#devices.get(op.device);
    if (device === undefined) {
      this.#wrong(`${op.device}: not bound by any driver`);
      return;
    }
    this.dmaOps++;
    const live = this.#mapBuffers(op, device);
    if (typeof live === "number") {
      this.#wrong(`${op.device}: trace line ${op.line}: mapping failed: ${errnoName(live)}`);
      return;
    }
    this.#live.set(op.id, live);
    const master = this.#board.masters.get(op.device)!;
    for (const buffer of live.buffers) {
      // Drivers rely on it that an address keeps its offset in the page.
      if ((buffer.dma - buffer.pa) % PAGE_SIZE === 0) this.#transfer(op, master, buffer);
      else this.#judge(false, op, `DMA address 0x${buffer.dma.toString(16)} has another offset in its page`);
    }
  }

  #mapBuffers(op: MapOperation, device: number): Live | number {
    const port = this.#port;
    if (op.api === "doorbell") {
      const { base } = this.#board.firmware.doorbells[0]!;
      const dma = this.#replayed(() => port.dmaMapResource(device, base, PAGE_SIZE));
      const buffer = { base, bytes: PAGE_SIZE, pa: base + MSI_DOORBELL, size: 4, dma: dma + MSI_DOORBELL, seed: 0 };
      return dma < 0 ? dma : { op, device, buffers: [buffer], entries: [] };
    }
    if (op.api === "coherent") {
      const dma = this.#replayed(() => port.dmaAlloc(device, op.size));
      if (dma < 0) return dma;
      const bytes = alignUp(op.size, PAGE_SIZE);
      const base = port.coherentPa;
      return { op, device, buffers: [{ base, bytes, pa: base, size: op.size, dma, seed: this.#seed++ }], entries: [] };
    }
    const buffers: Buffer[] = [];
    for (const { pa, size } of op.segments ?? [op]) {
      const offset = pa % PAGE_SIZE;
      const bytes = alignUp(offset + size, PAGE_SIZE);
      const base = port.allocPages(bytes);
      if (base < 0) return this.#release(buffers, base);
      const buffer = { base, bytes, pa: base + offset, size, dma: 0, seed: this.#seed++ };
      for (let i = 0; i < bytes / 4; i++) port.store32(base + i * 4, pattern(buffer.seed, i));
      buffers.push(buffer);
    }
    const entries: SgEntry[] = buffers.map(({ pa, size }) => ({ pa, length: size, dmaAddress: 0, dmaLength: 0 }));
    const status = op.api === "sg" ? this.#mapSg(op, device, buffers, entries) : this.#mapPage(op, device, buffers[0]!);
    return status < 0 ? this.#release(buffers, status) : { op, device, buffers, entries };
  }

  #mapPage(op: MapOperation, device: number, buffer: Buffer): number {
    buffer.dma = this.#replayed(() => this.#port.dmaMap(device, buffer.pa, buffer.size, op.dir));
    return buffer.dma;
  }

  /** DMA segments may join several buffers; each buffer's address is found by walking the segments. */
  #mapSg(op: MapOperation, device: number, buffers: readonly Buffer[], entries: readonly SgEntry[]): number {
    const segments = this.#replayed(() => this.#port.dmaMapSg(device, entries, op.dir));
    if (segments < 0) return segments;
    let segment = 0;
    let used = 0;
    for (const buffer of buffers) {
      if (segment < segments && used === entries[segment]!.dmaLength) {
        segment++;
        used = 0;
      }
      // The segments do not cover the list: the kernel lost a part of it.
      if (segment >= segments) return -ERRNO.EIO;
      buffer.dma = entries[segment]!.dmaAddress + used;
      used += buffer.size;
    }
    return 0;
  }

  #release(buffers: readonly Buffer[], status: number): number {
    for (const { base, bytes } of buffers) this.#port.freePages(base, bytes);
    return status;
  }

  #unmap(op: UnmapOperation): void {
    const live = this.#live.get(op.id);
    if (live === undefined) return;
    this.#live.delete(op.id);
    this.dmaOps++;
    const status = this.#replayed(() => this.#unmapLive(live));
    if (status < 0) this.#wrong(`${op.device}: trace line ${op.line}: unmapping failed: ${errnoName(status)}`);
    if (live.op.api !== "coherent" && live.op.api !== "doorbell") {
      for (const buffer of live.buffers) {
        this.#verify(live.op, buffer);
        this.#port.freePages(buffer.base, buffer.bytes);
      }
    }
    // Without translation there is nothing to refuse; a flush queue leaves the TLB entry for a while.
    if (this.#port.status.translation !== "strict") return;
    const master = this.#board.masters.get(op.device)!;
    for (const { dma } of live.buffers) this.#mustFault(master, dma, live.op, op.line);
  }

  #unmapLive({ op, device, buffers, entries }: Live): number {
    const port = this.#port;
    const first = buffers[0]!;
    switch (op.api) {
      case "doorbell":
        return port.dmaUnmapResource(device, first.dma - MSI_DOORBELL, PAGE_SIZE);
      case "coherent":
        return port.dmaFree(device, first.base, first.dma, first.bytes);
      case "sg":
        return port.dmaUnmapSg(device, entries, op.dir);
      case "page":
        return port.dmaUnmap(device, first.dma, first.size, op.dir);
    }
  }

  /** The kernel's work, counted as the cost of the operation. */
  #replayed(work: () => number): number {
    this.#phases.enter("replay");
    const result = work();
    this.#phases.enter("check");
    return result;
  }

  /** The DMA that a mapping is for. Table walks and TLB misses of it are part of the cost. */
  #transfer(op: MapOperation, master: DmaMaster, buffer: Buffer): void {
    if (op.api === "doorbell") {
      const rung = this.#dma(Int32Array.of(MSI_DATA), (_, part) => master.write(buffer.dma, part));
      this.#judge(rung, op, "doorbell not reached");
      return;
    }
    const [first, end] = wordRange(buffer);
    const data = this.#words(end - first);
    const address = buffer.dma - (buffer.pa % 4);
    if (op.dir !== DMA_DIRECTION.fromDevice) {
      const read = this.#dma(data, (offset, part) => master.read(address + offset, part));
      const zeroed = op.api === "coherent";
      this.#judge(read && data.every((word, i) => word === (zeroed ? 0 : pattern(buffer.seed, first + i))), op, "read");
    }
    if (op.dir !== DMA_DIRECTION.toDevice) {
      for (let i = 0; i < data.length; i++) data[i] = ~pattern(buffer.seed, first + i);
      const wrote = this.#dma(data, (offset, part) => master.write(address + offset, part));
      if (op.api === "coherent") {
        const port = this.#port;
        this.#judge(wrote && data.every((word, i) => port.load32(buffer.base + i * 4) === word), op, "coherent write");
      } else if (!wrote) this.#judge(false, op, "write refused");
    }
  }

  /** After the unmap: what the device wrote is there, and nothing beside it changed. */
  #verify(op: MapOperation, buffer: Buffer): void {
    const port = this.#port;
    const [first, end] = wordRange(buffer);
    const written = op.dir !== DMA_DIRECTION.toDevice;
    let right = true;
    for (let i = 0; i < buffer.bytes / 4; i++) {
      const expected = pattern(buffer.seed, i);
      const word = port.load32(buffer.base + i * 4);
      if (word !== (written && i >= first && i < end ? ~expected : expected)) right = false;
    }
    if (written) this.#judge(right, op, "memory after the DMA");
    else if (!right) this.#judge(false, op, "memory changed by a read");
  }

  /** Only asks for the translation: what an answer would overwrite is somebody else's by now. */
  #mustFault(master: DmaMaster, dma: number, { device, dir }: MapOperation, line: number): void {
    const status = master.probe(dma - (dma % 4), dir === DMA_DIRECTION.fromDevice);
    this.#port.poll();
    if (status === TRANSLATION.ok) this.#wrong(`${device}: trace line ${line}: DMA answered after its unmap`);
    else this.tally.faulted++;
  }

  /** A transfer in the device's bursts; stops at the first that is refused. */
  #dma(data: Int32Array, burst: (offset: number, part: Int32Array) => number): boolean {
    this.#phases.enter("replay");
    let status: number = TRANSLATION.ok;
    for (let at = 0; at < data.length && status === TRANSLATION.ok; at += BURST_WORDS) {
      status = burst(at * 4, data.subarray(at, at + BURST_WORDS));
    }
    this.#phases.enter("check");
    return status === TRANSLATION.ok;
  }

  #words(count: number): Int32Array {
    if (this.#scratch.length < count) this.#scratch = new Int32Array(count * 2);
    return this.#scratch.subarray(0, count);
  }

  #judge(right: boolean, op: MapOperation, what: string): void {
    if (right) this.tally.ok++;
    else this.#wrong(`${op.device}: trace line ${op.line}: ${what}`);
  }

  #wrong(finding: string): void {
    this.tally.wrong++;
    if (this.findings.length < 10) this.findings.push(finding);
  }
}
