import { CMD, COMMANDS, extract } from "@smmuv3/smmu-v3-defs";
import type { CommandFilter } from "./command-runner.ts";
import { CMDQV_FIELD, ENABLE, inPlace, read, VINTF } from "./tegra241-registers.ts";

const { VINTF_VMID, VINTF_HYP_OWN, MATCH_VIRT_SID } = CMDQV_FIELD;
const SYNC = COMMANDS.SYNC.opcode;
const ATC_INV = COMMANDS.ATC_INV.opcode;
/** Commands by VMID that a guest may issue; CMD_ATC_INV, by StreamID, is the only other. */
const GUEST_TLBI: ReadonlySet<number> = new Set([COMMANDS.TLBI_NH_ASID.opcode, COMMANDS.TLBI_NH_VA.opcode]);
const VMID_MASK = CMD.VMID.mask << CMD.VMID.shift;

/** A virtual interface: the queues of one virtual machine, or of the hypervisor. */
export class VirtualInterface {
  /** EN is in effect. */
  enabled = false;
  /** Lets a command through, with the VMID and StreamID of this interface in it. */
  readonly filter: CommandFilter = (words) => this.#permits(words);

  readonly #sids: number;
  readonly #writable: number;
  readonly #match: Int32Array;
  readonly #replace: Int32Array;
  #config = 0;

  /** @param owned HYP_OWN can be set */
  constructor(sids: number, owned: boolean) {
    this.#sids = sids;
    this.#match = new Int32Array(sids);
    this.#replace = new Int32Array(sids);
    this.#writable = ENABLE | inPlace(VINTF_VMID) | (owned ? inPlace(VINTF_HYP_OWN) : 0);
  }

  /** The interface is to be enabled. */
  get wanted(): boolean {
    return (this.#config & ENABLE) !== 0;
  }

  reset(): void {
    this.enabled = false;
    this.#config = 0;
    this.#match.fill(0);
    this.#replace.fill(0);
  }

  /** Register at `offset` in the block of the interface, but for the error map. */
  read(offset: number): number {
    if (offset === VINTF.CONFIG) return this.#config;
    if (offset === VINTF.STATUS) return this.enabled ? ENABLE : 0;
    return this.#slot(offset)?.[(offset >> 2) & 15] ?? 0;
  }

  write(offset: number, value: number): void {
    if (offset === VINTF.CONFIG) this.#config = value & this.#writable;
    const slot = this.#slot(offset);
    if (slot === this.#match) slot[(offset >> 2) & 15] = value & (ENABLE | inPlace(MATCH_VIRT_SID));
    else if (slot !== undefined) slot[(offset >> 2) & 15] = value;
  }

  #slot(offset: number): Int32Array | undefined {
    const end = this.#sids * 4;
    if (offset >= VINTF.SID_MATCH && offset < VINTF.SID_MATCH + end) return this.#match;
    return offset >= VINTF.SID_REPLACE && offset < VINTF.SID_REPLACE + end ? this.#replace : undefined;
  }

  /**
   * CMD_SYNC cannot signal its completion from here: only CS = 0. Without HYP_OWN few commands are left, and what they name
   * is the VM's: its VMID, and streams that were given to it.
   */
  #permits(words: Int32Array): boolean {
    const opcode = words[0]! & 0xff;
    if (opcode === SYNC) return extract(words[0]!, CMD.CS) === 0;
    if ((this.#config & inPlace(VINTF_HYP_OWN)) !== 0) return true;
    if (GUEST_TLBI.has(opcode)) {
      words[1] = (words[1]! & ~VMID_MASK) | (read(this.#config, VINTF_VMID) << CMD.VMID.shift);
      return true;
    }
    if (opcode !== ATC_INV) return false;
    const sid = words[1]! >>> 0;
    const slot = this.#match.findIndex((word) => (word & ENABLE) !== 0 && read(word, MATCH_VIRT_SID) === sid);
    if (slot < 0) return false;
    words[1] = this.#replace[slot]!;
    return true;
  }
}
