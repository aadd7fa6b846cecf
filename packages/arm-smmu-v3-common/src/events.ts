import { EVENT, EVENT_NAMES, EVENTS, getAddress, getField } from "@smmuv3/smmu-v3-defs";
import type { EventField } from "@smmuv3/smmu-v3-defs";

/** What an event record of the hardware says; the shape of an IOMMU core's fault. */
export interface SmmuEvent {
  /** Name of the event, e.g. `F_TRANSLATION`; `event 0x..` for a type that has none. */
  readonly reason: string;
  /** StreamID and, where the transaction had one, SubstreamID. */
  readonly sid: number;
  readonly ssid?: number;
  /** Input address of the transaction, exact below 2^53. */
  readonly iova?: number;
  readonly write?: boolean;
  /** Tag of the transaction, where it is stalled until somebody resumes or terminates it. */
  readonly stag?: number;
  /** The record's eight words. */
  readonly detail: Int32Array;
}

/** Decodes one event record, IHI 0070 7.3: of its fields, those that its type has. `record` is copied. */
export function decodeEvent(record: Int32Array): SmmuEvent {
  const type = getField(record, 0, EVENT.Type);
  const name = EVENT_NAMES.get(type);
  const fields: readonly EventField[] = name === undefined ? [] : EVENTS[name].fields;
  // A type without SSV always has its SSID (C_BAD_SUBSTREAMID).
  const substream = fields.includes("SSID") && (!fields.includes("SSV") || getField(record, 0, EVENT.SSV) === 1);
  const stalled = fields.includes("Stall") && getField(record, 0, EVENT.Stall) === 1;
  return {
    reason: name ?? `event 0x${type.toString(16)}`,
    sid: getField(record, 0, EVENT.SID),
    ...(substream ? { ssid: getField(record, 0, EVENT.SSID) } : {}),
    ...(fields.includes("InputAddr") ? { iova: getAddress(record, 0, EVENT.InputAddr) } : {}),
    ...(fields.includes("RnW") ? { write: getField(record, 0, EVENT.RnW) === 0 } : {}),
    ...(stalled ? { stag: getField(record, 0, EVENT.STAG) } : {}),
    detail: record.slice(),
  };
}
