import { EVENT, getField, maskOf, PRI, printEvent, printFields, REG } from "@smmuv3/smmu-v3-defs";
import { decodeEvent, RateLimit } from "@smmuv3/arm-smmu-v3-common";
import type { SmmuEvent } from "@smmuv3/arm-smmu-v3-common";
import { FAULT_PERM } from "@smmuv3/iommu-core";
import { ERRNO } from "@smmuv3/platform";
import type { InterruptHandlers } from "./impl.ts";
import type { Master, SmmuDevice } from "./smmu.ts";

/** Names of the GERROR bits that are set in `active`. */
function errorNames(active: number): string[] {
  return Object.values(REG.GERROR)
    .filter((field) => (active & maskOf(field)) !== 0)
    .map((field) => field.name);
}

/** The interrupt handlers of one SMMU. They run where interrupts are taken: while somebody waits, never inside an insertion. */
export class EventHandlers {
  readonly #smmu: SmmuDevice;
  readonly #limit: RateLimit = new RateLimit();

  constructor(smmu: SmmuDevice) {
    this.#smmu = smmu;
  }

  /** Handlers by the name that firmware gives their interrupt. */
  byName(): InterruptHandlers & Readonly<Record<string, () => void>> {
    return {
      eventq: () => {
        this.eventq();
      },
      gerror: () => {
        this.gerror();
      },
      priq: () => {
        this.priq();
      },
      combined: () => {
        this.gerror();
        this.eventq();
        this.priq();
      },
    };
  }

  /** Drains the event queue. */
  eventq(): void {
    const evtq = this.#smmu.backend?.evtq;
    if (evtq === undefined) return;
    const before = evtq.overflows;
    evtq.drain((record) => {
      this.#event(record);
    });
    if (evtq.overflows !== before) this.#smmu.log("err", "EVTQ overflow detected -- events lost");
  }

  /** Drains the page request queue; requests are denied. */
  priq(): void {
    const backend = this.#smmu.backend;
    backend?.priq?.drain((record) => {
      this.#smmu.log("info", `unexpected PRI request: ${printFields(PRI, record)}`);
      if (getField(record, 0, PRI.LAST) === 0) return;
      const ssid = getField(record, 0, PRI.SSV) === 1 ? getField(record, 0, PRI.SSID) : -1;
      backend.denyPageRequest?.(getField(record, 0, PRI.SID), ssid, getField(record, 0, PRI.PRGIndex));
    });
  }

  /** Global errors. */
  gerror(): void {
    const active = this.#smmu.backend?.handleErrors() ?? 0;
    for (const name of errorNames(active)) this.#smmu.log("err", `global error: ${name}`);
  }

  #event(record: Int32Array): void {
    const event = decodeEvent(record);
    const smmu = this.#smmu;
    const master = smmu.masters.get(event.sid);
    if (event.stag !== undefined) {
      // A fault that somebody serves is nobody's error.
      if (this.#stalled(master, event, event.stag, record)) return;
    } else if (master !== undefined && smmu.forwardEvent?.(master, record) === true) return;
    if (this.#limit.admit(smmu.kernel.cpu.now())) {
      smmu.log("err", `event: ${printEvent(record)}${master ? ` (${master.dev.name})` : ""}`);
    } else {
      smmu.suppressed++;
    }
    smmu.iommu.reportFault(master?.dev, event);
  }

  /** Hands a stalled transaction to whoever brings in the page. False: nobody does, and it was aborted. */
  #stalled(master: Master | undefined, event: SmmuEvent, stag: number, record: Int32Array): boolean {
    const smmu = this.#smmu;
    const { ssid, iova: addr = 0, sid } = event;
    const bit = (field: typeof EVENT.InD, perm: number): number => (getField(record, 0, field) === 1 ? perm : 0);
    const perm =
      (event.write === true ? FAULT_PERM.write : FAULT_PERM.read) |
      bit(EVENT.InD, FAULT_PERM.exec) |
      bit(EVENT.PnU, FAULT_PERM.priv);
    const request = { grpid: stag, addr, perm, sid, ...(ssid === undefined ? {} : { pasid: ssid }) };
    const status = master === undefined ? -ERRNO.ENODEV : smmu.iommu.reportPageRequest(master.dev, request);
    // Nobody knows the stream's device: the core could not answer.
    if (status === -ERRNO.ENODEV) smmu.backend?.resumeStall?.(sid, stag, "abort");
    return status === 0;
  }
}
