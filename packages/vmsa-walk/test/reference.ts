/**
 * A second walker, slow and written for reading: addresses and descriptors are BigInt, memory is a transaction, and every rule is
 * a sentence of the architecture. It shares nothing with src but the numbers of its public constants.
 */
import { FAULT_CLASS, GRANULE, PERM, WALK } from "../src/index.ts";

/** Bits [high:low] of a value. */
export function bits(value: bigint, high: number, low: number): bigint {
  return high < low ? 0n : (value >> BigInt(low)) & ((1n << BigInt(high - low + 1)) - 1n);
}

function bit(value: bigint, position: number): boolean {
  return bits(value, position, position) === 1n;
}

function aligned(value: bigint, log2: number): bigint {
  return (value >> BigInt(log2)) << BigInt(log2);
}

/** Who reads a descriptor: what a generator of tables wants to know. */
export interface Reader {
  readonly tree: Tree;
  readonly level: number;
  /** log2 of what the descriptor spans. */
  readonly shift: number;
  /** For stage 2: what the input address is of. */
  readonly purpose: "table" | "data";
}

export interface Store {
  /** A 64-bit little-endian value, or undefined where the bus aborts. */
  read(pa: bigint, reader: Reader): bigint | undefined;
  writable(pa: bigint): boolean;
}

/** Reads through to a parent, keeps writes to itself until {@link commit}. */
export class Transaction implements Store {
  readonly writes: Map<bigint, bigint> = new Map<bigint, bigint>();
  readonly #parent: Store;

  constructor(parent: Store) {
    this.#parent = parent;
  }

  read(pa: bigint, reader: Reader): bigint | undefined {
    const below = this.#parent.read(pa, reader);
    return below === undefined ? undefined : (this.writes.get(pa) ?? below);
  }

  writable(pa: bigint): boolean {
    return this.#parent.writable(pa);
  }

  commit(to: Transaction): void {
    for (const [pa, value] of this.writes) to.writes.set(pa, value);
  }
}

/** One tree of tables. */
export interface Tree {
  readonly stage: 1 | 2;
  readonly ttb: bigint;
  readonly inputBits: number;
  readonly startLevel: number;
  readonly granule: number;
  readonly outputBits: number;
  readonly ds: boolean;
  readonly lpa: boolean;
  readonly bigEndian: boolean;
  readonly affd: boolean;
  readonly ha: boolean;
  readonly hd: boolean;
  readonly haft: boolean;
}

export interface Stage2 extends Tree {
  readonly xnx: boolean;
  readonly lpae: boolean;
  readonly fwb: boolean;
}

export interface HalfConfig extends Tree {
  readonly tsz: number;
  readonly enabled: boolean;
  readonly tbi: boolean;
  readonly had: boolean;
  readonly e0pd: boolean;
}

export interface Stage1 {
  readonly low: HalfConfig;
  readonly high: HalfConfig;
  readonly lpae: boolean;
  readonly single: boolean;
  readonly wxn: boolean;
  readonly uwxn: boolean;
  readonly pan: boolean;
  readonly epan: boolean;
  readonly ptw: boolean;
}

export interface Outcome {
  readonly status: number;
  readonly stage: number;
  readonly level?: number;
  readonly faultClass?: number;
  readonly ttWrite?: boolean;
  /** IPA of a stage-2 fault; of a good nested walk the output of stage 1. */
  readonly ipa?: bigint;
  readonly pa?: bigint;
  readonly perm?: number;
  readonly perm2?: number;
  readonly clean?: boolean;
  readonly pageShift?: number;
  /** Physical address of a descriptor that aborted. */
  readonly descPa?: bigint;
}

const PAGE_SHIFT = new Map<number, number>([[GRANULE.K4, 12], [GRANULE.K16, 14], [GRANULE.K64, 16]]);

function swapBytes(value: bigint): bigint {
  let out = 0n;
  for (let i = 0; i < 8; i++) out = (out << 8n) | bits(value, i * 8 + 7, i * 8);
  return out;
}

/** Levels at which a granule has blocks: Arm ARM, AArch64.BlockDescSupported. */
function blocksAllowed(tree: Tree, level: number): boolean {
  const large = tree.lpa || tree.outputBits === 52;
  switch (tree.granule) {
    case GRANULE.K4:
      return level === 1 || level === 2 || (level === 0 && tree.ds);
    case GRANULE.K16:
      return level === 2 || (level === 1 && tree.ds);
    default:
      return level === 2 || (level === 1 && large);
  }
}

/** The address that a descriptor holds, before it is cut to the size of a block. */
export function descriptorAddress(tree: Tree, descriptor: bigint): bigint {
  const shift = PAGE_SHIFT.get(tree.granule)!;
  if (tree.granule === GRANULE.K64) {
    const high = tree.lpa || tree.outputBits === 52 ? bits(descriptor, 15, 12) << 48n : 0n;
    return high | (bits(descriptor, 47, 16) << 16n);
  }
  if (tree.ds) return (bits(descriptor, 9, 8) << 50n) | (bits(descriptor, 49, shift) << BigInt(shift));
  return bits(descriptor, 47, shift) << BigInt(shift);
}

interface Entry {
  readonly level: number;
  /** Address as the tree has it, and physical. */
  readonly slot: bigint;
  readonly pa: bigint;
  readonly descriptor: bigint;
}

type Descent =
  | { readonly status: 0; readonly tables: readonly Entry[]; readonly leaf: Entry; readonly out: bigint; readonly shift: number }
  | { readonly status: number; readonly level: number; readonly descPa?: bigint; readonly refused?: Outcome };

/** Walks one tree; `translate` turns the address of a descriptor into a physical one, or says why not. */
function descend(
  tree: Tree,
  store: Store,
  input: bigint,
  purpose: "table" | "data",
  translate: (slot: bigint) => bigint | Outcome,
): Descent {
  const pageShift = PAGE_SHIFT.get(tree.granule)!;
  const stride = pageShift - 3;
  const lowBit = (level: number): number => pageShift + (3 - level) * stride;
  const startEntriesLog2 = tree.inputBits - lowBit(tree.startLevel);
  let table = aligned(tree.ttb, Math.max(startEntriesLog2 + 3, tree.outputBits === 52 ? 6 : 0));
  const tables: Entry[] = [];
  for (let level = tree.startLevel; ; level++) {
    const top = level === tree.startLevel ? tree.inputBits - 1 : lowBit(level) + stride - 1;
    const slot = table + 8n * bits(input, top, lowBit(level));
    const pa = translate(slot);
    if (typeof pa !== "bigint") return { status: pa.status, level, refused: pa };
    const raw = store.read(pa, { tree, level, shift: lowBit(level), purpose });
    if (raw === undefined) return { status: WALK.EXTERNAL_ABORT, level, descPa: pa };
    const descriptor = tree.bigEndian ? swapBytes(raw) : raw;
    const entry = { level, slot, pa, descriptor };
    if (!bit(descriptor, 0)) return { status: WALK.TRANSLATION, level };
    const isTable = level < 3 && bit(descriptor, 1);
    if (level === 3 && !bit(descriptor, 1)) return { status: WALK.TRANSLATION, level };
    if (level < 3 && !isTable && !blocksAllowed(tree, level)) return { status: WALK.TRANSLATION, level };
    const address = descriptorAddress(tree, descriptor);
    if (isTable) {
      if (address >> BigInt(tree.outputBits) !== 0n) return { status: WALK.ADDRESS_SIZE, level };
      tables.push(entry);
      table = address;
      continue;
    }
    const shift = lowBit(level);
    const out = aligned(address, shift) | bits(input, shift - 1, 0);
    if (out >> BigInt(tree.outputBits) !== 0n) return { status: WALK.ADDRESS_SIZE, level };
    return { status: WALK.OK, tables, leaf: entry, out, shift };
  }
}

function store64(store: Transaction, tree: Tree, entry: Entry, descriptor: bigint): void {
  store.writes.set(entry.pa, tree.bigEndian ? swapBytes(descriptor) : descriptor);
}

const AF = 1n << 10n;
const BIT7 = 1n << 7n;

function unwritable(store: Store, entries: readonly Entry[], stage: number): Outcome | undefined {
  const bad = entries.find((entry) => !store.writable(entry.pa));
  return bad && { status: WALK.EXTERNAL_ABORT, stage, level: bad.level, descPa: bad.pa };
}

/** Table descriptors whose access flag is owed. */
function owedTables(tree: Tree, tables: readonly Entry[]): Entry[] {
  return tree.haft ? tables.filter((entry) => (entry.descriptor & AF) === 0n) : [];
}

const WRITE = PERM.WRITE | PERM.PRIV_WRITE;

/** Stage 2 of one address. Its updates go to `store` where it succeeds. */
export function walkStage2(config: Stage2, store: Transaction, ipa: bigint, need: number, purpose: "table" | "data"): Outcome {
  if (ipa >> BigInt(config.inputBits) !== 0n) return { status: WALK.TRANSLATION, stage: 2, level: 0 };
  const walk = descend(config, store, ipa, purpose, (slot) => slot);
  if (!("leaf" in walk)) return { stage: 2, ...walk };
  const { leaf } = walk;
  const d = leaf.descriptor;
  const at = { stage: 2, level: leaf.level };
  if (!bit(d, 10) && !config.ha && !config.affd) return { status: WALK.ACCESS_FLAG, ...at };

  const dbm = config.hd && bit(d, 51);
  const readable = bit(d, 6);
  const writableNow = bit(d, 7);
  const xn = bits(d, 54, 53);
  let execute: readonly [user: boolean, priv: boolean];
  if (config.xnx) execute = [xn === 0n || xn === 1n, xn === 0n || xn === 3n];
  else execute = [xn < 2n, xn < 2n];
  if (config.lpae && !readable) execute = [false, false];
  const memAttr = bits(d, 5, 2);
  const device = config.fwb ? !bit(memAttr, 2) : bits(memAttr, 3, 2) === 0n;

  const rights = (write: boolean): number =>
    (readable ? PERM.READ | PERM.PRIV_READ : 0) |
    (write ? WRITE : 0) |
    (execute[0] ? PERM.EXECUTE : 0) |
    (execute[1] ? PERM.PRIV_EXECUTE : 0);
  const granted = rights(writableNow || dbm) | (device ? 0 : PERM.NOT_DEVICE);
  if ((need & ~granted) !== 0) return { status: WALK.PERMISSION, ...at };

  const dirties = !writableNow && (need & WRITE) !== 0;
  const tables = owedTables(config, walk.tables);
  const updated = (d | (config.ha ? AF : 0n)) | (dirties ? BIT7 : 0n);
  const bad = unwritable(store, updated === d ? tables : [...tables, leaf], 2);
  if (bad) return bad;
  for (const entry of tables) store64(store, config, entry, entry.descriptor | AF);
  if (updated !== d) store64(store, config, leaf, updated);
  return {
    status: WALK.OK,
    ...at,
    pa: walk.out,
    perm: rights(writableNow || dirties),
    clean: dbm && !writableNow && !dirties,
    pageShift: walk.shift,
  };
}

/** The half of a 64-bit address: bit 55 chooses, and all bits above the range equal it but for an ignored top byte. */
function half64(config: Stage1, va: bigint, need: number): HalfConfig | undefined {
  const upper = bit(va, 55);
  const half = upper ? config.high : config.low;
  if (!half.enabled) return undefined;
  if (half.e0pd && !config.single && (need & (PERM.READ | PERM.WRITE | PERM.EXECUTE)) !== 0) return undefined;
  for (let i = half.inputBits; i < (half.tbi ? 56 : 64); i++) if (bit(va, i) !== upper) return undefined;
  return half;
}

/** The half of a 32-bit address, Arm ARM G5.5.4. */
function half32(config: Stage1, va: bigint): HalfConfig | undefined {
  const { low, high } = config;
  if (va >> 32n !== 0n) return undefined;
  const t0 = low.enabled ? low.tsz : 0;
  const t1 = high.enabled ? high.tsz : 0;
  const endOfLow = 1n << BigInt(32 - t0);
  const startOfHigh = t1 === 0 ? endOfLow : (1n << 32n) - (1n << BigInt(32 - t1));
  let half: HalfConfig | undefined;
  if (t0 === 0 && t1 === 0) half = low;
  else if (t0 === 0) half = va >= startOfHigh ? high : low;
  else if (va < endOfLow) half = low;
  else if (va >= startOfHigh) half = high;
  return half?.enabled === true ? half : undefined;
}

/** The six rights of a stage-1 leaf. */
function stage1Rights(config: Stage1, had: boolean, tables: readonly Entry[], leaf: bigint, writableByDbm: boolean): number {
  const table = (position: number): boolean => !had && tables.some((entry) => bit(entry.descriptor, position));
  const readOnly = (bit(leaf, 7) && !writableByDbm) || table(62);
  const xn = bit(leaf, 54) || table(60);
  if (config.single) {
    const x = !xn && !(config.wxn && !readOnly);
    return PERM.READ | PERM.PRIV_READ | (readOnly ? 0 : WRITE) | (x ? PERM.EXECUTE | PERM.PRIV_EXECUTE : 0);
  }
  const userAccess = bit(leaf, 6) && !table(61);
  const pxn = bit(leaf, 53) || table(59);
  const ur = userAccess;
  const uw = userAccess && !readOnly;
  const pw = !readOnly;
  const ux = !xn && !(config.wxn && uw) && (!config.lpae || ur);
  let px = !pxn && !(config.wxn && pw);
  if (config.lpae) px &&= !xn && !(config.uwxn && uw);
  else px &&= !uw;
  const panned = config.pan && (ur || (config.epan && ux));
  return (
    (ur ? PERM.READ : 0) |
    (uw ? PERM.WRITE : 0) |
    (ux ? PERM.EXECUTE : 0) |
    (panned ? 0 : PERM.PRIV_READ) |
    (pw && !panned ? PERM.PRIV_WRITE : 0) |
    (px ? PERM.PRIV_EXECUTE : 0)
  );
}

/** Stage 1, nested where `stage2` is given. Updates go to `store`. */
export function walkStage1(config: Stage1, stage2: Stage2 | undefined, store: Transaction, va: bigint, need: number): Outcome {
  const half = config.lpae ? half32(config, va) : half64(config, va, need);
  if (half === undefined) return { status: WALK.TRANSLATION, stage: 1, level: 0 };
  const fetchNeed = PERM.READ | (config.ptw ? PERM.NOT_DEVICE : 0);
  const input = bits(va, half.inputBits - 1, 0);
  const walk = descend(half, store, input, "data", (slot) => {
    if (stage2 === undefined) return slot;
    const outcome = walkStage2(stage2, store, slot, fetchNeed, "table");
    return outcome.status === WALK.OK ? outcome.pa! : { ...outcome, faultClass: FAULT_CLASS.TT, ttWrite: false, ipa: slot };
  });
  if (!("leaf" in walk)) {
    if (walk.refused !== undefined) return walk.refused;
    return { stage: 1, ...walk };
  }
  const { leaf } = walk;
  const d = leaf.descriptor;
  const at = { stage: 1, level: leaf.level };
  if (!bit(d, 10) && !half.ha && !half.affd) return { status: WALK.ACCESS_FLAG, ...at };
  const byDbm = half.hd && bit(d, 51) && bit(d, 7);
  const granted = stage1Rights(config, half.had, walk.tables, d, byDbm);
  if ((need & ~granted) !== 0) return { status: WALK.PERMISSION, ...at };

  const dirties = byDbm && (granted & WRITE) !== 0 && (need & WRITE) !== 0;
  const tables = owedTables(half, walk.tables);
  const updated = (d | (half.ha ? AF : 0n)) & ~(dirties ? BIT7 : 0n);
  const owed = updated === d ? tables : [...tables, leaf];
  const clean = byDbm && (granted & WRITE) !== 0 && !dirties;
  const perm = clean ? granted & ~WRITE : granted;

  // All or nothing: the updates of stage 1 and what they need of stage 2, then stage 2 of the output.
  const attempt = new Transaction(store);
  for (const entry of owed) {
    if (stage2 !== undefined) {
      const write = walkStage2(stage2, attempt, entry.slot, fetchNeed | PERM.WRITE, "table");
      if (write.status !== WALK.OK) return { ...write, faultClass: FAULT_CLASS.TT, ttWrite: true, ipa: entry.slot };
    }
    const bad = unwritable(store, [entry], 1);
    if (bad) return bad;
    store64(attempt, half, entry, entry === leaf ? updated : entry.descriptor | AF);
  }
  const good = { status: WALK.OK, ...at, perm, clean, ipa: walk.out };
  if (stage2 === undefined) {
    attempt.commit(store);
    return { ...good, pa: walk.out, perm2: PERM.ALL, pageShift: walk.shift };
  }
  const final = walkStage2(stage2, attempt, walk.out, need, "data");
  if (final.status !== WALK.OK) return { ...final, faultClass: FAULT_CLASS.IN, ttWrite: false, ipa: walk.out };
  attempt.commit(store);
  return { ...good, pa: final.pa!, perm2: final.perm!, pageShift: Math.min(walk.shift, final.pageShift!) };
}
