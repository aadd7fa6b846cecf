import { Session } from "node:inspector/promises";
import type { BootKernel } from "@smmuv3/arch-common";
import { eachLine, segments } from "./code.ts";
import type { Segment } from "./code.ts";
import { loadText, moduleUrl } from "./defects.ts";

/** Which code of a bundle ran. */
export interface Coverage {
  readonly text: string;
  /** For each character: 1 where it ran. */
  readonly ran: Uint8Array;
}

/**
 * Runs `work` with the kernel of a bundle, and tells which of its code ran. V8 counts blocks, so what a branch not taken guards did not
 * run.
 */
export async function coverage(text: string, work: (bootKernel: BootKernel) => void): Promise<Coverage> {
  const session = new Session();
  session.connect();
  const ran = new Uint8Array(text.length);
  try {
    await session.post("Profiler.enable");
    await session.post("Profiler.startPreciseCoverage", { callCount: false, detailed: true });
    // A module of its own: what earlier runs executed must not count.
    const own = `${text}\n// coverage ${process.hrtime.bigint()}`;
    const url = moduleUrl(own);
    const { bootKernel } = (await loadText(own)) as { readonly bootKernel: BootKernel };
    work(bootKernel);
    const { result } = await session.post("Profiler.takePreciseCoverage");
    const script = result.find((one) => one.url === url);
    // Outer ranges come first; inner ones say it better.
    for (const { functions } of script === undefined ? [] : [script]) {
      for (const { ranges } of functions) for (const range of ranges) ran.fill(range.count > 0 ? 1 : 0, range.startOffset, range.endOffset);
    }
  } finally {
    session.disconnect();
  }
  return { text, ran };
}

/** Names a code line of a module, the same in every bundle: the bundler's numbers behind names differ. */
export function lineKey({ file }: Segment, number: number): string {
  return `${file}:${number}`;
}

/** Code lines of a package in a bundle, and those that ran, by {@link lineKey}. */
export function linesOf({ text, ran }: Coverage, name: string): { readonly all: ReadonlySet<string>; readonly ran: ReadonlySet<string> } {
  const all = new Set<string>();
  const executed = new Set<string>();
  for (const segment of segments(text)) {
    if (segment.package !== name) continue;
    let number = 0;
    eachLine(text, segment, (from, to) => {
      const key = lineKey(segment, number++);
      all.add(key);
      const first = from + text.slice(from, to).search(/\S/u);
      if (ran[first] === 1) executed.add(key);
    });
  }
  return { all, ran: executed };
}
