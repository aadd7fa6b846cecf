/** A field that is not what its event should have; the reader adds file and line. */
export class FieldError extends Error {}

const ZERO = 0x30;
const SPACE = 0x20;
const COLON = 0x3a;
const DASH = 0x2d;
const DOT = 0x2e;
/** `"%16s-%-7d "`: ftrace pads the task name, so the dash before the PID has a fixed place whatever the name holds. */
const DASH_COLUMN = 16;
/** Where else a dash is looked for, when a tool has trimmed the padding. */
const LAST_DASH_COLUMN = 64;

const isDigit = (byte: number): boolean => byte >= ZERO && byte <= ZERO + 9;

/** Value of a hexadecimal digit, -1 for any other byte. */
function nibble(byte: number): number {
  if (byte <= 0x39) return byte >= ZERO ? byte - ZERO : -1;
  const letter = byte | 0x20;
  return letter >= 0x61 && letter <= 0x66 ? letter - 0x57 : -1;
}

/** Reads the fields of one line of bytes, left to right, without making strings. */
export class LineScanner {
  bytes: Uint8Array = new Uint8Array(0);
  position: number = 0;
  end: number = 0;
  /** Of the event line, after {@link prefix} returned true. */
  pid: number = 0;
  cpu: number = 0;
  nameStart: number = 0;
  nameEnd: number = 0;

  set(bytes: Uint8Array, start: number, end: number): void {
    this.bytes = bytes;
    this.position = start;
    this.end = end;
  }

  /**
   * Reads `task-pid (tgid) [cpu] flags timestamp: event: ` up to the event's fields; TGID and flags are there or not,
   * depending on the recorder's options. False when the line is not of that form.
   */
  prefix(): boolean {
    const start = this.position;
    const fixed = start + DASH_COLUMN;
    if (fixed < this.end && this.bytes[fixed] === DASH && this.#afterDash(fixed + 1)) return true;
    const last = Math.min(this.end, start + LAST_DASH_COLUMN);
    for (let at = start; at < last; at++) if (this.bytes[at] === DASH && this.#afterDash(at + 1)) return true;
    return false;
  }

  #afterDash(start: number): boolean {
    const { bytes, end } = this;
    let at = start;
    let pid = 0;
    for (; at < end && isDigit(bytes[at]!); at++) pid = pid * 10 + bytes[at]! - ZERO;
    if (at === start || bytes[at] !== SPACE) return false;
    at = this.#spaces(at);
    if (bytes[at] === 0x28) {
      while (at < end && bytes[at] !== 0x29) at++;
      at = this.#spaces(at + 1);
    }
    if (bytes[at] !== 0x5b) return false;
    const cpuStart = ++at;
    let cpu = 0;
    for (; at < end && isDigit(bytes[at]!); at++) cpu = cpu * 10 + bytes[at]! - ZERO;
    if (at === cpuStart || bytes[at] !== 0x5d) return false;
    at = this.#spaces(at + 1);
    let stamp = this.#timestamp(at);
    if (stamp < 0) {
      while (at < end && bytes[at] !== SPACE) at++;
      stamp = this.#timestamp(this.#spaces(at));
      if (stamp < 0) return false;
    }
    const name = this.#spaces(stamp);
    at = name;
    while (at < end && bytes[at] !== COLON && bytes[at] !== SPACE) at++;
    if (at === name || at >= end || bytes[at] !== COLON) return false;
    this.pid = pid;
    this.cpu = cpu;
    this.nameStart = name;
    this.nameEnd = at;
    this.position = this.#spaces(at + 1);
    return true;
  }

  #spaces(from: number): number {
    let at = from;
    while (at < this.end && this.bytes[at] === SPACE) at++;
    return at;
  }

  /** Position after `seconds.micros:` or, with a counting trace clock, `ticks:`; -1 when there is none at `from`. */
  #timestamp(from: number): number {
    let at = from;
    while (at < this.end && (isDigit(this.bytes[at]!) || (this.bytes[at] === DOT && at > from))) at++;
    return at > from && at < this.end && this.bytes[at] === COLON ? at + 1 : -1;
  }

  /** True, and the position moves behind it, when `text` comes next. */
  accept(text: string): boolean {
    const { bytes, position } = this;
    if (position + text.length > this.end) return false;
    for (let i = 0; i < text.length; i++) if (bytes[position + i] !== text.charCodeAt(i)) return false;
    this.position = position + text.length;
    return true;
  }

  /** Moves behind the next `text`, over fields that other kernels print before it; false when there is none. */
  find(text: string): boolean {
    const start = this.position;
    const last = this.end - text.length;
    for (; this.position <= last; this.position++) if (this.accept(text)) return true;
    this.position = start;
    return false;
  }

  /** Moves behind the next `text`; throws FieldError when there is none. */
  expect(text: string): void {
    if (!this.find(text)) throw new FieldError(`${this.name()}: no "${text.trim()}"`);
  }

  /** A hexadecimal number, with or without 0x. `what` names it in errors. Not exact above 2^53. */
  hex(what: string): number {
    this.accept("0x");
    const { bytes, end, position: start } = this;
    let at = start;
    let value = 0;
    for (; at < end; at++) {
      const digit = nibble(bytes[at]!);
      if (digit < 0) break;
      value = value * 16 + digit;
    }
    return this.#number(what, value, start, at);
  }

  /** {@link hex} for an address; throws FieldError above 2^53 - 1. */
  address(what: string): number {
    const start = this.position;
    return this.#exact(what, this.hex(what), start);
  }

  /** A decimal number up to 2^53 - 1. */
  decimal(what: string): number {
    const { bytes, end, position: start } = this;
    let at = start;
    let value = 0;
    for (; at < end && isDigit(bytes[at]!); at++) value = value * 10 + bytes[at]! - ZERO;
    return this.#exact(what, this.#number(what, value, start, at), start);
  }

  #exact(what: string, value: number, start: number): number {
    if (value <= Number.MAX_SAFE_INTEGER) return value;
    throw new FieldError(`${this.name()}: ${what} is above 2^53: "${this.word(start)}"`);
  }

  /** The decimal number that comes next, or 0. */
  optionalDecimal(): number {
    let value = 0;
    for (; this.position < this.end && isDigit(this.bytes[this.position]!); this.position++) {
      value = value * 10 + this.bytes[this.position]! - ZERO;
    }
    return value;
  }

  /** Ends a number at `at`: there must be digits, and no letter may be glued to them. */
  #number(what: string, value: number, start: number, at: number): number {
    const next = at < this.end ? this.bytes[at]! : SPACE;
    const ends = next === SPACE || next === 0x2c || next === 0x7d || next === 0x2f;
    if (at === start || !ends) throw new FieldError(`${this.name()}: ${what} is not a number: "${this.word(start)}"`);
    this.position = at;
    return value;
  }

  /** Position of the space that ends the word at `from`, or the line's end. */
  wordEnd(from: number): number {
    let at = from;
    while (at < this.end && this.bytes[at] !== SPACE) at++;
    return at;
  }

  /** The word at `from` as text, for messages: printable ASCII, at most 40 bytes. */
  word(from: number): string {
    return this.text(from, Math.min(this.wordEnd(from), from + 40));
  }

  /** The event's name. */
  name(): string {
    return this.text(this.nameStart, this.nameEnd);
  }

  /** Bytes as printable ASCII; others become "?". */
  text(from: number, to: number): string {
    let text = "";
    for (let at = from; at < to; at++) {
      const byte = this.bytes[at]!;
      text += byte >= SPACE && byte < 0x7f ? String.fromCharCode(byte) : "?";
    }
    return text;
  }
}

/** FNV-1a of `bytes[from, to)`. */
export function hashBytes(bytes: Uint8Array, from: number, to: number): number {
  let hash = 0x811c9dc5;
  for (let at = from; at < to; at++) hash = Math.imul(hash ^ bytes[at]!, 0x01000193);
  return hash;
}

/** Finds a value by a name that is still bytes. */
export class NameTable<T> {
  readonly #buckets = new Map<number, { readonly name: string; readonly value: T }[]>();

  add(name: string, value: T): void {
    const bytes = Uint8Array.from(name, (char) => char.charCodeAt(0));
    const hash = hashBytes(bytes, 0, bytes.length);
    const bucket = this.#buckets.get(hash);
    if (bucket === undefined) this.#buckets.set(hash, [{ name, value }]);
    else bucket.push({ name, value });
  }

  /** Value of the name that `bytes[from, to)` spells, or undefined. */
  get(bytes: Uint8Array, from: number, to: number): T | undefined {
    const bucket = this.#buckets.get(hashBytes(bytes, from, to));
    if (bucket === undefined) return undefined;
    for (const { name, value } of bucket) {
      if (name.length !== to - from) continue;
      let i = 0;
      while (i < name.length && bytes[from + i] === name.charCodeAt(i)) i++;
      if (i === name.length) return value;
    }
    return undefined;
  }
}
