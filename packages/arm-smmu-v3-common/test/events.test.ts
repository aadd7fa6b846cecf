import { EVENT, EVENT_WORDS, EVENTS, setAddress, setField } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import { decodeEvent, RateLimit } from "../src/index.ts";

describe("decodeEvent", () => {
  const input = { iova: 0x7_0000_8000 };
  test.each([
    { name: "C_BAD_STREAMID", fields: { SSV: 0, SSID: 9 }, expected: {} },
    { name: "C_BAD_STE", fields: { SSV: 1, SSID: 9 }, expected: { ssid: 9 } },
    // There is no SSV: the SubstreamID is what was bad.
    { name: "C_BAD_SUBSTREAMID", fields: { SSID: 9 }, expected: { ssid: 9 } },
    { name: "F_STREAM_DISABLED", fields: { SSV: 1, SSID: 9, RnW: 1 }, expected: {} },
    { name: "F_TRANSL_FORBIDDEN", fields: { RnW: 1 }, expected: { write: false, ...input } },
    { name: "F_PERMISSION", fields: { RnW: 0, STAG: 7 }, expected: { write: true, ...input } },
    { name: "F_TRANSLATION", fields: { RnW: 1, Stall: 1, STAG: 7 }, expected: { write: false, stag: 7, ...input } },
    { name: "F_CD_FETCH", fields: { Stall: 1, STAG: 7 }, expected: {} },
  ] as const)("the fields that $name has: $fields", ({ name, fields, expected }) => {
    const words = new Int32Array(EVENT_WORDS);
    setField(words, 0, EVENT.Type, EVENTS[name].type);
    setField(words, 0, EVENT.SID, 0x1234);
    setAddress(words, 0, EVENT.InputAddr, input.iova);
    for (const [field, value] of Object.entries(fields)) setField(words, 0, EVENT[field as "SSV" | "RnW"], value);
    expect(decodeEvent(words)).toEqual({ reason: name, sid: 0x1234, detail: words, ...expected });
  });

  test("an unknown event keeps its number and words", () => {
    const words = Int32Array.of(0xe0, 7, 0, 0, 0, 0, 0, 0);
    const event = decodeEvent(words);
    words.fill(0);
    expect(event).toEqual({ reason: "event 0xe0", sid: 7, detail: Int32Array.of(0xe0, 7, 0, 0, 0, 0, 0, 0) });
  });
});

test("RateLimit: ten of each five seconds", () => {
  const limit = new RateLimit();
  const admitted = (from: number, count: number): number =>
    Array.from({ length: count }, (_, i) => limit.admit(from + i)).filter(Boolean).length;
  expect([admitted(0, 4), admitted(1e9, 30), admitted(4_999_999_000, 5)]).toEqual([4, 6, 0]);
  expect([admitted(5_000_000_000, 30), admitted(9_999_999_999, 1), admitted(20_000_000_000, 3)]).toEqual([10, 0, 3]);
});
