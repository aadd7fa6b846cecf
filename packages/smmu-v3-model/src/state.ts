/** The state of an SMMU: JSON for what is small, and the arrays. The memory it works on is saved by whoever owns it. */
export interface SmmuState {
  readonly json: string;
  readonly binary: Uint8Array;
}

const FORMAT = "smmuv3-state";
/** Raised whenever what is saved changes. */
const VERSION = 1;

interface Header {
  readonly format: string;
  readonly version: number;
  readonly values: Readonly<Record<string, unknown>>;
  /** First word and number of words by name. */
  readonly arrays: Readonly<Record<string, readonly [at: number, length: number]>>;
}

/** Collects the state of all parts, each under names of its own. */
export class StateWriter {
  readonly #values: Record<string, unknown> = {};
  readonly #arrays: Record<string, readonly [number, number]> = {};
  readonly #chunks: Int32Array[] = [];
  #words = 0;

  /** A value that JSON can hold. */
  put(name: string, value: unknown): void {
    this.#values[name] = value;
  }

  /** An array whose length is part of the state. */
  array(name: string, words: Int32Array): void {
    this.#arrays[name] = [this.#words, words.length];
    this.#chunks.push(words.slice());
    this.#words += words.length;
  }

  /** An array of fixed length that is zero nearly everywhere: pairs of index and value. */
  sparse(name: string, words: Int32Array): void {
    const pairs: number[] = [];
    for (let i = 0; i < words.length; i++) if (words[i] !== 0) pairs.push(i, words[i]!);
    this.array(name, Int32Array.from(pairs));
  }

  finish(): SmmuState {
    const all = new Int32Array(this.#words);
    let at = 0;
    for (const chunk of this.#chunks) {
      all.set(chunk, at);
      at += chunk.length;
    }
    const header: Header = { format: FORMAT, version: VERSION, values: this.#values, arrays: this.#arrays };
    return { json: JSON.stringify(header), binary: new Uint8Array(all.buffer) };
  }
}

/** Reads what a {@link StateWriter} has written. Throws TypeError for anything else. */
export class StateReader {
  readonly #header: Header;
  readonly #words: Int32Array;

  constructor(state: SmmuState) {
    const header = JSON.parse(state.json) as Partial<Header> | null;
    if (header?.format !== FORMAT || header.values === undefined || header.arrays === undefined) {
      throw new TypeError(`SmmuV3: the state is not of format ${FORMAT}`);
    }
    if (header.version !== VERSION) {
      throw new TypeError(`SmmuV3: the state is of version ${String(header.version)}, not ${VERSION}`);
    }
    this.#header = header as Header;
    // A copy: the bytes need not be aligned where they come from.
    this.#words = new Int32Array(Uint8Array.from(state.binary.subarray(0, state.binary.length & ~3)).buffer);
    for (const [name, [at, length]] of Object.entries(header.arrays)) {
      if (at + length > this.#words.length) throw new TypeError(`SmmuV3: the state has no "${name}"`);
    }
  }

  /** What was {@link StateWriter.put | put} under `name`. */
  get(name: string): unknown {
    if (!Object.hasOwn(this.#header.values, name)) throw new TypeError(`SmmuV3: the state has no "${name}"`);
    return this.#header.values[name];
  }

  array(name: string): Int32Array<ArrayBuffer> {
    const found = this.#header.arrays[name];
    if (found === undefined) throw new TypeError(`SmmuV3: the state has no "${name}"`);
    return this.#words.slice(found[0], found[0] + found[1]);
  }

  /** Restores an array of fixed length. */
  sparse(name: string, words: Int32Array): void {
    const pairs = this.array(name);
    words.fill(0);
    for (let i = 0; i < pairs.length; i += 2) words[pairs[i]!] = pairs[i + 1]!;
  }

  /** Throws unless `value` is what was saved under `name`. */
  expect(name: string, value: unknown): void {
    if (JSON.stringify(this.get(name)) !== JSON.stringify(value)) throw new TypeError(`SmmuV3: the state is of an SMMU with another ${name}`);
  }
}
