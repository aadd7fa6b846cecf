// Every format before anything is measured: a process that has only ever seen one granule and one kind of stream is compiled for that.
import { ACCESS, TRANSLATION } from "@smmuv3/platform";
import { GRANULE, GRANULES } from "@smmuv3/vmsa-walk";
import { Guest, PA_BASE } from "./guest.ts";

const BYTES = 24 * 2 ** 20;
const PAGES = 64;
const ROUNDS = 600;

/** Translates with each granule through stage 1, stage 2 and both: hits, misses, writes, faults. Some seconds. */
export function warmFormats(): void {
  for (let granule = 0; granule < GRANULES.length; granule++) {
    if (granule !== GRANULE.K4 && granule !== GRANULE.K16 && granule !== GRANULE.K64) continue;
    for (const profile of ["finite", "eager"] as const) {
      const guest = new Guest(BYTES, 8, { profile });
      const page = 2 ** GRANULES[granule]!.pageShift;
      const [root1, root2, nested2] = [guest.root(granule), guest.root(granule), guest.root(granule)];
      guest.identity(nested2, BYTES, granule);
      for (let i = 0; i < PAGES; i++) {
        guest.map(root1, i * page, PA_BASE + i * page, false, granule);
        guest.map(root2, i * page, PA_BASE + i * page, true, granule);
        guest.map(nested2, PA_BASE + i * page, PA_BASE + i * page, true, granule);
      }
      guest.stream(1, "s1", root1, 0, granule);
      guest.stream(2, "s2", 0, root2, granule);
      guest.stream(3, "nested", root1, nested2, granule);
      const { smmu } = guest;
      for (let round = 0; round < ROUNDS; round++) {
        for (let sid = 1; sid <= 3; sid++) {
          for (let i = 0; i <= PAGES; i++) {
            const status = smmu.translate(sid, 0, i * page + round, 0, round & ACCESS.write);
            if ((status === TRANSLATION.ok) !== (i < PAGES)) throw new Error(`warm: granule ${granule}, stream ${sid}, page ${i}`);
          }
        }
      }
    }
  }
}
