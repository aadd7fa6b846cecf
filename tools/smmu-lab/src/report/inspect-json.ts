import type { Inspection } from "../inspect/index.ts";
import type { Leaves } from "../inspect/leaves.ts";
import type { QueueReport } from "../inspect/queues.ts";
import type { ContextReport, StreamReport } from "../inspect/streams.ts";
import { hex, pairs } from "../reference/bus.ts";
import { isEnabled } from "../reference/config.ts";
import { observationJson } from "./vectors.ts";

const SCHEMA_VERSION = 1;

const orNull = (value: bigint | undefined): string | null => (value === undefined ? null : hex(value));

function leavesJson(leaves: Leaves | undefined): object | null {
  if (leaves === undefined) return null;
  return {
    count: leaves.count,
    cut: leaves.cut,
    ranges: leaves.ranges.map(({ input, output, size, count, rights }) => ({
      input: hex(input), output: hex(output), size: hex(size), count, rights,
    })),
    missing: leaves.missing.map(({ pa, why }) => ({ pa: hex(pa), why })),
  };
}

function contextJson({ ssid, pa, text, problem, leaves }: ContextReport): object {
  return { ssid, pa: orNull(pa), text, problem: problem ?? null, leaves: leavesJson(leaves) };
}

function streamJson({ first, last, pa, config, text, problem, contexts, stage2 }: StreamReport): object {
  return {
    first, last, pa: hex(pa), config, text, problem: problem ?? null, contexts: contexts.map(contextJson), stage2: leavesJson(stage2),
  };
}

function queueJson({ base, log2, prod, cons, pending, entries }: QueueReport): object {
  return {
    base: hex(base),
    log2size: log2,
    prod,
    cons,
    pending,
    entries: entries.map((entry) => ({
      index: entry.index,
      pa: hex(entry.pa),
      pending: entry.pending,
      value: entry.words === undefined ? null : pairs(entry.words).map(hex),
      text: entry.text,
    })),
  };
}

function accessJson(access: NonNullable<Inspection["access"]>): object {
  const { asked, explanation } = access;
  const { event } = explanation;
  return {
    sid: asked.sid,
    ssid: asked.ssid ?? null,
    iova: hex(asked.iova),
    write: asked.write,
    privileged: asked.privileged,
    instruction: asked.instruction,
    outcome: explanation.outcome,
    pa: orNull(explanation.pa),
    reason: explanation.reason,
    event:
      event === undefined
        ? null
        : { name: event.name, recorded: event.recorded, record: pairs(event.words).map(hex), text: event.text },
    reads: explanation.reads.map(({ what, pa, ipa, value, text }) => ({
      what, pa: hex(pa), ipa: orNull(ipa), value: value.map(hex), text,
    })),
  };
}

function probesJson(probes: NonNullable<Inspection["probes"]>): object {
  const { total, pass, excused, excusedProbes, fail, differences } = probes;
  return {
    total,
    pass,
    excused: Object.fromEntries(excused),
    excusedProbes,
    fail,
    differences: differences.map(({ line, access, got, reason }) => ({
      line,
      sid: access.sid,
      iova: hex(access.iova),
      write: access.write,
      recorded: observationJson(access.recorded),
      got: observationJson(got),
      reason,
    })),
  };
}

/** The inspection as JSON, schema/inspect.schema.json. */
export function inspectJson(inspection: Inspection): object {
  const { dump, format, bytes, machine, streams, commands, events, access, probes } = inspection;
  const { features } = machine;
  const { table } = streams;
  return {
    schemaVersion: SCHEMA_VERSION,
    dump: { path: dump, format, bytes: Number(bytes) },
    smmu: {
      enabled: isEnabled(machine),
      stage1: features.s1p,
      stage2: features.s2p,
      iasBits: features.iasBits,
      oasBits: features.oasBits,
      sidBits: features.sidSize,
      ssidBits: features.ssidSize,
    },
    streamTable: {
      base: hex(table.base),
      levels: table.twoLevel ? 2 : 1,
      log2size: table.log2,
      split: table.twoLevel ? table.split : null,
      invalid: streams.invalid,
      absent: streams.absent,
      missing: streams.missing.map(({ pa, first, last, why }) => ({ pa: hex(pa), first, last, why })),
    },
    streams: streams.streams.map(streamJson),
    queues: { commands: queueJson(commands), events: queueJson(events) },
    ...(access === undefined ? {} : { access: accessJson(access) }),
    ...(probes === undefined ? {} : { probes: probesJson(probes) }),
  };
}
