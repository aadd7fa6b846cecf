// `smmu-lab vectors` as a user runs it: formats, malformed input, exit statuses, the report.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { spawnSync } from "node:child_process";
import { Ajv2020 } from "ajv/dist/2020.js";
import { afterAll, describe, expect, test } from "vitest";
import { STE_CONFIG } from "@smmuv3/smmu-v3-defs";
import { AT, caseLine, Image, LEAF } from "./image.ts";

const CLI = join(import.meta.dirname, "../dist/cli.js");
const dir = mkdtempSync(join(tmpdir(), "smmu-lab-vectors-"));
afterAll(() => {
  rmSync(dir, { recursive: true });
});

function run(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, "vectors", ...args], { cwd: dir, encoding: "utf8" });
  return { status, stdout, stderr };
}

function file(name: string, text: string): string {
  writeFileSync(join(dir, name), text);
  return name;
}

const schema = JSON.parse(readFileSync(join(import.meta.dirname, "../schema/vectors.schema.json"), "utf8")) as object;
const validate = new Ajv2020({ allErrors: true, strict: true, strictTypes: false, strictRequired: false }).compile(schema);

const image = new Image().ste(STE_CONFIG.s1).cd().tables(LEAF.s1);
const hex = (value: number): string => `0x${value.toString(16)}`;
const good = caseLine("good", image, [{ outcome: "ok", pa: hex(AT.data) }]);
const wrong = caseLine("wrong", image, [{ outcome: "ok", pa: hex(AT.data + 8) }]);
const excused = caseLine("excused", new Image().ste(STE_CONFIG.s1).cd().tables(LEAF.s1Privileged), [{ outcome: "ok", pa: hex(AT.data) }]);
const crash = '{"name":"crash","need":3,"qemuCrashed":true}\n';
const meta = '{"meta":1,"machine":"virt","stage":"1","idr0":"0xd44101a"}\n';
const steps = good.replace('{"name"', '{"steps":[{"note":"TLBI","access":[{"sid":8,"iova":"0x0","ok":false}]}],"name"');

function report(...args: string[]): Record<string, unknown> & { excused: object; differences: object[] } {
  const { stdout, stderr } = run(...args, "--json", "-");
  expect(stderr).toBe("");
  const json = JSON.parse(stdout) as Record<string, unknown> & { excused: object; differences: object[] };
  expect(validate(json), JSON.stringify(validate.errors)).toBe(true);
  return json;
}

describe("reports", () => {
  test("cases that pass, are excused, crashed, have steps; several files; empty lines", () => {
    const files = [file("a.jsonl", `${meta}${good}\n${crash}`), file("b.jsonl", excused + steps)];
    expect(report(...files)).toMatchObject({
      cases: 4, accesses: 3, pass: 2, excused: { "ap-unpriv": 1 }, excusedAccesses: 1, fail: 0,
      skipped: { crashed: 1, steps: 1 }, differences: [], profile: "finite",
    });
    const { status, stdout, stderr } = run(...files);
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(stdout.split("\n").filter((line) => line.length > 80)).toEqual([]);
    expect(stdout).toContain("ap-unpriv");
  });

  test("a difference: status 1, where it is and what differs", () => {
    const name = file("wrong.jsonl", good + wrong);
    expect(run(name).status).toBe(1);
    expect(report(name)).toMatchObject({
      pass: 1, fail: 1,
      differences: [{ file: name, line: 2, case: "wrong", access: 0, recorded: { pa: hex(AT.data + 8) }, got: { ok: true, pa: hex(AT.data) } }],
    });
    const { stdout } = run(name);
    expect(stdout).toContain("wrong.jsonl:2: wrong, access 0: StreamID 0x8 reads 0x12345000");
    expect(stdout.split("\n").filter((line) => line.length > 80)).toEqual([]);
  });

  test("only the first differences are shown, all are counted", () => {
    const name = file("many.jsonl", wrong.repeat(13));
    const { fail, differences } = report(name);
    expect(fail).toBe(13);
    expect(differences).toHaveLength(10);
    expect(run(name).stdout).toContain("3 more differences");
  });

  test("optional fields may be missing, and the recorder may have seen tags only", () => {
    const lean = (access: object): string => `${JSON.stringify({ ...(JSON.parse(good) as object), name: undefined, need: undefined, access: [access] })}\n`;
    const name = file("lean.jsonl", [
      lean({ sid: 8, iova: hex(0x1234_5000), ok: true, pa: hex(AT.data) }),
      lean({ sid: 8, iova: 305418240, ok: true, pa: hex(AT.data), irqs: [], raz: false, data: "00000060" }),
      // A write that changed no tag that the recorder watched.
      lean({ sid: 8, iova: "0x12345000", write: true, ok: true }),
    ].join(""));
    expect(report(name)).toMatchObject({ cases: 3, accesses: 3, pass: 3 });
  });

  test.each(["lazy", "eager", "finite"])("profile %s", (profile) => {
    expect(report(file("p.jsonl", good), "--profile", profile)).toMatchObject({ profile, pass: 1 });
  });

  test("another machine: its own IDR values decide", () => {
    const narrow = good.replace('"IDR5":"0x74"', '"IDR5":"0x20"');
    // The 4K granule is not there: the CD is ILLEGAL, and nobody excuses a machine that translates.
    expect(run(file("narrow.jsonl", narrow)).status).toBe(1);
  });

  test("--json FILE beside the text", () => {
    const { status, stdout } = run(file("f.jsonl", good), "--json", "out.json");
    expect(status).toBe(0);
    expect(stdout).toMatch(/^cases +1, with 1 accesses\n/);
    expect(JSON.parse(readFileSync(join(dir, "out.json"), "utf8"))).toMatchObject({ schemaVersion: 1, cases: 1 });
  });

  test.each<readonly [string, (json: Record<string, unknown>) => void]>([
    ["a missing key", (json) => delete json["fail"]],
    ["an unknown key", (json) => (json["more"] = 1)],
    ["a negative count", (json) => (json["pass"] = -1)],
  ])("the schema refuses %s", (_, spoil) => {
    const json = report(file("s.jsonl", good));
    spoil(json);
    expect(validate(json)).toBe(false);
  });
});

describe("what cannot be used: status 2, file and line", () => {
  const spoil = (change: (json: { regs: Record<string, unknown>; mem: unknown[]; access: Record<string, unknown>[] }) => unknown): string => {
    const json = JSON.parse(good) as Parameters<typeof change>[0];
    change(json);
    return `${JSON.stringify(json)}\n`;
  };
  test.each<readonly [what: string, text: string, message: string]>([
    ["empty", "", "x.jsonl:1: the file has no case"],
    ["metadata alone", meta, "x.jsonl:1: the file has no case"],
    ["not JSON", `${good}{"name"\n`, "x.jsonl:2: not JSON"],
    ["an array", "[]\n", "x.jsonl:1: the line: expected an object"],
    ["neither case nor metadata", `${good}\n{"name":"x"}\n`, 'x.jsonl:3: neither a case ("access") nor metadata'],
    ["no registers", spoil((json) => delete (json as Partial<typeof json>).regs), "x.jsonl:1: regs: missing"],
    ["a register in words", spoil(({ regs }) => (regs["CR0"] = "on")), 'x.jsonl:1: regs.CR0: expected a number of at most 64 bits, got "on"'],
    ["a register too wide", spoil(({ regs }) => (regs["CR0"] = "0x10000000000000000")), "x.jsonl:1: regs.CR0: expected a number"],
    ["accesses that are no list", spoil((json) => ((json as Record<string, unknown>)["access"] = {})), "x.jsonl:1: access: expected an array"],
    ["no StreamID", spoil(({ access }) => delete access[0]!["sid"]), "x.jsonl:1: access[0].sid: expected a number of at most 64 bits, got nothing"],
    ["a StreamID of 33 bits", spoil(({ access }) => (access[0]!["sid"] = 2 ** 32)), "x.jsonl:1: access[0].sid: 4294967296 is above 4294967295"],
    ["no address", spoil(({ access }) => delete access[0]!["iova"]), "x.jsonl:1: access[0].iova: expected a number"],
    ["no outcome", spoil(({ access }) => delete access[0]!["outcome"]), 'x.jsonl:1: access[0]: neither "ok" nor "outcome"'],
    ["an unknown outcome", spoil(({ access }) => (access[0]!["outcome"] = "maybe")), "x.jsonl:1: access[0].outcome: expected one of ok, bypass, fault, abort"],
    ["write in words", spoil(({ access }) => (access[0]!["write"] = "yes")), "x.jsonl:1: access[0].write: expected true or false"],
    ["a short record", spoil(({ access }) => (access[0]!["events"] = [["0x1"]])), "x.jsonl:1: access[0].events[0]: expected 4 values, got 1"],
    ["memory outside of RAM", spoil(({ mem }) => mem.push({ pa: "0x1000", q: { "0x0": "0x1" } })), "x.jsonl:1: mem: 0x1000 is not RAM"],
    ["memory not aligned", spoil(({ mem }) => mem.push({ pa: "0x41000000", q: { "0x4": "0x1" } })), "offset 0x4 is not a multiple of 8"],
    ["a step without outcome", steps.replace('"ok":false', '"irqs":[]'), 'x.jsonl:1: steps[0].access[0]: neither "ok" nor "outcome"'],
  ])("%s", (_, text, message) => {
    const { status, stdout, stderr } = run(file("x.jsonl", text));
    expect(stderr).toContain(message);
    expect(stderr).not.toMatch(/^ {4}at /m);
    expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
  });

  test.each<readonly [what: string, args: readonly string[], message: string]>([
    ["no file", [], "missing required argument 'file'"],
    ["a missing file", ["nowhere.jsonl"], "nowhere.jsonl: no such file or directory"],
    ["a directory", ["."], ".: illegal operation on a directory"],
    ["an unknown profile", ["a.jsonl", "--profile", "hot"], "Allowed choices are lazy, eager, finite"],
    ["a report over its input", ["a.jsonl", "--json", "a.jsonl"], "a.jsonl: is an input of this run"],
  ])("%s", (_, args, message) => {
    file("a.jsonl", good);
    const { status, stdout, stderr } = run(...args);
    expect(stderr).toContain(message);
    expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
  });
});
