// Every event record, field by field, at the bit positions of the figures of 7.3.
import { describe, expect, test } from "vitest";
import { ACCESS } from "@smmuv3/platform";
import { EVENTS } from "@smmuv3/smmu-v3-defs";
import type { EventName } from "@smmuv3/smmu-v3-defs";
import type { EventValues } from "../src/index.ts";
import { CDS, Rig, STRTAB } from "./rig.ts";

type Bits = readonly [msb: number, lsb: number];
const SUBSTREAM = { SSV: [11, 11], SSID: [31, 12] } as const;
const ACCESS_BITS = { PnU: [97, 97], InD: [98, 98], RnW: [99, 99] } as const;
const INPUT = { InputAddr: [191, 128] } as const;
const FETCH = { Reason: [79, 64], GPCF: [80, 80], FetchAddr: [247, 195] } as const;
const FAULT = {
  ...SUBSTREAM, STAG: [79, 64], Stall: [95, 95], ...ACCESS_BITS, NSIPA: [102, 102], S2: [103, 103], CLASS: [105, 104],
  IMPL_DEF: [127, 112], ...INPUT, IPA: [247, 204],
} as const;

const FIGURES: Readonly<Record<EventName, { type: number; fields: Readonly<Record<string, Bits>> }>> = {
  F_UUT: { type: 0x01, fields: { ...SUBSTREAM, Reason: [79, 64], ...ACCESS_BITS, ...INPUT } },
  C_BAD_STREAMID: { type: 0x02, fields: SUBSTREAM },
  F_STE_FETCH: { type: 0x03, fields: { ...SUBSTREAM, ...FETCH } },
  C_BAD_STE: { type: 0x04, fields: SUBSTREAM },
  F_BAD_ATS_TREQ: {
    type: 0x05,
    fields: { ...SUBSTREAM, AtsSpan: [67, 64], AtsP: [92, 92], AtsX: [93, 93], AtsW: [94, 94], AtsR: [95, 95], ...INPUT },
  },
  F_STREAM_DISABLED: { type: 0x06, fields: {} },
  F_TRANSL_FORBIDDEN: { type: 0x07, fields: { RnW: [99, 99], ...INPUT } },
  C_BAD_SUBSTREAMID: { type: 0x08, fields: { SSID: [31, 12] } },
  F_CD_FETCH: { type: 0x09, fields: { ...SUBSTREAM, ...FETCH } },
  C_BAD_CD: { type: 0x0a, fields: SUBSTREAM },
  F_WALK_EABT: {
    type: 0x0b,
    fields: { ...SUBSTREAM, ...FETCH, ...ACCESS_BITS, NSIPA: [102, 102], S2: [103, 103], CLASS: [105, 104], ...INPUT },
  },
  F_TRANSLATION: { type: 0x10, fields: FAULT },
  F_ADDR_SIZE: { type: 0x11, fields: FAULT },
  F_ACCESS: { type: 0x12, fields: FAULT },
  F_PERMISSION: {
    type: 0x13,
    fields: { ...FAULT, DirtyBit: [106, 106], AssuredOnly: [107, 107], TTRnW: [108, 108], Overlay: [109, 109] },
  },
  F_TLB_CONFLICT: {
    type: 0x20,
    fields: { ...SUBSTREAM, ConflictReason: [95, 64], ...ACCESS_BITS, NSIPA: [102, 102], S2: [103, 103], ...INPUT, IPA: [247, 204] },
  },
  F_CFG_CONFLICT: { type: 0x21, fields: { ...SUBSTREAM, ConflictReason: [95, 64] } },
  E_PAGE_REQUEST: {
    type: 0x24,
    fields: {
      ...SUBSTREAM, uX: [97, 97], uW: [98, 98], uR: [99, 99], pX: [101, 101], pW: [102, 102], pR: [103, 103], Span: [115, 108],
      ...INPUT,
    },
  },
  F_VMS_FETCH: { type: 0x25, fields: { ...SUBSTREAM, ...FETCH } },
};
const NAMES = Object.keys(FIGURES) as EventName[];
const SID = 0x1234;

/** The record with exactly these bits, beside the type and the StreamID. */
function record(type: number, fields: readonly Bits[]): number[] {
  const words = new Array<number>(8).fill(0);
  words[0] = type;
  words[1] = SID;
  for (const [msb, lsb] of fields) for (let bit = lsb; bit <= msb; bit++) words[bit >> 5]! |= 1 << (bit & 31);
  return words.map((word) => word >>> 0);
}

/** All ones in a field; an address has its own high bits and zero below. */
function ones([msb, lsb]: Bits, wide: boolean): number {
  // Bits of an address field keep their place: FetchAddr[55:3] is 247:195.
  return wide ? 2 ** 52 : 2 ** (msb - lsb + 1) - 1;
}

describe("7.3 the record, field by field", () => {
  test.each(NAMES.map((name) => ({ name, section: EVENTS[name].section })))("$section: $name", ({ name }) => {
    const { type, fields } = FIGURES[name];
    expect(EVENTS[name].type).toBe(type);
    for (const [field, at] of Object.entries(fields)) {
      const rig = new Rig({ cr0: 0xc });
      const wide = at[0] - at[1] >= 32;
      const values: EventValues = { [field]: ones(at, wide) };
      expect(rig.smmu.recordEvent(name, SID, values), field).toBe(true);
      // 2^52 in an address: bit 52 of the 64 that begin at a multiple of 64.
      const bits: Bits = wide ? [(at[1] & ~63) + 52, (at[1] & ~63) + 52] : at;
      expect(rig.events(), field).toEqual([record(type, [bits])]);
    }
  });

  test("no field beside those of the figure", () => {
    const all = new Set(NAMES.flatMap((name) => Object.keys(FIGURES[name].fields)));
    const rig = new Rig();
    for (const name of NAMES) {
      for (const field of all) {
        if (Object.hasOwn(FIGURES[name].fields, field)) continue;
        expect(() => rig.smmu.recordEvent(name, SID, { [field]: 1 }), `${name}.${field}`).toThrow(RangeError);
      }
    }
    expect(rig.events()).toEqual([]);
  });

  test("every event of the definitions has a figure", () => {
    expect([...NAMES].sort()).toEqual(Object.keys(EVENTS).sort());
  });
});

describe("7.3: IMPLEMENTATION DEFINED Reason", () => {
  const WIDTH: Readonly<Partial<Record<EventName, number>>> = {
    F_UUT: 16, F_STE_FETCH: 16, F_CD_FETCH: 16, F_WALK_EABT: 16, F_VMS_FETCH: 16, F_TLB_CONFLICT: 32, F_CFG_CONFLICT: 32,
  };
  test.each(NAMES)("%s", (name) => {
    const rig = new Rig({ policy: { reason: 0xcafe } });
    rig.smmu.recordEvent(name, SID);
    expect(rig.events()[0]![2]).toBe(WIDTH[name] === undefined ? 0 : 0xcafe);
  });

  test("in what the SMMU records itself", () => {
    const rig = new Rig({ policy: { reason: 0xbeef } });
    rig.memory.perm[rig.memory.pageIndex(STRTAB)] = 0;
    rig.access(1, 0);
    expect(rig.events()).toEqual([[0x03, 1, 0xbeef, 0, 0, 0, STRTAB + 64, 0]]);
  });
});

describe("7.3.2 F_UUT", () => {
  const LO = 0x4567_8abc;
  test.each<[string, number, number, readonly number[]]>([
    ["write", ACCESS.write, 0, [0x01, SID, 7, 0, LO, 0x12, 0, 0]],
    ["read", ACCESS.read, 0, [0x01, SID, 7, 1 << 3, LO, 0x12, 0, 0]],
    ["privileged fetch", ACCESS.privileged | ACCESS.instruction, 0, [0x01, SID, 7, 0b1110, LO, 0x12, 0, 0]],
    ["substream", ACCESS.ssidValid, 5, [0x01 | (1 << 11) | (5 << 12), SID, 7, 1 << 3, LO, 0x12, 0, 0]],
  ])("%s", (_name, flags, ssid, expected) => {
    // Permitted while SMMUEN is 0.
    for (const cr0 of [0xd, 0xc]) {
      const rig = new Rig({ cr0, policy: { uut: true, reason: 7 } });
      expect(rig.smmu.rejectUnsupported(SID, ssid, LO, 0x12, flags)).toBe(1);
      expect(rig.events()).toEqual([expected]);
    }
  });

  test("silent by policy", () => {
    const rig = new Rig();
    expect(rig.smmu.rejectUnsupported(SID, 0, LO, 0, 0)).toBe(1);
    expect(rig.events()).toEqual([]);
  });
});

test("7.3.9 C_BAD_SUBSTREAMID has no SSV: bit 11 is RES0", () => {
  const rig = new Rig();
  rig.stage1(1);
  rig.access(1, 0, ACCESS.ssidValid, 0xf_ffff);
  expect(rig.events()).toEqual([[0xffff_f008, 1, 0, 0, 0, 0, 0, 0]]);
});

test("5.5 silent by A and R: nothing is recorded", () => {
  const rig = new Rig();
  rig.stage1(1, { A: 0, R: 0 });
  rig.stage1(2, { A: 1, R: 0 });
  rig.stage1(3, { A: 0, R: 1 });
  expect([1, 2, 3].map((sid) => rig.access(sid, 0).result)).toEqual([2, 1, 2]);
  expect(rig.events().map(([type, sid]) => [type, sid])).toEqual([[0x10, 3]]);
});

test("7.3: a record is 32 bytes, the CD's address one of its words", () => {
  const rig = new Rig();
  rig.stage1(1);
  rig.memory.perm[rig.memory.pageIndex(CDS)] = 0;
  rig.access(1, 0, ACCESS.write);
  expect(rig.events()).toEqual([[0x09, 1, 0, 0, 0, 0, CDS + 64, 0]]);
});
