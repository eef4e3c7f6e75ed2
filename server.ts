/**
 * A server of length-prefixed frames over TCP, TLS or Unix sockets: for each
 * frame that comes in, a handler makes the one that goes back.
 *
 * ```text
 *            one read              whole frames         in request order
 *  socket ------------> FrameDecoder ------> handler ------> FrameEncoder
 *     ^                                                           |
 *     +-------------------------- one write ----------------------+
 * ```
 *
 * The life of a connection:
 *
 * 1. It is accepted, unless {@linkcode ServeOptions.maxConnections} are open.
 *    The hook {@linkcode ServerHooks.connectionOpen} is told.
 * 2. The TLS handshake, the PROXY header and
 *    {@linkcode ConnectionOptions.handshake} follow, as far as they are set, all
 *    within {@linkcode ConnectionOptions.handshakeTimeout}. What `handshake`
 *    returns is the {@linkcode HandlerContext.state} of every request; what it
 *    throws ends the connection.
 * 3. Frames are read and handled, {@linkcode ConnectionOptions.concurrency} at
 *    once. Responses leave in the order of the requests, or as they come with
 *    {@linkcode ConnectionOptions.correlation}. A peer that does not read its
 *    responses is read no further.
 * 4. The end begins: the peer ends its stream, the connection was idle for
 *    {@linkcode ConnectionOptions.idleTimeout}, a handler has failed or calls
 *    {@linkcode HandlerContext.close}, or the server shuts down. What was taken
 *    is answered.
 * 5. The goaway is written, where there is one and it is true. The server ends
 *    its writing side, and reads and discards until the peer ends its own: a
 *    reset for a byte that nobody read would destroy responses that are still
 *    on their way.
 * 6. It is closed, and {@linkcode ServerHooks.connectionClose} is told why. A
 *    bad frame, a limit in time or {@linkcode Server.close} may have led here
 *    from any step; no other connection is touched.
 *
 * @example Answer every frame
 * ```ts
 * import { serve } from "@wirepool/net/server";
 * import { Client } from "@wirepool/net/client";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0 }, (payload) => payload.toReversed());
 * const { port } = server.addr;
 *
 * await using client = new Client({ port });
 * const answer = await client.send(new Uint8Array([1, 2, 3]));
 * assertEquals(answer, new Uint8Array([3, 2, 1]));
 * ```
 *
 * @module
 */

import { Acceptor, type AcceptorOwner } from "./_accept.ts";
import { Budget } from "./_budget.ts";
import { callDetached, ignore } from "./_callbacks.ts";
import { captureContext } from "./_context.ts";
import { correlationOption } from "./_correlation.ts";
import { goawayOption } from "./_goaway.ts";
import { listen, type Listener, prepare } from "./_listen.ts";
import {
  booleanOption,
  checkFunction,
  checkHooks,
  checkObject,
  durationOption,
  functionOption,
  integerOption,
  show,
  signalOption,
} from "./_options.ts";
import { ServerConnection } from "./_server_connection.ts";
import { ConnectionSet } from "./_server_connections.ts";
import { observe, printFailure } from "./_server_hooks.ts";
import { noResponseError } from "./_server_result.ts";
import type { ConnectionSettings } from "./_server_settings.ts";
import { onAbort } from "./_server_signals.ts";
import { startTimer } from "./_timers.ts";
import { closeTransport } from "./_transports.ts";
import {
  type CorrelationOptions,
  FrameEncoder,
  type FrameOptions,
  type HandshakeConnection,
  type NetAddress,
  type Transport,
  type TransportAddress,
  type UnixAddress,
} from "./codec.ts";

/** Turns of the event loop for which a shutdown accepts and reads what has
 * arrived. Peers that never stop sending are not waited for. */
const MAX_DRAIN_TURNS = 50;

/** Of these, the turns in a row in which nothing may come. A timer may be due
 * before the reads of its turn: only the second turn without a byte says that
 * there was none. */
const QUIET_TURNS = 2;

/** Memory that all connections share, by default: a quarter of what the smallest
 * machines of clouds have, and sixteen of the largest frames. */
const MAX_BUFFERED = 256 * 1024 * 1024;

/** Handlers at once on one connection, by default, where responses may come in
 * any order: enough that a few slow ones hold nobody up, and few enough that
 * one connection cannot keep a process busy. */
const CORRELATED_CONCURRENCY = 128;

/**
 * What a {@linkcode Handler} returns so that no response is written: for
 * requests that the client has sent with `notify`.
 *
 * On a wire without ids every request that the client has sent with `send` needs
 * a response, since it would get the next one's otherwise. There is therefore no
 * other way to write none: a handler that returns `undefined` or `null` has
 * failed.
 *
 * @example Take notes, and answer questions
 * ```ts
 * import { NO_RESPONSE, serve } from "@wirepool/net/server";
 * import { Client } from "@wirepool/net/client";
 * import { assertEquals } from "@std/assert";
 *
 * let notes = 0;
 * await using server = serve({}, (payload) => {
 *   if (payload[0] === 0) {
 *     notes++;
 *     return NO_RESPONSE;
 *   }
 *   return new Uint8Array([notes]);
 * });
 *
 * await using client = new Client({ port: server.addr.port });
 * await client.notify(new Uint8Array([0]));
 * assertEquals(await client.send(new Uint8Array([1])), new Uint8Array([1]));
 * ```
 */
export const NO_RESPONSE: symbol & { readonly description: "NO_RESPONSE" } =
  // No `unique symbol`: the type of an async function that returns nothing else
  // would widen to `Promise<symbol>`, and be refused.
  Symbol("NO_RESPONSE") as symbol & { readonly description: "NO_RESPONSE" };

/**
 * Makes the response to one request.
 *
 * The payload is a view on memory that is never written again, so it may be
 * kept, and even returned; see `FrameDecoder` for what keeping it keeps alive.
 * What is returned belongs to the server and must not be changed afterwards.
 *
 * Whatever is neither a `Uint8Array` nor {@linkcode NO_RESPONSE} is a failure of
 * the handler, as what it throws is: see {@linkcode ConnectionOptions.onError}.
 *
 * @typeParam State What `handshake` returns.
 */
export type Handler<State = unknown> = (
  payload: Uint8Array<ArrayBuffer>,
  context: HandlerContext<State>,
) =>
  | Uint8Array
  | typeof NO_RESPONSE
  | Promise<Uint8Array | typeof NO_RESPONSE>;

/** What a {@linkcode Handler} knows of its connection, and asks of it. */
export interface HandlerContext<State = unknown> {
  /** The other side's address; an unnamed Unix socket's where the transport
   * has none. */
  readonly remoteAddr: TransportAddress;
  /** This side's address; likewise. */
  readonly localAddr: TransportAddress;
  /** The certificate that the peer has shown and the handshake has verified,
   * where the server asks for one: see {@linkcode ServeOptions.caCerts}. */
  readonly peerCertificate: PeerCertificate | undefined;
  /** Aborts when the connection or the server goes, and as soon as the peer
   * ends its stream, behind which nothing tells one that has gone from one that
   * has only closed its writing side. Who returns a response all the same has
   * it written, to whoever is left to read it. */
  readonly signal: AbortSignal;
  /** What {@linkcode ConnectionOptions.handshake} has returned: what belongs to
   * the connection goes here. `undefined` without a handshake, and until it has
   * ended: in {@linkcode ServerHooks.connectionOpen}, and in
   * {@linkcode ServerHooks.connectionClose} of a connection that was refused. */
  readonly state: State;
  /**
   * Writes a frame that answers nothing, such as an event that the peer has
   * subscribed to. With {@linkcode ConnectionOptions.correlation} only.
   *
   * Before {@linkcode ConnectionOptions.handshake} has ended it waits for that,
   * and leaves behind what the handshake has written.
   *
   * Where ids are inserted, its id is 0; elsewhere the payload carries one of
   * its own, 0 or with the high bit set. The payload belongs to the server and
   * must not be changed before the promise has settled.
   *
   * @returns Once the transport has taken it, so that awaiting it is
   * back-pressure. It rejects once the connection ends, and at once while 256
   * KiB of pushes are not written yet. A rejection that nobody handles is not
   * reported. Where one event goes to many, do not await: a subscriber that does
   * not read would hold up the others for `writeTimeout`.
   */
  push(payload: Uint8Array): Promise<void>;
  /** Ends the connection gracefully: it takes no more requests, and what was
   * taken is answered, this request included. */
  close(): void;
}

/** A certificate, verified. Names are written as OpenSSL writes them, one
 * attribute a line: `CN=localhost`. */
export interface PeerCertificate {
  /** Whose certificate it is. */
  readonly subject: string;
  /** Who has signed it. */
  readonly issuer: string;
  /** Further names of whose it is, such as `DNS:example.com, IP Address:…`. */
  readonly subjectAltName: string | undefined;
  /** The number that the issuer has given it, in hexadecimal digits. */
  readonly serialNumber: string;
  /** SHA-256 of the certificate, as pairs of hexadecimal digits and colons. */
  readonly fingerprint256: string;
  /** When it begins to be valid. */
  readonly validFrom: Date;
  /** When it ceases to be. */
  readonly validTo: Date;
  /** The certificate itself, in DER format. */
  readonly raw: Uint8Array;
}

/** Options of {@linkcode serveConnection}, and those of {@linkcode serve}
 * that concern one connection. Durations are in milliseconds, up to
 * 2147483647. */
export interface ConnectionOptions<State = unknown> extends FrameOptions {
  /**
   * Where frames carry an id that tells which response belongs to which
   * request. Responses then leave as their handlers settle, in any order.
   *
   * Where neither offset is given, ids are inserted, and a handler's failure is
   * told to its own request alone. Elsewhere the connection ends for it, since
   * the library knows no error of that protocol.
   *
   * @default {undefined} Frames carry no ids: responses keep the requests'
   * order.
   */
  correlation?: CorrelationOptions;
  /**
   * The payload that tells the client that nothing behind what was answered was
   * handled, or will be; the same on both sides. It is written when the server
   * ends a connection of its own accord: by `shutdown`, `context.close()` or
   * `idleTimeout`. Not with inserted ids, which have a goaway of their own.
   *
   * A handler's response must not be equal to it.
   *
   * @default {undefined} The end of the stream says nothing of requests that
   * are on their way.
   */
  goaway?: Uint8Array;
  /**
   * Handlers at once on one connection, at least 1. More than one of them makes
   * sense where they wait for something; what has to be handled in order needs
   * 1.
   *
   * @default {1} 128 with `correlation`.
   */
  concurrency?: number;
  /**
   * Runs on each new connection before its first request, for greetings,
   * versions and authentication. It reads and writes frames without ids. What it
   * returns is {@linkcode HandlerContext.state}; what it throws refuses the
   * connection, which ends once what was written has left. What it throws goes to
   * `onError` and is printed nowhere else, since a peer can provoke it: set
   * `onError` while you write a handshake.
   *
   * Write it before `onError` and `hooks`: TypeScript infers `State` from left to
   * right. Or say it: `serve<Session>(…)`.
   *
   * @default {undefined} The first frame is a request.
   */
  handshake?: (conn: HandshakeConnection) => State | Promise<State>;
  /**
   * How long the TLS handshake, the PROXY header and `handshake` may take
   * together; 0 is for ever.
   *
   * @default {10_000}
   */
  handshakeTimeout?: number;
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
  /**
   * How long {@linkcode Server.shutdown} waits before it forces, and how long a
   * connection that was told goodbye by a goaway waits for the peer's end; 0 is
   * for ever, but for the latter outside a shutdown.
   *
   * @default {10_000}
   */
  shutdownTimeout?: number;
  /** Ends everything at once when it aborts, as {@linkcode Server.close}
   * does. */
  signal?: AbortSignal | null | undefined;
  /**
   * Told of what went wrong: a handler that failed, a hook that threw, a
   * handshake that failed, a frame that could not be read, a timeout within
   * one, of a write or of a handshake, an accept that failed for want of
   * resources (which has no context). A peer that disconnects is no error, nor
   * is the end of an idle connection.
   *
   * For a handler's error it may return bytes (or a promise of them): they
   * are the response, and the connection lives. Otherwise the connection is
   * closed after the responses before it; with inserted ids the failure is told
   * to its request alone. Where strangers can connect, do not write a line
   * for each call: count.
   *
   * @default {undefined} Failures of handlers and hooks are printed with
   * `console.error`; what a peer can provoke is counted, and never printed.
   */
  onError?: (
    error: unknown,
    context: HandlerContext<State> | undefined,
  ) => unknown;
  /** Observers of connections and requests; they cost nothing where they are not
   * set. */
  hooks?: ServerHooks<State>;
}

/** Observers for metrics and traces. One that throws is reported to `onError`
 * and changes nothing. */
export interface ServerHooks<State = unknown> {
  /** A connection has come; its handshake, which makes `context.state`, is yet
   * to come: the state is `undefined` still. Told once for each connection. */
  connectionOpen?(context: HandlerContext<State>): void;
  /** A connection has ended. Told once for each that `connectionOpen` was told
   * of, whatever happens. */
  connectionClose?(context: HandlerContext<State>, reason: CloseReason): void;
  /** A request of so many bytes is about to be handled. */
  requestStart?(context: HandlerContext<State>, requestBytes: number): void;
  /** A handler has settled. */
  requestEnd?(request: RequestSummary<State>): void;
}

/**
 * Why a connection has ended: what began its end, or else what cut it.
 *
 * | reason | what happened |
 * |---|---|
 * | `"end"` | the peer ended its stream, and what it had asked was answered |
 * | `"lost"` | the peer has gone, or the network between |
 * | `"close"` | `context.close()` |
 * | `"idle"` | no frame for `idleTimeout` |
 * | `"shutdown"` | `Server.shutdown()` |
 * | `"forced"` | `Server.close()`, a signal, or the limit of a shutdown cut it |
 * | `"handshake"` | the handshake failed, refused it or took too long |
 * | `"frame"` | the peer sent what is no frame |
 * | `"handler"` | a handler failed |
 * | `"timeout"` | a frame or a write took too long |
 * | `"error"` | the transport failed in another way |
 */
export type CloseReason =
  | "end"
  | "lost"
  | "close"
  | "idle"
  | "shutdown"
  | "forced"
  | "handshake"
  | "frame"
  | "handler"
  | "timeout"
  | "error";

/** What {@linkcode ServerHooks.requestEnd} is told. */
export interface RequestSummary<State = unknown> {
  /** The connection's context. */
  readonly context: HandlerContext<State>;
  /** Milliseconds that the handler took. */
  readonly duration: number;
  /** Length of the request's payload in bytes. */
  readonly requestBytes: number;
  /** Length of the response's payload in bytes; 0 where there is none. */
  readonly responseBytes: number;
  /** What the handler threw, if it did. */
  readonly error?: unknown;
}

/** Where {@linkcode serve} can take its connections from: `Deno.Listener` is
 * one. */
export interface TransportListener<
  Addr extends TransportAddress = TransportAddress,
> {
  /** Resolves to the next connection. A rejection that is no want of resources
   * is taken for one connection's. */
  accept(): Promise<Transport>;
  /** Accepts no more; an `accept` under way then rejects. */
  close(): void;
  /** Has the listener keep the process alive, where it can. */
  ref?(): void;
  /** Lets the process end although it listens. */
  unref?(): void;
  /** Where it listens. */
  readonly addr: Addr;
}

/** Options of {@linkcode serve}. */
export interface ServeOptions<
  State = unknown,
  Addr extends TransportAddress = TransportAddress,
> extends ConnectionOptions<State> {
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
  /** Takes connections from this instead of listening: a socket that was passed
   * in, a listener in memory, another transport. The server closes it. */
  listener?: TransportListener;
  /** Certificate chain in PEM format; with `key`, the server speaks TLS. */
  cert?: string;
  /** Private key in PEM format. */
  key?: string;
  /**
   * Authorities in PEM format: every client must show a certificate that one
   * of them has signed, and {@linkcode HandlerContext.peerCertificate} tells
   * it. Without one, or with another's, the connection is refused.
   *
   * @default {undefined} Clients are not asked who they are.
   */
  caCerts?: string[];
  /** Protocols offered in the TLS handshake. */
  alpnProtocols?: string[];
  /**
   * Lets several processes share the port. Needs `--unstable-net`. The kernel
   * resets connections that wait at a listener that closes: their clients'
   * `send` rejects with `ConnectError`, and it is safe to send again.
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
   * Most bytes that all connections together hold for unfinished frames and
   * unwritten responses, at least twice `maxFrameLength`; `Infinity` is no limit.
   * What each connection holds up to 64 KiB is not counted, nor are requests
   * whose handlers are at work.
   *
   * When it is used up, connections wait where they would need more: before they
   * read on, or before the next request is handled. The frame that has waited
   * longest may still grow. A frame or response that moves slower than
   * `maxFrameLength / readTimeout` while it may is cut, if others wait. Responses
   * of handlers that are at work may exceed the limit.
   *
   * @default {268_435_456} 256 MiB, or twice `maxFrameLength` if that is more
   */
  maxBuffered?: number;
  /**
   * Expects each connection to begin with a PROXY protocol header, version 1
   * or 2, as load balancers send it, and takes `remoteAddr` and `localAddr`
   * from it. A connection without a good one is closed. Not with TLS.
   *
   * @default {false}
   */
  proxyProtocol?: boolean;
  /** Told the address once the server listens. */
  onListen?(addr: Addr): void;
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

/**
 * What {@linkcode serve} returns; shaped like `Deno.HttpServer`.
 *
 * @typeParam Addr The kind of address that it listens on.
 */
export interface Server<Addr extends TransportAddress = TransportAddress>
  extends AsyncDisposable {
  /** The address that the server listens on. */
  readonly addr: Addr;
  /** Resolves when the server has stopped and every connection has ended. */
  readonly finished: Promise<void>;
  /**
   * Ends gracefully: accepts what is queued, up to `maxConnections`, and stops
   * accepting; lets handshakes finish, requests already received too, and their
   * responses leave; and forces what is left after `shutdownTimeout`. Received
   * is what was read: a connection whose handlers are busy reads ahead no more
   * than 64 KiB. A client's `notify` that was not read then is lost, with a goaway
   * too: only its `send` is sent again.
   *
   * Every connection is half-closed, behind the goaway where there is one, and
   * read until the peer ends its side: up to `shutdownTimeout` behind a goaway,
   * and half a second otherwise.
   *
   * @param options `signal`: forces at once when it aborts.
   * @returns Once every connection has ended; a second call joins the first.
   * Rejects with a `TypeError` if `signal` is no `AbortSignal`.
   */
  shutdown(
    options?: { signal?: AbortSignal | null | undefined },
  ): Promise<void>;
  /** Ends now: closes every connection and aborts the handlers' signals. */
  close(): void;
  /** Makes the server keep the process alive, which is the default. */
  ref(): void;
  /** Lets the process end although the server runs. */
  unref(): void;
  /**
   * Changes the certificate of a server that speaks TLS. Connections stay as
   * they are; handshakes that begin from now on show the new one.
   *
   * @param certificate Certificate chain and private key in PEM format.
   * @throws {TypeError} If the server does not speak TLS.
   * @throws {Deno.errors.InvalidData} If it is not valid; the old one stays.
   */
  setCertificate(certificate: { cert: string; key: string }): void;
  /** A snapshot of the figures. */
  stats(): ServerStats;
  /** Ends gracefully, as {@linkcode Server.shutdown}. */
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Serves frames on an address.
 *
 * - A connection that fails in any way is closed, and no other is touched.
 * - Accept errors never end the server.
 * - A slow reader stops the reading of its own connection, not of others.
 * - Timeouts fire at most 10 % or 50 ms late, whichever is more.
 *
 * @typeParam State What `handshake` returns, and handlers find in
 * `context.state`.
 * @param options Where to listen, and the limits.
 * @param handler Makes the responses.
 * @returns The running server.
 * @throws {TypeError | RangeError} If an option is of the wrong type or out of
 * its range.
 * @throws What `Deno.listen` throws, such as `Deno.errors.AddrInUse`.
 *
 * @example Answer every frame
 * ```ts
 * import { serve } from "@wirepool/net/server";
 * import { Client } from "@wirepool/net/client";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({}, (payload) => payload.toReversed());
 *
 * await using client = new Client({ port: server.addr.port });
 * const answer = await client.send(new Uint8Array([1, 2, 3]));
 * assertEquals(answer, new Uint8Array([3, 2, 1]));
 * ```
 *
 * @example Know who asks
 * ```ts
 * import { serve } from "@wirepool/net/server";
 * import { Client } from "@wirepool/net/client";
 * import { assertEquals } from "@std/assert";
 *
 * const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
 * const bytes = (text: string) => new TextEncoder().encode(text);
 *
 * await using server = serve({
 *   async handshake(conn) {
 *     const [user, password] = text(await conn.read()).split(":");
 *     if (password !== "secret") throw new Error(`Wrong password of ${user}`);
 *     await conn.write(bytes("Welcome"));
 *     return { user };
 *   },
 * }, (_payload, { state }) => bytes(`You are ${state.user}`));
 *
 * await using client = new Client({
 *   port: server.addr.port,
 *   async handshake(conn) {
 *     await conn.write(bytes("ann:secret"));
 *     await conn.read();
 *   },
 * });
 * assertEquals(text(await client.send(bytes("Who am I?"))), "You are ann");
 * ```
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
export function serve<State = undefined>(
  options: ServeOptions<State, NetAddress> & { path?: never; listener?: never },
  handler: Handler<State>,
): Server<NetAddress>;
/** Serves frames on a Unix socket. */
export function serve<State = undefined>(
  options: ServeOptions<State, UnixAddress> & { path: string },
  handler: Handler<State>,
): Server<UnixAddress>;
/** Serves frames on the connections of a listener. */
export function serve<
  State = undefined,
  Addr extends TransportAddress = TransportAddress,
>(
  options: ServeOptions<State, Addr> & { listener: TransportListener<Addr> },
  handler: Handler<State>,
): Server<Addr>;
/** Serves frames wherever the options say. */
export function serve<State = undefined>(
  options: ServeOptions<State>,
  handler: Handler<State>,
): Server;
export function serve(options: ServeOptions, handler: Handler): Server {
  return new RunningServer(options, handler);
}

/**
 * Serves the frames of one connection, over anything with `read`, `write` and
 * `close`. It owns the connection from then on, and closes it.
 *
 * @typeParam State What `handshake` returns. Where that is written in place,
 * say the type of its parameter: TypeScript infers from left to right.
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
export async function serveConnection<State = undefined>(
  conn: Transport,
  handler: Handler<State>,
  options: ConnectionOptions<State> = {},
): Promise<void> {
  const settings = connectionSettings(handler, options);
  const signal = signalOption(options);
  const connections = connectionSet(settings);
  const { promise: ended, resolve } = Promise.withResolvers<void>();
  const connection = new ServerConnection(
    conn,
    settings,
    newStats(),
    () => resolve(),
  );
  if (signal?.aborted) return connection.force(signal.reason);
  const forget = signal === undefined
    ? undefined
    : onAbort(signal, (reason) => connection.force(reason));
  connections.add(connection);
  connection.serve();
  await ended;
  connections.delete(connection);
  forget?.();
}

/** Checks and completes the options of a connection. */
function connectionSettings<State>(
  handler: Handler<State>,
  options: ConnectionOptions<State>,
  proxyProtocol = false,
): ConnectionSettings {
  checkFunction("Handler", handler);
  checkObject("Options", options);
  const { onError, hooks, handshake } = options as ConnectionOptions;
  functionOption({ onError }, "onError");
  functionOption({ handshake }, "handshake");
  checkHooks("hooks", hooks, [
    "connectionOpen",
    "connectionClose",
    "requestStart",
    "requestEnd",
  ]);
  const correlation = correlationOption(options);
  // Judge the layout now, not per connection; and both of its id fields.
  const { options: frame } = new FrameEncoder(options, correlation?.request);
  if (correlation !== undefined) new FrameEncoder(frame, correlation.response);
  const report = (error: unknown, context: HandlerContext | undefined) =>
    callDetached(() => onError?.(error, context), ignore);
  const tell = (context: HandlerContext, hook: () => unknown) =>
    callDetached(hook, (error) => {
      if (onError !== undefined) report(error, context);
      else printFailure("A hook", error, context.remoteAddr);
    });
  return {
    frame,
    correlation,
    goaway: goawayOption(options, frame, correlation),
    handler: observed(handler as Handler, hooks, tell),
    noResponse: NO_RESPONSE,
    concurrency: integerOption(
      options,
      "concurrency",
      correlation === undefined ? 1 : CORRELATED_CONCURRENCY,
      { min: 1, max: Number.MAX_SAFE_INTEGER },
    ),
    proxyProtocol,
    handshake,
    handshakeTimeout: durationOption(options, "handshakeTimeout", 10_000),
    idleTimeout: durationOption(options, "idleTimeout", 300_000),
    readTimeout: durationOption(options, "readTimeout", 30_000),
    writeTimeout: durationOption(options, "writeTimeout", 30_000),
    shutdownTimeout: durationOption(options, "shutdownTimeout", 10_000),
    onError,
    report,
    printFailure: (error, { remoteAddr }) =>
      printFailure("A handler", error, remoteAddr),
    opened: hooks?.connectionOpen === undefined
      ? undefined
      : (context) => tell(context, () => hooks.connectionOpen?.(context)),
    ended: hooks?.connectionClose === undefined
      ? undefined
      : (context, reason) =>
        tell(context, () => hooks.connectionClose?.(context, reason)),
    inOwnContext: captureContext(),
    // One connection has nobody to share with.
    budget: undefined,
  };
}

/** The memory that all connections of a server share. */
function budgetOption(
  options: ServeOptions,
  { frame: { maxFrameLength }, readTimeout }: ConnectionSettings,
): Budget | undefined {
  const least = 2 * maxFrameLength;
  const maxBuffered = integerOption(
    options,
    "maxBuffered",
    // Beyond what can be counted there is no limit to keep.
    Number.isSafeInteger(least) ? Math.max(MAX_BUFFERED, least) : Infinity,
    { min: Math.min(least, Number.MAX_SAFE_INTEGER), max: Infinity },
  );
  return maxBuffered === Infinity
    ? undefined
    : new Budget({ maxBuffered, maxFrameLength, readTimeout });
}

/** Puts the observers of requests around a handler, if there are any. */
function observed(
  handler: Handler,
  hooks: ServerHooks | undefined,
  tell: (context: HandlerContext, hook: () => unknown) => void,
): ConnectionSettings["handler"] {
  if (
    hooks?.requestStart === undefined && hooks?.requestEnd === undefined
  ) return handler;
  const check = (result: unknown) => {
    if (result instanceof Uint8Array || result === NO_RESPONSE) return;
    throw noResponseError(result);
  };
  return observe<HandlerContext>(handler, hooks, check, tell);
}

function connectionSet(
  { idleTimeout, readTimeout, writeTimeout }: ConnectionSettings,
): ConnectionSet<ServerConnection> {
  return new ConnectionSet([idleTimeout, readTimeout, writeTimeout]);
}

/** A listener and its connections. */
class RunningServer implements Server {
  readonly addr: TransportAddress;
  readonly finished: Promise<void>;
  readonly #settings: ConnectionSettings;
  readonly #options: ServerSettings;
  readonly #listener: Listener;
  readonly #acceptor: Acceptor;
  readonly #connections: ConnectionSet<ServerConnection>;
  readonly #stats = newStats();
  #resolveFinished!: () => void;
  /** Each lets go of a signal that may still end the server; undefined once
   * the server has ended. */
  #signals: (() => void)[] | undefined = [];
  #refed = true;
  #shutdown: Promise<void> | undefined;
  readonly #isOwnListener: boolean;
  /** The accept loop runs; the address is not free before it has ended. */
  #accepting = true;
  /** A shutdown waits for turns of the event loop to accept who is queued. */
  #acceptsQueue = false;
  /** What is still accepted is drained, or closed. */
  #state: "accepting" | "draining" | "closed" = "accepting";

  constructor(options: ServeOptions, handler: Handler) {
    this.#options = serverSettings(options);
    const { proxyProtocol } = this.#options;
    const settings = connectionSettings(handler, options, proxyProtocol);
    this.#settings = { ...settings, budget: budgetOption(options, settings) };
    const signal = signalOption(options);
    const { onListen } = options;
    functionOption({ onListen }, "onListen");
    this.#connections = connectionSet(this.#settings);
    this.finished = new Promise((resolve) => this.#resolveFinished = resolve);
    const listener = listenerOption(options) ?? listen(options);
    this.#listener = listener;
    this.#isOwnListener = options.listener === undefined;
    this.addr = listener.addr;
    try {
      onListen?.(this.addr);
    } catch (error) {
      listener.close();
      throw error;
    }
    this.#acceptor = new Acceptor(listener, this.#acceptorOwner());
    this.#acceptor.start();
    if (signal !== undefined) this.#closeWith(signal);
  }

  shutdown(
    options?: { signal?: AbortSignal | null | undefined },
  ): Promise<void> {
    let signal: AbortSignal | undefined;
    try {
      signal = signalOption(options);
    } catch (error) {
      return Promise.reject(error);
    }
    this.#shutdown ??= this.#drain();
    if (signal !== undefined) this.#closeWith(signal);
    return this.#shutdown;
  }

  close(): void {
    this.#state = "closed";
    this.#stopAccepting();
    const reason = new DOMException("The server was closed", "AbortError");
    for (const connection of this.#connections) connection.force(reason);
  }

  ref(): void {
    this.#setRef(true);
  }

  unref(): void {
    this.#setRef(false);
  }

  setCertificate(certificate: { cert: string; key: string }): void {
    checkObject("Certificate", certificate);
    for (const name of ["cert", "key"] as const) {
      const pem: unknown = certificate[name];
      if (typeof pem === "string") continue;
      throw new TypeError(
        `Option ${name} must be a string, received ${show(pem)}`,
      );
    }
    if (this.#listener.setCertificate === undefined) {
      throw new TypeError("A server without cert and key has no certificate");
    }
    this.#listener.setCertificate(certificate);
  }

  stats(): ServerStats {
    return { ...this.#stats, connections: this.#connections.size };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.shutdown();
  }

  async #drain(): Promise<void> {
    const { shutdownTimeout } = this.#settings;
    const timer = shutdownTimeout > 0
      ? startTimer(() => this.close(), shutdownTimeout)
      : undefined;
    // Both at once: who waits in the queue does not wait for those who send.
    this.#acceptWhoIsQueued();
    await this.#untilQuiet();
    if (this.#state === "accepting") this.#state = "draining";
    for (const connection of this.#connections) connection.drain();
    await this.finished;
    clearTimeout(timer);
  }

  /** Stops accepting once nobody waits in the queue: the system has accepted
   * them, and would reset them. */
  async #acceptWhoIsQueued(): Promise<void> {
    this.#acceptsQueue = true;
    await this.#acceptor.drainQueue();
    this.#acceptsQueue = false;
    this.#stopAccepting();
  }

  #stopAccepting(): void {
    this.#acceptor.stop();
    // One that was handed in may leave an accept under way as it is for ever;
    // its address is not ours to wait for.
    if (!this.#isOwnListener) this.#accepting = false;
    this.#finishIfDone();
  }

  /** Waits until there is no byte to be read: what has arrived but was not read
   * yet has been received, too. */
  async #untilQuiet(): Promise<void> {
    const seen = () => this.#stats.totalConnections + this.#stats.bytesIn;
    let quiet = 0;
    for (let i = 0; i < MAX_DRAIN_TURNS && quiet < QUIET_TURNS; i++) {
      if (this.#state === "closed" || this.#connections.size === 0) return;
      const before = seen();
      await new Promise((resolve) => setTimeout(resolve, 0));
      quiet = seen() === before ? quiet + 1 : 0;
    }
  }

  /** Has a signal end the server at once. */
  #closeWith(signal: AbortSignal): void {
    if (signal.aborted) this.close();
    else this.#signals?.push(onAbort(signal, () => this.close()));
  }

  #acceptorOwner(): AcceptorOwner {
    const connections = this.#connections;
    return {
      get open() {
        return connections.size;
      },
      maxConnections: this.#options.maxConnections,
      admit: (conn) => this.#admit(conn),
      acceptFailed: (error, newsworthy) => {
        this.#stats.acceptErrors++;
        if (newsworthy) this.#settings.report(error, undefined);
      },
      acceptorEnded: () => {
        this.#accepting = false;
        this.#finishIfDone();
      },
    };
  }

  #admit(conn: Transport): void {
    if (this.#state === "closed") {
      return closeTransport(conn);
    }
    const connection = new ServerConnection(
      conn,
      this.#settings,
      this.#stats,
      this.#connectionEnded,
    );
    const secured = prepare(conn, this.#options);
    if (!this.#refed) connection.setRef(false);
    this.#stats.totalConnections++;
    this.#connections.add(connection);
    connection.serve(secured);
    // It was in the queue.
    if (this.#state === "draining") connection.drainSoon();
  }

  readonly #connectionEnded = (connection: ServerConnection) => {
    this.#connections.delete(connection);
    this.#acceptor.connectionEnded();
    this.#finishIfDone();
  };

  #finishIfDone(): void {
    if (
      this.#accepting || this.#acceptsQueue || this.#connections.size > 0
    ) return;
    this.#state = "closed";
    for (const forget of this.#signals ?? []) forget();
    this.#signals = undefined;
    this.#resolveFinished();
  }

  #setRef(ref: boolean): void {
    this.#refed = ref;
    this.#acceptor.setRef(ref);
    for (const connection of this.#connections) connection.setRef(ref);
  }
}

/** Options of a server that are no connection's and no address's, checked and
 * completed. */
interface ServerSettings {
  readonly noDelay: boolean;
  readonly keepAlive: boolean;
  readonly maxConnections: number;
  readonly proxyProtocol: boolean;
}

function serverSettings(options: ServeOptions): ServerSettings {
  checkObject("Options", options);
  const proxyProtocol = booleanOption(options, "proxyProtocol", false);
  if (proxyProtocol && options.cert !== undefined) {
    throw new TypeError(
      "Option proxyProtocol cannot be used with TLS: its header comes before the handshake",
    );
  }
  return {
    noDelay: booleanOption(options, "noDelay", true),
    keepAlive: booleanOption(options, "keepAlive", true),
    maxConnections: integerOption(options, "maxConnections", Infinity, {
      min: 1,
      max: Infinity,
    }),
    proxyProtocol,
  };
}

/** Options that say where to listen: of no use where something listens
 * already. */
const ADDRESS_OPTIONS = [
  "hostname",
  "port",
  "path",
  "cert",
  "caCerts",
  "key",
  "alpnProtocols",
  "reusePort",
  "tcpBacklog",
] as const satisfies readonly (keyof ServeOptions)[];

function listenerOption(options: ServeOptions): TransportListener | undefined {
  const { listener } = options;
  if (listener === undefined) return undefined;
  checkObject("Option listener", listener);
  for (const method of ["accept", "close"] as const) {
    if (typeof listener[method] !== "function") {
      throw new TypeError(
        `Option listener must have a method ${method}, received ${
          show(listener)
        }`,
      );
    }
  }
  for (const name of ADDRESS_OPTIONS) {
    if (options[name] !== undefined) {
      throw new TypeError(`Option listener cannot be used with ${name}`);
    }
  }
  return listener;
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
