import { ACCESS, Counters, hi32, LEVEL, lo32, TRANSLATION } from "@smmuv3/platform";
import type { InterruptLine, Memory, RegisterWindow, Translator } from "@smmuv3/platform";
import {
  RV_ATP_MODE, RV_CAP, RV_CAUSE, RV_CQCSR, RV_DDTP_MODE, RV_DDTP_MODE_MASK, RV_FCTL, RV_FQCSR, RV_IPSR, RV_REG,
  RV_REGISTER_SPACE, RV_TTYP, rvPpnAddress,
} from "@smmuv3/riscv-iommu-defs";
import { RvCaches } from "./cache.ts";
import type { RvProfile } from "./cache.ts";
import { didFits, directoryLevels, locateContext } from "./device-contexts.ts";
import type { DeviceContext, DirectoryPointer } from "./device-contexts.ts";
import { COMMAND_RESULT, RvCommands, RvQueue, writeFault } from "./queues.ts";
import { inputAddress, NEED, RvWalker, WALK_RESULT } from "./walk.ts";
import type { WalkResult } from "./walk.ts";

export interface RiscvIommuOptions {
  readonly memory: Memory;
  /** Caches; `lazy` by default. */
  readonly profile?: RvProfile;
  /** Counts `commands`, `walkReads` and `events` at device level. */
  readonly counters?: Counters;
  /** Wires of interrupt vectors 0 to 15, as `icvec` selects them. */
  readonly irq?: readonly InterruptLine[];
}

/** Physical address size. */
const PAS = 46;
const CAPABILITIES_LO =
  RV_CAP.version10 | RV_CAP.sv39 | RV_CAP.sv48 | RV_CAP.sv39x4 | RV_CAP.sv48x4 | RV_CAP.igsWsi;
/** `icvec`: CIV and FIV. */
const ICVEC_MASK = 0xff;

const QUEUE_BASE_LO = 0xffff_fc1f | 0;
const PPN_HI = 0x003f_ffff;

/** CAUSE by access need and kind of failure. */
const CAUSES: Readonly<Record<number, readonly [page: number, guest: number, access: number]>> = {
  [NEED.read]: [RV_CAUSE.readPageFault, RV_CAUSE.readGuestPageFault, RV_CAUSE.readAccessFault],
  [NEED.write]: [RV_CAUSE.writePageFault, RV_CAUSE.writeGuestPageFault, RV_CAUSE.writeAccessFault],
  [NEED.execute]: [RV_CAUSE.instructionPageFault, RV_CAUSE.instructionGuestPageFault, 1],
};
const TTYPS: Readonly<Record<number, number>> = {
  [NEED.read]: RV_TTYP.read,
  [NEED.write]: RV_TTYP.write,
  [NEED.execute]: RV_TTYP.execute,
};

/**
 * A RISC-V IOMMU (specification 1.0) with base-format device contexts, Sv39 / Sv48 first stages, Sv39x4 / Sv48x4 second stages,
 * command and fault queues and wired interrupts. Not built, and said so in `capabilities`: ATS, process contexts, MSI
 * translation, update of A and D by hardware, big-endian structures, performance counters, the debug interface.
 */
export class RiscvIommu implements Translator, RegisterWindow {
  paLo = 0;
  paHi = 0;
  hi = 0;
  readonly #memory: Memory;
  readonly #walker: RvWalker;
  readonly #caches: RvCaches;
  readonly #commands: RvCommands;
  readonly #irq: readonly InterruptLine[];
  readonly #counters: Counters;
  readonly #ids: { readonly commands: number; readonly walkReads: number; readonly events: number };
  readonly #cq: RvQueue = new RvQueue();
  readonly #fq: RvQueue = new RvQueue();
  #ddtp: DirectoryPointer = { mode: RV_DDTP_MODE.off, root: 0 };
  /** Registers that read as written: word by offset. */
  readonly #plain: Int32Array = new Int32Array(RV_REGISTER_SPACE / 4);

  constructor(options: RiscvIommuOptions) {
    const { memory, profile = "lazy", counters = new Counters(), irq = [] } = options;
    this.#memory = memory;
    this.#walker = new RvWalker(memory);
    this.#caches = new RvCaches(profile);
    this.#irq = irq;
    this.#counters = counters;
    const id = (name: string): number => counters.id(name) + LEVEL.device;
    this.#ids = { commands: id("commands"), walkReads: id("walkReads"), events: id("events") };
    const caches = this.#caches;
    this.#commands = new RvCommands(memory, {
      didFits: (did) => didFits(did, directoryLevels(this.#ddtp.mode)),
      dropFirst: (gscid, pscid, iova) => { caches.dropFirst(gscid, pscid, iova); },
      dropSecond: (gscid, gpa) => { caches.dropSecond(gscid, gpa); },
      dropContext: (did) => { caches.dropContext(did); },
    });
    this.#set(RV_REG.capabilities, CAPABILITIES_LO, PAS);
    this.#plain[RV_REG.fctl / 4] = RV_FCTL.wsi;
  }

  /** Translations that needed no walk. */
  get hits(): number {
    return this.#caches.hits;
  }

  translate(sid: number, _ssid: number, lo: number, hi: number, flags: number): number {
    const need = (flags & ACCESS.write) !== 0 ? NEED.write : (flags & ACCESS.instruction) !== 0 ? NEED.execute : NEED.read;
    const fault = (cause: number, iotval2: number = 0): number => {
      this.#fault(cause, TTYPS[need]!, sid, lo, hi, iotval2);
      return TRANSLATION.abort;
    };
    const { mode } = this.#ddtp;
    if (mode === RV_DDTP_MODE.off) return fault(RV_CAUSE.allDisallowed);
    if (mode === RV_DDTP_MODE.bare) return this.#output(lo, hi);
    if (!didFits(sid, directoryLevels(mode))) return fault(RV_CAUSE.typeDisallowed);
    const context = this.#contextOf(sid);
    if (typeof context === "number") return fault(context);
    const quiet = context.dtf;
    // Process contexts are not built, so DC.tc.PDTV is 0.
    if ((flags & ACCESS.ssidValid) !== 0) return quiet ? TRANSLATION.abort : fault(RV_CAUSE.typeDisallowed);
    const iova = inputAddress(context.firstMode, lo, hi);
    const status = iova < 0 ? this.#outOfRange(context, lo, hi) : this.#walk(context, iova, need);
    if (status === WALK_RESULT.ok) return TRANSLATION.ok;
    if (quiet) return TRANSLATION.abort;
    const [page, guest, access] = CAUSES[need]!;
    if (status === WALK_RESULT.pageFault) return fault(page);
    if (status === WALK_RESULT.accessFault) return fault(access);
    const { gpa, implicit } = this.#walker;
    return fault(guest, gpa - (gpa % 4) + (implicit ? 1 : 0));
  }

  read32(offset: number): number {
    switch (offset) {
      case RV_REG.cqh: return this.#cq.head;
      case RV_REG.cqt: return this.#cq.tail;
      case RV_REG.fqh: return this.#fq.head;
      case RV_REG.fqt: return this.#fq.tail;
      default: return this.#plain[offset / 4] ?? 0;
    }
  }

  read64(offset: number): number {
    this.hi = this.read32(offset + 4);
    return this.read32(offset);
  }

  write32(offset: number, value: number): void {
    switch (offset) {
      case RV_REG.cqt:
        this.#cq.tail = value & this.#cq.mask;
        this.#runCommands();
        break;
      case RV_REG.fqh:
        this.#fq.head = value & this.#fq.mask;
        break;
      case RV_REG.cqcsr:
        this.#writeCqcsr(value);
        break;
      case RV_REG.fqcsr:
        this.#writeFqcsr(value);
        break;
      case RV_REG.ipsr:
        this.#plain[RV_REG.ipsr / 4]! &= ~value;
        this.#interrupts();
        break;
      case RV_REG.icvec:
        this.#plain[RV_REG.icvec / 4] = value & ICVEC_MASK;
        break;
      // 64-bit registers may be written in halves; the low half of a pointer is written last ("Memory-mapped register interface").
      case RV_REG.ddtp: case RV_REG.cqb: case RV_REG.fqb:
        this.write64(offset, value, this.#plain[offset / 4 + 1]!);
        break;
      case RV_REG.ddtp + 4: case RV_REG.cqb + 4: case RV_REG.fqb + 4:
        this.write64(offset - 4, this.#plain[offset / 4 - 1]!, value);
        break;
      default:
        // capabilities, fctl, cqh and fqt are read-only here; everything else is reserved.
        break;
    }
  }

  write64(offset: number, lo: number, hi: number): void {
    if (offset === RV_REG.ddtp) {
      const mode = lo & RV_DDTP_MODE_MASK;
      // WARL: an illegal mode leaves the old one.
      if (mode > RV_DDTP_MODE.level3) return;
      this.#ddtp = { mode, root: rvPpnAddress(lo, hi) };
      this.#set(offset, lo & (0xffff_fc00 | RV_DDTP_MODE_MASK), hi & PPN_HI);
      return;
    }
    const queue = offset === RV_REG.cqb ? this.#cq : offset === RV_REG.fqb ? this.#fq : undefined;
    if (queue === undefined) {
      this.write32(offset, lo);
      this.write32(offset + 4, hi);
      return;
    }
    queue.configure(lo, hi);
    this.#set(offset, lo & QUEUE_BASE_LO, hi & PPN_HI);
  }

  #set(offset: number, lo: number, hi: number): void {
    this.#plain[offset / 4] = lo;
    this.#plain[offset / 4 + 1] = hi;
  }

  #contextOf(did: number): DeviceContext | number {
    const cached = this.#caches.context(did);
    if (cached !== undefined) return cached;
    const context = locateContext(this.#memory, this.#ddtp, did);
    if (typeof context !== "number") this.#caches.keepContext(did, context);
    return context;
  }

  #walk(context: DeviceContext, iova: number, need: number): WalkResult {
    const page = this.#caches.page(context, iova);
    if (page !== undefined && (page.rights & need) !== 0) {
      this.#caches.hits++;
      this.#store(page.pa + (iova % 4096));
      return WALK_RESULT.ok;
    }
    const walker = this.#walker;
    const before = walker.reads;
    const status = walker.walk(context, iova, need);
    this.#counters.add(this.#ids.walkReads, walker.reads - before);
    if (status !== WALK_RESULT.ok) return status;
    if (walker.pa >= 2 ** PAS) return WALK_RESULT.accessFault;
    this.#caches.keepPage(context, iova, walker);
    this.#store(walker.pa);
    return WALK_RESULT.ok;
  }

  /** An address that no number here holds exactly: which stage refuses it. */
  #outOfRange({ firstMode, secondMode }: DeviceContext, lo: number, hi: number): WalkResult {
    if (firstMode !== RV_ATP_MODE.bare) return WALK_RESULT.pageFault;
    if (secondMode === RV_ATP_MODE.bare) return WALK_RESULT.accessFault;
    this.#walker.gpa = (hi >>> 0) * 2 ** 32 + (lo >>> 0);
    this.#walker.implicit = false;
    return WALK_RESULT.guestPageFault;
  }

  #output(lo: number, hi: number): number {
    this.paLo = lo;
    this.paHi = hi;
    return TRANSLATION.ok;
  }

  #store(pa: number): void {
    this.paLo = lo32(pa);
    this.paHi = hi32(pa);
  }

  #fault(cause: number, ttyp: number, did: number, iovaLo: number, iovaHi: number, iotval2: number): void {
    const csr = this.#plain[RV_REG.fqcsr / 4]!;
    if ((csr & RV_FQCSR.fqon) === 0 || (csr & RV_FQCSR.errors) !== 0) return;
    if (this.#fq.full) {
      this.#plain[RV_REG.fqcsr / 4] = csr | RV_FQCSR.fqof;
    } else if (writeFault(this.#memory, this.#fq, { cause, ttyp, did, iovaLo, iovaHi, iotval2 })) {
      this.#counters.add(this.#ids.events, 1);
      this.#raise(RV_IPSR.fip, (csr & RV_FQCSR.fie) !== 0);
    } else {
      this.#plain[RV_REG.fqcsr / 4] = csr | RV_FQCSR.fqmf;
    }
    this.#interrupts();
  }

  #writeCqcsr(value: number): void {
    const old = this.#plain[RV_REG.cqcsr / 4]!;
    let csr = old & ~(value & RV_CQCSR.writeOneToClear);
    csr = (csr & ~(RV_CQCSR.cqen | RV_CQCSR.cie)) | (value & (RV_CQCSR.cqen | RV_CQCSR.cie));
    if ((value & RV_CQCSR.cqen) === 0) {
      csr &= ~RV_CQCSR.cqon;
    } else if ((old & RV_CQCSR.cqen) === 0) {
      this.#cq.head = 0;
      csr = (csr & ~RV_CQCSR.writeOneToClear) | RV_CQCSR.cqon;
    }
    this.#plain[RV_REG.cqcsr / 4] = csr;
    this.#runCommands();
    this.#interrupts();
  }

  #writeFqcsr(value: number): void {
    const old = this.#plain[RV_REG.fqcsr / 4]!;
    let csr = old & ~(value & RV_FQCSR.errors);
    csr = (csr & ~(RV_FQCSR.fqen | RV_FQCSR.fie)) | (value & (RV_FQCSR.fqen | RV_FQCSR.fie));
    if ((value & RV_FQCSR.fqen) === 0) {
      csr &= ~RV_FQCSR.fqon;
    } else if ((old & RV_FQCSR.fqen) === 0) {
      this.#fq.tail = 0;
      csr = (csr & ~RV_FQCSR.errors) | RV_FQCSR.fqon;
    }
    this.#plain[RV_REG.fqcsr / 4] = csr;
    this.#interrupts();
  }

  #runCommands(): void {
    const at = RV_REG.cqcsr / 4;
    while ((this.#plain[at]! & RV_CQCSR.cqon) !== 0 && (this.#plain[at]! & RV_CQCSR.errors) === 0 && !this.#cq.empty) {
      const result = this.#commands.execute(this.#cq);
      if (result === COMMAND_RESULT.illegal) this.#plain[at]! |= RV_CQCSR.cmdIll;
      else if (result === COMMAND_RESULT.memoryFault) this.#plain[at]! |= RV_CQCSR.cqmf;
      else {
        this.#counters.add(this.#ids.commands, 1);
        this.#cq.head = (this.#cq.head + 1) & this.#cq.mask;
        if (result === COMMAND_RESULT.fence) this.#plain[at]! |= RV_CQCSR.fenceWIp;
      }
    }
    this.#interrupts();
  }

  /** Conditions that last set their pending bits again. */
  #interrupts(): void {
    const cq = this.#plain[RV_REG.cqcsr / 4]!;
    const fq = this.#plain[RV_REG.fqcsr / 4]!;
    this.#raise(RV_IPSR.cip, (cq & RV_CQCSR.cie) !== 0 && (cq & RV_CQCSR.writeOneToClear) !== 0);
    this.#raise(RV_IPSR.fip, (fq & RV_FQCSR.fie) !== 0 && (fq & RV_FQCSR.errors) !== 0);
  }

  #raise(bit: number, condition: boolean): void {
    const at = RV_REG.ipsr / 4;
    if (!condition || (this.#plain[at]! & bit) !== 0) return;
    this.#plain[at]! |= bit;
    const vector = bit === RV_IPSR.cip ? this.#plain[RV_REG.icvec / 4]! & 15 : (this.#plain[RV_REG.icvec / 4]! >>> 4) & 15;
    this.#irq[vector]?.pulse();
  }
}
