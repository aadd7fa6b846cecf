// Replays single configurations that were run on QEMU's SMMUv3. Every access must have the recorded result, but for what a
// rule of qemu-rules.ts corrects.
import { beforeAll, describe, expect, test } from "vitest";
import { Memory } from "@smmuv3/platform";
import { readSte, RULES } from "./qemu-rules.ts";
import type { Case, Rule } from "./qemu-rules.ts";
import { access, loadPages, program, readLines } from "./replay.ts";
import type { Outcome, PageContent, Registers } from "./replay.ts";

interface RecordedAccess {
  readonly sid: number;
  readonly iova: string;
  readonly len: number;
  readonly write: boolean;
  readonly ok?: boolean;
  readonly outcome?: string;
  readonly pa?: string;
  readonly events: string[][];
  readonly walkerSays?: string;
  readonly why?: string;
}

interface RecordedCase {
  readonly name?: string;
  readonly access?: RecordedAccess[];
  readonly regs?: Registers;
  readonly mem?: PageContent[];
}

const RAM_BASE = 0x4000_0000;
const RAM_SIZE = 0x1_4000_0000;
/** The machine of the cold sets has its RAM below this. */
const COLD_RAM_END = 0x1_0000_0000;
/** Bus read that no RAM answered. */
const NO_RAM = "0xffffffff";
const EVENT_QUEUE = 0x4100_1000;

function stagesOf(file: string, name: string): Case["stages"] {
  if (file.startsWith("fuzz")) return name.endsWith("-s1") ? "s1" : name.endsWith("-s2") ? "s2" : "nested";
  return file === "s1-cold" ? "s1" : name.startsWith("s2-") ? "s2" : "nested";
}

/** What the cold sets cannot tell: PAs are known modulo 4 GiB, and only where there is RAM. */
function observed(outcome: Outcome, cold: boolean): Outcome {
  if (!cold || outcome.pa === undefined) return outcome;
  if (outcome.pa < RAM_BASE || outcome.pa >= COLD_RAM_END) return { ok: false, pa: undefined, events: outcome.events };
  return outcome;
}

interface Mismatch {
  readonly where: string;
  readonly expected: Outcome;
  readonly got: Outcome;
}

interface Replay {
  readonly accesses: number;
  readonly mismatches: Mismatch[];
  /** Rules that changed an expectation which then held. */
  readonly used: Set<string>;
}

function replay(memory: Memory, file: string, rules: readonly Rule[]): Replay {
  const used = new Set<string>();
  const cold = !file.startsWith("fuzz");
  const mismatches: Mismatch[] = [];
  let accesses = 0;
  for (const { name, access: list, regs, mem } of readLines<RecordedCase>(`vectors/qemu/${file}.jsonl`)) {
    // QEMU itself crashed on the others.
    if (name === undefined || list === undefined || regs === undefined || mem === undefined) continue;
    const clear = loadPages(memory, mem);
    const smmu = program(memory, regs, "eager");
    for (const [index, a] of list.entries()) {
      accesses++;
      const probe = (iova: bigint): Outcome =>
        observed(access(smmu, a.sid, `0x${iova.toString(16)}`, a.write), cold);
      const got = probe(BigInt(a.iova));
      const ok = (a.ok ?? a.outcome === "ok") && a.pa !== NO_RAM;
      // A refused access of more than 4 bytes has a record for each 4 (row event-per-4-bytes).
      const recorded: Outcome = { ok, pa: ok ? Number(a.pa) : undefined, events: a.events.slice(0, 1) };
      const c: Case = {
        name,
        stages: stagesOf(file, name),
        sid: a.sid,
        iova: BigInt(a.iova),
        write: a.write,
        recorded,
        walkerSays: a.walkerSays,
        why: a.why,
        ste: readSte(memory, BigInt(regs["STRTAB_BASE"] ?? "0"), a.sid),
        probe,
      };
      let expected = recorded;
      const applied: string[] = [];
      for (const rule of rules) {
        if (JSON.stringify(expected) === JSON.stringify(got)) break;
        const corrected = rule.correct(c, expected);
        if (corrected === undefined) continue;
        expected = corrected;
        applied.push(rule.row);
      }
      if (JSON.stringify(expected) === JSON.stringify(got)) for (const row of applied) used.add(row);
      else mismatches.push({ where: `${file} ${name} ${index} ${a.iova} ${a.write ? "write" : "read"}`, expected, got });
    }
    clear();
    memory.fill(EVENT_QUEUE, 0x1000, 0);
  }
  return { accesses, mismatches, used };
}

const FILES = ["s1-cold", "s2-cold", "nested-cold", "fuzz-101"] as const;
const SIZES: Readonly<Record<(typeof FILES)[number], number>> = {
  "s1-cold": 159,
  "s2-cold": 184,
  "nested-cold": 424,
  "fuzz-101": 4188,
};

describe("QEMU vectors", () => {
  let memory: Memory;
  const used = new Set<string>();
  beforeAll(() => {
    memory = Memory.allocate({ base: RAM_BASE, size: RAM_SIZE });
  });

  test.each(FILES)("%s", (file) => {
    const { accesses, mismatches, used: rows } = replay(memory, file, RULES);
    for (const row of rows) used.add(row);
    expect(mismatches.slice(0, 5)).toEqual([]);
    expect(mismatches).toHaveLength(0);
    expect(accesses).toBe(SIZES[file]);
  });

  test("every rule excuses something", () => {
    expect(RULES.map(({ row }) => row).filter((row) => !used.has(row))).toEqual([]);
  });

  test.each(RULES.map(({ row }) => row))("without rule %s its cases differ", (row) => {
    const rules = RULES.filter((rule) => rule.row !== row);
    const found = FILES.flatMap((file) => replay(memory, file, rules).mismatches);
    expect(found.length).toBeGreaterThan(0);
  });
});
