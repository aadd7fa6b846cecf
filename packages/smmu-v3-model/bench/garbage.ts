// Bytes of garbage per operation of each kind, in a process whose young generation is large enough never to be collected meanwhile.
// Usage: node --max-semi-space-size=256 bench/garbage.ts. One line per kind: `js<TAB>bench<TAB>bytes`.
import { PerformanceObserver } from "node:perf_hooks";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { ACCESS, TRANSLATION } from "@smmuv3/platform";
import { CMD, COMMANDS, OFFSET, place } from "@smmuv3/smmu-v3-defs";
import { Guest, PA_BASE, QUEUE_LOG2 } from "./guest.ts";
import { warmFormats } from "./warm.ts";

setFlagsFromString("--expose-gc");
const gc = runInNewContext("gc") as () => void;
const OPERATIONS = 1 << 18;
const PAGES = 65536;

const guest = new Guest(64 * 2 ** 20, 8);
const { smmu, words, queue } = guest;
const [root1, nested2] = [guest.root(), guest.root()];
guest.identity(nested2, 64 * 2 ** 20);
for (let page = 0; page < PAGES; page++) {
  guest.map(root1, page * 4096, PA_BASE + page * 4096, false);
  guest.map(nested2, PA_BASE + page * 4096, 2 * PA_BASE + page * 4096, true);
}
guest.stream(1, "s1", root1);
guest.stream(2, "s2", 0, nested2);
guest.stream(3, "nested", root1, nested2);

type Run = (operations: number) => void;

function translate(sid: number, pages: number, hi: number, expected: number): Run {
  return (operations) => {
    for (let i = 0; i < operations; i++) {
      // A stride that visits every page before it comes back to one.
      if (smmu.translate(sid, 0, ((i * 40503) % pages) << 12, hi, i & ACCESS.write) !== expected) throw new Error("translate");
    }
  };
}

function commands(operations: number): void {
  const { registers } = smmu;
  const size = 1 << QUEUE_LOG2;
  let prod = registers.read32(OFFSET.CMDQ_PROD);
  for (let done = 0; done < operations; done += size) {
    for (let i = 0; i < size; i++) {
      const at = queue / 4 + ((prod + i) & (size - 1)) * 4;
      const sync = (i & 63) === 63;
      words[at] = sync ? COMMANDS.SYNC.opcode : COMMANDS.TLBI_NH_VA.opcode;
      words[at + 1] = sync ? 0 : place(CMD.ASID, 1);
      words[at + 2] = sync ? 0 : i << 12;
    }
    prod = (prod + size) & (2 * size - 1);
    registers.write32(OFFSET.CMDQ_PROD, prod);
    smmu.step(size);
    if (registers.read32(OFFSET.CMDQ_CONS) !== prod) throw new Error("commands");
  }
}

const KINDS: readonly (readonly [name: string, run: Run])[] = [
  ["hit", translate(1, 512, 0, TRANSLATION.ok)],
  ["miss", translate(1, PAGES, 0, TRANSLATION.ok)],
  ["stage2", translate(2, PAGES, 1, TRANSLATION.ok)],
  ["nested", translate(3, PAGES, 0, TRANSLATION.ok)],
  ["fault", translate(1, PAGES, 0x100, TRANSLATION.abort)],
  ["command", commands],
];

const collections = { count: 0 };
const observer = new PerformanceObserver((list) => {
  collections.count += list.getEntries().length;
});

/** Bytes that so many operations leave on the heap: the smallest of some, because the compiler allocates as well, now and then. */
function measure(run: Run, operations: number, collect: () => void): number {
  let least = Infinity;
  for (let round = 0; round < 5; round++) {
    collect();
    observer.observe({ entryTypes: ["gc"] });
    const before = process.memoryUsage().heapUsed;
    run(operations);
    least = Math.min(least, process.memoryUsage().heapUsed - before);
    collections.count += observer.takeRecords().length;
    observer.disconnect();
  }
  return least;
}

warmFormats();
for (const [name, run] of KINDS) {
  for (let i = 0; i < 4; i++) run(4 * OPERATIONS);
  // What a run costs whatever its length is not an operation's.
  const bytes = measure(run, 4 * OPERATIONS, gc) - measure(run, OPERATIONS, gc);
  if (collections.count > 0) throw new Error("there was a collection meanwhile: the figures are of no use");
  process.stdout.write(`js\thw.garbage.${name}\t${(Math.max(bytes, 0) / (3 * OPERATIONS)).toFixed(4)}\n`);
}
