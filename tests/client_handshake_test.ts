/**
 * What is said on a connection before its first request, and connections that
 * the user makes: `handshake` and `connect`.
 */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import {
  Client,
  ConnectError,
  ConnectionLostError,
  RequestTimeoutError,
} from "../client.ts";
import {
  FrameTooLargeError,
  type HandshakeConnection,
  type Transport,
  transportPair,
} from "../codec.ts";
import { ascii, bytes, textOf } from "./bytes_support.ts";
import { MemoryServer } from "./client_memory_support.ts";
import { PORT } from "./client_support.ts";
import { ScriptedServer } from "./client_server_support.ts";
import { immediate, outcomeOf, rejection } from "./promise_support.ts";
import { eventually, sleep } from "./time_support.ts";

// Handshakes --------------------------------------------------------------------

/** Reads a greeting and answers it. */
async function login(conn: HandshakeConnection): Promise<void> {
  const greeting = textOf(await conn.read());
  await conn.write(ascii(`login to ${greeting}`));
  assertEquals(textOf(await conn.read()), "welcome");
}

Deno.test("A handshake runs on every connection before its first request", async () => {
  using server = new ScriptedServer();
  const serving = server.run(async (peer, index) => {
    await peer.respond(`server ${index}`);
    await peer.expect(`login to server ${index}`);
    await peer.respond("welcome");
    await peer.serve();
  });
  const client = new Client({
    port: server.port,
    maxCap: 3,
    handshake: login,
  });
  const sent = ["a", "b", "c", "d"].map((text) => client.send(ascii(text)));
  assertEquals((await Promise.all(sent)).map(textOf), [
    "pong:a",
    "pong:b",
    "pong:c",
    "pong:d",
  ]);
  assertEquals(server.peers.length, 3);
  await client.close();
  server[Symbol.dispose]();
  await serving;
});

Deno.test("A greeting is never taken for a response, and a request never overtakes the handshake", async () => {
  const server = new MemoryServer();
  let greet = () => {};
  server.onPeer = (peer) => greet = () => void peer.send("greeting");
  const client = new Client({
    connect: server.connect,
    handshake: async (conn) => {
      assertEquals(textOf(await conn.read()), "greeting");
    },
  });
  const sent = client.send(ascii("a"));
  const peer = await server.peer(0);
  for (let i = 0; i < 5; i++) await immediate();
  assertEquals(peer.requests.length, 0);
  greet();
  await peer.expect("a");
  await peer.send("A");
  assertEquals(textOf(await sent), "A");
  await client.close();
});

Deno.test("A handshake's failure is the cause of the ConnectError, and what it wrote last has left", async () => {
  const server = new MemoryServer();
  const failure = new Error("wrong version");
  const client = new Client({
    connect: server.connect,
    handshake: (conn) => {
      conn.write(ascii("goodbye"));
      throw failure;
    },
  });
  const error = await rejection(client.send(ascii("a")));
  assertInstanceOf(error, ConnectError);
  assertStrictEquals(error.cause, failure);
  const peer = await server.peer(0);
  await peer.closed();
  assertEquals(peer.requests.map(({ text }) => text), ["goodbye"]);
  assertEquals(client.stats().pool.open, 0);
  // The next request dials, and meets the same.
  assertInstanceOf(await rejection(client.send(ascii("b"))), ConnectError);
  assertEquals(server.peers.length, 2);
  await client.close();
});

Deno.test("A handshake that meets the end of the stream, or what is no frame, fails", async () => {
  const server = new MemoryServer({ frame: {} });
  server.onPeer = (peer, index) => {
    if (index === 0) peer.close();
    else peer.write(new Uint8Array(8).fill(0x7f)).catch(() => {});
  };
  const client = new Client({
    connect: server.connect,
    handshake: (conn) => conn.read(),
  });
  const first = await rejection(client.send(ascii("a"))) as Error;
  assertInstanceOf(first, ConnectError);
  assertInstanceOf(first.cause, Error);
  const second = await rejection(client.send(ascii("a"))) as Error;
  assertInstanceOf(second, ConnectError);
  assertInstanceOf(second.cause, FrameTooLargeError);
  await client.close();
});

Deno.test("A handshake is part of the dial: connectTimeout ends it, and its signal says so", async () => {
  const server = new MemoryServer();
  let signal: AbortSignal | undefined;
  const client = new Client({
    connect: server.connect,
    connectTimeout: 50,
    handshake: async (conn) => {
      signal = conn.signal;
      await conn.read();
    },
  });
  const error = await rejection(client.send(ascii("a"))) as Error;
  assertInstanceOf(error, ConnectError);
  assertInstanceOf(error.cause, Deno.errors.TimedOut);
  assert(signal!.aborted);
  await (await server.peer(0)).closed();
  assertEquals(client.stats().pool.open, 0);
  await client.close();
});

Deno.test("A handshake that never ends keeps its place for as long again at most, and does not hold up close()", async () => {
  const server = new MemoryServer();
  const client = new Client({
    connect: server.connect,
    connectTimeout: 100,
    requestTimeout: 5000,
    maxCap: 1,
    handshake: () => new Promise(() => {}),
  });
  const start = performance.now();
  assertInstanceOf(await rejection(client.send(ascii("a"))), ConnectError);
  const first = performance.now() - start;
  assert(first >= 99 && first < 195, `${first}`);
  assertEquals(client.stats().pool.open, 1);
  const second = outcomeOf(client.send(ascii("b")));
  await immediate();
  assertEquals(server.peers.length, 1);
  await eventually("it is dialled for", () => server.peers.length === 2);
  const freed = performance.now() - start;
  assert(freed >= 195, `${freed}`);
  assertInstanceOf(await second, ConnectError);
  const closing = performance.now();
  await client.close();
  assert(performance.now() - closing < 80);
});

Deno.test("What was read ahead of the first request is not lost: pushes behind a subscription", async () => {
  const correlation = { length: 4 } as const;
  const server = new MemoryServer();
  const pushes: string[] = [];
  const client = new Client({
    connect: server.connect,
    correlation,
    initialCap: 1,
    onPush: (payload) => void pushes.push(textOf(payload)),
    handshake: async (conn) => {
      await conn.write(ascii("subscribe"));
      assertEquals(textOf(await conn.read()), "subscribed");
    },
  });
  const peer = await server.peer(0);
  await peer.expect("subscribe");
  // The frames of a handshake carry no id, and the pushes come with it.
  const header = (length: number) => bytes(0, 0, 0, 0, 0, 0, 0, length);
  const first = bytes(header(10), "subscribed", header(7), 0, 0, 0, 0, "one");
  const second = bytes(header(7), 0, 0, 0, 0, "two");
  await peer.write(bytes(first, second.subarray(0, 10)));
  await eventually("the first has come", () => pushes.length === 1);
  await peer.write(second.subarray(10));
  await eventually("the second has come", () => pushes.length === 2);
  assertEquals(pushes, ["one", "two"]);
  await client.close();
});

Deno.test("Bytes behind a handshake that nobody asked for end the connection, not the request's order", async () => {
  const server = new MemoryServer();
  server.onPeer = (peer, index) => {
    if (index === 0) peer.write(bytes(0, 0, 0, 0, 0, 0, 0, 1, "g", 0, 0));
    else peer.send("g");
    peer.onRequest = ({ text }) => void peer.send(`pong:${text}`);
  };
  const client = new Client({
    connect: server.connect,
    handshake: (conn) => conn.read(),
  });
  const error = await rejection(client.send(ascii("a"))) as Error;
  assertInstanceOf(error, ConnectionLostError);
  assertInstanceOf(error.cause, Deno.errors.InvalidData);
  assertEquals(textOf(await client.send(ascii("b"))), "pong:b");
  await client.close();
});

Deno.test("A handshake that asked for a frame and did not wait for it leaves that frame to the requests", async () => {
  const server = new MemoryServer();
  server.onPeer = (peer) =>
    peer.onRequest = ({ text }) => void peer.send(`pong:${text}`);
  const client = new Client({
    connect: server.connect,
    handshake: (conn) => void conn.read(),
  });
  assertEquals(textOf(await client.send(ascii("a"))), "pong:a");
  assertEquals(textOf(await client.send(ascii("b"))), "pong:b");
  assertEquals(server.peers.length, 1);
  await client.close();
});

Deno.test("Nothing can be read or written through a handshake that is over", async () => {
  const server = new MemoryServer();
  server.onPeer = (peer) =>
    peer.onRequest = ({ text }) => void peer.send(`pong:${text}`);
  let kept: HandshakeConnection | undefined;
  const client = new Client({
    connect: server.connect,
    handshake: (conn) => void (kept = conn),
  });
  await client.send(ascii("a"));
  assertInstanceOf(await rejection(kept!.read()), Error);
  assertInstanceOf(await rejection(kept!.write(ascii("b"))), Error);
  assertEquals(server.peers[0]!.requests.length, 1);
  await client.close();
});

Deno.test("A handshake may call the client, and close it", async () => {
  const server = new MemoryServer();
  const client: Client = new Client({
    connect: server.connect,
    maxCap: 1,
    handshake: () => void client.close({ signal: AbortSignal.abort("no") }),
  });
  assertEquals(
    (await rejection(client.send(ascii("a"))) as Error).name,
    "ClientClosedError",
  );
  await client.close();
  await (await server.peer(0)).closed();
});

// Connections of the user's making ------------------------------------------------

Deno.test("A client speaks over whatever connect returns", async () => {
  const server = new MemoryServer();
  server.onPeer = (peer) =>
    peer.onRequest = ({ text }) => void peer.send(`pong:${text}`);
  for (
    const connect of [server.connect, () => Promise.resolve(server.connect())]
  ) {
    const client = new Client({ connect, maxCap: 2 });
    const sent = ["a", "b", "c"].map((text) => client.send(ascii(text)));
    assertEquals((await Promise.all(sent)).map(textOf), [
      "pong:a",
      "pong:b",
      "pong:c",
    ]);
    await client.close();
  }
  assertEquals(server.peers.length, 4);
  for (const peer of server.peers) await peer.closed();
});

Deno.test("A connect that throws, rejects or returns no transport rejects with ConnectError", async () => {
  const failure = new Error("no route");
  for (
    const connect of [
      () => {
        throw failure;
      },
      () => Promise.reject(failure),
      () => undefined,
      () => ({ read() {}, write() {} }),
    ] as unknown as (() => Transport)[]
  ) {
    const client = new Client({ connect });
    const error = await rejection(client.send(ascii("a"))) as Error;
    assertInstanceOf(error, ConnectError);
    if (error.cause !== failure) assertInstanceOf(error.cause, TypeError);
    await client.close();
  }
});

Deno.test("What connect delivers after it was given up is closed, and has kept its place", async () => {
  const server = new MemoryServer();
  const deliver: (() => void)[] = [];
  const signals: AbortSignal[] = [];
  const client = new Client({
    connect: (signal) => {
      signals.push(signal);
      return new Promise((resolve) =>
        deliver.push(() => resolve(server.connect()))
      );
    },
    maxCap: 1,
    connectTimeout: 80,
  });
  assertInstanceOf(await rejection(client.send(ascii("a"))), ConnectError);
  assert(signals[0]!.aborted);
  const next = client.send(ascii("b"));
  await immediate();
  assertEquals([deliver.length, client.stats().pool.open], [1, 1]);
  deliver[0]!();
  await eventually("the place is free", () => deliver.length === 2);
  await server.peers[0]!.closed();
  deliver[1]!();
  const peer = await server.peer(1);
  await peer.expect("b");
  await peer.send("B");
  assertEquals(textOf(await next), "B");
  await client.close();
});

Deno.test("Dials that cannot be cancelled never exceed maxCap, however many requests time out", async () => {
  let pending = 0;
  let most = 0;
  const client = new Client({
    connect: async () => {
      most = Math.max(most, ++pending);
      await sleep(150);
      pending--;
      return transportPair()[0];
    },
    maxCap: 2,
    connectTimeout: 30,
    requestTimeout: 40,
  });
  for (let i = 0; i < 6; i++) {
    const sent = [1, 2, 3, 4].map(() => outcomeOf(client.send(ascii("a"))));
    for (const error of await Promise.all(sent)) {
      assert(
        error instanceof ConnectError || error instanceof RequestTimeoutError,
      );
    }
  }
  // Each may be forgotten after as long again: 60 of its 150 ms.
  assert(most <= 6, `${most}`);
  await client.close();
  await eventually("all have settled", () => pending === 0);
});

Deno.test("A connection whose dial is given up before its handshake begins is closed", async () => {
  // In each of the moments in which it passes from hand to hand.
  for (let moment = 0; moment < 20; moment++) {
    let made = 0;
    let closed = 0;
    const client = new Client({
      connect: () => {
        made = 1;
        const [near] = transportPair();
        return Promise.resolve({
          read: (p) => near.read(p),
          write: (p) => near.write(p),
          close() {
            closed = 1;
            near.close();
          },
        });
      },
      handshake: () => new Promise(() => {}),
    });
    const sent = outcomeOf(client.send(ascii("a")));
    for (let i = 0; i < moment; i++) await null;
    await client.close({ signal: AbortSignal.abort("given up") });
    await sent;
    await immediate();
    assertEquals(closed, made, `given up in moment ${moment}`);
  }
});

Deno.test("A cancelled dial frees its place at once", async () => {
  const client = new Client({
    connect: (signal) =>
      new Promise((_, reject) => signal.onabort = () => reject(signal.reason)),
    maxCap: 1,
    connectTimeout: 30,
  });
  assertInstanceOf(await rejection(client.send(ascii("a"))), ConnectError);
  assertEquals(client.stats().pool.open, 0);
  await client.close();
});

Deno.test("connect stands in the place of an address, and hostname names what TLS verifies", () => {
  const connect = () => transportPair()[0];
  for (const more of [{ port: 1 }, { path: "/a" }, { hostname: "a" }]) {
    assertThrows(() => new Client({ connect, ...more }), TypeError, "connect");
  }
  new Client({ connect, tls: true, hostname: "example.test" });
  for (const wrong of [5, null, "127.0.0.1:80", {}]) {
    assertThrows(
      () => new Client({ connect: wrong } as never),
      TypeError,
      "connect",
    );
    assertThrows(
      () => new Client({ port: PORT, handshake: wrong } as never),
      TypeError,
      "handshake",
    );
  }
});
