// The command over the recorded vectors and dumps, as a user runs it.
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { dataPath } from "@smmuv3/data";

const CLI = fileURLToPath(new URL("dist/cli.js", import.meta.resolve("@smmuv3/smmu-lab/package.json")));

function run(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, ...args], { encoding: "utf8", maxBuffer: 1 << 28 });
  return { status, stdout, stderr };
}

function tooWide(text: string): string[] {
  return text.split("\n").filter((line) => line.length > 80);
}

test("vectors: all recorded cases", () => {
  const files = ["s1-cold", "s2-cold", "nested-cold", "fuzz-101"].map((name) => dataPath(`vectors/qemu/${name}.jsonl`));
  const { status, stdout, stderr } = run("vectors", ...files, "--profile", "lazy");
  expect(stderr).toBe("");
  expect(status).toBe(0);
  expect(tooWide(stdout)).toEqual([]);
  expect(stdout).toMatch(/^cases +348, with 4,955 accesses\npass +3,916\nexcused +1,039\nfail +0\n/);
  expect(stdout).toMatch(/^ {2}tbi1-macro +55$/m);
});

interface Leaf {
  readonly sid: number;
  readonly iova: string;
  readonly size: string;
  readonly pa: string;
}
interface LeafSet {
  readonly count: number;
  readonly ranges: readonly { readonly input: string; readonly output: string; readonly size: string; readonly count: number }[];
}
interface Report {
  readonly streams: readonly {
    readonly first: number;
    readonly last: number;
    readonly config: string;
    readonly contexts: readonly { readonly leaves: LeafSet | null }[];
    readonly stage2: LeafSet | null;
  }[];
  readonly queues: Readonly<Record<"commands" | "events", { readonly pending: number; readonly entries: readonly { readonly index: number; readonly value: string[] | null; readonly text: string }[] }>>;
  readonly access?: { readonly outcome: string; readonly pa: string | null; readonly event: { readonly name: string; readonly recorded: boolean } | null; readonly reads: readonly { readonly what: string }[] };
  readonly probes?: Readonly<Record<string, unknown>>;
}

function lines<T>(name: string): T[] {
  return readFileSync(dataPath(name), "utf8").split("\n").filter((line) => line !== "").map((line) => JSON.parse(line) as T);
}

const RUNS = [
  { name: "s1-4k", config: "stage 1", excused: {} },
  { name: "s2-4k", config: "stage 2", excused: { "ipa-low-bits": 612, "s2-iova-beyond-ias": 64 } },
] as const;

describe.each(RUNS)("inspect Linux $name", ({ name, config, excused }) => {
  const folder = `vectors/linux/${name}`;
  const dump = dataPath(folder);

  test("all probes hold", () => {
    const { status, stdout, stderr } = run("inspect", dump, "--probes", dataPath(`${folder}/probes.jsonl`), "--json", "-");
    expect(stderr).toBe("");
    expect(status).toBe(0);
    const { probes } = JSON.parse(stdout) as Report;
    expect(probes).toMatchObject({ total: 3667, excused, fail: 0, differences: [] });
  });

  test("streams and their leaves are those of an independent walker", () => {
    const { streams } = JSON.parse(run("inspect", `${dump}/pages.json`, "--json", "-").stdout) as Report;
    const translating = streams.filter((stream) => stream.config === config);
    const expected = JSON.parse(readFileSync(dataPath(`${folder}/streams.json`), "utf8")) as { sid: number; config: number; leaves?: number }[];
    expect(translating.map(({ first }) => first)).toEqual(expected.filter(({ leaves }) => leaves !== undefined).map(({ sid }) => sid));
    expect(streams.reduce((sum, { first, last }) => sum + last - first + 1, 0)).toBe(expected.length);
    const sets = new Map(translating.map(({ first, contexts, stage2 }) => [first, stage2 ?? contexts[0]!.leaves!]));
    for (const { sid, leaves } of expected) if (leaves !== undefined) expect(sets.get(sid)!.count).toBe(leaves);
    for (const { sid, iova, pa, size } of lines<Leaf>(`${folder}/leaves.jsonl`)) {
      const range = sets.get(sid)!.ranges.find(({ input, size: bytes }) => BigInt(iova) >= BigInt(input) && BigInt(iova) < BigInt(input) + BigInt(bytes));
      expect(range).toBeDefined();
      expect(BigInt(range!.output) + BigInt(iova) - BigInt(range!.input)).toBe(BigInt(pa));
      expect(BigInt(iova) + BigInt(size)).toBeLessThanOrEqual(BigInt(range!.input) + BigInt(range!.size));
    }
  });

  test("queues are those that were recorded", () => {
    const { queues } = JSON.parse(run("inspect", dump, "--json", "-").stdout) as Report;
    const events = lines<{ index: number; dw: string[] }>(`${folder}/events.jsonl`);
    expect(queues.events.entries.map(({ index, value }) => ({ index, dw: value }))).toEqual(events.map(({ index, dw }) => ({ index, dw })));
    expect(queues.events.pending).toBe(0);
    expect(queues.commands.entries).toHaveLength(16);
    expect(queues.commands.entries.at(-1)!.text).toMatch(/^CMD_SYNC /);
  });

  test("text within 80 columns", () => {
    const { status, stdout } = run("inspect", dump);
    expect(status).toBe(0);
    expect(tooWide(stdout)).toEqual([]);
    expect(stdout).toContain(`\n0x8       ${config}, STE at 0x`);
  });
});

test("inspect explains a fault: every structure on the way, and the record", () => {
  const { status, stdout } = run("inspect", dataPath("vectors/linux/s2-4k"), "--sid", "80", "--iova", "0x1000008018", "--write", "--json", "-");
  expect(status).toBe(0);
  const { access } = JSON.parse(stdout) as Report;
  expect(access).toMatchObject({ outcome: "abort", pa: null, event: { name: "F_TRANSLATION", recorded: true } });
  expect(access!.reads.map(({ what }) => what)).toEqual([
    "L1STD", "STE", "stage 2 level 0", "stage 2 level 1", "stage 2 level 2", "stage 2 level 3",
  ]);
});
