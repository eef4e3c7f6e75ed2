// What the pool tells its user: hooks, and failures that nobody awaits.
//
// Knows: that a callback may throw, reject or be missing. Must not know: what
// follows from what is told.

import { callDetached, ignore } from "./_callbacks.ts";
import type { CloseReason } from "./_pool_entry.ts";

/** What failed. */
export type Operation =
  | "factory"
  | "close"
  | "ping"
  | "reset"
  | "leak"
  | "hook";

/** Observers; they are called as methods, since they may be of a class. */
export interface Observers<T> {
  opened?: (resource: T, duration: number) => void;
  closed?: (resource: T, reason: CloseReason) => void;
  waited?: (duration: number) => void;
  acquired?: (resource: T, waited: number) => void;
  released?: (resource: T, held: number) => void;
}

/** Tells the observers. Every method but the properties may call back. */
export class Reports<T> {
  readonly #observers: Observers<T>;
  readonly #onError:
    | ((error: unknown, operation: Operation) => void)
    | undefined;
  /** Whether anybody wants to know how long an opening takes. */
  readonly ofOpenings: boolean;
  /** Whether anybody wants to know of borrows. */
  readonly ofBorrows: boolean;

  constructor(
    observers: Observers<T>,
    onError: ((error: unknown, operation: Operation) => void) | undefined,
  ) {
    this.#observers = observers;
    this.#onError = onError;
    const { opened, acquired, released } = observers;
    this.ofOpenings = opened !== undefined;
    this.ofBorrows = acquired !== undefined || released !== undefined;
  }

  failed(error: unknown, operation: Operation): void {
    // Of what it throws itself, nobody is left to be told.
    callDetached(() => this.#onError?.(error, operation), ignore);
  }

  opened(resource: T, duration: number): void {
    if (this.#observers.opened === undefined) return;
    this.#call(() => this.#observers.opened?.(resource, duration));
  }

  closed(resource: T, reason: CloseReason): void {
    if (this.#observers.closed === undefined) return;
    this.#call(() => this.#observers.closed?.(resource, reason));
  }

  waited(duration: number): void {
    if (this.#observers.waited === undefined) return;
    this.#call(() => this.#observers.waited?.(duration));
  }

  acquired(resource: T, waited: number): void {
    if (this.#observers.acquired === undefined) return;
    this.#call(() => this.#observers.acquired?.(resource, waited));
  }

  released(resource: T, held: number): void {
    if (this.#observers.released === undefined) return;
    this.#call(() => this.#observers.released?.(resource, held));
  }

  #call(hook: () => unknown): void {
    callDetached(hook, (error) => this.failed(error, "hook"));
  }
}
