import { hex } from "./bus.ts";

import type { DescriptorRead } from "./tables.ts";

/** Rights as text, unprivileged and privileged: `rw-/rw-`. */
export function showRights(rights: number): string {
  const three = (bits: number): string => `${bits & 1 ? "r" : "-"}${bits & 2 ? "w" : "-"}${bits & 4 ? "x" : "-"}`;
  const low = three(rights & 7);
  const high = three((rights >> 3) & 7);
  return low === high ? low : `${low}/${high}`;
}

const S2AP = ["none", "ro", "wo", "rw"] as const;
const AP = ["privileged rw", "rw", "privileged ro", "ro"] as const;

/** A descriptor in words: what it is, where it points, and the bits that decide an access. */
export function describeDescriptor({ stage, desc, kind, address }: DescriptorRead): string {
  if (kind === "invalid") return "invalid: bit 0 is 0";
  if (kind === "reserved") return "reserved at this level";
  const bit = (at: number): boolean => ((desc >> BigInt(at)) & 1n) !== 0n;
  if (kind === "table") {
    const limits = [
      [62, "APTable ro"],
      [61, "APTable privileged"],
      [60, "UXNTable"],
      [59, "PXNTable"],
    ] as const;
    const set = stage === 1 ? limits.filter(([at]) => bit(at)).map(([, name]) => name) : [];
    return [`table ${hex(address)}`, ...set].join(", ");
  }
  const ap = Number((desc >> 6n) & 3n);
  const flags = [
    stage === 1 ? AP[ap]! : S2AP[ap]!,
    bit(10) ? "AF" : "AF=0",
    ...(stage === 1 && bit(11) ? ["nG"] : []),
    ...(bit(54) ? [stage === 1 ? "UXN" : "XN"] : []),
    ...(stage === 1 && bit(53) ? ["PXN"] : []),
    stage === 1 ? `attr ${(desc >> 2n) & 7n}` : `MemAttr ${hex((desc >> 2n) & 15n)}`,
  ];
  return `${kind} ${hex(address)}, ${flags.join(", ")}`;
}

