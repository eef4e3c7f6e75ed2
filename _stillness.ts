// How long something stands still, as far as looks at an interval have seen.
//
// Knows: what was waited for at the last look, and how far it had come. Must not
// know: how long is too long.

/** One wait that is looked at now and then. Nothing is noted between two looks,
 * so that progress costs no more than counting it. */
export class Stillness {
  #what: string | null = null;
  #progress = 0;
  #since = 0;

  /**
   * Looks.
   *
   * @param what What is waited for just now; null if nothing is.
   * @param progress A counter that moves with progress.
   * @returns Milliseconds since the look that first saw the same wait with the
   * same progress: never more than it has stood still.
   */
  look(now: number, what: string | null, progress: number): number {
    if (
      what === null || what !== this.#what || progress !== this.#progress
    ) {
      this.#what = what;
      this.#progress = progress;
      this.#since = now;
    }
    return now - this.#since;
  }
}
