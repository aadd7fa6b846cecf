// Joins the lines of the IOMMU, which name no device, with the events of the DMA API, which name device and address.

import type { DmaApi, DmaDirection, Operation, Segment } from "./operation.ts";
import { DMA_DIRECTION } from "./operation.ts";
import type { Live } from "./device.ts";
import { TracedDevice } from "./device.ts";
import type { Doorbell, DoorbellLine } from "./doorbell.ts";
import { DoorbellRule } from "./doorbell.ts";
import type { MapLine, UnmapLine, Waiting } from "./pending.ts";
import { takeRange, WaitingList } from "./pending.ts";
import { NameTable } from "./scan.ts";
import type { Tally } from "./tally.ts";

/** An unmap event whose `unmap:` line has not come. */
interface UnmapEvent extends Waiting {
  readonly device: TracedDevice;
  /** Of the mapping, or -1 where the event has physical addresses only (`dma_unmap_sg`). */
  readonly iova: number;
  /** First physical address of a scatter list. */
  readonly pa: number;
  /** The operation has been given out; only the line is missing. */
  readonly done: boolean;
  /** A line came that may be this event's, of a mapping that the recording does not have. */
  claimed: boolean;
}

/** A map event of the DMA API. */
export interface MapEvent {
  api: DmaApi;
  dir: DmaDirection;
  iova: number;
  pa: number;
  size: number;
  /** One past the last DMA address of the event. */
  end: number;
  /** The kernel printed only part of the list: the mapping may go on behind `end`. */
  open: boolean;
  segments: Segment[] | undefined;
}

/** What waits on one CPU. */
interface Cpu {
  readonly maps: WaitingList<MapLine>;
  readonly unmaps: WaitingList<UnmapLine>;
  readonly events: WaitingList<UnmapEvent>;
}

/** Names of devices that are SMMUs: `9050000.smmuv3`, `arm-smmu-v3.0.auto`. */
const SMMU_NAME = "smmu";
/** The idle task is another one on each CPU, and does not move. */
const IDLE = 0;
const ANY_TASK = -1;
const PAGE = 4096;

/** Turns the events of a recording, in order, into operations. */
export class Attribution {
  /** Operations made since the caller last took them. */
  operations: Operation[] = [];
  readonly devices: TracedDevice[] = [];
  readonly #tally: Tally;
  readonly #names = new NameTable<TracedDevice>();
  readonly #cpus = new Map<number, Cpu>();
  readonly #doorbell: DoorbellRule;
  #lastId = 0;
  /** Line of the recording that is being worked on. */
  #line = 0;
  /** {@link #cpu} of the last event. */
  #currentNumber = -1;
  #current: Cpu | undefined;

  constructor(tally: Tally, doorbells: readonly Doorbell[]) {
    this.#tally = tally;
    this.#doorbell = new DoorbellRule(
      doorbells,
      (line, device) => {
        this.#mapDoorbell(line, device);
      },
      () => {
        tally.skip("doorbellUnattributed");
      },
    );
  }

  /** The device that `bytes[from, to)` names. */
  device(bytes: Uint8Array, from: number, to: number): TracedDevice {
    const known = this.#names.get(bytes, from, to);
    if (known !== undefined) return known;
    const device = new TracedDevice(String.fromCharCode(...bytes.subarray(from, to)));
    this.#names.add(device.name, device);
    this.devices.push(device);
    return device;
  }

  attach(line: number, pid: number, device: TracedDevice): void {
    device.seen = true;
    device.attachedAt = line;
    device.attachedBy = pid;
    // The domain it joins may be new, and then has no doorbell.
    device.doorbell = false;
    this.#tally.attachOperations++;
    this.operations.push({ kind: "attach", device: device.name, line });
  }

  /** A `map:` line. */
  mapLine(line: number, cpu: number, pid: number, iova: number, end: number, pa: number): void {
    this.#line = line;
    if (this.#doorbell.covers(pa)) {
      this.#doorbell.add({ iova, end, pa, pid, cpu, line, nextOnCpu: undefined }, this.devices);
      return;
    }
    const { maps } = this.#cpu(cpu);
    maps.add({ pid, since: maps.clock, iova, end, pa });
  }

  /** A map event; its `map:` lines came before it, on the same CPU unless the task has moved. */
  mapEvent(line: number, cpu: number, pid: number, device: TracedDevice, event: MapEvent): void {
    this.#line = line;
    const own = this.#cpu(cpu).maps;
    let taken = takeRange(own, pid, event.iova, event.end, event.open);
    if (taken.length === 0 && own.items.length > 0) taken = takeRange(own, ANY_TASK, event.iova, event.end, event.open);
    if (taken.length === 0 && pid !== IDLE) {
      for (const { maps } of this.#cpus.values()) {
        if (maps.items.length > 0 && taken.length === 0) taken = takeRange(maps, pid, event.iova, event.end, event.open);
      }
    }
    own.tick();
    const covered = taken.reduce((sum, line) => sum + line.end - line.iova, 0);
    if (covered < event.size) {
      for (const { iova, end, pa } of this.#doorbell.reclaim(pid, event.iova, event.end)) {
        taken.push({ pid, since: own.clock, iova, end, pa });
      }
      taken.sort((a, b) => a.iova - b.iova);
    }
    if (taken.length === 0) {
      this.#tally.ignore(event.api === "coherent" && device.name.includes(SMMU_NAME) ? "smmuDriver" : "dmaMapNoLine");
      return;
    }
    device.seen = true;
    this.#doorbell.mapped(device, pid, cpu, this.devices);
    this.#map(device, event, taken);
  }

  /** An event that says that a map call failed; what it had mapped before is taken back. */
  failedEvent(cpu: number, pid: number): void {
    this.#tally.ignore("failedCall");
    const { maps, unmaps } = this.#cpu(cpu);
    for (let i = unmaps.items.length - 1; i >= 0; i--) {
      const { pid: by, iova, end } = unmaps.items[i]!;
      if (by !== pid) continue;
      const taken = takeRange(maps, pid, iova, end, false);
      if (taken.length === 0) continue;
      unmaps.removeAt(i);
      this.#tally.ignore("unmapFailedCall");
      for (let n = taken.length; n > 0; n--) this.#tally.skip("failedCall");
    }
  }

  /** An `unmap:` line; its event comes behind it, except where {@link #events} has it. */
  unmapLine(line: number, cpu: number, pid: number, iova: number, end: number): void {
    this.#line = line;
    const { unmaps, events } = this.#cpu(cpu);
    const index = this.#eventFor(events.items, pid, iova, end);
    if (index >= 0) {
      const event = events.removeAt(index);
      if (event.done) this.#tally.unmaps++;
      else this.#finishUnmap(event.device, event.iova < 0 ? event.device.startingAt(iova) : undefined);
      return;
    }
    const claim = events.items.find((event) => event.pid === pid && event.iova < 0 && !event.claimed);
    if (claim !== undefined) claim.claimed = true;
    unmaps.add({ pid, since: unmaps.clock, iova, end, afterEvent: claim !== undefined });
  }

  /** An unmap event that names the DMA address: pages, coherent memory. */
  unmapEvent(line: number, cpu: number, pid: number, device: TracedDevice, iova: number, precedes: boolean): void {
    this.#line = line;
    const live = device.find(iova);
    const found = this.#takeUnmapLine(cpu, pid, iova);
    if (found) {
      this.#finishUnmap(device, live);
      return;
    }
    if (live !== undefined) this.#unmap(device, live);
    else if (!precedes) {
      this.#tally.ignore("dmaUnmapNoLine");
      return;
    }
    this.#wait(cpu, { pid, since: 0, device, iova, pa: -1, done: live !== undefined, claimed: false });
  }

  /** A `dma_unmap_sg`: it names physical addresses only, and comes before its `unmap:` line. */
  unmapScatterList(line: number, cpu: number, pid: number, device: TracedDevice, pa: number): void {
    this.#line = line;
    this.#wait(cpu, { pid, since: 0, device, iova: -1, pa, done: false, claimed: false });
  }

  /** The recording is over: nothing waits any longer. */
  finish(): void {
    this.#doorbell.finish(this.devices);
    for (const { maps, unmaps, events } of this.#cpus.values()) {
      maps.clear();
      unmaps.clear();
      events.clear();
    }
  }

  #cpu(number: number): Cpu {
    if (number === this.#currentNumber) return this.#current!;
    let cpu = this.#cpus.get(number);
    if (cpu === undefined) {
      const tally = this.#tally;
      cpu = {
        maps: new WaitingList(() => {
          tally.skip("noDmaEvent");
        }),
        unmaps: new WaitingList((line) => {
          tally.ignore(line.afterEvent ? "unmapBeforeRecording" : "unmapNoDmaEvent");
        }),
        events: new WaitingList((event) => {
          if (!event.claimed) tally.ignore("dmaUnmapNoLine");
        }),
      };
      this.#cpus.set(number, cpu);
    }
    this.#currentNumber = number;
    this.#current = cpu;
    return cpu;
  }

  #wait(cpu: number, event: UnmapEvent): void {
    const { unmaps, events } = this.#cpu(cpu);
    unmaps.tick();
    events.tick();
    events.add({ ...event, since: events.clock });
  }

  /** Index of the newest waiting event that the line [iova, end) completes, or -1; the same task's first. */
  #eventFor(items: readonly UnmapEvent[], pid: number, iova: number, end: number): number {
    let other = -1;
    for (let i = items.length - 1; i >= 0; i--) {
      const event = items[i]!;
      if (event.iova < 0) {
        const live = event.device.startingAt(iova);
        if (live?.operation.api !== "sg" || live.end !== end || live.operation.pa !== event.pa) continue;
      } else if (event.iova < iova || event.iova >= end) continue;
      if (event.pid === pid) return i;
      if (other < 0) other = i;
    }
    return other;
  }

  #takeUnmapLine(cpu: number, pid: number, iova: number): boolean {
    const own = this.#cpu(cpu).unmaps;
    const found = this.#takeLine(own, pid, iova) || this.#takeLine(own, ANY_TASK, iova);
    own.tick();
    if (found || pid === IDLE) return found;
    for (const { unmaps } of this.#cpus.values()) if (this.#takeLine(unmaps, pid, iova)) return true;
    return false;
  }

  #takeLine(list: WaitingList<UnmapLine>, pid: number, iova: number): boolean {
    const { items } = list;
    for (let i = items.length - 1; i >= 0; i--) {
      const line = items[i]!;
      if ((pid >= 0 && line.pid !== pid) || iova < line.iova || iova >= line.end) continue;
      list.removeAt(i);
      return true;
    }
    return false;
  }

  /** Line and event are together. */
  #finishUnmap(device: TracedDevice, live: Live | undefined): void {
    if (live === undefined) {
      this.#tally.ignore("unmapBeforeRecording");
      return;
    }
    this.#tally.unmaps++;
    this.#unmap(device, live);
  }

  #map(device: TracedDevice, event: MapEvent, lines: readonly MapLine[]): void {
    const first = lines[0]!;
    const { api, dir, iova } = event;
    const end = lines[lines.length - 1]!.end;
    if (first.iova > iova || end < event.end) this.#tally.incompleteMaps++;
    // Where the first line is lost, the page of the DMA address is the best that is known.
    const start = first.iova > iova ? iova - (iova % PAGE) : first.iova;
    const pa = event.pa >= 0 ? event.pa : first.pa + Math.max(0, iova - first.iova);
    const size = event.open ? end - iova : event.size;
    const segments = api === "sg" ? (event.segments ?? pieces(lines, iova, event.open ? end : event.end)) : undefined;
    this.#add(device, start, end, { api, dir, iova, pa, size, segments, mapLines: lines.length });
  }

  #mapDoorbell({ iova, end, pa, line }: DoorbellLine, device: TracedDevice): void {
    device.seen = true;
    const current = this.#line;
    this.#line = line;
    const dir = DMA_DIRECTION.FROM_DEVICE;
    this.#add(device, iova, end, { api: "doorbell", dir, iova, pa, size: end - iova, segments: undefined, mapLines: 1 });
    this.#line = current;
  }

  #add(
    device: TracedDevice,
    start: number,
    end: number,
    call: {
      readonly api: DmaApi;
      readonly dir: DmaDirection;
      readonly iova: number;
      readonly pa: number;
      readonly size: number;
      readonly segments: readonly Segment[] | undefined;
      readonly mapLines: number;
    },
  ): void {
    const stale = device.startingAt(start);
    if (stale !== undefined) {
      // An address space maps an IOVA once: the recording has lost the end of the older mapping.
      this.#tally.impliedUnmaps++;
      this.#unmap(device, stale);
    }
    const { api, dir, iova, pa, size, segments, mapLines } = call;
    const id = ++this.#lastId;
    const operation = {
      kind: "map",
      id,
      device: device.name,
      api,
      dir,
      iova,
      pa,
      size,
      segments,
      mapLines,
      line: this.#line,
    } as const;
    this.#tally.maps += mapLines;
    this.#tally.mapOperations++;
    device.add({ operation, start, end });
    this.operations.push(operation);
  }

  #unmap(device: TracedDevice, live: Live): void {
    const { id, api, iova, size } = live.operation;
    device.remove(live);
    this.#tally.unmapOperations++;
    this.operations.push({ kind: "unmap", id, device: device.name, api, iova, size, line: this.#line });
  }
}

/** What [iova, end) has of the physical ranges that `lines` map. */
function pieces(lines: readonly MapLine[], iova: number, end: number): Segment[] {
  const segments: Segment[] = [];
  for (const line of lines) {
    const skip = Math.max(0, iova - line.iova);
    const size = Math.min(line.end, end) - line.iova - skip;
    if (size > 0) segments.push({ pa: line.pa + skip, size });
  }
  return segments;
}
