// Rules on what packages declare: tag, place in ARCHITECTURE.md, exports.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import {
  type Finding, type Member, readMembers, readTagNames, shortName, workspaceDependencies,
} from "./workspace.ts";

/** `turbo boundaries` says nothing of a package without a tag, and joins the allow-lists of one with two. */
export function checkTags(root: string): readonly Finding[] {
  const defined = readTagNames(root);
  return readMembers(root).flatMap(({ dir, tags }) => {
    const found = (message: string): Finding => ({ rule: "boundary/tags", file: `${dir}/turbo.json`, line: 1, message });
    if (tags.length !== 1) return [found(`needs exactly one tag, has ${tags.length}`)];
    return tags.filter((tag) => !defined.has(tag)).map((tag) => found(`tag ${tag} is not defined in turbo.json`));
  });
}

interface Row {
  readonly line: number;
  readonly name: string;
  readonly tag: string;
  readonly dependencies: readonly string[];
}

const COLUMNS = "package | tag | owns | does not own | depends on";

function cells(line: string): readonly string[] {
  return line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
}

function backticked(cell: string): readonly string[] {
  return [...cell.matchAll(/`([^`]+)`/g)].map((match) => shortName(match[1]!));
}

/** The rows of the tables of `markdown` whose header is the package table's. */
export function parsePackageTable(markdown: string): readonly Row[] {
  const rows: Row[] = [];
  let inTable = false;
  for (const [index, line] of markdown.split("\n").entries()) {
    const row = line.trim().startsWith("|") ? cells(line) : [];
    if (row.length === 0) inTable = false;
    else if (row.join(" | ").replaceAll("*", "").toLowerCase() === COLUMNS) inTable = true;
    else if (inTable && !row.every((cell) => /^:?-+:?$/.test(cell))) {
      const [name = "", tag = "", , , dependsOn = ""] = row;
      rows.push({
        line: index + 1,
        name: backticked(name)[0] ?? name,
        tag: backticked(tag)[0] ?? tag,
        dependencies: [...backticked(dependsOn)].sort(),
      });
    }
  }
  return rows;
}

/** A table kept by hand drifts: ARCHITECTURE.md says of each package what its manifest says, and names no other. */
export function checkArchitectureTable(root: string): readonly Finding[] {
  const found = (message: string, line: number = 1): Finding =>
    ({ rule: "boundary/architecture-table", file: "ARCHITECTURE.md", line, message });
  const path = join(root, "ARCHITECTURE.md");
  if (!existsSync(path)) return [found("is missing")];
  const rows = parsePackageTable(readFileSync(path, "utf8"));
  const packages = readMembers(root).filter(({ dir }) => dir.startsWith("packages/"));
  const members = new Map(packages.map((member) => [shortName(member.manifest.name), member]));
  const findings: Finding[] = [];
  const seen = new Set<string>();
  for (const row of rows) {
    const member = members.get(row.name);
    if (member === undefined) findings.push(found(`${row.name} is not a package`, row.line));
    else if (seen.has(row.name)) findings.push(found(`${row.name} has two rows`, row.line));
    else findings.push(...compareRow(row, member).map((message) => found(message, row.line)));
    seen.add(row.name);
  }
  for (const name of members.keys()) if (!seen.has(name)) findings.push(found(`${name} has no row`));
  return findings;
}

function compareRow(row: Row, member: Member): readonly string[] {
  const messages: string[] = [];
  const tag = member.tags.join(", ");
  if (row.tag !== tag) messages.push(`${row.name}: the table says tag ${row.tag}, turbo.json says ${tag}`);
  const declared = workspaceDependencies(member.manifest);
  const difference = [
    ...declared.filter((name) => !row.dependencies.includes(name)).map((name) => `lacks ${name}`),
    ...row.dependencies.filter((name) => !declared.includes(name)).map((name) => `has ${name} too many`),
  ];
  if (difference.length > 0) messages.push(`${row.name}: the table's dependencies ${difference.join(", ")}`);
  return messages;
}

function bundleExport(level: string): unknown {
  return { types: `./dist/${level}.d.ts`, default: `./dist/bundles/${level}.js` };
}

const EVERYONE = { "./package.json": "./package.json" };
const BUILT = { ...EVERYONE, ".": "./dist/index.js" };

/** The entries that a package of the tag may export; any other tag gets `BUILT`. */
const ALLOWED_EXPORTS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  composition: {
    ...BUILT,
    "./el1": bundleExport("el1"),
    "./el2": bundleExport("el2"),
    "./el2-paging": bundleExport("el2-paging"),
    "./bundles/*.json": "./dist/bundles/*.json",
  },
};

/** What nobody installs is imported as it is written. */
const PRIVATE = { ...EVERYONE, ".": "./index.ts" };

/** One public entry per package: what another package can reach is what its index names. */
export function checkExports(root: string): readonly Finding[] {
  return readMembers(root).flatMap(({ dir, manifest, tags }) => {
    const found = (message: string): Finding => ({ rule: "boundary/exports", file: `${dir}/package.json`, line: 1, message });
    const findings: Finding[] = [];
    if (manifest.imports !== undefined) findings.push(found("an imports map gives a dependency a second name"));
    if (manifest.exports === undefined) {
      // Without the map, every file of the package is an entry. A private tool is no one's dependency.
      if (manifest.private !== true) findings.push(found("has no exports map"));
      return findings;
    }
    const allowed: Readonly<Record<string, unknown>> = manifest.private === true ? PRIVATE : (ALLOWED_EXPORTS[tags[0] ?? ""] ?? BUILT);
    for (const [entry, target] of Object.entries(manifest.exports as Record<string, unknown>)) {
      if (JSON.stringify(allowed[entry]) !== JSON.stringify(target)) findings.push(found(`exports ${entry} is not allowed`));
    }
    return findings;
  });
}
