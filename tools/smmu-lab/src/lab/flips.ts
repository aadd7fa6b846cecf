import type { CounterReading } from "@smmuv3/platform";
import type { Translation } from "@smmuv3/arch-common";
import { simulatedTime } from "./costs.ts";
import type { CostTable } from "./costs.ts";

type Counts = Readonly<Record<string, CounterReading>>;

/** What a design did on a workload. */
export interface Counted {
  readonly name: string;
  readonly translation: Translation;
  readonly counts: Counts;
}

/** Where two designs of one class change places when a trap costs more, or less, against a hypercall. */
export interface Flip {
  readonly translation: Translation;
  /** Cheaper with the table's costs, and the other one. */
  readonly cheaper: string;
  readonly other: string;
  /** Cost of a trap over that of a hypercall at which both cost the same; null: at none. */
  readonly ratio: number | null;
  /** The ratio of the table. */
  readonly now: number;
}

const TRAPS = ["traps.mmio", "traps.events"] as const;

const trapsOf = (counts: Counts): number => TRAPS.reduce((sum, name) => sum + (counts[name]?.total ?? 0), 0);

/**
 * For each pair of a class of which one traps more than the other: the ratio at which the ranking flips. Everything but the cost of
 * traps stays as in `costs`.
 */
export function flips(designs: readonly Counted[], costs: CostTable): Flip[] {
  const hypercall = costs["hypercalls.iommu"] ?? 0;
  const now = hypercall === 0 ? 0 : (costs["traps.mmio"] ?? 0) / hypercall;
  const fixed = Object.fromEntries(Object.entries(costs).filter(([name]) => !TRAPS.some((trap) => trap === name)));
  const time = ({ counts }: Counted): number => simulatedTime(counts, costs);
  return designs.flatMap((a, i) =>
    designs.slice(i + 1).flatMap((b): Flip[] => {
      const traps = trapsOf(a.counts) - trapsOf(b.counts);
      if (a.translation !== b.translation || traps === 0) return [];
      // fixed(a) + traps(a) * r * hypercall = fixed(b) + traps(b) * r * hypercall
      const ratio = hypercall === 0 ? -1 : (simulatedTime(b.counts, fixed) - simulatedTime(a.counts, fixed)) / (traps * hypercall);
      const [cheaper, other] = time(a) <= time(b) ? [a, b] : [b, a];
      return [{ translation: a.translation, cheaper: cheaper.name, other: other.name, ratio: ratio > 0 ? ratio : null, now }];
    }),
  );
}
