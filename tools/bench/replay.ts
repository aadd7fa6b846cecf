// Replays 100,000 DMA operations under each architecture, DMA check on. Prints `js<TAB>replay.NAME<TAB>ns per operation`.
// usage: node replay.ts [SAMPLES, default 1]
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { dataPath } from "@smmuv3/data";
import { ARCHITECTURES, loadArchitecture, operationsOf, runArchitecture, survey } from "@smmuv3/smmu-lab";
import { extendTraceText, readTraceText } from "./extend-trace.ts";

const OPERATIONS = 100_000;

const samples = Number(process.argv[2] ?? "1");
const text = readTraceText(dataPath("traces/nvme-4k-read.ftrace.gz"));
const perRound = text.split("\n").filter((line) => line.includes(" dma_map_page: ") || line.includes(" dma_unmap_page: ")).length;
const times = Math.ceil(OPERATIONS / perRound);

const scratch = mkdtempSync(join(tmpdir(), "replay-"));
try {
  const trace = join(scratch, "long.ftrace");
  writeFileSync(trace, `${[...extendTraceText(text, times)].join("\n")}\n`);
  const { devices, operations, ramBytes } = await survey(trace);
  for (let sample = 0; sample < samples; sample++) {
    for (const name of ARCHITECTURES) {
      const built = await loadArchitecture(name);
      const start = process.hrtime.bigint();
      const result = await runArchitecture(built, operationsOf(trace), {
        devices,
        profile: "finite",
        ramBytes,
        pagesToTake: 16,
        operations,
      });
      const ns = Number(process.hrtime.bigint() - start);
      if (result.dma.wrong !== 0) throw new Error(`${name}: ${result.findings.join("; ")}`);
      process.stdout.write(`js\treplay.${name}\t${(ns / result.dmaOps).toFixed(1)}\n`);
      process.stdout.write(`# ${name}: ${result.dmaOps} operations in ${(ns / 1e9).toFixed(2)} s, ${result.dma.ok} transfers checked\n`);
    }
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
