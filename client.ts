/**
 * A pooled client for length-prefixed request and response: every
 * {@linkcode Client.send} settles, with its own response or an error.
 *
 * ```text
 *  send() --> choose a connection ------> unsent --> encoder --> write
 *               | idle, or dialled,                               |
 *               | or shared, or wait       in order of sending    v
 *             Pool                                              server
 *                                          in order of sending    |
 *  response <-- first of those sent <---- decoder <-- read <------+
 * ```
 *
 * Two layers, each readable alone: a connection that pipelines in order, and
 * the client, which chooses one through a `Pool`.
 *
 * @example Send a request
 * ```ts
 * import { Client } from "@wirepool/net/client";
 * import { serve } from "@wirepool/net/server";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0 }, (payload) => payload);
 * const { port } = server.addr as Deno.NetAddr;
 *
 * await using client = new Client({ port, maxCap: 4 });
 * const response = await client.send(new TextEncoder().encode("hello"));
 * assertEquals(new TextDecoder().decode(response), "hello");
 * ```
 *
 * @module
 */

import {
  FrameDecoder,
  FrameEncoder,
  FrameError,
  type FrameOptions,
} from "./codec.ts";
import {
  Pool,
  PoolClosedError,
  type PoolHooks,
  type PoolOptions,
  type PoolStats,
  PoolTimeoutError,
} from "./pool.ts";

/** Bytes of requests that are encoded ahead of a write. What is encoded can
 * no longer be taken back, so it is not more than fills a write. */
const MAX_BATCH = 64 * 1024;

/** Shortest interval between two sweeps, in milliseconds: two of them are the
 * 50 ms that a timeout may be late. */
const MIN_SWEEP = 25;

/** Longest interval between two sweeps. The timer behind them is also what
 * keeps the process alive while requests are in flight. */
const MAX_SWEEP = 1000;

/** Longest payload that an encoder copies; it refers to what is longer. */
const COPIED = 16 * 1024;

/** How long the response to a request that was given up early is awaited at
 * least, while others share its connection. */
const GRACE = 1000;

/** How long a lack of idle connections, as after a restart of the server, may
 * last before `minIdle` fills it. */
const MAX_REFILL_DELAY = 1000;

/** How long the fate of a write under way is awaited once its connection was
 * closed, and the end of a connection on which a write has failed. Both come
 * at once; this is for a transport that errs. */
const SETTLE_TIMEOUT = 1000;

/** Reads or writes in a row that may move nothing before the transport is
 * taken for broken. */
const MAX_EMPTY_TRIES = 100;

/** The longest delay that timers can express. */
const MAX_DELAY = 2 ** 31 - 1;

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
  /** Port of the server, 1 to 65535; required without `path`. */
  port?: number;
  /** Path of the server's Unix socket, instead of host name and port. */
  path?: string;
  /**
   * Speaks TLS: `true`, or with options of its own.
   *
   * @default {false}
   */
  tls?: boolean | ClientTlsOptions;
  /**
   * Connections opened at the start; failures go to `onError`.
   *
   * @default {0}
   */
  initialCap?: number;
  /**
   * Connections kept open and idle, opened within a second of their lack.
   *
   * @default {0}
   */
  minIdle?: number;
  /**
   * Most connections open at once.
   *
   * @default {10}
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
   * How long a dial may take: resolving the name, TCP and TLS together; 0 is
   * for ever.
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
   * Most requests in flight on one connection, at least 1. Requests share a
   * connection only when all `maxCap` are busy.
   *
   * @default {1}
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
  /** Told of failures that no caller awaits, such as a dial for `minIdle`. */
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
  signal?: AbortSignal;
  /**
   * How long the request may take, in milliseconds; 0 is for ever.
   *
   * @default {requestTimeout}
   */
  timeout?: number;
  /**
   * The request may be handled twice without harm.
   *
   * @default {idempotent}
   */
  idempotent?: boolean;
}

/** A snapshot of a client's figures; totals are since it was made. */
export interface ClientStats {
  /** Figures of the pool of connections. */
  pool: PoolStats;
  /** Requests accepted. */
  requests: number;
  /** Requests settled with their response. */
  responses: number;
  /** Requests settled with an error. */
  failures: number;
  /** Requests sent a second time. */
  retries: number;
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
 * - A connection in doubt is closed, not reused. An idle one that ends, fails
 *   or delivers a byte that nobody asked for is dropped at once.
 * - A request is sent again at most once, and only when its connection had
 *   answered before and is lost before the request was handed over whole, or
 *   before a byte of its response had come and the request is `idempotent`.
 *   It goes out on a connection dialled since. Never after a timeout or an
 *   abort.
 * - Requests made in one turn leave in one write where they share a
 *   connection.
 * - Requests in flight keep the process alive; idle connections do not.
 *
 * @example Time out, and tell why
 * ```ts
 * import { Client, RequestTimeoutError } from "@wirepool/net/client";
 * import { serve } from "@wirepool/net/server";
 * import { assertRejects } from "@std/assert";
 *
 * await using server = serve({ port: 0 }, () => null); // never answers
 * const { port } = server.addr as Deno.NetAddr;
 *
 * await using client = new Client({ port, requestTimeout: 50 });
 * await assertRejects(() => client.send(new Uint8Array()), RequestTimeoutError);
 * ```
 */
export class Client implements AsyncDisposable {
  readonly #pool: Pool<Connection>;
  readonly #dialler: Dialler;
  readonly #frame: FrameOptions;
  /** Judges payloads before anything is done for them. */
  readonly #judge: FrameEncoder;
  readonly #maxCap: number;
  readonly #maxLifetime: number;
  readonly #getTimeout: number;
  readonly #requestTimeout: number;
  readonly #pipelining: number;
  readonly #idempotent: boolean;
  readonly #hooks: ClientHooks | undefined;
  readonly #onError: ((error: unknown) => void) | undefined;

  /** Every connection that stands. */
  readonly #connections = new Set<Connection>();
  /** Places taken: the connections, and those being dialled or closed. */
  #places = 0;
  /** Requests in the pool's line, until they go on with what it gave them. */
  #waiting = 0;
  /** Those of them that are sent again. */
  #resending = 0;
  /** Dials begun, and how many that were when a connection last died with
   * requests on it. */
  #dials = 0;
  #lastLoss = 0;
  /** Requests that have not settled. */
  #inFlight = 0;
  #requests = 0;
  #responses = 0;
  #failures = 0;
  #retries = 0;

  /** Sweeps over the requests; referenced while there are any. */
  #timer: Timer | undefined;
  #interval = MAX_SWEEP;
  /** When the last sweep came, and whether it was left out. */
  #ticked = 0;
  #excused = false;
  /** Requests that share a signal share a listener. */
  readonly #signals = new Map<AbortSignal, SignalGroup>();
  /** Signals whose requests are being given up, one after the other. */
  #aborting = 0;

  #closing: Promise<void> | undefined;
  /** Set by a forced close: what requests in flight are rejected with. */
  #killed: ClientClosedError | undefined;
  #settledAll: (() => void) | undefined;

  /**
   * Makes a client. Nothing is dialled before it is needed, but for
   * `initialCap` and `minIdle`.
   *
   * @param options The address, the wire and the limits.
   * @throws {TypeError | RangeError} If an option is of the wrong type or out
   * of its range.
   */
  constructor(options: ClientOptions) {
    if (typeof options !== "object" || options === null) {
      throw new TypeError(
        `Options must be an object, received ${String(options)}`,
      );
    }
    const { pipelining = 1, idempotent = false, onError, hooks } = options;
    this.#dialler = new Dialler(options);
    this.#judge = new FrameEncoder(options);
    // Connections to come are to agree with it, whatever becomes of the object.
    this.#frame = this.#judge.options;
    checkInteger("pipelining", pipelining, 1, Number.MAX_SAFE_INTEGER);
    this.#pipelining = pipelining;
    checkType("idempotent", idempotent, "boolean");
    this.#idempotent = idempotent;
    checkType("onError", onError, "function");
    this.#onError = onError;
    checkType("hooks", hooks, "object");
    this.#hooks = hooks;
    this.#requestTimeout = checkDelay("requestTimeout", options, 30_000);
    this.#getTimeout = checkDelay("getTimeout", options, 0);
    this.#maxLifetime = checkDelay("maxLifetime", options, 0);
    // Sweeps retire what is never idle, and so never comes by the pool.
    if (this.#maxLifetime > 0) this.#sweepOften(this.#maxLifetime);
    const observer = hooks?.pool;
    checkType("hooks.pool", observer, "object");
    const { opened, closed, waited } = observer ?? {};
    for (const [name, hook] of Object.entries({ opened, closed, waited })) {
      checkType(`hooks.pool.${name}`, hook, "function");
    }
    const maxCap = this.#maxCap = options.maxCap ?? 10;
    const poolOptions: PoolOptions<Connection> = {
      factory: (signal) => this.#dial(signal),
      close: (connection) => this.#retire(connection),
      maxCap,
      idleTimeout: checkDelay("idleTimeout", options, 60_000),
      maxLifetime: this.#maxLifetime,
      // A graceful end waits for what is in flight, and has limits of its own.
      releaseTimeout: 0,
      drainTimeout: 0,
      onError: (error) => this.#report(error),
      hooks: {
        // Not before the pool has it: it could not be taken out if it ended.
        opened: (connection, duration) => {
          connection.read();
          return opened?.call(observer, connection, duration);
        },
        ...(closed && { closed: closed.bind(observer) }),
        ...(waited && { waited: waited.bind(observer) }),
      },
    };
    const { initialCap, minIdle, maxIdle, maxWaiting } = options;
    if (initialCap !== undefined) poolOptions.initialCap = initialCap;
    if (minIdle !== undefined) poolOptions.minIdle = minIdle;
    // As late as any limit here may be: a tenth of it, or 50 ms.
    const shortest = shorter(poolOptions.idleTimeout!, this.#maxLifetime);
    const reapInterval = shorter(
      shortest && Math.max(2 * MIN_SWEEP, shortest / 10),
      (minIdle ?? 0) > 0 ? MAX_REFILL_DELAY : 0,
    );
    if (reapInterval > 0) poolOptions.reapInterval = reapInterval;
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
    let request: Request;
    try {
      if (this.#closing !== undefined) {
        throw new ClientClosedError({ cause: this.#killed });
      }
      request = this.#newRequest(payload, options);
    } catch (error) {
      return Promise.reject(error);
    }
    if (this.#hooks !== undefined) this.#observe(request, this.#hooks);
    this.#requests++;
    if (this.#inFlight++ === 0) this.#refTimer(true);
    this.#start(request);
    return request.promise;
  }

  /** Returns a snapshot of the figures. */
  stats(): ClientStats {
    return {
      pool: this.#pool.stats(),
      requests: this.#requests,
      responses: this.#responses,
      failures: this.#failures,
      retries: this.#retries,
      inFlight: this.#inFlight,
    };
  }

  /**
   * Closes the client: new requests are refused; those in flight, in line or
   * sent, get their responses or meet their timeouts; then every connection is
   * closed.
   *
   * @param options `signal`: when it aborts, what is in flight is rejected
   * with {@linkcode ClientClosedError} and everything is closed at once.
   * @returns Once everything is closed; a second call joins the first.
   */
  close(options?: { signal?: AbortSignal }): Promise<void> {
    const signal = options?.signal;
    if (this.#closing === undefined) {
      // A hook that is told of what is closed may call this again.
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#closing = promise;
      resolve(this.#close());
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
    // From now on nothing is kept idle, nor opened to be.
    this.#pool.resize({ maxIdle: 0 });
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => this.#settledAll = resolve);
    }
    await this.#pool.close();
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #kill(cause: unknown): void {
    this.#killed = new ClientClosedError({ cause });
    // Rejects those in line, and cancels dials.
    this.#pool.close();
    for (const connection of this.#connections) {
      connection.destroy(this.#killed);
    }
  }

  // Choosing a connection. Nothing here awaits between a check and a change.

  #newRequest(payload: Uint8Array, options?: SendOptions): Request {
    this.#judge.measure(payload);
    let timeout = this.#requestTimeout;
    let idempotent = this.#idempotent;
    let signal: AbortSignal | undefined;
    if (options !== undefined) {
      checkType("options", options, "object");
      timeout = checkDelay("timeout", options, timeout);
      idempotent = options.idempotent ?? idempotent;
      checkType("idempotent", idempotent, "boolean");
      signal = options.signal;
      checkType("signal", signal, "object");
      signal?.throwIfAborted();
    }
    if (timeout > 0 && timeout < 20 * this.#interval) this.#sweepOften(timeout);
    return new Request(payload, timeout, idempotent, signal);
  }

  /** Sends a request on a connection, or puts it in the pool's line. */
  #start(request: Request): void {
    const { signal } = request;
    if (signal?.aborted) return this.#reject(request, signal.reason);
    const connection = this.#take(request);
    if (connection === undefined) this.#wait(request);
    else this.#dispatch(request, connection);
  }

  #take(request: Request): Connection | undefined {
    // Those in line come first.
    if (this.#waiting > 0) return undefined;
    for (let idle; (idle = this.#pool.tryGet()) !== undefined;) {
      if (request.takes(idle)) return idle;
      this.#pool.discard(idle);
    }
    return this.#places < this.#maxCap
      ? undefined
      : this.#leastLoaded(request.lostAt);
  }

  /** @param after Only of the dials after that one. */
  #leastLoaded(after: number): Connection | undefined {
    if (this.#pipelining === 1) return undefined;
    let least: Connection | undefined;
    let load = this.#pipelining;
    for (const connection of this.#connections) {
      if (connection.dial <= after) continue;
      // One that is lent with nothing on it has not been written to the end.
      const { load: its, lent, usable } = connection;
      if (its > 0 && its < load && lent && usable) {
        least = connection;
        load = its;
      }
    }
    return least;
  }

  #dispatch(request: Request, connection: Connection): void {
    connection.lent = true;
    if (request.signal !== undefined) this.#watch(request, request.signal);
    connection.send(request);
  }

  /** Waits in the pool's line. */
  async #wait(request: Request): Promise<void> {
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
        const { stillborn } = connection; // By itself, not by being declined.
        this.#decline(connection, taken);
        if (!inTime) {
          this.#reject(request, new RequestTimeoutError(request.limit));
        } else if (stillborn !== undefined) {
          // A server that closes what it accepts is not to be dialled on and on.
          const { sent } = request;
          const error = new ConnectionLostError(sent, stillborn);
          this.#lost(request, error, false);
        } else {
          this.#start(request);
        }
      }
    } catch (error) {
      this.#waiting--;
      this.#resending -= resent;
      this.#reject(
        request,
        signal?.aborted
          ? signal.reason
          : error instanceof PoolClosedError
          ? this.#killed ?? new ClientClosedError({ cause: error })
          : error instanceof PoolTimeoutError && limit === timeout &&
              timeout !== this.#getTimeout
          ? new RequestTimeoutError(request.limit, { cause: error })
          : error,
      );
    }
    this.#pump();
  }

  /** Gives back what the pool gave in vain: the request was given up while it
   * changed hands, or the connection died or is not for this request. The last
   * is closed, to make room for a new one: given back, it would come again. */
  #decline(connection: Connection, good: boolean): void {
    if (good) {
      connection.lent = true;
      this.#release(connection);
    } else {
      this.#pool.discard(connection);
    }
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
  #release(connection: Connection): void {
    if (connection.load === 0 && connection.lent) {
      connection.lent = false;
      this.#pool.put(connection);
    } else {
      this.#pump();
    }
  }

  async #dial(signal: AbortSignal): Promise<Connection> {
    this.#places++;
    const number = ++this.#dials;
    const hooks = this.#hooks?.dial === undefined ? undefined : this.#hooks;
    const start = hooks === undefined ? 0 : performance.now();
    try {
      const conn = await this.#dialler.dial(signal);
      const connection = new Connection(conn, this.#frame, number, {
        exact: !this.#dialler.secure,
        // Only a busy connection needs to be told its time: an idle one is
        // the pool's.
        expiresAt: this.#maxLifetime === 0
          ? Infinity
          : performance.now() + this.#maxLifetime,
        respond: (request, response) => this.#resolve(request, response),
        lost: (request, error, resend) => this.#lost(request, error, resend),
        release: (connection) => this.#release(connection),
        died: (connection) => this.#died(connection),
      });
      this.#connections.add(connection);
      this.#tell(() => hooks?.dial?.({ duration: performance.now() - start }));
      return connection;
    } catch (error) {
      this.#places--;
      this.#tell(() =>
        hooks?.dial?.({ duration: performance.now() - start, error })
      );
      throw error;
    }
  }

  /** Closes a connection for the pool; at once if nothing is in flight, so that
   * its place is free for whoever comes next. */
  #retire(connection: Connection): Promise<void> | void {
    const ended = () => {
      this.#connections.delete(connection);
      this.#places--;
    };
    const ending = connection.end();
    if (ending !== undefined) return ending.then(ended);
    // Those in line may be about to give up for the same signal: nothing is to
    // be dialled for them.
    return this.#aborting > 0 ? Promise.resolve().then(ended) : ended();
  }

  #died(connection: Connection): void {
    // Before a dial begins for the first of the requests on it.
    if (connection.load > 0) this.#lastLoss = this.#dials;
    if (connection.lent) {
      connection.lent = false;
      this.#pool.discard(connection);
    } else {
      // Idle, or changing hands: then its next holder will notice.
      this.#pool.evict(connection);
    }
  }

  #lost(request: Request, error: ConnectionLostError, resend: boolean): void {
    if (this.#killed !== undefined) return this.#reject(request, this.#killed);
    const { signal } = request;
    if (signal?.aborted) return this.#reject(request, signal.reason);
    if (!resend || request.lostAt > 0) return this.#reject(request, error);
    request.lostAt = this.#lastLoss;
    this.#retries++;
    this.#unwatch(request);
    if (request.limit > 0) {
      const now = performance.now();
      if (request.deadline === 0) request.deadline = now + request.timeout;
      else request.timeout = Math.max(1, request.deadline - now);
    }
    this.#start(request);
  }

  // Settling.

  #resolve(request: Request, response: Uint8Array<ArrayBuffer>): void {
    request.settled = true;
    this.#responses++;
    request.resolve(response);
    request.observer?.(response.length, undefined);
    this.#settled(request);
  }

  #reject(request: Request, error: unknown): void {
    // A hook may have aborted what has settled, or is about to.
    if (request.settled) return;
    request.settled = true;
    this.#failures++;
    request.reject(error);
    request.observer?.(0, { error });
    this.#settled(request);
  }

  #settled(request: Request): void {
    this.#unwatch(request);
    if (--this.#inFlight === 0) {
      this.#refTimer(false);
      this.#settledAll?.();
    }
  }

  #watch(request: Request, signal: AbortSignal): void {
    let group = this.#signals.get(signal);
    if (group === undefined) {
      const requests = new Set<Request>();
      const listener = () => {
        this.#aborting++;
        for (const request of requests) {
          request.connection?.abandon(request);
          this.#reject(request, signal.reason);
        }
        this.#aborting--;
      };
      group = { requests, listener };
      this.#signals.set(signal, group);
      signal.addEventListener("abort", listener);
    }
    group.requests.add(request);
  }

  #unwatch(request: Request): void {
    const { signal } = request;
    if (signal === undefined) return;
    const group = this.#signals.get(signal);
    if (group === undefined) return;
    group.requests.delete(request);
    if (group.requests.size === 0) {
      this.#signals.delete(signal);
      signal.removeEventListener("abort", group.listener);
    }
  }

  // Sweeping.

  #refTimer(ref: boolean): void {
    if (ref) {
      if (this.#timer === undefined) {
        this.#ticked = performance.now();
        this.#startTimer();
      } else Deno.refTimer(this.#timer);
    } else if (this.#timer !== undefined) {
      Deno.unrefTimer(this.#timer);
    }
  }

  #startTimer(): void {
    this.#timer = setInterval(() => {
      if (this.#inFlight > 0) return this.#tick(this.#interval);
      clearInterval(this.#timer);
      this.#timer = undefined;
    }, this.#interval);
  }

  /** Has sweeps come often enough for a timeout to be late by 10 % or 50 ms
   * at most. */
  #sweepOften(timeout: number): void {
    const interval = Math.max(MIN_SWEEP, timeout / 20);
    if (interval >= this.#interval) return;
    // In halves, and with a sweep between: timeouts that are each a little
    // shorter than the last one must not put it off again and again.
    const before = this.#interval;
    while (this.#interval > interval) {
      this.#interval = Math.max(MIN_SWEEP, this.#interval / 2);
    }
    if (this.#timer === undefined) return;
    clearInterval(this.#timer);
    this.#startTimer();
    this.#tick(before);
  }

  /** Sweeps, unless it comes late itself: then the thread was busy, and what
   * has come meanwhile may not have been read yet. */
  #tick(interval: number): void {
    const now = performance.now();
    this.#excused = !this.#excused && now - this.#ticked > 2 * interval;
    this.#ticked = now;
    if (!this.#excused) this.#sweep(now);
  }

  #sweep(now: number): void {
    for (const connection of this.#connections) {
      for (const request of connection.expired(now)) {
        this.#reject(request, new RequestTimeoutError(request.limit));
      }
    }
  }

  // Observing.

  #observe(request: Request, hooks: ClientHooks): void {
    const requestBytes = request.payload.length;
    if (hooks.send !== undefined) this.#tell(() => hooks.send?.(requestBytes));
    if (hooks.settle === undefined) return;
    const start = performance.now();
    request.observer = (responseBytes, failure) => {
      const duration = performance.now() - start;
      const summary = { duration, requestBytes, responseBytes, ...failure };
      this.#tell(() => hooks.settle?.(summary));
    };
  }

  #tell(hook: () => unknown): void {
    try {
      const result = hook();
      if (result instanceof Promise) {
        result.catch((error) => this.#report(error));
      }
    } catch (error) {
      this.#report(error);
    }
  }

  #report(error: unknown): void {
    try {
      const onError = this.#onError;
      const result: unknown = onError?.(error);
      if (result instanceof Promise) result.catch(() => {});
    } catch {
      // There is nobody left to tell.
    }
  }
}

type Timer = ReturnType<typeof setInterval>;

interface SignalGroup {
  readonly requests: Set<Request>;
  readonly listener: () => void;
}

/** A request, from its `send` until it has settled and left its connection. */
class Request {
  readonly promise: Promise<Uint8Array<ArrayBuffer>>;
  resolve!: (response: Uint8Array<ArrayBuffer>) => void;
  reject!: (reason: unknown) => void;
  observer:
    | ((responseBytes: number, failure: { error: unknown } | undefined) => void)
    | undefined;
  settled = false;
  /** Dials begun when its connection died, if it is sent again; else 0. It
   * goes out on a connection of a later one: a server that goes ends all its
   * connections, and the end of the others may not have been read yet. */
  lostAt = 0;

  /** Milliseconds that it was given, and what is left of them when it is
   * sent; 0 is for ever. */
  readonly limit: number;
  timeout: number;
  /** When it times out; 0 until that is known. As a rule a sweep sets it when
   * it first sees the request, so that a request reads no clock. */
  deadline = 0;

  /** The connection that it is on, and its neighbours in one of its queues. */
  connection: Connection | undefined;
  previous: Request | undefined;
  next: Request | undefined;
  /** Where its frame begins and ends in the connection's stream of requests;
   * -1 while it is unsent. */
  start = -1;
  end = -1;
  /** It was handed over whole, on this connection or on an earlier one. */
  sent = false;

  constructor(
    readonly payload: Uint8Array,
    timeout: number,
    readonly idempotent: boolean,
    readonly signal: AbortSignal | undefined,
  ) {
    this.limit = this.timeout = timeout;
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
  }

  /** Whether it can go out on this connection. */
  takes(connection: Connection): boolean {
    return connection.usable && connection.dial > this.lostAt;
  }

  /** Counts time that was spent before sending; false if none is left. */
  remain(spent: number): boolean {
    if (this.limit === 0) return true;
    this.timeout -= spent;
    if (this.timeout > 0) return true;
    this.timeout = 1;
    return false;
  }
}

/** Requests in order; taking one out of the middle costs the same. */
class Queue {
  first: Request | undefined;
  #last: Request | undefined;

  push(request: Request): void {
    request.previous = this.#last;
    request.next = undefined;
    if (this.#last === undefined) this.first = request;
    else this.#last.next = request;
    this.#last = request;
  }

  remove(request: Request): void {
    const { previous, next } = request;
    if (previous === undefined) this.first = next;
    else previous.next = next;
    if (next === undefined) this.#last = previous;
    else next.previous = previous;
    request.previous = request.next = undefined;
  }
}

/** What a connection tells its owner. */
interface Owner {
  /** Whether a write that fails has taken nothing: over TLS, what it was given
   * may go out all the same. */
  readonly exact: boolean;
  /** When the connection takes no more requests. */
  readonly expiresAt: number;
  /** A request has its response. */
  respond(request: Request, response: Uint8Array<ArrayBuffer>): void;
  /** A request was lost with the connection; it may be sent again or not. */
  lost(request: Request, error: ConnectionLostError, resend: boolean): void;
  /** The connection has room for a request more than before. */
  release(connection: Connection): void;
  /** The connection is of no more use. */
  died(connection: Connection): void;
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
class Connection {
  /** Which of the client's dials made it, in the order they began. */
  readonly dial: number;
  readonly #conn: Deno.Conn;
  readonly #owner: Owner;
  readonly #decoder: FrameDecoder;
  readonly #encoder: FrameEncoder;
  readonly #unsent = new Queue();
  readonly #sent = new Queue();

  /** Requests on it, the abandoned that keep their place included. */
  load = 0;
  /** Requests on it that are still waited for. */
  #live = 0;
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
  /** Set while the loss waits for a write under way to settle. */
  #losing: (() => void) | undefined;
  #ended: (() => void) | undefined;
  /** Nothing more can be sent, and the reader has so long to meet the end. */
  #writeFailed = false;
  #timer: Timer | undefined;

  constructor(
    conn: Deno.Conn,
    frame: FrameOptions,
    dial: number,
    owner: Owner,
  ) {
    this.dial = dial;
    this.#conn = conn;
    this.#owner = owner;
    this.#decoder = new FrameDecoder(frame);
    this.#encoder = new FrameEncoder(frame);
    // Requests keep the process alive, through the client's timer.
    conn.unref();
  }

  /** Queues a request; those of one turn leave in one write. */
  send(request: Request): void {
    request.connection = this;
    request.start = request.end = -1;
    this.load++;
    this.#live++;
    this.#unsent.push(request);
    if (!this.#flushing) {
      this.#flushing = true;
      // Whatever else this turn sends goes along, and what it aborts does not.
      queueMicrotask(() => this.#flush());
    }
  }

  /** Forgets a request that timed out or was aborted. */
  abandon(request: Request): void {
    if (this.#forget(request)) this.#settled();
    else this.#cut();
  }

  /** False if the connection cannot go on without the request. */
  #forget(request: Request): boolean {
    request.connection = undefined;
    this.#live--;
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
      return request.end <= this.#written || request.payload.length <= COPIED;
    }
    return true;
  }

  #cut(): void {
    this.destroy(new Error("A request was given up as it was written"));
  }

  /** Abandons the requests that have timed out, and returns them. */
  expired(now: number): Request[] {
    const expired: Request[] = [];
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
    else if (whole.length > 0) this.#settled();
    if (overdue) this.destroy(new Error("A response did not come"));
    if (now >= this.#owner.expiresAt) this.usable = false;
    return expired;
  }

  /** Fewer requests are on it than before. */
  #settled(): void {
    if (this.#dead) return;
    if (this.load > 0 && this.#live === 0) {
      // Nobody is left who waits, and it is not worth being in doubt.
      this.destroy(new Error("Every request was given up"));
    } else if (
      this.load === 0 && (this.#ended !== undefined || this.#writeFailed)
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
        const n = await this.#conn.read(this.#decoder.space());
        if (n === null) {
          throw new Deno.errors.UnexpectedEof("Server closed the connection");
        }
        empty = n > 0 ? 0 : empty + 1;
        if (empty === MAX_EMPTY_TRIES) throw noProgress("reads");
        this.#decoder.advance(n);
        const load = this.load;
        for (
          let frame = this.#decoder.decode();
          frame !== null;
          frame = this.#decoder.decode()
        ) this.#respond(frame);
        if (this.load === 0 && this.#decoder.buffered > 0) throw unasked();
        if (this.load < load) this.#settled();
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
    this.#live--;
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
        const n = await this.#conn.write(chunk);
        this.#encoder.advance(n);
        this.#offered = this.#written += n;
        if (this.#timer !== undefined && this.#written === this.#encoded) {
          clearTimeout(this.#timer);
          this.#timer = undefined;
          this.#settled();
        }
        empty = n > 0 ? 0 : empty + 1;
        if (empty === MAX_EMPTY_TRIES) throw noProgress("writes");
      }
      this.#flushing = false;
    } catch (error) {
      // What a write refuses, the server cannot have seen.
      if (this.#owner.exact) this.#offered = this.#written;
      this.#flushing = false;
      this.#stopSending(error);
    }
    this.#losing?.();
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
      request.start = this.#encoded;
      request.end = this.#encoded += this.#encoder.push(request.payload);
    }
  }

  /** Closes it once nothing is in flight; the promise, if it is not closed by
   * then, resolves when it is. */
  end(): Promise<void> | undefined {
    this.usable = false;
    if (this.load === 0) this.destroy(undefined);
    if (this.#dead) return undefined;
    return new Promise((resolve) => this.#ended = resolve);
  }

  /** Closes it now; what is in flight is lost. */
  destroy(cause: unknown): void {
    if (this.#dead) return;
    this.#dead = true;
    this.usable = false;
    clearTimeout(this.#timer);
    if (!this.#reused) this.stillborn = { cause };
    try {
      this.#conn.close();
    } catch {
      // Closed already, which is what is wanted.
    }
    this.#owner.died(this);
    this.#ended?.();
    if (this.load > 0 && this.#flushing) {
      // Closing settles the write under way, and its outcome decides what the
      // server can have seen.
      const timer = setTimeout(() => this.#losing?.(), SETTLE_TIMEOUT);
      this.#losing = () => {
        clearTimeout(timer);
        this.#losing = undefined;
        this.#lose(cause);
      };
    } else {
      this.#lose(cause);
    }
  }

  #lose(cause: unknown): void {
    // Part of a frame is part of the first response.
    const answered = this.#decoder.buffered > 0 || cause instanceof FrameError
      ? this.#sent.first
      : undefined;
    const requests: Request[] = [];
    for (const queue of [this.#sent, this.#unsent]) {
      for (let r = queue.first; r !== undefined; r = r.next) {
        if (r.connection === this) requests.push(r);
      }
      queue.first = undefined;
    }
    this.load = 0;
    for (const request of requests) {
      request.connection = undefined;
      const sent = request.end >= 0 && request.end <= this.#offered;
      const resend = this.#reused &&
        (!sent || (request.idempotent && request !== answered));
      request.sent ||= sent;
      this.#owner.lost(
        request,
        new ConnectionLostError(request.sent, { cause }),
        resend,
      );
    }
  }
}

/** Dials one address. */
class Dialler {
  readonly #address: { hostname: string; port: number } | { path: string };
  readonly #tls: ClientTlsOptions | undefined;
  readonly #timeout: number;
  readonly #noDelay: boolean;
  readonly #keepAlive: boolean;

  constructor(options: ClientOptions) {
    const { hostname, port, path, tls, noDelay = true, keepAlive = true } =
      options;
    if (path !== undefined) {
      checkType("path", path, "string");
      if (hostname !== undefined || port !== undefined || tls) {
        throw new TypeError(
          "Option path cannot be used with hostname, port or tls",
        );
      }
      this.#address = { path };
    } else {
      checkType("hostname", hostname, "string");
      checkInteger("port", port, 0, 0xffff);
      this.#address = { hostname: hostname ?? "127.0.0.1", port: port! };
    }
    if (typeof tls !== "boolean") checkType("tls", tls, "object");
    this.#tls = tls === true ? {} : tls === false ? undefined : tls;
    if ((this.#tls?.cert === undefined) !== (this.#tls?.key === undefined)) {
      throw new TypeError("Options tls.cert and tls.key need each other");
    }
    this.#timeout = checkDelay("connectTimeout", options, 3_000);
    checkType("noDelay", noDelay, "boolean");
    checkType("keepAlive", keepAlive, "boolean");
    this.#noDelay = noDelay;
    this.#keepAlive = keepAlive;
  }

  /** Whether it speaks TLS. */
  get secure(): boolean {
    return this.#tls !== undefined;
  }

  /**
   * Dials, within the time there is.
   *
   * @param signal Gives the dial up when it aborts.
   */
  async dial(signal: AbortSignal): Promise<Deno.Conn> {
    const giveUp = new AbortController();
    const { promise: givenUp, reject } = Promise.withResolvers<never>();
    const stop = (reason: unknown) => {
      giveUp.abort(reason);
      reject(reason);
    };
    const abort = () => stop(signal.reason);
    const timer = this.#timeout === 0 ? undefined : setTimeout(() => {
      stop(
        new Deno.errors.TimedOut(
          `Dial was not complete within ${this.#timeout} ms`,
        ),
      );
    }, this.#timeout);
    signal.addEventListener("abort", abort);
    if (signal.aborted) abort();
    try {
      // Not every step of a dial can be cancelled: the race does not depend
      // on it, and what is left behind cleans up after itself.
      return await Promise.race([this.#connect(giveUp.signal), givenUp]);
    } catch (cause) {
      throw new ConnectError(`Cannot connect to ${this.#describe()}`, {
        cause,
      });
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
    }
  }

  async #connect(signal: AbortSignal): Promise<Deno.Conn> {
    signal.throwIfAborted();
    let conn: Deno.Conn;
    if ("path" in this.#address) {
      conn = await Deno.connect({ transport: "unix", ...this.#address });
    } else if (this.#tls?.cert !== undefined && this.#tls.key !== undefined) {
      const { cert, key } = this.#tls;
      conn = await Deno.connectTls({
        ...this.#address,
        ...this.#tls,
        cert,
        key,
      });
    } else {
      const tcp = await Deno.connect({ ...this.#address, signal });
      conn = tcp;
      try {
        if (this.#noDelay) tcp.setNoDelay();
        if (this.#keepAlive) tcp.setKeepAlive();
        if (this.#tls !== undefined) {
          const { hostname } = this.#address;
          const { caCerts, alpnProtocols } = this.#tls;
          conn = await Deno.startTls(tcp, {
            hostname,
            ...(caCerts === undefined ? {} : { caCerts }),
            ...(alpnProtocols === undefined ? {} : { alpnProtocols }),
          });
        }
      } catch (error) {
        conn[Symbol.dispose]();
        throw error;
      }
    }
    const close = () => conn[Symbol.dispose]();
    if (signal.aborted) close();
    signal.throwIfAborted();
    if (this.#tls !== undefined) {
      signal.addEventListener("abort", close);
      try {
        await (conn as Deno.TlsConn).handshake();
      } catch (error) {
        close();
        throw error;
      } finally {
        signal.removeEventListener("abort", close);
      }
    }
    return conn;
  }

  #describe(): string {
    if ("path" in this.#address) return this.#address.path;
    const { hostname, port } = this.#address;
    return `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
  }
}

/** The shorter of two delays of which 0 is for ever. */
function shorter(a: number, b: number): number {
  return a === 0 ? b : b === 0 ? a : Math.min(a, b);
}

function unasked(): Error {
  return new Deno.errors.InvalidData(
    "Server sent what was not asked for",
  );
}

function noProgress(what: string): Error {
  return new Error(
    `No progress: ${MAX_EMPTY_TRIES} ${what} in a row moved 0 bytes`,
  );
}

function checkDelay<K extends string>(
  name: K,
  options: { [P in K]?: number },
  defaultValue: number,
): number {
  const { [name]: value = defaultValue } = options;
  if (typeof value !== "number") {
    throw new TypeError(
      `Option ${name} must be a number, received ${String(value)}`,
    );
  }
  if (!(value >= 0 && value <= MAX_DELAY)) {
    throw new RangeError(
      `Option ${name} must be from 0 to ${MAX_DELAY} ms, received ${value}`,
    );
  }
  return value;
}

function checkInteger(
  name: string,
  value: unknown,
  min: number,
  max: number,
): void {
  if (typeof value !== "number") {
    throw new TypeError(
      `Option ${name} must be a number, received ${String(value)}`,
    );
  }
  if (!Number.isInteger(value) || value < min || value > max) {
    throw new RangeError(
      `Option ${name} must be an integer from ${min} to ${max}, received ${value}`,
    );
  }
}

function checkType(
  name: string,
  value: unknown,
  type: "boolean" | "function" | "object" | "string",
): void {
  if (value === undefined) return;
  if (typeof value !== type || value === null) {
    throw new TypeError(
      `Option ${name} must be a ${type}, received ${String(value)}`,
    );
  }
}
