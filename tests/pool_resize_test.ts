// resize() and evict(): limits that change, and resources that must go.

import { assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import type { PoolCloseReason } from "../pool.ts";
import { never, type Resource, Rig, states, watch } from "./pool_support.ts";
import { settle } from "./time_support.ts";

Deno.test("Pool.resize() closes idle surplus at once, the coldest first, and borrowed as it comes back", async () => {
  const reasons: [number, PoolCloseReason][] = [];
  using rig = new Rig({
    maxCap: 6,
    hooks: { closed: ({ id }, reason) => reasons.push([id, reason]) },
  });
  const taken = await rig.take(6);
  for (const resource of taken.slice(0, 3)) rig.pool.put(resource);
  rig.pool.resize({ maxCap: 2 });
  assertEquals(rig.now, "open 3 idle 0 inUse 3 opening 0 waiting 0");
  const waiter = watch(rig.pool.get());
  rig.pool.put(taken[3]!);
  await settle();
  assertEquals(waiter.state, "pending");
  rig.pool.put(taken[4]!);
  await settle();
  assertStrictEquals(waiter.value, taken[4]);
  assertEquals(rig.now, "open 2 idle 0 inUse 2 opening 0 waiting 0");
  assertEquals(reasons, [1, 2, 3, 4].map((id) => [id, "resize"]));
});

Deno.test("Pool.resize() counts what is closing already, so that a slow close does not cost another resource", async () => {
  using rig = new Rig({ maxCap: 3, close: never });
  const taken = await rig.take(3);
  rig.pool.discard(taken[0]!);
  rig.pool.resize({ maxCap: 2 });
  rig.pool.put(taken[1]!);
  rig.pool.put(taken[2]!);
  assertEquals(rig.now, "open 3 idle 2 inUse 0 opening 0 waiting 0");
});

Deno.test("Pool.resize() closes what a factory delivers beyond the new limit", async () => {
  using rig = new Rig({ maxCap: 2 }, true);
  const gets = [watch(rig.pool.get()), watch(rig.pool.get())];
  await settle();
  rig.pool.resize({ maxCap: 1 });
  const a = await rig.deliver(0);
  assertEquals(rig.closed, [a]);
  await rig.deliver(1);
  assertEquals(states(gets), "s.");
  rig.pool.put(gets[0]!.value!);
  await settle();
  assertEquals(states(gets), "ss");
});

Deno.test("Pool.resize() of maxIdle closes the surplus; a default maxIdle follows maxCap", async () => {
  using rig = new Rig({ maxCap: 4 });
  for (const resource of await rig.take(4)) rig.pool.put(resource);
  rig.pool.resize({ maxCap: 8 });
  const more = await rig.take(8);
  for (const resource of more) rig.pool.put(resource);
  assertEquals(rig.stats().idle, 8);
  rig.pool.resize({ maxIdle: 3 });
  assertEquals(rig.stats().idle, 3);
  assertEquals(rig.stats().maxIdleClosed, 5);
  assertEquals(
    rig.closed.map(({ id }) => id),
    more.slice(0, 5).map(({ id }) => id),
  );
  rig.pool.resize({ maxCap: 20 });
  for (const resource of await rig.take(5)) rig.pool.put(resource);
  assertEquals(rig.stats().idle, 3);
});

Deno.test("Pool.evictAll() closes what is idle at once and what is borrowed at its put", async () => {
  const reasons: [number, PoolCloseReason][] = [];
  using rig = new Rig({
    maxCap: 3,
    hooks: { closed: ({ id }, reason) => reasons.push([id, reason]) },
  });
  const [a, b, c] = await rig.take(3);
  rig.pool.put(a!);
  rig.pool.put(b!);
  rig.pool.evictAll();
  assertEquals(rig.closed, [a!, b!]);
  const d = await rig.pool.get();
  rig.pool.put(c!);
  rig.pool.put(d);
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
  assertEquals(reasons, [[1, "evict"], [2, "evict"], [3, "evict"]]);
});

Deno.test("Pool.evictAll() keeps nothing that was asked for before it", async () => {
  using rig = new Rig({ ping: () => answer.promise }, true);
  const answer = Promise.withResolvers<boolean>();
  // Opened for nobody any more.
  const gone = new AbortController();
  const get = watch(rig.pool.get({ signal: gone.signal }));
  await settle();
  gone.abort();
  rig.pool.evictAll();
  const a = await rig.deliver(0);
  assertEquals(get.state, "rejected");
  assertEquals(rig.closed, [a]);
  // Pinged meanwhile.
  const first = rig.pool.get();
  await settle();
  rig.pool.put(await rig.deliver(1) && await first);
  const second = watch(rig.pool.get());
  await settle();
  rig.pool.evictAll();
  answer.resolve(true);
  await settle();
  assertEquals(rig.closed.length, 2);
  assertEquals(second.state, "pending");
  await rig.deliver(2);
  assertEquals(second.state, "resolved");
});

Deno.test("Pool.evict() of one resource closes it idle, or at its put, and no other", async () => {
  using rig = new Rig({ maxCap: 3 });
  const [a, b, c] = await rig.take(3);
  rig.pool.put(a!);
  rig.pool.put(b!);
  rig.pool.evict(a!);
  assertEquals(rig.closed, [a!]);
  rig.pool.evict(a!);
  rig.pool.evict({ id: 9 });
  rig.pool.evict(c!);
  assertEquals(rig.now, "open 2 idle 1 inUse 1 opening 0 waiting 0");
  rig.pool.put(c!);
  assertEquals(rig.closed, [a!, c!]);
  assertStrictEquals(await rig.pool.get(), b);
});

Deno.test("Pool.evict() of undefined throws and closes nothing", async () => {
  using rig = new Rig();
  for (const resource of await rig.take(2)) rig.pool.put(resource);
  const evict = rig.pool.evict as (resource?: Resource) => void;
  assertThrows(() => evict.call(rig.pool), TypeError, "evictAll()");
  const gone = new Map<string, Resource>().get("x");
  assertThrows(() => evict.call(rig.pool, gone), TypeError, "undefined");
  assertEquals(rig.now, "open 2 idle 2 inUse 0 opening 0 waiting 0");
});

Deno.test("Pool.resize() to more asks for minIdle again, as far as it allows", async () => {
  using rig = new Rig({ minIdle: 3 });
  await settle();
  rig.pool.resize({ maxCap: 2 });
  assertEquals(rig.stats().idle, 2);
  await rig.clock.tick(100);
  assertEquals(rig.stats().idle, 2);
  rig.pool.resize({ maxCap: 5 });
  await settle();
  assertEquals(rig.stats().idle, 3);
});

Deno.test("Pool.evictAll() spares what is opened while it closes", async () => {
  using rig: Rig = new Rig({
    maxCap: 4,
    close: () => {
      if (rig.opened.length < 4) watch(rig.pool.get());
    },
  });
  for (const resource of await rig.take(2)) rig.pool.put(resource);
  rig.pool.evictAll();
  await settle();
  assertEquals(rig.closed.map(({ id }) => id), [1, 2]);
  assertEquals(rig.stats().inUse, 2);
});
