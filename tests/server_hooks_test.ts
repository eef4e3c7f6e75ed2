/** Hooks and figures: what the server tells of requests, and `stats()`. */
import { assert, assertEquals, assertStrictEquals } from "@std/assert";
import { concat } from "@std/bytes";
import { Client } from "../client.ts";
import {
  type HandlerContext,
  NO_RESPONSE,
  serve,
  serveConnection,
  type ServerHooks,
} from "../server.ts";
import {
  BAD_HEADER,
  FakeTime,
  heads,
  microtasks,
  Peer,
  StubConnection,
  until,
  wire,
} from "./server_support.ts";

Deno.test("hooks are told of each request before and after its handler", async () => {
  const events: unknown[] = [];
  let context: HandlerContext | undefined;
  const failure = new Error("no");
  const conn = new StubConnection();
  conn.feed(wire([1, 2, new Uint8Array(7), 4, 5, 6]), null);
  const hooks: ServerHooks = {
    requestStart(itsContext, requestBytes) {
      assertStrictEquals(this, hooks);
      context = itsContext;
      events.push(["start", requestBytes]);
    },
    requestEnd({ context: itsContext, duration, ...rest }) {
      assertStrictEquals(this, hooks);
      assertStrictEquals(itsContext, context);
      assert(duration >= 0);
      events.push(["end", rest]);
    },
  };
  let count = 0;
  await serveConnection(conn, async (payload, itsContext) => {
    events.push("handler");
    assertStrictEquals(itsContext, context);
    count++;
    if (count === 2) throw failure;
    if (count === 4) return NO_RESPONSE;
    await microtasks();
    return new Uint8Array(10 * payload.length);
  }, { hooks, onError: () => new Uint8Array(100) });
  const end = (requestBytes: number, responseBytes: number) => [
    ["start", requestBytes],
    "handler",
    ["end", { requestBytes, responseBytes }],
  ];
  assertEquals(events, [
    ...end(1, 10),
    ["start", 1],
    "handler",
    ["end", { requestBytes: 1, responseBytes: 0, error: failure }],
    ...end(7, 70),
    ...end(1, 0),
    ...end(1, 10),
    ...end(1, 10),
  ]);
  assertEquals(conn.answers().map(({ length }) => length), [
    10,
    100,
    70,
    10,
    10,
  ]);
});

Deno.test("hooks see a handler that fails at once, and measure how long it takes", async () => {
  using time = new FakeTime();
  const ends: [number, unknown][] = [];
  const failure = new Error("no");
  const conn = new StubConnection();
  conn.feed(wire([1, 2]));
  const done = serveConnection(conn, async (payload) => {
    if (payload[0] === 2) throw failure;
    await new Promise((resolve) => setTimeout(resolve, 75));
    return payload;
  }, {
    hooks: {
      requestEnd: ({ duration, error }) => void ends.push([duration, error]),
    },
  });
  await time.advance(100);
  await done;
  assertEquals(ends, [[75, undefined], [0, failure]]);
});

Deno.test("hooks that throw are reported and change nothing", async () => {
  const throws = (message: string) => () => {
    throw new Error(message);
  };
  const conn = new StubConnection();
  const errors: [string, boolean][] = [];
  let context: HandlerContext | undefined;
  conn.feed(wire([1, 2]), null);
  await serveConnection(conn, (payload, itsContext) => {
    context = itsContext;
    return payload[0] === 1 ? payload : Promise.resolve(payload);
  }, {
    hooks: { requestStart: throws("start"), requestEnd: throws("end") },
    onError: (error, itsContext) =>
      void errors.push([(error as Error).message, itsContext === context]),
  });
  assertEquals(heads(conn.answers()), [1, 2]);
  // The first of all comes before the handler has seen the context.
  assertEquals(errors.map(([message]) => message), [
    "start",
    "end",
    "start",
    "end",
  ]);
  assert(errors.slice(1).every(([, same]) => same));
});

Deno.test("Server.stats() counts what there is and what there was", async () => {
  const gate = Promise.withResolvers<void>();
  await using server = serve({ concurrency: 2 }, async (payload) => {
    if (payload[0] === 9) throw new Error("no");
    if (payload[0] === 2) await gate.promise;
    return payload[0] === 3 ? NO_RESPONSE : concat([payload, payload]);
  });
  const nothing = {
    connections: 0,
    totalConnections: 0,
    requests: 0,
    inFlight: 0,
    bytesIn: 0,
    bytesOut: 0,
    errors: 0,
    acceptErrors: 0,
  };
  const before = server.stats();
  assertEquals(before, nothing);
  using one = await Peer.connect(server);
  using two = await Peer.connect(server);
  assertEquals(heads([(await one.ask(1))!]), [1]);
  await two.send(2, 2, 2);
  await until(() => server.stats().bytesIn === 36, "all has been read");
  assertEquals(server.stats(), {
    ...nothing,
    connections: 2,
    totalConnections: 2,
    requests: 3,
    inFlight: 2,
    bytesIn: 36,
    bytesOut: 10,
  });
  gate.resolve();
  assertEquals(heads(await two.receiveAll(3)), [2, 2, 2]);
  await one.send(3, 9);
  assertEquals(await one.receive(), null);
  one.conn.close();
  await until(() => server.stats().connections === 1, "one has ended");
  await two.write(BAD_HEADER);
  assertEquals(await two.receive(), null);
  two.conn.close();
  await until(() => server.stats().connections === 0, "both have ended");
  assertEquals(server.stats(), {
    ...nothing,
    totalConnections: 2,
    requests: 6,
    bytesIn: 36 + 18 + 8,
    bytesOut: 40,
    errors: 2,
  });
  // It was a snapshot.
  assertEquals(before, nothing);
});

Deno.test("Server.stats() counts a request as in flight while its handler runs", async () => {
  const seen: number[] = [];
  await using server = serve({}, (payload) => {
    seen.push(server.stats().inFlight);
    return payload;
  });
  await using client = new Client({
    port: (server.addr as Deno.NetAddr).port,
  });
  await client.send(new Uint8Array(1));
  assertEquals(seen, [1]);
  assertEquals(server.stats().inFlight, 0);
});
