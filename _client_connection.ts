// One connection of the client: the requests on it, what of them was sent, and
// which response is whose.
//
// Knows: the frames, and the order of requests. Must not know: which connection
// a request should take, what a caller is told, and whether a request is sent
// again.

import { countEmpty } from "./_progress.ts";
import { type PendingRequest, RequestQueue } from "./_client_request.ts";
import { namedError } from "./_errors.ts";
import type { Timer } from "./_timers.ts";
import {
  FrameDecoder,
  FrameEncoder,
  FrameError,
  type FrameOptions,
  type Transport,
} from "./codec.ts";

/** Bytes of requests that are encoded ahead of a write. What is encoded can
 * no longer be taken back, so it is not more than fills a write. */
const MAX_BATCH = 64 * 1024;

/** Longest payload that an encoder copies, as its documentation says; it refers
 * to what is longer. */
const MAX_COPIED = 16 * 1024;

/** How long the response to a request that was given up early is awaited at
 * least, while others share its connection. */
const GRACE = 1000;

/** How long the fate of a write under way is awaited once its connection was
 * closed, and the end of a connection on which a write has failed. Both come
 * at once; this is for a transport that errs. */
const SETTLE_TIMEOUT = 1000;

/** What a connection tells its owner. Each of these may run callbacks of the
 * user, which may call the client again: the connection's state is whole before
 * it tells anything. */
export interface ConnectionOwner {
  /** Whether a write that fails has taken nothing: over TLS, what it was given
   * may go out all the same. */
  readonly exact: boolean;
  /** When the connection takes no more requests. */
  readonly expiresAt: number;
  /** A request has its response. */
  respond(request: PendingRequest, response: Uint8Array<ArrayBuffer>): void;
  /** A request was lost with the connection. `resend` says whether sending it
   * again can do no harm. */
  requestLost(request: PendingRequest, cause: unknown, resend: boolean): void;
  /** The connection has room for more requests than before, or for none ever. */
  release(connection: ClientConnection): void;
  /** The connection is closed. Called before its requests are lost. */
  connectionClosed(connection: ClientConnection): void;
}

/**
 * A connection that pipelines in order.
 *
 * ```text
 *            encoded for a write          response read
 *   unsent -----------------------> sent ---------------> settled
 *     |                               |
 *     | abandoned: taken out          | abandoned: keeps its place, and its
 *     v                               v response is dropped; when nobody else
 *                                       waits, the connection is closed
 * ```
 */
export class ClientConnection {
  /** Which of the client's dials made it, in the order they began. */
  readonly dial: number;
  readonly #transport: Transport;
  readonly #owner: ConnectionOwner;
  readonly #decoder: FrameDecoder;
  readonly #encoder: FrameEncoder;
  readonly #unsent = new RequestQueue();
  readonly #sent = new RequestQueue();

  /** Requests on it, the abandoned that keep their place included. */
  load = 0;
  /** Requests on it that are still waited for. */
  #awaited = 0;
  /** The client holds it, rather than the pool or a request in line. */
  lent = false;
  /** It takes requests. */
  usable = true;
  #dead = false;
  /** Why it died, if it did before it had given a response. */
  stillborn: ErrorOptions | undefined;
  /** It has given a response: a loss after that may be the server's closing
   * an idle connection. */
  #reused = false;

  #flushing = false;
  /** Bytes of the stream of requests that were encoded, given to a write that
   * may be under way, and taken by writes. */
  #encoded = 0;
  #offered = 0;
  #written = 0;
  /** Called when the write under way has settled, if the connection was closed
   * meanwhile: only then is it known what the server can have seen. */
  #afterWrite: (() => void) | undefined;
  #onClosed: (() => void) | undefined;
  /** Nothing more can be sent, and the reader has so long to meet the end. */
  #writeFailed = false;
  #timer: Timer | undefined;

  constructor(
    transport: Transport,
    frame: FrameOptions,
    dial: number,
    owner: ConnectionOwner,
  ) {
    this.dial = dial;
    this.#transport = transport;
    this.#owner = owner;
    this.#decoder = new FrameDecoder(frame);
    this.#encoder = new FrameEncoder(frame);
    // Requests keep the process alive, through the client's timer.
    transport.unref?.();
  }

  /** Queues a request; those of one turn leave in one write. */
  send(request: PendingRequest): void {
    request.connection = this;
    request.end = -1;
    this.load++;
    this.#awaited++;
    this.#unsent.push(request);
    if (!this.#flushing) {
      this.#flushing = true;
      // Whatever else this turn sends goes along, and what it aborts does not.
      queueMicrotask(() => this.#flush());
    }
  }

  /** Forgets a request that timed out or was aborted. */
  abandon(request: PendingRequest): void {
    if (this.#forget(request)) this.#loadFell();
    else this.#cut();
  }

  /** False if the connection cannot go on without the request. */
  #forget(request: PendingRequest): boolean {
    request.connection = undefined;
    this.#awaited--;
    if (request.end < 0) {
      this.#unsent.remove(request);
      this.load--;
    } else {
      // Its response may come late. While others share the connection it
      // keeps its place: for as long again as it was given, or for a second.
      request.deadline = 0;
      request.timeout = request.limit && Math.max(request.limit, GRACE);
      // The bytes of one that is not copied are its owner's again, who may
      // change them before the rest of them is written.
      return request.end <= this.#written ||
        request.payload.length <= MAX_COPIED;
    }
    return true;
  }

  #cut(): void {
    this.destroy(new Error("A request was given up as it was written"));
  }

  /** Abandons the requests that have timed out, and returns them. */
  expired(now: number): PendingRequest[] {
    const expired: PendingRequest[] = [];
    let overdue = false;
    for (const queue of [this.#sent, this.#unsent]) {
      for (let r = queue.first; r !== undefined; r = r.next) {
        if (r.timeout === 0) continue;
        if (r.deadline === 0) r.deadline = now + r.timeout;
        else if (now < r.deadline) continue;
        else if (r.connection === this) expired.push(r);
        else overdue = true;
      }
    }
    // All of them first: what is lost with the connection may be sent again.
    const whole = expired.map((request) => this.#forget(request));
    if (whole.includes(false)) this.#cut();
    else if (whole.length > 0) this.#loadFell();
    if (overdue) this.destroy(new Error("A response did not come"));
    if (now >= this.#owner.expiresAt) this.usable = false;
    return expired;
  }

  /** Fewer requests are on it than before. */
  #loadFell(): void {
    if (this.#dead) return;
    if (this.load > 0 && this.#awaited === 0) {
      // Nobody is left who waits, and it is not worth being in doubt.
      this.destroy(new Error("Every request was given up"));
    } else if (
      this.load === 0 && (this.#onClosed !== undefined || this.#writeFailed)
    ) {
      this.destroy(undefined);
    } else if (this.load === 0 && this.#encoded > this.#written) {
      // Answered before it was taken whole, as far as is known: the write says
      // so next, or else the server reads no more.
      this.#timer ??= setTimeout(
        () => this.destroy(new Error("A request was answered, not taken")),
        SETTLE_TIMEOUT,
      );
    } else {
      this.#owner.release(this);
    }
  }

  /** Reads responses; while the connection is idle, this is how its end is
   * noticed. */
  async read(): Promise<void> {
    try {
      for (let empty = 0;;) {
        const n = await this.#transport.read(this.#decoder.space());
        if (n === null) {
          throw namedError("UnexpectedEof", "Server closed the connection");
        }
        empty = countEmpty("read", n, empty);
        this.#decoder.advance(n);
        const load = this.load;
        for (
          let frame = this.#decoder.decode();
          frame !== null;
          frame = this.#decoder.decode()
        ) this.#respond(frame);
        if (this.load === 0 && this.#decoder.buffered > 0) throw unasked();
        if (this.load < load) this.#loadFell();
      }
    } catch (error) {
      this.destroy(error);
    }
  }

  #respond(frame: Uint8Array<ArrayBuffer>): void {
    const request = this.#sent.first;
    // A response to what was not even offered to a write is none.
    if (request === undefined || request.end > this.#offered) throw unasked();
    this.#sent.remove(request);
    this.load--;
    this.#reused = true;
    if (request.connection !== this) return; // Abandoned.
    request.connection = undefined;
    this.#awaited--;
    this.#owner.respond(request, frame);
  }

  async #flush(): Promise<void> {
    try {
      // While it changes hands, whoever is next in line sends along.
      while (!this.lent && this.usable && this.load > 0) await null;
      for (let empty = 0; !this.#dead;) {
        this.#encode();
        const chunk = this.#encoder.chunk();
        if (chunk === null) break;
        this.#offered = this.#written + chunk.length;
        const n = await this.#transport.write(chunk);
        this.#encoder.advance(n);
        this.#offered = this.#written += n;
        if (this.#timer !== undefined && this.#written === this.#encoded) {
          clearTimeout(this.#timer);
          this.#timer = undefined;
          this.#loadFell();
        }
        empty = countEmpty("write", n, empty);
      }
      this.#flushing = false;
    } catch (error) {
      // What a write refuses, the server cannot have seen.
      if (this.#owner.exact) this.#offered = this.#written;
      this.#flushing = false;
      this.#stopSending(error);
    }
    this.#afterWrite?.();
  }

  /** A write failed. Responses may have arrived before the end that it met:
   * they are read, until the reader meets the end as well. */
  #stopSending(error: unknown): void {
    const request = this.#sent.first;
    if (request === undefined || request.end > this.#offered) {
      return this.destroy(error);
    }
    if (this.#dead) return;
    this.usable = false;
    this.#writeFailed = true;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.destroy(error), SETTLE_TIMEOUT);
  }

  /** Moves requests to the encoder: as many as fill a write. */
  #encode(): void {
    while (this.#encoder.buffered < MAX_BATCH) {
      const request = this.#unsent.first;
      if (request === undefined) return;
      this.#unsent.remove(request);
      this.#sent.push(request);
      request.end = this.#encoded += this.#encoder.push(request.payload);
    }
  }

  /** Closes it once nothing is in flight; the promise, if it is not closed by
   * then, resolves when it is. */
  end(): Promise<void> | undefined {
    this.usable = false;
    if (this.load === 0) this.destroy(undefined);
    if (this.#dead) return undefined;
    return new Promise((resolve) => this.#onClosed = resolve);
  }

  /** Closes it now; what is in flight is lost. */
  destroy(cause: unknown): void {
    if (this.#dead) return;
    this.#dead = true;
    this.usable = false;
    clearTimeout(this.#timer);
    if (!this.#reused) this.stillborn = { cause };
    try {
      this.#transport.close();
    } catch {
      // Closed already, which is what is wanted.
    }
    this.#owner.connectionClosed(this);
    this.#onClosed?.();
    if (this.load > 0 && this.#flushing) {
      // Closing settles the write under way, and its outcome decides what the
      // server can have seen.
      const timer = setTimeout(() => this.#afterWrite?.(), SETTLE_TIMEOUT);
      this.#afterWrite = () => {
        clearTimeout(timer);
        this.#afterWrite = undefined;
        this.#failRequests(cause);
      };
    } else {
      this.#failRequests(cause);
    }
  }

  #failRequests(cause: unknown): void {
    // Part of a frame is part of the first response.
    const answered = this.#decoder.buffered > 0 || cause instanceof FrameError
      ? this.#sent.first
      : undefined;
    const requests: PendingRequest[] = [];
    for (const queue of [this.#sent, this.#unsent]) {
      for (let r = queue.first; r !== undefined; r = r.next) {
        if (r.connection === this) requests.push(r);
      }
      queue.clear();
    }
    this.load = 0;
    for (const request of requests) {
      request.connection = undefined;
      const sent = request.end >= 0 && request.end <= this.#offered;
      const resend = this.#reused &&
        (!sent || (request.idempotent && request !== answered));
      request.sent ||= sent;
      this.#owner.requestLost(request, cause, resend);
    }
  }
}

function unasked(): Error {
  return namedError("InvalidData", "Server sent what was not asked for");
}
