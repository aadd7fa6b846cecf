import { ACCESS, LEVEL, TRANSLATION } from "@smmuv3/platform";
import type { Counters, Memory } from "@smmuv3/platform";
import { CD, EVENTS, getField, maskOf, OFFSET, REG, STE, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import { FAULT_CLASS, PERM, Stage1Walker, Stage2Walker, WALK } from "@smmuv3/vmsa-walk";
import { NEED, overrideIndex } from "./attributes.ts";
import { CdChecker } from "./cd-rules.ts";
import { ConfigFetcher, selectSubstream, STAGE1_BYPASS, STAGE2_FAULT } from "./config.ts";
import type { ConfigCache } from "./config-cache.ts";
import type { EventQueue } from "./events.ts";
import { cdFaults, FaultReporter, FAULTS, steFaults } from "./faults.ts";
import { cacheable, CLEAN, emptyFill, fillStage1, fillStage2 } from "./fill.ts";
import type { Passed } from "./output-attributes.ts";
import type { SmmuPolicy } from "./policy.ts";
import type { Features } from "./presets.ts";
import { cdContext, configureStage1, configureStage2, isSingle, streamKind } from "./regime.ts";
import type { RegisterFile } from "./registers.ts";
import { SteChecker, usesVms } from "./ste-rules.ts";
import { ATTRIBUTES_SHIFT, CLEAN_SHIFT, KIND, Tlb } from "./tlb.ts";
import type { TlbFill } from "./tlb.ts";
import type { ReadRecorder } from "./trace.ts";
import { CachedWalks } from "./walk-cache.ts";

/** Streams resolved and ready for a TLB look-up: direct mapped, in front of the configuration caches. */
const CONTEXTS = 4096;
/** Words of a context; CD_INDEX is -1 without stage 1, FAULT_CONFIG has flags of FAULTS. */
const CONTEXT = 16;
const SID = 0;
const SSID = 1;
const EPOCH = 2;
/** Packed: `overrideIndex` [6:3], {@link USES} [9:8], TBI0 [10], TBI1 [11], kind [21:20] as in a TLB key. */
const SHAPE = 3;
const TAG = 4;
const HASH = 5;
const FLOOR = 6;
const GLOBAL_FLOOR = 7;
const FLOOR_EPOCH = 8;
const FAULT_CONFIG = 9;
const CD_INDEX = 10;
/** Bits of the high word of an input address that must be zero where no stage translates. */
const TOO_HIGH = 11;
const OVERRIDE_BITS = 0x78;
const TBI_SHIFT = 10;
const TBI_BITS = 3 << TBI_SHIFT;
const KEY_BITS = 3 << 20;
/** Stages in use; neither where the stream bypasses. */
const USES = { S1: 1 << 8, S2: 2 << 8 } as const;
const USES_BITS = USES.S1 | USES.S2;
const SMMUEN = maskOf(REG.CR0ACK.SMMUEN);
const WRITES = PERM.WRITE | PERM.PRIV_WRITE;
const UNPRIVILEGED = PERM.READ | PERM.WRITE | PERM.EXECUTE;
const GBPA_ABORT = maskOf(REG.GBPA.ABORT);

/**
 * The translation of a transaction, IHI 0070 3.3 and 7.3.22: configuration, TLB, walks, faults. The order of checks is that
 * of the manual; the common case, a resolved stream with a TLB hit, is one function without allocation.
 */
export class TranslationUnit {
  paLo = 0;
  paHi = 0;
  /** Service Failure Mode: every transaction is aborted (12.3). */
  failed = false;

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
  /** Invalid STEs and CDs are not kept. */
  readonly #refetches: boolean;
  /** Bits of a high word beyond OAS, and beyond IAS. */
  readonly #beyondOas: number;
  readonly #beyondIas: number;
  readonly #contexts = new Int32Array(CONTEXTS * CONTEXT);
  readonly #walks: CachedWalks | undefined;
  #epoch = 1;
  /** Context that the walkers are set up for, and the epoch of that. */
  #loaded = -1;
  #loadedEpoch = 0;
  readonly #fill: TlbFill = emptyFill();

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
    policy: SmmuPolicy,
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
    this.#beyondOas = ~((1 << (features.oasBits - 32)) - 1);
    this.#beyondIas = ~((1 << (features.iasBits - 32)) - 1);
    this.#steChecker = new SteChecker(features);
    this.#cdChecker = new CdChecker(features);
    this.stage2 = new Stage2Walker(memory);
    this.stage1 = new Stage1Walker(memory, this.stage2);
    const fetcher = new ConfigFetcher(file, features, memory, stes, cds, this.stage2, policy.pointerOverflow === "abort");
    this.#refetches = policy.invalidConfigCaching === "refetch";
    this.#fetcher = fetcher;
    this.#faults = new FaultReporter(events, fetcher, this.stage1, this.stage2);
    this.#walks = keeps && tlb.walks !== undefined ? new CachedWalks(tlb.walks, features, this.stage1, this.stage2) : undefined;
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

  /** Reports every structure and descriptor that is read to `recorder`; null stops that. */
  trace(recorder: ReadRecorder | null): void {
    this.#fetcher.trace = recorder === null ? null : recorder.config;
    const walk = recorder === null ? null : recorder.walk;
    // Stage 2 goes with it.
    this.stage1.trace = walk;
  }

  /** Configuration may have changed: resolved streams are looked up again. */
  forgetContexts(): void {
    this.#epoch = (this.#epoch + 1) | 0;
  }

  /**
   * Brings the configuration of a stream into the caches (CMD_PREFETCH_CONFIG, 4.2.1); `ssid` is -1 without one. The caller
   * mutes events.
   */
  prefetch(sid: number, ssid: number): void {
    if ((this.#file.get(OFFSET.CR0ACK) & SMMUEN) !== 0) this.#resolve(contextSlot(sid, ssid), sid, ssid, 0, 0, ACCESS.read);
  }

  /** See `Translator.translate` of the platform. */
  translate(sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    const contexts = this.#contexts;
    const counts = this.#counts;
    const key = (flags & ACCESS.ssidValid) !== 0 ? ssid : -1;
    const slot = contextSlot(sid, key);
    const c = slot * CONTEXT;
    counts[this.#translations]!++;
    this.#faults.last = 0;
    if (contexts[c + EPOCH] !== this.#epoch || contexts[c + SID] !== sid || contexts[c + SSID] !== key) {
      const outcome = this.#resolve(slot, sid, key, lo, hi, flags);
      if (outcome >= 0) return outcome;
    } else {
      counts[this.#steHits]!++;
    }
    const shape = contexts[c + SHAPE]!;
    const need = NEED[(shape & OVERRIDE_BITS) | (flags & 7)]!;
    if ((shape & USES_BITS) === 0) return this.#bypass(c, sid, key, lo, hi, need);

    const tlb = this.tlb;
    if (contexts[c + FLOOR_EPOCH] !== tlb.floorEpoch) this.#refreshFloors(c);
    const top = (shape & TBI_BITS) === 0 ? hi : untagged(hi, shape);
    const vpnLo = (lo >>> 12) | (top << 20);
    const vpnHi = top >>> 12;
    const keyBits = shape & KEY_BITS;
    let at = tlb.find(vpnLo, vpnHi, contexts[c + TAG]!, keyBits, contexts[c + HASH]!, contexts[c + FLOOR]!);
    if (at < 0 && tlb.hasGlobals) at = this.#findGlobal(c, vpnLo, vpnHi, keyBits);
    if (at < 0) return this.#miss(slot, sid, key, lo, hi, flags);

    counts[this.#tlbHits]!++;
    const data = tlb.data;
    const word4 = data[at + 4]!;
    if ((word4 & need) === 0 || ((word4 >>> 6) & need) === 0) {
      return this.#refused(slot, at, sid, key, lo, hi, flags);
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
    const kind = contexts[c + SHAPE]! >>> 20;
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
    if (this.failed) return TRANSLATION.abort;
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
    const legal = this.#steChecker.check(raw, r);
    if (!legal && this.#refetches) this.#stes.remove(sid, -1);
    if (!legal) return this.#faults.configuration(EVENTS.C_BAD_STE.type, sid, ssid);
    const config = getField(raw, r, STE.Config);
    if (config < STE_CONFIG.bypass) return TRANSLATION.abort;
    this.#faults.mev = getField(raw, r, STE.MEV) === 1;
    // The priority of this event after C_BAD_STE is IMPLEMENTATION DEFINED (7.3.20).
    const refused = usesVms(raw, r, features) ? fetcher.vms(raw, r) : 0;
    if (refused !== 0) return this.#faults.configuration(refused, sid, ssid);

    let stages = (config & 1 ? USES.S1 : 0) | (config & 2 ? USES.S2 : 0);
    const cdIndex = selectSubstream(raw, r, ssid, (stages & USES.S1) !== 0, features);
    if (cdIndex < STAGE1_BYPASS) return this.#faults.configuration(-cdIndex, sid, ssid);
    if (cdIndex === STAGE1_BYPASS) stages &= ~USES.S1;
    const override = features.attrPermsOvr ? overrideIndex(getField(raw, r, STE.PRIVCFG), getField(raw, r, STE.INSTCFG)) : 0;
    let faults = steFaults(raw, r);
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
        const need = NEED[override | (flags & 7)]!;
        return this.#faults.stage2(faults, fetcher.walkStatus, FAULT_CLASS.CD, fetcher.ipaLo, fetcher.ipaHi, sid, ssid, lo, hi, need);
      }
      // Through S1DSS the substream was 0 although the transaction had none (7.3.9).
      const shown = status === EVENTS.C_BAD_SUBSTREAMID.type ? cdIndex : ssid;
      if (status !== 0) return this.#faults.configuration(status, sid, shown);
      const cds = this.#cds.data;
      const cd = fetcher.at;
      const single = isSingle(kind, this.#file);
      const cdLegal = this.#cdChecker.check(cds, cd, cdContext(raw, r, kind, single));
      if (!cdLegal && this.#refetches) this.#cds.remove(sid, cdIndex);
      if (!cdLegal) return this.#faults.configuration(EVENTS.C_BAD_CD.type, sid, ssid);
      const asid = single ? 0 : getField(cds, cd, CD.ASID) & features.asidMask;
      tag = asid | (kind === KIND.EL2 ? 0 : vmid << 16);
      faults |= cdFaults(cds, cd, features.e0pd && !single);
      // VMSAv8-32 has no tags.
      if (getField(cds, cd, CD.AA64) === 1) tbi = getField(cds, cd, CD.TBI0) | (getField(cds, cd, CD.TBI1) << 1);
    }

    const contexts = this.#contexts;
    contexts[c + SID] = sid;
    contexts[c + SSID] = ssid;
    contexts[c + SHAPE] = override | stages | (tbi << TBI_SHIFT) | Tlb.key(kind, false);
    contexts[c + TAG] = tag;
    contexts[c + HASH] = Tlb.hash(tag, kind);
    contexts[c + FAULT_CONFIG] = faults;
    contexts[c + CD_INDEX] = cdIndex;
    contexts[c + TOO_HIGH] = config === STE_CONFIG.bypass ? this.#beyondOas : this.#beyondIas;
    this.#refreshFloors(c);
    // Without caches a context serves the one transaction that resolved it.
    if (this.#keeps) contexts[c + EPOCH] = this.#epoch;
    if (this.#loaded === slot) this.#loaded = -1;
    return -1;
  }

  /** SMMUEN = 0: GBPA decides (3.11); what exceeds OAS is aborted without a record (3.4). */
  #disabled(lo: number, hi: number): number {
    if ((this.#file.gbpa & GBPA_ABORT) !== 0 || (hi & this.#beyondOas) !== 0) return TRANSLATION.abort;
    this.paLo = lo;
    this.paHi = hi;
    return TRANSLATION.ok;
  }

  /** Neither stage translates: Config limits the address to OAS; S1DSS to IAS, and what passes is cut to OAS (3.4). */
  #bypass(c: number, sid: number, ssid: number, lo: number, hi: number, need: number): number {
    const contexts = this.#contexts;
    if ((hi & contexts[c + TOO_HIGH]!) !== 0) return this.#faults.bypass(contexts[c + FAULT_CONFIG]!, sid, ssid, lo, hi, need);
    this.paLo = lo;
    this.paHi = hi & ~this.#beyondOas;
    return TRANSLATION.ok;
  }

  /**
   * Sets up the walkers for a context, unless they are. Returns false where the configuration caches have dropped what the
   * context was made from to make room.
   */
  #load(slot: number, sid: number): boolean {
    if (this.#keeps && this.#loaded === slot && this.#loadedEpoch === this.#epoch) return true;
    const c = slot * CONTEXT;
    const contexts = this.#contexts;
    const stages = contexts[c + SHAPE]! & USES_BITS;
    const nested = (stages & USES.S2) !== 0;
    const cdIndex = contexts[c + CD_INDEX]!;
    const ste = this.#keeps ? this.#stes.find(sid, -1) : this.#stes.last;
    const cd = this.#keeps && cdIndex >= 0 ? this.#cds.find(sid, cdIndex) : this.#cds.last;
    if (ste < 0 || (cdIndex >= 0 && cd < 0)) return false;
    const words = this.#stes.data;
    if (nested) configureStage2(this.stage2, words, ste, this.#features);
    if ((stages & USES.S1) !== 0) {
      const ptw = getField(words, ste, STE.S2PTW) === 1;
      const single = isSingle(contexts[c + SHAPE]! >>> 20, this.#file);
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
    const need = NEED[(this.#contexts[c + SHAPE]! & OVERRIDE_BITS) | (flags & 7)]!;
    if (this.tlb.conflict) {
      this.tlb.conflict = false;
      const stage2 = (this.#contexts[c + SHAPE]! & USES.S1) === 0;
      return this.#faults.conflict(this.#contexts[c + FAULT_CONFIG]!, sid, ssid, lo, hi, need, stage2);
    }
    this.#counts[this.#tlbMisses]!++;
    const reads = this.stage1.reads + this.stage2.reads;
    const result =
      (this.#contexts[c + SHAPE]! & USES.S1) !== 0
        ? this.#walkStage1(c, sid, ssid, lo, hi, need)
        : this.#walkStage2(c, sid, ssid, lo, hi, need);
    this.#counts[this.#walkReads]! += this.stage1.reads + this.stage2.reads - reads;
    return result;
  }

  #walkStage1(c: number, sid: number, ssid: number, lo: number, hi: number, need: number): number {
    const walker = this.stage1;
    const shape = this.#contexts[c + SHAPE]!;
    const faults = this.#contexts[c + FAULT_CONFIG]!;
    const nested = (shape & USES.S2) !== 0;
    const status = this.#walks === undefined ? walker.walk(lo, hi, need) : this.#walkCached(c, sid, lo, hi, need);
    if (status === WALK.OK) {
      this.#keepStage1(c, lo, hi, nested);
      this.paLo = walker.paLo;
      this.paHi = walker.paHi;
      return TRANSLATION.ok;
    }
    if (walker.stage === 2) {
      const { faultClass, ipaLo, ipaHi } = walker;
      if (status === WALK.PERMISSION && faultClass === FAULT_CLASS.IN && cacheable(walker) && cacheable(this.stage2)) {
        this.#keepStage1(c, lo, hi, true);
      }
      return this.#faults.stage2(faults, status, faultClass, ipaLo, ipaHi, sid, ssid, lo, hi, need);
    }
    // What is refused for its rights may be kept (16.2), and shows the TLBI that a change of rights lacks.
    if (status === WALK.PERMISSION && !nested && cacheable(walker)) this.#keepStage1(c, lo, hi, false);
    return this.#faults.stage1(faults, status, sid, ssid, lo, hi, need);
  }

  #keepStage1(c: number, lo: number, hi: number, nested: boolean): void {
    const kind = this.#contexts[c + SHAPE]! >>> 20;
    fillStage1(this.#fill, this.stage1, nested, isSingle(kind, this.#file), this.#e0pd(c, hi));
    this.#insert(c, kind, lo, hi);
  }

  /** A walk through the walk cache; the walkers were set up by {@link #load}. */
  #walkCached(c: number, sid: number, lo: number, hi: number, need: number): number {
    const contexts = this.#contexts;
    const shape = contexts[c + SHAPE]!;
    const words = this.#stes.data;
    const ste = this.#stes.find(sid, -1);
    const top = untagged(hi, shape);
    const tag = contexts[c + TAG]!;
    if ((shape & USES.S1) === 0) {
      if (ste < 0) return this.stage2.walk(lo, hi, need);
      this.#loaded = -1;
      return this.#walks!.stage2(words, ste, tag, lo, top, need);
    }
    const kind = shape >>> 20;
    const single = isSingle(kind, this.#file);
    const cd = this.#cds.find(sid, contexts[c + CD_INDEX]!);
    if (ste < 0 || cd < 0) return this.stage1.walk(lo, hi, need);
    this.#loaded = -1;
    const ptw = getField(words, ste, STE.S2PTW) === 1;
    const nested = (shape & USES.S2) !== 0;
    return this.#walks!.stage1(this.#cds.data, cd, nested, ptw, single, kind, tag, lo, top, need);
  }

  #walkStage2(c: number, sid: number, ssid: number, lo: number, hi: number, need: number): number {
    const faults = this.#contexts[c + FAULT_CONFIG]!;
    if ((hi & this.#beyondIas) !== 0) return this.#faults.bypass(faults, sid, ssid, lo, hi, need);
    const walker = this.stage2;
    const status = this.#walks === undefined ? walker.walk(lo, hi, need) : this.#walkCached(c, sid, lo, hi, need);
    if (status === WALK.OK || (status === WALK.PERMISSION && cacheable(walker))) {
      fillStage2(this.#fill, walker, lo, hi);
      this.#insert(c, KIND.IPA, lo, hi);
    }
    if (status !== WALK.OK) return this.#faults.stage2(faults, status, FAULT_CLASS.IN, lo, hi, sid, ssid, lo, hi, need);
    this.paLo = walker.paLo;
    this.paHi = walker.paHi;
    return TRANSLATION.ok;
  }

  /** What an access that was just let pass went through. */
  passed(sid: number, ssid: number, lo: number, hi: number): Passed {
    const contexts = this.#contexts;
    const c = contextSlot(sid, ssid) * CONTEXT;
    const shape = contexts[c + SHAPE]!;
    const top = untagged(hi, shape);
    const vpn = (lo >>> 12) | (top << 20);
    const key = shape & KEY_BITS;
    let at = this.tlb.find(vpn, top >>> 12, contexts[c + TAG]!, key, contexts[c + HASH]!, contexts[c + FLOOR]!);
    if (at < 0) at = this.#findGlobal(c, vpn, top >>> 12, key);
    const raw = at < 0 ? this.#fill.attributes : this.tlb.data[at + 7]! >>> ATTRIBUTES_SHIFT;
    const ste = this.#keeps ? this.#stes.find(sid, -1) : this.#stes.last;
    const cd = this.#keeps ? this.#cds.find(sid, contexts[c + CD_INDEX]!) : this.#cds.last;
    const uses = { stage1: (shape & USES.S1) !== 0, stage2: (shape & USES.S2) !== 0 };
    return { override: shape & OVERRIDE_BITS, ...uses, raw, stes: this.#stes.data, ste, cds: this.#cds.data, cd };
  }

  #insert(c: number, kind: number, lo: number, hi: number): void {
    const contexts = this.#contexts;
    const top = untagged(hi, contexts[c + SHAPE]!);
    this.tlb.insert((lo >>> 12) | (top << 20), top >>> 12, kind, contexts[c + TAG]!, this.#fill);
  }

  /** Unprivileged accesses to this half of the address space fault (5.4 E0PD0). */
  #e0pd(c: number, hi: number): boolean {
    return (this.#contexts[c + FAULT_CONFIG]! & ((hi & 0x0080_0000) === 0 ? FAULTS.E0PD0 : FAULTS.E0PD1)) !== 0;
  }

  /** A TLB entry that does not permit the access. Stage 1 comes first (7.3.22); a page that is clean is walked again. */
  #refused(slot: number, at: number, sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    const c = slot * CONTEXT;
    const faults = this.#contexts[c + FAULT_CONFIG]!;
    const need = NEED[(this.#contexts[c + SHAPE]! & OVERRIDE_BITS) | (flags & 7)]!;
    const data = this.tlb.data;
    const word4 = data[at + 4]!;
    const clean = (need & WRITES) === 0 ? 0 : data[at + 5]! >>> CLEAN_SHIFT;
    if ((word4 & need) === 0 && (clean & CLEAN.S1) === 0) {
      const status = (need & UNPRIVILEGED) !== 0 && this.#e0pd(c, hi) ? WALK.TRANSLATION : WALK.PERMISSION;
      return this.#faults.stage1(faults, status, sid, ssid, lo, hi, need);
    }
    if (((word4 >>> 6) & need) !== 0 || (clean & CLEAN.S2) !== 0) return this.#miss(slot, sid, ssid, lo, hi, flags);
    const shift = data[at + 2]! >>> 24;
    const below = shift < 32 ? (1 << shift) - 1 : -1;
    const ipaLo = (data[at + 6]! & ~0xfff & ~below) | (lo & below);
    const ipaHi = (data[at + 7]! & 0xf_ffff) | (shift <= 32 ? 0 : hi & ((1 << (shift - 32)) - 1));
    return this.#faults.stage2(faults, WALK.PERMISSION, FAULT_CLASS.IN, ipaLo, ipaHi, sid, ssid, lo, hi, need);
  }
}

/** High word of an address whose tag TBI ignores: extended from bit 55, under which the TLB keeps it. */
function untagged(hi: number, shape: number): number {
  return ((shape >>> (TBI_SHIFT + ((hi >>> 23) & 1))) & 1) !== 0 ? (hi << 8) >> 8 : hi;
}

/** Where the context of a stream is; `ssid` is -1 without one. */
function contextSlot(sid: number, ssid: number): number {
  return (sid + Math.imul(ssid + 1, 0x9e3b)) & (CONTEXTS - 1);
}
