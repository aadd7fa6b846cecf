import { ats } from "./rows/ats.ts";
import { attachFailure } from "./rows/attach-failure.ts";
import { blockedOnRelease } from "./rows/blocked-on-release.ts";
import { contiguous } from "./rows/contiguous.ts";
import { deferrals } from "./rows/deferrals.ts";
import { dmaFq } from "./rows/dma-fq.ts";
import { dmaMask } from "./rows/dma-mask.ts";
import { dmaMaskAll } from "./rows/dma-mask-all.ts";
import { dmaStrict } from "./rows/dma-strict.ts";
import { events } from "./rows/events.ts";
import { evtqOverflow } from "./rows/evtq-overflow.ts";
import { hitless } from "./rows/hitless.ts";
import { errata } from "./rows/hw-errata.ts";
import { noRil } from "./rows/hw-no-ril.ts";
import { nonCoherent } from "./rows/hw-non-coherent.ts";
import { s1Only } from "./rows/hw-s1-only.ts";
import { s2Only } from "./rows/hw-s2-only.ts";
import { identity } from "./rows/identity.ts";
import { isolation } from "./rows/isolation.ts";
import { liveness } from "./rows/liveness.ts";
import { msi } from "./rows/msi.ts";
import { nestedVsmmu } from "./rows/nested-vsmmu.ts";
import { pasid } from "./rows/pasid.ts";
import { passthrough } from "./rows/passthrough.ts";
import { power } from "./rows/power.ts";
import { rmr } from "./rows/rmr.ts";
import { shutdown } from "./rows/shutdown.ts";
import { stage2Domain } from "./rows/stage2-domain.ts";
import { sva } from "./rows/sva.ts";
import { sysfs } from "./rows/sysfs.ts";
import { twoVendors } from "./rows/two-vendors.ts";
import { userDomain } from "./rows/user-domain.ts";
import type { Feature } from "./feature.ts";

export type { Cell, Feature, Verdict } from "./feature.ts";

/** The rows, in the order in which they are printed. */
export const FEATURES: readonly Feature[] = [
  isolation,
  dmaStrict,
  dmaFq,
  identity,
  userDomain,
  stage2Domain,
  pasid,
  sva,
  nestedVsmmu,
  ats,
  blockedOnRelease,
  hitless,
  attachFailure,
  rmr,
  events,
  evtqOverflow,
  msi,
  dmaMask,
  dmaMaskAll,
  contiguous,
  passthrough,
  twoVendors,
  sysfs,
  deferrals,
  liveness,
  power,
  shutdown,
  s1Only,
  s2Only,
  noRil,
  nonCoherent,
  errata,
];
