import { ACCESS, LEVEL, TRANSLATION } from "@smmuv3/platform";
import type { Counters, Memory } from "@smmuv3/platform";
import { getField, maskOf, OFFSET, REG, STE } from "@smmuv3/smmu-v3-defs";
import { FAULT_CLASS, PERM, Stage1Walker, Stage2Walker, WALK } from "@smmuv3/vmsa-walk";
import { NEED } from "./attributes.ts";
import { ConfigFetcher } from "./config.ts";
import type { ConfigCache } from "./config-cache.ts";
import { CONTEXT, contextAt, emptyContexts, TBI_SHIFT, untagged, USES } from "./contexts.ts";
import type { Observer } from "./contexts.ts";
import type { EventQueue } from "./events.ts";
import { FaultReporter, FAULTS } from "./faults.ts";
import { cacheable, CLEAN, emptyFill, fillStage1, fillStage2 } from "./fill.ts";
import type { Passed } from "./output-attributes.ts";
import { OTHER, PageMisses } from "./page-misses.ts";
import type { SmmuPolicy } from "./policy.ts";
import type { Features } from "./presets.ts";
import { isSingle } from "./regime.ts";
import type { RegisterFile } from "./registers.ts";
import { StreamResolver } from "./resolve.ts";
import { ATTRIBUTES_SHIFT, CLEAN_SHIFT, KIND, Tlb } from "./tlb.ts";
import type { TlbFill } from "./tlb.ts";
import type { ReadRecorder } from "./trace.ts";
import { CachedWalks } from "./walk-cache.ts";
import { WalkerSetup } from "./walker-setup.ts";

// Of this module, for the compiler to see them as constants.
const { SSID, EPOCH, SHAPE, TAG, HASH, FLOOR, GLOBAL_FLOOR, FLOOR_EPOCH, FAULT_CONFIG, CD_INDEX, TOO_HIGH, PAGE_KEY, STE_AT, CD_AT } = CONTEXT;
const { S1, S2 } = USES;
const NEEDS = NEED;
const SSID_VALID = ACCESS.ssidValid;
const OK = TRANSLATION.ok;
const OVERRIDE_BITS = 0x78;
const TBI_BITS = 3 << TBI_SHIFT;
const KEY_BITS = 3 << 20;
const WALKED = WALK.OK;
const OTHER_WALK = OTHER;
const USES_BITS = USES.S1 | USES.S2;
const SMMUEN = maskOf(REG.CR0ACK.SMMUEN);
const WRITES = PERM.WRITE | PERM.PRIV_WRITE;
const UNPRIVILEGED = PERM.READ | PERM.WRITE | PERM.EXECUTE;
const GBPA_ABORT = maskOf(REG.GBPA.ABORT);

/** No context has it. */
const NEVER = -2;

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
  readonly #faults: FaultReporter;
  readonly #fetcher: ConfigFetcher;
  readonly #stes: ConfigCache;
  readonly #cds: ConfigCache;
  readonly #resolver: StreamResolver;
  readonly #setup: WalkerSetup;
  readonly #keeps: boolean;
  /** Bits of a high word beyond OAS, and beyond IAS. */
  readonly #beyondOas: number;
  readonly #beyondIas: number;
  readonly #contexts = emptyContexts();
  readonly #walks: CachedWalks | undefined;
  #epoch = 1;
  /** The same for {@link translate} itself, which does nothing for an observer or a TLB of another kind. */
  #hotEpoch = NEVER;
  readonly #plain: boolean;
  #observer: Observer | null = null;
  /** Context that the walkers are set up for, and the epoch of that. */
  #loaded = -1;
  #loadedEpoch = 0;
  readonly #pageMisses: PageMisses | undefined;
  readonly #fill: TlbFill = emptyFill();

  readonly #counts: Float64Array;
  readonly #translations: number;
  readonly #tlbHits: number;
  readonly #tlbMisses: number;
  readonly #steHits: number;
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
    this.tlb = tlb;
    this.#plain = tlb.constructor === Tlb;
    this.#setHot();
    this.#stes = stes;
    this.#cds = cds;
    this.#keeps = keeps;
    this.#beyondOas = ~((1 << (features.oasBits - 32)) - 1);
    this.#beyondIas = ~((1 << (features.iasBits - 32)) - 1);
    this.stage2 = new Stage2Walker(memory);
    this.stage1 = new Stage1Walker(memory, this.stage2);
    const fetcher = new ConfigFetcher(file, features, memory, stes, cds, this.stage2, policy.pointerOverflow === "abort");
    this.#fetcher = fetcher;
    this.#faults = new FaultReporter(events, fetcher, this.stage1, this.stage2);
    this.#setup = new WalkerSetup(features, this.stage1, this.stage2);
    this.#resolver = new StreamResolver(
      file, features, policy, this.#contexts, fetcher, this.#faults, stes, cds, this.#setup, counters,
    );
    this.#walks = keeps && tlb.walks !== undefined ? new CachedWalks(tlb.walks, features, this.stage1, this.stage2) : undefined;
    const learns = this.#plain && tlb.enabled && this.#walks === undefined;
    this.#pageMisses = learns ? new PageMisses(this.#contexts, tlb, this.stage1, memory) : undefined;
    this.#counts = counters.values;
    const id = (name: string): number => counters.id(name) + LEVEL.device;
    this.#translations = id("translations");
    this.#tlbHits = id("tlb.hits");
    this.#tlbMisses = id("tlb.misses");
    this.#steHits = id("ste.hits");
    this.#walkReads = id("walkReads");
  }

  /** Type of the event that the last transaction caused, recorded or not; 0 for none. */
  get lastEvent(): number {
    return this.#faults.last;
  }

  /** Reports every structure and descriptor that is read to `recorder`; null stops that. */
  trace(recorder: ReadRecorder | null): void {
    this.#fetcher.trace = recorder === null ? null : recorder.config;
    // Stage 2 goes with it.
    this.stage1.trace = recorder === null ? null : recorder.walk;
  }

  /** Configuration may have changed: resolved streams are looked up again. */
  forgetContexts(): void {
    // Never one that an empty context has.
    this.#epoch = this.#epoch === 0x7fff_ffff ? 1 : this.#epoch + 1;
    this.#setHot();
  }

  #setHot(): void {
    this.#hotEpoch = this.#plain && this.#observer === null ? this.#epoch : NEVER;
  }

  /** Has each transaction run by `observer`, which calls its last parameter to have it done. */
  observe(observer: Observer): void {
    this.#observer = observer;
    this.#setHot();
  }

  /**
   * Brings the configuration of a stream into the caches (CMD_PREFETCH_CONFIG, 4.2.1); `ssid` is -1 without one. The caller
   * mutes events.
   */
  prefetch(sid: number, ssid: number): void {
    if ((this.#file.get(OFFSET.CR0ACK) & SMMUEN) !== 0) this.#resolve(contextAt(sid, ssid), sid, ssid, 0, 0, ACCESS.read);
  }

  /** See `Translator.translate` of the platform. A resolved stream and a page in the TLB that permits the access, or {@link #whole}. */
  translate(sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    const contexts = this.#contexts;
    const key = (flags & SSID_VALID) !== 0 ? ssid : -1;
    const c = contextAt(sid, key);
    if (contexts[c | EPOCH] !== this.#hotEpoch || contexts[c] !== sid || contexts[c | SSID] !== key) {
      return this.#whole(sid, ssid, lo, hi, flags);
    }
    const counts = this.#counts;
    const tlb = this.tlb;
    counts[this.#translations]!++;
    counts[this.#steHits]!++;
    this.#faults.last = 0;
    if (contexts[c | FLOOR_EPOCH] !== tlb.floorEpoch) this.#refreshFloors(c);
    const at = tlb.hit(contexts, c, (lo >>> 12) | (hi << 20), hi >>> 12);
    if (at >= 0) {
      const data = tlb.data;
      const word4 = data[at | 4]!;
      if ((word4 & (word4 >>> 6) & NEEDS[(contexts[c | SHAPE]! & OVERRIDE_BITS) | (flags & 7)]!) !== 0) {
        counts[this.#tlbHits]!++;
        this.paLo = (word4 & ~0xfff) | (lo & 0xfff);
        this.paHi = data[at | 5]! & 0xf_ffff;
        return OK;
      }
    }
    return this.#missed(c, at, sid, key, lo, hi, flags);
  }

  /**
   * What {@link translate} leaves undone. The walkers may still be set up for this stream, and the page an ordinary one.
   * @param found what {@link Tlb.hit} has found
   */
  #missed(c: number, found: number, sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    const contexts = this.#contexts;
    if (found >= 0 || this.tlb.variety !== 0 || contexts[c | PAGE_KEY] === -1) return this.#search(c, sid, ssid, lo, hi, flags);
    const pages = this.#pageMisses;
    const shape = contexts[c | SHAPE]!;
    if (pages === undefined || this.#loaded !== c || this.#loadedEpoch !== this.#epoch || (shape & USES_BITS) !== S1) {
      return this.#miss(c, 0, sid, ssid, lo, hi, flags);
    }
    const known = pages.stage1(c, lo, hi, NEEDS[(shape & OVERRIDE_BITS) | (flags & 7)]!);
    return known < 0 ? this.#miss(c, known, sid, ssid, lo, hi, flags) : this.#took(pages, known);
  }

  /** Ends a transaction that {@link PageMisses} has done. */
  #took(pages: PageMisses, reads: number): number {
    this.#counts[this.#tlbMisses]!++;
    this.#counts[this.#walkReads]! += reads;
    this.paLo = pages.paLo;
    this.paHi = pages.paHi;
    return OK;
  }

  /** A transaction from its beginning. */
  #whole(sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    const key = (flags & SSID_VALID) !== 0 ? ssid : -1;
    return this.#observer === null ? this.#run(sid, key, lo, hi, flags) : this.#observed(this.#observer, sid, key, lo, hi, flags);
  }

  /** Apart from {@link #whole}, for which the closure would be garbage. */
  #observed(observer: Observer, sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    return observer(sid, ssid, lo, hi, () => this.#run(sid, ssid, lo, hi, flags));
  }

  #run(sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    const contexts = this.#contexts;
    const c = contextAt(sid, ssid);
    this.#counts[this.#translations]!++;
    this.#faults.last = 0;
    if (contexts[c | EPOCH] !== this.#epoch || contexts[c] !== sid || contexts[c | SSID] !== ssid) {
      const outcome = this.#resolve(c, sid, ssid, lo, hi, flags);
      if (outcome >= 0) return outcome;
    } else {
      this.#counts[this.#steHits]!++;
    }
    return this.#search(c, sid, ssid, lo, hi, flags);
  }

  /** All of a transaction that follows the configuration of its stream. */
  #search(c: number, sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    const contexts = this.#contexts;
    const shape = contexts[c | SHAPE]!;
    const need = NEEDS[(shape & OVERRIDE_BITS) | (flags & 7)]!;
    if ((shape & USES_BITS) === 0) return this.#bypass(c, sid, ssid, lo, hi, need);

    const tlb = this.tlb;
    if (contexts[c | FLOOR_EPOCH] !== tlb.floorEpoch) this.#refreshFloors(c);
    const top = (shape & TBI_BITS) === 0 ? hi : untagged(hi, shape);
    const vpnLo = (lo >>> 12) | (top << 20);
    const vpnHi = top >>> 12;
    const keyBits = shape & KEY_BITS;
    let at = tlb.find(vpnLo, vpnHi, contexts[c | TAG]!, keyBits, contexts[c | HASH]!, contexts[c | FLOOR]!);
    if (at < 0 && tlb.hasGlobals) at = this.#findGlobal(c, vpnLo, vpnHi, keyBits);
    if (at < 0) return this.#miss(c, 0, sid, ssid, lo, hi, flags);

    this.#counts[this.#tlbHits]!++;
    const data = tlb.data;
    const word4 = data[at | 4]!;
    if ((word4 & (word4 >>> 6) & need) === 0) return this.#refused(c, at, sid, ssid, lo, hi, flags);
    const shift = data[at | 2]! >>> 24;
    const offset = shift < 32 ? (1 << shift) - 1 : -1;
    this.paLo = (word4 & ~0xfff & ~offset) | (lo & offset);
    this.paHi = (data[at | 5]! & 0xf_ffff) | (shift <= 32 ? 0 : hi & ((1 << (shift - 32)) - 1));
    return OK;
  }

  #findGlobal(c: number, vpnLo: number, vpnHi: number, key: number): number {
    const contexts = this.#contexts;
    const tag = contexts[c | TAG]! & ~0xffff;
    const kind = key >>> 20;
    return this.tlb.find(vpnLo, vpnHi, tag, Tlb.key(kind, true), Tlb.hash(tag, kind), contexts[c | GLOBAL_FLOOR]!);
  }

  #refreshFloors(c: number): void {
    const contexts = this.#contexts;
    const kind = contexts[c | SHAPE]! >>> 20;
    const tag = contexts[c | TAG]!;
    contexts[c | FLOOR] = this.tlb.floor(kind, tag >>> 16, tag & 0xffff);
    contexts[c | GLOBAL_FLOOR] = this.tlb.floor(kind, tag >>> 16, -1);
    contexts[c | FLOOR_EPOCH] = this.tlb.floorEpoch;
  }

  /**
   * Brings the configuration of a stream into the context at `c`. Returns a TRANSLATION result where that ends the transaction,
   * else -1.
   */
  #resolve(c: number, sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    if (this.failed) return TRANSLATION.abort;
    if ((this.#file.get(OFFSET.CR0ACK) & SMMUEN) === 0) return this.#disabled(lo, hi);
    const contexts = this.#contexts;
    // Whatever happens from here on, the old content of the context is gone, and perhaps the set-up of the stage-2 walker.
    contexts[c | EPOCH] = 0;
    this.#loaded = -1;
    const outcome = this.#resolver.resolve(c, sid, ssid, lo, hi, flags);
    if (outcome >= 0) return outcome;
    this.#refreshFloors(c);
    // Without caches a context serves the one transaction that resolved it.
    if (this.#keeps) contexts[c | EPOCH] = this.#epoch;
    return -1;
  }

  /** SMMUEN = 0: GBPA decides (3.11); what exceeds OAS is aborted without a record (3.4). */
  #disabled(lo: number, hi: number): number {
    if ((this.#file.gbpa & GBPA_ABORT) !== 0 || (hi & this.#beyondOas) !== 0) return TRANSLATION.abort;
    this.paLo = lo;
    this.paHi = hi;
    return OK;
  }

  /** Neither stage translates: Config limits the address to OAS; S1DSS to IAS, and what passes is cut to OAS (3.4). */
  #bypass(c: number, sid: number, ssid: number, lo: number, hi: number, need: number): number {
    const contexts = this.#contexts;
    if ((hi & contexts[c | TOO_HIGH]!) !== 0) return this.#faults.bypass(contexts[c | FAULT_CONFIG]!, sid, ssid, lo, hi, need);
    this.paLo = lo;
    this.paHi = hi & ~this.#beyondOas;
    return OK;
  }

  /**
   * Sets up the walkers for the context at `c`. Returns false where the configuration caches have dropped what the context was made
   * from to make room.
   */
  #load(c: number): boolean {
    const contexts = this.#contexts;
    const shape = contexts[c | SHAPE]!;
    const nested = (shape & S2) !== 0;
    const sid = contexts[c]!;
    const ste = contexts[c | STE_AT]!;
    if (this.#keeps && !this.#stes.holds(ste, sid, -1)) return false;
    if ((shape & S1) !== 0) {
      const cd = contexts[c | CD_AT]!;
      if (this.#keeps && !this.#cds.holds(cd, sid, contexts[c | CD_INDEX]!)) return false;
      this.#setup.stage1(this.#cds.data, cd, this.#stes.data, ste, nested, isSingle(shape >>> 20, this.#file));
    }
    if (nested) this.#setup.stage2(this.#stes.data, ste);
    this.#loaded = c;
    this.#loadedEpoch = this.#epoch;
    return true;
  }

  /** @param tried what {@link PageMisses.stage1} has found out; 0 where it was not asked */
  #miss(c: number, tried: number, sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    if ((this.#loaded !== c || this.#loadedEpoch !== this.#epoch) && !this.#load(c)) {
      const outcome = this.#resolve(c, sid, ssid, lo, hi, flags);
      if (outcome >= 0) return outcome;
      this.#load(c);
    }
    const shape = this.#contexts[c | SHAPE]!;
    const need = NEEDS[(shape & OVERRIDE_BITS) | (flags & 7)]!;
    if (this.tlb.conflict) {
      this.tlb.conflict = false;
      return this.#faults.conflict(this.#contexts[c | FAULT_CONFIG]!, sid, ssid, lo, hi, need, (shape & S1) === 0);
    }
    const pages = this.#pageMisses;
    let known = tried === 0 ? OTHER_WALK : tried;
    if (tried === 0 && pages !== undefined && (shape & USES_BITS) === S1) {
      known = pages.stage1(c, lo, hi, need);
      if (known > 0) return this.#took(pages, known);
    }
    this.#counts[this.#tlbMisses]!++;
    const reads = this.stage1.reads + this.stage2.reads;
    const result = (shape & S1) !== 0 ? this.#walkStage1(c, known, sid, ssid, lo, hi, need) : this.#walkStage2(c, sid, ssid, lo, hi, need);
    this.#counts[this.#walkReads]! += this.stage1.reads + this.stage2.reads - reads;
    return result;
  }

  /** @param known what {@link PageMisses.stage1} has found out */
  #walkStage1(c: number, known: number, sid: number, ssid: number, lo: number, hi: number, need: number): number {
    const walker = this.stage1;
    const shape = this.#contexts[c | SHAPE]!;
    const faults = this.#contexts[c | FAULT_CONFIG]!;
    const nested = (shape & S2) !== 0;
    const pages = this.#pageMisses;
    const status =
      this.#walks !== undefined
        ? this.#walkCached(c, sid, lo, hi, need)
        : known === OTHER_WALK
          ? walker.walk(lo, hi, need)
          : walker.walkFully(lo, hi, need);
    if (status === WALKED) {
      if (!nested || pages === undefined || this.#e0pd(c, hi) || pages.keepNested(c, lo, hi) === 0) this.#keepStage1(c, lo, hi, nested);
      this.paLo = walker.paLo;
      this.paHi = walker.paHi;
      return OK;
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
    const kind = this.#contexts[c | SHAPE]! >>> 20;
    fillStage1(this.#fill, this.stage1, nested, isSingle(kind, this.#file), this.#e0pd(c, hi));
    this.#insert(c, kind, lo, hi);
  }

  /** A walk through the walk cache; the walkers were set up by {@link #load}. */
  #walkCached(c: number, sid: number, lo: number, hi: number, need: number): number {
    const contexts = this.#contexts;
    const shape = contexts[c | SHAPE]!;
    const words = this.#stes.data;
    const ste = this.#stes.find(sid, -1);
    const top = untagged(hi, shape);
    const tag = contexts[c | TAG]!;
    if ((shape & S1) === 0) {
      if (ste < 0) return this.stage2.walk(lo, hi, need);
      this.#loaded = -1;
      this.#setup.forget();
      return this.#walks!.stage2(words, ste, tag, lo, top, need);
    }
    const kind = shape >>> 20;
    const single = isSingle(kind, this.#file);
    const cd = this.#cds.find(sid, contexts[c | CD_INDEX]!);
    if (ste < 0 || cd < 0) return this.stage1.walk(lo, hi, need);
    this.#loaded = -1;
    this.#setup.forget();
    const ptw = getField(words, ste, STE.S2PTW) === 1;
    const nested = (shape & S2) !== 0;
    return this.#walks!.stage1(this.#cds.data, cd, nested, ptw, single, kind, tag, lo, top, need);
  }

  #walkStage2(c: number, sid: number, ssid: number, lo: number, hi: number, need: number): number {
    const faults = this.#contexts[c | FAULT_CONFIG]!;
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
    return OK;
  }

  /** What an access that was just let pass went through. */
  passed(sid: number, ssid: number, lo: number, hi: number): Passed {
    const contexts = this.#contexts;
    const c = contextAt(sid, ssid);
    const shape = contexts[c | SHAPE]!;
    const top = untagged(hi, shape);
    const vpn = (lo >>> 12) | (top << 20);
    const key = shape & KEY_BITS;
    let at = this.tlb.find(vpn, top >>> 12, contexts[c | TAG]!, key, contexts[c | HASH]!, contexts[c | FLOOR]!);
    if (at < 0) at = this.#findGlobal(c, vpn, top >>> 12, key);
    const raw = at < 0 ? this.#fill.attributes : this.tlb.data[at + 7]! >>> ATTRIBUTES_SHIFT;
    const ste = this.#keeps ? this.#stes.find(sid, -1) : this.#stes.last;
    const cd = this.#keeps ? this.#cds.find(sid, contexts[c | CD_INDEX]!) : this.#cds.last;
    const uses = { stage1: (shape & S1) !== 0, stage2: (shape & S2) !== 0 };
    return { override: shape & OVERRIDE_BITS, ...uses, raw, stes: this.#stes.data, ste, cds: this.#cds.data, cd };
  }

  #insert(c: number, kind: number, lo: number, hi: number): void {
    const contexts = this.#contexts;
    const top = untagged(hi, contexts[c | SHAPE]!);
    this.tlb.insert((lo >>> 12) | (top << 20), top >>> 12, kind, contexts[c | TAG]!, this.#fill);
  }

  /** Unprivileged accesses to this half of the address space fault (5.4 E0PD0). */
  #e0pd(c: number, hi: number): boolean {
    return (this.#contexts[c | FAULT_CONFIG]! & ((hi & 0x0080_0000) === 0 ? FAULTS.E0PD0 : FAULTS.E0PD1)) !== 0;
  }

  /** A TLB entry that does not permit the access. Stage 1 comes first (7.3.22); a page that is clean is walked again. */
  #refused(c: number, at: number, sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    const faults = this.#contexts[c | FAULT_CONFIG]!;
    const need = NEEDS[(this.#contexts[c | SHAPE]! & OVERRIDE_BITS) | (flags & 7)]!;
    const data = this.tlb.data;
    const word4 = data[at + 4]!;
    const clean = (need & WRITES) === 0 ? 0 : data[at + 5]! >>> CLEAN_SHIFT;
    if ((word4 & need) === 0 && (clean & CLEAN.S1) === 0) {
      const status = (need & UNPRIVILEGED) !== 0 && this.#e0pd(c, hi) ? WALK.TRANSLATION : WALK.PERMISSION;
      return this.#faults.stage1(faults, status, sid, ssid, lo, hi, need);
    }
    if (((word4 >>> 6) & need) !== 0 || (clean & CLEAN.S2) !== 0) return this.#miss(c, 0, sid, ssid, lo, hi, flags);
    const shift = data[at + 2]! >>> 24;
    const below = shift < 32 ? (1 << shift) - 1 : -1;
    const ipaLo = (data[at + 6]! & ~0xfff & ~below) | (lo & below);
    const ipaHi = (data[at + 7]! & 0xf_ffff) | (shift <= 32 ? 0 : hi & ((1 << (shift - 32)) - 1));
    return this.#faults.stage2(faults, WALK.PERMISSION, FAULT_CLASS.IN, ipaLo, ipaHi, sid, ssid, lo, hi, need);
  }
}
