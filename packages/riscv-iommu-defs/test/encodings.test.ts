import { describe, expect, test } from "vitest";
import {
  RV_CAUSE, RV_CMD, RV_DC_WORDS, rvAtpId, rvAtpMode, rvAtpRoot, rvIodirInvalDdt, rvIofence, rvIotinvalGvma, rvPpnAddress,
  rvPpnField, rvSetAtp, decodeRvFault,
} from "../src/index.ts";

/** The command as two 64-bit doublewords, as the specification draws it. */
function doublewords(words: Int32Array): bigint[] {
  const at = (i: number): bigint => BigInt.asUintN(32, BigInt(words[i]!));
  return [at(0) | (at(1) << 32n), at(2) | (at(3) << 32n)];
}

describe("commands", () => {
  const out = new Int32Array(4);
  test.each([
    ["IOTINVAL.GVMA, GSCID only", (): void => { rvIotinvalGvma(out, 0, 0x1234); }, [0x81n | (1n << 33n) | (0x1234n << 44n), 0n]],
    ["IOTINVAL.GVMA of an address", (): void => { rvIotinvalGvma(out, 0, 1, 0x12_3456_7000); },
      [0x81n | (1n << 10n) | (1n << 33n) | (1n << 44n), (0x12_3456_7000n >> 12n) << 10n]],
    ["IODIR.INVAL_DDT", (): void => { rvIodirInvalDdt(out, 0, 0xabcdef); }, [3n | (1n << 33n) | (0xabcdefn << 40n), 0n]],
    ["IOFENCE.C", (): void => { rvIofence(out, 0); }, [2n, 0n]],
  ] as const)("%s", (_name, encode, expected) => {
    out.fill(-1);
    encode();
    expect(doublewords(out)).toEqual(expected);
  });

  test("functions differ", () => {
    expect(new Set(Object.values(RV_CMD)).size).toBe(Object.keys(RV_CMD).length);
  });
});

describe("page numbers", () => {
  test.each([0, 0x1000, 0x8000_0000, 0xff_ffff_f000, 2 ** 52 - 4096])("address %d survives", (pa) => {
    const [lo, hi] = rvPpnField(pa);
    expect(rvPpnAddress(lo, hi)).toBe(pa);
    expect((BigInt.asUintN(32, BigInt(hi)) << 32n) | BigInt.asUintN(32, BigInt(lo))).toBe((BigInt(pa) >> 12n) << 10n);
  });

  test.each([[8, 0, 0x4000], [9, 0xffff, 2 ** 52 - 16384]])("iohgatp mode %d, GSCID %d, root %d", (mode, id, root) => {
    const dc = new Int32Array(RV_DC_WORDS);
    rvSetAtp(dc, 2, mode, id, root);
    expect([rvAtpMode(dc[3]!), rvAtpId(dc[3]!), rvAtpRoot(dc[2]!, dc[3]!)]).toEqual([mode, id, root]);
  });
});

test("a fault record decodes", () => {
  const record = new Int32Array(8);
  record[0] = RV_CAUSE.writeGuestPageFault;
  record[1] = (3 << 2) | (0x12345 << 8);
  record.set([0x2000, 1, 0x3001, 2], 4);
  expect(decodeRvFault(record)).toEqual({
    cause: 23, ttyp: 3, did: 0x12345, iotval: 0x1_0000_2000, iotval2: 0x2_0000_3001,
  });
});
