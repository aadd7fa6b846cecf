// A small machine in memory, written by the tests: registers of an SMMU with both stages, a stream table, CDs and tables.
import { CD, setAddress, setField, STE, STE_CONFIG } from "@smmuv3/smmu-v3-defs";

export const AT = {
  strtab: 0x4100_4000,
  level0: 0x4100_3000,
  level1: 0x4100_8000,
  level2: 0x4100_9000,
  level3: 0x4100_a000,
  cd: 0x4100_b000,
  eventq: 0x4100_1000,
  cmdq: 0x4100_0000,
  data: 0x6000_0000,
} as const;
export const SID = 8;
/** Mapped by the tables of {@link Image.tables} to `AT.data`. */
export const IOVA = 0x1234_5000;

const AF = 0x400;
export const TABLE = 3;
/** Low bits of pages: stage 1 inner shareable, stage 2 Normal memory. */
export const LEAF: Readonly<Record<"s1" | "s1Privileged" | "s2" | "s2ReadOnly", number>> = {
  s1: 0x343 | AF, s1Privileged: 0x303 | AF, s2: 0xff | AF, s2ReadOnly: 0x7f | AF,
};

/** IDR values of QEMU with both stages. */
export const REGISTERS: Readonly<Record<string, string>> = {
  IDR0: "0xd44101b", IDR1: "0x2730010", IDR3: "0x1414", IDR5: "0x74", CR0: "0xd", CR0ACK: "0xd", CR1: "0xd75", CR2: "0x0",
  GBPA: "0x1000", GERROR: "0x0", GERRORN: "0x0", STRTAB_BASE: "0x4000000041004000", STRTAB_BASE_CFG: "0x8",
  CMDQ_BASE: "0x4000000041000007", CMDQ_PROD: "0x2", CMDQ_CONS: "0x1", EVENTQ_BASE: "0x4000000041001007", EVENTQ_PROD: "0x1",
  EVENTQ_CONS: "0x0",
};

/** Physical memory, as pages that are made when written. */
export class Image {
  readonly pages: Map<number, Int32Array> = new Map<number, Int32Array>();

  words(pa: number): { words: Int32Array; at: number } {
    const base = pa - (pa % 4096);
    const words = this.pages.get(base) ?? new Int32Array(1024);
    this.pages.set(base, words);
    return { words, at: (pa % 4096) / 4 };
  }

  store64(pa: number, value: number | bigint): this {
    const { words, at } = this.words(pa);
    const big = BigInt(value);
    words[at] = Number(BigInt.asIntN(32, big));
    words[at + 1] = Number(BigInt.asIntN(32, big >> 32n));
    return this;
  }

  ste(config: number, fields: Readonly<Partial<Record<keyof typeof STE, number>>> = {}, sid: number = SID): this {
    const { words, at } = this.words(AT.strtab + sid * 64);
    const s1 = config === STE_CONFIG.s1 || config === STE_CONFIG.nested;
    const s2 = config === STE_CONFIG.s2 || config === STE_CONFIG.nested;
    const all = {
      V: 1, Config: config,
      ...(s1 ? { S1ContextPtr: AT.cd } : {}),
      ...(s2 ? { S2T0SZ: 25, S2SL0: 1, S2PS: 4, S2AA64: 1, S2R: 1, S2VMID: 1, S2TTB: AT.level1 } : {}),
      ...fields,
    };
    for (const [name, value] of Object.entries(all)) {
      const field = STE[name as keyof typeof STE];
      if ("loMask" in field) setAddress(words, at, field, value);
      else setField(words, at, field, value);
    }
    return this;
  }

  cd(fields: Readonly<Partial<Record<keyof typeof CD, number>>> = {}): this {
    const { words, at } = this.words(AT.cd);
    const all = { V: 1, AA64: 1, T0SZ: 25, EPD1: 1, IPS: 4, A: 1, R: 1, ASID: 5, TTB0: AT.level1, ...fields };
    for (const [name, value] of Object.entries(all)) {
      const field = CD[name as keyof typeof CD];
      if ("loMask" in field) setAddress(words, at, field, value);
      else setField(words, at, field, value);
    }
    return this;
  }

  /** Three levels that map {@link IOVA} to `AT.data` with the low bits `leaf`; `root` is the level-1 table. */
  tables(leaf: number, root: number = AT.level1): this {
    return this.store64(root, AT.level2 | TABLE)
      .store64(AT.level2 + (IOVA >>> 21) * 8, AT.level3 | TABLE)
      .store64(AT.level3 + ((IOVA >>> 12) & 511) * 8, AT.data | leaf);
  }

  /** `mem` of a recorded case. */
  mem(): { pa: string; q: Record<string, string> }[] {
    return [...this.pages].map(([pa, words]) => {
      const q: Record<string, string> = {};
      for (let i = 0; i < 1024; i += 2) {
        const value = (BigInt(words[i + 1]! >>> 0) << 32n) | BigInt(words[i]! >>> 0);
        if (value !== 0n) q[`0x${(i * 4).toString(16)}`] = `0x${value.toString(16)}`;
      }
      return { pa: `0x${pa.toString(16)}`, q };
    });
  }

  /** Pages in ascending order, and their bytes. */
  bytes(): { pa: number; bytes: Buffer }[] {
    return [...this.pages].sort(([a], [b]) => a - b).map(([pa, words]) => ({ pa, bytes: Buffer.from(words.slice().buffer) }));
  }
}

/** An access as a case records it. */
export interface AccessLine {
  readonly sid?: number;
  readonly iova?: string;
  readonly len?: number;
  readonly write?: boolean;
  readonly outcome?: string;
  readonly ok?: boolean;
  readonly pa?: string;
  readonly events?: readonly (readonly string[])[];
}

/** One line of a case file. */
export function caseLine(name: string, image: Image, access: readonly AccessLine[], regs: Readonly<Record<string, string>> = {}): string {
  const hex = `0x${IOVA.toString(16)}`;
  return `${JSON.stringify({
    name, need: 1, regs: { ...REGISTERS, ...regs }, mem: image.mem(),
    access: access.map((a) => ({ sid: SID, iova: hex, len: 4, write: false, events: [], ...a })),
  })}\n`;
}
