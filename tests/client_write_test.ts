/**
 * What the client writes: requests that leave together, writes that are short,
 * hang, fail or throw, and what is still read after a write has failed.
 */
import {
  assert,
  assertEquals,
  assertFalse,
  assertGreater,
  assertInstanceOf,
  assertLessOrEqual,
  assertStrictEquals,
  assertStringIncludes,
} from "@std/assert";
import { Client, ConnectionLostError } from "../client.ts";
import { ascii, textOf } from "./bytes_support.ts";
import {
  end,
  newClient,
  PORT,
  silent,
  StubConn,
  StubNetwork,
} from "./client_support.ts";
import { FakeTime, fate } from "./client_time_support.ts";
import { outcomeOf, rejection, ticks } from "./promise_support.ts";

Deno.test("Requests made in one turn leave in one write where they share a connection", async () => {
  using network = new StubNetwork();
  const client = new Client({ port: PORT, maxCap: 1, pipelining: 100 });
  await client.send(ascii("first"));
  const [conn] = network.conns as [StubConn];
  for (let turn = 1; turn < 4; turn++) {
    const sent = Array.from({ length: 50 }, () => client.send(ascii("abc")));
    await Promise.all(sent);
    assertEquals(conn.offers.length, 1 + turn);
    assertEquals(conn.offers[turn]!.length, 50 * (8 + 3));
  }
  await client.close();
});

Deno.test("Requests made while a write is under way leave in one write after it", async () => {
  using network = silent();
  const client = new Client({ port: PORT, maxCap: 1, pipelining: 100 });
  const sent = [client.send(ascii("first"))];
  await ticks();
  const [conn] = network.conns as [StubConn];
  conn.hold = true;
  for (let i = 0; i < 10; i++) {
    sent.push(client.send(ascii("a")));
    await ticks();
  }
  conn.take();
  await ticks();
  assertEquals(conn.offers.map(({ length }) => length), [13, 9, 81]);
  conn.take();
  await ticks();
  conn.respond(...sent.map(() => "-"));
  await Promise.all(sent);
  await client.close();
});

Deno.test("A large payload is written from where it stands", async () => {
  using network = new StubNetwork(() => new StubConn());
  const client = new Client({ port: PORT, maxCap: 1, pipelining: 3 });
  const payload = new Uint8Array(1_000_000);
  const sent = [payload, ascii("small"), payload].map((p) => client.send(p));
  await ticks();
  const [conn] = network.conns as [StubConn];
  const own = conn.offers.filter(({ buffer }) => buffer === payload.buffer);
  const copied = conn.offers.filter(({ buffer }) => buffer !== payload.buffer);
  assertEquals(own.length, 2);
  // What is copied are headers, the small one, and the beginnings.
  const copies = copied.reduce((sum, { length }) => sum + length, 0);
  assertLessOrEqual(copies, 3 * 8 + 5 + 2 * 16 * 1024);
  assertEquals(conn.requests.length, 3);
  conn.respond("-", "-", "-");
  await Promise.all(sent);
  await client.close();
});

Deno.test("No more is encoded than fills a write: what is behind it can be taken back", async () => {
  using network = silent();
  const client = new Client({ port: PORT, maxCap: 1, pipelining: 100 });
  const sent = [client.send(ascii("first"))];
  await ticks();
  const [conn] = network.conns as [StubConn];
  conn.hold = true;
  for (let i = 0; i < 40; i++) sent.push(client.send(new Uint8Array(4000)));
  const controller = new AbortController();
  const { signal } = controller;
  const last = outcomeOf(client.send(ascii("last"), { signal }));
  await ticks();
  assertGreater(conn.offered, 16 * 1024);
  assertLessOrEqual(conn.offered, 64 * 1024 + 4008);
  controller.abort("taken back");
  assertEquals(await last, "taken back");
  while (await ticks().then(() => conn.offered > 0)) {
    assertLessOrEqual(conn.offered, 64 * 1024 + 4008);
    conn.take();
  }
  assertEquals(conn.requests.length, 41);
  assertFalse(conn.requests.includes("last"));
  conn.respond(...sent.map(() => "-"));
  await Promise.all(sent);
  await client.close();
});

Deno.test("Short writes are completed", async () => {
  for (const size of [1, 7, 8, 9, 1000]) {
    using network = silent();
    const client = new Client({ port: PORT, maxCap: 1, pipelining: 5 });
    const sent = ["a", "b".repeat(40), "c"].map((r) => client.send(ascii(r)));
    await ticks();
    const [conn] = network.conns as [StubConn];
    conn.respond("-");
    conn.hold = true;
    await sent[0];
    sent.push(client.send(ascii("d")), client.send(ascii("e".repeat(60))));
    while (await ticks().then(() => conn.offered > 0)) conn.take(size);
    const lengths = conn.requests.map(({ length }) => length);
    assertEquals(lengths, [1, 40, 1, 1, 60]);
    conn.respond("-", "-", "-", "-");
    await Promise.all(sent);
    await client.close();
  }
});

Deno.test("A transport that moves nothing is taken for broken", async () => {
  for (const what of ["read", "write"] as const) {
    using network = new StubNetwork(() => {
      const conn = StubConn.pong();
      const nothing = () => Promise.resolve(0);
      if (what === "write") conn.write = nothing;
      else conn.read = nothing;
      return conn;
    });
    const client = new Client({ port: PORT });
    const error = await rejection(client.send(ascii("a")));
    assertInstanceOf(error, ConnectionLostError);
    assertEquals(error.requestSent, what === "read");
    assertInstanceOf(error.cause, Error);
    assertStringIncludes(
      error.cause.message,
      `calls of ${what} in a row moved 0 bytes`,
    );
    assert(network.conns[0]!.closed);
    await client.close();
  }
});

Deno.test("A write that throws instead of rejecting loses the connection", async () => {
  using network = new StubNetwork(() => {
    const conn = new StubConn();
    conn.write = () => {
      throw new Error("write throws");
    };
    return conn;
  });
  const client = new Client({ port: PORT });
  const error = await rejection(client.send(ascii("a")));
  assertInstanceOf(error, ConnectionLostError);
  assertEquals((error.cause as Error).message, "write throws");
  assertFalse(error.requestSent);
  await ticks();
  assertEquals(network.conns.map(({ closed }) => closed), [true]);
  assertEquals(client.stats().pool.open, 0);
  await client.close();
});

Deno.test("Requests of one turn leave in one write also where they wait for a dial or for room", async () => {
  using network = new StubNetwork(() => new StubConn());
  const client = new Client({ port: PORT, maxCap: 1, pipelining: 50 });
  const sent = Array.from(
    { length: 200 },
    (_, i) => client.send(ascii(`${i}`.padStart(3))),
  );
  await ticks();
  const [one] = network.conns as [StubConn];
  for (let batch = 1; batch <= 4; batch++) {
    assertEquals(one.offers.length, batch);
    assertEquals(one.requests.length, 50 * batch);
    one.respond(...one.requests.slice(-50));
    for (let i = 0; i < 10; i++) await ticks();
  }
  assertEquals(
    (await Promise.all(sent)).map((response) => Number(textOf(response))),
    Array.from({ length: 200 }, (_, i) => i),
  );
  await client.close();
});

for (const ends of [true, false]) {
  Deno.test(`Responses that arrived before a write failed are read, ${ends ? "until the connection ends" : "for a second at most"}`, async () => {
    using time = new FakeTime();
    using network = new StubNetwork(() => new StubConn());
    const client = new Client({ port: PORT, maxCap: 1, pipelining: 4 });
    const sent = ["a", "b"].map((r) => outcomeOf(client.send(ascii(r))));
    await ticks();
    const [one] = network.conns as [StubConn];
    one.hold = true;
    const refused = outcomeOf(client.send(ascii("c")));
    await ticks();
    one.refuse(new Deno.errors.BrokenPipe("broken"));
    await ticks();
    const next = client.send(ascii("next"));
    await time.pass(100);
    // It takes no more, and is still read from.
    assertFalse(one.closed);
    assertEquals(one.offers.length, 2);
    one.respond("A");
    await ticks();
    const [a, b] = sent as [Promise<Uint8Array>, Promise<unknown>];
    assertEquals(textOf(await a), "A");
    if (ends) one.deliver(null);
    else await time.pass(1000);
    const lost = await b;
    assertInstanceOf(lost, ConnectionLostError);
    assert(lost.requestSent);
    assertInstanceOf(
      lost.cause,
      ends ? Deno.errors.UnexpectedEof : Deno.errors.BrokenPipe,
    );
    assert(one.closed);
    // What was not sent goes out again, since the connection had answered.
    await ticks();
    const [, two] = network.conns as [StubConn, StubConn];
    assertEquals(two.requests.toSorted(), ["c", "next"]);
    two.respond("-", "-");
    await Promise.all([refused, next]);
    await client.close();
    await time.pass(2000);
    assertEquals(time.timers.running, 0);
  });
}

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
