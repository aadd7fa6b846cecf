import { TRANSLATION } from "@smmuv3/platform";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import type { IdRegisters, ProfileName } from "@smmuv3/smmu-v3-model";
import { REG } from "@smmuv3/smmu-v3-defs";
import { describe, expect, test } from "vitest";
import { BUFFER, Rig, RW, withField } from "./fixture.ts";
import type { Client } from "./fixture.ts";

const PAGE = 0x1000;
const OTHER = BUFFER + PAGE;

/** Calls `observe` after every 64-bit store of the kernel. */
function observeStores(rig: Rig, observe: () => void): { stores: number } {
  const { memory } = rig.kernel;
  const plain = memory.store32.bind(memory);
  const counter = { stores: 0 };
  memory.store32 = (pa, value): void => {
    plain(pa, value);
    if (pa % 8 !== 0) return;
    counter.stores++;
    observe();
  };
  return counter;
}

interface Seen {
  readonly faults: number;
  readonly stores: number;
}

/** Moves `client` to `target` with a DMA to BUFFER between all stores: it lands at BUFFER (identity) or at OTHER. */
function moveUnderDma(rig: Rig, client: Client, target: Parameters<Rig["attach"]>[1]): Seen {
  const { memory } = rig.machine;
  let stamp = 0;
  let faults = 0;
  const counter = observeStores(rig, () => {
    stamp++;
    memory.store32(BUFFER, 0);
    memory.store32(OTHER, 0);
    const status = rig.write(client.sid, BUFFER, stamp);
    const landed = memory.load32(BUFFER) === stamp || memory.load32(OTHER) === stamp;
    if (status !== TRANSLATION.ok || !landed) faults++;
  });
  expect(rig.attach(client, target)).toBe(0);
  return { faults, stores: counter.stores };
}

const IDS: [string, IdRegisters][] = [
  ["stage 1", PRESETS.qemuStage1],
  ["stage 1 with overrides", withField(PRESETS.qemuStage1, REG.IDR1.ATTR_TYPES_OVR, 1)],
  ["stage 2", PRESETS.qemuStage2],
  ["both", PRESETS.reference],
];
const GRID = IDS.flatMap(([name, id]) =>
  (["lazy", "eager"] as const).map((profile: ProfileName) => ({ name, id, profile })),
);

describe.each(GRID)("$name, $profile", ({ id, profile }) => {
  const start = (): { rig: Rig; client: Client; domain: ReturnType<Rig["domain"]> } => {
    const rig = new Rig({ id, model: { profile } });
    const domain = rig.domain();
    rig.iommu.map(domain, BUFFER, OTHER, PAGE, RW);
    return { rig, client: rig.clients[0]!, domain };
  };

  test("D6 identity to translation and back never faults (hitless)", () => {
    const { rig, client, domain } = start();
    for (let round = 0; round < 3; round++) {
      const there = moveUnderDma(rig, client, domain);
      expect(there.faults).toBe(0);
      expect(there.stores).toBeGreaterThan(1);
      expect(rig.write(client.sid, BUFFER, 0x55)).toBe(TRANSLATION.ok);
      expect(rig.machine.memory.load32(OTHER)).toBe(0x55);
      const back = moveUnderDma(rig, client, "identity");
      expect(back.faults).toBe(0);
      expect(rig.write(client.sid, BUFFER, 0x66)).toBe(TRANSLATION.ok);
      expect(rig.machine.memory.load32(BUFFER)).toBe(0x66);
    }
  });

  test("D5 replacing a domain does not disturb other devices", () => {
    const { rig, domain } = start();
    const [moved, other] = rig.clients;
    const second = rig.domain();
    rig.iommu.map(second, BUFFER, BUFFER + 8 * PAGE, PAGE, RW);
    rig.attach(moved!, domain);
    rig.attach(other!, domain);
    let bad = 0;
    const counter = observeStores(rig, () => {
      if (rig.write(other!.sid, BUFFER, counter.stores) !== TRANSLATION.ok) bad++;
      else if (rig.machine.memory.load32(OTHER) !== counter.stores) bad++;
    });
    expect(rig.attach(moved!, second)).toBe(0);
    expect(counter.stores).toBeGreaterThan(0);
    expect(bad).toBe(0);
    expect(rig.write(moved!.sid, BUFFER, 0x99)).toBe(TRANSLATION.ok);
    expect(rig.machine.memory.load32(BUFFER + 8 * PAGE)).toBe(0x99);
  });
});

test("without its invalidation the lazy SMMU goes on with the old entry", () => {
  const rig = new Rig({
    model: { profile: "lazy" },
    driver: {
      impl: {
        name: "broken",
        getSecondaryCmdq: (_, opcode, main) =>
          opcode === 3 ? { issue: (words, _count, sync) => main.issue(words, 0, sync) } : undefined,
      },
    },
  });
  const client = rig.clients[0]!;
  rig.write(client.sid, BUFFER, 1);
  rig.attach(client, "blocked");
  expect(rig.write(client.sid, BUFFER, 2)).toBe(TRANSLATION.ok);
});
