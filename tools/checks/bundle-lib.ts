// What a bundle is made of: the trusted base of an exception level, counted on the modules that reach its output.
import ts from "typescript";
import { parse } from "./imports.ts";

/** The part of esbuild's metafile that is read here. Paths are relative to the repository root. */
export interface Metafile {
  readonly inputs: Readonly<Record<string, { readonly bytes: number; readonly sha256?: string }>>;
  readonly outputs: Readonly<Record<string, MetafileOutput>>;
}

export interface MetafileOutput {
  readonly bytes: number;
  readonly exports: readonly string[];
  readonly imports: readonly { readonly path: string }[];
  readonly inputs: Readonly<Record<string, { readonly bytesInOutput: number }>>;
}

export interface CodeSize {
  /** Lines that hold code: neither blank nor only comment. */
  readonly lines: number;
  /** Statement nodes, without blocks and empty statements, whose content counts for itself. */
  readonly statements: number;
}

export interface ModuleStats extends CodeSize {
  readonly package: string;
  readonly file: string;
  readonly bytesInOutput: number;
}

export interface BundleAnalysis extends CodeSize {
  readonly bytes: number;
  readonly modules: readonly ModuleStats[];
  readonly exports: readonly string[];
}

/** `dist/bundles/el1.stats.json`. */
export interface BundleStats extends BundleAnalysis {
  readonly minifiedBytes: number;
}

export function measureCode(file: string, text: string): CodeSize {
  const source = parse(file, text);
  const lines = new Set<number>();
  let statements = 0;
  const lineAt = (position: number): number => source.getLineAndCharacterOfPosition(position).line;
  const visit = (node: ts.Node): void => {
    if (ts.isJSDoc(node)) return;
    if (ts.isStatement(node) && !ts.isBlock(node) && !ts.isEmptyStatement(node)) statements += 1;
    const children = node.getChildren(source);
    children.forEach(visit);
    if (children.length > 0 || node.getWidth(source) === 0) return;
    // A template literal is one token over several lines, all of them code.
    for (let line = lineAt(node.getStart(source)); line <= lineAt(node.end); line += 1) lines.add(line);
  };
  visit(source);
  return { lines: lines.size, statements };
}

/** The name in the manifest nearest to `file`. Throws when no directory above it has one. */
function packageNameOf(file: string, readFile: (path: string) => string | undefined): string {
  const parts = file.split("/");
  for (let depth = parts.length - 1; depth > 0; depth -= 1) {
    const manifest = readFile([...parts.slice(0, depth), "package.json"].join("/"));
    if (manifest !== undefined) return (JSON.parse(manifest) as { name: string }).name;
  }
  throw new Error(`${file} is in no package`);
}

/**
 * Measures the single output of `metafile`. `readFile` returns the text of a file named relative to the repository
 * root, undefined where there is none. Modules that tree shaking removed whole count for nothing.
 */
export function analyse(metafile: Metafile, readFile: (path: string) => string | undefined): BundleAnalysis {
  const [output, ...others] = Object.values(metafile.outputs);
  if (output === undefined || others.length > 0) throw new Error("a bundle has exactly one output");
  const modules = Object.entries(output.inputs)
    .filter(([, { bytesInOutput }]) => bytesInOutput > 0)
    .map(([file, { bytesInOutput }]): ModuleStats => {
      const text = readFile(file);
      if (text === undefined) throw new Error(`${file} is in the bundle but cannot be read`);
      return { package: packageNameOf(file, readFile), file, bytesInOutput, ...measureCode(file, text) };
    })
    .sort((a, b) => (a.file < b.file ? -1 : 1));
  const sum = (key: "lines" | "statements"): number => modules.reduce((total, module) => total + module[key], 0);
  return {
    bytes: output.bytes,
    lines: sum("lines"),
    statements: sum("statements"),
    exports: [...output.exports].sort(),
    modules,
  };
}
