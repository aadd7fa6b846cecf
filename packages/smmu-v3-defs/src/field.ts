/** Bit positions as the manual prints them: `[msb, lsb]`, counted from bit 0 of the structure. `address`: see {@link AddressField}. */
export type FieldSpec = readonly [msb: number, lsb: number] | readonly [msb: number, lsb: number, kind: "address"];

/**
 * A field that lies in one 32-bit word. `S` names its structure, so that a field of one structure is not accepted for
 * another.
 */
export interface Field<S extends string = string> {
  readonly of: S;
  readonly name: string;
  readonly msb: number;
  readonly lsb: number;
  /** Index of the 32-bit word. */
  readonly word: number;
  readonly shift: number;
  /** Right-justified mask. */
  readonly mask: number;
}

/**
 * A field of up to 64 bits that stays where it is: an address whose bits in the structure are its bits in the value.
 * `lo`, `hi` = the word pair under these masks.
 */
export interface AddressField<S extends string = string> {
  readonly of: S;
  readonly name: string;
  readonly msb: number;
  readonly lsb: number;
  /** Index of the low word of the pair. */
  readonly word: number;
  readonly loMask: number;
  readonly hiMask: number;
}

export type FieldSpecs = Readonly<Record<string, FieldSpec>>;

/** The fields of structure `S`, built from their bit positions. */
export type Fields<S extends string, T extends FieldSpecs> = {
  readonly [K in keyof T]: T[K] extends readonly [number, number, "address"] ? AddressField<S> : Field<S>;
};

export type AnyField<S extends string = string> = Field<S> | AddressField<S>;

export function isAddressField(field: AnyField): field is AddressField {
  return "loMask" in field;
}

/** Mask of bits `[msb:lsb]` of one 32-bit word, as int32. */
export function bits(msb: number, lsb: number): number {
  return (msb - lsb === 31 ? -1 : (1 << (msb - lsb + 1)) - 1) << lsb;
}

/** Part of `[msb:lsb]` that falls into the 32-bit word `word`, as a mask in place. */
function wordMask(msb: number, lsb: number, word: number): number {
  const low = Math.max(lsb - word * 32, 0);
  const high = Math.min(msb - word * 32, 31);
  return high < low ? 0 : bits(high, low);
}

/** Derives every mask and shift of a structure. Throws RangeError for a field that cannot be where it is said to be. */
export function defineFields<S extends string, const T extends FieldSpecs>(of: S, specs: T): Fields<S, T> {
  const fields: Record<string, AnyField<S>> = {};
  for (const [name, [msb, lsb, kind]] of Object.entries(specs)) {
    const word = lsb >> 5;
    if (msb < lsb) throw new RangeError(`${of}.${name}: [${msb}:${lsb}] is inverted`);
    if (lsb < 0) throw new RangeError(`${of}.${name}: [${msb}:${lsb}] begins before bit 0`);
    if (kind === "address") {
      const pair = word & ~1;
      if (msb >> 6 !== pair >> 1) throw new RangeError(`${of}.${name}: [${msb}:${lsb}] spans two pairs of words`);
      fields[name] = {
        of, name, msb, lsb, word: pair,
        loMask: wordMask(msb, lsb, pair), hiMask: wordMask(msb, lsb, pair + 1),
      };
    } else {
      if (msb >> 5 !== word) throw new RangeError(`${of}.${name}: [${msb}:${lsb}] spans two words`);
      fields[name] = { of, name, msb, lsb, word, shift: lsb & 31, mask: bits(msb - lsb, 0) };
    }
  }
  return fields as unknown as Fields<S, T>;
}

/** Value of `field` in the structure whose words start at `base`, unsigned. */
export function getField(words: Int32Array, base: number, field: Field): number {
  return ((words[base + field.word]! >>> field.shift) & field.mask) >>> 0;
}

/** Replaces `field` in the structure whose words start at `base`. Bits of `value` beyond the field are dropped. */
export function setField(words: Int32Array, base: number, field: Field, value: number): void {
  const at = base + field.word;
  words[at] = (words[at]! & ~(field.mask << field.shift)) | ((value & field.mask) << field.shift);
}

/** Value of `field` in one word that was already read. */
export function extract(word: number, field: Field): number {
  return ((word >>> field.shift) & field.mask) >>> 0;
}

/** `value` placed where `field` is, to be combined with other fields of the same word. */
export function place(field: Field, value: number): number {
  return (value & field.mask) << field.shift;
}

/** Mask of `field` in place, as int32. */
export function maskOf(field: Field): number {
  return field.mask << field.shift;
}

/** Value of `field` as a number. Exact below 2^53, and therefore for every PA and IPA up to 52 bits; a wider VA is rounded. */
export function getAddress(words: Int32Array, base: number, field: AddressField): number {
  const at = base + field.word;
  return ((words[at + 1]! & field.hiMask) >>> 0) * 0x1_0000_0000 + ((words[at]! & field.loMask) >>> 0);
}

/** Replaces the address in `field`. Bits of `address` outside of the field are dropped. */
export function setAddress(words: Int32Array, base: number, field: AddressField, address: number): void {
  const at = base + field.word;
  const hi = (address / 0x1_0000_0000) | 0;
  words[at] = (words[at]! & ~field.loMask) | ((address | 0) & field.loMask);
  words[at + 1] = (words[at + 1]! & ~field.hiMask) | (hi & field.hiMask);
}

/** Union of the masks of `fields` in each word of a structure of `words` words: all bits that have a meaning. */
export function definedBits(fields: Readonly<Record<string, AnyField>>, words: number): Int32Array {
  const mask = new Int32Array(words);
  for (const { msb, lsb } of Object.values(fields)) {
    for (let word = lsb >> 5; word <= msb >> 5; word++) mask[word] = mask[word]! | wordMask(msb, lsb, word);
  }
  return mask;
}

/** A table of definitions by one of their numbers. A function, so that a bundler can leave out the tables that nobody uses. */
export function namesBy<T, N extends string>(
  definitions: Readonly<Record<N, T>>,
  numbers: (definition: T) => readonly number[],
): ReadonlyMap<number, N> {
  const names = Object.keys(definitions) as N[];
  return new Map(names.flatMap((name) => numbers(definitions[name]).map((number): [number, N] => [number, name])));
}
