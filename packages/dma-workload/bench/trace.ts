// Cost of reading: `node bench/trace.ts [FILE] [samples]`; without a file, text made of a synthetic workload.
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import type { Operation } from "../src/index.ts";
import { synthesize, TraceReader } from "../src/index.ts";

const WARM_UP = 3;
const CHUNK = 65536;

const address = (value: number): string => `0x${value.toString(16).padStart(16, "0")}`;

/** The lines that the kernel would print for `operations`. */
function text(operations: Iterable<Operation>): Uint8Array {
  let out = "";
  for (const operation of operations) {
    if (operation.kind === "attach") continue;
    const { kind, iova, size, device } = operation;
    const prefix = "              dd-207     [000] d.h..     8.776852:";
    const range = `IOMMU: iova=${address(iova)} - ${address(iova + size)}`;
    const call = `${device} dir=FROM_DEVICE dma_addr=${iova.toString(16)} size=${size}`;
    if (kind === "map") {
      out += `${prefix} map: ${range} paddr=${address(operation.pa)} size=${size}\n`;
      out += `${prefix} dma_map_page: ${call} phys_addr=${operation.pa.toString(16)} attrs=\n`;
    } else {
      out += `${prefix} unmap: ${range} size=${size} unmapped_size=${size}\n`;
      out += `${prefix} dma_unmap_page: ${call} attrs=\n`;
    }
  }
  return new TextEncoder().encode(out);
}

function* chunks(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += CHUNK) yield bytes.subarray(at, at + CHUNK);
}

/** Milliseconds of one read, with the lines and operations it gave. */
async function measure(bytes: Uint8Array, each: boolean): Promise<{ ms: number; lines: number; operations: number }> {
  const reader = new TraceReader();
  let operations = 0;
  const start = performance.now();
  if (each) for await (const operation of reader.read(chunks(bytes))) operations += operation.line > 0 ? 1 : 0;
  else for await (const batch of reader.readBatches(chunks(bytes))) operations += batch.length;
  return { ms: performance.now() - start, lines: reader.summary.lines, operations };
}

const [file, samples = "10"] = process.argv.slice(2);
const bytes = file === undefined ? text(synthesize({ operations: 100_000, live: 256 })) : gunzipSync(readFileSync(file));
for (let sample = -WARM_UP; sample < Number(samples); sample++) {
  const batches = await measure(bytes, false);
  const each = await measure(bytes, true);
  const synthetic = performance.now();
  let made = 0;
  for (const operation of synthesize({ operations: 100_000 })) made += operation.kind === "attach" ? 0 : 1;
  const syntheticMs = performance.now() - synthetic;
  if (batches.operations !== each.operations || made !== 100_000) throw new Error("the two ways to read differ");
  if (sample < 0) continue;
  console.log(`js\ttrace.parse.perline\t${((batches.ms * 1e6) / batches.lines).toFixed(2)}`);
  console.log(`js\ttrace.parse.perop\t${((batches.ms * 1e6) / batches.operations).toFixed(2)}`);
  console.log(`js\ttrace.read.perop\t${((each.ms * 1e6) / each.operations).toFixed(2)}`);
  console.log(`js\ttrace.synthesize.perop\t${((syntheticMs * 1e6) / made).toFixed(2)}`);
}
