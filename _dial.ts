// A dial: making one connection within the time there is.
//
// Knows: the limit in time, and who may give the dial up. Must not know: how a
// connection is made, and what for.

import { connect, describeTarget, type Target } from "./_connect.ts";
import { namedError } from "./_errors.ts";
import type { Transport } from "./codec.ts";

/** Dials one target. */
export class Dialler {
  readonly #target: Target;
  readonly #timeout: number;

  /** @param timeout How long a dial may take; 0 is for ever. */
  constructor(target: Target, timeout: number) {
    this.#target = target;
    this.#timeout = timeout;
  }

  /** Whether it speaks TLS. */
  get secure(): boolean {
    return this.#target.tls !== undefined;
  }

  /** What it dials, for messages. */
  get destination(): string {
    return describeTarget(this.#target);
  }

  /**
   * Dials, within the time there is.
   *
   * @param signal Gives the dial up when it aborts.
   */
  async dial(signal: AbortSignal): Promise<Transport> {
    const giveUp = new AbortController();
    const { promise: givenUp, reject } = Promise.withResolvers<never>();
    const stop = (reason: unknown) => {
      giveUp.abort(reason);
      reject(reason);
    };
    const abort = () => stop(signal.reason);
    const timer = this.#timeout === 0 ? undefined : setTimeout(() => {
      stop(
        namedError(
          "TimedOut",
          `Dial was not complete within ${this.#timeout} ms`,
        ),
      );
    }, this.#timeout);
    signal.addEventListener("abort", abort);
    if (signal.aborted) abort();
    try {
      // Not every step of a dial can be cancelled: the race does not depend
      // on it, and what is left behind cleans up after itself.
      return await Promise.race([
        connect(this.#target, giveUp.signal),
        givenUp,
      ]);
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
    }
  }
}
