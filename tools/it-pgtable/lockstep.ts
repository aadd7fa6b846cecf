// A scheduler of workers that stop before and after each of their atomic accesses, and a search through all orders of those.
import { Worker } from "node:worker_threads";
import type { Sharing } from "./shared-ram.ts";

/** What one agent does in one run. */
export type Task =
  | { readonly op: "map"; readonly iova: number; readonly pa: number; readonly size: number; readonly count: number }
  | { readonly op: "unmap"; readonly iova: number; readonly size: number; readonly count: number }
  | { readonly op: "lookup"; readonly iova: number }
  | { readonly op: "clean"; readonly iova: number; readonly size: number };

/** Agents whose atomics are broken in a way that the search has to find. */
export type Mutant = "none" | "exchange in two halves" | "publish without a claim";

export interface AgentData {
  readonly me: number;
  readonly control: Int32Array;
  readonly results: Float64Array;
  readonly sharing: Sharing;
  readonly tasks: readonly Task[];
  readonly mutant: Mutant;
}

/** States of an agent, at `control[1 + me]`; `control[0]` counts changes. */
export const AGENT = { IDLE: 0, READY: 1, WAITS: 2, DONE: 3, RUNS: 4 } as const;
/** Results per agent: one of each task. */
export const MAX_TASKS = 4;

/** Stops the calling agent in `state` until the scheduler lets it go on. */
export function stop(control: Int32Array, me: number, state: number): void {
  Atomics.store(control, 1 + me, state);
  Atomics.add(control, 0, 1);
  Atomics.notify(control, 0);
  while (Atomics.load(control, 1 + me) === state) Atomics.wait(control, 1 + me, state);
}

interface Choice {
  /** Agents that could go on, the one that was running first. */
  readonly options: readonly number[];
  readonly preemptions: number;
  /** Index into `options`. */
  taken: number;
}

export interface Search {
  readonly runs: number;
  readonly steps: number;
  /** Stops for a claim of the other agent. */
  readonly waits: number;
}

export interface Schedule {
  /** Order of the agents' steps. */
  readonly order: readonly number[];
  /** Per agent and task. */
  readonly results: readonly (readonly number[])[];
}

/** Runs the tasks of agents in every order of their steps that takes the floor from a running agent `bound` times at most. */
export class Lockstep {
  readonly #control: Int32Array = new Int32Array(new SharedArrayBuffer(64));
  readonly #results: Float64Array;
  readonly #workers: readonly Worker[];
  readonly #tasks: readonly (readonly Task[])[];

  constructor(sharing: Sharing, tasks: readonly (readonly Task[])[], mutant: Mutant = "none") {
    this.#tasks = tasks;
    this.#results = new Float64Array(new SharedArrayBuffer(8 * MAX_TASKS * tasks.length));
    // Nobody is idle before it says so.
    this.#control.fill(AGENT.RUNS, 1, 1 + tasks.length);
    this.#workers = tasks.map((list, me) => {
      const data: AgentData = { me, control: this.#control, results: this.#results, sharing, tasks: list, mutant };
      return new Worker(new URL("lockstep-agent.ts", import.meta.url), { workerData: data });
    });
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }

  /**
   * @param reset makes RAM and tables new before each run
   * @param step called after each step, with the agent that made it
   * @param done called after each run
   */
  search(
    bound: number,
    reset: () => void,
    step: (agent: number, finished: boolean) => void,
    done: (schedule: Schedule) => void,
  ): Search {
    const path: Choice[] = [];
    let runs = 0;
    let steps = 0;
    let waits = 0;
    this.#tasks.forEach((_, me) => {
      this.#settle(me);
    });
    for (;;) {
      reset();
      const states = this.#tasks.map((): number => AGENT.READY);
      const order: number[] = [];
      let running = -1;
      let preemptions = 0;
      for (let depth = 0; states.some((state) => state !== AGENT.DONE); depth++) {
        const candidates = states.flatMap((state, me) => (state === AGENT.READY ? [me] : []));
        if (candidates.length === 0) throw new Error(`agents wait for each other: ${order.join(" ")}`);
        const goesOn = candidates.includes(running);
        const others = candidates.filter((me) => me !== running);
        const options = goesOn ? [running, ...(preemptions < bound ? others : [])] : others;
        path[depth] ??= { options, preemptions, taken: 0 };
        const agent = options[path[depth]!.taken]!;
        if (goesOn && agent !== running) preemptions++;
        order.push(agent);
        states[agent] = this.#go(agent);
        // What it waits for may have happened since it looked.
        if (states[agent] === AGENT.WAITS && order.at(-2) !== agent) states[agent] = AGENT.READY;
        // Whoever waits looks again once somebody else has gone on.
        if (states[agent] === AGENT.WAITS) waits++;
        else states.forEach((state, me) => {
          if (me !== agent && state === AGENT.WAITS) states[me] = AGENT.READY;
        });
        running = agent;
        steps++;
        step(agent, states[agent] === AGENT.DONE);
      }
      runs++;
      done({ order, results: this.#tasks.map((list, me) => list.map((_, i) => this.#results[me * MAX_TASKS + i]!)) });
      path.length = order.length;
      while (path.length > 0 && path.at(-1)!.taken === path.at(-1)!.options.length - 1) path.pop();
      if (path.length === 0) return { runs, steps, waits };
      path.at(-1)!.taken++;
    }
  }

  /** Lets an agent make one step; its state then. */
  #go(me: number): number {
    Atomics.store(this.#control, 1 + me, AGENT.RUNS);
    Atomics.notify(this.#control, 1 + me);
    return this.#settle(me);
  }

  #settle(me: number): number {
    const control = this.#control;
    for (;;) {
      const seen = Atomics.load(control, 0);
      const state = Atomics.load(control, 1 + me);
      if (state !== AGENT.RUNS) return state;
      if (Atomics.wait(control, 0, seen, 20_000) === "timed-out") throw new Error(`agent ${me} does not come to a stop`);
    }
  }
}
