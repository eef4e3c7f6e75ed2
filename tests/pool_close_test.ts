// How the pool ends: close(), drainTimeout, and the close of one resource with
// its releaseTimeout.

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  Pool,
  PoolClosedError,
  type PoolCloseReason,
  PoolTimeoutError,
} from "../pool.ts";
import { holdPlace } from "../_pool_held_places.ts";
import {
  countListeners,
  never,
  type Resource,
  Rig,
  states,
  watch,
} from "./pool_support.ts";
import { FakeClock, settle } from "./time_support.ts";

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

// ---- releaseTimeout ----------------------------------------------------------

Deno.test("Pool frees the place of a close that overruns releaseTimeout, 5 s by default, and reports it", async () => {
  for (const releaseTimeout of [undefined, 70]) {
    const gate = Promise.withResolvers<void>();
    const reasons: PoolCloseReason[] = [];
    using rig = new Rig({
      maxCap: 1,
      close: () => gate.promise,
      ...(releaseTimeout && { releaseTimeout }),
      hooks: { closed: (_, reason) => reasons.push(reason) },
    });
    const limit = releaseTimeout ?? 5_000;
    const [a] = await rig.take(1);
    const get = watch(rig.pool.get());
    rig.pool.discard(a!);
    await rig.clock.tick(limit - 1);
    assertEquals([get.state, reasons.length], ["pending", 0]);
    await rig.clock.tick(1);
    assertEquals(get.value?.id, 2);
    assertEquals(reasons, ["discard"]);
    const [error, operation] = rig.errors[0]!;
    assertEquals(operation, "close");
    assertInstanceOf(error, PoolTimeoutError);
    assertStringIncludes(
      error.message,
      `The close did not end within ${limit} ms`,
    );
    // What it does later is nobody's concern.
    gate.reject(new Error("late"));
    await settle();
    assertEquals([rig.errors.length, reasons.length], [1, 1]);
    assertEquals(rig.now, "open 1 idle 0 inUse 1 opening 0 waiting 0");
    assertEquals(rig.clock.timers, 0);
  }
});

Deno.test("Pool.close() does not wait longer for a hung close than releaseTimeout", async () => {
  using rig = new Rig({ close: never, releaseTimeout: 100, drainTimeout: 0 });
  for (const resource of await rig.take(2)) rig.pool.put(resource);
  const closed = watch(rig.pool.close());
  await rig.clock.tick(99);
  assertEquals(closed.state, "pending");
  await rig.clock.tick(1);
  assertEquals(closed.state, "resolved");
  assertEquals(rig.errors.map(([, operation]) => operation), [
    "close",
    "close",
  ]);
});

Deno.test("Pool sets no timer for a close that returns no promise", async () => {
  using rig = new Rig();
  const [a] = await rig.take(1);
  rig.pool.discard(a!);
  assertEquals(rig.clock.sets, 0);
});

// ---- drainTimeout --------------------------------------------------------------

Deno.test("Pool.close() closes what borrowers hold after drainTimeout, 10 s by default, and resolves", async () => {
  for (const drainTimeout of [undefined, 300]) {
    const reasons: PoolCloseReason[] = [];
    using rig = new Rig({
      ...(drainTimeout && { drainTimeout }),
      hooks: { closed: (_, reason) => reasons.push(reason) },
    });
    const limit = drainTimeout ?? 10_000;
    const [a, b] = await rig.take(2);
    const closed = watch(rig.pool.close());
    // It is waited for: the process must stay.
    assertEquals(rig.clock.held, 1);
    await rig.clock.tick(limit - 1);
    assertEquals([closed.state, rig.closed.length], ["pending", 0]);
    await rig.clock.tick(1);
    assertEquals(closed.state, "resolved");
    assertEquals(rig.closed, [a!, b!]);
    assertEquals(reasons, ["close", "close"]);
    assertEquals(rig.now, "open 0 idle 0 inUse 0 opening 0 waiting 0");
    assertEquals(rig.clock.timers, 0);
    // Putting what the drain has closed is ignored, and so is discarding it.
    const before = rig.pool.stats();
    rig.pool.put(a!);
    rig.pool.discard(b!);
    assertEquals(rig.pool.stats(), before);
    assertEquals(rig.closed, [a!, b!]);
    // Once: after that it is as wrong as ever.
    assertThrows(() => rig.pool.put(a!), TypeError);
    assertEquals(rig.errors, []);
  }
});

Deno.test("Pool.close() with drainTimeout 0 waits for borrowers for ever", async () => {
  using rig = new Rig({ drainTimeout: 0 });
  const [a] = await rig.take(1);
  const closed = watch(rig.pool.close());
  assertEquals(rig.clock.timers, 0);
  await rig.clock.tick(1e9);
  assertEquals(closed.state, "pending");
  rig.pool.put(a!);
  await settle();
  assertEquals(closed.state, "resolved");
});

Deno.test("Pool.close() that drains waits for the closes it makes, but no longer than releaseTimeout", async () => {
  using rig = new Rig({
    drainTimeout: 100,
    releaseTimeout: 50,
    close: ({ id }) =>
      id === 1
        ? never()
        : new Promise<void>((resolve) => setTimeout(resolve, 20)),
  });
  const [, b] = await rig.take(2);
  const closed = watch(rig.pool.close());
  await rig.clock.tick(100);
  // Also while its close is under way.
  rig.pool.put(b!);
  await rig.clock.tick(49);
  assertEquals(closed.state, "pending");
  await rig.clock.tick(1);
  assertEquals(closed.state, "resolved");
});

Deno.test("A lease or a use that the drain has ended does nothing more", async () => {
  using rig = new Rig({ drainTimeout: 100 });
  const lease = await rig.pool.lease();
  const other = await rig.pool.lease();
  const gate = Promise.withResolvers<string>();
  const used = watch(rig.pool.use(() => gate.promise));
  const failing = watch(rig.pool.use(() => gate.promise.then(() => never())));
  await settle();
  const closed = watch(rig.pool.close());
  await rig.clock.tick(100);
  assertEquals([closed.state, rig.closed.length], ["resolved", 4]);
  lease.put();
  assertThrows(() => lease.put(), TypeError, "The lease is over");
  other[Symbol.dispose]();
  gate.resolve("done");
  await settle();
  assertEquals([used.value, failing.state], ["done", "pending"]);
  assertEquals(rig.closed.length, 4);
});

Deno.test("The end of an await using block lets its error through, whatever was never put", async () => {
  using clock = new FakeClock();
  const boom = new Error("the reason");
  const closed: Resource[] = [];
  const block = watch((async () => {
    await using pool = new Pool<Resource>({
      factory: () => ({ id: 1 }),
      close: (resource) => closed.push(resource),
    });
    await pool.get(); // and never put
    throw boom;
  })());
  await clock.tick(9_999);
  assertEquals(block.state, "pending");
  await clock.tick(1);
  assertStrictEquals(block.error, boom);
  assertEquals(closed, [{ id: 1 }]);
});

Deno.test("Pool.close() waits no longer than drainTimeout for a factory that ignores its signal", async () => {
  const reasons: PoolCloseReason[] = [];
  using rig = new Rig({
    drainTimeout: 100,
    hooks: { closed: (_, reason) => reasons.push(reason) },
  }, true);
  const get = watch(rig.pool.get());
  await settle();
  const closed = watch(rig.pool.close());
  await rig.clock.tick(100);
  assertEquals([get.state, closed.state], ["rejected", "resolved"]);
  const late = await rig.deliver(0);
  assertEquals(rig.closed, [late]);
  assertEquals(reasons, ["late"]);
  assertEquals(rig.errors, []);
  assertEquals(rig.stats().open, 0);
});

Deno.test("Pool.close() given up by its signal drains no more", async () => {
  using rig = new Rig();
  const [a] = await rig.take(1);
  const stop = new AbortController();
  const closed = watch(rig.pool.close({ signal: stop.signal }));
  stop.abort();
  await settle();
  assertEquals(closed.state, "rejected");
  assertEquals(rig.clock.timers, 0);
  await rig.clock.tick(20_000);
  assertEquals(rig.closed, []);
  rig.pool.put(a!);
  assertEquals(rig.closed, [a!]);
});

Deno.test("Pool.open() that fails leaves no timer behind", async () => {
  using clock = new FakeClock();
  let calls = 0;
  const opening = watch(Pool.open({
    factory: () => ++calls === 1 ? Promise.reject(new Error("down")) : never(),
    initialCap: 2,
  }));
  await settle();
  assertEquals(opening.state, "rejected");
  assertEquals(clock.timers, 0);
});

Deno.test("Pool stays whole when callbacks give back in the middle of a drain", async () => {
  const others: Resource[] = [];
  using rig: Rig = new Rig({
    drainTimeout: 100,
    close: () => {
      for (const other of others.splice(0)) rig.pool.put(other);
    },
    hooks: { released: (resource) => rig.pool.put(resource) },
  });
  others.push(...await rig.take(3));
  const closed = watch(rig.pool.close());
  await rig.clock.tick(100);
  assertEquals(closed.state, "resolved");
  assertEquals(new Set(rig.closed).size, 3);
  assertEquals(rig.closed.length, 3);
});

Deno.test("Pool.close() leaves no timer but the one of its drain", async () => {
  using rig = new Rig({ idleTimeout: 1000, maxCap: 2 });
  const [a, b] = await rig.take(2);
  rig.pool.put(a!);
  assertEquals(rig.clock.timers, 1);
  rig.pool.close();
  assertEquals([rig.clock.timers, rig.clock.held], [1, 1]);
  rig.pool.put(b!);
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool.close() does not wait for a place that a failed call still keeps", async () => {
  const until = Promise.withResolvers<void>();
  using rig = new Rig({
    maxCap: 1,
    factory: () =>
      Promise.reject(holdPlace(new Error("given up"), until.promise)),
  });
  await assertRejects(() => rig.pool.get(), Error, "given up");
  // Its place is not free yet.
  const next = watch(rig.pool.get());
  await settle();
  assertEquals(next.state, "pending");
  assertEquals(rig.now, "open 1 idle 0 inUse 0 opening 0 waiting 1");
  const closed = watch(rig.pool.close());
  await settle();
  assertEquals([next.state, closed.state], ["rejected", "resolved"]);
  until.resolve();
  await settle();
  assertEquals(rig.stats().open, 0);
});
