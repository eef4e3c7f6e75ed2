// The line of waiters: its order, who is served next, and who gives up when.

import {
  assertEquals,
  assertGreater,
  assertInstanceOf,
  assertLess,
  assertLessOrEqual,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { PoolExhaustedError, PoolTimeoutError } from "../pool.ts";
import {
  countListeners,
  never,
  type Resource,
  Rig,
  states,
  watch,
} from "./pool_support.ts";
import { settle } from "./time_support.ts";

Deno.test("Pool.get() serves waiters in the order they came", async () => {
  using rig = new Rig({ maxCap: 1 });
  let [held] = await rig.take(1);
  const order: number[] = [];
  const gets = Array.from(
    { length: 20 },
    // Different timeouts stand in different queues, but in one line.
    (_, i) =>
      rig.pool.get({ timeout: [0, 50, 90][i % 3]! }).then((resource) => {
        order.push(i);
        return resource;
      }),
  );
  for (const get of gets) {
    rig.pool.put(held!);
    held = await get;
  }
  assertEquals(order, Array.from(gets, (_, i) => i));
});

Deno.test("Pool.get() does not let a newcomer pass a waiter in the turn of a put", async () => {
  using rig = new Rig({ maxCap: 1 });
  const [a] = await rig.take(1);
  const first = watch(rig.pool.get());
  rig.pool.put(a!);
  const second = watch(rig.pool.get());
  assertStrictEquals(rig.pool.tryGet(), undefined);
  await settle();
  assertEquals(states([first, second]), "s.");
});

Deno.test("Pool serves the next waiter, whatever frees a place or a resource", async (t) => {
  const boom = new Error("boom");
  const cases: Record<string, (rig: Rig, held: Resource) => void> = {
    "a put": (rig, held) => rig.pool.put(held),
    "a discard": (rig, held) => rig.pool.discard(held),
    "a larger maxCap": (rig) => rig.pool.resize({ maxCap: 2 }),
    "an evicted one that comes back": (rig, held) => {
      rig.pool.evictAll();
      rig.pool.put(held);
    },
    "an evicted single one that comes back": (rig, held) => {
      rig.pool.evict(held);
      rig.pool.put(held);
    },
  };
  for (const [name, free] of Object.entries(cases)) {
    await t.step(name, async () => {
      using rig = new Rig({
        maxCap: 1,
        close: name.includes("single")
          ? () => Promise.reject(boom)
          : () => Promise.resolve(),
      });
      const [held] = await rig.take(1);
      const gone = new AbortController();
      const aborted = watch(rig.pool.get({ signal: gone.signal }));
      const late = watch(rig.pool.get({ timeout: 10 }));
      const next = watch(rig.pool.get());
      gone.abort();
      await rig.clock.tick(10);
      free(rig, held!);
      await settle();
      assertEquals(states([aborted, late, next]), "jjs");
    });
  }
});

Deno.test("Pool serves the next waiter when the factory fails", async () => {
  using rig = new Rig({ maxCap: 1 }, true);
  const gets = Array.from({ length: 3 }, () => watch(rig.pool.get()));
  await settle();
  const boom = new Error("boom");
  rig.calls[0]!.reject(boom);
  await settle();
  assertEquals(states(gets), "j..");
  assertStrictEquals(gets[0]!.error, boom);
  await rig.deliver(1);
  assertEquals(states(gets), "js.");
  rig.pool.put(rig.opened[0]!);
  await settle();
  assertEquals(states(gets), "jss");
  assertEquals(rig.calls.length, 2);
});

Deno.test("Pool wakes a waiter also if a put or discard comes while the factory is failing", async () => {
  for (const method of ["put", "discard"] as const) {
    using rig = new Rig({ maxCap: 2 }, true);
    const first = watch(rig.pool.get());
    await settle();
    const a = await rig.deliver(0);
    const second = watch(rig.pool.get());
    const third = watch(rig.pool.get());
    await settle();
    // In one turn: the second's call fails, and the first resource comes back.
    rig.calls[1]!.reject(new Error("refused"));
    rig.pool[method](a);
    await settle();
    // A put serves the second, and the failure is the third's; after a discard
    // the second has the failure, and the third a call of its own.
    assertEquals(first.state, "resolved");
    assertEquals(second.state, method === "put" ? "resolved" : "rejected");
    if (method === "put") {
      assertEquals(third.state, "rejected");
    } else {
      await rig.deliver(rig.calls.length - 1);
      assertEquals(third.state, "resolved");
    }
  }
});

Deno.test("Pool.resize() with a larger maxIdle alone changes nothing for waiters", async () => {
  using rig = new Rig({ maxCap: 1, maxIdle: 0 });
  const [a] = await rig.take(1);
  const waiter = watch(rig.pool.get());
  rig.pool.resize({ maxIdle: 1 });
  await settle();
  assertEquals(waiter.state, "pending");
  rig.pool.put(a!);
  await settle();
  rig.pool.put(waiter.value!);
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
});

Deno.test("Pool.get() rejects with the reason of its signal, in line, in the factory and in the ping", async () => {
  for (const where of ["line", "factory", "ping"] as const) {
    using rig = new Rig({ maxCap: 1, ping: never }, true);
    if (where !== "factory") {
      const get = rig.pool.get();
      await rig.deliver(0);
      if (where === "ping") rig.pool.put(await get);
    }
    const gone = new AbortController();
    const waiter = watch(rig.pool.get({ signal: gone.signal }));
    await settle();
    const reason = { why: where };
    gone.abort(reason);
    await settle();
    assertEquals(waiter.state, "rejected");
    assertStrictEquals(waiter.error, reason);
    assertEquals(rig.stats().cancelCount, 1);
  }
});

Deno.test("Pool.get() with an aborted signal takes nothing, not even from a closed pool", async () => {
  using rig = new Rig();
  rig.pool.put(await rig.pool.get());
  const reason = new Error("gone");
  const signal = AbortSignal.abort(reason);
  assertStrictEquals(
    await assertRejects(() => rig.pool.get({ signal })),
    reason,
  );
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
  await rig.pool.close();
  assertStrictEquals(
    await assertRejects(() => rig.pool.get({ signal })),
    reason,
  );
  assertEquals(rig.stats().cancelCount, 2);
});

Deno.test("Pool.get() times out in line, in the factory and in the ping", async () => {
  for (const where of ["line", "factory", "ping"] as const) {
    using rig = new Rig({
      maxCap: 1,
      ping: never,
      pingTimeout: 0,
      getTimeout: 100,
    }, true);
    if (where !== "factory") {
      const get = rig.pool.get();
      await rig.deliver(0);
      if (where === "ping") rig.pool.put(await get);
    }
    const waiter = watch(rig.pool.get());
    await rig.clock.tick(99);
    assertEquals(waiter.state, "pending");
    await rig.clock.tick(1);
    assertInstanceOf(waiter.error, PoolTimeoutError, where);
    assertEquals(rig.stats().timeoutCount, 1);
    // Nothing is left of it, neither timer nor place in line.
    assertEquals(rig.clock.timers, 0);
    assertEquals(rig.stats().waiting, 0);
  }
});

Deno.test("Pool.get() takes its own timeout over getTimeout, 0 for ever", async () => {
  using rig = new Rig({ maxCap: 1, getTimeout: 100 });
  await rig.take(1);
  const gets = [50, 0, undefined].map((timeout) =>
    watch(rig.pool.get(timeout === undefined ? {} : { timeout }))
  );
  await rig.clock.tick(50);
  assertEquals(states(gets), "j..");
  await rig.clock.tick(50);
  assertEquals(states(gets), "j.j");
  await rig.clock.tick(1e6);
  assertEquals(states(gets), "j.j");
});

Deno.test("Pool passes a delivered resource on when its waiter has given up", async () => {
  for (const how of ["abort", "timeout"] as const) {
    using rig = new Rig({ maxCap: 1 }, true);
    const gone = new AbortController();
    const first = watch(
      rig.pool.get(how === "abort" ? { signal: gone.signal } : { timeout: 5 }),
    );
    await settle();
    if (how === "abort") gone.abort();
    await rig.clock.tick(5);
    assertEquals(first.state, "rejected");
    assertEquals(rig.calls[0]!.signal.aborted, false);
    const second = watch(rig.pool.get());
    await settle();
    assertEquals(rig.calls.length, 1);
    const a = await rig.deliver(0);
    assertStrictEquals(second.value, a);
  }
});

Deno.test("Pool keeps idle what is delivered or found alive for nobody", async () => {
  const answer = Promise.withResolvers<boolean>();
  using rig = new Rig({ ping: () => answer.promise, maxCap: 1 }, true);
  const first = rig.pool.get({ timeout: 5 });
  await Promise.all([assertRejects(() => first), rig.clock.tick(5)]);
  const a = await rig.deliver(0);
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
  const second = rig.pool.get({ timeout: 5 });
  await Promise.all([assertRejects(() => second), rig.clock.tick(5)]);
  assertEquals(rig.pinged, [a]);
  assertEquals(rig.now, "open 1 idle 0 inUse 1 opening 0 waiting 0");
  answer.resolve(true);
  await settle();
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
  assertEquals(rig.closed, []);
});

Deno.test("Pool does not lose a resource handed over in the very turn of an abort", async () => {
  using rig = new Rig({ maxCap: 1 });
  const [a] = await rig.take(1);
  const gone = new AbortController();
  // Handed over first: the caller has it, whatever happens then.
  const before = watch(rig.pool.get({ signal: gone.signal }));
  rig.pool.put(a!);
  gone.abort();
  await settle();
  assertStrictEquals(before.value, a);
  // Aborted first: it stays idle.
  const again = new AbortController();
  const after = watch(rig.pool.get({ signal: again.signal }));
  again.abort();
  rig.pool.put(a!);
  await settle();
  assertEquals(after.state, "rejected");
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
});

Deno.test("Pool does not let a waiter that timed out swallow a resource later", async () => {
  using rig = new Rig({ maxCap: 1 });
  const [a] = await rig.take(1);
  const gets = [5, 7, 0].map((timeout) => watch(rig.pool.get({ timeout })));
  await rig.clock.tick(10);
  assertEquals(states(gets), "jj.");
  rig.pool.put(a!);
  await settle();
  assertStrictEquals(gets[2]!.value, a);
  rig.pool.put(a!);
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
});

Deno.test("Pool puts one listener on a signal, however many wait with it, and takes it away", async () => {
  using rig = new Rig({ maxCap: 1 });
  let [held] = await rig.take(1);
  const gone = new AbortController();
  const listeners = countListeners(gone.signal);
  const gets = Array.from(
    { length: 1000 },
    () => watch(rig.pool.get({ signal: gone.signal })),
  );
  assertEquals(listeners.count, 1);
  for (const get of gets.slice(0, 999)) {
    rig.pool.put(held!);
    await settle(3);
    held = get.value;
  }
  assertEquals(listeners.count, 1);
  rig.pool.put(held!);
  assertEquals(listeners.count, 0);
  // One that is served at once needs none.
  await settle();
  rig.pool.put(held!);
  await rig.pool.get({ signal: gone.signal });
  assertEquals(listeners.count, 0);
  // And all leave together.
  const more = Array.from(
    { length: 100 },
    () => watch(rig.pool.get({ signal: gone.signal })),
  );
  gone.abort();
  await settle();
  assertEquals(states(more), "j".repeat(100));
  assertEquals(listeners.count, 0);
  assertEquals(rig.stats().waiting, 0);
});

Deno.test("Pool sets one timer, however many wait, and clears it with the last", async () => {
  using rig = new Rig({ maxCap: 1, getTimeout: 1000 });
  const [a] = await rig.take(1);
  const sets = rig.clock.sets;
  const gets = Array.from({ length: 1000 }, () => watch(rig.pool.get()));
  // Somebody waits: the process must stay for it. The other is the hot clock's.
  assertEquals(rig.clock.held, 1);
  assertLessOrEqual(rig.clock.sets, sets + 2);
  for (let i = 0; i < 1000; i++) {
    rig.pool.put(a!);
    await settle(3);
  }
  assertEquals(states(gets), "s".repeat(1000));
  await rig.clock.tick(1);
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool.get() is never early with many different timeouts, and late by a sixteenth at most", async () => {
  using rig = new Rig({ maxCap: 1 });
  await rig.take(1);
  const timeouts = Array.from({ length: 300 }, (_, i) => 10 + i * 3.7);
  const ends: number[] = [];
  const gets = timeouts.map((timeout, i) =>
    rig.pool.get({ timeout }).catch(() => ends[i] = rig.clock.now)
  );
  await rig.clock.tick(2000, () => settle(4));
  await Promise.all(gets);
  for (const [i, timeout] of timeouts.entries()) {
    assertGreater(ends[i]!, timeout - 1e-6);
    assertLess(ends[i]!, timeout * 17 / 16 + 1);
  }
  // Once those are gone, another timeout is kept exactly again.
  const get = watch(rig.pool.get({ timeout: 1234 }));
  await rig.clock.tick(1233);
  assertEquals(get.state, "pending");
  await rig.clock.tick(1);
  assertEquals(get.state, "rejected");
});

Deno.test("Pool rejects a caller beyond maxWaiting at once, counting only those with nothing on its way", async () => {
  using rig = new Rig({ maxCap: 2, maxWaiting: 1 }, true);
  const gets = Array.from({ length: 3 }, () => watch(rig.pool.get()));
  const error = await assertRejects(
    () => rig.pool.get(),
    PoolExhaustedError,
    "No room in line, maxWaiting is 1: 2 open, 0 in use, 1 waiting",
  );
  assertEquals([error.open, error.inUse, error.waiting], [2, 0, 1]);
  assertEquals(error.name, "PoolExhaustedError");
  assertEquals(states(gets), "...");
  await rig.deliver(0);
  await rig.deliver(1);
  assertEquals(states(gets), "ss.");
  await assertRejects(() => rig.pool.get(), PoolExhaustedError);
  rig.pool.put(rig.opened[0]!);
  await settle();
  assertEquals(states(gets), "sss");
  const next = watch(rig.pool.get());
  await settle();
  assertEquals(next.state, "pending");
});

Deno.test("Pool with maxWaiting 0 still opens", async () => {
  using rig = new Rig({ maxCap: 1, maxWaiting: 0 });
  const [a] = await rig.take(1);
  await assertRejects(() => rig.pool.get(), PoolExhaustedError);
  rig.pool.put(a!);
  assertStrictEquals(await rig.pool.get(), a);
});
