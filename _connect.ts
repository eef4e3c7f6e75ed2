// How one connection is made: TCP, TLS, a Unix socket or what the user's own
// `connect` gives, and the options of the socket.
//
// Knows: what the runtime offers for that: Deno's own sockets, or those of
// `node:net` in Node and Bun, and `node:tls` over either. Must not know: how long
// it may take, and what is spoken over it.

import type { Transport } from "./codec.ts";
import { isDeno } from "./_node.ts";
import { connectNode } from "./_node_listen.ts";
import { addressesOf, NodeSocket } from "./_node_socket.ts";
import {
  booleanOption,
  functionOption,
  integerOption,
  nameOption,
  objectOption,
  stringOption,
  stringsOption,
} from "./_options.ts";
import { checkTransport, closeTransport } from "./_transports.ts";
import { type Carrier, type ClientTlsOptions, TlsClient } from "./_tls.ts";

/** What of a client's options says where to connect to, and how. */
interface TargetOptions {
  readonly hostname?: string;
  readonly port?: number;
  readonly path?: string;
  readonly connect?: Connect;
  readonly tls?: boolean | ClientTlsOptions;
  readonly noDelay?: boolean;
  readonly keepAlive?: boolean;
}

/** The user's own way to make a connection. */
type Connect = (signal: AbortSignal) => Transport | PromiseLike<Transport>;

/** Where to connect to, and how. */
export interface Target {
  /** With `connect`, the host name is the one that TLS verifies. */
  readonly address:
    | { hostname: string; port: number }
    | { path: string }
    | { hostname: string; connect: Connect };
  /** Set if TLS is to be spoken. */
  readonly tls: TlsClient | undefined;
  readonly noDelay: boolean;
  readonly keepAlive: boolean;
}

/** Checks the options that make a target. */
export function targetOption(options: TargetOptions): Target {
  // Each is read once: options may be a class's getters.
  const { port, path, connect, tls } = options;
  const hostname = nameOption(options, "hostname");
  const settings = tlsOption(tls);
  let address: Target["address"];
  if (connect !== undefined) {
    functionOption({ connect }, "connect");
    if (port !== undefined || path !== undefined) {
      throw new TypeError("Option connect cannot be used with port or path");
    }
    if (hostname !== undefined && settings === undefined) {
      throw new TypeError(
        "Option hostname needs tls where option connect is used",
      );
    }
    address = { hostname: hostname ?? "127.0.0.1", connect };
  } else if (path !== undefined) {
    nameOption({ path }, "path");
    if (hostname !== undefined || port !== undefined || settings) {
      throw new TypeError(
        "Option path cannot be used with hostname, port or tls",
      );
    }
    address = { path };
  } else {
    if (port === undefined) {
      throw new TypeError("Option port must be a number, received undefined");
    }
    integerOption({ port }, "port", port, { min: 1, max: 0xffff });
    address = { hostname: hostname ?? "127.0.0.1", port };
  }
  return {
    address,
    tls: settings && !("path" in address)
      ? new TlsClient(address.hostname, settings)
      : undefined,
    noDelay: booleanOption(options, "noDelay", true),
    keepAlive: booleanOption(options, "keepAlive", true),
  };
}

function tlsOption(tls: TargetOptions["tls"]): ClientTlsOptions | undefined {
  if (typeof tls === "boolean") return tls ? {} : undefined;
  if (tls === undefined) return undefined;
  objectOption({ tls }, "tls");
  const cert = stringOption(tls, "cert");
  const key = stringOption(tls, "key");
  if ((cert === undefined) !== (key === undefined)) {
    throw new TypeError("Options tls.cert and tls.key need each other");
  }
  const caCerts = stringsOption(tls, "caCerts");
  const alpnProtocols = stringsOption(tls, "alpnProtocols");
  return {
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
    ...(caCerts !== undefined && { caCerts }),
    ...(alpnProtocols !== undefined && { alpnProtocols }),
  };
}

/** Names a target in a message. */
export function describeTarget({ address }: Target): string {
  if ("path" in address) return address.path;
  if ("connect" in address) return "the server through option connect";
  const { hostname, port } = address;
  return `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
}

/**
 * Makes one connection.
 *
 * @param signal Gives it up when it aborts. Not every step can be cancelled:
 * the promise may settle much later then, and the connection is closed by
 * itself if it was made after all.
 */
export async function connect(
  target: Target,
  signal: AbortSignal,
): Promise<Transport> {
  signal.throwIfAborted();
  const { tls } = target;
  const carrier = await reach(target, signal);
  let transport: Transport | undefined;
  const giveUp = () => close(transport ?? carrier);
  try {
    signal.throwIfAborted();
    set(carrier, target);
    if (tls === undefined) return transport = asTransport(carrier, target);
    const secure = transport = tls.secure(carrier);
    signal.addEventListener("abort", giveUp);
    await secure.handshake();
    signal.throwIfAborted();
    return secure;
  } catch (error) {
    giveUp();
    throw signal.aborted ? signal.reason : error;
  } finally {
    signal.removeEventListener("abort", giveUp);
  }
}

/** Makes what TLS may be spoken over. */
async function reach(
  { address }: Target,
  signal: AbortSignal,
): Promise<Carrier> {
  if ("connect" in address) {
    const transport = await address.connect(signal);
    checkTransport("Option connect", transport);
    return { transport };
  }
  if (!isDeno()) return { socket: await connectNode(address, signal) };
  const transport = "path" in address
    ? await Deno.connect({ transport: "unix", ...address })
    : await Deno.connect({ ...address, signal });
  return { transport };
}

/** Sets the options of a TCP socket. Only TCP has these, and only now: they
 * throw while a write is under way. */
function set(carrier: Carrier, { noDelay, keepAlive }: Target): void {
  const socket =
    ("socket" in carrier ? carrier.socket : carrier.transport) as Partial<
      Deno.TcpConn
    >;
  if (noDelay) socket.setNoDelay?.(true);
  if (keepAlive) socket.setKeepAlive?.(true);
}

function asTransport(carrier: Carrier, { address }: Target): Transport {
  if ("transport" in carrier) return carrier.transport;
  const path = "path" in address ? address.path : undefined;
  return new NodeSocket(carrier.socket, addressesOf(carrier.socket, path));
}

/** Closes what may be closed already. */
function close(connection: Carrier | Transport): void {
  if ("socket" in connection) connection.socket.destroy();
  else if ("transport" in connection) closeTransport(connection.transport);
  else closeTransport(connection);
}
