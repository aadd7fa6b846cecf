import type { CounterReading } from "@smmuv3/platform";

/** Simulated time of one event in ns, by counter. Events that are not named cost nothing. */
export type CostTable = Readonly<Record<string, number>>;

/**
 * Orders of magnitude of a server-class Arm core, to be replaced by a table of one's own (`--costs FILE`): what matters is the
 * ratio. An `mmio` access is a device-memory round trip; a hypercall is an exit and entry of EL2; a trap adds the decoding of
 * the access.
 */
export const DEFAULT_COSTS: CostTable = {
  mmio: 150,
  "hypercalls.iommu": 600,
  "hypercalls.events": 600,
  "hypercalls.vm": 600,
  "traps.mmio": 800,
  "traps.events": 800,
  "traps.stage2": 1000,
  commands: 40,
  syncs: 200,
  walkReads: 60,
};

/** One second: sums stay exact enough, and finite. */
const COST_MOST = 1e9;

/** Thrown for a cost table that cannot be used; the message says what is wrong with it. */
export class CostTableError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "CostTableError";
  }
}

/** Reads a cost table: a JSON object of non-negative numbers, keys as in {@link DEFAULT_COSTS}. Missing keys keep their default. */
export function parseCosts(text: string, file: string): CostTable {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new CostTableError(`${file}: not JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new CostTableError(`${file}: expected an object of costs in ns`);
  }
  for (const [key, cost] of Object.entries(value)) {
    if (!Object.hasOwn(DEFAULT_COSTS, key)) {
      throw new CostTableError(`${file}: unknown cost "${key}"; known: ${Object.keys(DEFAULT_COSTS).join(", ")}`);
    }
    if (typeof cost !== "number" || !(cost >= 0 && cost <= COST_MOST)) {
      throw new CostTableError(`${file}: cost "${key}" must be a number of ns from 0 to ${COST_MOST}, got ${JSON.stringify(cost)}`);
    }
  }
  return { ...DEFAULT_COSTS, ...(value as Record<string, number>) };
}

/** Simulated ns of the counted events. */
export function simulatedTime(counts: Readonly<Record<string, CounterReading>>, costs: CostTable): number {
  return Object.entries(costs).reduce((sum, [name, cost]) => sum + (counts[name]?.total ?? 0) * cost, 0);
}
