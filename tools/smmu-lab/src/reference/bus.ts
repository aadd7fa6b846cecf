/** Physical memory as a walk reads it. Words are little-endian, low word first. */
export interface Bus {
  /**
   * `count` words at `pa`, which is 8-byte aligned; they do not cross a page. Undefined where nothing answers (external abort).
   * Throws {@link UnknownPage} where nobody knows what is there.
   */
  read(pa: bigint, count: number): Int32Array | undefined;
}

/** The content of a page was not recorded: what it holds is not guessed. */
export class UnknownPage extends Error {
  readonly pa: bigint;

  constructor(pa: bigint) {
    super(`page ${hex(pa & ~0xfffn)} is not in the dump`);
    this.name = "UnknownPage";
    this.pa = pa;
  }
}

/** `0x` form of an address or a 64-bit value. */
export function hex(value: bigint | number): string {
  return `0x${value.toString(16)}`;
}

/** The 64-bit value at word `at`. */
export function pair(words: Int32Array, at: number = 0): bigint {
  return (BigInt(words[at + 1]! >>> 0) << 32n) | BigInt(words[at]! >>> 0);
}

/** 64-bit values of consecutive words. */
export function pairs(words: Int32Array): bigint[] {
  return Array.from({ length: words.length / 2 }, (_, i) => pair(words, i * 2));
}
