// What a get, a tryGet and a put do with one resource: which is lent, and what is
// refused.

import {
  assert,
  assertEquals,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { Pool } from "../pool.ts";
import { never, type Resource, Rig, watch } from "./pool_support.ts";
import { settle } from "./time_support.ts";

Deno.test("Pool.get() opens what is missing and lends again what was put", async () => {
  using rig = new Rig();
  const [a, b] = await rig.take(2);
  assertEquals(rig.opened, [a!, b!]);
  rig.pool.put(a!);
  assertStrictEquals(await rig.pool.get(), a);
  assertEquals(rig.opened.length, 2);
});

Deno.test("Pool.get() lends the warmest first, or the coldest with fifo", async () => {
  for (
    const [idleOrder, order] of [["lifo", [3, 2, 1]], ["fifo", [
      1,
      2,
      3,
    ]]] as const
  ) {
    using rig = new Rig({ idleOrder });
    for (const resource of await rig.take(3)) rig.pool.put(resource);
    assertEquals(
      (await rig.take(3)).map(({ id }) => id),
      [...order],
      idleOrder,
    );
  }
});

Deno.test("Pool.tryGet() lends what is idle, opens nothing and passes nobody", async () => {
  using rig = new Rig({ maxCap: 1 }, true);
  assertStrictEquals(rig.pool.tryGet(), undefined);
  assertEquals(rig.calls.length, 0);
  const first = rig.pool.get();
  const a = await rig.deliver(0);
  assertStrictEquals(await first, a);
  rig.pool.put(a);
  assertStrictEquals(rig.pool.tryGet(), a);
  assertStrictEquals(rig.pool.tryGet(), undefined);
  assertEquals(rig.stats().getCount, 2);
  await rig.pool.close({ signal: AbortSignal.abort() }).catch(() => {});
  assertStrictEquals(rig.pool.tryGet(), undefined);
});

Deno.test("Pool.tryGet() leaves to get what is due for a ping", async () => {
  using rig = new Rig({ ping: () => true, pingAfterIdle: 100 });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  await rig.clock.tick(99);
  assertStrictEquals(rig.pool.tryGet(), a);
  rig.pool.put(a!);
  await rig.clock.tick(100);
  assertStrictEquals(rig.pool.tryGet(), undefined);
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
  assertStrictEquals(await rig.pool.get(), a);
  assertEquals(rig.pinged, [a!]);
});

Deno.test("Pool.tryGet() does not pass a waiter whose ping is under way", async () => {
  const answer = Promise.withResolvers<boolean>();
  using rig = new Rig({
    ping: () => answer.promise,
    pingAfterIdle: 10,
    idleOrder: "fifo",
  });
  const [a, b] = await rig.take(2);
  rig.pool.put(a!);
  await rig.clock.tick(10);
  rig.pool.put(b!);
  const first = watch(rig.pool.get());
  await settle();
  assertEquals(rig.pinged, [a!]);
  assertStrictEquals(rig.pool.tryGet(), undefined);
  // Nor does a newcomer: what it finds idle goes to who is first in line.
  const second = watch(rig.pool.get());
  await settle();
  assertStrictEquals(first.value, b);
  assertEquals(second.state, "pending");
  answer.resolve(true);
  await settle();
  assertStrictEquals(second.value, a);
});

Deno.test("Pool.put() and discard() of what is not borrowed throw and change nothing", async () => {
  using rig = new Rig({ close: never, maxCap: 3 });
  const [idle, closing] = await rig.take(2);
  rig.pool.put(idle!);
  rig.pool.discard(closing!);
  const before = rig.pool.stats();
  for (
    const [resource, state] of [[idle!, "idle"], [closing!, "closing"], [{
      id: 9,
    }, "not of this pool"]] as const
  ) {
    for (const method of ["put", "discard"] as const) {
      assertThrows(
        () => rig.pool[method](resource),
        TypeError,
        `The resource is not borrowed, it is ${state}`,
      );
    }
  }
  assertEquals(rig.pool.stats(), before);
  assertEquals(rig.closed, [closing!]);
});

Deno.test("Pool.put() twice does not lend one resource to two callers", async () => {
  using rig = new Rig({ maxCap: 2 });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  assertThrows(() => rig.pool.put(a!), TypeError);
  const [x, y] = await rig.take(2);
  assert(x !== y);
});

Deno.test("Pool holds primitives as well as objects", async () => {
  let next = 0;
  const pool = new Pool({ factory: () => next++, maxCap: 2 });
  const zero = await pool.get();
  assertStrictEquals(zero, 0);
  pool.put(zero);
  assertStrictEquals(pool.tryGet(), 0);
  assertStrictEquals(await pool.get(), 1);
  assertThrows(() => pool.put(2), TypeError);
  pool.put(1);
  pool.put(0);
  await pool.close();
});

Deno.test("Pool refuses a resource that the factory delivers twice, and leaves the first alone", async () => {
  const same = { id: 7 };
  using rig = new Rig({ factory: () => same });
  assertStrictEquals(await rig.pool.get(), same);
  await assertRejects(
    () => rig.pool.get(),
    TypeError,
    "The factory delivered a resource that is in the pool already",
  );
  assertEquals(rig.closed, []);
  assertEquals(rig.now, "open 1 idle 0 inUse 1 opening 0 waiting 0");
  rig.pool.discard(same);
  await settle();
  // Once it has left the pool, it may come again.
  assertStrictEquals(await rig.pool.get(), same);
});

Deno.test("Pool refuses undefined as a resource", async () => {
  using rig = new Rig({ factory: () => undefined as unknown as Resource });
  await assertRejects(
    () => rig.pool.get(),
    TypeError,
    "The factory delivered undefined",
  );
  assertEquals(rig.now, "open 0 idle 0 inUse 0 opening 0 waiting 0");
});
