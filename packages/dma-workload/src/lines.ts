const NEWLINE = 0x0a;
const RETURN = 0x0d;
/** Bytes of the longest line that is read. The kernel prints at most two pages. */
export const LONGEST_LINE = 65536;

/** Gets each line, without its end. `ended` is false for a last line that has no newline. */
export type LineHandler = (bytes: Uint8Array, start: number, end: number, ended: boolean) => void;

/** Cuts bytes into lines. A line that lies in one chunk is not copied. */
export class LineSplitter {
  readonly #handler: LineHandler;
  readonly #tooLong: () => Error;
  readonly #carry: Uint8Array<ArrayBuffer> = new Uint8Array(LONGEST_LINE);
  #carried = 0;

  constructor(handler: LineHandler, tooLong: () => Error) {
    this.#handler = handler;
    this.#tooLong = tooLong;
  }

  push(chunk: Uint8Array): void {
    let start = 0;
    for (let at = chunk.indexOf(NEWLINE); at >= 0; at = chunk.indexOf(NEWLINE, start)) {
      if (this.#carried > 0) {
        this.#keep(chunk, start, at);
        this.#flush(true);
      } else this.#emit(chunk, start, at, true);
      start = at + 1;
    }
    if (start < chunk.length) this.#keep(chunk, start, chunk.length);
  }

  /** Gives out the line that has no newline, if there is one. */
  finish(): void {
    if (this.#carried > 0) this.#flush(false);
  }

  #keep(chunk: Uint8Array, start: number, end: number): void {
    if (this.#carried + end - start > LONGEST_LINE) throw this.#tooLong();
    this.#carry.set(chunk.subarray(start, end), this.#carried);
    this.#carried += end - start;
  }

  #flush(ended: boolean): void {
    const length = this.#carried;
    this.#carried = 0;
    this.#emit(this.#carry, 0, length, ended);
  }

  #emit(bytes: Uint8Array, start: number, end: number, ended: boolean): void {
    if (end - start > LONGEST_LINE) throw this.#tooLong();
    this.#handler(bytes, start, end > start && bytes[end - 1] === RETURN ? end - 1 : end, ended);
  }
}
