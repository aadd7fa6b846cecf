import { Worker } from "node:worker_threads";
import { setImmediate } from "node:timers/promises";
import { sharedQueueState } from "@smmuv3/arm-smmu-v3-common";
import { allocateRam, Hardware } from "./hardware.ts";
import type { HardwareCounts } from "./hardware.ts";
import { MAIL, mailbox } from "./mailbox.ts";
import type { Shared } from "./mailbox.ts";
import type { ProducerData, ProducerReport } from "./producer.ts";

export interface StressOptions {
  readonly commands: number;
  readonly producers: number;
  readonly seed: number;
  /** log2 of the ring's entries. */
  readonly log2?: number;
  /** ms until a producer gives up. */
  readonly timeout?: number;
  /** Times that the SMMU stands still for longer than that. */
  readonly freezes?: number;
  /** Called now and then with the commands executed. */
  onProgress?(commands: number): void;
}

export interface StressResult {
  readonly hardware: HardwareCounts;
  readonly producers: readonly ProducerReport[];
  readonly seconds: number;
}

/** Polls between two looks at what else happened in this thread. */
const POLLS = 4096;
/** Polls that a sleep counts for. */
const SLEEP_POLLS = 64;

/**
 * Runs producers in threads of their own against the SMMU in this one. Rejects when a command is lost, duplicated or out of its
 * list's order, or a SYNC complete before its list is executed.
 */
export async function runStress(options: StressOptions): Promise<StressResult> {
  const { commands, producers, seed, log2 = 8, timeout = 20, freezes = 3 } = options;
  const memory = allocateRam();
  const shared: Shared = {
    ram: memory.words.buffer as SharedArrayBuffer,
    mail: mailbox(producers),
    state: sharedQueueState(log2),
    log2,
    timeout: timeout * 1e6,
  };
  const share = Math.ceil(commands / producers);
  const hardware = new Hardware(
    { shared, memory, seed, freezeEvery: Math.ceil(commands / (freezes + 1)), abortEvery: Math.ceil(commands / 8) },
    producers,
  );
  const began = performance.now();
  const reports: (ProducerReport | undefined)[] = new Array<undefined>(producers).fill(undefined);
  let failure: Error | undefined;
  const workers = reports.map((_, producer) => {
    const workerData: ProducerData = {
      shared, producer, seed, commands: Math.min(share, commands - producer * share),
      // Both ways of waiting meet in one queue.
      syncMethod: producer % 2 === 0 ? "sev" : "msi",
      badEvery: Math.max(Math.ceil(commands / 200), 1000),
    };
    const worker = new Worker(new URL("./producer.ts", import.meta.url), { workerData });
    worker.on("message", (report: ProducerReport) => {
      reports[producer] = report;
    });
    worker.on("error", (error: Error) => {
      failure = error;
    });
    return worker;
  });
  try {
    for (;;) {
      for (let i = 0; i < POLLS; i++) {
        if (hardware.poll()) continue;
        hardware.sleep();
        i += SLEEP_POLLS;
      }
      await setImmediate();
      options.onProgress?.(hardware.counts.commands);
      if (failure !== undefined) throw failure;
      if (reports.every((report) => report !== undefined) && Atomics.load(shared.mail, MAIL.finished) === producers && hardware.idle) break;
    }
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
  hardware.finish(reports.map(({ lists }) => lists));
  const early = reports.reduce((sum, report) => sum + report.early, 0);
  if (early > 0) throw new Error(`${early} SYNCs were complete before their list was`);
  return { hardware: hardware.counts, producers: reports, seconds: (performance.now() - began) / 1000 };
}
