import type { Lab } from "./lab.ts";

/**
 * `works`; `hidden`: the hardware has it and the design withholds it; `absent`: nobody built it, or it does not work; `n/a`: the
 * question makes no sense for the design.
 */
export type Verdict = "works" | "hidden" | "absent" | "n/a";

/** Result of a probe that ran. */
export interface Cell {
  readonly verdict: Verdict;
  /** The evidence, in words. */
  readonly detail: string;
}

/** A row: what is asked, and how to find out. */
export interface Feature {
  readonly id: string;
  readonly title: string;
  /** Arguments of the debate that it answers, by number; none: it is a requirement. */
  readonly arguments: readonly number[];
  /** Boots machines and looks. Throwing means that it does not work. */
  readonly probe: (lab: Lab) => Cell | Promise<Cell>;
}

export const works = (detail: string): Cell => ({ verdict: "works", detail });
export const hidden = (detail: string): Cell => ({ verdict: "hidden", detail });
export const absent = (detail: string): Cell => ({ verdict: "absent", detail });
export const notApplicable = (detail: string): Cell => ({ verdict: "n/a", detail });
