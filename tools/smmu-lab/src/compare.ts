import { basename } from "node:path";
import type { Operation, TraceSummary } from "@smmuv3/dma-workload";
import { loadArchitecture, loadBaseline } from "./lab/architectures.ts";
import type { ArchitectureName } from "./lab/architectures.ts";
import type { BoardOptions, Profile } from "./lab/board.ts";
import { assignStreams } from "./lab/streams.ts";
import type { Stream } from "./lab/streams.ts";
import { InputError, operationsOf, survey } from "./lab/trace-file.ts";
import { simulatedTime } from "./lab/costs.ts";
import type { CostTable } from "./lab/costs.ts";
import { runArchitecture } from "./lab/run.ts";
import type { RunOptions, RunResult } from "./lab/run.ts";
import { trustedBase } from "./lab/trusted-base.ts";
import type { TrustedBase } from "./lab/trusted-base.ts";

/** Pages to take from the host under each architecture with a hypervisor. */
const PAGES_TO_TAKE = 16;

export interface CompareOptions {
  readonly trace: string;
  readonly architectures: readonly ArchitectureName[];
  readonly profile: Profile;
  readonly costs: CostTable;
  /** `stage` is the architecture that runs (operations), or `reading` (bytes of the file). */
  readonly onProgress?: (stage: string, done: number, total: number) => void;
  /** Changes to a run, for counter-proofs. */
  readonly run?: Partial<Pick<RunOptions, "onBoard" | "pagesToTake"> & Pick<BoardOptions, "translator">>;
}

export interface ArchitectureReport {
  readonly name: string;
  readonly title: string;
  readonly posted: boolean;
  readonly result: RunResult;
  readonly trustedBase: TrustedBase | undefined;
  /** Simulated ns of the replay, in total. */
  readonly simulatedNs: number;
}

export interface Comparison {
  readonly trace: string;
  readonly profile: Profile;
  readonly costs: CostTable;
  readonly workload: TraceSummary;
  /** RAM of the machine, in bytes. */
  readonly ramBytes: number;
  /** The trace's devices, as the machine has them. */
  readonly streams: readonly Stream[];
  readonly architectures: readonly ArchitectureReport[];
}

/** Passes operations on, and fails at the end when there were more or less than the first time the trace was read. */
async function* sameAgain(path: string, expected: number): AsyncGenerator<Operation> {
  let count = 0;
  for await (const operation of operationsOf(path)) {
    if (++count > expected) break;
    yield operation;
  }
  if (count !== expected) throw new InputError(`${path}: changed while it was read; compare a copy`);
}

/**
 * Replays a trace under each architecture in turn. Throws TraceError, InputError for a trace that cannot be read or replayed,
 * BootError for an architecture that does not boot.
 */
export async function compare(options: CompareOptions): Promise<Comparison> {
  const { trace, profile, costs, onProgress } = options;
  const { summary, operations, devices, ramBytes } = await survey(trace, (done, total) => {
    onProgress?.("reading", done, total);
  });
  const streams = assignStreams(devices);
  const baseline = await loadBaseline();
  const architectures: ArchitectureReport[] = [];
  for (const name of new Set(options.architectures)) {
    const built = await loadArchitecture(name);
    const { title, posted } = built.architecture;
    const result = await runArchitecture(built, sameAgain(trace, operations), {
      devices,
      profile,
      ramBytes,
      pagesToTake: PAGES_TO_TAKE,
      operations,
      onProgress: (done) => onProgress?.(name, done, operations),
      ...options.run,
    });
    architectures.push({
      name,
      title,
      posted,
      result,
      trustedBase: trustedBase(built, baseline),
      simulatedNs: simulatedTime(result.counters.replay, costs),
    });
  }
  return { trace: basename(trace), profile, costs, workload: summary, ramBytes, streams, architectures };
}

/**
 * What makes a comparison fail, a line each: wrong DMA; in a design whose EL2 has IOMMU support, an SMMU that EL2 does not own,
 * and a leak; a page that was not reachable before it was taken; a run that failed.
 */
export function findings(comparison: Comparison): string[] {
  return comparison.architectures.flatMap(({ name, result, trustedBase: base }) => {
    const { dma, isolation, status, failures } = result;
    const claimsIsolation = base !== undefined && base.added.length > 0;
    const found: string[] = [];
    if (dma.wrong > 0) found.push(`${name}: ${dma.wrong} wrong DMA`);
    if (claimsIsolation && !status.iommuAtEl2) found.push(`${name}: EL2 does not own the SMMU after boot`);
    if (isolation !== undefined) {
      const { pagesTaken, reachableBefore, dmaLeaked } = isolation;
      if (claimsIsolation && dmaLeaked > 0) found.push(`${name}: ${dmaLeaked} DMA leaks`);
      if (reachableBefore !== pagesTaken) {
        found.push(`${name}: ${pagesTaken - reachableBefore} pages were not reachable before they were taken`);
      }
    }
    if (failures.length > 0) found.push(`${name}: ${failures.length} failures`);
    if (found.length > 0) found.push(...result.findings.map((text) => `  ${text}`));
    return found;
  });
}
