// How cost grows with streams and with the mapped range: the same guest as native/growth_bench.c, one line per sample.
// Usage: node bench/growth.ts [samples] [name filter]
import { performance } from "node:perf_hooks";
import { TRANSLATION } from "@smmuv3/platform";
import { generator, Guest, PA_BASE } from "./guest.ts";
import { warmFormats } from "./warm.ts";

const samples = Number(process.argv[2] ?? 5);
const filter = process.argv[3] ?? "";
const N = 1 << 18;
const SLICE = 1024;
/** Pages of each span, at random places of it. */
const PAGES = 32768;
const STREAMS_LOG2 = 16;
const SPANS = [["1G", 30], ["16G", 34], ["256G", 38], ["1T", 40]] as const;

const rnd = generator();
const guest = new Guest(320 * 2 ** 20, STREAMS_LOG2);
const { smmu } = guest;
const lo = new Int32Array(N);
const hi = new Int32Array(N);
const sids = new Int32Array(N);

// Streams 0 to 3 have a span each, all others four pages of one space.
for (const [index, [, log2]] of SPANS.entries()) {
  const root = guest.root();
  guest.stream(index, "s1", root);
  for (let i = 0; i < PAGES; i++) {
    const address = (rnd() % 2 ** (log2 - 12)) * 4096;
    guest.map(root, address, PA_BASE + address, false);
  }
}
const small = guest.root();
for (let page = 0; page < 4; page++) guest.map(small, page * 4096, PA_BASE + page * 4096, false);
for (let sid = SPANS.length; sid < 1 << STREAMS_LOG2; sid++) guest.stream(sid, "s1", small);

function measure(name: string): void {
  if (!name.includes(filter)) return;
  for (let round = -3; round < samples; round++) {
    let sum = 0;
    const start = performance.now();
    for (let from = 0; from < N; from += SLICE) sum = (sum + translate(from, from + SLICE)) | 0;
    const ns = ((performance.now() - start) * 1e6) / N;
    if (sum === 0.5) throw new Error("never");
    if (round >= 0) process.stdout.write(`js\t${name}\t${ns.toFixed(3)}\n`);
  }
}

function translate(from: number, to: number): number {
  let sum = 0;
  for (let i = from; i < to; i++) {
    if (smmu.translate(sids[i]!, 0, lo[i]!, hi[i]!, 0) !== TRANSLATION.ok) throw new Error("translate");
    sum = (sum + smmu.paLo) | 0;
  }
  return sum;
}

warmFormats();
for (const [name, count] of [["1", 1], ["64", 64], ["1k", 1024], ["64k", 65536]] as const) {
  for (let i = 0; i < N; i++) {
    sids[i] = Math.max((rnd() % count) + (count < 65536 ? 4096 : 0), SPANS.length);
    lo[i] = rnd() & 0x3fff;
    hi[i] = 0;
  }
  measure(`hw.growth.streams.${name}`);
}
for (const [index, [name, log2]] of SPANS.entries()) {
  // The pages again, as they were drawn, in another order.
  const again = generator();
  for (let before = 0; before < index * PAGES; before++) again();
  const pages = Float64Array.from({ length: PAGES }, () => again() % 2 ** (log2 - 12));
  for (let i = 0; i < N; i++) {
    const page = pages[rnd() % PAGES]!;
    sids[i] = index;
    lo[i] = (page << 12) | (rnd() & 0xfff);
    hi[i] = Math.floor(page / 2 ** 20);
  }
  measure(`hw.growth.bytes.${name}`);
}
