/**
 * Memory: what is collected, and what synchronous work copies and allocates,
 * counted.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { turn } from "./promise_support.ts";

/** Leaves nothing in the heap but what is used. */
export function collectGarbage(): void {
  setFlagsFromString("--expose-gc");
  const collect: () => void = runInNewContext("gc");
  collect();
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
  // What a job has looked at stays alive until the job has ended.
  await turn();
  collectGarbage();
  return watched.deref() === undefined && holder !== undefined;
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
