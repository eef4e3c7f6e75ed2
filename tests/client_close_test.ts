/**
 * The end of a client: `close()` and what it waits for, `close()` that kills,
 * called again or by hooks; what connections are said to be closed for, what a
 * `signal` may be; and what keeps the process alive.
 */
import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertStrictEquals,
} from "@std/assert";
import {
  Client,
  ClientClosedError,
  type ClientOptions,
  RequestTimeoutError,
} from "../client.ts";
import type { PoolCloseReason } from "../pool.ts";
import { ascii, textOf } from "./bytes_support.ts";
import { pongServer, ScriptedServer } from "./client_server_support.ts";
import {
  halfWritten,
  holding,
  PORT,
  replace,
  silent,
  StubConn,
  StubNetwork,
} from "./client_support.ts";
import { FakeTime } from "./client_time_support.ts";
import {
  CountingSignal,
  immediate,
  outcomeOf,
  rejection,
  stateOf,
  ticks,
} from "./promise_support.ts";

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
  // What lay idle for so long is looked at first.
  while (network.requests.length === 0 || client.stats().pool.idle < 2) {
    await immediate();
  }
  const closing = client.close();
  // One more may have been on its way, in place of the one that was lent.
  while (client.stats().pool.open > 1) await immediate();
  const dials = network.conns.length;
  await time.pass(5000);
  assertEquals(network.conns.length, dials);
  network.conns.find(({ closed }) => !closed)!.respond("A");
  assertEquals(textOf(await sent), "A");
  await closing;
  assertEquals(client.stats().pool.open, 0);
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

// The process -----------------------------------------------------------------

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

/** Counts the reasons that connections are closed for. */
function closeReasons(
  options: ClientOptions,
): ClientOptions & { reasons: PoolCloseReason[] } {
  const reasons: PoolCloseReason[] = [];
  const hooks = {
    pool: {
      closed: (_: unknown, reason: PoolCloseReason) => {
        reasons.push(reason);
      },
    },
  };
  return { ...options, hooks, reasons };
}

Deno.test("A client that is closed says of its connections that they were closed for that", async () => {
  using network = new StubNetwork();
  const options = closeReasons({ port: PORT, maxCap: 3, maxIdle: 2 });
  const client = new Client(options);
  await Promise.all(["a", "b", "c"].map((text) => client.send(ascii(text))));
  assertEquals(options.reasons, ["maxIdle"]);
  await client.close();
  assertEquals(options.reasons, ["maxIdle", "close", "close"]);
  assertEquals(client.stats().pool.maxIdleClosed, 1);
  assertEquals(network.conns.length, 3);
});

Deno.test("A connection whose request ends after close() was called is closed for that", async () => {
  using network = new StubNetwork(() => new StubConn());
  const options = closeReasons({ port: PORT });
  const client = new Client(options);
  const a = client.send(ascii("a"));
  await Promise.resolve();
  const closed = client.close();
  while (network.conns[0]?.requests.length !== 1) await null;
  network.conns[0].respond("A");
  assertEquals(textOf(await a), "A");
  await closed;
  assertEquals(options.reasons, ["close"]);
  assertEquals(client.stats().pool.maxIdleClosed, 0);
});

Deno.test("A signal may be undefined or null, and nothing else that is no AbortSignal", async () => {
  using _network = new StubNetwork();
  const client = new Client({ port: PORT });
  for (const none of [undefined, null]) {
    const options = { signal: none } as unknown as Record<never, never>;
    assertEquals(textOf(await client.send(ascii("a"), options)), "pong:a");
  }
  for (const wrong of [5, "now", {}, [], () => {}]) {
    const options = { signal: wrong } as unknown as Record<never, never>;
    assertInstanceOf(
      await rejection(client.send(ascii("a"), options)),
      TypeError,
    );
    assertInstanceOf(await rejection(client.close(options)), TypeError);
  }
  assertInstanceOf(
    await rejection(client.close(5 as unknown as Record<never, never>)),
    TypeError,
  );
  // Nothing was closed by what was refused.
  assertEquals(textOf(await client.send(ascii("b"))), "pong:b");
  assertEquals(client.stats().failures, 0);
  const none = { signal: null } as unknown as Record<never, never>;
  assertEquals(await outcomeOf(client.close(none)), undefined);
});
