import {
  EVENT,
  EVENT_NAMES,
  EVENTS,
  getAddress,
  getField,
  maskOf,
  PRI,
  printEvent,
  printFields,
  REG,
} from "@smmuv3/smmu-v3-defs";
import type { EventField, EventName } from "@smmuv3/smmu-v3-defs";
import type { IommuFault } from "@smmuv3/iommu-core";
import type { SmmuDevice } from "./smmu.ts";

/** Messages about events: at most this many per interval of ns. */
const BURST = 10;
const INTERVAL = 5_000_000_000;

const has = (name: EventName | undefined, field: EventField): boolean =>
  name !== undefined && (EVENTS[name].fields as readonly EventField[]).includes(field);

/** What the core is told about an event record. `detail`: a copy of its words. */
export function decodeEvent(record: Int32Array): IommuFault {
  const name = EVENT_NAMES.get(getField(record, 0, EVENT.Type));
  return {
    reason: name ?? `event 0x${getField(record, 0, EVENT.Type).toString(16)}`,
    sid: getField(record, 0, EVENT.SID),
    ...(has(name, "SSV") && getField(record, 0, EVENT.SSV) === 1 ? { ssid: getField(record, 0, EVENT.SSID) } : {}),
    ...(has(name, "InputAddr") ? { iova: inputAddress(record) } : {}),
    ...(has(name, "RnW") ? { write: getField(record, 0, EVENT.RnW) === 0 } : {}),
    detail: record.slice(),
  };
}

/** Exact below 2^53. */
function inputAddress(record: Int32Array): number {
  return getAddress(record, 0, EVENT.InputAddr);
}

/** Names of the GERROR bits that are set in `active`. */
function errorNames(active: number): string[] {
  return Object.values(REG.GERROR)
    .filter((field) => (active & maskOf(field)) !== 0)
    .map((field) => field.name);
}

/** The interrupt handlers of one SMMU. They run where interrupts are taken: while somebody waits, never inside an insertion. */
export class EventHandlers {
  readonly #smmu: SmmuDevice;
  #windowStart = 0;
  #printed = 0;

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
    const fault = decodeEvent(record);
    const smmu = this.#smmu;
    const master = smmu.masters.get(getField(record, 0, EVENT.SID));
    if (this.#mayPrint()) smmu.log("err", `event: ${printEvent(record)}${master ? ` (${master.dev.name})` : ""}`);
    smmu.iommu.reportFault(master?.dev, fault);
    const name = EVENT_NAMES.get(getField(record, 0, EVENT.Type));
    if (has(name, "STAG") && getField(record, 0, EVENT.Stall) === 1) {
      smmu.backend?.terminateStall?.(getField(record, 0, EVENT.SID), getField(record, 0, EVENT.STAG));
    }
  }

  #mayPrint(): boolean {
    const now = this.#smmu.kernel.cpu.now();
    if (now - this.#windowStart >= INTERVAL) {
      this.#windowStart = now;
      this.#printed = 0;
    }
    if (this.#printed < BURST) {
      this.#printed++;
      return true;
    }
    this.#smmu.suppressed++;
    return false;
  }
}
