import { hi32, lo32 } from "@smmuv3/platform";
import { ATC_INV_SIZE_ALL, CFGI_RANGE_ALL, CMD, COMMANDS, place } from "@smmuv3/smmu-v3-defs";

// Every builder writes the four words of one command to `out[at..at+3]`. Bit positions come from the definitions.

const LEAF = 1;
// Invalidations by address are the hot ones: their constants are looked up once.
const NH_VA = COMMANDS.TLBI_NH_VA.opcode;
const S2_IPA = COMMANDS.TLBI_S2_IPA.opcode;
const VMID_SHIFT = CMD.VMID.shift;
const VMID_MASK = CMD.VMID.mask;
const ASID_SHIFT = CMD.ASID.shift;

function put(out: Int32Array, at: number, w0: number, w1: number, w2: number, w3: number): void {
  out[at] = w0;
  out[at + 1] = w1;
  out[at + 2] = w2;
  out[at + 3] = w3;
}

/** CMD_CFGI_STE. `leaf`: only the STE changed, not the level-1 descriptor. */
export function cfgiSte(out: Int32Array, at: number, sid: number, leaf: boolean): void {
  put(out, at, COMMANDS.CFGI_STE.opcode, sid, leaf ? LEAF : 0, 0);
}

/** CMD_CFGI_ALL. */
export function cfgiAll(out: Int32Array, at: number): void {
  put(out, at, COMMANDS.CFGI_STE_RANGE.opcode, 0, CFGI_RANGE_ALL, 0);
}

/** CMD_CFGI_CD. */
export function cfgiCd(out: Int32Array, at: number, sid: number, ssid: number, leaf: boolean): void {
  put(out, at, COMMANDS.CFGI_CD.opcode | place(CMD.SSID, ssid), sid, leaf ? LEAF : 0, 0);
}

/** CMD_CFGI_CD_ALL. */
export function cfgiCdAll(out: Int32Array, at: number, sid: number): void {
  put(out, at, COMMANDS.CFGI_CD_ALL.opcode, sid, 0, 0);
}

/** CMD_PREFETCH_CONFIG. */
export function prefetchConfig(out: Int32Array, at: number, sid: number): void {
  put(out, at, COMMANDS.PREFETCH_CONFIG.opcode, sid, 0, 0);
}

/** CMD_TLBI_NSNH_ALL. */
export function tlbiNsnhAll(out: Int32Array, at: number): void {
  put(out, at, COMMANDS.TLBI_NSNH_ALL.opcode, 0, 0, 0);
}

/** CMD_TLBI_NH_ALL. */
export function tlbiNhAll(out: Int32Array, at: number, vmid: number): void {
  put(out, at, COMMANDS.TLBI_NH_ALL.opcode, place(CMD.VMID, vmid), 0, 0);
}

/** CMD_TLBI_NH_ASID. */
export function tlbiNhAsid(out: Int32Array, at: number, vmid: number, asid: number): void {
  put(out, at, COMMANDS.TLBI_NH_ASID.opcode, place(CMD.VMID, vmid) | place(CMD.ASID, asid), 0, 0);
}

/** CMD_TLBI_EL2_ALL. */
export function tlbiEl2All(out: Int32Array, at: number): void {
  put(out, at, COMMANDS.TLBI_EL2_ALL.opcode, 0, 0, 0);
}

/** CMD_TLBI_EL2_ASID. */
export function tlbiEl2Asid(out: Int32Array, at: number, asid: number): void {
  put(out, at, COMMANDS.TLBI_EL2_ASID.opcode, place(CMD.ASID, asid), 0, 0);
}

/** CMD_TLBI_S12_VMALL. */
export function tlbiS12Vmall(out: Int32Array, at: number, vmid: number): void {
  put(out, at, COMMANDS.TLBI_S12_VMALL.opcode, place(CMD.VMID, vmid), 0, 0);
}

/** CMD_TLBI_NH_VA; `w0`, `w2`, `w3` as a plan of tlbi-range.ts emits them. */
export function tlbiNhVa(
  out: Int32Array, at: number, vmid: number, asid: number, w0: number, w2: number, w3: number,
): void {
  put(out, at, NH_VA | w0, ((vmid & VMID_MASK) << VMID_SHIFT) | (asid << ASID_SHIFT), w2, w3);
}

/** CMD_TLBI_NH_VAA. */
export function tlbiNhVaa(out: Int32Array, at: number, vmid: number, w0: number, w2: number, w3: number): void {
  put(out, at, COMMANDS.TLBI_NH_VAA.opcode | w0, place(CMD.VMID, vmid), w2, w3);
}

/** CMD_TLBI_EL2_VA. */
export function tlbiEl2Va(out: Int32Array, at: number, asid: number, w0: number, w2: number, w3: number): void {
  put(out, at, COMMANDS.TLBI_EL2_VA.opcode | w0, place(CMD.ASID, asid), w2, w3);
}

/** CMD_TLBI_S2_IPA. */
export function tlbiS2Ipa(out: Int32Array, at: number, vmid: number, w0: number, w2: number, w3: number): void {
  put(out, at, S2_IPA | w0, (vmid & VMID_MASK) << VMID_SHIFT, w2, w3);
}

/**
 * CMD_ATC_INV of `[iova, iova + size)`: the smallest aligned power-of-two span that holds it.
 * @param ssid 0: without SubstreamID, which covers the stream's substreams too
 * @param size 0: the whole address space
 */
export function atcInv(out: Int32Array, at: number, sid: number, ssid: number, iova: number, size: number): void {
  const w0 = COMMANDS.ATC_INV.opcode | (ssid === 0 ? 0 : place(CMD.SSV, 1) | place(CMD.SSID, ssid));
  let span = ATC_INV_SIZE_ALL;
  let address = 0;
  if (size > 0) {
    const page = 2 ** 12;
    let first = Math.floor(iova / page);
    let last = Math.floor((iova + size - 1) / page);
    for (span = 0; first !== last; span++) {
      first = Math.floor(first / 2);
      last = Math.floor(last / 2);
    }
    address = first * 2 ** span * page;
  }
  put(out, at, w0, sid, lo32(address) | place(CMD.AtcSize, span), hi32(address));
}

/** CMD_RESUME; `resp` of RESUME_RESP (Ac and Ab together). */
export function resume(out: Int32Array, at: number, sid: number, stag: number, resp: number): void {
  put(out, at, COMMANDS.RESUME.opcode | (resp << CMD.Ac.shift), sid, place(CMD.STAG, stag), 0);
}

/** CMD_PRI_RESP; `resp` of PRI_RESPONSE; `ssid` -1: without SubstreamID. */
export function priResp(
  out: Int32Array, at: number, sid: number, ssid: number, prgIndex: number, resp: number,
): void {
  const w0 = COMMANDS.PRI_RESP.opcode | (ssid < 0 ? 0 : place(CMD.SSV, 1) | place(CMD.SSID, ssid));
  put(out, at, w0, sid, place(CMD.PRGIndex, prgIndex) | place(CMD.Resp, resp), 0);
}

/** CMD_SYNC without MSI; `cs`: SYNC_CS.none or .sev. */
export function sync(out: Int32Array, at: number, cs: number): void {
  put(out, at, COMMANDS.SYNC.opcode | place(CMD.CS, cs), 0, 0, 0);
}
