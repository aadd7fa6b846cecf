import { ERRNO, PERM_READ, PERM_RW, hi32, lo32 } from "@smmuv3/platform";
import { iovaHi32, signedJoin } from "./address.ts";
import { claim, claimRun, glance, publish, settled, takeOut } from "./claim.ts";
import type { IoPgtableConfig, IotlbGather } from "./config.ts";
import { ATTR_LO, DESC, DESC_TYPE, encodeHi, encodeLo } from "./descriptor.ts";
import type { TableFormat } from "./format.ts";
import { PROT_COUNT } from "./format.ts";
import type { Geometry } from "./geometry.ts";
import { IoPgtable } from "./io-pgtable.ts";

/** Configuration of one agent. The callbacks are the agent's own; `alloc` and `free` of all agents serve one pool. */
export interface SharedIoPgtableConfig extends IoPgtableConfig {
  /** Called while another agent holds a descriptor, for the length of a few stores; must not throw. Default: nothing. */
  relax?(): void;
}

/** What another agent needs to work on the same tables; can be sent to a worker. */
export interface SharedPgtableHandle {
  /** Physical address of the first table. */
  readonly pgd: number;
  /** State of all agents: {@link STATE}. */
  readonly state: Int32Array;
}

/** Words of {@link SharedPgtableHandle.state}. */
const STATE = { TABLE_UNITS: 0, WORDS: 1 } as const;
/** Table memory is counted in units of the smallest table, so that an int32 holds it. */
const UNIT = 64;

/**
 * A table pointer that a non-coherent walker may not see yet. Walkers ignore this bit of a table descriptor; it is gone when the call
 * that made the table returns.
 */
const UNSYNCED = 4;

/**
 * Page tables that several agents write at once, one object each. Every descriptor is written by the protocol of `claim.ts`.
 *
 * As in Linux, agents must not work on the same IOVAs at once; what they may do is share tables. A race against that rule gives
 * one winner and leaves every descriptor whole, but a table that one agent frees is not kept for another that is inside of it.
 */
export class SharedIoPgtable extends IoPgtable {
  declare private readonly state: Int32Array;
  declare private readonly relax: () => void;

  /** Use `allocSharedIoPgtable` or `attachSharedIoPgtable`. */
  constructor(format: TableFormat, cfg: SharedIoPgtableConfig, geometry: Geometry, handle?: SharedPgtableHandle) {
    super(format, cfg, geometry, handle?.pgd);
    this.state = handle?.state ?? new Int32Array(new SharedArrayBuffer(4 * STATE.WORDS));
    this.relax = cfg.relax === undefined ? () => {} : () => cfg.relax?.();
    if (handle === undefined) this.#count(geometry.rootBytes);
  }

  /** For `attachSharedIoPgtable`. */
  get handle(): SharedPgtableHandle {
    return { pgd: this.pgd, state: this.state };
  }

  /** Bytes of all tables, whichever agent made them. */
  override get tableBytes(): number {
    return Atomics.load(this.state, STATE.TABLE_UNITS) * UNIT;
  }

  override mapPagesPair(
    iovaLo: number,
    iovaHi: number,
    paLo: number,
    paHi: number,
    pgsize: number,
    pgcount: number,
    prot: number,
  ): number {
    const { layout, tables, words } = this;
    this.mappedPages = 0;
    const target = layout.levelOf(pgsize);
    const n = target < 0 ? 0 : layout.runLength(target, layout.index(target, iovaLo, iovaHi), pgcount);
    const attr = this.attributes[prot & (PROT_COUNT - 1)]!;
    const refused = this.refusal(target, iovaLo, iovaHi, paLo, paHi, n * pgsize, attr);
    if (refused !== 0) return refused;

    let table = this.root;
    for (let level = layout.startLevel; ; level++) {
      const slot = table + (layout.index(level, iovaLo, iovaHi) << 1);
      if (level === target) {
        tables.touch(slot, n, PERM_RW);
        const status = this.#claimLeaves(slot, n, level, iovaLo, iovaHi);
        if (status < 0) return status;
        this.#publishLeaves(slot, n, paLo, paHi, pgsize, (attr & ATTR_LO) | layout.leafType(level), attr & ~ATTR_LO);
        this.mappedPages = n;
        tables.sync(slot, n);
        return 0;
      }
      tables.touch(slot, 1, PERM_READ);
      let desc = glance(words, slot, this.relax);
      while (desc === 0) {
        const status = this.#makeTableAt(slot);
        if (status < 0) return status;
        // Whatever stands there now, also what another agent put there first.
        desc = settled(words, slot, this.relax);
      }
      if (!layout.isTable(desc, level)) return this.unexpected("already mapped", -ERRNO.EEXIST);
      if ((desc & UNSYNCED) !== 0) tables.sync(slot, 1);
      table = this.tableAt(slot);
    }
  }

  override unmapPagesPair(
    iovaLo: number,
    iovaHi: number,
    pgsize: number,
    pgcount: number,
    gather: IotlbGather | null,
  ): number {
    const { layout, tables, words } = this;
    const target = layout.levelOf(pgsize);
    if (target < 0 || pgcount <= 0) return this.warn("bad page size", 0);
    if (this.outside(iovaLo, iovaHi)) return this.warn("address out of range", 0);

    let table = this.root;
    for (let level = layout.startLevel; ; level++) {
      const index = layout.index(level, iovaLo, iovaHi);
      const slot = table + (index << 1);
      if (level === target) {
        return this.removeRun(slot, layout.runLength(level, index, pgcount), level, iovaLo, iovaHi, gather);
      }
      tables.touch(slot, 1, PERM_READ);
      const desc = glance(words, slot, this.relax);
      if (desc === 0) return this.unexpected("not mapped", 0);
      if (!layout.isTable(desc, level)) return this.partialUnmap();
      table = this.tableAt(slot);
    }
  }

  /** A descriptor that changes while it is read is read again: its words are of one value. */
  override iovaToPhysPair(iovaLo: number, iovaHi: number): boolean {
    const { layout, tables, words } = this;
    if (this.outside(iovaLo, iovaHi)) return false;
    let table = this.root;
    for (let level = layout.startLevel; ; level++) {
      const slot = table + (layout.index(level, iovaLo, iovaHi) << 1);
      tables.touch(slot, 1, PERM_READ);
      let lo = words[slot]!;
      if (!layout.isTable(lo, level)) {
        let hi: number;
        do {
          lo = Atomics.load(words, slot);
          hi = Atomics.load(words, slot + 1);
        } while (Atomics.load(words, slot) !== lo);
        if (!layout.isLeaf(lo, level)) return false;
        this.paLo = layout.addressLo(lo) | (iovaLo & layout.offsetLo(level));
        this.paHi = layout.addressHi(lo, hi) | (iovaHi & layout.offsetHi(level));
        return true;
      }
      table = this.tableAt(slot);
    }
  }

  protected override removeRun(
    slot: number,
    n: number,
    level: number,
    iovaLo: number,
    iovaHi: number,
    gather: IotlbGather | null,
  ): number {
    const { layout, tables, words } = this;
    const size = layout.spans[level]!;
    tables.touch(slot, n, PERM_RW);
    let done = 0;
    while (done < n) {
      const at = slot + (done << 1);
      const desc = glance(words, at, this.relax);
      if (desc === 0) {
        this.unexpected("not mapped", 0);
        break;
      }
      if (layout.isLeaf(desc, level)) {
        if (!takeOut(words, at, desc)) continue;
      } else {
        const iova = signedJoin(iovaLo, iovaHi) + done * size;
        this.dropTable(at, level, lo32(iova), iovaHi32(iova));
      }
      done++;
    }
    if (done > 0) tables.sync(slot, done);
    if (gather !== null && !gather.queued) {
      const iova = signedJoin(iovaLo, iovaHi);
      for (let i = 0; i < done; i++) this.cfg.tlb.addPage(gather, iova + i * size, size);
    }
    return done;
  }

  /** Nothing, when another agent took the table out. */
  protected override dropTable(slot: number, level: number, iovaLo: number, iovaHi: number): void {
    const desc = settled(this.words, slot, this.relax);
    if (!this.layout.isTable(desc, level)) return;
    const table = this.tableAt(slot);
    if (!takeOut(this.words, slot, desc)) return;
    this.tables.sync(slot, 1);
    this.cfg.tlb.flushWalk(signedJoin(iovaLo, iovaHi), this.layout.spans[level]!, this.granule);
    this.freeTable(table, level + 1, this.granule);
  }

  protected override freeTable(table: number, level: number, bytes: number): void {
    super.freeTable(table, level, bytes);
    this.#count(-bytes);
  }

  /** Hardware and other agents change low words too. */
  protected override clean(slot: number, lo: number): void {
    let seen = lo;
    while ((seen & DESC_TYPE.MASK) === (lo & DESC_TYPE.MASK) && (seen & DESC.S1_RDONLY) === 0) {
      const was = Atomics.compareExchange(this.words, slot, seen, seen | DESC.S1_RDONLY);
      if (was === seen) return;
      seen = was;
    }
  }

  #count(bytes: number): void {
    Atomics.add(this.state, STATE.TABLE_UNITS, bytes / UNIT);
  }

  /** Puts a new table under the empty `slot`, unless another agent does. 0, or -ENOMEM. */
  #makeTableAt(slot: number): number {
    const { tables, words } = this;
    tables.touch(slot, 1, PERM_RW);
    const pa = tables.allocate(this.granule);
    if (pa < 0) return -ERRNO.ENOMEM;
    if (!claim(words, slot, 0)) {
      tables.release(tables.slotOf(pa), this.granule);
      return 0;
    }
    const lo = encodeLo(lo32(pa), hi32(pa)) | DESC_TYPE.TABLE;
    const hi = encodeHi(hi32(pa)) | this.tableHi;
    this.#count(this.granule);
    if (tables.coherent) {
      publish(words, slot, lo, hi);
    } else {
      publish(words, slot, lo | UNSYNCED, hi);
      tables.sync(slot, 1);
      Atomics.compareExchange(words, slot, lo | UNSYNCED, lo);
    }
    return 0;
  }

  /** Holds `n` slots for leaves: a leaf in the way wins and nothing is held, a table gives way. */
  #claimLeaves(slot: number, n: number, level: number, iovaLo: number, iovaHi: number): number {
    const { layout, words } = this;
    while (claimRun(words, slot, n, this.relax) < n) {
      for (let i = 0; i < n; i++) {
        const at = slot + (i << 1);
        const desc = settled(words, at, this.relax);
        if (desc === 0) continue;
        if (layout.isLeaf(desc, level)) return this.unexpected("already mapped", -ERRNO.EEXIST);
        const iova = signedJoin(iovaLo, iovaHi) + i * layout.spans[level]!;
        this.dropTable(at, level, lo32(iova), iovaHi32(iova));
      }
    }
    return 0;
  }

  #publishLeaves(slot: number, n: number, paLo: number, paHi: number, pgsize: number, attrLo: number, attrHi: number): void {
    const { words } = this;
    let low = paLo;
    let high = paHi;
    const stepLo = lo32(pgsize);
    const stepHi = hi32(pgsize);
    for (let i = 0; i < n; i++) {
      publish(words, slot + (i << 1), encodeLo(low, high) | attrLo, encodeHi(high) | attrHi);
      const next = (low + stepLo) | 0;
      high = (high + stepHi + (next >>> 0 < stepLo >>> 0 ? 1 : 0)) | 0;
      low = next;
    }
  }
}
