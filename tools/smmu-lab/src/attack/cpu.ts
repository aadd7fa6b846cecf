// EL1 of one of several CPUs: operations as sequences of steps, between which other CPUs may go on.
import { isHostAbort } from "@smmuv3/machine";
import { frameResult, functionId, setFrame, SMCCC_SUCCESS } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { ABORT, ABORT_ACTION, ABORT_FLAG_DEVICE, ABORT_FLAG_WRITE, ABORT_WORDS, FRAME_WORDS, hi32, lo32 } from "@smmuv3/platform";
import { CMD_BYTES, extract, OFFSET, REG, STE_BYTES } from "@smmuv3/smmu-v3-defs";
import type { Op } from "./op.ts";
import { steAddress, streamTable } from "./tables.ts";
import { REFUSED } from "./world.ts";
import type { World } from "./world.ts";

/** Yields the lock that it waits for, or nothing; returns the result of the operation. */
export type Steps<T = number> = Generator<object | undefined, T, undefined>;

/** EL2's entry points as the rewritten bundle has them. */
interface TwinVectors {
  hvc$g(frame: Int32Array): Steps<undefined>;
  dataAbort$g(frame: Int32Array): Steps;
}

const RETRIES = 3;
const MAX_LOG2 = 19;

/** EL1 of one CPU. */
export class Cpu {
  readonly world: World;
  /** EL2 gave an abort to this CPU. */
  #aborted = false;
  #lo = 0;
  #hi = 0;

  constructor(world: World) {
    this.world = world;
  }

  /** Performs `op`. Negative: refused. */
  *run(op: Op): Steps {
    this.#aborted = false;
    const { args } = op;
    switch (op.call) {
      case "load32":
        return yield* this.#load(args[0]!);
      case "store32":
        return yield* this.#store(args[0]!, args[1]!);
      case "read32":
        return yield* this.#register(args[0]!, 4, false, 0, 0);
      case "read64":
        return yield* this.#register(args[0]!, 8, false, 0, 0);
      case "write32":
        return yield* this.#register(args[0]!, 4, true, args[1]! | 0, 0);
      case "write64":
        return yield* this.#register(args[0]!, 8, true, args[1]! | 0, args[2]! | 0);
      case "command":
        return yield* this.#command(args);
      case "ste":
        return yield* this.#ste(args);
      case "hvc":
        return yield* this.#hvc(Int32Array.from({ length: FRAME_WORDS }, (_, i) => args[i] ?? 0));
      case "dma":
      case "ats":
      case "pri":
      case "guest":
      case "boot":
        yield undefined;
        return this.world.run(op);
      default:
        return yield* this.#hypercall(op.call, args);
    }
  }

  get #vectors(): TwinVectors {
    return this.world.vectors as unknown as TwinVectors;
  }

  *#hypercall(name: HypercallName, args: readonly number[]): Steps {
    const frame = new Int32Array(FRAME_WORDS);
    frame[0] = functionId(name);
    args.forEach((value, index) => {
      setFrame(frame, index + 1, value);
    });
    return yield* this.#hvc(frame);
  }

  *#hvc(frame: Int32Array): Steps {
    yield* this.#vectors.hvc$g(frame);
    return frame[0] === SMCCC_SUCCESS ? frameResult(frame) : REFUSED;
  }

  /** Lets EL2 handle an abort; the frame has the value of an emulated read. */
  *#abort(ipa: number, size: number, flags: number, lo: number, hi: number): Steps {
    const frame = new Int32Array(ABORT_WORDS);
    frame[ABORT.ipaLo] = lo32(ipa);
    frame[ABORT.ipaHi] = hi32(ipa);
    frame[ABORT.flags] = flags;
    frame[ABORT.size] = size;
    frame[ABORT.valueLo] = lo;
    frame[ABORT.valueHi] = hi;
    const action = yield* this.#vectors.dataAbort$g(frame);
    this.#lo = frame[ABORT.valueLo]!;
    this.#hi = frame[ABORT.valueHi]!;
    return action;
  }

  /** The CPU may access the word at `pa` now: EL2 has mapped it. */
  *#admitted(pa: number, write: boolean): Steps<boolean> {
    const { machine } = this.world;
    if (machine.memory.pageIndex(pa) < 0) return false;
    yield undefined;
    for (let tries = 0; tries < RETRIES; tries++) {
      if (machine.hostAdmits(pa, write)) return true;
      if ((yield* this.#abort(pa, 4, write ? ABORT_FLAG_WRITE : 0, 0, 0)) !== ABORT_ACTION.retry) return false;
    }
    return false;
  }

  *#load(address: number): Steps {
    const pa = address - (address % 4);
    return (yield* this.#admitted(pa, false)) ? this.world.machine.host.memory.load32(pa) >>> 0 : REFUSED;
  }

  *#store(address: number, value: number): Steps {
    const pa = address - (address % 4);
    if (!(yield* this.#admitted(pa, true))) return REFUSED;
    this.world.machine.host.memory.store32(pa, value);
    return 0;
  }

  /** A register: it traps where EL2 has the SMMU. */
  *#register(offset: number, size: 4 | 8, write: boolean, lo: number, hi: number): Steps {
    const { world } = this;
    if (!world.protectsDma) return this.#direct(offset, size, write, lo, hi);
    const flags = ABORT_FLAG_DEVICE | (write ? ABORT_FLAG_WRITE : 0);
    const action = yield* this.#abort(world.hardware.smmuBase + offset, size, flags, lo, hi);
    this.#aborted ||= action !== ABORT_ACTION.emulated;
    if (this.#aborted) return REFUSED;
    return write ? 0 : this.#lo >>> 0;
  }

  #direct(offset: number, size: 4 | 8, write: boolean, lo: number, hi: number): number {
    const { registers } = this.world;
    try {
      if (write && size === 8) registers.write64(offset, lo, hi);
      else if (write) registers.write32(offset, lo);
      else this.#lo = size === 8 ? registers.read64(offset) : registers.read32(offset);
      this.#hi = registers.hi;
      return write ? 0 : this.#lo >>> 0;
    } catch (error) {
      if (isHostAbort(error)) return REFUSED;
      throw error;
    }
  }

  *#command(words: readonly number[]): Steps {
    const base = yield* this.#register(OFFSET.CMDQ_BASE, 8, false, 0, 0);
    const log2 = Math.min(extract(base | 0, REG.CMDQ_BASE.LOG2SIZE), MAX_LOG2);
    const queue = (this.#hi & 0xf_ffff) * 0x1_0000_0000 + ((base & ~31) >>> 0);
    const prod = yield* this.#register(OFFSET.CMDQ_PROD, 4, false, 0, 0);
    if (this.#aborted) return REFUSED;
    const slot = queue + (prod & ((1 << log2) - 1)) * CMD_BYTES;
    for (let i = 0; i < CMD_BYTES / 4; i++) if ((yield* this.#store(slot + i * 4, words[i] ?? 0)) < 0) return REFUSED;
    return yield* this.#register(OFFSET.CMDQ_PROD, 4, true, (prod + 1) & ((2 << log2) - 1), 0);
  }

  *#ste([sid, ...words]: readonly number[]): Steps {
    const base = yield* this.#register(OFFSET.STRTAB_BASE, 8, false, 0, 0);
    const high = this.#hi;
    const cfg = yield* this.#register(OFFSET.STRTAB_BASE_CFG, 4, false, 0, 0);
    if (this.#aborted) return REFUSED;
    const pa = steAddress(this.world.machine.memory, streamTable(base | 0, high, cfg), sid!);
    if (pa < 0) return REFUSED;
    for (let i = 0; i < STE_BYTES / 4; i++) if ((yield* this.#store(pa + i * 4, words[i] ?? 0)) < 0) return REFUSED;
    return 0;
  }
}
