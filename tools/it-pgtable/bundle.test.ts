// Who uses the tables of one agent carries nothing of the others: at EL2 every line is trusted.
import { expect, test } from "vitest";
import { build } from "esbuild";

const FORMATS_64 = ["format-64.js", "format.js"];
const PLAIN = [
  "address.js", "alloc.js", "config.js", "descriptor.js", "geometry.js", "io-pgtable-16k.js", "io-pgtable-4k.js", "io-pgtable-64k.js",
  "io-pgtable.js", "leaf-run.js", "table-layout.js", "table-memory.js", "visit.js", "walk-cache.js",
];
const COMMON = PLAIN.filter((name) => !/^(alloc|io-pgtable-\d+k)\.js$/.test(name));
const SHARED = COMMON.concat("alloc-shared.js", "claim.js", "shared-io-pgtable.js");

test.each([
  ["single agent", `export const f = (cfg) => allocIoPgtable("64_S2", cfg);`, [...PLAIN, ...FORMATS_64]],
  ["generic", `export const f = (cfg) => allocGenericIoPgtable("64_S2", cfg);`, [...COMMON, ...FORMATS_64, "alloc-generic.js"]],
  ["32 bits", "export const f = (cfg) => allocIoPgtable(ARM_32_LPAE_S1, cfg);", [...PLAIN, ...FORMATS_64, "format-32.js"]],
  ["Mali", "export const f = (cfg) => allocIoPgtable(ARM_MALI_LPAE, cfg);", [...PLAIN, ...FORMATS_64, "format-mali.js"]],
  ["shared", `export const f = (cfg) => allocSharedIoPgtable("64_S1", cfg);`, [...SHARED, ...FORMATS_64]],
])("%s", async (_, contents, expected) => {
  const names = /alloc\w+|ARM_\w+/g;
  const imports = [...new Set(contents.match(names))].join(", ");
  const { metafile } = await build({
    stdin: { contents: `import { ${imports} } from "@smmuv3/io-pgtable-arm-common";\n${contents}`, resolveDir: import.meta.dirname },
    bundle: true,
    format: "esm",
    metafile: true,
    write: false,
    logLevel: "silent",
  });
  const [output] = Object.values(metafile.outputs);
  const modules = Object.entries(output!.inputs)
    .filter(([path, { bytesInOutput }]) => path.includes("io-pgtable-arm-common") && bytesInOutput > 0)
    .map(([path]) => path.split("/").at(-1));
  expect(modules.sort()).toEqual(expected.sort());
});
