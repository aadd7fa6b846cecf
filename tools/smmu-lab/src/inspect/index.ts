import type { Machine } from "../reference/config.ts";
import type { Access } from "../reference/explain.ts";
import { featuresOf } from "../reference/registers.ts";
import { openDump, readRegisters, registersBeside } from "./dump.ts";
import type { DumpFormat } from "./dump.ts";
import { DumpExplainer } from "./explain.ts";
import type { AccessReport } from "./explain.ts";
import { checkProbes } from "./probes.ts";
import type { ProbeReport } from "./probes.ts";
import { readCommands, readEvents } from "./queues.ts";
import type { QueueReport } from "./queues.ts";
import { listStreams } from "./streams.ts";
import type { StreamTableReport } from "./streams.ts";

export interface InspectOptions {
  /** Directory or `pages.json` of a sparse dump, ELF64 core, or raw memory. */
  readonly dump: string;
  /** Physical address of raw memory. */
  readonly base?: bigint;
  /** File of registers; `registers.json` beside the dump when left out. */
  readonly registers?: string;
  /** Access to explain. */
  readonly access?: Access;
  /** File of recorded accesses to check. */
  readonly probes?: string;
}

/** What a dump says of an SMMU. */
export interface Inspection {
  readonly dump: string;
  readonly format: DumpFormat;
  readonly bytes: bigint;
  readonly machine: Machine;
  readonly streams: StreamTableReport;
  readonly commands: QueueReport;
  readonly events: QueueReport;
  readonly access: { readonly asked: Access; readonly explanation: AccessReport } | undefined;
  readonly probes: ProbeReport | undefined;
}

/** Reads a dump: streams, queues, and what else is asked. Throws InputError for files that cannot be used. */
export async function inspect(options: InspectOptions): Promise<Inspection> {
  const { access, probes } = options;
  const registers = readRegisters(options.registers ?? registersBeside(options.dump));
  const dump = openDump(options.dump, options.base);
  try {
    const machine: Machine = { registers, features: featuresOf(registers), bus: dump };
    const explainer = new DumpExplainer(machine, dump.extent);
    return {
      dump: options.dump,
      format: dump.format,
      bytes: dump.bytes,
      machine,
      streams: listStreams(machine),
      commands: readCommands(machine),
      events: readEvents(machine),
      access: access === undefined ? undefined : { asked: access, explanation: explainer.explain(access) },
      probes: probes === undefined ? undefined : await checkProbes(machine, explainer, probes),
    };
  } finally {
    dump.close();
  }
}
