import { ERRNO, PERM_WRITE } from "@smmuv3/platform";
import type { Cpu, Memory, RegisterWindow } from "@smmuv3/platform";
import {
  CERROR,
  CMD,
  CMD_BYTES,
  CMD_WORDS,
  COMMANDS,
  maskOf,
  OFFSET,
  PAGE_FIELDS,
  PAGE_REGISTERS,
  setAddress,
} from "@smmuv3/smmu-v3-defs";
import { COPY_COMMANDS, DEFAULT_TIMEOUT, makeQueueSync, PAGE_SLOT_SHIFT, ringPage, skipRejected } from "./queue-ring.ts";
import type { CommandRing, RingOptions } from "./queue-ring.ts";
import { POSITION_MASK, ValidMap, validMapWords } from "./valid-map.ts";

/** Behaviours of the kernel's queue that are not the right ones, for comparison. */
export interface SharedQueueFlaws {
  /** A queue that stays full is retried forever; otherwise it ends in -ETIMEDOUT with nothing inserted. */
  readonly retryFull?: boolean;
  /**
   * An MSI SYNC that times out frees the slots before it, though the SMMU may not have read them. Otherwise CMDQ_CONS says what
   * is free.
   */
  readonly timeoutFreesSlots?: boolean;
}

export interface SharedQueueOptions extends RingOptions {
  /** From {@link sharedQueueState}: one for all producers of the ring. */
  readonly state: Int32Array;
  readonly flaws?: SharedQueueFlaws;
  /** Opcodes that it takes, for a secondary queue; without it all. */
  readonly opcodes?: ReadonlySet<number>;
  /**
   * It is an Enhanced Command queue, IHI 0070 3.5.6: `window` begins at its ECMDQ_BASE. It is enabled, and its errors are
   * acknowledged, in ECMDQ_PROD. No kernel has these.
   */
  readonly enhanced?: boolean;
}

/** What happened to this producer so far. */
export interface SharedQueueCounts {
  /** Insertions that found no room, and those that gave up. */
  full: number;
  fullTimeouts: number;
  syncTimeouts: number;
  /** Insertions that wrote CMDQ_PROD, and those that left it to another producer. */
  owned: number;
  gathered: number;
  /** Reservations that another producer was faster at. */
  contended: number;
}

// Words of the state, each on a cache line of its own. An Atomics operation is a call, ten times a plain load or store: it is
// there where a value is exchanged, where it carries what others have stored, and where waiting depends on it. A plain load or
// store has one before or after it that orders it.
const LINE = 16;
/** Position after the last one reserved, and {@link OWNED}. */
const PROD = 0;
/** Position up to which slots are free again. */
const CONS: number = LINE;
/** Position up to which an owner has told the SMMU. */
const OWNER: number = 2 * LINE;
/** SYNCs that are waited for; negative while somebody moves CONS. */
const LOCK: number = 3 * LINE;
/** Bits of the register PROD besides the pointer: of Enhanced Command queues. */
const BITS: number = 4 * LINE;
const VALID: number = 5 * LINE;

/** Some producer will write CMDQ_PROD for whoever comes now. */
const OWNED: number = 1 << 31;
const EXCLUSIVE: number = 1 << 31;

/** The state that all producers of a ring with 2^`log2` slots share, empty; in shared memory unless told otherwise. */
export function sharedQueueState(log2: number, shared: boolean = true): Int32Array {
  const bytes = (VALID + validMapWords(log2)) * 4;
  return new Int32Array(shared ? new SharedArrayBuffer(bytes) : new ArrayBuffer(bytes));
}

/**
 * One producer of a command queue that any number of agents fill at once, without locks: agents reserve slots by
 * compare-and-exchange, fill them, and mark them valid; the first to come (the owner) waits for those that came while it did,
 * and tells the SMMU of all at once. Lists keep together, and the lists of one agent keep their order.
 *
 * Each agent (worker thread) has its own object over the same ring and state. Interrupts are masked from the reservation
 * until the SYNC is complete: a handler that inserted in between would wait for the agent that it interrupted. Where the
 * handler of command errors runs on the only CPU, `onWait` has to look for them.
 */
export class SharedCommandQueue implements CommandRing {
  readonly pa: number;
  readonly log2: number;
  readonly bytes: number;
  readonly errorCommand: Int32Array = new Int32Array(CMD_WORDS);
  readonly counts: SharedQueueCounts = { full: 0, fullTimeouts: 0, syncTimeouts: 0, owned: 0, gathered: 0, contended: 0 };
  readonly #cpu: Cpu;
  readonly #memory: Memory;
  readonly #window: RegisterWindow;
  readonly #prodOffset: number;
  readonly #consOffset: number;
  readonly #size: number;
  /** Masks a position to what the registers hold, and to a slot. */
  readonly #pointerMask: number;
  readonly #slotMask: number;
  readonly #word: number;
  readonly #page: number;
  readonly #msi: boolean;
  readonly #enhanced: boolean;
  readonly #timeout: number;
  readonly #options: SharedQueueOptions;
  readonly #state: Int32Array;
  readonly #valid: ValidMap;
  readonly #sync: Int32Array = new Int32Array(CMD_WORDS);
  /** What {@link #waitForSync} found. */
  #observed = 0;

  constructor(options: SharedQueueOptions) {
    const { cpu, pa, log2, state } = options;
    this.#page = ringPage("SharedCommandQueue", cpu.memory, pa, log2);
    if (state.length !== VALID + validMapWords(log2)) {
      throw new RangeError(`SharedCommandQueue: state must be that of 2^${log2} slots, got ${state.length} words`);
    }
    this.pa = pa;
    this.log2 = log2;
    this.bytes = CMD_BYTES << log2;
    this.#cpu = cpu;
    this.#memory = cpu.memory;
    this.#window = options.window;
    const enhanced = options.enhanced === true;
    this.#enhanced = enhanced;
    this.#prodOffset = options.prodOffset ?? (enhanced ? PAGE_REGISTERS.ECMDQ_PROD.offset : OFFSET.CMDQ_PROD);
    this.#consOffset = options.consOffset ?? (enhanced ? PAGE_REGISTERS.ECMDQ_CONS.offset : OFFSET.CMDQ_CONS);
    if (enhanced) Atomics.or(state, BITS, maskOf(PAGE_FIELDS.ECMDQ_PROD.EN));
    this.#size = 1 << log2;
    this.#pointerMask = (2 << log2) - 1;
    this.#slotMask = (1 << log2) - 1;
    this.#word = (pa - cpu.memory.base) / 4;
    const method = options.syncMethod ?? "sev";
    this.#msi = method === "msi";
    this.#timeout = options.timeout ?? DEFAULT_TIMEOUT;
    this.#options = options;
    this.#state = state;
    this.#valid = new ValidMap(state, VALID, log2);
    makeQueueSync(this.#sync, method);
  }

  get prod(): number {
    return (Atomics.load(this.#state, OWNER) & this.#pointerMask) | Atomics.load(this.#state, BITS);
  }

  /** Empties it: the SMMU's pointers were set to zero. No agent may be inserting. */
  reset(): void {
    const enable = Atomics.load(this.#state, BITS) & maskOf(PAGE_FIELDS.ECMDQ_PROD.EN);
    for (let i = 0; i < this.#state.length; i++) Atomics.store(this.#state, i, i === BITS ? enable : 0);
  }

  supports(opcode: number): boolean {
    return this.#options.opcodes?.has(opcode) ?? true;
  }

  /**
   * Inserts `count` commands from `words` (4 words each), followed by a SYNC when `sync`, and then waits for that SYNC.
   * @returns 0; -ETIMEDOUT when the SMMU takes nothing out of a full queue (nothing is inserted) or does not complete the SYNC
   * (it is inserted); -EINVAL when they can never fit
   */
  issue(words: Int32Array, count: number, sync: boolean): number {
    const need = sync ? count + 1 : count;
    if (need > this.#size) return -ERRNO.EINVAL;
    if (need === 0) return 0;
    const old = this.#reserve(need);
    if (old === FULL) return -ERRNO.ETIMEDOUT;
    const start = old & POSITION_MASK;
    const end = (start + need) & POSITION_MASK;
    // Two runs where the ring wraps.
    const first = Math.min(count, this.#size - (start & this.#slotMask));
    this.#put(start, words, 0, first);
    if (first < count) this.#put(start + first, words, first, count - first);
    const last = (start + count) & POSITION_MASK;
    if (sync) {
      this.#putSync(last);
      // Before it is valid: from here on CONS does not pass the SYNC, so that a lap is not mistaken for another.
      this.#lockShared();
    }
    this.#cpu.barrier();
    this.#valid.mark(start, end);
    if (old >= 0) this.#publish(start, end);
    else this.counts.gathered++;
    const status = sync ? this.#waitForSync(last) : 0;
    if (sync) this.#unlockShared();
    this.#cpu.irqRestore();
    return status;
  }

  /**
   * Handles CMDQ_CONS.ERR: see `CommandQueue.skipError`. One agent at a time; producers may go on meanwhile, the SMMU has
   * stopped at the command. An Enhanced Command queue is asked to go on too.
   */
  skipError(): number {
    const { ERRACK } = PAGE_FIELDS.ECMDQ_PROD;
    const cons = this.#window.read32(this.#consOffset);
    if (this.#enhanced && ((cons ^ Atomics.load(this.#state, BITS)) & maskOf(ERRACK)) === 0) return CERROR.NONE;
    const polled = this.#sync[0] === COMMANDS.SYNC.opcode;
    // ECMDQ_CONS.ERR_REASON is where CMDQ_CONS.ERR has its low bits; those above are 0.
    const error = skipRejected(this.#memory, this.pa, this.log2, cons, polled, this.errorCommand);
    if (this.#enhanced) {
      Atomics.xor(this.#state, BITS, maskOf(ERRACK));
      this.#ring();
    }
    return error;
  }

  /** Writes PROD anew. Where there is an owner, it has not yet, and will. */
  #ring(): void {
    const state = this.#state;
    this.#cpu.irqSave();
    for (let old = Atomics.load(state, PROD); old >= 0; old = Atomics.load(state, PROD)) {
      if (Atomics.compareExchange(state, PROD, old, old | OWNED) !== old) continue;
      this.#publish(old, old);
      break;
    }
    this.#cpu.irqRestore();
  }

  /** Reserves slots; leaves interrupts masked. Returns the word that PROD was, or FULL with interrupts as before. */
  #reserve(need: number): number {
    const state = this.#state;
    this.#cpu.irqSave();
    for (let waited = false; ; ) {
      // Both may be old: the exchange finds out whether PROD is, and of CONS an older one has less room. A CONS that is ahead of
      // PROD belongs to a PROD that is gone, and looks as if there was no room.
      const old = state[PROD]!;
      const start = old & POSITION_MASK;
      if (this.#size - ((start - state[CONS]!) & POSITION_MASK) < need) {
        this.#cpu.irqRestore();
        if (!waited) this.counts.full++;
        waited = true;
        if (!this.#waitForSpace(need)) return FULL;
        this.#cpu.irqSave();
        continue;
      }
      this.#permit(start, need);
      if (Atomics.compareExchange(state, PROD, old, ((start + need) & POSITION_MASK) | OWNED) === old) return old;
      this.counts.contended++;
    }
  }

  /**
   * What an owner does: waits for its turn, gathers what has come since, tells the SMMU, and lets the next one. Its own slots,
   * `[start, own)`, are valid.
   */
  #publish(start: number, own: number): void {
    const state = this.#state;
    this.counts.owned++;
    for (let told = state[OWNER]; told !== start; told = Atomics.load(state, OWNER)) this.#cpu.relax();
    const end = Atomics.and(state, PROD, POSITION_MASK) & POSITION_MASK;
    for (let at = own; (at = this.#valid.validUntil(at, end)) !== end; ) this.#cpu.relax();
    const bits = this.#enhanced ? Atomics.load(state, BITS) : 0;
    this.#window.write32(this.#prodOffset, (end & this.#pointerMask) | bits);
    Atomics.store(state, OWNER, end);
  }

  /** Aborts, by the memory's slow path, before anything is reserved that would stay empty. */
  #permit(start: number, slots: number): void {
    const { perm } = this.#memory;
    const last = start + slots - 1;
    for (let at = start; ; at = Math.min(at + (1 << PAGE_SLOT_SHIFT), last)) {
      const slot = at & this.#slotMask;
      if ((perm[this.#page + (slot >> PAGE_SLOT_SHIFT)]! & PERM_WRITE) === 0) this.#abort(slot);
      if (at === last) return;
    }
  }

  #abort(slot: number): void {
    this.#cpu.irqRestore();
    this.#memory.index(this.pa + slot * CMD_BYTES, true);
    this.#cpu.irqSave();
  }

  /** Index into the memory's words of `position`'s slot. */
  #slot(position: number): number {
    return this.#word + (position & this.#slotMask) * CMD_WORDS;
  }

  /** Stores `count` commands, from command `from` of `words` on, at consecutive slots that do not wrap. */
  #put(position: number, words: Int32Array, from: number, count: number): void {
    let at = this.#slot(position);
    const ring = this.#memory.words;
    const end = (from + count) * CMD_WORDS;
    if (count >= COPY_COMMANDS) ring.set(words.subarray(from * CMD_WORDS, end), at);
    else for (let i = from * CMD_WORDS; i < end; i++) ring[at++] = words[i]!;
  }

  #putSync(position: number): void {
    const words = this.#sync;
    if (this.#msi) setAddress(words, 0, CMD.MSIAddr, this.pa + (position & this.#slotMask) * CMD_BYTES);
    const at = this.#slot(position);
    const ring = this.#memory.words;
    ring[at] = words[0]!;
    ring[at + 1] = words[1]!;
    ring[at + 2] = words[2]!;
    ring[at + 3] = words[3]!;
  }

  /** A shared lock keeps CONS from passing the holder's SYNC. */
  #lockShared(): void {
    const state = this.#state;
    if (Atomics.add(state, LOCK, 1) >= 0) return;
    for (;;) {
      const value = Atomics.load(state, LOCK);
      if (value >= 0 && Atomics.compareExchange(state, LOCK, value, value + 1) === value) return;
      this.#cpu.relax();
    }
  }

  /** The last holder tells what it saw consumed: nobody else may move CONS now. */
  #unlockShared(): void {
    const state = this.#state;
    if (state[LOCK] === 1) this.#free(this.#observed);
    Atomics.sub(state, LOCK, 1);
  }

  /** Moves CONS to `position`, unless that is not between CONS and PROD: a device that says so is not believed. */
  #free(position: number): void {
    const state = this.#state;
    const cons = state[CONS]!;
    const step = (position - cons) & POSITION_MASK;
    if (step <= ((state[PROD]! - cons) & POSITION_MASK)) state[CONS] = position;
  }

  /**
   * Looks how far the SMMU has come, if nobody waits for a SYNC or looks already; they will tell. CONS stays while the lock is
   * held, so that index and wrap bit say how far it is from there.
   */
  #updateCons(): void {
    const state = this.#state;
    this.#cpu.irqSave();
    if (Atomics.compareExchange(state, LOCK, 0, EXCLUSIVE) === 0) {
      const cons = Atomics.load(state, CONS);
      const step = (this.#window.read32(this.#consOffset) - cons) & this.#pointerMask;
      this.#free((cons + step) & POSITION_MASK);
      // Others may have counted themselves in below zero meanwhile: they try again.
      Atomics.store(state, LOCK, 0);
    }
    this.#cpu.irqRestore();
  }

  /** Waits until `need` slots seem free. False when the SMMU took nothing out for the whole time. */
  #waitForSpace(need: number): boolean {
    const state = this.#state;
    let cons = Atomics.load(state, CONS);
    let deadline = this.#cpu.now() + this.#timeout;
    for (;;) {
      const late = this.#cpu.now() >= deadline;
      this.#updateCons();
      const prod = Atomics.load(state, PROD);
      const now = Atomics.load(state, CONS);
      if (this.#size - ((prod - now) & POSITION_MASK) >= need) return true;
      if (now !== cons) {
        cons = now;
        deadline = this.#cpu.now() + this.#timeout;
      } else if (late) {
        this.counts.fullTimeouts++;
        if (this.#options.flaws?.retryFull !== true) return false;
        deadline = this.#cpu.now() + this.#timeout;
      }
      this.#relax();
    }
  }

  /** Waits until the SYNC at `position` is complete, and sets {@link #observed}. */
  #waitForSync(position: number): number {
    if (this.#completed(position)) return 0;
    const deadline = this.#cpu.now() + this.#timeout;
    for (;;) {
      this.#relax();
      const late = this.#cpu.now() >= deadline;
      if (this.#completed(position)) return 0;
      if (late) {
        this.counts.syncTimeouts++;
        this.#observed = this.#msi && this.#options.flaws?.timeoutFreesSlots === true ? position : this.#consumed(position);
        return -ERRNO.ETIMEDOUT;
      }
    }
  }

  #completed(position: number): boolean {
    if (this.#msi) {
      if (Atomics.load(this.#memory.words, this.#slot(position)) !== 0) return false;
      this.#observed = (position + 1) & POSITION_MASK;
      return true;
    }
    this.#observed = this.#consumed(position);
    const past = (this.#observed - position - 1) & POSITION_MASK;
    return past < this.#size && past <= ((this.#state[PROD]! - position - 1) & POSITION_MASK);
  }

  /**
   * How far the SMMU has come. While the lock is held that is less than a lap before the slot after `position`, and at most a
   * lap behind it.
   */
  #consumed(position: number): number {
    const step = (this.#window.read32(this.#consOffset) - position - 1) & this.#pointerMask;
    return (position + 1 + (step < this.#size ? step : step - 2 * this.#size)) & POSITION_MASK;
  }

  #relax(): void {
    this.#options.onWait?.();
    this.#cpu.relax();
  }
}

/** No value of PROD: positions are below it, and with {@link OWNED} negative. */
const FULL = 2 ** 31;
