import type { IommuDomain, IopfGroup } from "@smmuv3/iommu-core";
import type { Device } from "@smmuv3/driver-core";
import { hi32, lo32 } from "@smmuv3/platform";
import { UAPI_ERRNO } from "./errno.ts";
import type { EventFile } from "./files.ts";
import { IommufdObject } from "./objects.ts";
import { PAGE_RESPONSE_CODE, PGFAULT_FLAG } from "./uapi.ts";

/** `struct iommu_hwpt_pgfault` and `struct iommu_hwpt_page_response`. */
const PGFAULT_WORDS = 10;
const RESPONSE_WORDS = 2;

/** Page requests of the devices of some page tables, which user space reads and answers. */
export class FaultQueue extends IommufdObject implements EventFile {
  readonly kind = "fault";
  readonly #idOf: (dev: Device) => number;
  readonly #waiting: IopfGroup[] = [];
  /** Read and not answered, by cookie. */
  readonly #asked = new Map<number, IopfGroup>();

  /** @param idOf the id that user space knows a device by */
  constructor(idOf: (dev: Device) => number) {
    super();
    this.#idOf = idOf;
  }

  get readable(): boolean {
    return this.#waiting.length > 0;
  }

  deliver(group: IopfGroup): number {
    this.#waiting.push(group);
    return 0;
  }

  /** `dev` leaves `domain`: its requests are answered by others. */
  forget(dev: Device, domain: IommuDomain): void {
    const gone = (group: IopfGroup): boolean => group.dev === dev && group.domain === domain;
    for (const group of this.#waiting.filter(gone)) this.#waiting.splice(this.#waiting.indexOf(group), 1);
    for (const [cookie, group] of this.#asked) if (gone(group)) this.#asked.delete(cookie);
  }

  read(count: number): Uint8Array {
    const taken = this.#waiting.splice(0, Math.floor(count / (PGFAULT_WORDS * 4)));
    const words = new Int32Array(taken.length * PGFAULT_WORDS);
    for (const [i, group] of taken.entries()) {
      const { pasid, grpid, addr, perm } = group.request;
      let cookie = 0;
      while (this.#asked.has(cookie)) cookie++;
      this.#asked.set(cookie, group);
      const flags = PGFAULT_FLAG.lastPage | (pasid === undefined ? 0 : PGFAULT_FLAG.pasidValid);
      words.set(
        [flags, this.#idOf(group.dev), pasid ?? 0, grpid, perm, 0, lo32(addr), hi32(addr), 0, cookie], i * PGFAULT_WORDS,
      );
    }
    return new Uint8Array(words.buffer);
  }

  write(bytes: Uint8Array): number {
    if (bytes.length === 0 || bytes.length % (RESPONSE_WORDS * 4) !== 0) return -UAPI_ERRNO.EINVAL;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = 0; at < bytes.length; at += RESPONSE_WORDS * 4) {
      const code = view.getUint32(at + 4, true);
      const group = this.#asked.get(view.getUint32(at, true));
      if (group === undefined || code > PAGE_RESPONSE_CODE.invalid) return at === 0 ? -UAPI_ERRNO.EINVAL : at;
      this.#asked.delete(view.getUint32(at, true));
      group.respond(code === PAGE_RESPONSE_CODE.success ? "success" : "invalid");
    }
    return bytes.length;
  }

  release(): void {
    this.users--;
  }

  /** No device is attached to a page table with it: nothing waits. */
  destroy(): void {}
}
