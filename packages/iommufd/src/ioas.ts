import { PAGE_SIZE } from "@smmuv3/platform";
import { DirtyBitmap } from "@smmuv3/iommu-core";
import type { IommuCore, IommuDomain, ReservedRegion } from "@smmuv3/iommu-core";
import { UAPI_ERRNO } from "./errno.ts";
import { IommufdObject } from "./objects.ts";
import type { UserMemory } from "./user-memory.ts";

/** A range of addresses, `last` inclusive. */
export interface IovaRange {
  readonly start: number;
  readonly last: number;
}

interface Reserved extends IovaRange {
  /** The device or domain that cannot have it. */
  readonly owner: object;
}

/** What one map request put there. */
interface Area extends IovaRange {
  readonly user: UserMemory;
  readonly userVa: number;
  /** IOMMU_READ and others. */
  readonly prot: number;
  readonly write: boolean;
  /** Physical pages, while a domain or a queue needs them. */
  pages: Float64Array | undefined;
  /** Queues in hardware that read them. */
  accesses: number;
}

/** Addresses above are not representable; whoever asks for them gets an overflow. */
const IOVA_END = Number.MAX_SAFE_INTEGER;
/** ULONG_MAX, as a structure's member is read. */
const ULONG_MAX = 2 ** 64;

function overlaps(a: IovaRange, b: IovaRange): boolean {
  return a.start <= b.last && b.start <= a.last;
}

/** What a map request says. */
export interface MapRequest {
  readonly user: UserMemory;
  readonly userVa: number;
  readonly length: number;
  /** The place; `undefined`: any. */
  readonly iova: number | undefined;
  readonly prot: number;
  readonly write: boolean;
}

/** An address space of IO page tables: what is mapped in it is in every page table over it. */
export class Ioas extends IommufdObject {
  readonly kind = "ioas";
  readonly #core: IommuCore;
  /** Ascending. */
  readonly #areas: Area[] = [];
  readonly #domains: IommuDomain[] = [];
  #reserved: Reserved[] = [];
  #allowed: readonly IovaRange[] | undefined = undefined;

  constructor(core: IommuCore) {
    super();
    this.#core = core;
  }

  /** What every address and length is a multiple of. */
  get alignment(): number {
    return Math.max(PAGE_SIZE, ...this.#domains.map(({ pageSizes }) => pageSizes[0] ?? PAGE_SIZE));
  }

  /** Bytes mapped. */
  get mapped(): number {
    return this.#areas.reduce((bytes, { start, last }) => bytes + last - start + 1, 0);
  }

  destroy(): void {
    this.unmap(0, ULONG_MAX);
  }

  /** Maps, and returns the IOVA; or -EINVAL, -EEXIST, -EFAULT, -ENOSPC, -EOVERFLOW, and what page tables return. */
  map(request: MapRequest): number {
    const { user, userVa, length, prot, write } = request;
    const { alignment } = this;
    if (length <= 0 || length % alignment !== 0 || userVa % PAGE_SIZE !== 0) return -UAPI_ERRNO.EINVAL;
    if (userVa + length > ULONG_MAX) return -UAPI_ERRNO.EOVERFLOW;
    const start = request.iova ?? this.#place(length);
    if (start < 0) return start;
    const status = request.iova === undefined ? 0 : this.#check(start, length);
    if (status < 0) return status;
    const area: Area = {
      start, last: start + length - 1, user, userVa, prot, write, pages: undefined, accesses: 0,
    };
    const filled = this.#fillAll(area);
    if (filled < 0) return filled;
    const at = this.#areas.findIndex((other) => other.start > start);
    this.#areas.splice(at < 0 ? this.#areas.length : at, 0, area);
    return start;
  }

  /** Unmaps whole areas. Bytes; -ENOENT where there is nothing, or an area that is not whole; -EBUSY for one that a queue reads. */
  unmap(iova: number, length: number): number {
    const all = iova === 0 && length >= ULONG_MAX;
    if (length === 0) return -UAPI_ERRNO.EINVAL;
    if (!all && iova + length > ULONG_MAX) return -UAPI_ERRNO.EOVERFLOW;
    const range = { start: iova, last: all ? IOVA_END : iova + length - 1 };
    let bytes = 0;
    for (let area = this.#first(range); area !== undefined; area = this.#first(range)) {
      if (area.start < range.start || area.last > range.last) return -UAPI_ERRNO.ENOENT;
      if (area.accesses > 0) return -UAPI_ERRNO.EBUSY;
      for (const domain of this.#domains) this.#core.unmap(domain, area.start, area.last - area.start + 1);
      this.#unpin(area);
      this.#areas.splice(this.#areas.indexOf(area), 1);
      bytes += area.last - area.start + 1;
    }
    return bytes === 0 && !all ? -UAPI_ERRNO.ENOENT : bytes;
  }

  /** What `[iova, iova + length)` is mapped to, as requests that map it elsewhere; -ENOENT at a hole. */
  copyOf(iova: number, length: number): Omit<MapRequest, "iova" | "prot" | "write">[] | number {
    const parts: Omit<MapRequest, "iova" | "prot" | "write">[] = [];
    for (let at = iova; at < iova + length; ) {
      const area = this.#first({ start: at, last: at });
      if (area === undefined) return -UAPI_ERRNO.ENOENT;
      const end = Math.min(area.last + 1, iova + length);
      parts.push({ user: area.user, userVa: area.userVa + (at - area.start), length: end - at });
      at = end;
    }
    return parts;
  }

  // --- ranges ---

  /** Every range that devices and page tables can use, ascending. */
  ranges(): IovaRange[] {
    return this.#holes(this.#reserved);
  }

  /** Limits where {@link map} without an address looks. -EADDRINUSE for what is reserved. */
  allow(ranges: readonly IovaRange[]): number {
    for (const [i, range] of ranges.entries()) {
      if (range.start > range.last || ranges.some((other, j) => i < j && overlaps(range, other))) return -UAPI_ERRNO.EINVAL;
    }
    if (ranges.some((range) => this.#reserved.some((other) => overlaps(range, other)))) return -UAPI_ERRNO.EADDRINUSE;
    this.#allowed = ranges.length === 0 ? undefined : ranges;
    return 0;
  }

  /** Keeps maps out of what `owner` cannot have. -EADDRINUSE where something is mapped or allowed: then nothing is reserved. */
  reserve(owner: object, ranges: readonly IovaRange[]): number {
    const taken = (range: IovaRange): boolean =>
      this.#areas.some((area) => overlaps(area, range)) || (this.#allowed ?? []).some((other) => overlaps(other, range));
    if (ranges.some(taken)) return -UAPI_ERRNO.EADDRINUSE;
    for (const { start, last } of ranges) this.#reserved.push({ start, last, owner });
    return 0;
  }

  /** Undoes {@link reserve}. */
  unreserve(owner: object): void {
    this.#reserved = this.#reserved.filter((range) => range.owner !== owner);
  }

  // --- page tables ---

  /** Maps everything in `domain` too, from now on. 0, or a negative errno with nothing of it mapped. */
  addDomain(domain: IommuDomain): number {
    const least = domain.pageSizes[0] ?? PAGE_SIZE;
    if (this.#areas.some(({ start, last }) => start % least !== 0 || (last + 1) % least !== 0)) return -UAPI_ERRNO.EADDRINUSE;
    const above = domain.apertureEnd < IOVA_END ? [{ start: domain.apertureEnd + 1, last: IOVA_END }] : [];
    let status = this.reserve(domain, above);
    if (status < 0) return status;
    const done: Area[] = [];
    for (const area of this.#areas) {
      status = this.#fill(area, domain);
      if (status < 0) break;
      done.push(area);
    }
    if (status === 0) {
      this.#domains.push(domain);
      return 0;
    }
    for (const area of done) this.#empty(area, domain);
    this.unreserve(domain);
    return status;
  }

  /** Takes everything out of `domain`. */
  removeDomain(domain: IommuDomain): void {
    this.#domains.splice(this.#domains.indexOf(domain), 1);
    for (const area of this.#areas) this.#empty(area, domain);
    this.unreserve(domain);
  }

  /** Makes clean what was mapped, or written to, in `domain` so far. 0 or a negative errno. */
  clearDirty(domain: IommuDomain): number {
    for (const { start, last } of this.#areas) {
      const bitmap = new DirtyBitmap(start, last - start + 1, domain.pageSizes[0] ?? PAGE_SIZE);
      const status = this.#core.readAndClearDirty(domain, bitmap);
      if (status < 0) return status;
    }
    return 0;
  }

  // --- queues that hardware reads ---

  /**
   * Keeps `[iova, iova + length)` mapped. Its physical address; -ENOENT where nothing is mapped, -EFAULT where the pages are not
   * contiguous.
   */
  pin(iova: number, length: number): number {
    const first = iova - (iova % PAGE_SIZE);
    const areas: Area[] = [];
    let next = -1;
    let pa = -1;
    for (let at = first; at < iova + length; at += PAGE_SIZE) {
      const area = this.#first({ start: at, last: at });
      if (area === undefined) return -UAPI_ERRNO.ENOENT;
      const page = area.user.phys(area.userVa + (at - area.start), area.write);
      if (page < 0) return page;
      if (pa < 0) pa = page;
      else if (page !== next) return -UAPI_ERRNO.EFAULT;
      next = page + PAGE_SIZE;
      if (!areas.includes(area)) areas.push(area);
    }
    for (const area of areas) {
      const status = this.#pinPages(area);
      if (status === 0) continue;
      if (this.#domains.length === 0) for (const other of areas) this.#unpin(other);
      return status;
    }
    for (const area of areas) area.accesses++;
    return pa + (iova - first);
  }

  /** Undoes {@link pin}. */
  unpin(iova: number, length: number): void {
    const range = { start: iova, last: iova + length - 1 };
    for (const area of this.#areas) {
      if (!overlaps(area, range)) continue;
      area.accesses--;
      if (this.#domains.length === 0) this.#unpin(area);
    }
  }

  #first(range: IovaRange): Area | undefined {
    return this.#areas.find((area) => overlaps(area, range));
  }

  #check(start: number, length: number): number {
    const range = { start, last: start + length - 1 };
    if (start + length > ULONG_MAX) return -UAPI_ERRNO.EOVERFLOW;
    if (start % this.alignment !== 0 || range.last > IOVA_END) return -UAPI_ERRNO.EINVAL;
    if (this.#reserved.some((other) => overlaps(other, range))) return -UAPI_ERRNO.EINVAL;
    return this.#first(range) === undefined ? 0 : -UAPI_ERRNO.EEXIST;
  }

  /** The lowest free address for `length` bytes, as aligned as they are; or -ENOSPC. */
  #place(length: number): number {
    const { alignment } = this;
    let align = alignment;
    while (align * 2 <= length && length % (align * 2) === 0) align *= 2;
    const free = this.#holes([...this.#reserved, ...this.#areas]);
    for (const hole of free) {
      for (const part of this.#allowed ?? [hole]) {
        // Address 0 is not given out.
        const start = Math.ceil(Math.max(hole.start, part.start, alignment) / align) * align;
        if (start + length - 1 <= Math.min(hole.last, part.last)) return start;
      }
    }
    return -UAPI_ERRNO.ENOSPC;
  }

  #holes(taken: readonly IovaRange[]): IovaRange[] {
    const holes: IovaRange[] = [];
    let start = 0;
    for (const range of [...taken].sort((a, b) => a.start - b.start)) {
      if (range.start > start) holes.push({ start, last: range.start - 1 });
      start = Math.max(start, range.last + 1);
    }
    if (start <= IOVA_END) holes.push({ start, last: IOVA_END });
    return holes;
  }

  #pinPages(area: Area): number {
    if (area.pages !== undefined) return 0;
    const pages = area.user.pin(area.userVa, area.last - area.start + 1, area.write);
    if (typeof pages === "number") return pages;
    area.pages = pages;
    return 0;
  }

  #unpin(area: Area): void {
    if (area.pages === undefined || area.accesses > 0) return;
    area.user.unpin(area.pages);
    area.pages = undefined;
  }

  /** Maps `area` in every domain. */
  #fillAll(area: Area): number {
    for (const [i, domain] of this.#domains.entries()) {
      const status = this.#fill(area, domain);
      if (status === 0) continue;
      for (const other of this.#domains.slice(0, i)) this.#core.unmap(other, area.start, area.last - area.start + 1);
      this.#unpin(area);
      return status;
    }
    return 0;
  }

  #fill(area: Area, domain: IommuDomain): number {
    const pinned = this.#pinPages(area);
    if (pinned < 0) return pinned;
    const pages = area.pages!;
    for (let at = 0; at < pages.length; ) {
      let end = at + 1;
      while (end < pages.length && pages[end] === pages[end - 1]! + PAGE_SIZE) end++;
      const iova = area.start + at * PAGE_SIZE;
      const status = this.#core.map(domain, iova, pages[at]!, (end - at) * PAGE_SIZE, area.prot);
      if (status < 0) {
        if (at > 0) this.#core.unmap(domain, area.start, at * PAGE_SIZE);
        if (this.#domains.length === 0) this.#unpin(area);
        return status;
      }
      at = end;
    }
    return 0;
  }

  #empty(area: Area, domain: IommuDomain): void {
    this.#core.unmap(domain, area.start, area.last - area.start + 1);
    if (this.#domains.length === 0) this.#unpin(area);
  }
}

/** Regions of a device that nothing may be mapped in. */
export function deviceRanges(regions: readonly ReservedRegion[]): IovaRange[] {
  return regions
    .filter(({ type }) => type !== "direct-relaxable")
    .map(({ start, length }) => ({ start, last: start + length - 1 }));
}
