// A dial: making one connection, with what is said on it before its first
// request, within the time there is.
//
// Knows: the limit in time, who may give the dial up, and the handshake. Must
// not know: how a connection is made, and what for.

import { ignore } from "./_callbacks.ts";
import { connect, describeTarget, type Target } from "./_connect.ts";
import { namedError } from "./_errors.ts";
import { type Timer, unrefTimer } from "./_timers.ts";
import { closeTransport } from "./_transports.ts";
import { Handshake, type ReadAhead } from "./_handshake.ts";
import type { FrameOptions, HandshakeConnection, Transport } from "./codec.ts";

/** The user's handshake. */
type HandshakeCallback = (conn: HandshakeConnection) => unknown;

/** A connection that stands. */
export interface Dialled {
  readonly transport: Transport;
  /** What the handshake has read and not used. */
  readonly readBefore: ReadAhead | undefined;
}

/** Dials one target. */
export class Dialler {
  readonly #target: Target;
  readonly #timeout: number;
  readonly #frame: FrameOptions;
  readonly #handshake: HandshakeCallback | undefined;
  /** Ends the wait for each dial that was given up. */
  readonly #abandoned = new Set<() => void>();
  #forgetting = false;

  /** @param timeout How long a dial may take, its handshake included; 0 is for
   * ever. */
  constructor(
    target: Target,
    timeout: number,
    frame: FrameOptions,
    handshake: HandshakeCallback | undefined,
  ) {
    this.#target = target;
    this.#timeout = timeout;
    this.#frame = frame;
    this.#handshake = handshake;
  }

  /** What it dials, for messages. */
  get destination(): string {
    return describeTarget(this.#target);
  }

  /**
   * Dials, within the time there is.
   *
   * @param signal Gives the dial up when it aborts.
   * @param abandoned Told if the dial was given up and goes on all the same: the
   * promise resolves once it has settled, or has had as much time again.
   */
  async dial(
    signal: AbortSignal,
    abandoned: (settled: Promise<void>) => void,
  ): Promise<Dialled> {
    const giveUp = new AbortController();
    const { promise: givenUp, reject } = Promise.withResolvers<never>();
    const timers: Timer[] = [];
    const after = (delay: number, run: () => void) => {
      const timer = setTimeout(run, delay);
      // Whoever waits for the dial has a timer of its own.
      unrefTimer(timer);
      timers.push(timer);
    };
    const expire = () => {
      const error = namedError(
        "TimedOut",
        `Dial was not complete within ${this.#timeout} ms`,
      );
      giveUp.abort(error);
      // What can be cancelled has settled by then, and keeps no place.
      after(0, () => reject(error));
    };
    if (this.#timeout > 0) after(this.#timeout, expire);
    const abort = () => {
      giveUp.abort(signal.reason);
      reject(signal.reason);
    };
    signal.addEventListener("abort", abort);
    if (signal.aborted) abort();
    const attempt = this.#attempt(giveUp.signal);
    let settled = false;
    const settle = () => settled = true;
    attempt.then(settle, settle);
    try {
      // Not every step of a dial can be cancelled: the race does not depend
      // on it, and what is left behind cleans up after itself.
      return await Promise.race([attempt, givenUp]);
    } catch (error) {
      if (!giveUp.signal.aborted) throw error;
      attempt.then(({ transport }) => closeTransport(transport), ignore);
      if (!settled && !this.#forgetting) abandoned(this.#settled(attempt));
      throw giveUp.signal.reason;
    } finally {
      for (const timer of timers) clearTimeout(timer);
      signal.removeEventListener("abort", abort);
    }
  }

  /** Waits no longer for what was given up. */
  forget(): void {
    this.#forgetting = true;
    for (const forget of this.#abandoned) forget();
  }

  /** Waits for an attempt that was given up, for as long again at most. */
  #settled(attempt: Promise<unknown>): Promise<void> {
    return new Promise((resolve) => {
      const settled = () => {
        clearTimeout(timer);
        this.#abandoned.delete(settled);
        resolve();
      };
      const timer = setTimeout(settled, this.#timeout);
      unrefTimer(timer);
      this.#abandoned.add(settled);
      attempt.then(settled, settled);
    });
  }

  #attempt(signal: AbortSignal): Promise<Dialled> {
    const handshake = this.#handshake;
    return connect(this.#target, signal).then((transport) =>
      handshake === undefined
        ? { transport, readBefore: undefined }
        : this.#shakeHands(transport, handshake, signal)
    );
  }

  async #shakeHands(
    transport: Transport,
    handshake: HandshakeCallback,
    signal: AbortSignal,
  ): Promise<Dialled> {
    const abort = () => closeTransport(transport);
    signal.addEventListener("abort", abort);
    try {
      // The dial may have been given up in the very moment in which the
      // connection stood: then nobody was left to close it.
      signal.throwIfAborted();
      const conn = new Handshake(transport, this.#frame, { signal });
      let readBefore: ReadAhead;
      try {
        await handshake(conn);
        readBefore = await conn.finish();
      } catch (error) {
        // What it wrote last may say why it fails.
        await conn.finish().catch(ignore);
        throw error;
      }
      signal.throwIfAborted();
      return { transport, readBefore };
    } catch (error) {
      closeTransport(transport);
      throw error;
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }
}

/**
 * Whether a write that fails has taken nothing, as a transport's write is to do.
 * Of what is known, only Deno's own TLS differs: what it was given may go out all
 * the same.
 */
export function takesAllOrNothing(transport: Transport): boolean {
  return transport.constructor?.name !== "TlsConn";
}
