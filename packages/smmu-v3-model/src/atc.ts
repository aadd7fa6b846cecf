import { ACCESS, hi32, join, lo32, TRANSLATION } from "@smmuv3/platform";
import type { Translator } from "@smmuv3/platform";
import { PRG_RESPONSE } from "./ats.ts";
import type { AtsEndpoint, AtsPort, InvalidationAnswer, InvalidationRequest, PageResponse, TranslationEntry } from "./ats.ts";
import type { PriQueue } from "./pri.ts";

export interface DeviceAtcOptions {
  readonly ats: AtsPort;
  /** StreamID of the function. */
  readonly sid: number;
  /** Translations that it holds, a power of two from 4; default 256. */
  readonly entries?: number;
  /** Translations that it asks for at once; default 1. */
  readonly prefetch?: number;
  /** Where it sends page requests when a page is not there. Default: the access is aborted. */
  readonly pri?: PriQueue;
  /** Called with each PRG response. */
  readonly onPageResponse?: (response: PageResponse) => void;
}

const WAYS = 4;
const R = 1;
const W = 2;
const X = 4;
/** Page Request Group Indices are 9 bits. */
const GROUPS = 512;

/**
 * The Address Translation Cache of a PCIe function: asks for translations (ATS), keeps them until they are invalidated, and
 * accesses memory with Translated transactions. A DMA master uses it in the place of the SMMU.
 */
export class DeviceAtc implements AtsEndpoint, Translator {
  paLo = 0;
  paHi = 0;
  /** How it answers invalidations: `timeout` and `unsupported` leave its translations as they are. */
  answer: InvalidationAnswer = "done";
  /** Translation Requests, invalidations and page requests so far. */
  requests = 0;
  invalidations = 0;
  pageRequests = 0;
  /** PRG responses, oldest first. */
  readonly responses: PageResponse[] = [];

  readonly #ats: AtsPort;
  readonly #pri: PriQueue | undefined;
  readonly #sid: number;
  readonly #prefetch: number;
  readonly #onPageResponse: ((response: PageResponse) => void) | undefined;
  readonly #sets: number;
  /** By entry: number of the page in units of its size, log2 of the size (0 where empty), requester, rights, address. */
  readonly #pages: Float64Array;
  readonly #sizes: Uint8Array;
  readonly #tags: Int32Array;
  readonly #rights: Uint8Array;
  readonly #outputs: Float64Array;
  /** Sizes that entries have had. */
  readonly #known: number[] = [];
  #next = 0;
  #group = 0;

  /** Attaches itself to the port. Throws RangeError for a number of entries that is not a power of two from 4. */
  constructor(options: DeviceAtcOptions) {
    const { ats, sid, entries = 256, prefetch = 1 } = options;
    if (!Number.isInteger(Math.log2(entries)) || entries < WAYS) {
      throw new RangeError(`DeviceAtc: entries must be a power of two from ${WAYS}, got ${entries}`);
    }
    this.#ats = ats;
    this.#pri = options.pri;
    this.#sid = sid;
    this.#prefetch = prefetch;
    this.#onPageResponse = options.onPageResponse;
    this.#sets = entries / WAYS;
    this.#pages = new Float64Array(entries);
    this.#sizes = new Uint8Array(entries);
    this.#tags = new Int32Array(entries);
    this.#rights = new Uint8Array(entries);
    this.#outputs = new Float64Array(entries);
    ats.attach(sid, this);
  }

  /** Translations held. */
  get size(): number {
    return this.#sizes.reduce((count, log2) => (log2 === 0 ? count : count + 1), 0);
  }

  /**
   * One access of the function, see `Translator`; `sid` is not looked at. `stalled` means that a page was asked for: the access
   * is to be made again after its PRG response.
   */
  translate(_sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    const pasid = (flags & ACCESS.ssidValid) === 0 ? -1 : ssid;
    const privileged = pasid >= 0 && (flags & ACCESS.privileged) !== 0;
    const execute = pasid >= 0 && (flags & (ACCESS.instruction | ACCESS.write)) === ACCESS.instruction;
    const tag = tagOf(pasid, privileged);
    const need = (flags & ACCESS.write) !== 0 ? W : execute ? X : R;
    const page = join(lo & ~0xfff, hi);
    let at = this.#find(page, tag, need);
    if (at < 0) {
      if (!this.#fetch(page, pasid, tag, need, privileged)) return TRANSLATION.abort;
      at = this.#find(page, tag, need);
      if (at < 0) return this.#miss(page, pasid, need, privileged);
    }
    const log2 = this.#sizes[at]!;
    const address = this.#outputs[at]! + (page % 2 ** log2) + (lo & 0xfff);
    const result = this.#ats.translatedAccess(this.#sid, ssid, lo32(address), hi32(address), flags);
    this.paLo = this.#ats.paLo;
    this.paHi = this.#ats.paHi;
    return result;
  }

  /** Without a PASID all translations of the range go; with one those of it, or with Global those of any PASID. */
  invalidate({ ssid, global, address, log2 }: InvalidationRequest): InvalidationAnswer {
    this.invalidations++;
    if (this.answer !== "done") return this.answer;
    const end = address + 2 ** log2;
    for (let at = 0; at < this.#sizes.length; at++) {
      const size = 2 ** this.#sizes[at]!;
      const first = this.#pages[at]! * size;
      const owner = (this.#tags[at]! >> 1) - 1;
      const matches = ssid < 0 || (global ? owner >= 0 : owner === ssid);
      if (matches && first < end && address < first + size) this.#sizes[at] = 0;
    }
    return "done";
  }

  pageResponse(response: PageResponse): void {
    this.responses.push(response);
    this.#onPageResponse?.(response);
  }

  /** Drops everything, as a function that is reset. */
  clear(): void {
    this.#sizes.fill(0);
  }

  /** Index of a translation that grants `need`, or -1. */
  #find(page: number, tag: number, need: number): number {
    for (const log2 of this.#known) {
      const number = Math.floor(page / 2 ** log2);
      const set = this.#set(number, tag);
      for (let at = set; at < set + WAYS; at++) {
        if (this.#sizes[at] === log2 && this.#pages[at] === number && this.#tags[at] === tag && (this.#rights[at]! & need) !== 0) return at;
      }
    }
    return -1;
  }

  /** Asks the SMMU. Returns false for a completion that is not a success. */
  #fetch(page: number, pasid: number, tag: number, need: number, privileged: boolean): boolean {
    this.requests++;
    const { status, translations } = this.#ats.translationRequest({
      sid: this.#sid,
      ...(pasid < 0 ? {} : { ssid: pasid, privileged, execute: need === X }),
      address: page,
      count: this.#prefetch,
      noWrite: need !== W,
    });
    if (status !== "success") return false;
    const { size } = translations[0]!;
    let first = page - (page % size);
    for (const entry of translations) {
      if (entry.R || entry.W) this.#insert(first, tag, entry);
      first += size;
    }
    return true;
  }

  #insert(first: number, tag: number, { address, size, ...granted }: TranslationEntry): void {
    const log2 = Math.log2(size);
    const number = first / size;
    if (!this.#known.includes(log2)) this.#known.push(log2);
    const set = this.#set(number, tag);
    let at = -1;
    for (let way = set; way < set + WAYS; way++) {
      const same = this.#pages[way] === number && this.#tags[way] === tag && this.#sizes[way] === log2;
      if (same || (at < 0 && this.#sizes[way] === 0)) at = way;
    }
    if (at < 0) at = set + (this.#next++ % WAYS);
    this.#pages[at] = number;
    this.#sizes[at] = log2;
    this.#tags[at] = tag;
    this.#rights[at] = (granted.R ? R : 0) | (granted.W ? W : 0) | (granted.X ? X : 0);
    this.#outputs[at] = address;
  }

  /** Nothing is granted: a page request where the function has PRI, as a group of one. */
  #miss(page: number, pasid: number, need: number, privileged: boolean): number {
    if (this.#pri === undefined) return TRANSLATION.abort;
    this.pageRequests++;
    this.#group = (this.#group + 1) % GROUPS;
    const answered = this.responses.length;
    this.#pri.pageRequest({
      sid: this.#sid,
      ...(pasid < 0 ? {} : { ssid: pasid, privileged, execute: need === X }),
      address: page,
      prgIndex: this.#group,
      read: need !== W,
      write: need === W,
      last: true,
    });
    const refused = this.responses.slice(answered).some(({ code }) => code !== PRG_RESPONSE.success);
    return refused ? TRANSLATION.abort : TRANSLATION.stalled;
  }

  #set(number: number, tag: number): number {
    return ((Math.imul((number % 0x1_0000_0000) ^ tag, 0x9e37_79b1) >>> 8) % this.#sets) * WAYS;
  }
}

/** What a translation was asked for with: the PASID, and its privilege; the two are not related (13.7). */
function tagOf(pasid: number, privileged: boolean): number {
  return ((pasid + 1) << 1) | (privileged ? 1 : 0);
}
