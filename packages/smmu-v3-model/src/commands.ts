import { CERROR, CFGI_RANGE_ALL, CMD, COMMANDS, extract, maskOf, reservedCommandBits, STALL_MODEL, SYNC_CS } from "@smmuv3/smmu-v3-defs";
import type { CommandName } from "@smmuv3/smmu-v3-defs";
import { GRANULE, GRANULES } from "@smmuv3/vmsa-walk";
import type { ConfigCache } from "./config-cache.ts";
import type { Interrupts } from "./irq.ts";
import type { Features } from "./presets.ts";
import { KIND } from "./tlb.ts";
import type { Tlb } from "./tlb.ts";

/** What commands act upon. */
export interface CommandTarget {
  readonly features: Features;
  readonly tlb: Tlb;
  readonly stes: ConfigCache;
  readonly cds: ConfigCache;
  readonly interrupts: Interrupts;
  /** Resolved streams have to be looked up again. */
  forgetContexts(): void;
  /** Low VMID bits that a TLBI ignores: 2^n - 1 (CR0.VMW, 6.3.9). */
  vmidWildcard(): number;
  /** EL2 streams have ASIDs (CR2.E2H). */
  e2h(): boolean;
}

/** Executes the command whose words are `words[at..at + 3]`. Returns a CERROR code. */
type Handler = (target: CommandTarget, words: Int32Array, at: number) => number;

interface CommandRule {
  /** Whether this SMMU has the command; without it the command raises CERROR_ILL (4.1.3 and the command's section). */
  readonly legal: (features: Features) => boolean;
  readonly run: Handler;
}

const always = (): boolean => true;
const never = (): boolean => false;
const stage1 = (features: Features): boolean => features.s1p;
const stage2 = (features: Features): boolean => features.s2p;
const hyp = (features: Features): boolean => features.hyp;
const stalls = (features: Features): boolean => features.stallModel !== STALL_MODEL.none;
/** Executes without effect: there is nothing to prefetch into, no ATC, no stalled transaction. */
const nothing: Handler = () => CERROR.NONE;

/** GRANULE of TG; 0 means "no range" (4.4.1). */
const GRANULE_OF_TG: readonly number[] = [0, GRANULE.K4, GRANULE.K16, GRANULE.K64];

const TG_BITS = maskOf(CMD.TG);
const CS_SHIFT = CMD.CS.shift;
const CS_MASK = CMD.CS.mask;
const ADDRESS_LO = CMD.Address.loMask;

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
  const { range } = target.tlb;
  range.kind = kind;
  range.asid = asid;
  range.addressLo = word2 & ADDRESS_LO;
  range.addressHi = words[at + 3]!;
  range.pages = 1;
  range.level = 0;
  if ((word2 & TG_BITS) !== 0 && target.features.ril) {
    const tg = extract(word2, CMD.TG);
    const word0 = words[at]!;
    const num = extract(word0, CMD.NUM);
    const scale = extract(word0, CMD.SCALE);
    const granule = GRANULE_OF_TG[tg]!;
    let ttl = extract(word2, CMD.TTL);
    // A level-1 leaf of the 16K granule exists only with 52-bit addresses (4.4.1.1).
    if (granule === GRANULE.K16 && ttl === 1 && !target.features.ds) ttl = 0;
    if (num === 0 && scale === 0 && ttl === 0) return CERROR.ILL;
    range.level = ttl;
    range.pages = (num + 1) * 2 ** scale * 2 ** (GRANULES[granule]!.pageShift - 12);
  }
  const wildcard = kind === KIND.EL2 ? 0 : target.vmidWildcard();
  if (wildcard === 0) {
    range.vmid = vmid;
    target.tlb.invalidateRange();
    return CERROR.NONE;
  }
  for (let i = 0; i <= wildcard; i++) {
    range.vmid = (vmid & ~wildcard) | i;
    target.tlb.invalidateRange();
  }
  return CERROR.NONE;
}

const RULES: Readonly<Record<CommandName, CommandRule>> = {
  PREFETCH_CONFIG: { legal: always, run: nothing },
  PREFETCH_ADDR: { legal: always, run: nothing },
  CFGI_STE: {
    legal: always,
    run(target, words, at) {
      const sid = words[at + 1]!;
      target.stes.removeStream(sid);
      target.cds.removeStream(sid);
      target.forgetContexts();
      return CERROR.NONE;
    },
  },
  CFGI_STE_RANGE: {
    legal: always,
    run(target, words, at) {
      const size = extract(words[at + 2]!, CMD.Range);
      if (size === CFGI_RANGE_ALL) {
        target.stes.clear();
        target.cds.clear();
      } else {
        const count = 2 ** (size + 1);
        const sid = words[at + 1]! >>> 0;
        const first = sid - (sid % count);
        target.stes.removeStreams(first, count);
        target.cds.removeStreams(first, count);
      }
      target.forgetContexts();
      return CERROR.NONE;
    },
  },
  CFGI_CD: {
    legal: stage1,
    run(target, words, at) {
      target.cds.remove(words[at + 1]!, extract(words[at]!, CMD.SSID));
      target.forgetContexts();
      return CERROR.NONE;
    },
  },
  CFGI_CD_ALL: {
    legal: stage1,
    run(target, words, at) {
      target.cds.removeStream(words[at + 1]!);
      target.forgetContexts();
      return CERROR.NONE;
    },
  },
  CFGI_VMS_PIDM: { legal: (features) => features.mpam, run: nothing },

  TLBI_NH_ALL: {
    legal: stage1,
    run(target, words, at) {
      eachVmid(target, vmidOf(target, words[at + 1]!), (vmid) => {
        target.tlb.invalidateStage1(vmid);
      });
      return CERROR.NONE;
    },
  },
  TLBI_NH_ASID: {
    legal: stage1,
    run(target, words, at) {
      const word1 = words[at + 1]!;
      const asid = asidOf(target, word1);
      const wildcard = target.vmidWildcard();
      const vmid = vmidOf(target, word1) & ~wildcard;
      for (let i = 0; i <= wildcard; i++) target.tlb.invalidateAsid(KIND.EL1, vmid | i, asid);
      return CERROR.NONE;
    },
  },
  TLBI_NH_VA: {
    legal: stage1,
    run(target, words, at) {
      const word1 = words[at + 1]!;
      return invalidateAddress(target, words, at, KIND.EL1, vmidOf(target, word1), asidOf(target, word1));
    },
  },
  TLBI_NH_VAA: {
    legal: stage1,
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
      const asid = target.e2h() ? asidOf(target, words[at + 1]!) : 0;
      target.tlb.invalidateAsid(KIND.EL2, 0, asid);
      return CERROR.NONE;
    },
  },
  TLBI_EL2_VA: {
    legal: hyp,
    run: (target, words, at) =>
      invalidateAddress(target, words, at, KIND.EL2, 0, target.e2h() ? asidOf(target, words[at + 1]!) : 0),
  },
  TLBI_EL2_VAA: { legal: hyp, run: (target, words, at) => invalidateAddress(target, words, at, KIND.EL2, 0, -1) },
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
    // Entries that combine both stages stay: software pairs it with an invalidation of stage 1 (4.4.3, 16.2).
    run: (target, words, at) => invalidateAddress(target, words, at, KIND.IPA, vmidOf(target, words[at + 1]!), 0),
  },
  TLBI_NSNH_ALL: {
    legal: always,
    run(target) {
      target.tlb.invalidateNonHyp();
      return CERROR.NONE;
    },
  },
  ATC_INV: { legal: (features) => features.ats, run: nothing },
  PRI_RESP: {
    legal: (features) => features.pri,
    run: (_target, words, at) => (extract(words[at + 2]!, CMD.Resp) === 3 ? CERROR.ILL : CERROR.NONE),
  },
  RESUME: { legal: stalls, run: nothing },
  STALL_TERM: { legal: stalls, run: nothing },
  SYNC: {
    legal: always,
    run(target, words, at) {
      const cs = (words[at]! >>> CS_SHIFT) & CS_MASK;
      if (cs === SYNC_CS.none) return CERROR.NONE;
      if (cs > SYNC_CS.sev) return CERROR.ILL;
      if (cs === SYNC_CS.irq) {
        // MSIAddress[55:2] is where it belongs in the upper half of the command (4.7.3).
        const lo = words[at + 2]! & CMD.MSIAddr.loMask;
        const hi = words[at + 3]! & CMD.MSIAddr.hiMask;
        target.interrupts.commandSync(lo, hi, words[at + 1]!);
      }
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
  DPTI_ALL: { legal: (features) => features.dpt, run: nothing },
  DPTI_PA: { legal: (features) => features.dpt, run: nothing },
};

/** The commands of one SMMU by opcode. */
export interface CommandTable {
  /** Undefined for an opcode that raises CERROR_ILL. */
  readonly handlers: readonly (Handler | undefined)[];
  /** Bits of the four words of a command that make it illegal, four to an opcode. */
  readonly illegalBits: Int32Array;
}

/**
 * Builds the table of an SMMU with these features.
 * @param checkReserved RES0 bits of a command raise CERROR_ILL; otherwise all of them are ignored (4.1.5 leaves the choice)
 */
export function buildCommandTable(features: Features, checkReserved: boolean): CommandTable {
  const handlers: (Handler | undefined)[] = new Array<Handler | undefined>(256).fill(undefined);
  const illegalBits = new Int32Array(256 * 4);
  for (const [name, { legal, run }] of Object.entries(RULES) as [CommandName, CommandRule][]) {
    const { opcode, fields } = COMMANDS[name];
    if (!legal(features)) continue;
    handlers[opcode] = run;
    const reserved = checkReserved ? reservedCommandBits(opcode) : undefined;
    if (reserved !== undefined) illegalBits.set(reserved, opcode * 4);
    // SSec = 1 is illegal on a Non-secure queue (4.1.6).
    if ((fields as readonly string[]).includes("SSec")) illegalBits[opcode * 4]! |= maskOf(CMD.SSec);
  }
  return { handlers, illegalBits };
}
