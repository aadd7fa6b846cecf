import { ADDRESS_SIZES } from "@smmuv3/smmu-v3-defs";
import { pair } from "./bus.ts";
import type { Bus } from "./bus.ts";
import type { Quirks } from "./quirks.ts";

/** Rights of a leaf, and the one that an access needs. */
export const RIGHT = { read: 1, write: 2, execute: 4, privRead: 8, privWrite: 16, privExecute: 32, all: 63 } as const;
const WRITES = RIGHT.write | RIGHT.privWrite;

/** Granule encodings of S2TG and TG0: log2 of the page size. */
export const PAGE_SHIFT: readonly number[] = [12, 16, 14];
/** TG1 has an encoding of its own: index into {@link PAGE_SHIFT}. */
export const TG1_GRANULE: readonly number[] = [-1, 2, 0, 1];

/** Encoding of 52-bit addresses. */
const SIZE_52 = 6;
/** A block of 1 TiB or so: what the level above the last one that has blocks would map. */
const BLOCK_LEVELS: Readonly<Record<number, number>> = { 12: 1, 14: 2, 16: 2 };

export type FaultStatus = "translation" | "addrSize" | "access" | "permission" | "eabt";

/** A descriptor that a walk read. `ipa` where stage 2 gave its address. */
export interface DescriptorRead {
  readonly stage: 1 | 2;
  readonly level: number;
  readonly pa: bigint;
  readonly ipa: bigint | undefined;
  readonly desc: bigint;
  readonly kind: DescriptorKind;
  /** Table or output address. */
  readonly address: bigint;
}

export type DescriptorKind = "invalid" | "reserved" | "table" | "block" | "page";

/** What all walks of one access share. */
export interface Context {
  readonly bus: Bus;
  readonly quirks: Quirks;
  readonly onRead: (read: DescriptorRead) => void;
}

/** The shape of one set of tables. */
export interface Shape {
  readonly pageShift: number;
  readonly inputBits: number;
  readonly startLevel: number;
  readonly outputBits: number;
  /** 64K granule with 52-bit output addresses. */
  readonly wide: boolean;
}

/** Bits of an IPS or S2PS in effect. */
export function outputBits(encoded: number, oas: number): number {
  return Math.min(ADDRESS_SIZES[Math.min(encoded, oas)]!, 52);
}

export function isWide(pageShift: number, encoded: number, oas: number): boolean {
  return pageShift === 16 && Math.min(encoded, oas) >= SIZE_52;
}

export function levelShift(pageShift: number, level: number): number {
  return pageShift + (3 - level) * (pageShift - 3);
}

/** Start level of stage 1: as many levels as the input range needs. */
export function startLevelOf(pageShift: number, inputBits: number): number {
  return 4 - Math.ceil((inputBits - pageShift) / (pageShift - 3));
}

/** `value` without its bits below `bit`. */
export function alignDown(value: bigint, bit: number): bigint {
  return bit <= 0 ? value : (value >> BigInt(bit)) << BigInt(bit);
}

/** Bits [bits-1:0]. */
export function mask(bits: number): bigint {
  return bits <= 0 ? 0n : (1n << BigInt(bits)) - 1n;
}

/** Tells what a descriptor is. `anyBlock`: a block is one at every level. */
export function classify(desc: bigint, level: number, shape: Shape, anyBlock: boolean): DescriptorKind {
  if ((desc & 1n) === 0n) return "invalid";
  const table = (desc & 2n) !== 0n;
  if (level === 3) return table ? "page" : "reserved";
  if (table) return "table";
  const first = shape.wide ? 1 : BLOCK_LEVELS[shape.pageShift]!;
  return anyBlock || level >= first ? "block" : "reserved";
}

/** Address in a descriptor, aligned to 2^shift. */
export function addressOf(desc: bigint, shift: number, wide: boolean): bigint {
  const top = wide ? ((desc >> 12n) & 0xfn) << 48n : 0n;
  return alignDown(desc & 0x0000_ffff_ffff_f000n, shift) | top;
}

/** Index of `input` at a level; the first level may have fewer entries, or more where tables are concatenated. */
function indexAt(input: bigint, shape: Shape, level: number, firstBits: number): bigint {
  const bits = level === shape.startLevel ? firstBits : shape.pageShift - 3;
  return ((input & mask(shape.inputBits)) >> BigInt(levelShift(shape.pageShift, level))) & mask(bits);
}

/** log2 of the entries of the first table. */
export function firstBitsOf(shape: Shape): number {
  return shape.inputBits - levelShift(shape.pageShift, shape.startLevel);
}

export interface Stage2 extends Shape {
  readonly ttb: bigint;
  readonly affd: boolean;
  /** Access flag and dirty state are updated by hardware. */
  readonly ha: boolean;
  readonly hd: boolean;
  /** S2PTW: tables of stage 1, and CDs, in Device memory fault. */
  readonly ptw: boolean;
  /** XN[0] counts. */
  readonly xnx: boolean;
}

/** Where a walk ended. */
export interface Leaf {
  readonly fault: undefined;
  readonly pa: bigint;
  readonly shift: number;
  readonly rights: number;
  readonly desc: bigint;
}

export interface Fault {
  readonly fault: FaultStatus;
  readonly stage: 1 | 2;
  readonly level: number;
  /** What the faulting stage was translating: the access itself, or a table of stage 1. */
  readonly on: "input" | "table";
  /** Input of stage 2 where that faulted. */
  readonly ipa: bigint | undefined;
  /** Descriptor whose fetch was aborted. */
  readonly fetch: bigint | undefined;
  /** A fault of stage 2 that QEMU reports as one of stage 1 (row nested-tt-s2bit). */
  readonly disguised?: boolean;
}

/** DBM: a leaf that is writable, but clean. */
const DBM = 1n << 51n;

/** The access flag is 0, and that faults. */
export function noAccess(desc: bigint, { affd, ha }: { readonly affd: boolean; readonly ha: boolean }): boolean {
  return (desc & 0x400n) === 0n && !affd && !ha;
}

/** Rights of a stage-2 leaf. */
export function stage2Rights(desc: bigint, s2: Pick<Stage2, "xnx" | "hd">): number {
  const s2ap = Number((desc >> 6n) & 3n) | (s2.hd && (desc & DBM) !== 0n ? 2 : 0);
  const xn = Number((desc >> 53n) & 3n) & (s2.xnx ? 3 : 2);
  return (
    ((s2ap & 1) !== 0 ? RIGHT.read | RIGHT.privRead : 0) |
    ((s2ap & 2) !== 0 ? RIGHT.write | RIGHT.privWrite : 0) |
    (xn === 0 || xn === 1 ? RIGHT.execute : 0) |
    (xn === 0 || xn === 3 ? RIGHT.privExecute : 0)
  );
}

/** Walks stage 2 for `ipa`; `need` is one of {@link RIGHT}. */
export function walkStage2(context: Context, s2: Stage2, ipa: bigint, need: number): Leaf | Fault {
  const { bus, quirks, onRead } = context;
  const fault = (status: FaultStatus, level: number, fetch?: bigint): Fault => ({
    fault: status, stage: 2, level, on: "input", ipa, fetch,
  });
  if (ipa > mask(s2.inputBits)) return fault("translation", 0);
  const firstBits = firstBitsOf(s2);
  // A concatenated table is selected by the bits above those of a plain one.
  const indexBits = quirks.has("s2-concat") ? Math.min(firstBits, s2.pageShift - 3) : firstBits;
  let table = alignDown(s2.ttb, Math.max(firstBits, 0) + 3);
  for (let level = s2.startLevel; ; level++) {
    const pa = table + indexAt(ipa, s2, level, indexBits) * 8n;
    const words = bus.read(pa, 2);
    if (words === undefined) return fault("eabt", level, pa);
    const desc = pair(words);
    const kind = classify(desc, level, s2, quirks.has("s1-16k-l1-block"));
    const shift = kind === "table" ? s2.pageShift : levelShift(s2.pageShift, level);
    const address = addressOf(desc, shift, s2.wide);
    onRead({ stage: 2, level, pa, ipa: undefined, desc, kind, address });
    if (kind === "invalid" || kind === "reserved") return fault("translation", level);
    const beyond = address > mask(s2.outputBits);
    if (kind === "table") {
      if (beyond && !quirks.has("table-addrsize")) return fault("addrSize", level);
      table = address;
      continue;
    }
    const rights = stage2Rights(desc, s2);
    const refused = (need & ~rights) !== 0;
    const late = quirks.has("priority-addrsize");
    const status = leafFault(beyond, late, noAccess(desc, s2), refused, refused);
    if (status !== undefined) return fault(status, level);
    return { fault: undefined, pa: address | (ipa & mask(shift)), shift, rights, desc };
  }
}

/**
 * The first thing that is wrong with a leaf. `late`: the address size is looked at after access flag and permission. `own`: the
 * leaf itself refuses; `refused`: it does, or a table above it.
 */
function leafFault(beyond: boolean, late: boolean, noAf: boolean, own: boolean, refused: boolean): FaultStatus | undefined {
  if (beyond && !late) return "addrSize";
  if (noAf) return "access";
  if (own) return "permission";
  if (beyond) return "addrSize";
  return refused ? "permission" : undefined;
}

/** One half of the input range of stage 1. */
export interface Half extends Shape {
  readonly enabled: boolean;
  readonly ttb: bigint;
  readonly tbi: boolean;
  /** HADn: table descriptors do not restrict. */
  readonly flat: boolean;
}

export interface Stage1 {
  readonly halves: readonly [Half, Half];
  readonly affd: boolean;
  /** Access flag and dirty state are updated by hardware. */
  readonly ha: boolean;
  readonly hd: boolean;
  readonly wxn: boolean;
  readonly pan: boolean;
  /** One privilege level: EL2 without E2H. */
  readonly single: boolean;
}

/** Rights of a stage-1 leaf under the table descriptors above it (Arm ARM D8.4). */
export function stage1Rights(desc: bigint, inherited: bigint, s1: Stage1, flat: boolean): number {
  const tables = flat ? 0n : inherited;
  const bit = (value: bigint, at: number): boolean => ((value >> BigInt(at)) & 1n) !== 0n;
  const readOnly = (bit(desc, 7) && !(s1.hd && (desc & DBM) !== 0n)) || bit(tables, 62);
  const unprivileged = s1.single || (bit(desc, 6) && !bit(tables, 61));
  const uxn = bit(desc, 54) || bit(tables, 60);
  const pxn = s1.single ? uxn : bit(desc, 53) || bit(tables, 59);
  let rights = RIGHT.privRead | (readOnly ? 0 : RIGHT.privWrite);
  if (unprivileged) rights |= RIGHT.read | (readOnly ? 0 : RIGHT.write);
  if (!uxn) rights |= RIGHT.execute;
  // What is writable unprivileged is never executable privileged.
  if (!pxn && (s1.single || (rights & RIGHT.write) === 0)) rights |= RIGHT.privExecute;
  if (s1.wxn && (rights & RIGHT.write) !== 0) rights &= ~RIGHT.execute;
  if (s1.wxn && (rights & RIGHT.privWrite) !== 0) rights &= ~RIGHT.privExecute;
  if (s1.pan && !s1.single && (rights & RIGHT.read) !== 0) rights &= ~(RIGHT.privRead | RIGHT.privWrite);
  return rights;
}

/** Walks stage 1, nested on `s2` where that is given. The output is that of stage 1: its last translation is the caller's. */
export function walkStage1(context: Context, s1: Stage1, s2: Stage2 | undefined, va: bigint, need: number): Leaf | Fault {
  const { bus, quirks, onRead } = context;
  const upper = ((va >> 55n) & 1n) !== 0n;
  const half = s1.halves[upper ? 1 : 0];
  const fault = (status: FaultStatus, level: number, more: Partial<Fault> = {}): Fault => ({
    fault: status, stage: 1, level, on: "input", ipa: undefined, fetch: undefined, ...more,
  });
  const tbi = quirks.has("tbi1-macro") ? s1.halves[0].tbi : half.tbi;
  const topBits = mask(tbi ? 56 : 64) & ~mask(half.inputBits);
  if (!half.enabled || (va & topBits) !== (upper ? topBits : 0n)) return fault("translation", 0);
  const firstBits = firstBitsOf(half);
  let table = alignDown(half.ttb, firstBits + 3);
  let inherited = 0n;
  let tableRefuses = false;
  for (let level = half.startLevel; ; level++) {
    const offset = indexAt(va, half, level, firstBits) * 8n;
    const located = locate(context, s2, table, offset, level === half.startLevel, half.outputBits);
    if (typeof located !== "bigint") return { ...located, level };
    const words = bus.read(located, 2);
    if (words === undefined) return fault("eabt", level, { fetch: located });
    const desc = pair(words);
    const kind = classify(desc, level, half, quirks.has("s1-16k-l1-block"));
    const shift = kind === "table" ? half.pageShift : levelShift(half.pageShift, level);
    const address = addressOf(desc, shift, half.wide);
    onRead({ stage: 1, level, pa: located, ipa: s2 === undefined ? undefined : table + offset, desc, kind, address });
    if (kind === "invalid" || kind === "reserved") return fault("translation", level);
    const beyond = address > mask(half.outputBits);
    if (kind === "table") {
      if (beyond && !quirks.has("table-addrsize")) return fault("addrSize", level);
      if (!half.flat && ((desc >> 62n) & 1n) !== 0n && (need & WRITES) !== 0) {
        if (quirks.has("priority-aptable")) return fault("permission", level);
        tableRefuses = true;
      }
      inherited |= desc;
      table = address;
      continue;
    }
    const granted = (tables: bigint): number => {
      const rights = stage1Rights(desc, tables, s1, half.flat);
      return quirks.has("ap-unpriv") ? rights | RIGHT.read | ((rights & RIGHT.privWrite) !== 0 ? RIGHT.write : 0) : rights;
    };
    const rights = granted(inherited);
    const own = granted(0n);
    // Where a table refuses, QEMU does not get to the leaf: the order there is not what makes the difference.
    const late = !tableRefuses && quirks.has("priority-addrsize");
    const status = leafFault(beyond, late, noAccess(desc, s1), (need & ~own) !== 0, (need & ~rights) !== 0);
    if (status !== undefined) return fault(status, level);
    return { fault: undefined, pa: address | (va & mask(shift)), shift, rights, desc };
  }
}

/** Physical address of a descriptor of stage 1, through stage 2 where nested. */
function locate(context: Context, s2: Stage2 | undefined, table: bigint, offset: bigint, first: boolean, ipsBits: number): bigint | Fault {
  if (s2 === undefined) return table + offset;
  const { quirks } = context;
  const baseOnly = quirks.has("nested-table-base");
  const ipa = baseOnly ? table : table + offset;
  // Row nested-tt-s2bit: below the first table, what stage 2 refuses is reported as a fault of stage 1.
  const disguised = !first && quirks.has("nested-tt-s2bit");
  if (!first && quirks.has("table-addrsize") && ipa > mask(ipsBits)) {
    return { fault: "addrSize", stage: 2, level: 0, on: "table", ipa, fetch: undefined, disguised };
  }
  const result = walkTable(context, s2, ipa);
  if (result.fault !== undefined) return { ...result, disguised };
  return baseOnly ? result.pa + offset : result.pa;
}

/** Walks stage 2 for something that the SMMU itself reads: a table of stage 1, or a CD. */
export function walkTable(context: Context, s2: Stage2, ipa: bigint): Leaf | Fault {
  const result = walkStage2(context, s2, ipa, RIGHT.read);
  if (result.fault !== undefined) return { ...result, on: "table" };
  // MemAttr[3:2] = 0 is Device memory.
  const device = s2.ptw && (result.desc & 0x30n) === 0n;
  return device ? { fault: "permission", stage: 2, level: 3, on: "table", ipa, fetch: undefined } : result;
}
