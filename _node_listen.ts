// Listening and connecting by `node:net`, in Node and Bun.
//
// Knows: that `node:net` accepts by itself and gives sockets as events. Must
// not know: TLS, frames, and who takes the connections.

import type { Server, Socket } from "node:net";
import type { TransportAddress } from "./codec.ts";
import { builtin } from "./_node.ts";

/** Sockets that come while nobody accepts, at most. `node:net` cannot leave
 * them in the system's own queue: they are open, unread, and one more is closed
 * as a full queue would refuse it. */
const MAX_WAITING = 16;

/** Where to listen. */
export type NodeAddress =
  | { hostname: string; port: number; tcpBacklog: number; reusePort: boolean }
  | { path: string };

/** A listener that gives sockets one by one. */
export class NodeListener {
  readonly addr: TransportAddress;
  readonly #server: Server;
  readonly #waiting: Socket[] = [];
  #accepting: {
    resolve: (socket: Socket) => void;
    reject: (error: unknown) => void;
  } | null = null;
  #failure: unknown;
  #closed = false;

  /** Listens at once, or throws. */
  constructor(address: NodeAddress) {
    const server = builtin("net").createServer({
      allowHalfOpen: true,
      pauseOnConnect: true,
    });
    this.#server = server;
    server.on("connection", (socket) => this.#onConnection(socket));
    // Told later than it happens; see `listening` below.
    server.on("error", (error) => this.#fail(error));
    start(server, address);
    const { path } = address as { path?: string };
    if (!server.listening) throw inUse(address);
    const bound = server.address()!;
    this.addr = path !== undefined
      ? { transport: "unix", path }
      : typeof bound === "string"
      ? { transport: "unix", path: bound }
      : { transport: "tcp", hostname: bound.address, port: bound.port };
  }

  accept(): Promise<Socket> {
    const socket = this.#waiting.shift();
    if (socket !== undefined) return Promise.resolve(socket);
    if (this.#failure !== undefined) {
      const failure = this.#failure;
      this.#failure = undefined;
      return Promise.reject(failure);
    }
    if (this.#closed) return Promise.reject(closed());
    return new Promise((resolve, reject) => {
      this.#accepting = { resolve, reject };
    });
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#server.close();
    for (const socket of this.#waiting.splice(0)) socket.destroy();
    this.#fail(closed());
  }

  ref(): void {
    this.#server.ref();
  }

  unref(): void {
    this.#server.unref();
  }

  #onConnection(socket: Socket): void {
    // It may fail before anybody has taken it.
    socket.on("error", () => {});
    const accepting = this.#accepting;
    if (accepting !== null) {
      this.#accepting = null;
      accepting.resolve(socket);
    } else if (this.#closed || this.#waiting.length === MAX_WAITING) {
      socket.destroy();
    } else {
      this.#waiting.push(socket);
    }
  }

  #fail(error: unknown): void {
    const accepting = this.#accepting;
    this.#accepting = null;
    if (accepting !== null) accepting.reject(error);
    else this.#failure = error;
  }
}

function start(server: Server, address: NodeAddress): void {
  if ("path" in address) {
    server.listen({ path: address.path });
    return;
  }
  const { port, tcpBacklog, reusePort } = address;
  // Node looks every host up, an address too, and listens only then; a handle
  // of an address listens at once. Bun listens at once by itself.
  const host = address.hostname === "localhost"
    ? "127.0.0.1"
    : address.hostname;
  const net = builtin("net") as typeof import("node:net") & {
    _createServerHandle?: (host: string, port: number, family: number) =>
      | object
      | number;
  };
  const family = net.isIP(host);
  if (family === 0) {
    throw new TypeError(
      `Option hostname must be an address to listen on outside Deno, received ${
        JSON.stringify(host)
      }`,
    );
  }
  const handle = reusePort
    ? undefined
    : net._createServerHandle?.(host, port, family);
  if (typeof handle === "number") throw inUse(address, handle);
  if (handle === undefined) {
    server.listen({
      host,
      port,
      backlog: tcpBacklog,
      ...(reusePort ? { reusePort } : {}),
    });
  } else {
    server.listen(handle, tcpBacklog);
  }
}

function inUse(address: NodeAddress, errno?: number): Error {
  const where = "path" in address
    ? address.path
    : `${address.hostname}:${address.port}`;
  const error = new Error(
    errno === undefined || errno === -98 || errno === -48
      ? `Address ${where} is in use, or cannot be listened on`
      : `Cannot listen on ${where}: system error ${-errno}`,
  );
  error.name = "AddrInUse";
  return Object.assign(error, { code: "EADDRINUSE" });
}

function closed(): Error {
  const error = new Error("The listener was closed");
  error.name = "BadResource";
  return error;
}

/** Connects a socket; the signal gives it up. */
export function connectNode(
  address: { hostname: string; port: number } | { path: string },
  signal: AbortSignal,
): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const socket = builtin("net").connect({
    ...("path" in address
      ? { path: address.path }
      : { host: address.hostname, port: address.port }),
    allowHalfOpen: true,
  });
  const abort = () => {
    socket.destroy();
    reject(signal.reason);
  };
  signal.addEventListener("abort", abort);
  socket.once("connect", () => resolve(socket));
  // It stays: what comes after the connection is there is told by a read.
  socket.on("error", reject);
  socket.once("close", () => reject(new Error("The connection was closed")));
  return promise.finally(() => signal.removeEventListener("abort", abort));
}
