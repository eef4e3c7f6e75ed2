// reset(): what happens to a resource between its put and its next borrower.

import {
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { type PoolCloseReason, PoolTimeoutError } from "../pool.ts";
import { never, type Resource, Rig, states, watch } from "./pool_support.ts";
import { settle } from "./time_support.ts";

/** Resets that the test ends, in order. */
function slowResets(): {
  reset: (resource: Resource) => Promise<unknown>;
  calls: (PromiseWithResolvers<unknown> & { resource: Resource })[];
} {
  const calls: (PromiseWithResolvers<unknown> & { resource: Resource })[] = [];
  return {
    calls,
    reset: (resource) => {
      const call = { resource, ...Promise.withResolvers<unknown>() };
      calls.push(call);
      return call.promise;
    },
  };
}

Deno.test("Pool resets a resource at its put, before it is kept idle", async () => {
  const { reset, calls } = slowResets();
  using rig = new Rig({ reset, maxCap: 2 });
  const [a] = await rig.take(1);
  assertEquals(calls.length, 0);
  rig.pool.put(a!);
  assertStrictEquals(calls[0]?.resource, a);
  assertEquals(rig.now, "open 1 idle 0 inUse 1 opening 0 waiting 0");
  assertStrictEquals(rig.pool.tryGet(), undefined);
  calls[0]!.resolve(undefined);
  await settle();
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
  assertStrictEquals(rig.pool.tryGet(), a);
});

Deno.test("Pool resets a resource before it is handed over, and counts it as on its way", async () => {
  const { reset, calls } = slowResets();
  using rig = new Rig({ reset, maxCap: 2 });
  const [a, b] = await rig.take(2);
  const gets = [watch(rig.pool.get()), watch(rig.pool.get())];
  assertEquals(rig.stats().waiting, 2);
  rig.pool.put(a!);
  await settle();
  assertEquals(states(gets), "..");
  assertEquals(rig.stats().waiting, 1);
  calls[0]!.resolve(true);
  await settle();
  assertStrictEquals(gets[0]!.value, a);
  // Who comes first is served by whichever is ready first.
  rig.pool.put(b!);
  rig.pool.put(a!);
  calls[2]!.resolve(true);
  await settle();
  assertStrictEquals(gets[1]!.value, a);
});

Deno.test("Pool opens nothing for a waiter for whom a resource is being reset", async () => {
  const { reset, calls } = slowResets();
  using rig = new Rig({ reset, maxCap: 3, maxOpening: 1 }, true);
  const first = rig.pool.get();
  const a = await rig.deliver(0);
  rig.pool.put(await first);
  const second = watch(rig.pool.get());
  await settle();
  assertEquals(rig.calls.length, 1);
  // It could not be readied: one is opened, in the same get.
  calls[0]!.resolve(false);
  await settle();
  assertEquals(rig.closed, [a]);
  assertEquals(rig.calls.length, 2);
  const b = await rig.deliver(1);
  assertStrictEquals(second.value, b);
  assertEquals(rig.stats().resetFailedCount, 1);
});

Deno.test("Pool closes what cannot be reset, whatever says so, and the waiter gets another", async () => {
  const boom = new Error("boom");
  const cases: Record<string, () => unknown> = {
    "false": () => false,
    "a promise of false": () => Promise.resolve(false),
    "a throw": () => {
      throw boom;
    },
    "a rejection": () => Promise.reject(boom),
  };
  for (const [name, reset] of Object.entries(cases)) {
    const reasons: PoolCloseReason[] = [];
    using rig = new Rig({
      reset,
      maxCap: 1,
      hooks: { closed: (_, reason) => reasons.push(reason) },
    });
    const [a] = await rig.take(1);
    const get = watch(rig.pool.get());
    rig.pool.put(a!);
    await settle();
    assertEquals(rig.closed, [a!], name);
    assertEquals(get.value?.id, 2, name);
    assertEquals(reasons, ["reset"]);
    assertEquals(rig.stats().resetFailedCount, 1);
    assertEquals(
      rig.errors,
      name === "a throw" || name === "a rejection" ? [[boom, "reset"]] : [],
    );
  }
});

Deno.test("Pool takes any answer of a reset but false for ready", async () => {
  for (const answer of [undefined, null, 0, true, Promise.resolve()]) {
    using rig = new Rig({ reset: () => answer });
    const [a] = await rig.take(1);
    rig.pool.put(a!);
    await settle();
    assertStrictEquals(rig.pool.tryGet(), a);
  }
});

Deno.test("Pool whose reset returns no promise costs a put no turn", async () => {
  using rig = new Rig({ reset: () => true, maxCap: 1 });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  assertEquals(rig.stats().idle, 1);
  rig.pool.tryGet();
  const get = watch(rig.pool.get());
  rig.pool.put(a!);
  assertEquals(rig.stats().inUse, 1);
  assertThrows(() => rig.pool.put({ id: 9 }), TypeError);
  await null;
  await null;
  assertStrictEquals(get.value, a);
});

Deno.test("Pool cuts a hanging reset after releaseTimeout, 5 s by default", async () => {
  for (const releaseTimeout of [undefined, 70]) {
    const answer = Promise.withResolvers<void>();
    using rig = new Rig({
      reset: () => answer.promise,
      maxCap: 1,
      ...(releaseTimeout && { releaseTimeout }),
    });
    const limit = releaseTimeout ?? 5_000;
    const [a] = await rig.take(1);
    const get = watch(rig.pool.get());
    rig.pool.put(a!);
    await rig.clock.tick(limit - 1);
    assertEquals(get.state, "pending");
    await rig.clock.tick(1);
    assertEquals(get.value?.id, 2);
    assertEquals(rig.closed, [a!]);
    const [error, operation] = rig.errors[0]!;
    assertEquals(operation, "reset");
    assertInstanceOf(error, PoolTimeoutError);
    assertStringIncludes(error.message, `did not end within ${limit} ms`);
    answer.reject(new Error("nobody's"));
    await settle();
    assertEquals(rig.errors.length, 1);
    assertEquals(rig.clock.timers, 0);
  }
});

Deno.test("Pool with releaseTimeout 0 waits for a reset for ever", async () => {
  using rig = new Rig({ reset: never, releaseTimeout: 0 });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  assertEquals(rig.clock.timers, 0);
  await rig.clock.tick(1e9);
  assertEquals(rig.now, "open 1 idle 0 inUse 1 opening 0 waiting 0");
});

Deno.test("A reset that hangs holds up nobody while something else is idle", async () => {
  const hung = new Set<number>([1]);
  using rig = new Rig({
    reset: ({ id }) => hung.has(id) ? never() : true,
    // What is idle is due for a ping, and so is not lent at once.
    ping: () => true,
    maxCap: 2,
  });
  const [a, b] = await rig.take(2);
  rig.pool.put(a!);
  rig.pool.put(b!);
  const get = watch(rig.pool.get());
  await settle();
  assertStrictEquals(get.value, b);
});

Deno.test("Pool skips the reset of what is closed anyway", async () => {
  const resets: number[] = [];
  const cases: Record<string, (rig: Rig, resource: Resource) => unknown> = {
    "a discard": (rig, resource) => rig.pool.discard(resource),
    "an eviction": (rig, resource) => {
      rig.pool.evict(resource);
      rig.pool.put(resource);
    },
    "an eviction of all": (rig, resource) => {
      rig.pool.evictAll();
      rig.pool.put(resource);
    },
    "its lifetime": async (rig, resource) => {
      await rig.clock.tick(1000);
      rig.pool.put(resource);
    },
    "maxIdle": (rig, resource) => {
      rig.pool.resize({ maxIdle: 0 });
      rig.pool.put(resource);
    },
    "a smaller maxCap": async (rig, resource) => {
      await rig.take(1);
      rig.pool.resize({ maxCap: 1 });
      rig.pool.put(resource);
    },
    "the end of the pool": (rig, resource) => {
      rig.pool.close();
      rig.pool.put(resource);
    },
  };
  for (const [name, end] of Object.entries(cases)) {
    using rig = new Rig({
      reset: ({ id }) => resets.push(id),
      maxLifetime: 1000,
      maxCap: 2,
    });
    const [a] = await rig.take(1);
    await end(rig, a!);
    assertEquals(rig.closed, [a!], name);
    assertEquals(resets, [], name);
  }
});

Deno.test("Pool.use() that throws skips the reset, and one that returns does not", async () => {
  const resets: number[] = [];
  using rig = new Rig({ reset: ({ id }) => resets.push(id) });
  await rig.pool.use(() => {});
  assertEquals(resets, [1]);
  {
    using _lease = await rig.pool.lease();
  }
  assertEquals(resets, [1, 1]);
  await assertRejects(() => rig.pool.use(() => Promise.reject(new Error("x"))));
  assertEquals(resets, [1, 1]);
  assertEquals(rig.closed.length, 1);
});

Deno.test("Pool abandons a reset when its resource is evicted or the pool closed", async () => {
  const cases: Record<string, (rig: Rig, resource: Resource) => unknown> = {
    evict: (rig, resource) => rig.pool.evict(resource),
    evictAll: (rig) => rig.pool.evictAll(),
    close: (rig) => rig.pool.close(),
  };
  for (const [name, end] of Object.entries(cases)) {
    const { reset, calls } = slowResets();
    using rig = new Rig({ reset });
    const [a] = await rig.take(1);
    rig.pool.put(a!);
    end(rig, a!);
    assertEquals(rig.closed, [a!], name);
    calls[0]!.reject(new Error("too late"));
    await settle();
    assertEquals(rig.errors, []);
    assertEquals(rig.stats().resetFailedCount, 0);
    assertEquals(rig.stats().open, 0);
    assertEquals(rig.clock.timers, 0);
  }
});

Deno.test("Pool serves a waiter by opening when the reset that it waited for is abandoned", async () => {
  const { reset } = slowResets();
  using rig = new Rig({ reset, maxCap: 2, close: never });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  const get = watch(rig.pool.get());
  await settle();
  assertEquals(get.state, "pending");
  rig.pool.evict(a!);
  await settle();
  assertEquals(get.value?.id, 2);
});

Deno.test("Pool closes what has outlived its lifetime while it was reset", async () => {
  const { reset, calls } = slowResets();
  using rig = new Rig({ reset, maxLifetime: 1000 });
  const [a] = await rig.take(1);
  await rig.clock.tick(500);
  rig.pool.put(a!);
  await rig.clock.tick(600);
  calls[0]!.resolve(true);
  await settle();
  assertEquals(rig.closed, [a!]);
  assertEquals(rig.stats().maxLifetimeClosed, 1);
});

Deno.test("Pool stays whole when a reset calls back into it", async () => {
  using rig: Rig = new Rig({
    reset: (resource) => {
      assertThrows(() => rig.pool.put(resource), TypeError, "is resetting");
      assertThrows(() => rig.pool.discard(resource), TypeError, "is resetting");
      assertStrictEquals(rig.pool.tryGet(), undefined);
      if (resource.id === 1) rig.pool.evict(resource);
      return Promise.reject(new Error("after its eviction"));
    },
  });
  const [a, b] = await rig.take(2);
  rig.pool.put(a!);
  assertEquals(rig.closed, [a!]);
  await settle();
  assertEquals(rig.errors, []);
  rig.pool.put(b!);
  await settle();
  assertEquals(rig.errors.length, 1);
  assertEquals(rig.stats().open, 0);
});

Deno.test("Pool ends leakTimeout at the put, not at the end of the reset", async () => {
  using rig = new Rig({
    reset: never,
    releaseTimeout: 0,
    leakTimeout: 1000,
  });
  const [a] = await rig.take(1);
  await rig.clock.tick(900);
  rig.pool.put(a!);
  await rig.clock.tick(5000);
  assertEquals(rig.errors, []);
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool counts idle time from the end of the reset", async () => {
  const { reset, calls } = slowResets();
  using rig = new Rig({ reset, idleTimeout: 1000, reapInterval: 10 });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  await rig.clock.tick(900);
  calls[0]!.resolve(true);
  await rig.clock.tick(990);
  assertEquals(rig.closed, []);
  await rig.clock.tick(20);
  assertEquals(rig.closed, [a!]);
});
