/** What an entry translates from: the StreamWorld, or IPAs where stage 2 is the only stage. */
export const KIND = { EL1: 0, IPA: 1, EL2: 2 } as const;

/** Where TLB entries are and what their keys are made of. Hot modules take copies: a compiler sees constants of one module only. */
export const LAYOUT = {
  WAYS: 4,
  /** Words of an entry and of a set, and log2 of that. */
  ENTRY: 8,
  SET: 32,
  SET_SHIFT: 5,
  /** Multiplier of the hash; its high bits choose the set. 2^32 over the golden ratio. */
  MIX: -0x61c8_864f,
  /** Word 2 of a key: VA[63:44], kind, global, log2 of the size. */
  KIND_SHIFT: 20,
  GLOBAL: 0x40_0000,
  SIZE_SHIFT: 24,
  PAGE_SIZE_4K: 0xc00_0000,
} as const;

/** Hash of a context; `tag` is ASID | VMID << 16. */
export function contextHash(tag: number, kind: number): number {
  return Math.imul(tag ^ (kind << 30), 0x9e37_79b1);
}
