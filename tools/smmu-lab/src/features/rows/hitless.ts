import { errnoName, PAGE_SIZE } from "@smmuv3/platform";
import { absent, works } from "../feature.ts";
import type { Feature } from "../feature.ts";
import { watchStores } from "../lab.ts";

const READ_WRITE = 3;

export const hitless: Feature = {
  id: "hitless",
  title: "identity <-> paging without a break",
  arguments: [25],
  probe(lab) {
    const state: { look: () => void } = { look: () => {} };
    const rig = lab.bootWhole({ onRegisterWrite: () => { state.look(); } });
    if ("verdict" in rig) return rig;
    const domain = rig.newDomain(0);
    if (typeof domain !== "number") return domain;
    const { kernel } = rig;
    const pa = rig.page();
    // One to one: the address is good on either side.
    const status = kernel.map(domain, pa, pa, PAGE_SIZE, READ_WRITE) || kernel.attach(0, "identity");
    if (status < 0) return absent(errnoName(status));
    let reads = 0;
    let refused = 0;
    state.look = () => {
      reads++;
      if (rig.master(0).probe(pa, true) !== 0) refused++;
    };
    watchStores(rig.board, state.look);
    const moved = kernel.attach(0, domain) || kernel.attach(0, "identity");
    if (moved < 0) return absent(`moving the device: ${errnoName(moved)}`);
    if (refused > 0) return absent(`${refused} of ${reads} accesses were refused on the way`);
    return works(`${reads} accesses, one after each store, on the way from identity to a domain and back: none refused`);
  },
};
