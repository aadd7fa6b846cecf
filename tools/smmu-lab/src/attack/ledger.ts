import { EVENT_QUEUE_OP, readHandoff } from "@smmuv3/pkvm-abi";
import type { HypercallName, IommuHandoff } from "@smmuv3/pkvm-abi";
import { alignUp, hex, PAGE_SIZE } from "@smmuv3/platform";
import type { Memory } from "@smmuv3/platform";
import { CMD_BYTES, EVENT_BYTES } from "@smmuv3/smmu-v3-defs";
import { IOMMU_RULES } from "./ledger-iommu.ts";
import type { Violation } from "./op.ts";
import { OWNER, PAGE, wrong } from "./ownership.ts";

/** A paravirtual domain. */
export interface DomainRecord {
  /** Page by IOVA / 4K; -1: not RAM. */
  readonly maps: Map<number, number>;
  /** What a device may read of it, in the same terms. */
  readonly readable: Set<number>;
  /** `sid.pasid` */
  readonly attached: Set<string>;
  /** Lists that somebody may have changed meanwhile were mapped: {@link maps} is not all. */
  opaque: boolean;
}

/** A protected VM. */
export interface VmRecord {
  readonly handle: number;
  readonly vcpus: number;
  /** Pages that the vCPUs use: IPA by page number. */
  readonly pages: Map<number, number>;
  alive: boolean;
}

const ok: Violation | undefined = undefined;

/**
 * Who owns what, from the results of calls and the ABI's words alone. What EL2 thinks is not asked. Pages are indices from the
 * start of RAM.
 */
export class Ledger {
  readonly owner: Uint8Array;
  readonly flags: Uint8Array;
  /** How often a page is mapped in a paravirtual domain. */
  readonly mapped: Uint16Array;
  readonly vms: Map<number, VmRecord> = new Map<number, VmRecord>();
  /** The host's domains. */
  readonly domains: Map<number, DomainRecord> = new Map<number, DomainRecord>();
  /** States of the streams by `sid.pasid`, as far as calls have set them. */
  readonly states: Map<string, number> = new Map<string, number>();
  /** VM that a StreamID is assigned to. */
  readonly assigned: Map<number, number> = new Map<number, number>();
  /** The SMMU's power domain is off. */
  powerOff = false;
  /** IOMMUs that EL2 accepted. */
  handoffs: readonly IommuHandoff[] = [];
  /** Look whether pages come back wiped: not when the host may have written since. */
  looksInside = true;
  /** Pages that are not the host's. */
  taken = 0;
  /** EL2 has accepted `__pkvm_prot_finalize`. */
  finalized = false;
  readonly memory: Memory;
  /** Changes of owner since the last {@link clearChanges}: page numbers. */
  readonly changed: number[] = [];

  constructor(memory: Memory) {
    this.memory = memory;
    this.owner = new Uint8Array(memory.pages);
    this.flags = new Uint8Array(memory.pages);
    this.mapped = new Uint16Array(memory.pages);
  }

  /** Page number of a page frame number; -1 outside of RAM. */
  page(pfn: number): number {
    return this.memory.pageIndex(pfn * PAGE_SIZE);
  }

  address(page: number): number {
    return this.memory.base + page * PAGE_SIZE;
  }

  /** True when the host, and so its devices, may reach the page. */
  isHosts(page: number): boolean {
    return this.owner[page] === OWNER.host || (this.flags[page]! & PAGE.borrowed) !== 0;
  }

  /** The same state in a ledger of its own. */
  clone(): Ledger {
    const copy = new Ledger(this.memory);
    copy.assign(this);
    return copy;
  }

  /** Takes over the state of `from`. */
  assign(from: Ledger): void {
    this.owner.set(from.owner);
    this.flags.set(from.flags);
    this.mapped.set(from.mapped);
    this.vms.clear();
    for (const [handle, vm] of from.vms) this.vms.set(handle, { ...vm, pages: new Map(vm.pages) });
    this.domains.clear();
    for (const [id, domain] of from.domains) this.domains.set(id, { maps: new Map(domain.maps), readable: new Set(domain.readable), attached: new Set(domain.attached), opaque: domain.opaque });
    this.states.clear();
    for (const [key, state] of from.states) this.states.set(key, state);
    this.assigned.clear();
    for (const [sid, handle] of from.assigned) this.assigned.set(sid, handle);
    this.changed.length = 0;
    this.changed.push(...from.changed);
    this.handoffs = from.handoffs;
    this.taken = from.taken;
    this.finalized = from.finalized;
    this.powerOff = from.powerOff;
  }

  clearChanges(): void {
    this.changed.length = 0;
  }

  /** Moves pages. */
  give(first: number, count: number, owner: number, flags: number): void {
    for (let page = first; page < first + count; page++) {
      if (this.owner[page] === OWNER.host && owner !== OWNER.host) this.taken++;
      if (this.owner[page] !== OWNER.host && owner === OWNER.host) this.taken--;
      if (this.owner[page] !== owner) this.changed.push(page);
      this.owner[page] = owner;
      this.flags[page] = flags;
    }
  }

  /**
   * Records a hypercall that EL2 has answered. Returns what is wrong with the answer.
   * @param before only for `__pkvm_iommu_handoff`: what its page said
   */
  record(name: HypercallName, args: readonly number[], result: number, before?: IommuHandoff): Violation | undefined {
    if (result < 0) return ok;
    const rule = RULES[name] ?? IOMMU_RULES[name];
    return rule === undefined ? ok : rule(this, args, result, before);
  }

  /** Reads the page that an IOMMU is described by, before EL2 has it. */
  handoffAt(pa: number): IommuHandoff | undefined {
    return this.memory.pageIndex(pa) < 0 || pa % PAGE_SIZE !== 0 ? undefined : readHandoff(this.memory, pa);
  }

  /** Why the host cannot give `[first, first + count)` away; undefined: it can. */
  #keeps(what: string, first: number, count: number): Violation | undefined {
    for (let page = first; page < first + count; page++) {
      const at = `page ${hex(this.address(page))}`;
      if (first < 0 || page >= this.owner.length) return wrong(`${what}: accepted for a range outside of RAM`);
      if (this.owner[page] !== OWNER.host) return wrong(`${what}: accepted for ${at}, which is not the host's`);
      if ((this.flags[page]! & PAGE.pinned) !== 0) return wrong(`${what}: accepted for ${at}, which is pinned`, "I8");
      if (this.mapped[page] !== 0) return wrong(`${what}: accepted for ${at}, which is mapped for DMA`, "I3");
      if (this.flags[page] !== 0) return wrong(`${what}: accepted for ${at}, which is shared`);
    }
    return ok;
  }

  /** `count` pages of the host to `owner`. */
  take(what: string, pfn: number, count: number, owner: number, flags: number = 0): Violation | undefined {
    const first = this.page(pfn);
    const refused = this.#keeps(what, first, count);
    if (refused === undefined) this.give(first, count, owner, flags);
    return refused;
  }

  /** One page back to the host, wiped, if it has `flag`. */
  giveBack(what: string, pfn: number, flag: number): Violation | undefined {
    const page = this.page(pfn);
    const at = `page ${hex(pfn * PAGE_SIZE)}`;
    if (page < 0 || (this.flags[page]! & flag) === 0) return wrong(`${what}: accepted for ${at}, which EL2 has to keep`);
    this.give(page, 1, OWNER.host, 0);
    if (!this.looksInside) return ok;
    const { words } = this.memory;
    for (let at32 = page << 10; at32 < (page + 1) << 10; at32++) {
      if (words[at32] !== 0) return wrong(`${what}: ${at} came back with what was in it`, "I1");
    }
    return ok;
  }
}

export type Rule = (ledger: Ledger, args: readonly number[], result: number, before: IommuHandoff | undefined) => Violation | undefined;

function bootOnly(name: string, apply: Rule): Rule {
  return (ledger, args, result, before) =>
    ledger.finalized ? wrong(`${name}: accepted after the host was deprivileged`, "I12") : apply(ledger, args, result, before);
}

function pagesOf(bytes: number): number {
  return alignUp(bytes, PAGE_SIZE) / PAGE_SIZE;
}

/** What an accepted call means. Calls that are not here change no owner. */
const RULES: Partial<Readonly<Record<HypercallName, Rule>>> = {
  __pkvm_init: bootOnly("__pkvm_init", (ledger, [, base, pages]) => ledger.take("__pkvm_init", base! / PAGE_SIZE, pages!, OWNER.hyp, PAGE.pool)),
  __pkvm_iommu_handoff: bootOnly("__pkvm_iommu_handoff", (ledger, [pa], _result, before) => {
    if (before === undefined) return wrong("__pkvm_iommu_handoff: accepted a page outside of RAM");
    const what = "__pkvm_iommu_handoff";
    const refused =
      ledger.take(what, pa! / PAGE_SIZE, 1, OWNER.hyp) ??
      ledger.take(what, before.cmdqBase / PAGE_SIZE, pagesOf(CMD_BYTES * 2 ** before.cmdqLog2), OWNER.hyp) ??
      ledger.take(what, before.strtabBase / PAGE_SIZE, pagesOf(before.strtabBytes), OWNER.hyp);
    ledger.handoffs = [...ledger.handoffs, before];
    return refused;
  }),
  __pkvm_prot_finalize: bootOnly("__pkvm_prot_finalize", (ledger) => {
    ledger.finalized = true;
    return ok;
  }),
  __pkvm_host_share_hyp: (ledger, [pfn]) => {
    const page = ledger.page(pfn!);
    if (page < 0 || ledger.owner[page] !== OWNER.host) return wrong(`share: accepted for pfn ${hex(pfn!)}, which is not the host's`);
    if (ledger.flags[page] !== 0) return wrong(`share: accepted for pfn ${hex(pfn!)}, which is shared already`);
    ledger.flags[page] = PAGE.shared;
    return ok;
  },
  __pkvm_host_unshare_hyp: (ledger, [pfn]) => {
    const page = ledger.page(pfn!);
    if (page < 0 || ledger.owner[page] !== OWNER.host || (ledger.flags[page]! & PAGE.shared) === 0) {
      return wrong(`unshare: accepted for pfn ${hex(pfn!)}, which is not shared`);
    }
    if ((ledger.flags[page]! & PAGE.pinned) !== 0) return wrong(`unshare: accepted for pfn ${hex(pfn!)}, which is pinned`, "I8");
    ledger.flags[page] = 0;
    return ok;
  },
  __pkvm_host_donate_hyp: (ledger, [pfn]) => ledger.take("donate to EL2", pfn!, 1, OWNER.hyp, PAGE.donated),
  __pkvm_hyp_donate_host: (ledger, [pfn]) => ledger.giveBack("donate to host", pfn!, PAGE.donated),
  __pkvm_init_vm: (ledger, [base, pages, vcpus], handle) => {
    if (ledger.vms.get(handle)?.alive === true) return wrong(`init_vm: handle ${handle} is in use`);
    const refused = ledger.take("init_vm", base! / PAGE_SIZE, pages!, handle + 1);
    ledger.vms.set(handle, { handle, vcpus: vcpus!, pages: new Map<number, number>(), alive: true });
    return refused;
  },
  __pkvm_host_donate_guest: (ledger, [handle, pfn, ipa]) => {
    const vm = ledger.vms.get(handle!);
    if (vm?.alive !== true) return wrong(`donate to VM ${handle}: accepted, but there is no such VM`);
    const refused = ledger.take(`donate to VM ${handle}`, pfn!, 1, handle! + 1);
    if (refused === undefined) vm.pages.set(ledger.page(pfn!), ipa!);
    return refused;
  },
  __pkvm_vcpu_run: (ledger, [handle, vcpu]) => {
    const vm = ledger.vms.get(handle!);
    return vm?.alive === true && vcpu! < vm.vcpus ? ok : wrong(`vcpu_run: ran vCPU ${vcpu} of VM ${handle}, which does not exist`);
  },
  __pkvm_teardown_vm: (ledger, [handle]) => {
    const vm = ledger.vms.get(handle!);
    if (vm?.alive !== true) return wrong(`teardown: accepted for VM ${handle}, which does not exist`);
    vm.alive = false;
    for (const [sid, owner] of ledger.assigned) if (owner === handle!) ledger.assigned.delete(sid);
    for (let page = 0; page < ledger.owner.length; page++) {
      if (ledger.owner[page] === handle! + 1) ledger.flags[page] = PAGE.reclaim | (ledger.flags[page]! & PAGE.borrowed);
    }
    return ok;
  },
  __pkvm_host_reclaim_page: (ledger, [pfn]) => {
    const page = ledger.page(pfn!);
    const owner = page < 0 ? OWNER.host : ledger.owner[page]!;
    const refused = ledger.giveBack("reclaim", pfn!, PAGE.reclaim);
    ledger.vms.get(owner - 1)?.pages.delete(page);
    return refused;
  },
  __pkvm_topup_hyp: (ledger, [, pfn, order]) => ledger.take("topup_hyp", pfn!, 2 ** order!, OWNER.hyp, PAGE.pool),
  __pkvm_hyp_reclaim_pool: (ledger, _args, pfn) => ledger.giveBack("reclaim_pool", pfn, PAGE.pool),
  __pkvm_vcpu_topup: (ledger, [handle, vcpu, pfn, count]) => {
    const vm = ledger.vms.get(handle!);
    if (vm?.alive !== true || vcpu! >= vm.vcpus) return wrong(`vcpu_topup: accepted for vCPU ${vcpu} of VM ${handle}, which does not exist`);
    return ledger.take("vcpu_topup", pfn!, count!, handle! + 1);
  },
  __pkvm_iommu_event_queue: (ledger, [, op, value]) => {
    if (op !== EVENT_QUEUE_OP.attach) return ok;
    const log2 = value! % 64;
    const first = ledger.memory.pageIndex(value! - log2);
    const count = pagesOf(EVENT_BYTES * 2 ** log2);
    for (let page = first; page < first + count; page++) {
      const fine = first >= 0 && ledger.owner[page] === OWNER.host && (ledger.flags[page]! & PAGE.shared) !== 0;
      if (!fine) return wrong(`event queue at ${hex(value!)}: accepted in memory that the host has not shared`, "I8");
      ledger.flags[page]! |= PAGE.pinned;
    }
    return ok;
  },
};
