// A dial: making one connection, with what is said on it before its first
// request, within the time there is.
//
// Knows: the limit in time, who may give the dial up, and the handshake. Must
// not know: how a connection is made, and what for.

import { ignore } from "./_callbacks.ts";
import { connect, describeTarget, type Target } from "./_connect.ts";
import { namedError } from "./_errors.ts";
import { unrefTimer } from "./_timers.ts";
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
   * Whether a write that fails has taken nothing: over TLS, what it was given may
   * go out all the same. What the user's own `connect` gives is a transport, and
   * so takes nothing then, unless it speaks TLS itself.
   */
  takesAllOrNothing(transport: Transport): boolean {
    return this.#target.tls === undefined &&
      transport.constructor?.name !== "TlsConn";
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
    const attempt = this.#attempt(giveUp.signal);
    try {
      // Not every step of a dial can be cancelled: the race does not depend
      // on it, and what is left behind cleans up after itself.
      return await Promise.race([attempt, givenUp]);
    } catch (error) {
      if (giveUp.signal.aborted && !signal.aborted) {
        abandoned(this.#settled(attempt));
      }
      throw error;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
    }
  }

  /** Waits no longer for what was given up. */
  forget(): void {
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
    const close = () => {
      try {
        transport.close();
      } catch {
        // Closed already, which is what is wanted.
      }
    };
    signal.addEventListener("abort", close);
    try {
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
      close();
      throw error;
    } finally {
      signal.removeEventListener("abort", close);
    }
  }
}
