import { closeSync, fstatSync, openSync, readFileSync, readSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { getSystemErrorMessage } from "node:util";
import { InputError } from "../lab/trace-file.ts";
import { arrayOf, at, bigOf, Malformed, objectOf } from "../vectors/json.ts";
import { hex, UnknownPage } from "../reference/bus.ts";
import type { Bus } from "../reference/bus.ts";

export type DumpFormat = "sparse" | "elf" | "raw";

/** A piece of physical memory that a file holds. */
interface Range {
  readonly pa: bigint;
  readonly size: bigint;
  readonly offset: number;
}

const PAGE = 4096;
/** Bytes read at a time, and how many such chunks are kept: a dump may be larger than memory. */
const CHUNK = 1 << 16;
const CHUNKS_KEPT = 512;

/** Physical memory out of a file. Only what is touched is read. */
export class Dump implements Bus {
  readonly format: DumpFormat;
  /** Bytes that the file holds of physical memory. */
  readonly bytes: bigint;
  readonly #file: number;
  readonly #path: string;
  readonly #ranges: readonly Range[];
  readonly #isRam: (pa: bigint) => boolean;
  readonly #chunks = new Map<number, Buffer>();

  constructor(path: string, file: number, format: DumpFormat, ranges: readonly Range[], isRam: (pa: bigint) => boolean = () => true) {
    this.#path = path;
    this.#file = file;
    this.format = format;
    this.#ranges = [...ranges].sort((a, b) => (a.pa < b.pa ? -1 : a.pa > b.pa ? 1 : 0));
    this.bytes = ranges.reduce((sum, { size }) => sum + size, 0n);
    this.#isRam = isRam;
  }

  /** Words of memory. A place that the dump does not hold is unknown, but outside of what it says is RAM nothing answers. */
  read(pa: bigint, count: number): Int32Array | undefined {
    const range = this.#find(pa);
    if (range === undefined || pa + BigInt(count * 4) > range.pa + range.size) {
      if (!this.#isRam(pa)) return undefined;
      throw new UnknownPage(pa);
    }
    const start = range.offset + Number(pa - range.pa);
    return Int32Array.from({ length: count }, (_, i) => this.#word(start + i * 4));
  }

  /** From the first byte that the file holds to behind the last. */
  get extent(): { readonly first: bigint; readonly end: bigint } {
    const ranges = this.#ranges;
    return {
      first: ranges[0]?.pa ?? 0n,
      end: ranges.reduce((end, { pa, size }) => (pa + size > end ? pa + size : end), 0n),
    };
  }

  close(): void {
    closeSync(this.#file);
  }

  /** The range with `pa`, by bisection. */
  #find(pa: bigint): Range | undefined {
    const ranges = this.#ranges;
    let low = 0;
    let high = ranges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (ranges[middle]!.pa <= pa) low = middle + 1;
      else high = middle;
    }
    const range = ranges[low - 1];
    return range !== undefined && pa < range.pa + range.size ? range : undefined;
  }

  #word(offset: number): number {
    const inside = offset % CHUNK;
    if (inside <= CHUNK - 4) return this.#chunk(offset - inside).readInt32LE(inside);
    const bytes = Buffer.from([0, 1, 2, 3].map((i) => this.#chunk(offset + i - ((offset + i) % CHUNK))[(offset + i) % CHUNK]!));
    return bytes.readInt32LE(0);
  }

  #chunk(offset: number): Buffer {
    const chunks = this.#chunks;
    const known = chunks.get(offset);
    if (known !== undefined) return known;
    const chunk = readAt(this.#path, this.#file, offset, CHUNK);
    // The oldest one goes.
    if (chunks.size >= CHUNKS_KEPT) chunks.delete(chunks.keys().next().value!);
    chunks.set(offset, chunk);
    return chunk;
  }
}

/** Runs `work` on a file; failures of the file system become an InputError. */
function files<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof Error && "errno" in error && typeof error.errno === "number") {
      throw new InputError(`${path}: ${getSystemErrorMessage(error.errno)}`);
    }
    throw error;
  }
}

function readAt(path: string, file: number, offset: number, size: number): Buffer {
  const buffer = Buffer.alloc(size);
  files(path, () => readSync(file, buffer, 0, size, offset));
  return buffer;
}

function readJson<T>(path: string, parse: (json: unknown) => T): T {
  const text = files(path, () => readFileSync(path, "utf8"));
  return at(path, undefined, () => parse(JSON.parse(text)));
}

function openSparse(index: string): Dump {
  const layout = readJson(index, (json) => {
    const root = objectOf(json, "the file");
    const { file = "pages.bin", pageSize = PAGE, ramBase, ramSize } = root;
    if (pageSize !== PAGE) throw new Malformed(`pageSize: expected ${PAGE}`);
    if (typeof file !== "string") throw new Malformed("file: expected a name");
    return {
      file,
      ram: ramBase === undefined || ramSize === undefined ? undefined : { base: bigOf(ramBase, "ramBase"), size: bigOf(ramSize, "ramSize") },
      pages: arrayOf(root["pages"], "pages").map((page, i) => {
        const pa = bigOf(objectOf(page, `pages[${i}]`)["pa"], `pages[${i}].pa`);
        if (pa % BigInt(PAGE) !== 0n) throw new Malformed(`pages[${i}].pa: ${hex(pa)} is not 4K aligned`);
        return pa;
      }),
    };
  });
  const data = join(dirname(index), layout.file);
  const file = files(data, () => openSync(data, "r"));
  const { size } = files(data, () => fstatSync(file));
  if (size < layout.pages.length * PAGE) {
    closeSync(file);
    throw new InputError(`${data}: ${size} bytes, but ${index} lists ${layout.pages.length} pages of ${PAGE}`);
  }
  const ranges = layout.pages.map((pa, i) => ({ pa, size: BigInt(PAGE), offset: i * PAGE }));
  const { ram } = layout;
  return new Dump(data, file, "sparse", ranges, ram === undefined ? undefined : (pa) => pa >= ram.base && pa < ram.base + ram.size);
}

/** Offsets in an ELF64 header and program header. */
const ELF = { magic: 0x464c_457f, class: 4, data: 5, phoff: 32, shoff: 40, phentsize: 54, phnum: 56, bytes: 64 } as const;
const PHDR = { type: 0, offset: 8, paddr: 24, filesz: 32, bytes: 56 } as const;
const PT_LOAD = 1;
/** The number of program headers is in sh_info of section 0. */
const PN_XNUM = 0xffff;
const SH_INFO = 44;

function openElf(path: string, file: number, size: number): Dump {
  const bad = (message: string): never => {
    throw new InputError(`${path}: ${message}`);
  };
  const header = readAt(path, file, 0, ELF.bytes);
  if (header[ELF.class] !== 2 || header[ELF.data] !== 1) bad("not a little-endian ELF64 file");
  const phoff = Number(header.readBigUInt64LE(ELF.phoff));
  const entry = header.readUInt16LE(ELF.phentsize);
  let count = header.readUInt16LE(ELF.phnum);
  if (count === PN_XNUM) count = readAt(path, file, Number(header.readBigUInt64LE(ELF.shoff)), ELF.bytes).readUInt32LE(SH_INFO);
  if (entry < PHDR.bytes || phoff + entry * count > size) bad("the program headers are cut off");
  const table = readAt(path, file, phoff, entry * count);
  const ranges: Range[] = [];
  for (let i = 0; i < count; i++) {
    const at = i * entry;
    if (table.readUInt32LE(at + PHDR.type) !== PT_LOAD) continue;
    // What p_memsz has beyond p_filesz was not dumped.
    const range = {
      pa: table.readBigUInt64LE(at + PHDR.paddr),
      size: table.readBigUInt64LE(at + PHDR.filesz),
      offset: Number(table.readBigUInt64LE(at + PHDR.offset)),
    };
    if (range.offset + Number(range.size) > size) bad(`program header ${i}: its memory is cut off`);
    if (range.size > 0n) ranges.push(range);
  }
  if (ranges.length === 0) bad("no memory: the core has no PT_LOAD");
  return new Dump(path, file, "elf", ranges);
}

/**
 * Opens a dump: a directory with `pages.json` (or that file), an ELF64 core with physical addresses in p_paddr, or raw memory
 * that begins at `base`. Throws InputError.
 */
export function openDump(path: string, base: bigint | undefined): Dump {
  const status = files(path, () => statSync(path));
  if (status.isDirectory() || path.endsWith(".json")) {
    if (base !== undefined) throw new InputError(`${path}: --base is for raw memory, and this dump has addresses`);
    return openSparse(status.isDirectory() ? join(path, "pages.json") : path);
  }
  if (!status.isFile()) throw new InputError(`${path}: is not a file`);
  const file = files(path, () => openSync(path, "r"));
  try {
    const elf = status.size >= ELF.bytes && readAt(path, file, 0, 4).readUInt32LE(0) === ELF.magic;
    if (base !== undefined) {
      if (elf) throw new InputError(`${path}: --base is for raw memory, and this is an ELF file`);
      return new Dump(path, file, "raw", [{ pa: base, size: BigInt(status.size), offset: 0 }]);
    }
    if (!elf) throw new InputError(`${path}: neither pages.json nor an ELF core; raw memory needs --base`);
    return openElf(path, file, status.size);
  } catch (error) {
    closeSync(file);
    throw error;
  }
}

/** Registers that nothing can be said without. */
const NEEDED = ["IDR0", "IDR1", "IDR5", "CR0", "STRTAB_BASE", "STRTAB_BASE_CFG"] as const;

/** Reads registers: `{"registers": {"CR0": {"value": "0xd"}}}`, or the values alone. Throws InputError. */
export function readRegisters(path: string): Readonly<Record<string, bigint>> {
  return readJson(path, (json) => {
    const root = objectOf(json, "the file");
    const list = objectOf(root["registers"] ?? root, "registers");
    const values = Object.fromEntries(
      Object.entries(list).map(([name, entry]) => {
        const value = typeof entry === "object" && entry !== null ? objectOf(entry, name)["value"] : entry;
        return [name, bigOf(value, name)];
      }),
    );
    for (const name of NEEDED) if (values[name] === undefined) throw new Malformed(`${name}: missing`);
    return values;
  });
}

/** Where the registers of a dump are unless one says otherwise. */
export function registersBeside(path: string): string {
  const directory = files(path, () => statSync(path)).isDirectory();
  return join(directory ? path : dirname(path), "registers.json");
}
