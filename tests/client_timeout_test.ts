/**
 * The timeouts of requests, `requestTimeout` and `getTimeout`, and the timers
 * behind them, with a clock that the test moves: nothing here sleeps, and the
 * figures are exact.
 */
import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertLessOrEqual,
} from "@std/assert";
import { Client, ConnectionLostError, RequestTimeoutError } from "../client.ts";
import { PoolTimeoutError } from "../pool.ts";
import { ascii, textOf } from "./bytes_support.ts";
import { ScriptedServer } from "./client_server_support.ts";
import {
  end,
  newClient,
  PORT,
  replace,
  StubConn,
  StubNetwork,
} from "./client_support.ts";
import { assertInTime, FakeTime, fate, latest } from "./client_time_support.ts";
import { rejection, stateOf, ticks } from "./promise_support.ts";

const FOREVER = new Promise<never>(() => {});

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
