// Workers that map neighbouring pages of one table at once lose nothing.
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { afterAll, expect, test } from "vitest";
import { ARM_64_LPAE_S1, allocSharedIoPgtable } from "@smmuv3/io-pgtable-arm-common";
import { Memory } from "@smmuv3/platform";
import { COUNT, RAM } from "./shared-ram.ts";
import type { Round, RoundResult } from "./stress-agent.ts";

const RAM_BYTES = 8 << 20;
const IAS = 48;
const workers = [0, 1].map((me) => new Worker(new URL("stress-agent.ts", import.meta.url), { workerData: me }));

afterAll(async () => {
  await Promise.all(workers.map((worker) => worker.terminate()));
});

async function agentsRun(round: Round): Promise<RoundResult[]> {
  const answers = workers.map((worker) => once(worker, "message"));
  for (const worker of workers) worker.postMessage(round);
  return (await Promise.all(answers)).map(([answer]) => answer as RoundResult);
}

test.each([
  // Every page of an agent needs a table that the other agent needs too: a race for each.
  { name: "tables", rounds: 200, slots: 256, stride: 2 ** 21, pages: 2, passes: 0 },
  // Upper levels as well.
  { name: "tables of all levels", rounds: 200, slots: 64, stride: 2 ** 39 + 2 ** 30 + 2 ** 21, pages: 4, passes: 0 },
  // Neighbours come and go in the same lines of the same tables.
  { name: "leaves", rounds: 50, slots: 4, stride: 2 ** 21, pages: 512, passes: 3 },
])("$name: $rounds rounds", async ({ rounds, ...shape }) => {
  const memory = Memory.allocate({ base: RAM, size: RAM_BYTES, shared: true });
  let lost = 0;
  for (let seed = 1; seed <= rounds; seed++) {
    memory.words.fill(0x5a5a_5a5a);
    const counters = new Int32Array(new SharedArrayBuffer(4 * COUNT.WORDS));
    const table = allocSharedIoPgtable(ARM_64_LPAE_S1, {
      memory,
      pgsizeBitmap: 0x4020_1000,
      ias: IAS,
      oas: 48,
      coherentWalk: true,
      quirks: 0x80,
      tlb: { flushAll() {}, flushWalk() {}, addPage() {} },
      alloc: () => {
        counters[COUNT.ALLOCATED]!++;
        return RAM + 4096 * counters[COUNT.NEXT_PAGE]!++;
      },
      free() {
        counters[COUNT.FREED]!++;
      },
    });
    const results = await agentsRun({
      ...shape,
      seed,
      agents: workers.length,
      gate: new Int32Array(new SharedArrayBuffer(4)),
      sharing: {
        words: memory.words.buffer as SharedArrayBuffer,
        seen: undefined,
        counters,
        handle: table.handle,
        stage: 1,
        ias: IAS,
      },
    });
    expect(results.flatMap(({ errors }) => errors)).toEqual([]);
    const expected = results.flatMap(({ mapped }) => mapped).sort(([a], [b]) => a - b);
    const leaves: [number, number][] = [];
    table.forEachLeaf((iova, _size, pa) => leaves.push([iova, pa]));
    expect(leaves).toEqual(expected);
    // No table was lost, and none leaked.
    const inUse = (counters[COUNT.ALLOCATED]! - counters[COUNT.FREED]!) * 4096;
    expect(table.tableBytes).toBe(inUse);
    lost += counters[COUNT.FREED]!;
    table.free();
    expect([table.tableBytes, counters[COUNT.ALLOCATED]! - counters[COUNT.FREED]!]).toEqual([0, 0]);
  }
  // Tables that an agent made and found that the other had made: the races took place.
  if (shape.passes === 0) expect(lost).toBeGreaterThan(0);
});
