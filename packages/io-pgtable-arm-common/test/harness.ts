import { Memory } from "@smmuv3/platform";
import { allocIoPgtable } from "../src/index.ts";
import type { IoPgtable, IoPgtableConfig, IoPgtableFormat, WarnReason } from "../src/index.ts";

export const RAM = 0x8000_0000;
export const SIZES_4K = 0x4020_1000;
export const SIZES_16K = 0x200_4000;
export const SIZES_64K = 0x2001_0000;
const GARBAGE = 0x5a5a5a5a;

export type Event =
  | readonly ["flushAll"]
  | readonly ["flushWalk", iova: number, size: number, granule: number]
  | readonly ["addPage", iova: number, granule: number]
  | readonly ["alloc", pa: number, bytes: number]
  | readonly ["free", pa: number, bytes: number]
  | readonly ["sync", pa: number, bytes: number];

export interface Options extends Partial<Omit<IoPgtableConfig, "memory" | "tlb" | "alloc" | "free">> {
  readonly memory?: Memory;
  /** Default {@link allocIoPgtable}. */
  readonly build?: (fmt: IoPgtableFormat, cfg: IoPgtableConfig) => IoPgtable;
  /** Allocations that succeed, the first table included. */
  readonly tables?: number;
  readonly ram?: number;
}

/** Tables in RAM full of garbage, with everything that leaves the package recorded. */
export class Harness {
  readonly memory: Memory;
  readonly events: Event[] = [];
  readonly warnings: WarnReason[] = [];
  /** Allocated tables: address and bytes. */
  readonly live: Map<number, number>;
  readonly table: IoPgtable;
  allocations = 0;
  #left: number;
  #next = RAM;
  readonly #freed = new Map<number, number[]>();

  constructor(fmt: IoPgtableFormat, options: Options = {}) {
    const { tables = Infinity, ram = 8 << 20, build = allocIoPgtable, ...rest } = options;
    this.live = new Map<number, number>();
    this.#left = tables;
    this.memory = rest.memory ?? Memory.allocate({ base: RAM, size: ram });
    this.memory.fill(RAM, ram, GARBAGE);
    const { events } = this;
    this.table = build(fmt, {
      pgsizeBitmap: SIZES_4K,
      ias: 48,
      oas: 48,
      coherentWalk: true,
      ...rest,
      memory: this.memory,
      tlb: {
        flushAll: () => events.push(["flushAll"]),
        flushWalk: (iova, size, granule) => events.push(["flushWalk", iova, size, granule]),
        addPage: (_gather, iova, granule) => events.push(["addPage", iova, granule]),
      },
      alloc: (bytes) => this.#alloc(bytes),
      free: (pa, bytes) => {
        this.#free(pa, bytes);
      },
      syncPte: (pa, bytes) => events.push(["sync", pa, bytes]),
      onWarn: (reason) => this.warnings.push(reason),
    });
    events.length = 0;
  }

  /** Events since the last call. */
  take(kinds?: readonly Event[0][]): Event[] {
    const taken = this.events.splice(0);
    return kinds === undefined ? taken : taken.filter(([kind]) => kinds.includes(kind));
  }

  /** How many further allocations succeed. */
  allow(tables: number): void {
    this.#left = tables;
  }

  /** All leaves as `[iova, size, pa]`. */
  leaves(): [iova: number, size: number, pa: number][] {
    const out: [number, number, number][] = [];
    this.table.forEachLeaf((iova, size, pa) => out.push([iova, size, pa]));
    return out;
  }

  /** Raw descriptors from the first level to `iova`, as `0xHHHHHHHH_LLLLLLLL`. */
  descriptors(iova: number): string[] {
    const out: string[] = [];
    this.table.walk(iova, (_level, lo, hi) => out.push(words(lo, hi)));
    return out;
  }

  #alloc(bytes: number): number {
    if (this.#left <= 0) return -12;
    this.#left--;
    this.allocations++;
    let pa = this.#freed.get(bytes)?.pop();
    if (pa === undefined) {
      pa = Math.ceil(this.#next / bytes) * bytes;
      this.#next = pa + bytes;
    }
    this.live.set(pa, bytes);
    this.events.push(["alloc", pa, bytes]);
    return pa;
  }

  #free(pa: number, bytes: number): void {
    if (this.live.get(pa) !== bytes) throw new Error(`free of 0x${pa.toString(16)} (${bytes}), which is not allocated`);
    this.live.delete(pa);
    // Whoever still walks a freed table reads garbage.
    this.memory.fill(pa, bytes, GARBAGE);
    this.#freed.set(bytes, [...(this.#freed.get(bytes) ?? []), pa]);
    this.events.push(["free", pa, bytes]);
  }
}

export function words(lo: number, hi: number): string {
  const part = (word: number): string => (word >>> 0).toString(16).padStart(8, "0");
  return `0x${part(hi)}_${part(lo)}`;
}
