import { ERRNO } from "@smmuv3/platform";
import { atcInv, makeInvs, mergeInvs, purgeInvs, unrefInvs } from "@smmuv3/arm-smmu-v3-common";
import type { CommandCollector, Invs, InvsAlloc } from "@smmuv3/arm-smmu-v3-common";
import type { KernelContext } from "@smmuv3/driver-core";
import type { SmmuDomain } from "./domain.ts";
import { Undo } from "./entries.ts";
import type { Master } from "./smmu.ts";

/** What attaching needs of the SMMU. */
export interface AttachHost {
  readonly kernel: KernelContext;
  readonly batch: CommandCollector;
  readonly allocInvs: InvsAlloc;
  /** log2 of the bytes of the smallest translation that a device's cache may hold. */
  readonly stu: number;
  atsSupported(master: Master): boolean;
  invalidationFailed(status: number): void;
}

/** One change of what a device, or one of its PASIDs, is attached to. */
export interface AttachPlan {
  /** 0: what has no PASID. */
  readonly ssid: number;
  /** Whose invalidations concern the device from now on: the domain, or the stage 2 below a nested one. */
  readonly domain: SmmuDomain | undefined;
  /** The CD table stays in use without a domain here: so does ATS. */
  readonly cdNeedsAts?: boolean;
  readonly disableAts?: boolean;
  /** Of a virtual machine: who hears of the device's faults. */
  readonly vmaster?: unknown;
  /** It must not fail. */
  readonly mustSucceed?: boolean;
  /** Writes STEs and CDs; a negative errno while `undo` is not closed has it all taken back. */
  write(ats: boolean, undo: Undo | undefined): number;
}

/**
 * The steps of every attach: *prepare*, which may fail with nothing changed; *write*; *commit*, when devices and TLB forget what was
 * before; *release*. Invalidations reach the device by the new domain from before the first store on, and by the old one until the
 * last: see `Invs`.
 */
export class Attacher {
  readonly #host: AttachHost;

  constructor(host: AttachHost) {
    this.#host = host;
  }

  /** 0, or a negative errno with the hardware as it was. */
  run(master: Master, plan: AttachPlan): number {
    const { ssid, domain } = plan;
    const ats =
      (domain !== undefined || plan.cdNeedsAts === true) && plan.disableAts !== true && this.#host.atsSupported(master);
    const old = master.attached.get(ssid);
    const removed = this.#tags(old, master, ssid, master.atsEnabled);
    const added = this.#tags(domain, master, ssid, ats);
    if (removed === undefined || added === undefined) return -ERRNO.ENOMEM;
    const status = domain === undefined ? 0 : this.#join(domain, master, ssid, added);
    if (status < 0) return status;

    const hadAts = master.atsEnabled;
    if (!ats && hadAts) this.#disableAts(master);
    const undo = plan.mustSucceed === true ? undefined : new Undo();
    const written = plan.write(ats, undo);
    if (written < 0) {
      undo?.rollback(this.#host.kernel.memory);
      if (domain !== undefined) this.#leave(domain, master, ssid, added);
      if (!ats && hadAts) master.dev.pci?.enableAts(this.#host.stu);
      return written;
    }
    if (ssid === 0) master.vmaster = plan.vmaster;
    if (domain === undefined) master.attached.delete(ssid);
    else master.attached.set(ssid, domain);
    this.#commitAts(master, ssid, ats);
    master.atsEnabled = ats;
    if (old !== undefined) this.#leave(old, master, ssid, removed);
    return 0;
  }

  /** Detaches `ssid`, whose CD `clear` makes invalid. */
  detach(master: Master, ssid: number, clear: () => void): void {
    const old = master.attached.get(ssid);
    if (old === undefined) return;
    clear();
    if (master.atsEnabled) this.invalidateAtc(master, ssid);
    master.attached.delete(ssid);
    const removed = this.#tags(old, master, ssid, master.atsEnabled);
    if (removed !== undefined) this.#leave(old, master, ssid, removed);
  }

  /** The device's cache forgets everything, of `ssid` if that is not 0. */
  invalidateAtc(master: Master, ssid: number): void {
    const { batch } = this.#host;
    for (const sid of master.sids) atcInv(batch.words, batch.next(), sid, ssid, 0, 0);
    const status = batch.submit();
    if (status < 0) this.#host.invalidationFailed(status);
  }

  #tags(domain: SmmuDomain | undefined, master: Master, ssid: number, ats: boolean): Invs | undefined {
    return makeInvs(domain?.tags(master, ssid, ats) ?? [], this.#host.allocInvs);
  }

  /** Adds the device to the domain's invalidations. */
  #join(domain: SmmuDomain, master: Master, ssid: number, added: Invs): number {
    if (domain.enforcedCoherency && !master.canwbs) return -ERRNO.EINVAL;
    const merged = mergeInvs(domain.invs, added, this.#host.allocInvs);
    if (merged === undefined) return -ERRNO.ENOMEM;
    const status = this.#enableIopf(domain, master);
    if (status < 0) return status;
    domain.attachments.push({ master, ssid });
    domain.invs = merged;
    // Who unmaps from now on sees the array, or is seen by the SMMU's first look at the STE or CD.
    this.#host.kernel.cpu.barrier();
    return 0;
  }

  /** Takes the device out of the domain's invalidations; its ASID or VMID is clean once nobody uses it. */
  #leave(domain: SmmuDomain, master: Master, ssid: number, removed: Invs): void {
    const at = domain.attachments.findIndex((other) => other.master === master && other.ssid === ssid);
    if (at >= 0) domain.attachments.splice(at, 1);
    const { cpu, log } = this.#host.kernel;
    const missing = unrefInvs(domain.invs, removed, () => {
      cpu.relax();
    });
    if (missing > 0) log.warn(`arm-smmu-v3: ${master.dev.name}: ${missing} invalidations were missing`);
    const status = domain.flushReleased(removed);
    if (status < 0) this.#host.invalidationFailed(status);
    domain.invs = purgeInvs(domain.invs, this.#host.allocInvs) ?? domain.invs;
    if (domain.iopfHandler !== undefined && master.stall) master.iopfRefs--;
  }

  /** Faults of a device that stalls are answered by its one stream. */
  #enableIopf(domain: SmmuDomain, master: Master): number {
    if (domain.iopfHandler === undefined || !master.stall) return 0;
    if (master.sids.length !== 1) return -ERRNO.EOPNOTSUPP;
    master.iopfRefs++;
    return 0;
  }

  /** Before the STE stops answering: what the device asks for afterwards would be an error. */
  #disableAts(master: Master): void {
    master.dev.pci?.disableAts();
    this.#host.kernel.cpu.barrier();
  }

  #commitAts(master: Master, ssid: number, ats: boolean): void {
    if (!ats && !master.atsEnabled) return;
    this.invalidateAtc(master, ats && master.atsEnabled ? ssid : 0);
    if (ats && !master.atsEnabled) master.dev.pci?.enableAts(this.#host.stu);
  }
}
