import { CMD, CMD_WORDS, COMMANDS, getField } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import { atcInv, cfgiSte, preferSecondary, repeatingSink, SelectingBatch, tlbiNhVa, VCMDQ_GUEST_OPCODES } from "../src/index.ts";
import type { BatchErrata, CommandSink } from "../src/index.ts";

const ETIMEDOUT = -110;

/** Lists as text: queue, opcodes (a count where they repeat), `+` with a SYNC. */
class Log {
  readonly lists: string[] = [];
  status: number = 0;

  sink(name: string, takes?: readonly number[]): CommandSink {
    return {
      issue: (words, count, sync) => {
        const opcodes = Array.from({ length: count }, (_, i) => getField(words, i * CMD_WORDS, CMD.Opcode).toString(16));
        const same = opcodes.length > 4 && opcodes.every((opcode) => opcode === opcodes[0]);
        this.lists.push(`${name}: ${same ? `${count} x ${opcodes[0]!}` : opcodes.join(" ")}${sync ? " +" : ""}`);
        return this.status;
      },
      ...(takes === undefined ? {} : { supports: (opcode: number) => takes.includes(opcode) }),
    };
  }
}

type Step = "va" | "atc" | "ste";
const GUEST = [...VCMDQ_GUEST_OPCODES];

function fill(batch: SelectingBatch, steps: readonly Step[]): number {
  for (const step of steps) {
    const at = batch.next();
    if (step === "va") tlbiNhVa(batch.words, at, 0, 1, 0, 0, 0);
    else if (step === "atc") atcInv(batch.words, at, 1, 0, 0, 0);
    else cfgiSte(batch.words, at, 1, true);
  }
  return batch.submit();
}

function lists(steps: readonly Step[], errata: BatchErrata = {}, secondary: "guest" | "all" | "none" = "none"): string[] {
  const log = new Log();
  const main = log.sink("main");
  const other = secondary === "none" ? undefined : log.sink("vcmdq", secondary === "guest" ? GUEST : undefined);
  const batch = new SelectingBatch(preferSecondary(main, () => other), errata);
  expect(fill(batch, steps)).toBe(0);
  expect(batch.count).toBe(0);
  return log.lists;
}

const times = (count: number, step: Step): Step[] => new Array<Step>(count).fill(step);

describe("SelectingBatch", () => {
  test.each<[string, Step[], BatchErrata, "guest" | "all" | "none", string[]]>([
    ["a bare SYNC", [], {}, "none", ["main:  +"]],
    ["a bare SYNC is not for a queue that does not take it", [], {}, "guest", ["main:  +"]],
    ["64 commands", times(64, "va"), {}, "none", ["main: 64 x 12 +"]],
    ["65 commands", times(65, "va"), {}, "none", ["main: 64 x 12", "main: 12 +"]],
    ["a SYNC after 63", times(64, "va"), { forceSync: true }, "none", ["main: 63 x 12 +", "main: 12 +"]],
    ["a SYNC after 63, not needed", times(63, "va"), { forceSync: true }, "none", ["main: 63 x 12 +"]],
    ["another queue", ["va", "atc"], {}, "guest", ["vcmdq: 12 40 +"]],
    ["a command that it does not take goes to the main queue", ["va", "ste", "va"], {}, "guest", ["vcmdq: 12 +", "main: 3 12 +"]],
    ["its first command decides", ["ste", "va"], {}, "guest", ["main: 3 12 +"]],
    ["a queue that takes all", ["ste", "va"], {}, "all", ["vcmdq: 3 12 +"]],
    ["a full list and another queue", [...times(64, "va"), "ste"], {}, "guest", ["vcmdq: 64 x 12", "main: 3 +"]],
    ["a foreign command as the 64th", [...times(63, "va"), "ste", "va"], {}, "guest", ["vcmdq: 63 x 12 +", "main: 3 12 +"]],
    ["twice", ["va", "ste"], { repeat: true }, "none", ["main: 12 3 +", "main: 12 3 +"]],
    ["twice, and 64 with a SYNC", times(65, "va"), { repeat: true }, "none", [...times(2, "va").map(() => "main: 64 x 12 +"), ...times(2, "va").map(() => "main: 12 +")]],
    ["not twice: ATC_INV", times(65, "atc"), { repeat: true }, "none", ["main: 64 x 40", "main: 40 +"]],
    ["not twice: a bare SYNC", [], { repeat: true }, "none", ["main:  +"]],
  ])("%s", (_, steps, errata, secondary, expected) => {
    expect(lists(steps, errata, secondary)).toEqual(expected);
  });

  test("the words of a command that changes queues are the ones that were written", () => {
    const log = new Log();
    let words = new Int32Array(0);
    const main: CommandSink = { ...log.sink("main"), issue: (all, count) => ((words = all.slice(0, count * CMD_WORDS)), 0) };
    const batch = new SelectingBatch(preferSecondary(main, () => log.sink("vcmdq", GUEST)));
    tlbiNhVa(batch.words, batch.next(), 0, 1, 0, 0x1000, 0);
    cfgiSte(batch.words, batch.next(), 77, true);
    expect(batch.submit()).toBe(0);
    expect(getField(words, 0, CMD.SID)).toBe(77);
    expect(words.length).toBe(CMD_WORDS);
  });

  test("the first error is told once", () => {
    const log = new Log();
    log.status = ETIMEDOUT;
    const batch = new SelectingBatch(() => log.sink("main"));
    expect(fill(batch, times(65, "va"))).toBe(ETIMEDOUT);
    log.status = 0;
    expect(batch.submit()).toBe(0);
  });
});

describe("repeatingSink", () => {
  test.each([
    ["ste", true, 2], ["va", true, 2], ["atc", true, 1], ["va", false, 1],
  ] as const)("%s with SYNC %s: %i times", (step, sync, count) => {
    const log = new Log();
    const batch = new SelectingBatch(() => log.sink("unused"));
    fill(batch, [step]);
    log.lists.length = 0;
    expect(repeatingSink(log.sink("main")).issue(batch.words, 1, sync)).toBe(0);
    expect(log.lists.length).toBe(count);
  });

  test("not after an error; and it takes what its queue takes", () => {
    const log = new Log();
    log.status = ETIMEDOUT;
    const sink = repeatingSink(log.sink("main", GUEST));
    const words = new Int32Array(CMD_WORDS);
    cfgiSte(words, 0, 1, true);
    expect(sink.issue(words, 1, true)).toBe(ETIMEDOUT);
    expect(log.lists.length).toBe(1);
    expect([sink.supports!(COMMANDS.TLBI_NH_VA.opcode), sink.supports!(COMMANDS.CFGI_STE.opcode)]).toEqual([true, false]);
    expect(repeatingSink(log.sink("all")).supports!(1)).toBe(true);
  });
});
