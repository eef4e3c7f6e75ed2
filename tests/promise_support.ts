/**
 * How a promise or a call ends: its value or its error, now or once all that
 * can settle has settled; and a signal that knows its listeners.
 */
import { fail } from "@std/assert";

/** Lets promises that can settle without I/O and without timers settle. */
export async function ticks(): Promise<void> {
  for (let i = 0; i < 60; i++) await null;
}

/** What a promise was rejected with; it must be. */
export async function rejection(promise: Promise<unknown>): Promise<unknown> {
  let value: unknown;
  try {
    value = await promise;
  } catch (error) {
    return error;
  }
  fail(`Resolved with ${Deno.inspect(value)}`);
}

/** Resolves with a promise's value or with its error. */
export function outcomeOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.catch((error) => error);
}

/** How a promise stands, after {@linkcode ticks}: its value, its error or
 * `"pending"`. */
export async function stateOf(promise: Promise<unknown>): Promise<unknown> {
  let state: unknown = "pending";
  promise.then((value) => state = value, (error) => state = error);
  await ticks();
  return state;
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

/** Lets everything that only waits for microtasks go on. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** Lets timers and I/O go on for a moment, also where time is faked. */
export function immediate(): Promise<void> {
  return new Promise((resolve) => setImmediate(() => resolve()));
}

/** An `AbortSignal` that counts its listeners. */
export class CountingSignal {
  readonly #controller = new AbortController();
  /** Listeners now, most at any time, and calls that added one. */
  listeners = 0;
  most = 0;
  added = 0;

  constructor() {
    const { signal } = this.#controller;
    const add = signal.addEventListener.bind(signal);
    const remove = signal.removeEventListener.bind(signal);
    const known = new Set<unknown>();
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      known.add(args[1]);
      this.listeners = known.size;
      this.most = Math.max(this.most, known.size);
      this.added++;
      add(...args);
    };
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      known.delete(args[1]);
      this.listeners = known.size;
      remove(...args);
    };
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  abort(reason?: unknown): void {
    this.#controller.abort(reason);
  }
}
