import { PAGE_SIZE } from "@smmuv3/platform";
import type { FirmwareNode } from "@smmuv3/platform";
import { DMA_CLIENT, DMA_DIRECTION } from "@smmuv3/arch-common";
import { RV_REGISTER_SPACE } from "@smmuv3/riscv-iommu-defs";
import { RiscvIommu } from "@smmuv3/riscv-iommu-model";
import { asVariant, VARIANTS } from "../../lab/variants.ts";
import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";
import { Lab } from "../lab.ts";

const NODE = "iommu@9070000";
const BASE = 0x0907_0000;
const INTERRUPT = 112;
const DISK = "0000:00:05.0";
const STREAM = 300;

function nodes(): readonly FirmwareNode[] {
  const iommu = { name: NODE, compatible: ["riscv,iommu"], reg: [{ base: BASE, size: RV_REGISTER_SPACE }], interrupts: { fltq: INTERRUPT }, iommus: [], properties: {} };
  const iommus = [{ iommu: NODE, id: STREAM }];
  return [iommu, { name: DISK, compatible: [DMA_CLIENT], reg: [], interrupts: {}, iommus, properties: { "dma-coherent": true } }];
}

export const twoVendors: Feature = {
  id: "two-vendors",
  title: "IOMMUs of two vendors at once",
  arguments: [19],
  async probe(lab) {
    const composed = await lab.built.twoVendors?.();
    const paging = VARIANTS.get("three-driver/paging")!;
    const own = composed === undefined ? lab : new Lab(lab.built.paging === true ? asVariant(composed, paging) : composed);
    let riscv: RiscvIommu | undefined;
    const rig = own.boot({
      nodes,
      prepare({ machine, counters }) {
        riscv = new RiscvIommu({ memory: machine.memory, profile: "lazy", counters, irq: [machine.line(INTERRUPT)] });
        machine.addDevice(NODE, BASE, RV_REGISTER_SPACE, riscv);
      },
    });
    const { port, board } = rig;
    const device = port.devices.indexOf(DISK);
    if (device < 0) return absent(`no driver of this design binds ${NODE}: the device behind it does not probe`);
    const pa = rig.page();
    const dma = port.dmaMap(device, pa, PAGE_SIZE, DMA_DIRECTION.bidirectional);
    const master = board.machine.dmaMaster(DISK, STREAM, riscv);
    if (dma < 0 || !rig.masterReaches(master, dma, pa)) return absent("DMA behind the other IOMMU does not work");
    if (!rig.dmaWorks(0)) return absent("DMA behind the SMMU does not work");
    const drivers = port.status.iommus.map(({ driver }) => driver).join(" and ");
    return rig.trouble === "" ? works(`an SMMUv3 and a RISC-V IOMMU, bound by ${drivers}; DMA works behind both`) : absent(rig.trouble);
  },
};
