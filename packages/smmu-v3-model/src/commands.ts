import {
  ATC_INV_SIZE_ALL, bits, CERROR, CFGI_RANGE_ALL, CMD, CMD_WORDS, COMMANDS, extract, maskOf, reservedCommandBits, STALL_MODEL, SYNC_CS,
} from "@smmuv3/smmu-v3-defs";
import type { CommandDef, CommandField, CommandName } from "@smmuv3/smmu-v3-defs";
import { always, CONSUMED, nothing } from "./command-target.ts";
import type { CommandRule, CommandTarget, Handler } from "./command-target.ts";
import type { SmmuPolicy } from "./policy.ts";
import type { Features } from "./presets.ts";
import { TLBI_RULES } from "./tlbi.ts";

const stage1 = (features: Features): boolean => features.s1p;
const stalls = (features: Features): boolean => features.stallModel !== STALL_MODEL.none;
const dpt = (features: Features): boolean => features.dpt;

const CS_SHIFT = CMD.CS.shift;
const CS_MASK = CMD.CS.mask;
const SSV = maskOf(CMD.SSV);
/** Addresses that one CMD_PREFETCH_ADDR translates at most: the SMMU limits the operation (4.2.2). */
const PREFETCH_LIMIT = 256;

/** The low `n` bits, 0 to 32. */
function lowBits(n: number): number {
  return n >= 32 ? -1 : (1 << n) - 1;
}

function sidOf({ features }: CommandTarget, word1: number): number {
  return word1 & lowBits(features.sidSize);
}

function ssidOf({ features }: CommandTarget, word0: number): number {
  return extract(word0, CMD.SSID) & lowBits(features.ssidSize);
}

/** SubstreamID of a prefetch: without substreams SSV = 1 behaves as 0 (4.2). */
function prefetchSsid(target: CommandTarget, word0: number): number {
  return (word0 & SSV) !== 0 && target.features.ssidSize > 0 ? ssidOf(target, word0) : -1;
}

const RULES: Readonly<Record<CommandName, CommandRule>> = {
  ...TLBI_RULES,
  PREFETCH_CONFIG: {
    legal: always,
    run(target, words, at) {
      target.prefetchConfig(sidOf(target, words[at + 1]!), prefetchSsid(target, words[at]!));
      return CERROR.NONE;
    },
  },
  PREFETCH_ADDR: {
    legal: always,
    run(target, words, at) {
      const sid = sidOf(target, words[at + 1]!);
      const ssid = prefetchSsid(target, words[at]!);
      const word2 = words[at + 2]!;
      // v3.0 has a fixed stride (4.2.2).
      const stride = target.features.minor === 0 ? 0 : extract(word2, CMD.Stride);
      const count = Math.min(2 ** extract(word2, CMD.PrefetchSize), PREFETCH_LIMIT);
      // In pages, exactly: Address[63:12] is 52 bits wide.
      const first = (words[at + 3]! >>> 0) * 0x10_0000 + (word2 >>> 12);
      for (let n = 0; n < count; n++) {
        const page = first + n * 2 ** stride;
        if (page >= 2 ** 52) break;
        target.prefetchAddress(sid, ssid, (page % 0x10_0000) << 12, Math.floor(page / 0x10_0000) | 0);
      }
      return CERROR.NONE;
    },
  },
  CFGI_STE: {
    legal: always,
    run(target, words, at) {
      const sid = sidOf(target, words[at + 1]!);
      target.stes.removeStream(sid);
      target.cds.removeStream(sid);
      target.forgetContexts();
      return CERROR.NONE;
    },
  },
  CFGI_STE_RANGE: {
    legal: always,
    run(target, words, at) {
      const range = extract(words[at + 2]!, CMD.Range);
      const { sidSize } = target.features;
      if (range === CFGI_RANGE_ALL) {
        target.stes.clear();
        target.cds.clear();
      } else {
        const count = 2 ** (range + 1);
        const sid = words[at + 1]! >>> 0;
        // The low bits of StreamID are IGNORED, those above can be out of range (4.3.2, 4.1.7).
        const first = sid - (sid % count);
        if (first >= 2 ** sidSize && target.policy.commandParameter === "noEffect") return CERROR.NONE;
        target.stes.removeStreams(first % 2 ** sidSize, count);
        target.cds.removeStreams(first % 2 ** sidSize, count);
      }
      target.forgetContexts();
      return CERROR.NONE;
    },
  },
  CFGI_CD: {
    legal: stage1,
    run(target, words, at) {
      target.cds.remove(sidOf(target, words[at + 1]!), ssidOf(target, words[at]!));
      target.forgetContexts();
      return CERROR.NONE;
    },
  },
  CFGI_CD_ALL: {
    legal: stage1,
    run(target, words, at) {
      target.cds.removeStream(sidOf(target, words[at + 1]!));
      target.forgetContexts();
      return CERROR.NONE;
    },
  },
  CFGI_VMS_PIDM: { legal: (features) => features.mpam, run: nothing },
  ATC_INV: {
    legal: (features) => features.ats,
    illegal: oversizedInvalidation,
    run(target, words, at) {
      if (oversizedInvalidation(target, words, at)) return CERROR.ILL;
      target.ats?.invalidate(words, at);
      return CONSUMED.endsBatch;
    },
  },
  PRI_RESP: {
    legal: (features) => features.pri,
    illegal: reservedResponse,
    run(target, words, at) {
      if (reservedResponse(target, words, at)) return CERROR.ILL;
      target.ats?.respond(words, at);
      return CONSUMED.endsBatch;
    },
  },
  RESUME: {
    legal: stalls,
    run(target, words, at) {
      const word0 = words[at]!;
      const stag = extract(words[at + 2]!, CMD.STAG);
      target.stalls.resume(words[at + 1]!, stag, extract(word0, CMD.Ac) === 1, extract(word0, CMD.Ab) === 1);
      return CONSUMED.endsBatch;
    },
  },
  STALL_TERM: {
    legal: stalls,
    run(target, words, at) {
      target.stalls.terminate(sidOf(target, words[at + 1]!));
      return CONSUMED.endsBatch;
    },
  },
  SYNC: {
    legal: always,
    run(target, words, at) {
      const cs = (words[at]! >>> CS_SHIFT) & CS_MASK;
      if (cs > SYNC_CS.sev) return CERROR.ILL;
      const failed = target.ats?.synchronize() ?? CERROR.NONE;
      if (failed !== CERROR.NONE) return failed;
      target.stalls.synchronize();
      return cs === SYNC_CS.none ? CERROR.NONE : CONSUMED.signals;
    },
  },
  DPTI_ALL: { legal: dpt, run: nothing },
  DPTI_PA: { legal: dpt, run: nothing },
};

function oversizedInvalidation({ policy }: CommandTarget, words: Int32Array, at: number): boolean {
  return policy.atcInvSize === "illegal" && extract(words[at + 2]!, CMD.AtcSize) > ATC_INV_SIZE_ALL;
}

/** Resp = 3 (4.5.2). */
function reservedResponse(_target: CommandTarget, words: Int32Array, at: number): boolean {
  return extract(words[at + 2]!, CMD.Resp) === 3;
}

/** Signals the completion of the CMD_SYNC at `words[at]`, which has been consumed (4.7.3). */
export function signalCompletion(target: CommandTarget, words: Int32Array, at: number): void {
  const cs = (words[at]! >>> CS_SHIFT) & CS_MASK;
  if (cs === SYNC_CS.irq) {
    // MSIAddress[55:2] is where it belongs in the upper half of the command.
    const lo = words[at + 2]! & CMD.MSIAddr.loMask;
    const hi = words[at + 3]! & CMD.MSIAddr.hiMask;
    target.interrupts.commandSync(lo, hi, words[at + 1]!);
  } else if (cs === SYNC_CS.sev && target.features.sev) {
    target.sendEvent();
  }
}

/** Fields that are RES0 on an SMMU with these features, on its Non-secure queue. */
function absentFields(features: Features): CommandField[] {
  const absent: CommandField[] = ["NS", "MSI_NS", "TTL128"];
  if (!features.ril) absent.push("NUM", "SCALE", "TTL", "TG");
  if (features.minor === 0) absent.push("Stride");
  return absent;
}

/** Bits of the four words of a command that are RES0 on this SMMU (4.1.5 and the command's section). */
function reservedBits(name: CommandName, features: Features): Int32Array {
  const { opcode, fields, addressMsb }: CommandDef = COMMANDS[name];
  const reserved = reservedCommandBits(opcode)!;
  for (const absent of absentFields(features)) {
    const field = CMD[absent];
    if (fields.includes(absent) && "mask" in field) reserved[field.word]! |= maskOf(field);
  }
  // SCALE[5] needs 52-bit addresses (4.4.1.1); Address[55:52] v3.4, [51:48] v3.1 (4.1.6).
  if (fields.includes("SCALE") && !features.ds) reserved[0]! |= 1 << 25;
  if (addressMsb !== undefined && features.minor < 4) reserved[3]! |= features.minor === 0 ? bits(23, 16) : bits(23, 20);
  return reserved;
}

/** Without TG there is neither a range nor a level, without TTL no TTL128: the fields are RES0 (4.4.1.1). */
function unusedRange(words: Int32Array, at: number): boolean {
  const word2 = words[at + 2]!;
  const unused = extract(word2, CMD.TG) === 0;
  return unused && ((words[at]! & (maskOf(CMD.NUM) | maskOf(CMD.SCALE))) !== 0 || extract(word2, CMD.TTL) !== 0);
}

/** Any of the bits `mask` is set in the command at `words[at]`. */
function anySet(words: Int32Array, at: number, mask: Int32Array): boolean {
  return (
    ((words[at]! & mask[0]!) | (words[at + 1]! & mask[1]!) | (words[at + 2]! & mask[2]!) | (words[at + 3]! & mask[3]!)) !== 0
  );
}

/** Commands whose ASID counts under CR2.E2H only, and whose StreamID partly does: their handlers look for themselves. */
const OWN_RANGE_CHECK: ReadonlySet<CommandName> = new Set(["TLBI_EL2_ASID", "TLBI_EL2_VA", "CFGI_STE_RANGE", "RESUME"]);

/** Bits of StreamID, SubstreamID, VMID and ASID beyond the sizes of this SMMU (4.1.7, 4.4). */
function rangeBits(name: CommandName, features: Features): Int32Array {
  const mask = new Int32Array(CMD_WORDS);
  if (OWN_RANGE_CHECK.has(name)) return mask;
  const { fields }: CommandDef = COMMANDS[name];
  if (fields.includes("SID")) mask[1]! |= ~lowBits(features.sidSize);
  if (fields.includes("SSID")) mask[0]! |= (CMD.SSID.mask & ~lowBits(features.ssidSize)) << CMD.SSID.shift;
  if (fields.includes("VMID")) mask[1]! |= CMD.VMID.mask & ~features.vmidMask;
  if (fields.includes("ASID")) mask[1]! |= (CMD.ASID.mask & ~features.asidMask) << CMD.ASID.shift;
  // Where there are no substreams, SSV itself is out of range (4.2, 4.5.1).
  if (fields.includes("SSV") && features.ssidSize === 0) mask[0]! |= SSV;
  return mask;
}

/** The commands of one SMMU by opcode. */
export interface CommandTable {
  /** Undefined for an opcode that raises CERROR_ILL. */
  readonly handlers: readonly (Handler | undefined)[];
  /** Bits of the first word that raise CERROR_ILL, by opcode: SSec, on a Non-secure queue (4.1.6). */
  readonly illegalBits: Int32Array;
}

/** The handler of a command with the choices of `policy` around it. */
function compose(name: CommandName, rule: CommandRule, features: Features, policy: SmmuPolicy): Handler {
  let handler = rule.run;
  if (policy.stallEarlyRetry && (name.startsWith("TLBI_") || name.startsWith("CFGI_"))) {
    const { run } = rule;
    handler = (target, words, at) => {
      target.stalls.stale = true;
      return run(target, words, at);
    };
  }
  if (policy.commandParameter === "noEffect") {
    const beyond = rangeBits(name, features);
    const { illegal } = rule;
    const inner = handler;
    handler = (target, words, at) => {
      if (!anySet(words, at, beyond)) return inner(target, words, at);
      // CERROR_ILL comes before a command is ignored (4.1.3).
      return illegal?.(target, words, at) === true ? CERROR.ILL : CERROR.NONE;
    };
  }
  if (policy.commandReserved === "illegal") {
    const reserved = reservedBits(name, features);
    const ranged = (COMMANDS[name].fields as readonly CommandField[]).includes("TG");
    const inner = handler;
    handler = (target, words, at) =>
      anySet(words, at, reserved) || (ranged && unusedRange(words, at)) ? CERROR.ILL : inner(target, words, at);
  }
  return handler;
}

/** Builds the table of an SMMU with these features and choices. */
export function buildCommandTable(features: Features, policy: SmmuPolicy): CommandTable {
  const handlers: (Handler | undefined)[] = new Array<Handler | undefined>(256).fill(undefined);
  const illegalBits = new Int32Array(256);
  for (const [name, rule] of Object.entries(RULES) as [CommandName, CommandRule][]) {
    const { opcode, fields } = COMMANDS[name];
    if (!rule.legal(features)) continue;
    handlers[opcode] = compose(name, rule, features, policy);
    if ((fields as readonly string[]).includes("SSec")) illegalBits[opcode] = maskOf(CMD.SSec);
  }
  return { handlers, illegalBits };
}
