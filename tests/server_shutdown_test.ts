/**
 * The ends of a server: `shutdown()` and what it waits for, `shutdownTimeout`,
 * `close()`, its signal, and what keeps it alive.
 */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertStrictEquals,
} from "@std/assert";
import { NO_RESPONSE, serve } from "../server.ts";
import { CountingSignal } from "./promise_support.ts";
import { freePort } from "./machine_support.ts";
import {
  echo,
  exitCode,
  FakeListener,
  FakeTime,
  heads,
  microtasks,
  never,
  Peer,
  settle,
  StubConnection,
  until,
  wire,
} from "./server_support.ts";

/** Connects, waits to be told to, and sends what it is given in one go; then
 * it says so to a thread that is blocked, and reads to the end. */
const SENDER = `
  onmessage = async ({ data: { address, bytes, flag } }) => {
    const conn = await Deno.connect(address);
    postMessage("connected");
    await new Promise((resolve) => onmessage = resolve);
    for (let at = 0; at < bytes.length;) {
      at += await conn.write(bytes.subarray(at));
    }
    Atomics.store(flag, 0, 1);
    Atomics.notify(flag, 0);
    let received = 0;
    try {
      for (const p = new Uint8Array(65536);;) {
        const n = await conn.read(p);
        if (n === null) break;
        received += n;
      }
      postMessage(received);
    } catch (error) {
      postMessage(String(error));
    }
    conn.close();
  };
`;

Deno.test("Server.shutdown() answers requests that have arrived and were not read", async () => {
  for (
    const { requests, length } of [
      { requests: 1, length: 1 },
      { requests: 1000, length: 1 },
      { requests: 20, length: 50_000 },
    ]
  ) {
    let handled = 0;
    const server = serve({}, (payload) => {
      handled++;
      return payload;
    });
    const bytes = wire(Array(requests).fill(new Uint8Array(length)));
    const flag = new Int32Array(new SharedArrayBuffer(4));
    const sender = new Worker(
      `data:text/javascript,${encodeURIComponent(SENDER)}`,
      { type: "module" },
    );
    const message = () =>
      new Promise<unknown>((resolve) =>
        sender.onmessage = ({ data }) => resolve(data)
      );
    sender.postMessage({ address: server.addr, bytes, flag });
    await message();
    await until(() => server.stats().connections === 1, "it is accepted");
    const received = message();
    sender.postMessage("go");
    // Nothing is read here while the bytes come in.
    Atomics.wait(flag, 0, 0, 10_000);
    await server.shutdown();
    assertEquals(handled, requests);
    assertEquals(await received, bytes.length);
    sender.terminate();
  }
});

Deno.test("Server.shutdown() does not reset a peer that is sending a frame", async () => {
  const response = new Uint8Array(1_000_000);
  const server = serve({}, () => response);
  using peer = await Peer.connect(server);
  await peer.send(1);
  await until(
    () => server.stats().bytesOut === 8 + response.length,
    "the response is on its way",
  );
  const { bytesIn } = server.stats();
  const frame = wire([new Uint8Array(1000)]);
  await peer.write(frame.subarray(0, 500));
  await until(() => server.stats().bytesIn === bytesIn + 500, "half is read");
  const shutdown = server.shutdown();
  await settle(5);
  // A closed socket would answer this with a reset, which overtakes.
  await peer.write(frame.subarray(500));
  assertEquals((await peer.receive())?.length, response.length);
  assertEquals(await peer.receive(), null);
  peer.conn.close();
  await shutdown;
});

Deno.test("Server.shutdown() ends idle connections at once, and cleanly", async () => {
  const server = serve({ shutdownTimeout: 0 }, echo);
  using fresh = await Peer.connect(server);
  using used = await Peer.connect(server);
  await used.ask(1);
  await until(() => server.stats().connections === 2, "both are accepted");
  // They do not end their sides, and are not waited for.
  await server.shutdown();
  assertEquals(server.stats().connections, 0);
  assertEquals(await fresh.receive(), null);
  assertEquals(await used.receive(), null);
});

Deno.test("Server.shutdown() accepts nobody more", async () => {
  const gate = Promise.withResolvers<void>();
  const server = serve({ port: freePort() }, async () => {
    await gate.promise;
    return NO_RESPONSE;
  });
  using peer = await Peer.connect(server);
  await peer.send(1);
  await until(() => server.stats().inFlight === 1, "it is at work");
  const shutdown = server.shutdown();
  // What is queued is accepted first.
  await settle(10);
  let refused: unknown;
  try {
    using late = await Peer.connect(server);
    await late.receive();
  } catch (error) {
    refused = error;
  }
  assertInstanceOf(refused, Deno.errors.ConnectionRefused);
  gate.resolve();
  assertEquals(await peer.receive(), null);
  peer.conn.close();
  await shutdown;
  assertEquals(server.stats().totalConnections, 1);
});

Deno.test("Server.shutdown() lets what was received finish, and its responses leave", async () => {
  for (const concurrency of [1, 2, 10]) {
    const gate = Promise.withResolvers<void>();
    const response = new Uint8Array(200_000);
    const server = serve({ concurrency }, async (payload) => {
      await gate.promise;
      response[0] = payload[0]!;
      return response.slice();
    });
    using peer = await Peer.connect(server);
    await peer.send(1, 2, 3, 4, 5, 6);
    await until(() => server.stats().bytesIn === 54, "all is read");
    const shutdown = server.shutdown();
    let ended = false;
    shutdown.then(() => ended = true);
    await settle(5);
    assertEquals(ended, false);
    // Too late: it is read away.
    await peer.send(7);
    gate.resolve();
    const answers = await peer.rest();
    assertEquals(heads(answers), [1, 2, 3, 4, 5, 6]);
    assert(answers.every(({ length }) => length === response.length));
    assertEquals(ended, false);
    peer.conn.close();
    await shutdown;
    assertEquals(server.stats().requests, 6);
    assertEquals(server.stats().errors, 0);
  }
});

Deno.test("Server.shutdown() is joined by a second call, and by finished", async () => {
  const gate = Promise.withResolvers<void>();
  const server = serve({}, async () => {
    await gate.promise;
    return NO_RESPONSE;
  });
  using peer = await Peer.connect(server);
  await peer.send(1);
  await until(() => server.stats().inFlight === 1, "it is at work");
  const first = server.shutdown();
  assertStrictEquals(server.shutdown(), first);
  assertStrictEquals(server[Symbol.asyncDispose](), first);
  let finished = false;
  server.finished.then(() => finished = true);
  await settle(5);
  assertEquals(finished, false);
  gate.resolve();
  await peer.receive();
  peer.conn.close();
  await first;
  await server.finished;
  // And again when all is over.
  assertStrictEquals(server.shutdown(), first);
  server.close();
});

Deno.test("Server.shutdown() forces when its signal aborts, also in a second call", async () => {
  for (const early of [false, true]) {
    const reasons: unknown[] = [];
    const server = serve({ shutdownTimeout: 0 }, (_, { signal }) => {
      signal.addEventListener("abort", () => reasons.push(signal.reason));
      return new Promise<never>(() => {});
    });
    using peer = await Peer.connect(server);
    await peer.send(1);
    await until(() => server.stats().inFlight === 1, "it is at work");
    const abort = new AbortController();
    if (early) abort.abort();
    const first = server.shutdown();
    const second = server.shutdown({ signal: abort.signal });
    await settle(3);
    assertEquals(reasons.length, early ? 1 : 0);
    abort.abort();
    await Promise.all([first, second]);
    assertEquals(reasons.length, 1);
    assertEquals((reasons[0] as Error).name, "AbortError");
    assertEquals(await peer.receive().catch(() => null), null);
  }
});

Deno.test("Server.shutdown() lets go of its signals once it is over", async () => {
  const lifetime = new CountingSignal();
  const drain = new CountingSignal();
  const server = serve({ signal: lifetime.signal }, echo);
  using peer = await Peer.connect(server);
  await peer.ask(1);
  assertEquals(lifetime.listeners, 1);
  await server.shutdown({ signal: drain.signal });
  await settle(1);
  assertEquals([lifetime.listeners, drain.listeners], [0, 0]);
});

Deno.test("Server.close() ends everything now, and aborts the handlers' signals", async () => {
  const reasons: unknown[] = [];
  const server = serve({ onError: () => assert(false) }, async (_, context) => {
    const { signal } = context;
    return await new Promise<never>((_, reject) =>
      signal.addEventListener("abort", () => {
        reasons.push(signal.reason);
        reject(signal.reason);
      })
    );
  });
  using busy = await Peer.connect(server);
  using idle = await Peer.connect(server);
  await busy.send(1, 2);
  await until(() => server.stats().inFlight === 1, "it is at work");
  await until(() => server.stats().connections === 2, "both are accepted");
  server.close();
  assertEquals(reasons.length, 1);
  assertInstanceOf(reasons[0], DOMException);
  assertEquals(reasons[0].message, "The server was closed");
  assertEquals(reasons[0].name, "AbortError");
  assertEquals(server.stats().connections, 0);
  server.close();
  await server.finished;
  await server.shutdown();
  for (const peer of [busy, idle]) {
    assertEquals(await peer.receive().catch(() => null), null);
  }
  assertEquals(server.stats().requests, 1);
});

Deno.test("Server.close() ends a shutdown that waits", async () => {
  const server = serve({}, () => new Promise<never>(() => {}));
  using peer = await Peer.connect(server);
  await peer.send(1);
  await until(() => server.stats().inFlight === 1, "it is at work");
  const shutdown = server.shutdown();
  server.close();
  await shutdown;
  assertEquals(server.stats().connections, 0);
});

Deno.test("Server.close() may be called by a handler, and by what it is told", async () => {
  for (const where of ["handler", "onError", "hook", "signal"]) {
    using listener = new FakeListener();
    const server = serve({
      onError() {
        if (where === "onError") server.close();
      },
      hooks: {
        requestStart() {
          if (where === "hook") server.close();
        },
      },
    }, (payload, { signal }) => {
      if (where === "handler") server.close();
      if (where === "onError") throw new Error("no");
      if (where === "signal") {
        signal.addEventListener("abort", () => server.close());
      }
      return payload;
    });
    const conns = [new StubConnection(), new StubConnection()];
    listener.push(...conns);
    await microtasks();
    conns[0]!.feed(wire([1, 2, 3]));
    await microtasks();
    if (where === "signal") conns[0]!.feed(null);
    await server.finished;
    assertEquals(conns.map(({ closes }) => closes), [1, 1], where);
    const { requests, connections } = server.stats();
    assertEquals([requests, connections], [where === "signal" ? 3 : 1, 0]);
  }
});

Deno.test("A server ends with its signal, at once if that was aborted before", async () => {
  const abort = new AbortController();
  const one = serve({ signal: abort.signal }, echo);
  using peer = await Peer.connect(one);
  await peer.ask(1);
  abort.abort();
  await one.finished;
  assertEquals(await peer.receive().catch(() => null), null);

  const listening: Deno.Addr[] = [];
  const two = serve({
    signal: abort.signal,
    onListen: (addr) => void listening.push(addr),
  }, echo);
  await two.finished;
  assertEquals(listening, [two.addr]);

  const third = new AbortController();
  const three = serve({
    signal: third.signal,
    onListen: () => third.abort(),
  }, echo);
  await three.finished;
});

Deno.test("A connection that is accepted as the server stops is closed", async () => {
  using listener = new FakeListener();
  const server = serve({}, echo);
  await microtasks();
  const conn = new StubConnection();
  listener.push(conn);
  server.close();
  await server.finished;
  assertEquals([conn.closes, conn.reads], [1, 0]);
  assertEquals(server.stats().totalConnections, 0);
});

Deno.test("await using shuts a server down", async () => {
  const gate = Promise.withResolvers<void>();
  let peer: Peer;
  let answer: Promise<Uint8Array | null>;
  {
    await using server = serve({}, async (payload) => {
      await gate.promise;
      return payload;
    });
    peer = await Peer.connect(server);
    answer = peer.ask(1);
    answer.then(() => peer.conn.close());
    await until(() => server.stats().inFlight === 1, "it is at work");
    setTimeout(gate.resolve, 5);
  }
  assertEquals(await answer, Uint8Array.of(1));
});

// Limits in time --------------------------------------------------------------

Deno.test("shutdownTimeout forces, and aborts the handlers' signals", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({ shutdownTimeout: 2000 }, async (payload, context) => {
    if (payload[0] === 1) return payload;
    context.signal.addEventListener(
      "abort",
      () => reasons.push(context.signal.reason),
    );
    return await new Promise<never>(() => {});
  });
  const reasons: unknown[] = [];
  const conn = new StubConnection();
  conn.feed(wire([1, 2]));
  listener.push(conn);
  await microtasks();
  const shutdown = server.shutdown();
  await time.advance(1999);
  assertEquals([conn.closes, reasons.length], [0, 0]);
  assertEquals(heads(conn.answers()), [1]);
  await time.advance(1);
  assertEquals(conn.closes, 1);
  assertEquals(reasons.length, 1);
  assertEquals((reasons[0] as Error).message, "The server was closed");
  await shutdown;
  await server.finished;
  assertEquals(time.timers, 0);
});

Deno.test("shutdownTimeout is 10 seconds, and 0 is for ever", async () => {
  for (const [options, waits] of [[{}, 10_000], [{ shutdownTimeout: 0 }, 0]]) {
    using time = new FakeTime();
    using listener = new FakeListener();
    const server = serve(options as object, () => never as Promise<never>);
    const conn = new StubConnection();
    conn.feed(wire([1]));
    listener.push(conn);
    await microtasks();
    const shutdown = server.shutdown();
    await time.advance(9999);
    assertEquals(conn.closes, 0);
    await time.advance(1);
    assertEquals(conn.closes, waits === 0 ? 0 : 1);
    if (waits === 0) {
      await time.advance(1e6);
      assertEquals(conn.closes, 0);
      server.close();
    }
    await shutdown;
    assertEquals(time.timers, 0);
  }
});

Deno.test("Server.shutdown() ends in time although a peer does not end its side", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({}, echo);
  const conn = new StubConnection({ closeWrite: () => Promise.resolve() });
  // Half a frame: the peer is not idle, so it is not just closed.
  conn.feed(wire([1, 2]).subarray(0, 12));
  listener.push(conn);
  await microtasks();
  const shutdown = server.shutdown();
  await time.advance(400);
  assertEquals([conn.closeWrites, conn.closes], [1, 0]);
  await time.advance(101);
  assertEquals(conn.closes, 1);
  await shutdown;
  assertEquals(heads(conn.answers()), [1]);
  assertEquals(time.timers, 0);
});

Deno.test("Server.shutdown() reads on for two turns in which nothing comes", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({}, echo);
  const conns = [new StubConnection(), new StubConnection()];
  listener.push(...conns);
  await microtasks();
  const shutdown = server.shutdown();
  // Due in the same turn as the server's own look, and after it.
  setTimeout(() => {
    conns[0]!.feed(wire([1]));
    setTimeout(() => conns[1]!.feed(wire([2])), 0);
  }, 0);
  await time.advance(0);
  assertEquals(conns.map((conn) => heads(conn.answers())), [[1], [2]]);
  await shutdown;
  assertEquals(time.timers, 0);
});

Deno.test("Server.shutdown() does not wait for a peer that never stops sending", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({}, echo);
  const frame = wire([1]);
  const conn = new StubConnection({
    read: async (p) => {
      await new Promise((resolve) => setTimeout(resolve, 0));
      p.set(frame);
      return frame.length;
    },
  });
  listener.push(conn);
  await microtasks();
  const shutdown = server.shutdown();
  await time.advance(0);
  assertEquals(conn.closeWrites, 1);
  conn.feed(null);
  await time.advance(500);
  await shutdown;
  assertEquals(conn.closes, 1);
  assertEquals(conn.answers().length, server.stats().requests);
});

Deno.test("Server.shutdown() accepts and serves who is in the queue", async () => {
  const server = serve({}, echo);
  const { port } = server.addr;
  // Another process connects and sends while this thread is busy: nobody is
  // accepted meanwhile.
  const diallers = new Deno.Command("deno", {
    args: [
      "eval",
      `const answers = await Promise.all(Array.from({ length: 100 }, async (_, i) => {
        const conn = await Deno.connect({ hostname: "127.0.0.1", port: ${port} });
        await conn.write(new Uint8Array([0, 0, 0, 0, 0, 0, 0, 1, i]));
        if (i === 99) Deno.stdout.writeSync(new Uint8Array([1]));
        const p = new Uint8Array(10);
        const n = await conn.read(p);
        const end = await conn.read(new Uint8Array(1));
        conn.close();
        return n === 9 && p[8] === i && end === null;
      }));
      Deno.exit(answers.every((good) => good) ? 0 : 1);`,
    ],
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const reader = diallers.stdout.getReader();
  await reader.read();
  const busy = performance.now() + 300;
  while (performance.now() < busy);
  await server.shutdown();
  assertEquals((await diallers.status).code, 0);
  await reader.cancel();
  assertEquals(server.stats().requests, 100);
});

Deno.test("Server.shutdown() keeps to maxConnections for who is in the queue", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({ maxConnections: 2 }, echo);
  const conns = Array.from({ length: 4 }, () => new StubConnection());
  listener.push(...conns);
  await time.advance(0);
  await time.until(server.shutdown());
  assertEquals(server.stats().totalConnections, 2);
  assertEquals(conns.map(({ closes }) => closes), [1, 1, 0, 0]);
  assertEquals(time.timers, 0);
});

Deno.test("Server.shutdown() half-closes idle connections, and waits half a second for their ends", async () => {
  for (const ends of [true, false]) {
    using time = new FakeTime();
    using listener = new FakeListener();
    const server = serve({}, echo);
    const conn = new StubConnection({ closeWrite: () => Promise.resolve() });
    listener.push(conn);
    await time.advance(0);
    const shutdown = server.shutdown();
    await time.advance(10);
    assertEquals([conn.closeWrites, conn.closes], [1, 0]);
    if (ends) conn.feed(null);
    else await time.advance(480);
    await time.advance(0);
    assertEquals(conn.closes, ends ? 1 : 0);
    await time.until(shutdown);
    assertEquals(conn.closes, 1);
  }
});

Deno.test("A connection that is accepted in the moment of the end is drained, or closed", async () => {
  for (const end of ["shutdown", "close"] as const) {
    using time = new FakeTime();
    using listener = new FakeListener();
    const server = serve({}, echo);
    const conn = new StubConnection();
    const { close } = listener;
    listener.close = () => {
      // It comes along with the listener's end.
      conn.feed(wire([1]));
      listener.push(conn);
      close.call(listener);
    };
    await time.advance(0);
    server[end]();
    await time.advance(20);
    await time.until(server.finished);
    assertEquals(conn.closes, 1);
    assertEquals(heads(conn.answers()), end === "shutdown" ? [1] : []);
    assertEquals(time.timers, 0);
  }
});

// The process -----------------------------------------------------------------

Deno.test("ref() and unref() reach the listener and every connection, new ones too", async () => {
  class Refed extends StubConnection {
    readonly refs: boolean[] = [];
    ref() {
      this.refs.push(true);
    }
    unref() {
      this.refs.push(false);
    }
  }
  using listener = new FakeListener();
  const server = serve({}, echo);
  const conns = [new Refed(), new Refed(), new Refed()];
  listener.push(conns[0]!);
  await microtasks();
  server.unref();
  listener.push(conns[1]!);
  await microtasks();
  server.ref();
  listener.push(conns[2]!);
  await microtasks();
  assertEquals(listener.refs, [false, true]);
  assertEquals(conns.map(({ refs }) => refs), [
    [false, true],
    [false, true],
    [],
  ]);
  await server.shutdown();
  // The listener is closed: nothing is asked of it any more.
  server.unref();
  server.ref();
  assertEquals(listener.refs, [false, true]);
});

Deno.test("A connection that waits for its peer's end keeps the process alive only if the server does", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({ shutdownTimeout: 0 }, echo);
  server.unref();
  listener.push(new StubConnection({ closeWrite: () => Promise.resolve() }));
  await time.advance(0);
  const shutdown = server.shutdown();
  await time.advance(10);
  assertEquals(time.refed, 0);
  server.ref();
  assertEquals(time.refed, 1);
  server.unref();
  assertEquals(time.refed, 0);
  await time.until(shutdown);
});

Deno.test("A server keeps its process alive until it is told not to", async () => {
  const unrefed = exitCode(`
    const before = serve({}, echo);
    before.unref();
    await ask(before);
    const after = serve({}, echo);
    await ask(after);
    await Deno.connect(after.addr);
    after.unref();
    const proxied = serve({ proxyProtocol: true }, echo);
    const conn = await Deno.connect(proxied.addr);
    await conn.write(bytes("PROXY"));
    while (proxied.stats().connections === 0) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    proxied.unref();
  `);
  const refed = exitCode(`serve({}, echo);`);
  const refedAgain = exitCode(`
    const server = serve({}, echo);
    server.unref();
    server.ref();
  `);
  assertEquals(await Promise.all([unrefed, refed, refedAgain]), [0, 7, 7]);
});
