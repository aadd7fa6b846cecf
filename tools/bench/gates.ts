// What each bench has to reach, as a ratio to the native baseline of the same run, and what it is meant to reach.

/** The work that a row measures; rows of one kind have one gate. */
export type Kind = "hit" | "miss" | "nested" | "command" | "growth" | "garbage";

export interface Gate {
  /** The row is over its gate when its ratio is larger. For garbage: bytes per operation. */
  readonly gate: number;
  readonly goal: number;
}

export const GATES: Readonly<Record<Kind, Gate>> = {
  hit: { gate: 2, goal: 1.25 },
  miss: { gate: 3, goal: 1.5 },
  nested: { gate: 2, goal: 1.3 },
  command: { gate: 2, goal: 1.5 },
  growth: { gate: 1, goal: 1 },
  garbage: { gate: 0, goal: 0 },
};

/** The first pattern that fits decides. */
const KINDS: readonly (readonly [pattern: RegExp, kind: Kind])[] = [
  // A translation leaves no garbage; of commands nothing is asked.
  [/^hw\.garbage\.(?!command$)/u, "garbage"],
  [/^hw\.growth\.(streams|bytes)$/u, "growth"],
  [/^hw\.(tlbhit|xlat\.hit)/u, "hit"],
  [/^hw\.xlat\.nested/u, "nested"],
  [/^hw\.(walk|xlat)\./u, "miss"],
  [/^hw\.cmdq\./u, "command"],
];

/** The gate of a row; undefined for one that has none. */
export function gateOf(bench: string): Gate | undefined {
  const kind = KINDS.find(([pattern]) => pattern.test(bench))?.[1];
  return kind === undefined ? undefined : GATES[kind];
}
