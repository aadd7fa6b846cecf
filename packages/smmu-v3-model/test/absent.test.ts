// What this SMMU does not have. A row shows how software sees the absence; its title says "not implemented".
import { describe, expect, test } from "vitest";
import { CD, extract, OFFSET, place, REG, S_OFFSET, S_REG, STE_EATS } from "@smmuv3/smmu-v3-defs";
import type { Field } from "@smmuv3/smmu-v3-defs";
import { PRESETS } from "../src/index.ts";
import type { IdRegisters } from "../src/index.ts";
import { BASE, CDS, PA, Rig, S1 } from "./rig.ts";

const { IDR0, IDR3, IDR5 } = REG;
const VA = 0x4000_1000;

describe("not implemented, and no preset says otherwise", () => {
  test.each<[section: string, what: string, register: "IDR0" | "IDR3" | "IDR5", field: Field]>([
    ["6.3.1", "Realm and Root state (RME_IMPL)", "IDR0", IDR0.RME_IMPL],
    ["6.3.4", "stage-1 permission indirection (S1PI)", "IDR3", IDR3.S1PI],
    ["6.3.4", "stage-2 permission indirection (S2PI)", "IDR3", IDR3.S2PI],
    ["6.3.4", "stage-2 permission overlays (S2PO)", "IDR3", IDR3.S2PO],
    ["6.3.4", "translation hardening (THE)", "IDR3", IDR3.THE],
    ["6.3.4", "MTE permissions (MTEPERM)", "IDR3", IDR3.MTEPERM],
    ["6.3.4", "attribute indexes of 128-bit descriptors (AIE)", "IDR3", IDR3.AIE],
    ["6.3.4", "Device Permission Table (DPT)", "IDR3", IDR3.DPT],
    ["6.3.6", "VMSAv9-128 tables (D128)", "IDR5", IDR5.D128],
  ])("%s: %s reads as 0", (_section, _what, register, field) => {
    for (const [name, id] of Object.entries<IdRegisters>(PRESETS)) expect(extract(id[register], field), name).toBe(0);
  });
});

describe("not implemented, whatever the identity says", () => {
  const secureId: IdRegisters = { ...PRESETS.full };

  test("6.3.57: Secure streams: S_CR0.SMMUEN translates nothing", () => {
    const rig = new Rig({ id: secureId, cr0: 0, policy: { gbpaReset: "abort" } });
    rig.map(rig.stage1(1), VA, PA, S1.rw);
    rig.smmu.secureRegisters.write32(S_OFFSET.S_CR0, place(S_REG.S_CR0.SMMUEN, 1));
    expect(rig.access(1, VA).result).toBe(1);
  });

  test("6.3.75: the Secure Command queue consumes nothing", () => {
    const rig = new Rig({ id: secureId });
    const registers = rig.smmu.secureRegisters;
    registers.write64(S_OFFSET.S_CMDQ_BASE, BASE + 0x8_0000 + 4, 0);
    registers.write32(S_OFFSET.S_CR0, place(S_REG.S_CR0.CMDQEN, 1));
    registers.write32(S_OFFSET.S_CMDQ_PROD, 1);
    expect([registers.read32(S_OFFSET.S_CMDQ_CONS), registers.read32(S_OFFSET.S_GERROR)]).toEqual([0, 0]);
  });

  test("5.2 EATS: a Device Permission Table: EATS = 0b11 behaves as 0b00", () => {
    const id: IdRegisters = { ...PRESETS.full, IDR3: PRESETS.full.IDR3 | place(IDR3.DPT, 1) };
    const rig = new Rig({ id });
    rig.map(rig.stage1(1, {}, { EATS: STE_EATS.dpt }), VA, PA, S1.rw);
    expect(rig.smmu.ats.translationRequest({ sid: 1, address: VA })).toMatchObject({ status: "UR" });
  });

  test("5.4 AA64: a CD that asks for VMSAv9-128 is ILLEGAL", () => {
    const id: IdRegisters = { ...PRESETS.full, IDR5: PRESETS.full.IDR5 | place(IDR5.D128, 1) };
    const rig = new Rig({ id });
    rig.map(rig.stage1(1), VA, PA, S1.rw);
    expect(rig.outcome(1, VA)).toBe(PA);
    rig.fields(CD, CDS + 64, { AA64: 0 });
    rig.command("CFGI_CD", { SID: 1 });
    expect(rig.outcome(1, VA)).toBe("C_BAD_CD");
  });

  test("6.3.15: AGBPA is kept and changes nothing", () => {
    const rig = new Rig({ cr0: 0, policy: { gbpaReset: "bypass" } });
    rig.smmu.registers.write32(OFFSET.AGBPA, -1);
    expect(rig.access(1, VA)).toEqual({ result: 0, pa: VA });
  });
});
