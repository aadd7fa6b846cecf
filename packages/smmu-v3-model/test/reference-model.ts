// A second SMMU, written for being obviously right: BigInt, one access at a time, no caches. Only what the property test uses.
import type { Memory } from "@smmuv3/platform";

export interface Access {
  readonly sid: number;
  /** -1 without a SubstreamID. */
  readonly ssid: number;
  readonly address: bigint;
  readonly write: boolean;
  readonly privileged: boolean;
  readonly instruction: boolean;
}

export interface Answer {
  readonly result: "ok" | "abort" | "raz";
  readonly pa?: bigint;
  /** Words of the record. */
  readonly event?: readonly number[];
}

export interface Identity {
  readonly strtab: bigint;
  readonly strtabLog2: number;
  readonly ssidSize: number;
  readonly addressBits: number;
}

const TYPE = { streamId: 2, badSte: 4, disabled: 6, substreamId: 8, cdFetch: 9, badCd: 0xa, walkAbort: 0xb } as const;
type Kind = "translation" | "size" | "access" | "permission" | "abort";
const KIND_TYPE: Readonly<Record<Kind, number>> = { translation: 0x10, size: 0x11, access: 0x12, permission: 0x13, abort: 0xb };
const SIZES = [32, 36, 40, 42, 44, 48, 48, 48];
const PAGE_SHIFT = [12, 16, 14];

/** Fault of a stage; `fetch` is the address of a descriptor that could not be read. */
interface Fault {
  readonly kind: Kind;
  readonly fetch?: bigint;
}
/** A fault as the transaction ends with it. */
interface Ending extends Fault {
  readonly stage: 1 | 2;
  readonly class: "CD" | "TT" | "IN";
  readonly ipa?: bigint;
  readonly ttWrite?: boolean;
}

interface Need {
  readonly read?: boolean;
  readonly write?: boolean;
  readonly execute?: boolean;
  readonly privileged?: boolean;
  readonly notDevice?: boolean;
}

interface Tables {
  readonly base: bigint;
  readonly inputBits: number;
  readonly pageShift: number;
  readonly startLevel: number;
  readonly outputBits: number;
  readonly bigEndian: boolean;
}

interface Leaf {
  readonly descriptor: bigint;
  /** Where the descriptor is, before stage 2 and physical. */
  readonly slot: bigint;
  readonly slotPa: bigint;
  readonly output: bigint;
  /** Table descriptors on the way, ORed. */
  readonly inherited: bigint;
}

function field(words: readonly bigint[], high: number, low: number): bigint {
  const all = words.reduce((sum, word, index) => sum | (word << BigInt(64 * index)), 0n);
  return (all >> BigInt(low)) & ((1n << BigInt(high - low + 1)) - 1n);
}

function isFault(value: object): value is Fault | Ending {
  return "kind" in value;
}

export class ReferenceSmmu {
  readonly #memory: Memory;
  readonly #id: Identity;

  constructor(memory: Memory, id: Identity) {
    this.#memory = memory;
    this.#id = id;
  }

  #inRam(pa: bigint): boolean {
    return pa >= BigInt(this.#memory.base) && pa < BigInt(this.#memory.base + this.#memory.size);
  }

  #load(pa: bigint, bigEndian = false): bigint {
    const at = this.#memory.index(Number(pa), false);
    const { words } = this.#memory;
    const little = (BigInt(words[at + 1]! >>> 0) << 32n) | BigInt(words[at]! >>> 0);
    return bigEndian ? reverse(little) : little;
  }

  #store(pa: bigint, value: bigint, bigEndian: boolean): void {
    const little = bigEndian ? reverse(value) : value;
    this.#memory.words[this.#memory.index(Number(pa), true)] = Number(BigInt.asIntN(32, little));
    this.#memory.words[this.#memory.index(Number(pa) + 4, true)] = Number(BigInt.asIntN(32, little >> 32n));
  }

  #structure(pa: bigint): bigint[] | undefined {
    if (!this.#inRam(pa)) return undefined;
    return Array.from({ length: 8 }, (_, index) => this.#load(pa + BigInt(index * 8)));
  }

  /** Walks tables down to a leaf; `via` translates the addresses of descriptors. */
  #descend(tables: Tables, input: bigint, via: (slot: bigint) => bigint | Ending): Leaf | Fault | Ending {
    const { pageShift, startLevel, inputBits } = tables;
    const stride = pageShift - 3;
    let table = tables.base;
    let inherited = 0n;
    for (let level = startLevel; ; level++) {
      const shift = pageShift + (3 - level) * stride;
      const bits = level === startLevel ? inputBits - shift : stride;
      const size = 1n << BigInt(bits + 3);
      const index = (input >> BigInt(shift)) & ((1n << BigInt(bits)) - 1n);
      const slot = table - (table % (level === startLevel ? size : 1n)) + index * 8n;
      const slotPa = via(slot);
      if (typeof slotPa === "object") return slotPa;
      if (!this.#inRam(slotPa)) return { kind: "abort", fetch: slotPa };
      const descriptor = this.#load(slotPa, tables.bigEndian);
      const type = descriptor & 3n;
      const block = type === 1n && (pageShift === 12 ? level === 1 || level === 2 : level === 2);
      const page = type === 3n && level === 3;
      const next = type === 3n && level < 3;
      if (!block && !page && !next) return { kind: "translation" };
      const address = (descriptor & ((1n << 48n) - 1n)) >> BigInt(pageShift) << BigInt(pageShift);
      if (address >> BigInt(tables.outputBits) !== 0n) return { kind: "size" };
      if (next) {
        inherited |= descriptor;
        table = address;
        continue;
      }
      const low = (1n << BigInt(shift)) - 1n;
      return { descriptor, slot, slotPa, inherited, output: (address & ~low) | (input & low) };
    }
  }

  /** Stage 2 of an IPA. Hardware updates are stored unless `dry`. */
  #stage2(ste: readonly bigint[], ipa: bigint, need: Need, dry = false): { pa: bigint } | Fault {
    const tg = Number(field(ste, 175, 174));
    const pageShift = PAGE_SHIFT[tg]!;
    const inputBits = 64 - Number(field(ste, 165, 160));
    const sl0 = Number(field(ste, 167, 166));
    if (ipa >> BigInt(inputBits) !== 0n) return { kind: "translation" };
    const tables = {
      base: field(ste, 247, 196) << 4n,
      inputBits,
      pageShift,
      startLevel: tg === 0 ? 2 - sl0 : 3 - sl0,
      outputBits: Math.min(SIZES[Number(field(ste, 178, 176))]!, this.#id.addressBits),
      bigEndian: field(ste, 180, 180) === 1n,
    };
    const leaf = this.#descend(tables, ipa, (slot) => slot);
    if (isFault(leaf)) return leaf;
    const bit = (n: number): boolean => ((leaf.descriptor >> BigInt(n)) & 1n) === 1n;
    const ha = field(ste, 184, 184) === 1n;
    const hd = ha && field(ste, 183, 183) === 1n;
    let updated = leaf.descriptor;
    if (!bit(10)) {
      if (ha) updated |= 1n << 10n;
      else if (field(ste, 181, 181) === 0n) return { kind: "access" };
    }
    const clean = hd && bit(51) && !bit(7);
    // XN[1:0]: 0 all, 1 unprivileged only, 2 none, 3 privileged only.
    const xn = (bit(54) ? 2 : 0) + (bit(53) ? 1 : 0);
    const runs = xn === 0 || xn === (need.privileged === true ? 3 : 1);
    const device = ((leaf.descriptor >> 4n) & 3n) === 0n;
    if (need.read === true && !bit(6)) return { kind: "permission" };
    if (need.write === true && !bit(7) && !clean) return { kind: "permission" };
    if (need.execute === true && !runs) return { kind: "permission" };
    if (need.notDevice === true && device) return { kind: "permission" };
    if (need.write === true && clean) updated |= 1n << 7n;
    if (updated !== leaf.descriptor && !dry) this.#store(leaf.slotPa, updated, tables.bigEndian);
    return { pa: leaf.output };
  }

  #stage1(ste: readonly bigint[], cd: readonly bigint[], nested: boolean, access: Access, need: Need): { pa: bigint } | Ending {
    const end = (fault: Fault): Ending => ({ stage: 1, class: fault.kind === "abort" ? "TT" : "IN", ...fault });
    const va = access.address;
    const high = ((va >> 55n) & 1n) === 1n;
    const flag = (n: number): boolean => field(cd, n, n) === 1n;
    const tsz = Number(high ? field(cd, 21, 16) : field(cd, 5, 0));
    const tg = high ? [0, 2, 0, 1][Number(field(cd, 23, 22))]! : Number(field(cd, 7, 6));
    if (flag(high ? 30 : 14)) return end({ kind: "translation" });
    const inputBits = 64 - tsz;
    const top = flag(high ? 39 : 38) ? 56 : 64;
    const upper = (va & ((1n << BigInt(top)) - 1n)) >> BigInt(inputBits);
    if (upper !== (high ? (1n << BigInt(top - inputBits)) - 1n : 0n)) return end({ kind: "translation" });
    const pageShift = PAGE_SHIFT[tg]!;
    const bigEndian = flag(15);
    const tables = {
      base: (high ? field(cd, 183, 132) : field(cd, 119, 68)) << 4n,
      inputBits,
      pageShift,
      startLevel: 4 - Math.ceil((inputBits - pageShift) / (pageShift - 3)),
      outputBits: Math.min(SIZES[Number(field(cd, 34, 32))]!, this.#id.addressBits),
      bigEndian,
    };
    const fetch: Need = { read: true, notDevice: field(ste, 182, 182) === 1n };
    const tableFault = (fault: Fault, ipa: bigint, ttWrite: boolean): Ending => ({ ...fault, stage: 2, class: "TT", ipa, ttWrite });
    const leaf = this.#descend(tables, va, (slot) => {
      if (!nested) return slot;
      const through = this.#stage2(ste, slot, fetch);
      return isFault(through) ? tableFault(through, slot, false) : through.pa;
    });
    if (isFault(leaf)) return "stage" in leaf ? leaf : end(leaf);

    const bit = (n: number): boolean => ((leaf.descriptor >> BigInt(n)) & 1n) === 1n;
    const inherits = !flag(high ? 129 : 65);
    const above = (n: number): boolean => inherits && ((leaf.inherited >> BigInt(n)) & 1n) === 1n;
    const ha = flag(43);
    const hd = ha && flag(42);
    let updated = leaf.descriptor;
    if (!bit(10)) {
      if (ha) updated |= 1n << 10n;
      else if (!flag(35)) return end({ kind: "access" });
    }
    const promoted = hd && bit(51) && bit(7);
    const writable = (!bit(7) || promoted) && !above(62);
    const user = bit(6) && !above(61);
    const userWrites = user && writable;
    const wxn = flag(36);
    const fenced = flag(40) && user;
    const allowed = need.privileged === true
      ? {
          read: !fenced,
          write: writable && !fenced,
          execute: !bit(53) && !above(59) && !userWrites && !(wxn && writable),
        }
      : { read: user, write: userWrites, execute: !bit(54) && !above(60) && !(wxn && userWrites) };
    for (const right of ["read", "write", "execute"] as const) {
      if (need[right] === true && !allowed[right]) return end({ kind: "permission" });
    }
    if (need.write === true && promoted) updated &= ~(1n << 7n);
    if (!nested) {
      if (updated !== leaf.descriptor) this.#store(leaf.slotPa, updated, bigEndian);
      return { pa: leaf.output };
    }
    if (updated !== leaf.descriptor) {
      // The update writes the page of the table (3.13.5).
      const update: Need = { ...fetch, write: true };
      const refused = this.#stage2(ste, leaf.slot, update, true);
      if (isFault(refused)) return tableFault(refused, leaf.slot, true);
      if (!isFault(this.#stage2(ste, leaf.output, need, true))) {
        this.#stage2(ste, leaf.slot, update);
        this.#store(leaf.slotPa, updated, bigEndian);
      }
    }
    const out = this.#stage2(ste, leaf.output, need);
    return isFault(out) ? { ...out, stage: 2, class: "IN", ipa: leaf.output } : out;
  }

  /** Answers one access and makes its updates in memory. */
  translate(access: Access): Answer {
    const { sid, ssid } = access;
    const refuse = (type: number, shown = ssid, fetch = 0n): Answer => ({
      result: "abort",
      event: record(type, sid, shown, 0, 0n, fetch, type === TYPE.substreamId),
    });
    if (sid >= 2 ** this.#id.strtabLog2) return refuse(TYPE.streamId);
    const ste = this.#structure(this.#id.strtab + BigInt(sid) * 64n)!;
    const config = Number(field(ste, 3, 1));
    if (field(ste, 0, 0) === 0n) return refuse(TYPE.badSte);
    if (config < 4) return { result: "abort" };
    const nested = config === 7;
    const cdMax = Number(field(ste, 63, 59));
    const t0sz2 = Number(field(ste, 165, 160));
    if ((config & 1) === 1 && cdMax > this.#id.ssidSize) return refuse(TYPE.badSte);
    if ((config & 2) === 2 && (t0sz2 < 16 || t0sz2 > 39 || field(ste, 185, 185) === 1n)) return refuse(TYPE.badSte);

    let uses1 = (config & 1) === 1;
    const dss = Number(field(ste, 65, 64));
    let cdIndex = 0;
    if (ssid >= 0) {
      if (!uses1 || cdMax === 0 || ssid >= 2 ** cdMax) return refuse(TYPE.substreamId);
      if (ssid === 0 && dss === 2) return refuse(TYPE.disabled, -1);
      cdIndex = ssid;
    } else if (uses1 && cdMax > 0) {
      if (dss === 1) uses1 = false;
      else if (dss !== 2) return refuse(TYPE.disabled, -1);
    }
    const privcfg = Number(field(ste, 113, 112));
    const instcfg = Number(field(ste, 115, 114));
    const privileged = privcfg === 2 ? false : privcfg === 3 ? true : access.privileged;
    const instruction = !access.write && (instcfg === 2 ? false : instcfg === 3 ? true : access.instruction);
    const need: Need = {
      privileged,
      write: access.write,
      execute: instruction,
      read: !access.write && !instruction,
    };
    const attributes = (privileged ? 2 : 0) | (instruction ? 4 : 0) | (access.write ? 0 : 8);
    const fail = (ending: Ending, abort: boolean, recorded: boolean): Answer => {
      let bits = attributes | ({ CD: 0, TT: 1, IN: 2 }[ending.class] << 8) | (ending.stage === 2 ? 0x80 : 0);
      if (ending.class === "TT" && ending.kind === "permission" && ending.ttWrite !== true) bits |= 1 << 12;
      const extra = ending.kind === "abort" ? ending.fetch! & ~7n : (ending.ipa ?? 0n) & ~0xfffn;
      const event = record(KIND_TYPE[ending.kind], sid, ssid, bits, access.address, extra, false);
      const result = abort || ending.kind === "abort" ? "abort" : "raz";
      return recorded || ending.kind === "abort" ? { result, event } : { result };
    };
    const fail2 = (ending: Ending): Answer => fail(ending, true, field(ste, 186, 186) === 1n);

    if (!uses1) {
      const tooLarge = access.address >> BigInt(this.#id.addressBits) !== 0n;
      if (tooLarge) return fail({ kind: "size", stage: 1, class: "IN" }, true, true);
      if ((config & 2) === 0) return { result: "ok", pa: access.address };
      const out = this.#stage2(ste, access.address, need);
      if (isFault(out)) return fail2({ ...out, stage: 2, class: "IN", ipa: access.address });
      return { result: "ok", pa: out.pa };
    }

    const cdFetch: Need = { read: true, notDevice: field(ste, 182, 182) === 1n };
    const through = (ipa: bigint): bigint | Ending => {
      if (!nested) return ipa;
      const out = this.#stage2(ste, ipa, cdFetch);
      return isFault(out) ? { ...out, stage: 2, class: "CD", ipa } : out.pa;
    };
    const pointer = field(ste, 55, 6) << 6n;
    const format = cdMax === 0 ? 0 : Number(field(ste, 5, 4));
    const leafBits = [0, 6, 10, 0][format]!;
    let address = pointer - (pointer % (64n << BigInt(cdMax))) + BigInt(cdIndex) * 64n;
    if (leafBits > 0) {
      const entries = 1n << BigInt(Math.max(cdMax - leafBits, 3));
      const first = through(pointer - (pointer % (entries * 8n)) + BigInt(cdIndex >> leafBits) * 8n);
      if (typeof first === "object") return fail2(first);
      if (!this.#inRam(first)) return refuse(TYPE.cdFetch, ssid, first & ~7n);
      const l1cd = this.#load(first);
      const next = ((l1cd >> 12n) & ((1n << 44n) - 1n)) << 12n;
      if ((l1cd & 1n) === 0n || next >> BigInt(this.#id.addressBits) !== 0n) return refuse(TYPE.substreamId, cdIndex);
      address = (format === 2 ? next - (next % 0x1_0000n) : next) + BigInt(cdIndex % 2 ** leafBits) * 64n;
    }
    const cdPa = through(address);
    if (typeof cdPa === "object") return fail2(cdPa);
    const cd = this.#structure(cdPa);
    if (cd === undefined) return refuse(TYPE.cdFetch, ssid, cdPa & ~7n);
    const t0sz = Number(field(cd, 5, 0));
    const bad = field(cd, 31, 31) === 0n || field(cd, 44, 44) === 1n || (field(cd, 14, 14) === 0n && (t0sz < 16 || t0sz > 39));
    if (bad) return refuse(TYPE.badCd);
    const out = this.#stage1(ste, cd, nested, access, need);
    if (!isFault(out)) return { result: "ok", pa: out.pa };
    return out.stage === 2 ? fail2(out) : fail(out, field(cd, 46, 46) === 1n, field(cd, 45, 45) === 1n);
  }
}

function reverse(value: bigint): bigint {
  let out = 0n;
  for (let byte = 0n; byte < 8n; byte++) out |= ((value >> (byte * 8n)) & 0xffn) << ((7n - byte) * 8n);
  return out;
}

function record(type: number, sid: number, ssid: number, bits: number, input: bigint, extra: bigint, noSsv: boolean): number[] {
  const word = (value: bigint): number => Number(value & 0xffff_ffffn);
  const substream = ssid < 0 ? 0 : ((noSsv ? 0 : 0x800) | (ssid << 12)) >>> 0;
  return [(type | substream) >>> 0, sid, 0, bits, word(input), word(input >> 32n), word(extra), word(extra >> 32n)];
}
