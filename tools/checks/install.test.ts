import { execFileSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { closureOf, commandOf, install, type Packed, tinyTrace, tryCommands, tryExample, unpackAll } from "./install.ts";
import { Tree } from "./test-tree.ts";

vi.setConfig({ testTimeout: 60_000 });

interface Context {
  tree: Tree;
}

beforeEach<Context>((context) => { context.tree = new Tree(); });
afterEach<Context>(({ tree }) => { tree.remove(); });

interface Source {
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly index?: string;
  readonly readme?: string;
}

function example(code: string, result: string): string {
  return `# x\n\n\`\`\`ts\n${code}\n// result: ${result}\n\`\`\`\n`;
}

/** Tarballs of version 1.0.0, one for each source. */
function pack(tree: Tree, sources: Readonly<Record<string, Source>>): ReadonlyMap<string, Packed> {
  mkdirSync(join(tree.root, "tarballs"));
  for (const [name, { dependencies = {}, index = "export {};\n", readme = "" }] of Object.entries(sources)) {
    const dir = `source/${name}/package`;
    tree.writeAll({
      [`${dir}/package.json`]: { name: `@x/${name}`, version: "1.0.0", type: "module", exports: "./index.js", dependencies },
      [`${dir}/index.js`]: index,
      [`${dir}/README.md`]: readme,
    });
    execFileSync("tar", ["-czf", join(tree.root, `tarballs/x-${name}.tgz`), "-C", join(tree.root, `source/${name}`), "package"]);
  }
  return unpackAll(join(tree.root, "tarballs"), join(tree.root, "unpacked"));
}

describe("closureOf", () => {
  test<Context>("follows dependencies, once each, and tells what is outside", ({ tree }) => {
    const packed = pack(tree, {
      a: { dependencies: { "@x/b": "^1.0.0", "@x/c": "^1.0.0" } },
      b: { dependencies: { "@x/c": "^1.0.0", commander: "15.1.0" } },
      c: {},
      d: {},
    });
    const { local, external } = closureOf("@x/a", packed);
    expect(local.map(({ manifest }) => manifest.name)).toEqual(["@x/a", "@x/b", "@x/c"]);
    expect(external).toEqual(["commander"]);
  });

  test<Context>("refuses a range that the packed version does not meet", ({ tree }) => {
    const packed = pack(tree, { a: { dependencies: { "@x/b": "^0.9.0" } }, b: {} });
    expect(() => closureOf("@x/a", packed)).toThrow("@x/a comes to need @x/b ^0.9.0, which is at 1.0.0");
  });
});

describe("install and tryExample", () => {
  const usesB = example('import { b } from "@x/b";\nimport { a } from "@x/a";\nexport const result: number[] = [a, b];', "[1, 2]");
  const attempt = (tree: Tree, a: Source): void => {
    const packed = pack(tree, { a, b: { index: "export const b = 2;\n" } });
    const project = join(tree.root, "project");
    install(project, "@x/a", packed);
    tryExample(project, packed.get("@x/a")!);
  };

  test<Context>("a package with its dependencies runs its example", ({ tree }) => {
    const index = 'import { b } from "@x/b";\nexport const a = b - 1;\n';
    expect(() => { attempt(tree, { index, readme: usesB, dependencies: { "@x/b": "^1.0.0" } }); }).not.toThrow();
  });

  test.each<[string, Source, string]>([
    [
      "code that needs a dev dependency",
      { index: 'export { b as a } from "@x/b";\n', readme: example('import { a } from "@x/a";\nexport const result = a;', "2") },
      "Cannot find package '@x/b'",
    ],
    ["an example that needs more than the package", { index: "export const a = 1;\n", readme: usesB }, "Cannot find package '@x/b'"],
    ["another result", { readme: example("export const result = 1;", "2") }, "the README example gives 1, the README says 2"],
    ["no result", { readme: example("export const other = 1;", "2") }, "the README example gives undefined, the README says 2"],
    ["no example", { readme: "# a\n" }, "has no ts block"],
  ])("refuses %s", (_, source, message) => {
    const tree = new Tree();
    try {
      expect(() => { attempt(tree, source); }).toThrow(message);
    } finally {
      tree.remove();
    }
  });
});

describe("commandOf", () => {
  const sh = (line: string): string => `text\n\n\`\`\`sh\n# comment\n${line}\n\`\`\`\n`;
  test.each<[string, string, readonly string[] | undefined]>([
    ["a command", sh("lab compare my.ftrace"), ["compare", "my.ftrace"]],
    ["a prompt", sh("$ lab compare"), ["compare"]],
    ["npx", sh("npx lab compare"), ["compare"]],
    ["a pipe", sh("lab compare --json | jq ."), ["compare", "--json"]],
    ["a redirection", sh("lab compare > a.json"), ["compare"]],
    ["the first of two", sh("other\nlab one\nlab two"), ["one"]],
    ["another command", sh("labor"), undefined],
    ["another block", "```ts\nlab compare\n```\n", undefined],
  ])("%s", (_, readme, expected) => {
    expect(commandOf(readme, "lab")).toEqual(expected);
  });
});

describe("tryCommands", () => {
  const script = (body: string): string => `#!${process.execPath}\nconst args = process.argv.slice(2);\n${body}\n`;
  const HELP = 'if (args[0] === "--help") { console.log("Usage: lab"); process.exit(0); }\n';
  const READS = `${HELP}console.log(require("node:fs").readFileSync(args[1], "utf8").length);`;
  const attempt = (tree: Tree, body: string, readme: string): void => {
    tree.writeAll({ "node_modules/@x/lab/README.md": readme, "node_modules/@x/lab/cli.cjs": script(body) });
    chmodSync(join(tree.root, "node_modules/@x/lab/cli.cjs"), 0o755);
    mkdirSync(join(tree.root, "node_modules/.bin"));
    symlinkSync("../@x/lab/cli.cjs", join(tree.root, "node_modules/.bin/lab"));
    tryCommands(tree.root, { manifest: { name: "@x/lab", bin: { lab: "./cli.cjs" } }, tarball: "", dir: "" });
  };
  const readme = "```sh\nlab compare my.ftrace\n```\n";

  test<Context>("runs the README's line on a recording of its own", ({ tree }) => {
    attempt(tree, READS, readme);
    expect(existsSync(join(tree.root, "my.ftrace"))).toBe(true);
  });

  test.each([
    ["a README without a command", READS, "# lab\n", "README.md shows no lab command"],
    ["a help that fails", "process.exit(2);", readme, "lab --help exits with 2"],
    ["a help of another command", 'console.log("Usage: node");', readme, "lab --help does not name lab"],
    ["a command that fails", `${HELP}console.error("no such trace"); process.exit(1);`, readme, "lab compare my.ftrace exits with 1: no such trace"],
    ["a command that says nothing", HELP, readme, "lab compare my.ftrace prints nothing"],
  ])("refuses %s", (_, body, text, message) => {
    const tree = new Tree();
    try {
      expect(() => { attempt(tree, body, text); }).toThrow(message);
    } finally {
      tree.remove();
    }
  });
});

test("the recording maps and unmaps each page once, in the kernel's format", () => {
  const lines = tinyTrace(3).trimEnd().split("\n");
  expect(lines[2]).toBe("# entries-in-buffer/entries-written: 12/12   #P:1");
  expect(lines.slice(4, 8)).toEqual([
    "              dd-207     [000] .....     8.000000: map: IOMMU: iova=0x00000000fffdf000 - 0x00000000fffe0000 paddr=0x0000000042805000 size=4096",
    "              dd-207     [000] .....     8.000020: dma_map_page: 0000:00:01.0 dir=FROM_DEVICE dma_addr=fffdf000 size=4096 phys_addr=42805000 attrs=",
    "              dd-207     [000] .....     8.000400: unmap: IOMMU: iova=0x00000000fffdf000 - 0x00000000fffe0000 size=4096 unmapped_size=4096",
    "              dd-207     [000] .....     8.000440: dma_unmap_page: 0000:00:01.0 dir=FROM_DEVICE dma_addr=fffdf000 size=4096 attrs=",
  ]);
  expect(lines).toHaveLength(16);
});
