// Who is told of what a client does: its hooks, and `onError`.
//
// Knows: the callbacks, in whose async context each runs, and that one that fails
// is reported and changes nothing. Must not know: why anything happens.

import { callDetached, ignore } from "./_callbacks.ts";
import type { PendingRequest } from "./_client_request.ts";
import { captureContext } from "./_context.ts";
import { checkHooks, functionOption, objectOption } from "./_options.ts";
import type { PoolCloseReason, PoolHooks } from "./pool.ts";

/** The user's hooks. */
interface Hooks {
  dial?(dial: { duration: number; error?: unknown }): void;
  send?(requestBytes: number): void;
  settle?(request: {
    duration: number;
    requestBytes: number;
    responseBytes: number;
    error?: unknown;
  }): void;
  readonly pool?: PoolHooks<unknown>;
}

interface ObserverOptions {
  readonly hooks?: Hooks;
  readonly onError?: (error: unknown) => void;
}

/** Runs a function in another async context. */
type Run = <R>(fn: () => R) => R;

/** Tells the user's callbacks. */
export class Observer {
  readonly #hooks: Hooks | undefined;
  readonly #onError: ((error: unknown) => void) | undefined;
  readonly #run: Run;

  /** @param run Runs what belongs to the client rather than to a request. */
  constructor({ hooks, onError }: ObserverOptions, run: Run) {
    this.#onError = functionOption({ onError }, "onError");
    checkHooks("hooks", hooks, ["dial", "send", "settle"]);
    this.#hooks = hooks;
    this.#run = run;
  }

  /** Calls a callback that nobody awaits. */
  tell(callback: () => unknown): void {
    callDetached(callback, (error) => this.report(error));
  }

  /** Tells of a failure that no caller awaits. */
  report(error: unknown): void {
    // Nobody is left to be told that the one who is told has failed.
    callDetached(() => this.#onError?.(error), ignore);
  }

  /** Tells of a request that is accepted, and has its end told. */
  accepted(request: PendingRequest): void {
    const hooks = this.#hooks;
    if (hooks === undefined) return;
    const requestBytes = request.payload.length;
    if (hooks.send !== undefined) this.tell(() => hooks.send?.(requestBytes));
    if (hooks.settle === undefined) return;
    const start = performance.now();
    const inContext = captureContext();
    request.observer = (responseBytes, failure) => {
      const duration = performance.now() - start;
      const summary = { duration, requestBytes, responseBytes, ...failure };
      this.tell(() => inContext(() => hooks.settle?.(summary)));
    };
  }

  /** Begins to time a dial; what is returned is told how it ended. */
  dialling(): (failure?: { error: unknown }) => void {
    const hooks = this.#hooks;
    if (hooks?.dial === undefined) return ignore;
    const start = performance.now();
    return (failure) => {
      const duration = performance.now() - start;
      this.tell(() => hooks.dial?.({ duration, ...failure }));
    };
  }

  /**
   * What the pool is to tell.
   *
   * @param opened Called before the user is told that a connection stands.
   * @param reasonOf What the user is told as the reason of a close.
   */
  poolHooks<T>(
    opened: (connection: T) => void,
    reasonOf: (reason: PoolCloseReason) => PoolCloseReason,
  ): PoolHooks<T> {
    const run = this.#run;
    const observer = objectOption<"hooks.pool", PoolHooks<unknown>>(
      { "hooks.pool": this.#hooks?.pool },
      "hooks.pool",
    );
    const hooks = {
      opened: observer?.opened,
      closed: observer?.closed,
      waited: observer?.waited,
      acquired: observer?.acquired,
      released: observer?.released,
    };
    checkHooks("hooks.pool", hooks);
    const { closed, waited, acquired, released } = hooks;
    return {
      opened: (connection, duration) =>
        run(() => {
          opened(connection);
          return hooks.opened?.call(observer, connection, duration);
        }),
      // One that is not set costs nothing.
      ...(closed && {
        closed: (connection, reason) =>
          run(() => closed.call(observer, connection, reasonOf(reason))),
      }),
      ...(waited && {
        waited: (duration) => run(() => waited.call(observer, duration)),
      }),
      ...(acquired && {
        acquired: (connection, waited) =>
          run(() => acquired.call(observer, connection, waited)),
      }),
      ...(released && {
        released: (connection, held) =>
          run(() => released.call(observer, connection, held)),
      }),
    };
  }
}
