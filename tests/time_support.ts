/**
 * Time: waiting on the real clock for what must come about, and a clock that
 * moves only when it is told to, which no test need sleep for.
 */

// The real one, whatever a test puts in its place.
const { setTimeout: startTimer } = globalThis;

/** Milliseconds within which what must happen does, however busy the machine. */
export const PATIENCE = 60_000;

/** Waits on the real clock. */
export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => startTimer(resolve, Math.max(0, ms)));
}

/** Waits until something holds, which it must within a minute. */
export async function eventually(
  what: string,
  holds: () => boolean,
): Promise<void> {
  const deadline = performance.now() + PATIENCE;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`Never: ${what}`);
    await sleep(5);
  }
}

interface FakeTimer {
  readonly at: number;
  readonly fire: () => void;
  /** Whether it would keep the process alive. */
  held: boolean;
  ref(): FakeTimer;
  unref(): FakeTimer;
}

/** Lets everything that is ready to run have its turn. */
export async function settle(turns = 12): Promise<void> {
  for (let i = 0; i < turns; i++) await null;
}

/**
 * Stands in for `performance.now()`, `setTimeout` and `clearTimeout` until it is
 * disposed of.
 */
export class FakeClock implements Disposable {
  now = 0;
  /** How often the clock was read, and a timer set. */
  reads = 0;
  sets = 0;
  /** In the order in which they will fire. */
  #timers: FakeTimer[] = [];
  readonly #setTimeout = globalThis.setTimeout;
  readonly #clearTimeout = globalThis.clearTimeout;

  constructor() {
    performance.now = () => {
      this.reads++;
      return this.now;
    };
    globalThis.setTimeout =
      ((fire: () => void, delay = 0) =>
        this.#set(fire, delay)) as unknown as typeof setTimeout;
    globalThis.clearTimeout =
      ((timer: FakeTimer | undefined) =>
        this.#clear(timer)) as unknown as typeof clearTimeout;
  }

  /** Timers running. */
  get timers(): number {
    return this.#timers.length;
  }

  /** Timers running that would keep the process alive. */
  get held(): number {
    return this.#timers.filter((timer) => timer.held).length;
  }

  /** When the next timer fires. */
  get next(): number {
    return this.#timers[0]?.at ?? Infinity;
  }

  /** Moves on, firing each timer at its time and letting all it causes happen. */
  async tick(
    ms: number,
    flush: () => Promise<void> = settle,
  ): Promise<void> {
    const until = this.now + ms;
    await flush();
    for (;;) {
      const timer = this.#timers[0];
      if (timer === undefined || timer.at > until) break;
      this.#timers.shift();
      this.now = Math.max(this.now, timer.at);
      timer.fire();
      await flush();
    }
    this.now = until;
  }

  /** As if the process had been suspended, or the event loop blocked: no timer fires. */
  freeze(ms: number): void {
    this.now += ms;
  }

  /** Forgets all timers. */
  reset(): void {
    this.#timers = [];
  }

  [Symbol.dispose](): void {
    // The instance's own, so that the prototype's shows again.
    delete (performance as { now?: unknown }).now;
    globalThis.setTimeout = this.#setTimeout;
    globalThis.clearTimeout = this.#clearTimeout;
  }

  #set(fire: () => void, delay: number): FakeTimer {
    this.sets++;
    // As every runtime does: too large a delay overflows to 1.
    const wait = delay > 2 ** 31 - 1 ? 1 : Math.max(0, delay);
    const timer: FakeTimer = {
      at: this.now + wait,
      fire,
      held: true,
      ref() {
        this.held = true;
        return this;
      },
      unref() {
        this.held = false;
        return this;
      },
    };
    let i = this.#timers.length;
    while (i > 0 && this.#timers[i - 1]!.at > timer.at) i--;
    this.#timers.splice(i, 0, timer);
    return timer;
  }

  #clear(timer: FakeTimer | undefined): void {
    const i = timer === undefined ? -1 : this.#timers.indexOf(timer);
    if (i >= 0) this.#timers.splice(i, 1);
  }
}
