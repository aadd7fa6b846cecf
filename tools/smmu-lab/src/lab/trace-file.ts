import { open, stat } from "node:fs/promises";
import { getSystemErrorMessage } from "node:util";
import { DMA_DIRECTION, readTrace, TraceError, TraceReader } from "@smmuv3/dma-workload";
import type { MapOperation, Operation, TraceSummary } from "@smmuv3/dma-workload";
import { alignUp, PAGE_SIZE } from "@smmuv3/platform";

/** Bytes read from a trace at a time. */
const CHUNK = 1 << 16;
const MIB = 2 ** 20;
/** RAM of the machine: as much as fits the workload, in these steps, within what the machine can have (less than 8 GiB). */
const RAM_LEAST = 512 * MIB;
const RAM_STEP = 256 * MIB;
const RAM_MOST = 8192 * MIB - RAM_STEP;
/** The kernel's tables and EL2's pool. */
const RAM_OVERHEAD = 256 * MIB;
/** RAM for each byte that is mapped at a time: a buddy allocator needs room for alignment. */
const RAM_FACTOR = 2;
const LIVE_MOST = (RAM_MOST - RAM_OVERHEAD) / RAM_FACTOR;
/** Largest block of the kernel's page allocator. */
const PIECE_MOST = 1024 * MIB;

/** A file that cannot be used. The message begins with its path. */
export class InputError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "InputError";
  }
}

/** Runs `work`; failures of the file system become an {@link InputError} about `path`. */
export async function withPath<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Error && "errno" in error && "syscall" in error && typeof error.errno === "number") {
      throw new InputError(`${path}: ${getSystemErrorMessage(error.errno)}`);
    }
    throw error;
  }
}

async function* chunksOf(path: string, onBytes?: (bytes: number) => void): AsyncGenerator<Uint8Array> {
  const file = await withPath(path, () => open(path));
  try {
    for (;;) {
      const { bytesRead, buffer } = await withPath(path, () => file.read(new Uint8Array(CHUNK), 0, CHUNK, null));
      if (bytesRead === 0) return;
      onBytes?.(bytesRead);
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await file.close();
  }
}

/** Operations of a trace file, streaming. Throws TraceError with file and line, {@link InputError} when it cannot be read. */
export function operationsOf(path: string): AsyncIterable<Operation> {
  return readTrace(chunksOf(path), { name: path });
}

/** What a replay needs to know of a trace before it starts. */
export interface Survey {
  readonly summary: TraceSummary;
  readonly operations: number;
  /** Devices that do DMA or are attached, sorted. */
  readonly devices: readonly string[];
  /** RAM that the machine needs, in bytes. */
  readonly ramBytes: number;
}

/** Bytes that a replay allocates for a mapping: whole pages for each piece. */
function pieceBytes(op: MapOperation): number[] {
  if (op.api === "doorbell") return [];
  if (op.api === "coherent") return [alignUp(op.size, PAGE_SIZE)];
  return (op.segments ?? [op]).map(({ pa, size }) => alignUp((pa % PAGE_SIZE) + size, PAGE_SIZE));
}

const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(2)} GiB`;

/** Follows the memory that is mapped at a time. */
class WorkingSet {
  readonly #path: string;
  readonly #live = new Map<number, number>();
  #bytes = 0;
  #peak = 0;

  constructor(path: string) {
    this.#path = path;
  }

  /** Throws TraceError for a mapping that no replay can make. */
  step(op: Operation): void {
    if (op.kind === "map") this.#map(op);
    else if (op.kind === "unmap") {
      this.#bytes -= this.#live.get(op.id) ?? 0;
      this.#live.delete(op.id);
    }
  }

  get ramBytes(): number {
    return Math.max(RAM_LEAST, alignUp(this.#peak * RAM_FACTOR + RAM_OVERHEAD, RAM_STEP));
  }

  #map(op: MapOperation): void {
    if (op.dir === DMA_DIRECTION.NONE && op.api !== "coherent") {
      throw new TraceError(this.#path, op.line, `${op.device}: a mapping with dir=NONE, which the DMA API refuses`);
    }
    const pieces = pieceBytes(op);
    const largest = Math.max(0, ...pieces);
    if (largest > PIECE_MOST) {
      throw new TraceError(
        this.#path,
        op.line,
        `${op.device}: a mapping of ${gib(largest)} in one piece; the kernel of the replay allocates at most ${gib(PIECE_MOST)}`,
      );
    }
    const bytes = pieces.reduce((sum, piece) => sum + piece, 0);
    this.#live.set(op.id, bytes);
    this.#bytes += bytes;
    this.#peak = Math.max(this.#peak, this.#bytes);
    if (this.#peak > LIVE_MOST) {
      throw new TraceError(
        this.#path,
        op.line,
        `${gib(this.#peak)} are mapped at the same time here; the machine of the replay has memory for ${gib(LIVE_MOST)}`,
      );
    }
  }
}

function explainNothing({ skipped, ignored, lines }: TraceSummary): string {
  const reasons = Object.entries({ ...ignored, ...skipped })
    .filter(([reason]) => !["comment", "blank"].includes(reason))
    .map(([reason, count]) => `${count} ${reason}`);
  return `no DMA mapping to replay in ${lines} lines (${reasons.join(", ")}); record both iommu and dma events`;
}

/**
 * Reads the trace once, to know its devices, length and memory. Throws TraceError with file and line, {@link InputError} when
 * it cannot be read several times.
 * @param onProgress bytes read so far, and in all
 */
export async function survey(path: string, onProgress?: (done: number, total: number) => void): Promise<Survey> {
  const status = await withPath(path, () => stat(path));
  if (status.isDirectory()) throw new InputError(`${path}: is a directory`);
  if (!status.isFile()) throw new InputError(`${path}: is not a file; a trace is read once for each architecture, so save it first`);
  let done = 0;
  const chunks = chunksOf(path, (bytes) => {
    done += bytes;
    onProgress?.(done, status.size);
  });
  const reader = new TraceReader({ name: path });
  const devices = new Set<string>();
  const workingSet = new WorkingSet(path);
  let operations = 0;
  for await (const batch of reader.readBatches(chunks)) {
    for (const operation of batch) {
      devices.add(operation.device);
      workingSet.step(operation);
    }
    operations += batch.length;
  }
  const { summary } = reader;
  if (summary.operations.map === 0) throw new TraceError(path, summary.lines, explainNothing(summary));
  return { summary, operations, devices: [...devices].sort(), ramBytes: workingSet.ramBytes };
}
