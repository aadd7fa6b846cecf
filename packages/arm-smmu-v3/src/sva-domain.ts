import { ERRNO } from "@smmuv3/platform";
import { makeSvaCd } from "@smmuv3/arm-smmu-v3-common";
import { ADDRESS_SIZES } from "@smmuv3/smmu-v3-defs";
import type { DomainOps, IommuDomain, Mm } from "@smmuv3/iommu-core";
import { SmmuDomain } from "./domain.ts";
import type { DomainHost } from "./domain.ts";
import type { Master } from "./smmu.ts";

/** CD.TG0 by bytes of a page. */
const TG0: Readonly<Record<number, number>> = { 0x1000: 0, 0x1_0000: 1, 0x4000: 2 };

/** What SVA domains need besides. */
export interface SvaHost extends DomainHost {
  /** Writes the CD of every attachment of `domain` again. */
  rewriteCds(domain: SmmuDomain): void;
}

const OPS: DomainOps = {
  // A process is attached to PASIDs only.
  attachDev: () => -ERRNO.EINVAL,
  setDevPasid: (domain, dev, pasid) => {
    const found = sva(domain);
    return found.mm.alive ? found.host.attachPasid(found, dev, pasid) : -ERRNO.EINVAL;
  },
  free(domain) {
    sva(domain).close();
  },
};

/** The address space of a process, whose tables the CPUs walk too. */
export class SvaDomain extends SmmuDomain {
  readonly mm: Mm;
  readonly #notifier: Parameters<Mm["register"]>[0];
  #released = false;

  constructor(host: SvaHost, mm: Mm, id: number) {
    super(host, "sva", OPS, 1, id, Math.log2(mm.table.granule), false);
    this.mm = mm;
    this.#notifier = {
      invalidateSecondaryTlbs: (start, end) => {
        this.invalidate(start, end - start, mm.table.granule, false);
      },
      release: () => {
        // Devices still send the PASID: they get errors in silence, and nobody walks tables that are about to be freed.
        this.#released = true;
        host.rewriteCds(this);
        this.invalidateAll();
      },
    };
    mm.register(this.#notifier);
  }

  makeCd(cd: Int32Array, master: Master): void {
    const { features, params } = this.host;
    const { cpu } = params;
    const { table } = this.mm;
    const options = {
      asid: this.id,
      ips: ADDRESS_SIZES.indexOf(cpu.paBits),
      mairLo: cpu.mairLo,
      mairHi: cpu.mairHi,
      stall: master.stall,
      stallForce: features.stallForce,
      ha: features.ha,
      hd: features.hd,
      haft: features.haft && cpu.haft,
    };
    makeSvaCd(cd, options, this.#released ? undefined : { ttb: table.ttb, vaBits: table.vaBits, tg: TG0[table.granule]! });
  }

  /** The ASID goes back: nobody is attached. */
  close(): void {
    this.mm.unregister(this.#notifier);
    this.invalidateAll();
    this.host.freeId(this);
  }
}

function sva(domain: IommuDomain): SvaDomain {
  if (domain instanceof SvaDomain) return domain;
  throw new TypeError("arm-smmu-v3: domain must be one that domainAllocSva returned");
}
