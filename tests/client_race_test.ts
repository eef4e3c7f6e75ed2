/**
 * What happens between two steps of the client: connections that die while
 * they change hands, writes whose fate is open, callbacks that call back.
 * Every far end is a stub, so that each order of events can be had.
 */
import {
  assert,
  assertEquals,
  assertFalse,
  assertGreater,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import {
  Client,
  ClientClosedError,
  ConnectionLostError,
  RequestTimeoutError,
  type SendSummary,
} from "../client.ts";
import { PoolClosedError } from "../pool.ts";
import {
  ascii,
  FakeTime,
  outcomeOf,
  rejection,
  stateOf,
  StubConn,
  StubNetwork,
  textOf,
  ticks,
} from "./client_support.ts";

const PORT = 9; // Of stubs, which nobody dials.

Deno.test("A server that closes what it accepts costs one dial a request", async () => {
  using network = new StubNetwork(() => {
    const conn = new StubConn();
    conn.deliver(null);
    if (network.conns.length > 20) throw new Error("A storm of dials");
    return conn;
  });
  await using client = new Client({ port: PORT });
  for (let i = 1; i <= 3; i++) {
    await assertRejects(() => client.send(ascii("a")), ConnectionLostError);
    assertEquals(network.conns.length, i);
  }
});

Deno.test("A connection that was closed before it was ever used is not kept", async () => {
  using network = new StubNetwork(() => {
    const conn = StubConn.pong();
    if (network.conns.length < 2) conn.deliver(null);
    return conn;
  });
  await using client = new Client({ port: PORT, initialCap: 2 });
  await ticks();
  assertEquals(network.conns.length, 2);
  assertEquals(client.stats().pool.open, 0);
  assertEquals(textOf(await client.send(ascii("a"))), "pong:a");
});

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

Deno.test("Requests that time out as one of them ends their connection are not sent again", async () => {
  using time = new FakeTime();
  using network = new StubNetwork(() => new StubConn());
  const client = new Client({ port: PORT, maxCap: 1, pipelining: 4 });
  const first = client.send(ascii("first"));
  await ticks();
  const [one] = network.conns as [StubConn];
  one.respond("FIRST");
  await first;
  const sent = outcomeOf(client.send(ascii("sent"), { timeout: 5000 }));
  await ticks();
  one.hold = true;
  const settled: string[] = [];
  for (const payload of [new Uint8Array(100_000), ascii("small")]) {
    client.send(payload, { timeout: 500 }).then(
      () => settled.push("answered"),
      (error) => settled.push(error.name),
    );
  }
  await ticks();
  await time.pass(200);
  // Nothing more can be sent; the reader still waits for "sent".
  one.refuse(new Deno.errors.BrokenPipe("broken"));
  await time.pass(500);
  assertEquals(settled, ["RequestTimeoutError", "RequestTimeoutError"]);
  assertInstanceOf(await sent, ConnectionLostError);
  assertEquals(network.conns.length, 1);
  assertEquals(client.stats().inFlight, 0);
  // Time still passes for whoever comes next.
  const late = rejection(client.send(ascii("late"), { timeout: 100 }));
  await time.pass(200);
  assertInstanceOf(await late, RequestTimeoutError);
  await client.close();
});

/** A connection whose request is half written. */
async function halfWritten(client: Client, network: StubNetwork) {
  const early = client.send(new Uint8Array(300_000));
  await ticks();
  const [one] = network.conns as [StubConn];
  one.take();
  await ticks();
  one.take(1000);
  await ticks();
  return { one, early };
}

function holding(): StubConn {
  return Object.assign(new StubConn(), { hold: true });
}

Deno.test("Nobody shares a connection whose request was answered before it was taken", async () => {
  using time = new FakeTime();
  using network = new StubNetwork(holding);
  const client = new Client({ port: PORT, maxCap: 1, pipelining: 4 });
  const { one, early } = await halfWritten(client, network);
  one.respond("early");
  await early;
  await ticks();
  const next = client.send(ascii("next"));
  await ticks();
  assertEquals(client.stats().pool.waiting, 1);
  for (let i = 0; i < 6; i++) {
    await time.pass(100);
    one.take(50_000);
    await ticks();
  }
  // It is taken now, and carries the next.
  one.take();
  await ticks();
  one.respond("NEXT");
  assertEquals(textOf(await next), "NEXT");
  await time.pass(5000);
  assertFalse(one.closed);
  assertEquals(network.conns.length, 1);
  await client.close();
});

Deno.test("A connection that is killed as its request is answered leaves no timer", async () => {
  using time = new FakeTime();
  using network = new StubNetwork(holding);
  const client = new Client({ port: PORT, maxCap: 1 });
  const { one, early } = await halfWritten(client, network);
  const outcome = outcomeOf(early);
  one.respond("early");
  const closing = client.close({ signal: AbortSignal.abort() });
  await ticks();
  await outcome;
  await closing;
  assertEquals(time.timers, { running: 0, referenced: 0 });
});

Deno.test("close() called again by what it is told of is the same", async () => {
  using network = new StubNetwork((i) => i === 0 ? StubConn.pong() : holding());
  let inner: Promise<void> | undefined;
  const closed = () => void (inner ??= client.close());
  const hooks = { pool: { closed } };
  const client: Client = new Client({ port: PORT, maxCap: 2, hooks });
  const a = client.send(ascii("a"));
  const b = client.send(ascii("b"));
  await a;
  await ticks();
  const outer = client.close();
  assertStrictEquals(inner, outer);
  network.conns[1]!.respond("B");
  await b;
  await outer;
});

for (const size of [16 * 1024, 200_000]) {
  Deno.test(`A request of ${size} bytes that is given up once it is out, or is a copy, ends no connection`, async () => {
    using network = new StubNetwork(() => new StubConn());
    const client = new Client({ port: PORT, maxCap: 1, pipelining: 8 });
    const neighbour = client.send(ascii("neighbour"));
    await ticks();
    const [one] = network.conns as [StubConn];
    if (size <= 16 * 1024) one.hold = true;
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

Deno.test("A request in line whose connection dies in the hand-over goes on with another", async () => {
  using network = new StubNetwork(() => {
    const conn = new StubConn();
    conn.hold = network.conns.length === 0;
    return conn;
  });
  const client = new Client({ port: PORT, maxCap: 1, pipelining: 2 });
  const a = client.send(ascii("a"));
  await ticks();
  const [one] = network.conns as [StubConn];
  one.take();
  const b = client.send(ascii("b"));
  await ticks();
  const inLine = client.send(ascii("in line"));
  await ticks();
  // In one turn: room for one more request, and the end.
  one.respond("A");
  one.refuse(new Deno.errors.BrokenPipe("gone"));
  await ticks();
  assertEquals(textOf(await a), "A");
  const two = network.conns[1]!;
  assertEquals(two.requests.toSorted(), ["b", "in line"]);
  two.respond(...two.requests.map((request) => `pong:${request}`));
  assertEquals(textOf(await inLine), "pong:in line");
  assertEquals(textOf(await b), "pong:b");
  assertEquals(client.stats().retries, 1);
  await client.close();
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

Deno.test("What a write took in part, after the connection was lost, counts as not sent", async () => {
  using network = new StubNetwork();
  const client = new Client({ port: PORT, maxCap: 1 });
  await client.send(ascii("first"));
  const [one] = network.conns as [StubConn];
  one.hold = true;
  const large = client.send(new Uint8Array(100_000));
  await ticks();
  one.take();
  await ticks();
  assertEquals(one.taken + one.offered, 8 + 5 + 8 + 100_000);
  one.deliver(null);
  one.take(10);
  assertEquals((await large).length, "pong:".length + 100_000);
  assertEquals(one.requests.length, 1);
  assertEquals(client.stats().retries, 1);
  await client.close();
});

Deno.test("A hook that aborts requests which time out with its own settles none twice", async () => {
  using time = new FakeTime();
  using _network = new StubNetwork(() => new StubConn());
  const controller = new AbortController();
  const settled: SendSummary[] = [];
  const client = new Client({
    port: PORT,
    maxCap: 1,
    pipelining: 3,
    hooks: {
      settle(summary) {
        settled.push(summary);
        controller.abort("the first has failed");
      },
    },
  });
  const { signal } = controller;
  const sent = [1, 2, 3].map((timeout) =>
    rejection(client.send(ascii("a"), { signal, timeout }))
  );
  await time.pass(200);
  const [first, ...others] = await Promise.all(sent);
  assertInstanceOf(first, RequestTimeoutError);
  assertEquals(others, ["the first has failed", "the first has failed"]);
  const { requests, failures, inFlight } = client.stats();
  assertEquals({ requests, failures, inFlight, settled: settled.length }, {
    requests: 3,
    failures: 3,
    inFlight: 0,
    settled: 3,
  });
  await client.close();
  await time.pass(5000);
  assertEquals(time.timers.running, 0);
});

Deno.test("An asynchronous hook that fails is reported as one that throws", async () => {
  using _network = new StubNetwork();
  const reported: unknown[] = [];
  await using client = new Client({
    port: PORT,
    onError(error) {
      reported.push(error);
      return Promise.reject(new Error("nobody is left to tell"));
    },
    hooks: {
      send: () => Promise.reject("send"),
      settle: () => Promise.reject("settle"),
      dial: () => Promise.reject("dial"),
      pool: { opened: () => Promise.reject("opened") },
    },
  });
  await client.send(ascii("a"));
  await ticks();
  assertEquals(reported.toSorted(), ["dial", "opened", "send", "settle"]);
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

Deno.test("A client killed between a dial and its request rejects the request and closes the connection", async () => {
  for (const hook of ["dial", "opened", "waited"]) {
    using network = new StubNetwork();
    const kill = () => {
      client.close({ signal: AbortSignal.abort("killed") });
    };
    const client: Client = new Client({
      port: PORT,
      maxCap: 1,
      hooks: hook === "dial" ? { dial: kill } : { pool: { [hook]: kill } },
    });
    const sent = ["a", "b"].map((r) => outcomeOf(client.send(ascii(r))));
    for (const error of await Promise.all(sent)) {
      // The first of those in line may have been waited for, and is served.
      if (hook === "waited" && error instanceof Uint8Array) continue;
      assertInstanceOf(error, ClientClosedError);
      assertEquals(error.cause, "killed");
    }
    await client.close();
    assertEquals(network.conns.map(({ closed }) => closed), [true]);
    const { inFlight, pool } = client.stats();
    assertEquals([inFlight, pool.open], [0, 0]);
  }
});
