// The calls of the factory that are under way.
//
// Knows: how long one may take, and that what was cut may deliver all the same.
// Must not know: for whom a resource is opened, and what becomes of it.

import { isBounded, startTimer, type Timer } from "./_timers.ts";

/** What is noted of a call when it begins. */
export interface OpeningNotes {
  /** When it began; 0 if nobody wants to know. */
  readonly since: number;
  /** Of all evictions, how many came before it. */
  readonly generation: number;
  /** Whether it is one that the pool was made with. */
  readonly initial: boolean;
  /** The last in line whom its failure may concern: nobody who came after it,
   * if it was begun for nobody. */
  readonly concerns: number;
}

/** One call of the factory. */
class Call {
  readonly controller = new AbortController();
  timer: Timer | undefined = undefined;

  constructor(readonly notes: OpeningNotes) {}
}

/** Told how each call ends, never in the turn in which it began. Each may call
 * back. */
export interface OpeningsOwner<T> {
  delivered(value: T, opening: OpeningNotes): void;
  failed(error: unknown, opening: OpeningNotes): void;
  /** A call that had been cut, and so had failed, has delivered after all. */
  deliveredLate(value: T): void;
  /** What a call that takes too long fails with. */
  overdue(): Error;
}

/** All calls of the factory under way. */
export class Openings<T> {
  readonly #factory: (signal: AbortSignal) => T | PromiseLike<T>;
  readonly #timeout: number;
  readonly #owner: OpeningsOwner<T>;
  readonly #pending = new Set<Call>();
  /** How many there are; a set takes longer to tell. */
  size = 0;

  constructor(
    factory: (signal: AbortSignal) => T | PromiseLike<T>,
    timeout: number,
    owner: OpeningsOwner<T>,
  ) {
    this.#factory = factory;
    this.#timeout = timeout;
    this.#owner = owner;
  }

  /** Calls the factory; it may call back. */
  start(notes: OpeningNotes): void {
    const opening = new Call(notes);
    this.#pending.add(opening);
    this.size++;
    if (isBounded(this.#timeout)) {
      opening.timer = startTimer(() => {
        const error = this.#owner.overdue();
        opening.controller.abort(error);
        this.#cut(opening, error);
      }, this.#timeout);
    }
    // The promise also makes a synchronous outcome arrive in a later turn.
    new Promise<T>((resolve) =>
      resolve(this.#factory(opening.controller.signal))
    ).then((value) => {
      if (this.#end(opening)) this.#owner.delivered(value, notes);
      else this.#owner.deliveredLate(value);
    }, (error) => this.#cut(opening, error));
  }

  /** Tells the factory that nothing is wanted any more. Calls back. */
  abort(reason: unknown): void {
    for (const { controller } of [...this.#pending]) controller.abort(reason);
  }

  /** Has every call fail, whatever it does. Calls back. */
  cutAll(error: unknown): void {
    for (const opening of [...this.#pending]) this.#cut(opening, error);
  }

  #cut(opening: Call, error: unknown): void {
    if (this.#end(opening)) this.#owner.failed(error, opening.notes);
  }

  /** Whether this is its end: the first of all. */
  #end(opening: Call): boolean {
    clearTimeout(opening.timer);
    if (!this.#pending.delete(opening)) return false;
    this.size--;
    return true;
  }
}
