// Walks the tables of a real Linux boot: the memory and registers of the machine are loaded as they were dumped, and every
// translation that was live and every probe must come out as recorded. Pages that were not dumped abort when reached.
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { dataPath } from "@smmuv3/data";
import { Memory, PAGE_SIZE, PAGE_WORDS, PERM_RW } from "@smmuv3/platform";
import { accessModel, accessOf, featuresOf, judge, memoryBus, observe, plainAccess, programModel, RULES } from "@smmuv3/smmu-lab";
import type { Machine, RecordedAccess, Registers, Rule } from "@smmuv3/smmu-lab";
import type { ProfileName, SmmuV3 } from "@smmuv3/smmu-v3-model";

const EVENTQ_LOG2 = 7n;

interface Translation {
  readonly sid: number;
  readonly iova: string;
  readonly pa: string;
  readonly perm: number;
  readonly live: boolean;
}

interface Dump {
  readonly smmu: SmmuV3;
  readonly machine: Machine;
  readonly translations: readonly Translation[];
  readonly probes: readonly RecordedAccess[];
}

function readText(name: string): string {
  return readFileSync(dataPath(name), "utf8");
}

function readLines(name: string): unknown[] {
  return readText(name).split("\n").filter((line) => line !== "").map((line) => JSON.parse(line) as unknown);
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
    for (let word = 0; word < PAGE_WORDS; word++) {
      memory.words[page * PAGE_WORDS + word] = bytes.readInt32LE(i * PAGE_SIZE + word * 4);
    }
  });
  const { registers: recorded } = JSON.parse(readText(`${folder}/registers.json`)) as {
    registers: Record<string, { value: string }>;
  };
  const registers: Registers = {
    ...Object.fromEntries(Object.entries(recorded).map(([name, { value }]) => [name, BigInt(value)])),
    EVENTQ_BASE: BigInt(end) + EVENTQ_LOG2,
  };
  return {
    smmu: programModel(memory, registers, profile),
    machine: { registers, features: featuresOf(registers), bus: memoryBus(memory) },
    translations: readLines(`${folder}/translations.jsonl`) as Translation[],
    probes: readLines(`${folder}/probes.jsonl`).map((probe) => accessOf(probe, "probe")),
  };
}

/** Probes that fail, and how many each row excuses. */
function check({ smmu, machine, probes }: Dump, rules: readonly Rule[]): { wrong: RecordedAccess[]; excused: Record<string, number> } {
  const wrong: RecordedAccess[] = [];
  const excused: Record<string, number> = {};
  for (const probe of probes) {
    const access = plainAccess(probe);
    const got = accessModel(smmu, access);
    const rows = judge({ machine, access, view: observe, earlier: [] }, probe, got, rules);
    // `perm` says what the other direction may do.
    const other = probe.perm === undefined || accessModel(smmu, { ...access, write: !access.write }).ok === ((probe.perm & (access.write ? 1 : 2)) !== 0);
    if (rows === undefined || !other) wrong.push(probe);
    for (const row of rows ?? []) excused[row] = (excused[row] ?? 0) + 1;
  }
  return { wrong, excused };
}

const RUNS = [
  { run: "s1-4k", live: 68, probes: 3667, excused: {} },
  { run: "s2-4k", live: 68, probes: 3667, excused: { "ipa-low-bits": 612, "s2-iova-beyond-ias": 64 } },
] as const;

describe.each(RUNS)("Linux $run", ({ run, live: liveCount, probes, excused }) => {
  test.each(["lazy", "eager", "finite"] as const)("live translations, %s", (profile) => {
    const { smmu, translations } = load(run, profile);
    const wrong: unknown[] = [];
    const live = translations.filter((t) => t.live);
    for (const t of live) {
      for (const write of [false, true]) {
        if ((t.perm & (write ? 2 : 1)) === 0) continue;
        const got = accessModel(smmu, { sid: t.sid, ssid: undefined, iova: BigInt(t.iova), write, privileged: false, instruction: false });
        if (got.pa !== BigInt(t.pa)) wrong.push({ t, got });
      }
    }
    expect(wrong).toEqual([]);
    expect(live).toHaveLength(liveCount);
  });

  test.each(["lazy", "eager", "finite"] as const)("probes, %s", (profile) => {
    const dump = load(run, profile);
    const found = check(dump, RULES);
    expect(found.wrong.slice(0, 5)).toEqual([]);
    expect(found.excused).toEqual(excused);
    expect(dump.probes).toHaveLength(probes);
  });

  test.each(Object.entries(excused))("without rule %s its %i probes differ", (row, count) => {
    expect(check(load(run, "eager"), RULES.filter((rule) => rule.row !== row)).wrong).toHaveLength(count);
  });
});
