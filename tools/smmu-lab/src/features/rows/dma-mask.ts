import { errnoName, PAGE_SIZE } from "@smmuv3/platform";
import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";
import { DEVICES } from "../lab.ts";
import type { Rig } from "../lab.ts";

const BITS = 31;
const LIMIT = 2 ** BITS;
const RAM = 64 << 20;
const BLOCK = 1 << 20;

/** A page of RAM above the limit. */
function highPage(rig: Rig): number {
  const low: number[] = [];
  let pa = rig.port.allocPages(PAGE_SIZE);
  while (pa >= 0 && pa < LIMIT) {
    const block = rig.port.allocPages(BLOCK);
    if (block >= 0 && block < LIMIT) low.push(block);
    else if (block >= 0) {
      pa = block;
      break;
    }
    pa = rig.port.allocPages(PAGE_SIZE);
  }
  for (const block of low) rig.port.freePages(block, BLOCK);
  return pa;
}

export const dmaMask: Feature = {
  id: "dma-mask",
  title: "buffer above the device's mask",
  arguments: [16],
  probe(lab) {
    const rig = lab.bootWhole({
      ramBase: LIMIT - RAM / 2,
      ramBytes: RAM,
      properties: { [DEVICES[0]]: { "dma-mask-bits": BITS } },
    });
    if ("verdict" in rig) return rig;
    const pa = highPage(rig);
    if (pa < LIMIT) return absent("no page above the limit");
    const dma = rig.map(0, pa);
    if (dma < 0) return absent(`mapping a page at 0x${pa.toString(16)}: ${errnoName(dma)}`);
    if (dma >= LIMIT) return absent("the DMA address does not fit the mask");
    const word = Int32Array.of(0x1234_5678);
    rig.master(0).write(dma, word);
    rig.unmap(0, dma);
    if (rig.memory.load32(pa) !== word[0]) return absent("what the device wrote did not arrive");
    const how = rig.port.status.translation === "identity" ? "copied through a bounce buffer" : "translated, no copy";
    return works(`a ${BITS}-bit device writes to 0x${pa.toString(16)}: ${how}`);
  },
};
