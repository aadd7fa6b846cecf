import { basename } from "node:path";
import type { Operation, TraceSummary } from "@smmuv3/dma-workload";
import { Lab } from "./features/lab.ts";
import { loadBaseline } from "./lab/architectures.ts";
import type { ArchitectureName } from "./lab/architectures.ts";
import type { BoardOptions, Profile } from "./lab/board.ts";
import { argumentsOf } from "./lab/arguments.ts";
import type { ArgumentValues, AttackResult } from "./lab/arguments.ts";
import { flips } from "./lab/flips.ts";
import type { Flip } from "./lab/flips.ts";
import { HARDWARE } from "./lab/hardware.ts";
import type { HardwareName } from "./lab/hardware.ts";
import { assignStreams } from "./lab/streams.ts";
import type { Stream } from "./lab/streams.ts";
import { InputError, operationsOf, survey } from "./lab/trace-file.ts";
import { simulatedTime } from "./lab/costs.ts";
import type { CostTable } from "./lab/costs.ts";
import { runArchitecture } from "./lab/run.ts";
import type { RunOptions, RunResult } from "./lab/run.ts";
import { trustedBase } from "./lab/trusted-base.ts";
import type { TrustedBase } from "./lab/trusted-base.ts";
import { chooseVariants, loadVariant } from "./lab/variants.ts";
import type { DomainChoice, Variant } from "./lab/variants.ts";

/** Pages to take from the host under each architecture with a hypervisor. */
const PAGES_TO_TAKE = 16;

export interface CompareOptions {
  readonly trace: string;
  readonly architectures: readonly ArchitectureName[];
  /** How hypercall designs translate; default: `identity`. */
  readonly domain?: DomainChoice;
  /** What is compared, in place of what `architectures` and `domain` choose. */
  readonly variants?: readonly Variant[];
  readonly profile: Profile;
  readonly costs: CostTable;
  /** Default: `nested`. */
  readonly hardware?: HardwareName;
  /** Measure what settles each argument of the debate as well; it takes longer. */
  readonly settle?: boolean;
  /** What attack campaigns found, by architecture; for the arguments. */
  readonly attacks?: ReadonlyMap<string, AttackResult>;
  /** `stage` is the architecture that runs (operations), or `reading` (bytes of the file). */
  readonly onProgress?: (stage: string, done: number, total: number) => void;
  /** Changes to a run, for counter-proofs. */
  readonly run?: Partial<Pick<RunOptions, "onBoard" | "pagesToTake"> & Pick<BoardOptions, "translator">>;
}

export interface ArchitectureReport {
  /** Of the variant. */
  readonly name: string;
  readonly variant: Variant;
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
  readonly hardware: HardwareName;
  readonly architectures: readonly ArchitectureReport[];
  /** Designs that do not work, or do not protect, on the hardware, and why. */
  readonly doesNotProbe: readonly { readonly name: string; readonly title: string; readonly reason: string }[];
  readonly flips: readonly Flip[];
  readonly arguments: readonly ArgumentValues[];
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
  const doesNotProbe: Comparison["doesNotProbe"][number][] = [];
  const hardware = options.hardware ?? "nested";
  for (const variant of options.variants ?? chooseVariants(options.architectures, options.domain ?? "identity")) {
    const { name } = variant;
    const built = await loadVariant(variant);
    const { posted } = built.architecture;
    const title = `${built.architecture.title}${variant.paging ? "; EL2 translates for the host" : ""}`;
    // On hardware of another kind it is a result that a design cannot have it.
    const refusal = hardware === "nested" ? undefined : new Lab(built).bootWhole({ hardware: HARDWARE[hardware] });
    if (refusal !== undefined && "verdict" in refusal) {
      doesNotProbe.push({ name, title, reason: refusal.detail });
      continue;
    }
    const result = await runArchitecture(built, sameAgain(trace, operations), {
      devices,
      profile,
      ramBytes,
      hardware: HARDWARE[hardware],
      pagesToTake: PAGES_TO_TAKE,
      operations,
      onProgress: (done) => onProgress?.(name, done, operations),
      ...options.run,
    });
    architectures.push({
      name,
      variant,
      title,
      posted,
      result,
      trustedBase: trustedBase(built, baseline),
      simulatedNs: simulatedTime(result.counters.replay, costs),
    });
  }
  const counted = architectures.map(({ name, result }) => ({
    name,
    translation: result.status.translation,
    counts: result.counters.replay,
  }));
  const settled = options.settle === true ? await argumentsOf(architectures, onProgress, options.attacks) : [];
  return {
    ...{ trace: basename(trace), profile, costs, workload: summary, ramBytes, streams, hardware, architectures, doesNotProbe },
    flips: flips(counted, costs),
    arguments: settled,
  };
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
