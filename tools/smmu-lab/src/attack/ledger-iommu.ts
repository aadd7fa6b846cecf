// What the ABI's words say about domains, streams, devices and power.
import { ABI_PROT, HOST_DOMAINS, IOMMU_STATE, SG_ENTRY } from "@smmuv3/pkvm-abi";
import type { HypercallName } from "@smmuv3/pkvm-abi";
import { hex, PAGE_SIZE } from "@smmuv3/platform";
import type { DomainRecord, Ledger, Rule } from "./ledger.ts";
import type { Violation } from "./op.ts";
import { OWNER, wrong } from "./ownership.ts";

const ALL_PROT = Object.values(ABI_PROT).reduce((sum, bit) => sum | bit, 0);

/** Adds `bytes` from `iova` on. A block may take the place of a table: what that mapped stays in use. */
function map(ledger: Ledger, domain: DomainRecord, iova: number, pa: number, bytes: number, pgsize: number, prot: number): Violation | undefined {
  for (let at = 0; at < bytes; at += PAGE_SIZE) {
    const page = ledger.memory.pageIndex(pa + at);
    const key = Math.floor((iova + at) / PAGE_SIZE);
    if (pgsize === PAGE_SIZE && domain.maps.has(key)) return wrong(`map_pages: IOVA ${hex(iova + at)} was mapped already`, "I3");
    if (page >= 0 && ledger.owner[page] !== OWNER.host) return wrong(`map_pages: mapped ${hex(pa + at)}, which is not the host's`, "I4");
    if (page >= 0 && ledger.flags[page] !== 0) return wrong(`map_pages: mapped ${hex(pa + at)}, which is shared`, "I4");
    if (page >= 0) ledger.mapped[page]!++;
    domain.maps.set(key, page);
    if ((prot & ABI_PROT.read) !== 0) domain.readable.add(key);
  }
  return undefined;
}

function unmap(ledger: Ledger, domain: DomainRecord, key: number): void {
  const page = domain.maps.get(key);
  if (page === undefined) return;
  domain.maps.delete(key);
  domain.readable.delete(key);
  if (page >= 0) ledger.mapped[page]!--;
}

function mapList(ledger: Ledger, domain: DomainRecord, iova: number, list: number, bytes: number, prot: number): Violation | undefined {
  const { memory } = ledger;
  let at = iova;
  for (let entry = list; at < iova + bytes; entry += SG_ENTRY.bytes) {
    if (memory.pageIndex(entry) < 0) return undefined;
    const size = (memory.load32(entry + SG_ENTRY.pgsize) >>> 0) * (memory.load32(entry + SG_ENTRY.pgcount) >>> 0);
    if (size === 0) return undefined;
    const done = Math.min(size, iova + bytes - at);
    const refused = map(ledger, domain, at, memory.load64(entry + SG_ENTRY.phys), done, memory.load32(entry + SG_ENTRY.pgsize) >>> 0, prot);
    if (refused !== undefined) return refused;
    at += done;
  }
  return undefined;
}

function attachedTo(ledger: Ledger, key: string): DomainRecord | undefined {
  const state = ledger.states.get(key);
  return state === undefined ? undefined : ledger.domains.get(state);
}

/** Rules of {@link Ledger.record}, for accepted calls of the classes `iommu` and `power`. */
export const IOMMU_RULES: Partial<Readonly<Record<HypercallName, Rule>>> = {
  __pkvm_iommu_alloc_domain: (ledger, [, id]) => {
    if (id! < IOMMU_STATE.firstDomain || id! >= HOST_DOMAINS) return wrong(`alloc_domain: gave id ${id}, which is not the host's`, "I14");
    if (ledger.domains.has(id!)) return wrong(`alloc_domain: gave id ${id}, which is in use`);
    ledger.domains.set(id!, { maps: new Map<number, number>(), readable: new Set<number>(), attached: new Set<string>(), opaque: false });
    return undefined;
  },
  __pkvm_iommu_free_domain: (ledger, [id]) => {
    const domain = ledger.domains.get(id!);
    if (domain === undefined) return wrong(`free_domain: accepted for ${id}, which does not exist`);
    if (domain.attached.size > 0) return wrong(`free_domain: accepted for ${id}, which is attached`);
    for (const key of [...domain.maps.keys()]) unmap(ledger, domain, key);
    ledger.domains.delete(id!);
    return undefined;
  },
  __pkvm_iommu_map_pages: (ledger, [id, iova, pa, pgsize, pgcount, prot], bytes) => {
    const domain = ledger.domains.get(id!);
    if (domain === undefined) return wrong(`map_pages: accepted for domain ${id}, which does not exist`);
    if (bytes > pgsize! * pgcount!) return wrong("map_pages: mapped more than was asked for", "I4");
    if ((prot! & ~ALL_PROT) !== 0) return wrong(`map_pages: accepted prot ${hex(prot!)}`, "I4");
    if (bytes > 0 && (iova! % pgsize! !== 0 || pa! % pgsize! !== 0)) return wrong("map_pages: accepted a misaligned range", "I4");
    return map(ledger, domain, iova!, pa!, bytes, pgsize!, prot!);
  },
  __pkvm_iommu_map_sg: (ledger, [id, iova, list, , prot], bytes) => {
    const domain = ledger.domains.get(id!);
    if (domain === undefined) return wrong(`map_sg: accepted for domain ${id}, which does not exist`);
    return mapList(ledger, domain, iova!, list!, bytes, prot!);
  },
  __pkvm_iommu_unmap_pages: (ledger, [id, iova], bytes) => {
    const domain = ledger.domains.get(id!);
    if (domain === undefined) return wrong(`unmap_pages: accepted for domain ${id}, which does not exist`);
    for (let at = iova!; at < iova! + bytes; at += PAGE_SIZE) unmap(ledger, domain, Math.floor(at / PAGE_SIZE));
    return undefined;
  },
  __pkvm_iommu_set_state: (ledger, [, sid, pasid, state]) => {
    if (ledger.assigned.has(sid!)) return wrong(`set_state: accepted for StreamID ${hex(sid!)}, which a VM has`, "I14");
    const key = `${sid}.${pasid}`;
    const domain = state! >= IOMMU_STATE.firstDomain ? ledger.domains.get(state!) : undefined;
    if (state! >= IOMMU_STATE.firstDomain && domain === undefined) return wrong(`set_state: accepted domain ${state}, which does not exist`);
    attachedTo(ledger, key)?.attached.delete(key);
    // Without its table of contexts a stream has no PASIDs.
    if (pasid === 0 && domain === undefined) {
      for (const other of [...ledger.states.keys()]) {
        if (!other.startsWith(`${sid}.`)) continue;
        attachedTo(ledger, other)?.attached.delete(other);
        ledger.states.delete(other);
      }
    }
    ledger.states.set(key, state!);
    domain?.attached.add(key);
    return undefined;
  },
  __pkvm_device_assign: (ledger, [handle, , sid]) => {
    if (ledger.vms.get(handle!)?.alive !== true) return wrong(`device_assign: accepted for VM ${handle}, which does not exist`);
    if (ledger.assigned.has(sid!)) return wrong(`device_assign: accepted for StreamID ${hex(sid!)}, which a VM has`, "I14");
    for (const key of [...ledger.states.keys()]) {
      if (!key.startsWith(`${sid}.`)) continue;
      attachedTo(ledger, key)?.attached.delete(key);
      ledger.states.delete(key);
    }
    ledger.assigned.set(sid!, handle!);
    return undefined;
  },
  __pkvm_host_hvc_pd: (ledger, [, on]) => {
    ledger.powerOff = on === 0;
    return undefined;
  },
};
