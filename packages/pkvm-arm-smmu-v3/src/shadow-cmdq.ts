import { CommandBatch } from "@smmuv3/arm-smmu-v3-common";
import type { HypCore } from "@smmuv3/pkvm-hyp";
import { join } from "@smmuv3/platform";
import {
  CERROR,
  CFGI_RANGE_ALL,
  CMD,
  CMD_BYTES,
  CMD_WORDS,
  COMMANDS,
  definedBits,
  extract,
  getField,
  REG,
  setField,
  SYNC_CS,
} from "@smmuv3/smmu-v3-defs";
import type { CommandField, CommandName } from "@smmuv3/smmu-v3-defs";

import type { ShadowStrtab } from "./shadow-strtab.ts";
import type { HypSmmu } from "./smmu.ts";

/** What becomes of a command that the host may use. */
type Verdict = "forward" | "ste" | "ste-range" | "sync" | "tlbi" | "stall";

/**
 * The host's commands. All others are illegal on the SMMU that it sees, which has stage 1 only: no EL2, no ATS, no PRI, no
 * MPAM, no Secure state. The VMID field does not exist on it either: it is written as the host's, 0.
 */
const ALLOWED: Partial<Readonly<Record<CommandName, Verdict>>> = {
  PREFETCH_CONFIG: "forward",
  PREFETCH_ADDR: "forward",
  CFGI_STE: "ste",
  CFGI_STE_RANGE: "ste-range",
  CFGI_CD: "forward",
  CFGI_CD_ALL: "forward",
  TLBI_NH_ALL: "forward",
  TLBI_NH_ASID: "forward",
  TLBI_NH_VA: "tlbi",
  TLBI_NH_VAA: "tlbi",
  TLBI_NSNH_ALL: "forward",
  RESUME: "stall",
  STALL_TERM: "stall",
  SYNC: "sync",
};

interface Rule {
  readonly verdict: Verdict;
  /** Bits of the command that reach the hardware. */
  readonly mask: Int32Array;
  readonly secure: boolean;
}

function ruleOf(name: CommandName, verdict: Verdict): Rule {
  const fields: readonly CommandField[] = COMMANDS[name].fields;
  const kept = fields.filter((field) => field !== "VMID" && field !== "SSec");
  return {
    verdict,
    mask: definedBits(Object.fromEntries(["Opcode" as const, ...kept].map((field) => [field, CMD[field]])), CMD_WORDS),
    secure: fields.includes("SSec"),
  };
}

function buildRules(): ReadonlyMap<number, Rule> {
  const allowed = Object.entries(ALLOWED) as [CommandName, Verdict][];
  return new Map(allowed.map(([name, verdict]) => [COMMANDS[name].opcode, ruleOf(name, verdict)]));
}

/** Rules by opcode. */
const RULES: ReadonlyMap<number, Rule> = /* @__PURE__ */ buildRules();

/** Fields that only an SMMU with range invalidation looks at. */
const RANGE_FIELDS: Int32Array = /* @__PURE__ */ definedBits(
  { NUM: CMD.NUM, SCALE: CMD.SCALE, TTL: CMD.TTL, TG: CMD.TG, TTL128: CMD.TTL128 },
  CMD_WORDS,
);
const TG_16K = 2;

/** Commands consumed, and STEs copied for them, in one trap: EL2's time is bounded, a longer queue goes on at the next access. */
const WORK_LIMIT = 4096;

/**
 * True when the host may use `command` (4 words), which is brought into the form in which the hardware gets it. False:
 * CERROR_ILL, as on an SMMU with the host's ID registers.
 */
export function filterCommand(command: Int32Array, smmu: HypSmmu): boolean {
  const rule = RULES.get(getField(command, 0, CMD.Opcode));
  if (rule === undefined || (rule.secure && getField(command, 0, CMD.SSec) !== 0)) return false;
  for (let i = 0; i < CMD_WORDS; i++) command[i] = command[i]! & rule.mask[i]!;
  if (rule.verdict === "stall") return smmu.features.stalls;
  if (rule.verdict === "sync") return getField(command, 0, CMD.CS) <= SYNC_CS.sev;
  return rule.verdict !== "tlbi" || legalRange(command, smmu.features.ril);
}

/** IHI 0070 4.4.1: a granule without a range or a level says nothing; level 1 does not exist with 16K. */
function legalRange(command: Int32Array, ril: boolean): boolean {
  setField(command, 0, CMD.TTL128, 0);
  const tg = getField(command, 0, CMD.TG);
  if (!ril || tg === 0) {
    for (let i = 0; i < CMD_WORDS; i++) command[i] = command[i]! & ~RANGE_FIELDS[i]!;
    return true;
  }
  const ttl = getField(command, 0, CMD.TTL);
  if (tg === TG_16K && ttl === 1) setField(command, 0, CMD.TTL, 0);
  const range = getField(command, 0, CMD.NUM) !== 0 || getField(command, 0, CMD.SCALE) !== 0;
  return range || getField(command, 0, CMD.TTL) !== 0;
}

/**
 * The host's command queue: consumed when the host writes PROD, through EL2's own queue, complete on return. Each command is
 * copied once; only the copy is looked at. Indices are register values: index and wrap bit.
 */
export class ShadowCmdq {
  /** CMDQ_PROD and CMDQ_CONS.RD of the host. */
  prod = 0;
  cons = 0;
  /** CMDQ_CONS.ERR. */
  error: number = CERROR.NONE;
  readonly #core: HypCore;
  readonly #smmu: HypSmmu;
  readonly #strtab: ShadowStrtab;
  /** The host's commands; EL2's own go through the SMMU's batch. */
  readonly #batch: CommandBatch;
  readonly #command: Int32Array = new Int32Array(CMD_WORDS);
  #enabled = false;
  /** The queue's memory is pinned. */
  #readable = false;
  #base = 0;
  #log2 = 0;

  constructor(core: HypCore, smmu: HypSmmu, strtab: ShadowStrtab) {
    this.#core = core;
    this.#smmu = smmu;
    this.#strtab = strtab;
    this.#batch = new CommandBatch(
      {
        issue: (words, count, sync) => {
          smmu.lock.lock(core.cpu);
          const status = smmu.issue(words, count, sync);
          smmu.lock.unlock(core.cpu);
          return status;
        },
      },
      smmu.features.forceSync,
    );
  }

  /** The host set CMDQEN with this CMDQ_BASE. */
  enable(baseLo: number, baseHi: number): void {
    const { LOG2SIZE, ADDR } = REG.CMDQ_BASE;
    // Larger sizes behave as the largest (6.3.26).
    this.#log2 = Math.min(extract(baseLo, LOG2SIZE), this.#smmu.features.cmdqLog2);
    const bytes = CMD_BYTES * 2 ** this.#log2;
    const address = join(baseLo & ADDR.loMask, baseHi & ADDR.hiMask);
    this.#base = address - (address % Math.max(bytes, 32));
    this.#enabled = true;
    this.#readable = this.#core.pinLent(this.#base, bytes) === 0;
  }

  /** The host cleared CMDQEN. */
  disable(): void {
    if (this.#readable) this.#core.unpin(this.#base, CMD_BYTES * 2 ** this.#log2);
    this.#enabled = false;
    this.#readable = false;
  }

  /**
   * Consumes what the host has queued, up to an error or {@link WORK_LIMIT}.
   * @returns false when CERROR is set: `cons` is the command that is to blame
   */
  consume(): boolean {
    const positions = (2 << this.#log2) - 1;
    const target = this.prod & positions;
    let at = this.cons & positions;
    if (!this.#enabled || at === target || ((target - at) & positions) > 1 << this.#log2) return true;
    this.error = CERROR.NONE;
    const limit = this.#strtab.copies + WORK_LIMIT;
    for (let done = 0; at !== target && this.error === CERROR.NONE && done + this.#strtab.copies < limit; done++) {
      this.error = this.#readable ? this.#one(at & ((1 << this.#log2) - 1)) : CERROR.ABT;
      if (this.error === CERROR.NONE) at = (at + 1) & positions;
    }
    // Complete, whether or not the host asked: it reads CONS as soon as this returns.
    if (this.#batch.count === 0 || this.#batch.submit() === 0) this.cons = at;
    else this.error = CERROR.ABT;
    return this.error === CERROR.NONE;
  }

  /** The command at `slot`; returns a CERROR. */
  #one(slot: number): number {
    const command = this.#command;
    this.#core.cpu.memory.read(this.#base + slot * CMD_BYTES, command);
    if (!filterCommand(command, this.#smmu)) return CERROR.ILL;
    return this.#execute(command) < 0 ? CERROR.ABT : CERROR.NONE;
  }

  #execute(command: Int32Array): number {
    const batch = this.#batch;
    const rule = RULES.get(getField(command, 0, CMD.Opcode));
    if (rule?.verdict === "sync") return batch.submit();
    if (rule?.verdict === "ste" || rule?.verdict === "ste-range") {
      // What was queued before applies before the STE changes.
      const status = batch.count > 0 ? batch.submit() : 0;
      const updated = status < 0 ? status : this.#updateStes(command, rule.verdict);
      if (updated < 0) return updated;
    }
    batch.words.set(command, batch.next());
    return 0;
  }

  #updateStes(command: Int32Array, verdict: Verdict): number {
    const sid = getField(command, 0, CMD.SID);
    if (verdict === "ste") return this.#strtab.update(sid, getField(command, 0, CMD.Leaf) !== 0);
    const range = getField(command, 0, CMD.Range);
    if (range === CFGI_RANGE_ALL) return this.#strtab.updateRange(0, 2 ** 32);
    const count = 2 ** (range + 1);
    return this.#strtab.updateRange(sid - (sid % count), count);
  }
}

