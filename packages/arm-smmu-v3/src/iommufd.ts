import { ERRNO } from "@smmuv3/platform";
import { BATCH_COMMANDS } from "@smmuv3/arm-smmu-v3-common";
import type { Device } from "@smmuv3/driver-core";
import { copyUserEntry } from "@smmuv3/iommu-core";
import type { HwInfo, IommuOps, UserDataArray, UserDataOut, Viommu } from "@smmuv3/iommu-core";
import { CMD_WORDS, EVENT, EVENTS, getField, OFFSET, setField } from "@smmuv3/smmu-v3-defs";
import { PagingDomain } from "./domain.ts";
import type { Backend, ImplOps } from "./impl.ts";
import { NativeBackend } from "./native.ts";
import { convertCommand } from "./nested-commands.ts";
import type { CommandContext } from "./nested-commands.ts";
import { allocNested } from "./nested-domain.ts";
import type { Vmaster } from "./nested-domain.ts";
import type { Master, SmmuDevice } from "./smmu.ts";

/** Types that user space names: IOMMU_HW_INFO_TYPE_, IOMMU_VIOMMU_TYPE_, IOMMU_VIOMMU_INVALIDATE_DATA_, IOMMU_VEVENTQ_TYPE_. */
export const HW_INFO_ARM_SMMUV3 = 2;
export const VIOMMU_ARM_SMMUV3 = 1;
export const INVALIDATE_ARM_SMMUV3 = 1;
export const VEVENTQ_ARM_SMMUV3 = 1;

/** `flags` of hw_info: CFGI and TLBI have to be sent twice. */
export const HW_INFO_REPEAT_TLBI_CFGI = 1;
const IDRS = 6;
/** A list and its SYNC are one batch. */
const MAX_LIST = BATCH_COMMANDS - 1;

/** Events that mean something to a virtual machine: of its own tables and devices. */
const FORWARDED: ReadonlySet<number> = new Set(
  [
    EVENTS.C_BAD_STE, EVENTS.F_STREAM_DISABLED, EVENTS.C_BAD_SUBSTREAMID, EVENTS.C_BAD_CD, EVENTS.F_TRANSLATION, EVENTS.F_ADDR_SIZE,
    EVENTS.F_ACCESS, EVENTS.F_PERMISSION,
  ].map(({ type }) => type),
);

/** The ID registers as they are, behind flags. */
function hwInfo(smmu: SmmuDevice): HwInfo {
  const words = new Int32Array(2 + IDRS + 2);
  words[0] = smmu.quirks.repeatInvalidations ? HW_INFO_REPEAT_TLBI_CFGI : 0;
  for (let i = 0; i < IDRS; i++) words[2 + i] = smmu.window.read32(OFFSET.IDR0 + 4 * i);
  words[2 + IDRS] = smmu.window.read32(OFFSET.IIDR);
  words[3 + IDRS] = smmu.window.read32(OFFSET.AIDR);
  return { type: HW_INFO_ARM_SMMUV3, words };
}

/** Whether a virtual machine can be given stage 1: what it maps has to be coherent whatever it writes into its tables. */
function canNest(backend: NativeBackend, master: Master): boolean {
  const { nesting, s2fwb, forceSync } = backend.features;
  return nesting && !forceSync && (s2fwb || master.canwbs);
}

/** The vIOMMU of one virtual machine (`struct arm_vsmmu`). */
class Vsmmu {
  readonly #backend: NativeBackend;
  readonly #context: CommandContext;
  readonly #words = new Int32Array(MAX_LIST * CMD_WORDS);

  constructor(viommu: Viommu, smmu: SmmuDevice, backend: NativeBackend, parent: PagingDomain) {
    this.#backend = backend;
    this.#context = {
      features: backend.features,
      // All vIOMMUs over one stage 2 share its VMID.
      vmid: parent.id,
      sidOf(vsid) {
        const dev = viommu.host.findDevice(viommu, vsid);
        return dev === undefined ? -1 : (masterOf(smmu, dev)?.sids[0] ?? -1);
      },
    };
  }

  /**
   * Lists of up to 63 commands, each with a SYNC. One command that is refused has its whole list refused, and the lists before it
   * are what was done.
   */
  invalidate(array: UserDataArray): number {
    for (let at = 0; at < array.count; at += MAX_LIST) {
      const count = Math.min(MAX_LIST, array.count - at);
      for (let i = 0; i < count; i++) {
        const status = this.#convert(array, at + i, i, false);
        if (status < 0) return status;
      }
      const status = this.#backend.cmdq.issue(this.#words, count, true);
      if (status < 0) return status;
      array.done = at + count;
    }
    return 0;
  }

  /** As the kernel does, which is a flaw: commands before one that is refused are counted, and were not sent. */
  invalidateLax(array: UserDataArray): number {
    let sent = 0;
    for (let at = 0; at < array.count; ) {
      const refused = this.#convert(array, at, at - sent, true);
      if (refused < 0) return refused;
      at++;
      array.done = at;
      if (at !== array.count && at - sent !== MAX_LIST) continue;
      const status = this.#backend.cmdq.issue(this.#words, at - sent, true);
      if (status < 0) {
        array.done--;
        return status;
      }
      sent = at;
    }
    return 0;
  }

  #convert(array: UserDataArray, index: number, slot: number, lax: boolean): number {
    const words = copyUserEntry(array, INVALIDATE_ARM_SMMUV3, index, CMD_WORDS);
    if (typeof words === "number") return words;
    const status = convertCommand(words, this.#context, lax);
    if (status === 0) this.#words.set(words, slot * CMD_WORDS);
    return status;
  }
}

function masterOf(smmu: SmmuDevice, dev: Device): Master | undefined {
  return smmu.iommu.drvdataOf(dev) as Master | undefined;
}

/** `arm_vsmmu_init`: the parent has to be of this SMMU. */
function initViommu(viommu: Viommu, smmu: SmmuDevice, backend: NativeBackend): number {
  const { parent } = viommu;
  if (!(parent instanceof PagingDomain) || parent.host !== backend || !parent.nestParent) return -ERRNO.EINVAL;
  const vsmmu = new Vsmmu(viommu, smmu, backend, parent);
  viommu.ops = {
    allocDomainNested: (_, flags, data) => allocNested(viommu, backend, parent, flags, data),
    cacheInvalidate: (_, array) => (smmu.params.laxGuestInvalidations ? vsmmu.invalidateLax(array) : vsmmu.invalidate(array)),
    // A virtual machine numbers devices, not their streams.
    vdeviceInit: ({ dev }) => (masterOf(smmu, dev)?.sids.length === 1 ? 0 : -ERRNO.EOPNOTSUPP),
  };
  return 0;
}

/** Gives an event to the virtual machine of its device, under the device's number there. False: it is not the machine's. */
function forwardEvent(master: Master, record: Int32Array): boolean {
  const vmaster = master.vmaster as Vmaster | undefined;
  if (vmaster === undefined || getField(record, 0, EVENT.S2) === 1) return false;
  if (!FORWARDED.has(getField(record, 0, EVENT.Type))) return false;
  const event = record.slice();
  setField(event, 0, EVENT.SID, vmaster.vsid);
  return vmaster.viommu.host.reportEvent(vmaster.viommu, VEVENTQ_ARM_SMMUV3, event) === 0;
}

/** An implementation brings vIOMMUs with both of their hooks, or with none. */
export function hasPairedHooks(impl: ImplOps): boolean {
  return (impl.getViommuSize === undefined) === (impl.vsmmuInit === undefined);
}

/** Words of this driver's own state of a vIOMMU. */
const VSMMU_BYTES = 4 * MAX_LIST * CMD_WORDS;

/** What iommufd asks of an SMMU that this driver programs itself; and the way of events to virtual machines. */
export function viommuOps(
  smmu: SmmuDevice, backend: Backend, impl: ImplOps,
): Pick<IommuOps, "hwInfo" | "getViommuSize" | "viommuInit"> {
  if (!(backend instanceof NativeBackend)) return {};
  smmu.forwardEvent = forwardEvent;
  return {
    hwInfo(_, type) {
      if (type === 0 || type === HW_INFO_ARM_SMMUV3) return hwInfo(smmu);
      return impl.hwInfo?.(smmu, type) ?? -ERRNO.EOPNOTSUPP;
    },
    getViommuSize(dev, type) {
      const master = masterOf(smmu, dev);
      if (master === undefined || !canNest(backend, master)) return 0;
      return type === VIOMMU_ARM_SMMUV3 ? VSMMU_BYTES : (impl.getViommuSize?.(smmu, type) ?? 0);
    },
    viommuInit(viommu: Viommu, data: UserDataOut | undefined) {
      const status = initViommu(viommu, smmu, backend);
      if (status < 0 || viommu.type === VIOMMU_ARM_SMMUV3) return status;
      return impl.vsmmuInit?.(smmu, viommu, data) ?? -ERRNO.EOPNOTSUPP;
    },
  };
}
