import { Memory } from "@smmuv3/platform";
import { describe, expect, test } from "vitest";
import { EventQueue } from "../src/index.ts";

const BASE = 0x1_0000;
const OVERFLOW = 1 << 31;
const LOG2 = 3;

/** The producer's side: writes records, sets the overflow flag when there is no room. */
class Producer {
  readonly memory: Memory = Memory.allocate({ base: BASE, size: 0x1000 });
  readonly writes: number[] = [];
  prod: number = 0;
  cons: number = 0;
  queue: EventQueue = new EventQueue({
    memory: this.memory,
    pointers: {
      readProd: () => this.prod,
      writeCons: (value) => {
        this.writes.push(value);
        this.cons = value;
      },
    },
    pa: BASE,
    log2: LOG2,
  });

  push(value: number): void {
    if (((this.prod ^ this.cons) & 0xf) === 8) {
      if (((this.prod ^ this.cons) & OVERFLOW) === 0) this.prod ^= OVERFLOW;
      return;
    }
    this.memory.fill(BASE + (this.prod & 7) * 32, 32, value);
    this.prod = (this.prod & OVERFLOW) | ((this.prod + 1) & 0xf);
  }
}

describe("EventQueue", () => {
  test("drains in order over many laps, freeing each place", () => {
    const producer = new Producer();
    const seen: number[] = [];
    const expected: number[] = [];
    for (let round = 0, value = 1; round < 40; round++) {
      for (let i = 0; i < round % 9; i++) {
        expected.push(value);
        producer.push(value++);
      }
      producer.queue.drain((record) => {
        expect(record).toHaveLength(8);
        seen.push(record[7]!);
      });
    }
    expect(seen).toEqual(expected);
    expect(producer.writes).toHaveLength(expected.length);
    expect(producer.queue.overflows).toBe(0);
  });

  test("records that arrive while it drains are seen", () => {
    const producer = new Producer();
    producer.push(1);
    const seen: number[] = [];
    const count = producer.queue.drain((record) => {
      seen.push(record[0]!);
      if (record[0]! < 5) producer.push(record[0]! + 1);
    });
    expect([count, seen]).toEqual([5, [1, 2, 3, 4, 5]]);
  });

  test("an overflow is counted and acknowledged once, after the queue is empty", () => {
    const producer = new Producer();
    for (let round = 1; round <= 3; round++) {
      for (let i = 0; i < 12; i++) producer.push(i);
      expect(producer.queue.drain(() => {})).toBe(8);
      expect(producer.queue.overflows).toBe(round);
      expect((producer.prod ^ producer.cons) & OVERFLOW).toBe(0);
      const last = producer.writes.at(-1)!;
      const before = producer.writes.at(-2)!;
      expect(last ^ before).toBe(OVERFLOW);
      expect(producer.queue.drain(() => {})).toBe(0);
    }
    expect(producer.writes).toHaveLength(3 * 9);
  });
});
