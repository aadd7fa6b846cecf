// Tests by rows of the feature table: each in both cache profiles; the witness of stale entries watches, and has to be silent.
import { expect, test } from "vitest";
import type { ProfileName } from "@smmuv3/smmu-v3-model";
import { Host } from "./fixture.ts";
import type { HostOptions } from "./fixture.ts";

export type MakeHost = (options?: HostOptions) => Host;

const PROFILES: readonly ProfileName[] = ["lazy", "eager"];

export function row(name: string, body: (make: MakeHost) => void): void {
  test.each(PROFILES)(`${name}: %s`, (profile) => {
    const hosts: Host[] = [];
    body((options = {}) => {
      const host = new Host({ ...options, profile });
      hosts.push(host);
      return host;
    });
    for (const { smmu } of hosts) expect(smmu.staleReports).toEqual([]);
  });
}
