import type { Violation } from "./op.ts";

/** Owner of a page: the host, EL2, or the VM with handle `owner - 1`. */
export const OWNER = { host: 0, hyp: 1 } as const;

/** Bits that the ledger keeps with a page. */
export const PAGE = {
  /** The host shared it with EL2. */
  shared: 1,
  /** The host gave it to EL2 by itself and may have it back. */
  donated: 2,
  /** Its VM is gone; it waits for the host. */
  reclaim: 4,
  /** EL2 uses it where the host agreed to that, for good. */
  pinned: 8,
  /** In a pool of EL2, which gives back what it does not use. */
  pool: 16,
  /** Its VM lets the host use it. */
  borrowed: 32,
} as const;

/** State of a stream for which the order of calls is not known. */
export const UNKNOWN_STATE = -1;

/** An answer of EL2 that the ABI's words forbid. */
export function wrong(text: string, invariant: string = "ownership"): Violation {
  return { invariant, text };
}
