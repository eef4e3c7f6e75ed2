/**
 * Dialling: when, where to and with which socket options; `connectTimeout`;
 * dials that are refused, hang, come late or have been given up; and
 * connections that end before they were ever used.
 */
import {
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
} from "@std/assert";
import {
  Client,
  ConnectError,
  ConnectionLostError,
  RequestTimeoutError,
} from "../client.ts";
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
import { FakeTime, fate } from "./client_time_support.ts";
import { freePort } from "./machine_support.ts";
import { outcomeOf, rejection, ticks } from "./promise_support.ts";
import { eventually } from "./time_support.ts";

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
