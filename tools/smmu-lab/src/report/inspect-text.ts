import type { Inspection } from "../inspect/index.ts";
import type { Leaves } from "../inspect/leaves.ts";
import type { QueueReport } from "../inspect/queues.ts";
import type { StreamReport } from "../inspect/streams.ts";
import { hex } from "../reference/bus.ts";
import { isEnabled } from "../reference/config.ts";
import { count, fact, wrap } from "./lines.ts";
import { excusedLines, showObservation } from "./vectors.ts";

/** Ranges of leaves that are shown of one set of tables; the JSON has all. */
const RANGES_SHOWN = 12;
const WHY = { unknown: "not in the dump", unreadable: "cannot be read" } as const;

function leafLines(title: string, { count: leaves, ranges, missing, cut }: Leaves): string[] {
  const shown = ranges.slice(0, RANGES_SHOWN);
  const lines = shown.flatMap(({ input, output, size, count: descriptors, rights }) =>
    wrap("      ", `${hex(input)}..${hex(input + size - 1n)} -> ${hex(output)} ${rights} (${count(descriptors)})`),
  );
  const more = ranges.length - shown.length;
  return [
    ...wrap("    ", `${title}: ${count(leaves)} leaves in ${count(ranges.length)} ranges${cut ? ", listing cut" : ""}`),
    ...lines,
    ...(more > 0 ? [`      ${count(more)} more ranges (--json has them)`] : []),
    ...missing.flatMap(({ pa, why }) => wrap("      ", `table ${hex(pa)}: ${WHY[why]}`)),
  ];
}

function streamLines({ first, last, pa, config, text, problem, contexts, stage2 }: StreamReport): string[] {
  const name = first === last ? hex(first) : `${hex(first)}..${hex(last)}`;
  return [
    ...wrap(`${name.padEnd(8)}  `, `${config}, STE at ${hex(pa)}${problem === undefined ? "" : `: ${problem}`}`),
    ...wrap("    ", text),
    ...contexts.flatMap((context) => [
      ...wrap(
        "    ",
        `CD ${context.ssid}${context.pa === undefined ? "" : ` at ${hex(context.pa)}`}${context.problem === undefined ? "" : `: ${context.problem}`}`,
      ),
      ...(context.text === "" ? [] : wrap("      ", context.text)),
      ...(context.leaves === undefined ? [] : leafLines("stage 1", context.leaves)),
    ]),
    ...(stage2 === undefined ? [] : leafLines("stage 2", stage2)),
  ];
}

function queueLines(title: string, { base, log2, prod, cons, pending, entries }: QueueReport): string[] {
  return [
    "",
    ...wrap("", `${title} at ${hex(base)}, 2^${log2} entries, PROD ${hex(prod)}, CONS ${hex(cons)}, ${count(pending)} pending`),
    ...entries.flatMap(({ index, pending: waits, text }) => wrap(`  ${waits ? "*" : " "} ${hex(index).padEnd(7)} `, text)),
  ];
}

function headLines({ dump, format, bytes, machine, streams }: Inspection): string[] {
  const { features } = machine;
  const { table } = streams;
  const stages = [...(features.s1p ? ["1"] : []), ...(features.s2p ? ["2"] : [])].join(" and ");
  return [
    ...fact("dump", `${dump} (${format}, ${count(Number(bytes / 1024n))} KiB of memory)`),
    ...fact(
      "SMMU",
      `${isEnabled(machine) ? "enabled" : "disabled"}, stage ${stages}, addresses in ${features.iasBits} and out ${features.oasBits} bits, ` +
        `StreamIDs ${features.sidSize} bits, SubstreamIDs ${features.ssidSize} bits`,
    ),
    ...fact(
      "streams",
      `${table.twoLevel ? `2-level table, split ${table.split},` : "linear table"} at ${hex(table.base)} for 2^${table.log2} StreamIDs: ` +
        `${count(streams.invalid)} STEs with V=0, ${count(streams.absent)} StreamIDs without STE`,
    ),
    ...streams.missing.flatMap(({ pa, first, last, why }) => fact("", `StreamIDs ${hex(first)}..${hex(last)}: page ${hex(pa)} ${WHY[why]}`)),
  ];
}

function accessLines({ asked, explanation }: NonNullable<Inspection["access"]>): string[] {
  const { outcome, pa, reason, event, reads } = explanation;
  const kind = [asked.privileged ? "privileged" : "", asked.instruction ? "instruction" : "", asked.write ? "write" : "read"].join(" ").trim();
  const ssid = asked.ssid === undefined ? "" : `, SubstreamID ${hex(asked.ssid)}`;
  return [
    ...fact("access", `StreamID ${hex(asked.sid)}${ssid}, ${kind} of ${hex(asked.iova)}`),
    ...fact("outcome", pa === undefined ? outcome : `${outcome}, PA ${hex(pa)}`),
    ...fact("reason", reason),
    ...(event === undefined ? [] : fact("event", `${event.text}${event.recorded ? "" : " (not recorded)"}`)),
    "",
    "STRUCTURES READ",
    ...reads.flatMap(({ what, pa: at, ipa, value, text }) => [
      ...wrap(`${what.padEnd(16)}  `, `${hex(at)}${ipa === undefined ? "" : ` (IPA ${hex(ipa)})`}${value.length === 1 ? ` = ${hex(value[0]!)}` : ""}`),
      ...wrap("    ", text),
    ]),
  ];
}

function probeLines(probes: NonNullable<Inspection["probes"]>): string[] {
  const { total, pass, excused, excusedProbes, fail, differences } = probes;
  return [
    ...fact("probes", count(total)),
    ...fact("pass", count(pass)),
    ...fact("excused", count(excusedProbes)),
    ...fact("fail", count(fail)),
    ...excusedLines(excused),
    ...differences.flatMap(({ line, access, got, reason }) => [
      "",
      ...wrap("", `line ${line}: StreamID ${hex(access.sid)} ${access.write ? "writes" : "reads"} ${hex(access.iova)}: ${reason}`),
      ...wrap("  recorded  ", showObservation(access.recorded)),
      ...wrap("  got       ", showObservation(got)),
    ]),
    ...(fail > differences.length ? ["", `${count(fail - differences.length)} more differences`] : []),
  ];
}

/** The inspection as text, within 80 columns: the access and the probes where they were asked, else all that there is. */
export function inspectText(inspection: Inspection): string {
  const { access, probes, streams, commands, events } = inspection;
  if (access !== undefined || probes !== undefined) {
    return [
      ...(access === undefined ? [] : accessLines(access)),
      ...(access === undefined || probes === undefined ? [] : [""]),
      ...(probes === undefined ? [] : probeLines(probes)),
    ].join("\n");
  }
  return [
    ...headLines(inspection),
    "",
    "STREAMS",
    ...streams.streams.flatMap(streamLines),
    ...queueLines("COMMAND QUEUE", commands),
    ...queueLines("EVENT QUEUE", events),
    "",
    "*  not consumed yet",
  ].join("\n");
}
