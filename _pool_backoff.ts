// How long a pool that opens resources for nobody waits after a failure.
//
// Knows: how often it failed in a row. Must not know: what failed.

import { startTimer, type Timer, unrefTimer } from "./_timers.ts";

/** The first pause, and the longest. */
const MIN_DELAY = 100;
const MAX_DELAY = 30_000;

/** Pauses that double, until one try succeeds or somebody asks. */
export class Backoff {
  readonly #retry: () => void;
  #delay = MIN_DELAY;
  /** Runs during a pause; does not keep the process alive. */
  #timer: Timer | undefined;
  /** Whether somebody has asked in this pause. */
  #asked = false;

  /** @param retry Called at the end of each pause. */
  constructor(retry: () => void) {
    this.#retry = retry;
  }

  /** Whether there is a pause. */
  get pausing(): boolean {
    return this.#timer !== undefined;
  }

  /** A try has failed. What fails in a pause was begun before it, and says
   * nothing new, unless somebody asked for it. */
  failed(): void {
    if (this.pausing && !this.#asked) return;
    this.#asked = false;
    this.#pause(this.#delay);
    this.#delay = Math.min(2 * this.#delay, MAX_DELAY);
  }

  /** Somebody has asked: the pauses begin anew. There is a try for whoever asked,
   * which says more than one for nobody at the same time. */
  ask(): void {
    if (!this.pausing || this.#asked) return;
    this.#asked = true;
    this.#delay = MIN_DELAY;
    this.#pause(MIN_DELAY);
  }

  /** Ends the pause: a try has succeeded, or is due. */
  reset(): void {
    this.#delay = MIN_DELAY;
    if (!this.pausing) return;
    this.#asked = false;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #pause(delay: number): void {
    clearTimeout(this.#timer);
    this.#timer = startTimer(() => {
      this.#timer = undefined;
      this.#asked = false;
      this.#retry();
    }, delay);
    unrefTimer(this.#timer);
  }
}
