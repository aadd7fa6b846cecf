import type { DmaDirection, MapOperation, Operation } from "./operation.ts";
import { DMA_DIRECTION } from "./operation.ts";

/** What {@link synthesize} makes; every field has a default. */
export interface SyntheticOptions {
  /** At least one; `["0000:00:01.0"]`. */
  readonly devices?: readonly string[];
  /** Map and unmap operations, the attaches not counted; 10000. */
  readonly operations?: number;
  /** Bytes of a mapping, one of these at random; `[4096]`. */
  readonly sizes?: readonly number[];
  /** Mappings of each device that are live at a time; 64. */
  readonly live?: number;
  /** Not 0; 12345. */
  readonly seed?: number;
}

export interface ExtendOptions {
  /** How often the recording is played; 2. */
  readonly times?: number;
}

const PAGE = 4096;
/** IOVAs are given out below 4 GiB, downwards, as Linux does for PCI devices. */
const IOVA_TOP = 2 ** 32;
/** Below the 48 bits that every SMMU translates. */
const IOVA_SPACE = 2 ** 48;
const PA_BASE = 0x4000_0000;
const PA_PAGES = 0x4_0000;

const pages = (size: number): number => Math.ceil(size / PAGE) * PAGE;

function integer(name: string, value: number, least: number): number {
  if (Number.isSafeInteger(value) && value >= least) return value;
  throw new RangeError(`${name}: expected an integer of at least ${least}, got ${value}`);
}

/** xorshift32: 32-bit unsigned values, never 0, the same on every machine. */
function generator(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

/**
 * A made-up workload: each device is attached, fills its working set, then unmaps a random mapping and makes a new one
 * in turn. What is live at the end stays so. The same options give the same operations. Throws RangeError for options
 * that are out of range.
 */
export function* synthesize(options: SyntheticOptions = {}): Generator<Operation, void, undefined> {
  const { devices = ["0000:00:01.0"], sizes = [PAGE] } = options;
  const operations = integer("operations", options.operations ?? 10000, 0);
  const target = integer("live", options.live ?? 64, 1);
  const seed = integer("seed", options.seed ?? 12345, 1);
  if (devices.length === 0) throw new RangeError("devices: expected at least one, got none");
  if (sizes.length === 0) throw new RangeError("sizes: expected at least one, got none");
  const slot = pages(Math.max(...sizes.map((size) => integer("sizes", size, 1))));
  if (slot * target > IOVA_TOP) throw new RangeError(`live: ${target} mappings of ${slot} bytes do not fit below 4 GiB`);
  if (seed >= IOVA_TOP) throw new RangeError(`seed: expected 32 bits, got ${seed}`);

  const random = generator(seed);
  const live = devices.map((): MapOperation[] => []);
  for (const device of devices) yield { kind: "attach", device, line: 0 };
  let lastId = 0;
  // What the next map of a device that was full takes; -1 while its working set grows.
  const freed = devices.map(() => -1);
  for (let n = 0; n < operations; n++) {
    const index = random() % devices.length;
    const own = live[index]!;
    const device = devices[index]!;
    if (own.length === target) {
      const victim = random() % target;
      const { id, api, iova, size } = own[victim]!;
      own[victim] = own[target - 1]!;
      own.pop();
      freed[index] = iova;
      yield { kind: "unmap", id, device, api, iova, size, line: 0 };
      continue;
    }
    const size = sizes[random() % sizes.length]!;
    const dir: DmaDirection = random() % 2 === 0 ? DMA_DIRECTION.TO_DEVICE : DMA_DIRECTION.FROM_DEVICE;
    const pa = PA_BASE + (random() % PA_PAGES) * PAGE;
    const iova = freed[index]! >= 0 ? freed[index]! : IOVA_TOP - (own.length + 1) * slot;
    freed[index] = -1;
    const segments = undefined;
    const id = ++lastId;
    const operation: MapOperation = { kind: "map", id, device, api: "page", dir, iova, pa, size, segments, mapLines: 1, line: 0 };
    own.push(operation);
    yield operation;
  }
}

/**
 * A recording played `times` times over, as one long workload: each round has new ids and IOVAs of its own, and begins
 * with nothing mapped, so the working set does not grow. What is still live when a round ends is unmapped, in the order
 * it was mapped; attaches and doorbells, which outlive a round, are only in the first one.
 */
export function* extendTrace(trace: readonly Operation[], options: ExtendOptions = {}): Generator<Operation, void, undefined> {
  const times = integer("times", options.times ?? 2, 1);
  let lastId = 0;
  let top = IOVA_TOP;
  for (const operation of trace) {
    if (operation.kind !== "map") continue;
    lastId = Math.max(lastId, operation.id);
    while (operation.iova + operation.size > top && top < IOVA_SPACE) top *= 2;
  }
  for (let round = 0; round < times; round++) {
    const shift = (round % (IOVA_SPACE / top)) * top;
    const idShift = round * lastId;
    const live = new Map<number, MapOperation>();
    for (const operation of trace) {
      if (operation.kind === "attach") {
        if (round === 0) yield operation;
      } else if (operation.api === "doorbell") {
        if (round === 0) yield operation;
      } else {
        const moved = { ...operation, id: operation.id + idShift, iova: operation.iova + shift };
        if (moved.kind === "map") live.set(moved.id, moved);
        else live.delete(moved.id);
        yield moved;
      }
    }
    if (round === times - 1) return;
    for (const { id, device, api, iova, size } of live.values()) yield { kind: "unmap", id, device, api, iova, size, line: 0 };
  }
}
