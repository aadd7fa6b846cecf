import type { Random } from "../random.ts";
import type { Scene } from "../scene.ts";
import { EMULATION_CLASSES } from "./emulation.ts";
import { HYPERCALL_CLASSES } from "./hypercalls.ts";
import { PAGING_CLASSES } from "./paging.ts";
import { TRAFFIC } from "./traffic.ts";

/** A class of the attack catalogue: a generator of operations. */
export interface AttackClass {
  readonly id: string;
  readonly title: string;
  /** How often it is drawn, in relation to the others. */
  readonly weight: number;
  /** Adds a few operations to the scene. */
  readonly generate: (scene: Scene) => void;
}

/** a1 to a22 of the catalogue, and the traffic that gives them something to attack. */
export const ATTACK_CLASSES: readonly AttackClass[] = [TRAFFIC, ...PAGING_CLASSES, ...HYPERCALL_CLASSES, ...EMULATION_CLASSES];

const TOTAL = ATTACK_CLASSES.reduce((sum, { weight }) => sum + weight, 0);

/** Draws a class by weight. */
export function drawClass(random: Random): AttackClass {
  let at = random.below(TOTAL);
  return ATTACK_CLASSES.find(({ weight }) => (at -= weight) < 0)!;
}
