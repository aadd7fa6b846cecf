import { TRANSLATION } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";
import { maskOf, OFFSET, REG } from "@smmuv3/smmu-v3-defs";
import { GRANULE, GRANULES } from "@smmuv3/vmsa-walk";
import { AtsRecords } from "./ats-records.ts";
import { TranslationRequests } from "./ats-request.ts";
import { AtsStream } from "./ats-stream.ts";
import type { AtsCaches } from "./ats-stream.ts";
import { TranslatedAccesses } from "./ats-translated.ts";
import type { EventQueue } from "./events.ts";
import type { Interrupts } from "./irq.ts";
import type { SmmuPolicy } from "./policy.ts";
import type { Features } from "./presets.ts";
import type { RegisterFile } from "./registers.ts";

/** A PCIe ATS Translation Request. */
export interface TranslationRequest {
  readonly sid: number;
  /** PASID; left out for a request without one. */
  readonly ssid?: number;
  /** Untranslated address. Bits [11:0] are ignored; all 64 bits are exact, since a page address fits a double. */
  readonly address: number;
  /** Translations asked for, each of one Smallest Translation Unit: 1 (default) to 32. */
  readonly count?: number;
  /** NW: the device does not intend to write. */
  readonly noWrite?: boolean;
  /** Execute_Requested and Privileged_Mode_Requested of the PASID; ignored without one. */
  readonly execute?: boolean;
  readonly privileged?: boolean;
}

/** A Translation Completion Data Entry; R, W, X, Priv, Global, U and N as in the PCIe specification. */
export interface TranslationEntry {
  /** Translated address: a PA, or an IPA with split-stage ATS. 0 where R and W are false. */
  readonly address: number;
  /** Bytes, at least the Smallest Translation Unit. */
  readonly size: number;
  readonly R: boolean;
  readonly W: boolean;
  readonly X: boolean;
  readonly Priv: boolean;
  readonly Global: boolean;
  readonly U: boolean;
  readonly N: boolean;
}

/** Translation Completion: Success, Unsupported Request, or Completer Abort. */
export interface TranslationCompletion {
  readonly status: "success" | "UR" | "CA";
  /** One entry or more with `success`, for consecutive addresses and all of one size; else none. */
  readonly translations: readonly TranslationEntry[];
}

/** An ATS Invalidate Request (4.5.1). */
export interface InvalidationRequest {
  readonly sid: number;
  /** PASID, -1 without one. */
  readonly ssid: number;
  /** Global Invalidate; only with a PASID. */
  readonly global: boolean;
  /** First address of the span, aligned to it. */
  readonly address: number;
  /** log2 of the span in bytes; 64 is everything. */
  readonly log2: number;
}

/** How a device answers an invalidation: with a completion, with UR, or not at all in time. */
export type InvalidationAnswer = "done" | "unsupported" | "timeout";

/** A PRG Response Message (8.3). */
export interface PageResponse {
  readonly sid: number;
  /** PASID, -1 without one. */
  readonly ssid: number;
  readonly prgIndex: number;
  /** Of {@link PRG_RESPONSE}. */
  readonly code: number;
}

/** ResponseCode of a PRG Response Message (8.3). */
export const PRG_RESPONSE = { success: 0, invalidRequest: 1, failure: 15 } as const;

/** What a device on the ATS interface receives. */
export interface AtsEndpoint {
  invalidate(request: InvalidationRequest): InvalidationAnswer;
  pageResponse?(response: PageResponse): void;
}

const SMMUEN = maskOf(REG.CR0ACK.SMMUEN);

/**
 * The ATS port, IHI 0070 3.9.1: Translation Requests, Translated transactions, and the way to the devices for invalidations and
 * PRG responses.
 */
export class AtsPort {
  /** log2 of the Smallest Translation Unit: the smallest granule (3.9.1). */
  readonly stu: number;
  /** Configuration look-up and records, for the PRI queue too. */
  readonly stream: AtsStream;
  readonly records: AtsRecords;

  readonly #file: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #requests: TranslationRequests;
  readonly #translated: TranslatedAccesses;
  readonly #endpoints = new Map<number, AtsEndpoint>();

  constructor(
    file: RegisterFile,
    features: Features,
    policy: SmmuPolicy,
    memory: Memory,
    events: EventQueue,
    interrupts: Interrupts,
    caches: AtsCaches,
  ) {
    this.#interrupts = interrupts;
    const smallest = [GRANULE.K4, GRANULE.K16, GRANULE.K64].find((granule) => features.granules[granule])!;
    this.#file = file;
    this.stu = GRANULES[smallest]!.pageShift;
    this.stream = new AtsStream(file, features, memory, caches, policy);
    this.records = new AtsRecords(file, events, this.stream);
    this.#requests = new TranslationRequests(this.stream, this.records, this.stu);
    this.#translated = new TranslatedAccesses(file, features, this.stream, this.records);
  }

  /** Connects the device with this StreamID. It replaces one that was there. */
  attach(sid: number, endpoint: AtsEndpoint): void {
    this.#endpoints.set(sid, endpoint);
  }

  detach(sid: number): void {
    this.#endpoints.delete(sid);
  }

  /** Sends an invalidation; a StreamID without a device has no ATS, where CMD_ATC_INV is IGNORED (4.5). */
  invalidate(request: InvalidationRequest): InvalidationAnswer {
    return this.#endpoints.get(request.sid)?.invalidate(request) ?? "done";
  }

  /** Sends a PRG response to the device that it is for. */
  respond(response: PageResponse): void {
    this.#endpoints.get(response.sid)?.pageResponse?.(response);
  }

  /** CR0.SMMUEN is in effect. */
  get enabled(): boolean {
    return (this.#file.get(OFFSET.CR0ACK) & SMMUEN) !== 0;
  }

  /** Answers a Translation Request (3.9.1.2). Throws RangeError for a count outside 1 to 32. */
  translationRequest(request: TranslationRequest): TranslationCompletion {
    // Service Failure Mode answers PCIe with CA (12.3).
    if (this.#interrupts.serviceFailure) return { status: "CA", translations: [] };
    return this.#requests.answer(request, this.enabled);
  }

  /**
   * Presents a Translated transaction (3.9.1.3), one that does not cross a 4K boundary.
   * @param ssid PASID, used with ACCESS.ssidValid where IDR3.PASIDTT is 1
   * @param lo,hi address out of a Translation Completion
   * @param flags of ACCESS
   * @returns TRANSLATION.ok or TRANSLATION.abort
   */
  translatedAccess(sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    if (this.#interrupts.serviceFailure) return TRANSLATION.abort;
    return this.#translated.present(sid, ssid, lo, hi, flags);
  }

  /** Output address of the last {@link translatedAccess} that returned `ok`. */
  get paLo(): number {
    return this.#translated.paLo;
  }

  get paHi(): number {
    return this.#translated.paHi;
  }
}
