/**
 * The client's timeouts, lifetimes and timers, with a clock that the test
 * moves: nothing here sleeps, and the figures are exact.
 */
import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertLessOrEqual,
  assertStrictEquals,
} from "@std/assert";
import {
  Client,
  type ClientOptions,
  ConnectError,
  ConnectionLostError,
  RequestTimeoutError,
} from "../client.ts";
import { PoolTimeoutError } from "../pool.ts";
import {
  ascii,
  FakeTime,
  rejection,
  replace,
  ScriptedServer,
  stateOf,
  StubConn,
  StubNetwork,
  textOf,
  ticks,
} from "./client_support.ts";

const PORT = 9; // Of stubs, which nobody dials.
const FOREVER = new Promise<never>(() => {});

function newClient(options: Partial<ClientOptions> = {}): Client {
  return new Client({
    port: PORT,
    idleTimeout: 0,
    connectTimeout: 0,
    ...options,
  });
}

/** Closes a client whatever it is doing, and sees that nothing is left. */
async function end(client: Client, time: FakeTime): Promise<void> {
  await client.close({ signal: AbortSignal.abort() });
  assertEquals(client.stats().inFlight, 0);
  assertEquals(client.stats().pool.open, 0);
  await time.pass(2000);
  assertEquals(time.timers.running, 0);
}

/** When a promise is rejected, and with what. */
async function fate(
  promise: Promise<unknown>,
  time: FakeTime,
): Promise<{ error: unknown; at: number }> {
  const error = await rejection(promise);
  return { error, at: time.now };
}

/** When a timeout may fire at the latest. */
function latest(timeout: number): number {
  return timeout + Math.max(50, timeout / 10);
}

function assertInTime(taken: number, timeout: number): void {
  assertGreaterOrEqual(taken, timeout, "It timed out early");
  assertLessOrEqual(taken, latest(timeout));
}

/** Where a request can be when its time is up. */
const STAGES = {
  answering: { maxCap: 2, pipelining: 1 },
  "in line": { maxCap: 1, pipelining: 1 },
  dialling: { maxCap: 2, pipelining: 1, hangingDial: true },
  sharing: { maxCap: 1, pipelining: 2 },
} as const;

for (const [stage, { maxCap, pipelining, ...how }] of Object.entries(STAGES)) {
  Deno.test(`A request that is ${stage} times out, never early and at most 10 % or 50 ms late`, async () => {
    for (const timeout of [1, 24, 25, 500, 501, 1000, 10_000, 40_000]) {
      for (const phase of [0, 1, 12, 24, 499]) {
        using time = new FakeTime();
        using _network = new StubNetwork(() => new StubConn());
        const client = newClient({ maxCap, pipelining, requestTimeout: 0 });
        // Sweeps are under way, and not for this request.
        const busy = rejection(client.send(ascii("busy")));
        await time.pass(phase);
        using _dial = "hangingDial" in how
          ? replace("connect", () => FOREVER)
          : undefined;
        const start = time.now;
        const sent = fate(client.send(ascii("a"), { timeout }), time);
        await time.pass(latest(timeout));
        assertEquals(client.stats().inFlight, 1);
        const { error, at } = await sent;
        assertInstanceOf(error, RequestTimeoutError);
        assertEquals(error.timeout, timeout);
        assertInTime(at - start, timeout);
        await end(client, time);
        await busy;
      }
    }
  });
}

Deno.test("No request times out early or late, whenever between two sweeps it came", async () => {
  for (const timeout of [10, 49, 110, 490, 1000, 40_000]) {
    using time = new FakeTime();
    using _network = new StubNetwork(() => new StubConn());
    const options = { maxCap: 1, pipelining: 100 };
    const client = newClient({ ...options, requestTimeout: timeout });
    const step = Math.max(1, timeout / 200);
    const sent: Promise<void>[] = [];
    // Over three sweeps at least, and well before the first is overdue.
    for (let i = 0; i < 30; i++) {
      const start = time.now;
      const sending = fate(client.send(ascii("a")), time);
      sent.push(sending.then(({ error, at }) => {
        assertInstanceOf(error, RequestTimeoutError);
        assertInTime(at - start, timeout);
      }));
      await time.pass(step);
    }
    await time.pass(latest(timeout));
    await Promise.all(sent);
    await end(client, time);
  }
});

Deno.test("A request behind a write that hangs times out as others do, and is not sent", async () => {
  using time = new FakeTime();
  using network = new StubNetwork(() => {
    const conn = new StubConn();
    conn.hold = true;
    return conn;
  });
  const client = newClient({ maxCap: 1, pipelining: 4 });
  const blocker = client.send(new Uint8Array(200_000));
  await time.pass(7);
  const start = time.now;
  const sent = fate(client.send(ascii("a"), { timeout: 100 }), time);
  await time.pass(latest(100));
  const { error, at } = await sent;
  assertInstanceOf(error, RequestTimeoutError);
  assertInTime(at - start, 100);
  const [conn] = network.conns as [StubConn];
  while (await ticks().then(() => conn.offered > 0)) conn.take();
  assertEquals(conn.requests.length, 1);
  conn.respond("-");
  await blocker;
  assert(!conn.closed);
  await end(client, time);
});

Deno.test("A request's timeout covers its dial, its time in line and its answer together", async () => {
  for (
    const { maxCap, busyFor, dialFor } of [
      { maxCap: 1, busyFor: 700, dialFor: 0 },
      { maxCap: 2, busyFor: 10_000, dialFor: 700 },
    ]
  ) {
    using time = new FakeTime();
    using network = new StubNetwork(() => new StubConn());
    const client = newClient({ maxCap, requestTimeout: 1000 });
    const busy = client.send(ascii("busy"), { timeout: 0 });
    const ended = Promise.allSettled([busy]);
    await ticks();
    using _dial = replace("connect", async () => {
      await new Promise((resolve) => setTimeout(resolve, dialFor));
      const conn = new StubConn();
      network.conns.push(conn);
      return conn;
    });
    const start = time.now;
    const sent = fate(client.send(ascii("a")), time);
    setTimeout(() => network.conns[0]!.respond("busy"), busyFor);
    await time.pass(800);
    assertEquals(network.requests, ["busy", "a"]);
    await time.pass(400);
    const { error, at } = await sent;
    assertInstanceOf(error, RequestTimeoutError);
    assertEquals(error.timeout, 1000);
    assertInTime(at - start, 1000);
    await time.pass(10_000);
    await end(client, time);
    await ended;
  }
});

Deno.test("A request that is sent again has no more time than it was given", async () => {
  // The worst there is: lost just before a sweep would have seen it, and
  // dialled for past the next one.
  const timeout = 10_000;
  const sweep = timeout / 20;
  for (const lostAt of [1, sweep - 1, sweep + 1, timeout / 2]) {
    for (const dialFor of [0, sweep - 10, sweep + 10]) {
      using time = new FakeTime();
      using network = new StubNetwork();
      const client = newClient({ maxCap: 1, requestTimeout: timeout });
      await client.send(ascii("first"));
      const [one] = network.conns as [StubConn];
      one.onRequest = undefined;
      using _dial = replace("connect", async () => {
        await new Promise((resolve) => setTimeout(resolve, dialFor));
        const conn = new StubConn();
        network.conns.push(conn);
        return conn;
      });
      const start = time.now;
      const options = { idempotent: true };
      const sent = fate(client.send(ascii("a"), options), time);
      await time.pass(lostAt);
      one.deliver(null);
      await time.pass(2 * timeout);
      assertEquals(network.conns[1]!.requests, ["a"]);
      const { error, at } = await sent;
      assertInstanceOf(error, RequestTimeoutError);
      assertInTime(at - start, timeout);
      await end(client, time);
    }
  }
});

Deno.test("A timeout of 0 is none, for a client or for one request", async () => {
  using time = new FakeTime();
  using _network = new StubNetwork(() => new StubConn());
  for (
    const [requestTimeout, timeout] of [[0, undefined], [5, 0], [0, 0]] as const
  ) {
    const client = newClient({ maxCap: 1, requestTimeout });
    const options = timeout === undefined ? {} : { timeout };
    const sent = client.send(ascii("a"), options);
    const inLine = client.send(ascii("b"), options);
    await time.pass(10_000_000);
    assertEquals(await stateOf(sent), "pending");
    assertEquals(await stateOf(inLine), "pending");
    const ended = Promise.allSettled([sent, inLine]);
    await end(client, time);
    await ended;
  }
});

Deno.test("A request that timed out alone takes its connection with it", async () => {
  using time = new FakeTime();
  using network = new StubNetwork(() => new StubConn());
  const client = newClient({ maxCap: 1, requestTimeout: 100 });
  const a = rejection(client.send(ascii("a")));
  const b = client.send(ascii("b"), { timeout: 1000 });
  await time.pass(160);
  assertInstanceOf(await a, RequestTimeoutError);
  const [one, two] = network.conns as [StubConn, StubConn];
  assert(one.closed);
  assertEquals([one.requests, two.requests], [["a"], ["b"]]);
  two.respond("B");
  assertEquals(textOf(await b), "B");
  await end(client, time);
});

Deno.test("A request that timed out among others keeps its place for its late response", async () => {
  using time = new FakeTime();
  using network = new StubNetwork(() => new StubConn());
  const client = newClient({
    maxCap: 1,
    pipelining: 4,
    requestTimeout: 10_000,
  });
  const a = client.send(ascii("a"));
  const b = rejection(client.send(ascii("b"), { timeout: 100 }));
  const c = client.send(ascii("c"));
  await time.pass(170);
  assertInstanceOf(await b, RequestTimeoutError);
  const [one] = network.conns as [StubConn];
  assertEquals(one.requests, ["a", "b", "c"]);
  one.respond("A", "B", "C");
  assertEquals([textOf(await a), textOf(await c)], ["A", "C"]);
  const d = client.send(ascii("d"));
  await ticks();
  one.respond("D");
  assertEquals(textOf(await d), "D");
  assertEquals(network.conns.length, 1);
  const { requests, responses, failures } = client.stats();
  assertEquals([requests, responses, failures], [4, 3, 1]);
  await end(client, time);
});

Deno.test("A late response that does not come within the timeout again costs the connection", async () => {
  for (const timeout of [100, 4000]) {
    using time = new FakeTime();
    using network = new StubNetwork(() => new StubConn());
    const client = newClient({ maxCap: 1, pipelining: 4, requestTimeout: 0 });
    const start = time.now;
    const a = fate(client.send(ascii("a"), { timeout }), time);
    const b = fate(client.send(ascii("b")), time);
    await time.pass(3000 + 3 * timeout);
    const { error } = await a;
    assertInstanceOf(error, RequestTimeoutError);
    const lost = await b;
    assertInstanceOf(lost.error, ConnectionLostError);
    assert(lost.error.requestSent);
    // Its timeout again, or a second: a neighbour is not to pay for an
    // impatient one. Each may be late.
    const grace = Math.max(1000, timeout);
    const took = lost.at - start;
    assertGreaterOrEqual(took, timeout + grace);
    assertLessOrEqual(took, latest(timeout) + latest(grace));
    assert(network.conns[0]!.closed);
    await end(client, time);
  }
});

Deno.test("An aborted request, too, is waited for no longer than its timeout", async () => {
  using time = new FakeTime();
  using network = new StubNetwork(() => new StubConn());
  const client = newClient({ maxCap: 1, pipelining: 4, requestTimeout: 0 });
  const controller = new AbortController();
  const { signal } = controller;
  const a = rejection(client.send(ascii("a"), { signal, timeout: 1000 }));
  const b = fate(client.send(ascii("b")), time);
  await time.pass(900);
  controller.abort("no more");
  assertEquals(await a, "no more");
  const start = time.now;
  await time.pass(950);
  assertEquals(network.conns[0]!.closed, false);
  await time.pass(5000);
  const { error, at } = await b;
  assertInstanceOf(error, ConnectionLostError);
  assertInTime(at - start, 1000);
  await end(client, time);
});

Deno.test("A request waits for a connection as long as getTimeout says", async () => {
  using time = new FakeTime();
  using _network = new StubNetwork(() => new StubConn());
  const client = newClient({ maxCap: 1, getTimeout: 500 });
  const busy = rejection(client.send(ascii("busy")));
  await ticks();
  const start = time.now;
  const waits = fate(client.send(ascii("a")), time);
  const sameTimeout = fate(client.send(ascii("a"), { timeout: 500 }), time);
  const shorter = fate(client.send(ascii("a"), { timeout: 499 }), time);
  await time.pass(600);
  for (const sent of [waits, sameTimeout]) {
    const { error, at } = await sent;
    assertInstanceOf(error, PoolTimeoutError);
    assertEquals([error.open, error.inUse], [1, 1]);
    assertEquals(at - start, 500);
  }
  const { error, at } = await shorter;
  assertInstanceOf(error, RequestTimeoutError);
  assertInstanceOf(error.cause, PoolTimeoutError);
  assertEquals(at - start, 499);
  await end(client, time);
  await busy;
});

Deno.test("A dial takes no longer than connectTimeout, and one that ends late is closed", async () => {
  for (const late of ["connect", "startTls", "handshake"] as const) {
    using time = new FakeTime();
    const conns: StubConn[] = [];
    const pause = (step: string) =>
      new Promise((resolve) => setTimeout(resolve, step === late ? 5000 : 900));
    using _connect = replace("connect", async () => {
      await pause("connect");
      const conn = StubConn.pong();
      conn.handshake = () => pause("handshake");
      conns.push(conn);
      return conn;
    });
    using _startTls = replace("startTls", async (conn) => {
      await pause("startTls");
      return conn;
    });
    const dials: number[] = [];
    const client = newClient({
      tls: true,
      hostname: "localhost",
      connectTimeout: 3000,
      hooks: { dial: ({ duration }) => void dials.push(duration) },
    });
    const start = time.now;
    const sent = fate(client.send(ascii("a")), time);
    await time.pass(10_000);
    const { error, at } = await sent;
    assertInstanceOf(error, ConnectError);
    assertInstanceOf(error.cause, Deno.errors.TimedOut);
    assertEquals(error.message, `Cannot connect to localhost:${PORT}`);
    assertEquals(at - start, 3000);
    assertEquals(dials, [3000]);
    assertEquals(conns.map(({ closed }) => closed), [true]);
    assertEquals(client.stats().pool.open, 0);
    await end(client, time);
  }
});

Deno.test("A dial that a request has given up serves the next one", async () => {
  using time = new FakeTime();
  using network = new StubNetwork();
  using _dial = replace("connect", async () => {
    await new Promise((resolve) => setTimeout(resolve, 300));
    network.conns.push(StubConn.pong());
    return network.conns.at(-1);
  });
  const client = newClient({ maxCap: 1 });
  const a = rejection(client.send(ascii("a"), { timeout: 100 }));
  await time.pass(200);
  assertInstanceOf(await a, RequestTimeoutError);
  const b = client.send(ascii("b"));
  await time.pass(100);
  assertEquals(textOf(await b), "pong:b");
  assertEquals(network.requests, ["b"]);
  await end(client, time);
});

Deno.test("idleTimeout and maxLifetime are no more than 10 % or 50 ms late", async () => {
  for (const minIdle of [0, 1]) {
    for (const limit of [100, 2000, 60_000]) {
      for (const name of ["idleTimeout", "maxLifetime"] as const) {
        for (const phase of [0.3, 0.8]) {
          using time = new FakeTime();
          using network = new StubNetwork();
          const client = newClient({ [name]: limit, minIdle });
          await client.send(ascii("a"));
          await time.pass(phase * limit);
          const [one] = network.conns as [StubConn];
          const start = name === "idleTimeout" ? time.now : 1000;
          if (name === "idleTimeout") await client.send(ascii("b"));
          // A lifetime is up to 10 % shorter, by chance.
          const least = name === "idleTimeout" ? limit : 0.9 * limit;
          await time.pass(start + least - 1 - time.now);
          assertEquals(one.closed, false);
          await time.pass(start + latest(limit) - time.now);
          assertEquals(one.closed, true, `${name} ${limit} ${minIdle}`);
          await end(client, time);
        }
      }
    }
  }
});

Deno.test("A request that is sent again times out no later than another", async () => {
  for (let phase = 0; phase < 50; phase += 3) {
    using time = new FakeTime();
    const conns: StubConn[] = [];
    const dials: (() => void)[] = [];
    using _dial = replace("connect", () => {
      const { promise, resolve } = Promise.withResolvers<StubConn>();
      dials.push(() => resolve(conns[conns.push(new StubConn()) - 1]!));
      return promise;
    });
    const client = new Client({ port: PORT, maxCap: 1, requestTimeout: 403 });
    const a = client.send(ascii("a"));
    await ticks();
    dials.shift()!();
    await ticks();
    conns[0]!.respond("A");
    await a;
    // It is lost before a sweep has seen it, and sent again right after one.
    conns[0]!.hold = true;
    await time.pass(1);
    const start = time.now;
    const b = fate(client.send(ascii("b")), time);
    await time.pass(23);
    conns[0]!.deliver(new Deno.errors.ConnectionReset("reset"));
    await time.pass(phase);
    dials.shift()!();
    await time.pass(600);
    assertEquals(conns[1]!.requests, ["b"]);
    assertInTime((await b).at - start, 403);
    await end(client, time);
  }
});

Deno.test("Timeouts that are each a little shorter put off none", async () => {
  using time = new FakeTime();
  using _network = new StubNetwork(() => new StubConn());
  const client = newClient({ maxCap: 1, pipelining: 1000 });
  const start = time.now;
  const first = fate(client.send(ascii("a"), { timeout: 4000 }), time);
  const deadline = start + 8000;
  while (time.now < deadline - 3000) {
    const timeout = deadline - time.now;
    client.send(ascii("b"), { timeout }).catch(() => {});
    await time.pass(10);
  }
  assertInTime((await first).at - start, 4000);
  await end(client, time);
});

Deno.test("A response that came in time is not missed because the thread was busy", async () => {
  using server = new ScriptedServer();
  await using client = new Client({ port: server.port, requestTimeout: 1000 });
  const sent = client.send(ascii("a"));
  using peer = await server.accept();
  await peer.expect("a");
  // A sweep sees what it waits for.
  await new Promise((resolve) => setTimeout(resolve, 100));
  const responding = peer.respond("A");
  const end = performance.now() + 1500;
  while (performance.now() < end);
  // A shorter timeout sweeps at once.
  const other = rejection(client.send(ascii("b"), { timeout: 100 }));
  await responding;
  assertEquals(textOf(await sent), "A");
  assertInstanceOf(await other, RequestTimeoutError);
});

Deno.test("A connection whose request was answered before it was taken is not used before the rest is", async () => {
  for (const taken of [true, false]) {
    using time = new FakeTime();
    using network = new StubNetwork(() => new StubConn());
    const client = newClient({ maxCap: 2 });
    const large = client.send(new Uint8Array(100_000));
    await ticks();
    const [one] = network.conns as [StubConn];
    assertEquals(one.requests.length, 1);
    one.respond("A");
    assertEquals(textOf(await large), "A");
    await ticks();
    assertEquals(client.stats().pool.idle, 1);

    one.hold = true;
    const next = client.send(new Uint8Array(100_000));
    await ticks();
    one.take(8);
    await ticks();
    one.take(8192);
    await ticks();
    one.respond("B");
    assertEquals(textOf(await next), "B");
    await ticks();
    assertEquals([client.stats().pool.idle, one.closed], [0, false]);
    if (taken) {
      one.take(1000);
      await ticks();
      assertEquals(client.stats().pool.idle, 0);
      one.take();
      await ticks();
      assertEquals(client.stats().pool.idle, 1);
      one.hold = false;
      await time.pass(5000);
      assertEquals(one.closed, false);
      const last = client.send(ascii("c"));
      await ticks();
      one.respond("C");
      assertEquals(textOf(await last), "C");
      assertEquals(network.conns.length, 1);
    } else {
      // It reads no more. Whoever comes meanwhile goes elsewhere.
      const other = client.send(ascii("other"));
      await ticks();
      network.conns[1]!.respond("O");
      assertEquals(textOf(await other), "O");
      await time.pass(1000);
      assert(one.closed);
      assertEquals(client.stats().pool.open, 1);
    }
    await end(client, time);
  }
});

Deno.test("An idle connection is closed after idleTimeout", async () => {
  using time = new FakeTime();
  using network = new StubNetwork();
  const client = newClient({ idleTimeout: 1000 });
  await client.send(ascii("a"));
  await time.pass(900);
  await client.send(ascii("b"));
  assertEquals(network.conns.length, 1);
  await time.pass(900);
  assertEquals(client.stats().pool.idle, 1);
  await time.pass(700);
  assertEquals(client.stats().pool.open, 0);
  assertEquals(client.stats().pool.idleTimeoutClosed, 1);
  assert(network.conns[0]!.closed);
  await client.send(ascii("c"));
  assertEquals(network.conns.length, 2);
  await end(client, time);
});

Deno.test("An idle connection is closed after 60 s where nothing is said", async () => {
  using time = new FakeTime();
  using _network = new StubNetwork();
  const client = new Client({ port: PORT });
  await client.send(ascii("a"));
  await time.pass(59_000);
  assertEquals(client.stats().pool.idle, 1);
  await time.pass(32_000);
  assertEquals(client.stats().pool.open, 0);
  await end(client, time);
});

Deno.test("minIdle connections are kept open, and replaced when they end", async () => {
  using time = new FakeTime();
  using network = new StubNetwork();
  // The default idleTimeout alone would have the pool look after 30 seconds.
  const client = newClient({ minIdle: 2, initialCap: 1, idleTimeout: 60_000 });
  await ticks();
  assertEquals(client.stats().pool.idle, 1);
  await time.pass(1100);
  assertEquals(client.stats().pool.idle, 2);
  network.conns[0]!.deliver(null);
  await ticks();
  assertEquals(client.stats().pool.open, 1);
  await time.pass(1100);
  assertEquals(client.stats().pool.idle, 2);
  await end(client, time);
});

Deno.test("A connection past maxLifetime takes no more requests, idle or hot, and none fails", async () => {
  for (const pipelining of [1, 4]) {
    using time = new FakeTime();
    // Every response comes 40 ms late: with four, it is never idle.
    using network = new StubNetwork(() => {
      const conn = new StubConn();
      conn.onRequest = (request) =>
        void setTimeout(() => {
          if (!conn.closed) conn.respond(`pong:${request}`);
        }, 40);
      return conn;
    });
    const client = newClient({ maxCap: 1, pipelining, maxLifetime: 1000 });
    const sent: Promise<unknown>[] = [];
    for (let i = 0; i < 400; i++) {
      sent.push(client.send(ascii(`${i}`)));
      await time.pass(pipelining === 1 ? 45 : 10);
    }
    await time.pass(200);
    const responses = await Promise.all(sent) as Uint8Array[];
    assertEquals(responses.map(textOf), responses.map((_, i) => `pong:${i}`));
    const { failures, retries, pool } = client.stats();
    assertEquals({ failures, retries }, { failures: 0, retries: 0 });
    assertEquals(pool.maxLifetimeClosed, pool.openedCount - pool.open);
    const lifetimes = network.conns.length;
    const total = pipelining === 1 ? 18_000 : 4000;
    assertGreaterOrEqual(lifetimes, Math.floor(total / 1250));
    assertLessOrEqual(lifetimes, Math.ceil(total / 900) + 1);
    await end(client, time);
  }
});

Deno.test("A hot connection moves its requests over though the pool never sees it idle", async () => {
  using time = new FakeTime();
  using network = new StubNetwork(() => new StubConn());
  const client = newClient({ maxCap: 2, pipelining: 8, maxLifetime: 1000 });
  const kept = ["a", "b"].map((r) => client.send(ascii(r)));
  await ticks();
  assertEquals(network.conns.length, 2);
  await time.pass(2100);
  const late = client.send(ascii("late"));
  await ticks();
  // Both are too old, and hold their places until they are empty.
  assertEquals(network.requests.toSorted(), ["a", "b"]);
  assertEquals(client.stats().pool.waiting, 1);
  network.conns[0]!.respond("A");
  await ticks();
  assert(network.conns[0]!.closed);
  assertEquals(network.conns[2]!.requests, ["late"]);
  network.conns[2]!.respond("L");
  network.conns[1]!.respond("B");
  assertEquals(textOf(await late), "L");
  await Promise.all(kept);
  await ticks();
  assert(network.conns[1]!.closed);
  assertEquals(client.stats().pool.open, 1);
  await end(client, time);
});

Deno.test("Requests cost no timer of their own, and idle connections keep none alive", async () => {
  using time = new FakeTime();
  using network = new StubNetwork(() => new StubConn());
  const client = new Client({
    port: PORT,
    maxCap: 4,
    pipelining: 1000,
    maxLifetime: 100_000,
    minIdle: 1,
  });
  assertEquals(time.timers.referenced, 0);
  const warm = Array.from({ length: 4 }, () => client.send(ascii("a")));
  await ticks();
  for (const conn of network.conns) conn.respond("A");
  await Promise.all(warm);
  const before = time.timers.running;
  assertEquals(time.timers.referenced, 0);
  const sent = Array.from({ length: 2000 }, () => client.send(ascii("a")));
  await time.pass(100);
  assertLessOrEqual(time.timers.running, before + 1);
  assertEquals(time.timers.referenced, 1);
  for (const conn of network.conns) {
    conn.respond(...Array.from({ length: 500 }, () => "A"));
  }
  await Promise.all(sent);
  assertEquals(time.timers.referenced, 0);
  assertEquals(network.conns.map(({ unrefs }) => unrefs), [1, 1, 1, 1]);
  await end(client, time);
});

Deno.test("The sweeps stop when nothing is in flight, and start again", async () => {
  using time = new FakeTime();
  using network = new StubNetwork();
  const client = newClient({ maxCap: 1, requestTimeout: 100 });
  for (let i = 0; i < 3; i++) {
    await client.send(ascii("a"));
    assertGreater(time.timers.running, 0);
    await time.pass(60);
    assertEquals(time.timers.running, 0);
  }
  network.conns[0]!.onRequest = undefined;
  const last = fate(client.send(ascii("a")), time);
  const start = time.now;
  await time.pass(200);
  assertInTime((await last).at - start, 100);
  await end(client, time);
});

Deno.test("A shorter timeout shortens the sweeps that run, and lengthens none", async () => {
  using time = new FakeTime();
  using _network = new StubNetwork(() => new StubConn());
  const client = newClient({ maxCap: 9, requestTimeout: 60_000 });
  const long = fate(client.send(ascii("a")), time);
  const start = time.now;
  await time.pass(333);
  const shorts: Promise<void>[] = [];
  // One after the other, so that each could put off the sweeps for the last.
  for (const timeout of [4000, 2000, 1000, 500, 100, 300]) {
    const start = time.now;
    const sent = fate(client.send(ascii("b"), { timeout }), time);
    shorts.push(sent.then(({ error, at }) => {
      assertInstanceOf(error, RequestTimeoutError);
      assertInTime(at - start, timeout);
    }));
    await time.pass(20);
  }
  await time.pass(70_000);
  await Promise.all(shorts);
  assertInTime((await long).at - start, 60_000);
  await end(client, time);
});

Deno.test("A write that never settles holds up nobody for more than a second", async () => {
  using time = new FakeTime();
  using network = new StubNetwork(() => {
    const conn = new StubConn();
    conn.hold = conn.stuck = network.conns.length === 0;
    return conn;
  });
  const client = newClient({ maxCap: 1, pipelining: 2 });
  const a = fate(client.send(ascii("a")), time);
  const b = fate(client.send(ascii("b"), { timeout: 100 }), time);
  await time.pass(10);
  const start = time.now;
  network.conns[0]!.deliver(null);
  await time.pass(2000);
  const lost = await a;
  assertInstanceOf(lost.error, ConnectionLostError);
  assert(lost.error.requestSent);
  assertInstanceOf(lost.error.cause, Deno.errors.UnexpectedEof);
  assertLessOrEqual(lost.at - start, 1000);
  await b;
  // A fresh one stands in for it meanwhile.
  assertStrictEquals(network.conns[0]!.closed, true);
  await end(client, time);
});
