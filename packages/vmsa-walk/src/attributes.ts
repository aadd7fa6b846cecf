/** Shareability, as SH[1:0] of descriptors. */
export const SH = { NSH: 0, OSH: 2, ISH: 3 } as const;

/** Kinds of Normal memory from the weakest. */
const CACHE = { NC: 0, WT: 1, WB: 2 } as const;

/** MAIR nibble of Normal Non-cacheable; MAIR byte of it inside and outside. */
const NC = 0x4;
const NORMAL_NC = 0x44;
/** Non-transient, read and write allocate. */
const WRITE_BACK = 0xf;
/** MAIR form of STE.MemAttr and S2 MemAttr Device types is `type << 2`; nGnRnE is 0. */
const DEVICE_SHIFT = 2;

/** Kind of a MAIR nibble: 0b0100 Non-cacheable, 0b01RW and 0b11RW write-back, 0b00RW and 0b10RW write-through. */
function kindOf(nibble: number): number {
  if (nibble === NC || nibble === 0) return CACHE.NC;
  return (nibble & 4) !== 0 ? CACHE.WB : CACHE.WT;
}

/** The nibble of one cache level: the weaker kind of both, with the allocation hints of stage 1. */
function weaker(nibble: number, kind2: number): number {
  const kind = Math.min(kindOf(nibble), kind2);
  if (kind === CACHE.NC) return NC;
  return kind === CACHE.WB ? nibble | 4 : nibble & ~4;
}

function isDevice(attr: number): boolean {
  return (attr & 0xf0) === 0;
}

/** Device types are always, and memory that no level caches is, Outer Shareable; the reserved SH = 1 is taken as Non-shareable. */
function effectiveShareability(attr: number, sh: number): number {
  if (isDevice(attr) || attr === NORMAL_NC) return SH.OSH;
  return sh === 1 ? SH.NSH : sh;
}

/** The wider of two shareabilities. */
function wider(a: number, b: number): number {
  if (a === SH.OSH || b === SH.OSH) return SH.OSH;
  return a === SH.ISH || b === SH.ISH ? SH.ISH : SH.NSH;
}

/**
 * Attributes of one stage of translation as `MAIR byte | SH << 8`.
 * @param attr MAIR byte
 * @param sh SH[1:0]
 */
export function attributesOf(attr: number, sh: number): number {
  const known = isDevice(attr) ? attr & (3 << DEVICE_SHIFT) : attr;
  return known | (effectiveShareability(known, sh) << 8);
}

/** Kinds by MemAttr[3:2] and MemAttr[1:0]; 0 of the outer two bits is Device, 0 of the inner reserved. */
const KIND: readonly number[] = [CACHE.NC, CACHE.NC, CACHE.WT, CACHE.WB];

/** Stage 2 without FWB (Arm ARM D8.6.5): the stronger Device type, else the weaker kind of each level. */
function combinePlain(attr: number, memAttr: number): number {
  const outer = memAttr >> 2;
  const inner = memAttr & 3;
  // 0b0100, 0b1000 and 0b1100 are reserved; they are taken as Device-nGnRnE, like in STE.MemAttr.
  if (outer !== 0 && inner === 0) return 0;
  if (outer === 0) {
    const type = inner << DEVICE_SHIFT;
    return isDevice(attr) ? Math.min(attr, type) : type;
  }
  if (isDevice(attr)) return attr;
  return (weaker(attr >> 4, KIND[outer]!) << 4) | weaker(attr & 15, KIND[inner]!);
}

/** Stage 2 with FWB (Arm ARM D8.6.6), by MemAttr[2:0]. */
function combineForced(attr: number, memAttr: number): number {
  switch (memAttr & 7) {
    case 7:
      return attr;
    case 6:
      // Hints are those of stage 1 where it has any.
      return (forceWriteBack(attr, attr >> 4) << 4) | forceWriteBack(attr, attr & 15);
    case 5:
      return isDevice(attr) ? attr : NORMAL_NC;
    case 4:
      return 0;
    default: {
      const type = (memAttr & 3) << DEVICE_SHIFT;
      return isDevice(attr) ? Math.min(attr, type) : type;
    }
  }
}

function forceWriteBack(attr: number, nibble: number): number {
  return isDevice(attr) || kindOf(nibble) === CACHE.NC ? WRITE_BACK : nibble | 4;
}

/**
 * Attributes of an access through stage 2 as `MAIR byte | SH << 8`.
 * @param attr,sh MAIR byte and SH[1:0] of stage 1, or of the access where that does not translate
 * @param memAttr,sh2 MemAttr[3:0] and SH[1:0] of the stage-2 leaf
 * @param fwb MemAttr is in the encoding of FWB
 */
export function combineAttributes(attr: number, sh: number, memAttr: number, sh2: number, fwb: boolean): number {
  const first = attributesOf(attr, sh);
  const known = first & 0xff;
  const out = fwb ? combineForced(known, memAttr) : combinePlain(known, memAttr);
  const share = wider(first >> 8, sh2 === 1 ? SH.NSH : sh2);
  return out | (effectiveShareability(out, share) << 8);
}
