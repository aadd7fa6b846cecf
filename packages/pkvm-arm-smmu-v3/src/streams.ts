import {
  cdUsed,
  cfgiCd,
  makeCdtableSte,
  makeS1Cd,
  makeS2Ste,
  vtcrBits,
} from "@smmuv3/arm-smmu-v3-common";
import { IOMMU_DOMAIN_TYPE, IOMMU_NO_PASID } from "@smmuv3/pkvm-abi";
import type { HypCore } from "@smmuv3/pkvm-hyp";
import { ERRNO, PAGE_SIZE } from "@smmuv3/platform";
import { CD, CD_BYTES, CD_WORDS, CMD_WORDS, getField, maskOf, STE, STE_CONFIG, STE_S1DSS, STE_S1FMT, STE_WORDS } from "@smmuv3/smmu-v3-defs";

import type { HypSmmu } from "./smmu.ts";
import type { AddressSpace } from "./space.ts";

/** A CD table is linear and has 64 KiB at most, as large a block as EL2 asks the host for. */
const MAX_TABLE = 0x1_0000;
const CD_V: number = maskOf(CD.V);

/** What a stream has of domains. */
interface Stream {
  /** Domain of transactions without a PASID. */
  rid: AddressSpace | undefined;
  /** Table of CDs and its bytes; 0: none. */
  table: number;
  bytes: number;
  /** Domains of PASIDs. */
  readonly substreams: Map<number, AddressSpace>;
}

/**
 * The streams of one SMMU that lead to domains. The caller holds the SMMU's lock. Results are 0 or a negative errno with the
 * hardware as it was.
 *
 * A stage-1 stream has a table of CDs, S1DSS = SSID0. A CD that is in use is not rewritten, which could not be hitless: a copy of
 * the table with the new CD takes the old one's place, one quadword of the STE. While only PASIDs are attached, CD 0 is invalid, which
 * blocks the rest.
 */
export class Streams {
  readonly #core: HypCore;
  readonly #smmu: HypSmmu;
  readonly #streams = new Map<number, Stream>();
  readonly #cd: Int32Array = new Int32Array(CD_WORDS);
  readonly #one: Int32Array = new Int32Array(CMD_WORDS);

  constructor(core: HypCore, smmu: HypSmmu) {
    this.#core = core;
    this.#smmu = smmu;
  }

  /** `sid`, or one PASID of it, to `space`. -EBUSY: PASIDs are attached that the new state cannot keep; -E2BIG: no such PASID. */
  attach(sid: number, pasid: number, space: AddressSpace): number {
    const stream: Stream = this.#streams.get(sid) ?? { rid: undefined, table: 0, bytes: 0, substreams: new Map<number, AddressSpace>() };
    const old = pasid === IOMMU_NO_PASID ? stream.rid : stream.substreams.get(pasid);
    if (old === space) return 0;
    space.enter(this.#smmu);
    const status =
      space.stage === IOMMU_DOMAIN_TYPE.s1
        ? this.#attachStage1(sid, pasid, stream, space)
        : this.#attachStage2(sid, pasid, stream, space);
    if (status < 0) {
      space.leave(this.#smmu);
      return status;
    }
    if (pasid === IOMMU_NO_PASID) stream.rid = space;
    else stream.substreams.set(pasid, space);
    this.#streams.set(sid, stream);
    old?.leave(this.#smmu);
    return 0;
  }

  /** `sid` to an STE without a domain, which `ste` is. -EBUSY while PASIDs are attached. */
  detach(sid: number, ste: Int32Array): number {
    const stream = this.#streams.get(sid);
    if (stream !== undefined && stream.substreams.size > 0) return -ERRNO.EBUSY;
    const status = this.#smmu.writeSte(sid, ste);
    if (status < 0 || stream === undefined) return status;
    this.#streams.delete(sid);
    this.#freeTable(stream.table, stream.bytes);
    stream.rid?.leave(this.#smmu);
    return 0;
  }

  /** `sid` without PASID, or one PASID of it, is blocked. Needs no memory. -ETIMEDOUT: the SMMU may not know. */
  block(sid: number, pasid: number): number {
    const stream = this.#streams.get(sid);
    if (stream === undefined) return pasid === IOMMU_NO_PASID ? this.#smmu.blockSid(sid) : 0;
    const rid = pasid === IOMMU_NO_PASID;
    const space = rid ? stream.rid : stream.substreams.get(pasid);
    if (!rid && space === undefined) return 0;
    const last = rid ? stream.substreams.size === 0 : stream.substreams.size === 1 && stream.rid === undefined;
    this.#cd.fill(0);
    const status = last ? this.#smmu.blockSid(sid) : this.#writeCd(sid, pasid, stream, true);
    // The tables say so in any case. What an SMMU that does not answer may still use is never given away.
    if (last) this.#streams.delete(sid);
    else if (rid) stream.rid = undefined;
    else stream.substreams.delete(pasid);
    if (status < 0) return status;
    if (last) this.#freeTable(stream.table, stream.bytes);
    space?.leave(this.#smmu);
    return 0;
  }

  #attachStage2(sid: number, pasid: number, stream: Stream, { table, id }: AddressSpace): number {
    if (pasid !== IOMMU_NO_PASID) return -ERRNO.EINVAL;
    if (stream.substreams.size > 0) return -ERRNO.EBUSY;
    const { ste, features } = this.#smmu;
    makeS2Ste(ste, { ttb: table.pgd, vtcr: vtcrBits(table.vtcr), vmid: id }, { attrTypesOvr: features.attrTypesOvr });
    const status = this.#smmu.writeSte(sid, ste);
    if (status === 0) this.#freeTable(stream.table, stream.bytes);
    if (status === 0) stream.table = stream.bytes = 0;
    return status;
  }

  #attachStage1(sid: number, pasid: number, stream: Stream, space: AddressSpace): number {
    const { ssidBits } = this.#smmu.features;
    const entries = Math.min(2 ** ssidBits, MAX_TABLE / CD_BYTES);
    if (pasid >= entries) return -ERRNO.E2BIG;
    // The identity map and stage 2 leave no place for PASIDs.
    if (pasid !== IOMMU_NO_PASID && stream.table === 0 && this.#translates(sid)) return -ERRNO.EBUSY;
    this.#makeCd(space);
    const fits = (pasid + 1) * CD_BYTES <= stream.bytes;
    if (fits && (this.#core.cpu.memory.load32(stream.table + pasid * CD_BYTES) & CD_V) === 0) {
      return this.#writeCd(sid, pasid, stream, false);
    }
    return this.#swapTable(sid, pasid, stream);
  }

  /** A copy of the table with the new CD, or a larger or a first table, takes the old one's place. */
  #swapTable(sid: number, pasid: number, stream: Stream): number {
    const { cpu, iommuPool } = this.#core;
    const { table, bytes } = stream;
    let size = Math.max(bytes, PAGE_SIZE);
    while (size < (pasid + 1) * CD_BYTES) size *= 2;
    const copy = iommuPool.alloc(size, "streamTables");
    if (copy < 0) return copy;
    for (let at = 0; at < bytes; at += 4) cpu.memory.store32(copy + at, cpu.memory.load32(table + at));
    cpu.memory.write(copy + pasid * CD_BYTES, this.#cd);
    cpu.barrier();
    stream.table = copy;
    stream.bytes = size;
    const status = this.#writeSte(sid, stream);
    if (status === 0) this.#freeTable(table, bytes);
    else {
      stream.table = table;
      stream.bytes = bytes;
      // An SMMU that does not answer may have seen the copy: nobody else gets that memory.
      if (status !== -ERRNO.ETIMEDOUT) this.#freeTable(copy, size);
    }
    return status;
  }

  /** The CD of `space`, in the making. */
  #makeCd({ table, id }: AddressSpace): void {
    const { lo, hi } = table.mair;
    makeS1Cd(this.#cd, {
      ttb: table.ttbr,
      tcr: table.tcr,
      mairLo: lo,
      mairHi: hi,
      asid: id,
      stall: this.#smmu.features.stallForce,
      dirty: false,
    });
  }

  #writeCd(sid: number, pasid: number, stream: Stream, persist: boolean): number {
    return this.#smmu.replace({
      pa: stream.table + pasid * CD_BYTES,
      target: this.#cd,
      used: cdUsed,
      valid: CD_V,
      persist,
      sync: () => {
        cfgiCd(this.#one, 0, sid, pasid, true);
        return this.#smmu.issue(this.#one, 1, true);
      },
    });
  }

  #writeSte(sid: number, stream: Stream): number {
    const { ste, features } = this.#smmu;
    const s1cdmax = Math.min(Math.log2(stream.bytes / CD_BYTES), features.ssidBits);
    const table = { pa: stream.table, s1fmt: STE_S1FMT.linear, s1cdmax, s1dss: STE_S1DSS.ssid0, stallDisable: features.stalls };
    makeCdtableSte(ste, table, { attrTypesOvr: features.attrTypesOvr, stall: features.stallForce });
    return this.#smmu.writeSte(sid, ste);
  }

  /** True when the STE of `sid` lets anything pass. */
  #translates(sid: number): boolean {
    const pa = this.#smmu.steAddress(sid);
    if (pa < 0) return false;
    const ste = new Int32Array(STE_WORDS);
    this.#core.cpu.memory.read(pa, ste);
    return getField(ste, 0, STE.V) === 1 && getField(ste, 0, STE.Config) !== STE_CONFIG.abort;
  }

  #freeTable(pa: number, bytes: number): void {
    if (bytes > 0) this.#core.iommuPool.free(pa, bytes, "streamTables");
  }
}
