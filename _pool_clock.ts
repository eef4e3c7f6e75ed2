// What time it is, for less than reading the clock costs.
//
// Knows: how exact the pool's limits ask it to be. Must not know: what is timed.

import { startTimer, type Timer, unrefTimer } from "./_timers.ts";

/** How long a hot pool may share a reading, in milliseconds. */
export const TICK = 1;
/** How often a hot pool may share a reading. */
const SHARES = 16;
/** Clock readings within a tick that make a pool hot. A timer that fires in an
 * event loop busy with sockets costs microseconds, about a hundred readings. */
const HOT_READS = 512;

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
  #now = 0;
  #shares = 0;
  /** Counts the readings within the tick that began at `#start`. */
  #reads = 0;
  #start = 0;
  #timer: Timer | undefined;

  constructor(sharing: boolean) {
    this.#sharing = sharing;
  }

  /** The time, or up to a tick before. */
  atLeast(): number {
    return this.#hot && --this.#shares > 0 ? this.#now : this.read();
  }

  /** The time, or up to a tick after. */
  atMost(): number {
    return this.#hot ? this.atLeast() + TICK : this.read();
  }

  read(): number {
    const now = performance.now();
    this.#now = now;
    this.#shares = SHARES;
    if (now - this.#start >= TICK) {
      this.#start = now;
      this.#reads = 0;
    } else if (++this.#reads === HOT_READS && this.#sharing) {
      this.stop();
      this.#hot = true;
      this.#timer = startTimer(() => this.#hot = false, TICK);
      unrefTimer(this.#timer);
    }
    return now;
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#hot = false;
  }
}
