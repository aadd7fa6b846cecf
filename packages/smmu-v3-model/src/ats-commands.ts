import { join } from "@smmuv3/platform";
import { ATC_INV_SIZE_ALL, CERROR, CMD, extract, maskOf, PRI_RESPONSE } from "@smmuv3/smmu-v3-defs";
import { PRG_RESPONSE } from "./ats.ts";
import type { AtsPort } from "./ats.ts";
import type { Features } from "./presets.ts";

const SSV = maskOf(CMD.SSV);
const GLOBAL = maskOf(CMD.Global);

/** ResponseCode by CMD_PRI_RESP.Resp (8.3). */
const CODES: Readonly<Record<number, number>> = {
  [PRI_RESPONSE.failure]: PRG_RESPONSE.failure,
  [PRI_RESPONSE.invalid]: PRG_RESPONSE.invalidRequest,
  [PRI_RESPONSE.success]: PRG_RESPONSE.success,
};

/** CMD_ATC_INV and CMD_PRI_RESP of one command queue (IHI 0070 4.5), and what its CMD_SYNC has to wait for. */
export class AtsCommands {
  readonly #port: AtsPort;
  readonly #substreams: boolean;
  /** An invalidation had no answer since the last CMD_SYNC. */
  timedOut = false;

  constructor(port: AtsPort, features: Features) {
    this.#port = port;
    this.#substreams = features.ssidSize > 0;
  }

  /** CMD_ATC_INV at `words[at]`; ignored while SMMUEN is 0. */
  invalidate(words: Int32Array, at: number): void {
    if (!this.#port.enabled) return;
    const word0 = words[at]!;
    const ssid = this.#ssid(word0);
    const log2 = 12 + Math.min(extract(words[at + 2]!, CMD.AtcSize), ATC_INV_SIZE_ALL);
    const address = join(words[at + 2]! & CMD.Address.loMask, words[at + 3]!);
    const answer = this.#port.invalidate({
      sid: words[at + 1]! >>> 0,
      ssid,
      // Global is ignored without a PASID.
      global: ssid >= 0 && (word0 & GLOBAL) !== 0,
      address: address - (address % 2 ** log2),
      log2,
    });
    // A UR completes the command without error (3.9.1.5).
    if (answer === "timeout") this.timedOut = true;
  }

  /** CMD_PRI_RESP at `words[at]`; ignored while SMMUEN is 0. */
  respond(words: Int32Array, at: number): void {
    if (!this.#port.enabled) return;
    const word2 = words[at + 2]!;
    const code = CODES[extract(word2, CMD.Resp)]!;
    const prgIndex = extract(word2, CMD.PRGIndex);
    this.#port.respond({ sid: words[at + 1]! >>> 0, ssid: this.#ssid(words[at]!), prgIndex, code });
  }

  /**
   * CMD_SYNC: fails once when an invalidation before it had no answer (3.9.1.4). Tried again after the acknowledgement, it
   * waits for nothing any more. Returns a CERROR code.
   */
  synchronize(): number {
    if (!this.timedOut) return CERROR.NONE;
    this.timedOut = false;
    return CERROR.ATC_INV_SYNC;
  }

  /** PASID, -1 without; where there are no substreams, SSV = 1 behaves as 0 (4.5.1, 4.5.2). */
  #ssid(word0: number): number {
    return this.#substreams && (word0 & SSV) !== 0 ? extract(word0, CMD.SSID) : -1;
  }
}
