import { readFile } from "node:fs/promises";
import type { AttackResult } from "./arguments.ts";
import { InputError, withPath } from "./trace-file.ts";

/** The part of an attack report that is read here. */
interface AttackReport {
  readonly architecture: string;
  readonly defects: readonly unknown[];
  readonly operations: number;
  readonly schedules: number;
  readonly breaches: readonly unknown[];
  readonly panics: readonly unknown[];
}

function isAttackReport(value: unknown): value is AttackReport {
  if (typeof value !== "object" || value === null) return false;
  const report = value as Partial<Record<keyof AttackReport, unknown>>;
  const lists = [report.defects, report.breaches, report.panics];
  return typeof report.architecture === "string" && typeof report.operations === "number" && typeof report.schedules === "number" && lists.every(Array.isArray);
}

/** Reads reports of `smmu-lab attack --json`, by architecture. Throws InputError, also for a report of a build with defects. */
export async function readAttacks(paths: readonly string[]): Promise<ReadonlyMap<string, AttackResult>> {
  const results = new Map<string, AttackResult>();
  for (const path of paths) {
    const text = await withPath(path, () => readFile(path, "utf8"));
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      throw new InputError(`${path}: not JSON`);
    }
    if (!isAttackReport(value)) throw new InputError(`${path}: not a report of smmu-lab attack`);
    const { architecture, defects, operations, schedules, breaches, panics } = value;
    if (defects.length > 0) throw new InputError(`${path}: of a build with defects, which is not what is compared`);
    results.set(architecture, { operations, schedules, breaches: breaches.length, panics: panics.length });
  }
  return results;
}
