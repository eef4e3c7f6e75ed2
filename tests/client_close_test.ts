/**
 * How a client closes: what its connections are said to be closed for, and what
 * a `signal` may be. What closing waits for is in client_test.ts.
 */
import { assertEquals, assertInstanceOf } from "@std/assert";
import { Client, type ClientOptions } from "../client.ts";
import type { PoolCloseReason } from "../pool.ts";
import {
  ascii,
  outcomeOf,
  rejection,
  StubConn,
  StubNetwork,
  textOf,
} from "./client_support.ts";

const PORT = 9; // Of stubs, which nobody dials.

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
