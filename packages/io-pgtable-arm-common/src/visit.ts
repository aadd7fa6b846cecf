import { ERRNO, PERM_READ, join, lo32 } from "@smmuv3/platform";
import { iovaHi32 } from "./address.ts";
import { DESC } from "./descriptor.ts";
import type { TableLayout } from "./table-layout.ts";
import type { TableMemory } from "./table-memory.ts";

/** Called for each descriptor on the way to an address. */
export type WalkVisitor = (level: number, lo: number, hi: number) => void;
/** Called for each leaf: input address, bytes, output address, descriptor words, level. */
export type LeafVisitor = (iova: number, size: number, pa: number, lo: number, hi: number, level: number) => void;
/** Called for each dirty leaf. */
export type DirtyVisitor = (iova: number, size: number) => void;

/** Tables as the visitors see them. */
export interface TableView {
  readonly layout: TableLayout;
  readonly tables: TableMemory;
  /** Slot of the first table. */
  readonly root: number;
  /** Slot of the table that the descriptor in `slot` points to. */
  tableAt(slot: number): number;
}

/** Slot and level of the leaf that a search ended at. */
interface Position {
  slot: number;
  level: number;
}

/** Walks to `iova`, visiting every descriptor; undefined at a hole. */
function find(view: TableView, iova: number, visit: WalkVisitor): Position | undefined {
  const { layout, tables } = view;
  let table = view.root;
  for (let level = layout.startLevel; ; level++) {
    const slot = table + (layout.index(level, lo32(iova), iovaHi32(iova)) << 1);
    tables.touch(slot, 1, PERM_READ);
    const lo = tables.words[slot]!;
    visit(level, lo, tables.words[slot + 1]!);
    if ((lo & 1) === 0) return undefined;
    if (layout.isLeaf(lo, level)) return { slot, level };
    table = view.tableAt(slot);
  }
}

export function walkTo(view: TableView, iova: number, visit: WalkVisitor): number {
  return find(view, iova, visit) === undefined ? -ERRNO.EINVAL : 0;
}

/** Visits the leaves below `table`, whose first descriptor covers `iova`. */
export function visitLeaves(view: TableView, table: number, level: number, iova: number, visit: LeafVisitor): void {
  const { layout, tables } = view;
  const entries = layout.entriesOf(level);
  const size = layout.spans[level]!;
  tables.touch(table, entries, PERM_READ);
  for (let i = 0; i < entries; i++) {
    const slot = table + (i << 1);
    const lo = tables.words[slot]!;
    if ((lo & 1) === 0) continue;
    const at = iova + i * size;
    if (layout.isLeaf(lo, level)) {
      const hi = tables.words[slot + 1]!;
      visit(at, size, join(layout.addressLo(lo), layout.addressHi(lo, hi)), lo, hi, level);
    } else {
      visitLeaves(view, view.tableAt(slot), level + 1, at, visit);
    }
  }
}

/** Visits the dirty leaves of `[iova, iova + size)`: slot, low word, input address, bytes. 0, or -EINVAL at a hole. */
export function visitDirty(
  view: TableView,
  iova: number,
  size: number,
  visit: (slot: number, lo: number, start: number, span: number) => void,
): number {
  const { layout, tables } = view;
  const { words } = tables;
  for (let at = iova; at < iova + size; ) {
    const position = find(view, at, () => undefined);
    if (position === undefined) return -ERRNO.EINVAL;
    const { slot, level } = position;
    const span = layout.spans[level]!;
    const start = Math.floor(at / span) * span;
    const lo = words[slot]!;
    if ((words[slot + 1]! & DESC.S1_DBM_HI) !== 0 && (lo & DESC.S1_RDONLY) === 0) visit(slot, lo, start, span);
    at = start + span;
  }
  return 0;
}
