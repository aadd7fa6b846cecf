// Identities with ATS, PRI and ECMDQ, and what the tests of those share.
import { place, REG } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "../src/index.ts";
import type { AtsEndpoint, IdRegisters, InvalidationAnswer, InvalidationRequest, PageResponse } from "../src/index.ts";

const { IDR0, IDR1, IDR3, IDR6 } = REG;
const reference: IdRegisters = PRESETS.reference;

export const CR0_SMMUEN = 1;
export const CR0_PRIQEN = 2;
export const CR0_EVENTQEN = 4;
export const CR0_CMDQEN = 8;
export const CR0_ATSCHK = 16;
/** SMMUEN, EVENTQEN, CMDQEN. */
export const CR0_BASE: number = CR0_SMMUEN | CR0_EVENTQEN | CR0_CMDQEN;
export const CR2_RECINVSID = 2;
export const CR2_REC_CFG_ATS = 8;

/** The reference with ATS, PRI and the recording of their configuration errors, without PASIDTT and PPS. */
export const WITH_ATS: IdRegisters = {
  ...reference,
  IDR0: (reference.IDR0 & ~place(IDR0.NS1ATS, 1)) | place(IDR0.ATS, 1) | place(IDR0.PRI, 1) | place(IDR0.ATSRECERR, 1),
  IDR1: (reference.IDR1 & ~place(IDR1.PRIQS, 31)) | place(IDR1.PRIQS, 8),
  IDR3: reference.IDR3 & ~(place(IDR3.PASIDTT, 1) | place(IDR3.PPS, 1)),
};

export function withIdr3(id: IdRegisters, field: keyof typeof REG.IDR3): IdRegisters {
  return { ...id, IDR3: id.IDR3 | place(IDR3[field], 1) };
}

/** ECMDQ with 2^log2Pages control pages of 2^log2Queues queues. */
export function withEcmdqs(id: IdRegisters, log2Pages: number, log2Queues: number): IdRegisters {
  return {
    ...id,
    IDR1: id.IDR1 | place(IDR1.ECMDQ, 1),
    IDR6: place(IDR6.CMDQ_CONTROL_PAGE_LOG2NUMP, log2Pages) | place(IDR6.CMDQ_CONTROL_PAGE_LOG2NUMQ, log2Queues),
  };
}

/** A device that writes down what it receives. */
export class Endpoint implements AtsEndpoint {
  answer: InvalidationAnswer = "done";
  readonly invalidations: InvalidationRequest[] = [];
  readonly responses: PageResponse[] = [];

  invalidate(request: InvalidationRequest): InvalidationAnswer {
    this.invalidations.push(request);
    return this.answer;
  }

  pageResponse(response: PageResponse): void {
    this.responses.push(response);
  }
}

/** A row of a table whose last columns may be missing, for test.each. */
export function named<Row extends readonly [name: string, ...rest: unknown[]]>(row: Row): [name: string, row: Row] {
  return [row[0], row];
}
