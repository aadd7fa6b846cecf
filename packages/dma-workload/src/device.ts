import type { MapOperation } from "./operation.ts";

/** A mapping that has not been unmapped. */
export interface Live {
  readonly operation: MapOperation;
  /** First and last + 1 IOVA of its `map:` lines. */
  readonly start: number;
  readonly end: number;
}

/** IOVA granules a mapping may begin on; its DMA address lies within the first one. */
const GRANULES = [4096, 16384, 65536] as const;

/** What the recording has told about a device. Each has an address space of its own. */
export class TracedDevice {
  readonly name: string;
  /** True from the first operation that names it. */
  seen: boolean = false;
  /** Line of its last attach, 0 before the first. */
  attachedAt: number = 0;
  /** Task of that attach. */
  attachedBy: number = -1;
  /** Its domain has a doorbell mapping. */
  doorbell: boolean = false;
  readonly #live = new Map<number, Live>();

  constructor(name: string) {
    this.name = name;
  }

  get liveCount(): number {
    return this.#live.size;
  }

  add(live: Live): void {
    this.#live.set(live.start, live);
  }

  startingAt(start: number): Live | undefined {
    return this.#live.get(start);
  }

  /** The mapping whose DMA address is `iova`. */
  find(iova: number): Live | undefined {
    for (const granule of GRANULES) {
      const live = this.#live.get(iova - (iova % granule));
      if (live?.operation.iova === iova) return live;
    }
    return undefined;
  }

  remove(live: Live): void {
    this.#live.delete(live.start);
  }
}
