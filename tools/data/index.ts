import { join } from "node:path";

/** Absolute path of a recorded file, e.g. `traces/boot.ftrace.gz`. */
export function dataPath(name: string): string {
  return join(import.meta.dirname, name);
}
