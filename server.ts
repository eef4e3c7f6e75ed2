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

import { FrameEncoder, type FrameOptions, type Transport } from "./codec.ts";
import { Acceptor, type AcceptorOwner } from "./_accept.ts";
import { callDetached, ignore } from "./_callbacks.ts";
import { listen, type Listener, prepare } from "./_listen.ts";
import {
  booleanOption,
  checkFunction,
  checkObject,
  durationOption,
  functionOption,
  integerOption,
  objectOption,
  show,
  signalOption,
} from "./_options.ts";
import { readProxyHeader } from "./_proxy_header.ts";
import {
  type ConnectionSettings,
  ServerConnection,
} from "./_server_connection.ts";
import { ConnectionSet } from "./_server_connections.ts";
import { observe } from "./_server_hooks.ts";
import { startTimer } from "./_timers.ts";

/** Turns of the event loop for which a shutdown reads what has arrived. Peers
 * that never stop sending are not waited for. */
const MAX_DRAIN_TURNS = 50;

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
  /** The certificate that the peer has shown and the handshake has verified,
   * where the server asks for one: see {@linkcode ServeOptions.caCerts}. */
  readonly peerCertificate: PeerCertificate | undefined;
  /** Aborts when the connection or the server goes, and as soon as the peer
   * ends its stream, behind which nothing tells one that has gone from one that
   * has only closed its writing side. Who returns a response all the same has
   * it written, to whoever is left to read it. */
  readonly signal: AbortSignal;
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
  return new RunningServer(options, handler);
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
  const abort = () => connection.destroy(signal?.reason);
  if (signal?.aborted) return abort();
  signal?.addEventListener("abort", abort, { once: true });
  connections.add(connection);
  connection.serve();
  await ended;
  connections.delete(connection);
  signal?.removeEventListener("abort", abort);
}

/** Checks and completes the options of a connection. */
function connectionSettings(
  handler: Handler,
  options: ConnectionOptions,
): ConnectionSettings {
  checkFunction("Handler", handler);
  checkObject("Options", options);
  const { onError, hooks } = options;
  functionOption({ onError }, "onError");
  objectOption({ hooks }, "hooks");
  const report = (error: unknown, context: HandlerContext | undefined) =>
    callDetached(() => onError?.(error, context), ignore);
  return {
    // Judges the layout now, not per connection.
    frame: new FrameEncoder(options).options,
    handler: hooks === undefined ? handler : observe(handler, hooks, report),
    concurrency: integerOption(options, "concurrency", 1, {
      min: 1,
      max: Number.MAX_SAFE_INTEGER,
    }),
    idleTimeout: durationOption(options, "idleTimeout", 300_000),
    readTimeout: durationOption(options, "readTimeout", 30_000),
    writeTimeout: durationOption(options, "writeTimeout", 30_000),
    onError,
    report,
  };
}

function connectionSet(
  { idleTimeout, readTimeout, writeTimeout }: ConnectionSettings,
): ConnectionSet<ServerConnection> {
  return new ConnectionSet([idleTimeout, readTimeout, writeTimeout]);
}

/** A listener and its connections. */
class RunningServer implements Server {
  readonly addr: Deno.Addr;
  readonly finished: Promise<void>;
  readonly #settings: ConnectionSettings;
  readonly #options: ServerSettings;
  readonly #listener: Listener;
  readonly #acceptor: Acceptor;
  readonly #connections: ConnectionSet<ServerConnection>;
  readonly #stats = newStats();
  readonly #signal: AbortSignal | undefined;
  readonly #abort = () => this.close();
  #resolveFinished!: () => void;
  #refed = true;
  #shutdown: Promise<void> | undefined;

  constructor(options: ServeOptions, handler: Handler) {
    this.#settings = connectionSettings(handler, options);
    this.#options = serverSettings(options);
    this.#signal = signalOption(options);
    const { onListen } = options;
    functionOption({ onListen }, "onListen");
    this.#connections = connectionSet(this.#settings);
    this.finished = new Promise((resolve) => this.#resolveFinished = resolve);
    const listener: Listener = listen(options);
    this.#listener = listener;
    this.addr = listener.addr;
    try {
      onListen?.(this.addr);
    } catch (error) {
      listener.close();
      throw error;
    }
    this.#acceptor = new Acceptor(listener, this.#acceptorOwner());
    this.#signal?.addEventListener("abort", this.#abort, { once: true });
    this.#acceptor.start();
    if (this.#signal?.aborted) this.close();
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
    this.#acceptor.stop();
    const reason = new DOMException("The server was closed", "AbortError");
    for (const connection of this.#connections) connection.destroy(reason);
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
    this.#acceptor.stop();
    const { shutdownTimeout } = this.#options;
    const timer = shutdownTimeout > 0
      ? startTimer(() => this.close(), shutdownTimeout)
      : undefined;
    // What has arrived but was not read yet has been received, too. A timer
    // may be due before the reads of its turn: only the second turn without
    // a byte says that there was none.
    let quiet = 0;
    for (let i = 0; i < MAX_DRAIN_TURNS && quiet < 2; i++) {
      if (this.#connections.size === 0) break;
      const seen = this.#stats.bytesIn;
      await new Promise((resolve) => setTimeout(resolve, 0));
      quiet = this.#stats.bytesIn === seen ? quiet + 1 : 0;
    }
    for (const connection of this.#connections) connection.drain(quiet === 2);
    await this.finished;
    clearTimeout(timer);
  }

  #acceptorOwner(): AcceptorOwner {
    const connections = this.#connections;
    return {
      get open() {
        return connections.size;
      },
      maxConnections: this.#options.maxConnections,
      admit: (conn) => this.#admit(conn),
      acceptFailed: (error, exhausted) => {
        this.#stats.acceptErrors++;
        if (exhausted) this.#settings.report(error, undefined);
      },
      acceptorEnded: () => this.#finishIfDone(),
    };
  }

  #admit(conn: Transport): void {
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
    const { proxyProtocol, handshakeTimeout } = this.#options;
    if (secured !== undefined) {
      connection.serve(secured.then(() => {}), handshakeTimeout);
    } else if (proxyProtocol) {
      connection.serve(proxied(conn, connection), handshakeTimeout);
    } else {
      connection.serve();
    }
  }

  readonly #connectionEnded = (connection: ServerConnection) => {
    this.#connections.delete(connection);
    this.#acceptor.connectionEnded();
    this.#finishIfDone();
  };

  #finishIfDone(): void {
    if (!this.#acceptor.ended || this.#connections.size > 0) return;
    this.#signal?.removeEventListener("abort", this.#abort);
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
  readonly handshakeTimeout: number;
  readonly shutdownTimeout: number;
}

function serverSettings(options: ServeOptions): ServerSettings {
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
    handshakeTimeout: durationOption(options, "handshakeTimeout", 10_000),
    shutdownTimeout: durationOption(options, "shutdownTimeout", 10_000),
  };
}

/** Takes the addresses from the PROXY header, and gives what was read of the
 * stream behind it. */
async function proxied(
  conn: Transport,
  { context }: ServerConnection,
): Promise<Uint8Array> {
  const { addresses, rest } = await readProxyHeader(conn);
  if (addresses !== undefined) {
    context.setAddresses(addresses.source, addresses.destination);
  }
  return rest;
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
