import { expect, test } from "vitest";
import {
  CD_BYTES,
  CD_WORDS,
  CMD,
  CMD_BYTES,
  CMD_WORDS,
  COMMAND_NAMES,
  COMMANDS,
  EVENT_BYTES,
  EVENT_NAMES,
  EVENT_WORDS,
  EVENTS,
  L1CD_BYTES,
  L1CD_WORDS,
  L1STD_BYTES,
  L1STD_WORDS,
  place,
  PRIQ_BYTES,
  PRIQ_WORDS,
  RESUME_RESP,
  STE_BYTES,
  STE_CONFIG,
  STE_WORDS,
} from "../src/index.ts";

test("sizes in bytes and words agree", () => {
  const sizes = [
    [STE_BYTES, STE_WORDS, 64], [CD_BYTES, CD_WORDS, 64], [CMD_BYTES, CMD_WORDS, 16], [EVENT_BYTES, EVENT_WORDS, 32],
    [PRIQ_BYTES, PRIQ_WORDS, 16], [L1STD_BYTES, L1STD_WORDS, 8], [L1CD_BYTES, L1CD_WORDS, 8],
  ] as const;
  for (const [bytes, words, expected] of sizes) expect([bytes, words * 4]).toEqual([expected, expected]);
});

test("opcodes and event types are distinct", () => {
  expect(COMMAND_NAMES.size).toBe(Object.keys(COMMANDS).length);
  expect(EVENT_NAMES.size).toBe(Object.keys(EVENTS).length);
});

test("opcodes of 4.1.1", () => {
  const opcodes = Object.values(COMMANDS).map(({ opcode }) => opcode);
  expect(opcodes).toEqual([
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x10, 0x11, 0x12, 0x13, 0x18, 0x1a, 0x20, 0x21, 0x22, 0x23, 0x28, 0x2a, 0x30, 0x40,
    0x41, 0x44, 0x45, 0x46, 0x50, 0x51, 0x52, 0x53, 0x58, 0x5a, 0x60, 0x70, 0x73,
  ]);
});

test("event numbers of 7.3, in the order of their sections from 7.3.2 on", () => {
  const defs = Object.values(EVENTS);
  expect(defs.map(({ type }) => type)).toEqual([
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x24, 0x25,
  ]);
  expect(defs.map(({ section }) => section)).toEqual(defs.map((_, i) => `7.3.${i + 2}`));
});

test("bits of STE.Config: translate by stage 1, by stage 2, not abort", () => {
  expect(STE_CONFIG).toEqual({ abort: 0, bypass: 4, s1: 4 | 1, s2: 4 | 2, nested: 4 | 2 | 1 });
});

test("RESUME_RESP is Ac and Ab of CMD_RESUME", () => {
  const at = (response: number): number => response << CMD.Ac.shift;
  expect(at(RESUME_RESP.terminate)).toBe(0);
  expect(at(RESUME_RESP.retry)).toBe(place(CMD.Ac, 1));
  expect(at(RESUME_RESP.abort)).toBe(place(CMD.Ab, 1));
});
