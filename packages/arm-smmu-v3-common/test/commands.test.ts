import { getAddress, CMD, CMD_WORDS, printCommand, reservedCommandBits } from "@smmuv3/smmu-v3-defs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  atcInv,
  cfgiAll,
  cfgiCd,
  cfgiCdAll,
  cfgiSte,
  prefetchConfig,
  priResp,
  resume,
  sync,
  tlbiEl2All,
  tlbiEl2Asid,
  tlbiEl2Va,
  tlbiNhAll,
  tlbiNhAsid,
  tlbiNhVa,
  tlbiNhVaa,
  tlbiNsnhAll,
  tlbiS12Vmall,
  tlbiS2Ipa,
} from "../src/index.ts";

type Build = (out: Int32Array, at: number) => void;

const CASES: [Build, string][] = [
  [(o, a) => { cfgiSte(o, a, 0x123, true); }, "CMD_CFGI_STE SID=0x123 Leaf=1"],
  [(o, a) => { cfgiSte(o, a, -1, false); }, "CMD_CFGI_STE SID=0xffffffff"],
  [cfgiAll, "CMD_CFGI_STE_RANGE Range=0x1f"],
  [(o, a) => { cfgiCd(o, a, 5, 0xabcde, true); }, "CMD_CFGI_CD SSID=0xabcde SID=5 Leaf=1"],
  [(o, a) => { cfgiCdAll(o, a, 5); }, "CMD_CFGI_CD_ALL SID=5"],
  [(o, a) => { prefetchConfig(o, a, 9); }, "CMD_PREFETCH_CONFIG SID=9"],
  [tlbiNsnhAll, "CMD_TLBI_NSNH_ALL"],
  [tlbiEl2All, "CMD_TLBI_EL2_ALL"],
  [(o, a) => { tlbiNhAll(o, a, 0xffff); }, "CMD_TLBI_NH_ALL VMID=0xffff"],
  [(o, a) => { tlbiNhAsid(o, a, 1, 0x8001); }, "CMD_TLBI_NH_ASID VMID=1 ASID=0x8001"],
  [(o, a) => { tlbiEl2Asid(o, a, 2); }, "CMD_TLBI_EL2_ASID ASID=2"],
  [(o, a) => { tlbiS12Vmall(o, a, 3); }, "CMD_TLBI_S12_VMALL VMID=3"],
  [(o, a) => { tlbiNhVa(o, a, 1, 2, 0, 0x5000 | 1, 4); }, "CMD_TLBI_NH_VA VMID=1 ASID=2 Leaf=1 Address=0x400005000"],
  [(o, a) => { tlbiNhVaa(o, a, 1, 0, 0x5000, 0); }, "CMD_TLBI_NH_VAA VMID=1 Address=0x5000"],
  [(o, a) => { tlbiEl2Va(o, a, 2, 0, 0x5000, 0); }, "CMD_TLBI_EL2_VA ASID=2 Address=0x5000"],
  [(o, a) => { tlbiS2Ipa(o, a, 7, 0, 0x5000, 0); }, "CMD_TLBI_S2_IPA VMID=7 Address=0x5000"],
  [(o, a) => { resume(o, a, 4, 0xbeef, 1); }, "CMD_RESUME Ac=1 SID=4 STAG=0xbeef"],
  [(o, a) => { resume(o, a, 4, 0xbeef, 2); }, "CMD_RESUME Ab=1 SID=4 STAG=0xbeef"],
  [(o, a) => { priResp(o, a, 4, 6, 3, 2); }, "CMD_PRI_RESP SSV=1 SSID=6 SID=4 PRGIndex=3 Resp=2"],
  [(o, a) => { priResp(o, a, 4, -1, 3, 0); }, "CMD_PRI_RESP SID=4 PRGIndex=3"],
  [(o, a) => { atcInv(o, a, 8, 0, 0, 0); }, "CMD_ATC_INV SID=8 AtcSize=0x34"],
  [(o, a) => { atcInv(o, a, 8, 1, 0x8000, 0x4000); }, "CMD_ATC_INV SSV=1 SSID=1 SID=8 AtcSize=2 Address=0x8000"],
  [(o, a) => { atcInv(o, a, 8, 0, 0x7000, 0x4000); }, "CMD_ATC_INV SID=8 AtcSize=4"],
  [(o, a) => { atcInv(o, a, 8, 0, 0x3000, 0x1000); }, "CMD_ATC_INV SID=8 Address=0x3000"],
  [(o, a) => { sync(o, a, 2); }, "CMD_SYNC CS=2"],
];

describe("command builders", () => {
  test.each(CASES)("%#: %s", (build, text) => {
    const at = CMD_WORDS;
    const out = new Int32Array(3 * CMD_WORDS).fill(-1);
    build(out, at);
    expect(printCommand(out, at)).toBe(text);
    // No reserved bit is set, and nothing outside of the four words is touched.
    const reserved = reservedCommandBits(out[at]! & 0xff)!;
    expect([...reserved].map((mask, i) => mask & out[at + i]!)).toEqual([0, 0, 0, 0]);
    expect([...out.subarray(0, at), ...out.subarray(at + CMD_WORDS)]).toEqual(new Array<number>(8).fill(-1));
  });

  test("ATC_INV covers its range with the smallest aligned span", () => {
    const out = new Int32Array(CMD_WORDS);
    const pageCount = fc.nat(12).chain((bits) => fc.integer({ min: 1, max: 2 ** bits }));
    fc.assert(
      fc.property(fc.nat(2 ** 20), pageCount, (first, pages) => {
        atcInv(out, 0, 1, 0, first * 4096, pages * 4096);
        const span = 2 ** (out[2]! & 0x3f);
        const start = getAddress(out, 0, CMD.Address) / 4096;
        expect(start % span).toBe(0);
        expect(start <= first && start + span >= first + pages).toBe(true);
        // Half of it would not do.
        const half = span / 2;
        expect(span === 1 || Math.floor(first / half) !== Math.floor((first + pages - 1) / half)).toBe(true);
      }),
      { seed: 12345, numRuns: 2000 },
    );
  });
});
