/** Donations of a hand-over in order, and their undoing in reverse: all of it or nothing. */
export class Donations {
  readonly #undo: (() => unknown)[] = [];

  /** Runs `give` unless one failed before. Returns its status. */
  add(status: number, give: () => number, takeBack: () => unknown): number {
    const result = status < 0 ? status : give();
    if (result === 0) this.#undo.push(takeBack);
    return result;
  }

  undo(): void {
    for (const step of this.#undo.reverse()) step();
    this.#undo.length = 0;
  }
}
