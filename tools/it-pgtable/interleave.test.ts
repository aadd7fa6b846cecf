// The claim protocol in all orders of two agents' atomic accesses, up to a number of preemptions.
import { expect, test } from "vitest";
import { ARM_64_LPAE_S1, allocSharedIoPgtable } from "@smmuv3/io-pgtable-arm-common";
import { Memory } from "@smmuv3/platform";
import { PERM, STAGE1, Stage1Walker, Stage2Walker, WALK } from "@smmuv3/vmsa-walk";
import { Lockstep } from "./lockstep.ts";
import type { Mutant, Schedule, Search, Task } from "./lockstep.ts";
import { COUNT, RAM } from "./shared-ram.ts";
import type { Sharing } from "./shared-ram.ts";

const RAM_BYTES = 64 << 10;
const EEXIST = -17;
const PAGE = 0x1000;
const BLOCK = 0x20_0000;
/** Output addresses that differ in both words. */
const PA0 = 0x12_3456_7000;
const PA1 = 0x7f_89ab_c000;

const map = (iova: number, pa: number, size = PAGE, count = 1): Task => ({ op: "map", iova, pa, size, count });
const unmap = (iova: number, size = PAGE, count = 1): Task => ({ op: "unmap", iova, size, count });

interface Setting {
  readonly ias: number;
  readonly coherent: boolean;
  readonly mutant: Mutant;
  readonly before: readonly Task[];
  readonly tasks: readonly (readonly Task[])[];
  readonly bound: number;
}

interface Outcome extends Schedule {
  readonly leaves: readonly (readonly [iova: number, size: number, pa: number])[];
  readonly allocated: number;
  readonly freed: number;
}

const DEFAULTS: Setting = { ias: 30, coherent: true, mutant: "none", before: [], tasks: [], bound: 3 };

/** Searches; `check` judges each run, `whenDone` the moment that an agent is done. Throws at the first order that is wrong. */
async function search(
  given: Partial<Setting>,
  check: (outcome: Outcome) => void,
  whenDone: (agent: number, walk: (iova: number) => number) => void = () => {},
): Promise<Search> {
  const setting = { ...DEFAULTS, ...given };
  const memory = Memory.allocate({ base: RAM, size: RAM_BYTES, shared: true });
  const seen = Memory.allocate({ base: RAM, size: RAM_BYTES, shared: true });
  const counters = new Int32Array(new SharedArrayBuffer(4 * COUNT.WORDS));
  const { words } = memory;
  const table = allocSharedIoPgtable(ARM_64_LPAE_S1, {
    memory,
    pgsizeBitmap: 0x4020_1000,
    ias: setting.ias,
    oas: 48,
    coherentWalk: setting.coherent,
    quirks: 0x80,
    tlb: { flushAll() {}, flushWalk() {}, addPage() {} },
    alloc: () => {
      counters[COUNT.ALLOCATED]!++;
      return RAM + PAGE * counters[COUNT.NEXT_PAGE]!++;
    },
    free() {
      counters[COUNT.FREED]!++;
    },
  });
  const { handle } = table;
  const sharing: Sharing = {
    words: words.buffer as SharedArrayBuffer,
    seen: setting.coherent ? undefined : (seen.words.buffer as SharedArrayBuffer),
    counters,
    handle,
    stage: 1,
    ias: setting.ias,
  };
  const walker = new Stage1Walker(seen, new Stage2Walker(seen));
  walker.configure(table.tcr.ips, STAGE1.HA);
  walker.configureHalf(false, table.pgd, 0, table.tcr.tsz, 0, 0);
  const walk = (iova: number): number => {
    const status = walker.walk(iova | 0, Math.floor(iova / 2 ** 32), PERM.READ);
    return status === WALK.OK ? walker.paHi * 2 ** 32 + (walker.paLo >>> 0) : -status;
  };

  /** Valid descriptors as they were after the last step: the first 16 of each page. */
  let last = new Map<number, number>();
  const watch = (): void => {
    const now = new Map<number, number>();
    for (let page = 0; page < counters[COUNT.NEXT_PAGE]!; page++) {
      for (let slot = page * 1024; slot < page * 1024 + 32; slot += 2) {
        if ((words[slot]! & 1) === 0) continue;
        now.set(slot, words[slot]!);
        now.set(slot + 1, words[slot + 1]!);
        if (last.get(slot) === words[slot] && last.get(slot + 1) !== words[slot + 1]) {
          throw new Error(`the high word of slot ${slot} changed while it was valid`);
        }
      }
    }
    last = now;
  };

  const lockstep = new Lockstep(sharing, setting.tasks, setting.mutant);
  try {
    return lockstep.search(
      setting.bound,
      () => {
        words.fill(0x5a5a_5a5a);
        words.fill(0, 0, PAGE / 4);
        seen.words.set(words);
        counters.fill(0);
        counters[COUNT.NEXT_PAGE] = 1;
        counters[COUNT.ALLOCATED] = 1;
        handle.state.fill(0);
        handle.state[0] = PAGE / 64;
        for (const task of setting.before) {
          if (task.op !== "map") throw new TypeError("before: maps only");
          if (table.mapPages(task.iova, task.pa, task.size, task.count, 3) !== 0) throw new Error("before: map failed");
        }
        last = new Map();
      },
      (agent, finished) => {
        watch();
        if (finished) whenDone(agent, walk);
      },
      (schedule) => {
        const leaves: [number, number, number][] = [];
        table.forEachLeaf((iova, size, pa) => leaves.push([iova, size, pa]));
        const [allocated, freed] = [counters[COUNT.ALLOCATED]!, counters[COUNT.FREED]!];
        const outcome = { ...schedule, leaves, allocated, freed };
        const context = `order ${schedule.order.join("")}`;
        expect(table.tableBytes, context).toBe((allocated - freed) * PAGE);
        try {
          check(outcome);
        } catch (error) {
          throw new Error(`${context}: ${String(error)}`, { cause: error });
        }
      },
    );
  } finally {
    await lockstep.close();
  }
}

/** One outcome each: a map that won, and one that found it had lost. */
const oneWins = ({ results, leaves }: Outcome, ...mapped: (readonly [number, number, number])[][]): void => {
  const winner = results.findIndex(([status]) => status === 0);
  expect(results.map(([status], i) => status === (i === winner ? 0 : EEXIST))).toEqual([true, true]);
  expect(leaves).toEqual(mapped[winner]);
};

test("neighbours in a table that is not there yet", async () => {
  const races = new Set<number>();
  const { runs, waits } = await search({ tasks: [[map(0, PA0)], [map(PAGE, PA1)]] }, ({ results, leaves, allocated, freed }) => {
    expect(results).toEqual([[0], [0]]);
    expect(leaves).toEqual([[0, PAGE, PA0], [PAGE, PAGE, PA1]]);
    expect(allocated - freed).toBe(2);
    races.add(freed);
  });
  // Both outcomes of the race took place, and so did waiting for a claim.
  expect(races).toEqual(new Set([0, 1]));
  expect(runs).toBeGreaterThan(500);
  expect(waits).toBeGreaterThan(0);
});

test("neighbours below four levels that are not there yet", async () => {
  const tasks = [[map(0, PA0)], [map(PAGE, PA1)]];
  await search({ ias: 48, bound: 2, tasks }, ({ results, leaves, allocated, freed }) => {
    expect(results).toEqual([[0], [0]]);
    expect(leaves).toEqual([[0, PAGE, PA0], [PAGE, PAGE, PA1]]);
    expect(allocated - freed).toBe(4);
  });
});

test("the same page: one wins, and no word is the other's", async () => {
  const winners = new Set<number>();
  await search({ tasks: [[map(0, PA0)], [map(0, PA1)]] }, (outcome) => {
    oneWins(outcome, [[0, PAGE, PA0]], [[0, PAGE, PA1]]);
    winners.add(outcome.results[0]![0]!);
  });
  expect(winners).toEqual(new Set([0, EEXIST]));
});

test("runs that overlap: one wins whole", async () => {
  const before = [map(5 * PAGE, 0)];
  const run = (first: number, pa: number): [number, number, number][] => [0, 1, 2].map((i) => [(first + i) * PAGE, PAGE, pa + i * PAGE]);
  const rest: [number, number, number] = [5 * PAGE, PAGE, 0];
  await search({ before, bound: 2, tasks: [[map(0, PA0, PAGE, 3)], [map(2 * PAGE, PA1, PAGE, 3)]] }, (outcome) => {
    oneWins(outcome, [...run(0, PA0), rest], [...run(2, PA1), rest]);
  });
});

test("one page goes while its neighbour comes", async () => {
  await search({ before: [map(0, PA0)], tasks: [[unmap(0)], [map(PAGE, PA1)]] }, ({ results, leaves }) => {
    expect(results).toEqual([[PAGE], [0]]);
    expect(leaves).toEqual([[PAGE, PAGE, PA1]]);
  });
});

test("two unmaps of one page: one gets it", async () => {
  await search({ before: [map(0, PA0), map(PAGE, PA1)], tasks: [[unmap(0)], [unmap(0)]] }, ({ results, leaves }) => {
    expect(results.flat().sort()).toEqual([0, PAGE]);
    expect(leaves).toEqual([[PAGE, PAGE, PA1]]);
  });
});

test("two unmaps of one table: it is freed once", async () => {
  await search({ before: [map(0, PA0), map(BLOCK, PA1)], tasks: [[unmap(0, BLOCK)], [unmap(BLOCK, BLOCK)]] }, (outcome) => {
    expect([outcome.results, outcome.leaves, outcome.freed]).toEqual([[[BLOCK], [BLOCK]], [], 2]);
  });
  await search({ before: [map(0, PA0)], tasks: [[unmap(0, BLOCK)], [unmap(0, BLOCK)]] }, ({ leaves, freed }) => {
    expect([leaves, freed]).toEqual([[], 1]);
  });
});

test("a look-up while its page is replaced", async () => {
  const found = new Set<number>();
  await search({ before: [map(0, PA0)], tasks: [[unmap(0), map(0, PA1)], [{ op: "lookup", iova: 5 }]] }, ({ results }) => {
    expect([0, PA0 + 5, PA1 + 5]).toContain(results[1]![0]);
    found.add(results[1]![0]!);
  });
  expect(found.size).toBe(3);
});

test("a page made clean while it goes and comes back", async () => {
  const clean: Task = { op: "clean", iova: 0, size: PAGE };
  await search({ before: [map(0, PA0)], tasks: [[unmap(0), map(0, PA1)], [clean]] }, ({ results, leaves }) => {
    expect(results[0]).toEqual([PAGE, 0]);
    expect([0, -22]).toContain(results[1]![0]);
    expect(leaves).toEqual([[0, PAGE, PA1]]);
  });
});

test("a walker that does not snoop finds a page when its map returns, whoever made the tables", async () => {
  let lost = 0;
  await search(
    { coherent: false, tasks: [[map(0, PA0)], [map(PAGE, PA1)]] },
    ({ results, freed }) => {
      expect(results).toEqual([[0], [0]]);
      lost += freed;
    },
    (agent, walk) => {
      expect(walk(agent * PAGE)).toBe([PA0, PA1][agent]);
    },
  );
  expect(lost).toBeGreaterThan(0);
});

test.each<[Mutant]>([["exchange in two halves"], ["publish without a claim"]])("the search finds: %s", async (mutant) => {
  const attempt = search({ mutant, tasks: [[map(0, PA0)], [map(PAGE, PA1)]] }, ({ results, leaves, allocated, freed }) => {
    expect(results).toEqual([[0], [0]]);
    expect(leaves).toEqual([[0, PAGE, PA0], [PAGE, PAGE, PA1]]);
    expect(allocated - freed).toBe(2);
  });
  await expect(attempt).rejects.toThrow(/order|changed|wait/);
});
