/** Who caused a counted event. */
export const LEVEL = { el1: 0, el2: 1, device: 2 } as const;
export type Level = keyof typeof LEVEL;
const LEVELS = Object.keys(LEVEL) as Level[];

/** A counter's values by level, and their sum. */
export interface CounterReading {
  readonly el1: number;
  readonly el2: number;
  readonly device: number;
  readonly total: number;
}

/**
 * Event counters. A name is registered once and gives an id; counting is one add on a typed array. The level is part of the
 * id: `id + LEVEL.el2` counts for EL2.
 */
export class Counters {
  /** Three values a counter, in the order of {@link LEVEL}. */
  readonly values: Float64Array<ArrayBuffer>;
  readonly #names = new Map<string, number>();

  /** Room for `capacity` names. */
  constructor(capacity: number = 64) {
    this.values = new Float64Array(capacity * LEVELS.length);
  }

  /** Id of `name`, registered on first use. Throws RangeError when the table is full. */
  id(name: string): number {
    const known = this.#names.get(name);
    if (known !== undefined) return known;
    const id = this.#names.size * LEVELS.length;
    if (id >= this.values.length) throw new RangeError(`Counters: no room for "${name}"`);
    this.#names.set(name, id);
    return id;
  }

  /** Adds `count` to `id`, which includes the level. */
  add(id: number, count: number): void {
    this.values[id]! += count;
  }

  /** Reading of one name; zeros when nobody registered it. */
  read(name: string): CounterReading {
    const id = this.#names.get(name);
    const at = (level: Level): number => (id === undefined ? 0 : this.values[id + LEVEL[level]]!);
    const el1 = at("el1");
    const el2 = at("el2");
    const device = at("device");
    return { el1, el2, device, total: el1 + el2 + device };
  }

  /** Registered names, in order of registration. */
  names(): string[] {
    return [...this.#names.keys()];
  }

  /** Sets every value to zero; names stay. */
  reset(): void {
    this.values.fill(0);
  }
}
