import { CERROR, CMD, extract, maskOf } from "@smmuv3/smmu-v3-defs";
import type { CommandName } from "@smmuv3/smmu-v3-defs";
import { GRANULE, GRANULES } from "@smmuv3/vmsa-walk";
import { always, never, nothing } from "./command-target.ts";
import type { CommandRule, CommandTarget } from "./command-target.ts";
import type { Features } from "./presets.ts";
import { KIND } from "./tlb.ts";

const stage1 = (features: Features): boolean => features.s1p;
const stage2 = (features: Features): boolean => features.s2p;
const hyp = (features: Features): boolean => features.hyp;

/** GRANULE of TG; 0 means "no range" (4.4.1). */
const GRANULE_OF_TG: readonly number[] = [0, GRANULE.K4, GRANULE.K16, GRANULE.K64];
const TG_BITS = maskOf(CMD.TG);
const LEAF = maskOf(CMD.Leaf);
const ADDRESS_LO = CMD.Address.loMask;
/** SCALE has a sixth bit with 52-bit addresses only, and stops at 39 (4.4.1.1). */
const SCALE_MAX = 39;

function vmidOf(target: CommandTarget, word1: number): number {
  return word1 & target.features.vmidMask;
}

function asidOf(target: CommandTarget, word1: number): number {
  return (word1 >>> 16) & target.features.asidMask;
}

/** Runs `action` for every VMID that matches under CR0.VMW. */
function eachVmid(target: CommandTarget, vmid: number, action: (vmid: number) => void): void {
  const wildcard = target.vmidWildcard();
  for (let i = 0; i <= wildcard; i++) action((vmid & ~wildcard) | i);
}

/** With policy tlbiScope `vmid`, drops all that has the VMID, or is of EL2. Returns false for `exact`. */
function overInvalidates(target: CommandTarget, kind: number, vmid: number): boolean {
  if (target.policy.tlbiScope === "exact") return false;
  if (kind === KIND.EL2) target.tlb.invalidateHyp();
  else {
    eachVmid(target, vmid, (each) => {
      target.tlb.invalidateVmid(each);
    });
  }
  return true;
}

/** TTL in effect: level 1 of the 16K granule has leaves with 52-bit addresses only (4.4.1.1). */
function levelHint(word2: number, granule: number, features: Features): number {
  const ttl = extract(word2, CMD.TTL);
  return granule === GRANULE.K16 && ttl === 1 && !features.ds ? 0 : ttl;
}

function scaleOf(word0: number, features: Features): number {
  const scale = extract(word0, CMD.SCALE);
  return features.ds ? Math.min(scale, SCALE_MAX) : scale & 31;
}

/** The Reserved combination of a range of one granule without a level (4.4.1.1). */
function reservedRange({ features }: CommandTarget, words: Int32Array, at: number): boolean {
  const word2 = words[at + 2]!;
  if ((word2 & TG_BITS) === 0 || !features.ril) return false;
  const word0 = words[at]!;
  return (
    extract(word0, CMD.NUM) === 0 &&
    scaleOf(word0, features) === 0 &&
    levelHint(word2, GRANULE_OF_TG[extract(word2, CMD.TG)]!, features) === 0
  );
}

/** TLBI by address, with range invalidation (3.19, 4.4.1.1). */
function invalidateAddress(
  target: CommandTarget,
  words: Int32Array,
  at: number,
  kind: number,
  vmid: number,
  asid: number,
): number {
  const word2 = words[at + 2]!;
  const { features, tlb } = target;
  const { range } = tlb;
  range.kind = kind;
  range.asid = asid;
  range.addressLo = word2 & ADDRESS_LO;
  // An IPA is Address[55:12] (4.1.6).
  range.addressHi = kind === KIND.IPA ? words[at + 3]! & 0xff_ffff : words[at + 3]!;
  range.pages = 1;
  range.level = 0;
  range.leaf = (word2 & LEAF) !== 0;
  if ((word2 & TG_BITS) !== 0 && features.ril) {
    if (reservedRange(target, words, at)) return CERROR.ILL;
    const word0 = words[at]!;
    const granule = GRANULE_OF_TG[extract(word2, CMD.TG)]!;
    if (target.policy.ttlMismatch === "underMatch") range.level = levelHint(word2, granule, features);
    const log2 = scaleOf(word0, features) + GRANULES[granule]!.pageShift - 12;
    range.pages = (extract(word0, CMD.NUM) + 1) * (log2 < 31 ? 1 << log2 : 2 ** log2);
  }
  if (overInvalidates(target, kind, vmid)) return CERROR.NONE;
  const wildcard = kind === KIND.EL2 ? 0 : target.vmidWildcard();
  if (wildcard === 0) {
    range.vmid = vmid;
    tlb.invalidateRange();
    return CERROR.NONE;
  }
  for (let i = 0; i <= wildcard; i++) {
    range.vmid = (vmid & ~wildcard) | i;
    tlb.invalidateRange();
  }
  return CERROR.NONE;
}

/** EL2 entries have an ASID with CR2.E2H only, and then a command whose ASID is out of range may have no effect (4.1.7). */
function outOfRangeAsid(target: CommandTarget, word1: number): boolean {
  return target.policy.commandParameter === "noEffect" && ((word1 >>> 16) & ~target.features.asidMask) !== 0;
}

type TlbiName = Extract<CommandName, `TLBI_${string}`>;

/** TLB invalidation, 4.4. Commands of Secure state are unknown to a Non-secure queue. */
export const TLBI_RULES: Readonly<Record<TlbiName, CommandRule>> = {
  TLBI_NH_ALL: {
    legal: stage1,
    run(target, words, at) {
      const vmid = vmidOf(target, words[at + 1]!);
      if (overInvalidates(target, KIND.EL1, vmid)) return CERROR.NONE;
      eachVmid(target, vmid, (each) => {
        target.tlb.invalidateStage1(each);
      });
      return CERROR.NONE;
    },
  },
  TLBI_NH_ASID: {
    legal: stage1,
    run(target, words, at) {
      const word1 = words[at + 1]!;
      const asid = asidOf(target, word1);
      if (overInvalidates(target, KIND.EL1, vmidOf(target, word1))) return CERROR.NONE;
      const wildcard = target.vmidWildcard();
      const vmid = vmidOf(target, word1) & ~wildcard;
      for (let i = 0; i <= wildcard; i++) target.tlb.invalidateAsid(KIND.EL1, vmid | i, asid);
      return CERROR.NONE;
    },
  },
  TLBI_NH_VA: {
    legal: stage1,
    illegal: reservedRange,
    run(target, words, at) {
      const word1 = words[at + 1]!;
      return invalidateAddress(target, words, at, KIND.EL1, vmidOf(target, word1), asidOf(target, word1));
    },
  },
  TLBI_NH_VAA: {
    legal: stage1,
    illegal: reservedRange,
    run: (target, words, at) => invalidateAddress(target, words, at, KIND.EL1, vmidOf(target, words[at + 1]!), -1),
  },
  TLBI_EL3_ALL: { legal: never, run: nothing },
  TLBI_EL3_VA: { legal: never, run: nothing },
  TLBI_EL2_ALL: {
    legal: hyp,
    run(target) {
      target.tlb.invalidateHyp();
      return CERROR.NONE;
    },
  },
  TLBI_EL2_ASID: {
    legal: hyp,
    run(target, words, at) {
      const word1 = words[at + 1]!;
      // Without E2H no entry has an ASID, and none is required to go (4.4.2.10).
      if (!target.e2h() || outOfRangeAsid(target, word1) || overInvalidates(target, KIND.EL2, 0)) return CERROR.NONE;
      target.tlb.invalidateAsid(KIND.EL2, 0, asidOf(target, word1));
      return CERROR.NONE;
    },
  },
  TLBI_EL2_VA: {
    legal: hyp,
    illegal: reservedRange,
    run(target, words, at) {
      const word1 = words[at + 1]!;
      if (!target.e2h()) return invalidateAddress(target, words, at, KIND.EL2, 0, 0);
      if (!outOfRangeAsid(target, word1)) return invalidateAddress(target, words, at, KIND.EL2, 0, asidOf(target, word1));
      return reservedRange(target, words, at) ? CERROR.ILL : CERROR.NONE;
    },
  },
  TLBI_EL2_VAA: {
    legal: hyp,
    illegal: reservedRange,
    run: (target, words, at) => invalidateAddress(target, words, at, KIND.EL2, 0, -1),
  },
  TLBI_S12_VMALL: {
    legal: stage2,
    run(target, words, at) {
      eachVmid(target, vmidOf(target, words[at + 1]!), (vmid) => {
        target.tlb.invalidateVmid(vmid);
      });
      return CERROR.NONE;
    },
  },
  TLBI_S2_IPA: {
    legal: stage2,
    illegal: reservedRange,
    // Entries that combine both stages stay: software pairs it with an invalidation of stage 1 (4.4.3.1, 16.2).
    run: (target, words, at) => invalidateAddress(target, words, at, KIND.IPA, vmidOf(target, words[at + 1]!), 0),
  },
  TLBI_NSNH_ALL: {
    legal: always,
    run(target) {
      target.tlb.invalidateNonHyp();
      return CERROR.NONE;
    },
  },
  TLBI_S_EL2_ALL: { legal: never, run: nothing },
  TLBI_S_EL2_ASID: { legal: never, run: nothing },
  TLBI_S_EL2_VA: { legal: never, run: nothing },
  TLBI_S_EL2_VAA: { legal: never, run: nothing },
  TLBI_S_S12_VMALL: { legal: never, run: nothing },
  TLBI_S_S2_IPA: { legal: never, run: nothing },
  TLBI_SNH_ALL: { legal: never, run: nothing },
};
