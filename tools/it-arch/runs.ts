import { dataPath } from "@smmuv3/data";
import { loadArchitecture, operationsOf, runArchitecture } from "@smmuv3/smmu-lab";
import type { ArchitectureName, BuiltArchitecture, Profile, RunOptions, RunResult } from "@smmuv3/smmu-lab";
import { TraceReader } from "@smmuv3/dma-workload";
import type { Operation, TraceSummary } from "@smmuv3/dma-workload";
import { readFileSync } from "node:fs";

export const TRACES = ["boot", "nvme-4k-read", "multi-device"] as const;
export type TraceName = (typeof TRACES)[number];

/** Designs in which EL2 owns the SMMU. */
export const PROTECTED = ["single-driver", "three-driver", "kvm-driver", "trap-emulate"] as const;

export interface Trace {
  readonly path: string;
  readonly summary: TraceSummary;
  readonly operations: readonly Operation[];
}

/** A shipped trace, read once. */
export async function readTraceFile(name: TraceName): Promise<Trace> {
  const path = dataPath(`traces/${name}.ftrace.gz`);
  const reader = new TraceReader({ name });
  const operations: Operation[] = [];
  for await (const operation of reader.read([readFileSync(path)])) operations.push(operation);
  return { path, summary: reader.summary, operations };
}

export interface Setup {
  readonly profile?: Profile;
  readonly built?: BuiltArchitecture;
  readonly options?: Partial<RunOptions>;
}

/** Runs one architecture on a trace. */
export async function run(name: ArchitectureName, trace: Trace, setup: Setup = {}): Promise<RunResult> {
  const built = setup.built ?? (await loadArchitecture(name));
  return runArchitecture(built, operationsOf(trace.path), {
    devices: [...trace.summary.devices].sort(),
    profile: setup.profile ?? "lazy",
    ramBytes: 512 << 20,
    pagesToTake: 8,
    operations: trace.operations.length,
    ...setup.options,
  });
}
