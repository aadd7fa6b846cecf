// The command as a user runs it: exit statuses, messages, streams.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, describe, expect, test } from "vitest";
import { mapText, smallTrace, strayMapText, unmapText } from "./traces.ts";

const CLI = join(import.meta.dirname, "../dist/cli.js");
const dir = mkdtempSync(join(tmpdir(), "smmu-lab-"));
afterAll(() => {
  rmSync(dir, { recursive: true });
});

interface Run {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(args: readonly string[], nodeArgs: readonly string[] = []): Run {
  const { status, stdout, stderr } = spawnSync(process.execPath, [...nodeArgs, CLI, ...args], { cwd: dir, encoding: "utf8" });
  return { status, stdout, stderr };
}

const good = mapText() + unmapText();
const long = gzipSync(good.repeat(5000));
const files: Readonly<Record<string, string | Uint8Array>> = {
  "small.ftrace": smallTrace(),
  "small.ftrace.gz": gzipSync(smallTrace()),
  "empty.ftrace": "",
  "binary.ftrace": Uint8Array.of(0x7f, 0x45, 0, 1, 2, 3),
  "text.ftrace": "not a trace\nat all\n",
  "cut.ftrace.gz": long.subarray(0, long.length / 2),
  "garbled.ftrace": good + good.replace("size=4096", "size=many"),
  "none.ftrace": mapText({ dir: "NONE" }),
  "stray.ftrace": strayMapText(0xfe000000),
  "piece.ftrace": mapText({ iova: 2 ** 40, pa: 2 ** 40, size: 2 ** 31 }),
  "live.ftrace": Array.from({ length: 8 }, (_, i) => mapText({ iova: 2 ** 40 + i * 2 ** 29, pa: 2 ** 40, size: 2 ** 29 })).join(""),
  "good.json": '{ "mmio": 0 }',
  "text.json": "mmio = 1",
  "list.json": "[1]",
  "unknown.json": '{ "mimo": 1 }',
  "negative.json": '{ "mmio": -1 }',
  "word.json": '{ "mmio": "1" }',
  "attack.json": JSON.stringify({ architecture: "native", defects: [], operations: 1, schedules: 0, breaches: [], panics: [1] }),
  "mutant.json": JSON.stringify({ architecture: "native", defects: ["x"], operations: 1, schedules: 0, breaches: [], panics: [] }),
};
for (const [name, content] of Object.entries(files)) writeFileSync(join(dir, name), content);
mkdirSync(join(dir, "folder"));

const compareSmall = (...more: string[]): readonly string[] => ["compare", "small.ftrace", "--arch", "native", ...more];

describe("bad input ends with status 2 and one line that names what is wrong", () => {
  test.each<readonly [what: string, args: readonly string[], message: string]>([
    ["no such trace", ["compare", "missing.ftrace"], "missing.ftrace: no such file or directory"],
    ["a directory", ["compare", "folder"], "folder: is a directory"],
    ["not a file", ["compare", "/dev/null"], "/dev/null: is not a file"],
    ["empty", ["compare", "empty.ftrace"], "empty.ftrace:1: the file is empty"],
    ["binary", ["compare", "binary.ftrace"], "binary.ftrace:1: the file is binary"],
    ["other text", ["compare", "text.ftrace"], "text.ftrace:2: no iommu or dma event"],
    ["cut gzip", ["compare", "cut.ftrace.gz"], "gzip data is damaged or cut short"],
    ["garbled event", ["compare", "garbled.ftrace"], 'garbled.ftrace:5: map: size is not a number: "many"'],
    ["no direction", ["compare", "none.ftrace"], "none.ftrace:2: 0000:00:01.0: a mapping with dir=NONE"],
    ["nothing to replay", ["compare", "stray.ftrace"], "stray.ftrace:1: no DMA mapping to replay in 1 lines (1 noDmaEvent)"],
    ["mapping too large", ["compare", "piece.ftrace"], "piece.ftrace:2: 0000:00:01.0: a mapping of 2.00 GiB in one piece"],
    ["too much at a time", ["compare", "live.ftrace"], "live.ftrace:16: 4.00 GiB are mapped at the same time"],
    ["no trace", ["compare"], "missing required argument 'trace'"],
    ["two traces", ["compare", "small.ftrace", "small.ftrace"], "too many arguments"],
    ["no command", [], "Usage: smmu-lab"],
    ["unknown command", ["undo"], "unknown command 'undo'"],
    ["unknown option", compareSmall("--fast"), "unknown option '--fast'"],
    ["unknown architecture", compareSmall("--arch", "native,twin"), '"twin" is none of native, pkvm-unprotected'],
    ["empty list", compareSmall("--arch", ""), '"" is none of native'],
    ["empty item", compareSmall("--arch", "native,"), '"" is none of native'],
    ["property of every object", compareSmall("--arch", "constructor"), '"constructor" is none of'],
    ["unknown profile", compareSmall("--profile", "hot"), "Allowed choices are lazy, eager, finite"],
    ["no cost table", compareSmall("--costs", "missing.json"), "missing.json: no such file or directory"],
    ["directory of costs", compareSmall("--costs", "folder"), "folder: illegal operation on a directory"],
    ["costs not JSON", compareSmall("--costs", "text.json"), "text.json: not JSON"],
    ["costs no object", compareSmall("--costs", "list.json"), "list.json: expected an object"],
    ["unknown cost", compareSmall("--costs", "unknown.json"), 'unknown.json: unknown cost "mimo"; known: mmio'],
    ["negative cost", compareSmall("--costs", "negative.json"), 'negative.json: cost "mmio" must be a number of ns from 0'],
    ["cost in quotes", compareSmall("--costs", "word.json"), 'word.json: cost "mmio" must be a number'],
    ["no folder for the report", compareSmall("--json", "nowhere/report.json"), "nowhere/report.json: no such file or directory"],
    ["report in a file", compareSmall("--json", "good.json/report.json"), "good.json/report.json: good.json is not a directory"],
    ["report to a folder", compareSmall("--json", "folder"), "folder: is a directory"],
    ["report over the trace", compareSmall("--json", "./small.ftrace"), "./small.ftrace: is an input of this run"],
    ["page to a folder", compareSmall("--html", "folder"), "folder: is a directory"],
    ["page over the trace", compareSmall("--html", "small.ftrace"), "small.ftrace: is an input of this run"],
    ["a variant that there is not", compareSmall("--arch", "kvm-driver/paging"), '"kvm-driver/paging" is none of'],
    ["unknown domain", compareSmall("--domain", "s1"), "Allowed choices are identity, paging, both, strict, fq, all"],
    ["nothing of that domain", ["compare", "small.ftrace", "--arch", "kvm-driver", "--domain", "fq"], "--domain fq: none of the architectures"],
    ["unknown hardware", compareSmall("--hw", "s3"), "Allowed choices are nested, s1-only"],
    ["trace and workload", compareSmall("--workload", "dma_map_benchmark"), "small.ftrace: --workload dma_map_benchmark needs no trace"],
    ["page of a workload", ["compare", "--workload", "dma_map_benchmark", "--html", "x.html"], "--html: the page of a trace"],
    ["no attack report", compareSmall("--attack", "good.json"), "good.json: not a report of smmu-lab attack"],
    ["attack on a mutant", compareSmall("--attack", "mutant.json"), "mutant.json: of a build with defects"],
    ["unknown row", ["features", "--explain", "speed"], '"speed" is none of isolation, dma-strict'],
    ["report over the costs", compareSmall("--costs", "good.json", "--json", "good.json"), "good.json: is an input of this run"],
  ])("%s", (_, args, message) => {
    const { status, stdout, stderr } = run(args);
    expect(stderr).toContain(message);
    expect(stderr).not.toMatch(/^ {4}at /m);
    expect(stdout).toBe("");
    expect(status).toBe(2);
  });

  test("the inputs are as they were", () => {
    expect(readFileSync(join(dir, "small.ftrace"), "utf8")).toBe(files["small.ftrace"]);
    expect(existsSync(join(dir, "nowhere"))).toBe(false);
  });
});

describe("output", () => {
  test.each(["small.ftrace", "small.ftrace.gz"])("%s: tables within 80 columns, nothing else", (trace) => {
    const { status, stdout, stderr } = run(["compare", trace]);
    expect(stderr).toBe("");
    expect(status).toBe(0);
    expect(stdout.split("\n").filter((line) => line.length > 80)).toEqual([]);
    expect(stdout).not.toContain("\u001b");
    for (const name of ["native", "kvm-driver", "three-driver *"]) expect(stdout).toContain(` ${name} `);
    expect(stdout).toContain("1 maps: noDmaEvent");
    expect(stdout.match(/^(strict|fq|identity): /gm)).toEqual(["strict: ", "identity: "]);
  });

  test("--json - prints the report alone; an architecture that is named twice runs once", () => {
    const { status, stdout, stderr } = run(["compare", "small.ftrace", "--arch", "native, native", "--json", "-"]);
    expect(stderr).toBe("");
    expect(status).toBe(0);
    const report = JSON.parse(stdout) as { architectures: { name: string; trustedBase: unknown }[] };
    expect(report.architectures.map(({ name }) => name)).toEqual(["native"]);
    expect(report.architectures[0]!.trustedBase).toBeNull();
  });

  test("--json FILE writes the report beside the tables, over an old one too", () => {
    writeFileSync(join(dir, "report.json"), "x".repeat(100_000));
    const { status, stdout } = run(compareSmall("--json", "report.json"));
    expect(status).toBe(0);
    expect(stdout).toContain("native");
    expect(JSON.parse(readFileSync(join(dir, "report.json"), "utf8"))).toMatchObject({ schemaVersion: 1, trace: "small.ftrace" });
  });

  test("--json has a metric for every argument; a campaign's report fills in its own", () => {
    const { status, stdout, stderr } = run(compareSmall("--attack", "attack.json", "--json", "-"));
    expect([status, stderr]).toEqual([0, ""]);
    const { arguments: rows } = JSON.parse(stdout) as { arguments: { id: number; metric: string; values: Record<string, number | string> }[] };
    expect([...new Set(rows.map(({ id }) => id))]).toEqual(Array.from({ length: 30 }, (_, i) => i + 1));
    const sentences = new Set([3, 28, 30]);
    const words = rows.filter(({ id, values }) => !sentences.has(id) && typeof values["native"] !== "number").map(({ id }) => id);
    // n/a without EL2, or not built without a second vendor; what becomes of ATS is a word.
    expect(words).toEqual([15, 17, 19, 24]);
    expect(rows.find(({ metric }) => metric.startsWith("panics of EL2"))?.values).toEqual({ native: 1 });
  });

  test("--html writes one page that needs nothing else", () => {
    const { status, stderr } = run(["compare", "small.ftrace", "--arch", "native,three-driver/paging", "--html", "report.html"]);
    expect([status, stderr]).toEqual([0, ""]);
    const page = readFileSync(join(dir, "report.html"), "utf8");
    expect(page).toMatch(/^<!doctype html>/);
    expect(page).not.toMatch(/(?:src|href)=|@import|url\(|<script/);
    for (const title of ["Features", "What settles each argument", "dma_map_benchmark", "<svg"]) expect(page).toContain(title);
    const open = [...page.matchAll(/<(table|tr|td|th|ul|li|svg|details|figure|div)\b/g)].map(([, tag]) => tag);
    const close = [...page.matchAll(/<\/(table|tr|td|th|ul|li|svg|details|figure|div)>/g)].map(([, tag]) => tag);
    expect(open.toSorted()).toEqual(close.toSorted());
  });

  test("--hw: a design that does not probe is told, and is no finding", () => {
    const { status, stdout, stderr } = run(["compare", "small.ftrace", "--arch", "native,trap-emulate", "--hw", "s2-only"]);
    expect([status, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(/^trap-emulate: no protection: .*ENODEV$/ms);
  });

  test("--workload needs no trace", () => {
    const { status, stdout, stderr } = run(["compare", "--workload", "dma_map_benchmark", "--arch", "native", "--json", "-"]);
    expect([status, stderr]).toEqual([0, ""]);
    expect(JSON.parse(stdout)).toMatchObject({ schemaVersion: 1, workload: "dma_map_benchmark", hardware: "no-ril" });
  });

  test("features: the rows that are asked for, with evidence; as JSON", () => {
    const text = run(["features", "--arch", "native,kvm-driver", "--explain", "dma-strict,msi"]);
    expect([text.status, text.stderr]).toEqual([0, ""]);
    expect(text.stdout).toMatch(/^DMA translation, strict \[dma-strict\] +yes hid$/m);
    expect(text.stdout).toContain("kvm-driver: hidden by design: ");
    const json = run(["features", "--arch", "native", "--explain", "msi", "--json"]);
    const { rows } = JSON.parse(json.stdout) as { rows: { id: string; architectures: Record<string, { works: boolean }> }[] };
    expect(rows.map(({ id, architectures }) => [id, architectures["native"]?.works])).toEqual([["msi", true]]);
  });

  test.runIf(existsSync("/dev/full"))("a report that cannot be written after all: status 2, and the tables are there", () => {
    const { status, stdout, stderr } = run(compareSmall("--json", "/dev/full"));
    expect(stdout).toContain("native");
    expect(stderr).toBe("smmu-lab: /dev/full: no space left on device\n");
    expect(status).toBe(2);
  });

  test("a finding is status 1, with the tables and an explanation", () => {
    const { status, stdout, stderr } = run(compareSmall(), ["--import", join(import.meta.dirname, "abort-every-dma.ts")]);
    expect(status).toBe(1);
    expect(stdout).toContain("native");
    expect(stderr).toMatch(/^native: \d+ wrong DMA\n {2}0000:00:01\.0: trace line \d+: /);
    expect(stderr).not.toMatch(/^ {4}at /m);
  });

  test("a reader that goes away is no error", async () => {
    const child = spawn(process.execPath, [CLI, ...compareSmall("--json", "-")], { cwd: dir, stdio: ["ignore", "pipe", "pipe"] });
    let stderr = "";
    child.stderr.on("data", (chunk: Buffer) => {
      stderr += chunk.toString();
    });
    child.stdout.destroy();
    const status = await new Promise((resolve) => child.on("close", resolve));
    expect(stderr).toBe("");
    expect(status).toBe(0);
  });

  test("--help, --version", () => {
    const help = run(["compare", "--help"]);
    expect(help.status).toBe(0);
    expect(help.stdout.split("\n").filter((line) => line.length > 80)).toEqual([]);
    expect(help.stdout).toContain("Exit status: 0 success; 1 a finding");
    const manifest = JSON.parse(readFileSync(join(import.meta.dirname, "../package.json"), "utf8")) as { version: string };
    expect(run(["--version"])).toEqual({ status: 0, stdout: `${manifest.version}\n`, stderr: "" });
  });
});
