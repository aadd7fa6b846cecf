import { defect, EMULATION } from "./types.ts";
import type { SeededDefect } from "./types.ts";

/** Holes of the posted trap-and-emulate revisions, and mistakes in our form of it. */
export const EMULATION_DEFECTS: readonly SeededDefect[] = [
  defect(
    EMULATION, "nested-tlb-kept", "combined entries stay when stage 2 changes: no TLBI_NH_ALL (2.3)",
    "if (status < 0 || !this.#nested)\n      return status;",
    "return status;",
  ),
  defect(
    EMULATION, "events-not-pinned", "EVTQ_BASE is not looked at: v4, v5 (3.7, a8)",
    "const pinned = this.#core.pinLent(pa, bytes);",
    "const pinned = 0;",
  ),
  defect(
    EMULATION, "msi-passthrough", "MSI registers are passed through (3.4, a9 [I])",
    'GERROR: { behaviour: "action", mask: all("GERROR") },',
    'GERROR: { behaviour: "action", mask: all("GERROR") },\n  EVENTQ_IRQ_CFG0: { behaviour: "device", mask: all("EVENTQ_IRQ_CFG0") },',
  ),
  defect(
    EMULATION, "sync-forwarded", "CMD_SYNC reaches the hardware with the host's MSI address: v6, v7 (3.5, a9 [I])",
    'if (rule?.verdict === "sync")\n      return batch.submit();',
    "",
  ),
  defect(EMULATION, "eats-kept", "STE.EATS is the host's: translated requests skip stage 2 (a10 [I])", "INSTCFG: STE.INSTCFG\n}", "INSTCFG: STE.INSTCFG,\n  EATS: STE.EATS\n}"),
  defect(EMULATION, "strw-kept", "STE.STRW is the host's", "INSTCFG: STE.INSTCFG\n}", "INSTCFG: STE.INSTCFG,\n  STRW: STE.STRW\n}"),
  defect(
    EMULATION, "cr0-passed-on", "the host's CR0 reaches the hardware (3.4, a11, a12)",
    "const changed = value ^ this.#cr0;\n    this.#cr0 = value;",
    "const changed = value ^ this.#cr0;\n    this.#cr0 = value;\n    this.smmu.setCr0(this.smmu.cr0 & ~SMMUEN & ~CMDQEN | value & (SMMUEN | CMDQEN));",
  ),
  defect(
    EMULATION, "cmdqen-passed-on", "CMDQEN is switched off in the hardware while SMMUEN is on (a12)",
    "this.#cmdq.disable();\n",
    "this.#cmdq.disable();\n      this.smmu.setCr0(this.smmu.cr0 & ~CMDQEN);\n",
  ),
  defect(
    EMULATION, "gbpa-passed-on", "GBPA is the host's (3.4)",
    'GBPA: { behaviour: "action", mask: some(maskOf(REG.GBPA.ABORT)) }',
    'GBPA: { behaviour: "device", mask: all("GBPA") }',
  ),
  defect(EMULATION, "stream-table-not-pinned", "STRTAB_BASE is not looked at (3.4, a8)", "this.#core.pinLent(base, bytes) === 0)", "true)"),
  defect(
    EMULATION, "second-level-not-pinned", "the host's second-level table is not looked at: v4, v5 (3.7, a13)",
    "if (pa < 0 || this.#core.pinLent(pa, STE_BYTES) < 0)",
    "if (pa < 0)",
  ),
  defect(
    EMULATION, "command-queue-not-pinned", "CMDQ_BASE is not looked at (3.4, a8)",
    "this.#readable = this.#core.pinLent(this.#base, bytes) === 0;",
    "this.#readable = true;",
  ),
  defect(EMULATION, "bypass-stays-bypass", "a bypass STE of the host's gets no stage 2 (3.6)", "addStage2(ste, stage2);\n    const used", "if (config !== STE_CONFIG.bypass) addStage2(ste, stage2);\n    const used"),
  defect(EMULATION, "host-stage2-accepted", "an STE with a stage 2 of the host's is taken as it is (3.6)", "} else\n    ste.fill(0);\n}", "}\n}"),
  defect(
    EMULATION, "ste-read-twice", "a word of the STE is read again after the check (I9)",
    "shadowSte(ste, this.#stage2);",
    "shadowSte(ste, this.#stage2);\n    const again = this.#hostSte(sid);\n    if (again >= 0 && (ste[0] & 1) === 1) ste[2] |= this.#core.cpu.memory.load32(again + 8) & 3 << 28;",
  ),
  defect(
    EMULATION, "unknown-register-panics", "an access that is not expected is a WARN, which is a panic (3.4, a15)",
    "if (name === void 0 || row === void 0 || !fits(name, offset, size))\n      return 0;",
    'if (name === void 0 || row === void 0 || !fits(name, offset, size))\n      this.#core.cpu.panic("WARN: register");',
  ),
  defect(
    EMULATION, "illegal-command-panics", "a command that is not expected is a WARN, which is a panic (3.5, a14, a17)",
    "if (!filterCommand(command, this.#smmu))\n      return CERROR.ILL;",
    'if (!filterCommand(command, this.#smmu))\n      this.#core.cpu.panic("WARN: command");',
  ),
  defect(
    EMULATION, "events-off-panics", "EVENTQEN 1 to 0 is a WARN, which is a panic (3.4)",
    "const status = this.#setEventsEnabled(0);",
    'const status = this.#core.cpu.panic("WARN: EVENTQEN");',
  ),
  defect(
    EMULATION, "table-shape-panics", "a STRTAB_BASE_CFG that is not expected is a WARN, which is a panic (3.4, a13)",
    "const legalSplit = split === 6 || split === 8 || split === 10;",
    'const legalSplit = split === 8 || this.#core.cpu.panic("WARN: STRTAB_BASE_CFG");',
  ),
  defect(
    EMULATION, "pin-under-smmu-lock", "a trap takes the host's lock while it holds the SMMU's (2.8 [I])",
    "this.#readHost(sid);\n    shadowSte",
    "this.#smmu.lock.lock(this.#core.cpu);\n    this.#readHost(sid);\n    this.#smmu.lock.unlock(this.#core.cpu);\n    shadowSte",
  ),
  defect(
    EMULATION, "emulation-lock-missing", "two CPUs are in the emulated registers at once",
    "emulated.lock.lock(this.#cpu);",
    "Object.assign(emulated.lock, { lock() {}, unlock() {} });",
    "schedule",
  ),
];
