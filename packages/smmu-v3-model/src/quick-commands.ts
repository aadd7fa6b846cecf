import { CMD, COMMANDS, maskOf } from "@smmuv3/smmu-v3-defs";
import type { CommandName } from "@smmuv3/smmu-v3-defs";
import type { CommandTarget } from "./command-target.ts";
import type { CommandTable } from "./commands.ts";
import { ConfigCache } from "./config-cache.ts";
import { KIND } from "./tlb.ts";
import { dropPages, dropTables } from "./tlb-pages.ts";

/** What {@link QuickCommands} does itself. */
const ACTION = { none: 0, va: 1, ipa: 2, hypVa: 3, asid: 4, ste: 5, cd: 6, sync: 7 } as const;
const ACTIONS: Readonly<Partial<Record<CommandName, number>>> = {
  TLBI_NH_VA: ACTION.va,
  TLBI_S2_IPA: ACTION.ipa,
  TLBI_EL2_VA: ACTION.hypVa,
  TLBI_NH_ASID: ACTION.asid,
  CFGI_STE: ACTION.ste,
  CFGI_CD: ACTION.cd,
  SYNC: ACTION.sync,
};

const OPCODE = 0xff;
const TG = maskOf(CMD.TG);
const SSID_SHIFT = CMD.SSID.shift;
/** Words of a command. */
const NEXT = 4;

/**
 * The commands that drivers send by the thousand, a run at a time: what their rules do, where nothing but their first word and TG
 * decides about legality. All others, and those with another combination of parameters, are left to the rules.
 */
export class QuickCommands {
  /** CMD_SYNCs in the last {@link run}. */
  syncs = 0;

  readonly #target: CommandTarget;
  /** By opcode: the action, and in place the bits of the first word with which the rule has to look at it. */
  readonly #actions = new Int32Array(256);
  /** Bits of the third word with which the rule has to look at a TLBI by address. */
  readonly #ranged: number;
  readonly #asidMask: number;
  readonly #vmidMask: number;
  readonly #sidMask: number;
  readonly #ssidMask: number;

  constructor(table: CommandTable, target: CommandTarget) {
    const { features, policy } = target;
    this.#target = target;
    this.#ranged = features.ril ? TG : 0;
    this.#asidMask = features.asidMask;
    this.#vmidMask = features.vmidMask;
    this.#sidMask = features.sidSize >= 32 ? -1 : (1 << features.sidSize) - 1;
    this.#ssidMask = (1 << features.ssidSize) - 1;
    const plain =
      policy.commandReserved === "ignore" && policy.commandParameter === "truncate" && policy.tlbiScope === "exact" && !policy.stallEarlyRetry;
    if (!plain) return;
    for (const [name, action] of Object.entries(ACTIONS) as [CommandName, number][]) {
      const { opcode } = COMMANDS[name];
      if (table.handlers[opcode] === undefined) continue;
      this.#actions[opcode] = action | table.illegalBits[opcode]! | (action === ACTION.sync ? maskOf(CMD.CS) : 0);
    }
  }

  /** Some commands with the opcode are done here. */
  has(opcode: number): boolean {
    return this.#actions[opcode] !== ACTION.none;
  }

  /** Executes commands from `words[at]` on and returns where it met one that is not its own, or `end`. */
  run(words: Int32Array, at: number, end: number): number {
    const actions = this.#actions;
    this.syncs = 0;
    let from = at;
    while (from < end) {
      const word0 = words[from]!;
      const action = actions[word0 & OPCODE]!;
      if ((word0 & action & ~OPCODE) !== 0) break;
      const to = this.#execute(action & OPCODE, words, from, end, word0);
      if (to === from) break;
      from = to;
    }
    return from;
  }

  /** Executes commands with the first word `word0`: at least one, or none where they are left to their rule. Returns where it ended. */
  #execute(action: number, words: Int32Array, at: number, end: number, word0: number): number {
    switch (action) {
      case ACTION.va:
        return this.#pages(words, at, end, KIND.EL1, this.#asidMask, this.#vmidMask);
      case ACTION.ipa:
        return this.#pages(words, at, end, KIND.IPA, 0, this.#vmidMask);
      case ACTION.hypVa:
        return this.#pages(words, at, end, KIND.EL2, this.#target.e2h() ? this.#asidMask : 0, 0);
      case ACTION.asid:
        return this.#asids(words, at, end, word0);
      case ACTION.ste:
        return this.#streams(words, at, end);
      case ACTION.cd:
        return this.#descriptors(words, at, end, word0);
      case ACTION.sync:
        return this.#synchronize(words, at, end, word0);
      default:
        return at;
    }
  }

  /** TLBI of one page of one context. */
  #pages(words: Int32Array, at: number, end: number, kind: number, asids: number, vmids: number): number {
    const { tlb } = this.#target;
    if (!tlb.dropsPages(kind) || (kind !== KIND.EL2 && this.#target.vmidWildcard() !== 0)) return at;
    const tags = asids | (vmids << 16);
    const stop = dropPages(tlb, words, at, end, kind, tags, this.#ranged);
    if (tlb.walks !== undefined) dropTables(tlb.walks, words, at, stop, kind, tags);
    return stop;
  }

  #asids(words: Int32Array, at: number, end: number, word0: number): number {
    const { tlb } = this.#target;
    if (this.#target.vmidWildcard() !== 0) return at;
    const asids = this.#asidMask;
    const vmids = this.#vmidMask;
    let i = at;
    do {
      const word1 = words[i + 1]!;
      tlb.invalidateAsid(KIND.EL1, word1 & vmids, (word1 >>> 16) & asids);
      i += NEXT;
    } while (i < end && words[i] === word0);
    return i;
  }

  #streams(words: Int32Array, at: number, end: number): number {
    const { stes, cds } = this.#target;
    const i = ConfigCache.removeStreams(stes, cds, words, at, end);
    this.#target.forgetContexts();
    return i;
  }

  #descriptors(words: Int32Array, at: number, end: number, word0: number): number {
    const { cds } = this.#target;
    const sids = this.#sidMask;
    const ssid = (word0 >>> SSID_SHIFT) & this.#ssidMask;
    let i = at;
    do {
      cds.remove(words[i + 1]! & sids, ssid);
      i += NEXT;
    } while (i < end && words[i] === word0);
    this.#target.forgetContexts();
    return i;
  }

  /** CMD_SYNCs without a completion signal: what comes before is complete, but for what ATS and stalls may have left to do. */
  #synchronize(words: Int32Array, at: number, end: number, word0: number): number {
    if (this.#target.stalls.stale || this.#target.ats?.timedOut === true) return at;
    let i = at + NEXT;
    while (i < end && words[i] === word0) i += NEXT;
    this.syncs += (i - at) / NEXT;
    return i;
  }
}
