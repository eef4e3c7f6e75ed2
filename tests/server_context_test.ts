/** What a handler is told of its connection: addresses, and the signal. */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertNotStrictEquals,
  assertStrictEquals,
} from "@std/assert";
import type { TransportAddress } from "../codec.ts";
import {
  type HandlerContext,
  NO_RESPONSE,
  serve,
  serveConnection,
} from "../server.ts";
import {
  heads,
  microtasks,
  Peer,
  Resetter,
  StubConnection,
  until,
  wire,
} from "./server_support.ts";

Deno.test("A reset is noticed while handlers are at work, and aborts their signals", async () => {
  for (const concurrency of [1, 3]) {
    const conn = new StubConnection();
    const signals: AbortSignal[] = [];
    conn.feed(wire([1, 2, 3, 4]));
    const done = serveConnection(conn, (_, { signal }) => {
      signals.push(signal);
      return new Promise(() => {});
    }, { concurrency });
    await microtasks();
    assertEquals(signals.length, concurrency);
    conn.feed(new Deno.errors.ConnectionReset("x"));
    await done;
    assert(signals.every((signal) => signal.aborted));
    assertEquals(conn.closes, 1);
  }
});

Deno.test("The end of the stream aborts the signals of handlers at work, whose responses still leave", async () => {
  for (const concurrency of [1, 3]) {
    const conn = new StubConnection();
    const signals: AbortSignal[] = [];
    const errors: unknown[] = [];
    const gate = Promise.withResolvers<void>();
    conn.feed(wire([1, 2, 3, 4]));
    const done = serveConnection(conn, async (payload, { signal }) => {
      signals.push(signal);
      await gate.promise;
      if (payload[0] === 4) signal.throwIfAborted();
      return payload;
    }, { concurrency, onError: (error) => void errors.push(error) });
    await microtasks();
    assert(signals.every((signal) => !signal.aborted));
    conn.feed(wire([5]).subarray(0, 4), null);
    await microtasks();
    assert(signals.every((signal) => signal.aborted));
    const { reason } = signals[0]!;
    assertEquals((reason as Error).name, "AbortError");
    gate.resolve();
    await done;
    assertEquals(heads(conn.answers()), [1, 2, 3]);
    assertStrictEquals(signals.at(-1)!.reason, reason);
    // Whoever gives up for that reason has not failed.
    assertEquals(errors, []);
    assertEquals(conn.closes, 1);
  }
});

Deno.test("A connection has one context, whose signal is made when it is asked for", async () => {
  const contexts: HandlerContext[] = [];
  const { AbortController } = globalThis;
  let made = 0;
  globalThis.AbortController = class extends AbortController {
    constructor() {
      super();
      made++;
    }
  };
  try {
    for (let i = 0; i < 2; i++) {
      const conn = new StubConnection();
      conn.feed(wire([1, 2]), null);
      await serveConnection(conn, (_, context) => {
        contexts.push(context);
        return NO_RESPONSE;
      });
      const { remoteAddr, localAddr } = contexts[2 * i]!;
      assertStrictEquals(remoteAddr, conn.remoteAddr);
      assertStrictEquals(localAddr, conn.localAddr);
    }
    const [first, second, third] = contexts;
    assertStrictEquals(first, second);
    assertNotStrictEquals(first, third);
    assertEquals(made, 0);
    // Asked for after the end, it has been aborted.
    const { signal } = first!;
    assertEquals(made, 1);
    assertEquals(signal.aborted, true);
    assertEquals((signal.reason as Error).name, "AbortError");
    assertStrictEquals(first!.signal, signal);
  } finally {
    globalThis.AbortController = AbortController;
  }
});

Deno.test("A transport without addresses has those of an unnamed Unix socket", async () => {
  const addrs: TransportAddress[] = [];
  const steps = [wire([1]), null];
  await serveConnection({
    read(p) {
      const step = steps.shift() ?? null;
      if (step !== null) p.set(step);
      return Promise.resolve(step?.length ?? null);
    },
    write: (p) => Promise.resolve(p.length),
    close() {},
  }, (_, { remoteAddr, localAddr }) => {
    addrs.push(remoteAddr, localAddr);
    return NO_RESPONSE;
  });
  const unnamed: Deno.Addr = { transport: "unix", path: "" };
  assertEquals(addrs, [unnamed, unnamed]);
});

Deno.test("serveConnection() closes the connection from within a handler's signal", async () => {
  const abort = new AbortController();
  const conn = new StubConnection();
  let handled = 0;
  conn.feed(wire([1, 2, 3]));
  await serveConnection(conn, (payload) => {
    handled++;
    if (payload[0] === 2) abort.abort();
    return payload;
  }, { signal: abort.signal });
  assertEquals(handled, 2);
  assertEquals(conn.written.length, 0);
  assertEquals(conn.closes, 1);
});

Deno.test("A reset aborts the signal of a handler that is at work", async () => {
  const aborted = Promise.withResolvers<unknown>();
  await using server = serve(
    { onError: () => assert(false) },
    (_, { signal }) =>
      new Promise<never>((_, reject) =>
        signal.addEventListener("abort", () => {
          aborted.resolve(signal.reason);
          reject(signal.reason);
        })
      ),
  );
  const peer = new Resetter(server);
  await peer.send(2);
  await until(() => server.stats().inFlight === 1, "it is at work");
  await peer.reset();
  assertInstanceOf(await aborted.promise, Deno.errors.ConnectionReset);
  await until(() => server.stats().inFlight === 0, "it has given up");
  assertEquals(server.stats().errors, 0);
});

Deno.test("A context has both addresses, and is the same for all requests of a connection", async () => {
  const contexts: HandlerContext[] = [];
  await using server = serve({}, (_, context) => {
    contexts.push(context);
    return new Uint8Array(1);
  });
  using one = await Peer.connect(server);
  using two = await Peer.connect(server);
  for (const peer of [one, two, one]) await peer.ask(1);
  assert(contexts[0] === contexts[2] && contexts[0] !== contexts[1]);
  for (const [i, peer] of [one, two].entries()) {
    assertEquals(contexts[i]!.remoteAddr, peer.conn.localAddr);
    assertEquals(contexts[i]!.localAddr, server.addr);
    assertEquals(contexts[i]!.signal.aborted, false);
  }
  one.conn.close();
  await until(() => contexts[0]!.signal.aborted, "its signal is aborted");
  assertEquals(contexts[1]!.signal.aborted, false);
});
