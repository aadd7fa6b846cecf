// Replays single configurations that were run on QEMU's SMMUv3. Every access must have the recorded result, but for what a
// rule of the deviation table explains. A rule looks at registers, structures and the access, never at the name of a case.
import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { dataPath } from "@smmuv3/data";
import { RULES, runVectors } from "@smmuv3/smmu-lab";
import type { Rule, VectorReport } from "@smmuv3/smmu-lab";

const FILES = {
  "s1-cold": {
    counts: { cases: 60, accesses: 159, pass: 146 },
    excused: { "cd-fetch-addr": 2, "event-per-4-bytes": 7, "l2-span": 1, recinvsid: 2, "s1-16k-l1-block": 1 },
  },
  "s2-cold": {
    counts: { cases: 34, accesses: 184, pass: 118 },
    excused: { "ipa-low-bits": 30, "s2-concat": 44, "s2-iova-beyond-ias": 2, "s2t0sz-vs-ps": 6 },
  },
  "nested-cold": {
    counts: { cases: 104, accesses: 424, pass: 311 },
    excused: {
      "cd-fetch-addr": 2, "event-per-4-bytes": 7, "ipa-low-bits": 48, "l2-span": 1, "nested-rnw": 16, recinvsid: 2,
      "s1-16k-l1-block": 1, "s2-concat": 44, "s2-iova-beyond-ias": 2, "s2t0sz-vs-ps": 6,
    },
  },
  "fuzz-101": {
    counts: { cases: 150, accesses: 4188, pass: 3341 },
    excused: {
      "ipa-low-bits": 651, "nested-rnw": 4, "nested-table-base": 48, "nested-tt-s2bit": 49, "priority-addrsize": 93,
      "priority-aptable": 15, "s2-iova-beyond-ias": 3, "tbi1-macro": 55,
    },
  },
} as const;
type File = keyof typeof FILES;
const NAMES = Object.keys(FILES) as File[];
const ALL = NAMES.map((name) => dataPath(`vectors/qemu/${name}.jsonl`));

/** Rules for what the recorded cases here do not show; their own cases are with the package that has the rules. */
const ELSEWHERE = [
  "ap-unpriv", "bypass-ias", "cd-ste-validity", "l2-span-too-big", "nested-ttb1-unmapped", "s1cdmax", "table-addrsize",
  "unchecked-ste", "warm-tlb",
];
const HERE = RULES.map(({ row }) => row).filter((row) => !ELSEWHERE.includes(row));

interface Judged {
  readonly report: VectorReport;
  /** Rows by access, `file:line:index`; undefined for a failure. */
  readonly rows: ReadonlyMap<string, readonly string[] | undefined>;
}

async function run(files: readonly string[], rules: readonly Rule[] = RULES): Promise<Judged> {
  const rows = new Map<string, readonly string[] | undefined>();
  const report = await runVectors(files, {
    profile: "eager",
    rules,
    onAccess: ({ file, line }, index, found) => {
      rows.set(`${file}:${line}:${index}`, found);
    },
  });
  return { report, rows };
}

describe("QEMU vectors", () => {
  let full: Judged;
  beforeAll(async () => {
    full = await run(ALL);
  });

  test.each(NAMES)("%s", async (name) => {
    const { report } = await run([dataPath(`vectors/qemu/${name}.jsonl`)]);
    const { cases, accesses, pass, excused, excusedAccesses, fail, differences } = report;
    expect(differences).toEqual([]);
    expect({ cases, accesses, pass }).toEqual(FILES[name].counts);
    expect(Object.fromEntries(excused)).toEqual(FILES[name].excused);
    expect(pass + excusedAccesses + fail).toBe(accesses);
  });

  test.each(["lazy", "finite"] as const)("caches make no difference: %s", async (profile) => {
    const { differences, accesses } = await runVectors(ALL, { profile });
    expect(differences).toEqual([]);
    expect(accesses).toBe(4955);
  });

  test("every rule excuses something", () => {
    expect([...full.report.excused.keys()].sort()).toEqual([...HERE].sort());
  });

  test.each(HERE)("without rule %s exactly its accesses fail", async (row) => {
    const its = [...full.rows].flatMap(([where, rows]) => (rows?.includes(row) === true ? [where] : []));
    const files = ALL.filter((file) => its.some((where) => where.startsWith(file)));
    const without = await run(files, RULES.filter((rule) => rule.row !== row));
    const failed = [...without.rows].flatMap(([where, rows]) => (rows === undefined ? [where] : []));
    expect(failed).toEqual(its);
    expect(its).not.toEqual([]);
  });

  test("rows are those of the deviation list, or of the list that goes with it", () => {
    const listed = (JSON.parse(readFileSync(dataPath("vectors/qemu/deviations.json"), "utf8")) as { id: string }[]).map(({ id }) => id);
    const unlisted = RULES.map(({ row }) => row as string).filter((row) => !listed.includes(row));
    expect(unlisted).toEqual([
      "bypass-ias", "ipa-low-bits", "nested-rnw", "nested-ttb1-unmapped", "recinvsid", "s1cdmax", "table-addrsize",
    ]);
  });

  test("what the recorder blames is what the rules find", async () => {
    const blamed: Record<string, number> = {};
    await runVectors(ALL, {
      profile: "eager",
      onAccess: ({ access }, index, rows) => {
        const { why, write, recorded } = access[index]!;
        if (why === undefined || rows?.includes(why) === true) return;
        // Its walker looks for the permission of stage 1 after stage 2; the model and QEMU have the order of the manual.
        const stage1Permission = write && !recorded.ok && (recorded.events[0]![0]! & 0xffn) === 0x13n && (recorded.events[0]![1]! >> 39n) % 2n === 0n;
        const key = stage1Permission ? "permission of stage 1" : why;
        blamed[key] = (blamed[key] ?? 0) + 1;
      },
    });
    expect(blamed).toEqual({ "permission of stage 1": 36 });
  });
});
