import { expect, test } from "vitest";
import { TraceError } from "../src/index.ts";
import { alloc, attach, bytes, event, gzip, map, mapPage, pieces, read, unmap, unmapPage } from "./lines.ts";

const good = `${map(0xfffdf000, 0x42805000)}\n${mapPage(0xfffdf000, 0x42805000)}\n`;
const MAP = map(0xfffdf000, 0x42805000);
const PAGE = mapPage(0xfffdf000, 0x42805000);
const LIST = event("dma_map_sg: 0000:00:05.0 dir=TO_DEVICE nents=1/1 ents=1/1 dma_addrs={0xfff00000} sizes={0x1000} phys_addrs={0x41f0a000} attrs=");
/** The bad line as the third of a file. */
const third = (line: string): Uint8Array => bytes(`${good}${line}\n${good}`);
const packed = gzip(good.repeat(2000));

const CASES: readonly (readonly [name: string, data: Uint8Array, message: string])[] = [
  ["empty", new Uint8Array(0), "1: the file is empty"],
  ["empty, gzipped", gzip(""), "1: the file is empty"],
  ["blank", bytes("\n\n"), "2: no iommu or dma event in 2 lines; is this ftrace text?"],
  ["header alone", bytes("# tracer: nop\n#\n"), "2: no iommu or dma event in 2 lines; is this ftrace text?"],
  ["other text", bytes("hello\nworld"), "2: no iommu or dma event in 2 lines; is this ftrace text?"],
  ["other events", bytes(`${event("sched_switch: x")}\n`), "1: no iommu or dma event in 1 lines; is this ftrace text?"],
  ["binary", Uint8Array.from([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0, 0]), "1: the file is binary, not text: it has a zero byte"],
  ["binary after text", third("\0"), "3: the file is binary, not text: it has a zero byte"],
  ["UTF-16", Uint8Array.from([0xff, 0xfe, 0x23, 0, 0x20, 0]), "1: the file is binary, not text: it has a zero byte"],
  ["zstd", Uint8Array.from([0x28, 0xb5, 0x2f, 0xfd, 0]), "1: the format is zstd; ftrace text is read, plain or gzipped"],
  ["trace.dat", Uint8Array.from([0x17, 8, 0x44, 0x74, 0x72]), "1: the format is trace-cmd's trace.dat; ftrace text is read, plain or gzipped"],
  ["gzip that is cut in its header", packed.subarray(0, 8), "1: gzip data is damaged or cut short after this line"],
  ["gzip with something behind it", Uint8Array.from([...gzip(good), ...gzip(good)]), "2: data follows the end of the gzip stream"],
  ["a line without end", bytes(`${good}${"x".repeat(70_000)}`), "3: the line is longer than 65536 bytes"],
  ["a long line", third("x".repeat(70_000)), "3: the line is longer than 65536 bytes"],
  ["inverted range", third(MAP.replace("fffe0000", "fffde000")), "3: iova range is inverted: 0xfffdf000 - 0xfffde000"],
  ["empty range", third(unmap(0x1000, 0)), "3: iova range is empty: 0x1000 - 0x1000"],
  ["another size", third(MAP.replace("size=4096", "size=8192")), "3: size 8192 is not that of the iova range, 4096"],
  ["no range", third(event("map: IOMMU: paddr=0x1000 size=4096")), '3: map: no "IOMMU: iova="'],
  ["no end of the range", third(event("map: IOMMU: iova=0x1000 paddr=0x1000 size=4096")), '3: map: no "-"'],
  ["no paddr", third(MAP.replace(" paddr=", " addr=")), '3: map: no "paddr="'],
  ["another subsystem's map", third(event("map: nothing of the kind")), '3: map: no "IOMMU: iova="'],
  ["letters for an address", third(MAP.replace("paddr=0x0000000042805000", "paddr=here")), '3: map: paddr is not a number: "here"'],
  ["letters in an address", third(MAP.replace("42805000 ", "4280500z ")), '3: map: paddr is not a number: "000000004280500z"'],
  ["an address above 2^53", third(MAP.replace("paddr=0x00", "paddr=0xff")), '3: map: paddr is above 2^53: "0xff00000042805000"'],
  ["a negative size", third(PAGE.replace("size=4096", "size=-1")), '3: dma_map_page: size is not a number: "-1"'],
  ["a huge size", third(PAGE.replace("size=4096", "size=99999999999999999999")), '3: dma_map_page: size is above 2^53: "99999999999999999999"'],
  ["no bytes", third(PAGE.replace("size=4096", "size=0")), "3: dma_map_page: size is 0"],
  ["a cut line in the middle", third(PAGE.slice(0, -20)), '3: dma_map_page: no "phys_addr="'],
  ["an event's name alone", third(event("dma_unmap_page:")), "3: dma_unmap_page: no device"],
  ["no device", third(event("attach_device_to_domain: IOMMU: device=")), "3: attach_device_to_domain: no device"],
  ["a long device", third(attach("d".repeat(200))), "3: attach_device_to_domain: the device's name is longer than 128 bytes"],
  ["a direction", third(PAGE.replace("FROM_DEVICE", "SIDEWAYS")), '3: dma_map_page: unknown direction "SIDEWAYS"'],
  ["no direction", third(unmapPage(0x1000).replace("dir=", "to=")), '3: dma_unmap_page: no "dir="'],
  ["allocation without address", third(alloc(0x1000, 64).replace("dma_addr=1000", "dma_addr=")), '3: dma_alloc: dma_addr is not a number: ""'],
  ["a list that is none", third(LIST.replace("{0xfff00000}", "0xfff00000")), '3: dma_map_sg: dma_addrs is not a list: "0xfff00000"'],
  ["a list without end", third(LIST.replace("{0x1000}", "{0x1000")), "3: dma_map_sg: sizes has no end"],
  ["lists that differ", third(LIST.replace("{0x1000}", "{0x1000,0x1000}")), "3: dma_map_sg: 1 dma_addrs and 2 sizes"],
  ["a list without bytes", third(LIST.replace("{0x1000}", "{0x0}")), "3: dma_map_sg: all sizes are 0"],
];

test.each(CASES)("%s", async (_name, data, message) => {
  for (const size of [1 << 20, 97]) {
    const error: unknown = await read(pieces(data, size), { name: "my.ftrace" }).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(TraceError);
    expect((error as TraceError).message).toBe(`my.ftrace:${message}`);
    expect(`${(error as TraceError).line}: ${(error as TraceError).reason}`).toBe(message);
  }
});

test.each([
  ["in the middle", packed.subarray(0, packed.length >> 1), 3999],
  ["in its checksum", packed.subarray(0, -6), 4000],
])("gzip that is cut %s names the line it reached", async (_name, data, last) => {
  const error = (await read(pieces(data, 200), { name: "my.ftrace.gz" }).catch((thrown: unknown) => thrown)) as TraceError;
  expect(error.message).toMatch(/^my\.ftrace\.gz:\d+: gzip data is damaged or cut short after this line$/);
  expect(error.line).toBeGreaterThan(1);
  expect(error.line).toBeLessThanOrEqual(last);
});

test("misuse of the API", async () => {
  await expect(read("text" as unknown as Iterable<Uint8Array>)).rejects.toThrow(new TypeError("chunks: expected an iterable of Uint8Array, found a string"));
  await expect(read(bytes(good) as unknown as Iterable<Uint8Array>)).rejects.toThrow(TypeError);
});
