import type { Memory } from "@smmuv3/platform";
import {
  RV_CMD, RV_CMD_BYTES, RV_CMD_FUNCTION_MASK, RV_CMD_WORDS, RV_FAULT_BYTES, RV_FAULT_WORDS, RV_OPERAND, rvPpnAddress,
} from "@smmuv3/riscv-iommu-defs";

/** Outcome of one command. */
export const COMMAND_RESULT = { done: 0, illegal: 1, memoryFault: 2, fence: 3 } as const;
export type CommandResult = (typeof COMMAND_RESULT)[keyof typeof COMMAND_RESULT];

/** What commands act on. -1: an operand that is not valid. */
export interface CommandTarget {
  /** True when the directory has room for `did`. */
  didFits(did: number): boolean;
  dropFirst(gscid: number, pscid: number, iova: number): void;
  dropSecond(gscid: number, gpa: number): void;
  dropContext(did: number): void;
}

/** A queue in memory, from its base register: address and the mask of its indices. */
export class RvQueue {
  base = 0;
  mask = 1;
  head = 0;
  tail = 0;

  /** PPN at bits [53:10], log2 of the entries less 1 at [4:0]. */
  configure(lo: number, hi: number): void {
    this.base = rvPpnAddress(lo, hi);
    this.mask = 2 ** ((lo & 31) + 1) - 1;
    this.head &= this.mask;
    this.tail &= this.mask;
  }

  get empty(): boolean {
    return this.head === this.tail;
  }

  get full(): boolean {
    return ((this.tail + 1) & this.mask) === this.head;
  }
}

/** Bits that may be set, by function: words 0 to 3. */
const LEGAL_BITS: ReadonlyMap<number, readonly [number, number, number, number]> = new Map([
  [RV_CMD.iotinvalVma, [0xffff_f7ff | 0, 0x0fff_f003, 0xffff_fc00 | 0, 0x3fff_ffff]],
  [RV_CMD.iotinvalGvma, [0xffff_f7ff | 0, 0x0fff_f002, 0xffff_fc00 | 0, 0x3fff_ffff]],
  [RV_CMD.iofenceC, [0x3fff, -1, -1, 0x3fff_ffff]],
  [RV_CMD.iodirInvalDdt, [0x3ff, 0xffff_ff02 | 0, 0, 0]],
]);

/** Low 48 bits of ADDR[63:12] at bits [61:10] of the second doubleword. */
function addressOperand(lo: number, hi: number): number {
  return ((hi & 0x3ff_ffff) * 2 ** 22 + (lo >>> 10)) * 4096 % 2 ** 48;
}

/** Reads and executes commands. */
export class RvCommands {
  readonly #memory: Memory;
  readonly #target: CommandTarget;
  readonly #words: Int32Array = new Int32Array(RV_CMD_WORDS);

  constructor(memory: Memory, target: CommandTarget) {
    this.#memory = memory;
    this.#target = target;
  }

  /** Executes the command at the head of `queue`; `wsi` says whether a fence asked for the interrupt. */
  execute(queue: RvQueue): CommandResult {
    const at = queue.base + queue.head * RV_CMD_BYTES;
    if (this.#memory.pageIndex(at) < 0) return COMMAND_RESULT.memoryFault;
    this.#memory.read(at, this.#words);
    const [w0, w1, w2, w3] = this.#words as unknown as [number, number, number, number];
    const code = w0 & RV_CMD_FUNCTION_MASK;
    const legal = LEGAL_BITS.get(code);
    if (legal === undefined || this.#words.some((word, i) => (word & ~legal[i]!) !== 0)) return COMMAND_RESULT.illegal;
    if (code === RV_CMD.iofenceC) return this.#fence(w0, w1, w2, w3);
    if (code === RV_CMD.iodirInvalDdt) return this.#invalDdt(w1);
    const address = (w0 & RV_OPERAND.av) === 0 ? -1 : addressOperand(w2, w3);
    const gscid = (w1 & RV_OPERAND.gv) === 0 ? -1 : (w1 >>> 12) & 0xffff;
    if (code === RV_CMD.iotinvalGvma) {
      // Without GV the address is ignored.
      this.#target.dropSecond(gscid, gscid < 0 ? -1 : address);
    } else {
      this.#target.dropFirst(gscid, (w1 & RV_OPERAND.pscv) === 0 ? -1 : w0 >>> 12, address);
    }
    return COMMAND_RESULT.done;
  }

  #fence(w0: number, data: number, w2: number, w3: number): CommandResult {
    if ((w0 & RV_OPERAND.av) !== 0) {
      const pa = ((w3 >>> 0) * 2 ** 32 + (w2 >>> 0)) * 4;
      if (this.#memory.pageIndex(pa) < 0) return COMMAND_RESULT.memoryFault;
      this.#memory.store32(pa, data);
    }
    return (w0 & RV_OPERAND.wsi) === 0 ? COMMAND_RESULT.done : COMMAND_RESULT.fence;
  }

  #invalDdt(w1: number): CommandResult {
    const did = (w1 & RV_OPERAND.dv) === 0 ? -1 : w1 >>> 8;
    if (did >= 0 && !this.#target.didFits(did)) return COMMAND_RESULT.illegal;
    this.#target.dropContext(did);
    return COMMAND_RESULT.done;
  }
}

/** A fault that a transaction met. Words are those of the record. */
export interface FaultRecord {
  readonly cause: number;
  readonly ttyp: number;
  readonly did: number;
  readonly iovaLo: number;
  readonly iovaHi: number;
  /** Guest-physical address, bit 0: implicit access. */
  readonly iotval2: number;
}

/** Writes `fault` at the tail of `queue`. False: the memory is not there. */
export function writeFault(memory: Memory, queue: RvQueue, fault: FaultRecord): boolean {
  const at = queue.base + queue.tail * RV_FAULT_BYTES;
  if (memory.pageIndex(at) < 0) return false;
  const record = new Int32Array(RV_FAULT_WORDS);
  record[0] = fault.cause;
  record[1] = (fault.ttyp << 2) | (fault.did << 8);
  record[4] = fault.iovaLo;
  record[5] = fault.iovaHi;
  record[6] = fault.iotval2 | 0;
  record[7] = (fault.iotval2 / 2 ** 32) | 0;
  memory.write(at, record);
  queue.tail = (queue.tail + 1) & queue.mask;
  return true;
}
