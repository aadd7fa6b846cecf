import type { Memory } from "@smmuv3/platform";
import { STE_WORDS } from "@smmuv3/smmu-v3-defs";
import type { SafeBits, UsedBits } from "./used.ts";

export interface EntryWrite {
  readonly memory: Memory;
  /** Address of the STE or CD, 64-byte aligned. */
  readonly pa: number;
  /** What it shall be, 16 words. */
  readonly target: Int32Array;
  readonly used: UsedBits;
  /** Without it no bit is safe. */
  readonly safe?: SafeBits;
  /** Makes the SMMU forget its copy and waits: CFGI and SYNC. 0, or a negative errno, which ends the write. */
  sync(): number;
  /** A sync that fails does not end the write: what an attach needs that may not fail. */
  readonly persist?: boolean;
}

/** Quadwords of an entry. */
const QWORDS = STE_WORDS / 2;

/**
 * The 64-bit store of an entry: the high word, then the low word. The pair is the unit that the SMMU reads (3.21.3 asks for
 * single-copy atomic 64-bit reads); nothing else runs between the two stores.
 */
function store64(memory: Memory, pa: number, lo: number, hi: number): void {
  memory.store32(pa + 4, hi);
  memory.store32(pa, lo);
}

function differs(a: Int32Array, b: Int32Array, qword: number): boolean {
  return a[qword * 2] !== b[qword * 2] || a[qword * 2 + 1] !== b[qword * 2 + 1];
}

/** Stores quadwords `[from, to)` of `image` that differ from what is in memory. True when anything was stored. */
function store(memory: Memory, pa: number, current: Int32Array, image: Int32Array, from: number, to: number): boolean {
  let stored = false;
  for (let qword = from; qword < to; qword++) {
    if (!differs(current, image, qword)) continue;
    const lo = image[qword * 2]!;
    const hi = image[qword * 2 + 1]!;
    store64(memory, pa + qword * 8, lo, hi);
    current[qword * 2] = lo;
    current[qword * 2 + 1] = hi;
    stored = true;
  }
  return stored;
}

/**
 * Replaces an STE or CD that the SMMU may be using, 3.21.3. Where at most one quadword has bits that both entries use and
 * that change, the SMMU sees the old or the new entry at every moment (hitless): first the bits that the current entry does
 * not use take their new values, then that one quadword, then the bits that the new entry does not use. Otherwise the entry
 * is invalid in between. Quadwords are stored in ascending order, and only when they change.
 * @returns the number of syncs, or the negative errno of the first that failed; the entry is as it was then, or, with `persist`,
 * `target`
 */
export function writeEntry(write: EntryWrite): number {
  const { memory, pa, target, used } = write;
  const current = new Int32Array(STE_WORDS);
  memory.read(pa, current);
  const usedNow = new Int32Array(STE_WORDS);
  const usedThen = new Int32Array(STE_WORDS);
  const safe = new Int32Array(STE_WORDS);
  used(current, usedNow);
  used(target, usedThen);
  write.safe?.(current, target, safe);

  const image = new Int32Array(STE_WORDS);
  let changed = 0;
  let critical = -1;
  for (let i = 0; i < STE_WORDS; i++) {
    const keep = usedNow[i]! & ~(safe[i]! & usedNow[i]! & usedThen[i]!);
    image[i] = (current[i]! & keep) | (target[i]! & ~keep);
    if ((image[i]! & usedThen[i]!) !== target[i] && critical !== i >> 1) {
      critical = i >> 1;
      changed++;
    }
  }

  let syncs = 0;
  let status = 0;
  const phase = (source: Int32Array, from: number, to: number): void => {
    if ((status < 0 && write.persist !== true) || !store(memory, pa, current, source, from, to)) return;
    syncs++;
    const result = write.sync();
    if (status === 0) status = result;
  };
  if (changed === 1) {
    image[critical * 2] = current[critical * 2]!;
    image[critical * 2 + 1] = current[critical * 2 + 1]!;
    phase(image, 0, QWORDS);
    phase(target, critical, critical + 1);
    phase(target, 0, QWORDS);
  } else if (changed > 1) {
    phase(new Int32Array(2), 0, 1);
    phase(target, 1, QWORDS);
    phase(target, 0, 1);
  } else {
    phase(target, 0, QWORDS);
  }
  return status < 0 ? status : syncs;
}
