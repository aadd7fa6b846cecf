// `smmu-lab inspect` as a user runs it, over dumps that the tests write: sparse, ELF core, raw memory.
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import { AT, Image, IOVA, LEAF, REGISTERS, SID, TABLE } from "./image.ts";

const CLI = join(import.meta.dirname, "../dist/cli.js");
const dir = mkdtempSync(join(tmpdir(), "smmu-lab-inspect-"));
afterAll(() => {
  rmSync(dir, { recursive: true });
});

function run(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, "inspect", ...args], { cwd: dir, encoding: "utf8" });
  return { status, stdout, stderr };
}

const schema = JSON.parse(readFileSync(join(import.meta.dirname, "../schema/inspect.schema.json"), "utf8")) as object;
const validate = new Ajv2020({ allErrors: true, strict: true, strictTypes: false, strictRequired: false, allowUnionTypes: true }).compile(schema);

interface Report {
  readonly dump: { readonly format: string; readonly bytes: number };
  readonly streamTable: { readonly missing: readonly object[]; readonly invalid: number; readonly absent: number };
  readonly streams: readonly { readonly first: number; readonly last: number; readonly config: string; readonly stage2: unknown; readonly contexts: readonly { readonly leaves: unknown; readonly problem: string | null }[] }[];
  readonly queues: { readonly commands: { readonly entries: readonly object[] }; readonly events: { readonly pending: number; readonly entries: readonly object[] } };
  readonly access: { readonly outcome: string; readonly reason: string; readonly pa: string | null; readonly event: object | null; readonly reads: readonly object[] };
  readonly probes: { readonly total: number; readonly pass: number; readonly fail: number; readonly excused: object; readonly differences: readonly object[] };
}

function report(...args: string[]): Report {
  const { stdout, stderr } = run(...args, "--json", "-");
  expect(stderr).toBe("");
  const json = JSON.parse(stdout) as Report;
  expect(validate(json), JSON.stringify(validate.errors)).toBe(true);
  return json;
}

const hex = (value: number): string => `0x${value.toString(16)}`;
const registers = (more: Readonly<Record<string, string>> = {}): string =>
  JSON.stringify({ registers: Object.fromEntries(Object.entries({ ...REGISTERS, ...more }).map(([name, value]) => [name, { value }])) });

/** A stream of stage 1, a nested one, a bypass, commands and an event. */
function machine(): Image {
  return new Image()
    .ste(STE_CONFIG.s1).cd().tables(LEAF.s1)
    .ste(STE_CONFIG.bypass, {}, 9).ste(STE_CONFIG.bypass, {}, 10)
    .ste(STE_CONFIG.nested, { S2TTB: AT.level0 }, 11)
    .store64(AT.level0 + 8, 0x4000_0000 + (0x4c1 | 0x3c)).store64(AT.level0, 0x4fd)
    .store64(AT.cmdq, 0x8_0000_0003n).store64(AT.cmdq + 8, 1).store64(AT.cmdq + 16, 0x1046)
    .store64(AT.eventq, 0x8_0000_0010n).store64(AT.eventq + 8, 0x208_0000_0000n).store64(AT.eventq + 16, 0x1000);
}

function sparse(name: string, image: Image, layout: object = {}): string {
  const folder = join(dir, name);
  mkdirSync(folder, { recursive: true });
  const pages = image.bytes();
  writeFileSync(join(folder, "pages.bin"), Buffer.concat(pages.map(({ bytes }) => bytes)));
  const list = pages.map(({ pa }) => ({ pa: hex(pa), kind: "any" }));
  writeFileSync(join(folder, "pages.json"), JSON.stringify({ pageSize: 4096, ramBase: "0x40000000", ramSize: "0x40000000", file: "pages.bin", pages: list, ...layout }));
  writeFileSync(join(folder, "registers.json"), registers());
  return name;
}

/** An ELF64 core; adjacent pages share a segment, and each one claims a page more of memory than the file has. */
function elf(name: string, image: Image, change: (header: Buffer, table: Buffer) => void = () => {}): string {
  const runs: { pa: number; bytes: Buffer }[] = [];
  for (const { pa, bytes } of image.bytes()) {
    const last = runs.at(-1);
    if (last !== undefined && last.pa + last.bytes.length === pa) last.bytes = Buffer.concat([last.bytes, bytes]);
    else runs.push({ pa, bytes });
  }
  const header = Buffer.alloc(64);
  header.write("\x7fELF\x02\x01\x01", "latin1");
  header.writeUInt16LE(4, 16);
  header.writeUInt16LE(183, 18);
  header.writeBigUInt64LE(64n, 32);
  header.writeUInt16LE(56, 54);
  header.writeUInt16LE(runs.length + 1, 56);
  const table = Buffer.alloc(56 * (runs.length + 1));
  // A PT_NOTE first, as a real core has it.
  table.writeUInt32LE(4, 0);
  let offset = 64 + table.length;
  for (const [i, { pa, bytes }] of runs.entries()) {
    const at = (i + 1) * 56;
    table.writeUInt32LE(1, at);
    table.writeBigUInt64LE(BigInt(offset), at + 8);
    table.writeBigUInt64LE(0xffff_0000_0000_0000n + BigInt(pa), at + 16);
    table.writeBigUInt64LE(BigInt(pa), at + 24);
    table.writeBigUInt64LE(BigInt(bytes.length), at + 32);
    table.writeBigUInt64LE(BigInt(bytes.length + 4096), at + 40);
    offset += bytes.length;
  }
  change(header, table);
  writeFileSync(join(dir, name), Buffer.concat([header, table, ...runs.map(({ bytes }) => bytes)]));
  return name;
}

const RAW_BASE = 0x4100_0000;
function raw(name: string, image: Image): string {
  const pages = image.bytes();
  const out = Buffer.alloc(pages.at(-1)!.pa + 4096 - RAW_BASE);
  for (const { pa, bytes } of pages) bytes.copy(out, pa - RAW_BASE);
  writeFileSync(join(dir, name), out);
  return name;
}

const at = ["--sid", hex(SID), "--iova", hex(IOVA + 0x123)];

beforeAll(() => {
  writeFileSync(join(dir, "registers.json"), registers());
});

describe("all formats say the same", () => {
  const formats = (): readonly (readonly [string, readonly string[]])[] => [
    ["sparse", [sparse("all", machine())]],
    ["sparse", [`${sparse("all", machine())}/pages.json`]],
    ["elf", [elf("core.elf", machine())]],
    ["raw", [raw("memory.raw", machine()), "--base", hex(RAW_BASE)]],
  ];

  test("streams, leaves, queues", () => {
    const [first, ...others] = formats().map(([format, args]) => {
      const found = report(...args);
      expect(found.dump.format).toBe(format);
      return { ...found, dump: undefined };
    });
    // Raw memory has no holes: what is between the pages is zero there.
    const memory = others.pop()!;
    for (const other of others) expect(other).toEqual(first);
    expect(memory.streamTable).toMatchObject({ missing: [], invalid: 252 });
    expect({ ...memory, streamTable: first!.streamTable }).toEqual(first);
    const { streams, queues, streamTable } = first!;
    expect(streams.map((stream) => [stream.first, stream.last, stream.config])).toEqual([
      [8, 8, "stage 1"], [9, 10, "bypass"], [11, 11, "nested"],
    ]);
    expect(streams[0]!.contexts[0]!.leaves).toMatchObject({
      count: 1, missing: [], ranges: [{ input: hex(IOVA), output: hex(AT.data), size: "0x1000", count: 1, rights: "rwx/rw-" }],
    });
    expect(streams[2]!.contexts[0]!.leaves).toEqual(streams[0]!.contexts[0]!.leaves);
    expect(streams[2]!.stage2).toMatchObject({ count: 2, ranges: [{ input: "0x0", size: "0x80000000", output: "0x0", rights: "rwx" }] });
    expect(streamTable).toMatchObject({ missing: [{ pa: "0x41005000", first: 64, last: 255, why: "unknown" }] });
    expect(queues.commands.entries).toMatchObject([
      { index: 0, pending: false, text: "CMD_CFGI_STE SID=8 Leaf=1" },
      { index: 1, pending: true, text: "CMD_SYNC CS=1" },
    ]);
    expect(queues.events).toMatchObject({ pending: 1, entries: [{ pending: true, text: "F_TRANSLATION SID=8 RnW=1 CLASS=2 InputAddr=0x1000" }] });
  });

  test("one access", () => {
    for (const [, args] of formats()) {
      const { access } = report(...args, ...at);
      expect(access).toMatchObject({ outcome: "ok", pa: hex(AT.data + 0x123), event: null });
      expect(access.reads).toMatchObject([
        { what: "STE", pa: hex(AT.strtab + SID * 64) },
        { what: "CD", pa: hex(AT.cd) },
        { what: "stage 1 level 1", pa: hex(AT.level1), value: [hex(AT.level2 | TABLE)], text: `table ${hex(AT.level2)}` },
        { what: "stage 1 level 2" },
        { what: "stage 1 level 3", value: [hex(AT.data + LEAF.s1)], text: `page ${hex(AT.data)} AP=rw AF=1 global AttrIndx=0` },
      ]);
    }
  });

  test("text within 80 columns", () => {
    for (const [, args] of formats()) {
      for (const more of [[], at]) {
        const { status, stdout, stderr } = run(...args, ...more);
        expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
        expect(stdout.split("\n").filter((line) => line.length > 80)).toEqual([]);
      }
    }
  });
});

describe("accesses", () => {
  test.each<readonly [what: string, args: readonly string[], expected: object]>([
    ["a fault: the record", ["--sid", "8", "--iova", "0x1000", "--write"], {
      outcome: "abort", pa: null, reason: "stage 1, level 2: no valid translation (7.3.13)",
      event: { name: "F_TRANSLATION", recorded: true, text: "F_TRANSLATION SID=8 CLASS=2 InputAddr=0x1000" },
    }],
    ["not permitted: instructions of a privileged agent from an unprivileged page", [...at, "--privileged", "--instruction"], {
      outcome: "abort", event: { name: "F_PERMISSION", text: `F_PERMISSION SID=8 PnU=1 InD=1 RnW=1 CLASS=2 InputAddr=${hex(IOVA + 0x123)}` },
    }],
    ["bypass", ["--sid", "9", "--iova", "0x5000"], { outcome: "ok", pa: "0x5000", reason: "the stream bypasses translation (5.2 Config)" }],
    ["no such STE", ["--sid", "7", "--iova", "0x5000"], { outcome: "abort", reason: "the STE is ILLEGAL: V = 0 (5.2.2)", event: { name: "C_BAD_STE" } }],
    ["beyond the table", ["--sid", "256", "--iova", "0x5000"], { event: { name: "C_BAD_STREAMID", recorded: false } }],
    ["a substream", ["--sid", "8", "--ssid", "3", "--iova", "0x5000"], { event: { name: "C_BAD_SUBSTREAMID", recorded: true } }],
    ["nested, all of it", ["--sid", "11", "--iova", hex(IOVA)], { outcome: "ok", pa: hex(AT.data) }],
    ["a page that the dump does not hold", ["--sid", "100", "--iova", "0x0"], {
      outcome: "unknown", pa: null, event: null, reason: "unknown: page 0x41005000 is not in the dump",
    }],
  ])("%s", (_, args, expected) => {
    expect(report(sparse("all", machine()), ...args).access).toMatchObject(expected);
  });

  test("tables in the other byte order, of which leaves are not listed", () => {
    const swapped = (value: bigint): bigint => {
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64BE(value);
      return bytes.readBigUInt64LE();
    };
    const image = new Image().ste(STE_CONFIG.s1).cd({ ENDI: 1 })
      .store64(AT.level1, swapped(BigInt(AT.level2 | TABLE)))
      .store64(AT.level2 + (IOVA >>> 21) * 8, swapped(BigInt(AT.level3 | TABLE)))
      .store64(AT.level3 + ((IOVA >>> 12) & 511) * 8, swapped(BigInt(AT.data + LEAF.s1)));
    // IDR0.TTENDIAN = 0b00: both.
    writeFileSync(join(dir, "endian.json"), registers({ IDR0: "0xd04101b" }));
    const found = report(sparse("endian", image), "--registers", "endian.json", ...at);
    expect(found.access).toMatchObject({ outcome: "ok", pa: hex(AT.data + 0x123) });
    expect(found.streams[0]!.contexts[0]!.problem).toBe("a big-endian stage 1 (CD.ENDI) is not read here");
  });

  test("memory that is too sparse for the model is walked by the reference", () => {
    for (const [name, far] of [["near", 2 ** 32], ["far", 2 ** 40]] as const) {
      const found = report(sparse(name, machine().store64(far, 1), { ramSize: "0x20000000000" }), ...at).access;
      expect(found).toMatchObject({ outcome: "ok", pa: hex(AT.data + 0x123), reason: name === "near" ? "translated by stage 1 (3.3.2)" : "translated by stage 1" });
    }
  });

  test("an unknown table is unknown, not empty; the leaves beside it are listed", () => {
    const image = machine().store64(AT.level1 + 8, 0x4200_0000 | TABLE);
    const name = sparse("hole", image);
    expect(report(name, "--sid", "8", "--iova", "0x40000000").access).toMatchObject({ outcome: "unknown", reason: "unknown: page 0x42000000 is not in the dump" });
    expect(report(name).streams[0]!.contexts[0]!.leaves).toMatchObject({ count: 1, missing: [{ pa: "0x42000000", why: "unknown" }] });
    expect(run(name).stdout).toContain("table 0x42000000: not in the dump");
  });

  test("outside of RAM nothing answers", () => {
    const name = sparse("device", machine().store64(AT.level1 + 8, 0x9000_0000 + TABLE));
    expect(report(name, "--sid", "8", "--iova", "0x40000000").access).toMatchObject({ outcome: "abort", event: { name: "F_WALK_EABT" } });
  });

  test("tables that point at themselves end", () => {
    const image = new Image().ste(STE_CONFIG.s1).cd();
    for (let i = 0; i < 512; i++) image.store64(AT.level1 + i * 8, AT.level1 | TABLE);
    expect(report(sparse("loop", image)).streams[0]!.contexts[0]!.leaves).toMatchObject({ count: 0, cut: true });
  });
});

describe("probes", () => {
  const probe = (more: object): string => `${JSON.stringify({ sid: SID, ssid: null, iova: hex(IOVA), write: false, len: 4, outcome: "ok", pa: hex(AT.data), perm: 3, ...more })}\n`;
  const write = (text: string): string => {
    writeFileSync(join(dir, "probes.jsonl"), text);
    return "probes.jsonl";
  };

  test("totals", () => {
    const fault = probe({ iova: "0x1000", outcome: "fault", pa: undefined, perm: undefined, events: [["0x800000010", "0x20800000000", "0x1000", "0x0"]] });
    const beyond = probe({ sid: 9, iova: "0x1000000000000", pa: "0x1000000000000", perm: undefined });
    const args = [sparse("all", machine()), "--probes", write(probe({}) + fault + beyond)];
    expect(report(...args).probes).toMatchObject({ total: 3, pass: 2, excused: { "bypass-ias": 1 }, fail: 0 });
    const { status, stdout } = run(...args);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^probes +3\npass +2\nexcused +1\nfail +0\n/);
  });

  test.each([
    ["another address", { pa: "0x60001000" }],
    ["another direction", { perm: 1 }],
    ["a page that is not there", { sid: 100 }],
  ])("status 1 for %s", (_, more) => {
    const args = [sparse("all", machine()), "--probes", write(probe({}) + probe(more))];
    expect(report(...args).probes).toMatchObject({ total: 2, pass: 1, fail: 1, differences: [{ line: 2 }] });
    const { status, stdout } = run(...args);
    expect(status).toBe(1);
    expect(stdout).toContain("line 2: ");
  });

  test("malformed: file and line", () => {
    const { status, stderr } = run(sparse("all", machine()), "--probes", write(`${probe({})}{"sid":1}\n`));
    expect(stderr).toContain("probes.jsonl:2: the probe: neither");
    expect(status).toBe(2);
  });
});

describe("what cannot be used: status 2, one line that names it", () => {
  const named = (name: string, text: string): string => {
    writeFileSync(join(dir, name), text);
    return name;
  };
  test.each<readonly [what: string, args: () => readonly string[], message: string]>([
    ["no dump", () => [], "missing required argument 'dump'"],
    ["a missing one", () => ["nowhere"], "nowhere: no such file or directory"],
    ["a directory without pages", () => ["."], "pages.json: no such file or directory"],
    ["not a file", () => ["/dev/null", "--registers", "registers.json"], "/dev/null: is not a file"],
    ["raw memory without an address", () => [raw("memory.raw", machine())], "memory.raw: neither pages.json nor an ELF core; raw memory needs --base"],
    ["an address for an ELF core", () => [elf("core.elf", machine()), "--base", "0x0"], "core.elf: --base is for raw memory, and this is an ELF file"],
    ["an address for a sparse dump", () => [sparse("all", machine()), "--base", "0x0"], "all: --base is for raw memory"],
    ["an address in words", () => ["all", "--base", "top"], "expected a number of at most 52 bits"],
    ["a 32-bit core", () => [elf("bad.elf", machine(), (header) => header.writeUInt8(1, 4))], "bad.elf: not a little-endian ELF64 file"],
    ["program headers beyond the file", () => [elf("bad.elf", machine(), (header) => header.writeBigUInt64LE(1n << 40n, 32))], "bad.elf: the program headers are cut off"],
    ["memory beyond the file", () => {
      const name = elf("cut.elf", machine());
      truncateSync(join(dir, name), 6000);
      return [name];
    }, "its memory is cut off"],
    ["a core without memory", () => [elf("none.elf", machine(), (header) => header.writeUInt16LE(1, 56))], "none.elf: no memory"],
    ["pages missing", () => {
      sparse("short", machine());
      truncateSync(join(dir, "short/pages.bin"), 4096);
      return ["short"];
    }, "short/pages.bin: 4096 bytes, but"],
    ["a page not aligned", () => [sparse("odd", machine(), { pages: [{ pa: "0x10" }] })], "odd/pages.json: pages[0].pa: 0x10 is not 4K aligned"],
    ["pages of another size", () => [sparse("large", machine(), { pageSize: 65536 })], "large/pages.json: pageSize: expected 4096"],
    ["no registers", () => [sparse("all", machine()), "--registers", "none.json"], "none.json: no such file or directory"],
    ["registers that are not JSON", () => [sparse("all", machine()), "--registers", named("r.json", "CR0=1")], "r.json: not JSON"],
    ["a register in words", () => [sparse("all", machine()), "--registers", named("r.json", registers({ CR0: "on" }))], "r.json: CR0: expected a number"],
    ["a register missing", () => [sparse("all", machine()), "--registers", named("r.json", '{"IDR0":"0x1"}')], "r.json: IDR1: missing"],
    ["an access without address", () => [sparse("all", machine()), "--sid", "8"], "--sid: an access needs both --sid and --iova"],
    ["an access without stream", () => [sparse("all", machine()), "--write", "--iova", "1"], "--iova: an access needs both"],
    ["a StreamID of 33 bits", () => ["all", "--sid", "0x100000000"], "expected a number of at most 32 bits"],
    ["a missing file of probes", () => [sparse("all", machine()), "--probes", "none.jsonl"], "none.jsonl: no such file or directory"],
    ["an empty file of probes", () => [sparse("all", machine()), "--probes", named("e.jsonl", "")], "e.jsonl:1: the file has no probe"],
    ["a report over the registers", () => [sparse("all", machine()), "--registers", "registers.json", "--json", "registers.json"], "registers.json: is an input of this run"],
  ])("%s", (_, args, message) => {
    const { status, stdout, stderr } = run(...args());
    expect(stderr).toContain(message);
    expect(stderr).not.toMatch(/^ {4}at /m);
    expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
  });
});
