import { ACCESS, LEVEL, TRANSLATION } from "@smmuv3/platform";
import type { Counters, Memory } from "@smmuv3/platform";
import { CD, EVENTS, getField, maskOf, OFFSET, REG, STE, STE_CONFIG, STE_S1DSS } from "@smmuv3/smmu-v3-defs";
import { FAULT_CLASS, PERM, Stage1Walker, Stage2Walker, WALK } from "@smmuv3/vmsa-walk";
import { NEED, overrideIndex } from "./attributes.ts";
import { CdChecker } from "./cd-rules.ts";
import { ConfigFetcher, STAGE2_FAULT } from "./config.ts";
import type { ConfigCache } from "./config-cache.ts";
import type { EventQueue } from "./events.ts";
import { FaultReporter, FAULTS } from "./faults.ts";
import type { Features } from "./presets.ts";
import { configureStage1, configureStage2, isSingle, streamKind } from "./regime.ts";
import type { RegisterFile } from "./registers.ts";
import { SteChecker } from "./ste-rules.ts";
import { KIND, Tlb } from "./tlb.ts";
import type { TlbFill } from "./tlb.ts";

/** Streams resolved and ready for a TLB look-up: direct mapped, in front of the configuration caches. */
const CONTEXTS = 4096;
/** Words of a context; see the constants below. */
const CONTEXT = 16;
const SID = 0;
const SSID = 1;
const EPOCH = 2;
/** Flags of {@link USES}, zero where the stream bypasses. */
const STAGES = 3;
const TAG = 4;
const HASH = 5;
const FLOOR = 6;
const GLOBAL_FLOOR = 7;
const FLOOR_EPOCH = 8;
/** `overrideIndex` of the STE. */
const OVERRIDE = 9;
/** `kind << 20`, the part of a TLB key that the stream gives. */
const KEY = 10;
/** TBI0 | TBI1 << 1. */
const TBI = 11;
/** Flags of {@link FAULTS}. */
const FAULT_CONFIG = 12;

const USES = { S1: 1, S2: 2 } as const;
/** Index of the CD in the stream's table, -1 where stage 1 is not used. */
const CD_INDEX = 13;

const SMMUEN = maskOf(REG.CR0ACK.SMMUEN);
const GBPA_ABORT = maskOf(REG.GBPA.ABORT);

/**
 * The translation of a transaction, IHI 0070 3.3 and 7.3.22: configuration, TLB, walks, faults. The order of checks is that
 * of the manual; the common case, a resolved stream with a TLB hit, is one function without allocation.
 */
export class TranslationUnit {
  paLo = 0;
  paHi = 0;

  readonly stage2: Stage2Walker;
  readonly stage1: Stage1Walker;
  readonly tlb: Tlb;

  readonly #file: RegisterFile;
  readonly #features: Features;
  readonly #faults: FaultReporter;
  readonly #fetcher: ConfigFetcher;
  readonly #stes: ConfigCache;
  readonly #cds: ConfigCache;
  readonly #steChecker: SteChecker;
  readonly #cdChecker: CdChecker;
  readonly #keeps: boolean;
  readonly #contexts = new Int32Array(CONTEXTS * CONTEXT);
  #epoch = 1;
  /** Context that the walkers are set up for, and the epoch of that. */
  #loaded = -1;
  #loadedEpoch = 0;
  readonly #fill: TlbFill = {
    pageShift: 12, leafShift: 12, level: 3, global: false, paLo: 0, paHi: 0, ipaLo: 0, ipaHi: 0, perm: 0, perm2: 0,
  };

  readonly #counts: Float64Array;
  readonly #translations: number;
  readonly #tlbHits: number;
  readonly #tlbMisses: number;
  readonly #steHits: number;
  readonly #steMisses: number;
  readonly #cdHits: number;
  readonly #cdMisses: number;
  readonly #walkReads: number;

  constructor(
    file: RegisterFile,
    features: Features,
    memory: Memory,
    events: EventQueue,
    stes: ConfigCache,
    cds: ConfigCache,
    tlb: Tlb,
    keeps: boolean,
    counters: Counters,
  ) {
    this.#file = file;
    this.#features = features;
    this.tlb = tlb;
    this.#stes = stes;
    this.#cds = cds;
    this.#keeps = keeps;
    this.#steChecker = new SteChecker(features);
    this.#cdChecker = new CdChecker(features);
    this.stage2 = new Stage2Walker(memory);
    this.stage1 = new Stage1Walker(memory, this.stage2);
    const fetcher = new ConfigFetcher(file, features, memory, stes, cds, this.stage2);
    this.#fetcher = fetcher;
    this.#faults = new FaultReporter(events, fetcher, this.stage1, this.stage2);
    this.#contexts.fill(-1);
    this.#counts = counters.values;
    const id = (name: string): number => counters.id(name) + LEVEL.device;
    this.#translations = id("translations");
    this.#tlbHits = id("tlb.hits");
    this.#tlbMisses = id("tlb.misses");
    this.#steHits = id("ste.hits");
    this.#steMisses = id("ste.misses");
    this.#cdHits = id("cd.hits");
    this.#cdMisses = id("cd.misses");
    this.#walkReads = id("walkReads");
  }

  /** Type of the event that the last transaction caused, recorded or not; 0 for none. */
  get lastEvent(): number {
    return this.#faults.last;
  }

  /** Configuration may have changed: resolved streams are looked up again. */
  forgetContexts(): void {
    this.#epoch = (this.#epoch + 1) | 0;
  }

  /** See `Translator.translate` of the platform. */
  translate(sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    const contexts = this.#contexts;
    const counts = this.#counts;
    const key = (flags & ACCESS.ssidValid) !== 0 ? ssid : -1;
    const slot = (sid + Math.imul(key + 1, 0x9e3b)) & (CONTEXTS - 1);
    const c = slot * CONTEXT;
    counts[this.#translations]!++;
    this.#faults.last = 0;
    if (contexts[c + EPOCH] !== this.#epoch || contexts[c + SID] !== sid || contexts[c + SSID] !== key) {
      const outcome = this.#resolve(slot, sid, key, lo, hi, flags);
      if (outcome >= 0) return outcome;
    } else {
      counts[this.#steHits]!++;
    }
    const need = NEED[contexts[c + OVERRIDE]! | (flags & 7)]!;
    if (contexts[c + STAGES] === 0) return this.#bypass(sid, key, lo, hi, need);

    const tlb = this.tlb;
    if (contexts[c + FLOOR_EPOCH] !== tlb.floorEpoch) this.#refreshFloors(c);
    const tbi = contexts[c + TBI]!;
    // A tagged address is kept under its extension from bit 55.
    const top = tbi !== 0 && ((tbi >>> ((hi >>> 23) & 1)) & 1) !== 0 ? (hi << 8) >> 8 : hi;
    const vpnLo = (lo >>> 12) | (top << 20);
    const vpnHi = top >>> 12;
    const keyBits = contexts[c + KEY]!;
    let at = tlb.find(vpnLo, vpnHi, contexts[c + TAG]!, keyBits, contexts[c + HASH]!, contexts[c + FLOOR]!);
    if (at < 0 && tlb.hasGlobals) at = this.#findGlobal(c, vpnLo, vpnHi, keyBits);
    if (at < 0) return this.#miss(slot, sid, key, lo, hi, flags);

    counts[this.#tlbHits]!++;
    const data = tlb.data;
    const word4 = data[at + 4]!;
    if ((word4 & need) === 0 || ((word4 >>> 6) & need) === 0) {
      return this.#permissionFault(c, at, sid, key, lo, hi, need);
    }
    const shift = data[at + 2]! >>> 24;
    const offset = shift < 32 ? (1 << shift) - 1 : -1;
    this.paLo = (word4 & ~0xfff & ~offset) | (lo & offset);
    const page = data[at + 5]! & 0xf_ffff;
    this.paHi = shift <= 32 ? page : page | (hi & ((1 << (shift - 32)) - 1));
    return TRANSLATION.ok;
  }

  #findGlobal(c: number, vpnLo: number, vpnHi: number, key: number): number {
    const contexts = this.#contexts;
    const tag = contexts[c + TAG]! & ~0xffff;
    const kind = key >>> 20;
    return this.tlb.find(vpnLo, vpnHi, tag, Tlb.key(kind, true), Tlb.hash(tag, kind), contexts[c + GLOBAL_FLOOR]!);
  }

  #refreshFloors(c: number): void {
    const contexts = this.#contexts;
    const kind = contexts[c + KEY]! >>> 20;
    const tag = contexts[c + TAG]!;
    contexts[c + FLOOR] = this.tlb.floor(kind, tag >>> 16, tag & 0xffff);
    contexts[c + GLOBAL_FLOOR] = this.tlb.floor(kind, tag >>> 16, -1);
    contexts[c + FLOOR_EPOCH] = this.tlb.floorEpoch;
  }

  /**
   * Brings the configuration of a stream into context `slot`. Returns a TRANSLATION result where that ends the transaction,
   * else -1.
   */
  #resolve(slot: number, sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    if ((this.#file.get(OFFSET.CR0ACK) & SMMUEN) === 0) return this.#disabled(lo, hi);
    const fetcher = this.#fetcher;
    const features = this.#features;
    const counts = this.#counts;
    const c = slot * CONTEXT;
    // Whatever happens from here on, the old content of the slot is gone.
    this.#contexts[c + EPOCH] = 0;

    const failed = fetcher.ste(sid);
    counts[fetcher.hit ? this.#steHits : this.#steMisses]!++;
    if (failed !== 0) return this.#faults.configuration(failed, sid, ssid);
    const raw = this.#stes.data;
    const r = fetcher.at;
    if (!this.#steChecker.check(raw, r)) {
      return this.#faults.configuration(EVENTS.C_BAD_STE.type, sid, ssid);
    }
    const config = getField(raw, r, STE.Config);
    if (config < STE_CONFIG.bypass) return TRANSLATION.abort;

    let stages = (config & 1 ? USES.S1 : 0) | (config & 2 ? USES.S2 : 0);
    const cdMax = features.ssidSize === 0 ? 0 : getField(raw, r, STE.S1CDMax);
    let cdIndex = 0;
    if (ssid >= 0) {
      if ((stages & USES.S1) === 0 || cdMax === 0 || ssid >= 2 ** cdMax) {
        return this.#faults.configuration(EVENTS.C_BAD_SUBSTREAMID.type, sid, ssid);
      }
      // CD 0 belongs to the traffic without a SubstreamID (5.2, S1DSS).
      if (ssid === 0 && getField(raw, r, STE.S1DSS) === STE_S1DSS.ssid0) {
        return this.#faults.configuration(EVENTS.F_STREAM_DISABLED.type, sid, -1);
      }
      cdIndex = ssid;
    } else if ((stages & USES.S1) !== 0 && cdMax > 0) {
      const dss = getField(raw, r, STE.S1DSS);
      if (dss === STE_S1DSS.bypass) stages &= ~USES.S1;
      else if (dss !== STE_S1DSS.ssid0) return this.#faults.configuration(EVENTS.F_STREAM_DISABLED.type, sid, -1);
    }

    const privcfg = features.attrPermsOvr ? getField(raw, r, STE.PRIVCFG) : 0;
    const instcfg = features.attrPermsOvr ? getField(raw, r, STE.INSTCFG) : 0;
    const override = overrideIndex(privcfg, instcfg);
    let faults = getField(raw, r, STE.S2R) === 1 ? FAULTS.S2R : 0;
    if ((stages & USES.S2) !== 0) {
      this.#loaded = -1;
      configureStage2(this.stage2, raw, r, features);
    }
    const vmid = getField(raw, r, STE.S2VMID) & features.vmidMask;
    let kind: number = KIND.IPA;
    let tag = vmid << 16;
    let tbi = 0;
    if ((stages & USES.S1) !== 0) {
      kind = streamKind(raw, r, features);
      const status = fetcher.cd(sid, cdIndex, raw, r, (stages & USES.S2) !== 0);
      counts[fetcher.hit ? this.#cdHits : this.#cdMisses]!++;
      if (status === STAGE2_FAULT) {
        this.#contexts[c + FAULT_CONFIG] = faults;
        const need = NEED[override | (flags & 7)]!;
        return this.#faults.stage2(this.#contexts[c + FAULT_CONFIG]!, fetcher.walkStatus, FAULT_CLASS.CD, fetcher.ipaLo, fetcher.ipaHi, sid, ssid, lo, hi, need);
      }
      if (status !== 0) {
        // Through S1DSS the substream was 0 although the transaction had none (7.3.9).
        const shown = status === EVENTS.C_BAD_SUBSTREAMID.type ? cdIndex : ssid;
        return this.#faults.configuration(status, sid, shown);
      }
      const cds = this.#cds.data;
      const cd = fetcher.at;
      const single = isSingle(kind, this.#file);
      const s1Stalld = getField(raw, r, STE.S1STALLD) === 1;
      if (!this.#cdChecker.check(cds, cd, s1Stalld, single)) {
        return this.#faults.configuration(EVENTS.C_BAD_CD.type, sid, ssid);
      }
      const asid = single ? 0 : getField(cds, cd, CD.ASID) & features.asidMask;
      tag = asid | (kind === KIND.EL2 ? 0 : vmid << 16);
      tbi = getField(cds, cd, CD.TBI0) | (getField(cds, cd, CD.TBI1) << 1);
      if (getField(cds, cd, CD.R) === 1) faults |= FAULTS.R;
      if (getField(cds, cd, CD.A) === 1) faults |= FAULTS.A;
    }

    const contexts = this.#contexts;
    contexts[c + SID] = sid;
    contexts[c + SSID] = ssid;
    contexts[c + STAGES] = stages;
    contexts[c + TAG] = tag;
    contexts[c + HASH] = Tlb.hash(tag, kind);
    contexts[c + OVERRIDE] = override;
    contexts[c + KEY] = Tlb.key(kind, false);
    contexts[c + TBI] = tbi;
    contexts[c + FAULT_CONFIG] = faults;
    contexts[c + CD_INDEX] = (stages & USES.S1) === 0 ? -1 : cdIndex;
    this.#refreshFloors(c);
    // Without caches a context serves the one transaction that resolved it.
    if (this.#keeps) contexts[c + EPOCH] = this.#epoch;
    if (this.#loaded === slot) this.#loaded = -1;
    return -1;
  }

  /** SMMUEN = 0: GBPA decides (3.11). */
  #disabled(lo: number, hi: number): number {
    if ((this.#file.get(OFFSET.GBPA) & GBPA_ABORT) !== 0) return TRANSLATION.abort;
    this.paLo = lo;
    this.paHi = hi;
    return TRANSLATION.ok;
  }

  /** Neither stage translates: the address must be within IAS (3.4.1). */
  #bypass(sid: number, ssid: number, lo: number, hi: number, need: number): number {
    if (this.#beyondInput(hi)) return this.#faults.bypass(sid, ssid, lo, hi, need);
    this.paLo = lo;
    this.paHi = hi;
    return TRANSLATION.ok;
  }

  #beyondInput(hi: number): boolean {
    return (hi & ~((1 << (this.#features.iasBits - 32)) - 1)) !== 0;
  }

  /**
   * Sets up the walkers for a context, unless they are. Returns false where the configuration caches have dropped what the
   * context was made from to make room.
   */
  #load(slot: number, sid: number): boolean {
    if (this.#keeps && this.#loaded === slot && this.#loadedEpoch === this.#epoch) return true;
    const c = slot * CONTEXT;
    const contexts = this.#contexts;
    const stages = contexts[c + STAGES]!;
    const nested = (stages & USES.S2) !== 0;
    const cdIndex = contexts[c + CD_INDEX]!;
    const ste = this.#keeps ? this.#stes.find(sid, -1) : this.#stes.last;
    const cd = this.#keeps && cdIndex >= 0 ? this.#cds.find(sid, cdIndex) : this.#cds.last;
    if (ste < 0 || (cdIndex >= 0 && cd < 0)) return false;
    const words = this.#stes.data;
    if (nested) configureStage2(this.stage2, words, ste, this.#features);
    if ((stages & USES.S1) !== 0) {
      const ptw = getField(words, ste, STE.S2PTW) === 1;
      const single = isSingle(contexts[c + KEY]! >>> 20, this.#file);
      configureStage1(this.stage1, this.#cds.data, cd, this.#features, nested, ptw, single);
    }
    this.#loaded = slot;
    this.#loadedEpoch = this.#epoch;
    return true;
  }

  #miss(slot: number, sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    if (!this.#load(slot, sid)) {
      const outcome = this.#resolve(slot, sid, ssid, lo, hi, flags);
      if (outcome >= 0) return outcome;
      this.#load(slot, sid);
    }
    const c = slot * CONTEXT;
    const need = NEED[this.#contexts[c + OVERRIDE]! | (flags & 7)]!;
    this.#counts[this.#tlbMisses]!++;
    const reads = this.stage1.reads + this.stage2.reads;
    const result =
      (this.#contexts[c + STAGES]! & USES.S1) !== 0
        ? this.#walkStage1(c, sid, ssid, lo, hi, need)
        : this.#walkStage2(c, sid, ssid, lo, hi, need);
    this.#counts[this.#walkReads]! += this.stage1.reads + this.stage2.reads - reads;
    return result;
  }

  #walkStage1(c: number, sid: number, ssid: number, lo: number, hi: number, need: number): number {
    const walker = this.stage1;
    const status = walker.walk(lo, hi, need);
    if (status === WALK.OK) {
      const kind = this.#contexts[c + KEY]! >>> 20;
      const fill = this.#fill;
      fill.pageShift = walker.pageShift;
      fill.leafShift = walker.shift;
      fill.level = walker.level;
      // Global pages are a matter of worlds with ASIDs.
      fill.global = (walker.descLo & 0x800) === 0 && !isSingle(kind, this.#file);
      fill.ipaLo = walker.ipaLo;
      fill.ipaHi = walker.ipaHi;
      fill.perm = walker.perm;
      fill.perm2 = walker.perm2;
      this.#keep(c, kind, lo, hi, walker.paLo, walker.paHi);
      return TRANSLATION.ok;
    }
    if (walker.stage === 2) {
      return this.#faults.stage2(this.#contexts[c + FAULT_CONFIG]!, status, walker.faultClass, walker.ipaLo, walker.ipaHi, sid, ssid, lo, hi, need);
    }
    return this.#faults.stage1(this.#contexts[c + FAULT_CONFIG]!, status, sid, ssid, lo, hi, need);
  }

  #walkStage2(c: number, sid: number, ssid: number, lo: number, hi: number, need: number): number {
    if (this.#beyondInput(hi)) return this.#faults.bypass(sid, ssid, lo, hi, need);
    const walker = this.stage2;
    const status = walker.walk(lo, hi, need);
    if (status !== WALK.OK) return this.#faults.stage2(this.#contexts[c + FAULT_CONFIG]!, status, FAULT_CLASS.IN, lo, hi, sid, ssid, lo, hi, need);
    const fill = this.#fill;
    fill.pageShift = walker.shift;
    fill.leafShift = walker.shift;
    fill.level = walker.level;
    fill.global = false;
    fill.ipaLo = lo;
    fill.ipaHi = hi;
    fill.perm = PERM.ALL;
    fill.perm2 = walker.perm;
    this.#keep(c, KIND.IPA, lo, hi, walker.paLo, walker.paHi);
    return TRANSLATION.ok;
  }

  #keep(c: number, kind: number, lo: number, hi: number, paLo: number, paHi: number): void {
    this.paLo = paLo;
    this.paHi = paHi;
    const fill = this.#fill;
    fill.paLo = paLo;
    fill.paHi = paHi;
    const tbi = this.#contexts[c + TBI]!;
    const top = ((tbi >>> ((hi >>> 23) & 1)) & 1) !== 0 ? (hi << 8) >> 8 : hi;
    this.tlb.insert((lo >>> 12) | (top << 20), top >>> 12, kind, this.#contexts[c + TAG]!, fill);
  }

  /** A TLB entry that does not permit the access. Stage 1 comes first (3.4, 2.5 of the walk). */
  #permissionFault(c: number, at: number, sid: number, ssid: number, lo: number, hi: number, need: number): number {
    const data = this.tlb.data;
    if ((data[at + 4]! & need) === 0) {
      return this.#faults.stage1(this.#contexts[c + FAULT_CONFIG]!, WALK.PERMISSION, sid, ssid, lo, hi, need);
    }
    const shift = data[at + 2]! >>> 24;
    const offset = shift < 32 ? (1 << shift) - 1 : -1;
    const ipaLo = (data[at + 6]! & ~0xfff & ~offset) | (lo & offset);
    return this.#faults.stage2(this.#contexts[c + FAULT_CONFIG]!, WALK.PERMISSION, FAULT_CLASS.IN, ipaLo, data[at + 7]!, sid, ssid, lo, hi, need);
  }
}
