// A vitest reporter: docs/implemented.md of a package is what its tests say about the sections of the manual.
//
// A test is a row when its own title, or the nearest `describe` around it, names a section: `5.2 S2TTB: out of range`, `7.4 overflow`,
// `a page request (8.2)`, `chapter 8: records`. Behind ` | ` stands what tells the cases of one row apart. A title with `not implemented`
// shows that something is absent. The file is judged after a run of every test file, and written by one with `-u`.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import type { Reporter, TestModule, Vitest } from "vitest/node";

/** One test: its titles from the outermost `describe` to its own, and how it ended. */
export interface TestResult {
  readonly titles: readonly string[];
  readonly passed: boolean;
}

export interface Row {
  readonly section: string;
  readonly rule: string;
  readonly absent: boolean;
  readonly cases: number;
  readonly passed: number;
}

const NUMBER = String.raw`\d{1,2}(?:\.\d{1,3})+`;
/** At the start of a title: sections, the field that the section is about, and a separator. */
const LEADING = new RegExp(String.raw`^(?:chapter (\d{1,2})|(${NUMBER}(?:(?:, | to )${NUMBER})*(?: \w+(?=:))?)),?:? `, "u");
const TRAILING = new RegExp(String.raw` \((${NUMBER}(?:, ${NUMBER})*)(?: \w+)?(?:, [^()]*)?\)$`, "u");
const BARE = new RegExp(String.raw`^${NUMBER}$`, "u");

/** The section that a title names, and the title without it. */
export function parseTitle(title: string): { section: string | undefined; text: string } {
  if (BARE.test(title)) return { section: title, text: "" };
  const leading = LEADING.exec(title);
  if (leading !== null) return { section: leading[1] ?? leading[2], text: title.slice(leading[0].length) };
  const trailing = TRAILING.exec(title);
  if (trailing !== null) return { section: trailing[1], text: title.slice(0, trailing.index) };
  return { section: undefined, text: title };
}

/** Sections in the order of the manual, then fields and rules by name. */
function compareRows(a: Row, b: Row): number {
  const [left, right] = [a, b].map(({ section }) => (/^[\d.]+/u.exec(section)?.[0] ?? "").split(".").map(Number)) as [number[], number[]];
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const difference = (left[i] ?? -1) - (right[i] ?? -1);
    if (difference !== 0) return difference;
  }
  if (a.section !== b.section) return a.section < b.section ? -1 : 1;
  return a.rule < b.rule ? -1 : a.rule > b.rule ? 1 : 0;
}

/** The rows of a run; tests that name no section are none. */
export function rowsOf(results: readonly TestResult[]): readonly Row[] {
  const rows = new Map<string, Row>();
  for (const { titles, passed } of results) {
    const parsed = titles.map(parseTitle);
    const section = parsed.findLast((title) => title.section !== undefined)?.section;
    if (section === undefined) continue;
    const texts = parsed.map(({ text }) => text.split(" | ")[0]!.trim()).filter((text) => text !== "");
    const rule = texts.join(": ");
    const key = `${section}\n${rule}`;
    const before = rows.get(key) ?? { section, rule, absent: /\bnot implemented\b/u.test(rule), cases: 0, passed: 0 };
    rows.set(key, { ...before, cases: before.cases + 1, passed: before.passed + (passed ? 1 : 0) });
  }
  return [...rows.values()].sort(compareRows);
}

function resultOf({ absent, cases, passed }: Row): string {
  if (passed < cases) return `${cases - passed} of ${cases} FAIL`;
  const what = absent ? "absent" : "pass";
  return cases === 1 ? what : `${what} (${cases})`;
}

/** Chapters of the manual that have rows. */
const CHAPTERS: Readonly<Record<string, string>> = {
  3: "Operation",
  4: "Commands",
  5: "Data structure formats",
  6: "Memory map and registers",
  7: "Faults, errors and Event queue",
  8: "Page request queue",
  9: "Address translation operations",
  12: "RAS and Service Failure Mode",
  13: "Attribute transformation",
  16: "System and implementation considerations",
};

function chapterOf({ section }: Row): string {
  return /^\d+/u.exec(section)![0];
}

function renderChapter(chapter: string, rows: readonly Row[]): readonly string[] {
  const cell = (text: string): string => text.replace(/[|*_<>]/gu, String.raw`\$&`);
  return [
    `## ${chapter} ${CHAPTERS[chapter] ?? ""}`.trimEnd(),
    "",
    "| section | rule | result |",
    "| --- | --- | --- |",
    ...rows.map((row) => `| ${cell(row.section)} | ${cell(row.rule)} | ${resultOf(row)} |`),
    "",
  ];
}

/** The whole file. */
export function renderRows(packageName: string, rows: readonly Row[]): string {
  const cases = rows.reduce((sum, row) => sum + row.cases, 0);
  const absent = rows.filter((row) => row.absent).length;
  const chapters = [...new Set(rows.map(chapterOf))];
  return [
    `# What ${packageName} implements`,
    "",
    `Made from the tests of the package, which fail when this file is not what they say: ${rows.length} rows, ${cases} cases;`,
    `${absent} rows show that something is absent. Sections are those of IHI 0070. A number in parentheses counts the cases of a row.`,
    "",
    ...chapters.flatMap((chapter) => renderChapter(chapter, rows.filter((row) => chapterOf(row) === chapter))),
  ].join("\n");
}

function titlesOf(module: TestModule): readonly TestResult[] {
  return [...module.children.allTests()].map((test) => {
    const titles = [test.name];
    for (let parent = test.parent; parent.type === "suite"; parent = parent.parent) titles.unshift(parent.name);
    return { titles, passed: test.result().state === "passed" };
  });
}

/** Compares, or with `-u` writes, `docs/implemented.md` of the package whose tests ran. */
export default class ImplementedReporter implements Reporter {
  #vitest: Vitest | undefined;

  onInit(vitest: Vitest): void {
    this.#vitest = vitest;
  }

  onTestRunEnd(modules: readonly TestModule[]): void {
    const { root, snapshotOptions } = this.#vitest!.config;
    const all = readdirSync(join(root, "test")).filter((name) => name.endsWith(".test.ts"));
    const own = modules.filter(({ moduleId }) => dirname(moduleId) === join(root, "test"));
    const ran = new Set(own.map(({ moduleId }) => basename(moduleId)));
    if (all.some((name) => !ran.has(name))) return;
    const { name } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { name: string };
    const text = renderRows(name, rowsOf(own.flatMap(titlesOf)));
    const file = join(root, "docs/implemented.md");
    if (existsSync(file) && readFileSync(file, "utf8") === text) return;
    if (snapshotOptions.updateSnapshot === "all") {
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, text);
      return;
    }
    this.#vitest!.logger.error(`${file} is not what the tests say. Run \`pnpm test -u\` in ${root}.`);
    process.exitCode = 1;
  }
}
