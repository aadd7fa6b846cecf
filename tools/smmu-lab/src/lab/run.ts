import type { BootStatus, HostPort } from "@smmuv3/arch-common";
import type { Operation } from "@smmuv3/dma-workload";
import { PAGE_SIZE } from "@smmuv3/platform";
import type { CounterReading } from "@smmuv3/platform";
import type { BuiltArchitecture } from "./architectures.ts";
import { createBoard } from "./board.ts";
import type { Board, BoardOptions } from "./board.ts";
import { Isolation } from "./isolation.ts";
import type { IsolationTally } from "./isolation.ts";
import { PhaseCounters } from "./phases.ts";
import type { Phase } from "./phases.ts";
import { Replay } from "./replay.ts";
import type { DmaTally } from "./replay.ts";

export interface RunOptions extends BoardOptions {
  /** Pages to take from the host, spread over the operations. */
  readonly pagesToTake: number;
  /** Operations that will come; for the spread. */
  readonly operations: number;
  /** Called with the machine before anything runs on it. */
  readonly onBoard?: ((board: Board) => void) | undefined;
  /** Called now and then with the number of operations done. */
  readonly onProgress?: ((done: number) => void) | undefined;
}

/** One architecture on one workload. */
export interface RunResult {
  readonly status: BootStatus;
  readonly dma: DmaTally;
  readonly dmaOps: number;
  /** Undefined where no page can be taken: there is no hypervisor. */
  readonly isolation: IsolationTally | undefined;
  readonly counters: Readonly<Record<Phase, Readonly<Record<string, CounterReading>>>>;
  readonly attaches: number;
  readonly memory: { readonly el1Bytes: number; readonly el2Bytes: number; readonly el2PoolBytes: number };
  readonly panics: number;
  /** Aborts that the kernel took: it touched what is not its own. */
  readonly aborts: number;
  /** Why the run is not what it should be, in words: steps that did not work, panics, what ended it. */
  readonly failures: readonly string[];
  /** Everything worth telling: warnings of the kernel, the first few wrong transfers and leaks, the failures. */
  readonly findings: readonly string[];
}

/** Thrown when an architecture does not boot: then there is nothing to measure. The cause is what stopped it. */
export class BootError extends Error {
  constructor(name: string, cause: unknown) {
    super(`${name}: does not boot: ${reasonOf(cause)}`, { cause });
    this.name = "BootError";
  }
}

const PROGRESS_STEP = 512;

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/**
 * Boots an architecture on a fresh machine and runs the workload on it. What its kernel or EL2 throws ends the run and is among
 * the failures; errors of `operations` pass through. Throws {@link BootError}, and RangeError for options out of range.
 */
export async function runArchitecture(
  built: BuiltArchitecture,
  operations: AsyncIterable<Operation> | Iterable<Operation>,
  options: RunOptions,
): Promise<RunResult> {
  const board = createBoard(options);
  options.onBoard?.(board);
  const phases = new PhaseCounters(board.counters);
  const port = boot(built, board);
  phases.enter("check");
  const memory = memoryAfterBoot(board, port);
  const replay = new Replay(board, port, phases);
  const isolation = port.status.protectedMode ? new Isolation(board, port) : undefined;
  const takePages = (count: number): void => {
    phases.enter("isolation");
    for (let i = 0; i < count; i++) isolation?.takePage();
    phases.enter("check");
  };
  const { pagesToTake } = options;
  const stride = Math.max(1, Math.floor(options.operations / (pagesToTake + 1)));
  let done = 0;
  let taken = 0;
  let stopped: string | undefined;
  const guard = (where: string, work: () => void): void => {
    try {
      work();
    } catch (error) {
      stopped = `the run stopped at ${where}: ${reasonOf(error)}`;
    }
  };

  for await (const operation of operations) {
    guard(`trace line ${operation.line}`, () => {
      replay.step(operation);
      if (++done % stride !== 0 || taken === pagesToTake) return;
      taken++;
      takePages(1);
    });
    if (stopped !== undefined) break;
    if (done % PROGRESS_STEP === 0) options.onProgress?.(done);
  }
  if (stopped === undefined) {
    guard("the end of the trace", () => {
      takePages(pagesToTake - taken);
      phases.enter("teardown");
      replay.finish();
      phases.enter("teardown");
      isolation?.finish();
    });
  }
  phases.enter("teardown");
  options.onProgress?.(done);

  const failures = [...(isolation?.failures ?? []), ...machineFailures(board), ...(stopped === undefined ? [] : [stopped])];
  return {
    status: port.status,
    dma: replay.tally,
    dmaOps: replay.dmaOps,
    isolation: isolation?.tally,
    counters: {
      boot: phases.read("boot"),
      replay: phases.read("replay"),
      check: phases.read("check"),
      isolation: phases.read("isolation"),
      teardown: phases.read("teardown"),
    },
    attaches: port.attaches,
    memory,
    panics: board.machine.panics.length,
    aborts: board.machine.aborts.length,
    failures,
    findings: [
      ...port.status.warnings.map((text) => `kernel: ${text}`),
      ...replay.findings,
      ...(isolation?.leaks ?? []),
      ...failures,
    ],
  };
}

function boot({ architecture, bootKernel, startHypervisor }: BuiltArchitecture, board: Board): HostPort {
  const { machine, firmware } = board;
  try {
    startHypervisor?.(machine.hyp, firmware);
    return bootKernel(machine.host, firmware);
  } catch (error) {
    throw new BootError(architecture.name, error);
  }
}

/** What the machine latched, whoever caught it. */
function machineFailures({ machine }: Board): string[] {
  const { panics, aborts, errors } = machine;
  const first = aborts[0];
  return [
    ...panics.map(({ reason }) => `EL2 panic: ${reason}`),
    ...errors.map(({ reason }) => `machine: ${reason}`),
    ...(first === undefined ? [] : [`the kernel took ${aborts.length} aborts, the first at 0x${first.pa.toString(16)}`]),
  ];
}

/** Memory in use after boot. EL2: what it uses of its pools, and pages donated to it but not to a pool; EL1: the kernel's other allocations. */
function memoryAfterBoot(board: Board, port: HostPort): RunResult["memory"] {
  const { counters } = board;
  const pool = counters.names().filter((name) => name.startsWith("pool."));
  const donated = counters.read("pagesDonated").el2 * PAGE_SIZE;
  const toppedUp = counters.read("pagesToppedUp").el2 * PAGE_SIZE;
  return {
    el1Bytes: port.allocatedBytes - port.status.poolBytes - donated,
    el2Bytes: pool.reduce((sum, name) => sum + counters.read(name).el2, donated - toppedUp),
    el2PoolBytes: port.status.poolBytes,
  };
}
