// Separable modules: an EL2 bundle has those of pkvm-arm-smmu-v3 that its design needs, and no others.
import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import type { BundleStats } from "@smmuv3/smmu-lab";

const COMMON = ["idmap", "isolation", "registers", "reset", "smmu", "takeover", "tlbi"];
const IDENTITY = [...COMMON, "identity"];
const PAGING = [...IDENTITY, "paging", "power", "space", "streams"];
const EMULATION = [...COMMON, "emulated-registers", "emulated-smmu", "emulation", "shadow-cmdq", "shadow-strtab"];

test.each<[string, string, readonly string[]]>([
  ["single-driver", "el2", IDENTITY],
  ["single-driver", "el2-paging", PAGING],
  ["three-driver", "el2", IDENTITY],
  ["three-driver", "el2-paging", PAGING],
  ["kvm-driver", "el2", IDENTITY],
  ["trap-emulate", "el2", EMULATION],
])("%s, %s", async (name, level, modules) => {
  const url = new URL(import.meta.resolve(`@smmuv3/arch-${name}/bundles/${level}.stats.json`));
  const stats = JSON.parse(await readFile(url, "utf8")) as BundleStats;
  const found = stats.modules
    .filter((module) => module.package === "@smmuv3/pkvm-arm-smmu-v3")
    .map(({ file }) => file.replace(/^.*\//, "").replace(".js", ""));
  expect(found.filter((file) => file !== "index").sort()).toEqual([...modules].sort());
});
