import type { IotlbGather } from "./config.ts";
import { IoPgtable } from "./io-pgtable.ts";

/**
 * 4K granule: level 2 resolves IOVA bits 29:21, level 3 bits 20:12; all above is the key of the walk cache.
 *
 * Each method is one pass for one leaf. Whatever is unusual (a table missing, memory that is not permitted, a conflict, a run, an
 * error) is left to the general method, with nothing changed. Descriptors of this code are never of type 2, so bit 1 alone tells a
 * table from a block or a hole. RAM is at most 4 GiB, so the low word of an address tells where a table is. Numbers are literals,
 * also 0x1fe (WALK_CACHE_MASK): V8 reads an imported constant from memory and checks it on each use.
 */
export class IoPgtable4k extends IoPgtable {
  override mapPagesPair(
    iovaLo: number,
    iovaHi: number,
    paLo: number,
    paHi: number,
    pgsize: number,
    pgcount: number,
    prot: number,
  ): number {
    const attr = this.attributes[prot & 63]!;
    if (pgcount === 1 && ((iovaHi & this.rangeHi) | (paHi & this.outputHi)) === 0 && attr !== 0) {
      const slot = this.slotOf(iovaLo, iovaHi, pgsize);
      const words = this.words;
      if (slot >= 0 && words[slot] === 0) {
        words[slot | 1] = (paHi & 0xffff) | (attr & 0x68_0000);
        words[slot] = (paLo & ~0xfff) | (attr & 0xfff) | (pgsize === 0x1000 ? 3 : 1);
        this.mappedPages = 1;
        return 0;
      }
    }
    return super.mapPagesPair(iovaLo, iovaHi, paLo, paHi, pgsize, pgcount, prot);
  }

  override unmapPagesPair(
    iovaLo: number,
    iovaHi: number,
    pgsize: number,
    pgcount: number,
    gather: IotlbGather | null,
  ): number {
    if (pgcount === 1 && (iovaHi & this.rangeHi) === 0) {
      const slot = this.slotOf(iovaLo, iovaHi, pgsize);
      const words = this.words;
      if (slot >= 0 && (words[slot]! & 1) !== 0) {
        if (pgsize !== 0x1000 && (words[slot]! & 2) !== 0) this.dropTable(slot, pgsize === 0x20_0000 ? 2 : 1, iovaLo, iovaHi);
        words[slot] = 0;
        words[slot | 1] = 0;
        if (gather !== null) this.gatherPage(gather, iovaLo, iovaHi, pgsize);
        return 1;
      }
    }
    return super.unmapPagesPair(iovaLo, iovaHi, pgsize, pgcount, gather);
  }

  override iovaToPhysPair(iovaLo: number, iovaHi: number): boolean {
    const words = this.words;
    const perm = this.perm;
    const cache = this.walkCache;
    const inputHi = iovaHi & this.inputHi;
    const key = (inputHi << 2) | (iovaLo >>> 30);
    const at = (key << 1) & 0x1fe;
    fast: if (cache[at] === key) {
      let slot = cache[at | 1]! | ((iovaLo >>> 20) & 0x3fe);
      let desc = words[slot]!;
      if ((perm[slot >>> 10]! & 1) === 0) break fast;
      let offset = 0x1f_ffff;
      if ((desc & 2) !== 0) {
        slot = (((desc - this.baseLo) >>> 2) & 0x3fff_fc00) | ((iovaLo >>> 11) & 0x3fe);
        desc = words[slot]!;
        if ((desc & 2) === 0 || (perm[slot >>> 10]! & 1) === 0) break fast;
        offset = 0xfff;
      } else if ((desc & 1) === 0) break fast;
      this.paLo = (desc & ~0xfff) | (iovaLo & offset);
      this.paHi = words[slot | 1]! & 0xffff;
      return true;
    }
    return super.iovaToPhysPair(iovaLo, iovaHi);
  }

  /** Slot of the leaf of `pgsize` bytes, which may be read and written; -1 when anything is unusual. */
  private slotOf(iovaLo: number, iovaHi: number, pgsize: number): number {
    if (pgsize === 0x4000_0000) return this.slotOf1G(iovaLo, iovaHi);
    const perm = this.perm;
    const cache = this.walkCache;
    const key = (iovaHi << 2) | (iovaLo >>> 30);
    const at = (key << 1) & 0x1fe;
    if (cache[at] !== key) return -1;
    let slot = cache[at | 1]! | ((iovaLo >>> 20) & 0x3fe);
    if (pgsize === 0x1000) {
      const desc = this.words[slot]!;
      if ((desc & 2) === 0 || (perm[slot >>> 10]! & 1) === 0) return -1;
      slot = (((desc - this.baseLo) >>> 2) & 0x3fff_fc00) | ((iovaLo >>> 11) & 0x3fe);
    } else if (pgsize !== 0x20_0000 || (this.sizes & 0x20_0000) === 0) {
      return -1;
    }
    return (perm[slot >>> 10]! & 3) === 3 ? slot : -1;
  }

  /** The same for 1 GiB, at level 1: bits 38:30 below a first level that resolves 47:39, or more bits of a first level. */
  private slotOf1G(iovaLo: number, iovaHi: number): number {
    const perm = this.perm;
    const index = (iovaHi << 3) | (iovaLo >>> 29);
    let slot = this.root;
    if (this.startLevel === 0) {
      slot |= (iovaHi >>> 6) & this.rootMask;
      const desc = this.words[slot]!;
      if ((desc & 2) === 0 || (perm[slot >>> 10]! & 1) === 0) return -1;
      slot = (((desc - this.baseLo) >>> 2) & 0x3fff_fc00) | (index & 0x3fe);
    } else if (this.startLevel === 1) {
      slot = (slot + (index & this.rootMask)) | 0;
    } else {
      return -1;
    }
    return (this.sizes & 0x4000_0000) !== 0 && (perm[slot >>> 10]! & 3) === 3 ? slot : -1;
  }
}
