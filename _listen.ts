// The server's listener, and what is set on each connection that it accepts.
//
// Knows: the options of an address and of sockets, and how a runtime listens.
// Must not know: frames, handlers, and how long connections live.

import type { Transport, TransportAddress } from "./codec.ts";
import {
  booleanOption,
  integerOption,
  stringOption,
  stringsOption,
} from "./_options.ts";

/** Where connections come from. */
export interface Listener {
  /** Resolves to the next connection. */
  accept(): Promise<Transport>;
  /** Accepts no more; an accept under way rejects. */
  close(): void;
  /** Where it listens. */
  readonly addr: TransportAddress;
  /** Has the listener keep the process alive, where it can. */
  ref?(): void;
  /** Lets the process end although it listens. */
  unref?(): void;
}

/** The options of an address; `serve` documents them. */
export interface ListenOptions {
  readonly hostname?: string;
  readonly port?: number;
  readonly path?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly alpnProtocols?: readonly string[];
  readonly reusePort?: boolean;
  readonly tcpBacklog?: number;
}

/** What is set on each connection. */
export interface SocketSettings {
  readonly noDelay: boolean;
  readonly keepAlive: boolean;
}

/** Listens. */
export function listen(options: ListenOptions): Listener {
  const hostname = stringOption(options, "hostname");
  const port = options.port === undefined
    ? undefined
    : integerOption(options, "port", 0, { min: 0, max: 0xffff });
  const path = stringOption(options, "path");
  const cert = stringOption(options, "cert");
  const key = stringOption(options, "key");
  const alpnProtocols = stringsOption(options, "alpnProtocols");
  const reusePort = booleanOption(options, "reusePort", false);
  const tcpBacklog = integerOption(options, "tcpBacklog", 511, {
    min: 1,
    max: 2 ** 31 - 1,
  });
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

/**
 * Sets what is to be set on a connection that has just been accepted.
 *
 * @returns A promise of the end of its TLS handshake, if it has one; the
 * connection is not to be read before.
 */
export function prepare(
  conn: Transport,
  { noDelay, keepAlive }: SocketSettings,
): Promise<unknown> | undefined {
  // Each of them is there on some kinds of connections only: TLS and Unix
  // connections have no `setNoDelay`, and only TLS connections shake hands.
  const socket = conn as Partial<Deno.TcpConn & Deno.TlsConn>;
  try {
    if (noDelay) socket.setNoDelay?.();
    if (keepAlive) socket.setKeepAlive?.();
  } catch {
    // The peer is gone already; the first read will say so.
  }
  return socket.handshake?.();
}
