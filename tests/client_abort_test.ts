/**
 * Requests that are given up by a signal: wherever they are, with which
 * reason, what becomes of their connection and of the signal's listeners.
 */
import {
  assert,
  assertEquals,
  assertFalse,
  assertGreater,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertLessOrEqual,
  assertStrictEquals,
} from "@std/assert";
import {
  Client,
  ClientClosedError,
  ConnectionLostError,
  RequestTimeoutError,
} from "../client.ts";
import { PoolClosedError } from "../pool.ts";
import { ascii, textOf } from "./bytes_support.ts";
import {
  end,
  newClient,
  PORT,
  replace,
  silent,
  StubConn,
  StubNetwork,
} from "./client_support.ts";
import { assertInTime, FakeTime, fate } from "./client_time_support.ts";
import {
  CountingSignal,
  outcomeOf,
  rejection,
  stateOf,
  ticks,
} from "./promise_support.ts";

Deno.test("An aborted signal rejects with its reason, of whatever kind, and nothing is sent", async () => {
  using network = new StubNetwork();
  await using client = new Client({ port: PORT, maxCap: 1 });
  const reasons = [
    new Error("an error"),
    "text",
    0,
    null,
    false,
    Symbol("symbol"),
    Uint8Array.of(1, 2, 3),
    new RequestTimeoutError(5),
    Promise.resolve("a promise"),
  ];
  for (const reason of reasons) {
    const signal = AbortSignal.abort(reason);
    let thrown: { error: unknown } | undefined;
    await client.send(ascii("a"), { signal }).catch((error) => {
      thrown = { error };
    });
    assertStrictEquals(thrown?.error, reason);
  }
  const signal = AbortSignal.abort();
  const error = await rejection(client.send(ascii("a"), { signal }));
  assertInstanceOf(error, DOMException);
  assertEquals(error.name, "AbortError");
  assertEquals(network.conns.length, 0);
  assertEquals(client.stats().requests, 0);
});

/** Where a request is when its signal aborts, and what the server sees of it. */
const ABORTS = [
  { where: "in line", maxCap: 1, pipelining: 1, seen: false },
  { where: "dialling", maxCap: 2, pipelining: 1, seen: false },
  {
    where: "unsent on a shared connection",
    maxCap: 1,
    pipelining: 2,
    seen: false,
  },
  { where: "answering alone", maxCap: 2, pipelining: 1, seen: true },
  { where: "answering among others", maxCap: 1, pipelining: 2, seen: true },
];

for (const { where, maxCap, pipelining, seen } of ABORTS) {
  Deno.test(`A request that is aborted while it is ${where} rejects with the reason at once`, async () => {
    for (const reason of [new Error("given up"), Uint8Array.of(1), undefined]) {
      using network = silent();
      const client = new Client({ port: PORT, maxCap, pipelining });
      const other = client.send(ascii("other"));
      await ticks();
      const [one] = network.conns as [StubConn];
      const { promise: dialled, resolve } = Promise.withResolvers<StubConn>();
      using _dial = where === "dialling"
        ? replace("connect", () => dialled)
        : undefined;
      one.hold = where.startsWith("unsent");
      // So large that what is behind it is not even encoded.
      const blocker = one.hold
        ? client.send(new Uint8Array(200_000), { signal: AbortSignal.any([]) })
        : undefined;
      if (one.hold) one.respond("other");
      await ticks();
      const controller = new AbortController();
      const { signal } = controller;
      const sent = outcomeOf(client.send(ascii("aborted"), { signal }));
      await ticks();
      assertEquals(network.requests.includes("aborted"), seen);
      controller.abort(reason);
      const error = await sent;
      if (reason === undefined) assertInstanceOf(error, DOMException);
      else assertStrictEquals(error, reason);
      assertEquals(client.stats().inFlight, 1);
      // Alone, it takes its connection along.
      const [, two] = network.conns;
      assertEquals(two?.closed, where === "answering alone" ? true : undefined);
      // What is left goes on.
      if (blocker !== undefined) {
        while (await ticks().then(() => one.offered > 0)) one.take();
        assertEquals(one.requests.length, 2);
        one.respond("blocker");
        assertEquals(textOf(await blocker), "blocker");
      } else {
        one.respond("other", ...(seen && maxCap === 1 ? ["late"] : []));
      }
      assertEquals(textOf(await other), "other");
      resolve(new StubConn());
      await ticks();
      assertFalse(!seen && network.requests.includes("aborted"));
      await client.close();
    }
  });
}

Deno.test("A request that is aborted in the turn in which it is made is not sent", async () => {
  for (const pipelining of [1, 4]) {
    using network = new StubNetwork();
    const client = new Client({ port: PORT, maxCap: 1, pipelining });
    await client.send(ascii("first"));
    const controller = new AbortController();
    const { signal } = controller;
    const a = client.send(ascii("a"));
    const b = outcomeOf(client.send(ascii("b"), { signal }));
    const c = client.send(ascii("c"));
    controller.abort("at once");
    assertEquals(await b, "at once");
    assertEquals([textOf(await a), textOf(await c)], ["pong:a", "pong:c"]);
    assertEquals(network.requests, ["first", "a", "c"]);
    // Alone as well.
    const again = new AbortController();
    const d = outcomeOf(client.send(ascii("d"), { signal: again.signal }));
    again.abort("at once");
    assertEquals(await d, "at once");
    await client.send(ascii("e"));
    assertEquals(network.requests, ["first", "a", "c", "e"]);
    assertEquals(network.conns.length, 1);
    await client.close();
  }
});

Deno.test("Thousands of requests that share a signal share a listener, and leave none", async () => {
  for (const abort of [false, true]) {
    using network = silent();
    const client = new Client({ port: PORT, maxCap: 4, pipelining: 500 });
    const shared = new CountingSignal();
    const { signal } = shared;
    const sent: Promise<unknown>[] = [];
    const send = () =>
      sent.push(outcomeOf(client.send(ascii("a"), { signal })));
    for (let i = 0; i < 4; i++) send();
    await ticks();
    for (let i = 0; i < 3000; i++) send();
    await ticks();
    const { pool, inFlight } = client.stats();
    assertEquals([pool.waiting, inFlight], [1004, 3004]);
    // One for those in line, and one for those on their way.
    assertLessOrEqual(shared.most, 2);
    assertLessOrEqual(shared.added, 4);
    if (abort) {
      shared.abort("all of them");
      const outcomes = await Promise.all(sent);
      assert(outcomes.every((outcome) => outcome === "all of them"));
      assert(network.conns.every(({ closed }) => closed));
    } else {
      for (const conn of network.conns) {
        conn.onRequest = () => conn.respond("-");
        conn.respond(...conn.requests.map(() => "-"));
      }
      const outcomes = await Promise.all(sent);
      assert(outcomes.every((outcome) => outcome instanceof Uint8Array));
    }
    assertEquals(shared.listeners, 0);
    assertLessOrEqual(shared.most, 2);
    assertEquals(client.stats().inFlight, 0);
    await client.close();
  }
});

Deno.test("A signal keeps no listener of a request that ended in any other way", async () => {
  using network = silent();
  const client = new Client({ port: PORT, maxCap: 1, getTimeout: 5 });
  const shared = new CountingSignal();
  const { signal } = shared;
  const a = outcomeOf(client.send(ascii("a"), { signal, timeout: 30 }));
  const b = outcomeOf(client.send(ascii("b"), { signal }));
  assertGreaterOrEqual(shared.listeners, 1);
  await b;
  await a;
  assertEquals(shared.listeners, 0);
  const c = outcomeOf(client.send(ascii("c"), { signal }));
  await ticks();
  network.conns.at(-1)!.deliver(null);
  assertInstanceOf(await c, ConnectionLostError);
  assertEquals(shared.listeners, 0);
  const d = outcomeOf(client.send(ascii("d"), { signal }));
  await ticks();
  await end(client);
  assertInstanceOf(await d, ClientClosedError);
  assertEquals(shared.listeners, 0);
  assertGreater(shared.added, 0);
});

Deno.test("A request aborted while its connection died in the hand-over is not sent", async () => {
  using network = new StubNetwork(() => new StubConn());
  const client = new Client({ port: PORT, maxCap: 2, pipelining: 3 });
  const send = (name: string, signal?: AbortSignal) =>
    client.send(ascii(name), signal && { signal });
  const early = ["a", "b", "c", "d"].map((name) => send(name));
  await ticks();
  const [one, two] = network.conns as [StubConn, StubConn];
  assertEquals(one.requests.length, 2);
  one.respond("A", "C");
  await ticks();
  // The first connection has answered, and has three again: two sent whole,
  // and one given up of which a write hangs.
  const f = send("f");
  const g = send("g");
  await ticks();
  one.hold = true;
  const givenUp = new AbortController();
  const h = send("h", givenUp.signal);
  await ticks();
  assertEquals(one.offered, 8 + 1);
  givenUp.abort("h");
  assertEquals(await rejection(h), "h");
  const e = send("e");
  await ticks();
  assertEquals(two.requests.length, 3);

  const controller = new AbortController();
  const inLine = send("in line", controller.signal);
  f.then(() => controller.abort("given up"));
  await ticks();
  assertEquals(client.stats().pool.waiting, 1);
  // In one turn: it has room, is lent to the one in line, and dies; the other
  // becomes idle; the signal aborts.
  one.respond("F");
  one.refuse(new Deno.errors.BrokenPipe("gone"));
  two.respond("B", "D", "E");
  assertEquals(await stateOf(inLine), "given up");
  assertFalse(network.requests.includes("in line"));
  one.deliver(null);
  assertInstanceOf(await rejection(g), ConnectionLostError);
  await Promise.all([...early, e]);
  await client.close();
});

Deno.test("A request in line is rejected with the reason, also where that is an error of the pool", async () => {
  using _network = new StubNetwork(() => new StubConn());
  const client = new Client({ port: PORT, maxCap: 1 });
  const busy = rejection(client.send(ascii("busy")));
  const controller = new AbortController();
  const { signal } = controller;
  const inLine = rejection(client.send(ascii("in line"), { signal }));
  await ticks();
  const reason = new PoolClosedError();
  controller.abort(reason);
  assertStrictEquals(await inLine, reason);
  await client.close({ signal: AbortSignal.abort() });
  await busy;
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

// Given up while it is written ------------------------------------------------

for (const how of ["abort", "timeout"]) {
  Deno.test(`A large request given up while it is written ends its connection, so that its owner may change it: ${how}`, async () => {
    using time = new FakeTime();
    using network = new StubNetwork(() => new StubConn());
    const client = new Client({ port: PORT, maxCap: 1, pipelining: 8 });
    const first = client.send(ascii("first"));
    await ticks();
    const [one] = network.conns as [StubConn];
    one.respond("FIRST");
    await first;

    const sent = client.send(ascii("sent"));
    await ticks();
    one.hold = true;
    const controller = new AbortController();
    const options = how === "abort"
      ? { signal: controller.signal }
      : { timeout: 100 };
    const payload = new Uint8Array(200_000);
    const large = rejection(client.send(payload, options));
    await ticks();
    const behind = client.send(ascii("behind"));
    await ticks();
    one.take(20_000);
    await ticks();
    assertGreater(one.offered, 0);
    const lost = rejection(sent);
    if (how === "abort") controller.abort("given up");
    else await time.pass(200);
    await large;
    await ticks();
    assert(one.closed);
    // What was whole is lost; what was not goes out on another connection.
    assertInstanceOf(await lost, ConnectionLostError);
    await ticks();
    const two = network.conns[1]!;
    assertEquals(two.requests, ["behind"]);
    two.respond("BEHIND");
    assertEquals(textOf(await behind), "BEHIND");
    await client.close();
  });
}

for (const size of [32 * 1024, 200_000]) {
  Deno.test(`A request of ${size} bytes that is given up once it is out, or is a copy, ends no connection`, async () => {
    using network = new StubNetwork(() => new StubConn());
    const client = new Client({ port: PORT, maxCap: 1, pipelining: 8 });
    const neighbour = client.send(ascii("neighbour"));
    await ticks();
    const [one] = network.conns as [StubConn];
    if (size <= 32 * 1024) one.hold = true;
    const controller = new AbortController();
    const { signal } = controller;
    const payload = new Uint8Array(size);
    const givenUp = rejection(client.send(payload, { signal }));
    await ticks();
    if (one.hold) one.take(100);
    await ticks();
    controller.abort("given up");
    assertEquals(await givenUp, "given up");
    assertFalse(one.closed);
    payload.fill(1);
    if (one.hold) one.take();
    await ticks();
    assertEquals(one.requests[1], "\0".repeat(size));
    one.respond("N", "late");
    assertEquals(textOf(await neighbour), "N");
    await client.close();
  });
}
