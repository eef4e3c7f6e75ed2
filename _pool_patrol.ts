// One pass over idle resources that look alive and have not been asked for long.
//
// Knows: how many may be out of reach at once. Must not know: how one is asked,
// and what follows.

/** Of those that are idle, this part is asked at a time, or one: a hanging
 * answer must not empty the pool. */
const SHARE = 1 / 4;

/** Visits one after the other, or a few at a time. */
export class Patrol<M> {
  readonly #visit: (member: M) => boolean;
  #route: M[] = [];
  #next = 0;
  #limit = 1;
  #under = 0;

  /** @param visit Begins a visit; false if there is nothing to visit any more. */
  constructor(visit: (member: M) => boolean) {
    this.#visit = visit;
  }

  /** Whether a pass is under way. */
  get active(): boolean {
    return this.#under > 0 || this.#next < this.#route.length;
  }

  /** Begins a pass, of which there is one at a time. Calls back. */
  start(route: M[], size: number): void {
    if (this.active) return;
    this.#route = route;
    this.#next = 0;
    this.#limit = Math.max(1, Math.floor(size * SHARE));
    this.#go();
  }

  /** A visit has ended. Calls back. */
  ended(): void {
    this.#under--;
    this.#go();
  }

  /** Visits no more; visits under way go on. */
  stop(): void {
    this.#route = [];
    this.#next = 0;
  }

  #go(): void {
    while (this.#under < this.#limit && this.#next < this.#route.length) {
      this.#under++;
      // Counted before: a visit may call back.
      if (!this.#visit(this.#route[this.#next++]!)) this.#under--;
    }
    if (!this.active) this.stop();
  }
}
