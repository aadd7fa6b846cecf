// Runs the entry writer on memory that shows each 64-bit store.
import { Memory } from "@smmuv3/platform";
import { STE_WORDS } from "@smmuv3/smmu-v3-defs";
import { steSafe, writeEntry } from "../src/index.ts";
import type { UsedBits } from "../src/index.ts";

const BASE = 0x4000_0000;
const PA = BASE + 0x1040;

export type Entry = Int32Array;

export function make(build: (entry: Entry) => void): Entry {
  const entry = new Int32Array(STE_WORDS);
  build(entry);
  return entry;
}

export interface Run {
  readonly status: number;
  /** The entry after each 64-bit store. */
  readonly images: Entry[];
  /** Quadwords stored, with -1 where a sync was. */
  readonly log: number[];
  readonly final: Entry;
}

export function run(
  from: Entry, to: Entry, used: UsedBits, withSafe: boolean, failAt: number = Infinity, persist: boolean = false,
): Run {
  const memory = Memory.allocate({ base: BASE, size: 0x2000 });
  memory.write(PA, from);
  const images: Entry[] = [];
  const log: number[] = [];
  const plain = memory.store32.bind(memory);
  memory.store32 = (pa, value): void => {
    plain(pa, value);
    if (pa % 8 !== 0) return;
    const image = new Int32Array(STE_WORDS);
    memory.read(PA, image);
    images.push(image);
    log.push((pa - PA) / 8);
  };
  let syncs = 0;
  const status = writeEntry({
    memory, pa: PA, target: to, used, persist, ...(withSafe ? { safe: steSafe } : {}),
    sync() {
      log.push(-1);
      return ++syncs >= failAt ? -110 : 0;
    },
  });
  const final = new Int32Array(STE_WORDS);
  memory.read(PA, final);
  return { status, images, log, final };
}

/** True when the SMMU, given `image`, does what `entry` says: the bits that `entry` uses are the same, safe bits apart. */
export function acts(image: Entry, entry: Entry, used: UsedBits, ignore: Int32Array): boolean {
  const mask = new Int32Array(STE_WORDS);
  used(entry, mask);
  return mask.every((bits, i) => ((image[i]! ^ entry[i]!) & bits & ~ignore[i]!) === 0);
}

/**
 * What the SMMU may have read of the entry: between two syncs it keeps what it read of each quadword before or after its store, so
 * any mix of the two. `mask`: quadwords of which it has the new one.
 */
export function views(from: Entry, { log, images }: Run, mask: number): Entry[] {
  const seen: Entry[] = [];
  let before = from;
  let last = from;
  let stores = 0;
  for (const qword of log) {
    if (qword < 0) {
      const mixed = before.slice();
      for (let q = 0; q < STE_WORDS / 2; q++) if ((mask >> q) & 1) mixed.set(last.subarray(q * 2, q * 2 + 2), q * 2);
      seen.push(mixed);
      before = last;
    } else {
      last = images[stores++]!;
      seen.push(last);
    }
  }
  return seen;
}
