/** A power of 2: with 4K pages, the level-2 tables of 256 GiB. */
const ENTRIES = 256;
/** Mask of a doubled key: the word index of its entry. */
export const WALK_CACHE_MASK: number = (ENTRIES - 1) << 1;
/** Keys are not negative. */
const NONE = -1;

/**
 * A walk cache like the hardware's: where the level-2 table of an input range is. Direct mapped; an entry is two words, the key (the
 * IOVA's bits above level 2) and the slot of the table. What a key names changes only when a level-2 table is freed.
 */
export function newWalkCache(): Int32Array {
  return new Int32Array(2 * ENTRIES).fill(NONE);
}

export function flushWalkCache(cache: Int32Array): void {
  cache.fill(NONE);
}
