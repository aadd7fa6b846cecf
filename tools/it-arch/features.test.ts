// What `smmu-lab features` says of each design, and that a mistake in a design changes what it says.
import { describe, expect, test } from "vitest";
import {
  ARCHITECTURES,
  chooseVariants,
  FEATURES,
  loadDefectiveVariant,
  loadVariant,
  probeFeature,
  probeFeatures,
  VARIANTS,
} from "@smmuv3/smmu-lab";
import type { Cell, Defect } from "@smmuv3/smmu-lab";

const variants = chooseVariants(ARCHITECTURES, "both");
const rows = await probeFeatures({ variants });

function cell(row: string, variant: string): Cell {
  const found = rows.find(({ feature }) => feature.id === row)?.cells.get(variant);
  if (found === undefined) throw new Error(`${row}: no cell for ${variant}`);
  return found;
}

const HYPERCALL_DESIGNS = ["single-driver", "three-driver", "kvm-driver"];
const PAGING = ["single-driver/paging", "three-driver/paging"];
const STOCK = ["native", "pkvm-unprotected", "trap-emulate"];

describe("the matrix", () => {
  test("has a cell with evidence for every feature and variant, and no probe that broke", () => {
    expect(rows.length).toBe(FEATURES.length);
    for (const { cells } of rows) {
      expect([...cells.keys()]).toEqual(variants.map(({ name }) => name));
      for (const [name, { detail }] of cells) expect(`${name}: ${detail}`).not.toMatch(/: $|the probe ended early/);
    }
  });

  test.each(["dma-strict", "dma-fq", "user-domain", "dma-mask-all", "contiguous"])("%s: where somebody translates for the host", (row) => {
    for (const name of [...STOCK, ...PAGING]) expect([name, cell(row, name).verdict]).toEqual([name, "works"]);
    for (const name of HYPERCALL_DESIGNS) expect([name, cell(row, name).verdict]).toEqual([name, "hidden"]);
  });

  test.each(["blocked-on-release", "rmr", "events", "evtq-overflow", "msi", "dma-mask", "identity", "deferrals", "shutdown"])("%s: everywhere", (row) => {
    for (const { name } of variants) expect([name, cell(row, name).verdict]).toEqual([name, "works"]);
  });

  test("isolation where EL2 has the SMMU", () => {
    expect(cell("isolation", "pkvm-unprotected").verdict).toBe("absent");
    for (const name of [...HYPERCALL_DESIGNS, ...PAGING, "trap-emulate"]) expect([name, cell("isolation", name).verdict]).toEqual([name, "works"]);
  });

  test("SVA is the stock driver's: it takes the CPU's own tables", () => {
    for (const name of STOCK) expect([name, cell("sva", name).verdict]).toEqual([name, "works"]);
    for (const name of [...HYPERCALL_DESIGNS, ...PAGING]) expect([name, cell("sva", name).verdict]).toEqual([name, "absent"]);
  });

  test("what only EL2's own domains offer", () => {
    for (const row of ["passthrough", "power"]) {
      for (const name of PAGING) expect([row, name, cell(row, name).verdict]).toEqual([row, name, "works"]);
      for (const name of [...HYPERCALL_DESIGNS, "trap-emulate"]) expect([row, name, cell(row, name).verdict]).toEqual([row, name, "absent"]);
    }
    for (const name of PAGING) expect([name, cell("pasid", name).verdict]).toEqual([name, "works"]);
  });

  test("hardware: emulation needs both stages, coherent and without errata; nobody protects with stage 1 alone", () => {
    for (const row of ["hw-s2-only", "hw-non-coherent", "hw-errata"]) {
      expect([row, cell(row, "trap-emulate").verdict]).toEqual([row, "absent"]);
      for (const name of [...HYPERCALL_DESIGNS, ...PAGING]) expect([row, name, cell(row, name).verdict]).toEqual([row, name, "works"]);
    }
    for (const name of [...HYPERCALL_DESIGNS, ...PAGING, "trap-emulate"]) expect([name, cell("hw-s1-only", name).verdict]).toEqual([name, "absent"]);
  });

  test("sysfs shows the hypervisor where a driver made a device for it", () => {
    const visible = variants.filter(({ name }) => cell("sysfs", name).verdict === "works").map(({ name }) => name);
    expect(visible).toEqual(["three-driver", "three-driver/paging", "trap-emulate"]);
  });

  test("a second vendor is the three-driver design's", () => {
    const both = variants.filter(({ name }) => cell("two-vendors", name).verdict === "works").map(({ name }) => name);
    expect(both).toEqual(["three-driver", "three-driver/paging"]);
  });
});

/** A mistake, the design that it is put into, and the row whose cell it flips. */
interface Mutant extends Omit<Defect, "name"> {
  readonly row: string;
  readonly variant: string;
}

const MUTANTS: readonly Mutant[] = [
  {
    row: "isolation", variant: "kvm-driver", level: "el2",
    find: "return this.#tracked?.revoke(pa, pa + size, prot) ?? 0;", replace: "return 0;",
  },
  {
    row: "dma-strict", variant: "native", level: "el1",
    find: "domain.ops.iotlbSync?.(domain, this);", replace: "",
  },
  {
    row: "user-domain", variant: "trap-emulate", level: "el1",
    find: "domain.ops.iotlbSync?.(domain, this);", replace: "",
  },
  { row: "dma-fq", variant: "native", level: "el1", find: 'type === "dma-fq" && deferred', replace: "false" },
  { row: "identity", variant: "pkvm-unprotected", level: "el1", find: 'type === "identity" || ops.domainAllocPaging', replace: "ops.domainAllocPaging" },
  {
    row: "pasid", variant: "three-driver/paging", level: "el1",
    find: "pvDomain(domain).pv.attach(dev, pasid, domain, old)", replace: "pvDomain(domain).pv.attach(dev, pasid + 1, domain, old)",
  },
  {
    row: "blocked-on-release", variant: "three-driver", level: "el1",
    find: "const last = ops.releaseDomain ?? ops.blockedDomain;", replace: "const last = ops.identityDomain;",
  },
  { row: "hitless", variant: "single-driver/paging", level: "el2", find: "if (changed === 1) {", replace: "if (changed === 1) changed = 2;\n  if (changed === -1) {" },
  {
    row: "sva", variant: "native", level: "el1",
    find: "return this.#sva.bind(dev, mm);", replace: "return -ERRNO.EOPNOTSUPP;",
  },
  {
    row: "rmr", variant: "three-driver", level: "el2",
    find: "node.properties[BOOT_DMA_PROPERTY] === void 0", replace: "node !== void 0",
  },
  {
    row: "events", variant: "three-driver", level: "el1",
    find: "find((dev) => core.fwspecOf(dev)?.ids.includes(id))", replace: "find(() => false)",
  },
  { row: "msi", variant: "single-driver", level: "el1", find: "return pa + size - 1 <= dev.dmaMask ? pa : -ERRNO.EIO;", replace: "return -ERRNO.EIO;" },
  {
    row: "dma-mask", variant: "single-driver", level: "el1",
    find: "if (dir !== DMA_DIR.toDevice)\n      this.#copy(pa, address, size);", replace: "",
  },
  {
    row: "passthrough", variant: "three-driver/paging", level: "el2",
    find: "const status = this.#block(group, OWNER.host);", replace: "const status = 0;",
  },
  { row: "power", variant: "single-driver/paging", level: "el2", find: "driver.suspend?.(local)", replace: "0" },
  {
    row: "sysfs", variant: "three-driver", level: "el1",
    find: "driver: options.fauxDriver(smmu), parent: smmu.dev }", replace: "driver: options.fauxDriver(smmu) }",
  },
  { row: "liveness", variant: "three-driver", level: "el1", find: "      driver.release();", replace: "" },
  {
    row: "nested-vsmmu", variant: "trap-emulate", level: "el2",
    find: "IDR0.S1P, IDR0.TTF,", replace: "IDR0.S1P, IDR0.S2P, IDR0.TTF,",
  },
];

describe("a mistake flips its cell", () => {
  test.each(MUTANTS)("$row of $variant", async ({ row, variant, level, find, replace }) => {
    const feature = FEATURES.find(({ id }) => id === row)!;
    const described = VARIANTS.get(variant)!;
    const sound = await probeFeature(feature, await loadVariant(described));
    const broken = await probeFeature(feature, await loadDefectiveVariant(described, [{ name: row, level, find, replace }]));
    expect(broken.verdict, broken.detail).not.toBe(sound.verdict);
  });

  test("at least ten rows have one", () => {
    expect(new Set(MUTANTS.map(({ row }) => row)).size).toBeGreaterThanOrEqual(10);
  });
});
