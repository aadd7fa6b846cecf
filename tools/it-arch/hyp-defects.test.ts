// A mistake in EL2 shows: the same steps that are safe with the shipped bundle leak with the defective one.
import { describe, expect, test } from "vitest";
import { IOMMU_STATE } from "@smmuv3/pkvm-abi";
import { loadDefective } from "@smmuv3/smmu-lab";
import type { Defect } from "@smmuv3/smmu-lab";
import { PAGE, SID, World } from "./hyp-fixture.ts";
import type { StartHypervisor } from "./hyp-fixture.ts";

async function start(defect: Defect): Promise<StartHypervisor | undefined> {
  return (await loadDefective("single-driver", [defect])).startHypervisor;
}

function leaks(startHypervisor: StartHypervisor | undefined): boolean {
  const world = new World("identity", startHypervisor === undefined ? {} : { start: startHypervisor });
  world.call("__pkvm_iommu_set_state", 0, SID, 0, IOMMU_STATE.identity);
  if (!world.reaches(PAGE, PAGE, 1)) throw new Error("not reachable before");
  world.vmWithPage(PAGE, 0x5ec2_e700);
  return world.reaches(PAGE, PAGE, 2);
}

const DEFECTS: Readonly<Record<string, Defect>> = {
  "skip donation unmap": {
    name: "skip donation unmap",
    level: "el2",
    find: "return this.#tracked?.revoke(pa, pa + size, prot) ?? 0;",
    replace: "return 0;",
  },
  "unmap without TLBI": {
    name: "unmap without TLBI",
    level: "el2",
    find: "const status = this.#invalidate(smmu, start, end - start);",
    replace: "const status = 0;",
  },
};

describe("a donated page with a warm TLB", () => {
  test("does not leak from the shipped EL2", () => {
    expect(leaks(undefined)).toBe(false);
  });

  test.each(Object.keys(DEFECTS))("leaks with the defect: %s", async (name) => {
    expect(leaks(await start(DEFECTS[name]!))).toBe(true);
  });
});
