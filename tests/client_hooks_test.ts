/**
 * Hooks and figures: what the client tells of dials, requests and ends, hooks
 * that throw, reject or call back into the client, and `stats()`.
 */
import {
  assertEquals,
  assertFalse,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertStrictEquals,
  fail,
} from "@std/assert";
import {
  Client,
  type DialSummary,
  RequestTimeoutError,
  type SendSummary,
} from "../client.ts";
import { ascii, textOf } from "./bytes_support.ts";
import {
  PORT,
  replace,
  silent,
  StubConn,
  StubNetwork,
} from "./client_support.ts";
import { FakeTime } from "./client_time_support.ts";
import { outcomeOf, rejection, ticks } from "./promise_support.ts";

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

Deno.test("stats() says how many requests there were, and how they ended", async () => {
  using network = silent();
  const client = new Client({ port: PORT, maxCap: 1, idempotent: true });
  const figures = () => {
    const { requests, responses, failures, retries, inFlight } = client.stats();
    return [requests, responses, failures, retries, inFlight];
  };
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
