import { HYPERCALLS } from "@smmuv3/pkvm-abi";
import { InputError } from "../lab/trace-file.ts";
import { PRIMITIVES } from "./op.ts";
import type { Op, Step } from "./op.ts";

const CALLS: ReadonlySet<string> = new Set([...Object.keys(HYPERCALLS), ...PRIMITIVES]);

function isNumbers(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((one) => Number.isSafeInteger(one));
}

function isOp(value: unknown): value is Op {
  if (typeof value !== "object" || value === null) return false;
  const { class: name, call, args } = value as Record<string, unknown>;
  return typeof name === "string" && typeof call === "string" && CALLS.has(call) && isNumbers(args);
}

function isStep(value: unknown): value is Step {
  if (isOp(value)) return true;
  if (typeof value !== "object" || value === null) return false;
  const { class: name, call, cpus, choices } = value as Record<string, unknown>;
  const fine = typeof name === "string" && call === "concurrent" && isNumbers(choices) && choices.length % 2 === 0;
  return fine && Array.isArray(cpus) && cpus.every((ops) => Array.isArray(ops) && ops.every(isOp));
}

/** A script as JSON lines. Throws InputError naming the line that is none. */
export function parseScript(text: string, name: string): Step[] {
  return text
    .split("\n")
    .map((line, index) => ({ line: line.trim(), number: index + 1 }))
    .filter(({ line }) => line !== "")
    .map(({ line, number }) => {
      let step: unknown;
      try {
        step = JSON.parse(line);
      } catch {
        throw new InputError(`${name}:${number}: not a line of JSON`);
      }
      if (!isStep(step)) throw new InputError(`${name}:${number}: not an operation of an attack`);
      return step;
    });
}
