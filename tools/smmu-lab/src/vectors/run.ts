import { Memory } from "@smmuv3/platform";
import type { ProfileName } from "@smmuv3/smmu-v3-model";
import { InputError } from "../lab/trace-file.ts";
import type { Machine } from "../reference/config.ts";
import { featuresOf } from "../reference/registers.ts";
import { readCases } from "./cases.ts";
import type { Observation, RecordedAccess, RecordedCase } from "./cases.ts";
import { accessModel, loadPages, memoryBus, programModel, withIdentity } from "./replay.ts";
import { judge, plainAccess } from "./judge.ts";
import { observe, RULES } from "./rules.ts";
import type { Rule, Subject } from "./rules.ts";

/** RAM of the machines that recorded, and the part of it where a page can be seen by its tag. */
const RAM_BASE = 0x4000_0000;
const RAM_BYTES = 0x1_4000_0000;
const TAGGED_END = 0x1_0000_0000n;
const LOW = 0xffff_ffffn;

/** An access that came out otherwise, without a rule that explains it. */
export interface Difference {
  readonly file: string;
  readonly line: number;
  readonly name: string;
  /** Index into the accesses of the case. */
  readonly index: number;
  readonly access: RecordedAccess;
  readonly got: Observation;
}

export interface VectorReport {
  readonly cases: number;
  readonly accesses: number;
  readonly pass: number;
  /** Accesses by the rows that excuse them. One access may need several. */
  readonly excused: ReadonlyMap<string, number>;
  /** Accesses that rows excuse: with `pass` and `fail`, all. */
  readonly excusedAccesses: number;
  readonly fail: number;
  /** The first failures. */
  readonly differences: readonly Difference[];
  /** Cases in which QEMU crashed, and accesses after changes that were not recorded. */
  readonly skipped: { readonly crashed: number; readonly steps: number };
}

export interface VectorOptions {
  readonly profile: ProfileName;
  /** Rules to use; all when left out. */
  readonly rules?: readonly Rule[];
  /** Failures to keep; 10 when left out. */
  readonly keep?: number;
  /** Told of each access: what happened to it, by row. */
  readonly onAccess?: (found: RecordedCase, index: number, rows: readonly string[] | undefined) => void;
}

/** What the recorder of tagged pages could see: low 32 bits of the PA, where there is RAM; all else looks like a refusal. */
function tagView(seen: Observation): Observation {
  if (seen.pa === undefined) return seen;
  if (seen.pa < BigInt(RAM_BASE) || seen.pa >= TAGGED_END) return { ok: false, pa: undefined, events: seen.events };
  return { ...seen, pa: seen.pa & LOW };
}

/** Replays recorded cases on the model; one object may run many files. */
export class VectorRun {
  readonly #memory: Memory = Memory.allocate({ base: RAM_BASE, size: RAM_BYTES });
  readonly #options: VectorOptions;
  readonly #excused = new Map<string, number>();
  readonly #differences: Difference[] = [];
  #cases = 0;
  #accesses = 0;
  #pass = 0;
  #excusedAccesses = 0;
  #fail = 0;
  #crashed = 0;
  #steps = 0;

  constructor(options: VectorOptions) {
    this.#options = options;
  }

  /** Replays the cases of a file. Throws InputError with file and line. */
  async file(path: string): Promise<void> {
    for await (const found of readCases(path)) this.#case(found);
  }

  report(): VectorReport {
    return {
      cases: this.#cases,
      accesses: this.#accesses,
      pass: this.#pass,
      excused: new Map([...this.#excused].sort(([a], [b]) => (a < b ? -1 : 1))),
      excusedAccesses: this.#excusedAccesses,
      fail: this.#fail,
      differences: this.#differences,
      skipped: { crashed: this.#crashed, steps: this.#steps },
    };
  }

  #case(found: RecordedCase): void {
    const { access: list, pages, file, line } = found;
    this.#cases++;
    this.#steps += found.steps;
    if (found.crashed) this.#crashed++;
    const memory = this.#memory;
    const outside = pages.find(({ pa, values }) => values.some(([offset]) => memory.pageIndex(pa + offset) < 0));
    if (outside !== undefined) throw new InputError(`${file}:${line}: mem: 0x${outside.pa.toString(16)} is not RAM`);
    const registers = withIdentity(found.registers);
    const clear = loadPages(memory, pages, registers);
    const smmu = programModel(memory, registers, this.#options.profile);
    const machine: Machine = { registers, features: featuresOf(registers), bus: memoryBus(memory) };
    for (const [index, recorded] of list.entries()) {
      this.#accesses++;
      const view = recorded.tagged ? tagView : (seen: Observation): Observation => seen;
      const got = view(accessModel(smmu, plainAccess(recorded)));
      const subject: Subject = {
        machine,
        access: plainAccess(recorded),
        view: (explanation) => view(observe(explanation)),
        earlier: list.slice(0, index).map(plainAccess),
      };
      const rows = judge(subject, recorded, got, this.#options.rules ?? RULES);
      this.#options.onAccess?.(found, index, rows);
      if (rows === undefined) {
        this.#fail++;
        if (this.#differences.length < (this.#options.keep ?? 10)) {
          this.#differences.push({ file, line, name: found.name, index, access: recorded, got });
        }
      } else if (rows.length === 0) {
        this.#pass++;
      } else {
        this.#excusedAccesses++;
        for (const row of rows) this.#excused.set(row, (this.#excused.get(row) ?? 0) + 1);
      }
    }
    clear();
  }
}

/** Replays case files. Throws InputError with file and line for one that cannot be used. */
export async function runVectors(files: readonly string[], options: VectorOptions): Promise<VectorReport> {
  const run = new VectorRun(options);
  for (const file of files) await run.file(file);
  return run.report();
}
