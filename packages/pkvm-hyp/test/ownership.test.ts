// Page ownership against a ledger: the same moves on EL2 and on a Map, compared after each one.
import { GUEST_CALL, POOL } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { ABORT_ACTION, ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import fc from "fast-check";
import { expect, test } from "vitest";
import { OWNER, PAGE_STATE, paging } from "../src/index.ts";
import type { FakeHypCpu } from "./fake-cpu.ts";
import { boot, page, pfn, RecordingPaging } from "./host.ts";
import type { Booted } from "./host.ts";

const COUNT = 24;
const PAGES: readonly number[] = Array.from({ length: COUNT }, (_, at) => page(104 + at));
/** Pages that a VM's tables get: enough for every IPA below. */
const VM_PAGES = 8;
const IPAS = [0, PAGE_SIZE, 2 ** 30, 2 ** 30 + PAGE_SIZE];
const MARK = 8;
const SECRET = 0x5ec4e7;
const { EPERM, EBUSY, ENOENT, EEXIST, ETIMEDOUT, ENOMEM } = ERRNO;

interface Page {
  readonly owner: number;
  readonly state: number;
  readonly pins: number;
  /** Word at {@link MARK}; undefined: a table of a VM. */
  readonly mark: number | undefined;
}

interface Vm {
  alive: boolean;
  readonly ipas: Map<number, number>;
}

class Ledger {
  readonly pages: Map<number, Page> = new Map<number, Page>();
  readonly vms: Map<number, Vm> = new Map<number, Vm>();
  /** Ranges that EL2 has pinned. */
  readonly pinned: (readonly [pa: number, size: number])[] = [];
  /** What the host's devices reach through its domain. */
  readonly mapped: Map<number, number> = new Map<number, number>();

  get(pa: number): Page {
    return this.pages.get(pa)!;
  }

  set(pa: number, change: Partial<Page>): void {
    this.pages.set(pa, { ...this.get(pa), ...change });
  }

  /** What keeps the host from giving `pas` away: the first page that is not its alone. */
  donation(pas: readonly number[]): number {
    for (const pa of pas) {
      const { owner, state, pins } = this.get(pa);
      if (owner === OWNER.host && pins > 0) return -EBUSY;
      if (owner !== OWNER.host || state !== PAGE_STATE.owned) return -EPERM;
    }
    return 0;
  }

  /** What keeps `pas` from going back to the host. */
  return(pas: readonly number[], owner: number, state: number, pins: number): number {
    for (const pa of pas) {
      const had = this.get(pa);
      if (had.owner !== owner || had.state !== state) return -EPERM;
      if (had.pins !== pins) return -EBUSY;
    }
    return 0;
  }

  /** The host may reach the page: its own, or one that a VM shares. */
  reachable(pa: number): boolean {
    const { owner, state } = this.get(pa);
    return owner === OWNER.host || state === PAGE_STATE.sharedOwned || state === PAGE_STATE.reclaimShared;
  }

  owned(owner: number): number[] {
    return PAGES.filter((pa) => this.get(pa).owner === owner);
  }
}

const ownerOf = (handle: number): number => OWNER.firstVm + handle - 1;

/** True when the CPU reaches `pa` through the host's stage 2: three levels of 4K tables below 4 GiB. */
function reaches(cpu: FakeHypCpu, pa: number): boolean {
  let table = cpu.regime!.ttb;
  for (const shift of [30, 21, 12]) {
    const desc = cpu.memory.load32(table + ((pa >>> shift) & 511) * 8);
    if ((desc & 1) === 0) return false;
    table = (desc & -PAGE_SIZE) >>> 0;
  }
  return table === pa;
}

/** EL2's records, the host's stage 2 and the host's DMA say what the ledger says. */
function compare(ledger: Ledger, { cpu, core, driver }: Booted): void {
  const { states } = core;
  const real = PAGES.map((pa) => {
    const at = cpu.memory.pageIndex(pa);
    // Tables of a VM are pages of its pool, which has states of its own.
    if (ledger.get(pa).mark === undefined) return { ...ledger.get(pa), owner: states.owner(at) };
    return { owner: states.owner(at), state: states.state(at), pins: states.pins(at), mark: cpu.memory.load32(pa + MARK) };
  });
  expect(real).toEqual(PAGES.map((pa) => ledger.get(pa)));
  expect(PAGES.filter((pa) => driver.dma.has(pa))).toEqual(PAGES.filter((pa) => ledger.reachable(pa)));
  expect(PAGES.filter((pa) => reaches(cpu, pa) && !ledger.reachable(pa))).toEqual([]);
  for (const domain of driver.paging.domains) expect([...RecordingPaging.leaves(domain)].sort()).toEqual([...ledger.mapped].sort());
}

type Move = fc.Command<Ledger, Booted>;

function move(text: string, run: (ledger: Ledger, real: Booted) => void, check: (ledger: Readonly<Ledger>) => boolean = () => true): Move {
  return {
    check,
    run(ledger, real) {
      run(ledger, real);
      compare(ledger, real);
    },
    toString: () => text,
  };
}

/** From the host to `owner`; nothing happens when the IOMMU does not follow. */
function give(ledger: Ledger, real: Booted, pas: readonly number[], owner: number, pins: number, refuse: boolean, call: () => number): void {
  const allowed = ledger.donation(pas);
  const expected = allowed === 0 && refuse ? -ETIMEDOUT : allowed;
  real.driver.refuse = refuse ? -ETIMEDOUT : 0;
  const status = call();
  real.driver.refuse = 0;
  expect(status).toBe(expected);
  if (status < 0) return;
  for (const pa of pas) {
    real.cpu.memory.store32(pa + MARK, SECRET);
    ledger.set(pa, { owner, pins, mark: SECRET });
  }
}

/** Back to the host: wiped, also when the IOMMU then refuses it. */
function takeBack(ledger: Ledger, real: Booted, pas: readonly number[], allowed: number, refuse: boolean, call: () => number): void {
  real.driver.refuseMap = refuse ? -ENOMEM : 0;
  const status = call();
  real.driver.refuseMap = 0;
  expect(status).toBe(allowed === 0 && refuse ? -ENOMEM : allowed);
  if (allowed === 0) for (const pa of pas) ledger.set(pa, { mark: 0 });
  if (status === 0) for (const pa of pas) ledger.set(pa, { owner: OWNER.host, state: PAGE_STATE.owned, pins: 0 });
}

function pin(ledger: Ledger, { core }: Booted, pa: number, size: number, lend: boolean): void {
  const pas = PAGES.filter((one) => one + PAGE_SIZE > pa && one < pa + size);
  const refusals = pas.map((one) => {
    const { owner, state, pins } = ledger.get(one);
    if (owner !== OWNER.host || (!lend && state !== PAGE_STATE.sharedOwned)) return -EPERM;
    return state === PAGE_STATE.owned && pins > 0 ? -EBUSY : 0;
  });
  const status = refusals.find((one) => one < 0) ?? 0;
  expect(lend ? core.pinLent(pa, size) : core.pinShared(pa, size)).toBe(status);
  if (status < 0) return;
  for (const one of pas) {
    const { state, pins } = ledger.get(one);
    ledger.set(one, { state: state === PAGE_STATE.owned ? PAGE_STATE.lent : state, pins: pins + 1 });
  }
  ledger.pinned.push([pa, size]);
}

function unpin(ledger: Ledger, { core }: Booted, at: number): void {
  const [[pa, size]] = ledger.pinned.splice(at % ledger.pinned.length, 1) as [[number, number]];
  core.unpin(pa, size);
  for (const one of PAGES.filter((each) => each + PAGE_SIZE > pa && each < pa + size)) {
    const { state, pins } = ledger.get(one);
    ledger.set(one, { state: pins === 1 && state === PAGE_STATE.lent ? PAGE_STATE.owned : state, pins: pins - 1 });
  }
}

function initVm(ledger: Ledger, { cpu, driver }: Booted, area: number, refuse: boolean): void {
  const pas = PAGES.slice(area * VM_PAGES, (area + 1) * VM_PAGES);
  const allowed = ledger.donation(pas);
  let handle = 1;
  while (ledger.vms.has(handle)) handle++;
  driver.refuse = refuse ? -ETIMEDOUT : 0;
  const status = cpu.call("__pkvm_init_vm", pas[0]!, VM_PAGES, 2);
  driver.refuse = 0;
  expect(status).toBe(allowed < 0 ? allowed : refuse ? -ETIMEDOUT : handle);
  if (status < 0) return;
  for (const pa of pas) ledger.set(pa, { owner: ownerOf(handle), mark: undefined });
  ledger.vms.set(handle, { alive: true, ipas: new Map() });
}

function donateGuest(ledger: Ledger, real: Booted, handle: number, pa: number, ipa: number): void {
  const vm = ledger.vms.get(handle);
  const allowed = vm?.alive === true ? ledger.donation([pa]) : -ENOENT;
  const expected = allowed === 0 && vm!.ipas.has(ipa) ? -EEXIST : allowed;
  expect(real.cpu.call("__pkvm_host_donate_guest", handle, pfn(pa), ipa)).toBe(expected);
  if (expected < 0) return;
  real.cpu.memory.store32(pa + MARK, SECRET);
  vm!.ipas.set(ipa, pa);
  ledger.set(pa, { owner: ownerOf(handle), mark: SECRET });
}

function teardown(ledger: Ledger, { cpu }: Booted, handle: number): void {
  const vm = ledger.vms.get(handle);
  expect(cpu.call("__pkvm_teardown_vm", handle)).toBe(vm?.alive === true ? 0 : -ENOENT);
  if (vm?.alive !== true) return;
  vm.alive = false;
  for (const pa of ledger.owned(ownerOf(handle))) {
    ledger.set(pa, { state: ledger.reachable(pa) ? PAGE_STATE.reclaimShared : PAGE_STATE.reclaim });
  }
}

/** The guest shares its page, or no longer; nothing happens when the IOMMU does not follow. */
function guestShare(ledger: Ledger, real: Booted, handle: number, ipa: number, share: boolean, refuse: boolean): void {
  const vm = ledger.vms.get(handle);
  const pa = vm?.alive === true ? vm.ipas.get(ipa) : undefined;
  const from = share ? PAGE_STATE.owned : PAGE_STATE.sharedOwned;
  const open = pa !== undefined && ledger.get(pa).state === from && !refuse;
  if (share) real.driver.refuseMap = refuse ? -ENOMEM : 0;
  else real.driver.refuse = refuse ? -ETIMEDOUT : 0;
  const [status] = real.cpu.guest(handle, share ? GUEST_CALL.memShare : GUEST_CALL.memUnshare, ipa);
  real.driver.refuseMap = 0;
  real.driver.refuse = 0;
  expect(status).toBe(open ? 0 : -3);
  if (open) ledger.set(pa, { state: share ? PAGE_STATE.sharedOwned : PAGE_STATE.owned });
}

function mapDma(ledger: Ledger, { cpu }: Booted, pa: number, iova: number): void {
  const { owner, state, pins } = ledger.get(pa);
  const allowed = owner === OWNER.host && state === PAGE_STATE.owned;
  const taken = ledger.mapped.has(iova);
  const status = cpu.call("__pkvm_iommu_map_pages", 2, iova, pa, PAGE_SIZE, 1, 3);
  expect(status).toBe(!allowed ? -EPERM : taken ? -EEXIST : PAGE_SIZE);
  if (status < 0) return;
  ledger.mapped.set(iova, pa);
  ledger.set(pa, { pins: pins + 1 });
}

function unmapDma(ledger: Ledger, { cpu, driver }: Booted, iova: number, refuse: boolean): void {
  const pa = ledger.mapped.get(iova);
  driver.paging.refuse = refuse ? -ETIMEDOUT : 0;
  const status = cpu.call("__pkvm_iommu_unmap_pages", 2, iova, PAGE_SIZE, 1);
  driver.paging.refuse = 0;
  expect(status).toBe(refuse ? -ETIMEDOUT : pa === undefined ? 0 : PAGE_SIZE);
  if (status <= 0) return;
  ledger.mapped.delete(iova);
  ledger.set(pa!, { pins: ledger.get(pa!).pins - 1 });
}

function reclaim(ledger: Ledger, real: Booted, pa: number, refuse: boolean): void {
  const { owner, state } = ledger.get(pa);
  const allowed = state === PAGE_STATE.reclaim || state === PAGE_STATE.reclaimShared ? 0 : -EPERM;
  // What the host reached all along needs nothing of the IOMMU.
  takeBack(ledger, real, [pa], allowed, refuse && state !== PAGE_STATE.reclaimShared, () => real.cpu.call("__pkvm_host_reclaim_page", pfn(pa)));
  // The handle is free again with the last page.
  if (ledger.owned(owner).length === 0) ledger.vms.delete(owner - OWNER.firstVm + 1);
}

function reclaimArea(ledger: Ledger, real: Booted, area: number): void {
  for (const pa of PAGES.slice(area * VM_PAGES, (area + 1) * VM_PAGES)) reclaim(ledger, real, pa, false);
}

/** A page's own hypercall that only changes its state. */
function flip(ledger: Ledger, { cpu }: Booted, name: HypercallName, pa: number, from: number, to: number): void {
  const { owner, state, pins } = ledger.get(pa);
  const open = owner === OWNER.host && state === from;
  const expected = open ? (pins > 0 ? -EBUSY : 0) : -EPERM;
  expect(cpu.call(name, pfn(pa))).toBe(expected);
  if (expected === 0) ledger.set(pa, { state: to });
}

const { owned, sharedOwned } = PAGE_STATE;
// Most moves meet on the first few pages.
const somePage = fc.oneof({ weight: 3, arbitrary: fc.nat(5) }, { weight: 1, arbitrary: fc.nat(COUNT - 1) }).map((at) => PAGES[at]!);
const refuse = fc.boolean().chain((one) => (one ? fc.boolean() : fc.constant(false)));
const handle = fc.oneof({ weight: 3, arbitrary: fc.constant(1) }, { weight: 1, arbitrary: fc.nat(4) });
const iova = fc.constantFrom(0, PAGE_SIZE, 2 * PAGE_SIZE);
const area = fc.nat(COUNT / VM_PAGES - 1);
const range = fc.record({ at: fc.nat(8), count: fc.integer({ min: 1, max: 3 }) }).map(({ at, count }) => PAGES.slice(at, at + count));
const bytes = fc.record({ at: somePage, offset: fc.nat(PAGE_SIZE - 1), size: fc.oneof(fc.constant(1), fc.nat(2 * PAGE_SIZE)) }).map(({ at, offset, size }) => {
  const pa = at + offset;
  return { pa, size: Math.min(size + 1, PAGES.at(-1)! + PAGE_SIZE - pa) };
});
const list = (pas: readonly number[]): string => pas.map((pa) => pa.toString(16)).join(",");

const MOVES: fc.Arbitrary<Move>[] = [
  somePage.map((pa) => move(`share ${list([pa])}`, (l, r) => { flip(l, r, "__pkvm_host_share_hyp", pa, owned, sharedOwned); })),
  somePage.map((pa) => move(`unshare ${list([pa])}`, (l, r) => { flip(l, r, "__pkvm_host_unshare_hyp", pa, sharedOwned, owned); })),
  fc.tuple(somePage, refuse).map(([pa, no]) => move(`donate ${list([pa])} refused=${no}`, (l, r) => {
    give(l, r, [pa], OWNER.hyp, 0, no, () => r.cpu.call("__pkvm_host_donate_hyp", pfn(pa)));
  })),
  fc.tuple(somePage, refuse).map(([pa, no]) => move(`give back ${list([pa])} refused=${no}`, (l, r) => {
    const call = (): number => r.cpu.call("__pkvm_hyp_donate_host", pfn(pa));
    takeBack(l, r, [pa], l.return([pa], OWNER.hyp, owned, 0), no, call);
  })),
  fc.tuple(range, refuse).map(([pas, no]) => move(`EL2 takes ${list(pas)} refused=${no}`, (l, r) => {
    give(l, r, pas, OWNER.hyp, 1, no, () => r.core.donateHostToHyp(pas[0]!, pas.length * PAGE_SIZE));
  })),
  fc.tuple(range, refuse).map(([pas, no]) => move(`EL2 returns ${list(pas)} refused=${no}`, (l, r) => {
    const call = (): number => r.core.donateHypToHost(pas[0]!, pas.length * PAGE_SIZE);
    takeBack(l, r, pas, l.return(pas, OWNER.hyp, owned, 1), no, call);
  })),
  fc.tuple(bytes, fc.boolean()).map(([{ pa, size }, lend]) =>
    move(`pin ${lend ? "lent" : "shared"} ${list([pa])}+${size}`, (l, r) => { pin(l, r, pa, size, lend); })),
  fc.nat(20).map((at) => move(`unpin #${at}`, (l, r) => { unpin(l, r, at); }, (l) => l.pinned.length > 0)),
  fc.tuple(area, refuse).map(([at, no]) => move(`create a VM in area ${at} refused=${no}`, (l, r) => { initVm(l, r, at, no); })),
  area.map((at) => move(`reclaim area ${at}`, (l, r) => { reclaimArea(l, r, at); })),
  fc.tuple(handle, somePage, fc.constantFrom(...IPAS)).map(([vm, pa, ipa]) =>
    move(`donate ${list([pa])} to VM ${vm} at ${ipa}`, (l, r) => { donateGuest(l, r, vm, pa, ipa); })),
  handle.map((vm) => move(`run VM ${vm}`, (l, r) => {
    expect(r.cpu.call("__pkvm_vcpu_run", vm, 1)).toBe(l.vms.get(vm)?.alive === true ? 0 : -ENOENT);
  })),
  handle.map((vm) => move(`destroy VM ${vm}`, (l, r) => { teardown(l, r, vm); })),
  fc.tuple(somePage, refuse).map(([pa, no]) => move(`reclaim ${list([pa])} refused=${no}`, (l, r) => { reclaim(l, r, pa, no); })),
  fc.tuple(handle, fc.constantFrom(...IPAS), fc.boolean(), refuse).map(([vm, ipa, share, no]) =>
    move(`VM ${vm} ${share ? "shares" : "unshares"} ${ipa} refused=${no}`, (l, r) => { guestShare(l, r, vm, ipa, share, no); })),
  fc.tuple(somePage, iova).map(([pa, at]) => move(`map ${list([pa])} at ${at}`, (l, r) => { mapDma(l, r, pa, at); })),
  fc.tuple(iova, refuse).map(([at, no]) => move(`unmap ${at} refused=${no}`, (l, r) => { unmapDma(l, r, at, no); })),
  somePage.map((pa) => move(`access ${list([pa])}`, (l, r) => {
    const hosts = l.reachable(pa);
    expect(r.cpu.abort(pa)).toBe(hosts ? ABORT_ACTION.retry : ABORT_ACTION.inject);
    expect(reaches(r.cpu, pa)).toBe(hosts);
  })),
];

test("every sequence of moves leaves what the ledger says", () => {
  fc.assert(
    fc.property(fc.commands(MOVES, { maxCommands: 100, size: "max" }), (moves) => {
      fc.modelRun(() => {
        const model = new Ledger();
        const real = boot(true, [paging]);
        real.cpu.call("__pkvm_topup_hyp", POOL.iommu, pfn(page(304)), 1);
        real.cpu.call("__pkvm_iommu_alloc_domain", 0, 2, 1);
        PAGES.forEach((pa, at) => {
          real.cpu.memory.store32(pa + MARK, at + 1);
          model.pages.set(pa, { owner: OWNER.host, state: PAGE_STATE.owned, pins: 0, mark: at + 1 });
        });
        return { model, real };
      }, moves);
    }),
    { seed: 12345, numRuns: 200 },
  );
});
