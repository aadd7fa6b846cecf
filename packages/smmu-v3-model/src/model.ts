import { ACCESS, Counters, TRANSLATION } from "@smmuv3/platform";
import type { Memory, RegisterWindow, Translator } from "@smmuv3/platform";
import { EVENT_NAMES, extract, maskOf, OFFSET, REG, S_OFFSET } from "@smmuv3/smmu-v3-defs";
import type { EventName } from "@smmuv3/smmu-v3-defs";
import { RegisterBlock } from "./access.ts";
import { AtosPort } from "./atos-port.ts";
import type { AtosQuery, AtosResult } from "./atos-port.ts";
import { AtosUnit } from "./atos.ts";
import { AtsCommands } from "./ats-commands.ts";
import { AtsPort } from "./ats.ts";
import { CommandQueue } from "./command-queue.ts";
import { CommandRunner } from "./command-runner.ts";
import type { CommandPort, CommandQueues } from "./command-runner.ts";
import { buildCommandTable } from "./commands.ts";
import { ConfigCache } from "./config-cache.ts";
import { Updates } from "./control.ts";
import { EnhancedCommandQueues } from "./ecmdq.ts";
import { EventQueue } from "./events.ts";
import type { EventRecord, EventValues } from "./events.ts";
import { Explainer } from "./explain.ts";
import type { Explanation, ExplainOptions } from "./explain.ts";
import { GERROR_BIT, Interrupts } from "./irq.ts";
import { layoutRegisters } from "./layout.ts";
import type { RegisterLayout } from "./layout.ts";
import { disabledAttributes, passedAttributes } from "./output-attributes.ts";
import type { OutputAttributes } from "./output-attributes.ts";
import { choosePolicy } from "./policy.ts";
import type { SmmuPolicy } from "./policy.ts";
import { decodeFeatures, PRESETS } from "./presets.ts";
import { PriQueue } from "./pri.ts";
import type { Features, IdRegisters } from "./presets.ts";
import { StateReader, StateWriter } from "./state.ts";
import type { SmmuState } from "./state.ts";
import { RegisterTable } from "./register-table.ts";
import { RegisterFile } from "./registers.ts";
import type { CacheStats, Progress, SmmuV3Options } from "./options.ts";
import { chooseProfile, makeTlb, none } from "./profiles.ts";
import type { CacheProfile } from "./profiles.ts";
import { resetRegisters } from "./reset.ts";
import { Stalls } from "./stall.ts";
import type { ResumeHandler, StalledTransaction } from "./stall.ts";
import { Tlb } from "./tlb.ts";
import { ReadRecorder } from "./trace.ts";
import { TranslationUnit } from "./translate.ts";
import { canCacheWalks, WalkCache } from "./walk-cache.ts";
import { Witness, WitnessedTlb } from "./witness.ts";
import type { StaleReport } from "./witness.ts";

const CR0ACK = OFFSET.CR0ACK;
const VMW = maskOf(REG.CR0ACK.VMW);
const SMMUEN = maskOf(REG.CR0.SMMUEN);

/**
 * An SMMUv3 (IHI 0070), Non-secure programming interface. Masters call {@link translate}; software programs {@link registers}.
 */
export class SmmuV3 implements Translator {
  /** The registers as Non-secure software reaches them: page 0 at 0, page 1 at 0x10000, optional pages as in {@link layout}. */
  readonly registers: RegisterWindow;
  /** The same for Secure software, which reaches the Secure registers at 0x8000 as well. */
  readonly secureRegisters: RegisterWindow;
  readonly layout: RegisterLayout;
  readonly features: Features;
  readonly policy: SmmuPolicy;
  readonly counters: Counters;

  /** What option `witness: true` has found. */
  readonly staleReports: StaleReport[] = [];

  readonly #id: IdRegisters;
  readonly #profile: CacheProfile;
  readonly #file: RegisterFile;
  readonly #table: RegisterTable;
  readonly #updates: Updates;
  readonly #atos: AtosPort;
  readonly #progress: Progress;
  readonly #commandsPerTick: number;
  readonly #tlb: Tlb;
  readonly #stes: ConfigCache;
  readonly #cds: ConfigCache;
  readonly #events: EventQueue;
  readonly #commands: CommandQueue;
  readonly #commandPort: CommandPort;
  /** Command queues beside the Command queue. */
  readonly #otherQueues: CommandQueues[] = [];
  readonly #ecmdqs: EnhancedCommandQueues | undefined;
  readonly #ats: AtsPort | undefined;
  /** Of the Command queue. */
  readonly #atsCommands: AtsCommands | undefined;
  readonly #pri: PriQueue | undefined;
  readonly #unit: TranslationUnit;
  readonly #memory: Memory;
  /** Made when {@link explainAccess} is first called. */
  #explainer: Explainer | undefined;
  readonly #interrupts: Interrupts;
  readonly #stalls: Stalls;

  constructor(options: SmmuV3Options) {
    const { memory, progress = "immediate", commandsPerTick = 16 } = options;
    const profile = chooseProfile(options.profile ?? "lazy");
    this.#profile = profile;
    const counters = options.counters ?? new Counters();
    this.#id = options.id ?? PRESETS.qemuNested;
    const features = decodeFeatures(this.#id);
    this.features = features;
    const policy = choosePolicy(options.policy ?? "strict");
    this.policy = policy;
    const layout = layoutRegisters(features);
    const file = new RegisterFile(layout.size);
    this.layout = layout;
    this.#file = file;
    this.#table = new RegisterTable(features, layout, policy);
    this.#updates = new Updates(file, policy, (changed, cr0) => {
      this.#updating(changed, cr0);
    });
    this.counters = counters;
    this.#memory = memory;
    this.#progress = progress;
    this.#commandsPerTick = commandsPerTick;
    const witnessed = options.witness !== undefined && options.witness !== false;
    const tlb = makeTlb(profile.tlb, policy, witnessed);
    this.#tlb = tlb;
    const { walks } = profile;
    if (walks !== undefined && walks.entries > 0 && canCacheWalks(features)) tlb.walks = new WalkCache(walks);
    this.#stes = new ConfigCache(profile.stes, features.sidSize);
    this.#cds = new ConfigCache(profile.cds, features.sidSize);
    const interrupts = new Interrupts(file, features, memory, options.irq ?? {}, options.msi, counters);
    this.#events = new EventQueue(file, features, policy, memory, interrupts, counters);
    const keeps = profile.stes.entries > 0 && profile.cds.entries > 0;
    const unit = new TranslationUnit(file, features, policy, memory, this.#events, this.#stes, this.#cds, tlb, keeps, counters);
    this.#unit = unit;
    if (tlb instanceof WitnessedTlb) {
      const { witness } = options;
      const sink = typeof witness === "function" ? witness : (report: StaleReport): unknown => this.staleReports.push(report);
      const observer = new Witness(file, features, memory, tlb, counters, sink);
      unit.trace(observer.recorder);
      unit.observe((sid, ssid, lo, hi, translate) => observer.observe(sid, ssid, lo, hi, translate));
    }
    const stalls = new Stalls(features, policy, this.#events, unit, counters);
    this.#stalls = stalls;
    this.#interrupts = interrupts;
    const events = this.#events;
    const caches = { stes: this.#stes, cds: this.#cds, tlb: this.#tlb };
    const ats = features.ats ? new AtsPort(file, features, policy, memory, events, interrupts, caches) : undefined;
    this.#ats = ats;
    this.#pri = features.pri && ats !== undefined ? new PriQueue(file, features, policy, memory, interrupts, ats) : undefined;
    const atsCommands = (): AtsCommands | undefined => (ats === undefined ? undefined : new AtsCommands(ats, features));
    this.#atsCommands = atsCommands();
    const muted = (prefetch: () => void): void => {
      events.muted = true;
      prefetch();
      events.muted = false;
    };
    const target = {
      features,
      policy,
      stalls,
      ats: this.#atsCommands,
      tlb: this.#tlb,
      stes: this.#stes,
      cds: this.#cds,
      interrupts,
      forgetContexts: (): void => {
        unit.forgetContexts();
      },
      vmidWildcard: (): number => {
        const acknowledged = file.get(CR0ACK);
        if ((acknowledged & VMW) === 0) return 0;
        const vmw = extract(acknowledged, REG.CR0ACK.VMW);
        return vmw <= 4 ? (1 << vmw) - 1 : 0;
      },
      e2h: (): boolean => (file.get(OFFSET.CR2) & maskOf(REG.CR2.E2H)) !== 0,
      prefetchConfig: (sid: number, ssid: number): void => {
        muted(() => {
          unit.prefetch(sid, ssid);
        });
      },
      prefetchAddress: (sid: number, ssid: number, lo: number, hi: number): void => {
        if ((file.get(CR0ACK) & SMMUEN) === 0) return;
        muted(() => {
          unit.translate(sid, ssid, lo, hi, ssid < 0 ? ACCESS.read : ACCESS.read | ACCESS.ssidValid);
        });
      },
      sendEvent: (): void => {
        options.onSev?.();
      },
    };
    const table = buildCommandTable(features, policy);
    this.#commands = new CommandQueue(file, features, memory, table, target, counters);
    this.#commandPort = {
      memory,
      maxLog2: features.cmdqs,
      immediate: progress === "immediate",
      newRunner: () => new CommandRunner(memory, table, { ...target, ats: atsCommands() }, counters),
    };
    if (features.ecmdq) {
      this.#ecmdqs = new EnhancedCommandQueues(file, interrupts, layout, this.#commandPort, () => {
        if (features.sev) target.sendEvent();
      });
      this.#otherQueues.push(this.#ecmdqs);
    }
    this.#atos = new AtosPort(file, features, layout, new AtosUnit(file, features, policy, memory, caches));
    const window = (secure: boolean): RegisterBlock =>
      new RegisterBlock(file, this.#table, policy, secure, this.#atos.vatosCtrl, (offset) => {
        this.#written(offset);
      });
    this.registers = window(false);
    this.secureRegisters = window(true);
    this.reset();
  }

  get paLo(): number {
    return this.#unit.paLo;
  }

  get paHi(): number {
    return this.#unit.paHi;
  }

  /**
   * Translates one access; see `Translator` of the platform. `stalled` leaves it in {@link stalled}, where it is
   * {@link lastStalled}, until software answers it, and {@link onResume} is called.
   */
  translate(sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    const result = this.#unit.translate(sid, ssid, lo, hi, flags);
    return result === TRANSLATION.stalled ? this.#stalls.hold(sid, ssid, lo, hi, flags) : result;
  }

  /** The ATS port (3.9.1). Throws TypeError where IDR0.ATS is 0. */
  get ats(): AtsPort {
    if (this.#ats === undefined) throw new TypeError("SmmuV3: there is no ATS port, IDR0.ATS is 0");
    return this.#ats;
  }

  /** Where page requests arrive (chapter 8). Throws TypeError where IDR0.ATS or IDR0.PRI is 0. */
  get pri(): PriQueue {
    if (this.#pri === undefined) throw new TypeError("SmmuV3: there is no PRI queue, IDR0.PRI is 0");
    return this.#pri;
  }

  /** Lets further command queues execute commands on this SMMU. They advance, and are reset, with it. */
  attachCommandQueues(queues: CommandQueues): CommandPort {
    this.#otherQueues.push(queues);
    return this.#commandPort;
  }

  /** Transactions that wait for software, oldest first (3.12.2). */
  get stalled(): readonly StalledTransaction[] {
    return this.#stalls.transactions;
  }

  /** The last transaction for which {@link translate} has returned `stalled`. */
  get lastStalled(): StalledTransaction | undefined {
    return this.#stalls.last;
  }

  /** Called with each stalled transaction that is answered, by its master's choice one function for all. */
  get onResume(): ResumeHandler | undefined {
    return this.#stalls.onResume;
  }

  set onResume(handler: ResumeHandler | undefined) {
    this.#stalls.onResume = handler;
  }

  /**
   * A transaction of a kind that the SMMU does not support, whether or not it is enabled: aborted, with F_UUT by choice of
   * policy `uut` (7.3.2, 16.7.1).
   */
  rejectUnsupported(sid: number, ssid: number, lo: number, hi: number, flags: number): number {
    if (this.policy.uut) this.#events.unsupported(sid, ssid, lo, hi, flags);
    return TRANSLATION.abort;
  }

  /**
   * Records an event of which this model has no cause, such as E_PAGE_REQUEST and conflicts. Returns false where it is lost.
   * Throws RangeError for a field that the event has not.
   * @param mev STE.MEV of the stream: the record may be merged
   */
  recordEvent(name: EventName, sid: number, values: EventValues = {}, mev: boolean = false): boolean {
    return this.#events.report(name, sid, values, mev);
  }

  /**
   * The SMMU has lost its consistency (Service Failure Mode, 12.3): transactions are aborted, queues are left alone, and only
   * {@link reset} ends it.
   */
  enterServiceFailure(): void {
    this.#interrupts.serviceFailure = true;
    this.#unit.failed = true;
    this.#unit.forgetContexts();
    this.#stalls.terminateAll();
    this.#interrupts.raise(GERROR_BIT.SFM_ERR);
  }

  /** Name of the event that the last {@link translate} caused, recorded or not; undefined for none. */
  explainLast(): string | undefined {
    return EVENT_NAMES.get(this.#unit.lastEvent);
  }

  /** Answers a request as the ATOS registers do (chapter 9): no record, no stall, STE overrides left out. Works without IDR0.ATOS too. */
  atos(query: AtosQuery): AtosResult {
    return this.#atos.answer(query);
  }

  /**
   * Registers, caches and stalled transactions. Queues and tables are in memory, which is the caller's to save; attached parts
   * (an ATC, a Tegra241 CMDQV) are not in it.
   */
  saveState(): SmmuState {
    const out = new StateWriter();
    out.put("identity", this.#id);
    out.put("profile", this.#profile);
    out.put("control", { left: this.#updates.left, gbpa: this.#file.gbpa, failed: this.#unit.failed, timedOut: this.#atsCommands?.timedOut });
    out.sparse("registers", this.#file.words);
    this.#tlb.save(out);
    this.#stes.save("stes", out);
    this.#cds.save("cds", out);
    this.#stalls.save(out);
    this.#ecmdqs?.save(out);
    return out.finish();
  }

  /**
   * Goes on from a state that {@link saveState} has returned, of an SMMU with the same identity and profile. Throws TypeError for any
   * other, before anything changes.
   */
  restoreState(state: SmmuState): void {
    const from = new StateReader(state);
    from.expect("identity", this.#id);
    from.expect("profile", this.#profile);
    const control = from.get("control") as { left: number; gbpa: number; failed: boolean; timedOut?: boolean };
    from.sparse("registers", this.#file.words);
    this.#updates.left = control.left;
    this.#file.gbpa = control.gbpa;
    if (this.#atsCommands !== undefined) this.#atsCommands.timedOut = control.timedOut === true;
    this.#unit.failed = control.failed;
    this.#interrupts.serviceFailure = control.failed;
    this.#tlb.restore(from);
    this.#stes.restore("stes", from);
    this.#cds.restore("cds", from);
    this.#stalls.restore(from);
    this.#ecmdqs?.restore(from);
    this.#unit.forgetContexts();
  }

  /**
   * What an access would do now, and why: everything that it reads, the rule that decides, its event. Looks at registers and
   * memory, not at what is cached, and has no effect: no event, no cache fill, no update of a descriptor. Parameters as those of
   * {@link translate}; {@link formatExplanation} makes text of the result.
   */
  explainAccess(sid: number, ssid: number, lo: number, hi: number, flags: number, options: ExplainOptions = {}): Explanation {
    this.#explainer ??= this.#makeExplainer();
    return this.#explainer.explain(sid, ssid, lo, hi, flags, this.#unit.failed, options);
  }

  /**
   * Attributes with which an access goes on, after {@link translate} has let it pass; undefined where it does not. Parameters as
   * those of {@link translate}. Sees what caches hold. The incoming ones are the defaults of 13.1.3.
   */
  attributes(sid: number, ssid: number, lo: number, hi: number, flags: number): OutputAttributes | undefined {
    const counted = this.counters.values.slice();
    const muted = this.#events.muted;
    this.#events.muted = true;
    const result = this.#unit.translate(sid, ssid, lo, hi, flags);
    this.#events.muted = muted;
    this.counters.values.set(counted);
    if (result !== TRANSLATION.ok) return undefined;
    if ((this.#file.get(CR0ACK) & SMMUEN) === 0) return disabledAttributes(this.features, this.#file.gbpa, flags);
    const key = (flags & ACCESS.ssidValid) === 0 ? -1 : ssid;
    return passedAttributes(this.features, this.#unit.passed(sid, key, lo, hi), flags);
  }

  /** Event records that software has not consumed, oldest first. */
  decodeEvents(): EventRecord[] {
    return this.#events.pending();
  }

  cacheStats(): CacheStats {
    return {
      tlb: this.#tlb.size,
      stes: this.#stes.size,
      cds: this.#cds.size,
      tlbEvictions: this.#tlb.evictions,
    };
  }

  /** Registers and caches after reset. */
  reset(): void {
    resetRegisters(this.#file, this.#table, this.layout, this.#id, this.policy);
    this.#updates.left = 0;
    this.#interrupts.serviceFailure = false;
    this.#unit.failed = false;
    this.#invalidateAll();
    this.#stalls.terminateAll();
    for (const queues of this.#otherQueues) queues.reset();
  }

  #makeExplainer(): Explainer {
    const file = this.#file;
    const memory = this.#memory;
    const { features, policy } = this;
    const counters = new Counters();
    const events = new EventQueue(file, features, policy, memory, this.#interrupts, counters);
    const configs = (): ConfigCache => new ConfigCache(none, features.sidSize);
    const unit = new TranslationUnit(
      file, features, policy, memory, events, configs(), configs(), new Tlb(none), false, counters,
    );
    return new Explainer(file, features, unit, events, new ReadRecorder(memory));
  }

  /** SMMU-global invalidation of everything cached (S_INIT.INV_ALL, 6.3.62). */
  #invalidateAll(): void {
    this.#tlb.invalidateNonHyp();
    this.#tlb.invalidateHyp();
    this.#stes.clear();
    this.#cds.clear();
    this.#unit.forgetContexts();
  }

  /** One clock tick of progress `clocked`: earlier requests are acknowledged, then some commands consumed. */
  tick(): void {
    if (this.#progress === "clocked") this.step(this.#commandsPerTick);
  }

  /**
   * Acknowledges what software has requested and consumes up to `commands`, first of the Command queue. Returns how many were
   * consumed.
   */
  step(commands: number): number {
    if (this.#updates.step()) this.#unit.forgetContexts();
    this.#settleStalls();
    this.#atos.step();
    let done = this.#commands.consume(commands);
    for (const queues of this.#otherQueues) done += queues.advance(commands - done);
    return done;
  }

  /** Stalled transactions end with SMMUEN (6.3.9.6), and those without a record are tried again when there is room (7.2.1). */
  #settleStalls(): void {
    if ((this.#file.get(CR0ACK) & SMMUEN) === 0) this.#stalls.terminateAll();
    else this.#stalls.poll();
  }

  #written(offset: number): void {
    if (offset === OFFSET.CMDQ_PROD) {
      if (this.#progress === "immediate") this.#commands.consume(Number.MAX_SAFE_INTEGER);
      return;
    }
    if (this.#ecmdqs?.written(offset) === true) return;
    // CR2, the stream table and GBPA take part in the resolution of streams.
    if (offset !== OFFSET.EVENTQ_CONS && offset !== OFFSET.PRIQ_CONS) this.#unit.forgetContexts();
    if (offset === S_OFFSET.S_INIT) this.#initialise();
    const waits = this.#updates.request(offset);
    if (this.#progress !== "immediate") return;
    if (waits) this.#updates.apply();
    if (this.#atos.starts(offset)) this.#atos.step();
    this.#settleStalls();
    if (offset === OFFSET.CR0 || offset === OFFSET.GERRORN) {
      this.#commands.consume(Number.MAX_SAFE_INTEGER);
    }
  }

  /** CR0 is about to be acknowledged: `changed` are the bits of CR0ACK that become those of `cr0`. */
  #updating(changed: number, cr0: number): void {
    if ((changed & ~cr0 & SMMUEN) !== 0) this.#atos.cancel();
    this.#unit.forgetContexts();
  }

  /** S_INIT: the write is ignored while SMMUEN is set anywhere, as is permitted then (6.3.62). */
  #initialise(): void {
    const file = this.#file;
    const enabled =
      file.get(OFFSET.CR0) | file.get(CR0ACK) | file.get(S_OFFSET.S_CR0) | file.get(S_OFFSET.S_CR0ACK);
    if (file.get(S_OFFSET.S_INIT) !== 0 && (enabled & SMMUEN) === 0) this.#invalidateAll();
    file.set(S_OFFSET.S_INIT, 0);
  }
}
