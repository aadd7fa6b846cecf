/** What a translation table descriptor is by its type bits and level; a block may be one that its level does not allow. */
export type DescriptorKind = "invalid" | "table" | "block" | "page" | "reserved";

/** Kind of the descriptor whose low word is `lo`. */
export function descriptorKind(lo: number, level: number): DescriptorKind {
  if ((lo & 1) === 0) return "invalid";
  if (level === 3) return (lo & 2) !== 0 ? "page" : "reserved";
  return (lo & 2) !== 0 ? "table" : "block";
}

const AP: readonly string[] = ["AP=privileged-rw", "AP=rw", "AP=privileged-ro", "AP=ro"];
const S2AP: readonly string[] = ["S2AP=none", "S2AP=ro", "S2AP=wo", "S2AP=rw"];
/** Bits of the high word of a stage-1 table descriptor that restrict what is below it. */
const TABLE_LIMITS: readonly (readonly [bit: number, name: string])[] = [
  [30, "APTable=ro"],
  [29, "APTable=privileged"],
  [28, "UXNTable"],
  [27, "PXNTable"],
];

/** A descriptor in words: what it is, where it points, and the bits that decide an access (Arm ARM D8.3). */
export function describeDescriptor(stage: 1 | 2, level: number, lo: number, hi: number): string {
  const kind = descriptorKind(lo, level);
  if (kind === "invalid") return "invalid: bit 0 is 0";
  if (kind === "reserved") return "reserved: bit 1 is 0 at level 3";
  const pointed = (hi & 0xffff) * 0x1_0000_0000 + ((lo & ~0xfff) >>> 0);
  const to = `${kind} 0x${pointed.toString(16)}`;
  if (kind === "table") {
    const limits = stage === 1 ? TABLE_LIMITS.filter(([bit]) => ((hi >>> bit) & 1) !== 0).map(([, name]) => name) : [];
    return [to, ...limits].join(" ");
  }
  const flags = [((lo >>> 10) & 1) !== 0 ? "AF=1" : "AF=0"];
  if ((hi & 0x8_0000) !== 0) flags.push("DBM");
  if (stage === 1) {
    flags.unshift(AP[(lo >>> 6) & 3]!);
    flags.push((lo & 0x800) !== 0 ? "nG" : "global");
    if ((hi & 0x20_0000) !== 0) flags.push("PXN");
    if ((hi & 0x40_0000) !== 0) flags.push("UXN");
    flags.push(`AttrIndx=${(lo >>> 2) & 7}`);
  } else {
    flags.unshift(S2AP[(lo >>> 6) & 3]!);
    const xn = (hi >>> 21) & 3;
    if (xn !== 0) flags.push(`XN=${xn}`);
    flags.push(`MemAttr=0x${((lo >>> 2) & 15).toString(16)}`);
  }
  return `${to} ${flags.join(" ")}`;
}
