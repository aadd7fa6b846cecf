// Installs one package from its tarball, with nothing but what it depends on, and tries what its README promises.
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { readExample } from "./readme.ts";
import { extract } from "./tarball.ts";
import { type Manifest, readJson } from "./workspace.ts";

export interface Packed {
  readonly manifest: Manifest;
  readonly tarball: string;
  /** Where the tarball is unpacked. */
  readonly dir: string;
}

/** Unpacks every tarball of `tarballs` below `into`. The result is by package name. */
export function unpackAll(tarballs: string, into: string): ReadonlyMap<string, Packed> {
  const packed = new Map<string, Packed>();
  for (const file of readdirSync(tarballs).filter((name) => name.endsWith(".tgz")).sort()) {
    const [tarball, dir] = [join(tarballs, file), join(into, file.slice(0, -".tgz".length))];
    extract(tarball, dir);
    const manifest = readJson(join(dir, "package.json")) as Manifest;
    packed.set(manifest.name, { manifest, tarball, dir });
  }
  return packed;
}

/** `name` and all that it depends on at run time: tarballs at hand, and what only a registry has. */
export function closureOf(name: string, packed: ReadonlyMap<string, Packed>): { local: readonly Packed[]; external: readonly string[] } {
  const local = new Map<string, Packed>();
  const external = new Set<string>();
  const visit = (one: string, range: string): void => {
    const found = packed.get(one);
    if (found === undefined) {
      external.add(one);
      return;
    }
    const { version = "" } = found.manifest;
    if (range !== `^${version}`) throw new Error(`${name} comes to need ${one} ${range}, which is at ${version}`);
    if (local.has(one)) return;
    local.set(one, found);
    for (const [dependency, wanted] of Object.entries(found.manifest.dependencies ?? {})) visit(dependency, wanted);
  };
  visit(name, `^${packed.get(name)?.manifest.version ?? ""}`);
  return { local: [...local.values()], external: [...external].sort() };
}

function run(project: string, command: string, ...args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd: project, encoding: "utf8" });
  if (error !== undefined) throw error;
  if (status !== 0) throw new Error(`${[command, ...args].join(" ")} exits with ${status ?? "a signal"}: ${stderr}${stdout}`);
  return stdout;
}

/**
 * Makes `project` a directory that has installed `name` alone. Where the closure is all tarballs at hand, unpacking them
 * is what an installer would do, and quicker; else npm installs them, which also links the commands.
 */
export function install(project: string, name: string, packed: ReadonlyMap<string, Packed>): void {
  const { local, external } = closureOf(name, packed);
  const dependencies = Object.fromEntries(local.map(({ manifest, tarball }) => [manifest.name, `file:${tarball}`]));
  mkdirSync(project, { recursive: true });
  writeFileSync(join(project, "package.json"), JSON.stringify({ private: true, type: "module", dependencies }));
  if (external.length > 0) {
    run(project, "npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error");
    return;
  }
  for (const { manifest, tarball } of local) extract(tarball, join(project, "node_modules", manifest.name));
}

const RUNNER = `const { result } = await import("./example.mjs");
process.stdout.write(JSON.stringify(result) ?? "undefined");
`;

/** Runs the README example that the package ships. Throws unless it gives what the README says. */
export function tryExample(project: string, { manifest }: Packed): void {
  const { code, expected } = readExample(join(project, "node_modules", manifest.name));
  writeFileSync(join(project, "example.mjs"), code);
  writeFileSync(join(project, "run.mjs"), RUNNER);
  const output = run(project, process.execPath, "run.mjs");
  const result = output === "undefined" ? undefined : (JSON.parse(output) as unknown);
  if (!isDeepStrictEqual(result, expected)) {
    throw new Error(`the README example gives ${output}, the README says ${JSON.stringify(expected)}`);
  }
}

/** The arguments of the first `bin …` line of an sh block, up to a pipe, redirection or comment. */
export function commandOf(readme: string, bin: string): readonly string[] | undefined {
  const blocks = [...readme.matchAll(/```(?:sh|shell|bash|console)\n([\s\S]*?)```/g)].map((match) => match[1]!);
  const line = blocks.flatMap((block) => block.split("\n"))
    .map((text) => text.trim().replace(/^\$ /, "").replace(/^npx /, ""))
    .find((text) => text.startsWith(`${bin} `));
  return line?.replace(/\s[|>#].*$/, "").split(/\s+/).slice(1);
}

/** An ftrace recording of one NVMe reader, as the kernel prints it: `pairs` pages mapped and unmapped in turn. */
export function tinyTrace(pairs: number = 32): string {
  const header = ["# tracer: nop", "#", `# entries-in-buffer/entries-written: ${4 * pairs}/${4 * pairs}   #P:1`, "#"];
  const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, "0");
  const events = Array.from({ length: pairs }, (_, pair) => {
    const [iova, paddr] = [0xfffdf000 - 0x1000 * (pair % 4), 0x42805000 + 0x1000 * (pair % 8)];
    const range = `iova=0x${hex(iova, 16)} - 0x${hex(iova + 0x1000, 16)}`;
    const device = `0000:00:01.0 dir=FROM_DEVICE dma_addr=${hex(iova, 8)} size=4096`;
    const stamp = (offset: number): string => `              dd-207     [000] .....     ${(8 + pair / 1000 + offset / 1e5).toFixed(6)}:`;
    return [
      `${stamp(0)} map: IOMMU: ${range} paddr=0x${hex(paddr, 16)} size=4096`,
      `${stamp(2)} dma_map_page: ${device} phys_addr=${hex(paddr, 8)} attrs=`,
      `${stamp(40)} unmap: IOMMU: ${range} size=4096 unmapped_size=4096`,
      `${stamp(44)} dma_unmap_page: ${device} attrs=`,
    ];
  });
  return `${[...header, ...events.flat()].join("\n")}\n`;
}

/** Runs every command of the package: its help, and the line its README shows, on a tiny recording. */
export function tryCommands(project: string, { manifest }: Packed): void {
  const readme = readFileSync(join(project, "node_modules", manifest.name, "README.md"), "utf8");
  for (const bin of Object.keys(manifest.bin ?? {})) {
    const command = join(project, "node_modules/.bin", bin);
    if (!run(project, command, "--help").includes(bin)) throw new Error(`${bin} --help does not name ${bin}`);
    const args = commandOf(readme, bin);
    if (args === undefined) throw new Error(`README.md shows no ${bin} command in an sh block`);
    for (const arg of args.filter((one) => one.endsWith(".ftrace"))) writeFileSync(join(project, arg), tinyTrace());
    if (run(project, command, ...args).trim() === "") throw new Error(`${bin} ${args.join(" ")} prints nothing`);
  }
}
