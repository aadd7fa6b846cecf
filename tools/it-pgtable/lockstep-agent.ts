// A worker that stops before and after each atomic access to tables.
import { workerData } from "node:worker_threads";
import { IOMMU_PROT } from "@smmuv3/io-pgtable-arm-common";
import { AGENT, MAX_TASKS, stop } from "./lockstep.ts";
import type { AgentData, Task } from "./lockstep.ts";
import { attach } from "./shared-ram.ts";

const { me, control, results, sharing, tasks, mutant } = workerData as AgentData;
const watched = new Set([sharing.words, sharing.handle.state.buffer]);
const { load, store, compareExchange, add } = Atomics;
type Args = [array: Int32Array, index: number, ...values: number[]];

/** Its accesses are stopped at. */
const agent = { works: false };
function stepping(real: (...args: Args) => number): (...args: Args) => number {
  return (...args) => {
    if (!agent.works || !watched.has(args[0].buffer)) return real(...args);
    // `stop` uses atomics too.
    agent.works = false;
    stop(control, me, AGENT.READY);
    const result = real(...args);
    stop(control, me, AGENT.READY);
    agent.works = true;
    return result;
  };
}

/** What a compare-and-exchange must not be: two accesses with room between them. */
const inTwoHalves = (...[array, index, expected, value]: Args): number => {
  const found = load(array, index);
  if (found !== expected) return found;
  stop(control, me, AGENT.READY);
  store(array, index, value!);
  return found;
};
/** An exchange that always says it won. */
const regardless = (...[array, index, expected, value]: Args): number => {
  store(array, index, value!);
  return expected!;
};

const exchange = { none: compareExchange, "exchange in two halves": inTwoHalves, "publish without a claim": regardless }[mutant];
Object.assign(Atomics, {
  load: stepping(load as (...args: Args) => number),
  store: stepping(store as (...args: Args) => number),
  add: stepping(add as (...args: Args) => number),
  compareExchange: stepping(exchange),
});

const table = attach(sharing, () => {
  agent.works = false;
  stop(control, me, AGENT.WAITS);
  agent.works = true;
});

function run(task: Task): number {
  switch (task.op) {
    case "map":
      return table.mapPages(task.iova, task.pa, task.size, task.count, IOMMU_PROT.READ | IOMMU_PROT.WRITE);
    case "unmap":
      return table.unmapPages(task.iova, task.size, task.count, null);
    case "lookup":
      return table.iovaToPhys(task.iova);
    case "clean":
      return table.readAndClearDirty(task.iova, task.size, false, () => {}, null);
  }
}

stop(control, me, AGENT.IDLE);
for (;;) {
  tasks.forEach((task, i) => {
    agent.works = true;
    results[me * MAX_TASKS + i] = run(task);
    agent.works = false;
  });
  stop(control, me, AGENT.DONE);
}
