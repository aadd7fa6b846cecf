import { readFile } from "node:fs/promises";
import { tokenizer } from "acorn";
import type { Variant } from "./variants.ts";

/** A module in the text of a bundle. */
export interface Segment {
  /** e.g. `arm-smmu-v3`. */
  readonly package: string;
  /** Path in the repository, the same in every bundle. */
  readonly file: string;
  /** Offsets in the text. */
  readonly start: number;
  readonly end: number;
}

/** The bundler's remark before each module. */
const MODULE = /^\/\/ ((?:\.\.\/)*packages\/([\w-]+)\/dist\/\S+)$/gmu;
/** Tokens in a row that make a clone, as copy-paste detectors count. */
const CLONE_TOKENS = 50;
const HASH_BASE = 0x0100_0193;

/** Text of one level of a variant as it runs. */
export function variantText({ architecture, paging }: Variant, level: "el1" | "el2"): Promise<string> {
  const entry = level === "el2" && paging ? "el2-paging" : level;
  return readFile(new URL(import.meta.resolve(`@smmuv3/arch-${architecture}/${entry}`)), "utf8");
}

/** The modules of a bundle, in order. */
export function segments(text: string): Segment[] {
  const marks = [...text.matchAll(MODULE)];
  return marks.map((mark, i) => ({
    package: mark[2]!,
    file: mark[1]!,
    start: mark.index + mark[0].length,
    end: marks[i + 1]?.index ?? text.length,
  }));
}

/** Code lines in `[start, end)` of a text: neither blank nor only comment. Calls `visit` with the offsets of each. */
export function eachLine(text: string, { start, end }: Segment, visit: (from: number, to: number) => void): void {
  for (let from = start; from < end; ) {
    const newline = text.indexOf("\n", from);
    const to = newline < 0 || newline > end ? end : newline;
    const line = text.slice(from, to).trim();
    if (line !== "" && !/^(?:\/\/|\/?\*)/u.test(line)) visit(from, to);
    from = to + 1;
  }
}

/** Lines of the modules of `packages` that match `pattern`. */
export function linesMatching(text: string, packages: (name: string) => boolean, pattern: RegExp): (readonly [from: number, to: number])[] {
  const found: (readonly [number, number])[] = [];
  for (const segment of segments(text)) {
    if (!packages(segment.package)) continue;
    eachLine(text, segment, (from, to) => {
      if (pattern.test(text.slice(from, to))) found.push([from, to]);
    });
  }
  return found;
}

interface Tokens {
  /** Numbers of the tokens' texts, and the line of each. */
  readonly ids: number[];
  readonly lines: number[];
}

function tokens(text: string, numbers: Map<string, number>): Tokens {
  const ids: number[] = [];
  const lines: number[] = [];
  for (const token of tokenizer(text, { ecmaVersion: "latest", sourceType: "module", locations: true })) {
    // The bundler numbers names that clash.
    const word = text.slice(token.start, token.end).replace(/(?<=[A-Za-z_])\d+$/u, "");
    let id = numbers.get(word);
    if (id === undefined) numbers.set(word, (id = numbers.size + 1));
    ids.push(id);
    lines.push(token.loc!.start.line);
  }
  return { ids, lines };
}

/** Calls `visit` with a hash of every run of CLONE_TOKENS tokens, and where it begins. */
function eachRun(ids: readonly number[], visit: (hash: number, at: number) => void): void {
  let power = 1;
  for (let i = 1; i < CLONE_TOKENS; i++) power = Math.imul(power, HASH_BASE);
  let hash = 0;
  for (let i = 0; i < ids.length; i++) {
    if (i >= CLONE_TOKENS) hash = (hash - Math.imul(ids[i - CLONE_TOKENS]!, power)) | 0;
    hash = (Math.imul(hash, HASH_BASE) + ids[i]!) | 0;
    if (i >= CLONE_TOKENS - 1) visit(hash, i - CLONE_TOKENS + 1);
  }
}

const sameRun = (a: readonly number[], at: number, b: readonly number[], to: number): boolean => {
  for (let i = 0; i < CLONE_TOKENS; i++) if (a[at + i] !== b[to + i]) return false;
  return true;
};

/**
 * Lines of EL2's modules that repeat a run of 50 tokens of a module of EL1. Modules that both levels link are shared, not repeated.
 */
export function duplicatedLines(el1: string, el2: string): number {
  const files = new Set(segments(el1).map(({ file }) => file));
  const shared = new Set(segments(el2).map(({ file }) => file).filter((file) => files.has(file)));
  const own = (text: string): string =>
    segments(text)
      .filter(({ file }) => !shared.has(file))
      .map(({ start, end }) => text.slice(start, end).replace(/^export \{[^}]*\};$/mu, ""))
      .join("\n");
  const numbers = new Map<string, number>();
  const a = tokens(own(el1), numbers);
  const b = tokens(own(el2), numbers);
  const runs = new Map<number, number>();
  eachRun(a.ids, (hash, at) => runs.set(hash, at));
  const lines = new Set<number>();
  eachRun(b.ids, (hash, at) => {
    const from = runs.get(hash);
    if (from === undefined || !sameRun(a.ids, from, b.ids, at)) return;
    for (let i = 0; i < CLONE_TOKENS; i++) lines.add(b.lines[at + i]!);
  });
  return lines.size;
}
