// A child process that serves: wirepool, and what it is compared with.

import process from "node:process";
import { serve } from "../server.ts";
import { echoKept, echoLarge, echoMany } from "./by_hand.ts";
import { answer, sleep } from "./child.ts";
import { ECHO_SERVICE, type Grpc, importPeer } from "./peers.ts";
import {
  ID,
  LARGE_RESPONSE,
  makeFrames,
  readAll,
  SLOW,
  SLOW_TIME,
  writeAll,
} from "./wire.ts";

/** Longest payload that the naive loop takes. */
const MAX_NAIVE = 128 * 1024;

/** Servers by name; each gives its port, or null where a peer is missing. */
const SERVERS: Record<string, () => number | Promise<number | null>> = {
  wirepool: () => serve({}, (payload) => payload).addr.port,
  correlated: () =>
    serve({ correlation: { length: ID } }, (payload) => payload).addr.port,
  /** Some requests take long; answers come in the order of the requests. */
  "slow, ordered": () => serve({ concurrency: 256 }, handleSlowly).addr.port,
  "slow, correlated": () =>
    serve({ correlation: { length: ID }, concurrency: 256 }, handleSlowly)
      .addr.port,
  /** Answers each request with LARGE_RESPONSE. */
  large: () => listen(respondLarge),
  "by hand": () => listen(echoMany),
  "by hand, kept": () => listen(echoKept),
  "by hand, large": () => listen(echoLarge),
  /** Echoes bytes as they come; it parses nothing. */
  raw: () => listen((conn) => echo(conn, 64 * 1024)),
  "raw 4 KiB": () => listen((conn) => echo(conn, 4 * 1024)),
  /** Reads the header, reads the body, writes the answer. */
  naive: () => listen(echoFrames),
  fetch: () =>
    Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      async (request) => new Response(await request.bytes()),
    ).addr.port,
  grpc: serveGrpc,
};

await answer({
  serve: (name: string) => SERVERS[name]!(),
  pid: () => Deno.pid,
  /** CPU time in microseconds and resident memory in bytes, so far. */
  usage() {
    const { user, system } = process.cpuUsage();
    return { cpu: user + system, user, rss: Deno.memoryUsage().rss };
  },
});

function listen(handle: (conn: Deno.TcpConn) => Promise<void>): number {
  const listener = Deno.listen({
    hostname: "127.0.0.1",
    port: 0,
    tcpBacklog: 511,
  });
  accept(listener, handle);
  return listener.addr.port;
}

async function accept(
  listener: Deno.TcpListener,
  handle: (conn: Deno.TcpConn) => Promise<void>,
): Promise<void> {
  for (;;) {
    const conn = await listener.accept();
    conn.setNoDelay();
    handle(conn).catch(() => {}).finally(() => conn[Symbol.dispose]());
  }
}

async function echo(conn: Deno.Conn, size: number): Promise<void> {
  const buffer = new Uint8Array(size);
  for (;;) {
    const n = await conn.read(buffer);
    if (n === null) return;
    const bytes = buffer.subarray(0, n);
    const written = await conn.write(bytes);
    if (written < n) await writeAll(conn, bytes.subarray(written));
  }
}

async function echoFrames(conn: Deno.Conn): Promise<void> {
  const buffer = new Uint8Array(8 + MAX_NAIVE);
  const header = buffer.subarray(0, 8);
  const view = new DataView(buffer.buffer);
  while (await readAll(conn, header)) {
    const end = 8 + view.getUint32(4);
    if (view.getUint32(0) > 0 || end > buffer.length) return;
    if (!await readAll(conn, buffer.subarray(8, end))) return;
    await writeAll(conn, buffer.subarray(0, end));
  }
}

async function handleSlowly(
  payload: Uint8Array<ArrayBuffer>,
): Promise<Uint8Array> {
  if (payload[0] === SLOW) await sleep(SLOW_TIME);
  return payload;
}

async function respondLarge(conn: Deno.Conn): Promise<void> {
  const request = new Uint8Array(8 + 64);
  const response = makeFrames(LARGE_RESPONSE, 1);
  while (await readAll(conn, request)) await writeAll(conn, response);
}

async function serveGrpc(): Promise<number | null> {
  const grpc = await importPeer<Grpc>("grpc");
  if (grpc === undefined) return null;
  const server = new grpc.Server();
  type Reply = (error: null, answer: Uint8Array) => void;
  server.addService(ECHO_SERVICE, {
    echo: (call: { request: Uint8Array }, reply: Reply) =>
      reply(null, call.request),
  });
  return new Promise((resolve, reject) =>
    server.bindAsync(
      "127.0.0.1:0",
      grpc.ServerCredentials.createInsecure(),
      (error, port) => error === null ? resolve(port) : reject(error),
    )
  );
}
