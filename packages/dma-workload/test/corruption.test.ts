// Damages a real recording in thousands of ways: each is read with its books balanced, or refused with a TraceError.
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { TraceError, TraceReader } from "../src/index.ts";

const excerpt = new Uint8Array(readFileSync(import.meta.dirname + "/fixtures/boot-excerpt.ftrace"));
const ROUNDS = 3000;

function xorshift(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

const sum = (counts: Readonly<Record<string, number>>): number => Object.values(counts).reduce((total, count) => total + count, 0);

type Damage = (data: Uint8Array, random: () => number) => Uint8Array;
const lines = (data: Uint8Array): string[] => Buffer.from(data).toString("latin1").split("\n");
const join = (parts: readonly string[]): Uint8Array => new Uint8Array(Buffer.from(parts.join("\n"), "latin1"));

const DAMAGES: readonly (readonly [name: string, damage: Damage, refusesSome: boolean])[] = [
  ["a byte changed", (data, random) => data.with(random() % data.length, 1 + (random() % 255)), true],
  ["cut at the end", (data, random) => data.subarray(0, 1 + (random() % data.length)), true],
  // Leaves the last lines: a fragment without any event is refused.
  ["cut at the start", (data, random) => data.subarray(random() % (data.length - 400)), false],
  ["lines left out", (data, random) => join(lines(data).filter(() => random() % 4 !== 0)), false],
  ["lines swapped", (data, random) => {
    const parts = lines(data);
    const [a, b] = [random() % parts.length, random() % parts.length];
    [parts[a], parts[b]] = [parts[b]!, parts[a]!];
    return join(parts);
  }, false],
  ["lines doubled", (data, random) => join(lines(data).flatMap((line) => (random() % 4 === 0 ? [line, line] : [line]))), false],
];

test.each(DAMAGES)("%s", async (_name, damage, refusesSome) => {
  const random = xorshift(12345);
  let read = 0;
  let refused = 0;
  for (let round = 0; round < ROUNDS / DAMAGES.length; round++) {
    const reader = new TraceReader({ name: "damaged" });
    const live = new Set<number>();
    try {
      for await (const batch of reader.readBatches([damage(excerpt, random)])) {
        for (const operation of batch) {
          if (operation.kind === "map") live.add(operation.id);
          else if (operation.kind === "unmap") expect(live.delete(operation.id)).toBe(true);
        }
      }
    } catch (error) {
      expect(error).toBeInstanceOf(TraceError);
      refused++;
      continue;
    }
    read++;
    const { maps, unmaps, skipped, ignored, events, liveAtEnd } = reader.summary;
    const { unmapBeforeRecording = 0, unmapNoDmaEvent = 0, unmapFailedCall = 0 } = ignored;
    expect(maps + sum(skipped)).toBe(events["map"] ?? 0);
    expect(unmaps + unmapBeforeRecording + unmapNoDmaEvent + unmapFailedCall).toBe(events["unmap"] ?? 0);
    expect(live.size).toBe(liveAtEnd);
  }
  expect(read).toBeGreaterThan(0);
  expect(refused > 0).toBe(refusesSome);
});
