// Timers as every runtime has them, and the looks that come at an interval.
//
// Knows: how browsers, Deno, Node and Bun let a process end although a timer
// runs. Must not know: what is timed.

/** The longest delay that timers can express; a longer one fires at once. */
export const MAX_DELAY = 2 ** 31 - 1;

/** A number in browsers, an object in Deno, Node and Bun. */
export type Timer = ReturnType<typeof setTimeout>;

/** Whether a limit on a call is one that a timer can keep. */
export function isBounded(timeout: number): boolean {
  return timeout > 0 && timeout <= MAX_DELAY;
}

/** A timer that is never early, but for one cut at the largest delay. */
export function startTimer(fire: () => void, delay: number): Timer {
  return setTimeout(fire, Math.min(Math.ceil(delay), MAX_DELAY));
}

/** Taken once, whatever clock somebody puts in its place later. */
const { setTimeout: startTurn, clearTimeout: cancelTurn } = globalThis;

/** Lets the event loop go round: what has arrived is read, and what is ready is
 * accepted, but for the turn of the timer itself, which may come before. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** The same where the clock may stand still, as a test's does: what has to end
 * all the same waits for this. */
export function nextRealTurn(): Promise<void> {
  return new Promise((resolve) => startRealTurn(resolve));
}

/**
 * The same for who may stop waiting.
 *
 * @param done Called after the turn, or when the turn is cut short.
 * @returns Cuts the turn short.
 */
export function startRealTurn(done: () => void): () => void {
  const timer = startTurn(done, 0);
  return () => {
    cancelTurn(timer);
    done();
  };
}

/** Lets the process end although the timer runs, where a runtime can. */
export function unrefTimer(timer: Timer): void {
  callOn(timer, "unref");
}

/** Has the timer keep the process alive again. */
export function refTimer(timer: Timer): void {
  callOn(timer, "ref");
}

function callOn(timer: Timer, method: "ref" | "unref"): void {
  if (typeof timer === "object") {
    (timer as { [M in "ref" | "unref"]?: () => void })[method]?.();
    return;
  }
  const { Deno } = globalThis as {
    Deno?: { [M in "refTimer" | "unrefTimer"]?: (id: number) => void };
  };
  Deno?.[`${method}Timer`]?.(timer);
}

/**
 * Looks at an interval, and leaves out a look that comes late itself.
 *
 * A look that is late says that the thread was busy. What has arrived meanwhile
 * may not have been read yet, and nobody is to be cut for that. Only one look
 * in a row is left out, so that a thread that is always busy is still looked
 * after.
 */
export class Sweeper {
  readonly #sweep: (now: number) => void;
  #interval: number;
  #timer: Timer | undefined;
  /** When the last look was due to have come, and whether it was left out. */
  #last = 0;
  #excused = false;

  /** @param interval Milliseconds between two looks; `sweep` is told the time. */
  constructor(interval: number, sweep: (now: number) => void) {
    this.#interval = interval;
    this.#sweep = sweep;
  }

  /** Milliseconds between two looks. */
  get interval(): number {
    return this.#interval;
  }

  /** Whether it looks at all just now. */
  get running(): boolean {
    return this.#timer !== undefined;
  }

  /** Begins to look; the timer keeps the process alive until `unref`. */
  start(): void {
    if (this.#timer !== undefined) return;
    this.#last = performance.now();
    this.#excused = false;
    this.#run();
  }

  /** Looks no more, until it is started again. */
  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Has its timer keep the process alive. */
  ref(): void {
    if (this.#timer !== undefined) refTimer(this.#timer);
  }

  /** Lets the process end although it looks. */
  unref(): void {
    if (this.#timer !== undefined) unrefTimer(this.#timer);
  }

  /** Looks more often from now on; the timer then keeps the process alive, as
   * after `start`. A look is due at once, so that intervals that become shorter
   * again and again cannot put it off. */
  quicken(interval: number): void {
    if (interval >= this.#interval) return;
    const before = this.#interval;
    this.#interval = interval;
    if (this.#timer === undefined) return;
    clearInterval(this.#timer);
    this.#run();
    this.#look(before);
  }

  #run(): void {
    this.#timer = setInterval(() => this.#look(this.#interval), this.#interval);
  }

  #look(interval: number): void {
    const now = performance.now();
    this.#excused = !this.#excused && now - this.#last > 2 * interval;
    this.#last = now;
    if (!this.#excused) this.#sweep(now);
  }
}
