// What time it is, for less than reading the clock costs.
//
// Knows: how exact the pool's limits ask it to be. Must not know: what is timed.

import { startTimer, type Timer, unrefTimer } from "./_timers.ts";

/** How long a hot pool may share a reading, in milliseconds. */
const TICK = 1;
/** How many gets, and how many puts, may share a reading in a hot pool. */
const SHARES = 16;
/** Clock readings within a tick that make a pool hot. A timer that fires in an
 * event loop busy with sockets costs microseconds, about a hundred readings. */
const HOT_READS = 256;
/** The shortest limit, in ticks, that may be judged by a shared reading. */
const SHARING_LIMIT = 100;

/**
 * Reads the clock, and in a hot pool lets gets and puts share a reading: it costs
 * more than all else they do.
 *
 * A shared reading is behind by at most a tick, since a timer ends its use, and by
 * as long as the event loop is blocked or the process suspended, but then for no
 * more than `SHARES` uses. What was put is stamped with the earliest time it may
 * have been, and judged by the latest: an error of up to a tick closes a resource
 * too soon, which replaces it, and none lends it too late, which would fail its
 * borrower.
 */
export class Clock {
  /** Whether readings are shared just now. */
  #hot = false;
  readonly #sharing: boolean;
  readonly #jumped: (stamp: number, now: number) => void;
  #now = 0;
  #sharesAtLeast = 0;
  #sharesAtMost = 0;
  /** Whether `stamp` has shared the last reading. */
  #ahead = false;
  /** Counts the readings within the tick that began at `#start`. */
  #reads = 0;
  #start = 0;
  #timer: Timer | undefined;

  /**
   * @param shortest The shortest limit that is judged by this clock.
   * @param jumped Told when a shared reading turns out to have been behind by
   * more than a tick: what `stamp` gave meanwhile was too early.
   */
  constructor(shortest: number, jumped: (stamp: number, now: number) => void) {
    this.#sharing = shortest >= SHARING_LIMIT * TICK;
    this.#jumped = jumped;
  }

  /** The time, or up to a tick before. */
  atLeast(): number {
    return this.#hot && --this.#sharesAtLeast > 0 ? this.#now : this.read();
  }

  /** The time, or up to a tick after. */
  atMost(): number {
    return this.#hot && --this.#sharesAtMost > 0
      ? this.#now + TICK
      : this.read();
  }

  /** The same, to be told of it if it turns out to have been too early. */
  stamp(): number {
    const stamp = this.atMost();
    this.#ahead = stamp > this.#now;
    return stamp;
  }

  /** The time. */
  read(): number {
    const now = performance.now();
    const before = this.#now;
    this.#now = now;
    this.#sharesAtLeast = this.#sharesAtMost = SHARES;
    if (now - this.#start >= TICK) {
      this.#start = now;
      this.#reads = 0;
    } else if (++this.#reads === HOT_READS && this.#sharing) {
      this.stop();
      this.#hot = true;
      this.#timer = startTimer(() => {
        this.#hot = false;
        this.read();
      }, TICK);
      unrefTimer(this.#timer);
    }
    if (this.#ahead) {
      this.#ahead = false;
      if (now - before > TICK) this.#jumped(before + TICK, now);
    }
    return now;
  }

  /** Shares nothing, and leaves no timer. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#hot = false;
  }
}
