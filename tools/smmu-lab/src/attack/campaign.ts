import { EPOCH_OPS, EPOCH_SCHEDULES, runEpoch, runScheduleEpoch } from "./epoch.ts";
import type { CoverageTable, Trail } from "./epoch.ts";
import { findingShape, minimise } from "./minimise.ts";
import type { Step } from "./op.ts";
import type { Finding } from "./oracle.ts";
import { loadTarget } from "./target.ts";
import type { TargetName } from "./target.ts";
import type { SeededDefect } from "./defects/index.ts";

/** A part of a campaign: the epochs whose number leaves `index - 1` when divided by `count`. */
export interface Shard {
  /** 1 to `count`. */
  readonly index: number;
  readonly count: number;
}

export interface CampaignOptions {
  readonly architecture: TargetName;
  readonly defects?: readonly SeededDefect[];
  /** Sequential operations of the whole campaign, all shards together. */
  readonly ops: number;
  /** Explored schedules of the whole campaign. */
  readonly schedules: number;
  readonly seed: number;
  readonly shard?: Shard;
  /** Make scripts of findings short; default true. */
  readonly minimise?: boolean;
  /** Stop at the first finding; default false. */
  readonly firstOnly?: boolean;
  /** Called after each epoch: operations and schedules done, of those of this shard. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** A finding, the first of those that are alike. */
export interface ReportedFinding extends Finding {
  /** How many epochs ended with one like it. */
  readonly count: number;
  /** Epoch of {@link script}, and whether it is one of sequences or of schedules. */
  readonly epoch: number;
  readonly of: "sequence" | "schedule";
  readonly script: readonly Step[];
}

/** Result of a campaign, or of a shard. */
export interface CampaignReport {
  readonly architecture: TargetName;
  readonly defects: readonly string[];
  readonly seed: number;
  readonly shards: readonly Shard[];
  /** What the whole campaign is asked for. */
  readonly asked: { readonly ops: number; readonly schedules: number };
  readonly operations: number;
  readonly schedules: number;
  readonly findings: readonly ReportedFinding[];
  readonly coverage: Readonly<CoverageTable>;
}

/** How long a campaign took; not part of the report, which is the same on every machine. */
export interface CampaignRate {
  readonly operationsPerSecond: number;
  readonly schedulesPerSecond: number;
}

/** Collects the first finding of each kind. */
class Collector {
  readonly found = new Map<string, { trail: Trail; count: number; epoch: number; of: "sequence" | "schedule" }>();

  add(trail: Trail, epoch: number, of: "sequence" | "schedule"): void {
    const key = `${of} ${findingShape(trail.finding)}`;
    const known = this.found.get(key);
    if (known === undefined) this.found.set(key, { trail, count: 1, epoch, of });
    else known.count++;
  }
}

/** Epochs of this shard out of `total`. */
function* epochs(total: number, { index, count }: Shard): Generator<number> {
  for (let epoch = index - 1; epoch < total; epoch += count) yield epoch;
}

/** Work of one kind in epochs. */
interface Work {
  readonly of: "sequence" | "schedule";
  readonly total: number;
  readonly perEpoch: number;
  readonly run: (epoch: number, amount: number) => { readonly done: number; readonly trail: Trail | undefined };
}

/** Runs a campaign, or a shard of one. Throws DefectError when a defect does not fit. */
export async function runCampaign(options: CampaignOptions): Promise<CampaignReport & { readonly rate: CampaignRate }> {
  const { architecture, defects = [], ops, schedules, seed } = options;
  const shard = options.shard ?? { index: 1, count: 1 };
  // Both are loaded in any case: a defect that does not fit is found before the first operation.
  const plain = await loadTarget(architecture, defects);
  const stepped = schedules > 0 ? await loadTarget(architecture, defects, true) : plain;
  const coverage: CoverageTable = {};
  const collector = new Collector();
  const works: readonly Work[] = [
    {
      of: "sequence",
      total: ops,
      perEpoch: EPOCH_OPS,
      run: (epoch, amount) => {
        const { operations, trail } = runEpoch(plain, seed, epoch, amount, coverage);
        return { done: operations, trail };
      },
    },
    {
      of: "schedule",
      total: schedules,
      perEpoch: EPOCH_SCHEDULES,
      run: (epoch, amount) => {
        const { schedules: done, trail } = runScheduleEpoch(stepped, seed, epoch, amount, coverage);
        return { done, trail };
      },
    },
  ];
  const done = { sequence: 0, schedule: 0 };
  const seconds = { sequence: 0, schedule: 0 };
  const total = (ops + schedules) / shard.count;
  const restore = withoutStacks();
  try {
    for (const { of, total: amount, perEpoch, run } of works) {
      const began = performance.now();
      for (const epoch of epochs(Math.ceil(amount / perEpoch), shard)) {
        const result = run(epoch, Math.min(perEpoch, amount - epoch * perEpoch));
        done[of] += result.done;
        if (result.trail !== undefined) collector.add(result.trail, epoch, of);
        options.onProgress?.(Math.min(done.sequence + done.schedule, total), total);
        if (options.firstOnly === true && collector.found.size > 0) break;
      }
      seconds[of] = (performance.now() - began) / 1000;
      if (options.firstOnly === true && collector.found.size > 0) break;
    }
    const short = options.minimise ?? true;
    const findings = [...collector.found.values()].map(({ trail, count, epoch, of }): ReportedFinding => {
      const { finding, script } = short ? minimise(of === "schedule" ? stepped : plain, trail) : trail;
      return { ...finding, count, epoch, of, script };
    });
    const names = defects.map(({ name }) => name);
    const report = { architecture, defects: names, seed, shards: [shard], asked: { ops, schedules }, operations: done.sequence, schedules: done.schedule };
    const rate = { operationsPerSecond: done.sequence / seconds.sequence, schedulesPerSecond: done.schedule / seconds.schedule };
    return { ...report, findings: sorted(findings), coverage, rate };
  } finally {
    restore();
  }
}

/** EL1 takes an abort at every other step: its stack is of no use to anybody, and half of the time. */
function withoutStacks(): () => void {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  return () => {
    Error.stackTraceLimit = stackTraceLimit;
  };
}

function sorted(findings: readonly ReportedFinding[]): ReportedFinding[] {
  return findings.toSorted((a, b) => (a.of === b.of ? a.epoch - b.epoch : a.of < b.of ? -1 : 1));
}

/** Thrown for reports that are not parts of one campaign. */
export class MergeError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "MergeError";
  }
}

function sameCampaign(a: CampaignReport, b: CampaignReport): boolean {
  const what = ({ architecture, defects, seed, asked }: CampaignReport): string => JSON.stringify([architecture, defects, seed, asked.ops, asked.schedules]);
  return what(a) === what(b);
}

/** The report of a whole campaign, out of those of its shards in any order. Throws {@link MergeError}. */
export function mergeReports(reports: readonly CampaignReport[]): CampaignReport {
  const [first] = reports;
  if (first === undefined) throw new MergeError("there is nothing to merge");
  const odd = reports.find((report) => !sameCampaign(first, report));
  if (odd !== undefined) throw new MergeError("the reports are of different campaigns");
  const shards = reports.flatMap((report) => report.shards).toSorted((a, b) => a.index - b.index);
  const twice = shards.find((shard, at) => shards[at + 1]?.index === shard.index || shard.count !== shards[0]!.count);
  if (twice !== undefined) throw new MergeError(`shard ${twice.index}/${twice.count} is there twice, or the reports divide the campaign in different ways`);
  const byShape = new Map<string, ReportedFinding>();
  const coverage: CoverageTable = {};
  for (const { findings, coverage: rows } of reports) {
    for (const finding of findings) {
      const key = `${finding.of} ${findingShape(finding)}`;
      const known = byShape.get(key);
      const best = known === undefined || finding.epoch < known.epoch ? finding : known;
      byShape.set(key, { ...best, count: finding.count + (known?.count ?? 0) });
    }
    for (const [name, { attempted, accepted, refused }] of Object.entries(rows)) {
      const row = (coverage[name] ??= { attempted: 0, accepted: 0, refused: 0 });
      row.attempted += attempted;
      row.accepted += accepted;
      row.refused += refused;
    }
  }
  const { architecture, defects, seed, asked } = first;
  return {
    ...{ architecture, defects, seed, asked },
    shards: shards.length === shards[0]!.count ? [{ index: 1, count: 1 }] : shards,
    operations: reports.reduce((sum, report) => sum + report.operations, 0),
    schedules: reports.reduce((sum, report) => sum + report.schedules, 0),
    findings: sorted([...byShape.values()]),
    coverage,
  };
}
