import { constants } from "node:fs";
import { access, stat, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { InputError, withPath } from "../lab/trace-file.ts";

/**
 * Finds out before a long run whether `path` can be written after it. Throws InputError when it cannot, or when it is one of
 * `inputs`: writing would destroy it.
 */
export async function checkOutput(path: string, inputs: readonly string[]): Promise<void> {
  const status = await stat(path).catch(() => undefined);
  if (status === undefined) {
    const directory = dirname(path);
    const parent = await withPath(path, () => stat(directory));
    if (!parent.isDirectory()) throw new InputError(`${path}: ${directory} is not a directory`);
    await withPath(path, () => access(directory, constants.W_OK));
    return;
  }
  if (status.isDirectory()) throw new InputError(`${path}: is a directory`);
  for (const input of inputs) {
    const { dev, ino } = await withPath(input, () => stat(input));
    if (dev === status.dev && ino === status.ino) throw new InputError(`${path}: is an input of this run and would be overwritten`);
  }
  await withPath(path, () => access(path, constants.W_OK));
}

/** Writes `text` to `path`. Throws InputError when that fails. */
export function writeOutput(path: string, text: string): Promise<void> {
  return withPath(path, () => writeFile(path, text));
}
