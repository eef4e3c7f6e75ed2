/**
 * `context.push`: frames that answer nothing, their back-pressure, and how each
 * push settles.
 */
import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import { AsyncLocalStorage } from "node:async_hooks";
import type { CorrelationOptions } from "../codec.ts";
import {
  type HandlerContext,
  NO_RESPONSE,
  serve,
  serveConnection,
} from "../server.ts";
import { ascii, KIB } from "./bytes_support.ts";
import { rejection, stateOf } from "./promise_support.ts";
import { unwireIds, wireIds } from "./server_correlated_support.ts";
import {
  echo,
  FakeListener,
  FakeTime,
  microtasks,
  Peer,
  StubConnection,
  until,
  wire,
} from "./server_support.ts";

const correlation: CorrelationOptions = { length: 4 };
const FIELD = { length: 4 } as const;

/** Serves a stub, and hands out its context. */
async function subscribed(
  conn: StubConnection,
  options: Parameters<typeof serveConnection>[2] = { correlation },
): Promise<{ context: HandlerContext; done: Promise<void> }> {
  const { promise, resolve } = Promise.withResolvers<HandlerContext>();
  const done = serveConnection(conn, (_, context) => {
    resolve(context);
    return NO_RESPONSE;
  }, options);
  conn.feed(wireIds([[1, new Uint8Array(8)]], FIELD));
  return { context: await promise, done };
}

Deno.test("A push has the id 0 where ids are inserted, and its own elsewhere", async () => {
  const conn = new StubConnection();
  const { context, done } = await subscribed(conn);
  await context.push(ascii("one"));
  await context.push(new Uint8Array());
  assertEquals(unwireIds(conn.written, FIELD), [[0, [...ascii("one")]], [
    0,
    [],
  ]]);
  conn.feed(null);
  await done;

  const payloads = new StubConnection();
  const own = await subscribed(payloads, {
    correlation: { length: 4, requestOffset: 0 },
  });
  const event = Uint8Array.of(255, 255, 255, 254, 7);
  await own.context.push(event);
  assertEquals(payloads.answers(), [event]);
  payloads.feed(null);
  await own.done;
});

Deno.test("Pushes of one turn leave in one write, in their order, along with responses", async () => {
  const conn = new StubConnection();
  const done = serveConnection(conn, async (payload, context) => {
    context.push(Uint8Array.of(10));
    await microtasks();
    context.push(Uint8Array.of(11));
    context.push(Uint8Array.of(12));
    return payload;
  }, { correlation });
  conn.feed(wireIds([[1, 1]], FIELD));
  await microtasks();
  await microtasks();
  conn.feed(null);
  await done;
  assertEquals(conn.writes.map((bytes) => unwireIds(bytes, FIELD)), [
    [[0, [10]]],
    [[0, [11]], [0, [12]], [1, [1]]],
  ]);
});

Deno.test("A push resolves once it is written, and pushes are refused while 256 KiB are not", async () => {
  const writes: PromiseWithResolvers<number>[] = [];
  const conn = new StubConnection({
    write: () => {
      const write = Promise.withResolvers<number>();
      writes.push(write);
      return write.promise;
    },
  });
  const { context, done } = await subscribed(conn);
  const pushes = Array.from(
    { length: 5 },
    () => context.push(new Uint8Array(64 * KIB)),
  );
  // Four of them and their headers are more than 256 KiB.
  const refused = await rejection(pushes[4]!);
  assertInstanceOf(refused, Error);
  assert(refused.message.includes("262192 bytes are not written"));
  assertEquals(await stateOf(pushes[0]!), "pending");
  const whole = 64 * KIB + 12;
  let taken = 0;
  const write = async (n: number) => {
    const { length } = conn.writes.at(-1)!;
    taken += Math.min(n, length);
    writes.shift()!.resolve(Math.min(n, length));
    await microtasks();
  };
  while (taken < whole - 1) await write(whole - 1 - taken);
  assertEquals(await stateOf(pushes[0]!), "pending");
  assertEquals(
    ((await rejection(context.push(new Uint8Array(1)))) as Error).message,
    refused.message,
  );
  await write(1);
  assertEquals(await stateOf(pushes[0]!), undefined);
  assertEquals(await stateOf(pushes[1]!), "pending");
  // There is room for one more.
  const late = context.push(new Uint8Array(1));
  while (writes.length > 0) await write(Infinity);
  await Promise.all([...pushes.slice(0, 4), late]);
  conn.feed(null);
  await done;
});

Deno.test("A slow subscriber holds up its own pushes, and no others", async () => {
  const contexts: HandlerContext[] = [];
  await using server = serve({ correlation }, (payload, context) => {
    contexts.push(context);
    return payload;
  });
  using slow = await Peer.connect(server);
  using fast = await Peer.connect(server);
  await slow.write(wireIds([[1, 1]], FIELD));
  await until(() => contexts.length === 1, "the slow one has subscribed");
  await fast.write(wireIds([[1, 1]], FIELD));
  await until(() => contexts.length === 2, "the fast one, too");
  let refusals = 0;
  const event = new Uint8Array(32 * KIB);
  for (let i = 0; i < 2000 && refusals < 5; i++) {
    contexts[0]!.push(event).catch(() => refusals++);
    await contexts[1]!.push(event);
    assert((await fast.receive()) !== null);
    if (i % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  }
  assertEquals(refusals, 5);
});

Deno.test("Pushes reject when the connection ends, however it ends, and nobody has to handle it", async () => {
  for (const end of ["reset", "close", "end of stream", "force"]) {
    const conn = new StubConnection({ write: () => new Promise(() => {}) });
    const abort = new AbortController();
    const { context, done } = await subscribed(conn, {
      correlation,
      signal: abort.signal,
    });
    const pending = context.push(new Uint8Array(10));
    context.push(new Uint8Array(10));
    await microtasks();
    if (end === "reset") conn.feed(new Deno.errors.ConnectionReset("x"));
    if (end === "end of stream") conn.feed(null);
    if (end === "close") context.close();
    await microtasks();
    if (end === "close" || end === "end of stream") {
      // The last frame is in the queue: nothing comes behind it.
      assertInstanceOf(await rejection(context.push(new Uint8Array())), Error);
      assertEquals(await stateOf(pending), "pending");
    }
    if (end !== "reset") abort.abort();
    await done;
    assertInstanceOf(await rejection(pending), Error);
    const late = await rejection(context.push(new Uint8Array(10)));
    assertInstanceOf(late, Error);
    assertEquals(late.message, "The connection has ended");
  }
  // Rejections that nobody handled would fail this test.
  await new Promise((resolve) => setTimeout(resolve, 0));
});

Deno.test("What cannot be pushed is refused, and the connection lives", async () => {
  const plain = new StubConnection();
  const errors: unknown[] = [];
  const done = serveConnection(plain, async (payload, context) => {
    errors.push(await rejection(context.push(payload)));
    return payload;
  });
  plain.feed(wire([1]), null);
  await done;
  assertInstanceOf(errors[0], TypeError);
  assertEquals(errors[0].message, "context.push needs the option correlation");
  assertEquals(plain.answers().length, 1);

  const conn = new StubConnection();
  const goaway = Uint8Array.of(0, 0, 0, 0, 9);
  const own = await subscribed(conn, {
    correlation: { length: 4, requestOffset: 0 },
    goaway,
    maxFrameLength: 20,
  });
  for (const payload of [goaway, new Uint8Array(3), new Uint8Array(21), "x"]) {
    const error = await rejection(own.context.push(payload as Uint8Array));
    assertInstanceOf(error, Error, String(payload));
  }
  await own.context.push(Uint8Array.of(0, 0, 0, 0, 8));
  assertEquals(conn.answers().length, 1);
  conn.feed(null);
  await own.done;
});

Deno.test("What was pushed before the handshake is over is written behind it", async () => {
  const conn = new StubConnection();
  const gate = Promise.withResolvers<void>();
  let pushed: Promise<void> | undefined;
  const done = serveConnection(conn, echo, {
    correlation,
    handshake: async (conn) => {
      await gate.promise;
      await conn.write(ascii("hello"));
    },
    hooks: {
      connectionOpen: (context) => void (pushed = context.push(ascii("event"))),
    },
  });
  assertEquals(await stateOf(pushed!), "pending");
  assertEquals(conn.writes.length, 0);
  gate.resolve();
  await pushed;
  const hello = wire([ascii("hello")]);
  assertEquals(conn.written.subarray(0, hello.length), hello);
  assertEquals(unwireIds(conn.written.subarray(hello.length), FIELD), [
    [0, [...ascii("event")]],
  ]);
  conn.feed(null);
  await done;

  // Refused, it never is.
  const refused = new StubConnection();
  await serveConnection(refused, echo, {
    correlation,
    onError: () => {},
    handshake: () => {
      throw new Error("no");
    },
    hooks: {
      connectionOpen: (context) => void (pushed = context.push(ascii("event"))),
    },
  });
  assertInstanceOf(await rejection(pushed!), Error);
  assertEquals(refused.writes.length, 0);
});

Deno.test("A connection that is pushed to is not idle", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  let context: HandlerContext | undefined;
  const server = serve({ correlation, idleTimeout: 1000 }, (payload, its) => {
    context = its;
    return payload;
  });
  const conn = new StubConnection();
  listener.push(conn);
  conn.feed(wireIds([[1, 1]], FIELD));
  await time.advance(0);
  for (let i = 0; i < 5; i++) {
    await time.advance(800);
    context!.push(new Uint8Array(1));
  }
  assertEquals(conn.closeWrites, 0);
  await time.advance(1200);
  assertEquals(conn.closeWrites, 1);
  await time.until(server.shutdown());
});

Deno.test("Requests that are taken along with a push are handled in the server's context, not in the pusher's", async () => {
  const storage = new AsyncLocalStorage<string>();
  const stores: unknown[] = [];
  const gate = Promise.withResolvers<void>();
  const conn = new StubConnection({
    write: async (p) => {
      await gate.promise;
      return p.length;
    },
  });
  let context: HandlerContext | undefined;
  const done = serveConnection(conn, (payload, its) => {
    context = its;
    stores.push(storage.getStore());
    return payload[0] === 1 ? NO_RESPONSE : new Uint8Array(300 * KIB);
  }, {
    correlation,
    concurrency: 1,
    hooks: { connectionClose: () => void stores.push(storage.getStore()) },
  });
  conn.feed(wireIds([[1, 1]], FIELD));
  await microtasks();
  await storage.run("pusher", async () => {
    const pushed = context!.push(new Uint8Array(100 * KIB));
    await until(() => conn.writes.length === 1, "it is being written");
    // The third is held up until something is written.
    conn.feed(wireIds([[2, 2], [3, 3], [4, 4]], FIELD));
    await microtasks();
    assertEquals(stores.length, 2);
    gate.resolve();
    await pushed;
    await until(() => stores.length === 4, "all are handled");
    context!.close();
  });
  await done;
  assertEquals(stores, Array(5).fill(undefined));
});
