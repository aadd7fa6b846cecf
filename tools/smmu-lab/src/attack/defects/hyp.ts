import { defect, HYPERCALL, PAGING, PROTECTED } from "./types.ts";
import type { SeededDefect } from "./types.ts";

/** Mistakes in what EL2 keeps of pages and VMs. */
export const HYP_DEFECTS: readonly SeededDefect[] = [
  defect(
    PROTECTED, "donate-any-owner", "a donation does not look at the owner of the page",
    "if (!states.hostOwned(page) || states.state(page) !== PAGE_STATE.owned)",
    "if (states.state(page) !== PAGE_STATE.owned)",
  ),
  defect(
    PROTECTED, "donate-shared", "a donation does not look at the state of the page",
    "if (!states.hostOwned(page) || states.state(page) !== PAGE_STATE.owned)",
    "if (!states.hostOwned(page))",
  ),
  defect(
    PAGING, "donate-mapped", "a donation does not look at the references of the page (2.7)",
    "return states.hostOwned(page) ? -ERRNO.EBUSY : -ERRNO.EPERM;",
    "if (!states.hostOwned(page)) return -ERRNO.EPERM;",
  ),
  defect(
    PROTECTED, "donate-skips-smmu", "a donation leaves the identity map alone (2.3)",
    "return this.#tracked?.revoke(pa, pa + size, prot) ?? 0;",
    "return 0;",
  ),
  defect(
    PROTECTED, "donate-skips-cpu", "a donation leaves the host's stage 2 alone",
    "this.stage2.unmap(pa, size);\n    return this.#tracked?.revoke",
    "return this.#tracked?.revoke",
  ),
  defect(PROTECTED, "cpu-tlbi-missing", "the host's stage 2 changes without a TLBI (I2)", "this.#cpu.tlbiIpa(pa, size);", ""),
  defect(
    PROTECTED, "reclaim-without-wipe", "a page comes back to the host as its VM left it",
    "this.cpu.memory.fill(pa, size, 0);\n    const hadAccess",
    "const hadAccess",
  ),
  defect(
    PROTECTED, "reclaim-any-owner", "a page comes back whoever has it",
    "if (states.owner(page) !== owner || states.state(page) !== state)\n        return -ERRNO.EPERM;\n      if (states.pins(page) !== pins)",
    "if (states.pins(page) !== pins)",
  ),
  defect(PROTECTED, "reclaim-in-use", "the host takes back what EL2 uses", "if (states.pins(page) !== pins)\n        return -ERRNO.EBUSY;", ""),
  defect(
    PROTECTED, "share-any-state", "a page is shared twice, or unshared without having been shared",
    "if (states.owner(page) !== owner || states.state(page) !== from)",
    "if (states.owner(page) !== owner)",
  ),
  defect(
    HYPERCALL, "unshare-pinned", "the host takes back a page of the event queue (I8)",
    "if (states.pins(page) !== 0)\n        return -ERRNO.EBUSY;\n      const status = follow();",
    "const status = follow();",
  ),
  defect(
    PROTECTED, "host-maps-any-page", "the host's stage 2 is filled without a look at the owner",
    "return this.states.hostReaches(page) ? this.stage2.mapMemory(page) : -ERRNO.EPERM;",
    "return this.stage2.mapMemory(page);",
  ),
  defect(
    PROTECTED, "host-maps-window", "a whole window of the host's stage 2 is filled for one page",
    "if (!this.#states.hostOwned(page))\n        return false;",
    "",
  ),
  defect(PROTECTED, "registers-not-owned", "EL2 forgets that the SMMU's registers are its own (I7)", "return this.mmio.overlaps(pa, 1, OWNER.host);", "return false;"),
  defect(PROTECTED, "boot-calls-stay-open", "calls of boot are taken after boot (a20)", "if (this.#phase > ", "if (false && this.#phase > "),
  defect(
    PROTECTED, "vcpu-number-unchecked", "a vCPU runs that the VM does not have",
    "if (!(vcpu < vm2.vcpus.length))\n        return -ERRNO.ENOENT;\n      if (vm2.vcpus[vcpu] !== 0)",
    "if (vm2.vcpus[vcpu] === 1)",
  ),
  defect(PROTECTED, "dead-vm-usable", "a VM that has ended is still there", "vm?.alive === true ? run(vm) : -ERRNO.ENOENT", "vm !== void 0 ? run(vm) : -ERRNO.ENOENT"),
  defect(PROTECTED, "teardown-of-running-vm", "a VM ends while a vCPU runs", "if (vm.vcpus.includes(1))\n        return -ERRNO.EBUSY;", "", "schedule"),
  defect(
    PROTECTED, "host-lock-missing", "checks and changes of page states are not one step (2.8)",
    "this.#lock.lock(this.cpu);\n    const result = run();\n    this.#lock.unlock(this.cpu);",
    "const result = run();",
    "schedule",
  ),
  defect(
    PROTECTED, "vm-lock-missing", "two CPUs work on one VM",
    "this.#lock.lock(cpu);\n    const vm = this.#vms[handle - 1];\n    const result = vm?.alive === true ? run(vm) : -ERRNO.ENOENT;\n    this.#lock.unlock(cpu);",
    "const vm = this.#vms[handle - 1];\n    const result = vm?.alive === true ? run(vm) : -ERRNO.ENOENT;",
    "schedule",
  ),
  defect(
    PROTECTED, "unshare-guest-skips-smmu", "a VM takes a page back that it shared, and devices keep it",
    "PAGE_STATE.sharedOwned, PAGE_STATE.owned, () => this.#takeFromHost(pa, PAGE_SIZE, HOST_PROT.memory)",
    "PAGE_STATE.sharedOwned, PAGE_STATE.owned",
  ),
  defect(
    PROTECTED, "pool-exhaustion-panics", "EL2 panics when its memory is used up (a16, 2.4 [I])",
    "requests.note(REQUEST.memory, this.#id, 2 ** order);",
    'cpu.panic("pool is empty");',
  ),
];
