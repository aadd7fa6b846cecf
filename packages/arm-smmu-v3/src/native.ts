import { ERRNO, errnoName, isErrno } from "@smmuv3/platform";
import {
  cdUsed,
  cfgiCd,
  cfgiSte,
  CommandBatch,
  CommandQueue,
  EventQueue,
  eventQueuePointers,
  makeAbortSte,
  makeBypassSte,
  makeCdtableSte,
  makeS1Cd,
  makeS2Ste,
  prefetchConfig,
  priQueuePointers,
  priResp,
  probeFeatures,
  resume,
  steSafe,
  steUsed,
  writeEntry,
} from "@smmuv3/arm-smmu-v3-common";
import type { CommandSink, SmmuFeatures } from "@smmuv3/arm-smmu-v3-common";
import type { Device, KernelContext } from "@smmuv3/driver-core";
import type { IommuDomain } from "@smmuv3/iommu-core";
import {
  CD_BYTES,
  CD_WORDS,
  CERROR,
  CMD,
  CMD_BYTES,
  CMD_WORDS,
  EVENT_BYTES,
  getField,
  maskOf,
  OFFSET,
  PRI_RESPONSE,
  printCommand,
  PRIQ_BYTES,
  REG,
  RESUME_RESP,
  STE_S1DSS,
  STE_S1FMT,
  STE_WORDS,
} from "@smmuv3/smmu-v3-defs";
import { SmmuDomain } from "./domain.ts";
import type { DomainHost } from "./domain.ts";
import { IdAllocator } from "./ids.ts";
import type { Backend, ImplOps } from "./impl.ts";
import { writeCr0 } from "./registers.ts";
import { resetDevice } from "./reset.ts";
import type { Master, SmmuDevice } from "./smmu.ts";
import { StreamTable } from "./stream-table.ts";

/** log2 of the entries of the smallest command queue: one batch of 64 and its SYNC must fit. */
const MIN_CMDQ_LOG2 = 7;
/** log2 of the largest block that the kernel allocates: 4 MiB. */
const MAX_BLOCK_LOG2 = 22;
const ERROR_BITS: number =
  maskOf(REG.GERROR.CMDQ_ERR) |
  maskOf(REG.GERROR.EVENTQ_ABT_ERR) |
  maskOf(REG.GERROR.PRIQ_ABT_ERR) |
  maskOf(REG.GERROR.MSI_CMDQ_ABT_ERR) |
  maskOf(REG.GERROR.MSI_EVENTQ_ABT_ERR) |
  maskOf(REG.GERROR.MSI_PRIQ_ABT_ERR) |
  maskOf(REG.GERROR.MSI_GERROR_ABT_ERR) |
  maskOf(REG.GERROR.SFM_ERR);

interface Rings {
  readonly cmdq: CommandQueue;
  readonly evtq: EventQueue;
  readonly priq: EventQueue | undefined;
}

/** The back end for hardware that the kernel owns: registers, queues, stream table, Context Descriptors, page tables. */
export class NativeBackend implements Backend, DomainHost {
  readonly kernel: KernelContext;
  readonly features: SmmuFeatures;
  readonly coherent: boolean;
  readonly batch: CommandBatch;
  readonly cmdq: CommandQueue;
  readonly evtq: EventQueue;
  readonly priq?: EventQueue;
  readonly strtab: StreamTable;
  readonly #smmu: SmmuDevice;
  readonly #impl: ImplOps;
  readonly #sink: CommandSink;
  readonly #asids: IdAllocator;
  readonly #vmids: IdAllocator = new IdAllocator();
  readonly #entry: Int32Array = new Int32Array(STE_WORDS);
  readonly #command: Int32Array = new Int32Array(CMD_WORDS);
  /** Of interrupt handlers, which run while others wait. */
  readonly #irqCommand: Int32Array = new Int32Array(CMD_WORDS);

  private constructor(
    smmu: SmmuDevice, impl: ImplOps, asids: IdAllocator, features: SmmuFeatures, rings: Rings, strtab: StreamTable,
  ) {
    this.#smmu = smmu;
    this.#impl = impl;
    this.#asids = asids;
    this.kernel = smmu.kernel;
    this.features = features;
    this.coherent = smmu.coherent;
    this.cmdq = rings.cmdq;
    this.evtq = rings.evtq;
    if (rings.priq !== undefined) this.priq = rings.priq;
    this.strtab = strtab;
    this.#sink = commandSink(smmu, impl, rings.cmdq);
    this.batch = new CommandBatch(this.#sink, features.forceSync);
  }

  /** Reads the ID registers and allocates structures. A negative errno on failure; memory is the caller's to free. */
  static create(smmu: SmmuDevice, impl: ImplOps, asids: IdAllocator): NativeBackend | number {
    const features = probeFeatures(smmu.window);
    if ("error" in features) {
      smmu.log("err", features.reason);
      return features.error;
    }
    if (features.coherent !== smmu.coherent) {
      smmu.log("warn", `IDR0.COHACC overridden by firmware: ${smmu.coherent ? "coherent" : "not coherent"}`);
    }
    if (features.cmdqLog2 < MIN_CMDQ_LOG2) {
      smmu.log("err", `command queue size <= ${2 ** (MIN_CMDQ_LOG2 - 1)} entries not supported`);
      return -ERRNO.ENXIO;
    }
    const rings = allocRings(smmu, features);
    if (typeof rings === "number") return rings;
    const strtab = new StreamTable(smmu, features.sidBits, features.strtab2lvl);
    const status = strtab.init();
    if (status < 0) return status;
    return new NativeBackend(smmu, impl, asids, features, rings, strtab);
  }

  start(requestInterrupts: () => void): number {
    const status = this.#impl.initStructures?.(this.#smmu) ?? 0;
    if (status < 0) return status;
    const { features, cmdq, evtq, priq, strtab } = this;
    const structures = { features, cmdq, evtq, priq, strtab: strtab.base, geometry: strtab.geometry };
    const reset = resetDevice(this.#smmu, structures, requestInterrupts);
    if (reset < 0) return reset;
    const last = this.#impl.deviceReset?.(this.#smmu) ?? 0;
    if (last < 0) this.disable();
    return last;
  }

  disable(): void {
    this.#impl.deviceDisable?.(this.#smmu);
    const status = writeCr0(this.#smmu, 0);
    if (status < 0) this.#smmu.log("err", "failed to clear CR0");
  }

  addMaster(master: Master): number {
    for (const sid of master.sids) {
      const status = this.strtab.addStream(sid);
      if (status < 0) return status;
    }
    const canStall = this.features.stalls && master.dev.node?.properties["dma-can-stall"] === true;
    master.stall = canStall || this.features.stallForce;
    return 0;
  }

  // --- domains ---

  allocPaging(): IommuDomain | number {
    const { features } = this;
    const stage = features.s1 ? 1 : 2;
    const ids = stage === 1 ? this.#asids : this.#vmids;
    const id = ids.alloc(2 ** (stage === 1 ? features.asidBits : features.vmidBits) - 1);
    if (id < 0) return -ERRNO.ENOSPC;
    try {
      return new SmmuDomain(this, stage, id);
    } catch (error) {
      ids.free(id);
      if (isErrno(error)) return -error.errno;
      throw error;
    }
  }

  freeId(domain: SmmuDomain): void {
    (domain.stage === 1 ? this.#asids : this.#vmids).free(domain.id);
  }

  attachIdentity(master: Master): void {
    makeBypassSte(this.#entry, this.features.attrTypesOvr);
    this.#installStatic(master);
  }

  attachBlocked(master: Master): void {
    makeAbortSte(this.#entry);
    this.#installStatic(master);
  }

  attachDomain(domain: SmmuDomain, _: IommuDomain, dev: Device): number {
    const master = this.#smmu.iommu.drvdataOf(dev) as Master | undefined;
    if (master === undefined) return -ERRNO.ENOENT;
    if (master.smmu !== this.#smmu) return -ERRNO.EINVAL;
    if (domain.stage === 1 && master.cdtab === 0) {
      // Never freed before the device is released: STEs may point to it.
      const pa = this.kernel.pages.allocZeroed(this.kernel.memory, CD_BYTES);
      if (pa < 0) return pa;
      master.cdtab = pa;
    }
    // From the first store on, the TLB may hold entries of the new domain.
    domain.masters++;
    if (domain.stage === 1) this.#installStage1(master, domain);
    else this.#installStage2(master, domain);
    this.#leave(master, domain);
    return 0;
  }

  removeMaster(master: Master): void {
    if (master.cdtab !== 0) this.kernel.pages.free(master.cdtab, CD_BYTES);
    master.cdtab = 0;
  }

  #installStatic(master: Master): void {
    this.#writeStes(master);
    this.#leave(master, undefined);
    this.#clearCd(master);
  }

  #installStage1(master: Master, domain: SmmuDomain): void {
    const { pgtable, id: asid } = domain;
    const { tcr, mair, pgd: ttb } = pgtable;
    makeS1Cd(this.#entry, {
      ttb, tcr, mairLo: mair.lo, mairHi: mair.hi, asid, stall: master.stall, dirty: false,
    });
    this.#writeCd(master);
    const table = {
      pa: master.cdtab, s1fmt: STE_S1FMT.linear, s1cdmax: 0, s1dss: STE_S1DSS.ssid0, stallDisable: this.features.stalls,
    };
    makeCdtableSte(this.#entry, table, { attrTypesOvr: this.features.attrTypesOvr, stall: master.stall });
    this.#writeStes(master);
  }

  #installStage2(master: Master, domain: SmmuDomain): void {
    makeS2Ste(this.#entry, domain.stage2, { attrTypesOvr: this.features.attrTypesOvr, stall: master.stall });
    this.#writeStes(master);
    this.#clearCd(master);
  }

  /** The hardware uses `domain` now: what it used before is flushed when this was its last master. */
  #leave(master: Master, domain: SmmuDomain | undefined): void {
    const old = master.domain;
    master.domain = domain;
    if (old === undefined) return;
    old.masters--;
    if (old.masters === 0) old.flushId();
  }

  // --- table entries ---

  /** Writes `#entry` to the STE of every stream. */
  #writeStes(master: Master): void {
    const target = this.#entry.slice();
    for (const sid of master.sids) {
      const status = writeEntry({
        memory: this.kernel.memory,
        pa: this.strtab.ste(sid),
        target,
        used: steUsed,
        safe: steSafe,
        sync: () => {
          cfgiSte(this.batch.words, this.batch.next(), sid, true);
          return this.batch.submit();
        },
      });
      if (status < 0) this.invalidationFailed(status);
      prefetchConfig(this.#command, 0, sid);
      this.#sink.issue(this.#command, 1, false);
    }
  }

  /** Writes `#entry` to the master's CD. */
  #writeCd(master: Master): void {
    const status = writeEntry({
      memory: this.kernel.memory,
      pa: master.cdtab,
      target: this.#entry,
      used: cdUsed,
      sync: () => {
        for (const sid of master.sids) cfgiCd(this.batch.words, this.batch.next(), sid, 0, true);
        return this.batch.submit();
      },
    });
    if (status < 0) this.invalidationFailed(status);
  }

  #clearCd(master: Master): void {
    if (master.cdtab === 0) return;
    this.#entry.fill(0, 0, CD_WORDS);
    this.#writeCd(master);
  }

  invalidationFailed(status: number): void {
    this.#smmu.log("err", `CMD_SYNC: ${errnoName(status)}`);
  }

  // --- interrupts ---

  terminateStall(sid: number, stag: number): void {
    resume(this.#irqCommand, 0, sid, stag, RESUME_RESP.abort);
    this.#sink.issue(this.#irqCommand, 1, false);
  }

  denyPageRequest(sid: number, ssid: number, group: number): void {
    priResp(this.#irqCommand, 0, sid, ssid, group, PRI_RESPONSE.failure);
    this.#sink.issue(this.#irqCommand, 1, false);
  }

  handleErrors(): number {
    const { window } = this.#smmu;
    const gerror = window.read32(OFFSET.GERROR);
    const active = (gerror ^ window.read32(OFFSET.GERRORN)) & ERROR_BITS;
    if (active === 0) return 0;
    if ((active & maskOf(REG.GERROR.SFM_ERR)) !== 0) this.disable();
    if ((active & maskOf(REG.GERROR.CMDQ_ERR)) !== 0) this.#commandError();
    window.write32(OFFSET.GERRORN, gerror);
    return active;
  }

  #commandError(): void {
    const error = this.cmdq.skipError();
    if (error === CERROR.ABT || error === CERROR.ATC_INV_SYNC || error === CERROR.NONE) return;
    this.#smmu.log("err", `CMDQ error 0x${error.toString(16)}, skipping ${printCommand(this.cmdq.errorCommand)}`);
  }
}

function commandSink(smmu: SmmuDevice, impl: ImplOps, main: CommandQueue): CommandSink {
  if (impl.getSecondaryCmdq === undefined) return main;
  return {
    issue(words, count, sync) {
      const other = impl.getSecondaryCmdq?.(smmu, getField(words, 0, CMD.Opcode), main);
      return (other ?? main).issue(words, count, sync);
    },
  };
}

function allocRings(smmu: SmmuDevice, features: SmmuFeatures): Rings | number {
  const ring = (log2: number, entryBytes: number): { pa: number; log2: number } =>
    smmu.allocQueue(Math.min(log2, MAX_BLOCK_LOG2 - Math.log2(entryBytes)), entryBytes);
  const { cpu, memory } = smmu.kernel;
  const { window } = smmu;
  const cmdq = ring(features.cmdqLog2, CMD_BYTES);
  if (cmdq.pa < 0) return cmdq.pa;
  const evtq = ring(features.evtqLog2, EVENT_BYTES);
  if (evtq.pa < 0) return evtq.pa;
  const syncMethod = features.msi && smmu.coherent ? "msi" : "sev";
  const rings = {
    cmdq: new CommandQueue({ cpu, window, ...cmdq, syncMethod }),
    evtq: new EventQueue({ memory, pointers: eventQueuePointers(window), ...evtq }),
    priq: undefined,
  };
  if (!features.pri) return rings;
  const priq = ring(features.priqLog2, PRIQ_BYTES);
  if (priq.pa < 0) return priq.pa;
  return {
    ...rings,
    priq: new EventQueue({ memory, pointers: priQueuePointers(window), entryBytes: PRIQ_BYTES, ...priq }),
  };
}
