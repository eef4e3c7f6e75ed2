// The accept loop: takes one connection after the other, as long as there is
// room, and waits where the system has no more descriptors or memory.
//
// A connection that was reset while it was in the queue makes `accept` fail.
// Anybody can have hundreds of those, so no number of them may keep others
// waiting. Only exhaustion makes the loop pause.
//
// Knows: a listener, how many connections are open, and at how many accepting
// pauses. Must not know: what is done with a connection.

import type { Transport } from "./codec.ts";
import { callDetached, ignore } from "./_callbacks.ts";
import { isDisconnect, isExhaustion } from "./_errors.ts";
import {
  nextRealTurn,
  nextTurn,
  startTimer,
  type Timer,
  unrefTimer,
} from "./_timers.ts";
import { checkTransport } from "./_transports.ts";

/** First and longest pause after an accept that failed for want of resources,
 * in milliseconds: Go's `net/http` uses the same. */
const MIN_BACKOFF = 5;
const MAX_BACKOFF = 1000;

/** Failures in a row before the event loop gets a turn. A listener that fails at
 * once, for ever, would otherwise stop everything. */
const FAILURES_A_TURN = 32;

/** Accepts that are this far apart, in milliseconds, have had turns between
 * them. */
const TURN = 5;

/** Turns of the event loop for which connections in the queue are waited for.
 * Peers that never stop connecting are not waited for. */
const MAX_DRAIN_TURNS = 200;

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
  /** An accept has failed. `newsworthy` is true for the first of a row for want
   * of resources, or for another reason that is no peer's and does not pass. */
  acceptFailed(error: unknown, newsworthy: boolean): void;
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
  /** It waits for room or for what the system has run out of. */
  #paused = false;
  /** Calls of `accept` that have settled. */
  #settled = 0;
  /** Wakes the loop from whatever it waits for besides accepting. */
  #wake: (() => void) | null = null;

  constructor(listener: Acceptable, owner: AcceptorOwner) {
    this.#listener = listener;
    this.#owner = owner;
  }

  /** Begins to accept. */
  start(): void {
    this.#run();
  }

  /** Resolves once no connection is left in the queue, as far as there is room
   * for them: an accept has then waited for a turn or two, or accepting pauses.
   * The loop goes on. */
  async drainQueue(): Promise<void> {
    // A timer may be due before the accepts of its turn: only the second turn
    // without one says that there was none.
    let quiet = 0;
    for (let i = 0; i < MAX_DRAIN_TURNS && quiet < 2; i++) {
      if (this.#paused || this.#ended) return;
      const seen = this.#settled;
      await nextRealTurn();
      quiet = this.#settled === seen ? quiet + 1 : 0;
    }
  }

  /** Accepts no more, and closes the listener. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    // One that was handed in may be closed already, and throw.
    callDetached(() => this.#listener.close(), ignore);
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
    let backoff = 0;
    let failures = 0;
    let lastFailure = 0;
    let told = false;
    while (!this.#stopped) {
      if (owner.open >= owner.maxConnections) {
        await this.#pause();
        continue;
      }
      let conn: Transport;
      try {
        conn = await this.#accept();
      } catch (error) {
        if (this.#stopped) break;
        if (isExhaustion(error)) {
          owner.acceptFailed(error, backoff === 0);
          backoff = Math.min(MAX_BACKOFF, Math.max(MIN_BACKOFF, 2 * backoff));
          await this.#pause(backoff);
          continue;
        }
        const now = performance.now();
        if (now - lastFailure >= TURN) failures = 0;
        lastFailure = now;
        failures++;
        // What is no peer's doing and does not pass is worth telling, and worth
        // a turn for each.
        const persists = failures > FAILURES_A_TURN && !concernsPeer(error);
        owner.acceptFailed(error, persists && !told);
        told ||= persists;
        if (persists || failures % FAILURES_A_TURN === 0) await nextTurn();
        continue;
      }
      backoff = failures = 0;
      told = false;
      owner.admit(conn);
    }
    this.#ended = true;
    owner.acceptorEnded();
  }

  async #accept(): Promise<Transport> {
    try {
      const conn = await this.#listener.accept();
      checkTransport("Accept of the listener", conn);
      return conn;
    } finally {
      this.#settled++;
    }
  }

  /** Waits until something changes, or until the delay is over. */
  async #pause(delay?: number): Promise<void> {
    let timer: Timer | undefined;
    this.#paused = true;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      if (delay !== undefined) {
        timer = startTimer(resolve, delay);
        if (!this.#refed) unrefTimer(timer);
      }
    });
    this.#paused = false;
    this.#wake = null;
    clearTimeout(timer);
  }
}

/** Whether an accept failed for a peer that has gone. */
function concernsPeer(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  // The listener has been closed, but not by us.
  if (/^(BadResource|Interrupted)$/.test(error.name)) return false;
  // EINVAL is what some systems say of a peer that was reset while it waited.
  return isDisconnect(error) || /os error (22|10022)\)/.test(error.message);
}
