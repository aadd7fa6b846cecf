import type { Explanation, StructureRead } from "./explain.ts";

const WIDTH = 100;

/** Breaks `text` at spaces; the lines after the first are indented by `indent`. */
function wrap(text: string, indent: number): string[] {
  const lines: string[] = [];
  const margin = " ".repeat(indent);
  let line = "";
  for (const word of text.split(" ")) {
    if (line.length > indent && line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = margin + word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  return [...lines, line];
}

function describeRead({ what, level, pa, words, text }: StructureRead): string[] {
  const name = what === "S1" || what === "S2" ? `stage ${what.slice(1)} level ${level}` : what;
  const head = `  ${name.padEnd(16)}0x${pa.toString(16)}`;
  if (words.length === 1) return wrap(`${head}: ${words[0]!}: ${text}`, 6);
  // Words of zero at the end say nothing.
  const used = words.slice(0, words.findLastIndex((word) => word !== "0x0") + 1);
  return [...wrap(`${head}: ${used.join(" ")}`, 6), ...wrap(`      ${text}`, 6)];
}

/** An explanation as text for people, in lines of at most 100 columns unless a single word is longer. */
export function formatExplanation({ access, outcome, pa, event, rule, reads }: Explanation): string {
  const kind = [access.privileged ? "privileged" : "", access.instruction ? "instruction" : "", access.write ? "write" : "read"];
  const substream = access.ssid === undefined ? "" : ` SSID ${access.ssid}`;
  const result = pa === undefined ? outcome : `${outcome}, PA 0x${pa.toString(16)}`;
  return [
    ...wrap(`SID ${access.sid}${substream}, ${kind.filter((word) => word !== "").join(" ")} of ${access.address}: ${result}`, 2),
    ...wrap(`because ${rule.text} (${rule.section})`, 2),
    ...(event === undefined ? [] : wrap(`${event.name}${event.recorded ? `: ${event.text}` : ", not recorded"}`, 2)),
    ...reads.flatMap(describeRead),
  ].join("\n");
}
