import { makeS2Ste } from "@smmuv3/arm-smmu-v3-common";
import type { IommuHandoff } from "@smmuv3/pkvm-abi";
import type { HypCore } from "@smmuv3/pkvm-hyp";
import { BOOT_DMA_PROPERTY, ERRNO } from "@smmuv3/platform";
import { OFFSET, STE_WORDS } from "@smmuv3/smmu-v3-defs";

import { IdentityMap } from "./idmap.ts";
import { startSmmu, stopSmmu } from "./reset.ts";
import type { HypSmmu } from "./smmu.ts";
import { claimSmmu, smmuNode, smmuNodes } from "./takeover.ts";
import type { SmmuNeeds } from "./takeover.ts";

/** Take-over and DMA isolation: the driver of every design, up to what the host may ask of it. */
export class DmaIsolation {
  readonly smmus: HypSmmu[] = [];
  readonly #needs: SmmuNeeds;
  #core: HypCore | undefined = undefined;
  #idmap: IdentityMap | undefined = undefined;

  constructor(needs: SmmuNeeds) {
    this.#needs = needs;
  }

  /** EL2's core, from {@link init} on. */
  get core(): HypCore | undefined {
    return this.#core;
  }

  /** The map; there is one as soon as there is an SMMU. */
  get idmap(): IdentityMap | undefined {
    return this.#idmap;
  }

  init(core: HypCore): number {
    this.#core = core;
    return 0;
  }

  /** Takes an SMMU: all its streams are blocked, or identity-mapped where firmware says that they must go on. */
  handoff(handoff: IommuHandoff): number {
    const core = this.#core;
    if (core === undefined) return -ERRNO.EPERM;
    const claimed = claimSmmu(core, handoff, this.#needs, this.smmus.length);
    if (typeof claimed === "number") return claimed;
    const { smmu } = claimed;
    const map = this.#mapOf(core);
    const gbpa = smmu.window.read32(OFFSET.GBPA);
    let status = typeof map === "number" ? map : this.#keepBootDma(core, map, smmu);
    if (status === 0) {
      status = startSmmu(core.cpu, smmu);
      if (status < 0) stopSmmu(core.cpu, smmu, gbpa);
    }
    if (status < 0 || typeof map === "number") {
      claimed.release();
      return status;
    }
    map.smmus.push(smmu);
    return this.smmus.push(smmu) - 1;
  }

  /** See HypIommuDriver. Nothing to do while there is no SMMU. */
  hostStage2Idmap(start: number, end: number, prot: number): number {
    return this.#idmap?.set(start, end, prot) ?? 0;
  }

  /** -ENODEV while an SMMU is still the host's: its devices would reach everything. */
  finalize(): number {
    const owned = new Set(this.smmus.map((smmu) => smmu.mmioBase));
    const missing =
      this.#core !== undefined && smmuNodes(this.#core).some(({ reg }) => !owned.has(reg[0]?.base ?? -1));
    return missing ? -ERRNO.ENODEV : 0;
  }

  /** The identity map, made with the first SMMU: by then EL2 owns its registers. */
  #mapOf(core: HypCore): IdentityMap | number {
    if (this.#idmap !== undefined) return this.#idmap;
    const map = IdentityMap.create(core, this.#needs.nested);
    if (typeof map === "number") return map;
    const status = core.snapshot((start, end, prot) => map.set(start, end, prot));
    if (status < 0) return status;
    this.#idmap = map;
    return map;
  }

  #keepBootDma(core: HypCore, map: IdentityMap, smmu: HypSmmu): number {
    const name = smmuNode(core, smmu.mmioBase)?.name;
    const ste = new Int32Array(STE_WORDS);
    for (const node of core.firmware.nodes) {
      if (node.properties[BOOT_DMA_PROPERTY] === undefined) continue;
      for (const { iommu, id } of node.iommus) {
        if (iommu !== name || !smmu.hasSid(id)) continue;
        makeS2Ste(ste, map.stage2(smmu), { attrTypesOvr: smmu.features.attrTypesOvr });
        const status = smmu.presetSte(id, ste);
        if (status < 0) return status;
      }
    }
    return 0;
  }
}

