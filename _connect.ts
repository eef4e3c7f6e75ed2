// How one connection is made: TCP, TLS or a Unix socket, and the options of the
// socket.
//
// Knows: what the runtime offers for that, and its gaps: not every step can be
// cancelled. Must not know: how long it may take, and what is spoken over it.

import type { Transport } from "./codec.ts";
import {
  booleanOption,
  integerOption,
  objectOption,
  stringOption,
  stringsOption,
} from "./_options.ts";

/** What of a client's options says where to connect to, and how. */
interface TargetOptions {
  readonly hostname?: string;
  readonly port?: number;
  readonly path?: string;
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

/** Where to connect to, and how. */
export interface Target {
  readonly address: { hostname: string; port: number } | { path: string };
  /** Set if TLS is to be spoken. */
  readonly tls: TlsOptions | undefined;
  readonly noDelay: boolean;
  readonly keepAlive: boolean;
}

/** Checks the options that make a target. */
export function targetOption(options: TargetOptions): Target {
  // Each is read once: options may be a class's getters.
  const { port, path, tls } = options;
  const hostname = stringOption(options, "hostname");
  const settings = tlsOption(tls);
  let address: Target["address"];
  if (path !== undefined) {
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
  const { address, tls, noDelay, keepAlive } = target;
  let conn: Deno.Conn;
  if ("path" in address) {
    conn = await Deno.connect({ transport: "unix", ...address });
  } else if (tls?.cert !== undefined && tls.key !== undefined) {
    const { cert, key } = tls;
    conn = await Deno.connectTls({ ...address, ...tls, cert, key });
  } else {
    const tcp = await Deno.connect({ ...address, signal });
    conn = tcp;
    try {
      if (noDelay) tcp.setNoDelay();
      if (keepAlive) tcp.setKeepAlive();
      if (tls !== undefined) {
        const { hostname } = address;
        const { caCerts, alpnProtocols } = tls;
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
  if (tls !== undefined) {
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
