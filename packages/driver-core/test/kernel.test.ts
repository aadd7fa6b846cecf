import { expect, test } from "vitest";
import { createKernel } from "../src/index.ts";
import { FakeCpu, firmware } from "@smmuv3/fake-cpu";

test("a kernel joins CPU, memory, pages, devices and log", () => {
  const ram = { base: 0x4000_0000, size: 1 << 20 };
  const cpu = new FakeCpu(undefined, ram);
  const kernel = createKernel({
    cpu,
    firmware: firmware([], ram),
    reserved: [{ base: 0x4000_0000, size: 0x10000 }],
  });
  expect(kernel.memory).toBe(cpu.memory);
  expect(kernel.pages.available).toBe((1 << 20) - 0x10000);
  expect(kernel.pages.alloc(4096)).toBe(0x4001_0000);
  kernel.core.initcall("late", "fails", () => -5);
  kernel.core.boot();
  expect(kernel.log.lines()).toEqual(["initcall fails returned EIO"]);

  const part = createKernel({ cpu, firmware: firmware([], ram), ram: { base: 0x4008_0000, size: 4096 } });
  expect([part.pages.alloc(4096), part.pages.alloc(4096)]).toEqual([0x4008_0000, -12]);
});
