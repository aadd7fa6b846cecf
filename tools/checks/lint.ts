// Lints everything, some packages at a time: the type information of all of them at once does not fit a default heap.
// Usage: node tools/checks/lint.ts [PATH...]
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "../..");
const BATCH = 10;
const asked = process.argv.slice(2);

function everything(): string[] {
  const members = ["packages", "tools"].flatMap((home) => readdirSync(join(root, home)).map((name) => join(home, name)));
  return members.filter((path) => path === join("tools", "eslint") || path === join("tools", "checks") || existsSync(join(root, path, "package.json")));
}

const paths = asked.length > 0 ? asked : everything();
const batches = Array.from({ length: Math.ceil(paths.length / BATCH) }, (_, i) => paths.slice(i * BATCH, (i + 1) * BATCH));
const eslint = [join(root, "node_modules/eslint/bin/eslint.js"), "--config", "tools/eslint/config.js", "--max-warnings=0"];
const statuses = batches.map((batch) => spawnSync(process.execPath, [...eslint, ...batch], { cwd: root, stdio: "inherit" }).status);
process.exitCode = statuses.every((status) => status === 0) ? 0 : 1;
