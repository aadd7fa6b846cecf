import { isHypPanic, isMachineError } from "@smmuv3/machine";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { hex } from "@smmuv3/platform";
import { Cpu } from "./cpu.ts";
import type { Steps } from "./cpu.ts";
import type { Ledger } from "./ledger.ts";
import type { Concurrent, Op, Violation } from "./op.ts";
import { PAGE, UNKNOWN_STATE, wrong } from "./ownership.ts";
import type { Random } from "./random.ts";
import type { LockHooks } from "./target.ts";
import type { World } from "./world.ts";

/** More steps than any operation has: somebody waits for ever. */
const MOST_STEPS = 200_000;
/** log2 of where changes of priority may fall, beyond 2^3: as long as a few hypercalls are. */
const HORIZON_LOG2 = 9;
/** The same in edges of what locks protect. */
const EDGES_LOG2 = 5;
/** Completed calls for which all orders are tried. */
const MOST_CALLS = 7;

/** Decides which CPU goes on. */
export interface Scheduler {
  /** One of `ready`, which is not empty. */
  next(ready: readonly number[]): number;
  /** The CPU that went on is about to take a lock, or has released one: what it has checked may change from here on. */
  edge?(): void;
}

/**
 * Explores: mostly by priorities with a few changes (which finds a bug of depth d with a known probability, whatever its place), else
 * by a coin at each step. Changes are more often early, where short races are, or at the edges of what locks protect.
 */
export class RandomScheduler implements Scheduler {
  readonly #random: Random;
  readonly #priorities: number[];
  /** Steps at which the first CPU becomes the last. */
  readonly #changes: readonly number[];
  /** The same, counted in edges. */
  readonly #edges: readonly number[];
  /** One in so many steps switches; 0: by priority. */
  readonly #coin: number;
  #step = 0;
  #edge = 0;
  #last = -1;
  #yielding = false;

  constructor(random: Random, cpus: number) {
    this.#random = random;
    this.#coin = random.oneIn(4) ? random.pick([2, 6, 30]) : 0;
    this.#priorities = Array.from({ length: cpus }, () => random.next());
    const where = random.below(3);
    this.#changes = where === 0 ? [] : Array.from({ length: 1 + random.below(3) }, () => random.below(2 ** (3 + random.below(HORIZON_LOG2))));
    this.#edges = where === 2 ? [] : Array.from({ length: 1 + random.below(2) }, () => 1 + random.below(2 ** (1 + random.below(EDGES_LOG2))));
  }

  edge(): void {
    if (this.#edges.includes(++this.#edge)) this.#yielding = true;
  }

  next(ready: readonly number[]): number {
    this.#step++;
    if (this.#coin > 0) {
      const stay = ready.includes(this.#last) && !this.#random.oneIn(this.#coin);
      return (this.#last = stay ? this.#last : this.#random.pick(ready));
    }
    if (this.#yielding && this.#last >= 0) this.#priorities[this.#last] = -this.#step;
    this.#yielding = false;
    let best = ready[0]!;
    for (const cpu of ready) if (this.#priorities[cpu]! > this.#priorities[best]!) best = cpu;
    if (this.#changes.includes(this.#step)) this.#yielding = true;
    return (this.#last = best);
  }
}

/** Follows recorded choices, as far as they can be. */
export class ReplayScheduler implements Scheduler {
  readonly #choices: readonly number[];
  #at = 0;
  #used = 0;

  constructor(choices: readonly number[]) {
    this.#choices = choices;
  }

  next(ready: readonly number[]): number {
    while (this.#at < this.#choices.length) {
      const cpu = this.#choices[this.#at]!;
      if (this.#used < this.#choices[this.#at + 1]! && ready.includes(cpu)) {
        this.#used++;
        return cpu;
      }
      this.#at += 2;
      this.#used = 0;
    }
    return ready[0]!;
  }
}

/** A call that returned, and when. */
interface Completed {
  readonly op: Op;
  readonly result: number;
  readonly began: number;
  readonly ended: number;
}

/** Outcome of {@link runConcurrent}. */
export interface ConcurrentResult {
  readonly choices: readonly number[];
  /** Operations that returned, with their results. */
  readonly done: readonly { readonly op: Op; readonly result: number }[];
  readonly violation: Violation | undefined;
  /** All CPUs wait for each other. */
  readonly deadlock: string | undefined;
}

class Context {
  readonly cpu: Cpu;
  readonly #ops: readonly Op[];
  op: Op | undefined = undefined;
  steps: Steps | undefined = undefined;
  began = 0;
  waiting: { readonly held: boolean; readonly name: string } | undefined = undefined;
  #next = 0;

  constructor(world: World, ops: readonly Op[]) {
    this.cpu = new Cpu(world);
    this.#ops = ops;
  }

  get done(): boolean {
    return this.steps === undefined && this.#next === this.#ops.length;
  }

  /** It can take a step: it is not done and what it waits for is free. */
  get ready(): boolean {
    return !this.done && this.waiting?.held !== true;
  }

  begin(time: number): Op {
    this.op = this.#ops[this.#next++]!;
    this.began = time;
    this.steps = this.cpu.run(this.op);
    return this.op;
  }
}

/** Pages that are firmly not the host's while calls are under way. */
class Firm {
  readonly #ledger: Ledger;
  /** Pages taken by calls that have returned, or -1 where a call under way may give one back. */
  readonly #changes = new Map<number, boolean>();
  #anyPool = false;

  constructor(ledger: Ledger) {
    this.#ledger = ledger;
  }

  has(page: number): boolean {
    const changed = this.#changes.get(page);
    if (changed !== undefined) return changed;
    const flags = this.#ledger.flags[page]!;
    return !this.#ledger.isHosts(page) && !(this.#anyPool && (flags & PAGE.pool) !== 0);
  }

  /** A call begins: what it may give back is open. */
  begins(op: Op): void {
    if (op.call === "__pkvm_host_reclaim_page" || op.call === "__pkvm_hyp_donate_host") this.#changes.set(this.#ledger.page(op.args[0]!), false);
    if (op.call === "__pkvm_hyp_reclaim_pool") this.#anyPool = true;
    // A vCPU may let the host use a page.
    if (op.call === "__pkvm_vcpu_run") for (const vm of this.#ledger.vms.values()) for (const page of vm.pages.keys()) this.#changes.set(page, false);
  }

  /** A call has returned: what it took is taken, unless somebody gives it back meanwhile. */
  ended(op: Op, result: number, others: readonly Op[]): void {
    if (result < 0) return;
    const first = op.call === "__pkvm_host_donate_guest" ? op.args[1]! : op.call === "__pkvm_host_donate_hyp" ? op.args[0]! : -1;
    const page = first < 0 ? -1 : this.#ledger.page(first);
    if (page < 0 || others.some((other) => GIVES.has(other.call))) return;
    this.#changes.set(page, true);
  }
}

const SETS_STATE: ReadonlySet<string> = new Set(["__pkvm_iommu_set_state", "__pkvm_device_assign", "__pkvm_teardown_vm"]);
const GIVES: ReadonlySet<string> = new Set([
  "__pkvm_host_reclaim_page", "__pkvm_hyp_donate_host", "__pkvm_hyp_reclaim_pool", "__pkvm_teardown_vm", "__pkvm_vcpu_run", "hvc",
]);

/** A DMA or CPU access that must not have worked when it did. */
function strayAccess(world: World, firm: Firm, op: Op, result: number): Violation | undefined {
  if (result < 0) return undefined;
  const cpu = op.call === "load32" || op.call === "store32";
  if (!cpu && op.call !== "dma" && op.call !== "ats") return undefined;
  const pa = cpu ? op.args[0]! : world.reached;
  const page = world.ledger.memory.pageIndex(pa);
  if (page < 0 || !firm.has(page) || (!cpu && world.ledger.assigned.size > 0)) return undefined;
  return wrong(`${cpu ? "the host's CPU" : `stream ${hex(op.args[0]!)}`} reached ${hex(pa)} after it was given away`, "I2");
}

function bindHooks(hooks: LockHooks, world: World): void {
  const holders = new Map<object, number>();
  hooks.mine = (lock) => holders.get(lock) === world.cpu;
  hooks.lock = (lock) => holders.set(lock, world.cpu);
  hooks.unlock = (lock) => holders.delete(lock);
}

/** Runs the CPUs of `step` under `scheduler`, and brings the world's ledger up to date. */
export function runConcurrent(world: World, step: Concurrent, scheduler: Scheduler): ConcurrentResult {
  const contexts = step.cpus.map((ops) => new Context(world, ops));
  const firm = new Firm(world.ledger);
  const choices: number[] = [];
  const completed: Completed[] = [];
  const done: { op: Op; result: number }[] = [];
  let violation: Violation | undefined;
  let deadlock: string | undefined;
  if (world.target.hooks !== undefined) bindHooks(world.target.hooks, world);
  world.racing = true;
  for (let time = 0; ; time++) {
    const ready = contexts.flatMap((context, cpu) => (context.ready ? [cpu] : []));
    if (ready.length === 0) {
      const waits = contexts.flatMap((context, cpu) => (context.done ? [] : [`CPU ${cpu} waits for "${context.waiting?.name ?? "?"}" in ${context.op?.call ?? "?"}`]));
      if (waits.length > 0) deadlock = `deadlock: ${waits.join(", ")}`;
      break;
    }
    if (time > MOST_STEPS) {
      deadlock = `the CPUs do not come to an end: ${contexts.map((context) => context.op?.call ?? "-").join(", ")}`;
      break;
    }
    const cpu = scheduler.next(ready);
    if (choices.at(-2) === cpu) choices[choices.length - 1]!++;
    else choices.push(cpu, 1);
    const context = contexts[cpu]!;
    world.cpu = cpu;
    world.relaxes = 0;
    if (context.steps === undefined) begin(world, firm, context.begin(time));
    const outcome = advance(world, context, scheduler);
    if (world.dead) break;
    if (outcome === undefined) continue;
    const { op } = context;
    done.push({ op: op!, result: outcome });
    violation ??= strayAccess(world, firm, op!, outcome);
    firm.ended(op!, outcome, contexts.flatMap((other) => (other.steps === undefined ? [] : [other.op!])));
    if (op!.call === "__pkvm_teardown_vm" && outcome >= 0) world.ended.add(op!.args[0]!);
    if (op!.call.startsWith("__pkvm")) completed.push({ op: op!, result: outcome, began: context.began, ended: time });
  }
  world.cpu = 0;
  world.racing = false;
  if (!world.dead && deadlock === undefined) violation ??= settle(world, completed);
  return { choices, done, violation, deadlock };
}

function begin(world: World, firm: Firm, op: Op): void {
  firm.begins(op);
  // A new VM may get the handle of one that has ended.
  if (op.call === "__pkvm_init_vm") world.ended.clear();
}

/** One step of a context. Returns the result of its operation when that is done. */
function advance(world: World, context: Context, scheduler: Scheduler): number | undefined {
  try {
    const { done, value } = context.steps!.next();
    if (done === true) {
      context.waiting = undefined;
      context.steps = undefined;
      return value;
    }
    const edge = value !== undefined && value === world.target.hooks;
    if (edge) scheduler.edge?.();
    context.waiting = edge ? undefined : (value as Context["waiting"]);
    return undefined;
  } catch (error) {
    // What escapes from EL2 is a panic, as on the machine's own entry.
    if (!isHypPanic(error) && !isMachineError(error)) escaped(world, error);
    context.steps = undefined;
    return -1;
  }
}

function escaped(world: World, error: unknown): void {
  try {
    world.machine.hyp.panic(`exception at EL2: ${error instanceof Error ? error.message : String(error)}`);
  } catch (panic) {
    if (!isHypPanic(panic)) throw panic;
  }
}

/** Brings the ledger up to date: there is an order of the calls, in agreement with time, in which every answer is right. */
function settle(world: World, completed: readonly Completed[]): Violation | undefined {
  const calls = completed.filter(({ result }) => result >= 0);
  if (calls.length > MOST_CALLS) throw new RangeError(`a scenario has at most ${MOST_CALLS} calls that succeed, this one has ${calls.length}`);
  let first: Violation | undefined;
  const search = (ledger: Ledger, left: readonly Completed[]): Ledger | undefined => {
    if (left.length === 0) return ledger;
    for (const call of left) {
      if (left.some((other) => other.ended < call.began)) continue;
      const next = ledger.clone();
      next.looksInside = false;
      if (call.op.call === "__pkvm_iommu_map_sg") {
        const domain = next.domains.get(call.op.args[0]!);
        if (domain !== undefined) domain.opaque = true;
        const after = search(next, left.filter((other) => other !== call));
        if (after !== undefined) return after;
        continue;
      }
      const refused = next.record(call.op.call as HypercallName, call.op.args, call.result);
      first ??= refused;
      const found = refused === undefined ? search(next, left.filter((other) => other !== call)) : undefined;
      if (found !== undefined) return found;
    }
    return undefined;
  };
  const found = search(world.ledger, calls);
  if (found === undefined) return wrong(`no order of the calls explains their results: ${first?.text ?? "?"}`, first?.invariant);
  if (found !== world.ledger) world.ledger.assign(found);
  for (const key of contended(calls)) {
    world.ledger.states.set(key, UNKNOWN_STATE);
    for (const { attached } of world.ledger.domains.values()) attached.delete(key);
  }
  return undefined;
}

/** Streams whose state several calls have set at the same time: either may have been the last. */
function contended(calls: readonly Completed[]): string[] {
  const set = calls.filter(({ op }) => SETS_STATE.has(op.call));
  const same = (a: Completed, b: Completed): boolean => a !== b && a.began <= b.ended && b.began <= a.ended;
  const racing = set.filter((call) => set.some((other) => same(call, other)));
  return racing.flatMap(({ op }) => (op.call === "__pkvm_iommu_set_state" ? [`${op.args[1]}.${op.args[2]}`] : []));
}

