// A process: CPU page tables with pages that tests put in.
import { ERRNO } from "@smmuv3/platform";
import { allocIoPgtable } from "@smmuv3/io-pgtable-arm-common";
import type { IoPgtable } from "@smmuv3/io-pgtable-arm-common";
import { Mm } from "@smmuv3/iommu-core";
import type { FaultHandler } from "@smmuv3/iommu-core";
import { RW } from "./fixture.ts";
import type { Rig } from "./fixture.ts";

const PAGE = 0x1000;

export class Process {
  readonly mm: Mm;
  readonly tables: IoPgtable;

  constructor(rig: Rig, fault: FaultHandler = () => -ERRNO.EFAULT) {
    const { pages, memory } = rig.kernel;
    this.tables = allocIoPgtable("64_S1", {
      memory, pgsizeBitmap: PAGE, ias: 48, oas: 44, coherentWalk: true,
      // The TLBs of CPUs; the SMMU hears of changes as a notifier.
      tlb: { flushAll() {}, flushWalk() {}, addPage() {} },
      alloc: (bytes) => pages.alloc(bytes),
      free: (pa, bytes) => {
        pages.free(pa, bytes);
      },
    });
    const { tables } = this;
    this.mm = new Mm(
      {
        ttb: tables.pgd, vaBits: 48, granule: PAGE,
        unmap: (start, size) => {
          for (let at = start; at < start + size; at += PAGE) {
            if (tables.iovaToPhys(at) !== 0) tables.unmapPages(at, PAGE, 1, null);
          }
        },
        free: () => {
          tables.free();
        },
      },
      fault,
    );
  }

  map(va: number, pa: number): void {
    this.tables.mapPages(va, pa, PAGE, 1, RW);
  }
}
