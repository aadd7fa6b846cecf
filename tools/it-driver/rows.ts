// Tests by rows of the feature table: each in both cache profiles; where caches keep things, the witness of stale
// entries watches, and has to be silent.
import { expect, test } from "vitest";
import type { ProfileName } from "@smmuv3/smmu-v3-model";
import { Rig } from "./fixture.ts";
import type { RigOptions } from "./fixture.ts";

export type MakeRig = (options?: RigOptions) => Rig;

const PROFILES: readonly ProfileName[] = ["lazy", "eager"];

/** A test named by its row, e.g. `row("D6 S1 -> identity hitless", (rig) => ...)`. */
export function row(name: string, body: (make: MakeRig) => void): void {
  test.each(PROFILES)(`${name}: %s`, (profile) => {
    const rigs: Rig[] = [];
    body((options = {}) => {
      // It does not see what devices look up by ATS.
      const ats = options.clients?.some((spec) => "sids" in spec && spec.properties?.["ats-supported"] === true) === true;
      const rig = new Rig({ ...options, model: { profile, witness: profile === "lazy" && !ats, ...options.model } });
      rigs.push(rig);
      return rig;
    });
    for (const { smmu, other } of rigs) {
      expect(smmu.staleReports).toEqual([]);
      expect(other?.staleReports ?? []).toEqual([]);
    }
  });
}
