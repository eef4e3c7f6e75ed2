/**
 * Time for the client's tests: a clock that moves only when it is told to, and
 * how late what hangs on it may be.
 */
import { assertGreaterOrEqual, assertLessOrEqual } from "@std/assert";
import { rejection, ticks } from "./promise_support.ts";

interface FakeTimer {
  id: number;
  at: number;
  every: number | undefined;
  ref: boolean;
  run: () => void;
}

/** Time that passes only in {@linkcode FakeTime.pass}, until it is disposed
 * of. With stubs, everything but time is then in the test's hands too. */
export class FakeTime implements Disposable {
  now = 1000;
  readonly #timers = new Map<number, FakeTimer>();
  #lastId = 0;
  readonly #restore: (() => void)[] = [];

  constructor() {
    const add = (run: () => void, delay = 0, repeats: boolean) => {
      const id = ++this.#lastId;
      const every = repeats ? delay : undefined;
      const at = this.now + delay;
      this.#timers.set(id, { id, at, every, ref: true, run });
      return id;
    };
    const ref = (id: number, ref: boolean) => {
      const timer = this.#timers.get(id);
      if (timer !== undefined) timer.ref = ref;
    };
    this.#swap(globalThis, {
      setTimeout: (run: () => void, delay?: number) => add(run, delay, false),
      setInterval: (run: () => void, delay?: number) => add(run, delay, true),
      clearTimeout: (id: number) => void this.#timers.delete(id),
      clearInterval: (id: number) => void this.#timers.delete(id),
    });
    this.#swap(performance, { now: () => this.now });
    this.#swap(Deno, {
      refTimer: (id: number) => ref(id, true),
      unrefTimer: (id: number) => ref(id, false),
    });
  }

  /** Timers that run, and of those how many keep the process alive. */
  get timers(): { running: number; referenced: number } {
    const timers = [...this.#timers.values()];
    return {
      running: timers.length,
      referenced: timers.filter(({ ref }) => ref).length,
    };
  }

  /** Lets time pass; timers fire when they are due, each in its own turn. */
  async pass(duration: number): Promise<void> {
    const end = this.now + duration;
    for (;;) {
      await ticks();
      let next: FakeTimer | undefined;
      for (const timer of this.#timers.values()) {
        if (timer.at <= end && (next === undefined || timer.at < next.at)) {
          next = timer;
        }
      }
      if (next === undefined) break;
      this.now = Math.max(this.now, next.at);
      if (next.every === undefined) this.#timers.delete(next.id);
      else next.at += next.every;
      next.run();
    }
    this.now = end;
    await ticks();
  }

  #swap(target: object, values: Record<string, unknown>): void {
    for (const [name, value] of Object.entries(values)) {
      const original = Object.getOwnPropertyDescriptor(target, name);
      Object.defineProperty(target, name, {
        value,
        writable: true,
        configurable: true,
      });
      this.#restore.push(() => {
        if (original === undefined) Reflect.deleteProperty(target, name);
        else Object.defineProperty(target, name, original);
      });
    }
  }

  [Symbol.dispose](): void {
    for (const restore of this.#restore) restore();
  }
}

/** When a promise is rejected, and with what. */
export async function fate(
  promise: Promise<unknown>,
  time: FakeTime,
): Promise<{ error: unknown; at: number }> {
  const error = await rejection(promise);
  return { error, at: time.now };
}

/** When a timeout may fire at the latest. */
export function latest(timeout: number): number {
  return timeout + Math.max(50, timeout / 10);
}

/** Neither early nor later than a timeout may be. */
export function assertInTime(taken: number, timeout: number): void {
  assertGreaterOrEqual(taken, timeout, "It timed out early");
  assertLessOrEqual(taken, latest(timeout));
}
