import { open } from "node:fs/promises";
import { InputError, withPath } from "../lab/trace-file.ts";

/** A defect of a record; the caller knows where. */
export class Malformed extends Error {}

/** A JSON object. */
export type Json = Readonly<Record<string, unknown>>;

export function objectOf(value: unknown, what: string): Json {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Malformed(`${what}: expected an object`);
  return value as Json;
}

export function arrayOf(value: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(value)) throw new Malformed(`${what}: expected an array`);
  return value;
}

/** A number of up to 64 bits: text (`0x1f`, `31`) or a JSON number. */
export function bigOf(value: unknown, what: string): bigint {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return BigInt(value);
  if (typeof value === "string" && /^(0x[0-9a-f]+|\d+)$/i.test(value)) {
    const number = BigInt(value);
    if (number < 1n << 64n) return number;
  }
  throw new Malformed(`${what}: expected a number of at most 64 bits, got ${value === undefined ? "nothing" : JSON.stringify(value)}`);
}

export function intOf(value: unknown, what: string, most: number): number {
  const number = bigOf(value, what);
  if (number > BigInt(most)) throw new Malformed(`${what}: ${number} is above ${most}`);
  return Number(number);
}

export function flagOf(value: unknown, what: string): boolean {
  if (value === undefined) return false;
  if (typeof value !== "boolean") throw new Malformed(`${what}: expected true or false`);
  return value;
}

/** Parsed lines of a file of JSON lines. Throws InputError with file and line; empty lines are passed over. */
export async function* readJsonLines<T>(path: string, parse: (json: unknown, line: number) => T): AsyncGenerator<T> {
  const file = await withPath(path, () => open(path));
  const lines = file.readLines()[Symbol.asyncIterator]();
  try {
    for (let line = 1; ; line++) {
      const next = await withPath(path, () => lines.next());
      if (next.done === true) return;
      if (next.value.trim() === "") continue;
      yield at(path, line, () => parse(JSON.parse(next.value), line));
    }
  } finally {
    await file.close();
  }
}

/** Runs `work`; what is wrong with the JSON becomes an InputError about a line of a file, or the file. */
export function at<T>(path: string, line: number | undefined, work: () => T): T {
  const where = line === undefined ? path : `${path}:${line}`;
  try {
    return work();
  } catch (error) {
    if (error instanceof SyntaxError) throw new InputError(`${where}: not JSON: ${error.message}`);
    if (error instanceof Malformed) throw new InputError(`${where}: ${error.message}`);
    throw error;
  }
}
