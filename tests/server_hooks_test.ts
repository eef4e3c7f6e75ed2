/** Hooks and figures: what the server tells of connections and requests, and
 * `stats()`. */
import { assert, assertEquals, assertStrictEquals } from "@std/assert";
import { concat } from "@std/bytes";
import { AsyncLocalStorage } from "node:async_hooks";
import { Client } from "../client.ts";
import {
  type CloseReason,
  type ConnectionOptions,
  type HandlerContext,
  NO_RESPONSE,
  serve,
  serveConnection,
  type ServerHooks,
} from "../server.ts";
import {
  BAD_HEADER,
  echo,
  FakeListener,
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

// Connections ----------------------------------------------------------------

/** Ways for a connection to end, with what they ask for, and the reason. */
const CLOSES: Record<
  CloseReason,
  { options?: ConnectionOptions; end: (conn: StubConnection) => void }[]
> = {
  end: [
    { end: (conn) => conn.feed(null) },
    { end: (conn) => conn.feed(wire([1]), null) },
    { end: (conn) => conn.feed(wire([1]).subarray(0, 5), null) },
  ],
  lost: [
    { end: (conn) => conn.feed(new Deno.errors.ConnectionReset("x")) },
  ],
  close: [{ end: (conn) => conn.feed(wire([8])) }],
  idle: [{ options: { idleTimeout: 100 }, end: () => {} }],
  shutdown: [],
  forced: [],
  handshake: [
    {
      options: { handshake: () => Promise.reject(new Error("no")) },
      end: () => {},
    },
    {
      options: { handshake: (conn) => conn.read() },
      end: (conn) => conn.feed(null),
    },
    {
      options: { handshake: (conn) => conn.read(), handshakeTimeout: 100 },
      end: () => {},
    },
    {
      options: { handshake: () => new Promise(() => {}), handshakeTimeout: 9 },
      end: () => {},
    },
  ],
  frame: [{ end: (conn) => conn.feed(BAD_HEADER) }],
  handler: [{ end: (conn) => conn.feed(wire([9])) }],
  timeout: [{
    options: { readTimeout: 100 },
    end: (conn) => conn.feed(wire([1]).subarray(0, 5)),
  }],
  error: [{ end: (conn) => conn.feed(new Error("broken")) }],
};

Deno.test("connectionOpen and connectionClose are told once of each connection, with the reason", async () => {
  for (const [reason, ends] of Object.entries(CLOSES)) {
    for (const [i, { options, end }] of ends.entries()) {
      using time = new FakeTime();
      const events: unknown[] = [];
      const conn = new StubConnection();
      let context: HandlerContext | undefined;
      const hooks: ServerHooks = {
        connectionOpen(its) {
          assertStrictEquals(this, hooks);
          assertStrictEquals(its.remoteAddr, conn.remoteAddr);
          assertEquals(conn.reads, 0);
          context = its;
          events.push("open");
        },
        connectionClose(its, why) {
          assertStrictEquals(this, hooks);
          assertStrictEquals(its, context);
          assertEquals([conn.closes, its.signal.aborted], [1, true]);
          events.push(why);
        },
      };
      const done = serveConnection(conn, (payload, its) => {
        if (payload[0] === 9) throw new Error("no");
        if (payload[0] === 8) its.close();
        return payload;
      }, { ...options, hooks, onError: () => {} });
      end(conn);
      await time.advance(1000);
      await done;
      // Whatever comes later changes nothing.
      context?.close();
      conn.feed(null);
      await time.advance(1000);
      assertEquals(events, ["open", reason], `${reason}, ${i}`);
    }
  }
});

Deno.test("A server tells of its end: gracefully, forced, and forced in its shutdown", async () => {
  for (const how of ["shutdown", "close", "signal", "limit"] as const) {
    const reasons: CloseReason[] = [];
    const abort = new AbortController();
    const server = serve({
      shutdownTimeout: 100,
      signal: abort.signal,
      hooks: { connectionClose: (_, reason) => void reasons.push(reason) },
    }, (payload) => payload[0] === 1 ? payload : new Promise<never>(() => {}));
    using peer = await Peer.connect(server);
    await peer.ask(1);
    if (how !== "shutdown") await peer.send(2);
    await until(
      () => server.stats().requests === (how === "shutdown" ? 1 : 2),
      "it is handled",
    );
    if (how === "close") server.close();
    else if (how === "signal") abort.abort();
    else server.shutdown();
    const end = await peer.receive().catch(() => null);
    assertEquals(end, null);
    peer.conn.close();
    await server.finished;
    assertEquals(reasons, [how === "shutdown" ? "shutdown" : "forced"]);
  }
});

Deno.test("A connection that was served no more is told of neither", async () => {
  const events: unknown[] = [];
  const conn = new StubConnection();
  await serveConnection(conn, echo, {
    signal: AbortSignal.abort(),
    hooks: {
      connectionOpen: () => void events.push("open"),
      connectionClose: () => void events.push("close"),
    },
  });
  assertEquals([conn.closes, events.length], [1, 0]);
});

Deno.test("hooks of a connection may fail, and end it themselves", async () => {
  for (const fails of ["throws", "rejects"]) {
    const errors: unknown[] = [];
    const fail = (message: string): void => {
      if (fails === "throws") throw new Error(message);
      return Promise.reject(new Error(message)) as unknown as void;
    };
    const conn = new StubConnection();
    conn.feed(wire([1]), null);
    await serveConnection(conn, echo, {
      hooks: {
        connectionOpen: () => fail("open"),
        connectionClose: () => fail("close"),
      },
      onError: (error) => void errors.push((error as Error).message),
    });
    await microtasks();
    assertEquals(heads(conn.answers()), [1]);
    assertEquals(errors, ["open", "close"]);
  }
  for (const handshake of [undefined, () => Promise.resolve()]) {
    const reasons: CloseReason[] = [];
    const conn = new StubConnection();
    conn.feed(wire([1]));
    let handled = 0;
    await serveConnection(conn, (payload) => {
      handled++;
      return payload;
    }, {
      goaway: Uint8Array.of(7),
      ...(handshake === undefined ? {} : { handshake }),
      hooks: {
        connectionOpen: (context) => context.close(),
        connectionClose: (_, reason) => void reasons.push(reason),
      },
    });
    // A peer that expects a handshake would not understand a goaway.
    const said = handshake === undefined ? 1 : 0;
    assertEquals([handled, conn.writes.length, conn.closeWrites], [0, said, 1]);
    assertEquals(reasons, ["close"]);
  }
});

Deno.test("hooks may close the server that calls them", async () => {
  for (const hook of ["connectionOpen", "connectionClose"] as const) {
    using listener = new FakeListener();
    const events: string[] = [];
    const server = serve({
      hooks: {
        connectionOpen: () => {
          events.push("open");
          if (hook === "connectionOpen") server.close();
        },
        connectionClose: () => {
          events.push("close");
          server.close();
        },
      },
    }, echo);
    const conn = new StubConnection();
    listener.push(conn);
    await microtasks();
    conn.feed(null);
    await server.finished;
    assertEquals(events, ["open", "close"]);
    assertEquals(server.stats().connections, 0);
  }
});

Deno.test("hooks run in the server's async context, whoever ends the connection", async () => {
  const storage = new AsyncLocalStorage<string>();
  const stores: unknown[] = [];
  // The peer does not end its side: the limit does.
  const conn = new StubConnection({ closeWrite: () => Promise.resolve() });
  conn.feed(wire([1]));
  await serveConnection(conn, (payload, context) => {
    setTimeout(() => storage.run("closer", () => context.close()), 1);
    return payload;
  }, {
    hooks: { connectionClose: () => void stores.push(storage.getStore()) },
  });
  assertEquals(stores, [undefined]);
});

Deno.test("requestEnd is told of what is no response", async () => {
  for (const later of [false, true]) {
    const errors: unknown[] = [];
    const conn = new StubConnection();
    conn.feed(wire([1]), null);
    await serveConnection(
      conn,
      () => (later ? Promise.resolve() : undefined) as unknown as Uint8Array,
      {
        hooks: { requestEnd: ({ error }) => void errors.push(error) },
        onError: (error) => void errors.push(error),
      },
    );
    assertEquals(errors.length, 2);
    assert(errors.every((error) => error instanceof TypeError));
  }
});
