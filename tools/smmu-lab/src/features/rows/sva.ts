import { errnoName, hi32, lo32 } from "@smmuv3/platform";
import { HARDWARE, RICH } from "../../lab/hardware.ts";
import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";
import { DEVICES } from "../lab.ts";
import type { Rig } from "../lab.ts";

const VA_BITS = 48;
const LEVELS = 4;
/** Where the process has its page: entry 1 of each table. */
const VA = 2 ** 39 + 2 ** 30 + 2 ** 21 + 2 ** 12;
const TABLE = 3;
/** Page, AF, inner shareable, user may write, not global. */
const PAGE = 3 | (1 << 10) | (3 << 8) | (1 << 6) | (1 << 11);

/** The table of a process with one page, as its CPU would have it. Returns its root. */
function processTable(rig: Rig, pa: number): number {
  const { memory } = rig;
  let next = pa;
  let bits = PAGE;
  for (let level = 0; level < LEVELS; level++) {
    const table = rig.page();
    memory.fill(table, 4096, 0);
    memory.store32(table + 8, lo32(next) | bits);
    memory.store32(table + 12, hi32(next));
    next = table;
    bits = TABLE;
  }
  return next;
}

export const sva: Feature = {
  id: "sva",
  title: "SVA: a process's own page tables",
  arguments: [14],
  probe(lab) {
    const rig = lab.bootWhole({
      hardware: { ...HARDWARE.nested, id: RICH },
      properties: { [DEVICES[0]]: { "pasid-num-bits": 8 } },
    });
    if ("verdict" in rig) return rig;
    const pa = rig.page();
    const pasid = rig.kernel.bindProcess(0, processTable(rig, pa), VA_BITS);
    if (pasid < 0) return absent(`binding a process: ${errnoName(pasid)}`);
    const master = rig.master(0);
    master.ssid = pasid;
    const reached = rig.reaches(0, VA, pa);
    master.ssid = -1;
    if (!reached) return absent(`bound as PASID ${pasid}; the process's page is not reached`);
    return rig.refused(0, VA) ? works(`the page at 0x${VA.toString(16)} of the process is reached with PASID ${pasid}, through the CPU's own table`) : absent("reached without the PASID as well");
  },
};
