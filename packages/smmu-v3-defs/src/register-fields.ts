/** Layout of an x_IRQ_CFG0..2 triple. */
const IRQ_CFG0 = { ADDR: [55, 2, "address"] } as const;
const IRQ_CFG1 = { DATA: [31, 0] } as const;
const IRQ_CFG2 = { MemAttr: [3, 0], SH: [5, 4] } as const;
const GERROR_BITS = {
  CMDQ_ERR: [0, 0],
  EVENTQ_ABT_ERR: [2, 2],
  PRIQ_ABT_ERR: [3, 3],
  MSI_CMDQ_ABT_ERR: [4, 4],
  MSI_EVENTQ_ABT_ERR: [5, 5],
  MSI_PRIQ_ABT_ERR: [6, 6],
  MSI_GERROR_ABT_ERR: [7, 7],
  SFM_ERR: [8, 8],
  CMDQP_ERR: [9, 9],
  DPT_ERR: [10, 10],
} as const;
const CR0_BITS = {
  SMMUEN: [0, 0],
  PRIQEN: [1, 1],
  EVENTQEN: [2, 2],
  CMDQEN: [3, 3],
  ATSCHK: [4, 4],
  VMW: [8, 6],
  DPT_WALK_EN: [10, 10],
} as const;
const IRQ_CTRL_BITS = { GERROR_IRQEN: [0, 0], PRIQ_IRQEN: [1, 1], EVENTQ_IRQEN: [2, 2] } as const;

/**
 * Bit positions of every register field, IHI 0070 6.3. HYP of IDR0 and UPDATE of GBPA, GMPAM
 * and GBPMPAM are Hyp and Update in the manual.
 */
export const REGISTER_FIELDS = {
  IDR0: {
    S2P: [0, 0],
    S1P: [1, 1],
    TTF: [3, 2],
    COHACC: [4, 4],
    BTM: [5, 5],
    HTTU: [7, 6],
    DORMHINT: [8, 8],
    HYP: [9, 9],
    ATS: [10, 10],
    NS1ATS: [11, 11],
    ASID16: [12, 12],
    MSI: [13, 13],
    SEV: [14, 14],
    ATOS: [15, 15],
    PRI: [16, 16],
    VMW: [17, 17],
    VMID16: [18, 18],
    CD2L: [19, 19],
    VATOS: [20, 20],
    TTENDIAN: [22, 21],
    ATSRECERR: [23, 23],
    STALL_MODEL: [25, 24],
    TERM_MODEL: [26, 26],
    ST_LEVEL: [28, 27],
    RME_IMPL: [30, 30],
  },
  IDR1: {
    SIDSIZE: [5, 0],
    SSIDSIZE: [10, 6],
    PRIQS: [15, 11],
    EVENTQS: [20, 16],
    CMDQS: [25, 21],
    ATTR_PERMS_OVR: [26, 26],
    ATTR_TYPES_OVR: [27, 27],
    REL: [28, 28],
    QUEUES_PRESET: [29, 29],
    TABLES_PRESET: [30, 30],
    ECMDQ: [31, 31],
  },
  IDR2: { BA_VATOS: [9, 0] },
  IDR3: {
    HAD: [2, 2],
    PBHA: [3, 3],
    XNX: [4, 4],
    PPS: [5, 5],
    MPAM: [7, 7],
    FWB: [8, 8],
    STT: [9, 9],
    RIL: [10, 10],
    BBML: [12, 11],
    E0PD: [13, 13],
    PTWNNC: [14, 14],
    DPT: [15, 15],
    PASIDTT: [16, 16],
    EPAN: [17, 17],
    S1PI: [18, 18],
    S2PI: [19, 19],
    S2PO: [20, 20],
    THE: [21, 21],
    MTEPERM: [22, 22],
    AIE: [23, 23],
  },
  IDR4: { IMPLEMENTATION_DEFINED: [31, 0] },
  IDR5: {
    OAS: [2, 0],
    GRAN4K: [4, 4],
    GRAN16K: [5, 5],
    GRAN64K: [6, 6],
    DS: [7, 7],
    D128: [8, 8],
    VAX: [11, 10],
    STALL_MAX: [31, 16],
  },
  IIDR: { Implementer: [11, 0], Revision: [15, 12], Variant: [19, 16], ProductID: [31, 20] },
  AIDR: { ArchMinorRev: [3, 0], ArchMajorRev: [7, 4] },
  CR0: CR0_BITS,
  CR0ACK: CR0_BITS,
  CR1: {
    QUEUE_IC: [1, 0],
    QUEUE_OC: [3, 2],
    QUEUE_SH: [5, 4],
    TABLE_IC: [7, 6],
    TABLE_OC: [9, 8],
    TABLE_SH: [11, 10],
  },
  CR2: { E2H: [0, 0], RECINVSID: [1, 1], PTM: [2, 2], REC_CFG_ATS: [3, 3] },
  /** Interpretation of stage-2 permission index p: bits [4p+3:4p]. */
  S2PII: { S2PII: [63, 0, "address"] },
  STATUSR: { DORMANT: [0, 0] },
  GBPA: {
    MemAttr: [3, 0],
    MTCFG: [4, 4],
    ALLOCCFG: [11, 8],
    SHCFG: [13, 12],
    PRIVCFG: [17, 16],
    INSTCFG: [19, 18],
    ABORT: [20, 20],
    UPDATE: [31, 31],
  },
  /** RES0 where the implementation has no such attributes. */
  AGBPA: { IMPLEMENTATION_DEFINED: [31, 0] },
  IRQ_CTRL: IRQ_CTRL_BITS,
  IRQ_CTRLACK: IRQ_CTRL_BITS,
  GERROR: GERROR_BITS,
  GERRORN: GERROR_BITS,
  GERROR_IRQ_CFG0: IRQ_CFG0,
  GERROR_IRQ_CFG1: IRQ_CFG1,
  GERROR_IRQ_CFG2: IRQ_CFG2,
  STRTAB_BASE: { ADDR: [55, 6, "address"], RA: [62, 62] },
  STRTAB_BASE_CFG: { LOG2SIZE: [5, 0], SPLIT: [10, 6], FMT: [17, 16] },
  CMDQ_BASE: { LOG2SIZE: [4, 0], ADDR: [55, 5, "address"], RA: [62, 62] },
  CMDQ_PROD: { WR: [19, 0] },
  CMDQ_CONS: { RD: [19, 0], ERR: [30, 24] },
  EVENTQ_BASE: { LOG2SIZE: [4, 0], ADDR: [55, 5, "address"], WA: [62, 62] },
  EVENTQ_PROD: { WR: [19, 0], OVFLG: [31, 31] },
  EVENTQ_CONS: { RD: [19, 0], OVACKFLG: [31, 31] },
  EVENTQ_IRQ_CFG0: IRQ_CFG0,
  EVENTQ_IRQ_CFG1: IRQ_CFG1,
  EVENTQ_IRQ_CFG2: IRQ_CFG2,
  PRIQ_BASE: { LOG2SIZE: [4, 0], ADDR: [55, 5, "address"], WA: [62, 62] },
  PRIQ_PROD: { WR: [19, 0], OVFLG: [31, 31] },
  PRIQ_CONS: { RD: [19, 0], OVACKFLG: [31, 31] },
  PRIQ_IRQ_CFG0: IRQ_CFG0,
  PRIQ_IRQ_CFG1: IRQ_CFG1,
  PRIQ_IRQ_CFG2: { ...IRQ_CFG2, LO: [31, 31] },
  GATOS_CTRL: { RUN: [0, 0] },
  GATOS_SID: { STREAMID: [31, 0], SUBSTREAMID: [51, 32], SSID_VALID: [52, 52] },
  GATOS_ADDR: { HTTUI: [6, 6], InD: [7, 7], RnW: [8, 8], PnU: [9, 9], TYPE: [11, 10], ADDR: [63, 12, "address"] },
  /** SH, Size, ADDR, ATTR when FAULT is 0; REASON, FAULTCODE, FADDR, IMPDEF when it is 1. */
  GATOS_PAR: {
    FAULT: [0, 0],
    SH: [9, 8],
    Size: [11, 11],
    ADDR: [55, 12, "address"],
    ATTR: [63, 56],
    REASON: [2, 1],
    FAULTCODE: [11, 4],
    FADDR: [55, 12, "address"],
    IMPDEF: [63, 60],
  },
  MPAMIDR: { PARTID_MAX: [15, 0], PMG_MAX: [23, 16] },
  GMPAM: { SO_PARTID: [15, 0], SO_PMG: [23, 16], UPDATE: [31, 31] },
  GBPMPAM: { GBP_PARTID: [15, 0], GBP_PMG: [23, 16], UPDATE: [31, 31] },
  VATOS_SEL: { VMID: [15, 0] },
  IDR6: { CMDQ_CONTROL_PAGE_LOG2NUMQ: [19, 16], CMDQ_CONTROL_PAGE_LOG2NUMP: [27, 24] },
  DPT_BASE: { BADDR: [55, 12, "address"], RA: [62, 62] },
  DPT_BASE_CFG: { DPTPS: [2, 0], DPTGS: [15, 14], L0DPTSZ: [23, 20] },
  DPT_CFG_FAR: { FAULT: [0, 0], LEVEL: [1, 1], DPT_FAULTCODE: [7, 4], FADDR: [55, 12, "address"] },
} as const;

export type RegisterFieldSpecs = typeof REGISTER_FIELDS;

/** STRTAB_BASE_CFG.FMT. */
export const STRTAB_FMT = { linear: 0, twoLevel: 1 } as const;
/** IDR0.TTF bits. */
export const TTF = { lpae: 1, vmsav8_64: 2 } as const;
/** IDR0.TTENDIAN. */
export const TTENDIAN = { mixed: 0, little: 2, big: 3 } as const;
/** IDR0.STALL_MODEL. */
export const STALL_MODEL = { both: 0, none: 1, forced: 2 } as const;
/** IDR0.HTTU. */
export const HTTU = { none: 0, access: 1, dirty: 2, table: 3 } as const;
