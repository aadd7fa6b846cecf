// Rules on the built bundles: an architecture depends on both levels, so only its bundles show what each level runs.
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Metafile } from "./bundle-lib.ts";
import { type Finding, type Member, readJson, readMembers } from "./workspace.ts";

/** `el2-paging`: EL2 with more to offer than the `el2` of the same architecture. */
type Level = "el1" | "el2" | "el2-paging";

const KERNEL = ["kernel-base", "kernel-core", "kernel-smmu", "kernel-smmu-impl", "kernel-handoff", "kernel-pv"];

const NOT_EL2 = [...KERNEL, "hardware"];

/** The tags no module of a level may carry. */
const FORBIDDEN: Readonly<Record<Level, readonly string[]>> = {
  el1: ["hyp", "hyp-smmu", "hardware"],
  el2: NOT_EL2,
  "el2-paging": NOT_EL2,
};
const LEVELS = Object.keys(FORBIDDEN) as readonly Level[];

function metaFile(dir: string, level: Level): string {
  return `${dir}/dist/bundles/${level}.meta.json`;
}

function exportsLevel({ manifest }: Member, level: Level): boolean {
  return Object.hasOwn((manifest.exports ?? {}), `./${level}`);
}

function checkLevel(root: string, members: readonly Member[], { dir }: Member, level: Level): readonly Finding[] {
  const file = metaFile(dir, level);
  const meta = readJson(join(root, file)) as Metafile;
  return Object.keys(meta.inputs).flatMap((input): readonly Finding[] => {
    const owner = members.find((member) => input.startsWith(`${member.dir}/dist/`));
    if (owner === undefined) return [{ ...levelFinding(file), message: `${input} is no package's build output` }];
    const bad = owner.tags.find((tag) => FORBIDDEN[level].includes(tag));
    if (bad === undefined) return [];
    return [{ ...levelFinding(file), message: `${level.toUpperCase()} reaches ${input}, of a package tagged ${bad}` }];
  });
}

function levelFinding(file: string): Omit<Finding, "message"> {
  return { rule: "boundary/bundle-levels", file, line: 1 };
}

/** EL1 runs no hypervisor, EL2 no kernel, neither a model of hardware; each exported level has its bundle. */
export function checkBundleLevels(root: string): readonly Finding[] {
  const members = readMembers(root);
  const architectures = members.filter(({ dir }) => dir.startsWith("packages/arch-"));
  return architectures.flatMap((member) =>
    LEVELS.flatMap((level): readonly Finding[] => {
      const file = metaFile(member.dir, level);
      const built = existsSync(join(root, file));
      if (built && exportsLevel(member, level)) return checkLevel(root, members, member, level);
      if (built) return [{ ...levelFinding(file), message: `a bundle that the package does not export as ./${level}` }];
      if (exportsLevel(member, level)) return [{ ...levelFinding(file), message: `./${level} is exported but not built` }];
      return [];
    }),
  );
}

const DRIVER = "packages/arm-smmu-v3/";
const UNMODIFIED = ["packages/arch-native", "packages/arch-trap-emulate"] as const;

/** Trap-and-emulate claims an unmodified driver: both bundles were made from the same driver modules, byte for byte. */
export function checkIdenticalDriver(root: string): readonly Finding[] {
  const [stock, emulated] = UNMODIFIED.map((dir) => metaFile(dir, "el1")) as [string, string];
  const found = (message: string): Finding => ({ rule: "boundary/identical-driver", file: emulated, line: 1, message });
  const absent = [stock, emulated].filter((file) => !existsSync(join(root, file)));
  if (absent.length > 0) return [found(`cannot compare, ${absent.join(" and ")} not built`)];
  const driverOf = (file: string): ReadonlyMap<string, string | undefined> => {
    const inputs = Object.entries((readJson(join(root, file)) as Metafile).inputs);
    return new Map(inputs.filter(([input]) => input.startsWith(DRIVER)).map(([input, { sha256 }]) => [input, sha256]));
  };
  const [ours, theirs] = [driverOf(stock), driverOf(emulated)];
  if (ours.size === 0) return [found(`${stock} holds no module of ${DRIVER}`)];
  const all = [...new Set([...ours.keys(), ...theirs.keys()])].sort();
  return all.flatMap((input) => {
    if (!ours.has(input) || !theirs.has(input)) return [found(`${input} is in one of the two bundles only`)];
    const [hash, other] = [ours.get(input), theirs.get(input)];
    return hash !== undefined && hash === other ? [] : [found(`${input} differs from the one in ${stock}`)];
  });
}
