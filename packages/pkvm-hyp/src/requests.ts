import { REQUEST, setFrame } from "@smmuv3/pkvm-abi";
import type { Cpu } from "@smmuv3/platform";

/** What a call lacks, to be asked of the host in its reply: the last thing noted on each CPU. */
export class Requests {
  readonly #cpu: Cpu;
  readonly #noted: (readonly number[])[] = [];

  constructor(cpu: Cpu) {
    this.#cpu = cpu;
  }

  /** Notes one of `REQUEST`, with x3 and x4. */
  note(type: number, what: number, pages: number): void {
    this.#noted[this.#cpu.id ?? 0] = [type, what, pages];
  }

  clear(): void {
    this.#noted[this.#cpu.id ?? 0] = [REQUEST.none, 0, 0];
  }

  /** Puts x2 to x4 into a reply. */
  reply(frame: Int32Array): void {
    const noted = this.#noted[this.#cpu.id ?? 0];
    for (let at = 0; at < 3; at++) setFrame(frame, at + 2, noted?.[at] ?? 0);
  }
}
