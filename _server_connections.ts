// The connections that are open, and the looks at each of them at an interval.
//
// Knows: what keeps the limits of connections in time, and how late it may be.
// Must not know: what those limits are about.

import { Sweeper } from "./_timers.ts";

/** Shortest interval of looks, in milliseconds: two intervals are the 50 ms
 * that a limit may be kept late. */
const MIN_INTERVAL = 25;

/** What is looked at. */
interface Sweepable {
  /** Cuts the connection if it has waited too long. */
  sweep(now: number): void;
}

/** A set of connections that looks at every one now and then, instead of a
 * timer for each. */
export class ConnectionSet<C extends Sweepable> implements Iterable<C> {
  readonly #connections = new Set<C>();
  /** None where no limit is set. */
  readonly #sweeper: Sweeper | undefined;

  /** @param delays The limits to keep, in milliseconds; 0 is none. */
  constructor(delays: readonly number[]) {
    const limits = delays.filter((delay) => delay > 0);
    if (limits.length === 0) return;
    // What a look sees first may be one interval old, and what is due may wait
    // for one more: two intervals are the 10 % or 50 ms that are promised.
    const interval = Math.max(MIN_INTERVAL, Math.min(...limits) / 20);
    this.#sweeper = new Sweeper(interval, (now) => {
      for (const connection of this.#connections) connection.sweep(now);
    });
  }

  get size(): number {
    return this.#connections.size;
  }

  add(connection: C): void {
    this.#connections.add(connection);
    if (this.#sweeper === undefined || this.#sweeper.running) return;
    this.#sweeper.start();
    // The connections keep the process alive, if they are to.
    this.#sweeper.unref();
  }

  delete(connection: C): void {
    this.#connections.delete(connection);
    if (this.#connections.size === 0) this.#sweeper?.stop();
  }

  [Symbol.iterator](): Iterator<C> {
    return this.#connections.values();
  }
}
