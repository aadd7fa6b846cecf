import { CMD_WORDS, EVENT_WORDS, printCommand, printEvent } from "@smmuv3/smmu-v3-defs";
import { UnknownPage } from "../reference/bus.ts";
import type { Machine } from "../reference/config.ts";
import { low, queueOf } from "../reference/registers.ts";

/** An entry of a queue. */
export interface QueueEntry {
  readonly index: number;
  readonly pa: bigint;
  /** Its consumer has not taken it. */
  readonly pending: boolean;
  /** Undefined where the dump does not hold it. */
  readonly words: Int32Array | undefined;
  readonly text: string;
}

export interface QueueReport {
  readonly base: bigint;
  readonly log2: number;
  readonly prod: number;
  readonly cons: number;
  readonly pending: number;
  /** The newest entries, oldest first: all that are pending up to a limit, and some that are not. */
  readonly entries: readonly QueueEntry[];
}

const SHOWN = 16;

/** The newest entries of a queue: those before PROD. */
function readQueue(
  machine: Machine,
  names: { readonly base: "CMDQ_BASE" | "EVENTQ_BASE"; readonly prod: string; readonly cons: string },
  most: number,
  words: number,
  print: (words: Int32Array) => string,
): QueueReport {
  const { registers } = machine;
  const { base, log2 } = queueOf(registers, names.base, most, Math.log2(words * 4));
  const size = 2 ** log2;
  const prod = low(registers, names.prod) & (2 * size - 1);
  const cons = low(registers, names.cons) & (2 * size - 1);
  const pending = Math.min((prod - cons + 2 * size) % (2 * size), size);
  const entries: QueueEntry[] = [];
  for (let back = 1; back <= Math.min(size, SHOWN); back++) {
    const index = (prod - back + 2 * size) % size;
    const pa = base + BigInt(index * words * 4);
    const isPending = back <= pending;
    try {
      const value = machine.bus.read(pa, words);
      // Nothing was ever written there.
      if (!isPending && value?.every((word) => word === 0) === true) break;
      entries.unshift({ index, pa, pending: isPending, words: value, text: value === undefined ? "cannot be read" : print(value) });
    } catch (error) {
      if (!(error instanceof UnknownPage)) throw error;
      if (!isPending && entries.length > 0) break;
      entries.unshift({ index, pa, pending: isPending, words: undefined, text: `unknown: ${error.message}` });
      if (!isPending) break;
    }
  }
  return { base, log2, prod, cons, pending, entries };
}

/** The command queue: its last commands. */
export function readCommands(machine: Machine): QueueReport {
  const names = { base: "CMDQ_BASE", prod: "CMDQ_PROD", cons: "CMDQ_CONS" } as const;
  return readQueue(machine, names, machine.features.cmdqs, CMD_WORDS, (words) => printCommand(words));
}

/** The event queue: its last records. */
export function readEvents(machine: Machine): QueueReport {
  const names = { base: "EVENTQ_BASE", prod: "EVENTQ_PROD", cons: "EVENTQ_CONS" } as const;
  return readQueue(machine, names, machine.features.eventqs, EVENT_WORDS, (words) => printEvent(words));
}
