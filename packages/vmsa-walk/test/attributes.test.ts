import { describe, expect, test } from "vitest";
import { attributesOf, combineAttributes, SH } from "../src/index.ts";

const { NSH, OSH, ISH } = SH;
const WB = 0xff;
const WT = 0xbb;
const NC = 0x44;
const GRE = 0x0c;
const nGRE = 0x08;
const nGnRE = 0x04;
const nGnRnE = 0x00;

function split(value: number): readonly [attr: number, sh: number] {
  return [value & 0xff, value >> 8];
}

describe("one stage (Arm ARM D8.6.1, D8.6.2)", () => {
  test.each([
    ["write-back keeps its shareability", WB, ISH, WB, ISH],
    ["SH = 01 is taken as Non-shareable", WB, 1, WB, NSH],
    ["Non-cacheable is Outer Shareable", NC, NSH, NC, OSH],
    ["Device is Outer Shareable", nGnRE, NSH, nGnRE, OSH],
    ["one cached level is enough to have a choice", 0x4f, ISH, 0x4f, ISH],
  ])("%s", (_name, attr, sh, outAttr, outSh) => {
    expect(split(attributesOf(attr, sh))).toEqual([outAttr, outSh]);
  });
});

describe("stage 2 without FWB (Arm ARM D8.6.5)", () => {
  test.each([
    ["both write-back", WB, NSH, 0b1111, NSH, WB, NSH],
    ["stage 2 weakens to write-through", WB, NSH, 0b1010, NSH, WT, NSH],
    ["stage 2 weakens to Non-cacheable", WB, ISH, 0b0101, ISH, NC, OSH],
    ["each level by itself", WB, NSH, 0b1101, ISH, 0xf4, ISH],
    ["stage 1 stays the weaker", WT, NSH, 0b1111, NSH, WT, NSH],
    ["transient and hints are those of stage 1", 0x5e, NSH, 0b1010, NSH, 0x1a, NSH],
    ["Device of stage 2 wins over Normal", WB, NSH, 0b0001, NSH, nGnRE, OSH],
    ["Device of stage 1 wins over Normal", nGRE, NSH, 0b1111, NSH, nGRE, OSH],
    ["the stronger Device type", nGRE, NSH, 0b0011, NSH, nGRE, OSH],
    ["the stronger Device type, of stage 2", GRE, NSH, 0b0000, NSH, nGnRnE, OSH],
    ["a reserved MemAttr", WB, NSH, 0b0100, NSH, nGnRnE, OSH],
    ["Outer Shareable is the widest", WB, ISH, 0b1111, OSH, WB, OSH],
    ["Inner Shareable of either", WB, NSH, 0b1111, ISH, WB, ISH],
  ])("%s", (_name, attr, sh, memAttr, sh2, outAttr, outSh) => {
    expect(split(combineAttributes(attr, sh, memAttr, sh2, false))).toEqual([outAttr, outSh]);
  });
});

describe("stage 2 with FWB (Arm ARM D8.6.6)", () => {
  test.each([
    ["110 forces write-back", NC, NSH, 0b110, NSH, WB, OSH],
    ["110 keeps the hints of stage 1", 0xbe, NSH, 0b110, NSH, 0xfe, NSH],
    ["110 over Device", nGnRnE, NSH, 0b110, NSH, WB, OSH],
    ["111 takes stage 1, Normal", WT, ISH, 0b111, NSH, WT, ISH],
    ["111 takes stage 1, Device", nGRE, NSH, 0b111, NSH, nGRE, OSH],
    ["101 makes Normal Non-cacheable", WB, ISH, 0b101, NSH, NC, OSH],
    ["101 keeps Device", nGRE, NSH, 0b101, NSH, nGRE, OSH],
    ["0xx makes Device", WB, NSH, 0b010, NSH, nGRE, OSH],
    ["0xx takes the stronger of two Device types", nGnRE, NSH, 0b011, NSH, nGnRE, OSH],
  ])("%s", (_name, attr, sh, memAttr, sh2, outAttr, outSh) => {
    expect(split(combineAttributes(attr, sh, memAttr, sh2, true))).toEqual([outAttr, outSh]);
  });
});
