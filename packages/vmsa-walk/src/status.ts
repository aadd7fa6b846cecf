/**
 * Outcome of a walk. The order inside one stage is: input range, then for each level the fetch (external abort), the descriptor
 * type, the size of its output address; then the access flag, then permissions (IHI 0070, 7.3 and the order of 3.4).
 */
export const WALK = {
  OK: 0,
  TRANSLATION: 1,
  ADDRESS_SIZE: 2,
  ACCESS_FLAG: 3,
  PERMISSION: 4,
  EXTERNAL_ABORT: 5,
} as const;

export type WalkStatus = (typeof WALK)[keyof typeof WALK];

/**
 * Permission bits of a translation, and what an access needs of them. The three unprivileged bits come first, so that bit 0
 * and bit 1 mean the same as in `Memory.perm`.
 */
export const PERM = {
  READ: 1,
  WRITE: 2,
  EXECUTE: 4,
  PRIV_READ: 8,
  PRIV_WRITE: 16,
  PRIV_EXECUTE: 32,
  ALL: 63,
  /**
   * Only as a need, and only of stage 2: the access is refused where the leaf is any Device type. It is what STE.S2PTW asks of
   * fetches of CDs and stage-1 descriptors.
   */
  NOT_DEVICE: 64,
} as const;

/** Both write rights. */
export const WRITES: number = PERM.WRITE | PERM.PRIV_WRITE;
