// Small recordings, as the kernel prints them.
const wide = (value: number): string => `0x${value.toString(16).padStart(16, "0")}`;
const event = (text: string): string => `              dd-207     [000] d.h..     8.776852: ${text}\n`;

export interface Mapping {
  readonly device?: string;
  readonly iova?: number;
  readonly pa?: number;
  readonly size?: number;
  readonly dir?: string;
}

/** Lines of `dma_map_page`. */
export function mapText({ device = "0000:00:01.0", iova = 0xfffdf000, pa = 0x42805000, size = 4096, dir = "FROM_DEVICE" }: Mapping = {}): string {
  const range = `iova=${wide(iova)} - ${wide(iova + size)}`;
  return (
    event(`map: IOMMU: ${range} paddr=${wide(pa)} size=${size}`) +
    event(`dma_map_page: ${device} dir=${dir} dma_addr=${iova.toString(16)} size=${size} phys_addr=${pa.toString(16)} attrs=`)
  );
}

/** Lines of `dma_unmap_page`. */
export function unmapText({ device = "0000:00:01.0", iova = 0xfffdf000, size = 4096, dir = "FROM_DEVICE" }: Mapping = {}): string {
  const range = `iova=${wide(iova)} - ${wide(iova + size)}`;
  return (
    event(`unmap: IOMMU: ${range} size=${size} unmapped_size=${size}`) +
    event(`dma_unmap_page: ${device} dir=${dir} dma_addr=${iova.toString(16)} size=${size} attrs=`)
  );
}

/** A `map:` line that no DMA event explains. */
export const strayMapText = (iova: number): string =>
  event(`map: IOMMU: iova=${wide(iova)} - ${wide(iova + 4096)} paddr=${wide(0x4600_0000)} size=4096`);

export const attachText = (device: string): string => event(`attach_device_to_domain: IOMMU: device=${device}`);

/** Twelve mappings of three devices, both directions, one device not on PCI; two are live at the end, one line is stray. */
export function smallTrace(): string {
  const devices = ["0000:00:01.0", "0000:00:02.0", "4000000.ethernet"];
  const mappings = Array.from({ length: 12 }, (_, i): Mapping => {
    const place = { iova: 0xfff00000 + i * 0x2000, pa: 0x42800000 + i * 0x1000 };
    return { device: devices[i % 3]!, ...place, dir: ["FROM_DEVICE", "TO_DEVICE", "BIDIRECTIONAL"][i % 3]! };
  });
  return [
    "# tracer: nop\n#\n",
    ...devices.map(attachText),
    ...mappings.map(mapText),
    strayMapText(0xfe000000),
    ...mappings.slice(2).map(unmapText),
  ].join("");
}
