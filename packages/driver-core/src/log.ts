/** Severities of printk that drivers use, most severe first. */
export type LogLevel = "err" | "warn" | "info" | "debug";

export interface LogEntry {
  /** ns since reset. */
  readonly time: number;
  readonly level: LogLevel;
  readonly text: string;
}

/** The kernel's ring of messages: bounded, the oldest are overwritten. */
export class KernelLog {
  /** Messages lost to the bound. */
  dropped: number = 0;
  readonly #now: () => number;
  readonly #capacity: number;
  readonly #ring: LogEntry[] = [];
  #start = 0;

  /**
   * @param now time in ns, e.g. the CPU's
   * @param capacity messages kept
   */
  constructor(now: () => number, capacity: number = 1024) {
    if (!Number.isInteger(capacity) || capacity < 1) {
      throw new RangeError(`KernelLog: capacity must be a positive integer, got ${capacity}`);
    }
    this.#now = now;
    this.#capacity = capacity;
  }

  err(text: string): void {
    this.print("err", text);
  }

  warn(text: string): void {
    this.print("warn", text);
  }

  info(text: string): void {
    this.print("info", text);
  }

  debug(text: string): void {
    this.print("debug", text);
  }

  print(level: LogLevel, text: string): void {
    const entry = { time: this.#now(), level, text };
    if (this.#ring.length < this.#capacity) {
      this.#ring.push(entry);
      return;
    }
    this.#ring[this.#start] = entry;
    this.#start = (this.#start + 1) % this.#capacity;
    this.dropped++;
  }

  /** The messages kept, oldest first; of one level when given. */
  entries(level?: LogLevel): LogEntry[] {
    const all = [...this.#ring.slice(this.#start), ...this.#ring.slice(0, this.#start)];
    return level === undefined ? all : all.filter((entry) => entry.level === level);
  }

  /** Texts only, as `dmesg` without time stamps. */
  lines(level?: LogLevel): string[] {
    return this.entries(level).map((entry) => entry.text);
  }
}
