import type { Cpu } from "./cpu.ts";

/** A spin lock that masks interrupts while held. Acquiring it twice on one CPU is the deadlock that it would be on silicon. */
export class SpinLock {
  readonly name: string;
  #held = false;

  constructor(name: string) {
    this.name = name;
  }

  get held(): boolean {
    return this.#held;
  }

  lock(cpu: Cpu): void {
    if (this.#held) throw new Error(`deadlock: lock "${this.name}" is already held`);
    cpu.irqSave();
    this.#held = true;
  }

  unlock(cpu: Cpu): void {
    if (!this.#held) throw new Error(`lock "${this.name}" is not held`);
    this.#held = false;
    cpu.irqRestore();
  }
}
