import { isHypPanic, isMachineError } from "@smmuv3/machine";
import { REQUEST } from "@smmuv3/pkvm-abi";
import { PAGE_SIZE } from "@smmuv3/platform";
import { drawClass } from "./grammar/index.ts";
import { TRAFFIC } from "./grammar/traffic.ts";
import { RandomScheduler, ReplayScheduler, runConcurrent } from "./concurrent.ts";
import type { Scheduler } from "./concurrent.ts";
import { isConcurrent } from "./op.ts";
import type { Concurrent, Op, Step } from "./op.ts";
import { SID_BITS } from "./hardware.ts";
import { Oracle, panicFinding } from "./oracle.ts";
import type { Finding } from "./oracle.ts";
import { Random } from "./random.ts";
import { drawScenario } from "./scenarios.ts";
import { Scene } from "./scene.ts";
import type { Target } from "./target.ts";
import { World } from "./world.ts";

/** Operations between two boots. */
export const EPOCH_OPS = 1000;
/** A sweep after each of so many operations, and at the end. */
const SWEEP_OPS = 250;
/** Streams of random numbers of one epoch: what happens, and what a sweep picks. */
const STREAMS = 2;
/** Hypercalls that take a page from the host. */
const TAKES: ReadonlySet<string> = new Set(["__pkvm_host_donate_guest", "__pkvm_host_donate_hyp", "__pkvm_init_vm", "__pkvm_topup_hyp", "__pkvm_vcpu_topup"]);
const PFN_ARG: Readonly<Record<string, number>> = { __pkvm_host_donate_guest: 1, __pkvm_host_donate_hyp: 0, __pkvm_topup_hyp: 1, __pkvm_vcpu_topup: 2 };
/** One epoch in so many has a large stream table. */
const LARGE_EPOCHS = 8;
/** One request for memory in so many is not met. */
const MISERLY = 5;
/** Races between two boots. */
export const EPOCH_SCHEDULES = 50;
/** Races before which there is traffic in any case: the first ones need something to attack. */
const WARM_UP = 8;
/** Keeps races apart from sequences of the same seed. */
const SCHEDULE_SEED = 0x5eed;

function bootOp(sidBits: number): Op {
  return { class: "boot", call: "boot", args: [sidBits] };
}

/** Attempts of a class, and what became of them. */
export interface Coverage {
  attempted: number;
  accepted: number;
  refused: number;
}

/** Operations that lead to a finding: replayed after a boot, they lead there again. */
export interface Trail {
  readonly finding: Finding;
  readonly script: readonly Step[];
}

/** Runs operations on a freshly booted world, as the campaign and the replay do. */
export class Runner {
  readonly world: World;
  readonly oracle: Oracle;
  readonly #sweeps: Random;
  #done = 0;

  /** Boots. Throws what stopped it. */
  constructor(target: Target, sidBits: number, sweepSeed: number) {
    this.world = new World(target, sidBits);
    this.oracle = new Oracle(this.world);
    this.#sweeps = new Random(sweepSeed, STREAMS);
  }

  /** What the boot itself has broken. */
  booted(): Finding | undefined {
    const { violation } = this.world;
    return violation === undefined ? this.sweep() : { kind: "breach", ...violation };
  }

  /** One operation, judged. `result` has its result afterwards. */
  step(op: Op): Finding | undefined {
    if (TAKES.has(op.call)) {
      const at = PFN_ARG[op.call];
      this.oracle.warm(at === undefined ? op.args[0]! : op.args[at]! * PAGE_SIZE);
    }
    this.result = this.world.run(op);
    const found = this.oracle.after(op, this.result);
    if (found !== undefined) return found;
    return ++this.#done % SWEEP_OPS === 0 ? this.sweep() : undefined;
  }

  result = 0;
  /** What the scheduler of the last {@link race} has chosen. */
  choices: readonly number[] = [];

  /** Several CPUs at once, judged when all are done. */
  race(step: Concurrent, scheduler: Scheduler, coverage?: CoverageTable): Finding | undefined {
    const { choices, done, violation, deadlock } = runConcurrent(this.world, step, scheduler);
    this.choices = choices;
    if (coverage !== undefined) for (const { op, result } of done) count(coverage, op.class, result);
    const dead = this.oracle.dead();
    if (dead !== undefined) return dead;
    if (deadlock !== undefined) return { kind: "deadlock", invariant: "I13", text: deadlock };
    return violation === undefined ? this.oracle.settled() : { kind: "breach", ...violation };
  }

  /** One line of a script. */
  line(step: Step): Finding | undefined {
    return isConcurrent(step) ? this.race(step, new ReplayScheduler(step.choices)) : this.step(step);
  }

  sweep(): Finding | undefined {
    return this.oracle.sweep(this.#sweeps);
  }
}

/** Boots a world to attack; a finding where EL2 does not survive the boot. Throws what else stopped it. */
function start(target: Target, sidBits: number, sweepSeed: number): Runner | Finding {
  try {
    return new Runner(target, sidBits, sweepSeed);
  } catch (error) {
    if (!isHypPanic(error) && !isMachineError(error)) throw error;
    return panicFinding(error.message);
  }
}

/** Classes whose operations have to be counted, by name. */
export type CoverageTable = Record<string, Coverage>;

/** Counts an operation of `name`. */
export function count(coverage: CoverageTable, name: string, result: number): void {
  const row = (coverage[name] ??= { attempted: 0, accepted: 0, refused: 0 });
  row.attempted++;
  if (result < 0) row.refused++;
  else row.accepted++;
}

/** Performs `op`, and mostly gives EL2 the memory that it asks for and repeats it, as a kernel does that wants its domains. */
function perform(runner: Runner, scene: Scene, op: Op, script: Step[], coverage: CoverageTable | undefined): Finding | undefined {
  const one = (step: Op): Finding | undefined => {
    script.push(step);
    const found = runner.step(step);
    if (coverage !== undefined) count(coverage, step.class, runner.result);
    return found;
  };
  const found = one(op);
  const [type, pool, pages] = runner.world.request;
  if (found !== undefined || type !== REQUEST.memory || !op.call.startsWith("__pkvm") || scene.random.oneIn(MISERLY)) return found;
  const order = Math.ceil(Math.log2(Math.max(pages, 1)));
  const pfn = scene.freeBlock(2 ** order) / PAGE_SIZE;
  return one({ class: op.class, call: "__pkvm_topup_hyp", args: [pool, pfn, order] }) ?? one(op);
}

/** Result of {@link runEpoch}. */
export interface EpochResult {
  readonly operations: number;
  readonly trail: Trail | undefined;
}

/** `ops` operations after a boot, from `seed` and the number of the epoch alone; ends at the first finding. */
export function runEpoch(target: Target, seed: number, epoch: number, ops: number, coverage: CoverageTable): EpochResult {
  const random = new Random(seed, epoch * STREAMS + STREAMS + 1);
  const sidBits = epoch % LARGE_EPOCHS === 0 ? SID_BITS.large : SID_BITS.small;
  const script: Op[] = [bootOp(sidBits)];
  const runner = start(target, sidBits, epoch);
  const first = runner instanceof Runner ? runner.booted() : runner;
  if (first !== undefined || !(runner instanceof Runner)) return { operations: 0, trail: { finding: first!, script } };
  const scene = new Scene(runner.world, random);
  while (script.length <= ops) {
    const attack = drawClass(random);
    scene.begin(attack.id);
    attack.generate(scene);
    for (const op of scene.ops) {
      const finding = perform(runner, scene, op, script, coverage);
      if (finding !== undefined) return { operations: script.length - 1, trail: { finding, script } };
      if (script.length > ops) break;
    }
  }
  const finding = runner.sweep();
  return { operations: script.length - 1, trail: finding === undefined ? undefined : { finding, script } };
}

/** Result of {@link runScheduleEpoch}. */
export interface ScheduleResult {
  readonly schedules: number;
  readonly trail: Trail | undefined;
}

/** `schedules` races after a boot, each with a schedule of its own; ends at the first finding. The target has twins. */
export function runScheduleEpoch(target: Target, seed: number, epoch: number, schedules: number, coverage: CoverageTable): ScheduleResult {
  const random = new Random(seed ^ SCHEDULE_SEED, epoch * STREAMS + STREAMS + 1);
  const sidBits = epoch % LARGE_EPOCHS === 0 ? SID_BITS.small : SID_BITS.linear;
  const script: Step[] = [bootOp(sidBits)];
  const runner = start(target, sidBits, epoch);
  const first = runner instanceof Runner ? runner.booted() : runner;
  if (first !== undefined || !(runner instanceof Runner)) return { schedules: 0, trail: { finding: first!, script } };
  const scene = new Scene(runner.world, random);
  for (let done = 0; done < schedules; done++) {
    scene.begin("traffic");
    if (done < WARM_UP || random.oneIn(2)) TRAFFIC.generate(scene);
    const traffic = scene.ops.slice();
    const { before, race, after } = drawScenario(random, scene);
    for (const op of [...traffic, ...before]) {
      const found = perform(runner, scene, op, script, undefined);
      if (found !== undefined) return { schedules: done, trail: { finding: found, script } };
    }
    const found = runner.race(race, new RandomScheduler(random, race.cpus.length), coverage);
    script.push({ ...race, choices: runner.choices });
    if (found !== undefined) return { schedules: done + 1, trail: { finding: found, script } };
    for (const op of after) {
      const late = perform(runner, scene, op, script, undefined);
      if (late !== undefined) return { schedules: done + 1, trail: { finding: late, script } };
    }
  }
  return { schedules, trail: undefined };
}

/** Replays a script after a boot; a sweep after each operation where `thorough`, else at the end. */
export function replay(target: Target, script: readonly Step[], thorough: boolean = false): Finding | undefined {
  const boot = script.find(({ call }) => call === "boot") as Op | undefined;
  const runner = start(target, boot?.args[0] ?? SID_BITS.small, 0);
  if (!(runner instanceof Runner)) return runner;
  const first = runner.booted();
  if (first !== undefined) return first;
  for (const op of script) {
    if (op.call === "boot") continue;
    const found = runner.line(op) ?? (thorough ? runner.sweep() : undefined);
    if (found !== undefined) return found;
  }
  return runner.sweep();
}
