import { ERRNO, TRANSLATION } from "@smmuv3/platform";
import type { Master } from "@smmuv3/arm-smmu-v3";
import { DirtyBitmap, DOMAIN_FLAG } from "@smmuv3/iommu-core";
import type { IommuDomain } from "@smmuv3/iommu-core";
import { CD, getField, REG, STE, STE_CONFIG, STE_S1DSS } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "@smmuv3/smmu-v3-model";
import { expect } from "vitest";
import { BUFFER, RW, withField } from "./fixture.ts";
import type { Client, Rig } from "./fixture.ts";
import { row } from "./rows.ts";

const PAGE = 0x1000;
const IOVA = 0x12_3450_0000;
const { ok, abort } = TRANSLATION;
const S2_ONLY = PRESETS.qemuStage2;
const BOTH = PRESETS.reference;
const PASIDS = { "pasid-num-bits": 12 };

const master = (rig: Rig, client: Client): Master => rig.iommu.drvdataOf(client.dev) as Master;
const s1dss = (rig: Rig, client: Client): number => getField(rig.ste(client.sid), 0, STE.S1DSS);
const config = (rig: Rig, client: Client): number => getField(rig.ste(client.sid), 0, STE.Config);

/** A domain with one page of BUFFER mapped at IOVA. */
function mapped(rig: Rig, client: Client, page: number, flags: number = 0): IommuDomain {
  const domain = rig.domain(client, flags);
  expect(rig.iommu.map(domain, IOVA, BUFFER + page * PAGE, PAGE, RW)).toBe(0);
  return domain;
}

function lands(rig: Rig, page: number): number {
  return rig.machine.memory.load32(BUFFER + page * PAGE);
}

row("D1 map before attach", (make) => {
  const rig = make();
  const [client] = rig.clients;
  const commands = rig.trace(() => mapped(rig, client!, 3));
  expect(commands).toEqual([]);
  const domain = mapped(rig, client!, 4);
  rig.attach(client!, domain);
  expect(rig.dma(client!, IOVA, 0xd1)).toBe(ok);
  expect(lands(rig, 4)).toBe(0xd1);
});

row("D2 stage preference", (make) => {
  expect(make({ id: BOTH }).domain()).toMatchObject({ stage: 1 });
  expect(make({ id: S2_ONLY }).domain()).toMatchObject({ stage: 2 });
  const nested = make({ id: BOTH });
  expect(nested.domain(nested.clients[0], DOMAIN_FLAG.nestParent)).toMatchObject({ stage: 2, nestParent: true });
  const client = nested.clients[0]!.dev;
  expect(nested.iommu.allocPaging(client, DOMAIN_FLAG.nestParent | DOMAIN_FLAG.pasid)).toBe(-ERRNO.EOPNOTSUPP);
  const s2 = make({ id: S2_ONLY });
  expect(s2.iommu.allocPaging(s2.clients[0]!.dev, DOMAIN_FLAG.pasid)).toBe(-ERRNO.EOPNOTSUPP);
  expect(s2.iommu.allocPaging(s2.clients[0]!.dev, DOMAIN_FLAG.nestParent)).toBe(-ERRNO.EOPNOTSUPP);
});

row("D3 identity and blocked are static, shared, and never fail", (make) => {
  const rig = make({ id: BOTH });
  const [a, b] = rig.clients;
  for (const client of [a!, b!]) {
    expect(rig.attach(client, "blocked")).toBe(0);
    expect(rig.dma(client, BUFFER, 1)).toBe(abort);
    expect(rig.attach(client, "identity")).toBe(0);
    expect(rig.dma(client, BUFFER, client.sid)).toBe(ok);
    expect(lands(rig, 0)).toBe(client.sid);
  }
  expect(a!.group.domain).toBe(b!.group.domain);
  // Neither without memory nor without an SMMU that answers.
  rig.kernel.pages.alloc = () => -ERRNO.ENOMEM;
  expect(rig.attach(a!, "blocked")).toBe(0);
  expect(rig.dma(a!, BUFFER, 1)).toBe(abort);
});

row("D4 release -> blocked", (make) => {
  const rig = make();
  const [client] = rig.clients;
  const before = rig.kernel.pages.allocated;
  const domain = mapped(rig, client!, 1);
  rig.attach(client!, domain);
  rig.dma(client!, IOVA, 1);
  rig.kernel.core.removeDevice(client!.dev);
  expect(rig.dma(client!, IOVA, 2)).toBe(abort);
  rig.iommu.freeDomain(domain);
  expect(rig.kernel.pages.allocated).toBe(before);
  const again = rig.kernel.core.addDevice({ name: "client0", bus: "platform", node: client!.dev.node });
  expect(rig.iommu.groupOf(again)).toBeDefined();
});

row("D7 PASID attach on identity, blocked, S1 RID", (make) => {
  const rig = make({ id: BOTH, clients: [{ sids: [8], properties: PASIDS }] });
  const [client] = rig.clients;
  const process = mapped(rig, client!, 5);
  const own = mapped(rig, client!, 6);
  for (const [state, dss, rid] of [
    ["identity", STE_S1DSS.bypass, ok], ["blocked", STE_S1DSS.terminate, abort], [own, STE_S1DSS.ssid0, ok],
  ] as const) {
    rig.attach(client!, state);
    expect(rig.iommu.attachPasid(client!.dev, 3, process)).toBe(0);
    expect([config(rig, client!), s1dss(rig, client!)]).toEqual([STE_CONFIG.s1, dss]);
    expect(rig.dma(client!, IOVA, 0x77, 3)).toBe(ok);
    expect(lands(rig, 5)).toBe(0x77);
    const place = state === own ? IOVA : BUFFER;
    expect(rig.dma(client!, place, 0x88)).toBe(rid);
    expect(rig.dma(client!, IOVA, 1, 4)).toBe(abort);
    expect(rig.iommu.detachPasid(client!.dev, 3)).toBe(0);
    expect(rig.dma(client!, IOVA, 1, 3)).toBe(abort);
  }
  const s2 = rig.domain(client, DOMAIN_FLAG.nestParent);
  expect(rig.attach(client!, s2)).toBe(0);
  expect(rig.iommu.attachPasid(client!.dev, 3, process)).toBe(-ERRNO.EINVAL);
  expect(rig.iommu.attachPasid(client!.dev, 3, s2)).toBe(-ERRNO.EINVAL);
});

row("D7 the RID domain changes underneath attached PASIDs", (make) => {
  const rig = make({ id: BOTH, clients: [{ sids: [8], properties: PASIDS }] });
  const [client] = rig.clients;
  const process = mapped(rig, client!, 5);
  const one = mapped(rig, client!, 6);
  const two = mapped(rig, client!, 7);
  expect(rig.iommu.attachPasid(client!.dev, 9, process)).toBe(0);
  for (const state of [one, two, "blocked", "identity", "blocked", one, "identity", two] as const) {
    expect(rig.attach(client!, state)).toBe(0);
    expect(rig.dma(client!, IOVA, 0x99, 9)).toBe(ok);
    expect(lands(rig, 5)).toBe(0x99);
    const [place, expected] = typeof state === "string" ? [BUFFER, state === "identity" ? ok : abort] : [IOVA, ok];
    expect(rig.dma(client!, place, 0xaa)).toBe(expected);
    if (typeof state !== "string") expect(lands(rig, state === one ? 6 : 7)).toBe(0xaa);
  }
});

row("D7 PASID replace", (make) => {
  const rig = make({ id: BOTH, clients: [{ sids: [8], properties: PASIDS }] });
  const [client] = rig.clients;
  const [one, two] = [mapped(rig, client!, 5), mapped(rig, client!, 6)];
  expect(rig.iommu.replacePasid(client!.dev, 2, one)).toBe(-ERRNO.ENOENT);
  rig.iommu.attachPasid(client!.dev, 2, one);
  rig.dma(client!, IOVA, 1, 2);
  expect(rig.iommu.replacePasid(client!.dev, 2, two)).toBe(0);
  expect(rig.dma(client!, IOVA, 0x22, 2)).toBe(ok);
  expect(lands(rig, 6)).toBe(0x22);
  expect([one.users, two.users]).toEqual([0, 1]);
  expect(rig.iommu.freeDomain(one)).toBe(0);
});

row("D8 last PASID detach downgrade", (make) => {
  const rig = make({ id: BOTH, clients: [{ sids: [8], properties: PASIDS }] });
  const [client] = rig.clients;
  const domain = mapped(rig, client!, 5);
  for (const [state, plain] of [["identity", STE_CONFIG.bypass], ["blocked", STE_CONFIG.abort]] as const) {
    rig.attach(client!, state);
    rig.iommu.attachPasid(client!.dev, 1, domain);
    rig.iommu.attachPasid(client!.dev, 2, domain);
    rig.iommu.detachPasid(client!.dev, 1);
    expect(config(rig, client!)).toBe(STE_CONFIG.s1);
    rig.iommu.detachPasid(client!.dev, 2);
    expect(config(rig, client!)).toBe(plain);
  }
});

row("D9 S2 attach with PASIDs", (make) => {
  const rig = make({ id: BOTH, clients: [{ sids: [8], properties: PASIDS }] });
  const [client] = rig.clients;
  rig.iommu.attachPasid(client!.dev, 1, rig.domain(client));
  const s2 = rig.domain(client, DOMAIN_FLAG.nestParent);
  expect(rig.attach(client!, s2)).toBe(-ERRNO.EBUSY);
  rig.iommu.detachPasid(client!.dev, 1);
  expect(rig.attach(client!, s2)).toBe(0);
});

row("D10 cross-SMMU attach", (make) => {
  const rig = make({ second: true, clients: [[8], { sids: [8], smmu: 1, properties: PASIDS }] });
  const [a, b] = rig.clients;
  const domain = mapped(rig, a!, 1);
  expect(rig.attach(b!, domain)).toBe(-ERRNO.EINVAL);
  expect(rig.iommu.attachPasid(b!.dev, 1, domain)).toBe(-ERRNO.EINVAL);
  expect(rig.dma(b!, BUFFER, 1)).toBe(ok);
});

row("D11 ASIDs are unique across two SMMUs, VMIDs per SMMU from 1 on", (make) => {
  const ids = (rig: Rig): number[] => [0, 1, 0, 1].map((i) => rig.paging(rig.clients[i]).id);
  const clients = [[8], { sids: [8], smmu: 1 as const }];
  expect(ids(make({ second: true, clients }))).toEqual([1, 2, 3, 4]);
  expect(ids(make({ second: true, clients, id: S2_ONLY }))).toEqual([1, 1, 2, 2]);
});

row("D11 an ID is clean before it is used again", (make) => {
  const rig = make({ id: withField(PRESETS.qemuStage1, REG.IDR0.ASID16, 0) });
  const [client] = rig.clients;
  const others = Array.from({ length: 254 }, () => rig.domain());
  for (let turn = 0; turn < 3; turn++) {
    const domain = mapped(rig, client!, turn);
    expect(rig.iommu.allocPaging(client!.dev)).toBe(-ERRNO.ENOSPC);
    rig.attach(client!, domain);
    expect(rig.dma(client!, IOVA, turn + 1)).toBe(ok);
    expect(lands(rig, turn)).toBe(turn + 1);
    rig.attach(client!, "blocked");
    rig.iommu.freeDomain(domain);
  }
  expect(others).toHaveLength(254);
});

row("D12 enforce_cache_coherency", (make) => {
  const rig = make({ clients: [{ sids: [8], properties: { canwbs: true } }, [9]] });
  const [good, bad] = rig.clients;
  const domain = mapped(rig, good!, 1);
  rig.attach(good!, domain);
  rig.attach(bad!, domain);
  expect(domain.ops.enforceCacheCoherency!(domain)).toBe(false);
  rig.attach(bad!, "identity");
  expect(domain.ops.enforceCacheCoherency!(domain)).toBe(true);
  expect(rig.attach(bad!, domain)).toBe(-ERRNO.EINVAL);
  expect(rig.dma(bad!, BUFFER, 1)).toBe(ok);
  const capable = (client: Client): boolean => rig.device.instance!.ops.capable!(client.dev, "enforce-cache-coherency");
  expect([capable(good!), capable(bad!)]).toEqual([true, false]);
});

row("D13 dirty tracking domain", (make) => {
  const rig = make({ id: PRESETS.mmu700 });
  const [client] = rig.clients;
  const domain = rig.domain(client, DOMAIN_FLAG.dirtyTracking);
  rig.iommu.map(domain, IOVA, BUFFER + PAGE, 4 * PAGE, RW);
  rig.attach(client!, domain);
  const cd = rig.cd(client!);
  expect([getField(cd, 0, CD.HA), getField(cd, 0, CD.HD)]).toEqual([1, 1]);
  expect(rig.iommu.setDirtyTracking(domain, true)).toBe(0);
  const dirty = (noClear: boolean): boolean[] => {
    const bitmap = new DirtyBitmap(IOVA, 4 * PAGE, PAGE);
    expect(rig.iommu.readAndClearDirty(domain, bitmap, noClear)).toBe(0);
    return [0, 1, 2, 3].map((i) => bitmap.has(IOVA + i * PAGE));
  };
  // A fresh writable mapping counts as dirty.
  expect(dirty(false)).toEqual([true, true, true, true]);
  expect(dirty(false)).toEqual([false, false, false, false]);
  rig.dmaRead(client!, IOVA);
  rig.dma(client!, IOVA + 2 * PAGE, 5);
  expect(dirty(true)).toEqual([false, false, true, false]);
  expect(dirty(false)).toEqual([false, false, true, false]);
  // Written to once more through a TLB entry that was dirty: it is seen again.
  rig.dma(client!, IOVA + 2 * PAGE, 6);
  expect(dirty(false)).toEqual([false, false, true, false]);
  rig.iommu.unmap(domain, IOVA + PAGE, PAGE);
  expect(rig.iommu.readAndClearDirty(domain, new DirtyBitmap(IOVA, 4 * PAGE, PAGE))).toBe(-ERRNO.EINVAL);
  const plain = rig.domain();
  expect(rig.iommu.setDirtyTracking(plain, true)).toBe(-ERRNO.EOPNOTSUPP);
  const s2 = make({ id: S2_ONLY });
  expect(s2.iommu.allocPaging(s2.clients[0]!.dev, DOMAIN_FLAG.dirtyTracking)).toBe(-ERRNO.EOPNOTSUPP);
});

row("D16 reserved regions", (make) => {
  const rmr = { iommu: "smmuv3@9050000", ids: [8], base: BUFFER, size: 0x2000 };
  const rig = make({ iommu: { rmrs: [rmr, { ...rmr, ids: [9], remapPermitted: true }] } });
  const regions = rig.clients.map(({ dev }) => rig.device.instance!.ops.getResvRegions!(dev));
  const doorbell = { start: 0x800_0000, length: 0x10_0000, type: "sw-msi" };
  expect(regions).toMatchObject([
    [doorbell, { start: BUFFER, length: 0x2000, type: "direct" }],
    [doorbell, { start: BUFFER, length: 0x2000, type: "direct-relaxable" }],
  ]);
  expect(rig.kernel.core.sysfs.read(`${rig.clients[0]!.group.path}/reserved_regions`)).toBe(
    "0x0000000008000000 0x00000000080fffff msi\n0x0000000044000000 0x0000000044001fff direct".replaceAll(
      "0x0000000044", `0x00000000${(BUFFER / 2 ** 24).toString(16)}`,
    ),
  );
  // Its users may not block it; its driver's domain has the region mapped.
  expect(rig.attach(rig.clients[0]!, "blocked")).toBe(-ERRNO.EINVAL);
  expect(rig.attach(rig.clients[1]!, "blocked")).toBe(0);
});

row("D17 HiSilicon PTT", (make) => {
  const ptt = { sids: [8], pci: "0000:01:00.0", properties: { "vendor-id": 0x19e5, "device-id": 0xa12e } };
  const nic = { sids: [9], pci: "0000:02:00.0", properties: { "vendor-id": 0x8086 } };
  const rig = make({ clients: [ptt, nic], iommu: { defaultDomainType: "dma" } });
  expect(rig.clients.map(({ dev }) => rig.iommu.domainOf(dev)!.type)).toEqual(["identity", "paging"]);
});

row("D18 group policy", (make) => {
  const noAcs = { "no-acs": true };
  const rig = make({
    clients: [
      [1], [2],
      { sids: [16], pci: "0000:02:00.0" }, { sids: [17], pci: "0000:02:00.1" },
      { sids: [24], pci: "0000:03:00.0", properties: noAcs }, { sids: [25], pci: "0000:03:00.1", properties: noAcs },
    ],
  });
  const ids = rig.clients.map(({ group }) => group.id);
  expect(new Set(ids.slice(0, 5)).size).toBe(5);
  expect(ids[5]).toBe(ids[4]);
  // They move together.
  rig.attach(rig.clients[4]!, "blocked");
  expect(rig.dma(rig.clients[5]!, BUFFER, 1)).toBe(abort);
});

row("S9 two-level CD table, lazily", (make) => {
  const rig = make({ id: BOTH, clients: [{ sids: [8], properties: { "pasid-num-bits": 16 } }] });
  const [client] = rig.clients;
  const domain = mapped(rig, client!, 5);
  const linear = master(rig, client!);
  rig.iommu.attachPasid(client!.dev, 1, domain);
  expect(linear.cdTable!.linear).toBe(false);
  // What was not there may be cached: the level-1 descriptor is told of before the CD.
  expect(rig.dma(client!, IOVA, 1, 0x1005)).toBe(abort);
  const commands = rig.golden(() => {
    expect(rig.iommu.attachPasid(client!.dev, 0x1005, domain)).toBe(0);
  });
  expect(commands).toEqual(["C(CFGI_CD)", "C(CFGI_CD)", "C(CFGI_CD)"]);
  expect(rig.dma(client!, IOVA, 0x1005, 0x1005)).toBe(ok);
  expect(lands(rig, 5)).toBe(0x1005);
});

row("S10 linear CD limit", (make) => {
  const id = withField(withField(PRESETS.qemuStage1, REG.IDR0.CD2L, 0), REG.IDR1.SSIDSIZE, 16);
  const rig = make({ id, clients: [{ sids: [8], properties: { "pasid-num-bits": 16 } }] });
  const [client] = rig.clients;
  expect(master(rig, client!).ssidBits).toBe(10);
  expect(rig.iommu.attachPasid(client!.dev, 1023, rig.domain())).toBe(0);
  expect(rig.iommu.attachPasid(client!.dev, 1024, rig.domain())).toBe(-ERRNO.EINVAL);
});

row("S12 duplicate SIDs of one device", (make) => {
  const rig = make({ clients: [[4, 4, 7, 4]] });
  expect(rig.golden(() => rig.attach(rig.clients[0]!, "blocked"))).toEqual([
    "C(CFGI_STE)", "PREFETCH_CONFIG", "C(CFGI_STE)", "PREFETCH_CONFIG",
  ]);
});

row("I9 last-user tag flush", (make) => {
  const rig = make({ id: BOTH, clients: [{ sids: [8], properties: PASIDS }, [9]] });
  const [a, b] = rig.clients;
  const domain = mapped(rig, a!, 1);
  const flushes = (action: () => void): number => rig.golden(action).filter((line) => line.includes("TLBI")).length;
  rig.attach(a!, domain);
  rig.attach(b!, domain);
  rig.iommu.attachPasid(a!.dev, 5, domain);
  expect(flushes(() => rig.attach(a!, "blocked"))).toBe(0);
  expect(flushes(() => rig.attach(b!, "identity"))).toBe(0);
  expect(flushes(() => rig.iommu.detachPasid(a!.dev, 5))).toBe(1);
  // Nobody can have it: unmapping costs no command.
  expect(rig.trace(() => rig.iommu.unmap(domain, IOVA, PAGE))).toEqual([]);
});
