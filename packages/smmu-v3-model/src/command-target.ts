import type { AtsCommands } from "./ats-commands.ts";
import type { ConfigCache } from "./config-cache.ts";
import type { Interrupts } from "./irq.ts";
import type { SmmuPolicy } from "./policy.ts";
import type { Features } from "./presets.ts";
import type { Stalls } from "./stall.ts";
import type { Tlb } from "./tlb.ts";

/** What commands act upon. */
export interface CommandTarget {
  readonly features: Features;
  readonly policy: SmmuPolicy;
  readonly tlb: Tlb;
  readonly stes: ConfigCache;
  readonly cds: ConfigCache;
  readonly interrupts: Interrupts;
  readonly stalls: Stalls;
  /** ATS and PRI; undefined without ATS. */
  readonly ats: AtsCommands | undefined;
  /** Resolved streams have to be looked up again. */
  forgetContexts(): void;
  /** Low VMID bits that a TLBI ignores: 2^n - 1 (CR0.VMW, 6.3.9). */
  vmidWildcard(): number;
  /** EL2 streams have ASIDs (CR2.E2H). */
  e2h(): boolean;
  /** Fetches the configuration of a stream; `ssid` is -1 without one. No events. */
  prefetchConfig(sid: number, ssid: number): void;
  /** Translates a read of one address. No events. */
  prefetchAddress(sid: number, ssid: number, lo: number, hi: number): void;
  /** Wakes a CPU that waits for an event (WFE). */
  sendEvent(): void;
}

/** Results of a {@link Handler} beside those of CERROR: the command is consumed, and so far no other after it. */
export const CONSUMED = {
  /** What the command caused may have changed PROD or the enables. */
  endsBatch: -1,
  /** A CMD_SYNC whose completion is signalled once CONS has passed it (4.7.3). */
  signals: -2,
} as const;

/** Executes the command whose words are `words[at..at + 3]`. Returns a CERROR code or one of {@link CONSUMED}. */
export type Handler = (target: CommandTarget, words: Int32Array, at: number) => number;

export interface CommandRule {
  /** Whether this SMMU has the command on its Non-secure queue; otherwise CERROR_ILL (4.1.3 and the command's section). */
  readonly legal: (features: Features) => boolean;
  /** Combinations of parameters that raise CERROR_ILL. {@link run} raises it too; this is for where `run` is not called. */
  readonly illegal?: (target: CommandTarget, words: Int32Array, at: number) => boolean;
  readonly run: Handler;
}

export const always = (): boolean => true;
export const never = (): boolean => false;
/** Executes without effect. */
export const nothing: Handler = () => 0;
