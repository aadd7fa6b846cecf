import { describe, expect, test } from "vitest";
import { ACCESS, hi32, join, lo32, TRANSLATION } from "@smmuv3/platform";
import { CERROR, STE_EATS, STE_S1DSS } from "@smmuv3/smmu-v3-defs";
import { DeviceAtc, GERROR_BIT, PRG_RESPONSE } from "../src/index.ts";
import type { DeviceAtcOptions, InvalidationAnswer, PageResponse, SmmuV3Options } from "../src/index.ts";
import { CR0_BASE, CR0_PRIQEN, Endpoint, WITH_ATS } from "./ats-rig.ts";
import { CDS, PA, Rig, S1 } from "./rig.ts";

const VA = 0x40_0000_0000;
const PRIQ = 0x4005_0000;
const FULL = { EATS: STE_EATS.full };

interface Device {
  readonly rig: Rig;
  readonly atc: DeviceAtc;
  readonly root: number;
  readonly access: (address: number, flags?: number, ssid?: number) => number | string;
}

/** A device with StreamID 1, with PASID 1, whose page tables are at `root`. */
function device(options: Partial<DeviceAtcOptions> = {}, smmu: Partial<SmmuV3Options> = {}): Device {
  const rig = new Rig({ id: WITH_ATS, ...smmu });
  const root = rig.stage1(1, {}, { ...FULL, S1CDMax: 2, S1DSS: STE_S1DSS.ssid0 });
  for (const ssid of [1, 2]) rig.cd(CDS + 64 * (ssid + 4), { TTB0: root, ASID: 100 + ssid });
  rig.ste(1, { Config: 5, S1ContextPtr: CDS + 256, ...FULL, S1CDMax: 2, S1DSS: STE_S1DSS.ssid0 });
  rig.cd(CDS + 256, { TTB0: root, ASID: 1 });
  const atc = new DeviceAtc({ ats: rig.smmu.ats, sid: 1, ...options });
  return {
    rig,
    atc,
    root,
    access: (address, flags = ACCESS.read, ssid = 0) => {
      const result = atc.translate(1, ssid, lo32(address), hi32(address), flags);
      if (result === TRANSLATION.ok) return join(atc.paLo, atc.paHi);
      return result === TRANSLATION.stalled ? "asked" : "abort";
    },
  };
}

const PASID = ACCESS.ssidValid;

describe("3.9.1: DeviceAtc", () => {
  test("asks once, then uses what it holds", () => {
    const { rig, atc, root, access } = device();
    rig.map(root, VA, PA, S1.rw);
    expect(access(VA + 0x123)).toBe(PA + 0x123);
    expect(access(VA + 0x800, ACCESS.write)).toBe(PA + 0x800);
    expect([atc.requests, atc.size]).toEqual([1, 1]);
  });

  test("a block is one translation", () => {
    const { rig, atc, root, access } = device();
    rig.map(root, VA, PA, S1.rw, 0x4000_0000);
    expect(access(VA + 0x1234_5678)).toBe(PA + 0x1234_5678);
    expect(access(VA + 0x3fff_ffff)).toBe(PA + 0x3fff_ffff);
    expect([atc.requests, atc.size]).toEqual([1, 1]);
  });

  test("several at once", () => {
    const { rig, atc, root, access } = device({ prefetch: 4 });
    for (let page = 0; page < 4; page++) rig.map(root, VA + page * 0x1000, PA + page * 0x2000, S1.rw);
    for (let page = 0; page < 4; page++) expect(access(VA + page * 0x1000)).toBe(PA + page * 0x2000);
    expect([atc.requests, atc.size]).toEqual([1, 4]);
  });

  test("substreams and privilege levels hold their own", () => {
    const { rig, atc, root, access } = device();
    rig.map(root, VA, PA, S1.rw);
    for (const [flags, ssid] of [[0, 0], [PASID, 1], [PASID | ACCESS.privileged, 1], [PASID, 2]] as const) {
      expect(access(VA, flags, ssid)).toBe(PA);
    }
    expect([atc.requests, atc.size]).toEqual([4, 4]);
  });

  test("what is not granted is asked for again, and aborted", () => {
    const { rig, atc, root, access } = device();
    rig.map(root, VA, PA, S1.ro);
    expect(access(VA)).toBe(PA);
    expect(access(VA, ACCESS.write)).toBe("abort");
    expect(access(VA + 0x1000)).toBe("abort");
    expect(atc.requests).toBe(3);
    expect(rig.events()).toEqual([]);
  });

  test("cleared, it asks again", () => {
    const { rig, atc, root, access } = device();
    rig.map(root, VA, PA, S1.rw);
    expect(access(VA)).toBe(PA);
    rig.memory.store64(rig.leaf(root, VA), 0, 0);
    rig.command("TLBI_NSNH_ALL");
    expect(access(VA)).toBe(PA);
    atc.clear();
    expect(access(VA)).toBe("abort");
  });

  test("it is bounded", () => {
    const { rig, atc, root, access } = device({ entries: 8 });
    for (let page = 0; page < 40; page++) rig.map(root, VA + page * 0x1000, PA + page * 0x1000, S1.rw);
    for (let page = 0; page < 40; page++) expect(access(VA + page * 0x1000)).toBe(PA + page * 0x1000);
    expect(atc.size).toBeLessThanOrEqual(8);
    expect(() => device({ entries: 6 })).toThrow(RangeError);
  });
});

describe("4.5.1 CMD_ATC_INV", () => {
  const ALL = ["0:none", "0:1", "1:none", "1:2", "block:none"];
  type Values = Parameters<Rig["command"]>[1];
  test.each<[string, Values, readonly string[]]>([
    ["one page, without PASID: of every requester", { AtcSize: 0, Address: VA }, ["1:none", "1:2", "block:none"]],
    ["one page of PASID 1", { AtcSize: 0, Address: VA, SSV: 1, SSID: 1 }, ["0:none", "1:none", "1:2", "block:none"]],
    ["of a PASID that holds nothing", { AtcSize: 52, SSV: 1, SSID: 3 }, ALL],
    ["Global, with a PASID: of all PASIDs", { AtcSize: 52, SSV: 1, SSID: 3, Global: 1 }, ["0:none", "1:none", "block:none"]],
    ["Global is ignored without", { AtcSize: 0, Address: VA, Global: 1 }, ["1:none", "1:2", "block:none"]],
    ["two pages; the span is aligned", { AtcSize: 1, Address: VA + 0x1000 }, ["block:none"]],
    ["a page within a block", { AtcSize: 0, Address: VA + 0x20_3000 }, ["0:none", "0:1", "1:none", "1:2"]],
    ["everything", { AtcSize: 52 }, []],
    ["another stream", { AtcSize: 52, SID: 2 }, ALL],
  ])("%s", (_name, values, left) => {
    const { rig, atc, root, access } = device();
    rig.map(root, VA, PA, S1.rw);
    rig.map(root, VA + 0x1000, PA, S1.rw);
    rig.map(root, VA + 0x20_0000, PA, S1.rw, 0x20_0000);
    const uses: Record<string, () => unknown> = {
      "0:none": () => access(VA),
      "0:1": () => access(VA, PASID, 1),
      "1:none": () => access(VA + 0x1000),
      "1:2": () => access(VA + 0x1000, PASID, 2),
      "block:none": () => access(VA + 0x20_0000),
    };
    for (const use of Object.values(uses)) use();
    expect(atc.size).toBe(5);
    rig.command("ATC_INV", { SID: 1, ...values });
    rig.command("SYNC");
    expect(rig.read("CMDQ_CONS")).toBe(2);
    const held = Object.entries(uses).filter(([, use]) => {
      const before = atc.requests;
      use();
      return atc.requests === before;
    });
    expect(held.map(([name]) => name)).toEqual(left);
  });

  test("what the device is sent", () => {
    const rig = new Rig({ id: WITH_ATS });
    const endpoint = new Endpoint();
    rig.smmu.ats.attach(3, endpoint);
    rig.command("ATC_INV", { SID: 3, SSV: 1, SSID: 0xabcde, Global: 1, AtcSize: 9, Address: 0xffff_8000_1234_5000 });
    rig.command("ATC_INV", { SID: 3, AtcSize: 52, Address: 0x1000, Global: 1 });
    expect(endpoint.invalidations).toEqual([
      { sid: 3, ssid: 0xabcde, global: true, address: 0xffff_8000_1220_0000, log2: 21 },
      { sid: 3, ssid: -1, global: false, address: 0, log2: 64 },
    ]);
    rig.smmu.ats.detach(3);
    rig.command("ATC_INV", { SID: 3 });
    expect(endpoint.invalidations).toHaveLength(2);
  });

  test.each([["illegal", CERROR.ILL, 0], ["all", 0, 64]] as const)("Size > 52 by policy: %s", (atcInvSize, error, log2) => {
    const rig = new Rig({ id: WITH_ATS, policy: { atcInvSize } });
    const endpoint = new Endpoint();
    rig.smmu.ats.attach(1, endpoint);
    rig.command("ATC_INV", { SID: 1, AtcSize: 53 });
    expect(rig.read("CMDQ_CONS") >>> 24).toBe(error);
    expect(endpoint.invalidations.map((sent) => sent.log2)).toEqual(log2 === 0 ? [] : [log2]);
  });

  test("ignored while SMMUEN is 0", () => {
    const rig = new Rig({ id: WITH_ATS, cr0: CR0_BASE & ~1 });
    const endpoint = new Endpoint();
    endpoint.answer = "timeout";
    rig.smmu.ats.attach(1, endpoint);
    rig.command("ATC_INV", { SID: 1 });
    rig.command("PRI_RESP", { SID: 1 });
    rig.command("SYNC");
    expect(endpoint.invalidations).toEqual([]);
    expect(endpoint.responses).toEqual([]);
    expect(rig.read("CMDQ_CONS")).toBe(3);
  });

  test("3.9.1 a translation that was invalidated in the SMMU only is still used by the device", () => {
    const { rig, root, access } = device();
    rig.map(root, VA, PA, S1.rw);
    access(VA);
    rig.map(root, VA, PA + 0x1000, S1.rw);
    rig.command("TLBI_NH_ASID", { ASID: 1 });
    rig.command("SYNC");
    expect(access(VA)).toBe(PA);
    rig.command("ATC_INV", { SID: 1, AtcSize: 52 });
    rig.command("SYNC");
    expect(access(VA)).toBe(PA + 0x1000);
  });

  test("3.9.1 the other order fetches the old translation again", () => {
    const { rig, root, access } = device();
    rig.map(root, VA, PA, S1.rw);
    access(VA);
    rig.map(root, VA, PA + 0x1000, S1.rw);
    rig.command("ATC_INV", { SID: 1, AtcSize: 52 });
    rig.command("SYNC");
    expect(access(VA)).toBe(PA);
  });
});

describe("3.9.1.4 ATS Invalidation timeout", () => {
  test.each<[InvalidationAnswer, number]>([
    ["done", 0],
    ["unsupported", 0],
    ["timeout", CERROR.ATC_INV_SYNC],
  ])("%s", (answer, error) => {
    const { rig, atc, root, access } = device();
    rig.map(root, VA, PA, S1.rw);
    access(VA);
    atc.answer = answer;
    rig.command("ATC_INV", { SID: 1, AtcSize: 52 });
    // The invalidation itself is consumed without error.
    expect(rig.read("CMDQ_CONS")).toBe(1);
    rig.command("SYNC", { CS: 1 });
    expect(rig.read("CMDQ_CONS")).toBe(error === 0 ? 2 : (error << 24) | 1);
    expect((rig.read("GERROR") & GERROR_BIT.CMDQ_ERR) !== 0).toBe(error !== 0);
    expect(rig.pulses.cmdSync).toBe(error === 0 ? 1 : 0);
    expect(atc.size).toBe(answer === "done" ? 0 : 1);
  });

  test("after the acknowledgement the SYNC is executed again", () => {
    const { rig, atc } = device();
    atc.answer = "timeout";
    rig.command("ATC_INV", { SID: 1, AtcSize: 52 });
    rig.command("ATC_INV", { SID: 1, AtcSize: 52 });
    rig.command("SYNC", { CS: 1 });
    rig.command("SYNC", { CS: 1 });
    expect(rig.read("CMDQ_CONS")).toBe((CERROR.ATC_INV_SYNC << 24) | 2);
    rig.write("GERRORN", rig.read("GERROR"));
    expect(rig.read("CMDQ_CONS") & 0xf_ffff).toBe(4);
    expect(rig.pulses.cmdSync).toBe(2);
    // One that is answered does not fail.
    atc.answer = "done";
    rig.command("ATC_INV", { SID: 1, AtcSize: 52 });
    rig.command("SYNC", { CS: 1 });
    expect(rig.pulses.cmdSync).toBe(3);
  });
});

describe("chapter 8: page requests of a device", () => {
  function paged(): Device & { readonly answers: PageResponse[] } {
    const answers: PageResponse[] = [];
    const rig = new Rig({ id: WITH_ATS, cr0: 0 });
    rig.write64("PRIQ_BASE", PRIQ + 2);
    rig.write("CR0", CR0_BASE | CR0_PRIQEN);
    const root = rig.stage1(1, {}, FULL);
    const onPageResponse = (response: PageResponse): void => {
      answers.push(response);
    };
    const atc = new DeviceAtc({ ats: rig.smmu.ats, pri: rig.smmu.pri, sid: 1, onPageResponse });
    const access = (address: number, flags: number = ACCESS.read): number | string => {
      const result = atc.translate(1, 0, lo32(address), hi32(address), flags);
      if (result === TRANSLATION.ok) return join(atc.paLo, atc.paHi);
      return result === TRANSLATION.stalled ? "asked" : "abort";
    };
    return { rig, root, atc, access, answers };
  }

  test("asked for, mapped, answered, accessed", () => {
    const { rig, root, atc, access, answers } = paged();
    expect(access(VA + 0x10, ACCESS.write)).toBe("asked");
    expect(rig.read("PRIQ_PROD")).toBe(1);
    // SID, W and L, PRGIndex 1 and the page.
    expect(rig.memory.load32(PRIQ)).toBe(1);
    expect(rig.memory.load32(PRIQ + 4) >>> 0).toBe(0x6000_0000);
    expect(rig.memory.load32(PRIQ + 8)).toBe(1);
    expect(rig.memory.load32(PRIQ + 12)).toBe(0x40);
    rig.map(root, VA, PA, S1.rw);
    rig.command("PRI_RESP", { SID: 1, PRGIndex: 1, Resp: 2 });
    expect(answers).toEqual([{ sid: 1, ssid: -1, prgIndex: 1, code: PRG_RESPONSE.success }]);
    expect(access(VA + 0x10, ACCESS.write)).toBe(PA + 0x10);
    expect(atc.pageRequests).toBe(1);
  });

  test("a queue that is off refuses", () => {
    const { rig, access, answers } = paged();
    rig.write("CR0", CR0_BASE);
    expect(access(VA)).toBe("abort");
    expect(answers).toEqual([{ sid: 1, ssid: -1, prgIndex: 1, code: PRG_RESPONSE.failure }]);
  });
});
