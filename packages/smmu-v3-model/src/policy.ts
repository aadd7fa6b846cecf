/**
 * What IHI 0070 leaves to the implementation, one option each. Every value of every option is a behaviour that the manual
 * permits for some version of the architecture; software that is right works under all of them.
 */
export interface SmmuPolicy {
  // Registers (6.2, 6.3)

  /**
   * An access that is misaligned, does not fit its register, or is of a width that the register has not (6.2): `razWi` reads
   * zero and ignores the write; `spread` performs it on the words that it covers; `abort` throws a RegisterAbort.
   */
  readonly registerAccess: "razWi" | "spread" | "abort";
  /** Unused offsets of page 1: RES0, or an `alias` of the same offset in page 0 (6.2.2). */
  readonly page1Alias: "res0" | "alias";
  /** The page-0 offsets of EVENTQ_PROD, EVENTQ_CONS, PRIQ_PROD and PRIQ_CONS: RES0, or an `alias` of those in page 1 (6.2.1). */
  readonly page0IndexAlias: "res0" | "alias";
  /**
   * Registers whose reset value is UNKNOWN: `zero`; `poison`, which is all ones and finds software that relies on zero; or a
   * number, the seed of a random value for each. Bits that are RES0 read as zero in any case.
   */
  readonly unknownReset: "zero" | "poison" | number;
  /** GBPA after reset, IMPLEMENTATION DEFINED (6.3.14): incoming transactions `bypass` the SMMU or `abort`. */
  readonly gbpaReset: "bypass" | "abort";
  /** A write to a register whose guard is closed: `ignore` (v3.2), or `apply`, one of the behaviours until v3.1 (6.3.24). */
  readonly guardedWrite: "ignore" | "apply";
  /** A write of GBPA, GMPAM or GBPMPAM without UPDATE: `ignore` (v3.2), `store`, or `apply` (until v3.1, 6.3.14.1). */
  readonly updateBit: "ignore" | "store" | "apply";
  /** A second change of CR0 or IRQ_CTRL before the first is acknowledged: `ignore` (v3.2), or it replaces the first (`replace`). */
  readonly secondWrite: "ignore" | "replace";
  /** Steps (ticks under `clocked`, none under `immediate`) from a write of CR0, IRQ_CTRL or an UPDATE bit to its effect; 1 is the next. */
  readonly updateLatency: number;

  // Commands (chapter 4)

  /** RES0 bits of commands: `ignore`, or they are an error (`illegal`) (4.1.5). */
  readonly commandReserved: "ignore" | "illegal";
  /** A StreamID, SubstreamID, ASID or VMID of a command beyond its size: `truncate`, or `noEffect` (4.1.5 and the commands). */
  readonly commandParameter: "truncate" | "noEffect";
  /** CMD_ATC_INV with a Size above 52: CERROR_ILL, or as 52 (`all`) (4.5.1). */
  readonly atcInvSize: "illegal" | "all";
  /** TLBI: exactly what it names, or (`vmid`) everything of its VMID (permitted, 16.2). */
  readonly tlbiScope: "exact" | "vmid";
  /** TLBI whose TTL is not the level of the leaf: no entry matches (`underMatch`), or the hint is ignored (`overMatch`) (4.4.1). */
  readonly ttlMismatch: "underMatch" | "overMatch";

  // Events and queues (3.5, chapter 7)

  /** Unsupported upstream transactions end in F_UUT; otherwise they are silently aborted (7.3.2). */
  readonly uut: boolean;
  /** IMPLEMENTATION DEFINED Reason of the records that have one, 16 bits (7.3). */
  readonly reason: number;
  /** Events that may be merged: `never`, or each one that equals the record before it (`maximal`) (7.3.1). */
  readonly merging: "never" | "maximal";
  /** A stalled transaction is tried again before CMD_RESUME when its configuration or translation was invalidated (3.12.2). */
  readonly stallEarlyRetry: boolean;
  /** Further stalls of a page of a stream that has one: each has its own record (`record`), or only the first (`suppress`) (3.12.2.2). */
  readonly stallDuplicates: "record" | "suppress";
  /**
   * A queue write that aborts is noticed at once, so that PROD does not move (`synchronous`), or after PROD has moved and the
   * record is lost (`asynchronous`) (7.2).
   */
  readonly queueWriteAbort: "synchronous" | "asynchronous";

  // Caches and translation (3.21, 16.2)

  /** STEs and CDs that are invalid or ILLEGAL are kept as valid ones are (`cache`), or fetched each time (`refetch`) (16.2). */
  readonly invalidConfigCaching: "cache" | "refetch";
  /**
   * A change of block size without break-before-make: unaffected (`none`), F_TLB_CONFLICT (`fault`), or an amalgamation of the old and
   * the new entry (`amalgamate`) (3.21.1). `fault` is for IDR3.BBML = 0 and 1.
   */
  readonly bbml: "none" | "fault" | "amalgamate";
  /** Both stages in one entry, or one entry per stage, which a TLBI of either removes (16.2). */
  readonly tlb: "combined" | "split";
  /** Pointers of STEs and queues beyond OAS: bits are lost (`truncate`), or the access ends in an external `abort` (3.4.3). */
  readonly pointerOverflow: "truncate" | "abort";

  // ATOS (chapter 9)

  /** An ATOS request with HTTUI = 1: changes nothing (`passive`), or sets access flags where only one stage translates (`accessFlag`). */
  readonly atosHttu: "passive" | "accessFlag";
}

/** The default: what v3.2 and later requires, and otherwise the behaviour that hides the least. */
const strict: SmmuPolicy = {
  registerAccess: "razWi",
  page1Alias: "res0",
  page0IndexAlias: "res0",
  unknownReset: "zero",
  gbpaReset: "bypass",
  guardedWrite: "ignore",
  updateBit: "ignore",
  secondWrite: "ignore",
  updateLatency: 1,
  commandReserved: "ignore",
  commandParameter: "truncate",
  atcInvSize: "illegal",
  tlbiScope: "exact",
  ttlMismatch: "underMatch",
  uut: false,
  reason: 0,
  merging: "never",
  stallEarlyRetry: false,
  stallDuplicates: "record",
  queueWriteAbort: "synchronous",
  invalidConfigCaching: "cache",
  bbml: "none",
  tlb: "combined",
  pointerOverflow: "truncate",
  atosHttu: "passive",
};

export type PolicyName = "strict" | "adversarial" | "v3_1" | "qemuLike";

/**
 * Named policies.
 * - `strict`: the default.
 * - `adversarial`: the permitted choices that software least expects.
 * - `v3_1`: what was still permitted before v3.2.
 * - `qemuLike`: near QEMU 11 in what the manual permits; its deviations from the manual are not here.
 */
export const POLICIES: Readonly<Record<PolicyName, SmmuPolicy>> = {
  strict,
  adversarial: {
    ...strict,
    registerAccess: "abort",
    unknownReset: "poison",
    gbpaReset: "abort",
    updateLatency: 3,
    commandReserved: "illegal",
    commandParameter: "noEffect",
    uut: true,
    merging: "maximal",
    stallDuplicates: "suppress",
    queueWriteAbort: "asynchronous",
    pointerOverflow: "abort",
    atosHttu: "accessFlag",
  },
  v3_1: { ...strict, guardedWrite: "apply", updateBit: "apply", secondWrite: "replace" },
  qemuLike: {
    ...strict,
    registerAccess: "spread",
    guardedWrite: "apply",
    secondWrite: "replace",
    ttlMismatch: "overMatch",
    invalidConfigCaching: "refetch",
  },
};

/** A name, or options in place of those of `strict`. Throws TypeError for a name or an option that does not exist. */
export type PolicyChoice = PolicyName | Partial<SmmuPolicy>;

/** The complete policy. */
export function choosePolicy(choice: PolicyChoice): SmmuPolicy {
  if (typeof choice === "object") {
    const unknown = Object.keys(choice).find((name) => !Object.hasOwn(strict, name));
    if (unknown !== undefined) throw new TypeError(`SmmuV3: policy has no option "${unknown}"`);
    return { ...strict, ...choice };
  }
  if (Object.hasOwn(POLICIES, choice)) return POLICIES[choice];
  throw new TypeError(`SmmuV3: policy must be one of ${Object.keys(POLICIES).join(", ")} or an object, got "${choice}"`);
}
