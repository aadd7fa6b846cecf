import { ERRNO, errnoName, isErrno } from "@smmuv3/platform";
import {
  makeAbortSte,
  makeBypassSte,
  makeCdtableSte,
  makeS2Ste,
  preferSecondary,
  priResp,
  probeFeatures,
  repeatingSink,
  resume,
  SelectingBatch,
  ssidInRange,
  supportsSva,
} from "@smmuv3/arm-smmu-v3-common";
import type { CommandRing, CommandSink, EventQueue, InvsAlloc, SmmuFeatures, SteOptions } from "@smmuv3/arm-smmu-v3-common";
import type { Device, KernelContext } from "@smmuv3/driver-core";
import { DOMAIN_FLAG } from "@smmuv3/iommu-core";
import type { IommuDomain, Mm } from "@smmuv3/iommu-core";
import {
  CMD,
  CMD_WORDS,
  getField,
  PRI_RESPONSE,
  RESUME_RESP,
  STE_CONFIG,
  STE_EATS,
  STE_S1DSS,
  STE_WORDS,
} from "@smmuv3/smmu-v3-defs";
import { Attacher } from "./attach.ts";
import type { AttachHost, AttachPlan } from "./attach.ts";
import { CdTable } from "./cd-table.ts";
import { PagingDomain } from "./domain.ts";
import type { SmmuDomain } from "./domain.ts";
import { Entries } from "./entries.ts";
import type { EntryHost, Undo } from "./entries.ts";
import { GlobalErrors } from "./gerror.ts";
import { IdAllocator } from "./ids.ts";
import type { Backend, ImplOps, InterruptHandlers } from "./impl.ts";
import type { SmmuParams } from "./params.ts";
import { allocRings } from "./queues.ts";
import type { Rings } from "./queues.ts";
import { writeCr0 } from "./registers.ts";
import { resetDevice } from "./reset.ts";
import type { Master, SmmuDevice } from "./smmu.ts";
import { StreamTable } from "./stream-table.ts";
import { SvaDomain } from "./sva-domain.ts";
import type { SvaHost } from "./sva-domain.ts";

/** log2 of the CDs of the largest linear table: 64K. */
const LINEAR_CDTAB_BITS = 10;
/** The kinds of domain that flags ask for, by their sum: the stage, and whether the SMMU has it. */
const KINDS: ReadonlyMap<number, 1 | 2> = new Map([
  [DOMAIN_FLAG.dirtyTracking, 1],
  [DOMAIN_FLAG.pasid, 1],
  [DOMAIN_FLAG.dirtyTracking | DOMAIN_FLAG.pasid, 1],
  [DOMAIN_FLAG.nestParent, 2],
]);

/** How a nested domain is put into effect. */
export interface NestedAttach {
  /** The stage 2 that the guest's tables are over. */
  readonly parent: SmmuDomain;
  /** The guest does without ATS. */
  readonly disableAts: boolean;
  readonly vmaster?: unknown;
  /** Fills the 16 words of the STE. */
  makeSte(ste: Int32Array, options: SteOptions): void;
}

/** The back end for hardware that the kernel owns: registers, queues, stream table, Context Descriptors, page tables. */
export class NativeBackend implements Backend, SvaHost, EntryHost, AttachHost {
  readonly kernel: KernelContext;
  readonly features: SmmuFeatures;
  readonly coherent: boolean;
  readonly params: SmmuParams;
  readonly number: number;
  readonly e2h: boolean;
  /** Devices can share the address spaces of processes. */
  readonly sva: boolean;
  readonly batch: SelectingBatch;
  /** For commands that nobody waits for, or that are all of a kind. */
  readonly sink: CommandSink;
  readonly cmdq: CommandRing;
  readonly evtq: EventQueue;
  readonly priq?: EventQueue;
  readonly strtab: StreamTable;
  readonly skipPrefetch: boolean;
  readonly allocInvs: InvsAlloc;
  readonly stu: number;
  readonly maxPasids: number;
  readonly #smmu: SmmuDevice;
  readonly #impl: ImplOps;
  readonly #entries: Entries;
  readonly #attacher: Attacher;
  readonly #errors: GlobalErrors;
  readonly #asids: IdAllocator;
  readonly #vmids: IdAllocator = new IdAllocator();
  readonly #entry: Int32Array = new Int32Array(STE_WORDS);
  /** Of interrupt handlers, which run while others wait. */
  readonly #irqCommand: Int32Array = new Int32Array(CMD_WORDS);

  private constructor(
    smmu: SmmuDevice, impl: ImplOps, asids: IdAllocator, features: SmmuFeatures, rings: Rings, strtab: StreamTable,
  ) {
    const { params, quirks } = smmu;
    this.#smmu = smmu;
    this.#impl = impl;
    this.#asids = asids;
    this.kernel = smmu.kernel;
    this.features = features;
    this.coherent = smmu.coherent;
    this.params = params;
    this.number = smmu.number;
    this.e2h = features.hyp && params.cpu.vhe;
    this.sva = supportsSva(features, params.cpu, smmu.coherent);
    this.cmdq = rings.cmdq;
    this.evtq = rings.evtq;
    if (rings.priq !== undefined) this.priq = rings.priq;
    this.strtab = strtab;
    const select = (opcode: number): CommandSink =>
      preferSecondary(rings.cmdq, () => impl.getSecondaryCmdq?.(smmu, opcode, rings.cmdq))(opcode);
    const repeat = quirks.repeatInvalidations;
    this.batch = new SelectingBatch(select, { forceSync: features.forceSync, repeat });
    const direct: CommandSink = {
      issue: (words, count, sync) => select(getField(words, 0, CMD.Opcode)).issue(words, count, sync),
    };
    this.sink = repeat ? repeatingSink(direct) : direct;
    this.skipPrefetch = quirks.skipPrefetch;
    this.allocInvs = params.allocInvs;
    this.stu = lowestBit(features.pgsizeBitmap);
    this.maxPasids = 2 ** features.ssidBits;
    this.#entries = new Entries(this);
    this.#attacher = new Attacher(this);
    this.#errors = new GlobalErrors(smmu, rings.cmdq);
  }

  /** Reads the ID registers and allocates structures. A negative errno on failure; memory is the caller's to free. */
  static create(smmu: SmmuDevice, impl: ImplOps, asids: IdAllocator): NativeBackend | number {
    const probed = probeFeatures(smmu.window);
    if ("error" in probed) {
      smmu.log("err", probed.reason);
      return probed.error;
    }
    const features = withFirmware(smmu, probed);
    if (smmu.quirks.instcfgData && !features.attrPermsOvr) {
      smmu.log("err", "firmware wants instruction fetches overridden, which the SMMU cannot");
      return -ERRNO.ENXIO;
    }
    const self: { backend?: NativeBackend } = {};
    const rings = allocRings(smmu, features, () => {
      self.backend?.pollCommandErrors();
    });
    if (typeof rings === "number") return rings;
    const strtab = new StreamTable(smmu, features.sidBits, features.strtab2lvl);
    const status = strtab.init();
    if (status < 0) return status;
    const backend = new NativeBackend(smmu, impl, asids, features, rings, strtab);
    self.backend = backend;
    return backend;
  }

  start(requestInterrupts: () => void, handlers: InterruptHandlers): number {
    const status = this.#impl.initStructures?.(this.#smmu) ?? 0;
    if (status < 0) return status;
    this.#bypassRmrs();
    const { features, cmdq, evtq, priq, strtab, e2h } = this;
    const structures = { features, cmdq, evtq, priq, strtab: strtab.base, geometry: strtab.geometry, e2h };
    const reset = resetDevice(this.#smmu, structures, { ...handlers, wired: requestInterrupts });
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

  remove(): void {
    this.#impl.deviceRemove?.(this.#smmu);
  }

  // --- devices ---

  addMaster(master: Master): number {
    for (const sid of master.sids) {
      const status = this.strtab.addStream(sid);
      if (status < 0) return status;
    }
    const { features } = this;
    const { dev } = master;
    const has = (property: string): boolean => dev.node?.properties[property] === true;
    master.stall = (features.stalls && has("dma-can-stall")) || features.stallForce;
    master.canwbs = has("canwbs");
    master.ssidBits = this.#ssidBits(dev);
    return this.#prepareAts(master);
  }

  removeMaster(master: Master): void {
    if (master.iopfRefs > 0) this.#smmu.log("warn", `${master.dev.name}: its faults are still answered`);
    master.dev.pci?.disablePasid();
    master.cdTable?.free();
    master.cdTable = undefined;
  }

  /** PASIDs of a function are enabled before its ATS. */
  #ssidBits(dev: Device): number {
    const firmware = dev.node?.properties["pasid-num-bits"];
    const own = dev.pci?.enablePasid() === true ? dev.pci.pasidBits : typeof firmware === "number" ? firmware : 0;
    const bits = Math.min(own, this.features.ssidBits);
    return this.features.cd2lvl ? bits : Math.min(bits, LINEAR_CDTAB_BITS);
  }

  #prepareAts(master: Master): number {
    if (master.dev.pci?.atsRequired !== true) return 0;
    if (!this.atsSupported(master) || !this.features.s1 || master.ssidBits === 0) {
      this.#smmu.log("err", `${master.dev.name}: needs ATS, which it cannot have here`);
      return -ERRNO.EOPNOTSUPP;
    }
    master.atsAlwaysOn = true;
    return this.#cdTable(master, 0);
  }

  atsSupported(master: Master): boolean {
    const { dev } = master;
    return this.features.ats && dev.node?.properties["ats-supported"] === true && dev.pci?.atsCapable === true;
  }

  /** The device's CD table with memory for the CD of `ssid`. 0 or -ENOMEM. */
  #cdTable(master: Master, ssid: number): number {
    if (master.cdTable === undefined) {
      const table = CdTable.create(this.kernel, master.ssidBits, this.features.cd2lvl);
      if (typeof table === "number") return table;
      master.cdTable = table;
    }
    return master.cdTable.prepare(ssid);
  }

  // --- domains ---

  allocPaging(): IommuDomain | number {
    return this.#alloc({ stage: this.features.s1 ? 1 : 2, nestParent: false, dirty: false });
  }

  allocPagingFlags(flags: number): IommuDomain | number {
    if (flags === 0) return this.allocPaging();
    const stage = KINDS.get(flags);
    const nestParent = flags === DOMAIN_FLAG.nestParent;
    if (stage === undefined || (nestParent ? !this.features.nesting : !this.features.s1)) return -ERRNO.EOPNOTSUPP;
    return this.#alloc({ stage, nestParent, dirty: (flags & DOMAIN_FLAG.dirtyTracking) !== 0 });
  }

  allocSva(mm: Mm): IommuDomain | number {
    if (!this.sva) return -ERRNO.EOPNOTSUPP;
    const id = this.#allocId(1);
    return id < 0 ? id : new SvaDomain(this, mm, id);
  }

  #allocId(stage: 1 | 2): number {
    const { asidBits, vmidBits } = this.features;
    const id = (stage === 1 ? this.#asids : this.#vmids).alloc(2 ** (stage === 1 ? asidBits : vmidBits) - 1);
    return id < 0 ? -ERRNO.ENOSPC : id;
  }

  #alloc(kind: { readonly stage: 1 | 2; readonly nestParent: boolean; readonly dirty: boolean }): IommuDomain | number {
    const id = this.#allocId(kind.stage);
    if (id < 0) return id;
    try {
      return new PagingDomain(this, { ...kind, id });
    } catch (error) {
      (kind.stage === 1 ? this.#asids : this.#vmids).free(id);
      if (isErrno(error)) return -error.errno;
      throw error;
    }
  }

  freeId(domain: SmmuDomain): void {
    (domain.stage === 1 ? this.#asids : this.#vmids).free(domain.id);
  }

  // --- attaching ---

  attachIdentity(master: Master): number {
    this.#attachStatic(master, "identity");
    return 0;
  }

  attachBlocked(master: Master): void {
    this.#attachStatic(master, "blocked");
  }

  attachDomain(domain: SmmuDomain, dev: Device): number {
    const master = this.#masterOf(dev);
    if (typeof master === "number") return master;
    if (domain.stage === 1) return this.#attachStage1(master, domain);
    return domain instanceof PagingDomain ? this.#attachStage2(master, domain) : -ERRNO.EINVAL;
  }

  /**
   * Attaches a guest's tables over a stage 2 of this SMMU. -EINVAL for another's; -EBUSY while PASIDs are attached; or as of other
   * attaches.
   */
  attachNested(dev: Device, nested: NestedAttach): number {
    const master = this.#masterOf(dev);
    if (typeof master === "number") return master;
    const { parent, disableAts, vmaster } = nested;
    if (parent.host !== this) return -ERRNO.EINVAL;
    if ((master.cdTable?.usedSsids ?? 0) > 0) return -ERRNO.EBUSY;
    const write = (ats: boolean, undo: Undo | undefined): number => {
      nested.makeSte(this.#entry, this.#steOptions(master, ats));
      return this.#entries.writeStes(master, this.#entry, undo);
    };
    return this.#run(master, { ssid: 0, domain: parent, disableAts, vmaster, write }, "nested");
  }

  attachPasid(domain: SmmuDomain, dev: Device, pasid: number): number {
    const master = this.#masterOf(dev);
    if (typeof master === "number") return master;
    if (domain.host !== this || domain.stage !== 1) return -ERRNO.EINVAL;
    const inUse = this.#cdtabInUse(master);
    if (!inUse && master.rid !== "identity" && master.rid !== "blocked") return -ERRNO.EINVAL;
    const status = this.#cdTable(master, pasid);
    if (status < 0) return status;
    if (!ssidInRange(master.cdTable!.geometry, pasid)) return -ERRNO.EINVAL;
    const write = (ats: boolean, undo: Undo | undefined): number => {
      domain.makeCd(this.#entry, master);
      const written = this.#entries.writeCd(master, pasid, this.#entry, inUse, undo);
      const hasAts = this.#entries.steOf(master).eats === STE_EATS.full;
      if (written < 0 || (inUse && hasAts === ats)) return written;
      this.#makeCdtable(master, S1DSS[master.rid], ats);
      return this.#entries.writeStes(master, this.#entry, undo);
    };
    return this.#attacher.run(master, { ssid: pasid, domain, write });
  }

  blockPasid(master: Master, pasid: number): number {
    this.#attacher.detach(master, pasid, () => {
      this.#entries.clearCd(master, pasid);
    });
    const { rid, cdTable, atsAlwaysOn } = master;
    const untranslated = (rid === "identity" && !atsAlwaysOn) || rid === "blocked";
    if (untranslated && cdTable?.usedSsids === 0 && this.#cdtabInUse(master)) this.#attachStatic(master, rid);
    return 0;
  }

  rewriteCds(domain: SmmuDomain): void {
    for (const { master, ssid } of domain.attachments) {
      domain.makeCd(this.#entry, master);
      this.#entries.writeCd(master, ssid, this.#entry, true);
    }
  }

  #masterOf(dev: Device): Master | number {
    const master = this.#smmu.iommu.drvdataOf(dev) as Master | undefined;
    if (master === undefined) return -ERRNO.ENOENT;
    return master.smmu === this.#smmu ? master : -ERRNO.EINVAL;
  }

  /** The STEs lead to the device's own CD table. */
  #cdtabInUse(master: Master): boolean {
    return master.cdTable !== undefined && this.#entries.steOf(master).config === STE_CONFIG.s1;
  }

  #attachStatic(master: Master, rid: "identity" | "blocked"): void {
    const cdNeedsAts = (rid === "identity" && master.atsAlwaysOn) || (master.cdTable?.usedSsids ?? 0) > 0;
    const write = (ats: boolean): number => {
      if (cdNeedsAts) this.#makeCdtable(master, S1DSS[rid], ats);
      else if (rid === "identity") makeBypassSte(this.#entry, this.features.attrTypesOvr);
      else makeAbortSte(this.#entry);
      return this.#entries.writeStes(master, this.#entry);
    };
    this.#run(master, { ssid: 0, domain: undefined, cdNeedsAts, mustSucceed: true, write }, rid);
    this.#entries.clearCd(master, 0);
  }

  #attachStage1(master: Master, domain: SmmuDomain): number {
    const status = this.#cdTable(master, 0);
    if (status < 0) return status;
    const inUse = this.#cdtabInUse(master);
    const write = (ats: boolean, undo: Undo | undefined): number => {
      domain.makeCd(this.#entry, master);
      // Without PASIDs in use the STE decides until S1DSS is ssid0.
      const written = this.#entries.writeCd(master, 0, this.#entry, inUse && master.rid === "s1", undo);
      if (written < 0) return written;
      this.#makeCdtable(master, STE_S1DSS.ssid0, ats);
      return this.#entries.writeStes(master, this.#entry, undo);
    };
    return this.#run(master, { ssid: 0, domain, write }, "s1");
  }

  #attachStage2(master: Master, domain: PagingDomain): number {
    if ((master.cdTable?.usedSsids ?? 0) > 0) return -ERRNO.EBUSY;
    const write = (ats: boolean, undo: Undo | undefined): number => {
      makeS2Ste(this.#entry, domain.stage2, this.#steOptions(master, ats), domain.s2fwb);
      const written = this.#entries.writeStes(master, this.#entry, undo);
      if (written === 0) this.#entries.clearCd(master, 0);
      return written;
    };
    return this.#run(master, { ssid: 0, domain, write }, "s2");
  }

  #run(master: Master, plan: AttachPlan, rid: Master["rid"]): number {
    const status = this.#attacher.run(master, plan);
    if (status === 0) master.rid = rid;
    return status;
  }

  #steOptions(master: Master, ats: boolean): SteOptions {
    return {
      attrTypesOvr: this.features.attrTypesOvr, ats, stall: master.stall, instcfgData: this.#smmu.quirks.instcfgData,
    };
  }

  #makeCdtable(master: Master, s1dss: number, ats: boolean): void {
    const { base: pa, geometry } = master.cdTable!;
    const table = { pa, s1fmt: geometry.s1fmt, s1cdmax: geometry.s1cdmax, s1dss, stallDisable: this.features.stalls, e2h: this.e2h };
    makeCdtableSte(this.#entry, table, this.#steOptions(master, ats));
  }

  /** What firmware left running keeps its memory until a driver takes over: its streams bypass from the first moment on. */
  #bypassRmrs(): void {
    const ste = new Int32Array(STE_WORDS);
    makeBypassSte(ste, this.features.attrTypesOvr);
    for (const { ids } of this.#smmu.iommu.rmrsOf(this.#smmu.node.name)) {
      for (const sid of ids) {
        const status = this.strtab.addStream(sid);
        if (status < 0) this.#smmu.log("err", `RMR of stream ${sid}: ${errnoName(status)}`);
        else this.kernel.memory.write(this.strtab.ste(sid), ste);
      }
    }
  }

  invalidationFailed(status: number): void {
    this.#smmu.log("err", `CMD_SYNC: ${errnoName(status)}`);
  }

  // --- interrupts ---

  resumeStall(sid: number, stag: number, response: "retry" | "abort" | "terminate"): void {
    resume(this.#irqCommand, 0, sid, stag, RESUME_RESP[response]);
    this.sink.issue(this.#irqCommand, 1, false);
  }

  denyPageRequest(sid: number, ssid: number, group: number): void {
    priResp(this.#irqCommand, 0, sid, ssid, group, PRI_RESPONSE.failure);
    this.sink.issue(this.#irqCommand, 1, false);
  }

  handleErrors(): number {
    return this.#errors.handle(() => {
      this.disable();
    });
  }

  /** Looks for errors of the command queue, where interrupts are masked. */
  pollCommandErrors(): void {
    this.#errors.poll();
  }
}

/** What transactions without PASID do where PASIDs are in use. */
const S1DSS: Readonly<Record<Master["rid"], number>> = {
  identity: STE_S1DSS.bypass,
  blocked: STE_S1DSS.terminate,
  s1: STE_S1DSS.ssid0,
  s2: STE_S1DSS.terminate,
  nested: STE_S1DSS.terminate,
};

/** log2 of the smallest page size. */
function lowestBit(pgsizeBitmap: number): number {
  let shift = 0;
  while (Math.floor(pgsizeBitmap / 2 ** shift) % 2 === 0) shift++;
  return shift;
}

/** Firmware knows better than the ID registers what is wired: whether the SMMU snoops, and updates of tables by hardware. */
function withFirmware(smmu: SmmuDevice, features: SmmuFeatures): SmmuFeatures {
  if (features.coherent !== smmu.coherent) {
    smmu.log("warn", `IDR0.COHACC overridden by firmware: ${smmu.coherent ? "coherent" : "not coherent"}`);
  }
  const httu = smmu.node.properties["httu-override"];
  if (typeof httu !== "number") return features;
  const ha = httu >= 1;
  const hd = httu >= 2;
  if (ha !== features.ha || hd !== features.hd) smmu.log("warn", `IDR0.HTTU overridden by firmware: ${httu}`);
  return { ...features, ha, hd, haft: features.haft && hd };
}
