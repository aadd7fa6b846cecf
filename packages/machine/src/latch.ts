import { hex } from "@smmuv3/platform";

import type { Clock } from "./clock.ts";

/** Why an access of EL1 was aborted: EL2 injected the abort, or nothing answers at the address. */
export type AbortCause = "external" | "injected";

/** A synchronous abort that EL1 took. */
export interface AbortRecord {
  readonly cause: AbortCause;
  /** Intermediate physical address of the access. */
  readonly pa: number;
  readonly write: boolean;
  /** The access went to device space. */
  readonly device: boolean;
  /** Clock in ns. */
  readonly time: number;
}

/** A panic of EL2, or an error of the machine itself. */
export interface FailureRecord {
  readonly reason: string;
  /** Clock in ns. */
  readonly time: number;
}

const BRAND = {
  abort: "@smmuv3/HostAbort",
  panic: "@smmuv3/HypPanic",
  machine: "@smmuv3/MachineError",
} as const;

/** Abort delivered to EL1 inside its access. Recognise it with {@link isHostAbort}. */
export class HostAbort extends Error {
  readonly brand: string = BRAND.abort;
  readonly record: AbortRecord;

  constructor(record: AbortRecord) {
    super(`${record.cause} abort: ${record.write ? "write" : "read"} at ${hex(record.pa)}`);
    this.name = "HostAbort";
    this.record = record;
  }
}

/** EL2 has stopped. Recognise it with {@link isHypPanic}. */
export class HypPanic extends Error {
  readonly brand: string = BRAND.panic;

  constructor(reason: string) {
    super(`hypervisor panic: ${reason}`);
    this.name = "HypPanic";
  }
}

/**
 * Software drove the machine somewhere that has no meaning here (an abort handler that never mends, a host stage 2 that
 * is not identity). Recognise it with {@link isMachineError}.
 */
export class MachineError extends Error {
  readonly brand: string = BRAND.machine;

  constructor(reason: string) {
    super(`machine: ${reason}`);
    this.name = "MachineError";
  }
}

// By brand, not by instanceof: bundles and worker realms carry their own copies of the classes.
function branded(error: unknown, brand: string): boolean {
  return typeof error === "object" && error !== null && "brand" in error && error.brand === brand;
}

/** True for a {@link HostAbort}. */
export function isHostAbort(error: unknown): error is HostAbort {
  return branded(error, BRAND.abort);
}

/** True for a {@link HypPanic}. */
export function isHypPanic(error: unknown): error is HypPanic {
  return branded(error, BRAND.panic);
}

/** True for a {@link MachineError}. */
export function isMachineError(error: unknown): error is MachineError {
  return branded(error, BRAND.machine);
}

/** Records every abort, panic and machine error before it is thrown, so that no `catch` hides one. */
export class Latch {
  readonly aborts: AbortRecord[] = [];
  readonly panics: FailureRecord[] = [];
  readonly errors: FailureRecord[] = [];
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get panicked(): boolean {
    return this.panics.length !== 0;
  }

  abort(cause: AbortCause, pa: number, write: boolean, device: boolean): never {
    const record = { cause, pa, write, device, time: this.#clock.now() };
    this.aborts.push(record);
    throw new HostAbort(record);
  }

  panic(reason: string): never {
    this.panics.push({ reason, time: this.#clock.now() });
    throw new HypPanic(reason);
  }

  fail(reason: string): never {
    this.errors.push({ reason, time: this.#clock.now() });
    throw new MachineError(reason);
  }

  /** Throws when EL2 has panicked: it never runs again. */
  checkAlive(): void {
    if (this.panicked) throw new HypPanic(this.panics[0]!.reason);
  }
}
