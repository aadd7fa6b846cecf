import { Counters } from "@smmuv3/platform";
import type { Memory, RegisterWindow, Translator } from "@smmuv3/platform";
import { EVENT_NAMES, extract, maskOf, OFFSET, REG } from "@smmuv3/smmu-v3-defs";
import { RegisterBlock } from "./access.ts";
import { CommandQueue } from "./command-queue.ts";
import { buildCommandTable } from "./commands.ts";
import { ConfigCache } from "./config-cache.ts";
import type { CacheSize } from "./config-cache.ts";
import { applyUpdates, takesEffectLater } from "./control.ts";
import { EventQueue } from "./events.ts";
import type { EventRecord } from "./events.ts";
import { Interrupts } from "./irq.ts";
import type { InterruptLines, MsiTarget } from "./irq.ts";
import { decodeFeatures, PRESETS } from "./presets.ts";
import type { Features, IdRegisters } from "./presets.ts";
import { RegisterFile } from "./registers.ts";
import { Tlb } from "./tlb.ts";
import { TranslationUnit } from "./translate.ts";

/** Sizes of the caches; 0 entries keep nothing. */
export interface CacheProfile {
  readonly tlb: CacheSize;
  readonly stes: CacheSize;
  readonly cds: CacheSize;
}

export type ProfileName = "lazy" | "eager" | "finite";

const unbounded: CacheSize = { entries: 1024, grows: true };
const none: CacheSize = { entries: 0, grows: false };
const bounded: CacheSize = { entries: 4096, grows: false };

/**
 * Named profiles (IHI 0070 leaves caching open). A correct driver behaves alike under all of them: `lazy` keeps everything until
 * it is invalidated and so shows what is missing; `eager` keeps nothing; `finite` is of a real size and used for measuring.
 */
export const PROFILES: Readonly<Record<ProfileName, CacheProfile>> = {
  lazy: { tlb: unbounded, stes: unbounded, cds: unbounded },
  eager: { tlb: none, stes: none, cds: none },
  finite: { tlb: bounded, stes: bounded, cds: bounded },
};

/**
 * When the SMMU works: `immediate` at the register write, `clocked` at {@link SmmuV3.tick} (a number of commands each, with
 * acknowledgements a tick late), `manual` at {@link SmmuV3.step} only.
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
  /** RES0 bits of commands: `ignore` (default) or `illegal` (4.1.5 leaves the choice). */
  readonly reservedCommandBits?: "ignore" | "illegal";
  readonly counters?: Counters;
}

/** Live entries of the caches. */
export interface CacheStats {
  readonly tlb: number;
  readonly stes: number;
  readonly cds: number;
  readonly tlbEvictions: number;
}

const CR0ACK = OFFSET.CR0ACK;
const VMW = maskOf(REG.CR0ACK.VMW);
const ID_REGISTERS = ["IDR0", "IDR1", "IDR3", "IDR5", "IIDR", "AIDR"] as const;

function chooseProfile(choice: ProfileName | CacheProfile): CacheProfile {
  if (typeof choice === "object") return choice;
  if (Object.hasOwn(PROFILES, choice)) return PROFILES[choice];
  throw new TypeError(`SmmuV3: profile must be one of ${Object.keys(PROFILES).join(", ")} or an object, got "${choice}"`);
}

/**
 * An SMMUv3 (IHI 0070), Non-secure programming interface. Masters call {@link translate}; software programs {@link registers}.
 */
export class SmmuV3 implements Translator {
  /** The 128 KiB of registers: page 0 at 0, page 1 at 0x10000. */
  readonly registers: RegisterWindow;
  readonly features: Features;
  readonly counters: Counters;

  readonly #id: IdRegisters;
  readonly #file = new RegisterFile();
  readonly #progress: Progress;
  readonly #commandsPerTick: number;
  readonly #tlb: Tlb;
  readonly #stes: ConfigCache;
  readonly #cds: ConfigCache;
  readonly #events: EventQueue;
  readonly #commands: CommandQueue;
  readonly #unit: TranslationUnit;

  constructor(options: SmmuV3Options) {
    const { memory, progress = "immediate", commandsPerTick = 16 } = options;
    const profile = chooseProfile(options.profile ?? "lazy");
    const counters = options.counters ?? new Counters();
    const file = this.#file;
    this.#id = options.id ?? PRESETS.qemuNested;
    const features = decodeFeatures(this.#id);
    this.features = features;
    this.counters = counters;
    this.#progress = progress;
    this.#commandsPerTick = commandsPerTick;
    this.#tlb = new Tlb(profile.tlb);
    this.#stes = new ConfigCache(profile.stes, features.sidSize);
    this.#cds = new ConfigCache(profile.cds, features.sidSize);
    const interrupts = new Interrupts(file, features, memory, options.irq ?? {}, options.msi, counters);
    this.#events = new EventQueue(file, features, memory, interrupts, counters);
    const keeps = profile.stes.entries > 0 && profile.cds.entries > 0;
    const unit = new TranslationUnit(
      file, features, memory, this.#events, this.#stes, this.#cds, this.#tlb, keeps, counters,
    );
    this.#unit = unit;
    const target = {
      features,
      tlb: this.#tlb,
      stes: this.#stes,
      cds: this.#cds,
      interrupts,
      forgetContexts: (): void => {
        unit.forgetContexts();
      },
      vmidWildcard: (): number => {
        const acknowledged = file.get(CR0ACK);
        if ((acknowledged & VMW) === 0) return 0;
        const vmw = extract(acknowledged, REG.CR0ACK.VMW);
        return vmw <= 4 ? (1 << vmw) - 1 : 0;
      },
      e2h: (): boolean => (file.get(OFFSET.CR2) & maskOf(REG.CR2.E2H)) !== 0,
    };
    const table = buildCommandTable(features, options.reservedCommandBits === "illegal");
    this.#commands = new CommandQueue(file, features, memory, table, target, counters);
    this.registers = new RegisterBlock(file, features, (offset) => {
      this.#written(offset);
    });
    this.reset();
  }

  get paLo(): number {
    return this.#unit.paLo;
  }

  get paHi(): number {
    return this.#unit.paHi;
  }

  /** Translates one access; see `Translator` of the platform. */
  translate(sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    return this.#unit.translate(sid, ssid, lo, hi, flags);
  }

  /** Name of the event that the last {@link translate} caused, recorded or not; undefined for none. */
  explainLast(): string | undefined {
    return EVENT_NAMES.get(this.#unit.lastEvent);
  }

  /** Event records that software has not consumed, oldest first. */
  decodeEvents(): EventRecord[] {
    return this.#events.pending();
  }

  cacheStats(): CacheStats {
    return {
      tlb: this.#tlb.size,
      stes: this.#stes.size,
      cds: this.#cds.size,
      tlbEvictions: this.#tlb.evictions,
    };
  }

  /** Registers and caches after reset. UNKNOWN reset values are zero. */
  reset(): void {
    this.#file.words.fill(0);
    for (const name of ID_REGISTERS) this.#file.set(OFFSET[name], this.#id[name] ?? 0);
    this.#tlb.invalidateNonHyp();
    this.#tlb.invalidateHyp();
    this.#stes.clear();
    this.#cds.clear();
    this.#unit.forgetContexts();
  }

  /** One clock tick of progress `clocked`: earlier requests are acknowledged, then some commands consumed. */
  tick(): void {
    if (this.#progress === "clocked") this.step(this.#commandsPerTick);
  }

  /** Acknowledges what software has requested and consumes up to `commands`. Returns how many were consumed. */
  step(commands: number): number {
    if (applyUpdates(this.#file)) this.#unit.forgetContexts();
    return this.#commands.consume(commands);
  }

  #written(offset: number): void {
    // CR2, the stream table and GBPA take part in the resolution of streams.
    if (offset !== OFFSET.CMDQ_PROD && offset !== OFFSET.EVENTQ_CONS) this.#unit.forgetContexts();
    if (this.#progress !== "immediate") return;
    if (takesEffectLater(offset)) applyUpdates(this.#file);
    if (offset === OFFSET.CMDQ_PROD || offset === OFFSET.CR0 || offset === OFFSET.GERRORN) {
      this.#commands.consume(Number.MAX_SAFE_INTEGER);
    }
  }
}
