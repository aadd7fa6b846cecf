import {
  cdUsed, cfgiCd, cfgiSte, prefetchConfig, steSafe, steUsed, writeEntry,
} from "@smmuv3/arm-smmu-v3-common";
import type { CommandCollector, CommandSink, EntryWrite, UsedBits } from "@smmuv3/arm-smmu-v3-common";
import type { KernelContext } from "@smmuv3/driver-core";
import { CD, CD_WORDS, CMD_WORDS, getField, STE, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import type { Memory } from "@smmuv3/platform";
import type { Master } from "./smmu.ts";
import type { StreamTable } from "./stream-table.ts";

/** What entries are written through. */
export interface EntryHost {
  readonly kernel: KernelContext;
  readonly batch: CommandCollector;
  readonly strtab: StreamTable;
  /** For commands that nobody waits for. */
  readonly sink: CommandSink;
  /** Configuration is not prefetched: an erratum. */
  readonly skipPrefetch: boolean;
  /** A list of commands was not completed in time. */
  invalidationFailed(status: number): void;
}

interface Step {
  readonly pa: number;
  readonly words: Int32Array;
  sync(): number;
}

/**
 * What an attach has stored that may still be taken back: everything, until the store that puts the new translation into effect.
 */
export class Undo {
  /** The new translation is in effect: the attach is carried through, whatever happens. */
  closed: boolean = false;
  readonly #steps: Step[] = [];

  note(step: Step): void {
    this.#steps.push(step);
  }

  /** Memory is as it was, byte for byte, and the SMMU is told; whether it hears cannot be helped. */
  rollback(memory: Memory): void {
    for (const step of this.#steps.toReversed()) {
      const { pa, words } = step;
      // The quadword with V comes last: an entry that is invalid now becomes valid when it is complete.
      for (let at = words.length - 2; at >= 0; at -= 2) memory.store64(pa + at * 4, words[at]!, words[at + 1]!);
      step.sync();
    }
  }
}

/** The STEs and CDs of devices, as the SMMU reads them. */
export class Entries {
  readonly #host: EntryHost;
  readonly #command: Int32Array = new Int32Array(CMD_WORDS);

  constructor(host: EntryHost) {
    this.#host = host;
  }

  /** Config and EATS of the device's STEs, which are alike. */
  steOf(master: Master): { readonly config: number; readonly eats: number } {
    const ste = new Int32Array(STE_WORDS);
    this.#host.kernel.memory.read(this.#host.strtab.ste(master.sids[0]!), ste);
    return { config: getField(ste, 0, STE.Config), eats: getField(ste, 0, STE.EATS) };
  }

  /**
   * Writes `ste` to every stream. Without `undo` it does not fail; with it a negative errno says that nothing of it is in effect, and
   * that `undo` can take back what was stored.
   */
  writeStes(master: Master, ste: Int32Array, undo?: Undo): number {
    const target = ste.slice();
    const { batch, strtab, sink } = this.#host;
    for (const sid of master.sids) {
      const sync = (): number => {
        cfgiSte(batch.words, batch.next(), sid, true);
        return batch.submit();
      };
      const status = this.#write({ pa: strtab.ste(sid), target, used: steUsed, safe: steSafe, sync }, true, undo);
      if (status < 0) return status;
      if (this.#host.skipPrefetch) continue;
      prefetchConfig(this.#command, 0, sid);
      sink.issue(this.#command, 1, false);
    }
    return 0;
  }

  /**
   * Writes `cd` to the CD of `ssid`, whose memory is prepared. `live`: the STEs lead to it, so that the CD decides what is in
   * effect. Result as of {@link writeStes}.
   */
  writeCd(master: Master, ssid: number, cd: Int32Array, live: boolean, undo?: Undo): number {
    const table = master.cdTable!;
    const linked = this.#link(master, ssid, undo);
    if (linked < 0) return linked;
    const pa = table.address(ssid);
    const { memory } = this.#host.kernel;
    const valid = (): boolean => (memory.load32(pa) & (1 << CD.V.shift)) !== 0;
    const before = valid();
    const status = this.#write({ pa, target: cd, used: cdUsed, sync: () => this.#syncCd(master, ssid, true) }, live, undo);
    if (status === 0 && ssid !== 0 && valid() !== before) table.usedSsids += before ? -1 : 1;
    return status;
  }

  /** Makes the CD of `ssid` invalid, if there is one. */
  clearCd(master: Master, ssid: number): void {
    const { cdTable } = master;
    if (cdTable === undefined || cdTable.address(ssid) < 0) return;
    this.writeCd(master, ssid, new Int32Array(CD_WORDS), true);
  }

  #syncCd(master: Master, ssid: number, leaf: boolean): number {
    const { batch } = this.#host;
    for (const sid of master.sids) cfgiCd(batch.words, batch.next(), sid, ssid, leaf);
    return batch.submit();
  }

  /** The SMMU may have cached that there was no table. */
  #link(master: Master, ssid: number, undo: Undo | undefined): number {
    const at = master.cdTable!.link(ssid);
    if (at < 0) return 0;
    const sync = (): number => this.#syncCd(master, ssid, false);
    undo?.note({ pa: at, words: new Int32Array(2), sync });
    const status = sync();
    if (status < 0) this.#host.invalidationFailed(status);
    return undo === undefined || undo.closed ? 0 : status;
  }

  #write(write: Omit<EntryWrite, "memory" | "persist">, live: boolean, undo: Undo | undefined): number {
    const { memory } = this.#host.kernel;
    const { pa, sync } = write;
    const persist = undo === undefined || undo.closed;
    const words = new Int32Array(STE_WORDS);
    memory.read(pa, words);
    const status = writeEntry({ ...write, memory, persist });
    if (status < 0) this.#host.invalidationFailed(status);
    if (undo === undefined || undo.closed) return 0;
    if (status < 0 && !(live && isInEffect(memory, pa, write.target, write.used))) {
      undo.note({ pa, words, sync });
      return status;
    }
    if (status < 0) writeEntry({ ...write, memory, persist: true });
    if (live) undo.closed = true;
    else undo.note({ pa, words, sync });
    return 0;
  }
}

/** Whether the entry in memory does what `target` does. */
function isInEffect(memory: Memory, pa: number, target: Int32Array, used: UsedBits): boolean {
  const current = new Int32Array(STE_WORDS);
  memory.read(pa, current);
  const mask = new Int32Array(STE_WORDS);
  used(target, mask);
  return target.every((word, i) => (current[i]! & mask[i]!) === word);
}
