import { ERRNO } from "@smmuv3/platform";
import { tlbiNhAll } from "@smmuv3/arm-smmu-v3-common";
import type { SmmuFeatures } from "@smmuv3/arm-smmu-v3-common";
import { CMD, CMD_WORDS, COMMAND_NAMES, definedBits, getField, setField } from "@smmuv3/smmu-v3-defs";
import type { CommandField, CommandName } from "@smmuv3/smmu-v3-defs";

/** What of a command a virtual machine's SMMU number is replaced in. */
type Rewrite = "vmid" | "sid" | "all";

interface Rule {
  readonly rewrite: Rewrite;
  /** Fields that a virtual machine may set, and those that depend on a feature. */
  readonly fields: readonly CommandField[];
  readonly ril?: readonly CommandField[];
  readonly substreams?: readonly CommandField[];
  readonly ats?: boolean;
}

const RANGE: readonly CommandField[] = ["NUM", "SCALE", "TG", "TTL"];

/** Commands of a virtual machine that reach the SMMU. Everything else is the hypervisor's business. */
const RULES: Readonly<Partial<Record<CommandName, Rule>>> = {
  TLBI_NSNH_ALL: { rewrite: "all", fields: [] },
  TLBI_NH_ALL: { rewrite: "vmid", fields: ["VMID"] },
  TLBI_NH_ASID: { rewrite: "vmid", fields: ["VMID", "ASID"] },
  TLBI_NH_VA: { rewrite: "vmid", fields: ["VMID", "ASID", "Leaf", "Address"], ril: RANGE },
  TLBI_NH_VAA: { rewrite: "vmid", fields: ["VMID", "Leaf", "Address"], ril: RANGE },
  CFGI_CD: { rewrite: "sid", fields: ["SID", "Leaf"], substreams: ["SSID"] },
  CFGI_CD_ALL: { rewrite: "sid", fields: ["SID"] },
  ATC_INV: { rewrite: "sid", fields: ["SID", "AtcSize", "Address"], substreams: ["SSV", "SSID", "Global"], ats: true },
};

/** 2^52 pages: all there are. */
const ATC_SIZE_ALL = 52;
const TG_16K = 2;
/** SCALE has five bits, and a sixth with 52-bit addresses. */
const SCALE_LIMIT = 32;

/** What commands are checked and rewritten by. */
export interface CommandContext {
  readonly features: SmmuFeatures;
  readonly vmid: number;
  /** StreamID of a number that the virtual machine gives; negative when it has no such device. */
  sidOf(vsid: number): number;
}

/** Fields that the SMMU would not understand, or not have from anyone else, are refused: nothing a machine sends is an error here. */
function isLegal(words: Int32Array, rule: Rule, { features }: CommandContext): boolean {
  const names: CommandField[] = ["Opcode", ...rule.fields];
  if (features.ril) names.push(...(rule.ril ?? []));
  if (features.ssidBits > 0) names.push(...(rule.substreams ?? []));
  const allowed = definedBits(Object.fromEntries(names.map((name) => [name, CMD[name]])), CMD_WORDS);
  if (words.some((word, i) => (word & ~allowed[i]!) !== 0)) return false;
  if (rule.ats === true) return features.ats && getField(words, 0, CMD.AtcSize) <= ATC_SIZE_ALL;
  if (rule.fields.includes("ASID") && getField(words, 0, CMD.ASID) >= 2 ** features.asidBits) return false;
  return rule.ril === undefined || isLegalRange(words, features);
}

function isLegalRange(words: Int32Array, features: SmmuFeatures): boolean {
  const [tg, ttl, num, scale] = [CMD.TG, CMD.TTL, CMD.NUM, CMD.SCALE].map((field) => getField(words, 0, field)) as
    [number, number, number, number];
  if (scale >= SCALE_LIMIT && !features.ds) return false;
  const single = num === 0 && scale === 0 && ttl === 0;
  if (tg === 0) return single;
  return !single && !(tg === TG_16K && ttl === 1 && !features.ds);
}

/**
 * Turns a virtual machine's command, in place, into one that reaches its own TLB entries and devices only.
 * @param lax as the kernel does, which is a flaw: fields are not checked, and the SMMU is sent what it calls illegal
 * @returns 0, or -EIO for a command that no virtual machine has, or that names a device that it does not have
 */
export function convertCommand(words: Int32Array, context: CommandContext, lax: boolean): number {
  const name = COMMAND_NAMES.get(getField(words, 0, CMD.Opcode));
  const rule = name === undefined ? undefined : RULES[name];
  if (rule === undefined || (!lax && !isLegal(words, rule, context))) return -ERRNO.EIO;
  if (rule.rewrite === "all") {
    tlbiNhAll(words, 0, context.vmid);
  } else if (rule.rewrite === "vmid") {
    setField(words, 0, CMD.VMID, context.vmid);
  } else {
    const sid = context.sidOf(getField(words, 0, CMD.SID));
    if (sid < 0) return -ERRNO.EIO;
    setField(words, 0, CMD.SID, sid);
  }
  return 0;
}
