// When the pool is next to look for what is to be closed.
//
// Knows: the interval, and a time before which a look is due. Must not know:
// what is looked for.

import { startTimer, type Timer, unrefTimer } from "./_timers.ts";

/** One timer that never keeps the process alive. */
export class Reaper {
  readonly #look: () => void;
  readonly #interval: number;
  readonly #closest: number;
  #timer: Timer | undefined;
  /** When the next look is due; never, while the timer does not run. */
  next = Infinity;

  /**
   * @param interval Milliseconds between two looks.
   * @param closest Least of them before a look that is asked for out of turn, so
   * that many of those cost little.
   */
  constructor(interval: number, closest: number, look: () => void) {
    this.#interval = interval;
    this.#closest = closest;
    this.#look = look;
  }

  get running(): boolean {
    return this.#timer !== undefined;
  }

  /** Sees to it that there is a look within an interval, and at `due` if that is
   * before. */
  start(now: number, due: number): void {
    const soonest = Math.max(due, now + this.#closest);
    const at = Math.min(now + this.#interval, soonest);
    if (this.#timer !== undefined) {
      if (at >= this.next) return;
      clearTimeout(this.#timer);
    }
    this.next = at;
    this.#timer = startTimer(() => {
      this.#timer = undefined;
      this.next = Infinity;
      this.#look();
    }, at - now);
    unrefTimer(this.#timer);
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.next = Infinity;
  }
}
