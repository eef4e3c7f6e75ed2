// Ids that tell which response belongs to which request, where responses may
// come in any order.
//
// Knows: which ids there are, which are the protocol's, and which are in use.
// Must not know: connections, and what is done about an id that nobody asked
// for.
//
//   id                          drawn for a request   where ids are inserted
//   0                           never                 a push, or a request that
//                                                     gets no response
//   1 .. capacity               in turn               a request, its response
//   high bit and an id of those never                 the failure of that request
//   all bits                    never                 the goaway

import { checkObject, integerOption, show } from "./_options.ts";

/** Where the id stands in the frames of one direction. */
interface IdField {
  readonly length: 1 | 2 | 4;
  readonly offset?: number;
}

/** The options of correlation, as they are given. */
interface Options {
  readonly length: 1 | 2 | 4;
  readonly requestOffset?: number | undefined;
  readonly responseOffset?: number | undefined;
}

/** The options of correlation, checked and completed. */
export interface Correlation {
  /** Where the id stands in requests. */
  readonly request: IdField;
  /** Where the id stands in responses. */
  readonly response: IdField;
  /** Whether ids are put in behind the length field, and taken out again. */
  readonly inserted: boolean;
  /** How many ids there are for requests: 1 to this number. What is left over
   * keeps failures and the goaway apart. */
  readonly capacity: number;
  /** The high bit of an id. */
  readonly highBit: number;
  /** The id of the goaway: all bits set. */
  readonly goaway: number;
}

/** Checks and completes the option `correlation`. */
export function correlationOption(
  options: { readonly correlation?: Options | undefined },
): Correlation | undefined {
  const { correlation } = options;
  if (correlation === undefined) return undefined;
  checkObject("Option correlation", correlation);
  const { length, requestOffset, responseOffset } = correlation;
  if (length !== 1 && length !== 2 && length !== 4) {
    const ErrorClass = typeof length === "number" ? RangeError : TypeError;
    throw new ErrorClass(
      `Option correlation.length must be 1, 2 or 4, received ${show(length)}`,
    );
  }
  const highBit = 2 ** (8 * length - 1);
  return {
    request: field(length, "requestOffset", requestOffset ?? responseOffset),
    response: field(length, "responseOffset", responseOffset ?? requestOffset),
    inserted: requestOffset === undefined && responseOffset === undefined,
    capacity: highBit - 2,
    highBit,
    goaway: 2 * highBit - 1,
  };
}

function field(
  length: 1 | 2 | 4,
  name: "requestOffset" | "responseOffset",
  offset: number | undefined,
): IdField {
  if (offset === undefined) return { length };
  // The layout judges where it may stand.
  integerOption({ [`correlation.${name}`]: offset }, `correlation.${name}`, 0, {
    min: Number.MIN_SAFE_INTEGER,
    max: Number.MAX_SAFE_INTEGER,
  });
  return { length, offset };
}

/** Whether an id is the protocol's: 0, or one with the high bit. */
export function isReserved({ highBit }: Correlation, id: number): boolean {
  return id === 0 || id >= highBit;
}

/** The largest number of ids for which a bit each is kept. */
const MAX_BITS = 2 ** 15;

/** Places of a table at first. */
const FIRST_PLACES = 64;

/**
 * The ids in use on one connection, and what each of them stands for.
 *
 * Ids are drawn in turn, so that one that was released is given out again as
 * late as can be. Every operation takes the same time however many are in use:
 * of ids with one or two bytes, which run round, the next free one is found in
 * a tree of bits; those with four bytes do not run round while a connection
 * lives, as a rule, and the next is free but for a handful of old ones.
 *
 * What ids stand for lies in a ring, at the place that the lowest bits of the id
 * say. Ids in use are close together as a rule, so that none meets another; one
 * that stays for long gives way to a new one and goes aside. (A `Map` alone would
 * do, but what comes and goes in it keeps the collector busy.)
 *
 * ```text
 *   id     ... 254  255  256  257  258 ...
 *   ring of 4    2    3    0    1    2      id 254 goes aside when 258 is drawn
 * ```
 */
export class IdTable<T> {
  readonly #capacity: number;
  readonly #free: FreeIds | undefined;
  /** The ring: at each place an id, 0 for none, and what it stands for. */
  #ids = new Uint32Array(FIRST_PLACES);
  #values: (T | undefined)[] = new Array(FIRST_PLACES).fill(undefined);
  /** Those that went aside. */
  readonly #aside = new Map<number, T>();
  #size = 0;
  #last = 0;

  /** @param capacity Ids are 1 to this number. */
  constructor(capacity: number) {
    this.#capacity = capacity;
    if (capacity <= MAX_BITS) this.#free = new FreeIds(capacity);
  }

  /** Ids in use. */
  get size(): number {
    return this.#size;
  }

  /**
   * Draws an id. There must be one that is free.
   *
   * @param value What the id stands for until it is released.
   */
  take(value: T): number {
    if (this.#size >= this.#capacity) {
      throw new Error("bug: more ids are in use than there are");
    }
    let id = this.#last % this.#capacity + 1;
    if (this.#free === undefined) {
      while (this.#has(id)) id = id % this.#capacity + 1;
    } else {
      // Bits count from 0, ids from 1.
      id = this.#free.next(id - 1) + 1;
      this.#free.mark(id - 1, false);
    }
    this.#last = id;
    this.#size++;
    if (2 * this.#size > this.#ids.length) this.#grow();
    this.#put(id, value);
    return id;
  }

  /** What an id stands for; `undefined` if it is not in use. */
  get(id: number): T | undefined {
    const place = id & (this.#ids.length - 1);
    if (this.#ids[place] === id && id > 0) return this.#values[place];
    return this.#aside.size === 0 ? undefined : this.#aside.get(id);
  }

  /** Gives an id back, if it is in use. */
  release(id: number): void {
    const place = id & (this.#ids.length - 1);
    if (this.#ids[place] === id && id > 0) {
      this.#ids[place] = 0;
      this.#values[place] = undefined;
    } else if (!this.#aside.delete(id)) return;
    this.#size--;
    this.#free?.mark(id - 1, true);
  }

  /** What the ids in use stand for, in no order. */
  values(): T[] {
    const values = [...this.#aside.values()];
    for (const value of this.#values) {
      if (value !== undefined) values.push(value);
    }
    return values;
  }

  /** Forgets every id; none may be drawn after that. */
  clear(): void {
    this.#ids.fill(0);
    this.#values.fill(undefined);
    this.#aside.clear();
    this.#size = 0;
  }

  #has(id: number): boolean {
    return this.#ids[id & (this.#ids.length - 1)] === id || this.#aside.has(id);
  }

  #put(id: number, value: T): void {
    const place = id & (this.#ids.length - 1);
    const older = this.#ids[place]!;
    if (older > 0) this.#aside.set(older, this.#values[place]!);
    this.#ids[place] = id;
    this.#values[place] = value;
  }

  #grow(): void {
    const ids = this.#ids;
    const values = this.#values;
    this.#ids = new Uint32Array(2 * ids.length);
    this.#values = new Array(2 * ids.length).fill(undefined);
    for (let place = 0; place < ids.length; place++) {
      if (ids[place]! > 0) this.#put(ids[place]!, values[place]!);
    }
  }
}

/**
 * A set of up to 32768 numbers, as a tree of bits: a bit of a level says whether
 * the word of 32 bits below it has a bit at all.
 */
class FreeIds {
  /** The lowest level first; each has a 32nd of the words of the one below. */
  readonly #levels: Uint32Array[] = [];

  /** Makes a full set of the numbers below `size`. */
  constructor(size: number) {
    do {
      const words = new Uint32Array(Math.ceil(size / 32)).fill(0xffff_ffff);
      if (size % 32 > 0) words[words.length - 1] = 2 ** (size % 32) - 1;
      this.#levels.push(words);
      size = words.length;
    } while (size > 1);
  }

  /** Puts a number in, or takes it out. */
  mark(n: number, free: boolean): void {
    for (const words of this.#levels) {
      const at = n >>> 5;
      const before = words[at]!;
      const after = free ? before | (1 << n) : before & ~(1 << n);
      words[at] = after;
      // What is above says only whether the word has any bit.
      if ((before !== 0) === (after !== 0)) return;
      n = at;
    }
  }

  /** The least number that is `from` or more, or else the least of all. */
  next(from: number): number {
    const found = this.#search(from);
    return found >= 0 ? found : this.#search(0);
  }

  #search(from: number): number {
    // Up, until a word has a bit at or behind the place; then down again along
    // the lowest bits.
    for (let level = 0; level < this.#levels.length; level++) {
      const words = this.#levels[level]!;
      const at = from >>> 5;
      if (at >= words.length) return -1;
      const bits = words[at]! & (0xffff_ffff << from);
      if (bits !== 0) {
        let n = 32 * at + lowestBit(bits);
        while (level-- > 0) {
          n = 32 * n + lowestBit(this.#levels[level]![n]!);
        }
        return n;
      }
      from = at + 1;
    }
    return -1;
  }
}

/** The place of the lowest bit of a word that has one. */
function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word);
}
