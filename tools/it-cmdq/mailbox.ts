// What threads share: RAM, the state of the queue, and the SMMU's registers as a mailbox. The thread of the SMMU takes what the
// others have written there into its registers, and puts theirs there.
import { Counters, Memory, PAGE_SIZE, PERM_RW } from "@smmuv3/platform";
import type { Cpu, RegisterWindow } from "@smmuv3/platform";
import { SharedCommandQueue } from "@smmuv3/arm-smmu-v3-common";
import type { SyncMethod } from "@smmuv3/arm-smmu-v3-common";
import { OFFSET } from "@smmuv3/smmu-v3-defs";
import { Random } from "./random.ts";

export const RAM = 0x8000_0000;
export const RAM_BYTES: number = 1 << 20;
/** Where the ring is; a page that is the SMMU's own before it. */
export const RING: number = RAM + 0x1_0000;
export const STRTAB: number = RAM + 0x8000;

/** Words of the mailbox, each on a cache line of its own. */
export const MAIL = {
  prod: 0,
  cons: 16,
  gerror: 32,
  gerrorn: 48,
  /** Counts what wakes those who wait for the SMMU. */
  event: 64,
  /** Counts what wakes the SMMU. */
  doorbell: 80,
  /** Producers that are done. */
  finished: 96,
  /** Stays 0. */
  never: 112,
  /** Lists of each producer of which the SMMU has executed all commands, one line each. */
  executed: 128,
} as const;
export const LINE = 16;

/** What a producer's thread is given. */
export interface Shared {
  readonly ram: SharedArrayBuffer;
  readonly mail: Int32Array;
  readonly state: Int32Array;
  readonly log2: number;
  /** ns. */
  readonly timeout: number;
}

export function mailbox(producers: number): Int32Array {
  return new Int32Array(new SharedArrayBuffer((MAIL.executed + producers * LINE) * 4));
}

/** Called where a thread may be held up. */
type Delay = () => void;

const never: Delay = () => {};

/**
 * RAM that another thread has allocated. The platform's class has no way to attach to it.
 * @param delay called before each look at the words, such as between the reservation of slots and the stores to them
 */
function attachMemory(ram: SharedArrayBuffer, delay: Delay): Memory {
  const abort = (pa: number): never => {
    throw new Error(`external abort at 0x${pa.toString(16)}`);
  };
  const perm = new Uint8Array(ram.byteLength / PAGE_SIZE).fill(PERM_RW);
  const words = new Int32Array(ram);
  const memory = Reflect.construct(Memory, [words, perm, RAM, abort]) as Memory;
  return Object.defineProperty(memory, "words", {
    get() {
      delay();
      return words;
    },
  });
}

/** The registers that a producer or an error handler reaches. */
const REGISTER: ReadonlyMap<number, number> = new Map([
  [OFFSET.CMDQ_PROD, MAIL.prod],
  [OFFSET.CMDQ_CONS, MAIL.cons],
  [OFFSET.GERROR, MAIL.gerror],
  [OFFSET.GERRORN, MAIL.gerrorn],
]);

function at(offset: number): number {
  const word = REGISTER.get(offset);
  if (word === undefined) throw new RangeError(`the mailbox has no register at 0x${offset.toString(16)}`);
  return word;
}

/** The mailbox as registers. Writes ring the doorbell. */
export function mailWindow(mail: Int32Array, delay: Delay = never): RegisterWindow {
  const write32 = (offset: number, value: number): void => {
    delay();
    Atomics.store(mail, at(offset), value);
    Atomics.add(mail, MAIL.doorbell, 1);
    Atomics.notify(mail, MAIL.doorbell);
  };
  const read32 = (offset: number): number => Atomics.load(mail, at(offset));
  return { hi: 0, read32, read64: read32, write32, write64: write32 };
}

/** ms that a CPU sleeps at most in one step of waiting. */
const NAP = 0.2;
/** One step in so many sleeps: there may be more threads than cores. */
const NAP_EVERY = 4;
/** ms for which a thread is held up at a bad moment: a lap of the queue or two. */
const DELAY = 2;
/** About one moment in so many is bad. */
const DELAY_EVERY = 200;

/** Sleeps now and then: between reservation, store and mark, before PROD is written, while waiting. */
function makeDelay(mail: Int32Array, seed: number): Delay {
  const random = new Random(seed);
  return () => {
    if (random.below(DELAY_EVERY) === 0) Atomics.wait(mail, MAIL.never, 0, DELAY);
  };
}

/** A thread as a CPU. There are no interrupts. */
function threadCpu(mail: Int32Array, memory: Memory, delay: Delay): Cpu {
  let steps = 0;
  return {
    level: 1,
    memory,
    counters: new Counters(1),
    ioremap: () => mailWindow(mail, delay),
    now: () => performance.now() * 1e6,
    relax() {
      delay();
      if (++steps % NAP_EVERY === 0) Atomics.wait(mail, MAIL.event, Atomics.load(mail, MAIL.event), NAP);
    },
    barrier: delay,
    irqSave: () => {},
    irqRestore: () => {},
  };
}

/** The queue as one more thread uses it. `seed`: of when the thread is held up; without it never. */
export function attachQueue(shared: Shared, syncMethod: SyncMethod, seed?: number): SharedCommandQueue {
  const { mail, state, log2, timeout } = shared;
  const delay = seed === undefined ? never : makeDelay(mail, seed);
  const cpu = threadCpu(mail, attachMemory(shared.ram, delay), delay);
  return new SharedCommandQueue({ cpu, window: cpu.ioremap(0, 0), pa: RING, log2, state, syncMethod, timeout });
}
