import { abiHash } from "@smmuv3/pkvm-abi";
import { PAGE_SIZE } from "@smmuv3/platform";
import { HOST_PROT, startHyp } from "../src/index.ts";
import type { Hyp, HypCore, HypIommuDriver } from "../src/index.ts";
import { FakeHypCpu, FIRMWARE, RAM_BASE, RAM_SIZE } from "./fake-cpu.ts";

export const POOL_PAGES = 256;
export const POOL_BASE: number = RAM_BASE + RAM_SIZE - POOL_PAGES * PAGE_SIZE;

/** An IOMMU driver that records what it is told. */
export class RecordingDriver implements HypIommuDriver {
  readonly log: string[];
  core: HypCore | undefined = undefined;
  /** Status of unmaps, which take effect nevertheless; status of maps, which then do not. */
  refuse = 0;
  refuseMap = 0;
  finalizeStatus = 0;
  /** Pages that DMA of the host may reach. */
  readonly dma: Set<number> = new Set<number>();

  constructor(log: string[]) {
    this.log = log;
  }
  init(core: HypCore): number {
    this.core = core;
    return 0;
  }
  handoff(): number {
    this.log.push("handoff");
    this.core?.snapshot((start, end, prot) => this.hostStage2Idmap(start, end, prot));
    return 0;
  }
  hostStage2Idmap(start: number, end: number, prot: number): number {
    if (prot === HOST_PROT.none) {
      this.log.push(`idmap unmap ${start.toString(16)}`);
    } else if (this.refuseMap < 0) return this.refuseMap;
    for (let pa = start; pa < end; pa += PAGE_SIZE) {
      if (prot === HOST_PROT.none) this.dma.delete(pa);
      else this.dma.add(pa);
    }
    return prot === HOST_PROT.none ? this.refuse : 0;
  }
  setState(...args: number[]): number {
    this.log.push(`setState ${args.join(" ")}`);
    return 0;
  }
  eventQueue(): number {
    return 0;
  }
  dataAbort(): undefined {
    return undefined;
  }
  finalize(): number {
    return this.finalizeStatus;
  }
}

export interface Booted {
  readonly cpu: FakeHypCpu;
  readonly hyp: Hyp;
  readonly core: HypCore;
  readonly driver: RecordingDriver;
}

/** EL2 after `__pkvm_init` and, unless told otherwise, handoff and `__pkvm_prot_finalize`. */
export function boot(finalize = true): Booted {
  const cpu = new FakeHypCpu();
  const driver = new RecordingDriver(cpu.log);
  const hyp = startHyp(cpu, { firmware: FIRMWARE, iommu: driver });
  const status = cpu.call("__pkvm_init", abiHash(), POOL_BASE, POOL_PAGES);
  if (status < 0 || hyp.core === undefined) throw new Error(`__pkvm_init: ${status}`);
  if (finalize) {
    cpu.call("__pkvm_iommu_handoff", RAM_BASE + RAM_SIZE / 2);
    cpu.call("__pkvm_prot_finalize");
  }
  return { cpu, hyp, core: hyp.core, driver };
}

export const pfn = (pa: number): number => pa / PAGE_SIZE;
/** Page `index` of the host's RAM. */
export const page = (index: number): number => RAM_BASE + index * PAGE_SIZE;
