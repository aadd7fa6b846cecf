// Installs each published package from its tarball into a project of its own, and runs its README's example there.
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { install, tryCommands, tryExample, unpackAll } from "./install.ts";
import { readMembers, shortName } from "./workspace.ts";

const root = join(import.meta.dirname, "../..");
const published = readMembers(root).filter(({ manifest }) => manifest.private !== true);
const scratch = mkdtempSync(join(tmpdir(), "smoke-"));
try {
  const tarballs = join(scratch, "tarballs");
  mkdirSync(tarballs);
  const filters = published.flatMap(({ dir }) => ["--filter", `./${dir}`]);
  execFileSync("pnpm", ["-r", ...filters, "pack", "--pack-destination", tarballs], { cwd: root, stdio: ["ignore", "ignore", "inherit"] });
  const packed = unpackAll(tarballs, join(scratch, "unpacked"));
  for (const { manifest: { name } } of published) {
    try {
      const one = packed.get(name);
      if (one === undefined) throw new Error("pnpm packed no tarball");
      const project = join(scratch, "projects", shortName(name));
      install(project, name, packed);
      tryExample(project, one);
      tryCommands(project, one);
      console.log(`ok ${name}`);
    } catch (error) {
      console.error(`smoke: ${name}: ${error instanceof Error ? error.message : String(error)}`);
      process.exitCode = 1;
    }
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
