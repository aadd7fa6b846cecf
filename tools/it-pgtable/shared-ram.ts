// RAM, an allocator and tables that several workers use at once.
import { ARM_64_LPAE_S1, ARM_64_LPAE_S2, attachSharedIoPgtable } from "@smmuv3/io-pgtable-arm-common";
import type { SharedIoPgtable, SharedPgtableHandle, TableRam } from "@smmuv3/io-pgtable-arm-common";

export const RAM = 0x4000_0000;

/** What is sent to a worker. */
export interface Sharing {
  readonly words: SharedArrayBuffer;
  /** RAM as a walker sees it that does not snoop: written by `syncPte` of all agents. */
  readonly seen: SharedArrayBuffer | undefined;
  /** {@link COUNT} */
  readonly counters: Int32Array;
  readonly handle: SharedPgtableHandle;
  readonly stage: 1 | 2;
  readonly ias: number;
}

/** Words of {@link Sharing.counters}. */
export const COUNT = { NEXT_PAGE: 0, ALLOCATED: 1, FREED: 2, WAITS: 3, WORDS: 4 } as const;

/** The RAM of a buffer, all of it readable and writable. */
export function ramOf(buffer: SharedArrayBuffer): TableRam {
  const pages = buffer.byteLength / 4096;
  return {
    words: new Int32Array(buffer),
    perm: new Uint8Array(pages).fill(3),
    base: RAM,
    basePage: RAM / 4096,
    size: buffer.byteLength,
    index: (pa) => (pa - RAM) / 4,
  };
}

/** Tables as one agent has them. Pages are not used twice, so that a stale pointer cannot go unnoticed. */
export function attach(sharing: Sharing, relax: () => void): SharedIoPgtable {
  const { counters, seen } = sharing;
  const memory = ramOf(sharing.words);
  const shown = seen === undefined ? undefined : new Int32Array(seen);
  return attachSharedIoPgtable(
    sharing.stage === 1 ? ARM_64_LPAE_S1 : ARM_64_LPAE_S2,
    {
      memory,
      pgsizeBitmap: 0x4020_1000,
      ias: sharing.ias,
      oas: 48,
      coherentWalk: seen === undefined,
      quirks: sharing.stage === 1 ? 0x80 : 0,
      tlb: { flushAll() {}, flushWalk() {}, addPage() {} },
      alloc: (bytes) => {
        Atomics.add(counters, COUNT.ALLOCATED, 1);
        return RAM + Atomics.add(counters, COUNT.NEXT_PAGE, 1) * bytes;
      },
      free: () => {
        Atomics.add(counters, COUNT.FREED, 1);
      },
      // Whole lines, as a cache writes them back: with them go entries that others are in the middle of.
      syncPte: (pa, bytes) => {
        const first = ((pa - RAM) / 4) & ~15;
        for (let at = first; at < (pa - RAM + bytes) / 4; at++) shown![at] = memory.words[at]!;
      },
      relax: () => {
        Atomics.add(counters, COUNT.WAITS, 1);
        relax();
      },
    },
    sharing.handle,
  );
}
