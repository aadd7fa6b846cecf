import { CERROR } from "@smmuv3/smmu-v3-defs";
import type { CommandFilter, CommandPort, CommandRunner } from "./command-runner.ts";
import { queueEmpty, queueIndex, queueNext, queuePointer } from "./queues.ts";
import {
  CMDQV_FIELD, ENABLE, inPlace, put, VCMDQ, VCMDQ_BASE_HI, VCMDQ_BASE_LO, VCMDQ_GERROR_CMDQ_ERR, VCMDQ_PAGE1,
} from "./tegra241-registers.ts";

const { INDEX, CONS_ERR, BASE_LOG2SIZE } = CMDQV_FIELD;
const WORDS_PAGE0 = 6;
const WORDS_PAGE1 = 4;

/** One virtual command queue: its registers and its commands. */
export class VirtualCommandQueue {
  /** Index of the VINTF and of the queue in it, -1 where the queue is not allocated. */
  vintf = -1;
  logical = -1;
  /** EN is in effect. */
  enabled = false;

  readonly #port: CommandPort;
  readonly #page0 = new Int32Array(WORDS_PAGE0);
  readonly #page1 = new Int32Array(WORDS_PAGE1);
  readonly #runner: CommandRunner;

  constructor(port: CommandPort) {
    this.#port = port;
    this.#runner = port.newRunner();
  }

  reset(): void {
    this.vintf = -1;
    this.logical = -1;
    this.enabled = false;
    this.#page0.fill(0);
    this.#page1.fill(0);
  }

  /** GERROR and GERRORN differ. */
  get failed(): boolean {
    return this.#page0[VCMDQ.GERROR >> 2] !== this.#page0[VCMDQ.GERRORN >> 2];
  }

  /** The queue is to be enabled. */
  get wanted(): boolean {
    return (this.#page0[VCMDQ.CONFIG >> 2]! & ENABLE) !== 0;
  }

  read(page: number, offset: number): number {
    if (page === 1) return this.#page1[offset >> 2]!;
    return offset === VCMDQ.STATUS ? (this.enabled ? ENABLE : 0) : this.#page0[offset >> 2]!;
  }

  /** Stores what software may write: base and CONS only while the queue is off. */
  write(page: number, offset: number, value: number): void {
    const off = !this.enabled && !this.wanted;
    if (page === 1) {
      if (!off || offset >> 2 >= WORDS_PAGE1) return;
      this.#page1[offset >> 2] = offset === VCMDQ_PAGE1.BASE + 4 || offset === VCMDQ_PAGE1.CONS_INDX_BASE + 4 ? value & VCMDQ_BASE_HI : value;
      return;
    }
    switch (offset) {
      case VCMDQ.CONS:
        if (off) this.#page0[0] = value & (inPlace(INDEX) | inPlace(CONS_ERR));
        break;
      case VCMDQ.PROD:
        this.#page0[VCMDQ.PROD >> 2] = value & inPlace(INDEX);
        break;
      case VCMDQ.CONFIG:
        this.#page0[VCMDQ.CONFIG >> 2] = value & ENABLE;
        break;
      case VCMDQ.GERRORN:
        this.#page0[VCMDQ.GERRORN >> 2] = value & VCMDQ_GERROR_CMDQ_ERR;
        break;
      default:
    }
  }

  /** Runs the next command. Returns undefined where there is none to run, else a CERROR code. */
  runOne(filter: CommandFilter): number | undefined {
    const page0 = this.#page0;
    const base = this.#page1[VCMDQ_PAGE1.BASE >> 2]!;
    const log2 = Math.min(base & inPlace(BASE_LOG2SIZE), this.#port.maxLog2);
    const cons = page0[VCMDQ.CONS >> 2]!;
    if (!this.enabled || this.failed || this.#runner.halted || queueEmpty(page0[VCMDQ.PROD >> 2]!, cons, log2)) return undefined;
    const lo = (base & VCMDQ_BASE_LO & ~((16 << log2) - 1)) | (queueIndex(cons, log2) << 4);
    const error = this.#runner.execute(lo, this.#page1[(VCMDQ_PAGE1.BASE >> 2) + 1]!, filter);
    if (error === CERROR.NONE) {
      page0[VCMDQ.CONS >> 2] = queueNext(queuePointer(cons, log2), log2);
    } else {
      page0[VCMDQ.CONS >> 2] = (cons & inPlace(INDEX)) | put(CONS_ERR, error);
      page0[VCMDQ.GERROR >> 2]! ^= VCMDQ_GERROR_CMDQ_ERR;
    }
    return error;
  }
}
