// Benches of command insertion, with the rows of the native baselines: prints "impl<TAB>bench<TAB>ns" lines.
// usage: node bench/cmdq.ts [samples, default 20]
import { Counters, Memory } from "@smmuv3/platform";
import type { Cpu, RegisterWindow } from "@smmuv3/platform";
import { OFFSET } from "@smmuv3/smmu-v3-defs";
import { CommandBatch, CommandQueue, tlbiNhVa } from "@smmuv3/arm-smmu-v3-common";

const COMMANDS = 65536;
const LOG2 = 12;
const BATCH = 63;
const ASID = 5;
const LEAF = 1;
/** A JIT compiler needs more than the warm-up runs of the baselines. */
const WARMUP = 20;
const RAM = 0x4000_0000;

/** A device that consumes at the doorbell. */
class Doorbell implements RegisterWindow {
  hi: number = 0;
  prod: number = 0;
  rings: number = 0;

  read32(offset: number): number {
    return offset === OFFSET.CMDQ_CONS ? this.prod : 0;
  }

  write32(_: number, value: number): void {
    this.prod = value;
    this.rings++;
  }

  read64(): number {
    return 0;
  }

  write64(): void {}
}

const memory = Memory.allocate({ base: RAM, size: 1 << 20 });
const device = new Doorbell();
const cpu: Cpu = {
  level: 1,
  memory,
  counters: new Counters(),
  ioremap: () => device,
  now: () => 0,
  relax: () => {
    throw new Error("the device consumes at the doorbell: nobody waits");
  },
  barrier: () => {},
  irqSave: () => {},
  irqRestore: () => {},
};
const queue = new CommandQueue({ cpu, window: device, pa: RAM, log2: LOG2 });
const one = new Int32Array(4);
const batch = new CommandBatch(queue);

function issueEach(sync: boolean): number {
  let failed = 0;
  for (let i = 0; i < COMMANDS; i++) {
    tlbiNhVa(one, 0, 0, ASID, 0, (i << 12) | LEAF, i >>> 20);
    failed |= queue.issue(one, 1, sync);
  }
  return failed;
}

function batches(): number {
  let failed = 0;
  for (let i = 0; i < COMMANDS; ) {
    const end = Math.min(i + BATCH, COMMANDS);
    for (; i < end; i++) tlbiNhVa(batch.words, batch.next(), 0, ASID, 0, (i << 12) | LEAF, i >>> 20);
    failed |= batch.submit();
  }
  return failed;
}

const ROWS: readonly (readonly [string, () => number, number])[] = [
  ["drv.cmdq.issue1", () => issueEach(false), COMMANDS],
  ["drv.cmdq.issue1_sync", () => issueEach(true), COMMANDS],
  ["drv.cmdq.batch63_sync.percmd", batches, Math.ceil(COMMANDS / BATCH)],
];

const samples = Number(process.argv[2] ?? 20);
for (const [name, run, doorbells] of ROWS) {
  for (let sample = -WARMUP; sample < samples; sample++) {
    device.rings = 0;
    const start = process.hrtime.bigint();
    const failed = run();
    const ns = Number(process.hrtime.bigint() - start) / COMMANDS;
    if (failed !== 0 || device.rings !== doorbells) throw new Error(`${name}: ${device.rings} doorbells, status ${failed}`);
    if (sample >= 0) process.stdout.write(`js\t${name}\t${ns.toFixed(2)}\n`);
  }
}
