// `smmu-lab attack` as a user runs it, and the JSON that it writes.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import { afterAll, describe, expect, test } from "vitest";

const CLI = join(import.meta.dirname, "../dist/cli.js");
const dir = mkdtempSync(join(tmpdir(), "smmu-attack-"));
afterAll(() => {
  rmSync(dir, { recursive: true });
});

interface Run {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(...args: readonly string[]): Run {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, "attack", ...args], { cwd: dir, encoding: "utf8" });
  return { status, stdout, stderr };
}

const schema = JSON.parse(readFileSync(join(import.meta.dirname, "../schema/attack.schema.json"), "utf8")) as object;
const validate = new Ajv2020({ strict: true }).compile(schema);

function report(name: string): Record<string, unknown> {
  return JSON.parse(readFileSync(join(dir, name), "utf8")) as Record<string, unknown>;
}

const small = ["--arch", "pkvm-unprotected", "--ops", "2000", "--schedules", "60"] as const;

test("a breach: status 1, a report by the schema, and a script that leads there again", () => {
  const { status, stdout } = run(...small, "--json", "a.json");
  expect([status, stdout.includes("breach (I1)")]).toEqual([1, true]);
  const json = report("a.json");
  expect(validate(json), JSON.stringify(validate.errors)).toBe(true);
  const [{ script }] = json["breaches"] as [{ script: object[] }];
  writeFileSync(join(dir, "script.jsonl"), script.map((step) => `${JSON.stringify(step)}\n`).join(""));
  const again = run("--arch", "pkvm-unprotected", "--replay", "script.jsonl");
  expect([again.status, again.stdout]).toEqual([1, expect.stringMatching(/^breach/u)]);
});

test("nothing found: status 0", () => {
  const { status, stdout, stderr } = run("--arch", "three-driver", "--ops", "500", "--schedules", "20");
  expect([status, stderr]).toEqual([0, ""]);
  expect(stdout).toContain("breaches 0, panics 0, deadlocks 0");
});

test("a seeded defect is found", () => {
  const { status, stdout } = run("--arch", "three-driver", "--defect", "donate-skips-smmu", "--ops", "2000", "--schedules", "0");
  expect([status, stdout.includes("with donate-skips-smmu")]).toEqual([1, true]);
});

test("shards, joined", () => {
  for (const i of [1, 2]) expect(run(...small, "--shard", `${i}/2`, "--json", `s${i}.json`).status).toBe(1);
  expect(run("--merge", "s2.json", "s1.json", "--json", "merged.json").status).toBe(1);
  run(...small, "--json", "whole.json");
  expect(report("merged.json")).toEqual(report("whole.json"));
});

test("the defects, as text and as JSON", () => {
  expect(run("--list-defects").stdout).toContain("donate-skips-smmu");
  expect((JSON.parse(run("--list-defects", "--json", "-").stdout) as unknown[]).length).toBeGreaterThan(40);
});

describe("bad usage: status 2", () => {
  test.each<readonly [string, readonly string[], string]>([
    ["no architecture", [], "--arch"],
    ["unknown architecture", ["--arch", "native"], "is none of"],
    ["unknown defect", ["--arch", "three-driver", "--defect", "none"], "is no defect of three-driver"],
    ["a bad shard", ["--arch", "three-driver", "--shard", "3/2"], "1 <= i <= n"],
    ["a bad number", ["--arch", "three-driver", "--ops", "-1"], "whole number"],
    ["no such script", ["--arch", "three-driver", "--replay", "missing"], "missing"],
    ["not a report", ["--merge", "text.json"], "not a report"],
    ["not JSON", ["--merge", "text.txt"], "not JSON"],
    ["not a script", ["--arch", "three-driver", "--replay", "text.txt"], "text.txt:1"],
    ["not an operation", ["--arch", "three-driver", "--replay", "text.json"], "not an operation"],
  ])("%s", (_what, args, message) => {
    writeFileSync(join(dir, "text.json"), "{}");
    writeFileSync(join(dir, "text.txt"), "text");
    const { status, stderr } = run(...args);
    expect([status, stderr]).toEqual([2, expect.stringContaining(message)]);
  });
});
