// The events of `include/trace/events/iommu.h` and `dma.h`, and how the fields of each are read.

import type { Attribution, MapEvent } from "./attribution.ts";
import type { TracedDevice } from "./device.ts";
import type { DmaDirection, Segment } from "./operation.ts";
import { DMA_DIRECTION } from "./operation.ts";
import type { LineScanner } from "./scan.ts";
import { FieldError, NameTable } from "./scan.ts";
import type { Tally } from "./tally.ts";

/** What the readers of fields work with; `line` is the number of the line that `scan` is on. */
export interface EventContext {
  readonly scan: LineScanner;
  readonly attribution: Attribution;
  readonly tally: Tally;
  line: number;
  /** False on a last line without newline, which may be cut anywhere. */
  ended: boolean;
}

/** Reads the fields of one event, all of them before anything is changed. Throws FieldError. */
type EventReader = (context: EventContext) => void;

/** An event this package knows. */
export interface KnownEvent {
  readonly name: string;
  readonly read: EventReader;
  /** Occurrences. */
  count: number;
}

/** The value `~0` that stands for a failed mapping, after rounding: DMA_MAPPING_ERROR. */
const MAPPING_ERROR = 2 ** 64;
const LONGEST_NAME = 128;
const DIRECTIONS = Object.entries(DMA_DIRECTION);

const hex = (value: number): string => `0x${value.toString(16)}`;

/** A list as `__print_array` prints it: `{0x1,0x2}`. */
function list(scan: LineScanner, field: string): number[] {
  scan.expect(` ${field}=`);
  if (!scan.accept("{")) throw new FieldError(`${scan.name()}: ${field} is not a list: "${scan.word(scan.position)}"`);
  const values: number[] = [];
  if (scan.accept("}")) return values;
  do values.push(scan.address(field));
  while (scan.accept(","));
  if (!scan.accept("}")) throw new FieldError(`${scan.name()}: ${field} has no end`);
  return values;
}

/** The device's name, to the end of its word. It is looked up when all other fields are known to be good. */
function deviceName(scan: LineScanner): { readonly from: number; readonly to: number } {
  const from = scan.position;
  const to = scan.wordEnd(from);
  if (to === from) throw new FieldError(`${scan.name()}: no device`);
  if (to - from > LONGEST_NAME) throw new FieldError(`${scan.name()}: the device's name is longer than ${LONGEST_NAME} bytes`);
  scan.position = to;
  return { from, to };
}

function lookUp({ scan, attribution }: EventContext, name: { readonly from: number; readonly to: number }): TracedDevice {
  return attribution.device(scan.bytes, name.from, name.to);
}

function direction(scan: LineScanner): DmaDirection {
  scan.expect(" dir=");
  for (const [name, value] of DIRECTIONS) {
    const from = scan.position;
    if (scan.accept(name) && scan.wordEnd(scan.position) === scan.position) return value;
    scan.position = from;
  }
  throw new FieldError(`${scan.name()}: unknown direction "${scan.word(scan.position)}"`);
}

/** `IOMMU: iova=0x... - 0x...`; the end is not in the range. */
function range(scan: LineScanner): readonly [iova: number, end: number] {
  scan.expect("IOMMU: iova=");
  const iova = scan.address("iova");
  scan.expect(" - ");
  const end = scan.address("iova");
  if (end < iova) throw new FieldError(`iova range is inverted: ${hex(iova)} - ${hex(end)}`);
  if (end === iova) throw new FieldError(`iova range is empty: ${hex(iova)} - ${hex(end)}`);
  return [iova, end];
}

/** ` size=`, which must be that of the range. */
function rangeSize(scan: LineScanner, iova: number, end: number): void {
  scan.expect(" size=");
  const size = scan.decimal("size");
  if (size !== end - iova) throw new FieldError(`size ${size} is not that of the iova range, ${end - iova}`);
}

function size(scan: LineScanner): number {
  scan.expect(" size=");
  const bytes = scan.decimal("size");
  if (bytes === 0) throw new FieldError(`${scan.name()}: size is 0`);
  return bytes;
}

function mapEvent(api: MapEvent["api"], dir: DmaDirection, iova: number, pa: number, bytes: number): MapEvent {
  return { api, dir, iova, pa, size: bytes, end: iova + bytes, open: false, segments: undefined };
}

const readMap: EventReader = ({ scan, attribution, line }) => {
  const [iova, end] = range(scan);
  scan.expect(" paddr=");
  const pa = scan.address("paddr");
  rangeSize(scan, iova, end);
  attribution.mapLine(line, scan.cpu, scan.pid, iova, end, pa);
};

const readUnmap: EventReader = ({ scan, attribution, line }) => {
  const [iova, end] = range(scan);
  rangeSize(scan, iova, end);
  scan.expect(" unmapped_size=");
  scan.decimal("unmapped_size");
  attribution.unmapLine(line, scan.cpu, scan.pid, iova, end);
};

const readAttach: EventReader = (context) => {
  const { scan, attribution, line } = context;
  scan.expect("IOMMU: device=");
  const name = deviceName(scan);
  // Nothing follows the name that would show that it is whole.
  if (!context.ended) throw new FieldError("the line is cut");
  attribution.attach(line, scan.pid, lookUp(context, name));
};

/** The address of a map event, or -1 when it says that the call failed. */
function mappedAddress(scan: LineScanner): number {
  scan.expect(" dma_addr=");
  const from = scan.position;
  if (scan.hex("dma_addr") === MAPPING_ERROR) return -1;
  scan.position = from;
  return scan.address("dma_addr");
}

const readMapPage: EventReader = (context) => {
  const { scan, attribution, line } = context;
  const name = deviceName(scan);
  const dir = direction(scan);
  const iova = mappedAddress(scan);
  const bytes = size(scan);
  scan.expect(" phys_addr=");
  const pa = scan.address("phys_addr");
  scan.expect(" attrs=");
  if (iova < 0) attribution.failedEvent(scan.cpu, scan.pid);
  else attribution.mapEvent(line, scan.cpu, scan.pid, lookUp(context, name), mapEvent("page", dir, iova, pa, bytes));
};

const readAlloc: EventReader = (context) => {
  const { scan, attribution, line } = context;
  const name = deviceName(scan);
  const dir = direction(scan);
  const iova = mappedAddress(scan);
  const bytes = size(scan);
  const failed = iova < 0 || scan.find(" virt_addr=0000000000000000 ") || scan.find(" virt_addr=(null)");
  scan.expect(" attrs=");
  if (failed) attribution.failedEvent(scan.cpu, scan.pid);
  else attribution.mapEvent(line, scan.cpu, scan.pid, lookUp(context, name), mapEvent("coherent", dir, iova, -1, bytes));
};

/** Reads ` name=printed/all`, which kernels have that limit lists; true when some are left out. */
function isPartial(scan: LineScanner, field: string): boolean {
  if (!scan.find(` ${field}=`)) return false;
  const printed = scan.decimal(field);
  return scan.accept("/") && printed < scan.decimal(field);
}

const readMapScatterList: EventReader = (context) => {
  const { scan, attribution, line } = context;
  const name = deviceName(scan);
  const dir = direction(scan);
  const physicalOpen = isPartial(scan, "nents");
  const open = isPartial(scan, "ents");
  const addresses = list(scan, "dma_addrs");
  const sizes = list(scan, "sizes");
  const physical = list(scan, "phys_addrs");
  scan.expect(" attrs=");
  if (addresses.length !== sizes.length) {
    throw new FieldError(`${scan.name()}: ${addresses.length} dma_addrs and ${sizes.length} sizes`);
  }
  if (addresses.length === 0 || physical.length === 0) {
    attribution.failedEvent(scan.cpu, scan.pid);
    return;
  }
  const iova = Math.min(...addresses);
  const end = Math.max(...addresses.map((address, i) => address + sizes[i]!));
  if (end === iova) throw new FieldError(`${scan.name()}: all sizes are 0`);
  // The kernel may join physical pieces into one DMA piece; only where it has not do the sizes belong to both.
  const whole = !open && !physicalOpen && physical.length === addresses.length;
  const segments = whole ? physical.map((pa, i): Segment => ({ pa, size: sizes[i]! })) : undefined;
  const bytes = sizes.reduce((sum, value) => sum + value, 0);
  const event: MapEvent = { api: "sg", dir, iova, pa: physical[0]!, size: bytes, end, open, segments };
  attribution.mapEvent(line, scan.cpu, scan.pid, lookUp(context, name), event);
};

const readUnmapScatterList: EventReader = (context) => {
  const { scan, attribution, line } = context;
  const name = deviceName(scan);
  direction(scan);
  const physical = list(scan, "phys_addrs");
  scan.expect(" attrs=");
  attribution.unmapScatterList(line, scan.cpu, scan.pid, lookUp(context, name), physical[0] ?? -1);
};

/** An event that ends a mapping; `precedes`: the kernel prints it before the `unmap:` line, not after. */
function unmapReader(precedes: boolean): EventReader {
  return (context) => {
    const { scan, attribution, line } = context;
    const name = deviceName(scan);
    direction(scan);
    scan.expect(" dma_addr=");
    const iova = scan.address("dma_addr");
    scan.expect(" size=");
    scan.decimal("size");
    scan.expect(" attrs=");
    attribution.unmapEvent(line, scan.cpu, scan.pid, lookUp(context, name), iova, precedes);
  };
}

const readFailure: EventReader = ({ scan, attribution }) => {
  attribution.failedEvent(scan.cpu, scan.pid);
};

const readOther: EventReader = ({ tally }) => {
  tally.ignore("noMapping");
};

const READERS: readonly (readonly [reader: EventReader, ...names: string[]])[] = [
  [readMap, "map"],
  [readUnmap, "unmap"],
  [readAttach, "attach_device_to_domain"],
  [readMapPage, "dma_map_page", "dma_map_phys", "dma_map_resource"],
  [readAlloc, "dma_alloc", "dma_alloc_pages", "dma_alloc_sgt"],
  [readMapScatterList, "dma_map_sg"],
  [unmapReader(false), "dma_unmap_page", "dma_unmap_phys", "dma_unmap_resource"],
  [unmapReader(true), "dma_free", "dma_free_pages", "dma_free_sgt"],
  [readUnmapScatterList, "dma_unmap_sg"],
  [readFailure, "dma_map_sg_err", "dma_alloc_sgt_err"],
  [readOther, "add_device_to_group", "remove_device_from_group", "detach_device_from_domain", "io_page_fault"],
  [readOther, "dma_sync_single_for_cpu", "dma_sync_single_for_device", "dma_sync_sg_for_cpu", "dma_sync_sg_for_device"],
];

/** The known events with counts of their own, by name. */
export function knownEvents(): { readonly table: NameTable<KnownEvent>; readonly all: readonly KnownEvent[] } {
  const table = new NameTable<KnownEvent>();
  const all: KnownEvent[] = [];
  for (const [read, ...names] of READERS) {
    for (const name of names) {
      const event: KnownEvent = { name, read, count: 0 };
      table.add(name, event);
      all.push(event);
    }
  }
  return { table, all };
}
