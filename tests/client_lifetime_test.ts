/**
 * How long a connection is kept: `idleTimeout`, `maxLifetime` and `minIdle`,
 * with a clock that the test moves.
 */
import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertLessOrEqual,
} from "@std/assert";
import { Client, ConnectionLostError } from "../client.ts";
import { ascii, textOf } from "./bytes_support.ts";
import {
  end,
  newClient,
  PORT,
  StubConn,
  StubNetwork,
} from "./client_support.ts";
import { FakeTime, latest } from "./client_time_support.ts";
import { outcomeOf, ticks } from "./promise_support.ts";

Deno.test("idleTimeout and maxLifetime are no more than 10 % or 50 ms late", async () => {
  for (const minIdle of [0, 1]) {
    for (const limit of [100, 2000, 60_000]) {
      for (const name of ["idleTimeout", "maxLifetime"] as const) {
        // Never below minIdle.
        if (name === "idleTimeout" && minIdle > 0) continue;
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
  const client = newClient({ minIdle: 2, initialCap: 1, idleTimeout: 60_000 });
  await ticks();
  assertEquals(client.stats().pool.idle, 2);
  network.conns[0]!.deliver(null);
  await ticks();
  assertEquals(client.stats().pool.idle, 2);
  assertEquals(network.conns.map(({ closed }) => closed), [true, false, false]);
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

Deno.test("A connection that dies while it retires gives its place back once", async () => {
  using time = new FakeTime();
  using network = new StubNetwork(() => new StubConn());
  const client = new Client({
    port: PORT,
    maxCap: 1,
    pipelining: 2,
    maxLifetime: 1000,
    requestTimeout: 0,
  });
  const sent = ["a", "b"].map((r) => outcomeOf(client.send(ascii(r))));
  await ticks();
  const inLine = client.send(ascii("in line"));
  await time.pass(5000);
  const [one] = network.conns as [StubConn];
  one.respond("A");
  await ticks();
  // Too old for another, it waits for the one it has.
  assertEquals(one.requests, ["a", "b"]);
  assertEquals(client.stats().pool.open, 1);
  one.deliver(new Deno.errors.ConnectionReset("reset"));
  await ticks();
  assertInstanceOf(await sent[1], ConnectionLostError);
  assertEquals(client.stats().pool.open, 1);
  assertEquals(network.conns[1]!.requests, ["in line"]);
  network.conns[1]!.respond("-");
  await inLine;
  await sent[0];
  await client.close();
  assertEquals(client.stats().pool.open, 0);
});
