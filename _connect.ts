// How one connection is made: TCP, TLS, a Unix socket or what the user's own
// `connect` gives, and the options of the socket.
//
// Knows: what the runtime offers for that, and its gaps: not every step can be
// cancelled. Must not know: how long it may take, and what is spoken over it.

import type { Transport } from "./codec.ts";
import {
  booleanOption,
  functionOption,
  integerOption,
  objectOption,
  show,
  stringOption,
  stringsOption,
} from "./_options.ts";

/** What of a client's options says where to connect to, and how. */
interface TargetOptions {
  readonly hostname?: string;
  readonly port?: number;
  readonly path?: string;
  readonly connect?: Connect;
  readonly tls?: boolean | TlsOptions;
  readonly noDelay?: boolean;
  readonly keepAlive?: boolean;
}

interface TlsOptions {
  readonly caCerts?: string[];
  readonly cert?: string;
  readonly key?: string;
  readonly alpnProtocols?: string[];
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
  readonly tls: TlsOptions | undefined;
  readonly noDelay: boolean;
  readonly keepAlive: boolean;
}

/** Checks the options that make a target. */
export function targetOption(options: TargetOptions): Target {
  // Each is read once: options may be a class's getters.
  const { port, path, connect, tls } = options;
  const hostname = stringOption(options, "hostname");
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
    stringOption({ path }, "path");
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
    tls: settings,
    noDelay: booleanOption(options, "noDelay", true),
    keepAlive: booleanOption(options, "keepAlive", true),
  };
}

function tlsOption(tls: TargetOptions["tls"]): TlsOptions | undefined {
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
  const { address, tls } = target;
  let transport: Transport;
  if ("path" in address) {
    transport = await Deno.connect({ transport: "unix", ...address });
  } else if ("connect" in address) {
    transport = await address.connect(signal);
    checkTransport(transport);
    if (signal.aborted) close(transport);
    signal.throwIfAborted();
    transport = await secure(transport, target, address.hostname);
  } else if (tls?.cert !== undefined && tls.key !== undefined) {
    const { cert, key } = tls;
    transport = await Deno.connectTls({ ...address, ...tls, cert, key });
  } else {
    const tcp = await Deno.connect({ ...address, signal });
    transport = await secure(tcp, target, address.hostname);
  }
  if (signal.aborted) close(transport);
  signal.throwIfAborted();
  if (tls !== undefined) {
    const giveUp = () => close(transport);
    signal.addEventListener("abort", giveUp);
    try {
      await (transport as Deno.TlsConn).handshake();
    } catch (error) {
      close(transport);
      throw error;
    } finally {
      signal.removeEventListener("abort", giveUp);
    }
  }
  return transport;
}

/** Sets the options of a TCP socket, and speaks TLS over it if that is asked. */
async function secure(
  transport: Transport,
  { tls, noDelay, keepAlive }: Target,
  hostname: string,
): Promise<Transport> {
  try {
    // Only TCP has these, and only now: they throw while a write is under way.
    const tcp = transport as Partial<Deno.TcpConn>;
    if (noDelay) tcp.setNoDelay?.();
    if (keepAlive) tcp.setKeepAlive?.();
    if (tls === undefined) return transport;
    const { caCerts, alpnProtocols } = tls;
    return await Deno.startTls(transport as Deno.TcpConn, {
      hostname,
      ...(caCerts === undefined ? {} : { caCerts }),
      ...(alpnProtocols === undefined ? {} : { alpnProtocols }),
    });
  } catch (error) {
    close(transport);
    throw error;
  }
}

function checkTransport(value: unknown): asserts value is Transport {
  const { read, write, close } = (value ?? {}) as Partial<Transport>;
  for (const method of [read, write, close]) {
    if (typeof method === "function") continue;
    throw new TypeError(
      `Option connect must give a transport with read, write and close, received ${
        show(value)
      }`,
    );
  }
}

/** Closes a transport, which may be closed already. */
function close(transport: Transport): void {
  try {
    transport.close();
  } catch {
    // Closed already, which is what is wanted.
  }
}
