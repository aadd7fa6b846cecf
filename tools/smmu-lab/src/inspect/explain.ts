// What an access does in a dump, as the model explains it. Memory of the model is filled page by page with what it asks for, so
// that a dump may be larger than memory, and so that a page that the dump does not hold is noticed instead of being zero.
import { ACCESS, Memory, PAGE_SIZE, PAGE_WORDS, PERM_READ } from "@smmuv3/platform";
import { EVENT, getAddress } from "@smmuv3/smmu-v3-defs";
import type { EventName } from "@smmuv3/smmu-v3-defs";
import type { Explanation as ModelExplanation, SmmuV3 } from "@smmuv3/smmu-v3-model";
import { hex, UnknownPage } from "../reference/bus.ts";
import type { Bus } from "../reference/bus.ts";
import type { Machine, StructureRead } from "../reference/config.ts";
import { explain as explainByReference } from "../reference/explain.ts";
import type { Access } from "../reference/explain.ts";
import { programModel } from "../vectors/replay.ts";

/** What an access does, and why. */
export interface AccessReport {
  /** `raz`: terminated, reads as zero. `unknown`: decided by a page that the dump does not hold. */
  readonly outcome: ModelExplanation["outcome"];
  readonly pa: bigint | undefined;
  /** The event, whether or not it is recorded. */
  readonly event: { readonly name: EventName; readonly recorded: boolean; readonly words: Int32Array; readonly text: string } | undefined;
  /** The rule that decided, with its section. */
  readonly reason: string;
  /** Every structure that was read, in order. */
  readonly reads: readonly StructureRead[];
}

/** Physical memory that a dump may describe: from the first byte to behind the last. */
export interface Extent {
  readonly first: bigint;
  readonly end: bigint;
}

/** Flat memory of the model ends below this, and is smaller than that. */
const LIMIT = 2n ** 43n;
const LARGEST = 2n ** 33n - BigInt(PAGE_SIZE);
const FETCHES: ReadonlySet<EventName> = new Set<EventName>(["F_STE_FETCH", "F_CD_FETCH", "F_WALK_EABT"]);

function toReads(reads: ModelExplanation["reads"]): StructureRead[] {
  return reads.map(({ what, level, pa, words, text }) => ({
    what: what === "S1" || what === "S2" ? `stage ${what.slice(1)} level ${level}` : what,
    pa: BigInt(pa),
    value: words.map(BigInt),
    text,
  }));
}

function toReport(found: ModelExplanation): AccessReport {
  const { outcome, pa, event, rule, reads } = found;
  return {
    outcome,
    pa: pa === undefined ? undefined : BigInt(pa),
    event: event === undefined ? undefined : { ...event, words: Int32Array.from(event.words) },
    reason: `${rule.text} (${rule.section})`,
    reads: toReads(reads),
  };
}

/** Explains accesses over one dump. Pages that were read are kept. */
export class DumpExplainer {
  readonly #machine: Machine;
  readonly #bus: Bus;
  /** Undefined where physical memory is too sparse for the model's flat memory: then the reference walk explains. */
  readonly #model: { readonly smmu: SmmuV3; readonly memory: Memory } | undefined;

  constructor(machine: Machine, { first, end }: Extent) {
    this.#machine = machine;
    this.#bus = machine.bus;
    const page = BigInt(PAGE_SIZE);
    const base = (first / page) * page;
    const size = ((end - base + page - 1n) / page) * page;
    if (size <= 0n || size > LARGEST || base + size > LIMIT) return;
    const memory = Memory.allocate({ base: Number(base), size: Number(size) });
    memory.perm.fill(0);
    this.#model = { memory, smmu: programModel(memory, machine.registers, "eager") };
  }

  /** What `access` does by the structures in the dump, whatever caches held. */
  explain(access: Access): AccessReport {
    if (this.#model === undefined) return explainByReference(this.#machine, access);
    const { sid, ssid, iova, write, privileged, instruction } = access;
    const flags =
      (write ? ACCESS.write : ACCESS.read) |
      (privileged ? ACCESS.privileged : 0) |
      (instruction ? ACCESS.instruction : 0) |
      (ssid === undefined ? 0 : ACCESS.ssidValid);
    const [lo, hi] = [Number(BigInt.asIntN(32, iova)), Number(BigInt.asIntN(32, iova >> 32n))];
    for (;;) {
      const found = this.#model.smmu.explainAccess(sid, ssid ?? 0, lo, hi, flags);
      if (found.event === undefined || !FETCHES.has(found.event.name)) return toReport(found);
      try {
        // Another page makes another attempt; where nothing answers, the abort stands.
        if (!this.#load(BigInt(getAddress(Int32Array.from(found.event.words), 0, EVENT.FetchAddr)))) return toReport(found);
      } catch (error) {
        if (!(error instanceof UnknownPage)) throw error;
        return { outcome: "unknown", pa: undefined, event: undefined, reason: `unknown: ${error.message}`, reads: toReads(found.reads) };
      }
    }
  }

  /** Reads the page of `pa` out of the dump. Returns false where nothing answers; throws {@link UnknownPage}. */
  #load(pa: bigint): boolean {
    const { memory } = this.#model!;
    const start = pa - (pa % BigInt(PAGE_SIZE));
    const page = memory.pageIndex(Number(start));
    if (page >= 0 && memory.perm[page] !== 0) throw new Error(`the model does not read ${hex(pa)}, which is in memory`);
    const words = this.#bus.read(start, PAGE_WORDS);
    if (words === undefined || page < 0) return false;
    memory.words.set(words, page * PAGE_WORDS);
    memory.perm[page] = PERM_READ;
    return true;
  }
}
