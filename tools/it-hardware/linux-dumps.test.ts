// Walks the tables of a real Linux boot: the memory and registers of the machine are loaded as they were dumped, and every
// translation that was live and every probe must come out as recorded. Pages that were not dumped abort when reached.
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { dataPath } from "@smmuv3/data";
import { Memory, PAGE_SIZE, PERM_RW } from "@smmuv3/platform";
import { EVENTS } from "@smmuv3/smmu-v3-defs";
import type { ProfileName, SmmuV3 } from "@smmuv3/smmu-v3-model";
import { access, program, readLines, readText } from "./replay.ts";
import type { Outcome, Registers } from "./replay.ts";

const EVENTQ_LOG2 = 7;

interface Translation {
  readonly sid: number;
  readonly iova: string;
  readonly pa: string;
  readonly perm: number;
  readonly live: boolean;
}

interface Probe {
  readonly sid: number;
  readonly iova: string;
  readonly write: boolean;
  readonly len: number;
  readonly outcome: "ok" | "fault" | "abort" | "bypass";
  readonly pa?: string;
  readonly perm?: number;
  readonly events?: string[][];
}

interface Dump {
  readonly smmu: SmmuV3;
  readonly translations: Translation[];
  readonly probes: Probe[];
}

function load(run: string, profile: ProfileName): Dump {
  const folder = `vectors/linux/${run}`;
  const layout = JSON.parse(readText(`${folder}/pages.json`)) as {
    ramBase: string;
    ramSize: string;
    pages: { pa: string; kind: string }[];
  };
  const end = Number(layout.ramBase) + Number(layout.ramSize);
  // One page more than the machine has, for the event queue: most of the machine's own was not dumped.
  const memory = Memory.allocate({ base: Number(layout.ramBase), size: Number(layout.ramSize) + PAGE_SIZE });
  memory.perm.fill(0);
  memory.perm[memory.pageIndex(end)] = PERM_RW;
  const bytes = readFileSync(dataPath(`${folder}/pages.bin`));
  layout.pages.forEach(({ pa }, i) => {
    const page = memory.pageIndex(Number(pa));
    memory.perm[page] = PERM_RW;
    for (let word = 0; word < 1024; word++) memory.words[page * 1024 + word] = bytes.readInt32LE(i * 4096 + word * 4);
  });
  const { registers } = JSON.parse(readText(`${folder}/registers.json`)) as {
    registers: Record<string, { value: string }>;
  };
  const values: Registers = Object.fromEntries(Object.entries(registers).map(([name, { value }]) => [name, value]));
  const eventQueue = { EVENTQ_BASE: `0x${(end + EVENTQ_LOG2).toString(16)}` };
  return {
    smmu: program(memory, { ...values, ...eventQueue }, profile),
    translations: readLines<Translation>(`${folder}/translations.jsonl`),
    probes: readLines<Probe>(`${folder}/probes.jsonl`),
  };
}

/** Corrects a recorded outcome where QEMU leaves the manual; rows of vectors/qemu/deviations.json. */
interface Rule {
  readonly row: string;
  readonly section: string;
  readonly correct: (probe: Probe, expected: Outcome) => Outcome | undefined;
}

const S2 = 1n << 39n;
const RNW = 1n << 35n;
const CLASS_IN = 2n << 40n;
const IAS = 1n << 44n;

function hex(value: bigint): string {
  return `0x${value.toString(16).padStart(16, "0")}`;
}

const RULES: readonly Rule[] = [
  {
    row: "ipa-low-bits",
    section: "7.3.13: the record holds IPA[55:12]",
    correct(_probe, expected) {
      const [record] = expected.events;
      if (record === undefined || (BigInt(record[1]!) & S2) === 0n || (BigInt(record[3]!) & 0xfffn) === 0n) return undefined;
      return { ...expected, events: [[...record.slice(0, 3), hex(BigInt(record[3]!) & ~0xfffn)]] };
    },
  },
  {
    row: "s2-iova-beyond-ias",
    section: "3.4.1, 7.3.14: stage 1 is disabled and its output is beyond IAS: F_ADDR_SIZE of stage 1",
    correct(probe, expected) {
      if (expected.ok || expected.events.length > 0 || BigInt(probe.iova) < IAS || probe.outcome !== "fault") return undefined;
      const dw0 = (BigInt(probe.sid) << 32n) | BigInt(EVENTS.F_ADDR_SIZE.type);
      return {
        ...expected,
        events: [[dw0, CLASS_IN | (probe.write ? 0n : RNW), BigInt(probe.iova), 0n].map(hex)],
      };
    },
  },
];

function mismatches(dump: Dump, rules: readonly Rule[], used: Set<string>): string[] {
  const out: string[] = [];
  for (const probe of dump.probes) {
    const got = access(dump.smmu, probe.sid, probe.iova, probe.write);
    const ok = probe.outcome === "ok" || probe.outcome === "bypass";
    let expected: Outcome = {
      ok,
      pa: ok ? Number(probe.pa) : undefined,
      events: (probe.events ?? []).slice(0, 1),
    };
    const applied: string[] = [];
    for (const rule of rules) {
      if (JSON.stringify(expected) === JSON.stringify(got)) break;
      const corrected = rule.correct(probe, expected);
      if (corrected === undefined) continue;
      expected = corrected;
      applied.push(rule.row);
    }
    if (JSON.stringify(expected) === JSON.stringify(got)) for (const row of applied) used.add(row);
    else out.push(`${JSON.stringify(probe)} got ${JSON.stringify(got)}`);
  }
  return out;
}

const RUNS = [
  { run: "s1-4k", live: 68, probes: 3667, rules: [] },
  { run: "s2-4k", live: 68, probes: 3667, rules: ["ipa-low-bits", "s2-iova-beyond-ias"] },
] as const;

describe.each(RUNS)("Linux $run", ({ run, live: liveCount, probes, rules }) => {
  test.each(["lazy", "eager", "finite"] as const)("live translations, %s", (profile) => {
    const dump = load(run, profile);
    const wrong: string[] = [];
    const live = dump.translations.filter((t) => t.live);
    for (const t of live) {
      for (const write of [false, true]) {
        if ((t.perm & (write ? 2 : 1)) === 0) continue;
        const got = access(dump.smmu, t.sid, t.iova, write);
        if (!got.ok || got.pa !== Number(t.pa)) wrong.push(`${JSON.stringify(t)} got ${JSON.stringify(got)}`);
      }
    }
    expect(wrong.slice(0, 5)).toEqual([]);
    expect(wrong).toHaveLength(0);
    expect(live).toHaveLength(liveCount);
  });

  test.each(["lazy", "eager", "finite"] as const)("probes, %s", (profile) => {
    const dump = load(run, profile);
    const used = new Set<string>();
    const wrong = mismatches(dump, RULES, used);
    expect(wrong.slice(0, 5)).toEqual([]);
    expect(wrong).toHaveLength(0);
    expect(dump.probes).toHaveLength(probes);
    expect([...used].sort()).toEqual([...rules]);
  });
});

test.each(RULES.map(({ row }) => row))("without rule %s its probes differ", (row) => {
  const rules = RULES.filter((rule) => rule.row !== row);
  expect(mismatches(load("s2-4k", "eager"), rules, new Set()).length).toBeGreaterThan(0);
});
