import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { bootKernel } from "@smmuv3/arch-three-driver/el1";
import { startHypervisor } from "@smmuv3/arch-three-driver/el2";
import { architecture } from "../src/index.ts";

/** What is neither a driver nor the hypervisor: contracts, libraries, the core of the kernel, the composition itself. */
const LIBRARIES = [
  "arch-common",
  "arm-smmu-v3-common",
  "driver-core",
  "io-pgtable-arm-common",
  "iommu-core",
  "pkvm-abi",
  "platform",
  "smmu-v3-defs",
  `arch-${architecture.name}`,
];

interface Stats {
  readonly modules: readonly { readonly package: string }[];
  readonly exports: readonly string[];
}

function read(file: string): string {
  return readFileSync(`${import.meta.dirname}/../dist/bundles/${file}`, "utf8");
}

const LEVELS = [
  { level: "el1", named: architecture.el1, entry: bootKernel },
  { level: "el2", named: architecture.el2, entry: startHypervisor },
];

test.each(LEVELS)("the record names what the $level bundle contains", ({ level, named, entry }) => {
  const { modules, exports } = JSON.parse(read(`${level}.stats.json`)) as Stats;
  const packages = new Set(modules.map((module) => module.package.replace("@smmuv3/", "")));
  const found = [...packages].filter((name) => !LIBRARIES.includes(name));
  expect(found.sort()).toEqual([...named].sort());
  expect(exports).toEqual([entry.name]);
});

test.each(LEVELS)("the $level bundle stands alone", ({ level, entry }) => {
  expect(read(`${level}.js`)).not.toMatch(/^\s*import\b|\bimport\s*\(|\brequire\s*\(|\bfrom\s+["']/m);
  expect(entry).toBeTypeOf("function");
});
