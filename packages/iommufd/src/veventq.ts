import { UAPI_ERRNO } from "./errno.ts";
import type { EventFile } from "./files.ts";
import { IommufdObject } from "./objects.ts";
import { VEVENTQ_FLAG } from "./uapi.ts";
import type { ViommuObject } from "./viommu.ts";

const HEADER_BYTES = 8;
const INT_MAX = 0x7fff_ffff;

interface Vevent {
  sequence: number;
  /** `undefined`: the header that says that events were lost. */
  readonly data: Int32Array | undefined;
}

/** Events of one type for one virtual machine. */
export class Veventq extends IommufdObject implements EventFile {
  readonly kind = "veventq";
  readonly viommu: ViommuObject;
  readonly type: number;
  readonly #depth: number;
  readonly #queue: Vevent[] = [];
  readonly #lost: Vevent = { sequence: 0, data: undefined };
  #events = 0;
  #sequence: number;

  /** @param sequence of the first event */
  constructor(viommu: ViommuObject, type: number, depth: number, sequence: number = 0) {
    super();
    this.viommu = viommu;
    this.type = type;
    this.#depth = depth;
    this.#sequence = sequence;
    viommu.users++;
    viommu.veventqs.set(type, this);
  }

  get readable(): boolean {
    return this.#queue.length > 0;
  }

  /** Appends an event; where there is no room, the note that it was lost: one, at the end, however many they are. */
  report(data: Int32Array): number {
    let event: Vevent = this.#lost;
    if (this.#events < this.#depth) {
      this.#events++;
      event = { sequence: 0, data: data.slice() };
    }
    // The note counts events from where it is: what follows shows the gap by its own number.
    if (this.#queue.at(-1) === this.#lost) this.#queue.pop();
    event.sequence = this.#sequence;
    this.#sequence = this.#sequence === INT_MAX ? 0 : this.#sequence + 1;
    this.#queue.push(event);
    return 0;
  }

  read(count: number): Uint8Array {
    const words: number[] = [];
    for (let event = this.#queue[0]; event !== undefined; event = this.#queue[0]) {
      const bytes = HEADER_BYTES + (event.data?.length ?? 0) * 4;
      if (words.length * 4 + bytes > count) break;
      this.#queue.shift();
      if (event.data !== undefined) this.#events--;
      words.push(event.data === undefined ? VEVENTQ_FLAG.lostEvents : 0, event.sequence, ...(event.data ?? []));
    }
    return new Uint8Array(Int32Array.from(words).buffer);
  }

  write(): number {
    return -UAPI_ERRNO.EINVAL;
  }

  release(): void {
    this.users--;
  }

  destroy(): void {
    this.viommu.veventqs.delete(this.type);
    this.viommu.users--;
  }
}
