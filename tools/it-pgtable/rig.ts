// Tables in RAM, and the hardware's walker on them: written apart from the tables, so that each checks the other.
import { allocIoPgtable } from "@smmuv3/io-pgtable-arm-common";
import type { IoPgtable, IoPgtableConfig, IoPgtableFormat, TableFormat, WarnReason } from "@smmuv3/io-pgtable-arm-common";
import { Memory, hi32, join, lo32 } from "@smmuv3/platform";
import { GRANULE, PERM, STAGE1, STAGE2, Stage1Walker, Stage2Walker, WALK } from "@smmuv3/vmsa-walk";

export const RAM = 0x4000_0000;
/** Whoever walks memory that is no table finds valid descriptors in it. */
const GARBAGE = 0x5a5a_5a5b;
export const SIZES_4K = 0x4020_1000;
export const SIZES_16K = 0x200_4000;
export const SIZES_64K = 0x2001_0000;

const GRANULES: ReadonlyMap<number, number> = new Map([[0x1000, GRANULE.K4], [0x4000, GRANULE.K16], [0x1_0000, GRANULE.K64]]);

export interface Options extends Partial<Omit<IoPgtableConfig, "memory" | "alloc" | "free">> {
  readonly ram?: number;
  readonly build?: (fmt: IoPgtableFormat, cfg: IoPgtableConfig) => IoPgtable;
  /** RAM as a walker sees it that does not snoop; changed by `syncPte` only. */
  readonly snapshot?: boolean;
}

export type WalkResult = { readonly pa: number; readonly perm: number } | "fault";

export class Rig {
  readonly memory: Memory;
  /** What the walker reads. */
  readonly seen: Memory;
  readonly table: IoPgtable;
  readonly warnings: WarnReason[] = [];
  readonly live: Map<number, number>;
  readonly #walk: (iova: number, need: number) => WalkResult;
  #next = RAM;

  constructor(fmt: TableFormat, options: Options = {}) {
    const { ram = 8 << 20, build = allocIoPgtable, snapshot = false, ...rest } = options;
    this.live = new Map<number, number>();
    this.memory = Memory.allocate({ base: RAM, size: ram, shared: true });
    this.memory.words.fill(GARBAGE);
    this.seen = snapshot ? Memory.allocate({ base: RAM, size: ram }) : this.memory;
    this.seen.words.set(this.memory.words);
    this.table = build(fmt, {
      pgsizeBitmap: SIZES_4K,
      ias: 48,
      oas: 48,
      coherentWalk: !snapshot,
      tlb: { flushAll() {}, flushWalk() {}, addPage() {} },
      onWarn: (reason) => this.warnings.push(reason),
      syncPte: (pa, bytes) => {
        const at = (pa - RAM) / 4;
        if (snapshot) this.seen.words.set(this.memory.words.subarray(at, at + bytes / 4), at);
      },
      ...rest,
      memory: this.memory,
      alloc: (bytes) => {
        const pa = Math.ceil(this.#next / bytes) * bytes;
        this.#next = pa + bytes;
        this.live.set(pa, bytes);
        return pa;
      },
      free: (pa, bytes) => {
        if (this.live.get(pa) !== bytes) throw new Error(`free of 0x${pa.toString(16)}, which is not allocated`);
        this.live.delete(pa);
        this.memory.fill(pa, bytes, GARBAGE);
      },
    });
    this.#walk = fmt.stage === 1 ? this.#stage1(fmt) : this.#stage2(fmt);
  }

  /** What the hardware finds, for an access that needs {@link PERM} bits. */
  walk(iova: number, need: number = PERM.READ): WalkResult {
    return this.#walk(iova, need);
  }

  /** A walk with hardware updates. */
  dirty(iova: number): WalkResult {
    return this.#stage1({ name: this.table.fmt }, STAGE1.HA | STAGE1.HD)(iova, PERM.WRITE);
  }

  #stage1(fmt: Pick<TableFormat, "name">, more = 0): (iova: number, need: number) => WalkResult {
    const { tcr, pgd } = this.table;
    const lpae = fmt.name === "32_S1";
    const walker = new Stage1Walker(this.seen, new Stage2Walker(this.seen));
    walker.configure(tcr.ips, (lpae ? STAGE1.LPAE : 0) | more);
    const high = (this.table.quirks & 0x20) !== 0;
    const size = lpae ? 32 - this.table.ias : tcr.tsz;
    walker.configureHalf(high, lo32(pgd), hi32(pgd), size, GRANULES.get(this.table.granule)!, 0);
    return (iova, need) =>
      walker.walk(lo32(iova), Math.floor(iova / 2 ** 32) | 0, need) === WALK.OK
        ? { pa: join(walker.paLo, walker.paHi), perm: walker.perm }
        : "fault";
  }

  #stage2(fmt: TableFormat): (iova: number, need: number) => WalkResult {
    const { vtcr, pgd } = this.table;
    const walker = new Stage2Walker(this.seen);
    const value =
      vtcr.tsz | (vtcr.sl << 6) | (vtcr.irgn << 8) | (vtcr.orgn << 10) | (vtcr.sh << 12) | (vtcr.tg << 14) | (vtcr.ps << 16);
    const status = walker.configure(lo32(pgd), hi32(pgd), value, fmt.name === "32_S2" ? STAGE2.LPAE : 0);
    if (status !== WALK.OK) throw new Error("the walker refuses VTCR");
    return (iova, need) =>
      walker.walk(lo32(iova), hi32(iova), need) === WALK.OK ? { pa: join(walker.paLo, walker.paHi), perm: walker.perm } : "fault";
  }
}
