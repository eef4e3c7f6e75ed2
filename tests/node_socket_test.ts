/** The adapter between a socket of `node:net` and a transport; the conformance
 * suite covers what server and client make of it. */
import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import { createServer, type Server, type Socket } from "node:net";
import { connectNode } from "../_node_listen.ts";
import { addressesOf, NodeSocket } from "../_node_socket.ts";
import { pattern } from "./bytes_support.ts";
import { outcomeOf, rejection } from "./promise_support.ts";
import { eventually, sleep } from "./time_support.ts";

/** A connection: our side's socket and transport, and the other side. */
async function connected(): Promise<
  { socket: Socket; conn: NodeSocket; peer: Socket; end: () => Promise<void> }
> {
  const { promise: accepted, resolve } = Promise.withResolvers<Socket>();
  const server: Server = createServer({ allowHalfOpen: true }, resolve);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  const { signal } = new AbortController();
  const socket = await connectNode({ hostname: "127.0.0.1", port }, signal);
  const peer = await accepted;
  peer.on("error", () => {});
  const conn = new NodeSocket(socket, addressesOf(socket));
  return {
    socket,
    conn,
    peer,
    async end() {
      conn.close();
      peer.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

Deno.test("A NodeSocket reads what comes in pieces of any size, to the end", async () => {
  const { conn, peer, end } = await connected();
  const sent = pattern(200_000);
  peer.end(sent);
  const received: number[] = [];
  for (let size = 1;; size = size * 3 % 5000 + 1) {
    const room = new Uint8Array(size);
    const n = await conn.read(room);
    if (n === null) break;
    assert(n > 0 && n <= size);
    received.push(...room.subarray(0, n));
  }
  assertEquals(Uint8Array.from(received), sent);
  assertEquals(await conn.read(new Uint8Array(1)), null);
  await end();
});

Deno.test("A NodeSocket that is not read stops reading", async () => {
  const { socket, conn, peer, end } = await connected();
  peer.write(new Uint8Array(32 * 1024 * 1024));
  assertEquals(await conn.read(new Uint8Array(1)), 1);
  await sleep(100);
  assert(socket.bytesRead < 1024 * 1024, `${socket.bytesRead}`);
  await end();
});

Deno.test("A NodeSocket writes some bytes at a time, and goes on reading after it has ended its own stream", async () => {
  const { conn, peer, end } = await connected();
  let got = 0;
  peer.on("data", (chunk: Uint8Array) => got += chunk.length);
  const n = await conn.write(new Uint8Array(1024 * 1024));
  assert(n > 0 && n < 1024 * 1024);
  await conn.closeWrite();
  await eventually("all has come", () => got === n);
  peer.write(Uint8Array.of(7));
  const room = new Uint8Array(10);
  assertEquals(await conn.read(room), 1);
  assertEquals(room[0], 7);
  await end();
});

Deno.test("NodeSocket.close() ends what is under way, and leaves no listener but one for late errors", async () => {
  const { socket, conn, end } = await connected();
  const before = socket.listenerCount("error");
  const reading = outcomeOf(conn.read(new Uint8Array(1)));
  const writing = (async () => {
    let total = 0;
    for (;;) total += await conn.write(new Uint8Array(60_000));
  })();
  await sleep(50);
  conn.close();
  assertInstanceOf(await reading, Deno.errors.BadResource);
  assertInstanceOf(await rejection(writing), Deno.errors.BadResource);
  await eventually(
    "it has let go",
    () =>
      ["data", "end", "close", "readable"].every((event) =>
        !socket.listeners(event).some((listener) =>
          `${listener}`.includes("this.#")
        )
      ),
  );
  assert(socket.listenerCount("error") <= before);
  assertInstanceOf(
    await rejection(conn.write(new Uint8Array(1))),
    Deno.errors.BadResource,
  );
  conn.close();
  await end();
});

Deno.test("What a NodeSocket fails with is what its reads and writes reject with", async () => {
  const { conn, peer, end } = await connected();
  const reading = rejection(conn.read(new Uint8Array(1)));
  peer.resetAndDestroy();
  const error = await reading as Error & { code?: string };
  assertEquals(error.code, "ECONNRESET");
  assertEquals(await rejection(conn.write(new Uint8Array(1))), error);
  await end();
});

Deno.test("A dial that is given up rejects with its signal's reason", async () => {
  const { peer, end } = await connected();
  const controller = new AbortController();
  const dial = connectNode(
    { hostname: "127.0.0.1", port: peer.localPort! },
    controller.signal,
  );
  controller.abort("enough");
  assertEquals(await rejection(dial), "enough");
  await end();
});
