/**
 * Accepting: `maxConnections`, errors of accept, which of them make the server
 * back off and for how long, and which do not.
 */
import { assert, assertEquals } from "@std/assert";
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
    await server.shutdown();
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
    await server.shutdown();
  });
}

Deno.test("An accept that fails for ever does not spin", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const errors: unknown[] = [];
  const server = serve({
    onError: (error) => void errors.push(error),
  }, echo);
  const error = new Deno.errors.NotConnected("x");
  listener.push(...Array(103).fill(error));
  for (let i = 0; i < 20; i++) await microtasks();
  assertEquals(listener.accepts, 101);
  assertEquals(errors, [error]);
  await time.advance(15);
  assertEquals(time.delays, [5, 10, 20]);
  assertEquals(errors.length, 1);
  server.close();
  await server.finished;
});

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
  await server.shutdown();
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
  await server.shutdown();
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
    await server.shutdown();
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
  await server.shutdown();
});
