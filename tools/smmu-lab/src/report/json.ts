import { poolPages } from "@smmuv3/pkvm-abi";
import { PAGE_SIZE } from "@smmuv3/platform";
import type { CounterReading } from "@smmuv3/platform";
import type { ArchitectureReport, Comparison } from "../compare.ts";

/** Version of the JSON report; keys are public. */
export const SCHEMA_VERSION = 1;

/** `{ "a.b": x }` becomes `{ a: { b: x } }`, with totals over the levels; what `a` itself counts is `{ a: { total } }`. */
export function nest(counts: Readonly<Record<string, CounterReading>>): Record<string, unknown> {
  const out: Record<string, number | Record<string, number>> = {};
  const groups = new Set(Object.keys(counts).filter((name) => name.includes(".")).map((name) => name.slice(0, name.indexOf("."))));
  for (const [name, { total }] of Object.entries(counts)) {
    const dot = name.indexOf(".");
    if (dot < 0 && !groups.has(name)) {
      out[name] = total;
      continue;
    }
    const [group, key] = dot < 0 ? [name, "total"] : [name.slice(0, dot), name.slice(dot + 1)];
    out[group] = { ...(out[group] as Record<string, number> | undefined), [key]: total };
  }
  return out;
}

/** Counters that every report has, whether the architecture ever counted them or not. */
const ALWAYS: readonly string[] = [
  "hypercalls.boot", "hypercalls.vm", "hypercalls.iommu", "hypercalls.events",
  "traps.mmio", "traps.events", "traps.stage2",
  "mmio", "commands", "syncs", "tableWrites", "walkReads", "pagesDonated",
  "tlb.hits", "tlb.misses",
];
const ZERO: CounterReading = { el1: 0, el2: 0, device: 0, total: 0 };
const ZEROS: Readonly<Record<string, CounterReading>> = Object.fromEntries(ALWAYS.map((name) => [name, ZERO]));

/** Every counter by the level that caused it. */
function byLevel(counts: Readonly<Record<string, CounterReading>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(counts).map(([name, { el1, el2, device }]) => [name, { el1, el2, device }]),
  );
}

/** RAM sizes for which EL2's pool is told. */
const RAM_GIB = [2, 16, 64] as const;

/** Bytes that the kernel sets aside for EL2 with so much RAM. */
function poolAt({ trustedBase }: ArchitectureReport): Record<string, number> | null {
  if (trustedBase === undefined) return null;
  const iommu = trustedBase.added.length > 0;
  return Object.fromEntries(RAM_GIB.map((gib) => [`${gib}GiB`, poolPages(gib * 2 ** 30, iommu) * PAGE_SIZE]));
}

function architectureJson(report: ArchitectureReport): unknown {
  const { name, variant, title, posted, result, trustedBase, simulatedNs } = report;
  const { status, dma, counters, isolation } = result;
  const replay = { ...ZEROS, ...counters.replay };
  return {
    name,
    architecture: variant.architecture,
    paging: variant.paging,
    title,
    posted,
    label: posted ? "posted" : "reconstructed",
    translation: status.translation,
    operations: {
      dmaOps: result.dmaOps,
      pgtableMaps: replay["dma.pgtableMaps"]?.total ?? 0,
      pgtableUnmaps: replay["dma.pgtableUnmaps"]?.total ?? 0,
      attaches: result.attaches,
    },
    counters: nest(replay),
    countersByLevel: byLevel(replay),
    countersByPhase: {
      boot: nest({ ...ZEROS, ...counters.boot }),
      check: nest({ ...ZEROS, ...counters.check }),
      isolation: nest({ ...ZEROS, ...counters.isolation }),
      teardown: nest({ ...ZEROS, ...counters.teardown }),
    },
    dma,
    isolation: {
      applicable: isolation !== undefined,
      ...(isolation ?? { pagesTaken: 0, reachableBefore: 0, dmaBlocked: 0, dmaLeaked: 0, stage2Faults: 0, donationsRefused: 0 }),
    },
    memory: result.memory,
    el2PoolBytesAt: poolAt(report),
    trustedBase: trustedBase ?? null,
    simulated: { totalNs: simulatedNs, perOperationNs: result.dmaOps === 0 ? 0 : simulatedNs / result.dmaOps },
    boot: {
      protectedMode: status.protectedMode,
      iommuAtEl2: status.iommuAtEl2,
      deferrals: status.deferrals,
      initcalls: status.initcalls,
      iommus: status.iommus,
    },
    panics: result.panics,
    aborts: result.aborts,
    findings: result.findings,
  };
}

/** The report as a JSON value; `schema/compare.schema.json` describes it. */
export function comparisonJson(comparison: Comparison): unknown {
  const { workload } = comparison;
  return {
    schemaVersion: SCHEMA_VERSION,
    trace: comparison.trace,
    profile: comparison.profile,
    hardware: comparison.hardware,
    costs: comparison.costs,
    machine: {
      ramBytes: comparison.ramBytes,
      streamIds: Object.fromEntries(comparison.streams.map(({ device, streamId }) => [device, streamId])),
    },
    workload: {
      lines: workload.lines,
      maps: workload.maps,
      unmaps: workload.unmaps,
      attaches: workload.attaches,
      skipped: workload.skipped,
      ignored: workload.ignored,
      events: workload.events,
    },
    architectures: comparison.architectures.map(architectureJson),
    doesNotProbe: comparison.doesNotProbe,
    flips: comparison.flips,
    arguments: comparison.arguments,
  };
}
