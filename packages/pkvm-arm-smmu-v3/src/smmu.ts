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
import type { SmmuFeatures, StrtabGeometry } from "@smmuv3/arm-smmu-v3-common";
import type { HypCore } from "@smmuv3/pkvm-hyp";
import { ERRNO } from "@smmuv3/platform";
import type { RegisterWindow } from "@smmuv3/platform";
import { CMD_WORDS, L1STD_WORDS, maskOf, OFFSET, REG, STE_BYTES, STE_WORDS } from "@smmuv3/smmu-v3-defs";

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

const CMDQ_ERR: number = maskOf(REG.GERROR.CMDQ_ERR);

/** An SMMU that EL2 drives: its command queue and its stream table. Results are 0 or a negative errno. */
export class HypSmmu {
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
  /** Commands that the hardware refused; EL2 skipped them. */
  refused = 0;
  readonly #core: HypCore;
  readonly #one: Int32Array = new Int32Array(CMD_WORDS);
  readonly #target: Int32Array = new Int32Array(STE_WORDS);
  /** CR0 as last written. */
  #cr0 = 0;

  constructor(core: HypCore, window: RegisterWindow, features: SmmuFeatures, resources: SmmuResources) {
    this.#core = core;
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
    this.batch = new CommandBatch(this.cmdq, features.forceSync);
  }

  get cr0(): number {
    return this.#cr0;
  }

  /** Changes CR0 and waits for the acknowledge. */
  setCr0(value: number): number {
    this.#cr0 = value;
    return writeAndAck(this.#core.cpu, this.window, OFFSET.CR0, OFFSET.CR0ACK, value);
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
    return this.cmdq.issue(this.#one, 1, true);
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

  /** Replaces the STE of `sid`, which the table covers, by `target`, hitless where the entries permit. -ENOMEM: no table. */
  writeSte(sid: number, target: Int32Array): number {
    if (this.steAddress(sid) < 0) {
      const added = this.#addL2(sid);
      const status = added < 0 ? added : this.syncSte(sid, false);
      if (status < 0) return status;
    }
    const status = writeEntry({
      memory: this.#core.cpu.memory,
      pa: this.steAddress(sid),
      target,
      used: steUsed,
      sync: () => this.syncSte(sid, true),
    });
    return Math.min(status, 0);
  }

  /** The STE of `sid` in a table that the hardware does not use yet. */
  presetSte(sid: number, ste: Int32Array): number {
    const status = this.steAddress(sid) < 0 ? this.#addL2(sid) : 0;
    if (status < 0) return status;
    this.#core.cpu.memory.write(this.steAddress(sid), ste);
    return 0;
  }

  /** Blocks `sid`, which the table covers. */
  blockSid(sid: number): number {
    if (this.steAddress(sid) < 0) return 0;
    makeAbortSte(this.#target);
    return this.writeSte(sid, this.#target);
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
    makeAbortSte(this.#target);
    for (let at = pa; at < pa + stes * STE_BYTES; at += STE_BYTES) memory.write(at, this.#target);
  }

  /** Second-level table of `sid`, all streams blocked; the caller tells the SMMU. */
  #addL2(sid: number): number {
    const { cpu, pool } = this.#core;
    const table = pool.alloc(STRTAB_L2_BYTES, "streamTables");
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
