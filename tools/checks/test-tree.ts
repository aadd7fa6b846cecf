// Directories for the checks to judge: small ones written from a table, and a copy of this repository to plant faults in.
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import ts from "typescript";
import { readMembers } from "./workspace.ts";

/** A directory under the system's temporary one. Its `root` goes away with `remove()`. */
export class Tree {
  readonly root: string = mkdtempSync(join(tmpdir(), "checks-"));

  write(file: string, content: string | object): void {
    const path = join(this.root, file);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
  }

  writeAll(files: Readonly<Record<string, string | object>>): this {
    for (const [file, content] of Object.entries(files)) this.write(file, content);
    return this;
  }

  read(file: string): string {
    return readFileSync(join(this.root, file), "utf8");
  }

  readJson(file: string): unknown {
    return JSON.parse(this.read(file)) as unknown;
  }

  /** Puts `files` in place (undefined: deletes), runs `body`, and puts everything back as it was. */
  async planted<T>(files: Readonly<Record<string, string | undefined>>, body: () => T | Promise<T>): Promise<T> {
    const before = Object.keys(files).map((file) => {
      return [file, existsSync(join(this.root, file)) ? this.read(file) : undefined] as const;
    });
    try {
      this.#put(Object.entries(files));
      return await body();
    } finally {
      this.#put(before);
    }
  }

  #put(files: readonly (readonly [string, string | undefined])[]): void {
    for (const [file, content] of files) {
      if (content === undefined) rmSync(join(this.root, file), { force: true });
      else this.write(file, content);
    }
  }

  remove(): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}

const NOT_COPIED = new Set(["node_modules", "dist", "coverage"]);

/**
 * The manifests and sources of `root`. Links between packages lead to the copies; what is installed from elsewhere is
 * shared through one link, so that a copy takes no time.
 */
export function copyRepository(root: string): Tree {
  const tree = new Tree();
  cpSync(root, tree.root, {
    recursive: true,
    filter: (path) => path === root || !(NOT_COPIED.has(basename(path)) || /^\.(?!changeset|gitignore)/.test(basename(path))),
  });
  symlinkSync(join(root, "node_modules"), join(tree.root, "node_modules"));
  for (const { dir } of readMembers(root)) {
    const modules = join(root, dir, "node_modules");
    if (!existsSync(modules)) continue;
    for (const entry of readdirSync(modules).filter((name) => !name.startsWith("."))) {
      cpSync(join(modules, entry), join(tree.root, dir, "node_modules", entry), { recursive: true, verbatimSymlinks: true });
    }
  }
  return tree;
}

const COMPILER_OPTIONS: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2023,
  module: ts.ModuleKind.ESNext,
  verbatimModuleSyntax: true,
  isolatedDeclarations: true,
  declaration: true,
  rewriteRelativeImportExtensions: true,
};

/** Compiles `packages/<name>/src/<file>` to `dist`, alone and unchecked: enough to bundle and to resolve types. */
export function transpile(tree: Tree, dir: string, file: string): void {
  const text = tree.read(`${dir}/src/${file}`);
  const options = { fileName: file, compilerOptions: COMPILER_OPTIONS };
  const stem = file.replace(/\.ts$/, "");
  tree.write(`${dir}/dist/${stem}.js`, ts.transpileModule(text, options).outputText);
  tree.write(`${dir}/dist/${stem}.d.ts`, ts.transpileDeclaration(text, options).outputText);
}

/** Compiles the sources of every package of the tree. */
export function transpileAll(tree: Tree): void {
  for (const { dir } of readMembers(tree.root)) {
    const src = join(tree.root, dir, "src");
    if (!existsSync(src)) continue;
    const files = readdirSync(src, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".ts"));
    for (const file of files) transpile(tree, dir, file);
  }
}
