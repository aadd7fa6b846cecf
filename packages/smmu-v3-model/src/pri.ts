import { hi32, lo32 } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";
import { EVENTS, maskOf, OFFSET, place, PRI, PRIQ_WORDS, REG, STE } from "@smmuv3/smmu-v3-defs";
import { PRG_RESPONSE } from "./ats.ts";
import type { AtsPort } from "./ats.ts";
import { GERROR_BIT } from "./irq.ts";
import type { Interrupts } from "./irq.ts";
import type { SmmuPolicy } from "./policy.ts";
import type { Features } from "./presets.ts";
import { queueEmpty, queueFull, queueIndex, queueNext, queuePointer } from "./queues.ts";
import type { RegisterFile } from "./registers.ts";

/** A PCIe Page Request message, or with a PASID, `last`, and neither `read` nor `write`, a Stop Marker (chapter 8). */
export interface PageRequest {
  readonly sid: number;
  /** PASID; left out for a message without one. */
  readonly ssid?: number;
  /** Page; bits [11:0] are ignored. */
  readonly address: number;
  /** Page Request Group Index, 9 bits. */
  readonly prgIndex: number;
  readonly read?: boolean;
  readonly write?: boolean;
  /** Of the PASID; ignored without one. */
  readonly execute?: boolean;
  readonly privileged?: boolean;
  /** The last request of its group. */
  readonly last?: boolean;
}

/** What became of a message: it is in the queue, it was answered without software, or it was dropped in silence. */
export type PageRequestOutcome = "queued" | "answered" | "dropped";

const { PRIQ_BASE, CR0ACK, PRIQ_PROD, PRIQ_IRQ_CFG2 } = REG;
const BASE = OFFSET.PRIQ_BASE;
const PROD = OFFSET.PRIQ_PROD;
const CONS = OFFSET.PRIQ_CONS;
const OVFLG = maskOf(PRIQ_PROD.OVFLG);
const ENABLES = maskOf(CR0ACK.PRIQEN) | maskOf(CR0ACK.SMMUEN);
const ENTRY_LOG2 = 4;

/** The PRI queue, IHI 0070 chapter 8: page requests for software, and the answers that the SMMU gives by itself. */
export class PriQueue {
  readonly #file: RegisterFile;
  readonly #features: Features;
  readonly #memory: Memory;
  readonly #interrupts: Interrupts;
  readonly #port: AtsPort;
  readonly #asynchronous: boolean;
  readonly #record = new Int32Array(PRIQ_WORDS);

  constructor(
    file: RegisterFile,
    features: Features,
    policy: SmmuPolicy,
    memory: Memory,
    interrupts: Interrupts,
    port: AtsPort,
  ) {
    this.#file = file;
    this.#features = features;
    this.#memory = memory;
    this.#interrupts = interrupts;
    this.#port = port;
    this.#asynchronous = policy.queueWriteAbort === "asynchronous";
  }

  /** log2 of the entries in effect (6.3.33). */
  get log2(): number {
    return Math.min(this.#file.get(BASE) & maskOf(PRIQ_BASE.LOG2SIZE), this.#features.priqs);
  }

  /**
   * Receives a message. An answer goes to the endpoint of its StreamID, see AtsPort.attach, before this returns. Throws RangeError
   * for a PRGIndex beyond 9 bits.
   */
  pageRequest(request: PageRequest): PageRequestOutcome {
    const { prgIndex } = request;
    if (!Number.isInteger(prgIndex) || prgIndex < 0 || prgIndex > PRI.PRGIndex.mask) {
      throw new RangeError(`PriQueue: prgIndex must be an integer from 0 to ${PRI.PRGIndex.mask}, got ${prgIndex}`);
    }
    const file = this.#file;
    const ssid = this.#features.ssidSize > 0 ? (request.ssid ?? -1) : -1;
    const last = request.last === true;
    const stop = ssid >= 0 && last && request.read !== true && request.write !== true;
    // PRIQEN is in effect only together with SMMUEN (8.2).
    const enabled = (file.get(OFFSET.CR0ACK) & ENABLES) === ENABLES;
    if (!enabled || this.#interrupts.active(GERROR_BIT.PRIQ_ABT_ERR) || this.#interrupts.serviceFailure) {
      return this.#refuse(request, stop);
    }
    const log2 = this.log2;
    const prod = file.get(PROD);
    const cons = file.get(CONS);
    const overflown = ((prod ^ cons) & OVFLG) !== 0;
    if (overflown || queueFull(prod, cons, log2)) {
      if (!overflown) file.set(PROD, prod ^ OVFLG);
      return this.#overflow(request, ssid, last, stop);
    }
    return this.#store(request, ssid, last, stop, log2);
  }

  #store(request: PageRequest, ssid: number, last: boolean, stop: boolean, log2: number): PageRequestOutcome {
    const file = this.#file;
    const prod = file.get(PROD);
    const wasEmpty = queueEmpty(prod, file.get(CONS), log2);
    const next = (prod & OVFLG) | queueNext(queuePointer(prod, log2), log2);
    const at = this.#locate(queueIndex(prod, log2), log2);
    if (at < 0) {
      // Noticed late, the abort costs the entry and nobody is answered; else PROD does not move (8.2).
      if (this.#asynchronous) file.set(PROD, next);
      this.#interrupts.raise(GERROR_BIT.PRIQ_ABT_ERR);
      if (this.#asynchronous) return "dropped";
      return this.#refuse(request, stop);
    }
    this.#build(request, ssid, last);
    for (let i = 0; i < PRIQ_WORDS; i++) this.#memory.words[at + i] = this.#record[i]!;
    file.set(PROD, next);
    if (this.#lastOnly ? last : wasEmpty) this.#interrupts.priQueue();
    return "queued";
  }

  /** Without a PASID there is neither execution nor privilege (chapter 8). */
  #build(request: PageRequest, ssid: number, last: boolean): void {
    const record = this.#record;
    const tagged = ssid >= 0;
    record[0] = request.sid;
    record[1] =
      (tagged ? place(PRI.SSID, ssid) | place(PRI.SSV, 1) : 0) |
      place(PRI.PRIV, tagged && request.privileged === true ? 1 : 0) |
      place(PRI.EXEC, tagged && request.execute === true ? 1 : 0) |
      place(PRI.READ, request.read === true ? 1 : 0) |
      place(PRI.WRITE, request.write === true ? 1 : 0) |
      place(PRI.LAST, last ? 1 : 0);
    record[2] = place(PRI.PRGIndex, request.prgIndex) | (lo32(request.address) & PRI.Addr.loMask);
    record[3] = hi32(request.address);
  }

  /** PRIQ_IRQ_CFG2.LO (6.3.36). */
  get #lastOnly(): boolean {
    return (this.#file.get(OFFSET.PRIQ_IRQ_CFG2) & maskOf(PRIQ_IRQ_CFG2.LO)) !== 0;
  }

  /** Index of the first word of an entry, or -1 where it cannot be written. */
  #locate(index: number, log2: number): number {
    // The base is aligned to the queue's size, at least 32 bytes (6.3.33).
    const bytes = 1 << Math.max(log2 + ENTRY_LOG2, 5);
    const lo = (this.#file.get(BASE) & PRIQ_BASE.ADDR.loMask & -bytes) | (index << ENTRY_LOG2);
    const page = this.#memory.pageOf(lo, this.#file.high(BASE) & PRIQ_BASE.ADDR.hiMask);
    if (page < 0 || (this.#memory.perm[page]! & 2) === 0) return -1;
    return (page << 10) | ((lo & 0xfff) >>> 2);
  }

  /** The queue does not take requests at all: Response Failure, without a PASID (8.2). Stop Markers have no answer. */
  #refuse(request: PageRequest, stop: boolean): PageRequestOutcome {
    return stop ? "dropped" : this.#answer(request, -1, PRG_RESPONSE.failure);
  }

  /** 8.1: only the last request of a group is answered, so that a device which disregards its credits tries again. */
  #overflow(request: PageRequest, ssid: number, last: boolean, stop: boolean): PageRequestOutcome {
    if (this.#lastOnly && last) this.#interrupts.priQueue();
    if (!last || stop) return "dropped";
    if (ssid < 0 || this.#features.pps) return this.#answer(request, ssid, PRG_RESPONSE.success);
    const { stream, records, enabled } = this.#port;
    const failed = enabled ? stream.fetchSte(request.sid) : EVENTS.C_BAD_STE.type;
    if (failed === 0) return this.#answer(request, stream.flag(STE.PPAR) ? ssid : -1, PRG_RESPONSE.success);
    if (failed !== EVENTS.C_BAD_STREAMID.type || records.badStreams) records.configuration(failed, request.sid, ssid);
    return this.#answer(request, -1, PRG_RESPONSE.failure);
  }

  #answer({ sid, prgIndex }: PageRequest, ssid: number, code: number): PageRequestOutcome {
    this.#port.respond({ sid, ssid, prgIndex, code });
    return "answered";
  }
}
