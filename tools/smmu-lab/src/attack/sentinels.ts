import { GUEST_CALL } from "@smmuv3/pkvm-abi";
import type { GuestCpu } from "@smmuv3/machine";
import { hex, PAGE_WORDS } from "@smmuv3/platform";
import type { VmRecord } from "./ledger.ts";
import type { Violation } from "./op.ts";
import { PAGE, wrong } from "./ownership.ts";
import type { World } from "./world.ts";

/** Words of a page that a vCPU writes, by byte offset; all are compared after each step. */
const OFFSETS: readonly number[] = [0, 0x400, 0x800, 0xffc];
const VCPUS = 2;
const ACCEPTED = 0;

function sentinel(page: number, handle: number, index: number): number {
  return (0x5ec2_0000 ^ (page << 8) ^ (handle << 4) ^ index) | 1;
}

/** The vCPUs' side: each writes into all pages of its VM and finds there what it wrote. */
export class Sentinels {
  readonly #world: World;
  /** Sum of the words of each page that a VM uses, by page. */
  readonly #sums = new Map<number, number>();
  #violation: Violation | undefined = undefined;

  constructor(world: World) {
    this.#world = world;
  }

  /** The page is no longer a VM's, or no longer its alone. */
  forget(page: number): void {
    this.#sums.delete(page);
  }

  /** Puts a program on the vCPUs of a new VM. */
  install(handle: number): void {
    for (let vcpu = 0; vcpu < VCPUS; vcpu++) {
      this.#world.machine.setGuestProgram(handle, vcpu, (guest) => {
        this.#use(guest);
      });
    }
  }

  /** What a vCPU found since the last call, or what anyone but a vCPU changed. */
  check(): Violation | undefined {
    const found = this.#violation;
    this.#violation = undefined;
    if (found !== undefined) return found;
    const { ledger } = this.#world;
    const { words } = ledger.memory;
    for (const page of this.#sums.keys()) {
      const handle = ledger.owner[page]! - 1;
      for (let i = 0; i < OFFSETS.length; i++) {
        const offset = OFFSETS[i]!;
        if (words[(page << 10) + offset / 4] === sentinel(page, handle, i)) continue;
        return wrong(`${hex(ledger.address(page) + offset)}: somebody changed what VM ${handle} wrote`, "I1");
      }
    }
    return undefined;
  }

  /** {@link check} of every word. */
  sweep(): Violation | undefined {
    const { ledger } = this.#world;
    for (const [page, sum] of this.#sums) {
      if (this.#sum(page) === sum) continue;
      return wrong(`page ${hex(ledger.address(page))}: somebody changed what VM ${ledger.owner[page]! - 1} has there`, "I1");
    }
    return undefined;
  }

  #sum(page: number): number {
    const { words } = this.#world.ledger.memory;
    let sum = 0;
    for (let i = page << 10; i < (page << 10) + PAGE_WORDS; i++) sum = (Math.imul(sum, 31) + words[i]!) | 0;
    return sum;
  }

  #use(guest: GuestCpu): void {
    const { ledger, guestRequests, ended } = this.#world;
    const vm = ledger.vms.get(guest.handle);
    if (ended.has(guest.handle)) this.#violation = wrong(`a vCPU of VM ${guest.handle} runs after its teardown`, "I1");
    if (vm === undefined || ended.has(guest.handle)) return;
    for (const [page, ipa] of vm.pages) {
      if ((ledger.flags[page]! & PAGE.borrowed) !== 0) continue;
      this.#usePage(guest, page, ipa);
    }
    const key = `${guest.handle}.${guest.vcpu}`;
    const frame = guestRequests.get(key);
    if (frame === undefined || this.#world.racing) return;
    guestRequests.delete(key);
    const asked = frame.slice();
    guest.hvc(frame);
    if (frame[0] === ACCEPTED) this.#answered(vm, asked);
  }

  #usePage(guest: GuestCpu, page: number, ipa: number): void {
    const { ledger } = this.#world;
    const known = this.#sums.has(page);
    // A page that the vCPU cannot reach ends the run: that is found below, unless it comes this far.
    this.#violation ??= wrong(`VM ${guest.handle} has lost the page at ${hex(ipa)}`, "I1");
    const lost = this.#violation;
    for (let i = 0; i < OFFSETS.length; i++) {
      const address = ipa + OFFSETS[i]!;
      const mine = sentinel(page, guest.handle, i);
      if (known && guest.load32(address) !== mine) {
        this.#violation = wrong(`VM ${guest.handle} does not find at ${hex(address)} what it wrote`, "I1");
        return;
      }
      guest.store32(address, mine);
      if (ledger.memory.words[(page << 10) + OFFSETS[i]! / 4] === mine) continue;
      this.#violation = wrong(`VM ${guest.handle} writes elsewhere than into its page at ${hex(address)}`, "I1");
      return;
    }
    if (this.#violation === lost) this.#violation = undefined;
    this.#sums.set(page, this.#sum(page));
  }

  /** The guest gave the host a page to use, or took it back. */
  #answered(vm: VmRecord, frame: Int32Array): void {
    const { ledger } = this.#world;
    const ipa = (frame[3]! >>> 0) * 0x1_0000_0000 + (frame[2]! >>> 0);
    const found = [...vm.pages].find(([, at]) => at === ipa);
    if (found === undefined) return;
    const [page] = found;
    if (frame[0] === GUEST_CALL.memShare) {
      ledger.flags[page]! |= PAGE.borrowed;
      this.#sums.delete(page);
    } else if (frame[0] === GUEST_CALL.memUnshare) {
      ledger.flags[page]! &= ~PAGE.borrowed;
      ledger.changed.push(page);
    }
  }
}
