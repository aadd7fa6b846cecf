/**
 * Linux error numbers that drivers and hypercalls return. Cores return `-ERRNO.EXXX` as a small integer; façades throw
 * {@link Errno}.
 */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  EINVAL: 22,
  ENOSPC: 28,
  EPIPE: 32,
  ERANGE: 34,
  ENOSYS: 38,
  EOPNOTSUPP: 95,
  ETIMEDOUT: 110,
  EPROBE_DEFER: 517,
} as const;

export type ErrnoCode = keyof typeof ERRNO;

const BRAND = "@smmuv3/Errno";
const NAMES: ReadonlyMap<number, ErrnoCode> = new Map(
  Object.entries(ERRNO).map(([code, value]) => [value, code as ErrnoCode]),
);

/** Name of an error number (positive or negative), or `errno N` when it is not one of {@link ERRNO}. */
export function errnoName(errno: number): string {
  return NAMES.get(Math.abs(errno)) ?? `errno ${Math.abs(errno)}`;
}

/**
 * A failed operation with its error number. Recognise it with {@link isErrno}: EL1 and EL2 are separate bundles, each
 * with its own copy of this class, so `instanceof` would not.
 */
export class Errno extends Error {
  readonly brand: string = BRAND;
  readonly code: string;
  /** Positive error number, as in {@link ERRNO}. */
  readonly errno: number;

  constructor(errno: ErrnoCode | number, message: string) {
    const value = typeof errno === "number" ? Math.abs(errno) : ERRNO[errno];
    super(`${errnoName(value)}: ${message}`);
    this.name = "Errno";
    this.code = errnoName(value);
    this.errno = value;
  }
}

/** True for an {@link Errno} of any copy of this module. */
export function isErrno(error: unknown): error is Errno {
  return typeof error === "object" && error !== null && "brand" in error && error.brand === BRAND;
}

/** Returns `status` when it is not negative, else throws it as {@link Errno}. */
export function orThrow(status: number, message: string): number {
  if (status < 0) throw new Errno(status, message);
  return status;
}
