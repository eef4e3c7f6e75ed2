// A child process that speaks TLS on either side, in each of the ways there are:
// echoes and load that parse nothing, so that what differs is TLS alone.

import { createServer, type Socket } from "node:net";
import process from "node:process";
import { Duplex } from "node:stream";
import { createSecureContext, TLSSocket } from "node:tls";
import { connectNode } from "../_node_listen.ts";
import { TlsClient, TlsServer, type TlsTransport } from "../_tls.ts";
import type { Transport } from "../codec.ts";
import { answer, sleep } from "./child.ts";
import { writeAll } from "./wire.ts";

const folder = new URL("../tests/testdata/", import.meta.url);
const [ca, cert, key] = ["ca", "localhost", "localhost_key"].map((name) =>
  Deno.readTextFileSync(new URL(`${name}.pem`, folder))
) as [string, string, string];

/** Carriers of TLS: Deno's own; `node:tls` over Deno's TCP, which the library
 * uses; `node:tls` over `node:net`; and the engine behind `node:tls`, driven
 * without its streams. */
export type Carrier = "deno" | "over deno" | "over net" | "engine";

const HOST = "127.0.0.1";
const RUN_UP = 100;
const CHUNK = 64 * 1024;

interface TlsLoad {
  port: number;
  carrier: Carrier;
  connections: number;
  batch: number;
  payload: number;
  seconds: number;
}

/** Connections that do nothing, and their server. */
const idle: Transport[] = [];
let idlePort = 0;
let made: TlsClient | undefined;

await answer({
  async serve(carrier: Carrier): Promise<number> {
    if (carrier === "deno") {
      const address = { hostname: HOST, port: 0, tcpBacklog: 511 };
      const listener = Deno.listenTls({ ...address, cert, key });
      accept(() => listener.accept());
      return listener.addr.port;
    }
    if (carrier === "engine") {
      const listener = Deno.listen({
        hostname: HOST,
        port: 0,
        tcpBacklog: 511,
      });
      acceptByEngine(listener);
      return listener.addr.port;
    }
    const tls = new TlsServer({
      cert,
      key,
      caCerts: undefined,
      alpnProtocols: undefined,
    });
    if (carrier === "over deno") {
      const listener = Deno.listen({
        hostname: HOST,
        port: 0,
        tcpBacklog: 511,
      });
      accept(async () => {
        const transport = await listener.accept();
        transport.setNoDelay();
        return tls.secure({ transport });
      });
      return listener.addr.port;
    }
    const server = createServer(
      { allowHalfOpen: true, pauseOnConnect: true, noDelay: true },
      (socket) => serveOne(tls.secure({ socket })),
    );
    await new Promise<void>((resolve) => server.listen(0, HOST, resolve));
    return (server.address() as { port: number }).port;
  },

  /** Bytes in batches that come back; in batches per second. */
  async load(load: TlsLoad): Promise<number> {
    const out = new Uint8Array(load.batch * load.payload).fill(7);
    const conns: Transport[] = [];
    for (let i = 0; i < load.connections; i++) conns.push(await connect(load));
    let count = 0;
    let stopped = false;
    const done = Promise.all(conns.map(async (conn) => {
      const room = new Uint8Array(CHUNK);
      while (!stopped) {
        const writing = writeAll(conn, out);
        for (let got = 0; got < out.length;) {
          const n = await conn.read(room);
          if (n === null) throw new Error("The server hung up");
          got += n;
        }
        await writing;
        count += load.batch;
      }
    }));
    await sleep(RUN_UP);
    const start = performance.now();
    const before = count;
    await Promise.race([done, sleep(1000 * load.seconds)]);
    const rate = 1000 * (count - before) / (performance.now() - start);
    stopped = true;
    await done;
    for (const conn of conns) conn.close();
    return rate;
  },

  /** Milliseconds of an answer in lockstep that is as large as its request and
   * written in two parts, as a server of frames may have to. */
  async lockstep(load: TlsLoad): Promise<number> {
    const conn = await connect(load);
    const room = new Uint8Array(CHUNK);
    const times: number[] = [];
    for (let i = 0; i < 15; i++) {
      const start = performance.now();
      await writeAll(conn, new Uint8Array(load.payload));
      for (let got = 0; got < load.payload;) got += (await conn.read(room))!;
      times.push(performance.now() - start);
    }
    conn.close();
    return times.sort((a, b) => a - b)[7]!;
  },

  /** Keeps so many connections open that do nothing. */
  async hold(load: TlsLoad): Promise<void> {
    if (load.port !== idlePort) {
      for (const conn of idle.splice(0)) conn.close();
      idlePort = load.port;
    }
    while (idle.length < load.connections) idle.push(await connect(load));
  },

  usage() {
    const { user, system } = process.cpuUsage();
    return { cpu: user + system, rss: Deno.memoryUsage().rss };
  },
});

async function accept(next: () => Promise<Transport>): Promise<void> {
  for (;;) serveOne(await next());
}

async function serveOne(conn: Transport): Promise<void> {
  try {
    await (conn as Deno.TlsConn | TlsTransport).handshake();
    // Little while it is idle, as the library does it.
    let room = new Uint8Array(4096);
    for (;;) {
      const n = await conn.read(room);
      if (n === null) break;
      await writeAll(conn, room.subarray(0, n));
      if (n === room.length && n < CHUNK) room = new Uint8Array(CHUNK);
    }
  } catch {
    // It has gone.
  } finally {
    try {
      conn.close();
    } catch {
      // Closed already.
    }
  }
}

async function connect({ port, carrier }: TlsLoad): Promise<Transport> {
  if (carrier === "over net") {
    const { signal } = new AbortController();
    const socket: Socket = await connectNode({ hostname: HOST, port }, signal);
    socket.setNoDelay(true);
    return await handshaken(client().secure({ socket }));
  }
  const conn = await Deno.connect({ hostname: HOST, port });
  conn.setNoDelay();
  if (carrier === "over deno") {
    return await handshaken(client().secure({ transport: conn }));
  }
  const tls = await Deno.startTls(conn, { hostname: HOST, caCerts: [ca] });
  await tls.handshake();
  return tls;
}

async function handshaken(conn: TlsTransport): Promise<Transport> {
  await conn.handshake();
  return conn;
}

function client(): TlsClient {
  return made ??= new TlsClient(HOST, { caCerts: [ca] });
}

async function acceptByEngine(listener: Deno.TcpListener): Promise<void> {
  for (;;) {
    const conn = await listener.accept();
    conn.setNoDelay();
    echoByEngine(conn).catch(() => {}).finally(() => conn[Symbol.dispose]());
  }
}

/** The handle of a TLS socket in Deno 2.9, as far as it is used here. It is not
 * documented, so that no library should use it. */
interface Engine {
  readBuffer(bytes: Uint8Array): void;
  writeBuffer(request: object, bytes: Uint8Array): void;
  drainEncOut(): Uint8Array;
  readStart(): void;
  onread: (bytes?: ArrayBuffer) => void;
}

async function echoByEngine(conn: Deno.TcpConn): Promise<void> {
  const below = new Duplex({ read() {}, write: (_, __, done) => done() });
  const socket = new TLSSocket(below as Socket, {
    isServer: true,
    secureContext: createSecureContext({ cert, key }),
  });
  socket.on("error", () => {});
  let secure = false;
  socket.once("secure", () => secure = true);
  const { _handle: engine } = socket as unknown as { _handle: Engine };
  const { writeBuffer } = Object.getPrototypeOf(engine) as Engine;
  const room = new Uint8Array(CHUNK);
  const flush = async () => {
    const bytes = engine.drainEncOut();
    if (bytes.length > 0) await writeAll(conn, bytes);
    return bytes.length;
  };
  // It starts in the next turn.
  await sleep(0);
  while (!secure) {
    const n = await conn.read(room);
    if (n === null) return;
    engine.readBuffer(room.subarray(0, n));
    await flush();
  }
  const plain: Uint8Array[] = [];
  for (let chunk; (chunk = socket.read()) !== null;) plain.push(chunk);
  engine.onread = (bytes) => {
    if (bytes !== undefined) plain.push(new Uint8Array(bytes));
  };
  engine.readStart();
  for (;;) {
    for (let chunk; (chunk = plain.shift()) !== undefined;) {
      writeBuffer.call(engine, {}, chunk);
      while (await flush() > CHUNK / 2) engine.readBuffer(new Uint8Array(0));
    }
    const n = await conn.read(room);
    if (n === null) return;
    engine.readBuffer(room.subarray(0, n));
  }
}
