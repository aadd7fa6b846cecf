// The SMMU's thread: the model behind the mailbox, trouble on purpose, and a check of every command that it executes.
import { Memory } from "@smmuv3/platform";
import type { Shared } from "./mailbox.ts";
import { attachQueue, LINE, MAIL, mailWindow, RAM, RAM_BYTES, RING, STRTAB } from "./mailbox.ts";
import { queueBase, strtabBase } from "@smmuv3/arm-smmu-v3-common";
import type { SharedCommandQueue } from "@smmuv3/arm-smmu-v3-common";
import { CERROR, CMD, COMMANDS, maskOf, OFFSET, REG, SYNC_CS } from "@smmuv3/smmu-v3-defs";
import { GERROR_BIT, PRESETS, SmmuV3 } from "@smmuv3/smmu-v3-model";
import { decode, KIND, SILENT_SID } from "./payload.ts";
import type { Place } from "./payload.ts";
import { Random } from "./random.ts";

const { CR0 } = REG;
const SYNC = COMMANDS.SYNC.opcode;
/** Commands that the SMMU executes at a time, at most. */
const BURST = 96;
/** ms that it sleeps without work. */
const NAP = 1;

export interface HardwareCounts {
  commands: number;
  syncs: number;
  lists: number;
  /** Times that the queue's wrap bit changed, and that the SMMU found it full. */
  wraps: number;
  full: number;
  /** Command errors by code. */
  illegal: number;
  aborts: number;
  atcTimeouts: number;
  /** Times that the SMMU did nothing for longer than a producer waits. */
  freezes: number;
}

export interface HardwareOptions {
  readonly shared: Shared;
  readonly memory: Memory;
  readonly seed: number;
  /** Commands after which it stands still. */
  readonly freezeEvery: number;
  /** Commands after which it cannot read the ring. */
  readonly abortEvery: number;
}

export class Hardware {
  readonly counts: HardwareCounts = {
    commands: 0, syncs: 0, lists: 0, wraps: 0, full: 0, illegal: 0, aborts: 0, atcTimeouts: 0, freezes: 0,
  };
  readonly #options: HardwareOptions;
  readonly #mail: Int32Array;
  readonly #smmu: SmmuV3;
  /** RAM as the SMMU may access it: its permissions are its own. */
  readonly #memory: Memory;
  readonly #queue: SharedCommandQueue;
  readonly #random: Random;
  readonly #size: number;
  /** CONS as the model shows it, without ERR. */
  #cons = 0;
  #prod = 0;
  /** List that has begun: what comes next of it. `list` -1: none. */
  readonly #next: Place = { producer: 0, list: -1, count: 0, index: 0, sync: false, kind: KIND.tlbi };
  readonly #seen: Place = { producer: 0, list: -1, count: 0, index: 0, sync: false, kind: KIND.tlbi };
  /** The next list of each producer. */
  readonly #lists: Int32Array;
  /** The command at CONS was replaced and counted. */
  #replaced = false;
  #frozenUntil = 0;
  #nextFreeze: number;
  #nextAbort: number;

  constructor(options: HardwareOptions, producers: number) {
    const { shared, memory } = options;
    this.#options = options;
    this.#mail = shared.mail;
    this.#size = 1 << shared.log2;
    this.#random = new Random(options.seed);
    this.#lists = new Int32Array(producers);
    this.#nextFreeze = options.freezeEvery;
    this.#nextAbort = options.abortEvery;
    const view = memory.view(() => {});
    view.perm.fill(3);
    this.#memory = view;
    this.#smmu = new SmmuV3({
      memory: view,
      id: PRESETS.full,
      progress: "manual",
      onSev: () => {
        this.#wake();
      },
    });
    this.#smmu.ats.attach(SILENT_SID, { invalidate: () => "timeout" });
    this.#queue = attachQueue(shared, "sev");
    this.#start();
  }

  /** Programs the registers as a driver would. */
  #start(): void {
    const { registers } = this.#smmu;
    const base = new Int32Array(2);
    queueBase(base, RING, this.#options.shared.log2);
    registers.write64(OFFSET.CMDQ_BASE, base[0]!, base[1]!);
    registers.write32(OFFSET.CMDQ_PROD, 0);
    registers.write32(OFFSET.CMDQ_CONS, 0);
    strtabBase(base, STRTAB);
    registers.write64(OFFSET.STRTAB_BASE, base[0]!, base[1]!);
    registers.write32(OFFSET.CR0, maskOf(CR0.CMDQEN) | maskOf(CR0.SMMUEN));
    this.#smmu.step(0);
    if (registers.read32(OFFSET.CR0ACK) !== (maskOf(CR0.CMDQEN) | maskOf(CR0.SMMUEN))) throw new Error("the SMMU does not start");
  }

  /** Nothing is left to execute. */
  get idle(): boolean {
    return Atomics.load(this.#mail, MAIL.prod) === this.#cons;
  }

  /** Sleeps until somebody rings, or for a moment. */
  sleep(): void {
    const seen = Atomics.load(this.#mail, MAIL.doorbell);
    if (this.idle) Atomics.wait(this.#mail, MAIL.doorbell, seen, NAP);
  }

  /** Executes some commands. False when there was nothing to do. Throws for a command that is not the next one. */
  poll(): boolean {
    if (this.#frozen()) return false;
    const mail = this.#mail;
    const { registers } = this.#smmu;
    const prod = Atomics.load(mail, MAIL.prod);
    if (prod !== this.#prod) {
      if (((prod ^ this.#prod) & this.#size) !== 0) this.counts.wraps++;
      this.#prod = prod;
      registers.write32(OFFSET.CMDQ_PROD, prod);
    }
    const waiting = (prod - this.#cons) & (2 * this.#size - 1);
    if (waiting === 0) return false;
    if (waiting === this.#size) this.counts.full++;
    const run = this.#run(Math.min(waiting, 1 + this.#random.below(BURST)));
    if (this.counts.commands >= this.#nextAbort) this.#memory.perm[this.#page(this.#cons)] = 0;
    // A SYNC is alone, and free to be overwritten by its MSI and by others as soon as it is complete.
    const first = this.#word(0);
    this.#smmu.step(run);
    const cons = registers.read32(OFFSET.CMDQ_CONS);
    const pointer = cons & (2 * this.#size - 1);
    const done = (pointer - this.#cons) & (2 * this.#size - 1);
    if (done === 1 && (first & 0xff) === SYNC) this.#synced(first);
    else for (let i = 0; i < done; i++) this.#command(this.#memory.words, this.#slot(i), false);
    this.#cons = pointer;
    // Whoever sees the SYNC that follows complete sees these executed.
    Atomics.store(mail, MAIL.cons, cons);
    this.#errors(registers.read32(OFFSET.GERROR));
    return true;
  }

  /** What follows of the lists, at the end. Throws for a list that has not ended. */
  finish(lists: readonly number[]): void {
    if (this.#next.list >= 0) throw new Error(`a list is incomplete: ${JSON.stringify(this.#next)}`);
    lists.forEach((count, producer) => {
      if (this.#lists[producer] !== count) throw new Error(`producer ${producer}: ${count} lists inserted, ${this.#lists[producer]!} executed`);
    });
  }

  #frozen(): boolean {
    const { counts } = this;
    if (counts.commands >= this.#nextFreeze) {
      this.#nextFreeze = counts.commands + this.#options.freezeEvery;
      this.#frozenUntil = performance.now() + (this.#options.shared.timeout / 1e6) * 2.5;
      counts.freezes++;
    }
    if (this.#frozenUntil === 0) return false;
    if (performance.now() < this.#frozenUntil) return true;
    this.#frozenUntil = 0;
    return false;
  }

  /** Up to `limit` commands before the next SYNC, or that SYNC alone: what comes before it counts as executed before it does. */
  #run(limit: number): number {
    let run = 0;
    while (run < limit && (this.#word(run) & 0xff) !== SYNC) run++;
    return Math.max(run, 1);
  }

  #word(ahead: number): number {
    return this.#memory.words[this.#slot(ahead)]!;
  }

  #slot(ahead: number): number {
    return (RING - RAM) / 4 + ((this.#cons + ahead) & (this.#size - 1)) * 4;
  }

  #page(position: number): number {
    return (RING - RAM + (position & (this.#size - 1)) * 16) >> 12;
  }

  #synced(word: number): void {
    if (this.#replaced) {
      if (((word >>> CMD.CS.shift) & CMD.CS.mask) !== SYNC_CS.sev) throw new Error("the replacement of an illegal command is not a SYNC with SEV");
      this.#replaced = false;
      return;
    }
    const { list, count, index, sync } = this.#next;
    if (list < 0 || !sync || index !== count) throw new Error(`a SYNC where none belongs: ${JSON.stringify(this.#next)}`);
    this.counts.syncs++;
    this.#next.list = -1;
    this.#wake();
  }

  #command(words: Int32Array, at: number, skipped: boolean): void {
    const seen = this.#seen;
    const next = this.#next;
    if (!decode(words, at, seen)) throw new Error(`not a command of any producer: 0x${words[at]!.toString(16)}`);
    if (skipped !== (seen.kind === KIND.illegal)) throw new Error(`${skipped ? "skipped" : "executed"}: ${JSON.stringify(seen)}`);
    if (next.list < 0) {
      Object.assign(next, seen);
      next.index = 0;
      next.list = this.#lists[seen.producer] ?? -1;
    }
    if (
      seen.producer !== next.producer || seen.list !== next.list || seen.index !== next.index || seen.count !== next.count ||
      seen.sync !== next.sync
    ) {
      throw new Error(`lost, duplicated or reordered: ${JSON.stringify(seen)} where ${JSON.stringify(next)} belongs`);
    }
    this.counts.commands++;
    next.index++;
    if (next.index < next.count) return;
    this.counts.lists++;
    this.#lists[next.producer]!++;
    Atomics.store(this.#mail, MAIL.executed + next.producer * LINE, next.list + 1);
    if (!next.sync) next.list = -1;
  }

  /** The interrupt of a command error, and its handler. */
  #errors(gerror: number): void {
    const mail = this.#mail;
    Atomics.store(mail, MAIL.gerror, gerror);
    if (((gerror ^ Atomics.load(mail, MAIL.gerrorn)) & GERROR_BIT.CMDQ_ERR) === 0) return;
    const error = this.#queue.skipError();
    if (error === CERROR.ILL) {
      this.counts.illegal++;
      this.#command(this.#queue.errorCommand, 0, true);
      this.#replaced = true;
    } else if (error === CERROR.ABT) {
      this.counts.aborts++;
      this.#memory.perm.fill(3);
      this.#nextAbort = this.counts.commands + this.#options.abortEvery;
    } else if (error === CERROR.ATC_INV_SYNC) {
      this.counts.atcTimeouts++;
    } else {
      throw new Error(`CMDQ error ${error}`);
    }
    mailWindow(mail).write32(OFFSET.GERRORN, gerror);
    this.#smmu.registers.write32(OFFSET.GERRORN, gerror);
  }

  #wake(): void {
    Atomics.add(this.#mail, MAIL.event, 1);
    Atomics.notify(this.#mail, MAIL.event);
  }
}

export function allocateRam(): Memory {
  return Memory.allocate({ base: RAM, size: RAM_BYTES, shared: true });
}

