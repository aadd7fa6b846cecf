import {
  ECMDQ_CONTROL_PAGE,
  maskOf,
  OFFSET,
  PAGE1,
  PAGE_FIELDS,
  PAGE_REGISTERS,
  pageRegisterMask,
  REG,
  REGISTER_SPACE,
  registerMask,
  REGISTERS,
  S_OFFSET,
  S_REG,
  SECURE_REGISTERS,
  secureRegisterMask,
} from "@smmuv3/smmu-v3-defs";
import type { Feature, Guard, PageRegisterName, RegisterDef, RegisterName, SecureRegisterName } from "@smmuv3/smmu-v3-defs";
import type { RegisterLayout } from "./layout.ts";
import type { SmmuPolicy } from "./policy.ts";
import type { Features } from "./presets.ts";

/** A register and its acknowledgement, both of which must have `bits` clear for a guarded write to be taken. */
export interface GuardDef {
  readonly control: number;
  readonly acknowledge: number;
  readonly bits: number;
}

const { CR0, IRQ_CTRL } = REG;
const { S_CR0, S_IRQ_CTRL } = S_REG;

const cr0 = (bits: number): GuardDef => ({ control: OFFSET.CR0, acknowledge: OFFSET.CR0ACK, bits });
const irqCtrl = (bits: number): GuardDef => ({ control: OFFSET.IRQ_CTRL, acknowledge: OFFSET.IRQ_CTRLACK, bits });
const sCr0 = (bits: number): GuardDef => ({ control: S_OFFSET.S_CR0, acknowledge: S_OFFSET.S_CR0ACK, bits });
const sIrqCtrl = (bits: number): GuardDef => ({ control: S_OFFSET.S_IRQ_CTRL, acknowledge: S_OFFSET.S_IRQ_CTRLACK, bits });
const idle = (control: number): GuardDef => ({ control, acknowledge: control, bits: maskOf(REG.GATOS_CTRL.RUN) });

/** Guards that do not depend on where optional pages are. */
const GUARDS: Readonly<Record<Exclude<Guard, "vatos-idle" | "ecmdq-en">, GuardDef>> = {
  smmuen: cr0(maskOf(CR0.SMMUEN)),
  cmdqen: cr0(maskOf(CR0.CMDQEN)),
  eventqen: cr0(maskOf(CR0.EVENTQEN)),
  priqen: cr0(maskOf(CR0.PRIQEN)),
  "dpt-walk-en": cr0(maskOf(CR0.DPT_WALK_EN)),
  "irq-gerror": irqCtrl(maskOf(IRQ_CTRL.GERROR_IRQEN)),
  "irq-eventq": irqCtrl(maskOf(IRQ_CTRL.EVENTQ_IRQEN)),
  "irq-priq": irqCtrl(maskOf(IRQ_CTRL.PRIQ_IRQEN)),
  "gatos-idle": idle(OFFSET.GATOS_CTRL),
  "s-gatos-idle": idle(S_OFFSET.S_GATOS_CTRL),
  "s-smmuen": sCr0(maskOf(S_CR0.SMMUEN)),
  "s-cmdqen": sCr0(maskOf(S_CR0.CMDQEN)),
  "s-eventqen": sCr0(maskOf(S_CR0.EVENTQEN)),
  "s-irq-gerror": sIrqCtrl(maskOf(S_IRQ_CTRL.GERROR_IRQEN)),
  "s-irq-eventq": sIrqCtrl(maskOf(S_IRQ_CTRL.EVENTQ_IRQEN)),
};

/** Whether the SMMU has what a register belongs to. */
const PRESENT: Readonly<Record<Feature, (features: Features) => boolean>> = {
  msi: (f) => f.msi,
  pri: (f) => f.pri,
  atos: (f) => f.atos,
  vatos: (f) => f.vatos,
  mpam: (f) => f.mpam,
  s2pi: (f) => f.s2pi,
  ecmdq: (f) => f.ecmdq,
  dpt: (f) => f.dpt,
  secure: (f) => f.secure,
  secureMsi: (f) => f.secure && f.secureMsi,
  secureAtos: (f) => f.secure && f.atos,
  secureVatos: (f) => f.secure && f.sel2 && f.vatos,
  secureMpam: (f) => f.secure && f.mpam,
  secureS2pi: (f) => f.secure && f.s2pi,
  secureEcmdq: (f) => f.secure && f.secureEcmdq,
};

type Rules = readonly (readonly [present: boolean, bits: number])[];
const without = (...rules: Rules): number => rules.reduce((mask, [has, bits]) => (has ? mask : mask | bits), 0);

/** Bits that this implementation does not have, as masks of both words. They are RES0 and do not echo into an ACK. */
function unimplemented(f: Features): ReadonlyMap<string, readonly [lo: number, hi: number]> {
  const { CR2, STRTAB_BASE_CFG, GERRORN, GATOS_SID, PRIQ_IRQ_CFG2 } = REG;
  const cr0Bits = without(
    [f.pri, maskOf(CR0.PRIQEN)],
    [f.ats, maskOf(CR0.ATSCHK)],
    [f.vmw, maskOf(CR0.VMW)],
    [f.dpt, maskOf(CR0.DPT_WALK_EN)],
  );
  const tables = without([f.twoLevelStreams, maskOf(STRTAB_BASE_CFG.FMT) | maskOf(STRTAB_BASE_CFG.SPLIT)]);
  const sid = (bits: number): number => (bits >= 32 ? 0 : -1 << bits);
  const ssid = maskOf(GATOS_SID.SUBSTREAMID) & (-1 << f.ssidSize);
  const ssidBits = f.ssidSize === 0 ? ssid | maskOf(GATOS_SID.SSID_VALID) : ssid;
  const msis = maskOf(PRIQ_IRQ_CFG2.MemAttr) | maskOf(PRIQ_IRQ_CFG2.SH);
  return new Map<string, readonly [number, number]>([
    ["CR0", [cr0Bits, 0]],
    ["S_CR0", [without([f.vmw, maskOf(S_CR0.VMW)], [f.secureStallModel === 0, maskOf(S_CR0.NSSTALLD)]), 0]],
    ["CR2", [without([f.hyp, maskOf(CR2.E2H)], [f.atsRecErr, maskOf(CR2.REC_CFG_ATS)]), 0]],
    ["S_CR2", [without([f.sel2, maskOf(CR2.E2H)]), 0]],
    ["IRQ_CTRL", [without([f.pri, maskOf(IRQ_CTRL.PRIQ_IRQEN)]), 0]],
    ["STRTAB_BASE_CFG", [tables, 0]],
    ["S_STRTAB_BASE_CFG", [tables, 0]],
    ["GERRORN", [without(
      [f.pri, maskOf(GERRORN.PRIQ_ABT_ERR) | maskOf(GERRORN.MSI_PRIQ_ABT_ERR)],
      [f.ecmdq, maskOf(GERRORN.CMDQP_ERR)],
      [f.dpt, maskOf(GERRORN.DPT_ERR)],
    ), 0]],
    ["S_GERRORN", [without([f.secureEcmdq, maskOf(S_REG.S_GERRORN.CMDQP_ERR)]), 0]],
    ["PRIQ_IRQ_CFG0", f.msi ? [0, 0] : [-1, -1]],
    ["PRIQ_IRQ_CFG1", f.msi ? [0, 0] : [-1, -1]],
    // LO is there without MSIs (6.3.36).
    ["PRIQ_IRQ_CFG2", [without([f.msi, msis]), 0]],
    ["GATOS_SID", [sid(f.sidSize), ssidBits]],
    ["VATOS_SID", [sid(f.sidSize), ssidBits]],
    ["S_GATOS_SID", [sid(Math.max(f.sidSize, f.secureSidSize)), ssidBits]],
  ]);
}

/** Bits of IDR1 that make registers read-only (6.3.24, 6.3.26). */
const TABLES_PRESET = new Set(["STRTAB_BASE", "STRTAB_BASE_CFG", "S_STRTAB_BASE", "S_STRTAB_BASE_CFG"]);
const QUEUES_PRESET = new Set(["CMDQ_BASE", "EVENTQ_BASE", "PRIQ_BASE", "S_CMDQ_BASE", "S_EVENTQ_BASE"]);

/** Registers of page 1 of which page 0 may have an alias (6.2.1). */
const INDICES: readonly number[] = [OFFSET.EVENTQ_PROD, OFFSET.EVENTQ_CONS, OFFSET.PRIQ_PROD, OFFSET.PRIQ_CONS];

/** What each word of the register space is: derived once from the definitions, the features and the policy. */
export class RegisterTable {
  /** Bits that software may write, 0 where it may not. */
  readonly writable: Int32Array<ArrayBuffer>;
  /** Index into {@link guards}, 0 for none. */
  readonly guard: Uint16Array<ArrayBuffer>;
  readonly guards: GuardDef[] = [{ control: 0, acknowledge: 0, bits: 0 }];
  /** Offset of the register of which a word is a part. */
  readonly owner: Int32Array<ArrayBuffer>;
  /** 1 for the low word of a 64-bit register. */
  readonly wide: Uint8Array<ArrayBuffer>;
  /** 1 for a word that a Non-secure access does not reach. */
  readonly secure: Uint8Array<ArrayBuffer>;
  /** Word that an access of a word reaches. */
  readonly alias: Int32Array<ArrayBuffer>;
  /** Offsets of the ECMDQ_PROD registers. */
  readonly ecmdqs: number[] = [];
  /** Bits whose value after reset is UNKNOWN. */
  readonly unknown: Int32Array<ArrayBuffer>;

  readonly #features: Features;
  readonly #absent: ReadonlyMap<string, readonly [number, number]>;
  readonly #preset: ReadonlySet<string>;
  readonly #guardIndex = new Map<Guard, number>();

  constructor(features: Features, layout: RegisterLayout, policy: SmmuPolicy) {
    const words = layout.size / 4;
    this.writable = new Int32Array(words);
    this.guard = new Uint16Array(words);
    this.owner = new Int32Array(words).fill(-1);
    this.wide = new Uint8Array(words);
    this.secure = new Uint8Array(words);
    this.unknown = new Int32Array(words);
    this.alias = new Int32Array(words);
    for (let word = 0; word < words; word++) this.alias[word] = word;
    this.#features = features;
    this.#absent = unimplemented(features);
    this.#preset = new Set([...(features.tablesPreset ? TABLES_PRESET : []), ...(features.queuesPreset ? QUEUES_PRESET : [])]);
    for (const [name, def] of Object.entries(GUARDS) as [Guard, GuardDef][]) this.#addGuard(name, def);
    this.#addGuard("vatos-idle", idle(Math.max(layout.vatos, 0) + PAGE_REGISTERS.VATOS_CTRL.offset));

    for (const name of Object.keys(REGISTERS) as RegisterName[]) this.#place(name, REGISTERS[name], 0, registerMask(name));
    for (const name of Object.keys(SECURE_REGISTERS) as SecureRegisterName[]) {
      const def = SECURE_REGISTERS[name];
      this.#place(name, def, 0, secureRegisterMask(name));
      this.secure.fill(1, def.offset >> 2, (def.offset + def.bits / 8) >> 2);
    }
    this.#placePages(layout);
    this.#placeAliases(policy);
  }

  #addGuard(name: Guard, def: GuardDef): void {
    this.#guardIndex.set(name, this.guards.push(def) - 1);
  }

  #placePages(layout: RegisterLayout): void {
    const page = (name: PageRegisterName, base: number): void => {
      this.#place(name, PAGE_REGISTERS[name], base, pageRegisterMask(name));
    };
    layout.ecmdqPages.forEach((offset, n) => {
      const at = ECMDQ_CONTROL_PAGE.base + n * ECMDQ_CONTROL_PAGE.stride;
      for (const name of ["CMDQ_CONTROL_PAGE_BASE", "CMDQ_CONTROL_PAGE_CFG", "CMDQ_CONTROL_PAGE_STATUS"] as const) page(name, at);
      for (let queue = 0; queue < layout.ecmdqsPerPage; queue++) {
        const base = offset + queue * layout.ecmdqStride;
        const control = base + PAGE_REGISTERS.ECMDQ_PROD.offset;
        const acknowledge = base + PAGE_REGISTERS.ECMDQ_CONS.offset;
        this.#addGuard("ecmdq-en", { control, acknowledge, bits: maskOf(PAGE_FIELDS.ECMDQ_PROD.EN) });
        this.ecmdqs.push(control);
        for (const name of ["ECMDQ_BASE", "ECMDQ_PROD", "ECMDQ_CONS"] as const) page(name, base);
        // Of CONS only the index is software's (3.5.6).
        this.writable[acknowledge >> 2]! &= maskOf(PAGE_FIELDS.ECMDQ_CONS.RD);
      }
    });
    if (layout.vatos < 0) return;
    for (const name of ["VATOS_CTRL", "VATOS_SID", "VATOS_ADDR", "VATOS_PAR"] as const) page(name, layout.vatos);
  }

  #placeAliases(policy: SmmuPolicy): void {
    if (policy.page1Alias === "alias") {
      for (let word = PAGE1 >> 2; word < REGISTER_SPACE >> 2; word++) {
        if (this.owner[word] === -1) this.alias[word] = word - (PAGE1 >> 2);
      }
    }
    if (policy.page0IndexAlias === "alias") {
      for (const offset of INDICES) this.alias[(offset - PAGE1) >> 2] = offset >> 2;
    }
  }

  #place(name: string, def: RegisterDef, base: number, [lo, hi]: readonly [number, number]): void {
    const offset = base + def.offset;
    const word = offset >> 2;
    const [noLo, noHi] = this.#absent.get(name) ?? [0, 0];
    const exists = def.feature === undefined || PRESENT[def.feature](this.#features);
    const writable = exists && (def.access === "rw" || def.access === "update") && !this.#preset.has(name);
    if (def.bits === 64) this.wide[word] = 1;
    for (let half = 0; half < def.bits / 32; half++) {
      const bits = half === 0 ? lo & ~noLo : hi & ~noHi;
      this.owner[word + half] = offset;
      if (exists && def.access !== "id" && def.reset === undefined) {
        this.unknown[word + half] = bits & ~(half === 0 ? (def.resetClear ?? 0) : 0);
      }
      if (!writable) continue;
      this.writable[word + half] = bits;
      this.guard[word + half] = def.guard === undefined ? 0 : this.#guardIndex.get(def.guard)!;
    }
  }
}
