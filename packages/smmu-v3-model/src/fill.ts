import { PERM } from "@smmuv3/vmsa-walk";
import type { Stage1Walker, Stage2Walker } from "@smmuv3/vmsa-walk";
import type { TlbFill } from "./tlb.ts";

const UNPRIVILEGED = PERM.READ | PERM.WRITE | PERM.EXECUTE;
/** Access flag of a descriptor: what has it clear is not kept (16.2). */
const AF = 0x400;

/** Bits of {@link TlbFill.clean}: the leaf of that stage is writable-clean, and a write has to mark it dirty first (3.13.3). */
export const CLEAN = { S1: 1, S2: 2 } as const;

/** {@link TlbFill.attributes}: AttrIndx[2:0], SH[1:0] of stage 1, MemAttr[3:0], SH[1:0] of stage 2. */
export const RAW = { SH1: 3, MEM_ATTR: 5, SH2: 9 } as const;

/** A fill with nothing in it. */
export function emptyFill(): TlbFill {
  return {
    pageShift: 12, leafShift: 12, level: 3, global: false, paLo: 0, paHi: 0, ipaLo: 0, ipaHi: 0, perm: 0, perm2: 0,
    clean: 0, attributes: 0,
  };
}

/**
 * Takes what a walk of stage 1 found, which ended well or was refused for its permissions.
 * @param nested stage 2 took part
 * @param single the stream's regime has no ASIDs, and so no global pages
 * @param e0pd unprivileged accesses to this half fault, whatever the page says
 */
export function fillStage1(fill: TlbFill, walker: Stage1Walker, nested: boolean, single: boolean, e0pd: boolean): void {
  const { stage2 } = walker;
  fill.pageShift = nested ? Math.min(walker.shift, stage2.shift) : walker.shift;
  fill.leafShift = walker.shift;
  fill.level = walker.level;
  fill.global = walker.global && !single;
  fill.paLo = nested ? stage2.paLo : walker.paLo;
  fill.paHi = nested ? stage2.paHi : walker.paHi;
  fill.ipaLo = walker.ipaLo;
  fill.ipaHi = walker.ipaHi;
  fill.perm = e0pd ? walker.perm & ~UNPRIVILEGED : walker.perm;
  fill.perm2 = nested ? stage2.perm : PERM.ALL;
  fill.clean = (walker.clean ? CLEAN.S1 : 0) | (nested && stage2.clean ? CLEAN.S2 : 0);
  fill.attributes = walker.attrIndex | (walker.shareability << RAW.SH1) | (nested ? rawStage2(stage2) : 0);
}

/** The same for stage 2 alone, with the input `lo`, `hi`. */
export function fillStage2(fill: TlbFill, walker: Stage2Walker, lo: number, hi: number): void {
  fill.pageShift = walker.shift;
  fill.leafShift = walker.shift;
  fill.level = walker.level;
  fill.global = false;
  fill.paLo = walker.paLo;
  fill.paHi = walker.paHi;
  fill.ipaLo = lo;
  fill.ipaHi = hi;
  fill.perm = PERM.ALL;
  fill.perm2 = walker.perm;
  fill.clean = walker.clean ? CLEAN.S2 : 0;
  fill.attributes = rawStage2(walker);
}

function rawStage2(walker: Stage2Walker): number {
  return (walker.memAttr << RAW.MEM_ATTR) | (walker.shareability << RAW.SH2);
}

/** A walk that was refused for its permissions left descriptors that may be cached all the same. */
export function cacheable(walker: Stage1Walker | Stage2Walker): boolean {
  return (walker.descLo & AF) !== 0;
}
