import { errnoName } from "@smmuv3/platform";
import type { KernelLog } from "./log.ts";

/** Initcall levels in the order in which the kernel runs them. */
export const INITCALL_LEVELS = [
  "early",
  "core",
  "postcore",
  "arch",
  "subsys",
  "fs",
  "rootfs",
  "device",
  "device_sync",
  "late",
] as const;
export type InitcallLevel = (typeof INITCALL_LEVELS)[number];

/** 0 or nothing for success, or a negative errno, which is logged and stops nothing. */
export type Initcall = () => number | undefined;

/** An initcall that ran. */
export interface InitcallRun {
  readonly level: InitcallLevel;
  readonly name: string;
  /** 0 or a negative errno. */
  readonly status: number;
}

interface Entry {
  readonly name: string;
  readonly call: Initcall;
}

/** The kernel's initcall lists. */
export class Initcalls {
  /** What ran, in order. */
  readonly runs: InitcallRun[] = [];
  readonly #log: KernelLog;
  readonly #lists: readonly Entry[][] = INITCALL_LEVELS.map(() => []);
  /** Levels below this one are over. */
  #reached = 0;

  constructor(log: KernelLog) {
    this.#log = log;
  }

  /** Adds `call` at the end of `level`; RangeError when that level has been run. */
  add(level: InitcallLevel, name: string, call: Initcall): void {
    const at = INITCALL_LEVELS.indexOf(level);
    if (at < 0) throw new RangeError(`initcall: unknown level "${level}"`);
    if (at < this.#reached) throw new RangeError(`initcall: level ${level} is over, too late for ${name}`);
    this.#lists[at]!.push({ name, call });
  }

  /** Runs the levels that were not run yet, up to and including `last`. `onLevel` is called at the start of each. */
  run(last: InitcallLevel, onLevel: (level: InitcallLevel) => void): void {
    const end = INITCALL_LEVELS.indexOf(last);
    while (this.#reached <= end) {
      const level = INITCALL_LEVELS[this.#reached]!;
      onLevel(level);
      // An initcall may add to its own level: the list grows while it is walked.
      for (const { name, call } of this.#lists[this.#reached]!) {
        const status = call() ?? 0;
        if (status < 0) this.#log.err(`initcall ${name} returned ${errnoName(status)}`);
        this.runs.push({ level, name, status });
      }
      this.#reached++;
    }
  }
}
