import { TRANSLATION } from "@smmuv3/platform";
import type { FirmwareNode, RegisterWindow } from "@smmuv3/platform";
import type { Tegra241Impl } from "@smmuv3/arm-smmu-v3";
import { CMD, COMMAND_NAMES, COMMANDS, getField, OFFSET } from "@smmuv3/smmu-v3-defs";
import { PRESETS, Tegra241Cmdqv } from "@smmuv3/smmu-v3-model";
import type { Tegra241CmdqvOptions } from "@smmuv3/smmu-v3-model";
import { expect } from "vitest";
import { BUFFER, RW } from "./fixture.ts";
import type { Rig, RigOptions } from "./fixture.ts";
import { row } from "./rows.ts";
import type { MakeRig } from "./rows.ts";

const BASE = 0xa00_0000;
const IRQ = 90;
const PAGE = 0x1000;

const cmdqvNode = (properties: FirmwareNode["properties"]): FirmwareNode => ({
  name: "cmdqv", compatible: ["nvidia,tegra264-cmdqv"], reg: [{ base: BASE, size: 0x10_0000 }], interrupts: { cmdqv: IRQ },
  iommus: [], properties,
});

/** A machine with the block; `writes`: to its registers, in order. */
function rigOf(make: MakeRig, block: Tegra241CmdqvOptions = {}, options: RigOptions = {}): { rig: Rig; writes: string[]; impl: Tegra241Impl } {
  const writes: string[] = [];
  const rig = make({
    id: PRESETS.mmu700,
    node: { properties: { "nvidia,cmdqv": 7 } },
    nodes: [cmdqvNode({ phandle: 7 })],
    ...options,
    before({ machine, smmu }) {
      const cmdqv = new Tegra241Cmdqv(smmu, { vintfs: 2, vcmdqs: 4, irq: machine.line(IRQ), ...block });
      const window: RegisterWindow = {
        get hi() {
          return cmdqv.hi;
        },
        read32: (offset) => cmdqv.read32(offset),
        read64: (offset) => cmdqv.read64(offset),
        write32(offset, value) {
          writes.push(`${offset.toString(16)}=${(value >>> 0).toString(16)}`);
          cmdqv.write32(offset, value);
        },
        write64(offset, lo, hi) {
          writes.push(`${offset.toString(16)}=q`);
          cmdqv.write64(offset, lo, hi);
        },
      };
      machine.addDevice("cmdqv", BASE, 0x10_0000, window);
    },
  });
  return { rig, writes, impl: rig.device.impl as Tegra241Impl };
}

/** Opcodes in the ring of a queue of interface 0. */
function opcodes(rig: Rig, impl: Tegra241Impl, queue: number): string[] {
  const { pa, prod } = impl.queues[queue]!.ring;
  return Array.from({ length: prod }, (_, i) => {
    const words = new Int32Array(4);
    rig.machine.memory.read(pa + i * 16, words);
    const name = COMMAND_NAMES.get(getField(words, 0, CMD.Opcode))!;
    return name === "SYNC" ? `SYNC ${getField(words, 0, CMD.CS)}` : name;
  });
}

row("T1 reset order: the block off and on, queues allocated, ascending map, descending unmap", (make) => {
  const { rig, writes, impl } = rigOf(make, {}, { clients: [] });
  const config = writes.filter((line) => !/^1(04|08|0)[0-9a-f]=|^10[4-9a-b]/u.test(line));
  expect([impl.vintfs, impl.queuesPerVintf, impl.hypOwn]).toEqual([2, 2, true]);
  expect(config).toEqual([
    "0=0", "0=1",
    "200=0", "204=2", "208=8000", "20c=8002",
    "1000=0",
    "1000=20000", "1000=20001",
    ...[0, 1].flatMap((queue) => {
      const at = (offset: number): string => (offset + queue * 0x80).toString(16);
      return [
        `${(0x200 + queue * 4).toString(16)}=${(queue * 2 + 1).toString(16)}`,
        `${at(0x3_0008)}=0`, `${at(0x3_0004)}=0`, `${at(0x3_0000)}=0`, `${at(0x4_0000)}=q`, `${at(0x4_0008)}=q`,
        `${at(0x4_0000)}=q`, `${at(0x3_0008)}=1`,
      ];
    }),
  ]);
  // It is the last thing that a reset does.
  expect(rig.smmu.registers.read32(OFFSET.CR0) & 1).toBe(1);
  writes.length = 0;
  rig.kernel.core.shutdown();
  const off = writes.filter((line) => /^(20[04]|1000|0|30008|30088)=/u.test(line));
  expect(off).toEqual(["30088=0", "204=2", "30008=0", "200=0", "1000=0", "0=0"]);
  expect(rig.registers.at(-1)).toBe("CR0=0x0");
});

row("T2 secondary queue choice, T3 CS = NONE", (make) => {
  const { rig, impl } = rigOf(make);
  const client = rig.clients[0]!;
  const domain = rig.domain();
  rig.iommu.map(domain, PAGE, BUFFER, PAGE, RW);
  expect(rig.golden(() => rig.attach(client, domain))).toEqual([]);
  expect(opcodes(rig, impl, 0).slice(-3)).toEqual(["CFGI_STE", "SYNC 0", "PREFETCH_CONFIG"]);
  expect(rig.write(client.sid, PAGE, 5)).toBe(TRANSLATION.ok);
  rig.iommu.unmap(domain, PAGE, PAGE);
  expect(opcodes(rig, impl, 0).slice(-2)).toEqual(["TLBI_NH_VA", "SYNC 0"]);
  expect(rig.write(client.sid, PAGE, 5)).toBe(TRANSLATION.abort);
  // Each CPU has its own.
  Object.defineProperty(rig.machine.host, "id", { value: 3, configurable: true });
  domain.ops.flushIotlbAll!(domain);
  expect(opcodes(rig, impl, 1)).toEqual(["TLBI_NH_ASID", "SYNC 0"]);
});

row("T2 in a virtual machine the queues take three commands, the others go to the SMMU's own", (make) => {
  const { rig, impl } = rigOf(make, { guest: true });
  expect(impl.hypOwn).toBe(false);
  const client = rig.clients[0]!;
  const domain = rig.domain();
  rig.iommu.map(domain, PAGE, BUFFER, PAGE, RW);
  const main = rig.golden(() => rig.attach(client, domain));
  expect(main.filter((line) => line.includes("CFGI_STE"))).not.toEqual([]);
  expect(opcodes(rig, impl, 0)).toEqual([]);
  rig.write(client.sid, PAGE, 1);
  expect(rig.golden(() => rig.iommu.unmap(domain, PAGE, PAGE))).toEqual([]);
  expect(opcodes(rig, impl, 0)).toEqual(["TLBI_NH_VA", "SYNC 0"]);
});

row("T4 VCMDQ error: the command is skipped and acknowledged, the rest runs", (make) => {
  const { rig, impl } = rigOf(make);
  const words = new Int32Array(8);
  words[0] = 0xff;
  words[4] = COMMANDS.TLBI_NH_ASID.opcode;
  expect(impl.queues[0]!.ring.issue(words, 2, true)).toBe(0);
  expect(rig.kernel.log.lines("err")).toEqual(["arm-smmu-v3 smmuv3@9050000: CMDQV: VCMDQ 0: CMDQ error 0x1"]);
  expect(opcodes(rig, impl, 0).slice(-3)).toEqual(["SYNC 0", "TLBI_NH_ASID", "SYNC 0"]);
});

row("T6 fallback: without the block, or with it disabled, the SMMU works as ever", (make) => {
  for (const options of [
    { driver: { disableCmdqv: true } },
    { driver: { bypassVcmdq: true } },
    { nodes: [{ ...cmdqvNode({ phandle: 7 }), reg: [] }] },
    { nodes: [] },
  ] satisfies RigOptions[]) {
    const { rig } = rigOf(make, {}, options);
    expect(rig.golden(() => rig.attach(rig.clients[0]!, "blocked"))).toContain("PREFETCH_CONFIG");
    expect(rig.write(8, BUFFER, 1)).toBe(TRANSLATION.abort);
  }
});

row("T6 by ACPI: the block is found by its UID", (make) => {
  const node = { ...cmdqvNode({ uid: 3 }), compatible: ["NVDA200C"] };
  const { impl } = rigOf(make, {}, { node: { properties: { "iort-id": 3 } }, nodes: [node] });
  expect(impl.queues).toHaveLength(2);
});

row("T7 impl hook pairing", (make) => {
  const rig = make({ clients: [], driver: { impl: { name: "half", vsmmuInit: () => 0 } } });
  expect(rig.driver.smmus).toEqual([]);
  expect(rig.kernel.log.lines("err").join()).toMatch(/EINVAL/);
});
