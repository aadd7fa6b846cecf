import type { HypercallName } from "@smmuv3/pkvm-abi";

/**
 * One step of an attack, with nothing left open: what a replay needs is the list. Addresses, register values and counts are
 * numbers.
 *
 * - `boot` [StreamID bits]: the machine; the first line of a script
 * - a hypercall's name: its arguments in x1..
 * - `hvc`: x0..x17 as 32-bit words, low word first; what is left out is 0
 * - `load32` [pa], `store32` [pa, value]: the CPU at EL1
 * - `read32` [offset], `read64` [offset], `write32` [offset, value], `write64` [offset, lo, hi]: registers of the SMMU
 * - `dma` [sid, iova, write, ssid or -1]: a device; it moves one word
 * - `ats` [sid, address, write]: a device, with an address that it says is translated
 * - `pri` [sid, address]: a page request of a device
 * - `command` [4 words]: appended to the host's command queue, which is rung
 * - `ste` [sid, words..]: written into the host's stream table, where it has a place for it
 * - `guest` [handle, vcpu, number, 5 arguments]: the vCPU makes that hypercall the next time it runs
 */
export interface Op {
  /** Attack class: a1 to a22, or `traffic`. */
  readonly class: string;
  readonly call: HypercallName | Primitive;
  readonly args: readonly number[];
}

export const PRIMITIVES = [
  "boot", "hvc", "load32", "store32", "read32", "read64", "write32", "write64", "dma", "ats", "pri", "command", "ste", "guest",
] as const;
export type Primitive = (typeof PRIMITIVES)[number];

/** What an invariant says was broken. */
export interface Violation {
  /** I1 to I14 as DESIGN.md words them, or `ownership`: EL2 did what the state of a page forbids. */
  readonly invariant: string;
  readonly text: string;
}

/** Operations on several CPUs at once. */
export interface Concurrent {
  /** Scenario. */
  readonly class: string;
  readonly call: "concurrent";
  /** What each CPU does. */
  readonly cpus: readonly (readonly Op[])[];
  /** Who goes on: CPU and number of steps, in pairs. When they are used up, each CPU runs to its end in turn. */
  readonly choices: readonly number[];
}

/** A line of a script. */
export type Step = Op | Concurrent;

export function isConcurrent(step: Step): step is Concurrent {
  return step.call === "concurrent";
}
