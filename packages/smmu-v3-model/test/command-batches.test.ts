import fc from "fast-check";
import { expect, test } from "vitest";
import { LEVEL, Memory } from "@smmuv3/platform";
import { CERROR, CMD, COMMANDS, OFFSET, place, SYNC_CS } from "@smmuv3/smmu-v3-defs";
import { PRESETS, SmmuV3 } from "../src/index.ts";

const BASE = 0x4000_0000;
const QUEUE = BASE + 0x1_0000;
const LOG2 = 10;
const SIZE = 1 << LOG2;
const PAGE_COMMANDS = 256;

/** A machine whose queue of four pages begins at an index, and what it has counted. */
class Machine {
  readonly memory: Memory = Memory.allocate({ base: BASE, size: 0x4_0000 });
  readonly signals: number[] = [];
  readonly smmu: SmmuV3;

  constructor(start: number) {
    const pulse = (): void => void this.signals.push(this.cons & (SIZE - 1));
    const idle = { pulse: () => undefined };
    this.smmu = new SmmuV3({ memory: this.memory, id: PRESETS.reference, progress: "manual", irq: { cmdSync: { pulse }, gerror: idle } });
    const { registers } = this.smmu;
    registers.write64(OFFSET.CMDQ_BASE, QUEUE | LOG2, 0);
    registers.write32(OFFSET.CMDQ_PROD, start);
    registers.write32(OFFSET.CMDQ_CONS, start);
    registers.write32(OFFSET.CR0, 8);
    this.smmu.step(0);
  }

  get cons(): number {
    return this.smmu.registers.read32(OFFSET.CMDQ_CONS) & (2 * SIZE - 1);
  }

  get error(): number {
    return (this.smmu.registers.read32(OFFSET.CMDQ_CONS) >>> 24) & 0x7f;
  }

  count(name: string): number {
    return this.smmu.counters.values[this.smmu.counters.id(name) + LEVEL.device]!;
  }
}

const SYNC = COMMANDS.SYNC.opcode;
/** Commands by letter: some that are done in runs, some that end a batch, one that is illegal. */
const WORDS = {
  v: COMMANDS.TLBI_NH_VA.opcode,
  a: COMMANDS.TLBI_NH_ALL.opcode,
  c: COMMANDS.CFGI_STE.opcode,
  s: SYNC,
  i: SYNC | place(CMD.CS, SYNC_CS.irq),
  x: SYNC | place(CMD.CS, 3),
} as const;
type Letter = keyof typeof WORDS;

test("batches end where they must: at PROD, the limit, an error, an unreadable page (4.1, 4.7.3)", () => {
  const run = fc.record({ letter: fc.constantFrom<Letter>("v", "v", "v", "a", "c", "s", "s", "i", "x"), length: fc.constantFrom(1, 2, 63, 300) });
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 2 * SIZE - 1 }), fc.array(run, { minLength: 1, maxLength: 12 }), fc.integer({ min: -3, max: 3 }),
      fc.array(fc.constantFrom(1, 3, 64, 257, 5000), { minLength: 1, maxLength: 8 }),
      (start, runs, unreadable, limits) => {
        const letters = runs.flatMap(({ letter, length }) => new Array<Letter>(letter === "x" ? 1 : length).fill(letter)).slice(0, SIZE);
        const machine = new Machine(start);
        const { memory, smmu } = machine;
        const indexOf = (n: number): number => (start + n) % SIZE;
        for (const [n, letter] of letters.entries()) memory.store32(QUEUE + indexOf(n) * 16, WORDS[letter]);
        if (unreadable >= 0) memory.perm[memory.pageIndex(QUEUE + unreadable * 0x1000)] = 2;
        smmu.registers.write32(OFFSET.CMDQ_PROD, (start + letters.length) & (2 * SIZE - 1));

        const isBad = (letter: Letter, n: number): boolean => letter === "x" || Math.floor(indexOf(n) / PAGE_COMMANDS) === unreadable;
        const bad = letters.findIndex(isBad);
        const most = bad < 0 ? letters.length : bad;
        let done = 0;
        for (const limit of limits) {
          const expected = Math.min(limit, most - done);
          expect(smmu.step(limit)).toBe(expected);
          done += expected;
          expect(machine.cons).toBe((start + done) & (2 * SIZE - 1));
          // The command in error is met when there is still room for it under the limit.
          const met = bad >= 0 && done === bad && (expected < limit || machine.error !== CERROR.NONE);
          const cerror = Math.floor(indexOf(bad) / PAGE_COMMANDS) === unreadable ? CERROR.ABT : CERROR.ILL;
          expect(machine.error).toBe(met ? cerror : CERROR.NONE);
        }
        const consumed = letters.slice(0, done);
        expect(machine.count("commands")).toBe(done);
        expect(machine.count("syncs")).toBe(consumed.filter((letter) => letter === "s" || letter === "i").length);
        // Each signal is sent when CONS has passed its CMD_SYNC, and no other command.
        expect(machine.signals).toEqual(consumed.flatMap((letter, n) => (letter === "i" ? [indexOf(n + 1)] : [])));
      },
    ),
    { numRuns: 200 },
  );
});
