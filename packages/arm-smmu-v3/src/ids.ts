/** Lowest-free allocator of small integers (ASIDs, VMIDs). */
export class IdAllocator {
  readonly #taken = new Set<number>();

  /** Lowest free id in `[1, last]`, or -1 when none is left. */
  alloc(last: number): number {
    for (let id = 1; id <= last; id++) {
      if (this.#taken.has(id)) continue;
      this.#taken.add(id);
      return id;
    }
    return -1;
  }

  free(id: number): void {
    this.#taken.delete(id);
  }

  /** Ids in use. */
  get size(): number {
    return this.#taken.size;
  }
}
