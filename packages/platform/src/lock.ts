import type { Cpu } from "./cpu.ts";

/** Locks that code may hold together, and which of them each CPU holds. */
export class LockOrder {
  readonly #held: SpinLock[][] = [];

  /** What CPU `cpu` holds, in the order in which it took them. */
  heldBy(cpu: number): SpinLock[] {
    return (this.#held[cpu] ??= []);
  }
}

/** No CPU holds the lock. */
const FREE = -1;

/**
 * A spin lock that masks interrupts while held. Acquiring it twice on one CPU is the deadlock that it would be on silicon, and
 * throws. So does one whose rank is not above those that the CPU holds of the same {@link LockOrder}: another CPU could take the two
 * the other way round.
 */
export class SpinLock {
  readonly name: string;
  readonly rank: number;
  readonly #order: LockOrder | undefined;
  #holder = FREE;

  /** Without an order the lock has no rank. */
  constructor(name: string, rank: number = 0, order?: LockOrder) {
    this.name = name;
    this.rank = rank;
    this.#order = order;
  }

  get held(): boolean {
    return this.#holder !== FREE;
  }

  /** Waits until no other CPU holds the lock, and takes it. */
  lock(cpu: Cpu): void {
    const me = cpu.id ?? 0;
    if (this.#holder === me) throw new Error(`deadlock: lock "${this.name}" is already held`);
    const held = this.#order?.heldBy(me);
    const last = held?.at(-1);
    if (last !== undefined && last.rank >= this.rank) {
      throw new Error(`lock order: "${this.name}" is taken while "${last.name}" is held`);
    }
    cpu.irqSave();
    while (this.#holder !== FREE) cpu.relax();
    this.#holder = me;
    held?.push(this);
  }

  unlock(cpu: Cpu): void {
    const me = cpu.id ?? 0;
    if (this.#holder !== me) throw new Error(`lock "${this.name}" is not held`);
    const held = this.#order?.heldBy(me);
    held?.splice(held.indexOf(this), 1);
    this.#holder = FREE;
    cpu.irqRestore();
  }
}
