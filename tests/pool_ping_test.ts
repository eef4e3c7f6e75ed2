// Pings: at a get, and of what is idle in the background.

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertStrictEquals,
  assertStringIncludes,
} from "@std/assert";
import { PoolTimeoutError } from "../pool.ts";
import { never, type Resource, Rig, states, watch } from "./pool_support.ts";
import { settle } from "./time_support.ts";

Deno.test("Pool.get() replaces a dead resource, whatever says that it is dead", async () => {
  const boom = new Error("boom");
  const pings: Record<string, () => unknown> = {
    "false": () => false,
    "a promise of false": () => Promise.resolve(false),
    "a throw": () => {
      throw boom;
    },
    "a rejection": () => Promise.reject(boom),
  };
  for (const [name, ping] of Object.entries(pings)) {
    using rig = new Rig({ ping });
    const [a] = await rig.take(1);
    rig.pool.put(a!);
    const b = await rig.pool.get();
    assertEquals(b.id, 2, name);
    assertEquals(rig.closed, [a!]);
    assertEquals(rig.stats().pingFailedCount, 1);
    assertEquals(
      rig.errors,
      name.startsWith("a throw") || name === "a rejection"
        ? [[boom, "ping"]]
        : [],
    );
  }
});

Deno.test("Pool.get() takes any answer but false for alive", async () => {
  for (const answer of [true, undefined, 0, null, Promise.resolve()]) {
    using rig = new Rig({ ping: () => answer });
    const [a] = await rig.take(1);
    rig.pool.put(a!);
    assertStrictEquals(await rig.pool.get(), a);
    assertEquals(rig.closed, []);
  }
});

Deno.test("Pool.get() pings only what was idle for pingAfterIdle", async () => {
  using rig = new Rig({ ping: () => true, pingAfterIdle: 100 });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  await rig.clock.tick(99);
  assertStrictEquals(await rig.pool.get(), a);
  assertEquals(rig.pinged, []);
  rig.pool.put(a!);
  await rig.clock.tick(100);
  assertStrictEquals(await rig.pool.get(), a);
  assertEquals(rig.pinged, [a!]);
});

Deno.test("Pool.get() gets a fresh resource or the factory's error after as many dead ones as there were", async () => {
  for (const down of [false, true]) {
    let opened = 0;
    using rig = new Rig({
      maxCap: 4,
      ping: () => false,
      factory: () => {
        if (++opened > 4 && down) throw new Error("down");
        return { id: opened };
      },
    });
    for (const resource of await rig.take(4)) rig.pool.put(resource);
    const get = watch(rig.pool.get());
    await settle(60);
    assertEquals(rig.closed.map(({ id }) => id), [4, 3, 2, 1]);
    if (down) assertEquals((get.error as Error).message, "down");
    else assertEquals(get.value, { id: 5 });
  }
});

Deno.test("Pool fails no caller for dead idle resources after the far side has restarted", async () => {
  using rig = new Rig({ maxCap: 8, ping: ({ id }) => id > 8 });
  for (const resource of await rig.take(8)) rig.pool.put(resource);
  const gets = Array.from({ length: 8 }, () => watch(rig.pool.get()));
  await settle(60);
  assertEquals(states(gets), "ssssssss");
  assert(gets.every(({ value }) => value!.id > 8));
});

Deno.test("Pool cuts a hanging ping, and ignores what it says later", async () => {
  const answer = Promise.withResolvers<boolean>();
  using rig = new Rig({ ping: () => answer.promise, pingTimeout: 50 });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  const get = watch(rig.pool.get());
  await rig.clock.tick(49);
  assertEquals(get.state, "pending");
  await rig.clock.tick(1);
  assertEquals(get.value?.id, 2);
  assertEquals(rig.closed, [a!]);
  assertEquals(rig.errors.length, 1);
  assertInstanceOf(rig.errors[0]![0], PoolTimeoutError);
  assertStringIncludes(
    String(rig.errors[0]![0]),
    "The ping did not end within 50 ms",
  );
  answer.reject(new Error("nobody's"));
  await settle();
  assertEquals(rig.now, "open 1 idle 0 inUse 1 opening 0 waiting 0");
  assertEquals(rig.errors.length, 1);
  assertEquals(rig.clock.timers, 0);
});

Deno.test("A ping that hangs for a caller who has left holds up nobody while another is idle", async () => {
  const hung = new Set<Resource>();
  using rig = new Rig({ ping: (r) => !hung.has(r) || never() });
  const [a, b] = await rig.take(2);
  rig.pool.put(a!);
  rig.pool.put(b!);
  hung.add(b!);
  const first = watch(rig.pool.get({ timeout: 10 }));
  await rig.clock.tick(10);
  assertEquals(first.state, "rejected");
  const second = watch(rig.pool.get());
  await settle();
  assertStrictEquals(second.value, a);
  const third = watch(rig.pool.get());
  await settle();
  // Nothing else is idle: it waits, rather than have one more opened than the
  // pings and factory calls under way may bring.
  assertEquals(third.state, "pending");
  assertEquals(rig.now, "open 2 idle 0 inUse 2 opening 0 waiting 0");
  rig.pool.put(a!);
  await settle();
  assertStrictEquals(third.value, a);
});
