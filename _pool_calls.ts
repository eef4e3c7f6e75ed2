// One call of a user's callback that may take its time.
//
// Knows: that a callback may throw, return a promise, or never end. Must not
// know: what is called, and what follows from its outcome.

import { isThenable } from "./_callbacks.ts";
import {
  isBounded,
  refTimer,
  startTimer,
  type Timer,
  unrefTimer,
} from "./_timers.ts";

/** Told how a call has ended: one of the three, once, never in the turn of the
 * call itself. */
export interface Outcome<R> {
  done(result: R): void;
  failed(error: unknown): void;
  /** The time is up; what the call does later is not told any more. */
  overdue(): void;
}

/** A call that has begun, until its outcome is told or nobody wants it. */
export class PendingCall {
  #timer: Timer | undefined;
  #over = false;

  private constructor() {}

  /** Calls at once. */
  static start<R>(
    call: () => R | PromiseLike<R>,
    timeout: number,
    outcome: Outcome<R>,
  ): PendingCall {
    let result: R | PromiseLike<R>;
    try {
      result = call();
      // What has ended already needs no timer.
      if (!isThenable(result)) timeout = 0;
    } catch (error) {
      result = Promise.reject(error);
      timeout = 0;
    }
    return PendingCall.follow(result, timeout, outcome);
  }

  /** Waits for a promise that a call has returned. */
  static follow<R>(
    result: R | PromiseLike<R>,
    timeout: number,
    outcome: Outcome<R>,
  ): PendingCall {
    const pending = new PendingCall();
    if (isBounded(timeout)) {
      pending.#timer = startTimer(() => {
        if (pending.#end()) outcome.overdue();
      }, timeout);
    }
    Promise.resolve(result).then((result) => {
      if (pending.#end()) outcome.done(result);
    }, (error) => {
      if (pending.#end()) outcome.failed(error);
    });
    return pending;
  }

  /** Tells nothing more. */
  abandon(): void {
    this.#end();
  }

  /** Lets the process end although the call has not. */
  unref(): void {
    if (this.#timer !== undefined) unrefTimer(this.#timer);
  }

  /** Has the limit of the call keep the process alive. */
  ref(): void {
    if (this.#timer !== undefined) refTimer(this.#timer);
  }

  /** Whether this is its end: the first of all. */
  #end(): boolean {
    if (this.#over) return false;
    this.#over = true;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    return true;
  }
}
