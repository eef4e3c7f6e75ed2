// How the pool ends: close(), drainTimeout, and the close of one resource with
// its releaseTimeout.

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { PoolClosedError, PoolTimeoutError } from "../pool.ts";
import {
  countListeners,
  never,
  type Resource,
  Rig,
  states,
  watch,
} from "./pool_support.ts";
import { settle } from "./time_support.ts";

Deno.test("Pool counts a place as taken until its close has ended, however it ends", async () => {
  const boom = new Error("boom");
  for (const how of ["resolves", "rejects", "throws", "returns"] as const) {
    const gate = Promise.withResolvers<void>();
    using rig = new Rig({
      maxCap: 1,
      close: () => {
        if (how === "throws") throw boom;
        return how === "returns" ? undefined : gate.promise;
      },
    });
    const [a] = await rig.take(1);
    const next = watch(rig.pool.get());
    rig.pool.discard(a!);
    await settle();
    if (how === "resolves" || how === "rejects") {
      assertEquals(rig.now, "open 1 idle 0 inUse 0 opening 0 waiting 1", how);
      assertEquals(rig.opened.length, 1);
      if (how === "resolves") gate.resolve();
      else gate.reject(boom);
      await settle();
    }
    assertEquals(next.value?.id, 2, how);
    assertEquals(
      rig.errors,
      how === "rejects" || how === "throws" ? [[boom, "close"]] : [],
    );
  }
});

Deno.test("Pool keeps the place of a resource whose close never ends", async () => {
  using rig = new Rig({ maxCap: 2, close: never });
  const [a] = await rig.take(1);
  rig.pool.discard(a!);
  await rig.take(1);
  await assertRejects(
    async () => {
      const get = rig.pool.get({ timeout: 10 });
      await Promise.all([get, rig.clock.tick(10)]);
    },
    PoolTimeoutError,
    "No resource within 10 ms: 2 open, 1 in use, 1 waiting",
  );
});

Deno.test("Pool.close() rejects waiters and new gets at once, and waits for what is borrowed", async () => {
  using rig = new Rig({ maxCap: 2 });
  const [a, b] = await rig.take(2);
  const waiter = watch(rig.pool.get({ timeout: 100 }));
  rig.pool.put(a!);
  await settle();
  rig.pool.put(a!);
  const line = watch(rig.pool.get({ timeout: 100 }));
  const last = watch(rig.pool.get({ timeout: 100 }));
  await settle();
  const closing = rig.pool.close();
  const closed = watch(closing);
  await settle();
  assertEquals(states([waiter, line, last]), "ssj");
  assertInstanceOf(last.error, PoolClosedError);
  await assertRejects(
    () => rig.pool.get(),
    PoolClosedError,
    "The pool is closed",
  );
  assertEquals(closed.state, "pending");
  assertEquals(rig.closed, []);
  rig.pool.put(a!);
  await settle();
  assertEquals(rig.closed, [a!]);
  assertEquals(closed.state, "pending");
  rig.pool.discard(b!);
  await settle();
  assertEquals(rig.closed, [a!, b!]);
  assertEquals(closed.state, "resolved");
  assertStrictEquals(rig.pool.close(), closing);
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool.close() closes what is idle at once and waits for its close", async () => {
  const gate = Promise.withResolvers<void>();
  using rig = new Rig({ close: () => gate.promise });
  for (const resource of await rig.take(2)) rig.pool.put(resource);
  const closed = watch(rig.pool.close());
  assertEquals(rig.closed.length, 2);
  await settle();
  assertEquals(closed.state, "pending");
  gate.resolve();
  await settle();
  assertEquals(closed.state, "resolved");
});

Deno.test("Pool.close() aborts the factory, and closes what it delivers all the same", async () => {
  using rig = new Rig({}, true);
  const waiter = watch(rig.pool.get());
  await settle();
  const closed = watch(rig.pool.close());
  await settle();
  assertInstanceOf(waiter.error, PoolClosedError);
  assertInstanceOf(rig.calls[0]!.signal.reason, PoolClosedError);
  assertEquals(closed.state, "pending");
  const late = await rig.deliver(0);
  assertEquals(rig.closed, [late]);
  assertEquals(closed.state, "resolved");
  assertEquals(rig.errors, []);
});

Deno.test("Pool.close() resolves when the aborted factory fails, without reporting it", async () => {
  using rig = new Rig({}, true);
  const waiter = watch(rig.pool.get());
  await settle();
  const closed = watch(rig.pool.close());
  rig.calls[0]!.reject(rig.calls[0]!.signal.reason);
  await settle();
  assertEquals([waiter.state, closed.state], ["rejected", "resolved"]);
  assertEquals(rig.errors, []);
});

Deno.test("Pool.close() does not wait for a ping", async () => {
  using rig = new Rig({ ping: never, pingTimeout: 1000 });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  const waiter = watch(rig.pool.get());
  await settle();
  await rig.pool.close();
  assertEquals(waiter.state, "rejected");
  assertEquals(rig.closed, [a!]);
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool.close() of an empty pool resolves, and so does every further call", async () => {
  using rig = new Rig({ minIdle: 1, idleTimeout: 100 });
  const first = rig.pool.close();
  assertStrictEquals(rig.pool.close(), first);
  assertStrictEquals(rig.pool[Symbol.asyncDispose](), first);
  await first;
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool.close() ends its wait when a signal aborts, of whichever call, and closes the rest later", async () => {
  for (const which of ["first", "second", "aborted"] as const) {
    using rig = new Rig();
    const [forgotten] = await rig.take(1);
    const stop = new AbortController();
    const reason = new Error("long enough");
    if (which === "aborted") stop.abort(reason);
    const closing = rig.pool.close(
      which === "second" ? {} : { signal: stop.signal },
    );
    if (which === "second") {
      assertStrictEquals(rig.pool.close({ signal: stop.signal }), closing);
    }
    const closed = watch(closing);
    await settle();
    stop.abort(reason);
    await settle();
    assertEquals(closed.state, "rejected");
    assertStrictEquals(closed.error, reason);
    rig.pool.put(forgotten!);
    assertEquals(rig.closed, [forgotten!]);
    assertEquals(rig.stats().open, 0);
  }
});

Deno.test("Pool.close() opens nothing more of initialCap", async () => {
  using rig = new Rig({ initialCap: 3, maxOpening: 1 }, true);
  const closed = watch(rig.pool.close());
  await rig.deliver(0);
  assertEquals(rig.calls.length, 1);
  assertEquals(closed.state, "resolved");
});

Deno.test("Pool.close() leaves no listener on its signal, and no rejection that nobody handles", async () => {
  const stop = new AbortController();
  const listeners = countListeners(stop.signal);
  {
    using rig = new Rig();
    const [a] = await rig.take(1);
    const closing = rig.pool.close({ signal: stop.signal });
    assertEquals(listeners.count, 1);
    rig.pool.put(a!);
    await closing;
    await settle();
    assertEquals(listeners.count, 0);
  }
  using rig = new Rig();
  await rig.take(1);
  rig.pool.close({ signal: stop.signal }); // and nobody awaits it
  stop.abort();
  // Unhandled rejections are told of in a later turn of the event loop.
  const { port1, port2 } = new MessageChannel();
  await new Promise((resolve) => {
    port2.onmessage = resolve;
    port1.postMessage(0);
  });
  port1.close();
  port2.close();
  assertEquals(listeners.count, 0);
});

Deno.test("Pool lends nothing to a caller who calls back while it closes", async () => {
  const calls: (Resource | undefined | Promise<unknown>)[] = [];
  using rig = new Rig({
    close: () => {
      calls.push(rig.pool.tryGet(), rig.pool.get().catch((error) => error));
    },
  });
  for (const resource of await rig.take(3)) rig.pool.put(resource);
  await rig.pool.close();
  const results = await Promise.all(calls);
  assertEquals(results.length, 6);
  for (const result of results) {
    assert(result === undefined || result instanceof PoolClosedError);
  }
});
