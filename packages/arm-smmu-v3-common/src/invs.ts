import { COMMANDS } from "@smmuv3/smmu-v3-defs";

/**
 * What must be invalidated when a domain changes, in the order in which one SMMU has to do it. `ats*` are devices with their
 * own cache; `s2VmidS1Clear` the stage-1 entries of guests over a stage 2, which no range of it names.
 */
export const INV = { s1Asid: 0, s2Vmid: 1, s2VmidS1Clear: 2, ats: 3, atsFull: 4 } as const;
export type Inv = (typeof INV)[keyof typeof INV];

/** One thing to invalidate. */
export interface InvTag {
  /** Number of the SMMU. Invalidations are sorted by it. */
  readonly smmu: number;
  readonly type: Inv;
  /** ASID, VMID or StreamID. */
  readonly id: number;
  /** Of ATS. */
  readonly ssid?: number;
  /** The streams' stage 1 is of EL2 (STRW). */
  readonly e2h?: boolean;
  /** The SMMU has range invalidation; and the erratum that {@link planRangeOver} is for. */
  readonly ril?: boolean;
  readonly fullCont?: boolean;
}

/** Memory for `words` words, zeroed; undefined when there is none. Shared memory where several threads use the array. */
export type InvsAlloc = (words: number) => Int32Array | undefined;

const allocate: InvsAlloc = (words) => new Int32Array(words);

// Words before the rows.
const COUNT = 0;
const TRASH = 1;
const FLAGS = 2;
const HEADER = 3;

// Words of a row; the first four are its key.
const SMMU = 0;
const TYPE = 1;
const ID = 2;
const SSID = 3;
const SIZE_OPCODE = 4;
const ALL_OPCODE = 5;
const TRAITS = 6;
const USERS = 7;
const ROW = 8;
const KEY = 4;

const RIL = 1;
const FULL_CONT = 2;
const ATS = 4;
const EXCLUSIVE: number = 1 << 31;

/** Opcodes of an invalidation by size, and of everything; of stage 1 in EL1 and in EL2. */
const OPCODES: Readonly<Record<Inv, readonly [size: number, all: number]>> = {
  [INV.s1Asid]: [COMMANDS.TLBI_NH_VA.opcode, COMMANDS.TLBI_NH_ASID.opcode],
  [INV.s2Vmid]: [COMMANDS.TLBI_S2_IPA.opcode, COMMANDS.TLBI_S12_VMALL.opcode],
  [INV.s2VmidS1Clear]: [COMMANDS.TLBI_NH_ALL.opcode, COMMANDS.TLBI_NH_ALL.opcode],
  [INV.ats]: [COMMANDS.ATC_INV.opcode, COMMANDS.ATC_INV.opcode],
  [INV.atsFull]: [COMMANDS.ATC_INV.opcode, COMMANDS.ATC_INV.opcode],
};
const EL2_OPCODES: readonly [number, number] = [COMMANDS.TLBI_EL2_VA.opcode, COMMANDS.TLBI_EL2_ASID.opcode];

/**
 * What a domain's invalidations go to: a sorted array that nobody changes, but for the number of users of a row, and the length,
 * which shrinks. Whoever attaches publishes a new one, made by {@link mergeInvs}; whoever detaches takes users away by
 * {@link unrefInvs}. Rows without users are left alone by invalidations, and gone from the next array.
 *
 * The order that keeps TLBs free of stale entries: who unmaps changes the descriptor, has a full barrier, and then looks which
 * array is published; who attaches publishes, has a barrier, and then stores the STE or CD. One of the two sees the other. Who
 * detaches stores the STE or CD, has the SMMU forget it, and then takes the users away.
 */
export class Invs {
  readonly words: Int32Array;
  /**
   * One word for all arrays of a domain, since an invalidation may still look at an earlier one: how many invalidations with ATS
   * run; negative while {@link unrefInvs} waits for none.
   */
  readonly cell: Int32Array;

  /** `words` and `cell`: in shared memory, as another thread's. */
  constructor(words: Int32Array, cell: Int32Array) {
    this.words = words;
    this.cell = cell;
  }

  /** Rows, and those of them without users. */
  get count(): number {
    return Atomics.load(this.words, COUNT);
  }

  get trash(): number {
    return Atomics.load(this.words, TRASH);
  }

  get hasAts(): boolean {
    return (this.words[FLAGS]! & ATS) !== 0;
  }

  /** Some SMMU has range invalidation, or the erratum. */
  get hasRange(): boolean {
    return (this.words[FLAGS]! & RIL) !== 0;
  }

  get hasFullCont(): boolean {
    return (this.words[FLAGS]! & FULL_CONT) !== 0;
  }

  /** The first row with users from `row` on, -1 when there is none. */
  live(row: number): number {
    const count = this.count;
    for (let at = row; at < count; at++) if (this.users(at) !== 0) return at;
    return -1;
  }

  users(row: number): number {
    return Atomics.load(this.words, HEADER + row * ROW + USERS);
  }

  smmu(row: number): number {
    return this.words[HEADER + row * ROW + SMMU]!;
  }

  type(row: number): Inv {
    return this.words[HEADER + row * ROW + TYPE] as Inv;
  }

  id(row: number): number {
    return this.words[HEADER + row * ROW + ID]!;
  }

  ssid(row: number): number {
    return this.words[HEADER + row * ROW + SSID]!;
  }

  /** Opcode of an invalidation by address, and of one of everything. */
  sizeOpcode(row: number): number {
    return this.words[HEADER + row * ROW + SIZE_OPCODE]!;
  }

  allOpcode(row: number): number {
    return this.words[HEADER + row * ROW + ALL_OPCODE]!;
  }

  /** The row's SMMU has range invalidation. */
  ril(row: number): boolean {
    return (this.words[HEADER + row * ROW + TRAITS]! & RIL) !== 0;
  }

  /**
   * Keeps {@link unrefInvs} from returning until {@link unlock}: while ATC invalidations are on their way. Which array is published
   * has to be looked up again afterwards.
   */
  lock(relax: () => void): void {
    const { cell } = this;
    if (Atomics.add(cell, 0, 1) >= 0) return;
    for (;;) {
      const value = Atomics.load(cell, 0);
      if (value >= 0 && Atomics.compareExchange(cell, 0, value, value + 1) === value) return;
      relax();
    }
  }

  unlock(): void {
    Atomics.sub(this.cell, 0, 1);
  }
}

function create(rows: number, alloc: InvsAlloc, before?: Invs): Invs | undefined {
  const words = alloc(HEADER + rows * ROW);
  const cell = before === undefined ? alloc(1) : before.cell;
  return words === undefined || cell === undefined ? undefined : new Invs(words, cell);
}

function compare(a: Invs, i: number, b: Invs, j: number): number {
  const from = HEADER + i * ROW;
  const to = HEADER + j * ROW;
  for (let word = 0; word < KEY; word++) {
    const x = a.words[from + word]! >>> 0;
    const y = b.words[to + word]! >>> 0;
    if (x !== y) return x < y ? -1 : 1;
  }
  return 0;
}

/** Appends row `row` of `from` with `users`. */
function append(to: Invs, from: Invs, row: number, users: number): void {
  const { words } = to;
  const at = HEADER + words[COUNT]! * ROW;
  for (let word = 0; word < USERS; word++) words[at + word] = from.words[HEADER + row * ROW + word]!;
  words[at + USERS] = users;
  words[COUNT]!++;
  words[FLAGS]! |= words[at + TRAITS]! | (from.type(row) >= INV.ats ? ATS : 0);
}

/** An array of `tags`, each with one user; equal tags are one. Undefined without memory. */
export function makeInvs(tags: readonly InvTag[], alloc: InvsAlloc = allocate): Invs | undefined {
  const invs = create(tags.length, alloc);
  if (invs === undefined) return undefined;
  const single = new Invs(new Int32Array(HEADER + ROW), invs.cell);
  const key = ({ smmu, type, id, ssid = 0 }: InvTag): number[] => [smmu, type, id, ssid];
  const order = (a: InvTag, b: InvTag): number => {
    const other = key(b);
    return key(a).reduce((result, value, i) => (result !== 0 ? result : value - other[i]!), 0);
  };
  for (const tag of tags.toSorted(order)) {
    const { smmu, type, id, ssid = 0 } = tag;
    const [size, all] = type === INV.s1Asid && tag.e2h === true ? EL2_OPCODES : OPCODES[type];
    const traits = (tag.ril === true ? RIL : 0) | (tag.fullCont === true ? FULL_CONT : 0);
    single.words.set([smmu, type, id, ssid, size, all, traits, 1], HEADER);
    if (invs.count === 0 || compare(invs, invs.count - 1, single, 0) !== 0) append(invs, single, 0, 1);
  }
  return invs;
}

/**
 * A new array of what `invs` has users for and of `added`. `invs` stays as it is, and is no more than that once the new one is
 * published. Undefined without memory.
 */
export function mergeInvs(invs: Invs, added: Invs, alloc: InvsAlloc = allocate): Invs | undefined {
  const merged = create(invs.count - invs.trash + added.count, alloc, invs);
  if (merged === undefined) return undefined;
  for (let i = invs.live(0), j = 0; i >= 0 || j < added.count; ) {
    const order = i < 0 ? 1 : j === added.count ? -1 : compare(invs, i, added, j);
    if (order <= 0) append(merged, invs, i, invs.users(i) + (order === 0 ? 1 : 0));
    else append(merged, added, j, 1);
    if (order <= 0) i = invs.live(i + 1);
    if (order >= 0) j++;
  }
  return merged;
}

/**
 * Takes one user away from each row of the published `invs` that `removed` has, and notes in `removed` which rows have users
 * still (1) and which have none (0): who finds none of its ASID or VMID invalidates it. Rows without users at the end are cut off.
 * When this returns, no invalidation sends anything to a device that has no row with users any more, nor will one.
 * @param relax a step of waiting for invalidations that run
 * @returns how many rows of `removed` were not there, which is a mistake of the caller
 */
export function unrefInvs(invs: Invs, removed: Invs, relax: () => void): number {
  const { words } = invs;
  const count = invs.count;
  let trash = invs.trash;
  let missing = 0;
  /** Rows up to the last one with users. */
  let kept = 0;
  let i = invs.live(0);
  for (let j = 0; j < removed.count; ) {
    const order = i < 0 ? 1 : compare(invs, i, removed, j);
    if (order > 0) {
      missing++;
      j++;
      continue;
    }
    if (order === 0) {
      const users = invs.users(i) - 1;
      Atomics.store(words, HEADER + i * ROW + USERS, users);
      Atomics.store(removed.words, HEADER + j * ROW + USERS, users === 0 ? 0 : 1);
      if (users === 0) trash++;
      j++;
    }
    i = invs.live(i + 1);
  }
  for (let row = count - 1; row >= 0 && kept === 0; row--) if (invs.users(row) !== 0) kept = row + 1;
  while (Atomics.compareExchange(invs.cell, 0, 0, EXCLUSIVE) !== 0) relax();
  Atomics.store(words, COUNT, kept);
  Atomics.store(words, TRASH, trash - (count - kept));
  Atomics.store(invs.cell, 0, 0);
  return missing;
}

/** A new array without the rows that have no users. Undefined when there are none, or without memory: `invs` stays in use. */
export function purgeInvs(invs: Invs, alloc: InvsAlloc = allocate): Invs | undefined {
  if (invs.trash === 0) return undefined;
  const purged = create(invs.count - invs.trash, alloc, invs);
  if (purged === undefined) return undefined;
  for (let row = invs.live(0); row >= 0; row = invs.live(row + 1)) append(purged, invs, row, invs.users(row));
  return purged;
}
