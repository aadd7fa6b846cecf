import type { Memory } from "@smmuv3/platform";
import { CD, EVENTS, getField, maskOf, OFFSET, REG, STE, STE_CONFIG, STE_EATS, STE_S1DSS } from "@smmuv3/smmu-v3-defs";
import type { Field } from "@smmuv3/smmu-v3-defs";
import { FAULT_CLASS, PERM, Stage1Walker, Stage2Walker, WALK } from "@smmuv3/vmsa-walk";
import { CdChecker } from "./cd-rules.ts";
import { ConfigFetcher, STAGE2_FAULT } from "./config.ts";
import type { ConfigCache } from "./config-cache.ts";
import { emptyFill, fillStage1, fillStage2 } from "./fill.ts";
import type { SmmuPolicy } from "./policy.ts";
import type { Features } from "./presets.ts";
import { cdContext, configureStage1, configureStage2, isSingle, streamKind } from "./regime.ts";
import type { RegisterFile } from "./registers.ts";
import { SteChecker, usesVms } from "./ste-rules.ts";
import { CLEAN_SHIFT, KIND, Tlb } from "./tlb.ts";
import type { TlbFill } from "./tlb.ts";

const ATSCHK = maskOf(REG.CR0ACK.ATSCHK);

/** Bits of {@link AtsStream.stages}. */
export const STAGE_BIT = { S1: 1, S2: 2 } as const;

/** What an SMMU shares with its ATS and PRI ports. */
export interface AtsCaches {
  readonly stes: ConfigCache;
  readonly cds: ConfigCache;
  readonly tlb: Tlb;
}

/**
 * Configuration and translation of a stream for ATS and PRI (IHI 0070 3.9): the steps of an ordinary transaction, through the
 * same caches, but nothing is recorded and no permission is checked. What a step finds stays in the fields.
 */
export class AtsStream {
  /** {@link fetchSte} found a valid STE. */
  found = false;
  /** STE.Config and the value of STE.EATS in effect (5.2 EATS). */
  config = 0;
  eats = 0;
  /** STE.PRIVCFG and INSTCFG in effect. */
  privcfg = 0;
  instcfg = 0;
  /** Of {@link STAGE_BIT}: the stages that translate this substream. */
  stages = 0;

  /** Result of {@link lookup}: log2 of what maps to one place, output of stage 1, output, and permissions by stage. */
  shift = 0;
  ipaLo = 0;
  ipaHi = 0;
  paLo = 0;
  paHi = 0;
  perm = 0;
  perm2: number = PERM.ALL;
  /** Of CLEAN: stages whose leaf a write would have to mark dirty first. */
  clean = 0;
  /** With a status of {@link lookup} that is not OK: stage 1 was done, and stage 2 failed on its output. */
  failedOnOutput = false;

  readonly stage2: Stage2Walker;
  readonly stage1: Stage1Walker;
  readonly fetcher: ConfigFetcher;

  readonly #file: RegisterFile;
  readonly #features: Features;
  readonly #caches: AtsCaches;
  readonly #steChecker: SteChecker;
  readonly #cdChecker: CdChecker;
  readonly #refetches: boolean;
  #ste = 0;
  #cdIndex = 0;
  #kind: number = KIND.EL1;
  #tag = 0;
  /** TBI0 | TBI1 << 1, and E0PD0 | E0PD1 << 1. */
  #tbi = 0;
  #e0pd = 0;
  /** The last {@link lookup} was a TLB hit. */
  #hit = false;
  readonly #fill: TlbFill = emptyFill();

  /** @param policy where it is left out, pointers beyond OAS are truncated and invalid structures cached */
  constructor(
    file: RegisterFile,
    features: Features,
    memory: Memory,
    caches: AtsCaches,
    policy?: Pick<SmmuPolicy, "pointerOverflow" | "invalidConfigCaching">,
  ) {
    this.#file = file;
    this.#features = features;
    this.#caches = caches;
    this.stage2 = new Stage2Walker(memory);
    this.stage1 = new Stage1Walker(memory, this.stage2);
    const aborts = policy?.pointerOverflow === "abort";
    this.fetcher = new ConfigFetcher(file, features, memory, caches.stes, caches.cds, this.stage2, aborts);
    this.#refetches = policy?.invalidConfigCaching === "refetch";
    this.#steChecker = new SteChecker(features);
    this.#cdChecker = new CdChecker(features);
  }

  /** Finds the STE. Returns 0 or the type of the event that an ordinary transaction would record. */
  fetchSte(sid: number): number {
    this.found = false;
    const failed = this.fetcher.ste(sid);
    if (failed !== 0) return failed;
    const words = this.#caches.stes.data;
    const ste = this.fetcher.at;
    if (!this.#steChecker.check(words, ste)) {
      if (this.#refetches) this.#caches.stes.remove(sid, -1);
      return EVENTS.C_BAD_STE.type;
    }
    const refused = usesVms(words, ste, this.#features) ? this.fetcher.vms(words, ste) : 0;
    if (refused !== 0) return refused;
    this.#ste = ste;
    this.found = true;
    this.config = getField(words, ste, STE.Config);
    this.eats = this.#effectiveEats(getField(words, ste, STE.EATS));
    const overrides = this.#features.attrPermsOvr;
    this.privcfg = overrides ? getField(words, ste, STE.PRIVCFG) : 0;
    this.instcfg = overrides ? getField(words, ste, STE.INSTCFG) : 0;
    return 0;
  }

  /** A one-bit field of the STE found. */
  flag(field: Field<"STE">): boolean {
    return getField(this.#caches.stes.data, this.#ste, field) === 1;
  }

  /** Split-stage ATS needs ATSCHK; without a Device Permission Table, 0b11 is 0b00 (5.2 EATS). */
  #effectiveEats(eats: number): number {
    if (this.config === STE_CONFIG.bypass || eats === STE_EATS.dpt) return STE_EATS.abort;
    if (eats === STE_EATS.s1chk && (this.#file.get(OFFSET.CR0ACK) & ATSCHK) === 0) return STE_EATS.abort;
    return eats;
  }

  /** Which stages translate the substream, -1 for none. Returns 0 or the type of the event. */
  checkSubstream(ssid: number): number {
    const words = this.#caches.stes.data;
    const ste = this.#ste;
    let stages = (this.config & 1 ? STAGE_BIT.S1 : 0) | (this.config & 2 ? STAGE_BIT.S2 : 0);
    const cdMax = this.#features.ssidSize === 0 ? 0 : getField(words, ste, STE.S1CDMax);
    const dss = getField(words, ste, STE.S1DSS);
    this.#cdIndex = Math.max(ssid, 0);
    if (ssid >= 0) {
      if ((stages & STAGE_BIT.S1) === 0 || cdMax === 0 || ssid >= 2 ** cdMax) return EVENTS.C_BAD_SUBSTREAMID.type;
      if (ssid === 0 && dss === STE_S1DSS.ssid0) return EVENTS.F_STREAM_DISABLED.type;
    } else if ((stages & STAGE_BIT.S1) !== 0 && cdMax > 0) {
      if (dss === STE_S1DSS.bypass) stages &= ~STAGE_BIT.S1;
      else if (dss !== STE_S1DSS.ssid0) return EVENTS.F_STREAM_DISABLED.type;
    }
    this.stages = stages;
    return 0;
  }

  /**
   * Sets up the walkers for the stages in use; fetches the CD where there is one.
   * @returns 0, the type of the event, or STAGE2_FAULT: stage 2 refused the address of the CD, `fetcher.walkStatus` says why
   */
  prepare(sid: number): number {
    const { stes, cds } = this.#caches;
    const features = this.#features;
    const words = stes.data;
    const ste = this.#ste;
    const nested = (this.stages & STAGE_BIT.S2) !== 0;
    if (nested) configureStage2(this.stage2, words, ste, features);
    const vmid = getField(words, ste, STE.S2VMID) & features.vmidMask;
    this.#tbi = 0;
    this.#e0pd = 0;
    this.#kind = KIND.IPA;
    this.#tag = vmid << 16;
    if ((this.stages & STAGE_BIT.S1) === 0) return 0;
    const failed = this.fetcher.cd(sid, this.#cdIndex, words, ste, nested);
    if (failed === STAGE2_FAULT || failed !== 0) return failed;
    const cd = this.fetcher.at;
    const kind = streamKind(words, ste, features);
    const single = isSingle(kind, this.#file);
    if (!this.#cdChecker.check(cds.data, cd, cdContext(words, ste, kind, single))) {
      if (this.#refetches) cds.remove(sid, this.#cdIndex);
      return EVENTS.C_BAD_CD.type;
    }
    configureStage1(this.stage1, cds.data, cd, features, nested, getField(words, ste, STE.S2PTW) === 1, single);
    const asid = single ? 0 : getField(cds.data, cd, CD.ASID) & features.asidMask;
    this.#kind = kind;
    this.#tag = asid | (kind === KIND.EL2 ? 0 : vmid << 16);
    // Neither exists with VMSAv8-32.
    if (getField(cds.data, cd, CD.AA64) === 0) return 0;
    this.#tbi = getField(cds.data, cd, CD.TBI0) | (getField(cds.data, cd, CD.TBI1) << 1);
    if (features.e0pd && !single) this.#e0pd = getField(cds.data, cd, CD.E0PD0) | (getField(cds.data, cd, CD.E0PD1) << 1);
    return 0;
  }

  /** Sets up stage 2 alone, for an address that stage 1 has been applied to (13.6.3). */
  prepareStage2(): void {
    const { stes } = this.#caches;
    this.stages = STAGE_BIT.S2;
    this.#tbi = 0;
    this.#kind = KIND.IPA;
    this.#tag = (getField(stes.data, this.#ste, STE.S2VMID) & this.#features.vmidMask) << 16;
    configureStage2(this.stage2, stes.data, this.#ste, this.#features);
  }

  /** The address is beyond IAS, which bounds what is not translated by stage 1 (3.4.1). */
  beyondInput(hi: number): boolean {
    return (hi & ~((1 << (this.#features.iasBits - 32)) - 1)) !== 0;
  }

  /**
   * Translates by TLB or walk, without checking permissions, and where hardware updates flags without doing that: see
   * {@link settle}. Returns one of WALK.
   */
  lookup(lo: number, hi: number): number {
    const top = this.#untagged(hi);
    const at = this.#find((lo >>> 12) | (top << 20), top >>> 12);
    this.#hit = at >= 0;
    if (this.#hit) return this.#take(at, lo, hi);
    this.stage1.inhibitUpdates = this.#features.httu > 0;
    const status = this.#walk(lo, hi, 0);
    this.stage1.inhibitUpdates = false;
    if (status === WALK.OK && this.#features.httu === 0) this.#keep(lo, hi);
    return status;
  }

  /**
   * After {@link lookup}: updates the flags of an access that needs `need`, PERM bits of both stages (3.13.7). Returns one of
   * WALK.
   */
  settle(lo: number, hi: number, need: number): number {
    if (this.#features.httu === 0 || (this.#hit && (need & ~(this.perm & this.perm2)) === 0)) return WALK.OK;
    const status = this.#walk(lo, hi, need);
    if (status === WALK.OK) this.#keep(lo, hi);
    return status;
  }

  /** High word of an address whose tag TBI ignores, as the TLB keeps it. */
  #untagged(hi: number): number {
    return ((this.#tbi >>> ((hi >>> 23) & 1)) & 1) !== 0 ? (hi << 8) >> 8 : hi;
  }

  #find(vpnLo: number, vpnHi: number): number {
    const { tlb } = this.#caches;
    const kind = this.#kind;
    const tag = this.#tag;
    const vmid = tag >>> 16;
    const floor = tlb.floor(kind, vmid, tag & 0xffff);
    const at = tlb.find(vpnLo, vpnHi, tag, Tlb.key(kind, false), Tlb.hash(tag, kind), floor);
    if (at >= 0 || !tlb.hasGlobals) return at;
    const shared = tag & ~0xffff;
    return tlb.find(vpnLo, vpnHi, shared, Tlb.key(kind, true), Tlb.hash(shared, kind), tlb.floor(kind, vmid, -1));
  }

  #take(at: number, lo: number, hi: number): number {
    const { data } = this.#caches.tlb;
    const shift = data[at + 2]! >>> 24;
    const offset = shift < 32 ? (1 << shift) - 1 : -1;
    const above = shift <= 32 ? 0 : (1 << (shift - 32)) - 1;
    const word4 = data[at + 4]!;
    this.shift = shift;
    this.perm = word4 & PERM.ALL;
    this.perm2 = (word4 >>> 6) & PERM.ALL;
    this.clean = data[at + 5]! >>> CLEAN_SHIFT;
    this.paLo = (word4 & ~0xfff & ~offset) | (lo & offset);
    this.paHi = (data[at + 5]! & 0xf_ffff & ~above) | (hi & above);
    this.ipaLo = (data[at + 6]! & ~0xfff & ~offset) | (lo & offset);
    this.ipaHi = (data[at + 7]! & 0xf_ffff & ~above) | (hi & above);
    return WALK.OK;
  }

  #walk(lo: number, hi: number, need: number): number {
    const fill = this.#fill;
    const nested = (this.stages & STAGE_BIT.S2) !== 0;
    this.failedOnOutput = false;
    if ((this.stages & STAGE_BIT.S1) === 0) {
      const status = this.stage2.walk(lo, hi, need);
      if (status !== WALK.OK) return status;
      fillStage2(fill, this.stage2, lo, hi);
    } else {
      const walker = this.stage1;
      const status = walker.walk(lo, hi, need);
      if (status !== WALK.OK) {
        this.failedOnOutput = walker.stage === 2 && walker.faultClass === FAULT_CLASS.IN;
        this.perm = walker.perm;
        return status;
      }
      const e0pd = ((this.#e0pd >>> ((hi >>> 23) & 1)) & 1) !== 0;
      fillStage1(fill, walker, nested, isSingle(this.#kind, this.#file), e0pd);
    }
    this.shift = fill.pageShift;
    this.ipaLo = fill.ipaLo;
    this.ipaHi = fill.ipaHi;
    this.paLo = fill.paLo;
    this.paHi = fill.paHi;
    this.perm = fill.perm;
    this.perm2 = fill.perm2;
    this.clean = fill.clean;
    return WALK.OK;
  }

  /** Into the TLB with what the last walk found. */
  #keep(lo: number, hi: number): void {
    const top = this.#untagged(hi);
    this.#caches.tlb.insert((lo >>> 12) | (top << 20), top >>> 12, this.#kind, this.#tag, this.#fill);
  }
}
