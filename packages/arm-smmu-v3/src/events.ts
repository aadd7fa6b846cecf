import { getField, maskOf, PRI, printEvent, printFields, REG } from "@smmuv3/smmu-v3-defs";
import { decodeEvent, RateLimit } from "@smmuv3/arm-smmu-v3-common";
import type { SmmuDevice } from "./smmu.ts";

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
  byName(): Readonly<Record<string, () => void>> {
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
    if (this.#limit.admit(smmu.kernel.cpu.now())) {
      smmu.log("err", `event: ${printEvent(record)}${master ? ` (${master.dev.name})` : ""}`);
    } else {
      smmu.suppressed++;
    }
    smmu.iommu.reportFault(master?.dev, event);
    if (event.stag !== undefined) smmu.backend?.terminateStall?.(event.sid, event.stag);
  }
}
