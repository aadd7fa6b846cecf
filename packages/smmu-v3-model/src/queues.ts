/** Queue indices hold an index of `log2` bits and a wrap bit above it (IHI 0070 3.5.1). */

/** Index without the wrap bit. */
export function queueIndex(pointer: number, log2: number): number {
  return pointer & ((1 << log2) - 1);
}

/** Index and wrap bit. */
export function queuePointer(register: number, log2: number): number {
  return register & ((2 << log2) - 1);
}

/** The pointer after `pointer`. */
export function queueNext(pointer: number, log2: number): number {
  return (pointer + 1) & ((2 << log2) - 1);
}

export function queueEmpty(prod: number, cons: number, log2: number): boolean {
  return queuePointer(prod ^ cons, log2) === 0;
}

/** Same index, different wrap bit. */
export function queueFull(prod: number, cons: number, log2: number): boolean {
  return queuePointer(prod ^ cons, log2) === 1 << log2;
}
