// Plays a recording several times over as one longer recording: later rounds have later times and IOVAs of their own.
// usage: node extend-trace.ts TRACE TIMES > LONG.ftrace
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

/** IOVAs of a recording lie below 4 GiB, so each round gets 4 GiB of its own. */
const IOVA_STRIDE = 0x1_0000_0000;

const ADDRESS = /\b(iova=0x|dma_addr=| - 0x)([0-9a-f]+)/g;
const DMA_LIST = /\bdma_addrs=\{([^}]*)\}/g;
const TIME = /^(.{20,}?\s)(\d+\.\d{6}): /;

function shiftHex(text: string, by: number): string {
  return (parseInt(text, 16) + by).toString(16).padStart(text.length, "0");
}

/** One line in round `round`; `duration` is that of the recording in seconds. */
function shiftLine(line: string, round: number, duration: number): string {
  const by = round * IOVA_STRIDE;
  return line
    .replace(ADDRESS, (_, prefix: string, digits: string) => prefix + shiftHex(digits, by))
    .replace(DMA_LIST, (_, list: string) => `dma_addrs={${list.replace(/0x([0-9a-f]+)/g, (__, digits: string) => `0x${shiftHex(digits, by)}`)}}`)
    .replace(TIME, (_, head: string, time: string) => `${head}${(Number(time) + round * duration).toFixed(6)}: `);
}

/** Text of a trace, gzipped or plain. */
export function readTraceText(path: string): string {
  const bytes = readFileSync(path);
  return (bytes[0] === 0x1f && bytes[1] === 0x8b ? gunzipSync(bytes) : bytes).toString("utf8");
}

/** The recording `text`, `times` over. */
export function* extendTraceText(text: string, times: number): Generator<string> {
  const lines = text.split("\n").filter((line) => line !== "");
  const header = lines.filter((line) => line.startsWith("#"));
  const events = lines.filter((line) => !line.startsWith("#"));
  const last = TIME.exec(events.at(-1) ?? "")?.[2];
  const duration = Math.ceil(Number(last ?? 1));
  // The count in the header is of the one recording.
  for (const line of header) if (!line.includes("entries-in-buffer")) yield line;
  for (let round = 0; round < times; round++) {
    for (const line of events) yield shiftLine(line, round, duration);
  }
}

if (import.meta.main) {
  const [path, times] = process.argv.slice(2);
  if (path === undefined || !/^[1-9]\d*$/.test(times ?? "")) {
    process.stderr.write("usage: extend-trace.ts TRACE TIMES\n");
    process.exit(2);
  }
  for (const line of extendTraceText(readTraceText(path), Number(times))) process.stdout.write(`${line}\n`);
}
