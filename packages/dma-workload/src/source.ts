// The bytes of a recording: told apart by their first bytes, decompressed, errors of the source kept apart from ours.

/** Bytes in any number of pieces of any size: a file's read stream, a fetch body, an array. */
export type Chunks = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/** The part of the Streams standard that is used here; both browsers and Node have it as a global. */
interface ByteTransform {
  readonly readable: {
    getReader(): {
      read(): Promise<{ readonly done: boolean; readonly value?: Uint8Array }>;
      cancel(): Promise<void>;
    };
  };
  readonly writable: {
    getWriter(): {
      write(chunk: Uint8Array): Promise<void>;
      close(): Promise<void>;
      abort(reason: unknown): Promise<void>;
    };
  };
}
declare const DecompressionStream: new (format: "gzip") => ByteTransform;

const OTHER_FORMATS: readonly (readonly [name: string, ...magic: number[]])[] = [
  ["zstd", 0x28, 0xb5, 0x2f, 0xfd],
  ["xz", 0xfd, 0x37, 0x7a, 0x58],
  ["bzip2", 0x42, 0x5a, 0x68],
  ["zip", 0x50, 0x4b, 0x03, 0x04],
  ["lz4", 0x04, 0x22, 0x4d, 0x18],
  ["trace-cmd's trace.dat", 0x17, 0x08, 0x44, 0x74],
  ["perf.data", 0x50, 0x45, 0x52, 0x46],
];
const GZIP = [0x1f, 0x8b] as const;
const BYTE_ORDER_MARK = [0xef, 0xbb, 0xbf] as const;
const LONGEST_MAGIC = 4;

function startsWith(bytes: Uint8Array, magic: readonly unknown[], from: number = 0): boolean {
  return bytes.length >= magic.length - from && magic.slice(from).every((byte, i) => bytes[i] === byte);
}

const notBytes = (got: unknown): TypeError =>
  new TypeError(`chunks: expected an iterable of Uint8Array, found a ${typeof got}`);

function bytesOf(chunk: unknown): Uint8Array {
  if (chunk instanceof Uint8Array) return chunk;
  throw notBytes(chunk);
}

type ByteIterator = AsyncIterator<Uint8Array> | Iterator<Uint8Array>;

function iterate(chunks: Chunks): ByteIterator {
  if (typeof chunks !== "object") throw notBytes(chunks);
  return Symbol.asyncIterator in chunks ? chunks[Symbol.asyncIterator]() : chunks[Symbol.iterator]();
}

async function* plain(first: Uint8Array, rest: ByteIterator): AsyncGenerator<Uint8Array> {
  yield first;
  for (let step = await rest.next(); step.done !== true; step = await rest.next()) yield bytesOf(step.value);
}

/** Inflates `input`. Failures of the format are thrown as what `describe` makes of them, those of `input` as they are. */
async function* gunzip(input: AsyncGenerator<Uint8Array>, describe: (trailing: boolean) => Error): AsyncGenerator<Uint8Array> {
  const stream = new DecompressionStream("gzip");
  const writer = stream.writable.getWriter();
  const reader = stream.readable.getReader();
  let inputFailure: { readonly error: unknown } | undefined;
  const pump = async (): Promise<void> => {
    for (;;) {
      let step: IteratorResult<Uint8Array, unknown>;
      try {
        step = await input.next();
      } catch (error) {
        inputFailure = { error };
        return writer.abort(error);
      }
      if (step.done === true) return writer.close();
      await writer.write(step.value);
    }
  };
  // What is wrong with the data arrives at the reader; the writer's copy of it would be an unhandled rejection.
  pump().catch(() => {});
  try {
    for (;;) {
      let step: { readonly done: boolean; readonly value?: Uint8Array };
      try {
        step = await reader.read();
      } catch (error) {
        if (inputFailure !== undefined) throw inputFailure.error;
        throw describe(error instanceof Error && /trailing|junk/i.test(error.message));
      }
      if (step.value === undefined) return;
      yield step.value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * The text bytes of `chunks`, gzipped or plain. `fail` makes the error for a reason; it is called when the format is one
 * that is not read, or when compressed data is damaged.
 */
export async function* textBytes(chunks: Chunks, fail: (reason: string) => Error): AsyncGenerator<Uint8Array> {
  const source = iterate(chunks);
  try {
    let head = new Uint8Array(0);
    while (head.length < LONGEST_MAGIC) {
      const step = await source.next();
      if (step.done === true) break;
      const more = bytesOf(step.value);
      const joined = new Uint8Array(head.length + more.length);
      joined.set(head);
      joined.set(more, head.length);
      head = joined;
    }
    const other = OTHER_FORMATS.find((format) => startsWith(head, format, 1));
    if (other !== undefined) throw fail(`the format is ${other[0]}; ftrace text is read, plain or gzipped`);
    if (startsWith(head, GZIP)) {
      const describe = (trailing: boolean): Error =>
        fail(trailing ? "data follows the end of the gzip stream" : "gzip data is damaged or cut short after this line");
      yield* gunzip(plain(head, source), describe);
    } else {
      yield* plain(startsWith(head, BYTE_ORDER_MARK) ? head.subarray(BYTE_ORDER_MARK.length) : head, source);
    }
  } finally {
    // Closes the file when the consumer stops early. Its own failure to close is not this reader's to report.
    Promise.resolve(source.return?.()).catch(() => {});
  }
}
