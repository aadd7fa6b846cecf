// The matrix as a report: text, JSON, schema; and what a probe makes of a design that breaks.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import { describe, expect, test } from "vitest";
import { FEATURES, featuresJson, featuresText, loadArchitecture, namedVariants, probeFeature, probeFeatures } from "../src/index.ts";
import type { Feature } from "../src/index.ts";

const schema = JSON.parse(readFileSync(join(import.meta.dirname, "../schema/features.schema.json"), "utf8")) as object;
const validate = new Ajv2020({ allErrors: true, strict: true, strictTypes: false, strictRequired: false }).compile(schema);

interface Report {
  readonly rows: { id: string; readonly architectures: Record<string, { works: boolean; readonly verdict: string; readonly detail: string }> }[];
}

const some = FEATURES.filter(({ id }) => ["dma-strict", "deferrals", "liveness"].includes(id));
const variants = ["native", "three-driver", "three-driver/paging"].flatMap((name) => namedVariants(name, "identity") ?? []);

describe("report", async () => {
  const rows = await probeFeatures({ variants, features: some });
  const report = JSON.parse(JSON.stringify(featuresJson(rows))) as Report;

  test("it is what the schema says", () => {
    validate(report);
    expect(validate.errors).toBeNull();
  });

  test.each<readonly [what: string, spoil: (report: Report) => void]>([
    ["a verdict that there is not", (spoilt) => Object.assign(spoilt.rows[0]!.architectures["native"]!, { verdict: "perhaps" })],
    ["no evidence", (spoilt) => Object.assign(spoilt.rows[0]!.architectures["native"]!, { detail: "" })],
    ["more keys", (spoilt) => Object.assign(spoilt.rows[0]!, { more: 1 })],
  ])("the schema refuses: %s", (_, spoil) => {
    const spoilt = structuredClone(report);
    spoil(spoilt);
    expect(validate(spoilt)).toBe(false);
  });

  test("cells say what their probes found", () => {
    const strict = report.rows.find(({ id }) => id === "dma-strict")!.architectures;
    expect(Object.entries(strict).map(([name, { works, verdict }]) => [name, works, verdict])).toEqual([
      ["native", true, "works"],
      ["three-driver", false, "hidden by design"],
      ["three-driver/paging", true, "works"],
    ]);
    expect(report.rows.find(({ id }) => id === "liveness")!.architectures["native"]).toMatchObject({ works: false, verdict: "does not apply" });
  });

  test("text: 80 columns, evidence on request", () => {
    const plain = featuresText(rows);
    expect(plain.split("\n").filter((line) => line.length > 80)).toEqual([]);
    expect(plain).toMatch(/^DMA translation, strict \[dma-strict\] +yes hid yes$/m);
    expect(plain).not.toContain("EOPNOTSUPP");
    const explained = featuresText(rows, ["dma-strict"]);
    expect(explained.split("\n").filter((line) => line.length > 80)).toEqual([]);
    expect(explained).toContain("three-driver: hidden by design: the kernel gets EOPNOTSUPP");
  });
});

describe("probes", () => {
  test("ids are unique, and fit the schema", () => {
    expect(new Set(FEATURES.map(({ id }) => id)).size).toBe(FEATURES.length);
    expect(FEATURES.filter(({ id, title }) => !/^[a-z0-9-]+$/.test(id) || title.length > 40)).toEqual([]);
  });

  test("one that throws says so in its cell", async () => {
    const feature: Feature = {
      id: "x", title: "x", arguments: [],
      probe: () => {
        throw new Error("no luck");
      },
    };
    expect(await probeFeature(feature, await loadArchitecture("native"))).toEqual({ verdict: "absent", detail: "the probe ended early: no luck" });
  });

  test.each(FEATURES)("$id: a kernel that does not boot has it not", async (feature) => {
    const built = await loadArchitecture("single-driver");
    const dead = {
      ...built,
      bootKernel: () => {
        throw new Error("dead");
      },
    };
    const { verdict, detail } = await probeFeature(feature, dead);
    expect([verdict, detail]).toEqual(["absent", expect.stringContaining("dead")]);
  });
});
