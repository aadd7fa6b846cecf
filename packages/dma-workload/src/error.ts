/** A recording that cannot be read. The message is `file:line: reason`. */
export class TraceError extends Error {
  /** Name the reader was given. */
  readonly file: string;
  /** Line the reader was at, from 1. */
  readonly line: number;
  readonly reason: string;

  constructor(file: string, line: number, reason: string) {
    super(`${file}:${line}: ${reason}`);
    this.name = "TraceError";
    this.file = file;
    this.line = line;
    this.reason = reason;
  }
}
