/** Small things that the codec's tests share: bytes, chance, sources and sinks. */
import { assertEquals, assertInstanceOf } from "@std/assert";
import { concat } from "@std/bytes";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import {
  FrameError,
  FrameTooLargeError,
  InvalidFrameLengthError,
  TruncatedFrameError,
} from "../codec.ts";

export const MIB = 1024 * 1024;

/** Bytes from pieces: a number is one byte, text is Latin-1. */
export function bytes(
  ...pieces: (number | string | Uint8Array)[]
): Uint8Array {
  const parts = pieces.map((piece) => {
    if (typeof piece === "number") return Uint8Array.of(piece);
    if (typeof piece === "string") {
      return Uint8Array.from(piece, (char) => char.charCodeAt(0));
    }
    return piece;
  });
  return concat(parts);
}

/** Bytes from hexadecimal text; blanks count for nothing. */
export function hex(text: string): Uint8Array {
  const digits = text.replaceAll(/\s/g, "");
  if (digits.length % 2 !== 0) throw new Error(`odd hex: ${text}`);
  const out = new Uint8Array(digits.length / 2);
  for (let i = 0; i < out.length; i++) {
    out[i] = parseInt(digits.slice(2 * i, 2 * i + 2), 16);
  }
  return out;
}

/** `length` bytes that differ from their neighbours, so that a shift shows. */
export function pattern(length: number, salt = 0): Uint8Array {
  const out = new Uint8Array(length);
  for (let i = 0; i < length; i++) out[i] = (i * 31 + (i >> 8) + salt) & 0xff;
  return out;
}

/** Every split of `input` into two pieces, and into single bytes. */
export function splits(input: Uint8Array): Uint8Array[][] {
  const all: Uint8Array[][] = [[input]];
  for (let i = 1; i < input.length; i++) {
    all.push([input.subarray(0, i), input.subarray(i)]);
  }
  all.push(Array.from(input, (byte) => Uint8Array.of(byte)));
  return all;
}

/** Repeatable chance (mulberry32); the seed is printed when a test fails. */
export class Random {
  #state: number;

  constructor(readonly seed: number) {
    this.#state = seed >>> 0;
  }

  /** A number in [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }

  /** An integer from `low` to `high`, both included. */
  between(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1));
  }

  /** True once in `n`. */
  once(n: number): boolean {
    return this.between(1, n) === 1;
  }

  /** One of `items`. */
  pick<T>(items: readonly T[]): T {
    return items[this.between(0, items.length - 1)]!;
  }

  /** `length` random bytes. */
  bytes(length: number): Uint8Array {
    const out = new Uint8Array(length);
    for (let i = 0; i < length; i++) out[i] = this.between(0, 255);
    return out;
  }
}

/** One step of a source: bytes to give, a plain result, or an error to throw. */
export type Step = Uint8Array | number | null | Error;

/** A source that gives its steps one after the other, then ends. */
export class ScriptedSource {
  readonly #steps: Step[];
  /** How often `read` was called. */
  reads = 0;
  /** How many reads are under way now, and were at most. */
  active = 0;
  mostActive = 0;
  /** The sizes of the buffers that were offered. */
  readonly rooms: number[] = [];

  constructor(steps: Iterable<Step>) {
    this.#steps = [...steps];
  }

  async read(p: Uint8Array): Promise<number | null> {
    this.reads++;
    this.rooms.push(p.byteLength);
    this.active++;
    this.mostActive = Math.max(this.mostActive, this.active);
    await Promise.resolve();
    this.active--;
    const step = this.#steps.shift();
    if (step === undefined) return null;
    if (step instanceof Error) throw step;
    if (step === null || typeof step === "number") return step;
    const n = Math.min(p.length, step.length);
    p.set(step.subarray(0, n));
    if (n < step.length) this.#steps.unshift(step.subarray(n));
    return n;
  }
}

/** A sink that keeps what it gets; `accept` says how much it takes of a write. */
export class RecordingSink {
  /** A copy of what each write accepted, in order. */
  readonly writes: Uint8Array[] = [];
  /** The memory each write was a view on. */
  readonly buffers: ArrayBufferLike[] = [];
  active = 0;
  mostActive = 0;

  constructor(
    readonly accept: (
      p: Uint8Array,
      call: number,
    ) => number | Promise<number> = (p) => p.length,
  ) {}

  async write(p: Uint8Array): Promise<number> {
    this.active++;
    this.mostActive = Math.max(this.mostActive, this.active);
    try {
      const call = this.writes.length;
      this.buffers.push(p.buffer);
      const at = this.writes.push(new Uint8Array(0)) - 1;
      const n = await this.accept(p, call);
      this.writes[at] = p.slice(0, Math.max(0, n));
      return n;
    } finally {
      this.active--;
    }
  }

  /** All accepted bytes. */
  get written(): Uint8Array {
    return concat(this.writes);
  }
}

/** Lets everything that only waits for microtasks go on. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** What `fn` throws, or undefined. */
export function thrownBy(fn: () => unknown): unknown {
  try {
    fn();
    return undefined;
  } catch (error) {
    return error;
  }
}

/** What `promise` is rejected with. */
export async function rejectionOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("the promise was fulfilled");
}

const CLASSES = {
  FrameTooLargeError,
  InvalidFrameLengthError,
  TruncatedFrameError,
};

/** `error` must be of the class of that name, and bear it. */
export function assertFrameError(
  error: unknown,
  name: string,
  message?: string,
): asserts error is FrameError {
  assertInstanceOf(error, FrameError, message);
  assertInstanceOf(error, CLASSES[name as keyof typeof CLASSES], message);
  assertEquals(error.name, name, message);
}

/**
 * Whether the garbage collector takes what `make` gave while `holder`, which
 * has had it in its hands, is alive.
 */
export async function isCollected(
  holder: unknown,
  make: () => object | Promise<object>,
): Promise<boolean> {
  const watched = await (async () => new WeakRef(await make()))();
  setFlagsFromString("--expose-gc");
  const collect: () => void = runInNewContext("gc");
  // What a job has looked at stays alive until the job has ended.
  await turn();
  collect();
  return watched.deref() === undefined && holder !== undefined;
}

/** True when the long runs are asked for. */
export function longRun(): boolean {
  return setting("WIREPOOL_LONG") === "1";
}

/** The seed that is asked for, or a new one. */
export function chosenSeed(): number {
  const seed = Number(setting("WIREPOOL_SEED") ?? NaN);
  return Number.isInteger(seed)
    ? seed
    : crypto.getRandomValues(new Uint32Array(1))[0]!;
}

/** An environment variable, where the tests may see it at all. */
function setting(variable: string): string | undefined {
  const asked = Deno.permissions.querySync({ name: "env", variable });
  return asked.state === "granted" ? Deno.env.get(variable) : undefined;
}

/** What a piece of work cost: bytes copied, memory asked for. */
export interface Cost<T> {
  result: T;
  /** Bytes that went through `set`, `slice` or `copyWithin`. */
  copied: number;
  /** Bytes of new arrays, and their number. */
  allocated: number;
  allocations: number;
}

/**
 * Counts the work of synchronous code by watching `Uint8Array`, so that a test
 * can tell linear from quadratic without a clock.
 */
export class Meter {
  /** Runs `work`, and tells what it cost. */
  static run<T>(work: () => T): Cost<T> {
    const Original = Uint8Array;
    const shared = Object.getPrototypeOf(Original.prototype);
    const { set, slice, copyWithin } = shared;
    let copied = 0;
    let allocated = 0;
    let allocations = 0;
    shared.set = function (source: ArrayLike<number>, offset?: number) {
      copied += source.length;
      return set.call(this, source, offset);
    };
    shared.slice = function (...range: number[]) {
      const piece = slice.apply(this, range);
      copied += piece.length;
      allocated += piece.length;
      allocations++;
      return piece;
    };
    shared.copyWithin = function (...range: number[]) {
      copied += this.length;
      return copyWithin.apply(this, range);
    };
    globalThis.Uint8Array = new Proxy(Original, {
      construct(target, args) {
        const made = Reflect.construct(target, args);
        if (!(args[0] instanceof ArrayBuffer)) {
          allocated += made.length;
          allocations++;
        }
        return made;
      },
    });
    try {
      const result = work();
      return { result, copied, allocated, allocations };
    } finally {
      globalThis.Uint8Array = Original;
      Object.assign(shared, { set, slice, copyWithin });
    }
  }
}
