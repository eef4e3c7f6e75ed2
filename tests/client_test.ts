/**
 * The client: its options, its choice of a connection, the order and the
 * writes on one, its hooks, its figures and its end. What becomes of lost
 * requests, timeouts, TLS, Unix sockets and races have files of their own.
 */
import {
  assert,
  assertEquals,
  assertFalse,
  assertGreater,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertLessOrEqual,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
  fail,
} from "@std/assert";
import {
  Client,
  ClientClosedError,
  type ClientOptions,
  ConnectError,
  ConnectionLostError,
  type DialSummary,
  RequestTimeoutError,
  type SendOptions,
  type SendSummary,
} from "../client.ts";
import {
  encodeFrame,
  FrameDecoder,
  type FrameOptions,
  FrameTooLargeError,
  InvalidFrameLengthError,
} from "../codec.ts";
import { PoolExhaustedError } from "../pool.ts";
import {
  ascii,
  CountingSignal,
  FakeTime,
  outcomeOf,
  pongServer,
  rejection,
  replace,
  ScriptedServer,
  stateOf,
  StubConn,
  StubNetwork,
  textOf,
  ticks,
} from "./client_support.ts";
import { freePort } from "./free_port.ts";
import { eventually } from "./traffic.ts";

const PORT = 9; // Of stubs, which nobody dials.

function silent(): StubNetwork {
  return new StubNetwork(() => new StubConn());
}

/** Closes at once, whatever is in flight. */
async function end(client: Client): Promise<void> {
  await client.close({ signal: AbortSignal.abort() });
  const { inFlight, pool } = client.stats();
  assertEquals({ inFlight, open: pool.open }, { inFlight: 0, open: 0 });
}

// Requests and responses ------------------------------------------------------

Deno.test("Client.send() resolves with the response", async () => {
  using server = pongServer();
  await using client = new Client({ port: server.port });
  assertEquals(textOf(await client.send(ascii("hello"))), "pong:hello");
  const sent = ["a", "b", "c"].map((r) => client.send(ascii(r)).then(textOf));
  assertEquals(await Promise.all(sent), ["pong:a", "pong:b", "pong:c"]);
});

Deno.test("Requests and responses may be empty, and may be large", async () => {
  using server = new ScriptedServer();
  const serving = server.run(async (peer) => {
    for (let r; (r = await peer.receive()) !== null;) await peer.respond(r);
  });
  const client = new Client({ port: server.port, maxCap: 1, pipelining: 9 });
  const requests = [0, 1, 0, 65_536, 0, 3_000_000, 16_384, 16_385, 0];
  const payloads = requests.map((length) => new Uint8Array(length).fill(65));
  const responses = await Promise.all(payloads.map((p) => client.send(p)));
  assertEquals(responses.map(({ length }) => length), requests);
  assert(responses.every((response) => response.every((byte) => byte === 65)));
  await client.close();
  server[Symbol.dispose]();
  await serving;
});

Deno.test("A client speaks the wire that its options describe", async () => {
  const wires: FrameOptions[] = [
    { lengthFieldLength: 1 },
    { lengthFieldLength: 4, byteOrder: "little", lengthAdjustment: -4 },
    { lengthFieldLength: 2, initialBytesToStrip: 0 },
    { lengthFieldOffset: 1, lengthFieldLength: 4, lengthAdjustment: -4 },
  ];
  for (const wire of wires) {
    using network = new StubNetwork(() => new StubConn(wire));
    await using client = new Client({ port: PORT, ...wire });
    const response = client.send(ascii("request"));
    await ticks();
    const [conn] = network.conns as [StubConn];
    assertEquals(conn.offers, [encodeFrame(ascii("request"), wire)]);
    const decoder = new FrameDecoder(wire);
    decoder.push(encodeFrame(ascii("response"), wire));
    conn.respond("response");
    assertEquals(await response, decoder.decode());
  }
});

Deno.test("A payload that cannot be framed is refused, and the client lives on", async () => {
  const options = { lengthFieldLength: 1, maxFrameLength: 250 } as const;
  using network = new StubNetwork(() => StubConn.pong(options));
  const client = new Client({ port: PORT, ...options });
  const tooLarge = await rejection(client.send(new Uint8Array(251)));
  assertInstanceOf(tooLarge, FrameTooLargeError);
  assertEquals([tooLarge.length, tooLarge.limit], [251, 250]);
  for (const payload of [undefined, null, "text", 5, [1], new ArrayBuffer(1)]) {
    const sending = client.send(payload as unknown as Uint8Array);
    assertInstanceOf(await rejection(sending), TypeError);
  }
  const narrow = new Client({ port: PORT, lengthFieldLength: 1 });
  assertInstanceOf(
    await rejection(narrow.send(new Uint8Array(256))),
    InvalidFrameLengthError,
  );
  assertEquals(network.conns.length, 0);
  assertEquals(client.stats().requests, 0);
  await client.send(new Uint8Array(245));
  await narrow.send(new Uint8Array(245));
  await client.close();
  await narrow.close();
});

Deno.test("A response that is too large loses the connection, for its reason", async () => {
  using server = new ScriptedServer();
  const options = { maxFrameLength: 10, maxCap: 1, pipelining: 2 };
  const client = new Client({ port: server.port, ...options });
  const a = client.send(ascii("a"));
  const b = outcomeOf(client.send(ascii("b")));
  using peer = await server.accept();
  await peer.expect("a", "b");
  // The response before it still counts.
  await peer.respond("0123456789", "0123456789a");
  assertEquals(textOf(await a), "0123456789");
  const lost = await b;
  assertInstanceOf(lost, ConnectionLostError);
  assert(lost.requestSent);
  assertInstanceOf(lost.cause, FrameTooLargeError);
  assertEquals([lost.cause.length, lost.cause.limit], [11, 10]);
  await peer.closed();
  const c = client.send(ascii("c"));
  using other = await server.accept();
  await other.expect("c");
  await other.respond("C");
  assertEquals(textOf(await c), "C");
  await client.close();
});

// Options ---------------------------------------------------------------------

const DURATIONS = [
  "idleTimeout",
  "maxLifetime",
  "getTimeout",
  "connectTimeout",
  "requestTimeout",
];

/** Values that an option refuses, and how. */
const REFUSED: [string, unknown[], new (message: string) => Error][] = [
  ...DURATIONS.map((name): typeof REFUSED[number] => [
    name,
    [-1, NaN, Infinity, 2 ** 31],
    RangeError,
  ]),
  ...DURATIONS.map((name): typeof REFUSED[number] => [
    name,
    ["1", true, 1n, {}, []],
    TypeError,
  ]),
  ["port", [undefined, null, "80", 80n, {}], TypeError],
  ["port", [-1, 0, 65_536, 1.5, NaN], RangeError],
  ["hostname", [5, null, {}, ["a"]], TypeError],
  ["tls", [5, "yes", null], TypeError],
  ["pipelining", ["1", null, {}], TypeError],
  ["pipelining", [0, -1, 1.5, NaN, Infinity], RangeError],
  ["idempotent", [1, "true", null, {}], TypeError],
  ["noDelay", [1, "true", null], TypeError],
  ["keepAlive", [1, "true", null], TypeError],
  ["onError", [5, {}, null], TypeError],
  ["hooks", [5, "dial", null], TypeError],
  ["maxCap", ["1", true], TypeError],
  ["maxCap", [0, -1, 1.5, NaN], RangeError],
  ["maxIdle", ["1"], TypeError],
  ["maxIdle", [-1, 1.5, NaN], RangeError],
  ["minIdle", ["1"], TypeError],
  ["minIdle", [-1, 1.5, NaN, 11], RangeError],
  ["initialCap", ["1"], TypeError],
  ["initialCap", [-1, 1.5, NaN, 11], RangeError],
  ["maxWaiting", ["1"], TypeError],
  ["maxWaiting", [-1, 1.5, NaN], RangeError],
  ["lengthFieldLength", [0, 5, 16], RangeError],
  ["byteOrder", ["middle"], RangeError],
  ["maxFrameLength", [-1, NaN], RangeError],
];

Deno.test("A client refuses options that are of the wrong type or out of range, and says which", () => {
  for (const [name, values, ErrorClass] of REFUSED) {
    for (const value of values) {
      const what = `${name}: ${Deno.inspect(value)}`;
      const options = { port: PORT, [name]: value } as ClientOptions;
      const error = assertThrows(
        () => new Client(options),
        ErrorClass,
        name,
        what,
      );
      assertFalse(error.message.endsWith("."), what);
    }
  }
  for (const options of [undefined, null, 5, "127.0.0.1:80"]) {
    assertThrows(
      () => new Client(options as unknown as ClientOptions),
      TypeError,
    );
  }
  const path = "/tmp/none";
  for (const more of [{ port: 1 }, { hostname: "a" }, { tls: true }]) {
    assertThrows(() => new Client({ path, ...more }), TypeError, "path");
  }
  assertThrows(
    () => new Client({ path: 5 } as unknown as ClientOptions),
    TypeError,
    "path",
  );
  const pool = { opened: 5 } as unknown as Record<never, never>;
  assertThrows(() => new Client({ port: PORT, hooks: { pool } }), TypeError);
});

Deno.test("Client.send() refuses options that are of the wrong type or out of range", async () => {
  using network = new StubNetwork();
  await using client = new Client({ port: PORT });
  const refused: [unknown, new (message: string) => Error][] = [
    [5, TypeError],
    [null, TypeError],
    [{ timeout: "1" }, TypeError],
    [{ timeout: -1 }, RangeError],
    [{ timeout: NaN }, RangeError],
    [{ timeout: 2 ** 31 }, RangeError],
    [{ idempotent: 1 }, TypeError],
    [{ signal: 5 }, TypeError],
    [{ signal: {} }, TypeError],
    [{ signal: "aborted" }, TypeError],
  ];
  for (const [options, ErrorClass] of refused) {
    // It rejects, and never throws.
    const sending = client.send(ascii("a"), options as SendOptions);
    const error = await rejection(sending);
    assertInstanceOf(error, ErrorClass, Deno.inspect(options));
  }
  assertEquals(network.conns.length, 0);
  assertEquals(client.stats().requests, 0);
  await client.send(ascii("a"), {});
});

Deno.test("A client dials nothing before it is needed, 127.0.0.1 where no host is named", async () => {
  const dialled: unknown[] = [];
  using _connect = replace("connect", ({ hostname, port }) => {
    dialled.push([hostname, port]);
    return StubConn.pong();
  });
  await using client = new Client({ port: 1234 });
  await using other = new Client({ hostname: "::1", port: 0xffff });
  await ticks();
  assertEquals(dialled, []);
  await client.send(ascii("a"));
  await other.send(ascii("a"));
  assertEquals(dialled, [["127.0.0.1", 1234], ["::1", 0xffff]]);
});

Deno.test("TCP's options are set before anything is sent", async () => {
  for (
    const [options, set] of [
      [{}, ["noDelay true", "keepAlive true"]],
      [{ noDelay: false }, ["keepAlive true"]],
      [{ keepAlive: false }, ["noDelay true"]],
      [{ noDelay: false, keepAlive: false }, []],
    ] as const
  ) {
    using network = new StubNetwork();
    await using client = new Client({ port: PORT, ...options });
    await client.send(ascii("a"));
    assertEquals(network.conns[0]!.set, [...set]);
  }
});

// Pipelining and the match of responses -----------------------------------------

Deno.test("Requests that were given up in any order never get or take another's response", async () => {
  // Every way to give up any of four requests that share a connection.
  for (let given = 0; given < 2 ** 4; given++) {
    using server = new ScriptedServer();
    const client = new Client({ port: server.port, maxCap: 1, pipelining: 5 });
    const names = ["a", "b", "c", "d"];
    const controllers = names.map(() => new AbortController());
    const sent = names.map((name, i) => {
      const { signal } = controllers[i]!;
      return outcomeOf(client.send(ascii(name), { signal }));
    });
    const last = client.send(ascii("last"));
    using peer = await server.accept();
    await peer.expect(...names, "last");
    for (let i = 3; i >= 0; i--) {
      if (given & (1 << i)) controllers[i]!.abort(`given up ${i}`);
    }
    await peer.respond("A", "B");
    await peer.respond("C");
    await peer.respond("D", "LAST");
    assertEquals(textOf(await last), "LAST");
    for (const [i, name] of names.entries()) {
      const outcome = await sent[i];
      if (given & (1 << i)) assertEquals(outcome, `given up ${i}`);
      else assertEquals(textOf(outcome as Uint8Array), name.toUpperCase());
    }
    // And the connection is as good as before.
    const more = client.send(ascii("more"));
    await peer.expect("more");
    await peer.respond("MORE");
    assertEquals(textOf(await more), "MORE");
    assertEquals(server.peers.length, 1);
    await client.close();
  }
});

Deno.test("A response in many pieces, and many in one piece, reach their requests", async () => {
  using network = silent();
  await using client = new Client({ port: PORT, maxCap: 1, pipelining: 3 });
  const sent = ["a", "b", "c"].map((r) => client.send(ascii(r)).then(textOf));
  await ticks();
  const [conn] = network.conns as [StubConn];
  const wire = [..."ABC"].map((r) => encodeFrame(ascii(r)));
  for (const byte of wire[0]!) conn.deliver(Uint8Array.of(byte));
  conn.deliver(new Uint8Array([...wire[1]!, ...wire[2]!.subarray(0, 5)]));
  await ticks();
  conn.deliver(wire[2]!.subarray(5));
  assertEquals(await Promise.all(sent), ["A", "B", "C"]);
});

Deno.test("A response that comes before its request was sent is not taken for its response", async () => {
  using network = silent();
  const client = new Client({ port: PORT, maxCap: 1, pipelining: 2 });
  const a = client.send(ascii("a"));
  await ticks();
  const [conn] = network.conns as [StubConn];
  conn.hold = true;
  const b = client.send(new Uint8Array(50_000));
  await ticks();
  conn.respond("A", "not B's");
  assertEquals(textOf(await a), "A");
  await ticks();
  assert(conn.closed);
  // It was not sent whole, and goes out again.
  assertEquals(network.conns[1]!.requests.length, 1);
  network.conns[1]!.respond("B");
  assertEquals(textOf(await b), "B");
  await client.close();
});

Deno.test("With pipelining 1 a connection carries one request at a time", async () => {
  using server = new ScriptedServer();
  let most = 0;
  let handling = 0;
  const serving = server.run(async (peer) => {
    for (let r; (r = await peer.receive()) !== null;) {
      most = Math.max(most, ++handling);
      // A request that came too early would come now.
      await ticks();
      handling--;
      await peer.respond(r);
    }
  });
  const client = new Client({ port: server.port, maxCap: 1 });
  const sent = Array.from({ length: 50 }, (_, i) => client.send(ascii(`${i}`)));
  const responses = (await Promise.all(sent)).map(textOf);
  assertEquals(responses, responses.map((_, i) => `${i}`));
  assertEquals([most, server.peers.length], [1, 1]);
  await client.close();
  server[Symbol.dispose]();
  await serving;
});

Deno.test("No connection carries more requests than pipelining says", async () => {
  using network = silent();
  const client = new Client({ port: PORT, maxCap: 2, pipelining: 3 });
  const sent = Array.from(
    { length: 10 },
    (_, i) => client.send(ascii(`${i}`)).then(textOf),
  );
  await ticks();
  const [one, two] = network.conns as [StubConn, StubConn];
  assertEquals([one, two].map(({ requests }) => requests.length), [3, 3]);
  assertEquals(client.stats().pool.waiting, 4);
  one.respond("-", "-");
  await ticks();
  assertEquals([one, two].map(({ requests }) => requests.length), [5, 3]);
  two.respond("-");
  await ticks();
  assertEquals([one, two].map(({ requests }) => requests.length), [5, 4]);
  one.respond("-", "-", "-");
  await ticks();
  assertEquals([one, two].map(({ requests }) => requests.length), [6, 4]);
  one.respond("-");
  two.respond("-", "-", "-");
  assertEquals((await Promise.all(sent)).length, 10);
  await client.close();
});

// The choice of a connection ----------------------------------------------------

Deno.test("Requests share a connection only when all maxCap are busy", async () => {
  using network = silent();
  const client = new Client({ port: PORT, maxCap: 3, pipelining: 8 });
  const sent: Promise<unknown>[] = [];
  for (const expected of [[1], [1, 1], [1, 1, 1], [2, 1, 1]]) {
    sent.push(client.send(ascii("a")));
    await ticks();
    const loads = network.conns.map(({ requests }) => requests.length);
    assertEquals(loads.toSorted((a, b) => b - a), expected);
  }
  // An idle one is taken before a busy one is shared.
  const [one, two, three] = network.conns as [StubConn, StubConn, StubConn];
  const busy = [one, two, three].find(({ requests }) => requests.length === 2)!;
  const idle = [one, two, three].find((conn) => conn !== busy)!;
  idle.respond("A");
  await ticks();
  sent.push(client.send(ascii("b")));
  await ticks();
  assertEquals(idle.requests, ["a", "b"]);
  const ended = Promise.allSettled(sent);
  await end(client);
  await ended;
});

Deno.test("Of busy connections the least loaded is shared", async () => {
  using network = silent();
  const client = new Client({ port: PORT, maxCap: 3, pipelining: 100 });
  const sent: Promise<unknown>[] = [];
  const send = async (count: number) => {
    for (let i = 0; i < count; i++) {
      sent.push(outcomeOf(client.send(ascii("a"))));
    }
    await ticks();
  };
  const loads = () => network.conns.map(({ requests }) => requests.length);
  await send(3);
  await send(27);
  assertEquals(loads(), [10, 10, 10]);
  network.conns[1]!.respond("-", "-", "-", "-");
  await ticks();
  await send(4);
  assertEquals(loads(), [10, 14, 10]);
  await send(3);
  assertEquals(loads(), [11, 15, 11]);
  await end(client);
  await Promise.all(sent);
});

for (const pipelining of [1, 3]) {
  Deno.test(`Requests in line are served in order, and no newcomer passes one (pipelining ${pipelining})`, async () => {
    using network = silent();
    const client = new Client({ port: PORT, maxCap: 2, pipelining });
    let number = 0;
    const sent: Promise<unknown>[] = [];
    const send = () => sent.push(client.send(ascii(`${number++}`)));
    const full = 2 * pipelining;
    for (let i = 0; i < full; i++) send();
    await ticks();
    const conns = network.conns;
    for (let i = 0; i < 20; i++) send();
    // Places come free one at a time, by many at once, and with newcomers in
    // the same turn, before and after.
    const order = conns.flatMap(({ requests }) => requests);
    const arrived = (conn: StubConn) =>
      conn.onRequest = (request) => void order.push(request);
    conns.forEach(arrived);
    for (let i = 0; order.length < number; i++) {
      const conn = conns[i % 2]!;
      if (i < 8) send();
      const answers = i % 3 === 0 ? pipelining : 1;
      conn.respond(...Array.from({ length: answers }, () => "-"));
      if (i < 8) send();
      if (i < 4) Promise.resolve().then(send);
      await ticks();
      if (i > 100) break;
    }
    const expected = Array.from({ length: number }, (_, i) => i);
    assertEquals(order.slice(full).map(Number), expected.slice(full));
    assertEquals(conns.length, 2);
    await end(client);
    await Promise.allSettled(sent);
  });
}

Deno.test("A request served by a shared connection leaves the dial that was begun for it", async () => {
  using network = silent();
  const client = new Client({ port: PORT, maxCap: 2 });
  const a = client.send(ascii("a"));
  await ticks();
  const { promise: dialled, resolve: dial } = Promise.withResolvers<StubConn>();
  using _connect = replace("connect", () => dialled);
  const b = client.send(ascii("b"));
  await ticks();
  assertEquals(client.stats().pool.opening, 1);
  const [one] = network.conns as [StubConn];
  one.respond("A");
  await ticks();
  assertEquals(one.requests, ["a", "b"]);
  one.respond("B");
  assertEquals([textOf(await a), textOf(await b)], ["A", "B"]);
  dial(new StubConn());
  await ticks();
  assertEquals(client.stats().pool.idle, 2);
  await client.close();
});

Deno.test("A newcomer does not pass one whom a dial keeps waiting", async () => {
  using network = silent();
  const client = new Client({ port: PORT, maxCap: 2, pipelining: 4 });
  const sent = [client.send(ascii("a"))];
  await ticks();
  const { promise: dialled, resolve: dial } = Promise.withResolvers<StubConn>();
  using _connect = replace("connect", () => dialled);
  for (const name of ["b", "c", "d"]) {
    sent.push(client.send(ascii(name)));
    await ticks();
  }
  // All places are taken now, so those who came first share the busy one, and
  // the last waits for the dial that was begun for the first.
  const [one] = network.conns as [StubConn];
  assertEquals(one.requests, ["a", "b", "c"]);
  const two = new StubConn();
  dial(two);
  await ticks();
  assertEquals(two.requests, ["d"]);
  one.respond("-", "-", "-");
  two.respond("-");
  await Promise.all(sent);
  await client.close();
});

Deno.test("A dial that failed and a connection that ended leave room for others", async () => {
  using network = silent();
  const client = new Client({ port: PORT, maxCap: 2, pipelining: 4 });
  {
    using _refused = replace("connect", () => {
      throw new Error("refused");
    });
    const sent = ["a", "b"].map((r) => rejection(client.send(ascii(r))));
    for (const error of await Promise.all(sent)) {
      assertInstanceOf(error, ConnectError);
    }
  }
  for (let round = 0; round < 3; round++) {
    const sent: Promise<unknown>[] = [];
    for (const name of ["a", "b"]) {
      sent.push(outcomeOf(client.send(ascii(name))));
      await ticks();
    }
    const conns = network.conns.slice(2 * round);
    assertEquals(conns.map(({ requests }) => requests.length), [1, 1]);
    // One ends idle, and one with a request on it.
    conns[0]!.respond("-");
    for (const conn of conns) conn.deliver(null);
    await Promise.all(sent);
    await ticks();
    assertEquals(client.stats().pool.open, 0);
  }
  await client.close();
});

Deno.test("At most maxWaiting requests wait for a connection", async () => {
  using network = silent();
  const client = new Client({ port: PORT, maxCap: 1, maxWaiting: 2 });
  const sent = ["a", "b", "c"].map((r) => client.send(ascii(r)).then(textOf));
  await ticks();
  const error = await rejection(client.send(ascii("d")));
  assertInstanceOf(error, PoolExhaustedError);
  assertEquals(error.waiting, 2);
  const [conn] = network.conns as [StubConn];
  conn.onRequest = (request) => conn.respond(request.toUpperCase());
  conn.respond("A");
  assertEquals(await Promise.all(sent), ["A", "B", "C"]);
  assertEquals(textOf(await client.send(ascii("e"))), "E");
  await client.close();
});

Deno.test("At most maxIdle connections are kept idle", async () => {
  using network = new StubNetwork();
  const client = new Client({ port: PORT, maxCap: 4, maxIdle: 1 });
  await Promise.all([1, 2, 3, 4].map(() => client.send(ascii("a"))));
  await ticks();
  assertEquals(network.conns.length, 4);
  assertEquals(network.conns.filter(({ closed }) => !closed).length, 1);
  const { open, idle, maxIdleClosed } = client.stats().pool;
  assertEquals({ open, idle, maxIdleClosed }, {
    open: 1,
    idle: 1,
    maxIdleClosed: 3,
  });
  await client.close();
  const none = new Client({ port: PORT, maxIdle: 0 });
  await none.send(ascii("a"));
  await ticks();
  assertEquals(none.stats().pool.open, 0);
  await none.close();
});

Deno.test("initialCap connections are opened at the start", async () => {
  using server = new ScriptedServer();
  const serving = server.run();
  const client = new Client({ port: server.port, initialCap: 3, maxCap: 4 });
  await eventually("they stand", () => client.stats().pool.idle === 3);
  await eventually("they are accepted", () => server.peers.length === 3);
  await Promise.all([1, 2, 3].map(() => client.send(ascii("a"))));
  assertEquals(server.peers.length, 3);
  await client.close();
  server[Symbol.dispose]();
  await serving;
});

// Writes ------------------------------------------------------------------------

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

// Signals -----------------------------------------------------------------------

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

// Dialling ----------------------------------------------------------------------

Deno.test("A connection that is refused rejects with ConnectError and the reason", async () => {
  const port = freePort();
  await using client = new Client({ port, maxCap: 2 });
  for (let i = 0; i < 3; i++) {
    const sent = [1, 2, 3].map(() => rejection(client.send(ascii("a"))));
    for (const error of await Promise.all(sent)) {
      assertInstanceOf(error, ConnectError);
      assertInstanceOf(error.cause, Deno.errors.ConnectionRefused);
      assertEquals(error.message, `Cannot connect to 127.0.0.1:${port}`);
      assertEquals(error.name, "ConnectError");
    }
  }
  const { failures, inFlight, pool } = client.stats();
  assertEquals([failures, inFlight, pool.open], [9, 0, 0]);
  const other = new Client({ hostname: "::1", port, onError: () => {} });
  const error = await rejection(other.send(ascii("a")));
  assertMatch(String(error), /\[::1\]:\d+$/);
  await other.close();
});

Deno.test("A dial that hangs is given up after connectTimeout", async () => {
  // Two connections fit into its backlog, and nobody accepts them.
  using listener = Deno.listen({
    hostname: "127.0.0.1",
    port: 0,
    tcpBacklog: 1,
  });
  const { port } = listener.addr as Deno.NetAddr;
  const client = new Client({ port, connectTimeout: 100 });
  const sent = [1, 2, 3].map(() => outcomeOf(client.send(ascii("a"))));
  const error = await Promise.race(sent);
  assertInstanceOf(error, ConnectError);
  assertInstanceOf(error.cause, Deno.errors.TimedOut);
  const { open, openFailedCount } = client.stats().pool;
  assertEquals({ open, openFailedCount }, { open: 2, openFailedCount: 1 });
  await end(client);
  await Promise.all(sent);
});

Deno.test("A dial that fails after it has connected leaves nothing open", async () => {
  using network = new StubNetwork(() => {
    const conn = new StubConn();
    conn.setKeepAlive = () => {
      throw new Error("a write is in flight");
    };
    return conn;
  });
  await using client = new Client({ port: PORT });
  const error = await rejection(client.send(ascii("a")));
  assertInstanceOf(error, ConnectError);
  assertEquals((error.cause as Error).message, "a write is in flight");
  assertEquals(network.conns.map(({ closed }) => closed), [true]);
  assertEquals(client.stats().pool.open, 0);
});

Deno.test("Failures that no caller awaits go to onError", async () => {
  using _connect = replace("connect", () => {
    throw new Deno.errors.ConnectionRefused("refused");
  });
  const reported: unknown[] = [];
  await using _client = new Client({
    port: PORT,
    initialCap: 1,
    onError(error) {
      reported.push(error);
      throw new Error("nobody is left to tell");
    },
  });
  await ticks();
  assertEquals(reported.length, 1);
  assertInstanceOf(reported[0], ConnectError);
});

// Hooks and figures ---------------------------------------------------------------

Deno.test("Hooks are told of every dial, request and end", async () => {
  using network = new StubNetwork();
  const dials: DialSummary[] = [];
  const sends: number[] = [];
  const settles: SendSummary[] = [];
  const pool: string[] = [];
  const client = new Client({
    port: PORT,
    maxCap: 1,
    hooks: {
      dial: (dial) => void dials.push(dial),
      send: (bytes) => void sends.push(bytes),
      settle: (request) => void settles.push(request),
      pool: {
        opened: () => void pool.push("opened"),
        closed: (_, reason) => void pool.push(`closed: ${reason}`),
        waited: () => void pool.push("waited"),
      },
    },
  });
  await Promise.all([client.send(ascii("abc")), client.send(new Uint8Array())]);
  const [conn] = network.conns as [StubConn];
  conn.onRequest = undefined;
  const lost = outcomeOf(client.send(ascii("lost")));
  const reason = new Error("given up");
  const signal = AbortSignal.abort(reason);
  await rejection(client.send(ascii("never accepted"), { signal }));
  await ticks();
  conn.deliver(null);
  const error = await lost;
  await ticks();
  using _refused = replace("connect", () => {
    throw new Error("refused");
  });
  const refused = await rejection(client.send(ascii("refused")));
  assertEquals(sends, [3, 0, 4, 7]);
  assertEquals(
    settles.map(({ requestBytes, responseBytes, error }) => [
      requestBytes,
      responseBytes,
      error,
    ]),
    [
      [3, "pong:abc".length, undefined],
      [0, "pong:".length, undefined],
      [4, 0, error],
      [7, 0, refused],
    ],
  );
  for (const { duration } of [...settles, ...dials]) {
    assertGreaterOrEqual(duration, 0);
  }
  assertEquals(settles.map((summary) => "error" in summary), [
    false,
    false,
    true,
    true,
  ]);
  assertEquals(dials.length, 2);
  assertFalse("error" in dials[0]!);
  assertStrictEquals(dials[1]!.error, refused);
  assertEquals(pool, ["opened", "waited", "closed: discard"]);
  await client.close();
});

Deno.test("A hook that throws is reported, and changes nothing", async () => {
  using network = new StubNetwork();
  const reported: string[] = [];
  const thrower = (name: string) => () => {
    throw new Error(name);
  };
  const client = new Client({
    port: PORT,
    maxCap: 1,
    hooks: {
      dial: thrower("dial"),
      send: thrower("send"),
      settle: thrower("settle"),
      pool: {
        opened: thrower("opened"),
        closed: thrower("closed"),
        waited: thrower("waited"),
      },
    },
    onError: (error) => void reported.push((error as Error).message),
  });
  const sent = [client.send(ascii("a")), client.send(ascii("b"))];
  assertEquals((await Promise.all(sent)).map(textOf), ["pong:a", "pong:b"]);
  network.conns[0]!.deliver(null);
  await ticks();
  assertEquals(textOf(await client.send(ascii("c"))), "pong:c");
  await client.close();
  const counts: Record<string, number> = {};
  for (const name of reported) counts[name] = (counts[name] ?? 0) + 1;
  assertEquals(counts, {
    dial: 2,
    send: 3,
    settle: 3,
    opened: 2,
    closed: 2,
    waited: 1,
  });
  assertEquals(client.stats().responses, 3);
  assertEquals(client.stats().inFlight, 0);
});

Deno.test("A hook or a callback may send another request", async () => {
  using network = new StubNetwork();
  const more: Promise<string>[] = [];
  const client: Client = new Client({
    port: PORT,
    maxCap: 1,
    pipelining: 2,
    hooks: {
      send: (bytes) => {
        if (bytes === 1) {
          more.push(client.send(ascii("from send")).then(textOf));
        }
      },
      settle: ({ requestBytes }) => {
        if (requestBytes === 1) {
          more.push(client.send(ascii("from settle")).then(textOf));
        }
      },
      dial: () => void more.push(client.send(ascii("from dial")).then(textOf)),
    },
  });
  const chain = client.send(ascii("a")).then(textOf).then((response) =>
    client.send(ascii(`then ${response}`)).then(textOf)
  );
  assertEquals(await chain, "pong:then pong:a");
  assertEquals((await Promise.all(more)).toSorted(), [
    "pong:from dial",
    "pong:from send",
    "pong:from settle",
  ]);
  assertEquals(network.conns.length, 1);
  assertEquals(client.stats().inFlight, 0);
  await client.close();
});

Deno.test("A hook that aborts the request it is told of keeps it from being sent", async () => {
  using network = new StubNetwork();
  const controller = new AbortController();
  await using client = new Client({
    port: PORT,
    hooks: { send: (bytes) => bytes === 1 && controller.abort("by a hook") },
  });
  await client.send(ascii("first"));
  const { signal } = controller;
  const error = await rejection(client.send(ascii("a"), { signal }));
  assertEquals(error, "by a hook");
  assertEquals(network.requests, ["first"]);
});

Deno.test("stats() says how many requests there were, and how they ended", async () => {
  using network = silent();
  const client = new Client({ port: PORT, maxCap: 1, idempotent: true });
  const figures = () => {
    const { pool: _, ...figures } = client.stats();
    return Object.values(figures);
  };
  const names = ["requests", "responses", "failures", "retries", "inFlight"];
  assertEquals(Object.keys(client.stats()), ["pool", ...names]);
  assertEquals(figures(), [0, 0, 0, 0, 0]);
  const a = client.send(ascii("a"));
  const b = client.send(ascii("b"));
  assertEquals(figures(), [2, 0, 0, 0, 2]);
  await ticks();
  const { open, inUse, waiting } = client.stats().pool;
  assertEquals({ open, inUse, waiting }, { open: 1, inUse: 1, waiting: 1 });
  network.conns[0]!.respond("A");
  await a;
  assertEquals(figures(), [2, 1, 0, 0, 1]);
  await ticks();
  network.conns[0]!.deliver(null);
  await ticks();
  assertEquals(figures(), [2, 1, 0, 1, 1]);
  network.conns[1]!.respond("B");
  await b;
  assertEquals(figures(), [2, 2, 0, 1, 0]);
  const c = outcomeOf(client.send(ascii("c")));
  await ticks();
  network.conns[1]!.deliver(new Uint8Array(8).fill(0xff));
  await c;
  assertEquals(figures(), [3, 2, 1, 1, 0]);
  const snapshot = client.stats();
  snapshot.requests = snapshot.pool.open = 99;
  assertEquals(client.stats().requests, 3);
  assertEquals(client.stats().pool.open, 0);
  await client.close();
});

// The end -------------------------------------------------------------------------

Deno.test("close() lets what is in flight and in line finish, and refuses what is new", async () => {
  using server = new ScriptedServer();
  const client = new Client({ port: server.port, maxCap: 1 });
  const a = client.send(ascii("a")).then(textOf);
  const b = client.send(ascii("b")).then(textOf);
  using peer = await server.accept();
  await peer.expect("a");
  let closed = false;
  const closing = client.close().then(() => closed = true);
  const refused = await rejection(client.send(ascii("c")));
  assertInstanceOf(refused, ClientClosedError);
  assertEquals(refused.message, "Client is closed");
  assertFalse(closed);
  await peer.respond("A");
  assertEquals(await a, "A");
  await peer.expect("b");
  assertFalse(closed);
  await peer.respond("B");
  assertEquals(await b, "B");
  await closing;
  await peer.closed();
  assertEquals(client.stats().pool.open, 0);
  assertInstanceOf(await rejection(client.send(ascii("d"))), ClientClosedError);
  assertEquals(client.stats().requests, 2);
});

Deno.test("close() closes idle connections, however often it is called", async () => {
  using server = pongServer();
  const client = new Client({ port: server.port });
  await Promise.all([client.send(ascii("a")), client.send(ascii("b"))]);
  const first = client.close();
  assertStrictEquals(client.close(), first);
  assertStrictEquals(client[Symbol.asyncDispose](), first);
  await first;
  await client.close();
  assertEquals(client.stats().pool.open, 0);
  const unused = new Client({ port: server.port });
  await unused.close();
});

Deno.test("close() waits no longer than the timeouts of what is in flight", async () => {
  using _network = silent();
  const client = new Client({ port: PORT, maxCap: 1, requestTimeout: 30 });
  const sent = [1, 2, 3].map(() => rejection(client.send(ascii("a"))));
  await client.close();
  for (const error of await Promise.all(sent)) {
    assertInstanceOf(error, RequestTimeoutError);
  }
  assertEquals(client.stats().pool.open, 0);
});

Deno.test("close() with a signal rejects what is in flight when it aborts", async () => {
  for (const already of [false, true]) {
    using network = silent();
    const client = new Client({ port: PORT, maxCap: 1, requestTimeout: 0 });
    const sent = ["a", "b", "c"].map((r) => outcomeOf(client.send(ascii(r))));
    await ticks();
    const shared = new CountingSignal();
    if (already) shared.abort("now");
    const closing = client.close({ signal: shared.signal });
    await ticks();
    if (!already) shared.abort("now");
    await closing;
    for (const error of await Promise.all(sent)) {
      assertInstanceOf(error, ClientClosedError);
      assertEquals(error.cause, "now");
    }
    assert(network.conns[0]!.closed);
    assertEquals(network.requests, ["a"]);
    const late = await rejection(client.send(ascii("d")));
    assertInstanceOf(late, ClientClosedError);
    assertEquals((late.cause as Error).cause, "now");
    await ticks();
    assertEquals(shared.listeners, 0);
  }
});

Deno.test("close() keeps nothing idle and opens nothing to be, while it waits", async () => {
  using time = new FakeTime();
  using network = silent();
  const client = new Client({ port: PORT, maxCap: 5, minIdle: 2 });
  await time.pass(5000);
  assertEquals(client.stats().pool.idle, 2);
  const sent = client.send(ascii("a"));
  await ticks();
  const closing = client.close();
  await ticks();
  assertEquals(client.stats().pool.open, 1);
  const dials = network.conns.length;
  await time.pass(5000);
  assertEquals(network.conns.length, dials);
  network.conns.find(({ closed }) => !closed)!.respond("A");
  assertEquals(textOf(await sent), "A");
  await closing;
  assertEquals(client.stats().pool.open, 0);
});

Deno.test("One caller after the other has its place, though nobody may wait", async () => {
  for (const maxIdle of [0, 1]) {
    using network = new StubNetwork();
    const options = { maxCap: 1, maxWaiting: 0, maxIdle, idempotent: true };
    const client = new Client({ port: PORT, ...options });
    for (let i = 0; i < 3; i++) await client.send(ascii("a"));
    assertEquals(network.conns.length, maxIdle === 0 ? 3 : 1);
    if (maxIdle === 1) {
      // And so has a request that is sent again.
      const [one] = network.conns as [StubConn];
      one.onRequest = () => one.deliver(null);
      assertEquals(textOf(await client.send(ascii("b"))), "pong:b");
      assertEquals(client.stats().retries, 1);
    }
    await client.close();
  }
});

Deno.test("Hooks may be objects of classes, with fields of their own", async () => {
  using _network = new StubNetwork();
  class PoolMetrics {
    figures = [0, 0];
    opened() {
      this.figures[0]!++;
    }
    closed() {
      this.figures[1]!++;
    }
  }
  class Metrics {
    figures = [0, 0, 0];
    pool = new PoolMetrics();
    dial() {
      this.figures[0]!++;
    }
    send() {
      this.figures[1]!++;
    }
    settle() {
      this.figures[2]!++;
    }
  }
  const hooks = new Metrics();
  const client = new Client({
    port: PORT,
    hooks,
    onError: (error) => fail(String(error)),
  });
  await client.send(ascii("a"));
  await client.close();
  assertEquals(hooks.figures, [1, 1, 1]);
  assertEquals(hooks.pool.figures, [1, 1]);
});

Deno.test("Options may be a class's getters, and each is read once", async () => {
  using network = new StubNetwork(() =>
    StubConn.pong({ lengthFieldLength: 2 })
  );
  const reads = new Map<string | symbol, number>();
  class Config {
    get port() {
      return PORT;
    }
    get lengthFieldLength() {
      return 2;
    }
  }
  const options = new Proxy(new Config(), {
    get(target, key, receiver) {
      reads.set(key, (reads.get(key) ?? 0) + 1);
      return Reflect.get(target, key, receiver);
    },
  });
  const client = new Client(options as ClientOptions);
  assertEquals(textOf(await client.send(ascii("a"))), "pong:a");
  assertEquals(network.requests, ["a"]);
  assert(reads.size > 10);
  for (const [key, count] of reads) assertEquals(count, 1, String(key));
  await client.close();
});

Deno.test("A later close() may be the one that kills", async () => {
  using _network = silent();
  const client = new Client({ port: PORT, requestTimeout: 0 });
  const sent = outcomeOf(client.send(ascii("a")));
  await ticks();
  const kept = new CountingSignal();
  const first = client.close({ signal: kept.signal });
  const controller = new AbortController();
  assertStrictEquals(client.close({ signal: controller.signal }), first);
  assertEquals(await stateOf(first), "pending");
  controller.abort("second");
  await first;
  assertEquals((await sent as Error).cause, "second");
  await ticks();
  assertEquals(kept.listeners, 0);
  // Nothing is left that could be killed.
  kept.abort("third");
  await client.close({ signal: AbortSignal.abort("fourth") });
});

Deno.test("close() gives up a dial that nobody waits for, and closes what it delivers late", async () => {
  using network = silent();
  for (const how of ["in flight", "background", "killed"]) {
    const late = new StubConn();
    const { promise, resolve } = Promise.withResolvers<StubConn>();
    using _connect = replace("connect", () => promise);
    const reported: unknown[] = [];
    const client = new Client({
      port: PORT,
      requestTimeout: how === "in flight" ? 20 : 0,
      initialCap: how === "background" ? 1 : 0,
      connectTimeout: 0,
      onError: (error) => void reported.push(error),
    });
    const sent = how === "background"
      ? undefined
      : outcomeOf(client.send(ascii("a")));
    await ticks();
    const signal = how === "killed" ? AbortSignal.abort() : undefined;
    await client.close(signal && { signal });
    const error = await sent;
    if (how === "in flight") assertInstanceOf(error, RequestTimeoutError);
    if (how === "killed") assertInstanceOf(error, ClientClosedError);
    assertEquals(client.stats().pool.open, 0);
    assertFalse(late.closed);
    resolve(late);
    await ticks();
    assert(late.closed);
    assertEquals(reported, []);
  }
  assertEquals(network.conns.length, 0);
});

Deno.test("A hook may close the client", async () => {
  using network = new StubNetwork();
  for (const hook of ["send", "settle", "dial"]) {
    let closing: Promise<void> | undefined;
    const client: Client = new Client({
      port: PORT,
      hooks: { [hook]: () => void (closing ??= client.close()) },
    });
    const outcome = await outcomeOf(client.send(ascii("a")));
    if (hook === "send") assertInstanceOf(outcome, ClientClosedError);
    else assertInstanceOf(outcome, Uint8Array);
    await closing;
    const { inFlight, pool } = client.stats();
    assertEquals([inFlight, pool.open], [0, 0]);
  }
  assertEquals(network.conns.filter(({ closed }) => !closed), []);
});

/** Runs a program that imports the client as `Client`, and must end itself. */
async function runProgram(program: string): Promise<string> {
  const client = new URL("../client.ts", import.meta.url);
  const { stdout, stderr, success } = await new Deno.Command("deno", {
    args: [
      "eval",
      "--no-check",
      `import { Client } from ${JSON.stringify(client.href)};\n${program}`,
    ],
    cwd: new URL("..", import.meta.url),
    signal: AbortSignal.timeout(60_000),
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

Deno.test("Requests in flight keep the process alive, idle connections and timers do not", async () => {
  using server = new ScriptedServer();
  const serving = server.run(async (peer) => {
    // Long enough for a process with nothing to do to have ended.
    for (let r; (r = await peer.receive()) !== null;) {
      await new Promise((resolve) => setTimeout(resolve, 300));
      await peer.respond(`pong:${r}`);
    }
  });
  const { port } = server;
  const output = await runProgram(`
    const client = new Client({
      port: ${port},
      maxCap: 2,
      minIdle: 1,
      maxLifetime: 100_000,
      requestTimeout: 0,
    });
    for (const request of ["a", "b"]) {
      client.send(new TextEncoder().encode(request)).then((response) => {
        console.log(new TextDecoder().decode(response));
      });
    }
    addEventListener("unload", () => {
      console.log(client.stats().pool.idle, "idle");
    });
  `);
  const lines = output.trim().split("\n").toSorted();
  assertEquals(lines, ["2 idle", "pong:a", "pong:b"]);
  server[Symbol.dispose]();
  await serving;
});

Deno.test("A client reads its options once", async () => {
  using network = new StubNetwork();
  const options: ClientOptions = { port: PORT, maxCap: 2 };
  const client = new Client(options);
  options.lengthFieldLength = 1;
  options.port = 10;
  assertEquals(textOf(await client.send(ascii("a"))), "pong:a");
  assertEquals(network.requests, ["a"]);
  await client.close();
});

Deno.test("A duration that is null is refused, not taken for the default", async () => {
  const port = PORT;
  const requestTimeout = null as unknown as number;
  assertThrows(() => new Client({ port, requestTimeout }), TypeError);
  const client = new Client({ port });
  await assertRejects(
    () => client.send(new Uint8Array(), { timeout: requestTimeout }),
    TypeError,
  );
  await client.close();
});
