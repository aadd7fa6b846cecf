import { replay } from "./epoch.ts";
import type { Trail } from "./epoch.ts";
import { isConcurrent } from "./op.ts";
import type { Concurrent, Step } from "./op.ts";
import type { Finding } from "./oracle.ts";
import type { Target } from "./target.ts";

/** Replays at most: a script that does not get shorter with these is short enough. */
const MOST_REPLAYS = 400;

/** The same finding, as far as a reader is concerned: a shorter script may hit another page. */
function alike(found: Finding | undefined, wanted: Finding): boolean {
  return found !== undefined && findingShape(found) === findingShape(wanted);
}

/** The finding without addresses and numbers. */
export function findingShape({ kind, invariant, text }: Finding): string {
  return `${kind} ${invariant} ${text.replaceAll(/0x[0-9a-f]+|\d+/gu, "#")}`;
}

/** Delta debugging: `list` without what `test` can do without. */
function reduce<T>(list: readonly T[], test: (shorter: readonly T[]) => boolean): readonly T[] {
  let kept = list;
  for (let size = Math.ceil(kept.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let at = kept.length - size; at > -size; at -= size) {
      const from = Math.max(at, 0);
      const shorter = [...kept.slice(0, from), ...kept.slice(at + size)];
      if (shorter.length < kept.length && test(shorter)) kept = shorter;
    }
  }
  return kept;
}

/** Races without the CPUs and operations that they can do without. */
function reduceRace(script: readonly Step[], at: number, test: (script: readonly Step[]) => boolean): readonly Step[] {
  const race = script[at] as Concurrent;
  const put = (cpus: Concurrent["cpus"], choices: readonly number[] = race.choices): readonly Step[] => script.with(at, { ...race, cpus, choices });
  let { cpus } = race;
  for (let cpu = 0; cpu < cpus.length; cpu++) {
    const others = cpus.with(cpu, []);
    if (test(put(others))) cpus = others;
    else cpus = cpus.with(cpu, reduce(cpus[cpu]!, (ops) => test(put(cpus.with(cpu, ops)))));
  }
  const pairs = Array.from({ length: race.choices.length / 2 }, (_, i) => [race.choices[i * 2]!, race.choices[i * 2 + 1]!]);
  const fewer = reduce(pairs, (list) => test(put(cpus, list.flat())));
  return put(cpus, fewer.flat());
}

/** A script that is as short as it gets and still leads to the finding; the trail as it is when it does not lead there again. */
export function minimise(target: Target, trail: Trail): Trail {
  let replays = 0;
  let last = trail.finding;
  const test = (script: readonly Step[]): boolean => {
    if (++replays > MOST_REPLAYS) return false;
    const found = replay(target, [...boot, ...script]);
    if (found === undefined || !alike(found, trail.finding)) return false;
    last = found;
    return true;
  };
  const boot = trail.script.filter(({ call }) => call === "boot");
  const rest = trail.script.filter(({ call }) => call !== "boot");
  if (!test(rest)) return trail;
  let script = reduce(rest, test);
  for (let at = 0; at < script.length; at++) if (isConcurrent(script[at]!)) script = reduceRace(script, at, test);
  script = reduce(script, test);
  return { finding: last, script: [...boot, ...script] };
}
