import { ERRNO } from "@smmuv3/platform";
import { HOST_DOMAINS, IOMMU_STATE } from "@smmuv3/pkvm-abi";

/** Ids of the host's paravirtual domains: one for all IOMMUs of a kernel. */
export class DomainIds {
  readonly #used: Uint8Array = new Uint8Array(HOST_DOMAINS);

  /** The lowest free id, or -ENOSPC. */
  alloc(): number {
    const id = this.#used.indexOf(0, IOMMU_STATE.firstDomain);
    if (id < 0) return -ERRNO.ENOSPC;
    this.#used[id] = 1;
    return id;
  }

  free(id: number): void {
    this.#used[id] = 0;
  }
}
