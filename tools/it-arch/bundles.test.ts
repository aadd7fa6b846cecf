// The bundles that run are what the architectures say they are, and stand alone.
import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { ARCHITECTURES, loadArchitecture } from "@smmuv3/smmu-lab";

/** What is neither a driver nor the hypervisor: contracts, libraries, the core of the kernel, the composition itself. */
const LIBRARIES: ReadonlySet<string> = new Set([
  "arch-common", "arm-smmu-v3-common", "driver-core", "io-pgtable-arm-common", "iommu-core", "pkvm-abi", "platform",
  "smmu-v3-defs",
]);

describe.each(ARCHITECTURES)("%s", async (name) => {
  const { architecture, el1Stats, el2Stats } = await loadArchitecture(name);
  const levels = [
    { level: "el1", named: architecture.el1, stats: el1Stats, entry: "bootKernel" },
    { level: "el2", named: architecture.el2, stats: el2Stats, entry: "startHypervisor" },
  ].filter(({ stats }) => stats !== undefined);

  test.each(levels)("its record names what the $level bundle contains", ({ named, stats, entry }) => {
    const packages = new Set(stats!.modules.map((module) => module.package.replace("@smmuv3/", "")));
    const found = [...packages].filter((one) => !LIBRARIES.has(one) && one !== `arch-${name}`);
    expect(found.sort()).toEqual([...named].sort());
    expect(stats!.exports).toEqual([entry]);
  });

  test.each(levels)("the $level bundle imports nothing", async ({ level }) => {
    const text = await readFile(new URL(import.meta.resolve(`@smmuv3/arch-${name}/${level}`)), "utf8");
    expect(text).not.toMatch(/^\s*import\b|\bimport\s*\(|\brequire\s*\(|\bfrom\s+["']/m);
  });

  test("it has an EL2 bundle exactly where it has a hypervisor", () => {
    expect(el2Stats === undefined).toBe(name === "native");
  });
});
