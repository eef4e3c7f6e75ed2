// The pings and resets that are under way.
//
// Knows: how long one may take, and what counts as its failure. Must not know:
// why a resource is pinged or reset, and what becomes of it.

import { isThenable } from "./_callbacks.ts";
import { PendingCall } from "./_pool_calls.ts";
import type { Entry } from "./_pool_entry.ts";

/** What is asked of a resource. */
export type Check = "ping" | "reset";

/** Told how each check ends. Each may call back. */
export interface ChecksOwner<T> {
  passed(entry: Entry<T>, check: Check): void;
  /** `failure` is what was thrown, if anything was. */
  failed(entry: Entry<T>, check: Check, failure?: { error: unknown }): void;
  /** What a call that takes too long fails with. */
  overdue(what: string, limit: number): Error;
}

/** The callbacks, and their limits in time. */
export interface CheckSettings<T> {
  readonly ping: ((resource: T, idle: number) => unknown) | undefined;
  readonly reset: ((resource: T) => unknown) | undefined;
  readonly pingTimeout: number;
  readonly releaseTimeout: number;
}

/** Runs the checks, and counts them. */
export class Checks<T> {
  readonly #settings: CheckSettings<T>;
  readonly #owner: ChecksOwner<T>;
  /** Pings that do not keep the process alive, since nobody waits. */
  readonly #unheld = new Set<PendingCall>();
  /** How many are under way. */
  size = 0;

  constructor(settings: CheckSettings<T>, owner: ChecksOwner<T>) {
    this.#settings = settings;
    this.#owner = owner;
  }

  /**
   * Pings a resource; the outcome is told in a later turn. Calls back.
   *
   * @param idle How long it has been idle.
   * @param awaited Whether anybody waits for it, so that it keeps the process
   * alive.
   */
  ping(entry: Entry<T>, idle: number, awaited: boolean): void {
    const { ping, pingTimeout } = this.#settings;
    entry.state = "pinging";
    this.size++;
    const call = PendingCall.start(
      () => ping!(entry.value, idle),
      pingTimeout,
      {
        done: (answer) => this.#ended(entry, "ping", answer),
        failed: (error) => this.#owner.failed(entry, "ping", { error }),
        overdue: () => this.#overdue(entry, "ping", pingTimeout),
      },
    );
    if (entry.state as string !== "pinging") {
      // The callback has closed the pool.
      call.abandon();
      return;
    }
    entry.call = call;
    if (awaited) return;
    call.unref();
    this.#unheld.add(call);
  }

  /** Resets a resource; the outcome of one that returns no promise is told at
   * once. Calls back. */
  reset(entry: Entry<T>): void {
    const { reset, releaseTimeout } = this.#settings;
    entry.state = "resetting";
    this.size++;
    let result: unknown;
    try {
      result = reset!(entry.value);
      if (isThenable(result)) {
        const call = PendingCall.follow<unknown>(result, releaseTimeout, {
          done: (result) => this.#ended(entry, "reset", result),
          failed: (error) => this.#owner.failed(entry, "reset", { error }),
          overdue: () => this.#overdue(entry, "reset", releaseTimeout),
        });
        if (entry.state as string === "resetting") entry.call = call;
        // The callback has evicted it, or closed the pool.
        else call.abandon();
        return;
      }
    } catch (error) {
      if (entry.state as string === "resetting") {
        this.#owner.failed(entry, "reset", { error });
      }
      return;
    }
    if (entry.state as string === "resetting") {
      this.#ended(entry, "reset", result);
    }
  }

  /** A check is over, or not wanted any more. */
  end(entry: Entry<T>): void {
    this.size--;
    const { call } = entry;
    if (call === undefined) return;
    call.abandon();
    this.#unheld.delete(call);
    entry.call = undefined;
  }

  /** Now that somebody waits, what they wait for keeps the process alive. */
  hold(): void {
    if (this.#unheld.size === 0) return;
    for (const call of this.#unheld) call.ref();
    this.#unheld.clear();
  }

  /** Calls back. */
  #ended(entry: Entry<T>, check: Check, answer: unknown): void {
    if (answer === false) this.#owner.failed(entry, check);
    else this.#owner.passed(entry, check);
  }

  /** Calls back. */
  #overdue(entry: Entry<T>, check: Check, limit: number): void {
    const error = this.#owner.overdue(`The ${check} did not end`, limit);
    this.#owner.failed(entry, check, { error });
  }
}
