// The server's listener, and what is set on each connection that it accepts.
//
// Knows: the options of an address and of sockets, and how a runtime listens:
// Deno by itself, Node and Bun by `node:net`, and all of them by `node:tls`
// where TLS is spoken. Must not know: frames, handlers, and how long
// connections live.

import type { Transport, TransportAddress } from "./codec.ts";
import { ignore } from "./_callbacks.ts";
import { isDeno } from "./_node.ts";
import { type NodeAddress, NodeListener } from "./_node_listen.ts";
import { addressesOf, NodeSocket } from "./_node_socket.ts";
import {
  booleanOption,
  integerOption,
  nameOption,
  stringOption,
  stringsOption,
} from "./_options.ts";
import { type Carrier, TlsServer } from "./_tls.ts";
import { removeDead, SocketFile } from "./_unix.ts";

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
  /** Changes the certificate for the connections that come from now on, where
   * TLS is spoken. */
  setCertificate?(certificate: { cert: string; key: string }): void;
}

/** The options of an address; `serve` documents them. */
export interface ListenOptions {
  readonly hostname?: string;
  readonly port?: number;
  readonly path?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly caCerts?: readonly string[];
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
  const hostname = nameOption(options, "hostname");
  const port = options.port === undefined
    ? undefined
    : integerOption(options, "port", 0, { min: 0, max: 0xffff });
  const path = nameOption(options, "path");
  const cert = stringOption(options, "cert");
  const key = stringOption(options, "key");
  const caCerts = stringsOption(options, "caCerts");
  const alpnProtocols = stringsOption(options, "alpnProtocols");
  const reusePort = booleanOption(options, "reusePort", false);
  const tcpBacklog = integerOption(options, "tcpBacklog", 511, {
    min: 1,
    max: 2 ** 31 - 1,
  });
  if ((cert === undefined) !== (key === undefined)) {
    throw new TypeError("Options cert and key need each other");
  }
  if (caCerts !== undefined && cert === undefined) {
    throw new TypeError("Option caCerts needs cert and key");
  }
  if (path !== undefined) {
    if (cert !== undefined || hostname !== undefined || port !== undefined) {
      throw new TypeError(
        "Option path cannot be used with hostname, port or cert",
      );
    }
    return listenUnix(path);
  }
  // Before anything listens: what is wrong with a certificate is thrown.
  const tls = cert === undefined || key === undefined
    ? undefined
    : new TlsServer({ cert, key, caCerts, alpnProtocols });
  const address = {
    hostname: hostname ?? "127.0.0.1",
    port: port ?? 0,
    tcpBacklog,
    reusePort,
  };
  return tls === undefined
    ? listenTcp(address)
    : new SecureListener(address, tls);
}

type TcpAddress = Exclude<NodeAddress, { path: string }>;

function listenTcp(address: TcpAddress): Listener {
  return isDeno() ? listenDeno(address) : new SocketListener(address);
}

function listenDeno({ reusePort, ...address }: TcpAddress): Listener {
  // Only when asked for: it is refused without --unstable-net.
  return Deno.listen({ ...address, ...(reusePort ? { reusePort } : {}) });
}

/** Takes over the path of a server that was killed, and no other. */
function listenUnix(path: string): Listener {
  const start = (): Listener =>
    isDeno()
      ? Deno.listen({ transport: "unix", path })
      : new SocketListener({ path });
  let listener: Listener;
  try {
    listener = start();
  } catch (error) {
    // Whatever the reason: only a socket that nobody answers on is removed.
    if (!removeDead(path)) throw error;
    listener = start();
  }
  return new UnixListener(listener, path);
}

/** A listener that leaves a successor's socket file where it is. */
class UnixListener implements Listener {
  readonly #listener: Listener;
  readonly #file: SocketFile;
  #accepting = false;
  #putBack: () => void = ignore;

  constructor(listener: Listener, path: string) {
    this.#listener = listener;
    this.#file = new SocketFile(path);
  }

  get addr(): TransportAddress {
    return this.#listener.addr;
  }

  async accept(): Promise<Transport> {
    this.#accepting = true;
    try {
      return await this.#listener.accept();
    } catch (error) {
      this.#putBack();
      throw error;
    } finally {
      this.#accepting = false;
    }
  }

  close(): void {
    this.#putBack = this.#file.putAside();
    this.#listener.close();
    // Deno removes the file once the accept under way has ended.
    if (!this.#accepting) this.#putBack();
  }

  ref(): void {
    this.#listener.ref?.();
  }

  unref(): void {
    this.#listener.unref?.();
  }
}

/** A listener of `node:net`, in Node and Bun. */
class SocketListener implements Listener {
  readonly #listener: NodeListener;
  readonly #path: string | undefined;

  constructor(address: NodeAddress) {
    this.#listener = new NodeListener(address);
    this.#path = "path" in address ? address.path : undefined;
  }

  get addr(): TransportAddress {
    return this.#listener.addr;
  }

  async accept(): Promise<Transport> {
    const socket = await this.#listener.accept();
    return new NodeSocket(socket, addressesOf(socket, this.#path));
  }

  close(): void {
    this.#listener.close();
  }

  ref(): void {
    this.#listener.ref();
  }

  unref(): void {
    this.#listener.unref();
  }
}

/** A listener whose connections speak TLS. Their handshakes are theirs to wait
 * for: the next accept does not. */
class SecureListener implements Listener {
  readonly #tls: TlsServer;
  readonly #listener: {
    readonly addr: TransportAddress;
    close(): void;
    ref?(): void;
    unref?(): void;
  };
  readonly #accept: () => Promise<Carrier>;

  constructor(address: TcpAddress, tls: TlsServer) {
    this.#tls = tls;
    if (isDeno()) {
      const listener = listenDeno(address);
      this.#listener = listener;
      this.#accept = async () => ({ transport: await listener.accept() });
    } else {
      const listener = new NodeListener(address);
      this.#listener = listener;
      this.#accept = async () => ({ socket: await listener.accept() });
    }
  }

  get addr(): TransportAddress {
    return this.#listener.addr;
  }

  async accept(): Promise<Transport> {
    return this.#tls.secure(await this.#accept());
  }

  close(): void {
    this.#listener.close();
  }

  ref(): void {
    this.#listener.ref?.();
  }

  unref(): void {
    this.#listener.unref?.();
  }

  setCertificate(certificate: { cert: string; key: string }): void {
    this.#tls.renew(certificate);
  }
}

/** What some transports have besides. */
interface Settable {
  setNoDelay(noDelay?: boolean): void;
  setKeepAlive(keepAlive?: boolean): void;
  handshake(): Promise<unknown>;
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
  // Each of them is there on some kinds of connections only: Unix connections
  // have no `setNoDelay`, and only TLS connections shake hands.
  const socket = conn as Partial<Settable>;
  try {
    if (noDelay) socket.setNoDelay?.();
    if (keepAlive) socket.setKeepAlive?.();
  } catch {
    // The peer is gone already; the first read will say so.
  }
  try {
    return socket.handshake?.();
  } catch (error) {
    return Promise.reject(error);
  }
}
