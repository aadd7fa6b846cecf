// The order between who unmaps and who attaches: all interleavings of two CPUs whose stores become visible late, in any order,
// and of an SMMU that may walk and cache at any moment.
import { expect, test } from "vitest";
import { INV, Invs, makeInvs, mergeInvs, unrefInvs } from "../src/index.ts";

/** What both CPUs and the SMMU share. */
interface Machine {
  /** The page is mapped. */
  pte: boolean;
  /** The array that is published: which of `arrays`. */
  published: number;
  /** The STE leads to the tables. */
  ste: boolean;
  /** The SMMU has cached the STE; it has cached the mapping. */
  steCached: boolean;
  tlb: boolean;
}
type Variable = "pte" | "published" | "ste";

/** A step of a CPU. `store` becomes visible at some time up to the next barrier. `call` happens at once. */
type Step =
  | { readonly kind: "store"; readonly variable: Variable; readonly value: boolean | number }
  | { readonly kind: "barrier" }
  | { readonly kind: "call"; readonly run: (machine: Machine, local: Local) => void };

/** Registers of a CPU: the array that it looked at. */
interface Local {
  invs: number;
}

const TAG = makeInvs([{ smmu: 0, type: INV.s1Asid, id: 1 }])!;

interface State {
  readonly machine: Machine;
  readonly pc: readonly number[];
  readonly locals: readonly Local[];
  /** Stores of each CPU that are not visible yet. */
  readonly buffers: readonly (readonly Step[])[];
}

/** Final states in which the SMMU may translate by a mapping that is gone. */
function staleStates(programs: readonly (readonly Step[])[], start: Machine, arrays: readonly Invs[]): number {
  expect(arrays.length).toBeGreaterThan(0);
  const seen = new Set<string>();
  let stale = 0;
  const visit = (state: State): void => {
    const name = JSON.stringify(state);
    if (seen.has(name)) return;
    seen.add(name);
    const { machine, pc, locals, buffers } = state;
    const done = pc.every((at, cpu) => at === programs[cpu]!.length) && buffers.every((buffer) => buffer.length === 0);
    if (done && machine.tlb && !machine.pte) stale++;
    // The SMMU: fetches the STE, and walks.
    if (machine.ste && !machine.steCached) visit({ ...state, machine: { ...machine, steCached: true } });
    if (machine.steCached && machine.pte && !machine.tlb) visit({ ...state, machine: { ...machine, tlb: true } });
    programs.forEach((program, cpu) => {
      // Any store becomes visible.
      buffers[cpu]!.forEach((step, i) => {
        if (step.kind !== "store") return;
        visit({ ...state, machine: { ...machine, [step.variable]: step.value }, buffers: buffers.with(cpu, buffers[cpu]!.toSpliced(i, 1)) });
      });
      const step = program[pc[cpu]!];
      if (step === undefined || (step.kind === "barrier" && buffers[cpu]!.length > 0)) return;
      const next = { ...state, pc: pc.with(cpu, pc[cpu]! + 1) };
      if (step.kind === "store") visit({ ...next, buffers: buffers.with(cpu, [...buffers[cpu]!, step]) });
      else if (step.kind === "barrier") visit(next);
      else {
        const after = { ...machine };
        const local = { ...locals[cpu]! };
        step.run(after, local);
        visit({ ...next, machine: after, locals: locals.with(cpu, local) });
      }
    });
  };
  visit({ machine: start, pc: programs.map(() => 0), locals: programs.map(() => ({ invs: -1 })), buffers: programs.map(() => []) });
  return stale;
}

const store = (variable: Variable, value: boolean | number): Step => ({ kind: "store", variable, value });
const barrier: Step = { kind: "barrier" };
const call = (run: (machine: Machine, local: Local) => void): Step => ({ kind: "call", run });

const empty = makeInvs([])!;
const arrays = [empty, mergeInvs(empty, TAG)!];
const look = call((machine, local) => {
  local.invs = machine.published;
});
/** TLBI for each row with users, and SYNC. */
const invalidate = (all: readonly Invs[]): Step =>
  call((machine, local) => {
    if (all[local.invs]!.live(0) >= 0) machine.tlb = false;
  });

const UNMAP = [store("pte", false), barrier, look, invalidate(arrays)];
const ATTACH = [store("published", 1), barrier, store("ste", true)];
const DETACHED: Machine = { pte: true, published: 0, ste: false, steCached: false, tlb: false };

test("unmap against attach: no mapping that is gone stays in the TLB", () => {
  expect(staleStates([UNMAP, ATTACH], DETACHED, arrays)).toBe(0);
});

test.each<[string, Step[], Step[]]>([
  ["unmap without its barrier", UNMAP.filter((step) => step !== barrier), ATTACH],
  ["unmap looks too early", [look, store("pte", false), barrier, invalidate(arrays)], ATTACH],
  ["attach without its barrier", UNMAP, ATTACH.filter((step) => step !== barrier)],
  ["attach publishes too late", UNMAP, [store("ste", true), barrier, store("published", 1)]],
])("but not so: %s", (_, unmap, attach) => {
  expect(staleStates([unmap, attach], DETACHED, arrays)).toBeGreaterThan(0);
});

// Who detaches stores the STE, has the SMMU forget it, and takes the user away; then the tag is flushed.
const ATTACHED: Machine = { pte: true, published: 0, ste: true, steCached: true, tlb: true };
const forget = call((machine) => {
  machine.steCached = false;
});
const flush = call((machine) => {
  machine.tlb = false;
});

/** Arrays with and without the user: what `unrefInvs` does in place, as states that a search can go back from. */
function attached(): readonly Invs[] {
  const before = makeInvs([{ smmu: 0, type: INV.s1Asid, id: 1 }])!;
  const after = new Invs(before.words.slice(), before.cell);
  unrefInvs(after, makeInvs([{ smmu: 0, type: INV.s1Asid, id: 1 }])!, () => {});
  return [before, after];
}

test("unmap against detach", () => {
  const states = attached();
  const unmap = [store("pte", false), barrier, look, invalidate(states)];
  const detach = [store("ste", false), barrier, forget, store("published", 1), barrier, flush];
  expect(staleStates([unmap, detach], ATTACHED, states)).toBe(0);
  for (const wrong of [
    // The user goes while the SMMU still translates.
    [store("published", 1), barrier, flush, store("ste", false), barrier, forget],
    // Nobody flushes what has no user any more.
    [store("ste", false), barrier, forget, store("published", 1), barrier],
  ]) {
    expect(staleStates([unmap, wrong], ATTACHED, states)).toBeGreaterThan(0);
  }
});
