// Lines as the kernel prints them, and a reader that takes them.
import { gzipSync } from "node:zlib";
import { expect } from "vitest";
import type { Operation, TraceOptions, TraceSummary } from "../src/index.ts";
import { TraceReader } from "../src/index.ts";

export interface Where {
  readonly task?: string;
  readonly pid?: number;
  readonly cpu?: number;
}

const wide = (value: number): string => `0x${value.toString(16).padStart(16, "0")}`;
const nvme = "0000:00:01.0";

export function event(text: string, { task = "dd", pid = 207, cpu = 0 }: Where = {}): string {
  const [before, number] = [task.padStart(16), String(pid).padEnd(7)];
  return `${before}-${number} [${String(cpu).padStart(3, "0")}] d.h..     8.776852: ${text}`;
}

export const map = (iova: number, pa: number, size: number = 4096, where?: Where): string =>
  event(`map: IOMMU: iova=${wide(iova)} - ${wide(iova + size)} paddr=${wide(pa)} size=${size}`, where);
export const unmap = (iova: number, size: number = 4096, where?: Where): string =>
  event(`unmap: IOMMU: iova=${wide(iova)} - ${wide(iova + size)} size=${size} unmapped_size=${size}`, where);
export const mapPage = (iova: number, pa: number, size: number = 4096, device: string = nvme, where?: Where): string =>
  event(`dma_map_page: ${device} dir=FROM_DEVICE dma_addr=${iova.toString(16)} size=${size} phys_addr=${pa.toString(16)} attrs=`, where);
export const unmapPage = (iova: number, size: number = 4096, device: string = nvme, where?: Where): string =>
  event(`dma_unmap_page: ${device} dir=FROM_DEVICE dma_addr=${iova.toString(16)} size=${size} attrs=`, where);
export const alloc = (iova: number, size: number, device: string = nvme, where?: Where): string =>
  event(`dma_alloc: ${device} dir=BIDIRECTIONAL dma_addr=${iova.toString(16)} size=${size} virt_addr=000000002d7ed464 flags=GFP_KERNEL attrs=`, where);
export const free = (iova: number, size: number, device: string = nvme, where?: Where): string =>
  event(`dma_free: ${device} dir=BIDIRECTIONAL dma_addr=${iova.toString(16)} size=${size} virt_addr=000000002d7ed464 attrs=`, where);
export const attach = (device: string, where?: Where): string => event(`attach_device_to_domain: IOMMU: device=${device}`, where);

export const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
export const gzip = (text: string): Uint8Array => new Uint8Array(gzipSync(text));

/** `data` in pieces of `size` bytes. */
export function* pieces(data: Uint8Array, size: number): Generator<Uint8Array> {
  for (let at = 0; at < data.length; at += size) yield data.subarray(at, at + size);
}

export interface Run {
  readonly operations: Operation[];
  readonly summary: TraceSummary;
}

export async function read(chunks: Iterable<Uint8Array> | AsyncIterable<Uint8Array>, options?: TraceOptions): Promise<Run> {
  const reader = new TraceReader(options);
  const operations: Operation[] = [];
  for await (const operation of reader.read(chunks)) operations.push(operation);
  return { operations, summary: reader.summary };
}

/** Reads lines that each end in a newline. */
export const readLines = (...lines: string[]): Promise<Run> => read([bytes(lines.map((line) => `${line}\n`).join(""))]);

/** Operations in short: `map 1 page 0000:00:01.0`. */
export const brief = ({ operations }: Run): string[] =>
  operations.map((operation) =>
    operation.kind === "attach"
      ? `attach ${operation.device}`
      : `${operation.kind} ${operation.id} ${operation.api} ${operation.device}`,
  );

/** Each field of `expected` is equal, not just contained: an empty `skipped` means that nothing was skipped. */
export function expectSummary(summary: TraceSummary, expected: Partial<TraceSummary>): void {
  const keys = Object.keys(expected) as (keyof TraceSummary)[];
  expect(Object.fromEntries(keys.map((key) => [key, summary[key]]))).toEqual(expected);
}
