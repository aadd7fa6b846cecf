import {
  cfgiAll,
  cfgiSte,
  CommandBatch,
  CommandQueue,
  l1StdAddress,
  makeAbortSte,
  makeL1Std,
  sidInRange,
  steAddress,
  steUsed,
  STRTAB_L2_BYTES,
  STRTAB_L2_STES,
  tlbiNsnhAll,
  writeEntry,
} from "@smmuv3/arm-smmu-v3-common";
import type { CommandSink, SmmuFeatures, StrtabGeometry, UsedBits } from "@smmuv3/arm-smmu-v3-common";
import { LOCK_RANK } from "@smmuv3/pkvm-hyp";
import type { HypCore } from "@smmuv3/pkvm-hyp";
import { ERRNO, LEVEL, SpinLock } from "@smmuv3/platform";
import type { RegisterWindow } from "@smmuv3/platform";
import { CMD_WORDS, L1STD_WORDS, maskOf, OFFSET, REG, STE, STE_BYTES, STE_WORDS } from "@smmuv3/smmu-v3-defs";

import { TIMEOUT, writeAndAck } from "./registers.ts";

/** What EL2 was given with an SMMU. */
export interface SmmuResources {
  readonly mmioBase: number;
  readonly mmioSize: number;
  readonly cmdqBase: number;
  readonly cmdqLog2: number;
  readonly strtabBase: number;
  readonly geometry: StrtabGeometry;
  /** Walks and queue accesses are coherent. */
  readonly coherent: boolean;
}

/** A new content of an STE or a CD. */
export interface EntryChange {
  readonly pa: number;
  /** 16 words. */
  readonly target: Int32Array;
  readonly used: UsedBits;
  /** The valid bit, in the first word. */
  readonly valid: number;
  /** After a sync that failed the entry keeps its new content: it takes access away. Without it, it gets the old one back. */
  readonly persist?: boolean;
  /** CFGI and SYNC. */
  readonly sync: () => number;
}

const CMDQ_ERR: number = maskOf(REG.GERROR.CMDQ_ERR);
const STE_V: number = maskOf(STE.V);

/**
 * An SMMU that EL2 drives: its command queue and its stream table. Results are 0 or a negative errno. After the hand-over, who uses
 * it holds its lock.
 */
export class HypSmmu implements CommandSink {
  /** EL2's number of it. */
  readonly index: number;
  readonly lock: SpinLock;
  readonly mmioBase: number;
  readonly mmioSize: number;
  readonly window: RegisterWindow;
  readonly features: SmmuFeatures;
  readonly geometry: StrtabGeometry;
  readonly strtabBase: number;
  readonly coherent: boolean;
  readonly cmdq: CommandQueue;
  /** Commands collected for one SYNC; empty between operations. */
  readonly batch: CommandBatch;
  /** An STE in the making. */
  readonly ste: Int32Array = new Int32Array(STE_WORDS);
  /** Commands that the hardware refused; EL2 skipped them. */
  refused = 0;
  /** Without power nothing is cached, so commands have nothing to do. */
  off = false;
  readonly #core: HypCore;
  readonly #one: Int32Array = new Int32Array(CMD_WORDS);
  readonly #breaks: number;
  /** CR0 as last written. */
  #cr0 = 0;

  constructor(core: HypCore, index: number, window: RegisterWindow, features: SmmuFeatures, resources: SmmuResources) {
    this.#core = core;
    this.index = index;
    this.lock = new SpinLock(`smmu${index}`, LOCK_RANK.iommu, core.locks);
    this.window = window;
    this.features = features;
    this.mmioBase = resources.mmioBase;
    this.mmioSize = resources.mmioSize;
    this.geometry = resources.geometry;
    this.strtabBase = resources.strtabBase;
    this.coherent = resources.coherent;
    this.cmdq = new CommandQueue({
      cpu: core.cpu,
      window,
      pa: resources.cmdqBase,
      log2: resources.cmdqLog2,
      syncMethod: features.sev ? "sev" : "none",
      timeout: TIMEOUT,
      onWait: () => {
        this.skipRefused();
      },
    });
    this.batch = new CommandBatch(this, features.forceSync);
    this.#breaks = core.cpu.counters.id("steBreaks") + LEVEL.el2;
  }

  get cr0(): number {
    return this.#cr0;
  }

  /** Changes CR0 and waits for the acknowledge. */
  setCr0(value: number): number {
    this.#cr0 = value;
    return writeAndAck(this.#core.cpu, this.window, OFFSET.CR0, OFFSET.CR0ACK, value);
  }

  /** Inserts commands, see {@link CommandQueue}. */
  issue(words: Int32Array, count: number, sync: boolean): number {
    return this.off ? 0 : this.cmdq.issue(words, count, sync);
  }

  /** Goes on after a command that the hardware refused. Nobody else acknowledges CMDQ_ERR: the queue is EL2's. */
  skipRefused(): void {
    const { window } = this;
    const acknowledged = window.read32(OFFSET.GERRORN);
    if (((window.read32(OFFSET.GERROR) ^ acknowledged) & CMDQ_ERR) === 0) return;
    this.cmdq.skipError();
    this.refused++;
    window.write32(OFFSET.GERRORN, acknowledged ^ CMDQ_ERR);
  }

  /** CMD_CFGI_STE and SYNC. */
  syncSte(sid: number, leaf: boolean): number {
    cfgiSte(this.#one, 0, sid, leaf);
    return this.issue(this.#one, 1, true);
  }

  /** Forgets all configuration and, with `translations`, everything else. */
  invalidateAll(translations: boolean): number {
    cfgiAll(this.batch.words, this.batch.next());
    if (translations) tlbiNsnhAll(this.batch.words, this.batch.next());
    return this.batch.submit();
  }

  /** True when the stream table has a place for `sid`. */
  hasSid(sid: number): boolean {
    return sidInRange(this.geometry, sid);
  }

  /** Address of the STE of `sid`, which the table covers; -1 when its second-level table does not exist. */
  steAddress(sid: number): number {
    return steAddress(this.#core.cpu.memory, this.geometry, this.strtabBase, sid);
  }

  /** Replaces an entry that the SMMU may be using, hitless where the entries permit; where they do not, it is counted. */
  replace(change: EntryChange): number {
    const { memory, counters } = this.#core.cpu;
    const { pa, target, used, valid, persist = false } = change;
    const old = new Int32Array(STE_WORDS);
    memory.read(pa, old);
    // The valid bit in all that the SMMU was told to look at.
    let kept = old[0]! & target[0]! & valid;
    const whole = kept;
    const sync = (): number => {
      kept &= memory.load32(pa);
      return change.sync();
    };
    const status = Math.min(writeEntry({ memory, pa, target, used, persist, sync }), 0);
    if (kept !== whole) counters.add(this.#breaks, 1);
    if (status < 0 && !persist) writeEntry({ memory, pa, target: old, used, persist: true, sync: change.sync });
    return status;
  }

  /** Replaces the STE of `sid`, which the table covers, by `target`. -ENOMEM: no table. */
  writeSte(sid: number, target: Int32Array, persist: boolean = false): number {
    if (this.steAddress(sid) < 0) {
      const added = this.#addL2(sid);
      const status = added < 0 ? added : this.syncSte(sid, false);
      if (status < 0) return status;
    }
    return this.replace({
      pa: this.steAddress(sid),
      target,
      used: steUsed,
      valid: STE_V,
      persist,
      sync: () => this.syncSte(sid, true),
    });
  }

  /** The STE of `sid` in a table that the hardware does not use yet. */
  presetSte(sid: number, ste: Int32Array): number {
    const status = this.steAddress(sid) < 0 ? this.#addL2(sid) : 0;
    if (status < 0) return status;
    this.#core.cpu.memory.write(this.steAddress(sid), ste);
    return 0;
  }

  /** Blocks `sid`, which the table covers. After an error the table says so, and the SMMU may not know. */
  blockSid(sid: number): number {
    if (this.steAddress(sid) < 0) return 0;
    makeAbortSte(this.ste);
    return this.writeSte(sid, this.ste, true);
  }

  /** Blocks every stream. The low word alone makes an STE abort, so there is no moment in which one means anything else. */
  blockAll(): number {
    const stes = this.geometry.twoLevel ? STRTAB_L2_STES : this.geometry.entries;
    for (let sid = 0; sid < 2 ** this.geometry.log2size; sid += stes) {
      const pa = this.steAddress(sid);
      if (pa >= 0) this.#fillAborts(pa, stes);
    }
    return this.invalidateAll(false);
  }

  /** Makes the STEs of a table that the hardware does not use yet. */
  initTable(): void {
    this.#core.cpu.memory.fill(this.strtabBase, this.geometry.bytes, 0);
    if (!this.geometry.twoLevel) this.#fillAborts(this.strtabBase, this.geometry.entries);
  }

  #fillAborts(pa: number, stes: number): void {
    const { memory } = this.#core.cpu;
    const abort = new Int32Array(STE_WORDS);
    makeAbortSte(abort);
    for (let at = pa; at < pa + stes * STE_BYTES; at += STE_BYTES) memory.write(at, abort);
  }

  /** Second-level table of `sid`, all streams blocked; the caller tells the SMMU. */
  #addL2(sid: number): number {
    const { cpu, pool, iommuPool } = this.#core;
    let table = pool.alloc(STRTAB_L2_BYTES, "streamTables");
    // What was set aside at boot is used up: the host may add to the other one.
    if (table < 0) table = iommuPool.alloc(STRTAB_L2_BYTES, "streamTables");
    if (table < 0) return -ERRNO.ENOMEM;
    this.#fillAborts(table, STRTAB_L2_STES);
    const desc = new Int32Array(L1STD_WORDS);
    makeL1Std(desc, table);
    cpu.barrier();
    cpu.memory.store64(l1StdAddress(this.strtabBase, sid), desc[0]!, desc[1]!);
    cpu.barrier();
    return 0;
  }
}
