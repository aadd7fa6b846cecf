// What the threads of the invalidation test share.

/** Words of {@link InvalidatingData.control}. */
export const CONTROL = { published: 0, stop: 1, lists: 2, late: 3, never: 4, words: 5 } as const;

export interface InvalidatingData {
  readonly arrays: readonly Int32Array[];
  readonly cell: Int32Array;
  readonly control: Int32Array;
  /** By StreamID: it has left for good. */
  readonly left: Int32Array;
  readonly seed: number;
  readonly keepsArray: boolean;
}
