import { isHostAbort } from "@smmuv3/machine";
import type { Counters } from "@smmuv3/platform";
import { PAGE_SIZE } from "@smmuv3/platform";
import { OFFSET } from "@smmuv3/smmu-v3-defs";
import { DEVICES, watchStores } from "../features/lab.ts";
import type { Lab, Rig } from "../features/lab.ts";
import { FAILURES } from "../features/rows/liveness.ts";
import { sysfsDistance } from "../features/rows/sysfs.ts";
import { SMMU_BASE } from "./board.ts";

const ROUNDS = 64;
const READ_WRITE = 3;

/** Events that one page of 4K costs, on the average. */
export interface PageCosts {
  readonly hypercallsPerMap: number;
  readonly hypercallsPerUnmap: number;
  readonly trapsPerMap: number;
  readonly trapsPerUnmap: number;
}

function counting(counters: Counters, names: readonly string[], work: () => void): number {
  const sum = (): number => names.reduce((total, name) => total + counters.read(name).total, 0);
  const before = sum();
  work();
  return sum() - before;
}

const HYPERCALLS = ["hypercalls.iommu"];
const TRAPS = ["traps.mmio"];

export function pageCosts(lab: Lab): PageCosts {
  const rig = lab.boot();
  const { counters } = rig.board;
  const pa = rig.page();
  // The first tables are not what a map costs later.
  rig.unmap(0, rig.map(0, pa));
  const cost = { hypercallsPerMap: 0, hypercallsPerUnmap: 0, trapsPerMap: 0, trapsPerUnmap: 0 };
  for (let round = 0; round < ROUNDS; round++) {
    let dma = 0;
    const map = (): void => void (dma = rig.map(0, pa));
    const unmap = (): void => void rig.unmap(0, dma);
    cost.trapsPerMap += counting(counters, TRAPS, () => (cost.hypercallsPerMap += counting(counters, HYPERCALLS, map)));
    cost.trapsPerUnmap += counting(counters, TRAPS, () => (cost.hypercallsPerUnmap += counting(counters, HYPERCALLS, unmap)));
  }
  return {
    hypercallsPerMap: cost.hypercallsPerMap / ROUNDS,
    hypercallsPerUnmap: cost.hypercallsPerUnmap / ROUNDS,
    trapsPerMap: cost.trapsPerMap / ROUNDS,
    trapsPerUnmap: cost.trapsPerUnmap / ROUNDS,
  };
}

/** Memory reads that one access of a device costs whose page is in no cache. Context structures are not counted. */
export function readsPerMiss(lab: Lab): number {
  const rig = lab.boot({ profile: "eager" });
  const pa = rig.page();
  const dma = rig.map(0, pa);
  return counting(rig.board.counters, ["walkReads"], () => void rig.master(0).probe(dma, false));
}

/** What the kernel gets from the SMMU's registers. */
export interface RegisterSweep {
  /** Of the manual's registers: answered by emulation, refused with an abort, answered by the hardware. */
  readonly emulated: number;
  readonly refused: number;
  readonly direct: number;
}

/** Reads every register of the manual's map (6.1) as the kernel. */
export function sweepRegisters(lab: Lab): RegisterSweep {
  const rig = lab.boot();
  const { machine, counters } = rig.board;
  const window = machine.host.ioremap(SMMU_BASE, 2 * 0x1_0000);
  const sweep = { emulated: 0, refused: 0, direct: 0 };
  for (const offset of new Set(Object.values(OFFSET))) {
    if (offset >= 2 * 0x1_0000) continue;
    try {
      const trapped = counting(counters, ["traps.mmio", "traps.events"], () => void window.read32(offset));
      if (trapped > 0) sweep.emulated++;
      else sweep.direct++;
    } catch (error) {
      if (!isHostAbort(error)) throw error;
      sweep.refused++;
    }
  }
  return sweep;
}

/** Moves between two states in which one address is good: how many there are, and in how many of them it was refused for a moment. */
export interface Transitions {
  readonly moves: number;
  readonly broken: number;
}

export function transitions(lab: Lab): Transitions {
  const state: { look: () => void } = { look: () => {} };
  const rig = lab.boot({ onRegisterWrite: () => { state.look(); } });
  const { kernel } = rig;
  const pa = rig.page();
  const domains = [kernel.allocDomain(0), kernel.allocDomain(0)].filter((domain) => domain >= 0);
  for (const domain of domains) kernel.map(domain, pa, pa, PAGE_SIZE, READ_WRITE);
  const targets = ["identity", ...domains] as const;
  let refused = 0;
  let broken = 0;
  let moves = 0;
  watchStores(rig.board, () => { state.look(); });
  for (const from of targets) {
    for (const to of targets) {
      if (from === to) continue;
      state.look = () => {};
      kernel.attach(0, from);
      refused = 0;
      state.look = () => {
        if (rig.master(0).probe(pa, true) !== 0) refused++;
      };
      kernel.attach(0, to);
      moves++;
      if (refused > 0) broken++;
    }
  }
  return { moves, broken };
}

/** Orders of the nodes in firmware, and in how many of them the devices work. */
export function orders(lab: Lab): { readonly tried: number; readonly good: number } {
  let tried = 0;
  let good = 0;
  for (const order of permutations([0, 1, 2])) {
    tried++;
    const rig = lab.boot({ order: (nodes) => order.map((i) => nodes[i]!) });
    if (rig.port.devices.length === DEVICES.length && rig.port.devices.every((_, device) => rig.dmaWorks(device))) good++;
  }
  return { tried, good };
}

function permutations(items: readonly number[]): number[][] {
  if (items.length <= 1) return [[...items]];
  return items.flatMap((item) => permutations(items.filter((other) => other !== item)).map((rest) => [item, ...rest]));
}

/** In how many of the ways in which EL2 may fail to start the devices work afterwards; and how many there are. */
export function survivedFailures(lab: Lab): { readonly tried: number; readonly good: number } {
  const good = FAILURES.filter(([, options]) => {
    const rig = lab.boot(options);
    return rig.trouble === "" && rig.dmaWorks(0) && rig.dmaWorks(1);
  });
  return { tried: FAILURES.length, good: good.length };
}

/** What a booted kernel shows. */
export interface BootFacts {
  /** Nodes between the IOMMU instance in sysfs and the hardware. */
  readonly sysfsDistance: number;
  readonly deferrals: number;
  /** Devices that drivers made for the SMMU. */
  readonly extraDevices: number;
  /** The most frameworks (IOMMU core, hypervisor) that one driver is registered with. */
  readonly frameworks: number;
  /** `level:name` of the initcalls. */
  readonly initcalls: readonly string[];
  /** Operations that the IOMMU driver offers to the core, of the instance and of its domains. */
  readonly ops: readonly string[];
  /** Hypercalls that were made, by name. */
  readonly hypercalls: readonly string[];
}

/** Frameworks by driver: the IOMMU core for who registered an instance, the hypervisor for who is bound to hardware that EL2 has. */
function frameworks(rig: Rig): number {
  const { status } = rig.port;
  const count = new Map<string, number>();
  const add = (driver: string): void => void count.set(driver, (count.get(driver) ?? 0) + 1);
  for (const { driver } of status.iommus) add(driver);
  if (status.iommuAtEl2) {
    for (const dev of rig.kernel.tree) if (dev.firmware && dev.bus === "platform" && dev.driver !== "") add(dev.driver);
  }
  return Math.max(0, ...count.values());
}

export function bootFacts(lab: Lab): BootFacts {
  const rig = lab.boot();
  const { status } = rig.port;
  rig.dmaWorks(0);
  return {
    sysfsDistance: sysfsDistance(rig),
    deferrals: status.deferrals,
    extraDevices: rig.kernel.tree.filter((dev) => !dev.firmware).length,
    frameworks: frameworks(rig),
    initcalls: status.initcalls,
    ops: rig.kernel.instances.flatMap((instance) => [...instance.ops, ...instance.domainOps]),
    hypercalls: [...rig.board.hypercalls.keys()],
  };
}
