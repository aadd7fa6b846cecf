// A walk cache like the hardware's, for the specialised classes: one array, because each array that a hot path reads costs it five
// loads. Direct mapped; an entry is two words, the key (the IOVA's bits above what the table resolves) and the slot of the table.
//
//   [0, 512)      tables of level 2, 256 entries: with 4K pages, 256 GiB
//   [512, 576)    leaf attributes by prot
//   [1024, 2048)  tables of level 3, 512 entries: with 4K pages, 1 GiB
//
// What a key names changes only when its table is freed.

/** Mask of a doubled key: the word index of its entry. */
const MASK_2 = 0x1fe;
const MASK_3 = 0x3fe;
const ATTRIBUTES = 512;
const LEVEL_3 = 1024;
const WORDS = 2048;
/** Keys are not negative. */
const NONE = -1;

/** An empty cache. */
export function newWalkCache(attributes: Int32Array): Int32Array {
  const cache = new Int32Array(WORDS).fill(NONE);
  cache.set(attributes, ATTRIBUTES);
  return cache;
}

/** Notes where the level-2 table of a key is. */
export function rememberTable(cache: Int32Array, key: number, slot: number): void {
  const at = (key << 1) & MASK_2;
  cache[at] = key;
  cache[at | 1] = slot;
}

/** The level-3 table of a key goes away. */
export function forgetTable(cache: Int32Array, key: number): void {
  cache[LEVEL_3 | ((key << 1) & MASK_3)] = NONE;
}

/** A table above level 3 goes away. */
export function flushWalkCache(cache: Int32Array): void {
  cache.fill(NONE, 0, ATTRIBUTES);
  cache.fill(NONE, LEVEL_3);
}
