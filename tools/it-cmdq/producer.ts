// A producer's thread: inserts random lists until it has inserted its share of commands.
import { parentPort, workerData } from "node:worker_threads";
import { ERRNO } from "@smmuv3/platform";
import type { SyncMethod } from "@smmuv3/arm-smmu-v3-common";
import { attachQueue, LINE, MAIL } from "./mailbox.ts";
import type { Shared } from "./mailbox.ts";
import { encode, KIND } from "./payload.ts";
import type { Place } from "./payload.ts";
import { Random } from "./random.ts";

export interface ProducerData {
  readonly shared: Shared;
  readonly producer: number;
  readonly seed: number;
  readonly commands: number;
  readonly syncMethod: SyncMethod;
  /** One command in so many is illegal, or an invalidation that gets no answer. */
  readonly badEvery: number;
}

export interface ProducerReport {
  readonly lists: number;
  readonly commands: number;
  /** Commands that the SMMU does not know. */
  readonly illegal: number;
  readonly syncs: number;
  readonly full: number;
  readonly fullTimeouts: number;
  readonly syncTimeouts: number;
  readonly owned: number;
  readonly gathered: number;
  readonly contended: number;
  /** SYNCs that were reported complete though commands before them were not executed. */
  readonly early: number;
}

const MAX_LIST = 64;

function run({ shared, producer, seed, commands, syncMethod, badEvery }: ProducerData): ProducerReport {
  const queue = attachQueue(shared, syncMethod, seed * 64 + producer + 32);
  const random = new Random(seed * 64 + producer);
  const words = new Int32Array(MAX_LIST * 4);
  const place: Place = { producer, list: 0, count: 0, index: 0, sync: false, kind: KIND.tlbi };
  let left = commands;
  let illegal = 0;
  let syncs = 0;
  let early = 0;
  for (; left > 0; place.list++) {
    place.count = Math.min(left, random.below(2) === 0 ? 1 : 1 + random.below(MAX_LIST));
    place.sync = random.below(4) === 0;
    for (place.index = 0; place.index < place.count; place.index++) {
      const bad = random.below(badEvery);
      place.kind = bad === 0 ? KIND.illegal : bad === 1 ? KIND.atc : KIND.tlbi;
      if (place.kind === KIND.illegal) illegal++;
      encode(words, place.index * 4, place);
    }
    left -= place.count;
    let status: number;
    let timeouts: number;
    // What timed out because the queue was full is not in it.
    do {
      timeouts = queue.counts.fullTimeouts;
      status = queue.issue(words, place.count, place.sync);
    } while (status === -ERRNO.ETIMEDOUT && queue.counts.fullTimeouts !== timeouts);
    if (status !== 0 && status !== -ERRNO.ETIMEDOUT) throw new Error(`issue: ${status}`);
    if (!place.sync) continue;
    syncs++;
    if (status === 0 && Atomics.load(shared.mail, MAIL.executed + producer * LINE) <= place.list) early++;
  }
  return { lists: place.list, commands, illegal, syncs, ...queue.counts, early };
}

const data = workerData as ProducerData;
parentPort!.postMessage(run(data));
Atomics.add(data.shared.mail, MAIL.finished, 1);
