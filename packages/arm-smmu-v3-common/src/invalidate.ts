import { CMD } from "@smmuv3/smmu-v3-defs";
import { atcInv } from "./commands.ts";
import { INV } from "./invs.ts";
import type { Invs } from "./invs.ts";
import { planRange, planRangeOver, planSingle } from "./tlbi-range.ts";
import type { TlbiEmit } from "./tlbi-range.ts";

/** Where commands are collected: a `CommandBatch` or `SelectingBatch`. */
export interface CommandCollector {
  readonly words: Int32Array;
  next(): number;
  /** Inserts them with a SYNC. 0 or a negative errno. */
  submit(): number;
}

export interface InvalidatorOptions {
  /** The array that is published. */
  current(): Invs;
  /** Batch of an SMMU, by its number; empty, and nobody else's until the invalidation is over. */
  batchOf(smmu: number): CommandCollector;
  /** A full barrier: the change of the tables is seen by every SMMU whose STE or CD is not in the array that is looked at. */
  barrier(): void;
  /** A step of waiting. */
  readonly relax: () => void;
  /** log2 of the granule of the tables. */
  readonly pageShift: number;
  /** The tables are a process's, in which contiguous runs may be anywhere. */
  readonly sva?: boolean;
  /**
   * As the kernel does, which is a flaw: the array is not looked up again behind the lock. One that was replaced meanwhile may
   * name a device that has been detached since, and whose ATS is off.
   */
  readonly keepsArray?: boolean;
}

const ASID_SHIFT = CMD.ASID.shift;
const VMID_SHIFT = CMD.VMID.shift;

function isAts(type: number): boolean {
  return type >= INV.ats;
}

/** The invalidations of one domain, over all SMMUs and devices that it is attached to. */
export class Invalidator {
  readonly #options: InvalidatorOptions;
  readonly #emit: TlbiEmit;
  #batch: CommandCollector | undefined = undefined;
  #opcode = 0;
  /** Word 1 of a TLBI: ASID or VMID. */
  #tag = 0;

  constructor(options: InvalidatorOptions) {
    this.#options = options;
    this.#emit = (w0, w2, w3) => {
      this.#put(this.#opcode | w0, w2, w3);
    };
  }

  /**
   * Invalidates `[iova, iova + size)` and waits.
   * @param granule bytes of the leaves that went away, or of the pages where tables went away
   * @param leaf only leaves went away
   * @returns 0, or the first error of a batch; the others were inserted all the same
   */
  invalidate(iova: number, size: number, granule: number, leaf: boolean): number {
    return this.#run(iova, size, granule, leaf);
  }

  /** Invalidates everything of the domain and waits. Result as of {@link invalidate}. */
  invalidateAll(): number {
    return this.#run(0, 0, 1, false);
  }

  /**
   * Invalidates the ASID or VMID that has left the domain with its last user, {@link unrefInvs}, if it has: so that it may be
   * used again.
   */
  flushReleased(removed: Invs): number {
    if (removed.count === 0 || removed.users(0) !== 0 || isAts(removed.type(0))) return 0;
    this.#batch = this.#options.batchOf(removed.smmu(0));
    this.#everything(removed, 0);
    return this.#batch.submit();
  }

  #run(iova: number, size: number, granule: number, leaf: boolean): number {
    const options = this.#options;
    options.barrier();
    let invs = options.current();
    const { hasAts } = invs;
    if (hasAts) {
      invs.lock(options.relax);
      if (options.keepsArray !== true) invs = options.current();
    }
    let status = 0;
    /** The row before went for everything of its VMID. */
    let all = false;
    // The array may be cut meanwhile: a row that was found stays the next one.
    for (let row = invs.live(0); row >= 0; ) {
      const type = invs.type(row);
      const smmu = invs.smmu(row);
      this.#batch ??= this.#options.batchOf(smmu);
      if (isAts(type)) {
        const full = type === INV.atsFull;
        const ssid = full ? 0 : invs.ssid(row);
        atcInv(this.#batch.words, this.#batch.next(), invs.id(row), ssid, full ? 0 : iova, full ? 0 : size);
      } else if (type === INV.s2VmidS1Clear) {
        // TLBI_S12_VMALL covers stage 1.
        if (!all) this.#everything(invs, row);
      } else {
        all = !this.#range(invs, row, iova, size, granule, leaf);
        if (all) this.#everything(invs, row);
      }
      const next = invs.live(row + 1);
      if (next < 0 || this.#ends(type, smmu, invs, next)) {
        const result = type === INV.s2VmidS1Clear && all ? 0 : this.#batch.submit();
        if (status === 0) status = result;
        this.#batch = undefined;
      }
      row = next;
    }
    if (hasAts) invs.unlock();
    return status;
  }

  /** The batch has to be complete before row `next`: devices ask again once their SMMU has forgotten, and so do stage-1 walks. */
  #ends(type: number, smmu: number, invs: Invs, next: number): boolean {
    const following = invs.type(next);
    return (
      invs.smmu(next) !== smmu ||
      (following === INV.s2VmidS1Clear && type !== INV.s2VmidS1Clear) ||
      (isAts(following) && !isAts(type))
    );
  }

  /** By address. False when that takes too much. */
  #range(invs: Invs, row: number, iova: number, size: number, granule: number, leaf: boolean): boolean {
    this.#opcode = invs.sizeOpcode(row);
    this.#tag = tagOf(invs, row);
    if (!invs.ril(row)) return planSingle(iova, size, granule, leaf, this.#emit);
    const plan = this.#options.sva === true && invs.hasFullCont ? planRangeOver : planRange;
    return plan(iova, size, this.#options.pageShift, granule, leaf, this.#emit);
  }

  #everything(invs: Invs, row: number): void {
    this.#tag = tagOf(invs, row);
    this.#put(invs.allOpcode(row), 0, 0);
  }

  #put(w0: number, w2: number, w3: number): void {
    const batch = this.#batch!;
    const at = batch.next();
    batch.words[at] = w0;
    batch.words[at + 1] = this.#tag;
    batch.words[at + 2] = w2;
    batch.words[at + 3] = w3;
  }
}

function tagOf(invs: Invs, row: number): number {
  return invs.type(row) === INV.s1Asid ? invs.id(row) << ASID_SHIFT : invs.id(row) << VMID_SHIFT;
}
