// What the checks know of the repository: its packages and tools, their manifests, tags and source files.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, posix } from "node:path";
import ts from "typescript";

export const SCOPE = "@smmuv3/";

/** One violation. `rule` is the prefix it is printed under, `line` counts from 1, `file` is relative to the root. */
export interface Finding {
  readonly rule: string;
  readonly file: string;
  readonly line: number;
  readonly message: string;
}

export interface Manifest {
  readonly name: string;
  readonly version?: string;
  readonly private?: boolean;
  readonly bin?: Readonly<Record<string, string>>;
  readonly exports?: unknown;
  readonly imports?: unknown;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

/** A package or a tool. `dir` is relative to the root, with forward slashes: `packages/platform`. */
export interface Member {
  readonly dir: string;
  readonly manifest: Manifest;
  /** The tags of its turbo.json; empty without one. */
  readonly tags: readonly string[];
}

export interface SourceFile {
  /** Relative to the root. */
  readonly file: string;
  /** Relative to the member. */
  readonly local: string;
  readonly text: string;
}

const SKIPPED = new Set(["node_modules", "dist", "coverage"]);
const SOURCE = /\.[cm]?[jt]sx?$/;

export function readJson(file: string): unknown {
  return JSON.parse(readFileSync(file, "utf8")) as unknown;
}

/** turbo.json may hold comments, which JSON.parse refuses. */
export function readJsonc(file: string): unknown {
  const parsed: { config?: unknown; error?: ts.Diagnostic } = ts.parseConfigFileTextToJson(file, readFileSync(file, "utf8"));
  const { config, error } = parsed;
  if (error !== undefined) throw new Error(`${file}: ${ts.flattenDiagnosticMessageText(error.messageText, "\n")}`);
  return config;
}

/** The tags the root turbo.json defines. */
export function readTagNames(root: string): ReadonlySet<string> {
  const config = readJsonc(join(root, "turbo.json")) as { boundaries?: { tags?: Record<string, unknown> } };
  return new Set(Object.keys(config.boundaries?.tags ?? {}));
}

/** Every directory of `packages/` and `tools/` with a manifest, in alphabetical order. */
export function readMembers(root: string): readonly Member[] {
  return ["packages", "tools"].flatMap((parent) => readMembersOf(root, parent));
}

function readMembersOf(root: string, parent: string): readonly Member[] {
  return readdirSync(join(root, parent))
    .sort()
    .map((name) => posix.join(parent, name))
    .filter((dir) => existsSync(join(root, dir, "package.json")))
    .map((dir) => {
      const turbo = join(root, dir, "turbo.json");
      const config = existsSync(turbo) ? (readJsonc(turbo) as { tags?: readonly string[] }) : {};
      return { dir, manifest: readJson(join(root, dir, "package.json")) as Manifest, tags: config.tags ?? [] };
    });
}

/** The member's own TypeScript and JavaScript, without what is built, installed or hidden. */
export function readSources(root: string, member: Member): readonly SourceFile[] {
  const found: SourceFile[] = [];
  const walk = (local: string): void => {
    for (const entry of readdirSync(join(root, member.dir, local), { withFileTypes: true })) {
      const path = posix.join(local, entry.name);
      if (entry.name.startsWith(".") || SKIPPED.has(entry.name)) continue;
      if (entry.isDirectory()) walk(path);
      else if (SOURCE.test(entry.name)) {
        const file = posix.join(member.dir, path);
        found.push({ file, local: path, text: readFileSync(join(root, file), "utf8") });
      }
    }
  };
  walk("");
  return found.sort((a, b) => (a.file < b.file ? -1 : 1));
}

/** `@smmuv3/platform/x` and `platform` alike give `platform`. */
export function shortName(name: string): string {
  return name.startsWith(SCOPE) ? name.slice(SCOPE.length) : name;
}

/** The short names of the workspace packages that `dependencies` names. */
export function workspaceDependencies(manifest: Manifest): readonly string[] {
  return Object.keys(manifest.dependencies ?? {})
    .filter((name) => name.startsWith(SCOPE))
    .map(shortName)
    .sort();
}

/** The package that a bare specifier names: `@a/b/c` gives `@a/b`. */
export function packageOf(specifier: string): string {
  return specifier.split("/", specifier.startsWith("@") ? 2 : 1).join("/");
}
