/**
 * Which connection carries a request: pipelining and sharing, the limits
 * `maxCap`, `maxIdle` and `maxWaiting`, the line of requests, and connections
 * that end while they change hands.
 */
import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
} from "@std/assert";
import { Client, ConnectError } from "../client.ts";
import { PoolExhaustedError } from "../pool.ts";
import { ascii, textOf } from "./bytes_support.ts";
import { ScriptedServer } from "./client_server_support.ts";
import {
  end,
  halfWritten,
  holding,
  newClient,
  PORT,
  replace,
  silent,
  StubConn,
  StubNetwork,
} from "./client_support.ts";
import { FakeTime } from "./client_time_support.ts";
import { immediate, outcomeOf, rejection, ticks } from "./promise_support.ts";

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

// Connections that change hands -----------------------------------------------

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
      // It lay idle for so long that it is looked at first.
      while (one.requests.length < 3) await immediate();
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
