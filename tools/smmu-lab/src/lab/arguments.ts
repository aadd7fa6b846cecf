import type { ArchitectureReport } from "../compare.ts";
import { FEATURES } from "../features/index.ts";
import type { Cell } from "../features/feature.ts";
import { Lab } from "../features/lab.ts";
import { probeFeature } from "../features/matrix.ts";
import type { BuiltArchitecture } from "./architectures.ts";
import { ARGUMENTS } from "./argument-table.ts";
import { duplicatedLines, variantText } from "./code.ts";
import { coverage, linesOf } from "./coverage.ts";
import { bootFacts, orders, pageCosts, readsPerMiss, survivedFailures, sweepRegisters, transitions } from "./measures.ts";
import type { BootFacts, PageCosts, RegisterSweep, Transitions } from "./measures.ts";
import { loadVariant, VARIANTS } from "./variants.ts";
import type { Variant } from "./variants.ts";

/** What is measured of a variant to settle arguments. */
export interface Measured {
  readonly variant: Variant;
  readonly built: BuiltArchitecture;
  readonly report: ArchitectureReport | undefined;
  readonly el1Text: string;
  /** Empty without a hypervisor. */
  readonly el2Text: string;
  /** Lines of `arm-smmu-v3` that ran, of a boot, DMA, a fault, an unplugged device and a shutdown. */
  readonly driverLinesRun: ReadonlySet<string>;
  readonly driverLines: ReadonlySet<string>;
  readonly duplicated: number;
  readonly page: PageCosts;
  readonly readsPerMiss: number;
  readonly registers: RegisterSweep;
  readonly transitions: Transitions;
  readonly orders: { readonly tried: number; readonly good: number };
  readonly failures: { readonly tried: number; readonly good: number };
  readonly boot: BootFacts;
  readonly cells: ReadonlyMap<string, Cell>;
}

/** One metric of one argument. An argument may have several. */
export interface ArgumentValues {
  /** As in the list of the debate. */
  readonly id: number;
  readonly title: string;
  readonly metric: string;
  /** By variant. */
  readonly values: Readonly<Record<string, number | string>>;
  /** How it was found. */
  readonly how: string;
}

/** Features that no argument of a number asks for. */
const SKIPPED: ReadonlySet<string> = new Set(FEATURES.filter((feature) => feature.arguments.length === 0).map(({ id }) => id));

/** A life in short: boot, DMA, a fault, a device that goes, shutdown. */
function live(lab: Lab): void {
  const rig = lab.boot();
  rig.dmaWorks(0);
  rig.master(1).probe(0x7f_1234_5000, true);
  rig.port.poll();
  rig.kernel.unplug(1);
  rig.kernel.shutdown();
}

export async function measure(variant: Variant, report?: ArchitectureReport): Promise<Measured> {
  const built = await loadVariant(variant);
  const lab = new Lab(built);
  const el1Text = await variantText(variant, "el1");
  const el2Text = lab.hyp ? await variantText(variant, "el2") : "";
  const { translation, paging } = variant;
  const covered = await coverage(el1Text, (bootKernel) => {
    live(new Lab({ ...built, bootKernel: (cpu, firmware, options) => bootKernel(cpu, firmware, { translation, paging, ...options }) }));
  });
  const driver = linesOf(covered, "arm-smmu-v3");
  const cells = new Map<string, Cell>();
  for (const feature of FEATURES) if (!SKIPPED.has(feature.id)) cells.set(feature.id, await probeFeature(feature, built));
  return {
    ...{ variant, built, report, el1Text, el2Text, cells },
    driverLines: driver.all,
    driverLinesRun: driver.ran,
    duplicated: lab.hyp ? duplicatedLines(el1Text, el2Text) : 0,
    page: pageCosts(lab),
    readsPerMiss: readsPerMiss(lab),
    registers: sweepRegisters(lab),
    transitions: transitions(lab),
    orders: orders(lab),
    failures: survivedFailures(lab),
    boot: bootFacts(lab),
  };
}

/** What an attack campaign found of an architecture. */
export interface AttackResult {
  readonly operations: number;
  readonly schedules: number;
  readonly panics: number;
  readonly breaches: number;
}

/**
 * Measures what settles each argument, for the variants of `reports`.
 * @param attacks results of campaigns, by architecture
 */
export async function argumentsOf(
  reports: readonly ArchitectureReport[],
  onProgress?: (variant: string, done: number, total: number) => void,
  attacks: ReadonlyMap<string, AttackResult> = new Map(),
): Promise<ArgumentValues[]> {
  const native = await measure(VARIANTS.get("native")!);
  const measured: Measured[] = [];
  for (const [done, report] of reports.entries()) {
    onProgress?.(report.name, done, reports.length);
    measured.push(await measure(report.variant, report));
  }
  const world = { native, attacks };
  return Promise.all(
    ARGUMENTS.map(async ({ id, title, metric, how, value }) => {
      const values: Record<string, number | string> = {};
      for (const one of measured) values[one.variant.name] = await value(one, world);
      return { id, title, metric, values, how };
    }),
  );
}
