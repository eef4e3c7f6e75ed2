/**
 * A server of length-prefixed frames over TCP, TLS or Unix sockets: for each
 * frame that comes in, a handler makes the one that goes back, in the order
 * of the requests.
 *
 * ```text
 *            one read              whole frames         in request order
 *  socket ------------> FrameDecoder ------> handler ------> FrameEncoder
 *     ^                                                           |
 *     +-------------------------- one write ----------------------+
 * ```
 *
 * @example Answer every frame
 * ```ts
 * import { serve } from "@wirepool/net/server";
 * import { Client } from "@wirepool/net/client";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0 }, (payload) => payload.toReversed());
 * const { port } = server.addr as Deno.NetAddr;
 *
 * await using client = new Client({ port });
 * const answer = await client.send(new Uint8Array([1, 2, 3]));
 * assertEquals(answer, new Uint8Array([3, 2, 1]));
 * ```
 *
 * @module
 */

import { FrameDecoder, FrameEncoder, type FrameOptions } from "./codec.ts";

/** Bytes of responses that may wait to be written before a connection takes
 * no more requests: enough to keep a fast reader busy, and what a slow one
 * can cost. */
const MAX_OUTGOING = 256 * 1024;

/** Bytes that may be read ahead while handlers are busy. Reading on is how a
 * reset is noticed while they are. */
const MAX_READ_AHEAD = 64 * 1024;

/** How long a connection that we end waits for the other side to end it too.
 * Closing over unread bytes would reset the connection, and a reset may
 * overtake the responses before it. */
const LINGER = 500;

/** Turns of the event loop for which a shutdown reads what has arrived. Peers
 * that never stop sending are not waited for. */
const MAX_DRAIN_TURNS = 50;

/** First and longest pause after an accept that failed for want of resources,
 * in milliseconds: Go's `net/http` uses the same. */
const MIN_BACKOFF = 5;
const MAX_BACKOFF = 1000;

/** Turns of the microtask queue without a new response before what has been
 * answered is written: handlers that are `async` but wait for nothing settle
 * within so many, and their responses then leave in one write. */
const FLUSH_PATIENCE = 10;

/** Reads, writes or accepts in a row that may come to nothing before a broken
 * transport is taken for what it is. */
const MAX_EMPTY_TRIES = 100;

/** The longest delay that timers can express. */
const MAX_DELAY = 2 ** 31 - 1;

/** Where bytes that nobody wants are read to; shared, since nobody looks. */
const SCRAP: Uint8Array<ArrayBuffer> = new Uint8Array(4096);

/**
 * Makes the response to one request.
 *
 * The payload is a view on memory that is never written again, so it may be
 * kept, and even returned; see `FrameDecoder` for what keeping it keeps alive.
 * What is returned belongs to the server and must not be changed afterwards.
 * With nothing returned, no response is written.
 */
export type Handler = (
  payload: Uint8Array<ArrayBuffer>,
  context: HandlerContext,
) => Uint8Array | null | void | Promise<Uint8Array | null | void>;

/** What a {@linkcode Handler} knows of its connection. Every request of a
 * connection gets the same object, so it can be the key of a `WeakMap` that
 * holds what belongs to the connection. */
export interface HandlerContext {
  /** The other side's address; an unnamed Unix socket's where the transport
   * has none. */
  readonly remoteAddr: Deno.Addr;
  /** This side's address; likewise. */
  readonly localAddr: Deno.Addr;
  /** Aborts when the connection or the server goes, and as soon as the peer
   * ends its stream, behind which nothing tells one that has gone from one that
   * has only closed its writing side. Who returns a response all the same has
   * it written, to whoever is left to read it. */
  readonly signal: AbortSignal;
}

/** Options of {@linkcode serveConnection}, and those of {@linkcode serve}
 * that concern one connection. Durations are in milliseconds, up to
 * 2147483647. */
export interface ConnectionOptions extends FrameOptions {
  /**
   * Handlers at once on one connection, at least 1; responses keep the
   * requests' order.
   *
   * @default {1}
   */
  concurrency?: number;
  /**
   * How long a connection may be silent between frames; 0 is for ever.
   *
   * @default {300_000}
   */
  idleTimeout?: number;
  /**
   * How long a frame may take from its first byte to its last; 0 is for ever.
   *
   * @default {30_000}
   */
  readTimeout?: number;
  /**
   * How long one write may make no progress; 0 is for ever.
   *
   * @default {30_000}
   */
  writeTimeout?: number;
  /** Ends everything at once when it aborts, as {@linkcode Server.close}
   * does. */
  signal?: AbortSignal;
  /**
   * Told of what went wrong: a handler that threw, a frame that could not be
   * read, a timeout within one, of a write or of a handshake, an accept that
   * failed for want of resources (which has no context). A peer that
   * disconnects is no error, nor is the end of an idle connection.
   *
   * For a handler's error it may return bytes (or a promise of them): they
   * are the response, and the connection lives. Otherwise the connection is
   * closed after the responses before it.
   *
   * @default {undefined} Errors close their connection and are counted.
   */
  onError?: (error: unknown, context: HandlerContext | undefined) => unknown;
  /** Observers of requests; they cost nothing where they are not set. */
  hooks?: ServerHooks;
}

/** Observers for metrics and traces. One that throws is reported to `onError`
 * and changes nothing. */
export interface ServerHooks {
  /** A request of so many bytes is about to be handled. */
  requestStart?(context: HandlerContext, requestBytes: number): void;
  /** A handler has settled. */
  requestEnd?(request: RequestSummary): void;
}

/** What {@linkcode ServerHooks.requestEnd} is told. */
export interface RequestSummary {
  /** The connection's context. */
  readonly context: HandlerContext;
  /** Milliseconds that the handler took. */
  readonly duration: number;
  /** Length of the request's payload in bytes. */
  readonly requestBytes: number;
  /** Length of the response's payload in bytes; 0 where there is none. */
  readonly responseBytes: number;
  /** What the handler threw, if it did. */
  readonly error?: unknown;
}

/** Options of {@linkcode serve}. */
export interface ServeOptions extends ConnectionOptions {
  /**
   * Address to listen on.
   *
   * @default {"127.0.0.1"}
   */
  hostname?: string;
  /**
   * Port to listen on, up to 65535; 0 picks a free one, which `addr` tells.
   *
   * @default {0}
   */
  port?: number;
  /** Path of a Unix socket to listen on, instead of an address. */
  path?: string;
  /** Certificate chain in PEM format; with `key`, the server speaks TLS. */
  cert?: string;
  /** Private key in PEM format. */
  key?: string;
  /** Protocols offered in the TLS handshake. */
  alpnProtocols?: string[];
  /**
   * Lets several processes share the port. Needs `--unstable-net`.
   *
   * @default {false}
   */
  reusePort?: boolean;
  /**
   * Connections that may wait to be accepted, at least 1.
   *
   * @default {511}
   */
  tcpBacklog?: number;
  /**
   * Switches Nagle's algorithm off on TCP connections.
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
   * Accepting pauses while so many connections are open, at least 1.
   *
   * @default {Infinity}
   */
  maxConnections?: number;
  /**
   * How long a TLS handshake, or the PROXY header, may take; 0 is for ever.
   *
   * @default {10_000}
   */
  handshakeTimeout?: number;
  /**
   * How long {@linkcode Server.shutdown} waits before it forces; 0 is for
   * ever.
   *
   * @default {10_000}
   */
  shutdownTimeout?: number;
  /**
   * Expects each connection to begin with a PROXY protocol header, version 1
   * or 2, as load balancers send it, and takes `remoteAddr` and `localAddr`
   * from it. A connection without a good one is closed. Not with TLS.
   *
   * @default {false}
   */
  proxyProtocol?: boolean;
  /** Told the address once the server listens. */
  onListen?: (addr: Deno.Addr) => void;
}

/** A snapshot of a server's figures; totals are since it started. */
export interface ServerStats {
  /** Connections open now. */
  connections: number;
  /** Connections accepted. */
  totalConnections: number;
  /** Requests handed to the handler. */
  requests: number;
  /** Requests whose handler has not settled. */
  inFlight: number;
  /** Bytes read from connections. */
  bytesIn: number;
  /** Bytes written to connections. */
  bytesOut: number;
  /** Handlers that failed, and connections that were cut for a bad frame, a
   * timeout (but that of an idle connection) or a failed handshake. */
  errors: number;
  /** Accepts that failed. */
  acceptErrors: number;
}

/** What {@linkcode serve} returns; shaped like `Deno.HttpServer`. */
export interface Server extends AsyncDisposable {
  /** The address that the server listens on. */
  readonly addr: Deno.Addr;
  /** Resolves when the server has stopped and every connection has ended. */
  readonly finished: Promise<void>;
  /**
   * Ends gracefully: stops accepting, ends idle connections at once, lets
   * requests already received finish and their responses leave, and forces
   * what is left after `shutdownTimeout`. Received is what was read: a
   * connection whose handlers are busy reads ahead no more than 64 KiB. A peer
   * that was sending has half a second to take its responses and close.
   *
   * @param options `signal`: forces at once when it aborts.
   * @returns Once every connection has ended; a second call joins the first.
   */
  shutdown(options?: { signal?: AbortSignal }): Promise<void>;
  /** Ends now: closes every connection and aborts the handlers' signals. */
  close(): void;
  /** Makes the server keep the process alive, which is the default. */
  ref(): void;
  /** Lets the process end although the server runs. With TLS it does not, as
   * of Deno 2.9, whose TLS listeners keep the process alive in any case. */
  unref(): void;
  /** A snapshot of the figures. */
  stats(): ServerStats;
  /** Ends gracefully, as {@linkcode Server.shutdown}. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** What {@linkcode serveConnection} serves: `Deno.Conn` is one. */
export interface ServableConnection {
  /** Reads up to `p.length` bytes into `p`; resolves to `null` at the end. */
  read(p: Uint8Array<ArrayBuffer>): Promise<number | null>;
  /** Writes bytes of `p` and resolves to their number; does not keep `p`. */
  write(p: Uint8Array): Promise<number>;
  /** Closes both ways; reads and writes under way then settle. */
  close(): void;
  /** Closes the writing side, if the transport can. */
  closeWrite?(): Promise<void>;
  /** The other side's address, if there is one. */
  readonly remoteAddr?: Deno.Addr;
  /** This side's address, if there is one. */
  readonly localAddr?: Deno.Addr;
}

/**
 * Serves frames on an address.
 *
 * - A connection that fails in any way is closed, and no other is touched.
 * - Accept errors never end the server.
 * - A slow reader stops the reading of its own connection, not of others.
 * - Timeouts fire at most 10 % or 50 ms late, whichever is more.
 *
 * @param options Where to listen, and the limits.
 * @param handler Makes the responses.
 * @returns The running server.
 * @throws {TypeError | RangeError} If an option is of the wrong type or out of
 * its range.
 * @throws What `Deno.listen` throws, such as `Deno.errors.AddrInUse`.
 *
 * @example Drain on a signal
 * ```ts
 * import { serve } from "@wirepool/net/server";
 * import { assertEquals } from "@std/assert";
 *
 * const server = serve({ onListen() {} }, (payload) => payload);
 * // Deno.addSignalListener("SIGTERM", () => server.shutdown());
 * await server.shutdown();
 * assertEquals(server.stats().connections, 0);
 * ```
 */
export function serve(options: ServeOptions, handler: Handler): Server {
  return new Listening(options, handler);
}

/**
 * Serves the frames of one connection, over anything with `read`, `write` and
 * `close`. It owns the connection from then on, and closes it.
 *
 * @param conn The connection.
 * @param handler Makes the responses.
 * @param options The limits.
 * @returns Once the connection has ended, for whatever reason: failures go to
 * `onError`.
 * @throws {TypeError | RangeError} If an option is of the wrong type or out of
 * its range.
 *
 * @example Serve a connection that is no socket
 * ```ts
 * import { serveConnection } from "@wirepool/net/server";
 * import { encodeFrame } from "@wirepool/net/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const requests = [encodeFrame(new Uint8Array([1, 2]))];
 * const written: number[] = [];
 * await serveConnection({
 *   read(p) {
 *     const request = requests.shift();
 *     if (request !== undefined) p.set(request);
 *     return Promise.resolve(request?.length ?? null);
 *   },
 *   write(p) {
 *     written.push(...p);
 *     return Promise.resolve(p.length);
 *   },
 *   close() {},
 * }, (payload) => payload.toReversed());
 * assertEquals(written, [0, 0, 0, 0, 0, 0, 0, 2, 2, 1]);
 * ```
 */
export async function serveConnection(
  conn: ServableConnection,
  handler: Handler,
  options: ConnectionOptions = {},
): Promise<void> {
  const limits = new Limits(handler, options);
  const { signal } = limits;
  const stats = newStats();
  const sweeper = new Sweeper(limits);
  const { promise: ended, resolve } = Promise.withResolvers<void>();
  const connection = new Connection(conn, limits, stats, () => resolve());
  const abort = () => connection.destroy(signal?.reason);
  if (signal?.aborted) return abort();
  signal?.addEventListener("abort", abort, { once: true });
  sweeper.add(connection);
  connection.serve();
  await ended;
  sweeper.delete(connection);
  signal?.removeEventListener("abort", abort);
}

/** Options of a connection, checked and completed, shared by all of a server. */
class Limits {
  readonly frame: FrameOptions;
  readonly handler: Handler;
  readonly concurrency: number;
  readonly idleTimeout: number;
  readonly readTimeout: number;
  readonly writeTimeout: number;
  readonly onError: ConnectionOptions["onError"];
  readonly signal: AbortSignal | undefined;

  constructor(handler: Handler, options: ConnectionOptions) {
    if (typeof handler !== "function") {
      throw new TypeError(
        `Handler must be a function, received ${String(handler)}`,
      );
    }
    if (typeof options !== "object" || options === null) {
      throw new TypeError(
        `Options must be an object, received ${String(options)}`,
      );
    }
    const { concurrency = 1, onError, hooks, signal } = options;
    // Judges the layout now, not per connection.
    this.frame = new FrameEncoder(options).options;
    this.signal = signal;
    checkInteger("concurrency", concurrency, 1, Number.MAX_SAFE_INTEGER);
    this.concurrency = concurrency;
    this.idleTimeout = checkDelay(options, "idleTimeout", 300_000);
    this.readTimeout = checkDelay(options, "readTimeout", 30_000);
    this.writeTimeout = checkDelay(options, "writeTimeout", 30_000);
    checkType("onError", onError, "function");
    checkType("hooks", hooks, "object");
    if (signal !== undefined && !(signal instanceof AbortSignal)) {
      throw new TypeError(
        `Option signal must be an AbortSignal, received ${String(signal)}`,
      );
    }
    this.onError = onError;
    this.handler = hooks === undefined
      ? handler
      : this.#observe(handler, hooks);
  }

  /** Reports an error that nothing is answered to. */
  report(error: unknown, context?: HandlerContext): void {
    try {
      const { onError } = this;
      const outcome = onError?.(error, context);
      if (isThenable(outcome)) Promise.resolve(outcome).catch(() => {});
    } catch {
      // As above.
    }
  }

  #observe(handler: Handler, hooks: ServerHooks): Handler {
    const tell = (context: HandlerContext, hook: () => unknown) => {
      const failed = (error: unknown) => this.report(error, context);
      try {
        const outcome = hook();
        if (isThenable(outcome)) Promise.resolve(outcome).catch(failed);
      } catch (error) {
        failed(error);
      }
    };
    return (payload, context) => {
      const requestBytes = payload.length;
      tell(context, () => hooks.requestStart?.(context, requestBytes));
      const start = performance.now();
      const end = (result: unknown, failure?: { error: unknown }) => {
        const duration = performance.now() - start;
        const responseBytes = result instanceof Uint8Array ? result.length : 0;
        tell(context, () =>
          hooks.requestEnd?.({
            context,
            duration,
            requestBytes,
            responseBytes,
            ...failure,
          }));
      };
      const failed = (error: unknown): never => {
        end(undefined, { error });
        throw error;
      };
      const ended = <T>(result: T): T => {
        end(result);
        return result;
      };
      let result: ReturnType<Handler>;
      try {
        result = handler(payload, context);
      } catch (error) {
        return failed(error);
      }
      return isThenable(result)
        ? Promise.resolve(result).then(ended, failed)
        : ended(result);
    };
  }
}

type Timer = ReturnType<typeof setTimeout>;

/** Looks at every connection now and then, instead of a timer for each. */
class Sweeper {
  readonly #connections = new Set<Connection>();
  readonly #interval: number;
  #timer: Timer | undefined;

  constructor(limits: Limits) {
    const delays = [
      limits.idleTimeout,
      limits.readTimeout,
      limits.writeTimeout,
    ].filter((delay) => delay > 0);
    // What a sweep sees first may be one interval old, and what is due may
    // wait for one more: two intervals are the 10 % or 50 ms that are promised.
    this.#interval = delays.length === 0
      ? 0
      : Math.max(25, Math.min(...delays) / 20);
  }

  get connections(): ReadonlySet<Connection> {
    return this.#connections;
  }

  add(connection: Connection): void {
    this.#connections.add(connection);
    if (this.#timer !== undefined || this.#interval === 0) return;
    let last = performance.now();
    let excused = false;
    const timer = setInterval(() => {
      const now = performance.now();
      // Late itself: the thread was busy, and what has come meanwhile may not
      // have been read yet. It must not be cut for that.
      excused = !excused && now - last > 2 * this.#interval;
      last = now;
      if (excused) return;
      for (const connection of this.#connections) connection.sweep(now);
    }, this.#interval);
    Deno.unrefTimer(timer);
    this.#timer = timer;
  }

  delete(connection: Connection): void {
    this.#connections.delete(connection);
    if (this.#connections.size === 0) {
      clearInterval(this.#timer);
      this.#timer = undefined;
    }
  }
}

/** A request whose response is not yet in the encoder. */
interface Slot {
  /** A response, nothing, or {@linkcode END}; undefined until settled. */
  result: unknown;
  settled: boolean;
  next: Slot | null;
}

/** In place of a response: the connection ends here. */
const END: unique symbol = Symbol("end");

/**
 * One connection. Three things go on at once:
 *
 * ```text
 * read loop    read -> decoder -> take frames; pauses while its frames cannot
 *              be taken and enough has been read ahead
 * slots        requests that wait for a promise, in order; a settled one at
 *              the front moves its response to the encoder
 * flush        encoder -> write, one at a time
 *
 * state        reads   takes frames   left by
 * open         yes     yes            end of stream, bad frame, handler error,
 *                                     drain()
 * ending       no      if drained     last response written
 * lingering    away    no             end of stream, LINGER over
 * closed       no      no
 * ```
 */
class Connection {
  readonly context: Context;
  readonly #conn: ServableConnection;
  readonly #limits: Limits;
  readonly #stats: ServerStats;
  readonly #decoder: FrameDecoder;
  readonly #encoder: FrameEncoder;

  #state: "open" | "ending" | "lingering" | "closed" = "open";
  /** There is nothing to linger for: the stream has ended, or nothing was
   * going on. */
  #quiet = false;
  /** Frames are still taken from the decoder. */
  #taking = true;
  /** A whole frame may be in the decoder that could not be taken. */
  #blocked = false;
  /** What comes before the first frame is under way, with a limit of its own. */
  #greeting = false;
  /** Wakes the read loop from its pause. */
  #wake: (() => void) | null = null;
  /** Limits the handshake, and later the lingering. */
  #timer: Timer | undefined;

  /** Slots in request order. */
  #first: Slot | null = null;
  #last: Slot | null = null;
  #slots = 0;
  /** Bytes of settled responses that wait behind an unsettled slot. */
  #heldBack = 0;

  #writing = false;
  #flushQueued = false;
  /** Counts what was moved to the encoder, for the flush's patience. */
  #responses = 0;

  // What sweeps compare: a counter that moves with progress, what it was when
  // the wait was first seen, and when that was.
  #waiting: "frame" | "request" | null = null;
  #frames = 0;
  #framesSeen = 0;
  #waitingSince = 0;
  #written = 0;
  #writtenSeen = 0;
  #writingSince = -1;

  /** Told once, when the connection has ended. A function, and no promise that
   * somebody awaits: with the read loop it would be a third of what an idle
   * connection holds. */
  readonly #onEnd: (connection: Connection) => void;

  constructor(
    conn: ServableConnection,
    limits: Limits,
    stats: ServerStats,
    onEnd: (connection: Connection) => void,
  ) {
    this.#conn = conn;
    this.#onEnd = onEnd;
    this.#limits = limits;
    this.#stats = stats;
    this.context = new Context(conn);
    this.#decoder = new FrameDecoder(limits.frame);
    this.#encoder = new FrameEncoder(limits.frame);
  }

  /**
   * Begins to serve.
   *
   * @param prelude What comes before the first frame; it resolves to bytes of
   * frames that it has read already.
   * @param timeout How long that may take, in milliseconds; 0 is for ever.
   */
  serve(prelude?: Promise<Uint8Array | void>, timeout = 0): void {
    if (prelude === undefined) this.#readLoop();
    else this.#greet(prelude, timeout);
  }

  async #greet(
    prelude: Promise<Uint8Array | void>,
    timeout: number,
  ): Promise<void> {
    try {
      this.#greeting = true;
      if (timeout > 0) {
        this.#timer = setTimeout(() => {
          this.fail(
            new TimeoutError(`Handshake was not complete within ${timeout} ms`),
          );
        }, timeout);
        // The connection keeps the process alive, if it is to.
        Deno.unrefTimer(this.#timer);
      }
      const bytes = await prelude;
      clearTimeout(this.#timer);
      this.#greeting = false;
      if (bytes !== undefined && bytes.length > 0) {
        this.#stats.bytesIn += bytes.length;
        this.#decoder.push(bytes);
        this.#takeFrames();
      }
    } catch (error) {
      return this.fail(error);
    }
    this.#readLoop();
  }

  async #readLoop(): Promise<void> {
    try {
      for (let empty = 0;;) {
        while (this.#mustPause()) {
          await new Promise<void>((resolve) => this.#wake = resolve);
        }
        if (this.#state === "closed") return;
        const n = await this.#conn.read(
          this.#state === "open" ? this.#decoder.space() : SCRAP,
        );
        if (n === null) break;
        empty = n > 0 ? 0 : empty + 1;
        if (empty === MAX_EMPTY_TRIES) throw noProgress("reads");
        // A read may have been under way when no more frames were to be taken.
        if (this.#state === "lingering" || !this.#taking) continue;
        this.#decoder.advance(n);
        this.#stats.bytesIn += n;
        this.#takeFrames();
      }
    } catch (error) {
      return this.fail(error);
    }
    // An end inside a frame is a disconnect, as one between frames is. The
    // requests before it are answered: the other side may have closed only
    // its writing side. A handler that asks may give up.
    this.#quiet = true;
    if (this.#state === "lingering") return this.destroy();
    this.context.abort();
    this.#end();
  }

  #mustPause(): boolean {
    if (this.#state === "ending") return true;
    return this.#state === "open" && this.#blocked &&
      (this.#encoder.buffered >= MAX_OUTGOING ||
        this.#decoder.buffered >= MAX_READ_AHEAD);
  }

  /** Room for one more request: in count, and in bytes of responses. */
  #canTake(): boolean {
    return this.#slots < this.#limits.concurrency &&
      this.#encoder.buffered + this.#heldBack < MAX_OUTGOING;
  }

  /** Handles the whole frames in the decoder, as many as there is room for. */
  #takeFrames(): void {
    try {
      while (this.#taking) {
        this.#blocked = !this.#canTake();
        if (this.#blocked) break;
        const frame = this.#decoder.decode();
        if (frame === null) break;
        this.#frames++;
        this.#handle(frame);
      }
    } catch (error) {
      // A bad frame; the requests before it are answered.
      this.#stats.errors++;
      this.#limits.report(error, this.context);
      this.#taking = false;
      this.#end();
    }
    // While handlers are in progress, others may settle in this very turn.
    if (this.#first === null) this.#flush();
    else this.#flushSoon();
  }

  #handle(frame: Uint8Array<ArrayBuffer>): void {
    this.#stats.requests++;
    this.#stats.inFlight++;
    let result: unknown;
    try {
      const { handler } = this.#limits;
      result = handler(frame, this.context);
      if (result instanceof Uint8Array || !isThenable(result)) {
        // Nothing to wait for; with nobody before it: no slot, no turn.
        const nothing = result === undefined || result === null;
        if (this.#first === null) {
          if (!nothing) this.#encoder.push(result as Uint8Array);
          this.#stats.inFlight--;
          return;
        }
        if (!nothing) this.#encoder.measure(result as Uint8Array);
      }
    } catch (error) {
      result = this.#recover(error);
    }
    const slot: Slot = { result: undefined, settled: false, next: null };
    if (this.#last === null) this.#first = slot;
    else this.#last.next = slot;
    this.#last = slot;
    this.#slots++;
    if (isThenable(result)) this.#await(slot, result);
    else this.#settle(slot, result);
  }

  async #await(slot: Slot, pending: PromiseLike<unknown>): Promise<void> {
    let result: unknown;
    try {
      result = await pending;
      if (result !== undefined && result !== null && result !== END) {
        this.#encoder.measure(result as Uint8Array);
      }
    } catch (error) {
      result = await this.#recover(error);
    }
    try {
      this.#settle(slot, result);
      this.#takeFrames();
      this.#resume();
    } catch (error) {
      // A response was judged good and changed while it waited for others.
      this.fail(error);
    }
  }

  /** Asks `onError` for a response in place of a failed handler's. It never
   * throws or rejects. */
  #recover(error: unknown): unknown {
    // A handler that gave up because its connection had gone has not failed.
    if (this.context.abortedWith(error)) return END;
    this.#stats.errors++;
    const usable = (answer: unknown) => {
      try {
        this.#encoder.measure(answer as Uint8Array);
        return answer;
      } catch {
        return END;
      }
    };
    try {
      const { onError } = this.#limits;
      const answer = onError?.(error, this.context);
      return isThenable(answer)
        ? Promise.resolve(answer).then(usable, () => END)
        : usable(answer);
    } catch {
      // There is nobody left to tell.
      return END;
    }
  }

  #settle(slot: Slot, result: unknown): void {
    this.#stats.inFlight--;
    slot.settled = true;
    slot.result = result;
    // What comes after a failure has no response: it is not to be handled.
    if (result === END) this.#taking = false;
    if (result instanceof Uint8Array) this.#heldBack += result.length;
    while (this.#first !== null && this.#first.settled) {
      const { result, next } = this.#first;
      this.#first = next;
      if (next === null) this.#last = null;
      this.#slots--;
      if (result instanceof Uint8Array) {
        this.#heldBack -= result.length;
        this.#encoder.push(result);
        this.#responses++;
      } else if (result === END) {
        // What comes after it is not answered, though it may be in progress.
        this.#first = this.#last = null;
        this.#end();
      }
    }
  }

  /** Something was done that the read loop or the end may wait for. */
  #resume(): void {
    if (!this.#mustPause()) this.#wakeReader();
    this.#closeIfDone();
  }

  #wakeReader(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  /** Writes once no handler has settled for some turns of the microtasks. */
  #flushSoon(): void {
    if (
      this.#flushQueued || this.#writing || this.#encoder.buffered === 0
    ) return;
    this.#flushQueued = true;
    let patience = FLUSH_PATIENCE;
    let seen = this.#responses;
    const turn = () => {
      if (seen !== this.#responses) {
        seen = this.#responses;
        patience = FLUSH_PATIENCE;
      } else if (--patience === 0) {
        this.#flushQueued = false;
        return this.#flush();
      }
      queueMicrotask(turn);
    };
    queueMicrotask(turn);
  }

  #flush(): void {
    if (this.#writing || this.#encoder.buffered === 0) return;
    this.#writing = true;
    // Not in this very moment: the reads of other connections that came in the
    // same turn of the event loop are then handled before the first write, so
    // that writes follow each other, and peers do not wake in between. That is
    // worth a tenth of the throughput.
    queueMicrotask(() => this.#write());
  }

  async #write(): Promise<void> {
    try {
      let empty = 0;
      for (
        let chunk = this.#encoder.chunk();
        chunk !== null && this.#state !== "closed";
        chunk = this.#encoder.chunk()
      ) {
        const n = await this.#conn.write(chunk);
        this.#encoder.advance(n);
        this.#written += n;
        this.#stats.bytesOut += n;
        empty = n > 0 ? 0 : empty + 1;
        if (empty === MAX_EMPTY_TRIES) throw noProgress("writes");
        if (this.#blocked) this.#takeFrames();
        this.#resume();
      }
      this.#writing = false;
      this.#closeIfDone();
    } catch (error) {
      this.fail(error);
    }
  }

  /**
   * Ends gracefully: takes no more bytes, answers what has come whole.
   *
   * @param quiet Nothing has come of late: an idle connection is just closed.
   */
  drain(quiet: boolean): void {
    if (
      this.#greeting ||
      (quiet && this.#first === null && !this.#blocked &&
        this.#decoder.buffered === 0 && this.#encoder.buffered === 0)
    ) {
      this.#quiet = true;
    }
    this.#end();
  }

  #end(): void {
    if (this.#state === "open") this.#state = "ending";
    this.#closeIfDone();
  }

  /** Half-closes once the last response has been written, then lingers. */
  #closeIfDone(): void {
    if (
      this.#state !== "ending" || this.#first !== null ||
      (this.#taking && this.#blocked) || this.#encoder.buffered > 0 ||
      this.#writing
    ) return;
    if (this.#quiet || this.#conn.closeWrite === undefined) {
      return this.destroy();
    }
    this.#state = "lingering";
    this.#timer = setTimeout(() => this.destroy(), LINGER);
    this.#halfClose();
    this.#wakeReader();
  }

  async #halfClose(): Promise<void> {
    try {
      await this.#conn.closeWrite?.();
    } catch {
      this.destroy();
    }
  }

  /** Ends at once after an error of the transport. */
  fail(error: unknown): void {
    if (this.#state === "closed") return;
    if (!isDisconnect(error)) {
      this.#stats.errors++;
      this.#limits.report(error, this.context);
    }
    this.destroy(error);
  }

  /** Ends at once. */
  destroy(reason?: unknown): void {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#taking = false;
    this.#first = this.#last = null;
    clearTimeout(this.#timer);
    try {
      const closing: unknown = this.#conn.close();
      if (isThenable(closing)) Promise.resolve(closing).catch(() => {});
    } catch {
      // Closed already, which is what is wanted.
    }
    this.#wakeReader();
    this.context.abort(reason);
    this.#onEnd(this);
  }

  /** Cuts what has waited too long, and notes what it waits for now. */
  sweep(now: number): void {
    const { idleTimeout, readTimeout, writeTimeout } = this.#limits;
    if (!this.#writing) {
      this.#writingSince = -1;
    } else if (
      this.#writingSince < 0 || this.#written !== this.#writtenSeen
    ) {
      this.#writingSince = now;
      this.#writtenSeen = this.#written;
    } else if (writeTimeout > 0 && now - this.#writingSince >= writeTimeout) {
      return this.fail(
        new TimeoutError(`Write made no progress for ${writeTimeout} ms`),
      );
    }
    const waiting = this.#state !== "open" || !this.#taking || this.#blocked ||
        this.#greeting
      ? null
      : this.#decoder.buffered > 0
      ? "frame"
      : this.#first === null && !this.#writing
      ? "request"
      : null;
    if (waiting !== this.#waiting || this.#frames !== this.#framesSeen) {
      this.#waiting = waiting;
      this.#framesSeen = this.#frames;
      this.#waitingSince = now;
      return;
    }
    const waited = now - this.#waitingSince;
    if (waiting === "frame" && readTimeout > 0 && waited >= readTimeout) {
      this.fail(
        new TimeoutError(`Frame was not complete within ${readTimeout} ms`),
      );
    } else if (
      waiting === "request" && idleTimeout > 0 && waited >= idleTimeout
    ) {
      this.destroy(
        new TimeoutError(`Connection was idle for ${idleTimeout} ms`),
      );
    }
  }

  setRef(ref: boolean): void {
    const conn = this.#conn as Partial<Deno.Conn>;
    if (ref) conn.ref?.();
    else conn.unref?.();
  }
}

/** The context of a connection; its signal is made when it is asked for. */
class Context implements HandlerContext {
  readonly #conn: ServableConnection;
  #proxied: ProxiedAddresses | undefined;
  #controller: AbortController | undefined;
  #aborted = false;
  #reason: unknown;

  constructor(conn: ServableConnection) {
    this.#conn = conn;
  }

  get remoteAddr(): Deno.Addr {
    return this.#proxied?.source ?? this.#conn.remoteAddr ?? UNNAMED;
  }

  get localAddr(): Deno.Addr {
    return this.#proxied?.destination ?? this.#conn.localAddr ?? UNNAMED;
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#aborted) this.#controller.abort(this.#reason);
    }
    return this.#controller.signal;
  }

  abort(
    reason: unknown = new DOMException("The connection ended", "AbortError"),
  ): void {
    if (this.#aborted) return;
    this.#aborted = true;
    this.#reason = reason;
    this.#controller?.abort(reason);
  }

  /** Whether an error is the reason that the signal was aborted with. */
  abortedWith(error: unknown): boolean {
    return this.#aborted && error === this.#reason;
  }

  proxied(addresses: ProxiedAddresses): void {
    this.#proxied = addresses;
  }
}

const UNNAMED: Deno.UnixAddr = { transport: "unix", path: "" };

/** A listener and its connections. */
class Listening implements Server {
  readonly addr: Deno.Addr;
  readonly finished: Promise<void>;
  readonly #listener: Deno.Listener;
  readonly #limits: Limits;
  readonly #sweeper: Sweeper;
  readonly #options: Readonly<
    & Required<
      Pick<
        ServeOptions,
        | "noDelay"
        | "keepAlive"
        | "maxConnections"
        | "handshakeTimeout"
        | "shutdownTimeout"
        | "proxyProtocol"
      >
    >
    & { tls: boolean }
  >;
  readonly #stats = newStats();
  readonly #abort = () => this.close();
  #resolveFinished!: () => void;
  #stopped = false;
  /** The accept loop runs; the address is not free before it has ended. */
  #accepting = true;
  #refed = true;
  #shutdown: Promise<void> | undefined;
  /** Wakes the accept loop from whatever it waits for besides accepting. */
  #wake: (() => void) | null = null;

  constructor(options: ServeOptions, handler: Handler) {
    this.#limits = new Limits(handler, options);
    const {
      noDelay = true,
      keepAlive = true,
      maxConnections = Infinity,
      proxyProtocol = false,
      cert,
      onListen,
    } = options;
    checkType("noDelay", noDelay, "boolean");
    checkType("keepAlive", keepAlive, "boolean");
    checkType("proxyProtocol", proxyProtocol, "boolean");
    checkType("onListen", onListen, "function");
    if (maxConnections !== Infinity) {
      checkInteger("maxConnections", maxConnections, 1, 2 ** 31 - 1);
    }
    if (proxyProtocol && cert !== undefined) {
      throw new TypeError(
        "Option proxyProtocol cannot be used with TLS: its header comes before the handshake",
      );
    }
    this.#options = {
      noDelay,
      keepAlive,
      maxConnections,
      proxyProtocol,
      tls: cert !== undefined,
      handshakeTimeout: checkDelay(options, "handshakeTimeout", 10_000),
      shutdownTimeout: checkDelay(options, "shutdownTimeout", 10_000),
    };
    this.#sweeper = new Sweeper(this.#limits);
    this.finished = new Promise((resolve) => this.#resolveFinished = resolve);
    this.#listener = listen(options, cert);
    this.addr = this.#listener.addr;
    try {
      onListen?.(this.addr);
    } catch (error) {
      this.#listener.close();
      throw error;
    }
    const { signal } = this.#limits;
    signal?.addEventListener("abort", this.#abort, { once: true });
    this.#acceptLoop();
    if (signal?.aborted) this.close();
  }

  shutdown(options?: { signal?: AbortSignal }): Promise<void> {
    const signal = options?.signal;
    this.#shutdown ??= this.#drain();
    if (signal?.aborted) {
      this.close();
    } else if (signal !== undefined) {
      signal.addEventListener("abort", this.#abort, { once: true });
      this.finished.then(() =>
        signal.removeEventListener("abort", this.#abort)
      );
    }
    return this.#shutdown;
  }

  close(): void {
    this.#stop();
    const reason = new DOMException("The server was closed", "AbortError");
    for (const connection of this.#sweeper.connections) {
      connection.destroy(reason);
    }
  }

  ref(): void {
    this.#setRef(true);
  }

  unref(): void {
    this.#setRef(false);
  }

  stats(): ServerStats {
    return { ...this.#stats, connections: this.#sweeper.connections.size };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.shutdown();
  }

  async #drain(): Promise<void> {
    this.#stop();
    const { shutdownTimeout } = this.#options;
    const timer = shutdownTimeout > 0
      ? setTimeout(() => this.close(), shutdownTimeout)
      : undefined;
    // What has arrived but was not read yet has been received, too. A timer
    // may be due before the reads of its turn: only the second turn without
    // a byte says that there was none.
    let quiet = 0;
    for (let i = 0; i < MAX_DRAIN_TURNS && quiet < 2; i++) {
      if (this.#sweeper.connections.size === 0) break;
      const seen = this.#stats.bytesIn;
      await new Promise((resolve) => setTimeout(resolve, 0));
      quiet = this.#stats.bytesIn === seen ? quiet + 1 : 0;
    }
    for (const connection of this.#sweeper.connections) {
      connection.drain(quiet === 2);
    }
    await this.finished;
    clearTimeout(timer);
  }

  /** Stops accepting. */
  #stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#listener.close();
    this.#wake?.();
  }

  readonly #gone = (connection: Connection) => {
    this.#sweeper.delete(connection);
    this.#wake?.();
    this.#finishIfDone();
  };

  #finishIfDone(): void {
    if (this.#accepting || this.#sweeper.connections.size > 0) return;
    this.#limits.signal?.removeEventListener("abort", this.#abort);
    this.#resolveFinished();
  }

  #setRef(ref: boolean): void {
    this.#refed = ref;
    if (!this.#stopped) {
      if (ref) this.#listener.ref();
      else this.#listener.unref();
    }
    for (const connection of this.#sweeper.connections) connection.setRef(ref);
  }

  async #acceptLoop(): Promise<void> {
    let failures = 0;
    let backoff = 0;
    while (!this.#stopped) {
      if (this.#sweeper.connections.size >= this.#options.maxConnections) {
        await this.#pause();
        continue;
      }
      let conn: Deno.Conn;
      const start = performance.now();
      try {
        conn = await this.#listener.accept();
      } catch (error) {
        if (this.#stopped) break;
        this.#stats.acceptErrors++;
        // An error of one connection is that peer's; the next accept is for
        // another. What goes on failing without having to wait is treated as
        // exhaustion, lest it spin.
        if (performance.now() - start >= MIN_BACKOFF) failures = 0;
        if (++failures <= MAX_EMPTY_TRIES && !isExhaustion(error)) continue;
        if (backoff === 0) this.#limits.report(error);
        backoff = Math.min(MAX_BACKOFF, Math.max(MIN_BACKOFF, 2 * backoff));
        await this.#pause(backoff);
        continue;
      }
      failures = 0;
      backoff = 0;
      if (this.#stopped) conn.close();
      else this.#admit(conn);
    }
    this.#accepting = false;
    this.#finishIfDone();
  }

  /** Waits until something changes, or until the delay is over. */
  async #pause(delay?: number): Promise<void> {
    let timer: Timer | undefined;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      if (delay !== undefined) {
        timer = setTimeout(resolve, delay);
        if (!this.#refed) Deno.unrefTimer(timer);
      }
    });
    this.#wake = null;
    clearTimeout(timer);
  }

  #admit(conn: Deno.Conn): void {
    const { noDelay, keepAlive } = this.#options;
    try {
      // TLS and Unix connections have neither.
      const tcp = conn as Partial<Deno.TcpConn>;
      if (noDelay) tcp.setNoDelay?.();
      if (keepAlive) tcp.setKeepAlive?.();
    } catch {
      // The peer is gone already; the first read will say so.
    }
    const connection = new Connection(
      conn,
      this.#limits,
      this.#stats,
      this.#gone,
    );
    if (!this.#refed) connection.setRef(false);
    this.#stats.totalConnections++;
    this.#sweeper.add(connection);
    this.#serve(connection, conn);
  }

  #serve(connection: Connection, conn: Deno.Conn): void {
    const { tls, proxyProtocol, handshakeTimeout } = this.#options;
    if (!tls && !proxyProtocol) return connection.serve();
    const prelude = tls
      ? handshake(conn as Deno.TlsConn)
      : readProxyHeader(conn, connection.context);
    connection.serve(prelude, handshakeTimeout);
  }
}

function listen(
  options: ServeOptions,
  cert: string | undefined,
): Deno.Listener {
  const {
    hostname,
    port,
    path,
    key,
    alpnProtocols,
    reusePort = false,
    tcpBacklog = 511,
  } = options;
  checkType("hostname", hostname, "string");
  if (port !== undefined) checkInteger("port", port, 0, 0xffff);
  checkType("path", path, "string");
  checkType("cert", cert, "string");
  checkType("key", key, "string");
  if (
    alpnProtocols !== undefined && !(Array.isArray(alpnProtocols) &&
      alpnProtocols.every((name) => typeof name === "string"))
  ) {
    throw new TypeError(
      `Option alpnProtocols must be an array of strings, received ${
        String(alpnProtocols)
      }`,
    );
  }
  checkType("reusePort", reusePort, "boolean");
  checkInteger("tcpBacklog", tcpBacklog, 1, 2 ** 31 - 1);
  if ((cert === undefined) !== (key === undefined)) {
    throw new TypeError("Options cert and key need each other");
  }
  if (path !== undefined) {
    if (cert !== undefined || hostname !== undefined || port !== undefined) {
      throw new TypeError(
        "Option path cannot be used with hostname, port or cert",
      );
    }
    return Deno.listen({ transport: "unix", path });
  }
  const address = {
    hostname: hostname ?? "127.0.0.1",
    port: port ?? 0,
    tcpBacklog,
    // Only when asked for: it is refused without --unstable-net.
    ...(reusePort ? { reusePort } : {}),
  };
  if (cert === undefined || key === undefined) return Deno.listen(address);
  return Deno.listenTls({
    ...address,
    cert,
    key,
    ...(alpnProtocols === undefined ? {} : { alpnProtocols }),
  });
}

async function handshake(conn: Deno.TlsConn): Promise<void> {
  await conn.handshake();
}

interface ProxiedAddresses {
  source: Deno.Addr;
  destination: Deno.Addr;
}

/** Longest PROXY header that is accepted; version 1 ends by 107 bytes, and
 * version 2 with every field known today stays far below. */
const MAX_PROXY_HEADER = 4096;

/** Begins a version 2 header. */
const PROXY_SIGNATURE = Uint8Array.from(
  [13, 10, 13, 10, 0, 13, 10, 81, 85, 73, 84, 10],
);

/**
 * Reads the PROXY protocol header that a balancer puts before the stream.
 *
 * Source: the HAProxy project's "The PROXY protocol, versions 1 & 2".
 *
 * @returns Bytes of the stream that were read along with it.
 */
async function readProxyHeader(
  conn: ServableConnection,
  context: Context,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(MAX_PROXY_HEADER);
  let used = 0;
  for (;;) {
    const n = await conn.read(bytes.subarray(used));
    if (n === null) {
      throw new Deno.errors.UnexpectedEof("Connection ended in PROXY header");
    }
    used += n;
    const header = parseProxyHeader(bytes.subarray(0, used));
    if (header !== null) {
      if (header.addresses !== null) context.proxied(header.addresses);
      return bytes.subarray(header.length, used);
    }
    if (used === bytes.length) throw badProxyHeader();
  }
}

interface ProxyHeader {
  length: number;
  /** Null where the balancer speaks for itself, as in its health checks. */
  addresses: ProxiedAddresses | null;
}

/** Parses a header; null as long as it is good but incomplete. */
function parseProxyHeader(bytes: Uint8Array): ProxyHeader | null {
  const signature = PROXY_SIGNATURE.subarray(0, bytes.length);
  if (signature.every((byte, i) => byte === bytes[i])) {
    return bytes.length < 16 ? null : parseProxyV2(bytes);
  }
  const text = new TextDecoder("latin1").decode(bytes.subarray(0, 107));
  if (!"PROXY ".startsWith(text.slice(0, 6))) throw badProxyHeader();
  const end = text.indexOf("\r\n");
  if (end >= 0) return parseProxyV1(text.slice(0, end));
  if (text.length === 107) throw badProxyHeader();
  return null;
}

function parseProxyV1(line: string): ProxyHeader {
  const length = line.length + 2;
  const [, family, ...fields] = line.split(" ");
  if (family === "UNKNOWN") return { length, addresses: null };
  const parseHost = family === "TCP4"
    ? parseIPv4
    : family === "TCP6"
    ? parseIPv6
    : null;
  if (parseHost === null || fields.length !== 4) throw badProxyHeader();
  const [source, destination, sourcePort, destinationPort] = fields;
  return {
    length,
    addresses: {
      source: tcpAddr(parseHost(source!), parsePort(sourcePort!)),
      destination: tcpAddr(
        parseHost(destination!),
        parsePort(destinationPort!),
      ),
    },
  };
}

function parseProxyV2(bytes: Uint8Array): ProxyHeader | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const length = 16 + view.getUint16(14);
  const command = view.getUint8(12);
  const family = view.getUint8(13);
  if (
    (command !== 0x20 && command !== 0x21) || length > MAX_PROXY_HEADER
  ) throw badProxyHeader();
  if (bytes.length < length) return null;
  // LOCAL, or a family that has no address.
  if (command === 0x20 || family === 0x00) return { length, addresses: null };
  const body = bytes.subarray(16, length);
  if (family === 0x11 && body.length >= 12) {
    return {
      length,
      addresses: {
        source: tcpAddr(body.subarray(0, 4).join("."), view.getUint16(24)),
        destination: tcpAddr(
          body.subarray(4, 8).join("."),
          view.getUint16(26),
        ),
      },
    };
  }
  if (family === 0x21 && body.length >= 36) {
    return {
      length,
      addresses: {
        source: tcpAddr(formatIPv6(body.subarray(0, 16)), view.getUint16(48)),
        destination: tcpAddr(
          formatIPv6(body.subarray(16, 32)),
          view.getUint16(50),
        ),
      },
    };
  }
  if (family === 0x31 && body.length >= 216) {
    return {
      length,
      addresses: {
        source: unixAddr(body.subarray(0, 108)),
        destination: unixAddr(body.subarray(108, 216)),
      },
    };
  }
  throw badProxyHeader();
}

function tcpAddr(hostname: string, port: number): Deno.Addr {
  return { transport: "tcp", hostname, port };
}

function unixAddr(bytes: Uint8Array): Deno.Addr {
  const path = new TextDecoder().decode(bytes).replace(/\0.*$/s, "");
  return { transport: "unix", path };
}

function formatIPv6(bytes: Uint8Array): string {
  const groups: string[] = [];
  for (let i = 0; i < 16; i += 2) {
    groups.push((bytes[i]! * 256 + bytes[i + 1]!).toString(16));
  }
  return parseIPv6(groups.join(":"));
}

/** Four numbers up to 255 without leading zeros. */
function parseIPv4(text: string): string {
  const octet = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
  if (!new RegExp(`^${octet}(\\.${octet}){3}$`).test(text)) {
    throw badProxyHeader();
  }
  return text;
}

/** Judges an address and gives its canonical form, both of which URLs do. */
function parseIPv6(text: string): string {
  const url = /^[\da-f:.]+$/i.test(text) ? `http://[${text}]` : "";
  if (!URL.canParse(url)) throw badProxyHeader();
  return new URL(url).hostname.slice(1, -1);
}

function parsePort(text: string): number {
  const port = Number(text);
  if (!/^(0|[1-9]\d{0,4})$/.test(text) || port > 0xffff) throw badProxyHeader();
  return port;
}

function badProxyHeader(): Error {
  return new Deno.errors.InvalidData(
    "Connection did not begin with a valid PROXY header",
  );
}

const TimeoutError = Deno.errors.TimedOut;

/** Whether an error only says that the other side has gone. */
function isDisconnect(error: unknown): boolean {
  const { errors } = Deno;
  return error instanceof errors.ConnectionReset ||
    error instanceof errors.BrokenPipe ||
    error instanceof errors.ConnectionAborted ||
    error instanceof errors.NotConnected ||
    error instanceof errors.UnexpectedEof ||
    error instanceof errors.Interrupted ||
    error instanceof errors.BadResource ||
    // TCP's own probes were not answered; a limit of ours carries no code.
    (error instanceof Error && "code" in error && error.code === "ETIMEDOUT");
}

/** Whether an accept failed for want of descriptors or memory. Some of these
 * errors carry a code, some only the system's number in their text. */
function isExhaustion(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const { code } = error as Error & { code?: string };
  if (code !== undefined) {
    return ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"].includes(code);
  }
  return /os error (12|23|24|55|105|10024|10055)\)/.test(error.message);
}

function noProgress(what: string): Error {
  return new Error(
    `No progress: ${MAX_EMPTY_TRIES} ${what} in a row moved 0 bytes`,
  );
}

function newStats(): ServerStats {
  return {
    connections: 0,
    totalConnections: 0,
    requests: 0,
    inFlight: 0,
    bytesIn: 0,
    bytesOut: 0,
    errors: 0,
    acceptErrors: 0,
  };
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null &&
    typeof (value as PromiseLike<unknown>).then === "function";
}

function checkDelay<K extends string>(
  options: { [P in K]?: number },
  name: K,
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
