/**
 * Accepting: `maxConnections`, errors of accept, which of them make the server
 * back off and for how long, and which do not.
 */
import { assert, assertEquals, assertGreater, assertLess } from "@std/assert";
import { connect, type Socket } from "node:net";
import { Acceptor } from "../_accept.ts";
import type { Transport } from "../codec.ts";
import { serve } from "../server.ts";
import {
  echo,
  FakeListener,
  FakeTime,
  heads,
  microtasks,
  Peer,
  settle,
  StubConnection,
  until,
  wire,
} from "./server_support.ts";

Deno.test("maxConnections pauses accepting, and resumes", async () => {
  await using server = serve({ maxConnections: 2 }, echo);
  const peers: Peer[] = [];
  const gone = new Set<number>();
  // Those who wait are connected, by the system, and nobody reads them.
  for (let i = 0; i < 5; i++) {
    const peer = await Peer.connect(server);
    await peer.send(i);
    peers.push(peer);
  }
  const waiting = new Set(peers.keys());
  const answers = peers.map(async (peer, i) => {
    assertEquals(await peer.receive(), Uint8Array.of(i));
    waiting.delete(i);
  });
  for (const left of [3, 2, 1]) {
    await until(() => waiting.size <= left, `${left} are waiting`);
    await settle(3);
    assertEquals(waiting.size, left);
    assertEquals(server.stats().connections, 2);
    // One that has been served leaves, and makes room for one.
    const served = peers.findIndex((_, i) => !waiting.has(i) && !gone.has(i));
    gone.add(served);
    peers[served]!.conn.close();
  }
  await Promise.all(answers);
  const { connections, totalConnections } = server.stats();
  assertEquals([connections, totalConnections], [2, 5]);
  for (const peer of peers) peer[Symbol.dispose]();
});

Deno.test("A server at maxConnections shuts down", async () => {
  const server = serve({ maxConnections: 1 }, echo);
  using one = await Peer.connect(server);
  await one.ask(1);
  using two = await Peer.connect(server);
  await server.shutdown();
  assertEquals(await one.receive(), null);
  // Never accepted: the system ends it with the listener, and not cleanly.
  assertEquals(await two.receive().catch(() => null), null);
  assertEquals(server.stats().totalConnections, 1);
});

// Errors ----------------------------------------------------------------------

const EMFILE = Object.assign(new Error("Too many open files (os error 24)"), {
  code: "EMFILE",
});

/** Errors of accept that mean that something has run out. */
const EXHAUSTION: [string, Error][] = [
  ["EMFILE", EMFILE],
  ["ENFILE", new Error("Too many open files in system (os error 23)")],
  ["ENOBUFS", Object.assign(new Error("x"), { code: "ENOBUFS" })],
  ["ENOBUFS without a code", new Error("No buffer space (os error 105)")],
  ["ENOMEM", Object.assign(new Error("x"), { code: "ENOMEM" })],
  ["ENOMEM without a code", new Error("Cannot allocate (os error 12)")],
  ["WSAEMFILE", new Error("Too many open sockets. (os error 10024)")],
];

/** Errors of accept that concern one connection. */
const PER_CONNECTION: [string, Error][] = [
  ["NotConnected", new Deno.errors.NotConnected("x (os error 107)")],
  ["ECONNABORTED", new Deno.errors.ConnectionAborted("x (os error 103)")],
  ["ECONNRESET", new Deno.errors.ConnectionReset("x (os error 104)")],
  ["EINVAL", Object.assign(new Error("x (os error 22)"), { code: "EINVAL" })],
  [
    "a code that counts, not its text",
    Object.assign(new Error("os error 24)"), { code: "EPERM" }),
  ],
  ["a number that only ends like one", new Error("x (os error 124)")],
];

for (const [name, error] of EXHAUSTION) {
  Deno.test(`Accepting backs off from 5 ms doubling to 1 s, reported once a spell: ${name}`, async () => {
    using time = new FakeTime();
    using listener = new FakeListener();
    const told: [unknown, unknown][] = [];
    const server = serve({
      onError: (error, context) => void told.push([error, context]),
    }, echo);
    listener.push(...Array(11).fill(error));
    const expected = [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000];
    for (const [i, delay] of expected.entries()) {
      await time.advance(0);
      assertEquals(listener.accepts, i + 1);
      await time.advance(delay - 1);
      assertEquals(listener.accepts, i + 1);
      await time.advance(1);
    }
    assertEquals(time.delays, expected);
    assertEquals(told, [[error, undefined]]);
    assertEquals(server.stats().acceptErrors, 11);
    assertEquals(server.stats().errors, 0);

    // A connection ends the spell; the next begins anew.
    const conn = new StubConnection();
    conn.feed(wire([1]), null);
    listener.push(conn, error, error);
    await time.advance(5 + 10);
    assertEquals(heads(conn.answers()), [1]);
    assertEquals(time.delays.slice(expected.length), [5, 10]);
    assertEquals(told.length, 2);
    await time.until(server.shutdown());
    assertEquals(time.timers, 0);
  });
}

for (const [name, error] of PER_CONNECTION) {
  Deno.test(`Accepting goes on at once after an error of one connection: ${name}`, async () => {
    using time = new FakeTime();
    using listener = new FakeListener();
    const server = serve({ onError: () => assert(false) }, echo);
    const conns: StubConnection[] = [];
    for (let i = 0; i < 40; i++) {
      const conn = new StubConnection();
      conn.feed(wire([i]), null);
      conns.push(conn);
      listener.push(error, error, error, conn);
    }
    // No time passes, and no timer is asked for.
    await microtasks();
    for (let i = 0; i < 30; i++) await microtasks();
    for (const [i, conn] of conns.entries()) {
      assertEquals(heads(conn.answers()), [i]);
    }
    assertEquals(time.delays, []);
    const { acceptErrors, totalConnections, errors } = server.stats();
    assertEquals([acceptErrors, totalConnections, errors], [120, 40, 0]);
    await time.until(server.shutdown());
  });
}

Deno.test("Connections that were reset in the queue never make accepting pause, however many", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({ onError: () => assert(false) }, echo);
  const conn = new StubConnection();
  conn.feed(wire([1]), null);
  const error = new Deno.errors.NotConnected("x (os error 107)");
  listener.push(...Array(5000).fill(error), conn);
  while (server.stats().acceptErrors < 5000) {
    const seen = server.stats().acceptErrors;
    await time.advance(0);
    // Each turn of the event loop takes some of them, and no time passes.
    assertGreater(server.stats().acceptErrors, seen);
  }
  await time.advance(0);
  assertEquals(heads(conn.answers()), [1]);
  assertEquals(Math.max(...time.delays), 0);
  await time.until(server.shutdown());
});

Deno.test("A client is served at once behind hundreds that were reset in the queue", async () => {
  await using server = serve({ onError: () => assert(false) }, echo);
  const { port } = server.addr as Deno.NetAddr;
  // This thread stands still meanwhile, and the system queues them all.
  const { success, stderr } = new Deno.Command("deno", {
    args: [
      "eval",
      `import { connect } from "node:net";
      for (let i = 0; i < 400; i++) {
        const socket = connect(${port}, "127.0.0.1", () => socket.resetAndDestroy());
      }`,
    ],
  }).outputSync();
  assert(success, new TextDecoder().decode(stderr));
  const start = performance.now();
  using peer = await Peer.connect(server);
  assertEquals(await peer.ask(1), Uint8Array.of(1));
  assertLess(performance.now() - start, 1000);
  const { acceptErrors, totalConnections } = server.stats();
  assertEquals(acceptErrors + totalConnections, 401);
  // Linux says so of each; other systems accept them first.
  if (Deno.build.os === "linux") assertEquals(acceptErrors, 400);
});

Deno.test("Acceptor.drainQueue() resolves once all who were in the queue are accepted", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const admitted: Transport[] = [];
  const ended = Promise.withResolvers<void>();
  const acceptor = new Acceptor(listener, {
    open: 0,
    maxConnections: Infinity,
    admit: (conn) => void admitted.push(conn),
    acceptFailed: () => assert(false),
    acceptorEnded: () => ended.resolve(),
  });
  acceptor.start();
  const { success, stderr } = new Deno.Command("deno", {
    args: [
      "eval",
      `await Promise.all(Array.from({ length: 300 }, async () => {
        const conn = await Deno.connect({ hostname: "127.0.0.1", port: ${port} });
        await conn.write(new Uint8Array(1));
      }));`,
    ],
  }).outputSync();
  assert(success, new TextDecoder().decode(stderr));
  await acceptor.drainQueue();
  acceptor.stop();
  assertEquals(admitted.length, 300);
  await ended.promise;
  // There is nothing to wait for any more.
  await acceptor.drainQueue();
  for (const conn of admitted) conn.close();
});

Deno.test("Clients are served while others connect and reset without end", async () => {
  await using server = serve({ onError: () => assert(false) }, echo);
  const { port } = server.addr as Deno.NetAddr;
  let ended = false;
  let resets = 0;
  const loops = Array.from({ length: 3 }, async () => {
    for (; !ended; resets += 50) {
      await Promise.all(
        Array.from({ length: 50 }, () => connectAndReset(port)),
      );
    }
  });
  const waits: number[] = [];
  for (let i = 0; i < 20 || resets < 600; i++) {
    const start = performance.now();
    using peer = await Peer.connect(server);
    assertEquals(await peer.ask(i), Uint8Array.of(i));
    waits.push(performance.now() - start);
  }
  ended = true;
  await Promise.all(loops);
  assertLess(Math.max(...waits), 2000);
});

Deno.test("A listener that fails for ever stops nothing else, and is told of once", async () => {
  using listener = new FakeListener();
  const told: unknown[] = [];
  const error = new TypeError("broken for good");
  const server = serve({ onError: (error) => void told.push(error) }, echo);
  let broken = true;
  const fail = () => {
    if (broken) listener.push(error);
    return accept.call(listener);
  };
  const { accept } = listener;
  Object.assign(listener, { accept: fail });
  listener.push(error);
  // The event loop goes round all the while.
  for (let i = 0; i < 50; i++) await settle(1);
  assertEquals(told, [error]);
  const { acceptErrors } = server.stats();
  assertGreater(acceptErrors, 40);
  // It does not spin either: a failure a turn, once it is known to last.
  assertLess(acceptErrors, 1000);

  broken = false;
  const conn = new StubConnection();
  conn.feed(wire([1]), null);
  listener.push(conn);
  await until(() => conn.answers().length === 1, "it accepts again");
  await server.shutdown();
});

/** Connects, and resets the connection before anybody has accepted it. */
async function connectAndReset(port: number): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const socket = connect(port, "127.0.0.1", () => {
    socket.resetAndDestroy();
  });
  socket.on("error", reject);
  socket.on("close", () => resolve());
  await promise;
  return socket;
}

Deno.test("Accepting does not pause for failures that each had to be waited for", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({ onError: () => assert(false) }, echo);
  for (let i = 0; i < 120; i++) {
    await time.advance(5);
    listener.push(new Deno.errors.NotConnected("x"));
    await microtasks();
    assertEquals(listener.accepts, i + 2);
  }
  assertEquals(time.delays, []);
  await time.until(server.shutdown());
});

Deno.test("A shutdown during a backoff ends it, and the end of a connection makes for another try", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({}, echo);
  const conn = new StubConnection();
  listener.push(conn, EMFILE, EMFILE);
  await time.advance(5);
  assertEquals([listener.accepts, time.delays.at(-1)], [3, 10]);
  // Its descriptor is free now.
  conn.feed(null);
  await microtasks();
  assertEquals(listener.accepts, 4);

  listener.push(EMFILE);
  await microtasks();
  assertEquals(time.timers, 1);
  await time.until(server.shutdown());
  await microtasks();
  assertEquals(time.timers, 0);
  assertEquals(listener.accepts, 4);
});

Deno.test("A backoff keeps the process alive only if the server does", async () => {
  for (const refed of [true, false]) {
    using time = new FakeTime();
    using listener = new FakeListener();
    const server = serve({}, echo);
    if (!refed) server.unref();
    listener.push(EMFILE);
    await microtasks();
    assertEquals([time.timers, time.refed], [1, refed ? 1 : 0]);
    await time.until(server.shutdown());
  }
});

Deno.test("Accepts that fail now and then do not add up to a pause, however many", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({ onError: () => assert(false) }, (payload) => payload);
  await microtasks();
  for (let i = 0; i < 500; i++) {
    await time.advance(100);
    listener.push(new Deno.errors.NotConnected("x (os error 107)"));
    await microtasks();
  }
  const conn = new StubConnection();
  conn.feed(wire([1]), null);
  listener.push(conn);
  await microtasks();
  assertEquals(heads(conn.answers()), [1]);
  assertEquals(time.delays, []);
  assertEquals(server.stats().acceptErrors, 500);
  await time.until(server.shutdown());
});
