import { defect, PAGING } from "./types.ts";
import type { SeededDefect } from "./types.ts";

/** Mistakes in paravirtual paging and passthrough. */
export const PAGING_DEFECTS: readonly SeededDefect[] = [
  defect(PAGING, "map-without-use", "a page is mapped without a reference (I3)", "let done = useDma(this.#core, pa, size, caller);", "let done = 0;"),
  defect(
    PAGING, "map-any-state", "a page is mapped that is shared or not the host's (I4)",
    "return core.pinPages(pa, size, owner, PAGE_STATE.owned);",
    "{ for (let at = core.cpu.memory.pageIndex(pa); at < core.cpu.memory.pageIndex(pa) + size / PAGE_SIZE; at++) core.states.pin(at); return 0; }",
  ),
  defect(
    PAGING, "partial-map-drops-all", "a map that was done in part gives up the references of all (a4)",
    "unuseDma(this.#core, pa + mapped, size - mapped);",
    "unuseDma(this.#core, pa, size);",
  ),
  defect(
    PAGING, "unmap-without-tlbi", "an unmap without an invalidation",
    "const status = this.#invalidate(start, at - start, leaf, true);",
    "const status = 0;",
  ),
  defect(
    PAGING, "unuse-before-tlbi", "references are dropped before the TLB has forgotten (2.6)",
    "const status = this.#invalidate(start, at - start, leaf, true);\n      if (status < 0)\n        return status;\n      for (let i = 0; i < n; i++)\n        visit(this.#pas[i], leaf);",
    "for (let i = 0; i < n; i++)\n        visit(this.#pas[i], leaf);\n      const status = this.#invalidate(start, at - start, leaf, true);\n      if (status < 0)\n        return status;",
    "schedule",
  ),
  defect(
    PAGING, "domain-reference-missing", "a call works on a domain without a reference: its id is free meanwhile (2.8)",
    "else\n        this.#setRef(id, refs + 1);",
    "",
  ),
  defect(PAGING, "domain-id-of-guests", "the host makes a domain with an id of the guests' half", "id < HOST_DOMAINS))", "id < MAX_DOMAINS))"),
  defect(PAGING, "domain-id-in-use", "a domain is made twice", "if (this.#ref(id) !== 0)\n      return -ERRNO.EBUSY;", ""),
  defect(PAGING, "map-prot-unchecked", "unknown permissions are accepted (2.6)", "if (prot > ALL_PROT)\n      return -ERRNO.EOPNOTSUPP;", ""),
  defect(
    PAGING, "domain-lock-missing", "two CPUs change one table (a1, 2.8)",
    "domain.lock.lock(cpu);\n      done = domain.paging.mapPages(domain, iova, pa, pgsize, count, prot);\n      domain.lock.unlock(cpu);",
    "done = domain.paging.mapPages(domain, iova, pa, pgsize, count, prot);",
    "schedule",
  ),
  defect(
    PAGING, "list-not-pinned", "a list is read that is not shared with EL2 (a7)",
    "const pinned = this.#core.pinShared(list, entries * SG_ENTRY.bytes);",
    "const pinned = 0;",
  ),
  defect(
    PAGING, "stream-of-vm-settable", "the host sets a stream that a VM has (I14)",
    "return this.ownerOf(iommu, sid) === caller ? found : -ERRNO.EPERM;",
    "return found;",
  ),
  defect(PAGING, "assign-without-block", "a device goes to a VM with its DMA going on (I14)", "const status = this.#block(group, OWNER.host);", "const status = 0;"),
  defect(
    PAGING, "resume-without-invalidation", "the SMMU comes back with what it had cached before it was switched off (a19)",
    "() => smmu.invalidateAll(true),\n",
    "",
  ),
];
