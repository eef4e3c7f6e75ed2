// The accept loop: takes one connection after the other, as long as there is
// room, and waits where the system has no more descriptors or memory.
//
// Knows: a listener, how many connections are open, and at how many accepting
// pauses. Must not know: what is done with a connection.

import type { Transport } from "./codec.ts";
import { isExhaustion } from "./_errors.ts";
import { MAX_EMPTY_TRIES } from "./_progress.ts";
import { startTimer, type Timer, unrefTimer } from "./_timers.ts";

/** First and longest pause after an accept that failed for want of resources,
 * in milliseconds: Go's `net/http` uses the same. */
const MIN_BACKOFF = 5;
const MAX_BACKOFF = 1000;

/** An accept that took so long before it failed has waited for a peer: it did
 * not fail at once, and the loop over it does not spin. In milliseconds. */
const WAITED = 5;

/** What the accept loop needs of a listener. */
export interface Acceptable {
  accept(): Promise<Transport>;
  close(): void;
  ref?(): void;
  unref?(): void;
}

/** What the accept loop asks of its owner, and tells it. */
export interface AcceptorOwner {
  /** Connections open now. */
  readonly open: number;
  /** Accepting pauses at so many. */
  readonly maxConnections: number;
  /** A connection has come, perhaps in the moment in which the loop is stopped;
   * it is the owner's from now on. */
  admit(conn: Transport): void;
  /** An accept has failed; `exhausted` is true for the first of a row for want
   * of resources. */
  acceptFailed(error: unknown, exhausted: boolean): void;
  /** The loop has ended: the address is free again. */
  acceptorEnded(): void;
}

/** Accepts connections until it is stopped. */
export class Acceptor {
  readonly #listener: Acceptable;
  readonly #owner: AcceptorOwner;
  #stopped = false;
  #ended = false;
  #refed = true;
  /** Wakes the loop from whatever it waits for besides accepting. */
  #wake: (() => void) | null = null;

  constructor(listener: Acceptable, owner: AcceptorOwner) {
    this.#listener = listener;
    this.#owner = owner;
  }

  /** Whether the loop has ended. The address is not free before. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Begins to accept. */
  start(): void {
    this.#run();
  }

  /** Accepts no more, and closes the listener. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#listener.close();
    this.#wake?.();
  }

  /** A connection has ended: there is room again, in count or in what the
   * system has. */
  connectionEnded(): void {
    this.#wake?.();
  }

  /** Has the listener, and a pause in accepting, keep the process alive or
   * not. */
  setRef(ref: boolean): void {
    this.#refed = ref;
    if (this.#stopped) return;
    if (ref) this.#listener.ref?.();
    else this.#listener.unref?.();
  }

  async #run(): Promise<void> {
    const owner = this.#owner;
    let failures = 0;
    let backoff = 0;
    while (!this.#stopped) {
      if (owner.open >= owner.maxConnections) {
        await this.#pause();
        continue;
      }
      let conn: Transport;
      const start = performance.now();
      try {
        conn = await this.#listener.accept();
      } catch (error) {
        if (this.#stopped) break;
        // An error of one connection is that peer's; the next accept is for
        // another. What goes on failing without having to wait is treated as
        // exhaustion, lest it spin.
        if (performance.now() - start >= WAITED) failures = 0;
        if (++failures <= MAX_EMPTY_TRIES && !isExhaustion(error)) {
          owner.acceptFailed(error, false);
          continue;
        }
        owner.acceptFailed(error, backoff === 0);
        backoff = Math.min(MAX_BACKOFF, Math.max(MIN_BACKOFF, 2 * backoff));
        await this.#pause(backoff);
        continue;
      }
      failures = 0;
      backoff = 0;
      owner.admit(conn);
    }
    this.#ended = true;
    owner.acceptorEnded();
  }

  /** Waits until something changes, or until the delay is over. */
  async #pause(delay?: number): Promise<void> {
    let timer: Timer | undefined;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      if (delay !== undefined) {
        timer = startTimer(resolve, delay);
        if (!this.#refed) unrefTimer(timer);
      }
    });
    this.#wake = null;
    clearTimeout(timer);
  }
}
