import { describe, expect, test } from "vitest";
import {
  CMD,
  EVENT,
  L1STD,
  printCommand,
  printEvent,
  printField,
  printFields,
  setAddress,
  setField,
  STE,
  STE_WORDS,
} from "../src/index.ts";

describe("printField", () => {
  test.each([
    [9, "SID=9"],
    [10, "SID=0xa"],
    [0xffffffff, "SID=0xffffffff"],
    [0, "SID=0"],
  ])("%d", (value, text) => {
    const words = new Int32Array(4);
    setField(words, 0, CMD.SID, value);
    expect(printField(words, 0, CMD.SID)).toBe(text);
  });

  test.each([
    [[0, 0], "InputAddr=0x0"],
    [[0x1000, 0], "InputAddr=0x1000"],
    [[0x1000, 1], "InputAddr=0x100001000"],
    [[-1, -1], "InputAddr=0xffffffffffffffff"],
  ])("64 bits are exact: %j", ([lo, hi], text) => {
    const words = new Int32Array(8);
    words.set([lo!, hi!], 4);
    expect(printField(words, 0, EVENT.InputAddr)).toBe(text);
  });
});

test("printFields leaves out zeros and nothing else", () => {
  const words = new Int32Array(STE_WORDS);
  expect(printFields(STE, words)).toBe("");
  setField(words, 0, STE.V, 1);
  setField(words, 0, STE.Config, 5);
  setField(words, 0, STE.S1CDMax, 10);
  setAddress(words, 0, STE.S1ContextPtr, 0x1_0000_0000);
  expect(printFields(STE, words)).toBe("V=1 Config=5 S1ContextPtr=0x100000000 S1CDMax=0xa");
  expect(printFields(L1STD, Int32Array.of(0, 0, 0x2009, 0), 2)).toBe("Span=9 L2Ptr=0x2000");
});

describe("printCommand", () => {
  test.each([
    [[0x46, 0, 0, 0], "CMD_SYNC"],
    [[0x0fc02046, 0, 0, 0], "CMD_SYNC CS=2 MSH=3 MSIAttr=0xf"],
    [[0x4, 0, 0x1f, 0], "CMD_CFGI_STE_RANGE Range=0x1f"],
    [[0x1a012, 0x20000, 0xfffc0701 | 0, 1], "CMD_TLBI_NH_VA ASID=2 NUM=0x1a Leaf=1 TTL=3 TG=1 Address=0x1fffc0000"],
    [[0x40, 8, 52, 0], "CMD_ATC_INV SID=8 AtcSize=0x34"],
    [[0x1044, 7, 3, 0], "CMD_RESUME Ac=1 SID=7 STAG=3"],
    [[0x5a, 1, 2, 0], "CMD_TLBI_S_S2_IPA VMID=1 TlbiNS=1"],
    [[0x73, 0, 0x1c01, 0], "CMD_DPTI_PA Leaf=1 DptSize=0xc Address=0x1000"],
    [[0xff, 0, 0, 0], "reserved opcode 0xff"],
    [[0, 0, 0, 0], "reserved opcode 0x0"],
  ])("%j", (words, text) => {
    expect(printCommand(Int32Array.from(words))).toBe(text);
    expect(printCommand(Int32Array.from([-1, ...words]), 1)).toBe(text);
  });
});

describe("printEvent", () => {
  test.each([
    [
      [0x10, 80, 0, 0x208, 0, 0x30, 0, 0],
      "F_TRANSLATION SID=0x50 RnW=1 CLASS=2 InputAddr=0x3000000000",
    ],
    [
      [0x13, 80, 0x80000005 | 0, 0x1188, 0x30, 0x10, 0x34, 0x10],
      "F_PERMISSION SID=0x50 STAG=5 Stall=1 RnW=1 S2=1 CLASS=1 InputAddr=0x1000000030 IPA=0x1000000000 TTRnW=1",
    ],
    [[0x3, 1, 0x10007, 0, 0, 0, 0x1008, 1], "F_STE_FETCH SID=1 Reason=7 GPCF=1 FetchAddr=0x100001008"],
    [[0x2004 | 0x800, 1, 0, 0, 0, 0, 0, 0], "C_BAD_STE SID=1 SSV=1 SSID=2"],
    [[0x2008, 1, 0, 0, 0, 0, 0, 0], "C_BAD_SUBSTREAMID SID=1 SSID=2"],
    [[0x06, 0, 0, 0, 0, 0, 0, 0], "F_STREAM_DISABLED SID=0"],
    [[0x24, 1, 0, 0x1028, 0x1000, 0, 0, 0], "E_PAGE_REQUEST SID=1 pX=1 uR=1 Span=1 InputAddr=0x1000"],
    [[0xe0, 1, 0, 0, 0, 0, 0, 0], "event 0xe0 SID=1"],
  ])("%j", (words, text) => {
    expect(printEvent(Int32Array.from(words))).toBe(text);
    expect(printEvent(Int32Array.from([-1, ...words]), 1)).toBe(text);
  });
});
