import { Attribution } from "./attribution.ts";
import type { Doorbell } from "./doorbell.ts";
import { DEFAULT_DOORBELLS } from "./doorbell.ts";
import { TraceError } from "./error.ts";
import type { EventContext, KnownEvent } from "./events.ts";
import { knownEvents } from "./events.ts";
import { LineSplitter, LONGEST_LINE } from "./lines.ts";
import type { Operation } from "./operation.ts";
import type { NameTable } from "./scan.ts";
import { FieldError, LineScanner } from "./scan.ts";
import type { Chunks } from "./source.ts";
import { textBytes } from "./source.ts";
import type { IgnoredReason, SkippedReason } from "./tally.ts";
import { Tally } from "./tally.ts";

export interface TraceOptions {
  /** Name of the file, for errors. */
  readonly name?: string;
  /** Where this machine's MSI doorbells are; {@link DEFAULT_DOORBELLS} when left out. */
  readonly doorbells?: readonly Doorbell[];
}

/** The header's `entries-in-buffer/entries-written`; zeros when there is none. */
export interface TraceHeader {
  readonly entriesInBuffer: number;
  readonly entriesWritten: number;
  /** Events that were overwritten before the file was made. */
  readonly lost: number;
}

/** What was read, what was made of it, and what was left out and why. */
export interface TraceSummary {
  readonly lines: number;
  /** Occurrences of each known event, by its name in the kernel; those that did not occur are left out. */
  readonly events: Readonly<Record<string, number>>;
  /** `map:` lines that belong to an operation; with the sum of `skipped`, all of them. */
  readonly maps: number;
  /** `unmap:` lines that belong to an operation; with the sum of `ignored.unmap*`, all of them. */
  readonly unmaps: number;
  readonly attaches: number;
  readonly skipped: Readonly<Partial<Record<SkippedReason, number>>>;
  readonly ignored: Readonly<Partial<Record<IgnoredReason, number>>>;
  /** Operations given out, by kind. */
  readonly operations: { readonly attach: number; readonly map: number; readonly unmap: number };
  /** Unmap operations made up because the recording lost the real one, and its IOVA was mapped again. */
  readonly impliedUnmaps: number;
  /** Map operations that lack some of their `map:` lines. */
  readonly incompleteMaps: number;
  /** Mappings that were not unmapped. */
  readonly liveAtEnd: number;
  /** Sum of the `[LOST n EVENTS]` notes. */
  readonly lostEvents: number;
  /** Devices that operations name, in order of their first event. */
  readonly devices: readonly string[];
  readonly header: TraceHeader;
}

/** Bytes that are worked on before operations are given out. */
const STEP = 65536;
const HASH = 0x23;
const SPACE = 0x20;

/**
 * Reads one recording. Memory is bounded by the mappings that are live at a time, not by the length of the recording.
 * A reader reads once.
 */
export class TraceReader {
  readonly name: string;
  readonly #tally = new Tally();
  readonly #attribution: Attribution;
  readonly #table: NameTable<KnownEvent>;
  readonly #events: readonly KnownEvent[];
  readonly #context: EventContext;
  #lines = 0;
  #started = false;

  /** Throws RangeError when a doorbell is not a range of addresses. */
  constructor(options: TraceOptions = {}) {
    const { name = "trace", doorbells = DEFAULT_DOORBELLS } = options;
    for (const { base, size } of doorbells) {
      if (Number.isSafeInteger(base) && base >= 0 && Number.isSafeInteger(size) && size > 0) continue;
      throw new RangeError(`doorbells: expected addresses and sizes in bytes, got { base: ${base}, size: ${size} }`);
    }
    this.name = name;
    this.#attribution = new Attribution(this.#tally, doorbells);
    const { table, all } = knownEvents();
    this.#table = table;
    this.#events = all;
    this.#context = { scan: new LineScanner(), attribution: this.#attribution, tally: this.#tally, line: 0, ended: true };
  }

  /** What has been read so far; final when {@link read} is over. */
  get summary(): TraceSummary {
    const tally = this.#tally;
    const { devices } = this.#attribution;
    const { entriesInBuffer, entriesWritten } = tally;
    return {
      lines: this.#lines,
      events: Object.fromEntries(this.#events.filter(({ count }) => count > 0).map(({ name, count }) => [name, count])),
      maps: tally.maps,
      unmaps: tally.unmaps,
      attaches: tally.attachOperations,
      skipped: { ...tally.skipped },
      ignored: { ...tally.ignored },
      operations: { attach: tally.attachOperations, map: tally.mapOperations, unmap: tally.unmapOperations },
      impliedUnmaps: tally.impliedUnmaps,
      incompleteMaps: tally.incompleteMaps,
      liveAtEnd: devices.reduce((sum, device) => sum + device.liveCount, 0),
      lostEvents: tally.lostEvents,
      devices: devices.filter(({ seen }) => seen).map(({ name }) => name),
      header: { entriesInBuffer, entriesWritten, lost: Math.max(0, entriesWritten - entriesInBuffer) },
    };
  }

  /**
   * The operations of the recording, in order. `chunks` is text or gzip, in pieces of any size. Throws TraceError for a
   * recording that cannot be read; errors of `chunks` itself pass through.
   */
  async *read(chunks: Chunks): AsyncGenerator<Operation, void, undefined> {
    for await (const batch of this.readBatches(chunks)) for (const operation of batch) yield operation;
  }

  /** {@link read}, some hundred operations at a time: an asynchronous step for each one costs more than reading it. */
  async *readBatches(chunks: Chunks): AsyncGenerator<Operation[], void, undefined> {
    if (this.#started) throw new TypeError("TraceReader: a reader reads once; make another one");
    this.#started = true;
    const splitter = new LineSplitter(
      (bytes, start, end, ended) => {
        this.#readLine(bytes, start, end, ended);
      },
      () => this.#fail(this.#lines + 1, `the line is longer than ${LONGEST_LINE} bytes`),
    );
    for await (const chunk of textBytes(chunks, (reason) => this.#fail(this.#lines, reason))) {
      for (let start = 0; start < chunk.length; start += STEP) {
        const step = chunk.subarray(start, start + STEP);
        const zero = step.indexOf(0);
        splitter.push(zero < 0 ? step : step.subarray(0, zero));
        if (zero >= 0) throw this.#fail(this.#lines + 1, "the file is binary, not text: it has a zero byte");
        yield* this.#take();
      }
    }
    splitter.finish();
    if (this.#lines === 0) throw this.#fail(0, "the file is empty");
    if (this.#events.every(({ count }) => count === 0)) {
      throw this.#fail(this.#lines, `no iommu or dma event in ${this.#lines} lines; is this ftrace text?`);
    }
    this.#attribution.finish();
    yield* this.#take();
  }

  *#take(): Generator<Operation[]> {
    const { operations } = this.#attribution;
    if (operations.length === 0) return;
    this.#attribution.operations = [];
    yield operations;
  }

  #fail(line: number, reason: string): TraceError {
    return new TraceError(this.name, Math.max(1, line), reason);
  }

  #readLine(bytes: Uint8Array, start: number, end: number, ended: boolean): void {
    const { scan } = this.#context;
    this.#context.line = ++this.#lines;
    scan.set(bytes, start, end);
    this.#context.ended = ended;
    // The kernel pads task names to the right, so that a `#` in the first column is a comment, whatever follows.
    if (bytes[start] === HASH || !scan.prefix()) {
      scan.set(bytes, start, end);
      this.#readNote(ended);
      return;
    }
    const event = this.#table.get(bytes, scan.nameStart, scan.nameEnd);
    if (event === undefined) {
      this.#tally.ignore("otherEvent");
      return;
    }
    try {
      event.read(this.#context);
      event.count++;
    } catch (error) {
      if (!(error instanceof FieldError)) throw error;
      if (ended) throw this.#fail(this.#lines, error.message);
      this.#tally.ignore("cutLastLine");
    }
  }

  /** A line that is no event. */
  #readNote(ended: boolean): void {
    const { scan } = this.#context;
    const { bytes, position: start, end } = scan;
    let at = start;
    while (at < end && bytes[at]! <= SPACE) at++;
    if (at === end) this.#tally.ignore("blank");
    else if (bytes[at] === HASH) this.#readComment();
    else if (scan.accept("CPU:") && scan.find("[LOST ")) this.#readLost();
    else if (scan.find("[LINE TOO BIG]")) this.#tally.ignore("lineTooBig");
    else this.#tally.ignore(ended ? "notAnEvent" : "cutLastLine");
  }

  #readComment(): void {
    const { scan } = this.#context;
    this.#tally.ignore("comment");
    if (!scan.find("entries-in-buffer/entries-written: ")) return;
    this.#tally.entriesInBuffer += scan.optionalDecimal();
    if (scan.accept("/")) this.#tally.entriesWritten += scan.optionalDecimal();
  }

  /** `CPU:0 [LOST 23 EVENTS]`, or without a number when the kernel does not know. */
  #readLost(): void {
    const { scan } = this.#context;
    this.#tally.ignore("lostEventsNote");
    this.#tally.lostEvents += scan.optionalDecimal();
  }
}

/** The operations of one recording; use a {@link TraceReader} where the summary matters. Throws as its `read` does. */
export function readTrace(chunks: Chunks, options: TraceOptions = {}): AsyncGenerator<Operation, void, undefined> {
  return new TraceReader(options).read(chunks);
}
