import { ERRNO, Errno, PERM_READ, PERM_RW, hi32, join, lo32 } from "@smmuv3/platform";
import { iovaHi32, signedJoin } from "./address.ts";
import type { FormatName, IoPgtableConfig, IotlbGather, WarnReason } from "./config.ts";
import { IO_PGTABLE_QUIRK } from "./config.ts";
import { ATTR_LO, DESC, DESC_TYPE, MAIR_HI, MAIR_LO, encodeHi, encodeLo } from "./descriptor.ts";
import type { TableFormat } from "./format.ts";
import { PROT_COUNT, attributeTable } from "./format.ts";
import type { Geometry, Tcr, Vtcr } from "./geometry.ts";
import { tcrOf, vtcrOf } from "./geometry.ts";
import { clearRun, leadingLeaves, runIsEmpty, writeRun } from "./leaf-run.ts";
import { LAST_LEVEL, TableLayout } from "./table-layout.ts";
import { TableMemory } from "./table-memory.ts";
import type { DirtyVisitor, LeafVisitor, TableView, WalkVisitor } from "./visit.ts";
import { visitDirty, visitLeaves, walkTo } from "./visit.ts";
import { flushWalkCache, forgetTable, newWalkCache, rememberTable } from "./walk-cache.ts";

/** Tables of this level are in the walk cache. */
const CACHED_LEVEL = 2;

/**
 * Page tables of one address space, for any granule. Subclasses carry the single-leaf fast paths of one granule with their
 * shifts as literals; whatever those do not finish ends here.
 *
 * One agent writes: stores are plain. The low word of a descriptor is the atomic unit, so an entry is made by its high
 * word, then its low word, and unmade in the other order.
 */
export class IoPgtable {
  // Declared, not defined: a field that starts as undefined keeps V8 from knowing that it is always a small integer, and hot paths
  // would test each on every load.
  declare readonly fmt: FormatName;
  /** Page and block sizes in use. */
  declare readonly pgsizeBitmap: number;
  /** Input address bits. */
  declare readonly ias: number;
  /** Output address bits. */
  declare readonly oas: number;
  declare readonly startLevel: number;
  /** Bytes of the first table. */
  declare readonly pgdBytes: number;
  /** Bytes of a page. */
  declare readonly granule: number;
  declare readonly coherentWalk: boolean;
  declare readonly quirks: number;
  /** Physical address of the first table, and what TTBR (stage 1) or VTTBR (stage 2) gets. */
  declare readonly pgd: number;

  /** Bytes mapped by the last {@link mapPages}. */
  mapped: number = 0;
  /** Leaves made by the last {@link mapPagesPair}. */
  mappedPages: number = 0;
  /** True when the last {@link iovaToPhys} found a leaf. */
  found: boolean = false;
  /** Output address of the last look-up that found a leaf, as int32 words. */
  paLo: number = 0;
  paHi: number = 0;
  /** How often Linux would have printed a warning. */
  warnings: number = 0;

  declare protected readonly words: Int32Array;
  declare protected readonly perm: Uint8Array;
  /** Low word of the first RAM address. */
  declare protected readonly baseLo: number;
  /** Slot (word index) of the first table. */
  declare protected readonly root: number;
  /** Index mask of the first table, in words. */
  declare protected readonly rootMask: number;
  /** Bits of an IOVA that must equal its sign, and the sign: -1 with `ARM_TTBR1`, else 0. */
  declare protected readonly rangeLo: number;
  declare protected readonly rangeHi: number;
  declare protected readonly sign: number;
  /** Bits of the high word of a PA that must be 0. */
  declare protected readonly outputHi: number;
  /** The first PA that is too high. */
  declare protected readonly outputEnd: number;
  /** Sizes below 4 GiB, as a bit set. */
  declare protected readonly sizes: number;
  /** See {@link newWalkCache}: filled here, read by the subclasses. */
  declare protected readonly walkCache: Int32Array;
  /** Leaf attributes by prot, see {@link attributeTable}. */
  declare protected readonly attributes: Int32Array;

  declare protected readonly cfg: IoPgtableConfig;
  declare protected readonly layout: TableLayout;
  declare protected readonly tables: TableMemory;
  /** High-word attributes of table descriptors. */
  declare protected readonly tableHi: number;
  declare private readonly format: TableFormat;
  declare private readonly geometry: Geometry;
  declare private readonly warnUnexpected: boolean;
  private warnedPartial: boolean = false;

  /**
   * Use `allocIoPgtable`. Throws Errno ENOMEM when the first table cannot be allocated.
   * @param pgd first table, where there is one
   */
  constructor(format: TableFormat, cfg: IoPgtableConfig, geometry: Geometry, pgd?: number) {
    const quirks = cfg.quirks ?? 0;
    const { ias, oas } = geometry;
    this.fmt = format.name;
    this.pgsizeBitmap = geometry.pgsizeBitmap;
    this.ias = ias;
    this.oas = oas;
    this.startLevel = geometry.startLevel;
    this.pgdBytes = geometry.pgdBytes;
    this.granule = 2 ** geometry.pageShift;
    this.coherentWalk = cfg.coherentWalk;
    this.quirks = quirks;

    this.cfg = cfg;
    this.format = format;
    this.geometry = geometry;
    this.layout = new TableLayout(format, geometry);
    this.tables = new TableMemory(cfg);
    this.tableHi =
      ((quirks & IO_PGTABLE_QUIRK.ARM_NS) !== 0 ? DESC.NSTABLE_HI : 0) | (cfg.coherentWalk ? 0 : DESC.SW_SYNC_HI);
    this.warnUnexpected = (quirks & IO_PGTABLE_QUIRK.NO_WARN) === 0;

    this.words = cfg.memory.words;
    this.perm = cfg.memory.perm;
    this.baseLo = this.tables.baseLo;
    this.rootMask = (this.layout.rootEntries - 1) << 1;
    this.rangeLo = ias < 32 ? -1 << ias : 0;
    this.rangeHi = ias < 32 ? -1 : -1 << (ias - 32);
    this.sign = (quirks & IO_PGTABLE_QUIRK.ARM_TTBR1) !== 0 ? -1 : 0;
    this.outputHi = -1 << (oas - 32);
    this.outputEnd = 2 ** oas;
    this.sizes = lo32(geometry.pgsizeBitmap);
    this.attributes = attributeTable(format, quirks);
    this.walkCache = newWalkCache(this.attributes);

    this.pgd = pgd ?? this.tables.allocate(geometry.rootBytes);
    if (this.pgd < 0) throw new Errno("ENOMEM", `allocIoPgtable: alloc gave no table of ${geometry.pgdBytes} bytes`);
    this.root = this.tables.slotOf(this.pgd);
  }

  /** Stage 1: TTBR, without ASID. */
  get ttbr(): number { return this.pgd; }

  /** Stage 2: VTTBR, without VMID. */
  get vttbr(): number { return this.pgd; }

  /** Stage 1: fields of TCR. */
  get tcr(): Tcr {
    return tcrOf(this.geometry, this.coherentWalk, this.quirks);
  }

  /** Stage 2: fields of VTCR. */
  get vtcr(): Vtcr {
    return vtcrOf(this.geometry, this.coherentWalk);
  }

  /** Stage 1: MAIR that the attribute indices refer to, as int32 words. */
  get mair(): { readonly lo: number; readonly hi: number } {
    return { lo: MAIR_LO, hi: MAIR_HI };
  }

  /** Bytes of all tables of this address space. */
  get tableBytes(): number {
    return this.tables.bytes;
  }

  /**
   * Maps up to `pgcount` pages of `pgsize` bytes at `iova` to `pa`, no further than the end of the table that holds the first;
   * the caller goes on from {@link mapped} bytes.
   * @param prot bits of `IOMMU_PROT`
   * @returns 0, or -EINVAL (size, prot), -ERANGE (addresses), -EEXIST (a leaf is there, and stays), -ENOMEM
   */
  mapPages(iova: number, pa: number, pgsize: number, pgcount: number, prot: number): number {
    const status = this.mapPagesPair(lo32(iova), iovaHi32(iova), lo32(pa), hi32(pa), pgsize, pgcount, prot);
    this.mapped = this.mappedPages * pgsize;
    return status;
  }

  /**
   * Unmaps up to `pgcount` pages or blocks of `pgsize` bytes, no further than the first hole or the end of the table.
   * A table found in place of a leaf is flushed and freed. Part of a block is never unmapped.
   * @returns bytes unmapped
   */
  unmapPages(iova: number, pgsize: number, pgcount: number, gather: IotlbGather | null): number {
    return this.unmapPagesPair(lo32(iova), iovaHi32(iova), pgsize, pgcount, gather) * pgsize;
  }

  /** Output address of `iova`; 0 with {@link found} false when nothing is mapped. */
  iovaToPhys(iova: number): number {
    if (!this.iovaToPhysPair(lo32(iova), iovaHi32(iova))) {
      this.found = false;
      return 0;
    }
    this.found = true;
    return join(this.paLo, this.paHi);
  }

  /** {@link mapPages} on int32 pairs; {@link mappedPages} tells how many leaves were made. */
  mapPagesPair(
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
    let fresh = false;
    for (let level = layout.startLevel; ; level++) {
      const index = layout.index(level, iovaLo, iovaHi);
      const slot = table + (index << 1);
      if (level === CACHED_LEVEL) this.#remember(table, index, iovaLo, iovaHi);
      if (level === target) {
        tables.touch(slot, n, PERM_RW);
        if (!fresh && !runIsEmpty(words, slot, n)) {
          const status = this.#makeWay(slot, n, level, signedJoin(iovaLo, iovaHi));
          if (status < 0) return status;
        }
        this.#writeLeaves(slot, n, level, paLo, paHi, pgsize, attr);
        tables.sync(slot, n);
        return 0;
      }
      tables.touch(slot, 1, PERM_READ);
      const desc = words[slot]!;
      if (desc === 0) {
        tables.touch(slot, 1, PERM_RW);
        // A table that is going to be full needs no zeroes: its leaves come before its pointer.
        const whole = level + 1 === target && n === layout.tableEntries && tables.coherent;
        const pa = tables.allocate(this.granule, !whole);
        if (pa < 0) return -ERRNO.ENOMEM;
        if (whole) this.#writeLeaves(tables.slotOf(pa), n, target, paLo, paHi, pgsize, attr);
        this.#addTable(slot, pa);
        if (whole) return 0;
        fresh = true;
      } else if (!layout.isTable(desc, level)) {
        return this.unexpected("already mapped", -ERRNO.EEXIST);
      }
      table = this.tableAt(slot);
    }
  }

  /** {@link unmapPages} on an int32 pair. Returns leaves unmapped, not bytes. */
  unmapPagesPair(iovaLo: number, iovaHi: number, pgsize: number, pgcount: number, gather: IotlbGather | null): number {
    const { layout, tables, words } = this;
    const target = layout.levelOf(pgsize);
    if (target < 0 || pgcount <= 0) return this.warn("bad page size", 0);
    if (this.outside(iovaLo, iovaHi)) return this.warn("address out of range", 0);

    let table = this.root;
    for (let level = layout.startLevel; ; level++) {
      const index = layout.index(level, iovaLo, iovaHi);
      const slot = table + (index << 1);
      if (level === CACHED_LEVEL) this.#remember(table, index, iovaLo, iovaHi);
      tables.touch(slot, 1, PERM_READ);
      const desc = words[slot]!;
      if (desc === 0) return this.unexpected("not mapped", 0);
      if (level === target) {
        return this.removeRun(slot, layout.runLength(level, index, pgcount), level, iovaLo, iovaHi, gather);
      }
      if (!layout.isTable(desc, level)) {
        return this.partialUnmap();
      }
      table = this.tableAt(slot);
    }
  }

  /** {@link iovaToPhys} on an int32 pair: true when it found a leaf; the result is in {@link paLo} and {@link paHi}. */
  iovaToPhysPair(iovaLo: number, iovaHi: number): boolean {
    const { layout, tables, words } = this;
    if (this.outside(iovaLo, iovaHi)) return false;
    let table = this.root;
    for (let level = layout.startLevel; ; level++) {
      const index = layout.index(level, iovaLo, iovaHi);
      const slot = table + (index << 1);
      if (level === CACHED_LEVEL) this.#remember(table, index, iovaLo, iovaHi);
      tables.touch(slot, 1, PERM_READ);
      const lo = words[slot]!;
      if (lo === 0) return false;
      if (layout.isLeaf(lo, level)) {
        this.paLo = layout.addressLo(lo) | (iovaLo & layout.offsetLo(level));
        this.paHi = layout.addressHi(lo, words[slot + 1]!) | (iovaHi & layout.offsetHi(level));
        return true;
      }
      table = this.tableAt(slot);
    }
  }

  /** Visits the descriptors that translate `iova`, from the first level on. Returns 0, or -EINVAL at a hole. */
  walk(iova: number, visit: WalkVisitor): number {
    if (this.outside(lo32(iova), iovaHi32(iova))) return -ERRNO.EINVAL;
    return walkTo(this.#view(), iova, visit);
  }

  /** Visits every leaf in ascending order. */
  forEachLeaf(visit: LeafVisitor): void {
    visitLeaves(this.#view(), this.root, this.startLevel, this.sign === 0 ? 0 : -(2 ** this.ias), visit);
  }

  /**
   * Visits the leaves of `[iova, iova + size)` that were written to since they were clean, and makes them clean unless `noClear`.
   * @param gather told of each leaf that was made clean, unless `queued`: a TLB may hold it as writable and dirty, and further writes
   *   would not show. With null the caller owes that invalidation.
   * @returns 0, or -EINVAL (not stage 1 of VMSAv8-64, bad range, a hole)
   */
  readAndClearDirty(
    iova: number,
    size: number,
    noClear: boolean,
    visit: DirtyVisitor,
    gather: IotlbGather | null = null,
  ): number {
    const last = iova + size - 1;
    if (size <= 0 || this.outside(lo32(last), iovaHi32(last))) return this.warn("dirty range", -ERRNO.EINVAL);
    if (!this.format.dirty) return -ERRNO.EINVAL;
    const { tlb } = this.cfg;
    return visitDirty(this.#view(), iova, size, (slot, lo, start, span) => {
      visit(start, span);
      if (noClear) return;
      this.tables.touch(slot, 1, PERM_RW);
      this.clean(slot, lo);
      this.tables.sync(slot, 1);
      if (gather !== null && !gather.queued) tlb.addPage(gather, start, span);
    });
  }

  /** Invalidates everything and frees every table. The object must not be used afterwards. */
  free(): void {
    this.cfg.tlb.flushAll();
    flushWalkCache(this.walkCache);
    this.freeTable(this.root, this.startLevel, this.geometry.rootBytes);
  }

  /** Tells the gather about one leaf that went away. */
  protected gatherPage(gather: IotlbGather, iovaLo: number, iovaHi: number, pgsize: number): void {
    if (!gather.queued) this.cfg.tlb.addPage(gather, signedJoin(iovaLo, iovaHi), pgsize);
  }

  /** Puts the level-2 table in which an IOVA has `index` into the walk cache: of concatenated tables, the one that the key names. */
  #remember(table: number, index: number, iovaLo: number, iovaHi: number): void {
    const key = this.layout.keyOf(1, iovaLo, iovaHi);
    rememberTable(this.walkCache, key, table + ((index & -this.layout.tableEntries) << 1));
  }

  #view(): TableView {
    return { layout: this.layout, tables: this.tables, root: this.root, tableAt: (slot) => this.tableAt(slot) };
  }

  protected warn(reason: WarnReason, status: number): number {
    this.warnings++;
    this.cfg.onWarn?.(reason);
    return status;
  }

  /** A warning that `NO_WARN` silences. */
  protected unexpected(reason: WarnReason, status: number): number {
    return this.warnUnexpected ? this.warn(reason, status) : status;
  }

  /** An unmap met a leaf that is larger than what it was asked to unmap. One warning, whatever follows. */
  protected partialUnmap(): 0 {
    if (!this.warnedPartial) this.warn("partial unmap of a block", 0);
    this.warnedPartial = true;
    return 0;
  }

  protected outside(iovaLo: number, iovaHi: number): boolean {
    return (((iovaHi ^ this.sign) & this.rangeHi) | ((iovaLo ^ this.sign) & this.rangeLo)) !== 0;
  }

  /** What is wrong with the arguments of a map of `bytes` at level `target`, in Linux's order: 0 or -errno. */
  protected refusal(target: number, iovaLo: number, iovaHi: number, paLo: number, paHi: number, bytes: number, attr: number): number {
    if (target < 0) return this.warn("bad page size", -ERRNO.EINVAL);
    if (this.outside(iovaLo, iovaHi) || this.outputOutside(paLo, paHi, bytes)) {
      return this.warn("address out of range", -ERRNO.ERANGE);
    }
    return attr === 0 ? -ERRNO.EINVAL : 0;
  }

  /** True when bytes of the output range from `paHi:paLo` on are above `oas`. */
  protected outputOutside(paLo: number, paHi: number, bytes: number): boolean {
    return (paHi & this.outputHi) !== 0 || join(paLo, paHi) + bytes > this.outputEnd;
  }

  /** Makes the dirty leaf in `slot`, whose low word is `lo`, clean. */
  protected clean(slot: number, lo: number): void {
    this.words[slot] = lo | DESC.S1_RDONLY;
  }

  /** Slot of the table that the descriptor in `slot` points to. */
  protected tableAt(slot: number): number {
    const lo = this.words[slot]! & ~this.layout.foldMask;
    return (((this.words[slot + 1]! << 20) | (lo >>> 12)) - this.tables.basePage) << 10;
  }

  /** Puts a new table under the empty `slot`, which may be read and written. False without memory. */
  protected growAt(slot: number): boolean {
    const pa = this.tables.allocate(this.granule);
    if (pa >= 0) this.#addTable(slot, pa);
    return pa >= 0;
  }

  #writeLeaves(slot: number, n: number, level: number, paLo: number, paHi: number, pgsize: number, attr: number): void {
    const attrLo = (attr & ATTR_LO) | this.layout.leafType(level);
    writeRun(this.words, slot, n, paLo, paHi, pgsize, attrLo, attr & ~ATTR_LO);
    this.mappedPages = n;
  }

  /** Puts the table at `pa`, whose contents are written, under the empty `slot`. */
  #addTable(slot: number, pa: number): void {
    const { words } = this;
    const lo = lo32(pa);
    const hi = hi32(pa);
    words[slot + 1] = encodeHi(hi) | this.tableHi;
    words[slot] = encodeLo(lo, hi) | DESC_TYPE.TABLE;
    this.tables.sync(slot, 1);
  }

  /** Empties slots for leaves: a leaf in the way wins, a table gives way. */
  #makeWay(slot: number, n: number, level: number, iova: number): number {
    for (let i = 0; i < n; i++) {
      const at = slot + (i << 1);
      const desc = this.words[at]!;
      if (desc === 0) continue;
      if (this.layout.isLeaf(desc, level)) return this.unexpected("already mapped", -ERRNO.EEXIST);
      const block = iova + i * this.layout.spans[level]!;
      this.dropTable(at, level, lo32(block), iovaHi32(block));
    }
    return 0;
  }

  /** Unmaps up to `n` slots; returns how many. All are looked at before any leaf is cleared: the loads then stream. */
  protected removeRun(
    slot: number,
    n: number,
    level: number,
    iovaLo: number,
    iovaHi: number,
    gather: IotlbGather | null,
  ): number {
    const { tables, words } = this;
    const leaf = this.layout.leafType(level);
    const size = this.layout.spans[level]!;
    tables.touch(slot, n, PERM_RW);
    let done = 0;
    for (;;) {
      done += leadingLeaves(words, slot + (done << 1), n - done, leaf);
      if (done === n) break;
      const at = slot + (done << 1);
      if (words[at] === 0) {
        this.unexpected("not mapped", 0);
        break;
      }
      const iova = signedJoin(iovaLo, iovaHi) + done * size;
      this.dropTable(at, level, lo32(iova), iovaHi32(iova));
      done++;
    }
    clearRun(words, slot, done);
    if (done > 0) tables.sync(slot, done);
    if (gather !== null && !gather.queued) {
      const iova = signedJoin(iovaLo, iovaHi);
      for (let i = 0; i < done; i++) this.cfg.tlb.addPage(gather, iova + i * size, size);
    }
    return done;
  }

  /** Takes a table out: pointer first, then the walk caches, then its memory. */
  protected dropTable(slot: number, level: number, iovaLo: number, iovaHi: number): void {
    const table = this.tableAt(slot);
    const span = this.layout.spans[level]!;
    if (level < CACHED_LEVEL) flushWalkCache(this.walkCache);
    else forgetTable(this.walkCache, this.layout.keyOf(CACHED_LEVEL, iovaLo, iovaHi));
    clearRun(this.words, slot, 1);
    this.tables.sync(slot, 1);
    this.cfg.tlb.flushWalk(signedJoin(iovaLo, iovaHi), span, this.granule);
    this.freeTable(table, level + 1, this.granule);
  }

  /** Frees a table and those below it. */
  protected freeTable(table: number, level: number, bytes: number): void {
    const { layout, tables, words } = this;
    // Entries of the last level point at memory that is not ours.
    if (level < LAST_LEVEL) {
      const entries = layout.entriesOf(level);
      tables.touch(table, entries, PERM_READ);
      for (let i = 0; i < entries; i++) {
        const slot = table + (i << 1);
        if (layout.isTable(words[slot]!, level)) {
          this.freeTable(this.tableAt(slot), level + 1, this.granule);
        }
      }
    }
    tables.release(table, bytes);
  }
}
