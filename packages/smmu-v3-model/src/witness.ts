import { LEVEL } from "@smmuv3/platform";
import type { Counters, Memory } from "@smmuv3/platform";
import { CD, CD_WORDS, CMD, CMD_WORDS, COMMAND_NAMES, definedBits, extract, getField, L1CD, L1STD, maskOf, OFFSET, REG, STE, STE_CONFIG, STE_WORDS } from "@smmuv3/smmu-v3-defs";
import type { AnyField } from "@smmuv3/smmu-v3-defs";
import { selectSubstream } from "./config.ts";
import { descriptorKind } from "./descriptor-text.ts";
import type { Features } from "./presets.ts";
import type { RegisterFile } from "./registers.ts";
import { GLOBAL, KIND, KIND_SHIFT, Tlb } from "./tlb.ts";
import type { TlbFill } from "./tlb.ts";
import { PolicyTlb } from "./tlb-policies.ts";
import { ReadRecorder } from "./trace.ts";
import type { TracedRead } from "./trace.ts";

/** A translation that was made from something that memory no longer says. */
export interface StaleReport {
  /** What was stale: configuration, a leaf descriptor, or a table descriptor above it. */
  readonly kind: "ste" | "cd" | "tlb" | "walk";
  readonly sid: number;
  /** SubstreamID, -1 without one. */
  readonly ssid: number;
  /** 64-bit input address of the access, in hex. */
  readonly address: string;
  /** The entry that was hit, e.g. `TLB VMID=1 ASID=5 VA=0x40001000`. */
  readonly entry: string;
  /** Physical address of the structure that has changed. */
  readonly source: number;
  /** Its words as the entry was made from them, and as they are now. */
  readonly cached: readonly number[];
  readonly memory: readonly number[];
  /** The commands that should have come between. `CMD_SYNC` where they wait in the queue and nobody waited for them. */
  readonly missing: string;
  /** Section of the manual that requires them. */
  readonly section: string;
}

export type WitnessSink = (report: StaleReport) => void;

function masksOf(fields: Readonly<Record<string, AnyField>>, words: number): Int32Array {
  return definedBits(fields, words);
}

const STE_MASK = masksOf(STE, STE_WORDS);
const CD_MASK = masksOf(CD, CD_WORDS);
const L1STD_MASK = masksOf(L1STD, 2);
const L1CD_MASK = masksOf(L1CD, 2);
/** Valid bit of a structure: where it is and stays 0, the rest says nothing. */
const VALID = { STE: maskOf(STE.V), CD: maskOf(CD.V), L1CD: 1, L1STD: 31 } as const;

/** Stage 2 lives in words 4 to 7 of an STE, stage 1 in the other half of words 0 and 1 and in word 2. */
const STE_STAGE2_WORDS: readonly number[] = [4, 5, 6, 7];

/** Bits of CD words that a TLB may hold for each half (16.2): TxSZ to ENDI, then what both halves share. */
const CD_TLB = {
  common: maskOf(CD.IPS) | maskOf(CD.WXN) | maskOf(CD.UWXN) | maskOf(CD.PAN) | maskOf(CD.AA64),
  low: maskOf(CD.T0SZ) | maskOf(CD.TG0),
  high: maskOf(CD.T1SZ) | maskOf(CD.TG1),
} as const;
/** The same of STE word 5. */
const STE_TLB: number = maskOf(STE.S2T0SZ) | maskOf(STE.S2SL0) | maskOf(STE.S2TG) | maskOf(STE.S2PS) | maskOf(STE.S2AA64);

/** Bits of a descriptor that only its owner changes and that a TLB depends on: [lo, hi]. */
function descriptorMask({ what, level, words }: TracedRead): readonly [lo: number, hi: number] {
  const lo = words[0]!;
  const hi = words[1]!;
  // Table: NSTable to PXNTable, the pointer, the type. Bits [58:51] and [11:2] are ignored by hardware.
  if (descriptorKind(lo, level) === "table") return [~0xffc, (what === "S1" ? 0xf800_0000 : 0) | 0x7_ffff];
  // The access flag, and where hardware manages dirty state (DBM) the write permission, are set by hardware; [58:55] are software's.
  const dirty = (hi & 0x8_0000) !== 0 ? 0x80 : 0;
  return [~(0x400 | dirty), ~0x0780_0000];
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

function hex64(lo: number, hi: number): string {
  const text = (hi >>> 0).toString(16) + (lo >>> 0).toString(16).padStart(8, "0");
  return `0x${text.replace(/^0+(?=.)/u, "")}`;
}

/** What a TLB entry was made from. */
interface TlbRecord {
  readonly kind: number;
  readonly vmid: number;
  /** -1 for a global entry. */
  readonly asid: number;
  readonly ipaLo: number;
  readonly ipaHi: number;
  readonly high: boolean;
  readonly reads: readonly TracedRead[];
  readonly ste: Int32Array | undefined;
  readonly cd: Int32Array | undefined;
}

interface Command {
  readonly text: string;
  readonly section: string;
}

/** A Tlb that tells which entry was hit, and that a new one was made. */
export class WitnessedTlb extends PolicyTlb {
  /** Result of the last {@link find}. */
  found = -1;
  /** Context of the last look-up of an entry that is not global. */
  tag = 0;
  key = 0;
  onInsert: ((key: string, kind: number, tag: number, vpnHi: number, fill: TlbFill) => void) | undefined = undefined;

  override find(vpnLo: number, vpnHi: number, tag: number, key: number, hash: number, floor: number): number {
    if ((key & GLOBAL) === 0) {
      this.tag = tag;
      this.key = key;
    }
    this.found = super.find(vpnLo, vpnHi, tag, key, hash, floor);
    return this.found;
  }

  override insert(vpnLo: number, vpnHi: number, kind: number, tag: number, fill: TlbFill): void {
    super.insert(vpnLo, vpnHi, kind, tag, fill);
    const at = this.find(vpnLo, vpnHi, fill.global ? tag & ~0xffff : tag, Tlb.key(kind, fill.global), Tlb.hash(fill.global ? tag & ~0xffff : tag, kind), 1);
    if (at >= 0) this.onInsert?.(this.keyAt(at), kind, tag, vpnHi, fill);
  }

  /** Identifies the entry at `at` however it moves. */
  keyAt(at: number): string {
    const { data } = this;
    return `${data[at]!}:${data[at + 1]!}:${data[at + 2]!}`;
  }
}

/**
 * Compares what caches serve with what memory says. It keeps, for every entry, the structures that the entry was made from, and
 * reads them again at each hit: a difference means that software has changed them without the invalidation that IHI 0070 3.21
 * and chapter 4 require. An access between the change and its CMD_SYNC is reported too; on hardware it may see either.
 */
export class Witness {
  readonly tlb: WitnessedTlb;
  /** Connect it to the translation unit. */
  readonly recorder: ReadRecorder;

  readonly #file: RegisterFile;
  readonly #features: Features;
  readonly #memory: Memory;
  readonly #sink: WitnessSink;
  readonly #counts: Float64Array;
  readonly #ids: Readonly<Record<"steHits" | "cdHits" | "cdMisses" | "tlbHits", number>>;
  readonly #stes = new Map<number, readonly TracedRead[]>();
  readonly #cds = new Map<string, readonly TracedRead[]>();
  readonly #entries = new Map<string, TlbRecord>();
  /** Reports that have been made, for the words that memory had then. */
  readonly #reported = new Set<string>();
  #sid = 0;
  #ssid = -1;
  #lo = 0;
  #hi = 0;

  constructor(file: RegisterFile, features: Features, memory: Memory, tlb: WitnessedTlb, counters: Counters, sink: WitnessSink) {
    this.#file = file;
    this.#features = features;
    this.#memory = memory;
    this.tlb = tlb;
    this.#sink = sink;
    this.#counts = counters.values;
    const id = (name: string): number => counters.id(name) + LEVEL.device;
    this.#ids = { steHits: id("ste.hits"), cdHits: id("cd.hits"), cdMisses: id("cd.misses"), tlbHits: id("tlb.hits") };
    this.recorder = new ReadRecorder(memory);
    tlb.onInsert = (key, kind, tag, vpnHi, fill): void => {
      this.#insert(key, kind, tag, vpnHi, fill);
    };
  }

  /** Runs one translation under observation and returns its result. */
  observe(sid: number, ssid: number, lo: number, hi: number, translate: () => number): number {
    const counts = this.#counts;
    const { steHits, cdHits, cdMisses, tlbHits } = this.#ids;
    const before = [counts[steHits]!, counts[cdHits]!, counts[cdMisses]!, counts[tlbHits]!] as const;
    this.#sid = sid;
    this.#ssid = ssid;
    this.#lo = lo;
    this.#hi = hi;
    this.recorder.reads = [];
    const result = translate();
    this.#learn();
    const steHit = counts[steHits]! > before[0];
    if (steHit) this.#checkSte();
    // A stream that is resolved already has its CD with it; then nobody looks one up.
    const cdHit = counts[cdHits]! > before[1] || (steHit && !(counts[cdMisses]! > before[2]));
    if (cdHit) this.#checkCd();
    if (counts[tlbHits]! > before[3]) this.#checkTlb();
    else this.#checkWalk();
    return result;
  }

  /** Takes the configuration that was just read into the books. */
  #learn(): void {
    const { reads } = this.recorder;
    const ste = reads.findIndex(({ what }) => what === "STE");
    if (ste >= 0) this.#stes.set(this.#sid, reads.slice(0, ste + 1));
    const cd = reads.findLastIndex(({ what }) => what === "CD");
    if (cd >= 0) this.#cds.set(this.#cdKey(), reads.slice(ste + 1, cd + 1).filter(({ what }) => what === "CD" || what === "L1CD"));
  }

  #cdKey(): string {
    return `${this.#sid}.${Math.max(this.#ssid, 0)}`;
  }

  #insert(key: string, kind: number, tag: number, vpnHi: number, fill: TlbFill): void {
    this.#learn();
    const { reads } = this.recorder;
    const last = reads.findLastIndex(({ what }) => what === "CD" || what === "STE");
    this.#entries.set(key, {
      kind,
      vmid: tag >>> 16,
      asid: fill.global ? -1 : tag & 0xffff,
      ipaLo: fill.ipaLo,
      ipaHi: fill.ipaHi,
      high: (vpnHi & 0x800) !== 0,
      reads: reads.slice(last + 1),
      ste: this.#stes.get(this.#sid)?.at(-1)?.words,
      cd: kind === KIND.IPA ? undefined : this.#cds.get(this.#cdKey())?.at(-1)?.words,
    });
  }

  #checkSte(): void {
    for (const read of this.#stes.get(this.#sid) ?? []) {
      const now = this.#changed(read, read.what === "STE" ? STE_MASK : L1STD_MASK);
      if (now === undefined) continue;
      const text = `CMD_CFGI_STE SID=${hex(this.#sid)}${read.what === "STE" ? " Leaf=1" : ""}`;
      this.#report("ste", `STE of SID ${this.#sid}`, read, now, { text, section: "4.3.1" });
    }
  }

  #checkCd(): void {
    const ste = this.#stes.get(this.#sid)?.at(-1)?.words;
    if (ste === undefined) return;
    const stage1 = (getField(ste, 0, STE.Config) & STE_CONFIG.s1) === STE_CONFIG.s1;
    if (selectSubstream(ste, 0, this.#ssid, stage1, this.#features) < 0) return;
    for (const read of this.#cds.get(this.#cdKey()) ?? []) {
      const now = this.#changed(read, read.what === "CD" ? CD_MASK : L1CD_MASK);
      if (now === undefined) continue;
      const ssid = Math.max(this.#ssid, 0);
      const text = `CMD_CFGI_CD SID=${hex(this.#sid)} SSID=${hex(ssid)}${read.what === "CD" ? " Leaf=1" : ""}`;
      this.#report("cd", `CD of SID ${this.#sid} SSID ${ssid}`, read, now, { text, section: "4.3.3" });
    }
  }

  #checkTlb(): void {
    const { tlb } = this;
    if (tlb.found < 0) return;
    const record = this.#entries.get(tlb.keyAt(tlb.found));
    if (record === undefined) return;
    for (const [i, read] of record.reads.entries()) {
      const mask = descriptorMask(read);
      const now = this.#changed(read, mask);
      if (now === undefined) continue;
      const table = descriptorKind(read.words[0]!, read.level) === "table";
      this.#report(table ? "walk" : "tlb", this.#nameOf(record), read, now, this.#tlbi(record, i, table));
    }
    this.#checkRoots(record);
  }

  /** Descriptors of the walk that did not come from memory: those of the walk cache. */
  #checkWalk(): void {
    const { reads } = this.recorder;
    const last = reads.findLastIndex(({ what }) => what === "CD" || what === "STE");
    const walked = reads.slice(last + 1);
    if (walked.length === 0) return;
    const { tag, key } = this.tlb;
    const record: TlbRecord = {
      kind: (key >>> KIND_SHIFT) & 3, vmid: tag >>> 16, asid: tag & 0xffff, ipaLo: 0, ipaHi: 0, high: (this.#hi & 0x0080_0000) !== 0,
      reads: walked, ste: undefined, cd: undefined,
    };
    for (const [i, read] of walked.entries()) {
      const now = this.#changed(read, descriptorMask(read));
      if (now !== undefined) this.#report("walk", this.#nameOf(record).replace("TLB", "walk cache"), read, now, this.#tlbi(record, i, true));
    }
  }

  /** The tables themselves: another TTB under an ASID or VMID that still has entries of the old one. */
  #checkRoots(record: TlbRecord): void {
    const ste = this.#stes.get(this.#sid)?.at(-1);
    if (record.ste !== undefined && ste !== undefined && this.#usesStage2(record) && differs(record.ste, ste.words, steRoots)) {
      const command = { text: `CMD_TLBI_S12_VMALL VMID=${hex(record.vmid)}`, section: "4.4.3" };
      this.#report("tlb", this.#nameOf(record), { ...ste, words: record.ste }, ste.words, command);
    }
    const cd = record.kind === KIND.IPA ? undefined : this.#cds.get(this.#cdKey())?.at(-1);
    if (record.cd === undefined || cd === undefined || record.asid < 0) return;
    if (!differs(record.cd, cd.words, record.high ? cdRootsHigh : cdRootsLow)) return;
    const text =
      record.kind === KIND.EL2
        ? `CMD_TLBI_EL2_ASID ASID=${hex(record.asid)}`
        : `CMD_TLBI_NH_ASID VMID=${hex(record.vmid)} ASID=${hex(record.asid)}`;
    this.#report("tlb", this.#nameOf(record), { ...cd, words: record.cd }, cd.words, { text, section: "4.4.2" });
  }

  #usesStage2({ reads }: TlbRecord): boolean {
    return reads.some(({ what }) => what === "S2");
  }

  #nameOf({ kind, vmid, asid }: TlbRecord): string {
    const address = hex64(this.#lo & ~0xfff, this.#hi);
    if (kind === KIND.IPA) return `TLB VMID=${hex(vmid)} IPA=${address}`;
    const tag = asid < 0 ? "global" : `ASID=${hex(asid)}`;
    return kind === KIND.EL2 ? `TLB EL2 ${tag} VA=${address}` : `TLB VMID=${hex(vmid)} ${tag} VA=${address}`;
  }

  /** The invalidation that a change of one descriptor requires. */
  #tlbi(record: TlbRecord, index: number, table: boolean): Command {
    const { kind, vmid, reads } = record;
    const asid = Math.max(record.asid, 0);
    const leaf = table ? "" : " Leaf=1";
    const address = hex64(this.#lo & ~0xfff, this.#hi);
    const read = reads[index]!;
    if (read.what === "S1") {
      const text =
        kind === KIND.EL2
          ? `CMD_TLBI_EL2_VA ASID=${hex(asid)} Address=${address}${leaf}`
          : `CMD_TLBI_NH_VA VMID=${hex(vmid)} ASID=${hex(asid)} Address=${address}${leaf}`;
      return { text, section: "4.4.2" };
    }
    if (kind === KIND.IPA) return { text: `CMD_TLBI_S2_IPA VMID=${hex(vmid)} Address=${address}${leaf}`, section: "4.4.3" };
    // Stage 2 of a stage-1 table, whose IPA is in the descriptor above it, or of the output.
    const above = reads.slice(0, index).findLast(({ what }) => what === "S1");
    const ofOutput = !reads.slice(index).some(({ what }) => what === "S1");
    const pointer = above?.words ?? record.cd?.subarray(CD.TTB0.word, CD.TTB0.word + 2);
    const ipa = ofOutput || pointer === undefined ? hex64(record.ipaLo & ~0xfff, record.ipaHi) : hex64(pointer[0]! & ~0xfff, pointer[1]! & 0xf_ffff);
    // A combined entry need not die by IPA (16.2).
    return { text: `CMD_TLBI_S2_IPA VMID=${hex(vmid)} Address=${ipa}${leaf}, CMD_TLBI_NH_ALL VMID=${hex(vmid)}`, section: "4.4.3" };
  }

  /** The words of a structure now, where those under `mask` are no longer as they were. */
  #changed({ what, pa, words }: TracedRead, mask: ArrayLike<number>): Int32Array | undefined {
    const memory = this.#memory;
    const at = (pa - memory.base) / 4;
    const now = memory.words.slice(at, at + words.length);
    if (what !== "S1" && what !== "S2") {
      const valid = VALID[what];
      const word = what === "CD" ? CD.V.word : 0;
      if (((words[word]! | now[word]!) & valid) === 0) return undefined;
    }
    const unused = what === "STE" ? unusedSteWords(words, now) : [];
    for (let i = 0; i < words.length; i++) {
      if (!unused.includes(i) && ((words[i]! ^ now[i]!) & mask[i]!) !== 0) return now;
    }
    return undefined;
  }

  #report(kind: StaleReport["kind"], entry: string, read: TracedRead, now: Int32Array, command: Command): void {
    const cached = Array.from(read.words, (word) => word >>> 0);
    const memory = Array.from(now, (word) => word >>> 0);
    const key = `${kind} ${entry} ${read.pa} ${cached.join()} ${memory.join()}`;
    if (this.#reported.has(key)) return;
    this.#reported.add(key);
    const waiting = this.#isQueued(command.text);
    this.#sink({
      kind,
      sid: this.#sid,
      ssid: this.#ssid,
      address: hex64(this.#lo, this.#hi),
      entry,
      source: read.pa,
      cached,
      memory,
      missing: waiting ? "CMD_SYNC" : command.text,
      section: waiting ? "4.7.3" : command.section,
    });
  }

  /** A command of the same name waits in the Command queue. */
  #isQueued(text: string): boolean {
    const file = this.#file;
    const log2 = extract(file.get(OFFSET.CMDQ_BASE), REG.CMDQ_BASE.LOG2SIZE);
    const mask = 2 ** (log2 + 1) - 1;
    const base = file.high(OFFSET.CMDQ_BASE) * 0x1_0000_0000 + ((file.get(OFFSET.CMDQ_BASE) & REG.CMDQ_BASE.ADDR.loMask) >>> 0);
    const physical = base % 0x10_0000_0000_0000;
    const prod = file.get(OFFSET.CMDQ_PROD) & mask;
    for (let cons = file.get(OFFSET.CMDQ_CONS) & mask; cons !== prod; cons = (cons + 1) & mask) {
      const pa = physical + (cons & (mask >>> 1)) * CMD_WORDS * 4;
      if (this.#memory.pageIndex(pa) < 0) return false;
      const word = this.#memory.words[(pa - this.#memory.base) / 4]!;
      const name = COMMAND_NAMES.get(extract(word, CMD.Opcode));
      if (name !== undefined && text.startsWith(`CMD_${name} `)) return true;
    }
    return false;
  }
}

/** Words of an STE that neither the old nor the new one uses. */
function unusedSteWords(old: Int32Array, now: Int32Array): readonly number[] {
  const config = getField(old, 0, STE.Config) | getField(now, 0, STE.Config);
  return (config & 2) === 0 ? STE_STAGE2_WORDS.slice(1) : [];
}

type Root = readonly [word: number, mask: number];

const cdRootsLow: readonly Root[] = [[0, CD_TLB.low], [1, CD_TLB.common], [CD.TTB0.word, CD.TTB0.loMask], [CD.TTB0.word + 1, CD.TTB0.hiMask]];
const cdRootsHigh: readonly Root[] = [[0, CD_TLB.high], [1, CD_TLB.common], [CD.TTB1.word, CD.TTB1.loMask], [CD.TTB1.word + 1, CD.TTB1.hiMask]];
const steRoots: readonly Root[] = [[5, STE_TLB], [STE.S2TTB.word, STE.S2TTB.loMask], [STE.S2TTB.word + 1, STE.S2TTB.hiMask]];

function differs(one: Int32Array, other: Int32Array, roots: readonly Root[]): boolean {
  return roots.some(([word, mask]) => ((one[word]! ^ other[word]!) & mask) !== 0);
}
