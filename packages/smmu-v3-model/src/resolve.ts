import { LEVEL, TRANSLATION } from "@smmuv3/platform";
import type { Counters } from "@smmuv3/platform";
import { CD, EVENTS, maskOf, STE, STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import { FAULT_CLASS } from "@smmuv3/vmsa-walk";
import { NEED, overrideIndex } from "./attributes.ts";
import { CdChecker } from "./cd-rules.ts";
import { selectSubstream, STAGE1_BYPASS, STAGE2_FAULT } from "./config.ts";
import type { ConfigFetcher } from "./config.ts";
import type { ConfigCache } from "./config-cache.ts";
import { CONTEXT, TBI_SHIFT, USES } from "./contexts.ts";
import { cdFaults, steFaults } from "./faults.ts";
import type { FaultReporter } from "./faults.ts";
import type { SmmuPolicy } from "./policy.ts";
import type { Features } from "./presets.ts";
import { cdContext, isSingle, streamKind } from "./regime.ts";
import type { RegisterFile } from "./registers.ts";
import { SteChecker, usesVms } from "./ste-rules.ts";
import { KIND, PAGE_SIZE_4K, Tlb } from "./tlb.ts";
import type { WalkerSetup } from "./walker-setup.ts";

// Of this module, for the compiler to see them as constants.
const { SID, SSID, SHAPE, TAG, HASH, FAULT_CONFIG, CD_INDEX, TOO_HIGH, PAGE_KEY, STE_AT, CD_AT } = CONTEXT;
const { S1, S2 } = USES;
const { IPA, EL2 } = KIND;
const { ok: OK } = TRANSLATION;
const PAGE_4K = PAGE_SIZE_4K;
const BYPASS = STE_CONFIG.bypass;
const CONFIG_SHIFT = STE.Config.shift;
const PRIVCFG = STE.PRIVCFG;
const INSTCFG_SHIFT = STE.INSTCFG.shift;
const PRIVCFG_WORD = PRIVCFG.word;
const PRIVCFG_SHIFT = PRIVCFG.shift;
const MEV_WORD = STE.MEV.word;
const MEV = maskOf(STE.MEV);
const VMID_WORD = STE.S2VMID.word;
const ASID_SHIFT = CD.ASID.shift;
const AA64 = maskOf(CD.AA64);
const TBI0_SHIFT = CD.TBI0.shift;
const TBI_AT = TBI_SHIFT;

/**
 * Brings the configuration of streams into contexts (IHI 0070 3.3.2, 5.2, 5.4): finds STE and CD, checks them, and takes from them
 * what each translation needs.
 */
export class StreamResolver {
  readonly #file: RegisterFile;
  readonly #features: Features;
  readonly #contexts: Int32Array;
  readonly #fetcher: ConfigFetcher;
  readonly #faults: FaultReporter;
  readonly #stes: ConfigCache;
  readonly #cds: ConfigCache;
  readonly #setup: WalkerSetup;
  readonly #steChecker: SteChecker;
  readonly #cdChecker: CdChecker;
  /** Invalid STEs and CDs are not kept. */
  readonly #refetches: boolean;
  /** Bits of a high word beyond OAS, and beyond IAS. */
  readonly #beyondOas: number;
  readonly #beyondIas: number;
  readonly #counts: Float64Array;
  readonly #steHits: number;
  readonly #steMisses: number;
  readonly #cdHits: number;
  readonly #cdMisses: number;

  constructor(
    file: RegisterFile,
    features: Features,
    policy: SmmuPolicy,
    contexts: Int32Array,
    fetcher: ConfigFetcher,
    faults: FaultReporter,
    stes: ConfigCache,
    cds: ConfigCache,
    setup: WalkerSetup,
    counters: Counters,
  ) {
    this.#file = file;
    this.#features = features;
    this.#contexts = contexts;
    this.#fetcher = fetcher;
    this.#faults = faults;
    this.#stes = stes;
    this.#cds = cds;
    this.#setup = setup;
    this.#steChecker = new SteChecker(features);
    this.#cdChecker = new CdChecker(features);
    this.#refetches = policy.invalidConfigCaching === "refetch";
    this.#beyondOas = ~((1 << (features.oasBits - 32)) - 1);
    this.#beyondIas = ~((1 << (features.iasBits - 32)) - 1);
    this.#counts = counters.values;
    const id = (name: string): number => counters.id(name) + LEVEL.device;
    this.#steHits = id("ste.hits");
    this.#steMisses = id("ste.misses");
    this.#cdHits = id("cd.hits");
    this.#cdMisses = id("cd.misses");
  }

  /**
   * Fills the context at `c`, all but its epoch and floors. Returns a TRANSLATION result where that ends the transaction, else -1.
   * Sets up the stage-2 walker for CDs under stage 2.
   */
  resolve(c: number, sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    const fetcher = this.#fetcher;
    const features = this.#features;
    const faultOf = this.#faults;
    const failed = fetcher.ste(sid);
    this.#counts[fetcher.hit ? this.#steHits : this.#steMisses]!++;
    if (failed !== 0) return faultOf.configuration(failed, sid, ssid);
    const raw = this.#stes.data;
    const r = fetcher.at;
    if (!this.#steChecker.check(raw, r)) {
      if (this.#refetches) this.#stes.remove(sid, -1);
      return faultOf.configuration(EVENTS.C_BAD_STE.type, sid, ssid);
    }
    const config = (raw[r]! >>> CONFIG_SHIFT) & 7;
    if (config < BYPASS) return TRANSLATION.abort;
    faultOf.mev = (raw[r + MEV_WORD]! & MEV) !== 0;
    // The priority of this event after C_BAD_STE is IMPLEMENTATION DEFINED (7.3.20).
    const refused = features.mpam && usesVms(raw, r, features) ? fetcher.vms(raw, r) : 0;
    if (refused !== 0) return faultOf.configuration(refused, sid, ssid);

    let stages = ((config & 1) !== 0 ? S1 : 0) | ((config & 2) !== 0 ? S2 : 0);
    const cdIndex = selectSubstream(raw, r, ssid, (stages & S1) !== 0, features);
    if (cdIndex < STAGE1_BYPASS) return faultOf.configuration(-cdIndex, sid, ssid);
    if (cdIndex === STAGE1_BYPASS) stages &= ~S1;
    const word3 = raw[r + PRIVCFG_WORD]!;
    const override = features.attrPermsOvr ? overrideIndex((word3 >>> PRIVCFG_SHIFT) & 3, (word3 >>> INSTCFG_SHIFT) & 3) : 0;
    const vmid = raw[r + VMID_WORD]! & features.vmidMask;
    const contexts = this.#contexts;
    let faults = steFaults(raw, r);
    let kind: number = IPA;
    let tag = vmid << 16;
    let tbi = 0;
    if ((stages & S1) !== 0) {
      const nested = (stages & S2) !== 0;
      if (nested) this.#setup.stage2(raw, r);
      kind = streamKind(raw, r, features);
      const status = fetcher.cd(sid, cdIndex, raw, r, nested);
      this.#counts[fetcher.hit ? this.#cdHits : this.#cdMisses]!++;
      if (status === STAGE2_FAULT) {
        const need = NEED[override | (flags & 7)]!;
        return faultOf.stage2(faults, fetcher.walkStatus, FAULT_CLASS.CD, fetcher.ipaLo, fetcher.ipaHi, sid, ssid, lo, hi, need);
      }
      // Through S1DSS the substream was 0 although the transaction had none (7.3.9).
      const shown = status === EVENTS.C_BAD_SUBSTREAMID.type ? cdIndex : ssid;
      if (status !== OK) return faultOf.configuration(status, sid, shown);
      const cds = this.#cds.data;
      const cd = fetcher.at;
      const single = isSingle(kind, this.#file);
      if (!this.#cdChecker.check(cds, cd, cdContext(raw, r, kind, single))) {
        if (this.#refetches) this.#cds.remove(sid, cdIndex);
        return faultOf.configuration(EVENTS.C_BAD_CD.type, sid, ssid);
      }
      const word1 = cds[cd + 1]!;
      const asid = single ? 0 : (word1 >>> ASID_SHIFT) & features.asidMask;
      tag = asid | (kind === EL2 ? 0 : vmid << 16);
      faults |= cdFaults(cds, cd, features.e0pd && !single);
      // VMSAv8-32 has no tags.
      if ((word1 & AA64) !== 0) tbi = (word1 >>> TBI0_SHIFT) & 3;
      contexts[c | CD_AT] = cd;
    }
    contexts[c | STE_AT] = r;
    contexts[c | SID] = sid;
    contexts[c | SSID] = ssid;
    contexts[c | SHAPE] = override | stages | (tbi << TBI_AT) | Tlb.key(kind, false);
    contexts[c | PAGE_KEY] = stages === 0 || tbi !== 0 ? -1 : Tlb.key(kind, false) | PAGE_4K;
    contexts[c | TAG] = tag;
    contexts[c | HASH] = Tlb.hash(tag, kind);
    contexts[c | FAULT_CONFIG] = faults;
    contexts[c | CD_INDEX] = cdIndex;
    contexts[c | TOO_HIGH] = config === BYPASS ? this.#beyondOas : this.#beyondIas;
    return -1;
  }
}
