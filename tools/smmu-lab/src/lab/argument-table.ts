import type { AttackResult, Measured } from "./arguments.ts";
import type { BundleStats } from "./architectures.ts";
import { eachLine, linesMatching, segments } from "./code.ts";
import { lineKey } from "./coverage.ts";
import type { Variant } from "./variants.ts";

/** What a value may be compared with. */
export interface World {
  readonly native: Measured;
  /** By name of what was attacked. */
  readonly attacks: ReadonlyMap<string, AttackResult>;
}

/** One metric of one argument of the debate. */
export interface ArgumentRow {
  readonly id: number;
  readonly title: string;
  readonly metric: string;
  readonly how: string;
  readonly value: (measured: Measured, world: World) => number | string | Promise<number | string>;
}

const NOT_APPLICABLE = "n/a";
const RUN_ATTACK = "run smmu-lab attack, and pass its JSON with --attack";
/** Name of what a campaign attacks. */
const attacked = ({ architecture, paging }: Variant): string => (paging ? `${architecture}-paging` : architecture);
const percent = (part: number, all: number): number => (all === 0 ? 0 : Math.round((1000 * part) / all) / 10);

/** Packages of a level, with their lines. */
function packageLines(stats: BundleStats | undefined): ReadonlyMap<string, number> {
  const lines = new Map<string, number>();
  for (const module of stats?.modules ?? []) {
    const name = module.package.replace("@smmuv3/", "");
    lines.set(name, (lines.get(name) ?? 0) + module.lines);
  }
  return lines;
}

/** Lines of EL1 packages that native does not have, compositions left out. */
function addedAtEl1({ built }: Measured, { native }: World, wanted: (name: string) => boolean): number {
  const before = packageLines(native.built.el1Stats);
  let sum = 0;
  for (const [name, lines] of packageLines(built.el1Stats)) {
    if (!before.has(name) && !name.startsWith("arch-") && wanted(name)) sum += lines;
  }
  return sum;
}

/** Lines of `arm-smmu-v3` that exist for a design: what they mention. */
const HOOKS: Readonly<Record<string, RegExp>> = {
  "single-driver": /\bbackend\b|\bimpl\b/iu,
  "trap-emulate": /auxiliaryId|\.parent\b/u,
};

function hookLines({ variant, el1Text }: Measured): (readonly [number, number])[] {
  const pattern = HOOKS[variant.architecture];
  return pattern === undefined ? [] : linesMatching(el1Text, (name) => name === "arm-smmu-v3", pattern);
}

/** Methods of the implementation that the one driver calls. */
function hooksImplemented({ el1Text }: Measured): number {
  return linesMatching(el1Text, (name) => name.startsWith("arm-smmu-v3-impl-"), /^ {2}[a-z]\w*\(.*\) \{$/u).filter(
    ([from]) => !el1Text.slice(from).startsWith("  constructor"),
  ).length;
}

/** Lines that native executes among those that exist for the design. */
function touchedAndRun(measured: Measured, { native }: World): number {
  const pattern = HOOKS[measured.variant.architecture];
  if (pattern === undefined) return 0;
  const { el1Text, driverLinesRun } = native;
  let run = 0;
  for (const segment of segments(el1Text)) {
    if (segment.package !== "arm-smmu-v3") continue;
    let number = 0;
    eachLine(el1Text, segment, (from, to) => {
      if (driverLinesRun.has(lineKey(segment, number++)) && pattern.test(el1Text.slice(from, to))) run++;
    });
  }
  return run;
}

const growth = ({ report }: Measured): number | string => report?.trustedBase?.growth.lines ?? NOT_APPLICABLE;
const working = ({ cells }: Measured, ids?: readonly string[]): number =>
  [...cells].filter(([id, { verdict }]) => verdict === "works" && (ids === undefined || ids.includes(id))).length;

/** Hypercalls that carry what only an SMMUv3 has: its queue and stream table, its event queue. */
const SMMU_CALLS: ReadonlySet<string> = new Set(["__pkvm_iommu_handoff", "__pkvm_iommu_event_queue"]);
const MASK_ROWS = ["dma-mask", "dma-mask-all", "contiguous"];
const HARDWARE_ROWS = ["hw-s1-only", "hw-s2-only", "hw-no-ril", "hw-non-coherent", "hw-errata"];
const round = (value: number): number => Math.round(value * 100) / 100;
const BUNDLE = "counted in the bundles that ran";
const BOOTED = "counted on a booted machine";

/** The metrics, in the order of the debate's arguments. */
export const ARGUMENTS: readonly ArgumentRow[] = [
  {
    id: 1,
    title: "a paravirtual driver must not hide inside arm-smmu-v3",
    metric: "% of the arm-smmu-v3 lines that run natively and never in this design",
    how: "V8 block coverage of the EL1 bundle over a boot, DMA, a fault, an unplug and a shutdown; definitions run when the driver is loaded, used or not",
    value: ({ driverLinesRun }, { native }) =>
      percent([...native.driverLinesRun].filter((line) => !driverLinesRun.has(line)).length, native.driverLinesRun.size),
  },
  {
    id: 1,
    title: "a paravirtual driver must not hide inside arm-smmu-v3",
    metric: "hooks of arm-smmu-v3 that the design implements",
    how: `methods of the arm-smmu-v3-impl-* package, ${BUNDLE}`,
    value: hooksImplemented,
  },
  {
    id: 2,
    title: "the single driver is the least intrusive",
    metric: "lines of arm-smmu-v3 that exist for the design",
    how: `lines that name its hooks (backend, impl; for trap-emulate: the auxiliary entry), ${BUNDLE}`,
    value: (measured) => hookLines(measured).length,
  },
  {
    id: 3,
    title: "three drivers are overkill for a handful of lines",
    metric: "lines of the paravirtual driver against its glue",
    how: `${BUNDLE}; whether that is much is an opinion`,
    value({ built }) {
      const lines = packageLines(built.el1Stats);
      const sum = (...names: readonly string[]): number => names.reduce((total, name) => total + (lines.get(name) ?? 0), 0);
      const driver = sum("pkvm-iommu", "pkvm-iommu-lib");
      return driver === 0 ? NOT_APPLICABLE : `${driver} lines of driver and library, ${sum("arm-smmu-v3-kvm", "arm-smmu-v3-kvm-driver", "arm-smmu-v3-handoff", "arm-smmu-v3-impl-pkvm")} of glue`;
    },
  },
  {
    id: 4,
    title: "add what can be erased later; do not touch what others run",
    metric: "lines that exist for the design and that a native boot executes",
    how: "lines of argument 2 under V8 coverage of the native bundle; 0: removing the design deletes files only",
    value: touchedAndRun,
  },
  {
    id: 5,
    title: "one driver must not register with two frameworks",
    metric: "frameworks (IOMMU core, hypervisor) of the driver that has most",
    how: "who registered the instance, and who is bound to the hardware that EL2 has, on a booted machine",
    value: ({ boot }) => boot.frameworks,
  },
  { id: 6, title: "the hypervisor must claim first", metric: "deferred probes", how: BOOTED, value: ({ boot }) => boot.deferrals },
  {
    id: 6,
    title: "the hypervisor must claim first",
    metric: "devices that drivers make for the SMMU",
    how: "devices that firmware does not describe, on a booted machine",
    value: ({ boot }) => boot.extraDevices,
  },
  {
    id: 7,
    title: "initcalls that depend on the configuration are grotty",
    metric: "initcalls that are not where a native boot has them",
    how: "level and name of each initcall that ran, against native's",
    value: ({ boot }, { native }) => boot.initcalls.filter((one) => !native.boot.initcalls.includes(one)).length,
  },
  {
    id: 8,
    title: "deferring leaves the SMMU unprobed when KVM fails",
    metric: "ways of EL2 to fail after which devices do not work",
    how: "no EL2; __pkvm_init, hand-over, deprivileging refused: one boot each, with DMA",
    value: ({ failures }) => failures.tried - failures.good,
  },
  {
    id: 9,
    title: "registering on the physical device hides the hypervisor",
    metric: "nodes between the IOMMU instance and the hardware in sysfs",
    how: BOOTED,
    value: ({ boot }) => boot.sysfsDistance,
  },
  {
    id: 10,
    title: "an auxiliary device cannot be used as the physical one is",
    metric: "places where the registered driver reaches for its device's parent",
    how: `uses of .parent in its package, ${BUNDLE}; 0 where it is bound to the physical device`,
    value({ variant, built, el1Text, report }) {
      const driver = report?.result.status.iommus[0]?.driver ?? "";
      if (!driver.endsWith(".aux")) return 0;
      const uses = linesMatching(el1Text, (name) => name === "arm-smmu-v3", /\.parent\b/u).length;
      const copied = linesMatching(el1Text, (name) => built.architecture.el1.includes(name) && name !== "arm-smmu-v3", /dmaMaskBits/u).length;
      return variant.architecture === "trap-emulate" ? uses + copied : uses;
    },
  },
  {
    id: 11,
    title: "sharing the physical device is safe only built in",
    metric: "% of the orders of devices in which every device works",
    how: "every order of the SMMU and its two clients in firmware, one boot each, with DMA",
    value: ({ orders }) => percent(orders.good, orders.tried),
  },
  {
    id: 12,
    title: "paravirtualisation re-invents virtio-iommu; it should be generic",
    metric: "hypercalls in use that carry what only an SMMUv3 has",
    how: "names of the hypercalls that a boot and a mapping made",
    value: ({ boot }) => boot.hypercalls.filter((name) => SMMU_CALLS.has(name)).length,
  },
  {
    id: 13,
    title: "paravirtualisation works with one stage, and walks less",
    metric: "memory reads for one TLB miss",
    how: "walkReads of one access with nothing cached, 4K pages",
    value: ({ readsPerMiss }) => readsPerMiss,
  },
  {
    id: 13,
    title: "paravirtualisation works with one stage, and walks less",
    metric: `kinds of SMMU that it probes on, of ${HARDWARE_ROWS.length}`,
    how: "boots on stage 1 only, stage 2 only, without range invalidation, not coherent, with a nesting erratum",
    value: (measured) => working(measured, HARDWARE_ROWS),
  },
  {
    id: 14,
    title: "paravirtual dynamic mapping is much worse",
    metric: "hypercalls to map and unmap one page, strict",
    how: "mean of 64 pages of 4K, first tables left out",
    value: ({ page }) => round(page.hypercallsPerMap + page.hypercallsPerUnmap),
  },
  {
    id: 14,
    title: "paravirtual dynamic mapping is much worse",
    metric: "traps to map and unmap one page, strict",
    how: "mean of 64 pages of 4K, first tables left out",
    value: ({ page }) => round(page.trapsPerMap + page.trapsPerUnmap),
  },
  {
    id: 15,
    title: "start with a pinned identity map; add the rest later",
    metric: "features that work, of those that arguments name",
    how: "probes of smmu-lab features",
    value: (measured) => working(measured),
  },
  { id: 15, title: "start with a pinned identity map; add the rest later", metric: "lines that IOMMU support adds at EL2", how: BUNDLE, value: growth },
  {
    id: 16,
    title: "phones need translation; identity is impractical",
    metric: `needs of limited devices that are met, of ${MASK_ROWS.length}`,
    how: "a buffer above the mask, a mask below all RAM, scattered pages as one range: probes of smmu-lab features",
    value: (measured) => working(measured, MASK_ROWS),
  },
  { id: 17, title: "a second IOMMU stack in KVM is a burden", metric: "lines that IOMMU support adds at EL2", how: BUNDLE, value: growth },
  {
    id: 18,
    title: "there is no duplication of logic",
    metric: "lines of EL2 that repeat code of EL1",
    how: "runs of 50 equal tokens in modules that the levels do not share",
    value: ({ duplicated }) => duplicated,
  },
  {
    id: 19,
    title: "other vendors multiply the cost",
    metric: "lines of both levels that a second vendor adds",
    how: "bundles of the design with an SMMUv3 and a RISC-V IOMMU: the packages that only the second needs",
    async value({ built }) {
      const both = await built.twoVendors?.();
      if (both === undefined) return "not built for this design";
      const own = [built.el1Stats, built.el2Stats].flatMap((stats) => [...packageLines(stats).keys()]);
      return [both.el1Stats, both.el2Stats]
        .flatMap((stats) => [...packageLines(stats)])
        .filter(([name]) => !own.includes(name) && name.includes("riscv"))
        .reduce((sum, [, lines]) => sum + lines, 0);
    },
  },
  {
    id: 20,
    title: "EL2 must lock its page tables against the host",
    metric: "places where EL2 takes a lock",
    how: `calls of lock() in the packages of EL2, ${BUNDLE}`,
    value: ({ built, el2Text }) =>
      linesMatching(el2Text, (name) => built.architecture.el2.includes(name), /\.lock\(/u).length,
  },
  {
    id: 20,
    title: "EL2 must lock its page tables against the host",
    metric: "interleavings that break an invariant",
    how: "findings of an attack campaign over explored schedules",
    value: ({ variant }, { attacks }) => attacks.get(attacked(variant))?.breaches ?? RUN_ATTACK,
  },
  {
    id: 21,
    title: "emulating an SMMU at EL2 is complex",
    metric: "registers that EL2 emulates",
    how: "reads of every register of the manual's map by the kernel that EL2 answers",
    value: ({ registers }) => registers.emulated,
  },
  {
    id: 21,
    title: "emulating an SMMU at EL2 is complex",
    metric: "panics of EL2 that the host can cause",
    how: "findings of an attack campaign",
    value: ({ variant }, { attacks }) => attacks.get(attacked(variant))?.panics ?? RUN_ATTACK,
  },
  {
    id: 22,
    title: "it emulates only what Linux uses",
    metric: "registers of the manual's map that the kernel cannot read",
    how: "reads of every register of the manual's map by the kernel that EL2 refuses",
    value: ({ registers }) => registers.refused,
  },
  {
    id: 23,
    title: "how much code EL1 and EL2 should share",
    metric: "lines of modules that both levels link",
    how: BUNDLE,
    value({ built }) {
      const files = new Set(built.el1Stats.modules.map(({ file }) => file));
      return (built.el2Stats?.modules ?? []).filter(({ file }) => files.has(file)).reduce((sum, { lines }) => sum + lines, 0);
    },
  },
  {
    id: 24,
    title: "ATS is not handled",
    metric: "what becomes of translated requests",
    how: "a translation request, and a translated access to a page that is not mapped, on an SMMU with ATS",
    value: ({ cells }) => {
      const cell = cells.get("ats");
      return cell?.verdict === "works" ? "usable" : cell?.detail.includes("refused") === true ? "closed" : "open";
    },
  },
  {
    id: 25,
    title: "changes of translation must be hitless",
    metric: "moves between identity and domains that break DMA",
    how: "moves between identity and two domains, both ways, with an access after every store; n/a: there is only identity",
    value: ({ transitions }) => (transitions.moves === 0 ? NOT_APPLICABLE : transitions.broken),
  },
  {
    id: 26,
    title: "the core grows for the paravirtual driver's sake",
    metric: "operations of the IOMMU core that only this design uses",
    how: "names of iommu_ops and domain operations, against native's",
    value: ({ boot }, { native }) => new Set(boot.ops.filter((name) => !native.boot.ops.includes(name))).size,
  },
  {
    id: 27,
    title: "quirks in the shared page-table code",
    metric: "lines of the page-table library at EL2 that name a quirk",
    how: `io-pgtable-arm-common, ${BUNDLE}`,
    value: ({ el2Text }) => linesMatching(el2Text, (name) => name === "io-pgtable-arm-common", /quirk/iu).length,
  },
  {
    id: 28,
    title: "the halves collaborate; KVM is split like that anyway",
    metric: "state at both levels",
    how: "a sentence: who allocates, donates and pins each structure is a table of ARCHITECTURE.md",
    value: ({ built, variant }) =>
      built.el2Stats === undefined
        ? NOT_APPLICABLE
        : variant.architecture === "trap-emulate"
          ? "command queue, stream table and registers exist twice: the host's, and EL2's shadow"
          : variant.architecture === "pkvm-unprotected"
            ? "none: EL2 knows no IOMMU"
            : "partitioned: tables and queues are EL2's, the event queue is host memory that EL2 pins",
  },
  {
    id: 29,
    title: "a paravirtual driver still has to be told about hardware",
    metric: "lines that the design adds at EL1 and that know the SMMU",
    how: `packages that native does not have and whose name says so, ${BUNDLE}`,
    value: (measured, world) => addedAtEl1(measured, world, (name) => name.includes("smmu")),
  },
  {
    id: 29,
    title: "a paravirtual driver still has to be told about hardware",
    metric: "lines that the design adds at EL1 and that any IOMMU can use",
    how: `packages that native does not have and that know no hardware, ${BUNDLE}`,
    value: (measured, world) => addedAtEl1(measured, world, (name) => !name.includes("smmu")),
  },
  {
    id: 30,
    title: "invasiveness alone is no ground for rejection",
    metric: "what the kernel has to maintain",
    how: "a sentence on numbers of this table: the argument is about values",
    value: (measured, world) =>
      `${addedAtEl1(measured, world, () => true)} lines more at EL1; ${hookLines(measured).length} lines of arm-smmu-v3 exist for it`,
  },
];
