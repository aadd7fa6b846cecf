// Lines and events that wait for their other half. Every list is short when a recording is complete, and bounded when not.

/**
 * Events of the same kind on a CPU after which a half that is still alone is given up. A task that was preempted between
 * its two halves waits for a time slice, in which others map some hundred times.
 */
const PATIENCE = 4096;
/** Events between two looks at what has waited too long; a power of two. */
const LOOK_EVERY = 1024;
/** Halves that wait on one CPU, before the oldest is given up. One allocation of 256 MiB in single pages is as many. */
const CAPACITY = 65536;

/** What every half that waits has. */
export interface Waiting {
  readonly pid: number;
  /** {@link WaitingList.clock} when it came. */
  readonly since: number;
}

/** The halves of one kind that wait on one CPU, oldest first. */
export class WaitingList<T extends Waiting> {
  readonly items: T[] = [];
  /** Events that could have ended the wait of an item. */
  clock: number = 0;
  readonly #giveUp: (item: T) => void;

  constructor(giveUp: (item: T) => void) {
    this.#giveUp = giveUp;
  }

  add(item: T): void {
    this.items.push(item);
    // Half of them at once: taking one from the front of a long array moves all the others.
    if (this.items.length > CAPACITY) this.#giveUpOldest(CAPACITY / 2);
  }

  /** Counts an event, and gives up what has waited for too many. */
  tick(): void {
    this.clock++;
    if ((this.clock & (LOOK_EVERY - 1)) !== 0 || this.items.length === 0) return;
    const fresh = this.items.findIndex((item) => this.clock - item.since <= PATIENCE);
    this.#giveUpOldest(fresh < 0 ? this.items.length : fresh);
  }

  /** Takes the item at `index` out. */
  removeAt(index: number): T {
    const item = this.items[index]!;
    if (index === this.items.length - 1) this.items.pop();
    else this.items.splice(index, 1);
    return item;
  }

  /** Gives everything up. */
  clear(): void {
    this.#giveUpOldest(this.items.length);
  }

  #giveUpOldest(count: number): void {
    for (const item of this.items.splice(0, count)) this.#giveUp(item);
  }
}

/** A `map:` line. */
export interface MapLine extends Waiting {
  readonly iova: number;
  readonly end: number;
  readonly pa: number;
}

/** An `unmap:` line. */
export interface UnmapLine extends Waiting {
  readonly iova: number;
  readonly end: number;
  /** A `dma_unmap_sg`, which comes before its line, was waiting for one that looks like this. */
  readonly afterEvent: boolean;
}

/**
 * Takes the lines out of `list` that map [iova, end) without a gap, in ascending order, from the newest backwards; only
 * those of `pid`, or of any task when `pid` is negative. With `open`, also lines that continue the range beyond `end`.
 * Lines of one call are printed in ascending order and without a gap; an interrupt's lines may lie between them.
 */
export function takeRange(list: WaitingList<MapLine>, pid: number, iova: number, end: number, open: boolean): MapLine[] {
  const { items } = list;
  const taken: MapLine[] = [];
  let lowest = Number.POSITIVE_INFINITY;
  let newest = -1;
  for (let i = items.length - 1; i >= 0 && lowest > iova; i--) {
    const line = items[i]!;
    if ((pid >= 0 && line.pid !== pid) || line.iova >= end || line.end <= iova || line.end > lowest) continue;
    if (newest < 0) newest = i;
    else newest--;
    lowest = line.iova;
    taken.push(list.removeAt(i));
  }
  taken.reverse();
  if (open && newest >= 0) {
    let next = taken[taken.length - 1]!.end;
    for (let i = newest; i < items.length; ) {
      const line = items[i]!;
      if (line.iova === next && (pid < 0 || line.pid === pid)) {
        next = line.end;
        taken.push(list.removeAt(i));
      } else i++;
    }
  }
  return taken;
}
