import { hex, PAGE_SIZE } from "@smmuv3/platform";
import type { Random } from "./random.ts";
import { BOOT_SID } from "./hardware.ts";
import type { Op, Violation } from "./op.ts";
import { OWNER, UNKNOWN_STATE, wrong } from "./ownership.ts";
import { RegisterCheck } from "./registers.ts";
import { Sentinels } from "./sentinels.ts";
import { StructureCheck } from "./structures.ts";
import type { LiveStream } from "./structures.ts";
import { REFUSED } from "./world.ts";
import type { World } from "./world.ts";

/** What an invariant says, or that EL2 is gone. */
export interface Finding extends Violation {
  readonly kind: "breach" | "panic" | "deadlock";
}

/** Simulated time of one operation: several waits of 100 ms at most. */
const LONGEST_NS = 1_000_000_000;
/** Registers are compared at least this often. */
const REGISTER_STEPS = 16;
/** Accesses that worked and are tried again when their page has left the host. */
const REMEMBERED = 64;
/** Streams that a sweep uses. */
const SWEEP_STREAMS = 6;
/** Pages of EL2 that a sweep tries; those of VMs are tried all. */
const SWEEP_HYP_PAGES = 48;
const NO_SSID = -1;
/** What a panic says that is a deadlock: EL2 took a lock that it has, or would wait for ever. */
const DEADLOCK = /deadlock|lock .*(?:held|order)|for ever/iu;

/** EL2 is gone, for this reason. */
export function panicFinding(reason: string): Finding {
  return { kind: DEADLOCK.test(reason) ? "deadlock" : "panic", invariant: "I13", text: reason };
}

interface Reach {
  readonly sid: number;
  readonly ssid: number;
  readonly iova: number;
  readonly page: number;
}

/** Judges after each step whether the invariants of DESIGN.md 6 hold, from hardware, memory and ledger alone. */
export class Oracle {
  readonly world: World;
  readonly sentinels: Sentinels;
  readonly #registers: RegisterCheck;
  readonly #structures: StructureCheck;
  /** A ring of accesses that worked. */
  readonly #reached: Reach[] = [];
  #next = 0;
  #steps = 0;
  #time = 0;
  readonly #live: LiveStream[] = [];
  /** StreamIDs whose DMA worked lately. */
  readonly #warm: number[] = [];
  /** The kernel has set the states of its streams by hypercall: what it has not set is blocked. */
  readonly #statesKnown: boolean;

  constructor(world: World) {
    this.world = world;
    this.sentinels = new Sentinels(world);
    this.#registers = new RegisterCheck(world);
    this.#structures = new StructureCheck(world);
    this.#statesKnown = world.protectsDma && world.ledger.states.size > 0;
    this.#time = world.machine.clock.now();
  }

  /** Makes the SMMU remember the page at `pa` for the streams that work, as devices that prefetch may. */
  warm(pa: number): void {
    if (this.world.machine.memory.pageIndex(pa) < 0) return;
    for (const sid of this.#warm) {
      this.world.probe(sid, pa, false, NO_SSID);
      this.world.probe(sid, pa, true, NO_SSID);
    }
  }

  /** Judges the step that `op` was, with result `result`. */
  after(op: Op, result: number): Finding | undefined {
    const { world } = this;
    const dead = this.dead();
    if (dead !== undefined) return dead;
    this.#steps++;
    const now = world.machine.clock.now();
    const took = now - this.#time;
    this.#time = now;
    const violation =
      world.violation ??
      (took > LONGEST_NS ? wrong(`${op.call} took ${took / 1e9} s`, "I13") : undefined) ??
      this.#access(op, result) ??
      this.#moved() ??
      this.sentinels.check() ??
      (world.protectsDma && this.#touches(op) ? this.#registers.check() : undefined);
    return violation === undefined ? this.dead() : { kind: "breach", ...violation };
  }

  /** Judges what several CPUs have done, once the ledger knows. */
  settled(): Finding | undefined {
    const { world } = this;
    this.#live.length = 0;
    this.#time = world.machine.clock.now();
    const violation =
      this.#moved() ??
      this.sentinels.check() ??
      (world.protectsDma ? (this.#registers.check() ?? this.#structures.check(this.#live)) : undefined) ??
      this.#mapped();
    return violation === undefined ? this.dead() : { kind: "breach", ...violation };
  }

  /** What EL2 said that it has mapped is mapped: a table that two CPUs have changed has lost nothing. */
  #mapped(): Violation | undefined {
    const { ledger } = this.world;
    if (ledger.powerOff) return undefined;
    for (const [id, { attached, readable, maps, opaque }] of ledger.domains) {
      const key = [...attached].find((one) => one.endsWith(".0"));
      if (key === undefined || opaque) continue;
      const sid = Number.parseInt(key, 10);
      for (const at of readable) {
        const pa = this.world.probe(sid, at * PAGE_SIZE, false, NO_SSID);
        const page = maps.get(at)!;
        if (page < 0 || (pa >= 0 && ledger.memory.pageIndex(pa) === page)) continue;
        return wrong(`domain ${id} does not translate ${hex(at * PAGE_SIZE)}, which EL2 has mapped`, "I3");
      }
    }
    return undefined;
  }

  /** EL2 has panicked, or waits for ever. */
  dead(): Finding | undefined {
    const { panics, errors } = this.world.machine;
    const failure = panics[0] ?? errors[0];
    if (failure === undefined) return undefined;
    return panics.length > 0 ? panicFinding(failure.reason) : { kind: "deadlock", invariant: "I13", text: failure.reason };
  }

  /** Everything: all structures, all registers, every live stream on every page that it must not reach. */
  sweep(random: Random): Finding | undefined {
    const { world } = this;
    this.#live.length = 0;
    const violation =
      (world.protectsDma
        ? (this.#registers.check() ?? this.#structures.check(this.#live))
        : world.protectedMode
          ? this.#structures.hostOnly()
          : undefined) ??
      this.sentinels.sweep() ??
      (world.protectedMode ? this.#everyPage(random) : undefined);
    return violation === undefined ? this.dead() : { kind: "breach", ...violation };
  }

  /** Registers change by accesses to them, and by calls. */
  #touches(op: Op): boolean {
    return this.#steps % REGISTER_STEPS === 0 || op.call.startsWith("write") || op.call === "command" || op.call.startsWith("__pkvm_iommu");
  }

  /** What the access itself says. */
  #access(op: Op, result: number): Violation | undefined {
    const { world } = this;
    if (result === REFUSED || !world.protectedMode) return undefined;
    if (op.call === "load32" || op.call === "store32") {
      const page = world.ledger.memory.pageIndex(op.args[0]!);
      return page >= 0 && !world.ledger.isHosts(page) ? wrong(`the host's CPU reached ${hex(op.args[0]!)}, which is not its own`, "I1") : undefined;
    }
    if (op.call !== "ats" && op.call !== "dma") return undefined;
    // What a device of the VM's own writes is not what a vCPU wrote.
    if (world.ledger.assigned.has(op.args[0]!)) this.sentinels.forget(world.ledger.memory.pageIndex(world.reached));
    if (op.call === "ats") return this.#allowed(op.args[0]!, world.reached);
    const [sid, iova, , ssid = NO_SSID] = op.args;
    const refused = this.#allowed(sid!, world.reached) ?? (this.#statesKnown ? this.#asSet(sid!, iova!, ssid) : undefined);
    if (refused === undefined) this.#remember(sid!, iova!, ssid);
    return refused;
  }

  /** The output address is one that the stream's owner may reach. */
  #allowed(sid: number, pa: number): Violation | undefined {
    const { ledger, hardware, protectsDma } = this.world;
    const page = ledger.memory.pageIndex(pa);
    if (page < 0) {
      const { size } = hardware.firmware.nodes[0]!.reg[0]!;
      const registers = protectsDma && pa >= hardware.smmuBase && pa < hardware.smmuBase + size;
      return registers ? wrong(`stream ${hex(sid)} reached the SMMU's registers`, "I7") : undefined;
    }
    const handle = ledger.assigned.get(sid);
    const fine = handle === undefined ? ledger.isHosts(page) : ledger.owner[page] === handle + 1;
    return fine ? undefined : wrong(`stream ${hex(sid)} reached ${hex(pa)}, which is not its owner's`, "I1");
  }

  /** The stream does what the calls have made it do. */
  #asSet(sid: number, iova: number, ssid: number): Violation | undefined {
    const { ledger, reached } = this.world;
    if (ledger.assigned.has(sid)) return undefined;
    const state = ledger.states.get(`${sid}.${Math.max(ssid, 0)}`) ?? (sid === BOOT_SID && ssid < 0 ? 1 : 0);
    if (state === UNKNOWN_STATE) return undefined;
    if (state === 0) return wrong(`stream ${hex(sid)} is blocked and reached ${hex(reached)}`, "I10");
    if (state === 1) return reached === iova ? undefined : wrong(`stream ${hex(sid)} has the identity and reached ${hex(reached)} at ${hex(iova)}`, "I6");
    const domain = ledger.domains.get(state);
    if (domain?.opaque === true) return undefined;
    const page = domain?.maps.get(Math.floor(iova / PAGE_SIZE));
    if (page === ledger.memory.pageIndex(reached)) return undefined;
    return wrong(`stream ${hex(sid)} reached ${hex(reached)} at ${hex(iova)}, which its domain does not map`, "I3");
  }

  #remember(sid: number, iova: number, ssid: number): void {
    const page = this.world.ledger.memory.pageIndex(this.world.reached);
    if (page < 0) return;
    this.#reached[this.#next] = { sid, iova, ssid, page };
    this.#next = (this.#next + 1) % REMEMBERED;
    if (ssid >= 0 || this.#warm.includes(sid)) return;
    this.#warm.push(sid);
    if (this.#warm.length > SWEEP_STREAMS) this.#warm.shift();
  }

  /** Pages that changed owner in this step: whoever reached them before must not now (I2). */
  #moved(): Violation | undefined {
    const { world } = this;
    const { ledger } = world;
    if (ledger.changed.length === 0) return undefined;
    const changed = ledger.changed.splice(0);
    for (const vm of ledger.vms.values()) {
      if (!vm.alive) continue;
      world.ended.delete(vm.handle);
      this.#installOnce(vm.handle);
    }
    for (const page of changed) {
      this.sentinels.forget(page);
      if (ledger.isHosts(page) || !world.protectedMode) continue;
      if (world.machine.host.memory.perm[page] !== 0) return wrong(`the CPU's TLB still has ${hex(ledger.address(page))}`, "I2");
      for (const sid of this.#warm) {
        const found = this.#tryPage(sid, ledger.address(page), page, NO_SSID);
        if (found !== undefined) return found;
      }
    }
    return this.#retry();
  }

  readonly #installed = new Set<number>();

  #installOnce(handle: number): void {
    if (this.#installed.has(handle)) return;
    this.#installed.add(handle);
    this.sentinels.install(handle);
  }

  /** Accesses that worked while their pages were the host's. */
  #retry(): Violation | undefined {
    for (const { sid, ssid, iova, page } of this.#reached) {
      if (this.world.ledger.isHosts(page)) continue;
      const found = this.#tryPage(sid, iova, page, ssid);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  /** Both directions of one access; `page` is what it must not reach. */
  #tryPage(sid: number, iova: number, page: number, ssid: number): Violation | undefined {
    for (const write of [false, true]) {
      const pa = this.world.probe(sid, iova, write, ssid);
      if (pa < 0) continue;
      const found = this.#allowed(sid, pa);
      if (found !== undefined) return { invariant: this.world.ledger.memory.pageIndex(pa) === page ? "I1" : found.invariant, text: found.text };
    }
    return undefined;
  }

  #everyPage(random: Random): Violation | undefined {
    const { ledger } = this.world;
    const streams = this.world.protectsDma ? this.#live.map(({ sid }) => sid) : this.#warm;
    const sids = streams.length <= SWEEP_STREAMS ? streams : Array.from({ length: SWEEP_STREAMS }, () => random.pick(streams));
    const hyp: number[] = [];
    for (let page = 0; page < ledger.owner.length; page++) {
      if (ledger.isHosts(page)) continue;
      if (ledger.owner[page] === OWNER.hyp) hyp.push(page);
      else {
        const found = this.#streams(sids, page);
        if (found !== undefined) return found;
      }
    }
    for (let i = 0; i < SWEEP_HYP_PAGES && hyp.length > 0; i++) {
      const found = this.#streams(sids, random.pick(hyp));
      if (found !== undefined) return found;
    }
    return this.#retry();
  }

  #streams(sids: readonly number[], page: number): Violation | undefined {
    for (const sid of sids) {
      const found = this.#tryPage(sid, this.world.ledger.address(page), page, NO_SSID);
      if (found !== undefined) return found;
    }
    return undefined;
  }
}
