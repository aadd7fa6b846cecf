import type { Counters, Memory } from "@smmuv3/platform";
import type { InterruptLines, MsiTarget } from "./irq.ts";
import type { PolicyChoice } from "./policy.ts";
import type { IdRegisters } from "./presets.ts";
import type { CacheProfile, ProfileName } from "./profiles.ts";
import type { WitnessSink } from "./witness.ts";

/**
 * When the SMMU works: `immediate` at the register write, `clocked` at `SmmuV3.tick` (a number of commands each, with
 * acknowledgements a tick late), `manual` at `SmmuV3.step` only.
 */
export type Progress = "immediate" | "clocked" | "manual";

export interface SmmuV3Options {
  /** Memory as the SMMU sees it; pages without permission abort its accesses. */
  readonly memory: Memory;
  /** Default: PRESETS.qemuNested. */
  readonly id?: IdRegisters;
  /** Default: `lazy`. */
  readonly profile?: ProfileName | CacheProfile;
  /** Default: `immediate`. */
  readonly progress?: Progress;
  /** Commands that one tick consumes; default 16. */
  readonly commandsPerTick?: number;
  readonly irq?: InterruptLines;
  /** Where MSIs go whose address is not RAM. Default: they abort. */
  readonly msi?: MsiTarget;
  /** The SMMU wakes a CPU that waits for an event: CMD_SYNC with CS = SEV, and room in a queue that was full (IDR0.SEV). */
  readonly onSev?: () => void;
  /** What the architecture leaves open; default `strict`. Options left out are those of `strict`. */
  readonly policy?: PolicyChoice;
  readonly counters?: Counters;
  /**
   * Reports each use of a cache entry whose source in memory was changed without invalidation: to `SmmuV3.staleReports`
   * (true), or to a function. Slow; costs nothing when it is off. For profiles that keep something; `lazy` finds the most.
   */
  readonly witness?: boolean | WitnessSink;
}

/** Live entries of the caches. */
export interface CacheStats {
  readonly tlb: number;
  readonly stes: number;
  readonly cds: number;
  readonly tlbEvictions: number;
}
