// Rules on what source files say: where their imports lead, how long they are.
import { isBuiltin } from "node:module";
import { posix } from "node:path";
import { listImports } from "./imports.ts";
import { type Finding, type Member, packageOf, readMembers, readSources, type SourceFile } from "./workspace.ts";

const MAX_LINES = 500;

/** The one file outside its package that a test may import, and the one test that may. */
const SHARED_TEST = { importer: "test/readme.test.ts", target: "tools/checks/readme.ts" };

function sources(root: string): readonly (readonly [Member, SourceFile])[] {
  return readMembers(root).flatMap((member) => readSources(root, member).map((file) => [member, file] as const));
}

function isRelative(specifier: string): boolean {
  return /^(\.{0,2}\/|\.{1,2}$|[a-z]+:\/\/|file:)/i.test(specifier);
}

/** A relative path past the package's own directory is a dependency that no manifest shows, and so no tag judges. */
export function checkRelativeImports(root: string): readonly Finding[] {
  return sources(root).flatMap(([{ dir }, { file, local, text }]) =>
    listImports(file, text).flatMap(({ specifier, line, kind }): readonly Finding[] => {
      if (specifier === undefined) return [];
      if (!isRelative(specifier) && kind !== "reference path") return [];
      const target = posix.join(posix.dirname(file), specifier);
      const inside = target.startsWith(`${dir}/`) && !posix.isAbsolute(specifier) && !specifier.includes(":");
      if (inside || (local === SHARED_TEST.importer && target === SHARED_TEST.target)) return [];
      return [{ rule: "boundary/relative-import", file, line, message: `${kind} of ${specifier} leaves the package` }];
    }),
  );
}

const TURBO_IGNORE = ["@boundaries", "ignore"].join("-");

/** Switches off the lint rules that guard boundaries, by name or with all others. */
const LINT_IGNORE = /\beslint-disable(-next-line|-line)?\s*(\*\/|--|$|.*\bno-restricted-syntax\b)/;

/** What imports text that it has just made: the README helper its example, the laboratory a bundle with a defect. */
const LINT_EXEMPT: readonly string[] = [SHARED_TEST.target, "tools/smmu-lab/src/lab/defects.ts"];

/** The tools' own escape hatches open for the shared README test and nothing else. */
export function checkIgnores(root: string): readonly Finding[] {
  return sources(root).flatMap(([, { file, local, text }]) => {
    const lines = text.split("\n");
    return lines.flatMap((content, index): readonly Finding[] => {
      const found = (message: string): readonly Finding[] => [{ rule: "boundary/ignore", file, line: index + 1, message }];
      if (LINT_IGNORE.test(content) && !LINT_EXEMPT.includes(file)) return found("switches off a lint rule that guards boundaries");
      if (!content.includes(TURBO_IGNORE)) return [];
      const covered = lines[index + 1] ?? "";
      if (local === SHARED_TEST.importer && covered.endsWith(`"../../../${SHARED_TEST.target}";`)) return [];
      return found(`${TURBO_IGNORE} hides an import from turbo`);
    });
  });
}

/** What `src` imports, be it a type, must come with the package: a dev dependency is not there once it is installed. */
export function checkSourceImports(root: string): readonly Finding[] {
  return sources(root).flatMap(([{ dir, manifest }, { file, local, text }]) => {
    if (!local.startsWith("src/")) return [];
    const shipped = new Set([manifest.name, ...Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies })]);
    const mayUseNode = dir.startsWith("tools/");
    return listImports(file, text).flatMap(({ specifier, line, kind }): readonly Finding[] => {
      if (specifier === undefined || isRelative(specifier) || kind === "reference path") return [];
      const name = packageOf(specifier);
      if (shipped.has(name) || (mayUseNode && isBuiltin(specifier))) return [];
      const message = `${kind} of ${name}, which is not among the dependencies the package ships with`;
      return [{ rule: "boundary/source-import", file, line, message }];
    });
  });
}

/** Sources of more than 500 lines hold more than one subject. */
export function checkFileSize(root: string): readonly Finding[] {
  return sources(root).flatMap(([{ dir }, { file, local, text }]): readonly Finding[] => {
    const isSource = local.startsWith("src/") || (dir.startsWith("tools/") && !/^(test|bench)\/|\.test\./.test(local));
    const lines = text.split("\n").length - (text.endsWith("\n") ? 1 : 0);
    if (!isSource || lines <= MAX_LINES) return [];
    return [{ rule: "boundary/file-size", file, line: MAX_LINES + 1, message: `${lines} lines, ${MAX_LINES} at most` }];
  });
}
