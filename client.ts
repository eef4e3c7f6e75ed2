/**
 * A pooled client for length-prefixed request and response: every
 * {@linkcode Client.send} settles, with its own response or an error.
 *
 * ```text
 *  send() --> choose a connection ------> unsent --> encoder --> write
 *               | idle, or dialled,                               |
 *               | or shared, or wait       in order of sending    v
 *             Pool                                              server
 *                                          in order, or by id     |
 *  response <-- its request <------------ decoder <-- read <------+
 * ```
 *
 * **The life of a request**
 *
 * 1. It is judged: what cannot be framed is refused before anything is done.
 * 2. It gets a connection: an idle one; or a new one while fewer than `maxCap`
 *    are open; or a busy one with room for it (`pipelining`), the least loaded
 *    first; or it waits in line.
 * 3. It is unsent until the next write: what one turn sends leaves in one write.
 *    Given up here, it never leaves.
 * 4. It is sent. Its response is the first that belongs to no request before it,
 *    or, with `correlation`, the one with its id. Given up here, it keeps its
 *    place, so that a late response is known for what it is.
 * 5. It settles: with its response, an error of its own limits, or the loss of its
 *    connection. It is sent again after a loss where that can do no harm, and
 *    after a goaway, which vouches that it was not handled.
 *
 * **The life of a connection**
 *
 * 1. It is dialled: name, TCP, TLS and `handshake`, within `connectTimeout`. A
 *    failure is a {@linkcode ConnectError} for one request.
 * 2. It carries requests, and is idle between them. An idle connection that ends,
 *    fails or delivers what nobody asked for is dropped at once.
 * 3. What lay idle for a second or more is looked at before it is lent: for a turn
 *    of the event loop, and by a `ping` after `pingAfterIdle`.
 * 4. It takes no more requests once it is older than `maxLifetime`, once the server
 *    has said goodbye, or once half of its places are kept by requests that were
 *    given up.
 * 5. It is closed when nothing is in flight on it; at once where it is in doubt. If
 *    it carried notifications which the server may not have read, it is half-closed
 *    first and read to the server's end.
 *
 * @example Send a request
 * ```ts
 * import { Client } from "@wirepool/net/client";
 * import { serve } from "@wirepool/net/server";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0 }, (payload) => payload);
 * const { port } = server.addr;
 *
 * await using client = new Client({ port, maxCap: 4 });
 * const response = await client.send(new TextEncoder().encode("hello"));
 * assertEquals(new TextDecoder().decode(response), "hello");
 * ```
 *
 * @module
 */

import {
  ClientConnection,
  type ConnectionTerms,
} from "./_client_connection.ts";
import { CorrelatedMatching } from "./_client_correlated.ts";
import { DeadPeers, type Doubt } from "./_client_dead_peers.ts";
import { Observer } from "./_client_observer.ts";
import { OrderedMatching } from "./_client_ordered.ts";
import { PendingRequest, type RequestKind } from "./_client_request.ts";
import { SignalGroups } from "./_client_signals.ts";
import { targetOption } from "./_connect.ts";
import { captureContext } from "./_context.ts";
import { correlationOption } from "./_correlation.ts";
import { type Dialled, Dialler, takesAllOrNothing } from "./_dial.ts";
import { DialPace, pause } from "./_dial_pace.ts";
import { namedError } from "./_errors.ts";
import { goawayOption } from "./_goaway.ts";
import {
  booleanOption,
  checkObject,
  durationOption,
  functionOption,
  integerOption,
  signalOption,
} from "./_options.ts";
import { holdPlace } from "./_pool_held_places.ts";
import { Sweeper } from "./_timers.ts";
import {
  type CorrelationOptions,
  FrameDecoder,
  FrameEncoder,
  type FrameOptions,
  type HandshakeConnection,
  type Transport,
} from "./codec.ts";
import {
  Pool,
  PoolClosedError,
  type PoolCloseReason,
  type PoolHooks,
  type PoolOptions,
  type PoolStats,
  PoolTimeoutError,
} from "./pool.ts";

/** Shortest interval between two sweeps, in milliseconds: two of them are the
 * 50 ms that a timeout may be late. */
const MIN_SWEEP = 25;

/** Longest interval between two sweeps. The timer behind them is also what
 * keeps the process alive while requests are in flight. */
const MAX_SWEEP = 1000;

/** A connection that ends within so many milliseconds, unused, was not wanted by
 * the server: the next dials wait a little longer each time. */
const EARLY_END = 1000;

/** TLS options of {@linkcode ClientOptions.tls}. */
export interface ClientTlsOptions {
  /** Certificates in PEM format that are trusted besides the default roots. */
  caCerts?: string[];
  /** Certificate chain of the client in PEM format; needs `key`. */
  cert?: string;
  /** Private key of the client in PEM format. */
  key?: string;
  /** Protocols offered in the TLS handshake. */
  alpnProtocols?: string[];
}

/** Options of {@linkcode Client}. Durations are in milliseconds, up to
 * 2147483647. */
export interface ClientOptions extends FrameOptions {
  /**
   * Host name or address of the server.
   *
   * @default {"127.0.0.1"}
   */
  hostname?: string;
  /** Port of the server, 1 to 65535; required without `path` and `connect`. */
  port?: number;
  /** Path of the server's Unix socket, instead of host name and port. */
  path?: string;
  /**
   * Makes each connection, instead of host name and port: through a proxy or a
   * tunnel, to one of several addresses, in memory. With `tls`, TLS is spoken
   * over what it returns, and `hostname` is the name that the server's
   * certificate must carry.
   *
   * `signal` aborts when `connectTimeout` has passed or the client is closed;
   * what is returned after that is closed.
   */
  connect?: (signal: AbortSignal) => Transport | PromiseLike<Transport>;
  /**
   * Speaks TLS: `true`, or with options of its own.
   *
   * @default {false}
   */
  tls?: boolean | ClientTlsOptions;
  /**
   * Where the id stands in the frames, if they carry one: then responses may come
   * in any order. Without it, responses come in the order of requests.
   */
  correlation?: CorrelationOptions;
  /**
   * A payload that means "nothing you sent behind what I have answered was
   * handled, and nothing will be", on wires that have agreed on one. What is
   * unanswered then is sent again on another connection, idempotent or not;
   * notifications are not. With inserted ids it is built in, and the option is
   * refused.
   */
  goaway?: Uint8Array;
  /**
   * Speaks on every new connection before its first request, within
   * `connectTimeout`: authentication, a version, a subscription, a server that
   * speaks first. What it throws is the `cause` of a {@linkcode ConnectError}.
   */
  handshake?: (conn: HandshakeConnection) => unknown;
  /**
   * Makes the request that tells whether an idle connection lives: any response
   * but a goaway says that it does. With `correlation`, a payload whose id is the
   * protocol's (0, or with the high bit) keeps that id, and the frame with that
   * id answers it.
   */
  ping?: () => Uint8Array;
  /**
   * A connection idle for so long is pinged before it is lent, if there is a
   * `ping`; 0 pings every idle one. Without `ping` it still tells what a request
   * that timed out in silence says about idle connections.
   *
   * @default {15_000}
   */
  pingAfterIdle?: number;
  /**
   * How long the answer to a ping is awaited; 0 is for ever.
   *
   * @default {1_000}
   */
  pingTimeout?: number;
  /**
   * A connection idle and not pinged for so long is pinged, though nobody asks
   * for it; 0 is never. Needs `ping`.
   *
   * @default {0}
   */
  pingInterval?: number;
  /**
   * Told of frames that answer nothing, in the order in which they come, also on
   * idle connections; only with `correlation`. Its promise is not awaited, and
   * its failure goes to `onError`: without that, nothing tells of it.
   *
   * @default {undefined} A frame that answers nothing ends its connection.
   */
  onPush?: (payload: Uint8Array<ArrayBuffer>) => unknown;
  /**
   * Connections opened at the start; failures go to `onError`.
   *
   * @default {0}
   */
  initialCap?: number;
  /**
   * Connections kept open and idle: opened at the start, and whenever fewer are
   * left. After a dial that fails, the next for it waits: for 100 ms, doubling to
   * 30 s. A request never waits for that pause.
   *
   * @default {0}
   */
  minIdle?: number;
  /**
   * Most connections open at once. Notifications that are not awaited one by one
   * keep their order on one connection only.
   *
   * @default {10, with correlation 1}
   */
  maxCap?: number;
  /**
   * Most connections kept idle.
   *
   * @default {maxCap}
   */
  maxIdle?: number;
  /**
   * A connection idle for longer is closed; 0 is never.
   *
   * @default {60_000}
   */
  idleTimeout?: number;
  /**
   * A connection older than this takes no more requests and is closed; 0 is
   * never. Behind a balancer it lets connections move over to new servers.
   *
   * @default {0}
   */
  maxLifetime?: number;
  /**
   * How long a request may wait for a connection; 0 is as long as
   * `requestTimeout` allows.
   *
   * @default {0}
   */
  getTimeout?: number;
  /**
   * Most requests that may wait for a connection; one more is rejected at
   * once.
   *
   * @default {Infinity}
   */
  maxWaiting?: number;
  /**
   * How long a dial may take: resolving the name, TCP, TLS and `handshake`
   * together; 0 is for ever. A dial that was given up and cannot be cancelled
   * keeps its place among `maxCap` until it settles, for as long again at most.
   *
   * @default {3_000}
   */
  connectTimeout?: number;
  /**
   * How long a request may take: waiting in line, dialling and answering
   * together; 0 is for ever. It is never cut early, and at most 10 % or 50 ms
   * late, whichever is more.
   *
   * @default {30_000}
   */
  requestTimeout?: number;
  /**
   * Most requests in flight on one connection, at least 1. With `correlation`,
   * there are at most as many as there are ids, whatever is given. Requests share
   * a connection only when all `maxCap` are busy.
   *
   * @default {1, with correlation 128}
   */
  pipelining?: number;
  /**
   * Requests may be handled twice without harm, so that one whose connection
   * is lost after it was sent can be sent again.
   *
   * @default {false}
   */
  idempotent?: boolean;
  /**
   * Switches Nagle's algorithm off.
   *
   * @default {true}
   */
  noDelay?: boolean;
  /**
   * Has TCP probe silent connections.
   *
   * @default {true}
   */
  keepAlive?: boolean;
  /**
   * Told of failures that no caller awaits: of `onPush`, of hooks, of dials for
   * `minIdle` and `initialCap`. Set it while you develop.
   *
   * @default {undefined} Nothing is printed.
   */
  onError?: (error: unknown) => void;
  /** Observers; they cost nothing where they are not set. */
  hooks?: ClientHooks;
}

/** Observers for metrics and traces. One that throws is reported to `onError`
 * and changes nothing. */
export interface ClientHooks {
  /** A dial has ended. */
  dial?(dial: DialSummary): void;
  /** A request of so many bytes has been accepted. */
  send?(requestBytes: number): void;
  /** A request has settled. */
  settle?(request: SendSummary): void;
  /** Observers of the pool of connections. A resource is one, opaque. */
  pool?: PoolHooks<unknown>;
}

/** What {@linkcode ClientHooks.dial} is told. */
export interface DialSummary {
  /** Milliseconds that the dial took. */
  readonly duration: number;
  /** Why it failed, if it did. */
  readonly error?: unknown;
}

/** What {@linkcode ClientHooks.settle} is told. */
export interface SendSummary {
  /** Milliseconds from the call of `send`. */
  readonly duration: number;
  /** Length of the request's payload in bytes. */
  readonly requestBytes: number;
  /** Length of the response's payload in bytes; 0 where there is none. */
  readonly responseBytes: number;
  /** Why it failed, if it did. */
  readonly error?: unknown;
}

/** Options of {@linkcode Client.send}. */
export interface SendOptions {
  /** Gives the request up when it aborts. */
  signal?: AbortSignal | null | undefined;
  /**
   * How long the request may take, in milliseconds; 0 is for ever.
   *
   * @default {requestTimeout}
   */
  timeout?: number | undefined;
  /**
   * The request may be handled twice without harm.
   *
   * @default {idempotent}
   */
  idempotent?: boolean | undefined;
}

/** Options of {@linkcode Client.notify}. */
export interface NotifyOptions {
  /** Gives the notification up when it aborts. */
  signal?: AbortSignal | null | undefined;
  /**
   * How long it may take, in milliseconds; 0 is for ever.
   *
   * @default {requestTimeout}
   */
  timeout?: number | undefined;
}

/** A snapshot of a client's figures; totals are since it was made. Every request
 * is one of `responses`, `notified`, `failures` and `inFlight`. */
export interface ClientStats {
  /** Figures of the pool of connections. */
  pool: PoolStats;
  /** Requests accepted, notifications included. */
  requests: number;
  /** Requests settled with their response. */
  responses: number;
  /** Notifications that the transport has taken. */
  notified: number;
  /** Requests settled with an error. */
  failures: number;
  /** Times a request was sent again. */
  retries: number;
  /** Goaways that connections have ended with. */
  goaways: number;
  /** Frames that answered nothing, and were given to `onPush`. */
  pushes: number;
  /** Responses that came after their request was given up. */
  lateResponses: number;
  /** Requests that have not settled. */
  inFlight: number;
}

/** No connection could be made; `cause` says why. */
export class ConnectError extends Error {
  /** Makes the error; `options` carries the `cause`. */
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "ConnectError";
  }
}

/** A request took longer than it may. */
export class RequestTimeoutError extends Error {
  /** The limit in milliseconds. */
  readonly timeout: number;

  /** Makes the error from the limit in milliseconds. */
  constructor(timeout: number, options?: ErrorOptions) {
    super(`Request did not settle within ${timeout} ms`, options);
    this.name = "RequestTimeoutError";
    this.timeout = timeout;
  }
}

/** The connection was lost before the response had come; `cause` says why. */
export class ConnectionLostError extends Error {
  /** Whether the server may have seen the whole request: where this is false,
   * it cannot have, and the request can be sent again without harm. */
  readonly requestSent: boolean;

  /** Makes the error; `options` carries the `cause`. */
  constructor(requestSent: boolean, options?: ErrorOptions) {
    super(
      requestSent
        ? "Connection was lost before the response had come"
        : "Connection was lost before the request was sent",
      options,
    );
    this.name = "ConnectionLostError";
    this.requestSent = requestSent;
  }
}

/** The server says that its handler for this request has failed. The connection
 * goes on. */
export class RequestFailedError extends Error {
  /** Makes the error; `options` may carry a `cause`. */
  constructor(options?: ErrorOptions) {
    super("Server could not handle the request", options);
    this.name = "RequestFailedError";
  }
}

/** The client was closed. */
export class ClientClosedError extends Error {
  /** Makes the error; `options` may carry a `cause`. */
  constructor(options?: ErrorOptions) {
    super("Client is closed", options);
    this.name = "ClientClosedError";
  }
}

/**
 * Sends requests over a pool of connections.
 *
 * - Every `send` settles, with its own response or an error, whatever the
 *   network does.
 * - A response never reaches another request, not even one that comes late.
 * - With `correlation`, no request waits behind another, and no connection is
 *   closed for a timeout unless it has fallen silent.
 * - A connection in doubt is closed, not reused. An idle one that ends, fails
 *   or delivers a byte that nobody asked for is dropped at once.
 * - A request is sent again at most once, and only when its connection had
 *   answered before and is lost before the request was handed over whole, or
 *   before a byte of its response had come and the request is `idempotent`.
 *   It goes out on a connection dialled since. Never after a timeout or an
 *   abort. What a goaway vouches for is sent again as often as need be, until
 *   its timeout.
 * - Requests made in one turn leave in one write where they share a
 *   connection.
 * - Requests in flight keep the process alive; idle connections do not.
 * - A process that was frozen writes no request to a connection that was closed
 *   meanwhile. A request that times out in silence has idle connections that were
 *   as silent looked at, or closed, before they are lent.
 * - Callbacks run in the async context (`AsyncLocalStorage`) of whom they belong
 *   to: `settle` in its `send`'s, all others in that of the constructor's caller.
 *   No connection keeps a request's context alive.
 *
 * @example Send requests, one after the other and at once
 * ```ts
 * import { Client } from "@wirepool/net/client";
 * import { serve } from "@wirepool/net/server";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0 }, (payload) => payload.toReversed());
 * await using client = new Client({ port: server.addr.port });
 *
 * assertEquals(await client.send(new Uint8Array([1, 2])), new Uint8Array([2, 1]));
 * const responses = await Promise.all(
 *   [[3, 4], [5, 6]].map((bytes) => client.send(new Uint8Array(bytes))),
 * );
 * assertEquals(responses[1], new Uint8Array([6, 5]));
 * ```
 *
 * @example No request waits behind another
 * ```ts
 * import { Client } from "@wirepool/net/client";
 * import { serve } from "@wirepool/net/server";
 * import { assertEquals } from "@std/assert";
 *
 * const correlation = { length: 4 } as const; // an id before each payload
 * await using server = serve({ port: 0, correlation }, async (payload) => {
 *   if (payload[0] === 1) await new Promise((resolve) => setTimeout(resolve, 50));
 *   return payload;
 * });
 * await using client = new Client({ port: server.addr.port, correlation });
 *
 * const settled: string[] = [];
 * await Promise.all([
 *   client.send(new Uint8Array([1])).then(() => settled.push("slow")),
 *   client.send(new Uint8Array([2])).then(() => settled.push("fast")),
 * ]);
 * assertEquals(settled, ["fast", "slow"]); // over one connection
 * ```
 *
 * @example Log in on every connection
 * ```ts
 * import { Client } from "@wirepool/net/client";
 * import { serve } from "@wirepool/net/server";
 * import { assertEquals } from "@std/assert";
 *
 * const bytes = (text: string) => new TextEncoder().encode(text);
 * await using server = serve({
 *   port: 0,
 *   handshake: async (conn) => {
 *     const token = new TextDecoder().decode(await conn.read());
 *     if (token !== "secret") throw new Error("Wrong token");
 *     await conn.write(bytes("welcome"));
 *   },
 * }, (payload) => payload);
 *
 * await using client = new Client({
 *   port: server.addr.port,
 *   handshake: async (conn) => {
 *     await conn.write(bytes("secret"));
 *     assertEquals(new TextDecoder().decode(await conn.read()), "welcome");
 *   },
 * });
 * assertEquals(await client.send(bytes("hi")), bytes("hi"));
 * ```
 *
 * @example Time out, and tell why
 * ```ts
 * import { Client, RequestTimeoutError } from "@wirepool/net/client";
 * import { serve } from "@wirepool/net/server";
 * import { assertRejects } from "@std/assert";
 *
 * await using server = serve({ port: 0 }, async (payload) => {
 *   await new Promise((resolve) => setTimeout(resolve, 300));
 *   return payload;
 * });
 * const { port } = server.addr;
 *
 * await using client = new Client({ port, requestTimeout: 50 });
 * await assertRejects(() => client.send(new Uint8Array()), RequestTimeoutError);
 * ```
 */
export class Client implements AsyncDisposable {
  readonly #pool: Pool<ClientConnection>;
  readonly #dialler: Dialler;
  /** What all its connections have in common. */
  readonly #terms: ConnectionTerms;
  /** Judges payloads before anything is done for them. */
  readonly #judge: FrameEncoder;
  readonly #maxCap: number;
  readonly #maxLifetime: number;
  readonly #getTimeout: number;
  readonly #requestTimeout: number;
  readonly #pipelining: number;
  readonly #idempotent: boolean;
  readonly #ping: (() => PendingRequest) | undefined;
  readonly #pingTimeout: number;
  readonly #minIdle: number;
  readonly #onPush: ((payload: Uint8Array<ArrayBuffer>) => unknown) | undefined;
  readonly #observer: Observer;
  /** Runs a function in the async context of the constructor's caller. Whatever
   * may outlive a request is begun there, so that no connection and no timer
   * keeps the context of a request alive. */
  readonly #inContext = captureContext();

  /** Every connection that stands. */
  readonly #connections = new Set<ClientConnection>();
  /** Places taken: the connections, and those being dialled or closed. */
  #places = 0;
  /** Requests in the pool's line, until they go on with what it gave them. */
  #waiting = 0;
  /** Those of them that are sent again. */
  #resending = 0;
  /** Dials begun, and how many that were when a connection last died with
   * requests on it, or said goodbye. */
  #dials = 0;
  #lastLoss = 0;
  /** Requests that have not settled. */
  #inFlight = 0;
  #requests = 0;
  #responses = 0;
  #failures = 0;
  #notified = 0;
  #retries = 0;
  #goaways = 0;
  #pushes = 0;
  #lateResponses = 0;
  readonly #pace = new DialPace();
  /** Decides which idle connections are looked at before they are lent. */
  readonly #deadPeers: DeadPeers;
  /** Times the requests; its timer is referenced while there are any. */
  readonly #sweeper: Sweeper;
  /** Requests on connections that their signals can give up. */
  readonly #signals: SignalGroups;

  #closing: Promise<void> | undefined;
  /** Connections closed for `maxIdle` when the client was closed: those that
   * the pool closes for it afterwards go because of the client's close. */
  #maxIdleClosed: number | undefined;
  /** Set by a forced close: what requests in flight are rejected with. */
  #killed: ClientClosedError | undefined;
  #onAllSettled: (() => void) | undefined;

  /**
   * Makes a client. Nothing is dialled before it is needed, but for
   * `initialCap` and `minIdle`.
   *
   * @param options The address, the wire and the limits.
   * @throws {TypeError | RangeError} If an option is of the wrong type or out
   * of its range.
   */
  constructor(options: ClientOptions) {
    checkObject("Options", options);
    const correlation = correlationOption(options);
    this.#judge = new FrameEncoder(options, correlation?.request);
    // Connections to come are to agree with it, whatever becomes of the object.
    const frame = this.#judge.options;
    new FrameDecoder(frame, correlation?.response);
    const goaway = goawayOption(options, frame, correlation);
    const { handshake, ping, onPush } = options;
    this.#observer = new Observer(options, this.#inContext);
    this.#dialler = new Dialler(
      targetOption(options),
      durationOption(options, "connectTimeout", 3_000),
      frame,
      functionOption({ handshake }, "handshake"),
    );
    const pipelining = integerOption(
      options,
      "pipelining",
      correlation === undefined ? 1 : 128,
      { min: 1, max: Number.MAX_SAFE_INTEGER },
    );
    const places = this.#pipelining = Math.min(
      pipelining,
      correlation?.capacity ?? Infinity,
    );
    this.#onPush = functionOption({ onPush }, "onPush");
    if (onPush !== undefined && correlation === undefined) {
      throw new TypeError("Option onPush needs correlation");
    }
    this.#terms = {
      frame,
      requestId: correlation?.request,
      responseId: correlation?.response,
      isGoaway: goaway && ((payload) => goaway.is(payload)),
      traffic: { received: 0 },
      matching: correlation === undefined
        ? () => new OrderedMatching()
        : () =>
          new CorrelatedMatching(
            correlation,
            (payload) => this.#judge.readId(payload),
            onPush !== undefined,
            places,
          ),
    };
    this.#idempotent = booleanOption(options, "idempotent", false);
    this.#requestTimeout = durationOption(options, "requestTimeout", 30_000);
    this.#getTimeout = durationOption(options, "getTimeout", 0);
    this.#maxLifetime = durationOption(options, "maxLifetime", 0);
    this.#sweeper = new Sweeper(MAX_SWEEP, (now) => this.#sweep(now));
    // Sweeps retire what is never idle, and so never comes by the pool.
    if (this.#maxLifetime > 0) this.#sweepOften(this.#maxLifetime);
    this.#signals = new SignalGroups(this.#inContext, (request, reason) => {
      request.connection?.abandon(request);
      this.#reject(request, reason);
    });
    functionOption({ ping }, "ping");
    this.#ping = ping && (() => this.#newPing(ping));
    this.#pingTimeout = durationOption(options, "pingTimeout", 1_000);
    const givenInterval = durationOption(options, "pingInterval", 0);
    const pingInterval = ping === undefined ? 0 : givenInterval;
    this.#deadPeers = new DeadPeers(
      ping !== undefined,
      durationOption(options, "pingAfterIdle", 15_000),
      pingInterval,
    );
    const maxCap = this.#maxCap = options.maxCap ??
      (correlation === undefined ? 10 : 1);
    const poolOptions: PoolOptions<ClientConnection> = {
      factory: (signal) => this.#inContext(() => this.#dial(signal)),
      close: (connection) => this.#retire(connection),
      maxCap,
      idleTimeout: durationOption(options, "idleTimeout", 60_000),
      maxLifetime: this.#maxLifetime,
      // A graceful end waits for what is in flight, and has limits of its own.
      releaseTimeout: 0,
      drainTimeout: 0,
      ping: (connection: ClientConnection, idle = 0) =>
        this.#inContext(() => this.#lookAt(connection, idle)),
      pingAfterIdle: this.#deadPeers.lookAfterIdle,
      pingTimeout: 0,
      onError: (error) => this.#observer.report(error),
      // They are begun to be read once the pool has them, not before: one that
      // ended could not be taken out.
      hooks: this.#observer.poolHooks(
        (connection) => connection.start(),
        (reason) => this.#closeReason(reason),
      ),
    };
    const { initialCap, minIdle, maxIdle, maxWaiting } = options;
    this.#minIdle = minIdle ?? 0;
    if (initialCap !== undefined) poolOptions.initialCap = initialCap;
    if (minIdle !== undefined) poolOptions.minIdle = minIdle;
    // As late as any limit here may be: a tenth of it, or 50 ms.
    const shortest = [this.#maxLifetime, pingInterval]
      .reduce(shorter, poolOptions.idleTimeout!);
    if (shortest > 0) {
      poolOptions.reapInterval = Math.max(2 * MIN_SWEEP, shortest / 10);
    }
    poolOptions.pingInterval = pingInterval;
    if (maxIdle !== undefined) poolOptions.maxIdle = maxIdle;
    if (maxWaiting !== undefined) poolOptions.maxWaiting = maxWaiting;
    this.#pool = new Pool(poolOptions);
  }

  /**
   * Sends a request and waits for its response.
   *
   * @param payload The request; it must not change before the promise has
   * settled.
   * @param options Limits for this request.
   * @returns The response's payload: a view on memory that is never written
   * again, as `FrameDecoder.decode` gives it.
   * @throws {ConnectError} If no connection could be made.
   * @throws {ConnectionLostError} If the connection was lost.
   * @throws {RequestTimeoutError} If it took longer than `timeout`.
   * @throws {RequestFailedError} If the server says that its handler has failed,
   * which it does where ids are inserted.
   * @throws {PoolTimeoutError} If it waited longer than `getTimeout`.
   * @throws {PoolExhaustedError} If `maxWaiting` requests wait already.
   * @throws {ClientClosedError} If the client is closed.
   * @throws {FrameTooLargeError | InvalidFrameLengthError} If the payload
   * cannot be framed.
   * @throws `signal.reason`, if the signal aborts.
   */
  send(
    payload: Uint8Array,
    options?: SendOptions,
  ): Promise<Uint8Array<ArrayBuffer>> {
    // What a send resolves with is always a response.
    return this.#submit("send", payload, options) as Promise<
      Uint8Array<ArrayBuffer>
    >;
  }

  /**
   * Sends a request that gets no response.
   *
   * It goes out in order with what else is sent on its connection, and is never
   * sent again once it was handed over whole. That the transport has taken it
   * does not say that the server has read it. A server that shuts down or goes
   * loses what it has not read, and a goaway does not bring it back. Where that
   * matters, have the server answer, or count what arrives.
   *
   * @param payload The request; it must not change before the promise has
   * settled. With `correlation`, the id that it carries stays as it is.
   * @param options Limits for this request.
   * @returns Once the transport has taken the whole frame, so that awaiting it
   * is back-pressure.
   * @throws What {@linkcode Client.send} throws.
   */
  notify(payload: Uint8Array, options?: NotifyOptions): Promise<void> {
    return this.#submit("notify", payload, options) as Promise<undefined>;
  }

  #submit(
    kind: RequestKind,
    payload: Uint8Array,
    options: SendOptions | undefined,
  ): Promise<Uint8Array<ArrayBuffer> | undefined> {
    let request: PendingRequest;
    try {
      if (this.#closing !== undefined) {
        throw new ClientClosedError({ cause: this.#killed });
      }
      request = this.#newRequest(kind, payload, options);
    } catch (error) {
      return Promise.reject(error);
    }
    this.#observer.accepted(request);
    this.#requests++;
    if (this.#inFlight++ === 0) this.#keepAlive();
    this.#start(request);
    return request.promise;
  }

  /** Returns a snapshot of the figures. */
  stats(): ClientStats {
    const pool = this.#pool.stats();
    const maxIdleClosed = this.#maxIdleClosed ?? pool.maxIdleClosed;
    return {
      pool: { ...pool, maxIdleClosed },
      requests: this.#requests,
      responses: this.#responses,
      failures: this.#failures,
      notified: this.#notified,
      retries: this.#retries,
      goaways: this.#goaways,
      pushes: this.#pushes,
      lateResponses: this.#lateResponses,
      inFlight: this.#inFlight,
    };
  }

  /**
   * Closes the client: new requests are refused; those in flight, in line or
   * sent, get their responses or meet their timeouts; then every connection is
   * closed. One that carried notifications which the server may not have read
   * yet is half-closed first, and read to the server's end, for 10 s at most. If
   * the server needs longer for them, the rest is lost, and nothing tells of it.
   *
   * @param options `signal`: when it aborts, what is in flight is rejected
   * with {@linkcode ClientClosedError} and everything is closed at once.
   * @returns Once everything is closed; a second call joins the first.
   */
  close(options?: { signal?: AbortSignal | null | undefined }): Promise<void> {
    let signal: AbortSignal | undefined;
    try {
      if (options !== undefined) checkObject("Options", options);
      signal = signalOption(options);
    } catch (error) {
      return Promise.reject(error);
    }
    if (this.#closing === undefined) {
      // A hook that is told of what is closed may call this again.
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#closing = promise;
      resolve(this.#inContext(() => this.#close()));
    }
    if (signal !== undefined) {
      const kill = () => this.#kill(signal.reason);
      if (signal.aborted) {
        kill();
      } else {
        signal.addEventListener("abort", kill, { once: true });
        this.#closing.then(() => signal.removeEventListener("abort", kill));
      }
    }
    return this.#closing;
  }

  /** Closes the client, as {@linkcode Client.close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    // From now on nothing is kept idle, nor opened to be; what is in line is
    // still served, which the pool's own close would reject.
    this.#maxIdleClosed = this.#pool.stats().maxIdleClosed;
    this.#pool.resize({ maxIdle: 0 });
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => this.#onAllSettled = resolve);
    }
    // What cannot be cancelled may go on: nobody waits for it.
    this.#dialler.forget();
    await this.#pool.close();
    this.#sweeper.stop();
  }

  /** Why a connection was closed: the pool cannot know that it is being closed,
   * since it still serves those in line. */
  #closeReason(reason: PoolCloseReason): PoolCloseReason {
    return this.#closing !== undefined && reason === "maxIdle"
      ? "close"
      : reason;
  }

  #kill(cause: unknown): void {
    this.#killed = new ClientClosedError({ cause });
    this.#dialler.forget();
    // Rejects those in line, and cancels dials.
    this.#inContext(() => this.#pool.close());
    for (const connection of this.#connections) {
      connection.destroy(this.#killed);
    }
  }

  // Choosing a connection. Nothing here awaits between a check and a change.

  #newRequest(
    kind: RequestKind,
    payload: Uint8Array,
    options: SendOptions | undefined,
  ): PendingRequest {
    this.#judge.measure(payload);
    let timeout = this.#requestTimeout;
    let idempotent = this.#idempotent;
    let signal: AbortSignal | undefined;
    if (options !== undefined) {
      checkObject("Options", options);
      timeout = durationOption(options, "timeout", timeout);
      idempotent = booleanOption(options, "idempotent", idempotent);
      signal = signalOption(options);
      signal?.throwIfAborted();
    }
    if (timeout > 0 && timeout < 20 * this.#sweeper.interval) {
      this.#sweepOften(timeout);
    }
    return new PendingRequest(kind, payload, timeout, idempotent, signal);
  }

  #newPing(ping: () => Uint8Array): PendingRequest {
    try {
      const payload = ping();
      this.#judge.measure(payload);
      return new PendingRequest("ping", payload, 0, false, undefined);
    } catch (error) {
      this.#observer.report(error);
      throw error;
    }
  }

  /** Sends a request on a connection, or puts it in the pool's line. */
  #start(request: PendingRequest): void {
    const { signal } = request;
    if (signal?.aborted) return this.#reject(request, signal.reason);
    // Those in line come first.
    if (this.#waiting === 0) {
      for (let idle; (idle = this.#takeIdle()) !== undefined;) {
        if (request.takes(idle)) return this.#dispatch(request, idle);
        this.#inContext(() => this.#pool.discard(idle!));
      }
      if (this.#places >= this.#maxCap && !this.#someAreIdle()) {
        const shared = this.#leastLoaded(request.lostAt);
        if (shared !== undefined) return this.#dispatch(request, shared);
      }
    }
    this.#inContext(() => this.#wait(request));
  }

  /** Takes an idle connection that need not be looked at. */
  #takeIdle(): ClientConnection | undefined {
    // Where another one is opened in its place, that is begun here.
    const idle = this.#minIdle === 0
      ? this.#pool.tryGet()
      : this.#inContext(() => this.#pool.tryGet());
    if (idle === undefined) return undefined;
    const slept = this.#deadPeers.sleptFor();
    if (slept === 0) return idle;
    // It is put back, to be looked at with the others.
    this.#inContext(() => this.#pool.put(idle));
    for (const connection of this.#connections) {
      if (connection.lent) continue;
      connection.doubt ??= this.#deadPeers.doubtAfterSleep(slept);
      this.#pool.recheck(connection);
    }
    return undefined;
  }

  /** Whether there are idle connections that are to be looked at first: requests
   * share one only when all are busy. */
  #someAreIdle(): boolean {
    if (this.#maxCap === 1) return false;
    for (const { lent, busy, usable } of this.#connections) {
      if (!lent && !busy && usable) return true;
    }
    return false;
  }

  /** @param after Only of the dials after that one. */
  #leastLoaded(after: number): ClientConnection | undefined {
    if (this.#pipelining === 1) return undefined;
    let least: ClientConnection | undefined;
    let load = this.#pipelining;
    for (const connection of this.#connections) {
      if (connection.dial <= after) continue;
      // One that is lent with nothing on it is being looked at, or has not been
      // written to the end.
      const { load: its, busy, lent, usable, pinging } = connection;
      if (its < load && busy && lent && usable && !pinging) {
        least = connection;
        load = its;
      }
    }
    return least;
  }

  #dispatch(request: PendingRequest, connection: ClientConnection): void {
    connection.lent = true;
    if (request.signal !== undefined) {
      this.#signals.add(request, request.signal);
    }
    connection.send(request);
  }

  /** Looks at an idle connection for the pool. */
  #lookAt(
    connection: ClientConnection,
    idle: number,
  ): Promise<boolean> | boolean {
    switch (this.#deadPeers.look(connection, idle)) {
      case "close":
        return false;
      case "turn":
        return connection.check(undefined, 0);
      case "ping":
        return connection.check(this.#ping, this.#pingTimeout);
    }
  }

  /** Waits in the pool's line. */
  async #wait(request: PendingRequest): Promise<void> {
    const { signal, timeout } = request;
    const start = performance.now();
    const limit = shorter(this.#getTimeout, timeout);
    const resent = request.lostAt > 0 ? 1 : 0;
    this.#waiting++;
    this.#resending += resent;
    try {
      const turn = this.#pool.get({
        timeout: limit,
        ...(signal === undefined ? {} : { signal }),
      });
      this.#pump();
      const connection = await turn;
      this.#waiting--;
      this.#resending -= resent;
      const now = performance.now();
      const inTime = request.remain(now - start);
      // Known for once, so that it need not wait for a sweep to be.
      if (request.limit > 0) request.deadline = now + request.timeout;
      const taken = request.takes(connection);
      if (taken && inTime && !signal?.aborted) {
        this.#dispatch(request, connection);
      } else {
        // By itself, not by being declined.
        const { stillborn, goneAway } = connection;
        this.#decline(connection, taken);
        if (!inTime) {
          this.#reject(request, new RequestTimeoutError(request.limit));
        } else if (goneAway) {
          this.#requestRefused(request);
        } else if (stillborn !== undefined) {
          // A server that closes what it accepts is not to be dialled on and on.
          this.#requestLost(request, stillborn.cause, false);
        } else {
          this.#start(request);
        }
      }
    } catch (error) {
      this.#waiting--;
      this.#resending -= resent;
      this.#reject(request, this.#translate(error, request));
    }
    this.#pump();
  }

  /** What a request is told that the pool gave no connection. */
  #translate(error: unknown, request: PendingRequest): unknown {
    const { signal, timeout, limit } = request;
    if (signal?.aborted) return signal.reason;
    if (error instanceof PoolClosedError) {
      return this.#killed ?? new ClientClosedError({ cause: error });
    }
    // Whose limit was the shorter one: the request's, or that of the line?
    const own = timeout > 0 &&
      (this.#getTimeout === 0 || timeout < this.#getTimeout);
    if (error instanceof PoolTimeoutError && own) {
      return new RequestTimeoutError(limit, { cause: error });
    }
    return error;
  }

  /** Gives back what the pool gave in vain: the request was given up while it
   * changed hands, or the connection died or is not for this request. The last
   * is closed, to make room for a new one: given back, it would come again. */
  #decline(connection: ClientConnection, good: boolean): void {
    connection.lent = good;
    if (good) this.#release(connection);
    else this.#pool.discard(connection);
  }

  /** Lends shared connections with room to those in line for whom nothing is
   * being dialled. */
  #pump(): void {
    if (this.#pipelining === 1 || this.#waiting === 0) return;
    // Who is first in line is the pool's to know: what is lent must suit all.
    const after = this.#resending > 0 ? this.#lastLoss : 0;
    while (this.#pool.stats().waiting > 0) {
      const connection = this.#leastLoaded(after);
      if (connection === undefined) return;
      connection.lent = false;
      this.#pool.put(connection);
    }
  }

  /** A connection has room for one more request, or for none ever. */
  #release(connection: ClientConnection): void {
    if (!connection.busy && connection.lent) {
      connection.lent = false;
      connection.idleBefore = 0;
      this.#pool.put(connection);
    } else {
      this.#pump();
    }
  }

  async #dial(signal: AbortSignal): Promise<ClientConnection> {
    this.#places++;
    const number = ++this.#dials;
    const dialled = this.#observer.dialling();
    try {
      const { delay } = this.#pace;
      if (delay > 0) await pause(delay, signal);
      const { transport, readBefore } = await this.#connect(signal);
      const connection = this.#newConnection(transport, readBefore, number);
      this.#connections.add(connection);
      dialled();
      return connection;
    } catch (error) {
      this.#places--;
      dialled({ error });
      throw error;
    }
  }

  #newConnection(
    transport: Transport,
    readBefore: Dialled["readBefore"],
    number: number,
  ): ClientConnection {
    return new ClientConnection(transport, readBefore, this.#terms, number, {
      exact: takesAllOrNothing(transport),
      // Only a busy connection needs to be told its time: an idle one is
      // the pool's.
      expiresAt: this.#maxLifetime === 0
        ? Infinity
        : performance.now() + this.#maxLifetime,
      respond: (request, response) => this.#resolve(request, response),
      taken: (request) => this.#resolve(request, undefined),
      handlerFailed: (request) =>
        this.#reject(request, new RequestFailedError()),
      pushed: (frame) => {
        this.#pushes++;
        this.#observer.tell(() => this.#onPush?.(frame));
      },
      late: () => this.#lateResponses++,
      requestLost: (request, cause, resend) =>
        this.#requestLost(request, cause, resend),
      requestRefused: (request) => this.#requestRefused(request),
      fellSilent: (silence) => {
        const { received } = this.#terms.traffic;
        const doubt = this.#deadPeers.doubtAfterSilence(silence, received);
        if (doubt !== undefined) this.#castDoubt(doubt, silence.receivedBefore);
      },
      release: (connection) => this.#release(connection),
      connectionClosed: (connection) => this.#connectionClosed(connection),
    });
  }

  /** Has idle connections looked at that have been as silent. Those that are being
   * pinged have had their look: where nobody is to wait for another ping, their
   * answers are not awaited either. */
  #castDoubt(doubt: Doubt, receivedBefore: number): void {
    const silent: ClientConnection[] = [];
    for (const connection of this.#connections) {
      const { lent, busy, pinging, receivedAt } = connection;
      if (lent || receivedAt > receivedBefore) continue;
      if (pinging && busy && doubt.look === "close" && doubt.leastIdle === 0) {
        silent.push(connection);
      } else if (!busy) {
        connection.doubt = doubt;
        this.#pool.recheck(connection);
      }
    }
    // Last: each of them may have its place filled at once.
    const cause = namedError("TimedOut", "Another ping was not answered");
    for (const connection of silent) connection.destroy(cause);
  }

  async #connect(signal: AbortSignal): Promise<Dialled> {
    let settled: Promise<void> | undefined;
    try {
      return await this.#dialler.dial(signal, (promise) => settled = promise);
    } catch (cause) {
      const { destination } = this.#dialler;
      const error = new ConnectError(`Cannot connect to ${destination}`, {
        cause,
      });
      throw settled === undefined ? error : holdPlace(error, settled);
    }
  }

  /** Closes a connection for the pool; at once if nothing is in flight, so that
   * its place is free for whoever comes next. */
  #retire(connection: ClientConnection): Promise<void> | void {
    const ended = () => {
      this.#connections.delete(connection);
      this.#places--;
    };
    const ending = connection.end();
    if (ending !== undefined) return ending.then(ended);
    // Those in line may be about to give up for the same signal: nothing is to
    // be dialled for them.
    return this.#signals.aborting ? Promise.resolve().then(ended) : ended();
  }

  #connectionClosed(connection: ClientConnection): void {
    // Before a dial begins for the first of the requests on it.
    if (connection.load > 0 || connection.goneAway) {
      this.#lastLoss = this.#dials;
    }
    if (connection.goneAway) this.#goaways++;
    this.#notePace(connection);
    if (connection.lent) {
      connection.lent = false;
      this.#pool.discard(connection);
    } else {
      // Idle, or changing hands: then its next holder will notice.
      this.#pool.evict(connection);
    }
  }

  /** Slows dials down while connections end as soon as they are made. A request
   * that was lost with its connection is told so, and slows nobody down. */
  #notePace(connection: ClientConnection): void {
    const { stillborn, goneAway, load, age } = connection;
    if (goneAway) this.#pace.ended(stillborn !== undefined);
    else if (stillborn === undefined) this.#pace.ended(false);
    else if (stillborn.cause !== undefined && load === 0) {
      this.#pace.ended(age < EARLY_END);
    }
  }

  /** A request was lost with its connection: it is sent again or fails. */
  #requestLost(
    request: PendingRequest,
    cause: unknown,
    resend: boolean,
  ): void {
    if (this.#killed !== undefined) return this.#reject(request, this.#killed);
    const { signal, sent } = request;
    if (signal?.aborted) return this.#reject(request, signal.reason);
    if (!resend || request.resent) {
      return this.#reject(request, new ConnectionLostError(sent, { cause }));
    }
    request.resent = true;
    this.#sendAgain(request);
  }

  /** The server has said goodbye, and vouches that it has not handled a request
   * nor will. */
  #requestRefused(request: PendingRequest): void {
    if (this.#killed !== undefined) return this.#reject(request, this.#killed);
    this.#sendAgain(request);
  }

  #sendAgain(request: PendingRequest): void {
    this.#retries++;
    this.#signals.remove(request);
    request.renew(this.#lastLoss);
    this.#start(request);
  }

  // Settling.

  #resolve(
    request: PendingRequest,
    response: Uint8Array<ArrayBuffer> | undefined,
  ): void {
    request.settled = true;
    if (response === undefined) this.#notified++;
    else this.#responses++;
    request.resolve(response);
    request.observer?.(response?.length ?? 0, undefined);
    this.#finish(request);
  }

  #reject(request: PendingRequest, error: unknown): void {
    // A hook may have aborted what has settled, or is about to.
    if (request.settled) return;
    request.settled = true;
    this.#failures++;
    request.reject(error);
    request.observer?.(0, { error });
    this.#finish(request);
  }

  #finish(request: PendingRequest): void {
    this.#signals.remove(request);
    if (--this.#inFlight === 0) {
      this.#sweeper.unref();
      this.#onAllSettled?.();
    }
  }

  // Sweeping.

  /** A request is in flight: sweeps time it, and their timer keeps the process
   * alive. */
  #keepAlive(): void {
    if (this.#sweeper.running) this.#sweeper.ref();
    else this.#inContext(() => this.#sweeper.start());
  }

  /** Has sweeps come often enough for a timeout to be late by 10 % or 50 ms
   * at most. */
  #sweepOften(timeout: number): void {
    // In halves, so that timeouts that are each a little shorter than the last
    // one do not start the timer anew again and again.
    let { interval } = this.#sweeper;
    while (interval > Math.max(MIN_SWEEP, timeout / 20)) {
      interval = Math.max(MIN_SWEEP, interval / 2);
    }
    if (interval === this.#sweeper.interval) return;
    this.#inContext(() => this.#sweeper.quicken(interval));
  }

  #sweep(now: number): void {
    // The timer outlives the last request by a look, since the next one often
    // comes soon, and starting a timer costs as much as a request.
    if (this.#inFlight === 0) return this.#sweeper.stop();
    for (const connection of this.#connections) {
      for (const request of connection.expired(now)) {
        this.#reject(request, new RequestTimeoutError(request.limit));
      }
    }
  }
}

/** The shorter of two delays of which 0 is for ever. */
function shorter(a: number, b: number): number {
  return a === 0 ? b : b === 0 ? a : Math.min(a, b);
}
