// One connection of the client: the requests on it, what of them was sent, and
// how the connection ends.
//
// Knows: frames, and where each request's frame stands in the stream. Which
// response is whose it leaves to a matching. Must not know: which connection a
// request should take, what a caller is told, and whether a request is sent
// again.

import { ConnectionCheck } from "./_client_check.ts";
import { callDetached, ignore } from "./_callbacks.ts";
import type { Announcement } from "./_client_correlated.ts";
import type { Doubt, Silence } from "./_client_dead_peers.ts";
import { type PendingRequest, RequestQueue } from "./_client_request.ts";
import { namedError } from "./_errors.ts";
import { countEmpty, READS_A_TURN } from "./_progress.ts";
import { nextRealTurn, type Timer } from "./_timers.ts";
import { closeTransport } from "./_transports.ts";
import { MAX_COPIED } from "./_write_buffer.ts";
import {
  FrameDecoder,
  FrameEncoder,
  FrameError,
  type FrameIdField,
  type FrameOptions,
  type Transport,
} from "./codec.ts";

type Frame = Uint8Array<ArrayBuffer>;

/** Bytes of requests that are encoded ahead of a write. What is encoded can
 * no longer be taken back, so it is not more than fills a write. */
const MAX_BATCH = 64 * 1024;

/** How long the fate of a write under way is awaited once its connection was
 * closed, and the end of a connection on which a write has failed. Both come
 * at once; this is for a transport that errs. */
const SETTLE_TIMEOUT = 1000;

/** How long a connection that carried notifications is read on for, after its
 * writing side was closed. */
const LINGER_TIMEOUT = 10_000;

/** How the responses on a connection find their requests. */
export interface Matching {
  /** Nobody can tell a late response from another one. */
  readonly ordered: boolean;
  /** So many requests were given up that the connection is to be replaced. */
  readonly worn: boolean;
  /** Whether bytes may come now; `offered` is how much of the stream of requests
   * was offered to writes. */
  expects(offered: number): boolean;
  /** Gives a request that is being encoded its place; returns the id that it
   * has on the wire, if the id is not the payload's own. */
  add(request: PendingRequest): number | undefined;
  /** Whose a frame is; `undefined` if it is nobody's. */
  match(id: number, frame: Frame): PendingRequest | Announcement | undefined;
  /** Takes a request out whose response has come. */
  remove(request: PendingRequest): void;
  /** Has a request that was given up keep its place, as long as need be. */
  retire(request: PendingRequest): void;
  /** Requests that have a place, in the order of sending. */
  requests(): Iterable<PendingRequest>;
  /** Whether a part of a request's response may have come, if a part of a frame
   * has. */
  mayBeAnswered(request: PendingRequest): boolean;
  /** Forgets every request. */
  clear(): void;
}

/** Counts the reads of all connections of a client that brought something: an
 * order in time of what was sent and what has come, for less than a clock. */
export interface Traffic {
  received: number;
}

/** What all connections of a client have in common. */
export interface ConnectionTerms {
  readonly frame: FrameOptions;
  /** Where the ids stand in requests and in responses, where there are any. */
  readonly requestId: FrameIdField | undefined;
  readonly responseId: FrameIdField | undefined;
  /** Whether a frame is the goaway that both sides have agreed on. */
  readonly isGoaway: ((frame: Frame) => boolean) | undefined;
  readonly traffic: Traffic;
  /** Makes the matching of a connection. */
  matching(): Matching;
}

/** What was read before the connection was made: the beginning of what it
 * reads. */
export interface ReadBefore {
  readonly bytes: Frame;
  /** A read that is still under way. */
  readonly pending: Promise<Frame | null> | undefined;
}

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
  respond(request: PendingRequest, response: Frame): void;
  /** A notification was taken whole by the transport. */
  taken(request: PendingRequest): void;
  /** The server says that its handler for a request has failed. */
  handlerFailed(request: PendingRequest): void;
  /** A frame has come that answers nothing. */
  pushed(frame: Frame): void;
  /** The response to a request that was given up has come. */
  late(): void;
  /** A request was lost with the connection. `resend` says whether sending it
   * again can do no harm. */
  requestLost(request: PendingRequest, cause: unknown, resend: boolean): void;
  /** The server said goodbye, and vouches that it has not handled a request. */
  requestRefused(request: PendingRequest): void;
  /** Requests have timed out in silence. Called before they, or others, fail. */
  fellSilent(silence: Silence): void;
  /** The connection has room for more requests than before, or for none ever. */
  release(connection: ClientConnection): void;
  /** The connection is closed. Called before its requests are lost. */
  connectionClosed(connection: ClientConnection): void;
}

/**
 * A connection that carries requests.
 *
 * ```text
 *            encoded for a write          response read
 *   unsent -----------------------> sent ---------------> settled
 *     |                               |
 *     | given up: taken out           | given up: keeps its place, and its
 *     v                               v response is dropped
 * ```
 *
 * A notification has no response: it is settled once writes have taken it.
 *
 * The connection itself:
 *
 * ```text
 *   state       event                                    next
 *   open        too old, too many given up, end()        no more requests
 *   open        write failed                             no more requests, for a
 *                                                        second at most
 *   (both)      nothing in flight, and to end            closed, or lingering
 *   lingering   the server's end, or after 10 s          closed
 *   (any)       end or failure of the transport, bytes   closed
 *               nobody asked for, goaway, destroy()
 * ```
 *
 * With responses in order it is closed, too, when everything on it was given up:
 * what comes next might be taken for another request's response.
 */
export class ClientConnection {
  /** Which of the client's dials made it, in the order they began. */
  readonly dial: number;
  readonly #transport: Transport;
  readonly #owner: ConnectionOwner;
  readonly #terms: ConnectionTerms;
  readonly #matching: Matching;
  readonly #decoder: FrameDecoder;
  readonly #encoder: FrameEncoder;
  readonly #readBefore: ReadBefore | undefined;
  /** Not yet encoded. */
  readonly #unsent = new RequestQueue();
  /** Notifications that are encoded and not yet taken whole. */
  readonly #notifications = new RequestQueue();

  /** Places taken: by requests, and by those given up that keep theirs. */
  load = 0;
  /** Requests that are still waited for. */
  #awaited = 0;
  /** The client holds it, rather than the pool or a request in line. */
  lent = false;
  /** It takes requests. */
  usable = true;
  #dead = false;
  readonly #madeAt = performance.now();
  /** Why it died, if it did before it had given a response. */
  stillborn: ErrorOptions | undefined;
  /** The server has said goodbye on it. */
  goneAway = false;
  /** It has given a response: a loss after that may be the server's closing
   * an idle connection. */
  #reused = false;

  /** How long it had been idle before what is on it was sent. */
  idleBefore = 0;
  /** {@linkcode Traffic.received} when something was last received on it, or when
   * it was made. */
  receivedAt: number;
  /** Set if it may be dead: it is looked at before it is lent. */
  doubt: Doubt | undefined;
  /** Made when it is looked at for the first time. */
  #check: ConnectionCheck | undefined;

  /** Requests are on their way to a write. */
  #flushing = false;
  #wake: (() => void) | undefined;
  /** Bytes of the stream of requests that were encoded, given to a write that
   * may be under way, and taken by writes. */
  #encoded = 0;
  #offered = 0;
  #written = 0;
  /** Where the last notification ends that the server is not known to have
   * read; 0 if there is none. */
  #notifiedTo = 0;
  /** Called when the write under way has settled, if the connection was closed
   * meanwhile: only then is it known what the server can have seen. */
  #afterWrite: (() => void) | undefined;
  /** Set if it is to be closed once nothing is in flight. */
  #onClosed: (() => void) | undefined;
  /** Nothing more can be sent, and the reader has so long to meet the end. */
  #writeFailed = false;
  /** What comes is thrown away: it is to end, once the server has what was taken
   * for it. */
  #discarding = false;
  /** Its writing side is closed. */
  #lingering = false;
  #timer: Timer | undefined;

  constructor(
    transport: Transport,
    readBefore: ReadBefore | undefined,
    terms: ConnectionTerms,
    dial: number,
    owner: ConnectionOwner,
  ) {
    this.dial = dial;
    this.#transport = transport;
    this.#readBefore = readBefore;
    this.#owner = owner;
    this.#terms = terms;
    this.#matching = terms.matching();
    this.#decoder = new FrameDecoder(terms.frame, terms.responseId);
    this.#encoder = new FrameEncoder(terms.frame, terms.requestId);
    this.receivedAt = terms.traffic.received;
    // Requests keep the process alive, through the client's timer.
    callDetached(() => transport.unref?.(), ignore);
  }

  /** Begins to read and to write. Both loops keep the async context alive that
   * they are begun in, for as long as the connection lives. */
  start(): void {
    this.#read();
    this.#write();
  }

  /** How long ago it was made, in milliseconds. */
  get age(): number {
    return performance.now() - this.#madeAt;
  }

  /** Whether somebody waits for something on it. */
  get busy(): boolean {
    return this.#awaited > 0;
  }

  /** Queues a request; those of one turn leave in one write. */
  send(request: PendingRequest): void {
    request.connection = this;
    request.end = -1;
    this.load++;
    this.#awaited++;
    this.#unsent.push(request);
    if (this.#flushing) return;
    this.#flushing = true;
    // In the next microtask: whatever else this turn sends goes along, and what
    // it aborts does not.
    this.#wake?.();
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
      return true;
    }
    if (request.kind === "notify") {
      this.#notifications.remove(request);
      this.load--;
    } else {
      this.#matching.retire(request);
    }
    if (this.#matching.worn) this.usable = false;
    // The bytes of one that is not copied are its owner's again, who may
    // change them before the rest of them is written.
    return request.end <= this.#written ||
      request.payload.length <= MAX_COPIED;
  }

  #cut(): void {
    this.destroy(new Error("A request was given up as it was written"));
  }

  /** Abandons the requests that have timed out, and returns them. */
  expired(now: number): PendingRequest[] {
    const expired: PendingRequest[] = [];
    let overdue = false;
    for (
      const requests of [
        this.#matching.requests(),
        this.#notifications,
        this.#unsent,
      ]
    ) {
      for (const request of requests) {
        if (request.timeout === 0) continue;
        if (request.deadline === 0) request.deadline = now + request.timeout;
        else if (now < request.deadline) continue;
        else if (request.connection === this) expired.push(request);
        else overdue = true;
      }
    }
    if (expired.length > 0) this.#expire(expired);
    if (overdue) this.destroy(new Error("A response did not come"));
    if (now >= this.#owner.expiresAt) this.usable = false;
    return expired;
  }

  #expire(expired: PendingRequest[]): void {
    const silence = this.#silenceSince(expired);
    // All of them first: what is lost with the connection may be sent again.
    const whole = expired.map((request) => this.#forget(request));
    if (silence !== undefined) this.#owner.fellSilent(silence);
    if (whole.includes(false)) this.#cut();
    else if (silence !== undefined && !this.#matching.ordered) {
      this.destroy(namedError("TimedOut", "Server has fallen silent"));
    } else this.#loadFell();
  }

  /** Whether nothing was received since the first of these was encoded. */
  #silenceSince(requests: PendingRequest[]): Silence | undefined {
    let receivedBefore = Infinity;
    for (const { end, receivedBefore: before } of requests) {
      if (end >= 0) receivedBefore = Math.min(receivedBefore, before);
    }
    return this.receivedAt <= receivedBefore && receivedBefore < Infinity
      ? {
        receivedBefore,
        idleBefore: this.idleBefore,
        pinged: requests[0]!.kind === "ping",
      }
      : undefined;
  }

  /** Fewer requests are waited for on it than before. */
  #loadFell(): void {
    if (this.#dead || this.#lingering) return;
    if (this.#awaited > 0) return this.#owner.release(this);
    // Nobody waits for anything on it any more.
    if (this.load > 0 && this.#matching.ordered) {
      this.destroy(new Error("Every request was given up"));
    } else if (this.#matching.worn) {
      this.destroy(new Error("Too many requests were given up"));
    } else if (this.#writeFailed) {
      this.destroy(undefined);
    } else if (this.#encoded > this.#written) {
      // Answered before it was taken whole, as far as is known: the write says
      // so next, or else the server reads no more.
      this.#timer ??= setTimeout(
        () => this.destroy(new Error("A request was answered, not taken")),
        SETTLE_TIMEOUT,
      );
    } else if (this.#onClosed !== undefined || this.#discarding) {
      this.#finish();
    } else {
      this.#owner.release(this);
    }
  }

  // Reading.

  /** Reads responses; while the connection is idle, this is how its end is
   * noticed. */
  async #read(): Promise<void> {
    let waited = false;
    try {
      if (this.#readBefore !== undefined) {
        await this.#takeOver(this.#readBefore);
      }
      for (let empty = 0, discarded = 0;;) {
        const n = await this.#transport.read(this.#decoder.space());
        waited = true;
        // The read may have had its bytes before the connection was closed. Its
        // requests have failed since, so that a late answer would seem a push.
        if (this.#dead) return;
        if (n === null) throw ended();
        empty = countEmpty("read", n, empty);
        if (this.#discarding) {
          if (++discarded % READS_A_TURN === 0) await nextRealTurn();
          continue;
        }
        this.#decoder.advance(n);
        this.#received();
      }
    } catch (error) {
      // Whoever dialled is to have the connection before it ends: a transport
      // whose read throws at once would otherwise be dialled on and on.
      if (!waited) await null;
      this.destroy(error);
    }
  }

  /** Takes what was read before the connection was made. */
  async #takeOver({ bytes, pending }: ReadBefore): Promise<void> {
    if (bytes.length > 0) {
      this.#decoder.push(bytes);
      // Whoever dialled is to have the connection before it ends for what it has
      // read: then a server that always says too much costs each of them a
      // failure, and is not dialled on and on.
      await null;
      if (this.#dead) return;
      this.#received();
    }
    if (pending === undefined) return;
    const chunk = await pending;
    if (chunk === null) throw ended();
    if (this.#discarding || this.#dead) return;
    this.#decoder.push(chunk);
    this.#received();
  }

  /** Something was received. */
  #received(): void {
    this.receivedAt = ++this.#terms.traffic.received;
    this.doubt = undefined;
    const awaited = this.#awaited;
    for (
      let frame = this.#decoder.decode();
      frame !== null;
      frame = this.#decoder.decode()
    ) {
      this.#respond(frame);
      // A callback may have closed it.
      if (this.#dead || this.#discarding) return;
    }
    if (
      this.#decoder.buffered > 0 && !this.#matching.expects(this.#offered)
    ) this.#unasked();
    else if (this.#awaited < awaited) this.#loadFell();
  }

  #respond(frame: Frame): void {
    const { id } = this.#decoder;
    if (this.#terms.isGoaway?.(frame)) return this.#goodbye();
    const request = this.#matching.match(id, frame);
    if (request === "push") return this.#owner.pushed(frame);
    if (request === "goaway") return this.#goodbye();
    // A response to what was not even offered to a write is none.
    if (request === undefined || request.end > this.#offered) {
      return this.#unasked();
    }
    this.#matching.remove(request);
    this.load--;
    this.#reused = true;
    this.idleBefore = 0;
    // What stands before it in the stream has been read, too.
    if (request.end >= this.#notifiedTo) this.#notifiedTo = 0;
    if (request.connection !== this) return this.#owner.late();
    request.connection = undefined;
    this.#awaited--;
    if (request.kind === "ping") request.resolve(frame);
    else if (id !== request.id && !this.#matching.ordered) {
      this.#owner.handlerFailed(request);
    } else this.#owner.respond(request, frame);
  }

  /** The server said goodbye: nothing behind what it has answered was handled,
   * nor will be. */
  #goodbye(): void {
    this.goneAway = true;
    this.destroy(new Error("Server said goodbye"));
  }

  /** The server sent what nobody asked for: what comes next could be taken for a
   * response. What was taken for the server before is to arrive all the same. */
  #unasked(): void {
    const cause = namedError(
      "InvalidData",
      "Server sent what was not asked for, or a push where onPush is not set",
    );
    let notifications = 0;
    for (const _ of this.#notifications) notifications++;
    const keeps = notifications > 0 || this.#mayLinger();
    if (this.load > notifications || !keeps) return this.destroy(cause);
    this.usable = false;
    this.#discarding = true;
    this.#loadFell();
  }

  // Writing.

  async #write(): Promise<void> {
    for (;;) {
      // Who sends may have woken it before it slept. What was queued before the
      // connection died waits for the end of this flush.
      if (this.#flushing) await this.#flush();
      else if (this.#dead || this.#writeFailed) return;
      else await new Promise<void>((resolve) => this.#wake = resolve);
    }
  }

  async #flush(): Promise<void> {
    try {
      // While it changes hands, whoever is next in line sends along.
      while (!this.lent && !this.pinging && this.usable && this.#awaited > 0) {
        await null;
      }
      for (let empty = 0; !this.#dead;) {
        this.#encode();
        const chunk = this.#encoder.chunk();
        if (chunk === null) break;
        this.#offered = this.#written + chunk.length;
        const n = await this.#transport.write(chunk);
        this.#encoder.advance(n);
        this.#offered = this.#written += n;
        if (this.#notifications.first !== undefined) this.#settleTaken();
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
    let offered = false;
    for (const request of this.#matching.requests()) {
      if (request.end <= this.#offered) offered = true;
      break;
    }
    if (!offered) return this.destroy(error);
    if (this.#dead) return;
    this.usable = false;
    this.#writeFailed = true;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.destroy(error), SETTLE_TIMEOUT);
  }

  /** Moves requests to the encoder: as many as fill a write. */
  #encode(): void {
    const { received } = this.#terms.traffic;
    while (this.#encoder.buffered < MAX_BATCH) {
      const request = this.#unsent.first;
      if (request === undefined) return;
      this.#unsent.remove(request);
      request.receivedBefore = received;
      let id: number | undefined;
      if (request.kind === "notify") this.#notifications.push(request);
      else id = this.#matching.add(request);
      this.#encoded += this.#encoder.push(request.payload, id);
      request.end = this.#encoded;
    }
  }

  /** Settles the notifications that writes have taken whole. */
  #settleTaken(): void {
    const awaited = this.#awaited;
    // Looks anew each time: a callback may give up others.
    for (
      let request = this.#notifications.first;
      request !== undefined && request.end <= this.#written;
      request = this.#notifications.first
    ) {
      this.#notifications.remove(request);
      this.#notifiedTo = request.end;
      request.connection = undefined;
      this.load--;
      this.#awaited--;
      this.#owner.taken(request);
    }
    if (this.#awaited < awaited) this.#loadFell();
  }

  // Checking.

  /** Whether a ping is under way. */
  get pinging(): boolean {
    return this.#check?.pinging ?? false;
  }

  /** Finds out whether it still lives, while it is idle; closes it if not. */
  check(
    ping: (() => PendingRequest) | undefined,
    timeout: number,
  ): Promise<boolean> {
    this.#check ??= new ConnectionCheck(this);
    return this.#check.run(ping, timeout);
  }

  /** Forgets a ping that was not answered. */
  giveUpPing(ping: PendingRequest): void {
    const silence = this.#silenceSince([ping]);
    this.#forget(ping);
    if (silence !== undefined) this.#owner.fellSilent(silence);
  }

  // Ending.

  /** Closes it once nothing is in flight; the promise, if it is not closed by
   * then, resolves when it is. */
  end(): Promise<void> | undefined {
    this.usable = false;
    if (this.#dead) return undefined;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#onClosed = resolve;
    if (!this.busy || this.pinging) this.#finish();
    return this.#dead ? undefined : promise;
  }

  /** Closes it: nothing is in flight. */
  #finish(): void {
    if (this.#lingering) return;
    if (!this.#mayLinger() || this.pinging) return this.destroy(undefined);
    this.#linger();
    this.#owner.connectionClosed(this);
  }

  /** Whether closing it might destroy what the transport has taken: a reset for
   * what nobody reads overtakes it. */
  #mayLinger(): boolean {
    return this.#notifiedTo > 0 && !this.#dead && !this.#writeFailed &&
      !this.#lingering && this.#transport.closeWrite !== undefined;
  }

  /** Closes the writing side, and throws away what comes, to the server's end. */
  async #linger(): Promise<void> {
    this.usable = false;
    this.#lingering = this.#discarding = true;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.destroy(undefined), LINGER_TIMEOUT);
    // The process is to live on until it has arrived.
    callDetached(() => this.#transport.ref?.(), ignore);
    try {
      await this.#transport.closeWrite?.();
    } catch (error) {
      this.destroy(error);
    }
  }

  /** Closes it now; what is in flight is lost. */
  destroy(cause: unknown): void {
    if (this.#dead) return;
    this.#dead = true;
    this.usable = false;
    clearTimeout(this.#timer);
    if (!this.#reused) this.stillborn = { cause };
    closeTransport(this.#transport);
    this.#owner.connectionClosed(this);
    this.#onClosed?.();
    this.#check?.end();
    const writing = this.load > 0 && this.#flushing;
    // What a goaway vouches for does not depend on a write's fate.
    if (this.goneAway) this.#refuseRequests(cause);
    if (writing && this.load > 0) {
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
    if (!this.#flushing) this.#wake?.();
  }

  /** Gives back the requests that the server will not handle: all but the
   * notifications of which a part was offered to a write. */
  #refuseRequests(cause: unknown): void {
    const requests = this.#takeAwaited([
      this.#matching.requests(),
      this.#unsent,
    ]);
    this.#matching.clear();
    this.#unsent.clear();
    this.load = 0;
    for (const _ of this.#notifications) this.load++;
    this.#awaited = this.load;
    for (const request of requests) {
      if (request.kind === "ping") request.reject(cause);
      else this.#owner.requestRefused(request);
    }
  }

  #failRequests(cause: unknown): void {
    // Part of a frame is part of a response.
    const begun = this.#decoder.buffered > 0 || cause instanceof FrameError;
    const answered = new Set<PendingRequest>();
    if (begun) {
      for (const request of this.#matching.requests()) {
        if (this.#matching.mayBeAnswered(request)) answered.add(request);
      }
    }
    const requests = this.#takeAwaited([
      this.#matching.requests(),
      this.#notifications,
      this.#unsent,
    ]);
    this.#matching.clear();
    this.#notifications.clear();
    this.#unsent.clear();
    this.load = this.#awaited = 0;
    for (const request of requests) {
      const sent = request.end >= 0 && request.end <= this.#offered;
      if (request.kind === "ping") {
        request.reject(cause);
      } else if (this.goneAway && !sent) {
        this.#owner.requestRefused(request);
      } else {
        const harmless = !sent ||
          (request.idempotent && request.kind === "send" &&
            !answered.has(request));
        request.sent ||= sent;
        this.#owner.requestLost(request, cause, this.#reused && harmless);
      }
    }
  }

  /** Takes off the connection those that are still waited for: before any of
   * them is told, since they may be sent again. */
  #takeAwaited(queues: Iterable<PendingRequest>[]): PendingRequest[] {
    const requests: PendingRequest[] = [];
    for (const queue of queues) {
      for (const request of queue) {
        if (request.connection !== this) continue;
        request.connection = undefined;
        requests.push(request);
      }
    }
    return requests;
  }
}

function ended(): Error {
  return namedError("UnexpectedEof", "Server closed the connection");
}
