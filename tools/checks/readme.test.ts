import { readdirSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { readExample, runReadmeExample } from "./readme.ts";
import { Tree } from "./test-tree.ts";

interface Context {
  tree: Tree;
}

beforeEach<Context>((context) => { context.tree = new Tree(); });
afterEach<Context>(({ tree }) => { tree.remove(); });

const BLOCK = "```ts\nconst a: number = 1;\nexport const result: number[] = [a, 2];\n// result: [1,2]\n```\n";

test<Context>("the first ts block, as JavaScript, and its last line's value", ({ tree }) => {
  tree.write("README.md", `# a\n\n\`\`\`sh\nls\n\`\`\`\n\n${BLOCK}\n\`\`\`ts\nsecond();\n\`\`\`\n`);
  const { code, expected } = readExample(tree.root);
  expect(code).toMatch(/^const a +=/m);
  expect(code).not.toMatch(/second|: number/);
  expect(expected).toEqual([1, 2]);
});

test.each([
  ["no block", "# a\n", "has no ts block"],
  ["no result", "```ts\nexport {};\n```\n", 'has no "// result:" line'],
])("refuses %s", (_, readme, message) => {
  const tree = new Tree().writeAll({ "README.md": readme });
  try {
    expect(() => readExample(tree.root)).toThrow(message);
  } finally {
    tree.remove();
  }
});

test<Context>("runs the example and leaves nothing behind", async ({ tree }) => {
  tree.writeAll({ "README.md": BLOCK, "test/a.test.ts": "" });
  expect(await runReadmeExample(tree.root)).toEqual({ result: [1, 2], expected: [1, 2] });
  expect(readdirSync(join(tree.root, "test"))).toEqual(["a.test.ts"]);
});

test<Context>("an example that throws fails, and leaves nothing behind", async ({ tree }) => {
  tree.writeAll({ "README.md": BLOCK.replace("const a", "throw new Error('planted');\nconst a"), "test/a.test.ts": "" });
  await expect(runReadmeExample(tree.root)).rejects.toThrow("planted");
  expect(readdirSync(join(tree.root, "test"))).toEqual(["a.test.ts"]);
});
