// Damages a real recording in thousands of ways: each is read with its books balanced, or refused with a TraceError.
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, test } from "vitest";
import { TraceError, TraceReader } from "../src/index.ts";

const excerpt = new Uint8Array(readFileSync(import.meta.dirname + "/fixtures/boot-excerpt.ftrace"));
const ROUNDS = 500;

const sum = (counts: Readonly<Record<string, number>>): number => Object.values(counts).reduce((total, count) => total + count, 0);

const text = Buffer.from(excerpt).toString("latin1").split("\n");
const join = (parts: readonly string[]): Uint8Array => new Uint8Array(Buffer.from(parts.join("\n"), "latin1"));

const byteAt = fc.nat(excerpt.length - 1);
const line = fc.nat(text.length - 1);
/** About a quarter of the lines, or any number of them. */
const someLines = fc.oneof(fc.array(line, { maxLength: text.length / 4, size: "max" }), fc.array(line)).map((at) => new Set(at));

/** Prints as what was done, not as thousands of bytes. */
interface Damaged {
  readonly data: Uint8Array;
  readonly toString: () => string;
}
const damage = (data: Uint8Array, ...what: (number | Iterable<number>)[]): Damaged => ({
  data,
  toString: () => what.map((one) => (typeof one === "number" ? String(one) : `[${[...one].join(",")}]`)).join(" "),
});

const DAMAGES: readonly (readonly [name: string, damaged: fc.Arbitrary<Damaged>, refusesSome: boolean])[] = [
  ["a byte changed", fc.tuple(byteAt, fc.integer({ min: 1, max: 255 })).map(([at, byte]) => damage(excerpt.with(at, byte), at, byte)), true],
  ["cut at the end", byteAt.map((at) => damage(excerpt.subarray(0, at + 1), at + 1)), true],
  // Leaves the last lines: a fragment without any event is refused.
  ["cut at the start", fc.nat(excerpt.length - 400).map((at) => damage(excerpt.subarray(at), at)), false],
  ["lines left out", someLines.map((out) => damage(join(text.filter((_, at) => !out.has(at))), out)), false],
  ["lines swapped", fc.tuple(line, line).map(([a, b]) => damage(join(text.with(a, text[b]!).with(b, text[a]!)), a, b)), false],
  ["lines doubled", someLines.map((twice) => damage(join(text.flatMap((one, at) => (twice.has(at) ? [one, one] : [one]))), twice)), false],
];

test.each(DAMAGES)("%s", async (_name, damaged, refusesSome) => {
  let read = 0;
  let refused = 0;
  await fc.assert(
    fc.asyncProperty(damaged, async ({ data }) => {
      const reader = new TraceReader({ name: "damaged" });
      const live = new Set<number>();
      let pairs = true;
      try {
        for await (const batch of reader.readBatches([data])) {
          for (const operation of batch) {
            if (operation.kind === "map") live.add(operation.id);
            else if (operation.kind === "unmap") pairs &&= live.delete(operation.id);
          }
        }
      } catch (error) {
        expect(error).toBeInstanceOf(TraceError);
        refused++;
        return;
      }
      read++;
      const { maps, unmaps, skipped, ignored, events, liveAtEnd } = reader.summary;
      const { unmapBeforeRecording = 0, unmapNoDmaEvent = 0, unmapFailedCall = 0 } = ignored;
      expect(pairs).toBe(true);
      expect(maps + sum(skipped)).toBe(events["map"] ?? 0);
      expect(unmaps + unmapBeforeRecording + unmapNoDmaEvent + unmapFailedCall).toBe(events["unmap"] ?? 0);
      expect(live.size).toBe(liveAtEnd);
    }),
    { seed: 12345, numRuns: ROUNDS },
  );
  expect(read).toBeGreaterThan(0);
  expect(refused > 0).toBe(refusesSome);
});
